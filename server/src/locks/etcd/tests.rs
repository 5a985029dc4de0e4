//! A scripted gateway: what is called, and what comes of each answer.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;

fn etcd(login: bool) -> Etcd {
    let login = login.then(|| Login { name: "me".into(), password: "secret".into() });
    Etcd::new(&ClusterId("here".parse().unwrap()), login, START_UNIX_MS)
}

fn name() -> Name {
    b"a/b"[..].into()
}

fn put() -> Step {
    let (condition, old) = (Condition::Empty, Some(LeaseId(5)));
    Step::Put { session: b"me"[..].into(), condition, ends_unix_ms: 77, lease_ms: 1_001, old, offset: None }
}

const NOW: Millis = Millis(1_000);
const START_UNIX_MS: u64 = 5_000;
/// An offset as of that time.
const OFFSET: u64 = (START_UNIX_MS + NOW.0) * 1_024;

impl Etcd {
    #[track_caller]
    fn call_next(&mut self) -> Call {
        match self.next() {
            Some(Need::Call(call)) => call,
            other => panic!("{other:?}"),
        }
    }

    fn reply(&mut self, call: &Call, status: u16, body: &str) {
        self.answered(NOW, call.id, Answer::Reply { status, body: body.as_bytes() });
    }

    #[track_caller]
    fn check_idle(&mut self) {
        assert_eq!((self.next(), self.heard()), (None, None));
        assert!(self.under_way.is_empty() && self.waiting.is_empty());
    }
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn key(session: &str, value: &str, created: u64) -> String {
    let (key, value) = (base64(&format!("/slabring-locks/here/a%2fb/{session}")), base64(value));
    format!(
        r#"{{"key":"{key}","create_revision":"{created}","mod_revision":"{}","value":"{value}","lease":"9"}}"#,
        created + 1
    )
}

fn entry(session: &str, created: u64, ends_unix_ms: u64, offset: u64) -> Entry {
    let (created, changed) = (Revision(created), Revision(created + 1));
    let session = session.as_bytes().into();
    Entry { session, created, offset, changed, ends_unix_ms, lease: Some(LeaseId(9)) }
}

/// What a transaction answers that has read these keys, and the offset if there is one.
fn answer(revision: u64, succeeded: bool, keys: &[String], offset: Option<u64>) -> String {
    let offset = offset.map_or(String::new(), |offset| {
        let (key, value) = (base64("/slabring-locks/here/fences"), base64(&offset.to_string()));
        format!(r#"{{"key":"{key}","create_revision":"1","mod_revision":"1","value":"{value}"}}"#)
    });
    let reads = [keys.join(","), offset]
        .map(|keys| format!(r#"{{"response_range":{{"header":{{}},"kvs":[{keys}]}}}}"#))
        .join(",");
    format!(r#"{{"header":{{"revision":"{revision}"}},"succeeded":{succeeded},"responses":[{reads}]}}"#)
}

#[test]
fn who_is_there_is_read_first_come_first_and_what_is_not_ours_is_left_out() {
    let mut etcd = etcd(false);
    etcd.take(NOW, name(), Step::Read);
    let call = etcd.call_next();
    assert_eq!((call.path, call.token.as_deref()), (gateway::TRANSACTION, None));
    let keys = [
        key("late", "20", 7),
        key("y", "20 x", 1),
        key("x", "no number", 1),
        key("no%zz", "1", 2),
        key("me%00", "10 77", 3),
    ];
    etcd.reply(&call, OK, &answer(8, true, &keys, Some(OFFSET)));
    let entries = vec![entry("me\0", 3, 10, 77), entry("late", 7, 20, 0)];
    let found = Found { succeeded: true, revision: Revision(8), entries };
    assert_eq!(etcd.heard(), Some(Heard::Came(name(), Some(found))));
    etcd.check_idle();
}

#[test]
fn what_is_put_lies_under_a_lease_of_whole_seconds_and_the_other_one_is_ended() {
    for (succeeded, unneeded) in [(true, r#"{"ID":"5"}"#), (false, r#"{"ID":"-6"}"#)] {
        let mut etcd = etcd(false);
        etcd.take(NOW, name(), put());
        let grant = etcd.call_next();
        assert_eq!((grant.path, grant.body.as_str()), (gateway::GRANT, r#"{"TTL":"2"}"#));
        etcd.reply(&grant, OK, r#"{"ID":"-6","TTL":"2"}"#);
        let call = etcd.call_next();
        assert_eq!(call.path, gateway::TRANSACTION);
        assert!(call.body.contains(&base64("/slabring-locks/here/a%2fb/me")), "{}", call.body);
        assert!(call.body.contains(r#""lease":"-6""#), "{}", call.body);
        etcd.reply(&call, OK, &answer(8, succeeded, &[key("me", "77 5", 3)], Some(OFFSET)));
        let found = Found { succeeded, revision: Revision(8), entries: vec![entry("me", 3, 77, 5)] };
        assert_eq!(etcd.heard(), Some(Heard::Came(name(), Some(found))));
        let revoke = etcd.call_next();
        assert_eq!((revoke.path, revoke.body.as_str()), (gateway::REVOKE, unneeded));
        etcd.answered(NOW, revoke.id, Answer::Failed);
        etcd.check_idle();
    }
}

#[test]
fn no_answer_or_one_that_says_nothing_means_that_nobody_knows() {
    let answers = [
        Answer::Failed,
        Answer::Chunk(b"{}"),
        Answer::Reply { status: 503, body: b"{}" },
        Answer::Reply { status: OK, body: b"no JSON" },
        Answer::Reply { status: OK, body: b"{}" },
    ];
    for step in [Step::Read, put(), Step::Delete { session: b"me"[..].into(), changed: Revision(3) }] {
        for answer in answers {
            let mut etcd = etcd(false);
            etcd.take(NOW, name(), step.clone());
            let call = etcd.call_next();
            etcd.answered(NOW, call.id, answer);
            assert_eq!(etcd.heard(), Some(Heard::Came(name(), None)), "{step:?}, {answer:?}");
            etcd.check_idle();
        }
    }
}

#[test]
fn a_call_of_which_nothing_is_heard_fails_and_a_late_answer_is_nobodys() {
    let mut etcd = etcd(false);
    etcd.take(NOW, name(), Step::Read);
    let call = etcd.call_next();
    etcd.expire(Millis(NOW.0 + CALL_LOST_MS - 1));
    assert_eq!(etcd.heard(), None);
    etcd.expire(Millis(NOW.0 + CALL_LOST_MS));
    assert_eq!(etcd.heard(), Some(Heard::Came(name(), None)));
    etcd.reply(&call, OK, r#"{"header":{"revision":"8"}}"#);
    etcd.check_idle();
}

#[test]
fn so_many_steps_are_taken_at_a_time() {
    let mut etcd = etcd(true);
    for _ in 0..STEPS_MAX - 1 {
        assert!(etcd.has_room());
        etcd.take(NOW, name(), Step::Read);
    }
    assert!(!etcd.has_room(), "with the login");
}

#[test]
fn a_token_that_is_too_old_is_asked_for_anew_and_the_lease_is_used_again() {
    let mut etcd = etcd(true);
    etcd.take(NOW, name(), put());
    let login = etcd.call_next();
    assert_eq!((login.path, login.token.as_deref()), (gateway::LOGIN, None));
    etcd.reply(&login, OK, r#"{"token":"first"}"#);
    let grant = etcd.call_next();
    assert_eq!((grant.path, grant.token.as_deref()), (gateway::GRANT, Some("first")));
    etcd.reply(&grant, OK, r#"{"ID":"6","TTL":"2"}"#);
    let call = etcd.call_next();
    etcd.reply(&call, 401, "{}");
    let login = etcd.call_next();
    assert_eq!(login.path, gateway::LOGIN);
    etcd.reply(&login, OK, r#"{"token":"second"}"#);
    let call = etcd.call_next();
    assert_eq!((call.path, call.token.as_deref()), (gateway::TRANSACTION, Some("second")));
    etcd.reply(&call, 401, "{}");
    assert_eq!(etcd.heard(), Some(Heard::Came(name(), None)), "it does not go on for ever");
    etcd.check_idle();
}

#[test]
fn who_cannot_log_in_knows_nothing_and_where_no_login_is_wanted_none_is_shown() {
    let mut etcd = etcd(true);
    etcd.take(NOW, name(), Step::Read);
    let login = etcd.call_next();
    etcd.reply(&login, 400, r#"{"message":"authentication failed"}"#);
    assert_eq!(etcd.heard(), Some(Heard::Came(name(), None)));
    etcd.check_idle();
    etcd.take(Millis(NOW.0 + LOGIN_PAUSE_MS), name(), Step::Read);
    let login = etcd.call_next();
    etcd.reply(&login, 400, r#"{"message":"etcdserver: authentication is not enabled"}"#);
    let call = etcd.call_next();
    assert_eq!((call.path, call.token), (gateway::TRANSACTION, None));
}

fn changed(name: &str) -> String {
    let key = base64(&format!("/slabring-locks/here/{name}/me"));
    format!(r#"{{"result":{{"header":{{"revision":"9"}},"events":[{{"kv":{{"key":"{key}"}}}}]}}}}"#) + "\n"
}

#[test]
fn a_watch_tells_names_however_it_is_cut() {
    let lines = [changed("a%2fb"), "no line\n".into(), changed("c"), changed("%z")].concat();
    for cut in 0..=lines.len() {
        let mut etcd = etcd(false);
        etcd.watch(NOW, Some(Revision(4)));
        let call = etcd.call_next();
        assert!(call.is_stream && call.body.contains(r#""start_revision":"4""#), "{}", call.body);
        let (one, two) = lines.as_bytes().split_at(cut);
        etcd.answered(NOW, call.id, Answer::Chunk(one));
        etcd.answered(NOW, call.id, Answer::Chunk(two));
        assert_eq!(etcd.heard(), Some(Heard::Changed(name())), "{cut}");
        assert_eq!(etcd.heard(), Some(Heard::Changed(b"c"[..].into())), "{cut}");
        assert_eq!(etcd.heard(), None);
        etcd.watch(NOW, Some(Revision(5)));
        assert_eq!(etcd.next(), None, "one is enough");
        etcd.watch(NOW, None);
        assert_eq!(etcd.next(), Some(Need::Cancel(call.id)));
        etcd.answered(NOW, call.id, Answer::Failed);
        etcd.check_idle();
    }
}

#[test]
fn a_watch_that_began_before_a_compaction_or_ends_begins_again_after_a_look_at_everything() {
    let compacted = r#"{"result":{"header":{"revision":"90"},"canceled":true,"compact_revision":"80"}}"#;
    let compacted = format!("{compacted}\n");
    let long = "x".repeat(LINE_BYTES_MAX + 1);
    for (answer, is_cancelled) in [
        (Answer::Chunk(compacted.as_bytes()), true),
        (Answer::Chunk(long.as_bytes()), true),
        (Answer::Failed, false),
        (Answer::Reply { status: 401, body: b"" }, false),
    ] {
        let mut etcd = etcd(false);
        etcd.watch(NOW, Some(Revision(4)));
        let call = etcd.call_next();
        etcd.answered(NOW, call.id, answer);
        assert_eq!(etcd.heard(), Some(Heard::MissedSome));
        assert_eq!(etcd.next(), is_cancelled.then_some(Need::Cancel(call.id)));
        etcd.check_idle();
        etcd.watch(NOW, Some(Revision(91)));
        assert_eq!(etcd.next(), None, "not at once");
        etcd.watch(Millis(NOW.0 + PAUSE_MS), Some(Revision(91)));
        assert!(etcd.call_next().body.contains(r#""start_revision":"91""#));
    }
}

#[test]
fn every_name_has_a_key_of_its_own_and_is_read_back() {
    let all: Vec<u8> = (0..=255).collect();
    for name in [&all[..], b"", b"/", b"%2f", b"a-Z_0.:9"] {
        let text = escaped(name);
        assert!(!text.contains('/'));
        assert_eq!(unescaped(text.as_bytes()).as_deref(), Some(name));
    }
    assert_eq!(unescaped(b"%"), None);
    assert_eq!(unescaped(b"%4"), None);
}

/// Reads, and takes the call that puts after it.
fn put_after(read: &str, step: Step) -> Call {
    let mut etcd = etcd(false);
    etcd.take(NOW, name(), Step::Read);
    let call = etcd.call_next();
    assert!(call.body.contains(&base64("/slabring-locks/here/fences")), "{}", call.body);
    etcd.reply(&call, OK, read);
    etcd.take(NOW, name(), step);
    let grant = etcd.call_next();
    etcd.reply(&grant, OK, r#"{"ID":"6","TTL":"2"}"#);
    etcd.call_next()
}

#[test]
fn a_new_key_has_the_offset_that_was_read_and_raises_one_that_is_behind_the_clock_by_more_than_a_second() {
    let new_one = |read: Option<u64>, offset: u64, is_raised: bool| {
        let call = put_after(&answer(8, true, &[], read), put());
        let value = base64(&format!("77 {offset}"));
        assert!(call.body.contains(&value), "{offset}: {}", call.body);
        let known = match read {
            Some(read) => format!(r#""target":"VALUE","value":"{}""#, base64(&read.to_string())),
            None => r#""target":"VERSION","version":"0""#.to_owned(),
        };
        assert!(call.body.contains(&known), "{read:?}: {}", call.body);
        let raised = format!(r#""value":"{}"}}}}"#, base64(&offset.to_string()));
        assert_eq!(call.body.contains(&raised), is_raised, "{read:?}: {}", call.body);
    };
    new_one(Some(OFFSET), OFFSET, false);
    let latest = OFFSET - 1_000 * 1_024 - 8;
    new_one(Some(latest), latest, false);
    new_one(Some(latest - 1), OFFSET - 8, true);
    new_one(None, OFFSET - 8, true);
}

#[test]
fn a_key_that_is_put_again_keeps_its_offset_and_raises_none() {
    let (condition, old) = (Condition::Created(Revision(3)), None);
    let session = b"me"[..].into();
    let again = Step::Put { session, condition, ends_unix_ms: 77, lease_ms: 1_001, old, offset: Some(5) };
    let call = put_after(&answer(8, true, &[], Some(1)), again);
    assert!(call.body.contains(&base64("77 5")), "{}", call.body);
    assert!(call.body.contains(r#""target":"VALUE""#), "{}", call.body);
    assert_eq!(call.body.matches("request_put").count(), 1, "{}", call.body);
}

#[test]
fn an_etcd_that_has_lost_revisions_is_noticed_and_watched_anew() {
    let mut etcd = etcd(false);
    etcd.watch(NOW, Some(Revision(60)));
    let watch = etcd.call_next();
    let calls = [(); 3].map(|()| {
        etcd.take(NOW, name(), Step::Read);
        etcd.call_next()
    });
    etcd.reply(&calls[0], OK, &answer(66, true, &[], Some(OFFSET)));
    etcd.reply(&calls[1], OK, &answer(60, true, &[], Some(OFFSET)));
    let heard: Vec<_> = std::iter::from_fn(|| etcd.heard()).collect();
    assert!(heard.iter().all(|heard| matches!(heard, Heard::Came(_, Some(_)))), "it was asked before");
    etcd.take(NOW, name(), Step::Read);
    let call = etcd.call_next();
    etcd.reply(&call, OK, &answer(65, true, &[key("me", "77 5", 3)], None));
    assert_eq!(etcd.next(), Some(Need::Cancel(watch.id)), "it would wait for what was");
    assert_eq!(etcd.heard(), Some(Heard::MissedSome));
    assert_eq!(etcd.heard(), Some(Heard::WentBack(Revision(65))));
    let found = Found { succeeded: true, revision: Revision(65), entries: vec![entry("me", 3, 77, 5)] };
    assert_eq!(etcd.heard(), Some(Heard::Came(name(), Some(found))));
    etcd.answered(NOW, calls[2].id, Answer::Failed);
}

#[test]
fn after_a_login_that_was_refused_steps_fail_for_a_second_and_nobody_logs_in() {
    let mut etcd = etcd(true);
    etcd.take(NOW, name(), Step::Read);
    let login = etcd.call_next();
    assert_eq!(login.path, gateway::LOGIN);
    etcd.reply(&login, 400, r#"{"error":"etcdserver: authentication failed, invalid user ID or password"}"#);
    assert_eq!(etcd.heard(), Some(Heard::Came(name(), None)));
    for later in [0, LOGIN_PAUSE_MS - 1] {
        etcd.take(Millis(NOW.0 + later), name(), Step::Read);
        assert_eq!(etcd.heard(), Some(Heard::Came(name(), None)));
        etcd.check_idle();
    }
    etcd.take(Millis(NOW.0 + LOGIN_PAUSE_MS), name(), Step::Read);
    let login = etcd.call_next();
    assert_eq!(login.path, gateway::LOGIN);
    // Who cannot be asked has refused nothing.
    etcd.answered(NOW, login.id, Answer::Failed);
    assert_eq!(etcd.heard(), Some(Heard::Came(name(), None)));
    etcd.take(Millis(NOW.0 + LOGIN_PAUSE_MS), name(), Step::Read);
    assert_eq!(etcd.call_next().path, gateway::LOGIN);
}
