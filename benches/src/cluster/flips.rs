//! How long keys are not served while they change hands: writers without a pause, and the longest wait of any of them for a key of
//! each batch.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use slabring_cluster::names::NodeId;
use slabring_cluster::placement::{PARTITION_COUNT, PartitionId, hash_key, partition_of};
use slabring_cluster::report::Wish;
use slabring_cluster::ring::{NodeState, Ring, RingDocument};
use slabring_cluster::table::Weight;

use super::Args;
use super::nodes::{Copies, LOOK_EVERY, Nodes, PATIENCE, name, state};
use crate::median::median;
use crate::memory::wire::Wire;

/// Members; one more joins.
const NODES: usize = 3;
const JOINER: usize = NODES + 1;
/// Who leaves.
const LEAVER: usize = 2;
/// Each waits for its answer before it asks for another key.
const WRITERS: usize = 8;
/// So many that each partition has some.
const KEYS: usize = 4 * PARTITION_COUNT;
/// Between two attempts at a key that was refused.
const AGAIN_AFTER: Duration = Duration::from_millis(1);
/// Before and after a change.
const CALM: Duration = Duration::from_secs(1);

/// One change of the ring, and what writers noticed.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Change {
    pub(crate) what: &'static str,
    pub(crate) copies: u8,
    /// From the wish to the ring that fulfils it.
    pub(crate) seconds: f64,
    /// For each document in which partitions changed owners: the longest wait for a key of one of them, in milliseconds.
    pub(crate) batches_ms: Vec<f64>,
    pub(crate) partitions: usize,
    pub(crate) written: u64,
    pub(crate) refused: u64,
}

impl Change {
    pub(crate) fn median_ms(&self) -> Option<f64> {
        median(self.batches_ms.clone())
    }

    pub(crate) fn longest_ms(&self) -> f64 {
        self.batches_ms.iter().copied().fold(0.0, f64::max)
    }
}

/// What a writer saw.
struct Seen {
    /// By partition, the longest from the first attempt at a key until it was stored.
    waits: Vec<Duration>,
    written: u64,
    refused: u64,
}

/// A node joins and another leaves, with one copy and with two.
pub(crate) fn measure(args: &Args) -> anyhow::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for copies in [1, 2] {
        let more = (copies > 1).then_some(Copies { count: copies, mode: "inval" });
        let nodes = Nodes::in_etcd(args, NODES, more)?;
        let joined = |ring: &RingDocument| state(ring, &name(JOINER)) == Some(NodeState::Up);
        let left = |ring: &RingDocument| matches!(state(ring, &name(LEAVER)), None | Some(NodeState::Left));
        let full = Wish::Weight(Weight::FULL.parts());
        changes.push(change(&nodes, copies, "a fourth joins", JOINER, full, joined)?);
        changes.push(change(&nodes, copies, "another is drained", LEAVER, Wish::Drain, left)?);
    }
    Ok(changes)
}

fn change(
    nodes: &Nodes,
    copies: u8,
    what: &'static str,
    number: usize,
    wish: Wish,
    is_done: impl Fn(&RingDocument) -> bool,
) -> anyhow::Result<Change> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ports = nodes.ports();
        let writer = |number: usize| {
            let (port, is_over) = (ports[number % NODES], &is_over);
            scope.spawn(move || write(port, number, is_over))
        };
        let writers: Vec<_> = (0..WRITERS).map(writer).collect();
        let followed = follow(nodes, number, wish, is_done);
        is_over.store(true, Relaxed);
        let seen = writers.into_iter().map(|writer| writer.join().expect("writers do not panic"));
        let seen: Vec<Seen> = seen.collect::<anyhow::Result<_>>()?;
        let (seconds, batches) = followed?;
        let longest = |batch: &Vec<PartitionId>| {
            let waits = seen.iter().flat_map(|seen| batch.iter().map(|at| seen.waits[at.index()]));
            waits.max().unwrap_or_default().as_secs_f64() * 1e3
        };
        let change = Change {
            what,
            copies,
            seconds,
            batches_ms: batches.iter().map(longest).collect(),
            partitions: batches.iter().map(Vec::len).sum(),
            written: seen.iter().map(|seen| seen.written).sum(),
            refused: seen.iter().map(|seen| seen.refused).sum(),
        };
        eprintln!(
            "{what}, copies: {copies}, {seconds:.1} s, waits by batch in ms: {:.0?}",
            change.batches_ms
        );
        Ok(change)
    })
}

/// Wishes it and follows the ring until it is so: how long that took, and the partitions of each batch.
fn follow(
    nodes: &Nodes,
    number: usize,
    wish: Wish,
    is_done: impl Fn(&RingDocument) -> bool,
) -> anyhow::Result<(f64, Vec<Vec<PartitionId>>)> {
    let read = || nodes.keys().read()?.ring.context("a cluster that serves has a ring");
    let mut ring = Ring::new(read()?)?;
    thread::sleep(CALM);
    let began = Instant::now();
    nodes.wish(number, wish)?;
    let mut batches = Vec::new();
    while !is_done(ring.document()) || ring.progress().is_some() {
        ensure!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for a change of the ring");
        thread::sleep(LOOK_EVERY);
        let document = read()?;
        if document.epoch == ring.epoch() {
            continue;
        }
        let next = Ring::new(document)?;
        let has_moved = |partition: &PartitionId| holders(&next, *partition).ne(holders(&ring, *partition));
        let moved: Vec<_> = PartitionId::all().filter(has_moved).collect();
        batches.extend((!moved.is_empty()).then_some(moved));
        ring = next;
    }
    let took = began.elapsed();
    thread::sleep(CALM);
    Ok((took.as_secs_f64(), batches))
}

fn holders(ring: &Ring, partition: PartitionId) -> impl Iterator<Item = &NodeId> {
    ring.owners(partition).iter().map(|&slot| &ring.slot(slot).node)
}

/// Writes keys in no order until it is over.
fn write(port: u16, number: usize, is_over: &AtomicBool) -> anyhow::Result<Seen> {
    let mut wire = Wire::connect(port)?;
    let mut dice = SmallRng::seed_from_u64(number as u64);
    let mut seen = Seen { waits: vec![Duration::ZERO; PARTITION_COUNT], written: 0, refused: 0 };
    while !is_over.load(Relaxed) {
        let key = format!("key{}x{number}", dice.random_range(0..KEYS));
        let line = format!("set {key} 0 0 5\r\nvalue");
        let began = Instant::now();
        loop {
            let answer = wire.command(&line)?;
            if answer == "STORED" {
                break;
            }
            if !answer.starts_with("SERVER_ERROR") || began.elapsed() > PATIENCE {
                bail!("after {:?}, {answer}", began.elapsed());
            }
            seen.refused += 1;
            thread::sleep(AGAIN_AFTER);
        }
        seen.written += 1;
        let longest = &mut seen.waits[partition_of(hash_key(key.as_bytes())).index()];
        *longest = began.elapsed().max(*longest);
    }
    Ok(seen)
}
