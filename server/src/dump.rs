//! Walks over all items of the node on behalf of one client: `lru_crawler metadump` and `mgdump`, `stats cachedump` and
//! `stats sizes`. Shard after shard, a bounded step at a time, and no further than the client has read: a client that does not
//! read holds a few steps of output and keeps nobody waiting.

use std::collections::BTreeMap;

use slabring_engine::{Expiry, Item, Scan, ScanStep, Seconds, Shard};
use slabring_protocol::reply::{self, DumpItem, Outcome};
use slabring_protocol::{Classes, ErrorReply, Request};

use crate::batch::ReturnAddress;
use crate::connection::{Connection, Stream};
use crate::datagrams::is_datagram;
use crate::dispatch::Dispatcher;
use crate::execute::length;
use crate::report::{Answer, Asked, Question, class_number};
use crate::shards::ShardId;
use crate::unkeyed::refuse;

/// A step ends behind this many buckets of the index, about ten items each, or this many bytes of output.
const STEP_BUCKETS_MAX: usize = 64;
const STEP_BYTES_MAX: usize = 16 << 10;
/// Output above which no further step is taken.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// memcached's bound on what `stats cachedump` shows.
const CACHEDUMP_BYTES_MAX: usize = 2 << 20;
/// Sizes are counted in steps of so many bytes, as memcached does.
const SIZE_STEP_BYTES: u32 = 32;

/// What becomes of the items on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shows {
    /// A line with everything about each.
    Metadump,
    /// A command that gets each.
    Mgdump,
    /// A line with the little that memcached's oldest dump shows.
    Cachedump,
    /// Nothing: they are counted by size.
    Sizes,
}

/// How far a walk has come, and what it looks for. Travels to the shard that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    shows: Shows,
    classes: Classes,
    items_left: u32,
    bytes_left: usize,
    scan: Scan,
}

/// What a step brought, beside text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walked {
    walk: Walk,
    /// This shard has no more to show.
    done: bool,
    sizes: Sizes,
}

/// How many items there are of each size.
type Sizes = BTreeMap<u32, u64>;

/// One client's walk.
#[derive(Debug)]
pub struct Dump {
    asked: Asked,
    walk: Walk,
    shard: ShardId,
    /// A step is under way in that shard.
    waiting: bool,
    sizes: Sizes,
}

impl Walk {
    /// A walk that has not begun. `items_max` of 0 is all.
    pub fn new(shows: Shows, classes: Classes, items_max: u32) -> Self {
        let items_left = if items_max == 0 { u32::MAX } else { items_max };
        let bytes_left = if shows == Shows::Cachedump { CACHEDUMP_BYTES_MAX } else { usize::MAX };
        Self { shows, classes, items_left, bytes_left, scan: Scan::new() }
    }

    /// Takes the next step in `shard` and appends what it shows.
    pub fn step(mut self, shard: &Shard, now: Seconds, out: &mut Vec<u8>) -> Walked {
        let mut sizes = Sizes::new();
        let start = out.len();
        let mut scan = self.scan;
        let mut done = false;
        for _ in 0..STEP_BUCKETS_MAX {
            done |=
                shard.scan(now, &mut scan, 1, |item| self.pass(item, now, out, &mut sizes)) == ScanStep::Done;
            if done || self.is_satisfied() || out.len() - start > STEP_BYTES_MAX {
                break;
            }
        }
        self.scan = scan;
        Walked { walk: self, done, sizes }
    }

    fn is_satisfied(&self) -> bool {
        self.items_left == 0 || self.bytes_left == 0
    }

