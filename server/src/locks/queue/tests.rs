//! Queues of several nodes over a store that is a map: what a step does there is its twin, and what comes of it can be lost.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slabring_protocol::LockCommand;

use super::*;

const START_UNIX_MS: u64 = 1_000_000;

/// The keys, each with the end of its lease.
#[derive(Default)]
struct Store {
    revision: u64,
    /// What the fences of new keys are counted from.
    offset: u64,
    leases: i64,
    keys: BTreeMap<(Name, Session), (Entry, Millis)>,
    /// Fences of those who were first, and who they were.
    fences: BTreeMap<u64, Session>,
    /// Those that somebody was told.
    told: BTreeSet<u64>,
    /// Who may give up now.
    leaving: BTreeSet<Session>,
}

impl Store {
    fn expire(&mut self, now: Millis) {
        let before = self.keys.len();
        self.keys.retain(|_, (_, ends_at)| *ends_at > now);
        self.revision += (before - self.keys.len()) as u64;
    }

    fn line(&self, name: &Name) -> Vec<Entry> {
        let keys = self.keys.iter().filter(|((of, _), _)| of == name);
        let mut line: Vec<_> = keys.map(|(_, (entry, _))| entry.clone()).collect();
        line.sort_by_key(|entry| entry.created);
        line
    }

    /// Whoever holds a lock was there before all who wait, and has a higher fence than whoever held it before.
    fn check_holder(&mut self, name: &Name, step: &Step) {
        let first = self.line(name).swap_remove(0);
        assert!(matches!(step, Step::Put { session, .. } if *session == first.session), "{step:?}");
        let known = self.fences.entry(first.fence()).or_insert_with(|| first.session.clone());
        assert_eq!(*known, first.session);
        let (&last, _) = self.fences.last_key_value().expect("inserted just now");
        assert_eq!(last, first.fence(), "there was a higher one");
    }

    fn take(&mut self, now: Millis, name: &Name, step: &Step) -> Found {
        let key = |session: &Session| (Rc::clone(name), session.clone());
        let succeeded = match step {
            Step::Read => true,
            Step::Put { session, condition, ends_unix_ms, lease_ms, offset, .. } => {
                let known = self.keys.get(&key(session)).map(|(entry, _)| entry);
                let (changed, known) = (known.map(|key| key.changed), known.map(|key| key.created));
                let holds = match condition {
                    Condition::Empty => self.line(name).is_empty(),
                    Condition::Created(at) => known == Some(*at),
                    Condition::Changed(at) => changed.unwrap_or(Revision(0)) == *at,
                };
                if holds {
                    self.revision += 1;
                    self.leases += 1;
                    let changed = Revision(self.revision);
                    let (session, lease) = (session.clone(), Some(LeaseId(self.leases)));
                    let created = known.unwrap_or(changed);
                    let (offset, ends_unix_ms) = (offset.unwrap_or(self.offset), *ends_unix_ms);
                    let entry = Entry { session, created, offset, changed, ends_unix_ms, lease };
                    self.keys.insert(key(&entry.session), (entry, Millis(now.0 + lease_ms)));
                }
                holds
            }
            Step::Delete { session, changed } => {
                let known = self.keys.get(&key(session)).map(|(entry, _)| entry.changed);
                let holds = known == Some(*changed);
                if holds {
                    self.revision += 1;
                    let (gone, _) = self.keys.remove(&key(session)).expect("seen just now");
                    let is_early = gone.ends_unix_ms > START_UNIX_MS + now.0;
                    let was_held = is_early && self.told.contains(&gone.fence());
                    assert!(!was_held || self.leaving.contains(session), "{gone:?} is taken from its holder");
                }
                holds
            }
        };
        let is_read = !matches!(step, Step::Delete { .. });
        let entries = if is_read { self.line(name) } else { Vec::new() };
        Found { succeeded, revision: Revision(self.revision), entries }
    }
}

/// Some nodes and what they agree in.
struct World {
    store: Store,
    nodes: Vec<Queue<u32>>,
    now: Millis,
    told: Vec<(u32, Said)>,
    is_away: bool,
}

impl World {
    fn of(nodes: usize) -> Self {
        let nodes = (0..nodes).map(|_| Queue::new(START_UNIX_MS, usize::MAX)).collect();
        Self { store: Store::default(), nodes, now: Millis(1_000), told: Vec::new(), is_away: false }
    }

