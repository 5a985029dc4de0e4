use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::command::CasToken;
use crate::options::Wire;

const SILENCE: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);

fn server() -> Endpoint {
    Endpoint::tcp("server", 1)
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes(), Wire::Text).unwrap()
}

fn item(value: &str) -> Item {
    Item { value: value.as_bytes().to_vec(), flags: 0, cas: CasToken(1) }
}

fn tracking(now: Instant) -> Near {
    let mut near = Near::new(NearOptions::default());
    assert!(near.heard(&server(), Line::Tracking { id: 7, epoch: 100 }, now, now));
    near
}

/// Asks for a key and keeps the answer.
#[track_caller]
fn fetch(near: &mut Near, name: &str, ttl: Option<Duration>, now: Instant) {
    let Look::Ask { id: 7, token } = near.look(&key(name), &server(), now) else { panic!("a copy") };
    near.fill(&key(name), token, &item(name), ttl, now);
}

fn is_hit(near: &mut Near, name: &str, now: Instant) -> bool {
    matches!(near.look(&key(name), &server(), now), Look::Hit(_))
}

fn changed(number: u64, name: &str) -> Line {
    Line::Changed { epoch: 100, number, key: name.into() }
}

#[test]
fn lines_are_read_as_servers_write_them() {
    let parse = |line: &str| Line::parse(line.as_bytes());
    assert_eq!(parse("TRACKING 7 12"), Some(Line::Tracking { id: 7, epoch: 12 }));
    assert_eq!(parse("IF 13"), Some(Line::AllChanged { epoch: 13 }));
    assert_eq!(parse("PING 13 0 999"), Some(Line::Ping { epoch: 13, number: 0, milliseconds: 999 }));
    assert_eq!(parse("IV 12 3 k"), Some(Line::Changed { epoch: 12, number: 3, key: b"k".to_vec() }));
    assert_eq!(parse("IV 12 3 YSBi b"), Some(Line::Changed { epoch: 12, number: 3, key: b"a b".to_vec() }));
    for line in ["", "IV", "IV 1 2", "IV x 2 k", "PING 1 2", "ERROR", "IV 1 2 !! b"] {
        assert_eq!(parse(line), None, "{line}");
    }
}

#[test]
fn a_copy_answers_until_its_key_changes() {
    let now = Instant::now();
    let mut near = tracking(now);
    fetch(&mut near, "a", None, now);
    fetch(&mut near, "b", None, now);
    assert!(is_hit(&mut near, "a", now) && is_hit(&mut near, "b", now));
    assert!(near.heard(&server(), changed(1, "a"), now, now));
    assert!(!is_hit(&mut near, "a", now) && is_hit(&mut near, "b", now));
    assert_eq!((near.counts.hits, near.counts.changes), (3, 1));
}

#[test]
fn a_copy_may_be_good_for_ever_as_long_as_its_server_is_heard() {
    let now = Instant::now();
    let mut near = Near::new(NearOptions {
        ttl_max: Duration::MAX,
        silence_max: Duration::MAX,
        ..NearOptions::default()
    });
    assert!(near.heard(&server(), Line::Tracking { id: 7, epoch: 100 }, now, now));
    fetch(&mut near, "a", None, now);
    assert!(near.heard(&server(), Line::Ping { epoch: 100, number: 0, milliseconds: u64::MAX }, now, now));
    assert!(is_hit(&mut near, "a", now + 100_000 * SECOND));
}

#[test]
fn what_changed_between_asking_and_answer_is_not_kept() {
    let now = Instant::now();
    let mut near = tracking(now);
    let Look::Ask { token, .. } = near.look(&key("a"), &server(), now) else { panic!("a copy") };
    near.heard(&server(), changed(1, "a"), now, now);
    near.fill(&key("a"), token, &item("old"), None, now);
    assert!(!is_hit(&mut near, "a", now));
    let Look::Ask { token, .. } = near.look(&key("b"), &server(), now) else { panic!("a copy") };
    near.forget(&key("b"));
    near.fill(&key("b"), token, &item("old"), None, now);
    assert!(!is_hit(&mut near, "b", now));
}

