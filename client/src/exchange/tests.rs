use super::*;
use crate::command::{CasToken, Direction, Item, StoreMode, StoreOptions, Stored};
use crate::key::Key;
use crate::meta::MetaRequest;
use crate::ttl::Ttl;
use proptest::prelude::*;

const REPLY_SIZE_MAX: usize = 1 << 20;

fn key(text: &str) -> Key {
    Key::new(text.as_bytes(), Wire::Text).unwrap()
}

fn get(text: &str) -> Command {
    Command::Get { key: key(text), cas: false }
}

fn set(text: &str, value: &[u8]) -> Command {
    Command::Store {
        mode: StoreMode::Set,
        key: key(text),
        value: value.to_vec(),
        options: StoreOptions::default(),
    }
}

fn exchange(commands: &[Command], wire: Wire) -> Exchange {
    Exchange::new(commands.to_vec(), Context { wire, unix_seconds: 0 }, REPLY_SIZE_MAX)
}

fn sent(exchange: &mut Exchange) -> Vec<u8> {
    let output = exchange.output().to_vec();
    exchange.wrote(output.len());
    output
}

fn outcomes(exchange: Exchange) -> Vec<Outcome> {
    exchange.finish().map(|(_, outcome)| outcome).collect()
}

fn hit(value: &str) -> Outcome {
    let item = Item { value: value.as_bytes().to_vec(), flags: 0, cas: CasToken(0) };
    Outcome::Answered(Answer::Item(Some(item)))
}

const MISS: Outcome = Outcome::Answered(Answer::Item(None));

/// A pipeline of every kind of reply on both wires, with what they mean.
fn scripts() -> Vec<(Wire, Vec<Command>, &'static str, Vec<Outcome>)> {
    let stored = Outcome::Answered(Answer::Stored(Stored::Stored));
    let mixed = vec![
        get("a"),
        get("b"),
        get("a"),
        set("k", b"v"),
        Command::Delete { key: key("k") },
        Command::Count { key: key("n"), delta: 1, direction: Direction::Up },
        Command::Touch { key: key("k"), ttl: Ttl::Never },
        Command::Get { key: key("c"), cas: true },
    ];
    let with_cas = Item { value: b"z".to_vec(), flags: 7, cas: CasToken(9) };
    let meant = vec![
        hit("END\r\n"),
        MISS,
        hit("2"),
        stored,
        Outcome::Answered(Answer::Found(false)),
        Outcome::Answered(Answer::Number(Some(5))),
        Outcome::Answered(Answer::Found(true)),
        Outcome::Answered(Answer::Item(Some(with_cas))),
    ];
    let text = "VALUE a 0 5\r\nEND\r\n\r\nVALUE a 0 1\r\n2\r\nEND\r\nSTORED\r\nNOT_FOUND\r\n5\r\nTOUCHED\r\n\
                VALUE c 7 1 9\r\nz\r\nEND\r\n";
    let meta = "VA 5 f0 O0\r\nEND\r\n\r\nEN\r\nVA 1 f0 O2\r\n2\r\nHD O3\r\nNF O4\r\nVA 1 O5\r\n5\r\nHD O6\r\n\
                VA 1 f7 c9 O7\r\nz\r\n";
    vec![(Wire::Text, mixed.clone(), text, meant.clone()), (Wire::Meta, mixed, meta, meant)]
}

#[test]
fn replies_mean_the_same_however_they_are_cut() {
    for (wire, commands, reply, meant) in scripts() {
        for cut in 0..=reply.len() {
            let mut exchange = exchange(&commands, wire);
            sent(&mut exchange);
            let (head, tail) = reply.as_bytes().split_at(cut);
            exchange.received(head).unwrap();
            assert_eq!(exchange.is_done(), cut == reply.len());
            exchange.received(tail).unwrap();
            assert!(exchange.leaves_connection_clean());
            assert_eq!(outcomes(exchange), meant, "{wire:?} cut at {cut}");
        }
    }
}

#[test]
fn what_a_cut_reply_leaves_open_is_open_and_what_it_answered_stays() {
    for (wire, commands, reply, meant) in scripts() {
        for cut in 0..reply.len() {
            let mut exchange = exchange(&commands, wire);
            sent(&mut exchange);
            exchange.received(&reply.as_bytes()[..cut]).unwrap();
            for (outcome, meant) in outcomes(exchange).iter().zip(&meant) {
                assert!(outcome == meant || *outcome == Outcome::Open(Executed::Unknown), "cut at {cut}");
            }
        }
    }
}

