//! One request in 64, looked at: which keys are hot, and which reads the copies on other nodes are to hear of.

use slabring_cluster::touches::{Touch, Touches};
use slabring_engine::Seconds;
use slabring_protocol::Request;

use super::{Executor, may_write};
use crate::attention::SAMPLED_OF;

impl Executor {
    /// Counts a sample.
    pub(super) fn sample(&mut self, request: &Request<'_>, key: &[u8]) {
        let hash = self.shard.hash(key);
        self.hot_keys.count(hash, key, may_write(request));
        if self.front.is_some() {
            self.hot_sample = self.hot_keys.is_hot(hash).then_some(hash);
        }
    }

    /// Looks at a request that is executed elsewhere, as [`Executor::execute`] does at its own.
    pub fn look(&mut self, request: &Request<'_>, key: &[u8]) {
        if self.attention.looks() && self.attention.is_sample() {
            self.sample(request, key);
        }
    }

    /// Whether the request for this key that was executed last was a sample, and the key is hot. Asking settles it.
    #[inline]
    pub fn take_hot_sample(&mut self, key: &[u8]) -> bool {
        self.hot_sample.take().is_some_and(|hash| hash == self.shard.hash(key))
    }

    /// Whether a key was asked for very often in the last whole second, and not written.
    pub fn is_hot(&self, key: &[u8]) -> bool {
        self.hot_keys.is_hot(self.shard.hash(key))
    }

    /// Other nodes have answered so many reads of a key of this shard.
    pub fn count_reads_elsewhere(&mut self, key: &[u8], reads: u32) {
        self.hot_keys.count_reads(self.shard.hash(key), key, reads);
        if reads > 0 {
            self.note_touch(key);
        }
    }

    /// The copies are to hear of a sampled read.
    pub(super) fn note_touch(&mut self, key: &[u8]) {
        self.touches.iter_mut().for_each(|touches| touches.note(key));
    }

    /// From here on sampled reads are gathered for the copies, or not.
    pub fn gather_touches(&mut self, wanted: bool) {
        if wanted != self.touches.is_some() {
            self.touches = wanted.then(Box::default);
        }
    }

    /// Those gathered so far, if any are wanted.
    pub fn touches(&mut self) -> Option<&mut Touches> {
        self.touches.as_deref_mut()
    }

    /// Copies of a key were read so often: as many requests as the samples stand for.
    pub fn touched(&mut self, now: Seconds, touch: Touch<'_>) {
        let reads = u32::from(touch.samples) * SAMPLED_OF;
        let is_there = self.shard.note_reads(now, touch.key, reads);
        self.traffic.touches_taken += u64::from(is_there);
    }
}
