use std::collections::BTreeMap;

use super::*;

/// A table with its fences and the time.
struct Fixture {
    table: Table<u32>,
    now: Millis,
    last_fence: u64,
}

fn ask(verb: LockVerb, name: &str, session: &str, ttl_ms: u32, wait_ms: u32) -> Ask {
    let command = LockCommand { verb, ttl_ms, wait_ms };
    Ask { command, name: name.as_bytes().into(), session: session.as_bytes().into() }
}

impl Fixture {
    fn new() -> Self {
        Self { table: Table::new(usize::MAX), now: Millis(1_000), last_fence: 0 }
    }

    fn ask(&mut self, who: u32, ask: Ask) -> Vec<(u32, Said)> {
        let mut answers = Vec::new();
        let last = &mut self.last_fence;
        let mut fence = || {
            *last += 1;
            Some(*last)
        };
        self.table.ask(self.now, who, ask, &mut fence, &mut answers);
        self.table.check();
        answers
    }

    fn pass(&mut self, ms: u64) -> Vec<(u32, Said)> {
        self.now.0 += ms;
        let mut answers = Vec::new();
        let last = &mut self.last_fence;
        let mut fence = || {
            *last += 1;
            Some(*last)
        };
        self.table.expire(self.now, &mut fence, &mut answers);
        self.table.check();
        answers
    }

    fn acquire(&mut self, who: u32, session: &str, ttl_ms: u32, wait_ms: u32) -> Vec<(u32, Said)> {
        self.ask(who, ask(LockVerb::Acquire, "l", session, ttl_ms, wait_ms))
    }

    fn release(&mut self, who: u32, session: &str) -> Vec<(u32, Said)> {
        self.ask(who, ask(LockVerb::Release, "l", session, 1, 0))
    }
}

impl Asker for u32 {
    type Client = Self;

    fn client(self) -> Self {
        self
    }
}

impl Table<u32> {
    fn check(&self) {
        let waiters = self
            .locks
            .iter()
            .flat_map(|(name, lock)| lock.waiters.iter().map(move |waiter| (waiter.key(), Rc::clone(name))));
        assert_eq!(self.waiting, waiters.collect::<BTreeMap<_, _>>());
        let due = self.locks.iter().map(|(name, lock)| {
            assert_eq!(lock.due.0, next_of(lock));
            (lock.due, Rc::clone(name))
        });
        assert_eq!(self.due, due.collect::<BTreeMap<_, _>>());
        assert_eq!(self.names_bytes, self.locks.keys().map(|name| name.len()).sum::<usize>());
    }
}

fn held(fence: u64, left_ms: u64, session: &str) -> Said {
    Said::Held { fence, left_ms, session: session.as_bytes().into() }
}

#[test]
fn one_holds_it_and_the_next_one_has_a_higher_fence() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.acquire(1, "a", 500, 0), [(1, held(1, 500, "a"))]);
    assert_eq!(fixture.acquire(2, "b", 500, 0), [(2, Said::Taken { fence: 1, left_ms: 500 })]);
    assert_eq!(fixture.release(2, "b"), [(2, Said::NotYours)]);
    let query = ask(LockVerb::Query, "l", "", 1, 0);
    assert_eq!(fixture.ask(3, query.clone()), [(3, held(1, 500, "a"))]);
    assert_eq!(fixture.release(1, "a"), [(1, Said::Released)]);
    assert_eq!(fixture.ask(3, query), [(3, Said::Free)]);
    assert_eq!(fixture.release(1, "a"), [(1, Said::Free)]);
    assert_eq!(fixture.acquire(2, "b", 500, 0), [(2, held(2, 500, "b"))]);
    assert_eq!(fixture.table.held(), 1);
}

#[test]
fn asked_again_it_is_the_same_lock_with_the_same_fence() {
    let mut fixture = Fixture::new();
    fixture.acquire(1, "a", 500, 0);
    fixture.pass(100);
    assert_eq!(fixture.acquire(9, "a", 500, 0), [(9, held(1, 500, "a"))]);
    let renew = |session| ask(LockVerb::Renew, "l", session, 900, 0);
    assert_eq!(fixture.ask(9, renew("a")), [(9, held(1, 900, "a"))]);
    assert_eq!(fixture.ask(9, renew("b")), [(9, Said::NotYours)]);
    fixture.pass(901);
    assert_eq!(fixture.ask(9, renew("a")), [(9, Said::Free)]);
}