#[track_caller]
fn check_rubbish(commands: &[Command], wire: Wire, reply: &str) {
    let mut exchange = exchange(commands, wire);
    sent(&mut exchange);
    let result = exchange.received(reply.as_bytes());
    assert!(matches!(result, Err(Failure::Rubbish(_))), "{reply:?}: {result:?}");
    assert!(!exchange.leaves_connection_clean());
    let open = |outcome: &Outcome| matches!(outcome, Outcome::Open(_));
    assert!(outcomes(exchange).iter().all(open), "{reply:?} was taken for an answer");
}

#[test]
fn what_is_no_answer_to_the_question_is_never_taken_for_one() {
    let stored = Command::Get { key: key("a"), cas: true };
    for reply in [
        "VALUE b 0 1\r\nx\r\nEND\r\n",
        "VALUE a 0 1\r\nx\r\nVALUE a 0 1\r\ny\r\nEND\r\n",
        "VALUE a 0 1\r\nxy\r\nEND\r\n",
        "VALUE a 0 2\r\nx\r\nEND\r\n",
        "VALUE a x 1\r\nx\r\nEND\r\n",
        "VALUE a 0 -1\r\nx\r\nEND\r\n",
        "STORED\r\n",
        "HD\r\n",
        "HTTP/1.1 400 Bad Request\r\n",
        "5\r\n",
        "STAT a b\r\nEND\r\n",
        "\r\n",
    ] {
        check_rubbish(&[get("a")], Wire::Text, reply);
    }
    check_rubbish(&[stored], Wire::Text, "VALUE a 0 1\r\nx\r\nEND\r\n");
    check_rubbish(&[get("a"), get("b")], Wire::Text, "VALUE b 0 1\r\nx\r\nVALUE a 0 1\r\ny\r\nEND\r\n");
    check_rubbish(&[set("a", b"x")], Wire::Text, "DELETED\r\n");
    for reply in
        ["VA 1 f0 O1\r\nx\r\n", "VA 1 f0\r\nx\r\n", "VA 1 O0\r\nx\r\n", "HD O0\r\n", "END\r\n", "NF O0\r\n"]
    {
        check_rubbish(&[get("a")], Wire::Meta, reply);
    }
    check_rubbish(&[set("a", b"x")], Wire::Meta, "HD O1\r\n");
    // Without the value that was asked for: a lease would be taken for one.
    let lookup = Command::Meta { key: key("a"), request: MetaRequest::get().flag(b'f').flag(b'v') };
    check_rubbish(&[lookup], Wire::Text, "HD f0 O0\r\n");
}

#[test]
fn an_answer_before_its_question_or_after_the_last_spoils_the_connection() {
    let mut early = exchange(&[get("a")], Wire::Text);
    assert!(early.received(b"END\r\n").is_err());

    let mut late = exchange(&[get("a")], Wire::Text);
    sent(&mut late);
    assert!(late.received(b"END\r\nEND\r\n").is_err());
    assert_eq!(outcomes(late), [MISS]);

    let mut half = exchange(&[get("a")], Wire::Text);
    sent(&mut half);
    half.received(b"END\r\nEN").unwrap();
    assert!(half.is_done() && !half.leaves_connection_clean());
}

#[test]
fn a_reply_without_end_is_given_up() {
    let context = Context { wire: Wire::Text, unix_seconds: 0 };
    let mut exchange = Exchange::new(vec![get("a")], context, 100);
    sent(&mut exchange);
    exchange.received(b"VALUE a 0 1000000\r\n").unwrap();
    assert!(matches!(exchange.received(&[b'x'; 100]), Err(Failure::Rubbish(_))));
}

