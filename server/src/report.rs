//! What a shard tells about itself, and questions that go to all shards of a node. No rendering.

use slabring_cluster::ring::Epoch;
use slabring_engine::{Automove, CLASSES_MAX, ClassId, ClassStats, Counters, MemoryUse, MovePage, Seconds};
use slabring_protocol::{Command, Dialect, ErrorReply, Request};
use slabring_reactor::{ConnectionId, IoCounters};

use crate::dump::{Walk, Walked};
use crate::hotkeys::HotList;
use crate::prefixes::Prefixes;
use crate::turns::Turns;
use crate::watch::WatcherId;

/// Declares a struct of `u64` counters that can be summed field by field.
macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct $name { $($(#[$field_doc])* pub $field: u64),* }

        impl $name {
            /// Adds each field of `other`.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counters! {
    /// Commands as their owner shard executed them, under memcached's names.
    CommandCounters {
        cmd_get, cmd_set, cmd_touch, cmd_meta,
        get_hits, get_misses, touch_hits, touch_misses,
        delete_hits, delete_misses, incr_hits, incr_misses, decr_hits, decr_misses,
        cas_hits, cas_misses, cas_badval, store_too_large, store_no_memory,
    }
}

counters! {
    /// Commands by the size class of their item, under memcached's names.
    ClassCounters {
        get_hits, cmd_set, delete_hits, incr_hits, decr_hits, cas_hits, cas_badval, touch_hits,
    }
}

/// One for each class that there can be.
pub type ByClass = [ClassCounters; CLASSES_MAX];

counters! {
    /// What came and went over a shard's connections.
    Traffic {
        bytes_read, bytes_written, connections_total, connections_rejected, cmd_flush, idle_kicks, slow_kicks,
        /// Accepted by a shard that had more than its part of them, and served by another.
        connections_handed_over,
        auth_cmds, auth_errors, datagrams_dropped,
        /// Lines for watchers: written, fetched by one, and found no room.
        log_written, log_sent, log_skipped,
        /// Requests looked at for hot keys.
        hot_samples,
        /// Keys of which clients have copies, now; reads marked for them, keys told, of these not changed, and flushes.
        tracked_keys, tracked_reads, track_told, track_forced, track_flushes,
        /// Sweeps that clients asked for, items that all sweeps looked at, and dead ones that they freed.
        crawls, swept, sweep_reclaimed,
        tls_sessions, tls_handshake_errors, tls_record_errors,
        /// Times a connection had to wait for its own replies or for room in a mailbox.
        stalls,
        /// Requests that went to another shard.
        requests_posted,
        /// Letters in which they went.
        letters_posted,
        /// Requests sent to other nodes, those of them that failed, and those of other nodes.
        forwarded, forwards_failed, peer_requests,
        /// Those that failed for want of credit, and those that wait for an answer, now.
        forwards_refused, forwards_pending,
        /// Links with other nodes, now; those that were lost, and those that were refused.
        peer_links, peer_links_lost, peer_links_refused,
        /// Partitions that this shard is primary of, holds a copy of, and is being filled with, now.
        copies_primary, copies_backup, copies_learner,
        /// Writes that the copies do not have yet, and requests and replies that wait, now.
        copies_writes_open, copies_waiting,
        /// What is on its way to the copies, now, and streams whose other ends do not hold everything.
        copies_lag_entries, copies_lag_bytes, copies_out_of_sync,
        /// Writes that the copies did not confirm in time, and requests that were refused for the copies' sake.
        copies_unconfirmed, copies_refused,
        /// Copies that other nodes had compared with what this one has as primary, those that it did not have any more, and those that
        /// differed; and whether this shard is having all of its own compared.
        scrub_compared, scrub_gone, scrub_differed, scrub_open,
        /// Messages to copies about reads, and items here that others' messages told of.
        touches_sent, touches_taken,
        /// Reads of other nodes' keys that were answered from copies, copies granted to others, held here now, and called back, and
        /// writes that had to wait for that.
        front_hits, grants_given, grants_held, revocations, revocation_waits,
        /// Bytes of connection buffers and letters, now.
        buffer_bytes,
    }
}

impl Traffic {
    /// Begins to count anew. What says how much there is now stays: who counts it tells only what changes.
    pub fn reset(&mut self) {
        let Self { buffer_bytes, peer_links, forwards_pending, .. } = *self;
        *self = Self { buffer_bytes, peer_links, forwards_pending, ..Self::default() };
    }
}

/// One shard's numbers, or the sum of several.
#[derive(Clone, Default, Debug)]
pub struct ShardReport {
    /// Commands by kind and outcome.
    pub commands: CommandCounters,
    /// Connections and their bytes.
    pub traffic: Traffic,
    /// Items, evictions, expiries.
    pub engine: Counters,
    /// Where the memory is.
    pub memory: Option<MemoryUse>,
    /// Slab classes, by class.
    pub classes: Vec<ClassStats>,
    /// Commands, by class.
    pub by_class: Vec<ClassCounters>,
    /// System calls and completions.
    pub io: IoCounters,
    /// How long its turns take.
    pub turns: Turns,
}

impl ShardReport {
    /// Adds another shard's numbers.
    pub fn add(&mut self, other: &Self) {
        self.commands.add(&other.commands);
        self.traffic.add(&other.traffic);
        add_engine(&mut self.engine, &other.engine);
        add_io(&mut self.io, &other.io);
        self.turns.add(&other.turns);
        self.memory = match (self.memory, other.memory) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.by_class.resize(self.by_class.len().max(other.by_class.len()), ClassCounters::default());
        for (sum, part) in self.by_class.iter_mut().zip(&other.by_class) {
            sum.add(part);
        }
        for class in &other.classes {
            match self.classes.iter_mut().find(|known| known.class == class.class) {
                Some(known) => add_class(known, class),
                None => self.classes.push(*class),
            }
        }
    }
}

/// Adds the named fields of one struct to another's.
macro_rules! add_fields {
    ($to:ident, $from:ident, $($field:ident),+) => { $($to.$field += $from.$field;)+ };
}

fn add_engine(to: &mut Counters, from: &Counters) {
    add_fields!(
        to,
        from,
        items,
        bytes,
        total_items,
        evictions,
        evicted_unfetched,
        reclaimed,
        expired_unfetched
    );
    add_fields!(to, from, get_expired, get_flushed, page_moves, rescues, chunk_rescues, admission_refusals);
}

fn add_io(to: &mut IoCounters, from: &IoCounters) {
    add_fields!(
        to,
        from,
        turns,
        completions,
        sends,
        out_of_buffers,
        rearmed,
        overflows,
        accept_failures,
        wakes
    );
}

fn add_class(to: &mut ClassStats, from: &ClassStats) {
    add_fields!(to, from, pages, used, free, items, bytes, window_items, evicted, evicted_unfetched);
}

/// A class's number as clients know it: memcached counts them from 1.
pub fn class_number(class: ClassId) -> u32 {
    u32::from(class.0) + 1
}

/// What every shard can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// Forget all items.
    Flush {
        /// At that second, or now.
        due: Option<Seconds>,
        /// Of the ring by which it was asked for.
        epoch: Epoch,
    },
    /// Tell your numbers.
    Report,
    /// Set your counters to zero.
    ResetCounters,
    /// Move pages by yourself as this says.
    Automove(Automove),
    /// Move a page from a class, or any, to another.
    MovePage {
        /// Who loses it.
        from: Option<ClassId>,
        /// Who gets it.
        to: ClassId,
    },
    /// Use so much memory and no more.
    LimitMemory(usize),
    /// Free all that is dead, now.
    Sweep,
    /// Begin or end to count by prefix.
    CountPrefixes(bool),
    /// Tell the counts by prefix.
    Prefixes,
    /// Tell your connections.
    Connections,
    /// Take a step of a walk over all items.
    Walk(Walk),
    /// Give this watcher its lines.
    Log(WatcherId),
    /// Compare your copies with what their primaries have, from the first to the last.
    Scrub,
    /// Tell the keys that you are asked for most.
    HotKeys,
    /// Give the tracker of this number its keys.
    Changes(u64),
    /// Give the next slice of what you lent.
    Slice {
        /// Your number for it.
        number: u32,
        /// Bytes, or fewer if it has no more.
        bytes: usize,
    },
    /// What you lent under this number is not wanted any more.
    TakeBack(u32),
    /// This connection will not go on: with the value that it was sending, or with what it was deferred for.
    Forget(ConnectionId),
}

/// What one shard answers, beside text.
#[derive(Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// Its numbers.
    Numbers(Box<ShardReport>),
    /// Its counts by prefix.
    Prefixes(Prefixes),
    /// Whether a page moves.
    Moved(MovePage),
    /// How far a walk has come.
    Walked(Box<Walked>),
    /// A watcher's lines are the text.
    Log,
    /// Its hot keys.
    HotKeys(HotList),
    /// Keys for a tracker are the text.
    Changes {
        /// Nobody else can have changed others unheard.
        are_all: bool,
    },
    /// A slice of a value is the text.
    Slice,
    /// A part was not done.
    Refused(ErrorReply),
}

/// A request without a key, to be answered later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    command: Command,
    noreply: bool,
    dialect: Dialect,
}