    fn pass(&mut self, item: &Item<'_>, now: Seconds, out: &mut Vec<u8>, sizes: &mut Sizes) {
        if self.is_satisfied() || !contains(self.classes, class_number(item.class())) {
            return;
        }
        let start = out.len();
        match self.shows {
            Shows::Metadump => reply::metadump_item(out, &dump_item(item, now)),
            Shows::Mgdump => reply::mgdump_item(out, item.key(), item.is_binary_key()),
            Shows::Cachedump => {
                reply::cachedump_item(out, item.key(), length(item.value_len()), expires(item));
            }
            Shows::Sizes => {
                let size = length(item.footprint_bytes()).next_multiple_of(SIZE_STEP_BYTES);
                *sizes.entry(size).or_default() += 1;
            }
        }
        self.items_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(out.len() - start);
    }
}

impl Dispatcher {
    /// Begins a walk for `client`, whose further requests wait for its end.
    pub fn begin_dump(&mut self, client: &mut Connection, request: &Request<'_>, walk: Walk) {
        if is_datagram(client.id) {
            // It would be an amplifier, and nobody says that the client still reads.
            return refuse(client, request, ErrorReply::CrawlerFailed);
        }
        if matches!(walk.shows, Shows::Metadump | Shows::Mgdump) {
            client.outbox.local(|out| reply::outcome(out, request, Outcome::Done));
        }
        let (asked, sizes) = (Asked::of(request), Sizes::new());
        let dump = Dump { asked, walk, shard: ShardId(0), waiting: false, sizes };
        client.stream = Some(Stream::Dump(Box::new(dump)));
        self.has_more = true;
    }

    /// Takes the next step of a walk if it is time to. Gives the walk back unless that was the last.
    pub fn go_on_dumping(&mut self, client: &mut Connection, mut dump: Box<Dump>) -> Option<Box<Dump>> {
        let has_room = client.outbox.bytes() < OUTPUT_BYTES_MAX
            && (!self.budget.outputs_are_full() || client.has_read_all());
        if dump.waiting || !has_room {
            return Some(dump);
        }
        if dump.shard == self.shards.me {
            let mut walked = None;
            let shard = self.executor.shard();
            client.outbox.local(|out| walked = Some(dump.walk.step(shard, self.now, out)));
            self.has_more = true;
            return self.stepped(client, dump, &walked.expect("written just now"));
        }
        if self.post.has_room() {
            let sender = ReturnAddress { connection: client.id, ticket: client.outbox.expect() };
            self.post.ask(dump.shard, sender, Question::Walk(dump.walk));
            dump.waiting = true;
        }
        Some(dump)
    }

    /// Takes note of a step that another shard has taken.
    pub fn walked(&mut self, client: &mut Connection, walked: &Walked) {
        match client.stream.take() {
            Some(Stream::Dump(mut dump)) if dump.waiting => {
                dump.waiting = false;
                client.stream = self.stepped(client, dump, walked).map(Stream::Dump);
            }
            stream => unreachable!("{stream:?} waits for no step"),
        }
    }

    fn stepped(&self, client: &mut Connection, mut dump: Box<Dump>, walked: &Walked) -> Option<Box<Dump>> {
        dump.walk = walked.walk;
        for (size, items) in &walked.sizes {
            *dump.sizes.entry(*size).or_default() += items;
        }
        if walked.done {
            dump.walk.scan = Scan::new();
            dump.shard = ShardId(dump.shard.0 + 1);
        }
        if dump.shard.0 < self.shards.count && !dump.walk.is_satisfied() {
            return Some(dump);
        }
        client.outbox.local(|out| end(out, &dump));
        None
    }
}

/// Whether a walk may begin behind what the client is still owed, as memcached has it.
pub fn refusal(client: &Connection, shows: Shows) -> Option<ErrorReply> {
    match shows {
        _ if client.outbox.is_empty() => None,
        Shows::Metadump => Some(ErrorReply::MetadumpPipelined),
        Shows::Mgdump => Some(ErrorReply::MgdumpPipelined),
        Shows::Cachedump | Shows::Sizes => None,
    }
}

