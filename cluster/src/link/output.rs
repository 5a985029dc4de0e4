//! What a link is going to send: frames gather here, and leave together, one send at a time. Never sends.

use crate::ring::Epoch;
use crate::time::Micros;
use crate::wire::{
    self, BATCH_BYTES_MAX, BODY_BYTES_MAX, CHECKSUM_BYTES, Flags, HEADER_BYTES, Header, OpenBatch,
};

/// Messages with longer bodies go alone: what they would save is little beside them.
const BATCHED_BYTES_MAX: usize = 4 << 10;

/// Longer bodies are cut into frames of so many bytes: the receiver needs room for one before it is heard.
const CUT_BYTES: usize = 256 << 10;

/// Bytes that the kernel is given at once: that they have left tells that the other side reads, however long a message is.
pub(super) const SEND_BYTES_MAX: usize = 1 << 20;

/// Capacity that is kept when everything has left.
const BYTES_KEPT: usize = SEND_BYTES_MAX;

const _: () = assert!(CUT_BYTES <= BODY_BYTES_MAX);
const _: () = assert!(BATCHED_BYTES_MAX < BATCH_BYTES_MAX / 4);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Output {
    gathered: Vec<u8>,
    /// Bytes of it that have been taken.
    taken: usize,
    /// What was taken last was not all.
    is_cut: bool,
    /// The batch at its end, to which more can be added.
    open: Option<OpenBatch>,
    sending: Option<Sending>,
}

#[derive(Clone, Copy, Debug)]
struct Sending {
    since: Micros,
    bytes: usize,
}

impl Output {
    /// Gathers a request or response: a small one in a batch with others, a large one in as many frames as it needs.
    pub(super) fn append_message(&mut self, header: Header, body: &[u8]) {
        if body.len() <= BATCHED_BYTES_MAX {
            return self.append_batched(header, body);
        }
        self.append_cut(header, body);
    }

    fn append_batched(&mut self, header: Header, body: &[u8]) {
        if self.open.is_some_and(|open| !open.has_room(body.len(), &self.gathered)) {
            self.seal(header.epoch);
        }
        let open = self.open.get_or_insert_with(|| OpenBatch::begin(&mut self.gathered));
        open.add(&header, body, &mut self.gathered);
    }

    fn seal(&mut self, epoch: Epoch) {
        self.open.take().into_iter().for_each(|open| open.seal(epoch, &mut self.gathered));
    }

    /// Gathers a message in as many frames as it needs.
    pub(super) fn append_cut(&mut self, header: Header, body: &[u8]) {
        let frames = body.len().div_ceil(CUT_BYTES).max(1);
        if frames > 1 {
            self.gathered.reserve_exact(body.len() + frames * (HEADER_BYTES + CHECKSUM_BYTES));
        }
        let mut rest = body;
        while rest.len() > CUT_BYTES {
            let (part, others) = rest.split_at(CUT_BYTES);
            self.append(Header { flags: header.flags.with(Flags::MORE), ..header }, part);
            rest = others;
        }
        self.append(header, rest);
    }

    /// Gathers a frame.
    pub(super) fn append(&mut self, header: Header, body: &[u8]) {
        self.seal(header.epoch);
        wire::encode(&header, body, &mut self.gathered);
    }

    /// Whether nothing waits to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Whether [`Self::take`] would give something.
    pub(super) fn is_ready(&self) -> bool {
        self.sending.is_none() && !self.gathered.is_empty()
    }

    /// Whether a part of what was gathered together has been taken, and the rest can be.
    pub(super) fn goes_on(&self) -> bool {
        self.sending.is_none() && self.is_cut
    }

    /// Bytes that wait to be sent or are being sent.
    pub(super) fn len(&self) -> usize {
        self.gathered.len() - self.taken + self.sending.map_or(0, |sending| sending.bytes)
    }

    /// Memory of what waits or is being sent.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.gathered.capacity() + self.sending.map_or(0, |sending| sending.bytes)
    }

    /// What was gathered since the last time, or as much of it as goes at once, in exchange for an empty buffer; `None` while a
    /// send is under way or there is nothing.
    pub(super) fn take(&mut self, now: Micros, epoch: Epoch, mut spare: Vec<u8>) -> Option<Vec<u8>> {
        if !self.is_ready() {
            return None;
        }
        self.seal(epoch);
        spare.clear();
        self.is_cut = self.gathered.len() - self.taken > SEND_BYTES_MAX;
        if self.taken == 0 && self.gathered.len() <= SEND_BYTES_MAX {
            std::mem::swap(&mut self.gathered, &mut spare);
        } else {
            let end = self.gathered.len().min(self.taken + SEND_BYTES_MAX);
            spare.extend_from_slice(&self.gathered[self.taken..end]);
            self.taken = end;
            self.forget_taken();
        }
        self.sending = Some(Sending { since: now, bytes: spare.len() });
        Some(spare)
    }

    /// Gives the memory of what has been taken back, now and then: each byte is moved at most once.
    fn forget_taken(&mut self) {
        if self.taken * 2 >= self.gathered.len() {
            self.gathered.drain(..self.taken);
            self.taken = 0;
            self.gathered.shrink_to(self.gathered.len().max(BYTES_KEPT));
        }
    }

    /// The kernel has taken all of it.
    pub(super) fn sent(&mut self) {
        self.sending = None;
    }

    /// Since when the kernel has been taking it.
    pub(super) fn sending_since(&self) -> Option<Micros> {
        self.sending.map(|sending| sending.since)
    }

    /// Forgets everything: the connection has ended.
    pub(super) fn clear(&mut self) {
        self.gathered.clear();
        self.gathered.shrink_to(BYTES_KEPT);
        (self.taken, self.is_cut, self.open, self.sending) = (0, false, None, None);
    }
}
