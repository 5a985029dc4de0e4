//! A letter's journey there and back, by hand.

use slabring_engine::{Config, Shard};
use slabring_protocol::{Limits, Parser, Step};

use super::*;
use crate::outbox::Outbox;

const NOW: Seconds = Seconds(1_700_000_000);

/// Holds back connection 1, knows 2, and has never heard of another.
#[derive(Default)]
struct Three {
    open: bool,
    bounced: Vec<u32>,
}

impl Senders for Three {
    fn gate(&mut self, id: ConnectionId, feeds: bool) -> Gate {
        match id.slot {
            1 if !self.open && !feeds => Gate::Keep,
            1 | 2 => Gate::Send,
            _ => Gate::Drop,
        }
    }

    fn bounced(&mut self, id: ConnectionId) {
        self.bounced.push(id.slot);
    }
}

fn connection(slot: u32) -> ConnectionId {
    ConnectionId { slot, generation: 1 }
}

fn push(batch: &mut Batch, slot: u32, line: &str) {
    let limits = Limits::default();
    let Step::Request { request, .. } = Parser::default().next(line.as_bytes(), &limits) else {
        panic!("{line:?} is a request")
    };
    batch.push(ReturnAddress { connection: connection(slot), ticket: Outbox::default().expect() }, &request);
}

fn outcomes(batch: &Batch) -> Vec<(u32, String)> {
    let text = |outcome| match outcome {
        Outcome::Lending(reply, lent) => format!("{} and {} bytes", reply.len(), lent.bytes),
        Outcome::Reply(reply) if reply.len() > 100 => format!("{} bytes", reply.len()),
        Outcome::Reply(reply) => String::from_utf8(reply.to_vec()).unwrap(),
        Outcome::Answer(answer, text) => {
            format!("numbers: {}, {} bytes", matches!(answer, Answer::Numbers(_)), text.len())
        }
        Outcome::Bounced => "bounced".into(),
        Outcome::Deferred => "deferred".into(),
        Outcome::Promised => "promised".into(),
        Outcome::Begun | Outcome::Silence => String::new(),
    };
    batch.outcomes().map(|(to, outcome)| (to.connection.slot, text(outcome))).collect()
}

fn visit(executor: &mut Executor) -> Visit<'_> {
    let shards = Shards { count: 2, me: ShardId(0) };
    Visit { executor, census: &|_| {}, now: NOW, shards, sender: ShardId(1) }
}

/// Too small to be lent.
const COPIED_BYTES: usize = 10_000;
const GETS_THAT_FILL_A_LETTER: usize = LETTER_BYTES_MAX / COPIED_BYTES + 1;

fn executor_with_values() -> Executor {
    let mut executor = Executor::alone(Shard::new(&Config::with_memory(16 << 20)).unwrap());
    for (key, bytes) in [("copied", COPIED_BYTES), ("large", 300_000)] {
        let mut batch = Batch::default();
        push(&mut batch, 0, &format!("set {key} 0 0 {bytes}\r\n{}\r\n", "x".repeat(bytes)));
        batch.execute(visit(&mut executor), &mut false);
        assert_eq!(outcomes(&batch), [(0, "STORED\r\n".to_string())]);
    }
    executor
}

#[test]
fn a_large_value_is_lent_with_its_reply_and_handed_out_in_slices() {
    let mut executor = executor_with_values();
    let mut batch = Batch::default();
    push(&mut batch, 1, "get large\r\n");
    push(&mut batch, 1, "delete large\r\n");
    batch.execute(visit(&mut executor), &mut false);
    let expected = [(1, "24 and 300000 bytes".to_string()), (1, "DELETED\r\n".to_string())];
    assert_eq!(outcomes(&batch), expected);
    let Some((_, Outcome::Lending(reply, lent))) = batch.outcomes().next() else { panic!("seen above") };
    assert_eq!((reply, lent.place), (&b"VALUE large 0 300000\r\n\r\n"[..], 22));
    let mut value = Vec::new();
    while value.len() < lent.bytes {
        executor.answer(NOW, Question::Slice { number: lent.number, bytes: 100_000 }, &mut value);
    }
    assert!(value == "x".repeat(300_000).as_bytes());
    assert!(executor.shard().memory().held > 0);
    executor.answer(NOW, Question::TakeBack(lent.number), &mut value);
    assert_eq!(executor.shard().memory().held, 0);
}

