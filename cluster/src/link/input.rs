//! What came on a link and is not heard yet: bytes become frames, and frames that were cut become messages. Judges the form of
//! a message; what it means is the link's to say.

use std::ops::Range;

use super::CloseReason;
use crate::wire::{
    self, CHECKSUM_BYTES, Decoded, FRAME_BYTES_MAX, Flags, Garbled, HEADER_BYTES, Header, Kind,
};

/// A message that is longer ends the link: no node has items of so many bytes.
const SKIPPED_BYTES_MAX: usize = 2 << 30;

/// Capacity that is kept when everything has been looked at.
const BYTES_KEPT: usize = 128 << 10;

/// Where the bytes of the last message are.
#[derive(Debug)]
enum Body {
    Input(Range<usize>),
    Assembled,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Input {
    bytes: Vec<u8>,
    consumed: usize,
    /// Where the messages of the batch end that `consumed` stands in; 0 outside of one.
    batch_end: usize,
    body: Body,
    assembly: Vec<u8>,
    /// The header of the message that is being assembled.
    assembling: Option<Header>,
    /// Bytes of the last message, or the one that is being assembled, if it is too long: they are dropped as they come.
    skipped_bytes: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            consumed: 0,
            batch_end: 0,
            body: Body::Input(0..0),
            assembly: Vec::new(),
            assembling: None,
            skipped_bytes: 0,
        }
    }

    /// Takes bytes behind those that are here. What was consumed is gone, and with it the last body.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.forget_assembled();
        self.bytes.drain(..self.consumed);
        self.batch_end = self.batch_end.saturating_sub(self.consumed);
        self.consumed = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(BYTES_KEPT);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets everything: the connection has ended.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        (self.consumed, self.batch_end) = (0, 0);
        self.body = Body::Input(0..0);
        self.assembly = Vec::new();
        self.assembling = None;
        self.skipped_bytes = 0;
    }

    /// Memory of what waits to be looked at.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.bytes.capacity() + self.assembly.capacity()
    }

    /// Bytes of the message that is being assembled.
    pub(super) fn assembled_bytes(&self) -> usize {
        if self.assembling.is_some() { self.assembly.len() } else { 0 }
    }

    /// The last body is done with. The memory of a message that was assembled goes.
    fn forget_assembled(&mut self) {
        self.body = Body::Input(0..0);
        if self.assembling.is_none() {
            self.assembly = Vec::new();
        }
    }

    /// Whether the longest frame could be here whole.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - self.consumed >= FRAME_BYTES_MAX
    }

    /// Of the last frame, or of the last message when [`Self::assemble`] has given one.
    pub(super) fn body(&self) -> &[u8] {
        match &self.body {
            Body::Input(range) => &self.bytes[range.clone()],
            Body::Assembled => &self.assembly,
        }
    }

    /// The next whole frame, or the next message of a batch; its body is [`Self::body`].
    pub(super) fn next_frame(&mut self, body_bytes_max: usize) -> Result<Option<Header>, Garbled> {
        self.forget_assembled();
        if self.batch_end > 0 {
            return self.next_of_batch().map(Some);
        }
        let start = self.consumed;
        let Decoded::Frame { header, frame_bytes } = wire::decode(&self.bytes[start..], body_bytes_max)?
        else {
            return Ok(None);
        };
        if header.kind == Kind::Batch {
            self.consumed += HEADER_BYTES;
            self.batch_end = start + frame_bytes - CHECKSUM_BYTES;
            return self.next_of_batch().map(Some);
        }
        self.consumed += frame_bytes;
        self.body = Body::Input(start + HEADER_BYTES..self.consumed - CHECKSUM_BYTES);
        Ok(Some(header))
    }

    /// What [`Self::next_frame`] and [`Self::assemble`] would give within a batch, by fewer steps. `None`: they have to be asked.
    #[inline]
    pub(super) fn next_batched(&mut self, message_bytes_max: usize) -> Option<Header> {
        // No body of this batch is longer than what is left of it.
        let is_within = self.batch_end > 0 && self.assembling.is_none();
        if !is_within || self.batch_end - self.consumed > message_bytes_max {
            return None;
        }
        self.skipped_bytes = 0;
        self.next_of_batch().ok()
    }

    /// What is left of the batch that the input stands in.
    pub(super) fn rest_of_batch(&self) -> &[u8] {
        self.bytes.get(self.consumed..self.batch_end).unwrap_or_default()
    }

    #[inline]
    fn next_of_batch(&mut self) -> Result<Header, Garbled> {
        let start = self.consumed;
        let (header, message_bytes) = wire::next_of_batch(&self.bytes[start..self.batch_end])?;
        self.consumed += message_bytes;
        self.body = Body::Input(start + HEADER_BYTES..self.consumed);
        if self.consumed == self.batch_end {
            self.consumed += CHECKSUM_BYTES;
            self.batch_end = 0;
        }
        Ok(header)
    }

    /// Bytes of the last message that [`Self::assemble`] gave, if it was too long to be kept: there is no body then. Otherwise 0.
    pub(super) fn skipped_bytes(&self) -> usize {
        self.skipped_bytes
    }

    /// Joins the last frame to its message. Gives the header when the message is whole, and it is [`Self::body`] then. A request or
    /// a response that is too long is skipped: what else goes over the link need not end with it.
    pub(super) fn assemble(
        &mut self,
        header: Header,
        message_bytes_max: usize,
    ) -> Result<Option<Header>, CloseReason> {
        let whole = Header { flags: header.flags.without(Flags::MORE), ..header };
        let goes_on = header.flags.has(Flags::MORE);
        let may_be_cut = matches!(header.kind, Kind::Request | Kind::Response | Kind::Replica);
        match self.assembling {
            None if goes_on && !may_be_cut => return Err(CloseReason::Message),
            None => {
                self.assembly.clear();
                self.skipped_bytes = 0;
                if !goes_on && (!may_be_cut || self.body().len() <= message_bytes_max) {
                    return Ok(Some(header));
                }
            }
            Some(first) if first == whole => {}
            _ => return Err(CloseReason::Message),
        }
        let Body::Input(part) = &self.body else { unreachable!("a frame's body is in the input") };
        let bytes = self.skipped_bytes.max(self.assembly.len()) + part.len();
        if bytes <= message_bytes_max {
            // By what comes: doubling would take twice as much.
            self.assembly.reserve_exact(part.len());
            self.assembly.extend_from_slice(&self.bytes[part.clone()]);
        } else if header.kind == Kind::Replica || bytes > SKIPPED_BYTES_MAX {
            return Err(CloseReason::Message);
        } else {
            self.assembly = Vec::new();
            self.skipped_bytes = bytes;
        }
        self.assembling = goes_on.then_some(whole);
        self.body = Body::Assembled;
        Ok((!goes_on).then_some(whole))
    }

    /// Checks every bound; for tests and debugging.
    pub(super) fn check_invariants(&self, message_bytes_max: usize) {
        assert!(self.consumed <= self.bytes.len() && self.batch_end <= self.bytes.len());
        assert!(self.batch_end == 0 || self.consumed < self.batch_end, "a batch that is done with is left");
        assert!(self.assembly.len() <= message_bytes_max);
    }
}