    fn ask(&mut self, node: usize, who: u32, ask: Ask) {
        self.nodes[node].ask(self.now, who, ask);
    }

    /// Takes the next step of a node, and gives what came of it.
    fn step(&mut self, node: usize) -> Option<(Name, Step, Found)> {
        let (name, step) = self.nodes[node].next(self.now)?;
        let found = self.store.take(self.now, &name, &step);
        let under_way = &self.nodes[node].lines[&name].under_way;
        if found.succeeded && matches!(under_way, Some((_, Doing::Holding { .. }))) {
            self.store.check_holder(&name, &step);
        }
        Some((name, step, found))
    }

    fn tell(&mut self, node: usize, name: &Name, found: Option<Found>) {
        self.nodes[node].came(self.now, name, found);
        self.nodes[node].check();
    }

    /// Takes steps until there are none.
    fn settle(&mut self) {
        self.store.expire(self.now);
        let mut is_busy = true;
        while is_busy {
            is_busy = false;
            for node in 0..self.nodes.len() {
                if self.is_away {
                    if let Some((name, _)) = self.nodes[node].next(self.now) {
                        self.tell(node, &name, None);
                        is_busy = true;
                    }
                } else if let Some((name, step, found)) = self.step(node) {
                    self.tell(node, &name, Some(found));
                    if step != Step::Read {
                        self.nodes.iter_mut().for_each(|node| node.changed(&name));
                    }
                    is_busy = true;
                }
                let answers = self.nodes[node].take_answers();
                self.told.extend(answers);
            }
        }
    }

    /// Time passes, without pauses in which nobody looks.
    fn pass(&mut self, ms: u64) {
        let until = self.now.0 + ms;
        while self.now.0 < until {
            self.now.0 = until.min(self.now.0 + 10);
            self.settle();
        }
    }

    #[track_caller]
    fn told(&mut self) -> Vec<(u32, Said)> {
        self.settle();
        std::mem::take(&mut self.told)
    }

    /// Whoever is told that it holds the lock, or that nobody can tell, had reason to ask.
    #[track_caller]
    fn check(&mut self, seed: u64, ask: &Ask, said: &Said) {
        match said {
            Said::Held { fence, session, .. } => {
                self.store.told.insert(*fence);
                assert_eq!(self.store.fences.get(fence), Some(session), "seed {seed}");
                assert_eq!(*session, ask.session, "seed {seed}");
                assert_ne!(ask.command.verb, LockVerb::Release, "seed {seed}");
            }
            Said::Taken { .. } => assert_eq!(ask.command.verb, LockVerb::Acquire, "seed {seed}"),
            Said::Released => assert_eq!(ask.command.verb, LockVerb::Release, "seed {seed}"),
            Said::Free | Said::NotYours => assert_ne!(ask.command.verb, LockVerb::Acquire, "seed {seed}"),
            Said::NoCoordinator => {}
            Said::TooMany | Said::NoFence => panic!("seed {seed}: {said:?}"),
        }
    }

    /// Nothing is left of anything.
    #[track_caller]
    fn check_empty(&self) {
        assert_eq!(self.store.keys.len(), 0);
        for node in &self.nodes {
            node.check();
            assert!(node.lines.is_empty() && node.asked.is_empty() && node.given.is_empty());
            assert_eq!((node.bytes(), node.waiting(), node.held(), node.due.len()), (0, 0, 0, 0));
        }
    }
}

impl Queue<u32> {
    #[track_caller]
    fn check(&self) {
        let waiters: Vec<_> =
            self.waiters.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one))).collect();
        assert_eq!(self.waiting, waiters.len());
        assert!(self.waiters.values().all(|waiters| !waiters.is_empty()));
        let waits = waiters.iter().map(|(name, one)| (one.due(), Ending::Wait(Rc::clone(name))));
        let keys = self
            .given
            .iter()
            .map(|((name, session), given)| (given.due, Ending::Key(Rc::clone(name), session.clone())));
        assert_eq!(self.due, waits.chain(keys).collect::<BTreeMap<_, _>>());
        let works = self.lines.values().flat_map(|line| {
            assert!(line.under_way.is_some() || !line.behind.is_empty());
            line.under_way.iter().map(|(work, _)| work).chain(&line.behind)
        });
        let asked = works.filter_map(|work| match work {
            Work::Asked(request) => Some(request),
            Work::Look | Work::End { .. } => None,
        });
        let asked = asked.chain(waiters.iter().map(|(_, one)| &one.request));
        let asked: BTreeSet<_> = asked.map(|request| (request.who.client(), request.number)).collect();
        assert!(self.asked.keys().copied().eq(asked), "each request is somewhere, once");
        let names = self.asked.values().chain(self.given.keys().map(|(name, _)| name));
        assert_eq!(self.names_bytes, names.map(|name| name.len()).sum::<usize>());
    }
}