#[test]
fn who_waits_gets_it_in_the_order_of_coming_or_gives_up() {
    let mut fixture = Fixture::new();
    fixture.acquire(1, "a", 500, 0);
    assert_eq!(fixture.acquire(2, "b", 300, 10_000), []);
    assert_eq!(fixture.acquire(3, "c", 300, 200), []);
    assert_eq!(fixture.acquire(4, "d", 300, 10_000), []);
    assert_eq!(fixture.pass(200), [(3, Said::Taken { fence: 1, left_ms: 300 })]);
    assert_eq!(fixture.release(1, "a"), [(1, Said::Released), (2, held(2, 300, "b"))]);
    // The lock of the second ends by itself.
    assert_eq!(fixture.pass(300), [(4, held(3, 300, "d"))]);
    assert_eq!(fixture.pass(300), []);
    assert_eq!((fixture.table.held(), fixture.table.wake_at()), (0, None));
}

#[test]
fn who_asks_again_while_it_waits_keeps_its_place() {
    let mut fixture = Fixture::new();
    fixture.acquire(1, "a", 500, 0);
    fixture.acquire(2, "b", 300, 10_000);
    fixture.acquire(3, "c", 300, 10_000);
    assert_eq!(fixture.acquire(4, "b", 300, 10_000), [(2, Said::Taken { fence: 1, left_ms: 500 })]);
    assert_eq!(fixture.release(1, "a"), [(1, Said::Released), (4, held(2, 300, "b"))]);
}

#[test]
fn a_lock_is_never_given_to_who_is_gone_nor_at_the_end() {
    let mut fixture = Fixture::new();
    fixture.acquire(1, "a", 500, 0);
    fixture.acquire(2, "b", 300, 10_000);
    fixture.acquire(3, "c", 300, 10_000);
    fixture.acquire(4, "d", 300, 10_000);
    let mut told = Vec::new();
    fixture.table.forget(fixture.now, 2, &mut told);
    fixture.table.check();
    assert_eq!(told, [(2, Said::Taken { fence: 1, left_ms: 500 })]);
    assert_eq!(fixture.release(1, "a"), [(1, Said::Released), (3, held(2, 300, "c"))]);
    let mut answers = Vec::new();
    fixture.table.end(fixture.now, &mut answers);
    assert_eq!(answers, [(4, Said::Taken { fence: 2, left_ms: 300 })]);
}

#[test]
fn without_a_fence_nobody_gets_it() {
    let mut table = Table::new(usize::MAX);
    let mut answers = Vec::new();
    let acquire = ask(LockVerb::Acquire, "l", "a", 500, 0);
    table.ask(Millis(1), 1, acquire, &mut || None, &mut answers);
    assert_eq!((answers, table.held()), (vec![(1, Said::NoFence)], 0));
}

#[test]
fn locks_are_bounded_and_so_is_who_waits() {
    let mut table: Table<u32> = Table::new(usize::MAX);
    let (mut fence, mut answers) = (0, Vec::new());
    let mut next = || {
        fence += 1;
        Some(fence)
    };
    for n in 0..=LOCKS_MAX {
        let acquire = ask(LockVerb::Acquire, &n.to_string(), "a", 500, 0);
        table.ask(Millis(1), 1, acquire, &mut next, &mut answers);
    }
    assert_eq!((answers.last(), table.held()), (Some(&(1, Said::TooMany)), LOCKS_MAX));
    answers.clear();
    for n in 0..=WAITERS_MAX {
        let wait = ask(LockVerb::Acquire, "7", &n.to_string(), 500, 1_000);
        table.ask(Millis(1), 2, wait, &mut next, &mut answers);
    }
    assert_eq!(answers, [(2, Said::TooMany)]);
}

