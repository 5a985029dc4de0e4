//! Nodes with copies, a real etcd and a network that fails in every way, while clients write, read, swap, delete and count. What they saw
//! is held against what `docs/replication.md` promises in their mode. `docs/testing.md` says how to run more of it.

use std::thread;
use std::time::{Duration, Instant};

use slabring_cluster::ring::{NodeState, RingDocument};
use slabring_tests::clients::{Client, Crew, Habits};
use slabring_tests::network::{ETCD, Weather};
use slabring_tests::{Signal, wait_until};

use judge::{Course, Findings, Mode};
use stage::{NODES_MAX, Stage};

#[path = "faults/judge.rs"]
mod judge;
#[path = "faults/stage.rs"]
mod stage;

/// Members at the beginning.
const NODES: u8 = 3;
/// Before and after what goes wrong.
const CALM: Duration = Duration::from_millis(700);
/// Who is cut off for so long has lost its lease in etcd, if it was cut off from there.
const ISOLATION: Duration = Duration::from_secs(7);
/// Longer than a heartbeat, shorter than the silence that others complain of.
const SHORT: Duration = Duration::from_millis(700);
const LONG: Duration = Duration::from_secs(4);

/// What goes wrong, with a member that the seed names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Nothing.
    None,
    /// Its process is killed, and comes back when the others have noticed.
    Kill,
    /// Its process is killed and started at once.
    Restart,
    /// It stands still.
    Stop(Duration),
    /// It reaches etcd, and no other node reaches it.
    NoPeers,
    /// It reaches the others, and not etcd.
    NoEtcd,
    /// It reaches nobody.
    Alone,
    /// What one other node sends to it is lost, in one direction.
    OneWay(Weather, Duration),
    /// All that it sends and is sent arrives so.
    Bad(Weather, Duration),
    /// etcd is away for all.
    EtcdAway,
    /// A fourth node joins.
    Join,
    /// A fourth node joins, and the member is killed before the first keys have moved.
    JoinKillBefore,
    /// The same after the first keys have moved.
    JoinKillAfter,
    /// A fourth node joins and is killed when keys have moved.
    JoinLost,
    /// It is drained.
    Drain,
    /// A fourth node joins while memory is short everywhere.
    JoinFull,
    /// It is killed while values have 1 MiB.
    KillLarge,
    /// It is killed while half of the load is on one key.
    KillHot,
}

use Trouble::*;

const TROUBLES: [(&str, Trouble); 24] = [
    ("none", None),
    ("kill", Kill),
    ("restart", Restart),
    ("stop-0.5s", Stop(Duration::from_millis(500))),
    ("stop-2s", Stop(Duration::from_secs(2))),
    ("stop-10s", Stop(Duration::from_secs(10))),
    ("no-peers", NoPeers),
    ("no-etcd", NoEtcd),
    ("alone", Alone),
    ("one-way-lost", OneWay(Weather::Lose, LONG)),
    ("one-way-stalled", OneWay(Weather::Stall, SHORT)),
    ("cut-link", OneWay(Weather::Cut, LONG)),
    ("delay", Bad(Weather::Delay(Duration::from_millis(20)), LONG)),
    ("throttle", Bad(Weather::Throttle(100_000), LONG)),
    ("breaks", Bad(Weather::Break(50), LONG)),
    ("etcd-away", EtcdAway),
    ("join", Join),
    ("join-kill-before", JoinKillBefore),
    ("join-kill-after", JoinKillAfter),
    ("join-lost", JoinLost),
    ("drain", Drain),
    ("join-full", JoinFull),
    ("kill-large", KillLarge),
    ("kill-hot", KillHot),
];

impl Trouble {
    /// Whether who is replaced may live on and not know.
    fn splits(self) -> bool {
        !matches!(
            self,
            None | Kill
                | Restart
                | Join
                | JoinKillBefore
                | JoinKillAfter
                | JoinLost
                | Drain
                | JoinFull
                | KillLarge
                | KillHot
        )
    }

    /// Arguments of the nodes.
    fn args(self) -> &'static [&'static str] {
        match self {
            JoinFull => &["-m", "16"],
            KillLarge => &["-I", "2m"],
            _ => &[],
        }
    }

    fn habits(self) -> Habits {
        let usual = Habits::default();
        match self {
            KillLarge => {
                Habits { clients: 3, kept: 8, deleted: 4, counted: 4, value_bytes: 1 << 20, ..usual }
            }
            JoinFull => Habits { kept: 6_000, deleted: 500, value_bytes: 4_096, ..usual },
            KillHot => Habits { hot_percent: 50, ..usual },
            _ => usual,
        }
    }

    /// Members in the end.
    fn members(self) -> usize {
        match self {
            Join | JoinKillBefore | JoinKillAfter | JoinLost | JoinFull => 4,
            Drain => 2,
            _ => 3,
        }
    }
}

