//! Several gets in one message: together, one by one, or not at all.

use super::*;
use crate::run::{append_later, append_reply};
use crate::wire::{VERSIONS, Versions};

const GETS: &[u8] = b"get key\r\nget other\r\nget third\r\n";

impl Pair {
    /// `b` has got three gets and has not answered.
    fn asked() -> (Self, Asked) {
        let mut pair = Self::linked();
        pair.answers_at_once = false;
        let deadline = pair.now + Micros::from_millis(500);
        let flags = Flags::AUTHENTICATED.with(Flags::RUN);
        let request = Forward { hash: hash_key(b"key"), flags, deadline, bytes: GETS };
        assert_eq!(pair.sides[0].forward_run(pair.now, 7, &request, 3), Ok(Route::Sent));
        pair.run();
        let asked = pair.held.pop().unwrap();
        assert!(asked.flags.has(Flags::RUN) && pair.executed[1] == [GETS]);
        (pair, asked)
    }

    fn tell(&mut self, asked: Asked, status: Status, body: &[u8]) -> Vec<RunAnswer> {
        self.sides[1].respond(asked, status, body);
        self.run();
        std::mem::take(&mut self.run_answers)
    }

    fn used(&self) -> (u32, usize) {
        let used = self.sides[0].links().map(|(_, link)| link.used().operations);
        (used.sum(), self.sides[0].pending_count())
    }
}

/// The replies to all of [`GETS`]: those in the middle come by themselves.
fn replies(later: usize) -> Vec<u8> {
    let mut replies = Vec::new();
    for number in 0..3 {
        if (1..=later).contains(&number) {
            append_later(&mut replies);
        } else {
            append_reply(&mut replies, |out| out.extend_from_slice(DONE));
        }
    }
    replies
}

#[test]
fn replies_come_in_one_message_and_give_the_credit_back() {
    let (mut pair, asked) = Pair::asked();
    assert_eq!(pair.used(), (1, 1));
    let answers = pair.tell(asked, Status::Done, &replies(0));
    assert_eq!(answers, [(7, 0b111, Ok((RunPart::Replies, replies(0))))]);
    assert_eq!(pair.used(), (0, 0));
}

#[test]
fn some_replies_come_by_themselves_and_take_no_credit() {
    let (mut pair, asked) = Pair::asked();
    let answers = pair.tell(asked, Status::Done, &replies(1));
    assert_eq!(answers, [(7, 0b101, Ok((RunPart::Replies, replies(1))))]);
    assert_eq!(pair.used(), (0, 1));
    let answers = pair.tell(asked.part(1), Status::Done, b"");
    assert_eq!(answers, [(7, 0b010, Ok((RunPart::Reply, Vec::new())))]);
    assert_eq!(pair.used(), (0, 0));
}

#[test]
fn what_was_not_executed_comes_back_and_is_not_sent_again_as_it_was() {
    for status in [Status::WrongOwner, Status::Behind, Status::TooLarge] {
        let (mut pair, asked) = Pair::asked();
        let deadline = Micros(pair.now.0 + 500_000);
        let answers = pair.tell(asked, status, b"");
        assert_eq!(answers, [(7, 0b111, Ok((RunPart::NotExecuted, GETS.to_vec())))], "{status:?}");
        assert_eq!((pair.sides[0].run().1, pair.used()), (deadline, (0, 0)));
    }
    let (mut pair, asked) = Pair::asked();
    assert_eq!(pair.tell(asked, Status::Done, &replies(2)).len(), 1);
    let answers = pair.tell(asked.part(2), Status::WrongOwner, b"");
    assert_eq!(answers, [(7, 0b100, Ok((RunPart::NotExecuted, GETS.to_vec())))]);
    let answers = pair.tell(asked.part(1), Status::Behind, b"");
    assert_eq!(answers, [(7, 0b010, Ok((RunPart::NotExecuted, GETS.to_vec())))]);
    assert_eq!(pair.used(), (0, 0));
}