#[test]
fn locks_and_who_waits_take_no_more_memory_than_they_may() {
    let room = 2 * (Table::<u32>::LOCK_BYTES + 1) + Table::<u32>::WAITER_BYTES;
    let mut table: Table<u32> = Table::new(room);
    let (mut fence, mut answers) = (0, Vec::new());
    let mut next = || {
        fence += 1;
        Some(fence)
    };
    let mut acquire = |name, session, wait_ms| {
        let acquire = ask(LockVerb::Acquire, name, session, 500, wait_ms);
        table.ask(Millis(1), 1, acquire, &mut next, &mut answers);
        assert!(table.bytes() <= room);
        answers.pop().map(|(_, said)| said)
    };
    assert_eq!(acquire("1", "a", 0), Some(held(1, 500, "a")));
    assert_eq!(acquire("2", "a", 0), Some(held(2, 500, "a")));
    assert_eq!(acquire("1", "b", 1_000), None);
    assert_eq!(acquire("1", "c", 1_000), Some(Said::TooMany));
    assert_eq!(acquire("3", "a", 0), Some(Said::TooMany));
    assert_eq!(acquire("2", "a", 0), Some(held(2, 500, "a")));
    table.expire(Millis(100_000), &mut || None, &mut answers);
    assert_eq!(table.bytes(), 0);
}

/// Random sessions over random names: at any time one holds a lock at most, fences rise, and every request is answered once.
#[test]
fn whatever_is_asked_one_holds_a_lock_and_everybody_is_answered_once() {
    for seed in 0..200_u64 {
        let mut state = seed * 2 + 1;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut fixture = Fixture::new();
        let mut open = std::collections::BTreeSet::new();
        // The holder of each name by what was answered, until when.
        let mut twin: BTreeMap<String, (String, u64, u64)> = BTreeMap::new();
        let mut asked: BTreeMap<u32, (String, String, u32)> = BTreeMap::new();
        let mut fence_max = 0;
        for who in 0..400 {
            let time = random(60);
            let mut answers = fixture.pass(time);
            let (name, session) = (format!("n{}", random(3)), format!("s{}", random(4)));
            let verb = [LockVerb::Acquire, LockVerb::Acquire, LockVerb::Renew, LockVerb::Release]
                [usize::try_from(random(4)).unwrap()];
            let ttl_ms = u32::try_from(random(200) + 1).unwrap();
            let wait_ms = u32::try_from(random(2) * random(300)).unwrap();
            open.insert(who);
            asked.insert(who, (name.clone(), session.clone(), ttl_ms));
            answers.extend(fixture.ask(who, ask(verb, &name, &session, ttl_ms, wait_ms)));
            for (to, said) in answers {
                assert!(open.remove(&to), "seed {seed}: {to} is answered twice");
                let (name, session, ttl_ms) = &asked[&to];
                match said {
                    Said::Held { fence, left_ms, session: holder } => {
                        assert_eq!(
                            (&*holder, left_ms),
                            (session.as_bytes(), u64::from(*ttl_ms)),
                            "seed {seed}"
                        );
                        if let Some((other, other_fence, until)) = twin.get(name)
                            && *until > fixture.now.0
                        {
                            assert_eq!(
                                (other, *other_fence),
                                (session, fence),
                                "seed {seed}: two hold {name}"
                            );
                        } else {
                            assert!(fence > fence_max, "seed {seed}");
                            fence_max = fence;
                        }
                        twin.insert(name.clone(), (session.clone(), fence, fixture.now.0 + left_ms));
                    }
                    Said::Released => {
                        assert!(twin.remove(name).is_some_and(|(holder, ..)| holder == *session));
                    }
                    Said::Taken { .. } | Said::NotYours | Said::Free => {}
                    Said::TooMany | Said::NoFence | Said::NoCoordinator => panic!("seed {seed}: {said:?}"),
                }
            }
        }
        for (to, _) in fixture.pass(100_000) {
            assert!(open.remove(&to), "seed {seed}: {to} is answered twice");
        }
        assert!(open.is_empty(), "seed {seed}: {open:?} wait for ever");
    }
}