#[test]
fn no_copy_is_used_beyond_its_time_or_that_of_all_copies() {
    let now = Instant::now();
    let mut near = tracking(now);
    fetch(&mut near, "short", Some(2 * SECOND), now);
    fetch(&mut near, "long", Some(1_000 * SECOND), now);
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    let ping = |near: &mut Near, seconds: u64| {
        let line = Line::Ping { epoch: 100, number: 0, milliseconds: seconds * 1_000 };
        near.heard(&server(), line, now, at(seconds))
    };
    assert!((1..=59).all(|second| ping(&mut near, second)));
    assert!(!is_hit(&mut near, "short", at(2)) && is_hit(&mut near, "long", at(59)));
    assert!(ping(&mut near, 60) && !is_hit(&mut near, "long", at(60)));
}

#[test]
fn a_server_that_is_not_heard_or_lost_has_no_copies() {
    let now = Instant::now();
    let mut near = tracking(now);
    fetch(&mut near, "a", None, now);
    assert!(is_hit(&mut near, "a", now + SILENCE));
    assert_eq!(near.look(&key("a"), &server(), now + SILENCE + SECOND), Look::Bypass);
    near.lost(&server());
    assert_eq!(near.look(&key("a"), &server(), now), Look::Bypass);
    near.heard(&server(), Line::Tracking { id: 8, epoch: 200 }, now, now);
    assert!(matches!(near.look(&key("a"), &server(), now), Look::Ask { id: 8, .. }));
}

#[test]
fn a_gap_is_noticed_whichever_line_shows_it() {
    let now = Instant::now();
    for line in [
        changed(2, "a"),
        Line::Changed { epoch: 101, number: 1, key: b"a".to_vec() },
        Line::AllChanged { epoch: 102 },
        Line::Ping { epoch: 100, number: 1, milliseconds: 1 },
        Line::Ping { epoch: 101, number: 0, milliseconds: 1 },
    ] {
        assert!(!tracking(now).heard(&server(), line.clone(), now, now), "{line:?}");
    }
    assert!(!Near::new(NearOptions::default()).heard(&server(), changed(1, "a"), now, now));
    let mut near = tracking(now);
    fetch(&mut near, "a", None, now);
    assert!(near.heard(&server(), Line::AllChanged { epoch: 101 }, now, now));
    assert!(!is_hit(&mut near, "a", now));
    assert!(near.heard(&server(), Line::Changed { epoch: 101, number: 1, key: b"a".to_vec() }, now, now));
}

#[test]
fn the_oldest_copy_goes_and_nothing_grows() {
    let now = Instant::now();
    let mut near = tracking(now);
    near.options.items_max = 10;
    for n in 0..1_000 {
        fetch(&mut near, &format!("k{n}"), None, now);
        assert!(near.copies.len() <= 10 && near.order.len() <= 33);
    }
    assert!(is_hit(&mut near, "k999", now) && is_hit(&mut near, "k990", now));
    assert!(!is_hit(&mut near, "k989", now));
    near.options.value_size_max = 3;
    fetch(&mut near, "large", None, now);
    assert!(!is_hit(&mut near, "large", now));
}

/// A read under way: key, token, the mark, and the version that the server answered with whether it knew the mark.
type Read = (u8, u64, u64, Option<(u64, bool)>);

/// A server as it should be, with a link that delivers late, and sometimes not at all.
struct Model {
    random: StdRng,
    now: Instant,
    /// The version of each key, and when each was overwritten.
    versions: BTreeMap<u8, u64>,
    overwritten: BTreeMap<(u8, u64), Instant>,
    tracked: BTreeSet<u8>,
    id: u64,
    epoch: u64,
    number: u64,
    began_at: Instant,
    pinged_at: Instant,
    asked_at: Instant,
    /// What is under way, in order.
    stream: VecDeque<Line>,
    is_cut: bool,
}