#[test]
fn what_is_not_answered_fails_and_nothing_else() {
    for (status, failure) in [(Status::Expired, Failure::Expired), (Status::Busy, Failure::Busy)] {
        let (mut pair, asked) = Pair::asked();
        assert_eq!(pair.tell(asked, status, b""), [(7, 0b111, Err(failure))].map(nothing_to_read));
    }
    for is_late in [false, true] {
        let (mut pair, asked) = Pair::asked();
        assert_eq!(pair.tell(asked, Status::Done, &replies(1)).len(), 1);
        let failure = if is_late { Failure::Expired } else { Failure::OwnerGone };
        if is_late {
            pair.pass(500);
            pair.pass(10);
        } else {
            let dialled = pair.sides[0].links().find(|&(link, _)| pair.sides[0].leads_to(link).is_some());
            let (link, _) = dialled.unwrap();
            pair.sides[0].lost(link);
            pair.run();
        }
        let failed = std::mem::take(&mut pair.run_answers);
        assert_eq!(failed, [(7, 0b010, Err(failure))].map(nothing_to_read));
        assert!(pair.tell(asked.part(1), Status::Done, b"").is_empty(), "nobody waits for it");
        assert_eq!(pair.used(), (0, 0));
    }
}

fn nothing_to_read((place, gets, outcome): (u32, u16, Result<(), Failure>)) -> RunAnswer {
    (place, gets, outcome.map(|()| unreachable!("it failed")))
}

#[test]
fn a_response_that_fits_no_run_ends_the_link() {
    let short = &replies(0)[..9];
    let later = &replies(1);
    let parts: [&[(usize, &[u8])]; 4] =
        [&[(0, short)], &[(2, b"")], &[(0, later), (1, b"")], &[(0, later), (17, b"")]];
    for parts in parts {
        let (mut pair, asked) = Pair::asked();
        for &(part, body) in parts {
            let asked = if part > 0 { asked.part(part - 1) } else { asked };
            pair.sides[1].respond(asked, Status::Done, body);
            if part == 0 {
                // The other side counts what it gives back.
                pair.run();
            }
        }
        pair.run();
        let lost = pair.run_answers.last().unwrap();
        assert!(matches!(lost, (7, _, Err(Failure::OwnerGone))), "{parts:?}: {lost:?}");
    }
}

#[test]
fn a_get_that_came_back_uses_what_is_left_of_the_credit() {
    let mut pair = Pair::linked();
    pair.answers_at_once = false;
    pair.ask(1).unwrap();
    let deadline = pair.now + Micros::from_millis(500);
    let request = Forward { hash: hash_key(b"key"), flags: Flags::PART, deadline, bytes: b"get key\r\n" };
    assert_eq!(pair.sides[0].forward_alone(pair.now, 2, &request), Ok(Route::Sent));
    assert_eq!(pair.sides[0].forward_alone(pair.now, 3, &request), Err(Failure::NoCredit));
}

#[test]
fn keys_go_together_where_one_link_leads_to_a_node_of_this_version() {
    for (highest, may) in [(VERSIONS.highest, true), (VERSIONS.lowest, false)] {
        let mut pair = Pair::new();
        let versions = Versions { highest, ..VERSIONS };
        let identity = Identity { versions, granted: Credit::default(), ..identity("b") };
        pair.sides[1] = Peers::new(identity, 1, 2);
        assert_eq!(pair.sides[0].run_lane(hash_key(b"key")), None, "there is no ring");
        pair.adopt(0, ring(1, [0, 256]));
        assert_eq!(pair.sides[0].run_lane(hash_key(b"key")), None, "there is no link");
        pair.adopt(1, ring(1, [0, 256]));
        pair.run();
        let lane = pair.sides[0].run_lane(hash_key(b"key"));
        assert_eq!(lane.is_some(), may, "the highest version is {highest}");
        assert_eq!(lane, pair.sides[0].run_lane(hash_key(b"other")));
        assert_eq!(pair.sides[1].run_lane(hash_key(b"key")), None, "it is its own");
    }
}
