//! What a link is going to send: frames gather here, and leave together, one send at a time. Never sends.

use crate::time::Micros;
use crate::wire::{self, BODY_BYTES_MAX, Flags, Header};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Output {
    gathered: Vec<u8>,
    sending: Option<Sending>,
}

#[derive(Clone, Copy, Debug)]
struct Sending {
    since: Micros,
    bytes: usize,
}

impl Output {
    /// Gathers a message in as many frames as it needs.
    pub(super) fn append_message(&mut self, header: Header, body: &[u8]) {
        let mut rest = body;
        while rest.len() > BODY_BYTES_MAX {
            let (part, others) = rest.split_at(BODY_BYTES_MAX);
            self.append(Header { flags: header.flags.with(Flags::MORE), ..header }, part);
            rest = others;
        }
        self.append(header, rest);
    }

    /// Gathers a frame.
    pub(super) fn append(&mut self, header: Header, body: &[u8]) {
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

    /// Bytes that wait to be sent or are being sent.
    pub(super) fn len(&self) -> usize {
        self.gathered.len() + self.sending.map_or(0, |sending| sending.bytes)
    }

    /// What was gathered since the last time, in exchange for an empty buffer; `None` while a send is under way or there is
    /// nothing.
    pub(super) fn take(&mut self, now: Micros, mut spare: Vec<u8>) -> Option<Vec<u8>> {
        if !self.is_ready() {
            return None;
        }
        spare.clear();
        std::mem::swap(&mut self.gathered, &mut spare);
        self.sending = Some(Sending { since: now, bytes: spare.len() });
        Some(spare)
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
        self.sending = None;
    }
}
