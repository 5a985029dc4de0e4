//! One send: the bytes of a buffer, with memory that somebody has lent between them. Knows how much of it has left; never touches
//! lent memory itself, of which it has addresses for the kernel only.
#![expect(unsafe_code, reason = "the kernel gets addresses")]

use std::io;
use std::os::fd::RawFd;

use crate::io::LoanId;

/// Pieces of most sends with something lent: a quarter of a mebibyte in the engine's largest chunks, with what stands around it.
const PIECES_EXPECTED: usize = 12;

/// A buffer on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    buffer: Vec<u8>,
    sent_bytes: usize,
    total_bytes: usize,
    vector: Option<Box<Vector>>,
}

/// What of a send is left.
pub(crate) enum Rest<'a> {
    /// In the buffer.
    Bytes(&'a [u8]),
    /// In several places. It stays where it is until the next [`Outgoing::advance`].
    Message(*const libc::msghdr),
}

/// Where the bytes lie, in order.
#[derive(Debug)]
struct Vector {
    pieces: Vec<libc::iovec>,
    /// Those before it have left.
    first: usize,
    message: libc::msghdr,
    loan: LoanId,
}

impl Outgoing {
    /// The bytes of a buffer.
    pub(crate) fn plain(buffer: Vec<u8>) -> Self {
        assert!(!buffer.is_empty(), "an empty send has no completion to wait for");
        Self { total_bytes: buffer.len(), buffer, sent_bytes: 0, vector: None }
    }

    /// The bytes of a buffer with what is lent before the byte that each place names.
    pub(crate) fn with_loan<'a>(
        buffer: Vec<u8>,
        loan: LoanId,
        lent: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> Self {
        let mut pieces = Vec::with_capacity(PIECES_EXPECTED);
        let mut reached = 0;
        for (place, bytes) in lent {
            push(&mut pieces, &buffer[reached..place]);
            push(&mut pieces, bytes);
            reached = place;
        }
        push(&mut pieces, &buffer[reached..]);
        let total_bytes = pieces.iter().map(|piece| piece.iov_len).sum();
        assert!(total_bytes > 0, "an empty send has no completion to wait for");
        // SAFETY: a msghdr is numbers and pointers, and all zeros are one that names nothing.
        let message = unsafe { std::mem::zeroed() };
        let mut vector = Box::new(Vector { pieces, first: 0, message, loan });
        vector.point_to_rest();
        Self { buffer, sent_bytes: 0, total_bytes, vector: Some(vector) }
    }

    pub(crate) fn rest(&self) -> Rest<'_> {
        match &self.vector {
            None => Rest::Bytes(&self.buffer[self.sent_bytes..]),
            Some(vector) => Rest::Message(&raw const vector.message),
        }
    }

    /// Notes that so many bytes more have left. True if these were the last.
    pub(crate) fn advance(&mut self, bytes: usize) -> bool {
        self.sent_bytes += bytes;
        assert!(self.sent_bytes <= self.total_bytes);
        if let Some(vector) = &mut self.vector {
            vector.advance(bytes);
        }
        self.sent_bytes == self.total_bytes
    }

    /// Has the kernel take what it will without waiting.
    pub(crate) fn send_now(&self, fd: RawFd) -> io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let sent = match self.rest() {
            Rest::Bytes(bytes) => {
                // SAFETY: the bytes are borrowed across the call.
                unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) }
            }
            Rest::Message(message) => {
                // SAFETY: the message and its pieces live in `self`. The kernel only reads what they name, and looks itself
                // whether it is mapped: where the lender broke the promise, other bytes are sent.
                unsafe { libc::sendmsg(fd, message, flags) }
            }
        };
        usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
    }

    /// The buffer, how much has left, and what can be given back to its lender.
    pub(crate) fn into_parts(self) -> (Vec<u8>, usize, Option<LoanId>) {
        (self.buffer, self.sent_bytes, self.vector.map(|vector| vector.loan))
    }
}

impl Vector {
    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let piece = &mut self.pieces[self.first];
            if bytes < piece.iov_len {
                // Stays inside the piece; only the kernel will follow it.
                piece.iov_base = piece.iov_base.wrapping_byte_add(bytes);
                piece.iov_len -= bytes;
                break;
            }
            bytes -= piece.iov_len;
            self.first += 1;
        }
        self.point_to_rest();
    }

    fn point_to_rest(&mut self) {
        let rest = &mut self.pieces[self.first..];
        self.message.msg_iov = rest.as_mut_ptr();
        self.message.msg_iovlen = rest.len();
    }
}

fn push(pieces: &mut Vec<libc::iovec>, bytes: &[u8]) {
    if !bytes.is_empty() {
        pieces.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_and_loans_leave_in_order_however_the_kernel_cuts_them() {
        let lent: [&[u8]; 3] = [b"first", b"", b"second"];
        let places = [0, 3, 3];
        let whole = b"firstabcseconddef";
        for step in 1..whole.len() {
            let lent = places.into_iter().zip(lent);
            let mut outgoing = Outgoing::with_loan(b"abcdef".to_vec(), LoanId(7), lent);
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut got = Vec::new();
            while got.len() < whole.len() {
                // What the kernel takes beyond the step counts as not taken.
                let sent = outgoing.send_now(ours.as_raw_fd()).unwrap();
                let mut bytes = vec![0; sent];
                theirs.read_exact(&mut bytes).unwrap();
                let taken = step.min(sent);
                got.extend_from_slice(&bytes[..taken]);
                assert_eq!(outgoing.advance(taken), got.len() == whole.len());
            }
            assert_eq!(got, whole);
            let (buffer, sent_bytes, loan) = outgoing.into_parts();
            assert_eq!((&buffer[..], sent_bytes, loan), (&b"abcdef"[..], whole.len(), Some(LoanId(7))));
        }
    }

    #[test]
    fn a_buffer_without_loans_leaves_as_it_is() {
        let mut outgoing = Outgoing::plain(b"abc".to_vec());
        assert!(!outgoing.advance(1));
        assert!(matches!(outgoing.rest(), Rest::Bytes(b"bc")));
        assert!(outgoing.advance(2));
    }
}
