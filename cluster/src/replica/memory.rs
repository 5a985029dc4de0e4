//! A store that is obvious: a map. For the simulator.

use std::collections::BTreeMap;

use super::store::{Bytes, Cursor, Delta, Portion, Record, Store};
use crate::placement::PartitionId;
use crate::replica::{Fences, Version};
use crate::time::Micros;

const SCAN_STEP: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    items: BTreeMap<(u64, Bytes), Record>,
    fences: BTreeMap<u64, u64>,
}

impl MemoryStore {
    pub(crate) fn evict(&mut self, hash: u64, key: &[u8]) {
        self.items.remove(&(hash, Bytes::from(key)));
    }

    /// As on a client's `flush_all`.
    pub(crate) fn flush_all(&mut self) {
        self.items.clear();
    }
}

fn is_live(now: Micros, record: &Record) -> bool {
    record.content.as_ref().is_some_and(|content| content.dies_at.is_none_or(|at| at > now))
}

impl Store for MemoryStore {
    fn version(&self, now: Micros, hash: u64, key: &[u8]) -> Option<Version> {
        self.read(now, hash, key).map(|record| record.version)
    }

    fn read(&self, now: Micros, hash: u64, key: &[u8]) -> Option<Record> {
        self.items.get(&(hash, Bytes::from(key))).filter(|record| is_live(now, record)).cloned()
    }

    fn apply(&mut self, _: Micros, record: &Record) {
        let place = (record.hash, record.key.clone());
        match record.content {
            Some(_) => self.items.insert(place, record.clone()),
            None => self.items.remove(&place),
        };
    }

    fn extend(&mut self, now: Micros, delta: &Delta) -> bool {
        let found = self.read(now, delta.hash, &delta.key);
        let record = delta.whole(found.filter(|found| found.version == delta.base));
        self.apply(now, &record);
        record.content.is_some()
    }

    fn flush(&mut self, partition: PartitionId, portion: Portion) {
        self.items.retain(|_, record| record.partition() != partition || !portion.contains(record.hash));
    }

    fn scan(
        &self,
        now: Micros,
        cursor: &mut Cursor,
        wants: &dyn Fn(u64) -> bool,
        show: &mut dyn FnMut(Record),
    ) -> bool {
        // The cursor is the lowest hash that was not passed; keys of one hash are shown together.
        let mut rest = self.items.range((cursor.0, Bytes::default())..).map(|(_, record)| record);
        let mut last = None;
        for record in rest.by_ref().take(SCAN_STEP) {
            last = Some(record.hash);
            if wants(record.hash) && is_live(now, record) {
                show(record.clone());
            }
        }
        let next = last.filter(|_| rest.next().is_some()).and_then(|hash| hash.checked_add(1));
        cursor.0 = next.unwrap_or(u64::MAX);
        next.is_some()
    }

    fn fences(&self, is_wanted: &dyn Fn(u64) -> bool) -> Fences {
        let its = self.fences.iter().filter(|(hash, _)| is_wanted(**hash));
        Fences { floor: 0, known: its.map(|(hash, fence)| (*hash, *fence)).collect() }
    }

    fn raise_fences(&mut self, fences: &Fences) {
        for &(hash, fence) in &fences.known {
            let known = self.fences.entry(hash).or_default();
            *known = fence.max(*known);
        }
    }
}