impl Model {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let (versions, overwritten, tracked, stream) = Default::default();
        let random = StdRng::seed_from_u64(seed);
        let (began_at, pinged_at, asked_at) = (now, now, now);
        let (id, epoch, number, is_cut) = (0, 0, 0, false);
        Self {
            random,
            now,
            versions,
            overwritten,
            tracked,
            id,
            epoch,
            number,
            began_at,
            pinged_at,
            asked_at,
            stream,
            is_cut,
        }
    }

    fn track(&mut self) {
        self.id += 1;
        (self.epoch, self.number, self.is_cut) = (self.epoch + 1000, 0, false);
        (self.began_at, self.pinged_at, self.asked_at) = (self.now, self.now, self.now);
        self.tracked.clear();
        self.stream = VecDeque::from([Line::Tracking { id: self.id, epoch: self.epoch }]);
    }

    fn say(&mut self, line: Line) {
        if !self.is_cut {
            self.stream.push_back(line);
        }
    }

    fn write(&mut self, key: u8) {
        let version = self.versions.entry(key).or_default();
        self.overwritten.insert((key, *version), self.now);
        *version += 1;
        if self.tracked.remove(&key) {
            self.number += 1;
            self.say(Line::Changed { epoch: self.epoch, number: self.number, key: vec![b'a' + key] });
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.now >= self.pinged_at + SECOND {
            self.pinged_at = self.now;
            let since = self.now - self.began_at;
            let milliseconds = u64::try_from(since.as_millis()).unwrap();
            self.say(Line::Ping { epoch: self.epoch, number: self.number, milliseconds });
        }
    }
}

/// Random reads with a server between asking and answer, random writes, a link that delivers when it likes and is cut now and then: a
/// copy is never used that was overwritten longer ago than a server may be silent.
#[test]
fn no_copy_is_older_than_a_server_may_be_silent() {
    let mut hits = 0;
    for seed in 0..300 {
        let mut model = Model::new(seed);
        let mut near = Near::new(NearOptions::default());
        model.track();
        let mut reads: Vec<Read> = Vec::new();
        for _ in 0..2_000 {
            match model.random.random_range(0..100) {
                0..30 => {
                    let key_number = model.random.random_range(0..6);
                    let name = key(&char::from(b'a' + key_number).to_string());
                    match near.look(&name, &server(), model.now) {
                        Look::Hit(item) => {
                            hits += 1;
                            let version = item.value.len() as u64;
                            let since = model.overwritten.get(&(key_number, version));
                            let age = since.map_or(Duration::ZERO, |at| model.now - *at);
                            // A PING says its time in whole milliseconds.
                            assert!(age <= SILENCE + Duration::from_millis(1), "seed {seed}: {age:?} old");
                        }
                        Look::Ask { id, token } => reads.push((key_number, token, id, None)),
                        Look::Bypass => {}
                    }
                }
                30..50 => {
                    if let Some(read) = reads.iter_mut().find(|read| read.3.is_none()) {
                        let is_tracked = read.2 == model.id;
                        read.3 = Some((*model.versions.entry(read.0).or_default(), is_tracked));
                        if is_tracked {
                            model.tracked.insert(read.0);
                        }
                    }
                }
                50..65 => {
                    if let Some(at) = reads.iter().position(|read| read.3.is_some()) {
                        let (key_number, token, _, answer) = reads.swap_remove(at);
                        let (version, is_tracked) = answer.unwrap();
                        let name = key(&char::from(b'a' + key_number).to_string());
                        let value = "x".repeat(usize::try_from(version).unwrap());
                        if is_tracked {
                            near.fill(&name, token, &item(&value), None, model.now);
                        } else {
                            near.give_up(&name, token);
                        }
                    }
                }
                65..75 => {
                    let key_number = model.random.random_range(0..6);
                    model.write(key_number);
                }
                75..95 => {
                    let milliseconds = model.random.random_range(1..150);
                    model.pass(Duration::from_millis(milliseconds));
                    if model.random.random_bool(0.7)
                        && let Some(line) = model.stream.pop_front()
                        && !near.heard(&server(), line, model.asked_at, model.now)
                    {
                        near.lost(&server());
                        model.track();
                    }
                }
                95..99 => {
                    while let Some(line) = model.stream.pop_front() {
                        if !near.heard(&server(), line, model.asked_at, model.now) {
                            near.lost(&server());
                            model.track();
                            break;
                        }
                    }
                }
                _ => match model.random.random_range(0..6) {
                    // The link dies and nobody notices, or somebody does and asks anew.
                    0 => model.is_cut = true,
                    1 => {
                        near.lost(&server());
                        model.track();
                    }
                    _ => {}
                },
            }
        }
    }
    assert!(hits > 10_000, "{hits}");
}