/// Who else there is.
fn others(victim: u8) -> impl Iterator<Item = u8> {
    (1..=NODES_MAX).filter(move |&number| number != victim)
}

/// Does it, and undoes what can be undone.
fn trouble(stage: &mut Stage, trouble: Trouble, victim: u8) {
    let witness = victim % NODES + 1;
    match trouble {
        None => thread::sleep(CALM),
        Kill | KillLarge | KillHot => {
            stage.kill(victim);
            wait_until("a ring without it", || stage.is_out(witness, victim));
            thread::sleep(CALM);
            stage.add(victim);
        }
        Restart => {
            stage.kill(victim);
            stage.add(victim);
        }
        Stop(time) => {
            stage.signal(victim, Signal::Stop);
            thread::sleep(time);
            stage.signal(victim, Signal::Continue);
        }
        NoPeers => isolate(stage, victim, others(victim).collect()),
        NoEtcd => isolate(stage, victim, vec![ETCD]),
        Alone => isolate(stage, victim, others(victim).chain([ETCD]).collect()),
        OneWay(weather, time) => {
            stage.network.set(victim, witness, weather);
            thread::sleep(time);
            stage.network.clear();
        }
        Bad(weather, time) => {
            others(victim).for_each(|other| stage.network.set_both(victim, other, weather));
            thread::sleep(time);
            stage.network.clear();
        }
        EtcdAway => {
            stage.etcd.kill();
            thread::sleep(ISOLATION);
            stage.etcd.restart();
        }
        Join | JoinFull => stage.add(NODES_MAX),
        JoinKillBefore => {
            stage.add(NODES_MAX);
            wait_until("a movement", || moved(stage, witness).is_some());
            stage.kill(victim);
            stage.add(victim);
        }
        JoinKillAfter => {
            stage.add(NODES_MAX);
            wait_until("a hand-over", || moved(stage, witness).is_some_and(|moved| moved > 0));
            stage.kill(victim);
            stage.add(victim);
        }
        JoinLost => {
            stage.add(NODES_MAX);
            wait_until("a hand-over", || moved(stage, witness).is_some_and(|moved| moved > 0));
            stage.kill(NODES_MAX);
            stage.add(NODES_MAX);
        }
        Drain => stage.wish(victim, "\"drain\""),
    }
}

fn isolate(stage: &Stage, victim: u8, from: Vec<u8>) {
    from.into_iter().for_each(|other| stage.network.set_both(victim, other, Weather::Cut));
    thread::sleep(ISOLATION);
    stage.network.clear();
}

/// Partitions that a movement has flipped already, if there is one; all of them after the end.
fn moved(stage: &Stage, witness: u8) -> Option<usize> {
    let ring = stage.ring(witness)?;
    let movement = ring.replication.as_ref()?.movement.as_ref();
    let has_joined = ring.slots.len() > usize::from(NODES);
    movement.map_or_else(|| has_joined.then_some(usize::MAX), |movement| Some(movement.flipped.len()))
}

/// Whether a member of `before` was taken out since or began another life, but for one that was to go.
fn is_disturbed(before: &RingDocument, after: &RingDocument, drained: Option<u8>) -> bool {
    let since = |ring: &RingDocument, slot: usize| ring.replication.as_ref().map(|known| known.since[slot]);
    let drained = drained.map(|number| format!("n{number}"));
    let is_same = |slot: usize| {
        let (old, new) = (&before.slots[slot], &after.slots[slot]);
        let is_here = old.incarnation == new.incarnation && since(before, slot) == since(after, slot);
        is_here || (Some(old.node.to_string()) == drained && new.state == NodeState::Left)
    };
    !(0..before.slots.len()).all(is_same)
}