fn ask(verb: LockVerb, session: &str, ttl_ms: u32, wait_ms: u32) -> Ask {
    let command = LockCommand { verb, ttl_ms, wait_ms };
    Ask { command, name: b"l"[..].into(), session: session.as_bytes().into() }
}

fn acquire(session: &str, ttl_ms: u32, wait_ms: u32) -> Ask {
    ask(LockVerb::Acquire, session, ttl_ms, wait_ms)
}

fn release(session: &str) -> Ask {
    ask(LockVerb::Release, session, 1, 0)
}

fn held(fence: u64, left_ms: u64, session: &str) -> Said {
    Said::Held { fence, left_ms, session: session.as_bytes().into() }
}

fn name() -> Name {
    b"l"[..].into()
}

#[test]
fn who_waits_gets_the_lock_in_the_order_of_coming_at_whichever_node() {
    let mut world = World::of(3);
    world.ask(0, 0, acquire("zero", 60_000, 0));
    assert_eq!(world.told(), [(0, held(1, 60_000, "zero"))]);
    for who in 1..=5 {
        world.ask(who as usize % 3, who, acquire(&who.to_string(), 60_000, 60_000));
        assert_eq!(world.told(), []);
    }
    world.ask(2, 9, acquire("nobody", 1, 0));
    assert_eq!(world.told(), [(9, Said::Taken { fence: 1, left_ms: 60_000 })]);
    let mut holder = "zero".to_owned();
    for who in 1..=5 {
        world.ask(1, 8, release(&holder));
        // Who waits was created in the order of coming, behind the first.
        assert_eq!(
            world.told(),
            [(8, Said::Released), (who, held(u64::from(who) + 1, 60_000, &who.to_string()))]
        );
        holder = who.to_string();
    }
    world.ask(0, 8, release(&holder));
    assert_eq!(world.told(), [(8, Said::Released)]);
    world.pass(61_000);
    world.check_empty();
}

#[test]
fn a_lock_ends_to_the_millisecond_and_later_where_its_node_is_gone() {
    let mut world = World::of(2);
    world.ask(0, 1, acquire("one", 500, 0));
    world.ask(1, 2, acquire("two", 700, 5_000));
    assert_eq!(world.told(), [(1, held(1, 500, "one"))]);
    world.now.0 += 499;
    assert_eq!(world.told(), []);
    world.now.0 += 1;
    assert_eq!(world.told(), [(2, held(2, 700, "two"))]);
    let lost = world.nodes.remove(1);
    assert_eq!(lost.held(), 1);
    world.ask(0, 3, acquire("three", 100, 5_000));
    world.pass(1_600);
    assert_eq!(world.told(), []);
    world.now.0 += LOOK_EVERY_MS;
    assert!(matches!(&world.told()[..], [(3, Said::Held { .. })]));
    world.pass(200);
    world.check_empty();
}

#[test]
fn who_waits_and_whose_key_was_ended_lines_up_again() {
    let mut world = World::of(1);
    world.ask(0, 0, acquire("zero", 60_000, 0));
    world.ask(0, 1, acquire("one", 60_000, 50_000));
    assert_eq!(world.told().len(), 1);
    // A node that was paused does not notice that its leases have ended.
    world.store.keys.retain(|(_, session), _| **session != *b"one");
    world.pass(LOOK_EVERY_MS);
    assert_eq!(world.store.line(&name()).len(), 2);
    assert_eq!((world.nodes[0].waiting(), world.told()), (1, vec![]));
    world.ask(0, 8, release("zero"));
    let told = world.told();
    assert!(
        matches!(&told[..], [(8, Said::Released), (1, Said::Held { fence, .. })] if *fence > 2),
        "{told:?}"
    );
}