#[test]
fn who_is_delivered_a_reply_has_no_outcome_at_its_sender() {
    let mut executor = executor_with_values();
    let mut batch = Batch::default();
    let of_receiver = ReturnAddress { connection: connection(7), ticket: Ticket::NONE };
    batch.deliver(of_receiver, b"STORED\r\n");
    push(&mut batch, 1, "delete none\r\n");
    batch.execute(visit(&mut executor), &mut false);
    assert_eq!(outcomes(&batch), [(1, "NOT_FOUND\r\n".to_string())]);
    assert_eq!(executor.deliveries.len(), 1);
}

#[test]
fn a_long_append_is_deferred_whole_and_the_same_letter_goes_again() {
    let mut executor = executor_with_values();
    let append = format!("append large 0 0 300000\r\n{}\r\n", "y".repeat(300_000));
    let mut shared = Batch::default();
    push(&mut shared, 1, &append);
    push(&mut shared, 2, "delete none\r\n");
    shared.execute(visit(&mut executor), &mut false);
    assert!(shared.has_deferred() && shared.is_deferred_whole().is_none(), "another's is in it");
    executor.drop_extending((ShardId(1), connection(1)));
    executor.deferring.clear();

    let mut letter = Batch::default();
    push(&mut letter, 1, &append);
    push(&mut letter, 1, "delete copied\r\n");
    let mut rounds = 0;
    letter.execute(visit(&mut executor), &mut false);
    while let Some(id) = letter.is_deferred_whole() {
        assert!(id == connection(1) && rounds < 100);
        letter.retry_whole();
        letter.execute(visit(&mut executor), &mut false);
        rounds += 1;
    }
    assert!(rounds > 0, "it is written in one turn");
    assert_eq!(outcomes(&letter), [(1, "STORED\r\n".to_string()), (1, "DELETED\r\n".to_string())]);
    assert!(executor.deferring.is_empty());
}

/// The letter in which connection `slot` announces a value of a mebibyte.
fn announce(slot: u32) -> Batch {
    let line = format!("set large:{slot} 0 0 1\r\n1\r\n");
    let Step::Request { request, .. } = Parser::default().next(line.as_bytes(), &Limits::default()) else {
        panic!("{line:?} is a request")
    };
    let mut letter = Batch::default();
    let sender = ReturnAddress { connection: connection(slot), ticket: Ticket::NONE };
    letter.begin_value(sender, &Coming::new(&Request { value: b"", ..request }, 1 << 20));
    letter
}

/// Whether what a letter announces must wait, at this time.
fn must_wait(letter: &mut Batch, executor: &mut Executor, now: Seconds) -> bool {
    letter.execute(Visit { now, ..visit(executor) }, &mut false);
    let has_deferred = letter.has_deferred();
    let mut again = Batch::default();
    letter.hand_out_deferred(|_, append| append(&mut again));
    *letter = again;
    has_deferred
}

#[test]
fn a_value_that_waits_too_long_for_room_is_refused_unless_it_came_last() {
    let mut executor = executor_with_values();
    let mut slots = 10..;
    let mut next = |executor: &mut Executor| {
        let waiting = |slot| {
            let mut letter = announce(slot);
            must_wait(&mut letter, executor, NOW).then_some(letter)
        };
        slots.by_ref().find_map(waiting).expect("room has an end")
    };
    let (mut first, mut last) = (next(&mut executor), next(&mut executor));
    let begun = executor.visitors.len();
    assert!(begun > 0 && executor.deferring.len() == 2);
    let late = Seconds(NOW.0 + 100);
    // Nothing new overtakes, and each keeps its place however often it asks.
    for _ in 0..3 {
        assert!(must_wait(&mut last, &mut executor, NOW) && must_wait(&mut first, &mut executor, NOW));
    }
    assert!(must_wait(&mut last, &mut executor, late), "it came last");
    let place = executor.deferring[0].name.1;
    assert!(!must_wait(&mut first, &mut executor, late), "it has waited too long");
    assert_eq!((executor.visitors.len(), executor.deferring.len()), (begun + 1, 1));

    let mut end = Batch::default();
    end.end_value(ReturnAddress { connection: place, ticket: Outbox::default().expect() });
    end.execute(visit(&mut executor), &mut false);
    let refused = "SERVER_ERROR out of memory storing object\r\n".to_string();
    assert_eq!(outcomes(&end), [(place.slot, refused)]);
    assert!(must_wait(&mut last, &mut executor, late));
    executor.end_visits();
    assert!(!must_wait(&mut last, &mut executor, late) && executor.deferring.is_empty());
    executor.end_visits();
    assert_eq!(executor.shard().memory().held, 0);
}

