//! One connection's state: what is in flight, what waits to be sent, and where in its replies it is.
//! Knows no socket and no clock.

use std::collections::VecDeque;

use slabring_protocol::client::{Reply, ReplyParser, ReplyStep};
use slabring_reactor::ConnectionId;

use crate::requests::Kind;

/// One request that has no answer yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flight {
    /// When it should have been sent, on the run's clock.
    pub(crate) due_ns: u64,
    /// When it was handed to the kernel.
    pub(crate) sent_ns: u64,
    /// The key, or the first of several.
    pub(crate) key: u64,
    pub(crate) kind: Kind,
}

/// What came in, one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer<'a> {
    /// The answer to `flight`. `bytes` is all of it if the connection keeps replies, else its last piece.
    To { flight: Flight, reply: Reply, bytes: &'a [u8] },
    /// An answer when nothing was asked.
    Unasked { bytes: &'a [u8] },
    /// Bytes that are no reply.
    Malformed { bytes: &'a [u8] },
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    flights: VecDeque<Flight>,
    /// Requests to be sent when the send before is through.
    pub(crate) output: Vec<u8>,
    spare: Vec<u8>,
    sending: bool,
    /// It stands in the worker's list of connections to look after.
    pub(crate) touched: bool,
    replies: Replies,
}

/// A reply stream cut into replies.
#[derive(Default)]
struct Replies {
    parser: ReplyParser,
    /// Bytes that the parser wants to see again with more behind them: part of a line.
    rest: Vec<u8>,
    /// The reply so far, kept only for those who want to look at values.
    whole: Option<Vec<u8>>,
}

impl Connection {
    /// A fresh connection for up to `depth` requests. With `keep_replies`, answers carry their whole bytes.
    pub(crate) fn new(id: ConnectionId, depth: usize, keep_replies: bool) -> Self {
        Self {
            id,
            flights: VecDeque::with_capacity(depth),
            output: Vec::new(),
            spare: Vec::new(),
            sending: false,
            touched: false,
            replies: Replies { whole: keep_replies.then(Vec::new), ..Replies::default() },
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// When the oldest request without an answer was sent.
    pub(crate) fn oldest_sent_ns(&self) -> Option<u64> {
        self.flights.front().map(|flight| flight.sent_ns)
    }

    /// Notes a request whose bytes were appended to `output`.
    #[inline]
    pub(crate) fn launch(&mut self, flight: Flight) {
        self.flights.push_back(flight);
    }

    /// What to send now, if anything and if the kernel is ready for it.
    #[inline]
    pub(crate) fn take_output(&mut self) -> Option<Vec<u8>> {
        if self.sending || self.output.is_empty() {
            return None;
        }
        self.sending = true;
        Some(std::mem::replace(&mut self.output, std::mem::take(&mut self.spare)))
    }

    /// The kernel is through with what [`Connection::take_output`] gave, and returns its buffer.
    pub(crate) fn sent(&mut self, buffer: Vec<u8>) {
        assert!(self.sending && buffer.is_empty());
        self.sending = false;
        self.spare = buffer;
    }

    /// Cuts `data` into answers and gives each to `take`, until it fails.
    #[inline]
    pub(crate) fn receive<E>(
        &mut self,
        data: &[u8],
        mut take: impl FnMut(Answer<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let flights = &mut self.flights;
        self.replies.cut(data, |found| {
            take(match found {
                Err(bytes) => Answer::Malformed { bytes },
                Ok((reply, bytes)) => match flights.pop_front() {
                    Some(flight) => Answer::To { flight, reply, bytes },
                    None => Answer::Unasked { bytes },
                },
            })
        })
    }
}

impl Replies {
    fn cut<E>(
        &mut self,
        data: &[u8],
        take: impl FnMut(Result<(Reply, &[u8]), &[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.rest.is_empty() {
            let consumed = self.cut_joined(data, take)?;
            self.rest.extend_from_slice(&data[consumed..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(data);
        let consumed = self.cut_joined(&joined, take)?;
        joined.drain(..consumed);
        self.rest = joined;
        Ok(())
    }

    /// Returns how many bytes of `input` are done with.
    fn cut_joined<E>(
        &mut self,
        input: &[u8],
        mut take: impl FnMut(Result<(Reply, &[u8]), &[u8]>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            match self.parser.next(rest) {
                ReplyStep::Incomplete { consumed: size } => {
                    if let Some(whole) = &mut self.whole {
                        whole.extend_from_slice(&rest[..size]);
                    }
                    return Ok(consumed + size);
                }
                ReplyStep::Reply { reply, consumed: size } => {
                    match &mut self.whole {
                        Some(whole) => {
                            whole.extend_from_slice(&rest[..size]);
                            take(Ok((reply, whole)))?;
                            whole.clear();
                        }
                        None => take(Ok((reply, &rest[..size])))?,
                    }
                    consumed += size;
                }
                ReplyStep::Malformed => {
                    take(Err(rest))?;
                    return Ok(input.len());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slabring_protocol::client::ReplyKind;

    const STREAM: &[u8] =
        b"VALUE k1 0 5\r\nab\r\nc\r\nEND\r\nEND\r\nSTORED\r\nSERVER_ERROR out\r\nVALUE k2 0 0\r\n\r\nEND\r\n";

    fn connection(keep_replies: bool) -> Connection {
        let mut connection = Connection::new(ConnectionId { slot: 0, generation: 1 }, 8, keep_replies);
        for key in 0..5 {
            connection.launch(Flight { due_ns: key, sent_ns: key, key, kind: Kind::Get });
        }
        connection
    }

    fn answers(connection: &mut Connection, packets: &[&[u8]]) -> Vec<(u64, ReplyKind, u32, Vec<u8>)> {
        let mut seen = Vec::new();
        for packet in packets {
            connection
                .receive(packet, |answer| match answer {
                    Answer::To { flight, reply, bytes } => {
                        seen.push((flight.key, reply.kind, reply.hits, bytes.to_vec()));
                        Ok(())
                    }
                    other => Err(format!("{other:?}")),
                })
                .unwrap();
        }
        seen
    }

    #[test]
    fn any_cut_into_packets_gives_the_same_answers() {
        let whole = answers(&mut connection(true), &[STREAM]);
        assert_eq!(whole.len(), 5);
        let joined: Vec<u8> = whole.iter().flat_map(|(_, _, _, bytes)| bytes.clone()).collect();
        assert_eq!(joined, STREAM);
        for one in 0..=STREAM.len() {
            for two in one..=STREAM.len() {
                let packets = [&STREAM[..one], &STREAM[one..two], &STREAM[two..]];
                assert_eq!(answers(&mut connection(true), &packets), whole, "cut at {one} and {two}");
            }
        }
    }

    #[test]
    fn error_lines_come_whole_even_when_replies_are_not_kept() {
        for cut in 0..STREAM.len() {
            let seen = answers(&mut connection(false), &[&STREAM[..cut], &STREAM[cut..]]);
            assert_eq!(seen[3].3, b"SERVER_ERROR out\r\n");
        }
    }

    #[test]
    fn an_answer_to_nothing_and_nonsense_are_told_apart() {
        let mut connection = connection(false);
        answers(&mut connection, &[STREAM]);
        let mut seen = Vec::new();
        let mut note = |answer: Answer<'_>| {
            seen.push(matches!(answer, Answer::Unasked { .. }));
            Ok::<_, ()>(())
        };
        connection.receive(b"ERROR Too many open connections\r\n", &mut note).unwrap();
        connection.receive(b"HTTP/1.1 400 Bad Request\r\n", &mut note).unwrap();
        assert_eq!(seen, [true, false]);
    }

    #[test]
    fn one_send_is_out_at_a_time_and_its_buffer_comes_back() {
        let mut connection = connection(false);
        assert_eq!(connection.take_output(), None);
        connection.output.extend_from_slice(b"one");
        let mut buffer = connection.take_output().unwrap();
        connection.output.extend_from_slice(b"two");
        assert_eq!(connection.take_output(), None);
        buffer.clear();
        connection.sent(buffer);
        assert_eq!(connection.take_output().as_deref(), Some(&b"two"[..]));
    }
}