#[test]
fn a_refusal_of_a_value_ends_the_exchange_and_one_of_a_word_does_not() {
    let commands = [set("a", b"delete b\r\n"), get("b")];
    let mut poisoned = exchange(&commands, Wire::Text);
    sent(&mut poisoned);
    assert!(poisoned.received(b"CLIENT_ERROR bad data chunk\r\nNOT_FOUND\r\n").is_err());
    assert!(poisoned.is_poisoned() && !poisoned.leaves_connection_clean());
    assert_eq!(outcomes(poisoned)[1], Outcome::Open(Executed::Unknown));

    let count = Command::Count { key: key("a"), delta: 1, direction: Direction::Up };
    let mut refused = exchange(&[count, get("b")], Wire::Text);
    sent(&mut refused);
    refused.received(b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\nEND\r\n").unwrap();
    assert!(refused.leaves_connection_clean());
}

#[test]
fn a_refusal_behind_values_is_told_in_its_own_words() {
    let mut exchange = exchange(&[get("a"), get("b")], Wire::Text);
    sent(&mut exchange);
    exchange.received(b"VALUE a 0 1\r\nx\r\nSERVER_ERROR out of memory\r\n").unwrap();
    assert!(exchange.leaves_connection_clean());
    let is_refusal = |outcome: &Outcome| matches!(outcome, Outcome::Refused { words, .. } if words == "SERVER_ERROR out of memory");
    assert!(outcomes(exchange).iter().all(is_refusal));
}

#[test]
fn a_dump_may_be_announced_or_not() {
    for reply in ["OK\r\nkey=a exp=-1\nEND\r\n", "key=a exp=-1\nEND\r\n"] {
        let mut exchange = exchange(&[Command::Keys], Wire::Text);
        sent(&mut exchange);
        exchange.received(reply.as_bytes()).unwrap();
        assert!(exchange.leaves_connection_clean());
        let Outcome::Answered(Answer::Keys(keys)) = &outcomes(exchange)[0] else { panic!("{reply:?}") };
        assert!(keys.len() == 1 && keys[0].key == b"a");
    }
}

#[test]
fn no_more_is_under_way_than_the_kernel_keeps() {
    let large = vec![b'x'; 1 << 20];
    let mut commands = vec![get("a"), set("large", &large)];
    commands.extend((0..5_000).map(|n| get(&format!("{n:0>200}"))));
    let mut exchange = exchange(&commands, Wire::Text);
    let mut rounds = 0;
    while !exchange.is_done() {
        let output = sent(&mut exchange);
        assert!(output.len() <= WINDOW_SIZE || output.starts_with(b"set large"), "{} bytes", output.len());
        for line in output.split(|&byte| byte == b'\n') {
            match line.first() {
                Some(b's') => exchange.received(b"STORED\r\n").unwrap(),
                Some(b'g') => exchange.received(b"END\r\n").unwrap(),
                _ => {}
            }
        }
        rounds += 1;
    }
    assert!(rounds < 90, "{rounds} rounds");
}

#[test]
fn what_was_not_sent_whole_was_not_executed() {
    let mut exchange = exchange(&[set("a", b"1"), set("b", b"2"), set("c", b"3")], Wire::Text);
    let one = "set a 0 0 1\r\n1\r\n".len();
    assert_eq!(exchange.output().len(), 3 * one);
    exchange.wrote(one + 5);
    let open = [Executed::Unknown, Executed::No, Executed::No].map(Outcome::Open);
    assert_eq!(outcomes(exchange), open);
}

proptest! {
    /// The server's stream is cut into pieces and ends somewhere, or goes on with something else. Every value that
    /// comes out is the one of its own key.
    #[test]
    fn no_fault_gives_a_key_the_value_of_another(
        keys in prop::collection::vec(0_u8..20, 1..60),
        hits in prop::collection::vec(any::<bool>(), 20),
        is_meta: bool,
        pieces in prop::collection::vec(1_usize..40, 1..200),
        cut in 0.0_f64..1.2,
        rubbish in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let wire = if is_meta { Wire::Meta } else { Wire::Text };
        let commands: Vec<_> = keys.iter().map(|n| get(&format!("key{n}"))).collect();
        let mut exchange = exchange(&commands, wire);
        sent(&mut exchange);
        let mut stream = Vec::new();
        for (opaque, n) in keys.iter().enumerate() {
            let value = format!("value of {n}\r\nEND\r\n");
            let size = value.len();
            match (hits[usize::from(*n)], wire) {
                (true, Wire::Text) => stream.extend(format!("VALUE key{n} 0 {size}\r\n{value}\r\n").bytes()),
                (true, Wire::Meta) => stream.extend(format!("VA {size} f0 O{opaque}\r\n{value}\r\n").bytes()),
                (false, Wire::Text) => {}
                (false, Wire::Meta) => stream.extend(b"EN\r\n"),
            }
        }
        if wire == Wire::Text {
            stream.extend(b"END\r\n");
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part of it")]
        let end = (stream.len() as f64 * cut) as usize;
        if end < stream.len() {
            stream.truncate(end);
            stream.extend(&rubbish);
        }
        let mut rest = stream.as_slice();
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*piece));
            if now.is_empty() || exchange.received(now).is_err() {
                break;
            }
            rest = later;
        }
        for (n, outcome) in keys.iter().zip(outcomes(exchange)) {
            if let Outcome::Answered(Answer::Item(Some(item))) = outcome {
                prop_assert_eq!(item.value, format!("value of {n}\r\nEND\r\n").into_bytes());
            }
        }
    }
}
