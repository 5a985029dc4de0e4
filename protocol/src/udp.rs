//! The frame that memcached puts around text and packets in UDP datagrams. No sockets, and no protocol inside.
//!
//! ```text
//! 0 request id (2)   2 sequence number (2)   4 datagrams in all (2)   6 reserved (2)   8 payload
//! ```
//!
//! Source: memcached `doc/protocol.txt`, "UDP protocol".

/// Bytes of the frame's header.
pub const UDP_HEADER_SIZE: usize = 8;

/// Longest datagram that is sent, in bytes: it fits an Ethernet frame with what routers add.
pub const UDP_DATAGRAM_SIZE_MAX: usize = 1400;

/// Longest payload of a datagram that is sent, in bytes.
pub const UDP_PAYLOAD_SIZE_MAX: usize = UDP_DATAGRAM_SIZE_MAX - UDP_HEADER_SIZE;

/// Longest reply in bytes: its datagrams are counted by 16 bits.
pub const UDP_REPLY_SIZE_MAX: usize = UDP_PAYLOAD_SIZE_MAX * 0xffff;

/// A client's own number for a request, in all datagrams of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpRequestId(pub u16);

/// Cuts a request out of its datagram, or `None` for what has to be dropped: no payload, or one of several.
///
/// Every datagram is a stream of its own: read it with a new [`Parser`](crate::Parser) and drop what is incomplete.
pub fn parse_datagram(datagram: &[u8]) -> Option<(UdpRequestId, &[u8])> {
    let (header, payload) = datagram.split_first_chunk::<UDP_HEADER_SIZE>()?;
    let [id_high, id_low, _, _, 0, 1, ..] = *header else { return None };
    (!payload.is_empty()).then(|| (UdpRequestId(u16::from_be_bytes([id_high, id_low])), payload))
}

/// The datagrams of a reply: header and payload of each, in order. None for an empty reply.
///
/// Returns `None` for a reply over [`UDP_REPLY_SIZE_MAX`]. O(1) for each datagram; nothing is copied.
pub fn fragments(id: UdpRequestId, reply: &[u8]) -> Option<Fragments<'_>> {
    let total = u16::try_from(reply.len().div_ceil(UDP_PAYLOAD_SIZE_MAX)).ok()?;
    Some(Fragments { id, total, next: 0, rest: reply })
}

/// See [`fragments`].
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    id: UdpRequestId,
    total: u16,
    next: u16,
    rest: &'a [u8],
}

impl<'a> Iterator for Fragments<'a> {
    type Item = ([u8; UDP_HEADER_SIZE], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        assert!(self.next < self.total, "the count is that of the reply");
        let (payload, rest) = self.rest.split_at(self.rest.len().min(UDP_PAYLOAD_SIZE_MAX));
        let mut header = [0; UDP_HEADER_SIZE];
        for (at, number) in [self.id.0, self.next, self.total].into_iter().enumerate() {
            header[2 * at..2 * at + 2].copy_from_slice(&number.to_be_bytes());
        }
        self.rest = rest;
        // After the last one of all there is no next, so that it may wrap.
        self.next = self.next.wrapping_add(1);
        Some((header, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_one_datagram() {
        assert_eq!(
            parse_datagram(b"\x12\x34\0\0\0\x01\0\0get k\r\n"),
            Some((UdpRequestId(0x1234), &b"get k\r\n"[..]))
        );
        assert_eq!(
            parse_datagram(b"\0\0\0\x07\0\x01\xff\xffx"),
            Some((UdpRequestId(0), &b"x"[..])),
            "neither sequence nor what is reserved is looked at"
        );
        for dropped in [
            &b""[..],
            b"\0\0\0\0\0\x01\0",
            b"\0\0\0\0\0\x01\0\0",
            b"\0\0\0\0\0\x02\0\0x",
            b"\0\0\0\0\x01\x01\0\0x",
        ] {
            assert_eq!(parse_datagram(dropped), None, "{}", dropped.escape_ascii());
        }
    }

    #[test]
    fn a_reply_that_needs_more_datagrams_than_can_be_counted_is_refused() {
        let reply = vec![0; UDP_REPLY_SIZE_MAX + 1];
        assert!(fragments(UdpRequestId(1), &reply).is_none());
        assert_eq!(fragments(UdpRequestId(1), &reply[1..]).unwrap().count(), 0xffff);
    }

    proptest! {
        #[test]
        fn the_payloads_together_are_the_reply(id: u16, reply in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let datagrams: Vec<_> = fragments(UdpRequestId(id), &reply).unwrap().collect();
            let total = u16::try_from(reply.len().div_ceil(1392)).unwrap();
            for (at, (header, payload)) in datagrams.iter().enumerate() {
                let numbers = [id, u16::try_from(at).unwrap(), total, 0].map(u16::to_be_bytes);
                prop_assert_eq!(&header[..], numbers.concat());
                prop_assert!(payload.len() == 1392 || at + 1 == usize::from(total));
            }
            let payloads: Vec<&[u8]> = datagrams.iter().map(|(_, payload)| *payload).collect();
            prop_assert_eq!(payloads.concat(), reply);
        }
    }
}
