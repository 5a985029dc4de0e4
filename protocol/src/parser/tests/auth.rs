use super::*;

#[track_caller]
fn check_auth(stream: &str, expected: &[Seen]) {
    let mut parser = Parser::new(Protocol::Auto, Auth::Required);
    let (mut seen, mut rest) = (Vec::new(), stream.as_bytes());
    while !rest.is_empty() && !matches!(seen.last(), Some(Seen::Close(_))) {
        match parser.next(rest, &LIMITS) {
            Step::Close { error } => seen.push(Seen::Close(error.map(|error| error.error))),
            step => rest = &rest[see(step, &mut seen)..],
        }
    }
    assert_eq!(seen, expected, "{stream:?}");
}

#[test]
fn before_authentication_only_a_set_is_understood_and_it_says_who_comes() {
    let authenticate = |user, password| Seen::request(Command::Authenticate, user).value(password);
    check_auth("set a 0 0 9\r\nuser pass\r\n", &[authenticate("user", "pass")]);
    check_auth("set k x y 8 noreply\n  pa ss \r\n", &[authenticate("", " pa ss ")]);
    let refused = Seen::Reply(ErrorReply::Unauthenticated);
    for line in ["get k", "mn   ", "quit", "set k 0 0", "set k 0 0 x", "setx k 0 0 9", " set k 0 0 9"] {
        check_auth(&format!("{line}\r\n"), std::slice::from_ref(&refused));
    }
    let user = "u".repeat(KEY_SIZE_MAX + 1);
    check_auth(&format!("set k 0 0 253\r\n{user} p\r\n"), &[authenticate(&user, "p")]);
    check_auth("set k 0 0 16385\r\n", &[Seen::Reply(ErrorReply::AuthTokenTooLong)]);
    check_auth("set k 0 0 4\r\nuser\r\n", &[Seen::Reply(ErrorReply::AuthTokenFormat)]);
    check_auth("set k 0 0 3\r\nu pas", &[Seen::Reply(ErrorReply::AuthTokenTermination)]);
}

#[test]
fn a_stranger_who_says_too_little_or_too_much_is_not_answered() {
    for line in ["\r\n", "mn\r\n", "\n", "gets\n"] {
        check_auth(line, &[Seen::Close(None)]);
    }
    check_auth(&format!("{}\n", "x".repeat(LINE_SIZE_MAX)), &[Seen::Reply(ErrorReply::Unauthenticated)]);
    check_auth(&format!("{}\n", "x".repeat(LINE_SIZE_MAX + 1)), &[Seen::Close(None)]);
    check_auth(&"get ".repeat(LINE_SIZE_MAX), &[Seen::Close(None)]);
}

#[test]
fn every_strict_prefix_of_an_authentication_is_incomplete_and_the_rest_waits_for_its_end() {
    let stream = b"set a 0 0 9\r\nuser pass\r\nmn\r\n";
    let whole = stream.len() - 4;
    let mut parser = Parser::new(Protocol::Auto, Auth::Required);
    for cut in 0..whole {
        let step = parser.next(&stream[..cut], &LIMITS);
        assert!(matches!(step, Step::Incomplete { .. }), "{cut}: {step:?}");
    }
    let Step::Request { request, consumed } = parser.next(stream, &LIMITS) else { panic!("{parser:?}") };
    assert!(consumed == whole && request.command.decides_what_follows() && !request.command.is_keyed());
    assert_eq!(parser.clone().next(&stream[whole..], &LIMITS), Step::Close { error: None });
    parser.set_authenticated(true);
    assert!(matches!(parser.next(&stream[whole..], &LIMITS), Step::Request { .. }));
}