fn end(out: &mut Vec<u8>, dump: &Dump) {
    match dump.walk.shows {
        Shows::Metadump => reply::metadump_end(out),
        Shows::Mgdump => reply::mgdump_end(out),
        Shows::Cachedump => reply::end(out),
        Shows::Sizes => {
            let mut text = Vec::new();
            for (size, items) in &dump.sizes {
                reply::stat(&mut text, format_args!("{size}"), *items);
            }
            reply::end(&mut text);
            reply::stats(out, &dump.asked.request(), &text);
        }
    }
}

fn contains(classes: Classes, number: u32) -> bool {
    match classes {
        Classes::All | Classes::Hash => true,
        Classes::Some(bits) => 1u128.checked_shl(number).is_some_and(|bit| bits & bit != 0),
    }
}

fn expires(item: &Item<'_>) -> Option<u64> {
    match item.expiry() {
        Expiry::Never => None,
        Expiry::At(at) => Some(u64::from(at.0)),
    }
}

fn dump_item<'a>(item: &Item<'a>, now: Seconds) -> DumpItem<'a> {
    DumpItem {
        key: item.key(),
        expires: expires(item),
        accessed: u64::from(now.0.saturating_sub(item.idle_seconds())),
        cas: item.cas(),
        fetched: item.fetched(),
        class: class_number(item.class()),
        size: length(item.footprint_bytes()),
        client_flags: item.client_flags(),
    }
}

impl Answer {
    /// What a step brought.
    pub fn of_step(walked: Walked) -> Self {
        Self::Walked(Box::new(walked))
    }
}

#[cfg(test)]
mod tests {
    use slabring_engine::{Config, Store};

    use super::*;

    const NOW: Seconds = Seconds(1_700_000_000);

    fn shard(items: usize) -> Shard {
        let mut shard = Shard::new(&Config::with_memory(16 << 20)).unwrap();
        for item in 0..items {
            let value = vec![b'v'; item % 300];
            shard.store(NOW, &Store::set(format!("key {item}").as_bytes(), &value, Expiry::Never));
        }
        shard
    }

    /// All of it, and the number of steps.
    fn walk(mut walk: Walk, shard: &Shard) -> (Vec<u8>, Sizes, usize) {
        let (mut out, mut sizes, mut steps) = (Vec::new(), Sizes::new(), 0);
        loop {
            let before = out.len();
            let walked = walk.step(shard, NOW, &mut out);
            steps += 1;
            assert!(out.len() - before < STEP_BYTES_MAX + 16 * 1024, "a step is bounded");
            walked.sizes.iter().for_each(|(size, items)| *sizes.entry(*size).or_default() += items);
            walk = walked.walk;
            if walked.done || walk.is_satisfied() {
                return (out, sizes, steps);
            }
        }
    }

    #[test]
    fn every_item_is_shown_once_in_bounded_steps() {
        let shard = shard(20_000);
        let (out, _, steps) = walk(Walk::new(Shows::Mgdump, Classes::All, 0), &shard);
        let mut lines: Vec<_> = out.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 20_000);
        assert!(steps > 10, "{steps}");
    }

    #[test]
    fn a_limit_on_items_ends_the_walk() {
        let (out, ..) = walk(Walk::new(Shows::Cachedump, Classes::All, 7), &shard(1000));
        assert_eq!(out.split(|&byte| byte == b'\n').count(), 7 + 1);
    }

    #[test]
    fn sizes_count_all_items_and_classes_are_disjoint() {
        let shard = shard(1000);
        let count = |classes| {
            let (_, sizes, _) = walk(Walk::new(Shows::Sizes, classes, 0), &shard);
            assert!(sizes.keys().all(|size| size % SIZE_STEP_BYTES == 0));
            sizes.values().sum::<u64>()
        };
        assert_eq!(count(Classes::All), 1000);
        let by_class: u64 = (1..128).map(|class| count(Classes::Some(1 << class))).sum();
        assert_eq!(by_class, 1000);
        assert_eq!(count(Classes::Some(0)), 0);
    }
}