#[test]
fn what_was_lost_on_the_way_back_is_asked_again_and_takes_no_second_place() {
    for lost in 0..4 {
        for is_first in [true, false] {
            let mut world = World::of(2);
            if !is_first {
                world.ask(0, 0, acquire("zero", 60_000, 0));
                assert_eq!(world.told().len(), 1);
            }
            world.ask(1, 1, acquire("one", 60_000, 20_000));
            for _ in 0..lost {
                let Some((name, _, found)) = world.step(1) else { break };
                world.tell(1, &name, Some(found));
            }
            if let Some((name, ..)) = world.step(1) {
                world.tell(1, &name, None);
                assert_eq!(world.told(), [(1, Said::NoCoordinator)]);
                world.now.0 += AWAY_MS;
            }
            world.ask(0, 2, acquire("two", 60_000, 20_000));
            world.ask(1, 1, acquire("one", 60_000, 20_000));
            world.told();
            let line = world.store.line(&name());
            assert_eq!(line.iter().filter(|entry| *entry.session == *b"one").count(), 1, "{line:?}");
            assert_eq!(line.len(), if is_first { 2 } else { 3 });
            while let Some(holder) = world.store.line(&name()).first() {
                let session = String::from_utf8_lossy(&holder.session).into_owned();
                world.ask(0, 8, release(&session));
                world.told();
            }
            world.pass(61_000);
            world.check_empty();
        }
    }
}

#[test]
fn who_is_first_and_is_told_nothing_leaves_the_line_unless_he_asks_again() {
    for asks_again in [false, true] {
        let mut world = World::of(1);
        world.ask(0, 0, acquire("zero", 60_000, 0));
        world.ask(0, 1, acquire("one", 60_000, 20_000));
        world.told();
        world.store.keys.retain(|(_, session), _| **session != *b"zero");
        world.nodes[0].changed(b"l");
        let (name, _, found) = world.step(0).expect("it looks");
        world.tell(0, &name, Some(found));
        let (name, step, _) = world.step(0).expect("it is first");
        assert_eq!(step, Step::Read);
        world.tell(0, &name, None);
        assert_eq!(world.told(), [(1, Said::NoCoordinator)]);
        world.now.0 += AWAY_MS;
        if asks_again {
            world.ask(0, 2, acquire("one", 60_000, 0));
        }
        world.pass(AWAY_MS);
        assert_eq!(world.store.line(&name).len(), usize::from(asks_again));
        assert_eq!(world.told().len(), usize::from(asks_again));
    }
}

#[test]
fn who_holds_it_no_more_gives_up_and_renews_nothing() {
    let mut world = World::of(2);
    world.ask(0, 1, acquire("one", 100, 0));
    assert_eq!(world.told(), [(1, held(1, 100, "one"))]);
    world.pass(100);
    world.ask(1, 2, acquire("two", 60_000, 0));
    assert!(matches!(&world.told()[..], [(2, Said::Held { .. })]));
    let line = world.store.line(&name());
    world.ask(0, 1, release("one"));
    world.ask(0, 1, ask(LockVerb::Renew, "one", 60_000, 0));
    assert_eq!(world.told(), [(1, Said::NotYours), (1, Said::NotYours)]);
    assert_eq!(world.store.line(&name()), line);
    // It was renewed elsewhere between the look and the deletion.
    world.ask(0, 2, release("two"));
    let (name, step, found) = world.step(0).expect("it looks");
    assert_eq!(step, Step::Read);
    world.ask(1, 3, ask(LockVerb::Renew, "two", 50_000, 0));
    let (_, _, read) = world.step(1).expect("it looks");
    world.tell(1, &name, Some(read));
    let (_, _, put) = world.step(1).expect("it puts");
    world.tell(1, &name, Some(put));
    world.tell(0, &name, Some(found));
    let (_, _, refused) = world.step(0).expect("it deletes");
    assert!(!refused.succeeded);
    world.tell(0, &name, Some(refused));
    assert!(world.told().contains(&(2, Said::Released)), "it looks again");
    world.pass(61_000);
    world.check_empty();
}

