//! Comparing copies: keys that this node doubts, and little by little all of them, are shown to their primary, who says in its stream
//! what they are. A copy that the primary does not have is dropped.

use super::*;
use crate::placement::{hash_key, shard_of};
use crate::replica::message::{Check, Entry};

/// Doubts that time will not settle are shown this often until they are answered.
const CHECK_DOUBTS_EVERY: Micros = Micros::from_millis(300);

/// Keys of one message.
const CHECK_KEYS_MAX: usize = 128;

type Asked = BTreeMap<PeerShard, Vec<(Bytes, Version)>>;

impl<T: Copy> Replicator<T> {
    /// Lets the next step of [`Self::scrub`] be the first of a walk.
    pub fn scrub_anew(&mut self) {
        self.scrubbed = Cursor::default();
    }

    /// Compares a few copies more, a step of the store's walk, with what their primaries have. What differs without a reason that
    /// this module knows is mended; called some times a second it costs nothing that shows. Whether there is more of this walk.
    pub fn scrub(&mut self, now: Micros, store: &impl Store) -> bool {
        let mut cursor = self.scrubbed;
        let mut asked = Asked::new();
        let wants = |hash| self.primary_elsewhere(hash).is_some() && self.has_part_in(partition_of(hash));
        let has_more = store.scan(now, &mut cursor, &wants, &mut |record| {
            if let Some(to) = self.primary_elsewhere(record.hash) {
                asked.entry(to).or_default().push((record.key, record.version));
            }
        });
        self.scrubbed = if has_more { cursor } else { Cursor::default() };
        self.ask(now, asked, false);
        has_more
    }

    /// Asks about keys whose state came from somebody who cannot say any more that all have it.
    pub(super) fn check_doubts(&mut self, now: Micros) {
        if self.doubts.is_empty() || now < self.check_at {
            return;
        }
        self.check_at = now + CHECK_DOUBTS_EVERY;
        let mut asked = Asked::new();
        for (&hash, doubt) in &self.doubts {
            let to = self.primary_elsewhere(hash).filter(|to| !self.may_resolve(to.slot, doubt));
            if let Some(to) = to {
                asked.entry(to).or_default().push((doubt.key.clone(), Version(0)));
            }
        }
        self.ask(now, asked, true);
    }

    /// Asks for items that were to be extended and were not there. Nobody waits for them.
    pub(super) fn ask_for_lacking(&mut self, now: Micros) {
        let mut asked = Asked::new();
        for (hash, key) in std::mem::take(&mut self.lacking) {
            if let Some(to) = self.primary_elsewhere(hash) {
                asked.entry(to).or_default().push((key, Version(0)));
            }
        }
        self.ask(now, asked, true);
    }

    /// Whether the primary is the one whose word is in doubt, and still speaks in the same stream.
    fn may_resolve(&self, primary: SlotId, doubt: &Doubt) -> bool {
        let stream = self.sources.get(&doubt.of).map(|source| source.stream);
        doubt.of.slot == primary && stream == Some(doubt.stream)
    }

    /// The shard that is primary of a key, if it is not this one and this node follows a ring as a member.
    fn primary_elsewhere(&self, hash: u64) -> Option<PeerShard> {
        let (ring, me) = (self.ring.as_ref()?, self.me?);
        let slot = ring.primary(partition_of(hash));
        (slot != me).then(|| PeerShard { slot, shard: shard_of(hash, ring.slot(slot).shards) })
    }

    fn ask(&mut self, now: Micros, asked: Asked, wants_all: bool) {
        for (to, keys) in asked {
            for keys in keys.chunks(CHECK_KEYS_MAX) {
                self.send(now, to, &Message::Check(Check { wants_all, keys: keys.to_vec() }));
            }
        }
    }

    /// A backup asks. What is not this node's to say now is asked again.
    pub(super) fn checked(&mut self, now: Micros, store: &impl Store, sender: &Sender, check: Check) {
        let epoch = self.epoch();
        if sender.epoch != epoch {
            return;
        }
        let queue_bytes_max = self.queue_bytes_max();
        for (key, version) in check.keys {
            let hash = hash_key(&key);
            // What is being written is on its way there already.
            if self.may_serve_soon(hash).is_err() || self.pending.contains_key(&hash) {
                continue;
            }
            let Some(stream) = self.streams.get_mut(&sender.peer) else { return };
            let mine = store.version(now, hash, &key);
            let is_equal = mine == Some(version);
            // Of who is being filled nobody says what is on its way.
            let holds_all = stream.is_ready(partition_of(hash)) && !stream.is_behind();
            if !check.wants_all && holds_all {
                let is_on_its_way = || self.open.values().any(|open| open.record.key == key);
                self.compared.compared += 1;
                self.compared.gone += u64::from(mine.is_none());
                self.compared.differed += u64::from(mine.is_some() && !is_equal && !is_on_its_way());
            }
            if (is_equal && !check.wants_all)
                || !stream.gets(partition_of(hash))
                || !stream.portion.contains(hash)
            {
                continue;
            }
            let known = store.read(now, hash, &key);
            let record = known.unwrap_or(Record { key, hash, version, content: None });
            if stream.has_room(record_bytes(&record), queue_bytes_max) {
                stream.push(epoch, Entry::Bulk(record));
            }
        }
    }
}
