//! One connection's state: what is in flight, what waits to be sent, and where in its replies it is.
//! Knows no socket and no clock.

use std::collections::VecDeque;

use rustls::ClientConnection;
use slabring_protocol::client::{Reply, ReplyStep};
use slabring_reactor::ConnectionId;

use crate::decode::Decoder;
use crate::kind::Kind;
use crate::tls;
use crate::verify::Asked;

/// Room for requests in flight that a connection begins with; more is made when it is needed.
const FLIGHTS_MIN: usize = 1024;

/// One request that has no answer yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flight {
    /// When it should have been sent, on the run's clock.
    pub(crate) due_ns: u64,
    /// When it was handed to the kernel.
    pub(crate) sent_ns: u64,
    /// The key, or the first of several.
    pub(crate) key: u64,
    /// Bytes and lifetime of the value that it stores or that a miss lets store.
    pub(crate) size: u32,
    pub(crate) ttl: u32,
    /// Of a write that is verified; 0 for others.
    pub(crate) version: u32,
    pub(crate) keys: u32,
    pub(crate) kind: Kind,
    /// It is the first step of a compare-and-swap.
    pub(crate) before_cas: bool,
    /// Its end makes room for another request.
    pub(crate) holds_slot: bool,
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
    /// Whose it is, and where it leads.
    pub(crate) client: usize,
    pub(crate) server: usize,
    tls: Option<Box<ClientConnection>>,
    /// Keys of the reads in flight, where replies are looked into.
    pub(crate) asked: VecDeque<Asked>,
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
struct Replies {
    decoder: Decoder,
    /// Bytes that the parser wants to see again with more behind them: part of a line.
    rest: Vec<u8>,
    /// The reply so far, kept only for those who want to look at values.
    whole: Option<Vec<u8>>,
}

impl Connection {
    /// A fresh connection for up to `depth` requests. With `keep_replies`, answers carry their whole bytes.
    pub(crate) fn new(
        id: ConnectionId,
        tls: Option<Box<ClientConnection>>,
        depth: usize,
        decoder: Decoder,
        keep_replies: bool,
    ) -> Self {
        Self {
            id,
            client: 0,
            server: 0,
            tls,
            asked: VecDeque::new(),
            flights: VecDeque::with_capacity(depth.min(FLIGHTS_MIN)),
            output: Vec::new(),
            spare: Vec::new(),
            sending: false,
            touched: false,
            replies: Replies { decoder, rest: Vec::new(), whole: keep_replies.then(Vec::new) },
        }
    }

    /// Whether answers carry their whole bytes.
    #[inline]
    pub(crate) fn keeps_replies(&self) -> bool {
        self.replies.whole.is_some()
    }

    /// When the oldest request without an answer was sent.
    pub(crate) fn oldest_sent_ns(&self) -> Option<u64> {
        self.flights.front().map(|flight| flight.sent_ns)
    }

    /// The requests that have no answer yet.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter()
    }

    /// Gives back the requests that have no answer, and forgets what was to be sent: the connection has ended.
    pub(crate) fn end(&mut self) -> VecDeque<Flight> {
        self.output.clear();
        std::mem::take(&mut self.flights)
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
        let mut next = std::mem::take(&mut self.spare);
        if let Some(session) = &mut self.tls {
            tls::seal(session, &self.output, &mut next);
            self.output.clear();
            return Some(next);
        }
        std::mem::swap(&mut self.output, &mut next);
        Some(next)
    }

    /// The kernel is through with what [`Connection::take_output`] gave, and returns its buffer.
    pub(crate) fn sent(&mut self, buffer: Vec<u8>) {
        assert!(self.sending && buffer.is_empty());
        self.sending = false;
        self.spare = buffer;
    }

    /// Cuts `data` into answers and gives each to `take`, with the connection's [`Self::asked`], until it fails.
    #[inline]
    pub(crate) fn receive<E: From<rustls::Error>>(
        &mut self,
        data: &[u8],
        mut take: impl FnMut(Answer<'_>, &mut VecDeque<Asked>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { flights, replies, asked, .. } = self;
        let mut cut = |data: &[u8]| replies.cut(flights, data, |answer| take(answer, asked));
        match &mut self.tls {
            None => cut(data),
            Some(session) => tls::open(session, data, cut),
        }
    }
}

impl Replies {
    fn cut<E>(
        &mut self,
        flights: &mut VecDeque<Flight>,
        data: &[u8],
        take: impl FnMut(Answer<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.rest.is_empty() {
            let consumed = self.cut_joined(flights, data, take)?;
            self.rest.extend_from_slice(&data[consumed..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(data);
        let consumed = self.cut_joined(flights, &joined, take)?;
        joined.drain(..consumed);
        self.rest = joined;
        Ok(())
    }

    /// Returns how many bytes of `input` are done with.
    fn cut_joined<E>(
        &mut self,
        flights: &mut VecDeque<Flight>,
        input: &[u8],
        mut take: impl FnMut(Answer<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let asks_many = flights.front().is_some_and(|flight| flight.keys > 1);
            match self.decoder.next(rest, asks_many) {
                ReplyStep::Incomplete { consumed: size } => {
                    if let Some(whole) = &mut self.whole {
                        whole.extend_from_slice(&rest[..size]);
                    }
                    return Ok(consumed + size);
                }
                ReplyStep::Reply { reply, consumed: size } => {
                    let bytes = match &mut self.whole {
                        Some(whole) => {
                            whole.extend_from_slice(&rest[..size]);
                            &whole[..]
                        }
                        None => &rest[..size],
                    };
                    take(match flights.pop_front() {
                        Some(flight) => Answer::To { flight, reply, bytes },
                        None => Answer::Unasked { bytes },
                    })?;
                    self.whole.iter_mut().for_each(Vec::clear);
                    consumed += size;
                }
                ReplyStep::Malformed => {
                    take(Answer::Malformed { bytes: rest })?;
                    return Ok(input.len());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use crate::protocol::Protocol;
    use slabring_protocol::client::ReplyKind;

    const STREAM: &[u8] =
        b"VALUE k1 0 5\r\nab\r\nc\r\nEND\r\nEND\r\nSTORED\r\nSERVER_ERROR out\r\nVALUE k2 0 0\r\n\r\nEND\r\n";

    fn connection(keep_replies: bool) -> Connection {
        let id = ConnectionId { slot: 0, generation: 1 };
        let mut connection = Connection::new(id, None, 8, Decoder::new(Protocol::Text), keep_replies);
        for key in 0..5 {
            connection.launch(Flight {
                due_ns: key,
                sent_ns: key,
                key,
                size: 0,
                ttl: 0,
                version: 0,
                keys: 1,
                kind: Kind::Get,
                before_cas: false,
                holds_slot: true,
            });
        }
        connection
    }

    fn answers(connection: &mut Connection, packets: &[&[u8]]) -> Vec<(u64, ReplyKind, u32, Vec<u8>)> {
        let mut seen = Vec::new();
        for packet in packets {
            connection
                .receive(packet, |answer, _| match answer {
                    Answer::To { flight, reply, bytes } => {
                        seen.push((flight.key, reply.kind, reply.hits, bytes.to_vec()));
                        Ok::<_, Failure>(())
                    }
                    other => panic!("{other:?}"),
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
        let mut note = |answer: Answer<'_>, _: &mut VecDeque<Asked>| {
            seen.push(matches!(answer, Answer::Unasked { .. }));
            Ok::<_, Failure>(())
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