#[test]
fn while_the_store_is_away_nothing_is_given_and_what_waits_is_served_when_it_is_back() {
    let mut world = World::of(1);
    world.ask(0, 1, acquire("one", 1_000, 0));
    world.ask(0, 2, acquire("two", 1_000, 30_000));
    assert_eq!(world.told(), [(1, held(1, 1_000, "one"))]);
    world.is_away = true;
    world.ask(0, 3, acquire("three", 1_000, 30_000));
    assert_eq!(world.told(), [(3, Said::NoCoordinator)]);
    world.ask(0, 3, acquire("three", 1_000, 30_000));
    assert_eq!(world.told(), [(3, Said::NoCoordinator)], "at once");
    world.now.0 += 3 * AWAY_MS;
    assert_eq!(world.told(), []);
    assert_eq!(world.nodes[0].waiting(), 1);
    world.is_away = false;
    world.pass(3 * AWAY_MS);
    assert!(matches!(&world.told()[..], [(2, Said::Held { fence: 2, .. })]));
    world.pass(1_000);
    world.check_empty();
}

#[test]
fn whose_connection_has_closed_gets_nothing_and_its_key_goes() {
    // How many steps are taken before it is noticed.
    for noticed_after in 0..8 {
        for is_told in [true, false] {
            let mut world = World::of(1);
            world.ask(0, 0, acquire("zero", 60_000, 0));
            assert_eq!(world.told().len(), 1);
            world.ask(0, 1, acquire("one", 60_000, 20_000));
            for step in 0..noticed_after {
                // It is first, and about to be given the lock.
                if step == 4 {
                    world.store.keys.retain(|(_, session), _| **session != *b"zero");
                    world.nodes[0].changed(b"l");
                }
                let Some((name, _, found)) = world.step(0) else { continue };
                world.tell(0, &name, Some(found));
            }
            let answers = world.nodes[0].take_answers();
            let was_given = matches!(&answers[..], [(1, Said::Held { .. })]);
            let (name, found) = match world.step(0) {
                Some((name, _, found)) => (Some(name), found),
                None => (None, Found { succeeded: true, revision: Revision(0), entries: Vec::new() }),
            };
            world.nodes[0].forget(world.now, 1);
            if let Some(name) = name {
                world.tell(0, &name, is_told.then_some(found));
            }
            world.told();
            world.pass(LOOK_EVERY_MS);
            if !was_given && is_told {
                let ours = world.store.line(&b"l"[..].into());
                assert!(ours.iter().all(|entry| *entry.session != *b"one"), "{noticed_after}: {ours:?}");
            }
            world.pass(61_000);
            world.check_empty();
        }
    }
}

#[test]
fn whoever_asks_again_elsewhere_keeps_the_place_and_the_first_request_is_answered() {
    let mut world = World::of(1);
    world.ask(0, 0, acquire("zero", 60_000, 0));
    world.ask(0, 1, acquire("one", 60_000, 20_000));
    world.ask(0, 2, acquire("two", 60_000, 20_000));
    assert_eq!(world.told().len(), 1);
    world.ask(0, 3, acquire("one", 60_000, 20_000));
    assert_eq!(world.told(), [(1, Said::Taken { fence: 1, left_ms: 60_000 })]);
    world.ask(0, 8, release("zero"));
    assert_eq!(world.told(), [(8, Said::Released), (3, held(2, 60_000, "one"))]);
}

#[test]
fn there_is_an_end_to_what_is_taken_on() {
    let mut world = World::of(1);
    world.nodes[0].bytes_max = 10 * Queue::<u32>::ENTRY_BYTES;
    for who in 0..20 {
        world.ask(0, who, acquire(&who.to_string(), 60_000, 20_000));
        assert!(world.nodes[0].bytes() <= 10 * Queue::<u32>::ENTRY_BYTES);
    }
    let refused = world.told().into_iter().filter(|(_, said)| *said == Said::TooMany).count();
    assert_eq!(refused, 11, "nine and their names are taken on");
    assert_eq!((world.nodes[0].held(), world.nodes[0].waiting()), (1, 8));
}