/// An answer to which all shards contribute.
#[derive(Debug)]
pub struct Gathering {
    /// What the client asked.
    pub asked: Asked,
    /// The sum so far.
    pub answer: Answer,
    /// Texts so far, one shard's after the other's.
    pub text: Vec<u8>,
}

impl Answer {
    /// Adds another shard's answer to the same question.
    pub fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Numbers(sum), Self::Numbers(part)) => sum.add(part),
            (Self::Prefixes(sum), Self::Prefixes(part)) => sum.add(part),
            (Self::HotKeys(sum), Self::HotKeys(part)) => sum.add(part),
            (Self::Moved(best), Self::Moved(other)) if rank(*other) < rank(*best) => *best = *other,
            (Self::Done, Self::Refused(error)) => *self = Self::Refused(*error),
            (Self::Moved(_), Self::Moved(_))
            | (Self::Done | Self::Refused(_), Self::Done | Self::Refused(_)) => {}
            (answer, other) => unreachable!("{other:?} answers another question than {answer:?}"),
        }
    }
}

/// Which of several shards' answers a client is told: one that moves a page is enough.
fn rank(moved: MovePage) -> u8 {
    match moved {
        MovePage::Begun => 0,
        MovePage::Busy => 1,
        MovePage::NoSpare => 2,
        MovePage::SameClass => 3,
        MovePage::UnknownClass => 4,
    }
}

impl Asked {
    /// What to keep of `request`.
    pub fn of(request: &Request<'_>) -> Self {
        let Request { command, noreply, dialect, .. } = *request;
        Self { command, noreply, dialect }
    }

    /// The request.
    pub fn request(self) -> Request<'static> {
        let Self { command, noreply, dialect } = self;
        Request { command, key: &[], value: &[], flags: &[], noreply, dialect }
    }
}

impl Gathering {
    /// Adds another shard's part.
    pub fn add(&mut self, answer: &Answer, text: &[u8]) {
        self.answer.add(answer);
        self.text.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_add_up_field_by_field_and_class_by_class() {
        let mut sum = ShardReport::default();
        let mut one = ShardReport::default();
        one.commands.cmd_get = 2;
        one.traffic.bytes_read = 3;
        one.engine.items = 5;
        one.io.turns = 7;
        sum.add(&one);
        sum.add(&one);
        let got = (sum.commands.cmd_get, sum.traffic.bytes_read, sum.engine.items, sum.io.turns);
        assert_eq!(got, (4, 6, 10, 14));
    }
}