#[test]
fn what_is_taken_back_is_sent_although_its_reader_is_gone() {
    let (mut returned, mut letter) = (Batch::default(), Batch::default());
    returned.ask(ReturnAddress::NOBODY, Question::TakeBack(3));
    returned.resend(&mut letter, &mut Three::default());
    assert!(returned.is_empty() && !letter.is_empty());
}

#[test]
fn a_slice_goes_again_before_the_requests_of_its_reader_who_waits_for_it() {
    let (mut returned, mut letter) = (Batch::default(), Batch::default());
    push(&mut returned, 1, "get a\r\n");
    let to = ReturnAddress { connection: connection(1), ticket: Ticket::NONE };
    let slice = Question::Slice { number: 3, bytes: 10 };
    returned.ask(to, slice);
    returned.resend(&mut letter, &mut Three::default());
    assert_eq!((returned.entries.len(), letter.questions), (1, vec![slice]));
}

#[test]
fn replies_come_back_in_order_with_answers_between() {
    let mut executor = executor_with_values();
    let mut batch = Batch::default();
    push(&mut batch, 1, "set a 0 0 1\r\n1\r\n");
    batch.ask(
        ReturnAddress { connection: connection(2), ticket: Outbox::default().expect() },
        Question::Report,
    );
    push(&mut batch, 3, "incr a 41\r\n");
    batch.execute(visit(&mut executor), &mut false);
    let expected = [(1, "STORED\r\n"), (2, "numbers: true, 0 bytes"), (3, "42\r\n")];
    assert_eq!(outcomes(&batch), expected.map(|(slot, text)| (slot, text.to_string())));
    assert!(!batch.has_bounced());
}

#[test]
fn large_replies_make_the_rest_bounce_until_the_sender_resumes() {
    let mut executor = executor_with_values();
    let mut bouncing = false;
    let mut first = Batch::default();
    (0..GETS_THAT_FILL_A_LETTER).for_each(|_| push(&mut first, 1, "get copied\r\n"));
    push(&mut first, 2, "set late 0 0 1\r\n1\r\n");
    let mut second = Batch::default();
    push(&mut second, 2, "get late\r\n");
    for batch in [&mut first, &mut second] {
        batch.execute(visit(&mut executor), &mut bouncing);
        assert!(batch.has_bounced());
    }
    let expected = (2, "bounced".to_string());
    assert_eq!(outcomes(&first)[GETS_THAT_FILL_A_LETTER], expected);

    let (mut returned, mut letter) = (Batch::default(), Batch { resumes: true, ..Batch::default() });
    let mut senders = Three { open: true, ..Three::default() };
    returned.absorb(&first, |id| senders.bounced(id));
    returned.absorb(&second, |id| senders.bounced(id));
    returned.resend(&mut letter, &mut senders);
    assert_eq!(senders.bounced, [2, 2]);
    letter.execute(visit(&mut executor), &mut bouncing);
    let expected = [(2, "STORED\r\n"), (2, "VALUE late 0 1\r\n1\r\n")];
    assert_eq!(outcomes(&letter), expected.map(|(slot, text)| (slot, text.to_string())));
    assert!(returned.is_empty() && !bouncing);
}

#[test]
fn what_the_gate_keeps_stays_in_order_and_what_it_drops_is_gone() {
    let (mut returned, mut letter) = (Batch::default(), Batch::default());
    for (slot, line) in [(1, "get a\r\n"), (2, "get b\r\n"), (1, "get c\r\n"), (3, "get d\r\n")] {
        push(&mut returned, slot, line);
    }
    returned.resend(&mut letter, &mut Three::default());
    let slots =
        |batch: &Batch| batch.entries.iter().map(|entry| entry.sender.connection.slot).collect::<Vec<_>>();
    assert_eq!((slots(&returned), slots(&letter)), (vec![1, 1], vec![2]));
    assert_eq!((&returned.bytes[..], &letter.bytes[..]), (&b"ac"[..], &b"b"[..]));
}