#[test]
fn whatever_is_lost_or_late_nobody_holds_what_another_holds_and_fences_rise() {
    let seeds = std::env::var("SLABRING_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300);
    for seed in 0..seeds {
        play(seed);
    }
}

fn play(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut world = World::of(3);
    // Steps that are taken, of which the nodes do not know yet.
    let mut on_the_way: Vec<(usize, Name, Found)> = Vec::new();
    let mut asks: BTreeMap<u32, Ask> = BTreeMap::new();
    for who in 0..300 {
        world.now.0 += random.random_range(0..100);
        world.store.expire(world.now);
        let verbs = [LockVerb::Acquire, LockVerb::Acquire, LockVerb::Release, LockVerb::Renew];
        let (verb, session) = (verbs[random.random_range(0..4)], format!("s{}", random.random_range(0..5)));
        let (ttl_ms, wait_ms) = (random.random_range(1..600), random.random_range(0..3) * 400);
        let asked = ask(verb, &session, ttl_ms, wait_ms);
        asks.insert(who, asked.clone());
        world.ask(random.random_range(0..3), who, asked);
        for _ in 0..random.random_range(0..12) {
            let releases = asks.values().filter(|ask| ask.command.verb == LockVerb::Release);
            world.store.leaving = releases.map(|ask| ask.session.clone()).collect();
            let node = random.random_range(0..3);
            if let Some((name, _, found)) = world.step(node) {
                on_the_way.push((node, name, found));
            }
            if !on_the_way.is_empty() && random.random_bool(0.7) {
                let (node, name, found) = on_the_way.swap_remove(random.random_range(0..on_the_way.len()));
                let is_lost = random.random_bool(0.05);
                world.tell(node, &name, (!is_lost).then_some(found));
                if random.random_bool(0.5) {
                    world.nodes[random.random_range(0..3)].changed(&name);
                }
            }
            if random.random_bool(0.02) {
                let gone = random.random_range(0..=who);
                world.nodes.iter_mut().for_each(|node| node.forget(world.now, gone));
            }
            let answers: Vec<_> = world.nodes.iter_mut().flat_map(Queue::take_answers).collect();
            for (who, said) in answers {
                let ask = asks.remove(&who).unwrap_or_else(|| panic!("seed {seed}: {who} is told twice"));
                world.check(seed, &ask, &said);
            }
        }
    }
    for (node, name, found) in on_the_way {
        world.tell(node, &name, Some(found));
    }
    world.store.leaving = (0..5).map(|n| format!("s{n}").into_bytes().into()).collect();
    world.pass(5_000);
    world.check_empty();
    assert_eq!(asks.len(), world.told.len(), "seed {seed}: everybody is answered");
}

#[test]
fn fences_rise_though_the_store_loses_everything_and_nothing_of_before_is_taken_away() {
    let mut world = World::of(2);
    world.ask(0, 1, acquire("one", 500, 0));
    assert_eq!(world.told(), [(1, held(1, 500, "one"))]);
    world.store.keys.clear();
    (world.store.revision, world.store.offset) = (0, 1_000);
    world.nodes[0].went_back(world.now, Revision(0));
    world.nodes[0].check();
    // Its key is put at the same revision again.
    world.ask(1, 2, acquire("one", 60_000, 0));
    assert_eq!(world.told(), [(2, held(1_001, 60_000, "one"))]);
    world.pass(2_000);
    assert_eq!(world.store.line(&name()).len(), 1, "what was given before is not ended by its old time");
}

#[test]
fn who_asks_again_has_the_same_fence_though_others_are_counted_from_elsewhere_by_now() {
    let mut world = World::of(2);
    world.ask(0, 1, acquire("one", 60_000, 0));
    world.ask(1, 2, acquire("two", 60_000, 50_000));
    assert_eq!(world.told(), [(1, held(1, 60_000, "one"))]);
    world.store.offset = 1_000;
    world.ask(1, 1, acquire("one", 60_000, 0));
    assert_eq!(world.told(), [(1, held(1, 60_000, "one"))]);
    world.ask(0, 1, release("one"));
    assert_eq!(world.told(), [(1, Said::Released), (2, held(2, 60_000, "two"))]);
    world.ask(0, 3, acquire("three", 60_000, 50_000));
    assert_eq!(world.told(), []);
    world.ask(0, 1, release("two"));
    assert!(matches!(&world.told()[..], [(1, Said::Released), (3, Said::Held { fence: 1_001.., .. })]));
}
