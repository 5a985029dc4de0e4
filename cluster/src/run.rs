//! Several gets in one message, and what comes back in one: for each get in their order the owner's reply behind its length, or that
//! it comes by itself. Bytes; never a request of its own.

use crate::wire::{BATCH_BYTES_MAX, HEADER_BYTES};

/// Gets in one message.
pub const GETS_MAX: usize = 16;

/// Bytes of replies from which on an owner has the others come by themselves: what is in one message is in memory at once.
pub const REPLY_BYTES_HIGH: usize = 32 << 10;

/// Bytes of the number before a reply.
const LENGTH_BYTES: usize = 4;

/// The number of a reply that comes by itself.
const LATER: [u8; LENGTH_BYTES] = [0xff; LENGTH_BYTES];

const _: () = assert!(REPLY_BYTES_HIGH < BATCH_BYTES_MAX - HEADER_BYTES);
const _: () = assert!(GETS_MAX == u16::BITS as usize, "each has a bit");

/// The replies to several gets, in their order: `None` for one that comes by itself. Ends before what is no whole reply.
#[derive(Clone, Debug)]
pub struct Replies<'a>(pub &'a [u8]);

impl<'a> Iterator for Replies<'a> {
    type Item = Option<&'a [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk::<LENGTH_BYTES>()?;
        if *length == LATER {
            self.0 = rest;
            return Some(None);
        }
        let (reply, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        self.0 = rest;
        Some(Some(reply))
    }
}

/// Appends a reply, written by `write`.
#[inline]
pub fn append_reply(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(out);
    let bytes = u32::try_from(out.len() - start - LENGTH_BYTES).expect("a reply is below 4 GiB");
    out[start..start + LENGTH_BYTES].copy_from_slice(&bytes.to_le_bytes());
}

/// Appends that a reply comes by itself.
pub fn append_later(out: &mut Vec<u8>) {
    out.extend_from_slice(&LATER);
}

/// The keys of a run.
pub(crate) fn keys(run: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = run.split(|&byte| byte == b'\n').filter_map(|line| line.strip_prefix(b"get "));
    lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// Which gets have their replies here, a bit for each. `None`: these are no replies to so many gets.
pub(crate) fn answered(replies: &[u8], gets: u32) -> Option<u16> {
    let mut replies = Replies(replies);
    let mut answered = 0;
    for number in 0..gets {
        answered |= u16::from(replies.next()?.is_some()) << number;
    }
    replies.0.is_empty().then_some(answered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn replies_lie_as_the_table_says() {
        let mut replies = Vec::new();
        append_reply(&mut replies, |out| out.extend_from_slice(b"END\r\n"));
        append_later(&mut replies);
        append_reply(&mut replies, |_| {});
        let golden = [5, 0, 0, 0, b'E', b'N', b'D', b'\r', b'\n', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(replies, golden);
        let read: Vec<_> = Replies(&golden).collect();
        assert_eq!(read, [Some(&b"END\r\n"[..]), None, Some(b"")]);
        assert_eq!(answered(&golden, 3), Some(0b101));
        assert_eq!([answered(&golden, 2), answered(&golden, 4), answered(&golden[..8], 1)], [None; 3]);
    }

    proptest! {
        #[test]
        fn replies_come_back_in_order_as_far_as_they_are_whole(
            replies in prop::collection::vec(any::<Option<Vec<u8>>>(), 0..=GETS_MAX), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for reply in &replies {
                match reply {
                    Some(reply) => append_reply(&mut bytes, |out| out.extend_from_slice(reply)),
                    None => append_later(&mut bytes),
                }
            }
            let gets = u32::try_from(replies.len()).unwrap();
            let bits = replies.iter().rev().fold(0, |bits, reply| bits << 1 | u16::from(reply.is_some()));
            prop_assert_eq!(answered(&bytes, gets), Some(bits));
            let cut = cut.index(bytes.len() + 1);
            let read: Vec<_> = Replies(&bytes[..cut]).map(|reply| reply.map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(&read[..], &replies[..read.len()]);
            prop_assert!(cut == bytes.len() || read.len() < replies.len() && answered(&bytes[..cut], gets).is_none());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, gets in 0..=16_u32) {
            let _any_answer_will_do = (Replies(&bytes).count(), answered(&bytes, gets));
        }
    }
}