/// One run. `None`: there is no etcd.
fn play(what: Trouble, mode: Mode, replicas: u8, seed: u64) -> Option<Findings> {
    let (habits, copies) = (what.habits(), replicas.to_string());
    let threads = (1 + seed / 3 % 2).to_string();
    let args = ["--replicas", &copies, "--replication", mode.name(), "-t", &threads];
    let mut stage = Stage::start(NODES, &[&args, what.args()].concat(), seed)?;
    let nodes: Vec<_> = (1..=NODES).map(|number| stage.address(number)).collect();
    let clock = Instant::now();
    let mut keeper = Client::new(&nodes, &habits, clock, seed, habits.clients + 1);
    for key in 0..habits.keys() {
        wait_until("a write", || keeper.prepare(key));
    }
    stage.wait_for_copies();

    let victim = u8::try_from(seed % u64::from(NODES)).expect("it is small") + 1;
    let before = stage.told_ring(victim);
    let crew = Crew::begin(&nodes, &habits, clock, seed);
    let begun_at = crew.now();
    thread::sleep(CALM);
    trouble(&mut stage, what, victim);
    stage.wait_until_whole(what.members());
    let whole_at = crew.now();
    thread::sleep(CALM);
    let mut events = crew.end();
    for key in 0..habits.keys() {
        wait_until("an answer", || keeper.look(key));
    }
    events.append(&mut keeper.events);
    let after = stage.told_ring(victim);
    let was_disturbed = is_disturbed(&before, &after, (what == Drain).then_some(victim));
    let (was_split, may_evict) = (what.splits(), what == JoinFull);
    let course = Course { mode, was_disturbed, was_split, may_evict, begun_at, whole_at };
    Some(judge::judge(&events, &habits, course))
}

/// One run and its line; what was wrong with it.
fn run(name: &str, what: Trouble, mode: Mode, replicas: u8, seed: u64) -> Vec<String> {
    let began = Instant::now();
    let title = format!("{name}/{}/{replicas} seed {seed}", mode.name());
    println!("{title} begins");
    let findings = match std::panic::catch_unwind(|| play(what, mode, replicas, seed)) {
        Ok(Some(findings)) => findings,
        Ok(Option::None) => return Vec::new(),
        Err(_) => return vec![format!("{title}: see above")],
    };
    let Findings { violations, operations, errors, stale, lost, unavailable } = findings;
    let failed: usize = errors.values().sum();
    println!(
        "{title}: {operations} operations, {failed} errors, {stale} stale, {lost} lost, {} ms without an answer, {} wrong, {:.0?}",
        unavailable.as_millis(),
        violations.len(),
        began.elapsed()
    );
    for (error, count) in errors {
        println!("    {count} x {error}");
    }
    for violation in &violations {
        println!("    WRONG {violation}");
    }
    violations.into_iter().map(|violation| format!("{title}: {violation}")).collect()
}

/// `SLABRING_TEST_SEED`, or 1.
fn first_seed() -> u64 {
    std::env::var("SLABRING_TEST_SEED").map_or(1, |seed| seed.parse().expect("a seed is a number"))
}

/// What `SLABRING_FAULTS` names: `all`, or runs whose `NAME/MODE/COPIES` contain it.
#[test]
fn whatever_goes_wrong_each_mode_keeps_its_promise() {
    let Ok(wanted) = std::env::var("SLABRING_FAULTS") else { return };
    let mut wrong = Vec::new();
    let mut seed = first_seed();
    for (name, what) in TROUBLES {
        for mode in Mode::ALL {
            for replicas in [2, 3] {
                let title = format!("{name}/{}/{replicas}", mode.name());
                if wanted == "all" || title.contains(&wanted) {
                    wrong.extend(run(name, what, mode, replicas, seed));
                    seed += 1;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[track_caller]
fn check(name: &str, mode: Mode, replicas: u8) {
    if std::env::var_os("SLABRING_FAULTS").is_some() {
        return;
    }
    let (_, what) = *TROUBLES.iter().find(|(known, _)| *known == name).expect("it is one of them");
    let wrong = run(name, what, mode, replicas, first_seed());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_acknowledged_is_lost_or_old_in_sync_while_a_node_is_killed_and_returns() {
    check("kill", Mode::Sync, 2);
}

#[test]
fn nothing_invalidated_returns_while_a_node_is_killed_and_started_at_once() {
    check("restart", Mode::Inval, 3);
}

#[test]
fn nothing_is_old_in_sync_while_a_node_stands_still_and_goes_on() {
    check("stop-2s", Mode::Sync, 3);
}

#[test]
fn nothing_is_old_in_sync_while_a_node_reaches_etcd_and_no_other_node() {
    check("no-peers", Mode::Sync, 2);
}

#[test]
fn nothing_is_old_or_lost_while_a_node_joins() {
    check("join", Mode::Async, 2);
}
