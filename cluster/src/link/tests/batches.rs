//! Messages that share a frame: the same ones come out, in order, however many, however large and however the stream is cut.

use proptest::prelude::*;

use super::super::input::Input;
use super::super::output::Output;
use super::*;
use crate::wire::{BATCH_BYTES_MAX, CHECKSUM_BYTES, Decoded, OpenBatch};

const MESSAGE_BYTES_MAX: usize = 3 << 20;

type Message = (Header, Vec<u8>);

#[test]
fn small_messages_of_a_turn_share_a_frame_and_stay_in_order_around_others() {
    let mut pair = Pair::up();
    for opaque in 0..50 {
        pair.request(opaque, b"get k\r\n").unwrap();
    }
    pair.request(50, &[b'x'; 10_000]).unwrap();
    pair.request(51, b"get l\r\n").unwrap();
    let bytes = pair.a.take_output(pair.now, Vec::new()).unwrap();
    let body_bytes = 50 * (7 + HEADER_BYTES) + 10_000 + 7;
    assert_eq!(bytes.len(), body_bytes + 3 * (HEADER_BYTES + wire::CHECKSUM_BYTES));
    pair.a.sent();
    // In two pieces that end in the middle of the batch.
    let mut heard = Vec::new();
    for piece in [&bytes[..500], &bytes[500..]] {
        pair.b.receive(pair.now, piece);
        heard.extend(std::iter::from_fn(|| pair.b.next(pair.now)));
        pair.b.check_invariants();
    }
    let opaques: Vec<_> = heard
        .iter()
        .map(|event| match event {
            Event::Request(inbound) => inbound.owed.opaque,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(opaques, (0..52).collect::<Vec<_>>());
}

/// All that comes out of pieces of a stream, or why it ends; by few steps where that can be or by all, which must be the same.
fn read(pieces: &[&[u8]]) -> Result<Vec<Message>, CloseReason> {
    let read = read_by(pieces, false);
    assert_eq!(read_by(pieces, true), read);
    read
}

fn read_by(pieces: &[&[u8]], by_few_steps: bool) -> Result<Vec<Message>, CloseReason> {
    let mut input = Input::new();
    let mut messages = Vec::new();
    for piece in pieces {
        input.take(piece);
        loop {
            if by_few_steps {
                while let Some(header) = input.next_batched(MESSAGE_BYTES_MAX) {
                    messages.push((header, input.body().to_vec()));
                    input.check_invariants(MESSAGE_BYTES_MAX);
                }
            }
            let Some(header) = input.next_frame(BODY_BYTES_MAX)? else { break };
            if let Some(header) = input.assemble(header, MESSAGE_BYTES_MAX)? {
                messages.push((header, input.body().to_vec()));
            }
            input.check_invariants(MESSAGE_BYTES_MAX);
        }
    }
    Ok(messages)
}

/// The frames of a stream, each with its body.
fn frames(mut bytes: &[u8]) -> Vec<Message> {
    let mut frames = Vec::new();
    while let Ok(Decoded::Frame { header, frame_bytes }) = wire::decode(bytes, BODY_BYTES_MAX) {
        frames.push((header, bytes[HEADER_BYTES..frame_bytes - CHECKSUM_BYTES].to_vec()));
        bytes = &bytes[frame_bytes..];
    }
    assert!(bytes.is_empty(), "whole frames only");
    frames
}

fn message(opaque: u64, kind: Kind, body_bytes: usize) -> Message {
    let body = (0..body_bytes).map(|index| mix(opaque + index as u64).to_le_bytes()[0]).collect();
    (Header { opaque, ..Header::new(kind, Epoch(3)) }, body)
}

/// What a link would send of messages, a few turns of them.
fn written(messages: &[Message], turn: usize) -> Vec<u8> {
    let (mut output, mut bytes) = (Output::default(), Vec::new());
    for messages in messages.chunks(turn) {
        for (header, body) in messages {
            match header.kind {
                Kind::Request | Kind::Response => output.append_message(*header, body),
                _ => output.append(*header, body),
            }
        }
        while let Some(sent) = output.take(Micros(0), Epoch(3), Vec::new()) {
            bytes.extend(sent);
            output.sent();
        }
    }
    bytes
}

proptest! {
    #[test]
    fn what_is_written_together_is_read_as_it_was_in_any_pieces(
        sizes in prop::collection::vec((0..5_u8, 0..9_000_usize), 1..120),
        long in prop::option::of(0..700_000_usize),
        turn in 1..60_usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let sizes = sizes.into_iter().map(|(kind, bytes)| (kind, if kind < 3 { bytes % 100 } else { bytes }));
        let mut messages: Vec<_> = sizes.zip(0..).map(|((kind, bytes), opaque)| match kind {
            0 => message(opaque, Kind::Heartbeat, 0),
            1 | 3 => message(opaque, Kind::Response, bytes),
            _ => message(opaque, Kind::Request, bytes),
        }).collect();
        messages.extend(long.map(|bytes| message(1_000, Kind::Request, bytes)));
        let bytes = written(&messages, turn);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let pieces: Vec<_> =
            starts.zip(cuts.iter().copied().chain([bytes.len()])).map(|(start, end)| &bytes[start..end]).collect();
        prop_assert!(read(&pieces) == Ok(messages), "not what was written");
        for (header, body) in frames(&bytes) {
            prop_assert!(header.kind != Kind::Batch || body.len() <= BATCH_BYTES_MAX);
        }
    }

    /// Under a checksum that fits.
    #[test]
    fn a_batch_of_anything_is_read_or_refused(
        messages in prop::collection::vec((1..12_u8, 0..40_usize), 0..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut_bytes in 0..3_usize,
    ) {
        let mut body = Vec::new();
        for (kind, bytes) in messages {
            let (header, content) = message(7, Kind::Request, bytes);
            let mut frame = Vec::new();
            wire::encode(&header, &content, &mut frame);
            frame.truncate(frame.len() - CHECKSUM_BYTES);
            frame[4] = kind;
            body.extend(frame);
        }
        body.truncate(body.len().saturating_sub(cut_bytes));
        if !body.is_empty() {
            changes.iter().for_each(|(index, byte)| *index.get_mut(&mut body) = *byte);
        }
        let mut bytes = Vec::new();
        wire::encode(&Header::new(Kind::Batch, Epoch(3)), &body, &mut bytes);
        match read(&[&bytes]) {
            Ok(messages) => {
                let read_bytes: usize = messages.iter().map(|(_, body)| HEADER_BYTES + body.len()).sum();
                prop_assert_eq!(read_bytes, body.len());
            }
            Err(reason) => prop_assert!(matches!(reason, CloseReason::Garbled(_)), "{:?}", reason),
        }
    }
}

#[test]
fn requests_of_a_batch_take_credit_each() {
    let mut pair = Pair::up();
    let mut bytes = Vec::new();
    let mut batch = OpenBatch::begin(&mut bytes);
    for opaque in 0..=u64::from(ROOMY.operations) {
        let (header, body) = message(opaque, Kind::Request, 7);
        batch.add(&Header { detail: 1, ..header }, &body, &mut bytes);
    }
    batch.seal(Epoch(3), &mut bytes);
    pair.b.receive(pair.now, &bytes);
    for _ in 0..ROOMY.operations {
        assert!(matches!(pair.b.next(pair.now), Some(Event::Request(_))));
    }
    let refused = Event::Closed { reason: CloseReason::CreditExceeded, was_up: true };
    assert_eq!(pair.b.next(pair.now), Some(refused));
}

fn speaking(node: &str, highest: u8) -> Identity {
    Identity { versions: Versions { highest, ..wire::VERSIONS }, ..identity(node) }
}

#[test]
fn a_node_of_the_version_before_is_told_of_no_reads() {
    for [of_a, of_b] in [[3, 2], [2, 3], [2, 2], [3, 3]] {
        let mut pair = Pair::of(speaking("a", of_a), speaking("b", of_b), expected("b"));
        pair.run();
        let knows = [of_a, of_b] == [3, 3];
        assert_eq!(pair.a.send_touches(b"\x01\x01k"), knows, "{of_a} and {of_b}");
        let sent = pair.a.take_output(pair.now, Vec::new());
        assert_eq!(sent.is_some(), knows);
        sent.into_iter().for_each(|bytes| pair.b.receive(pair.now, &bytes));
        let heard: Vec<_> = std::iter::from_fn(|| pair.b.next(pair.now)).collect();
        assert_eq!(heard.contains(&Event::Touches), knows, "{heard:?}");
        assert!(pair.b.is_up());
    }
}

#[test]
fn reads_that_the_other_side_may_not_tell_of_end_the_link() {
    for [of_a, of_b] in [[3, 2], [2, 3]] {
        let mut pair = Pair::of(speaking("a", of_a), speaking("b", of_b), expected("b"));
        pair.run();
        let mut bytes = Vec::new();
        wire::encode(&Header::new(Kind::Touches, Epoch(3)), b"\x01\x01k", &mut bytes);
        pair.b.receive(pair.now, &bytes);
        let reason = CloseReason::Unexpected(Kind::Touches);
        assert_eq!(pair.b.next(pair.now), Some(Event::Closed { reason, was_up: true }));
    }
}

#[test]
fn nobody_is_told_of_reads_while_much_waits_to_be_sent() {
    let mut pair = Pair::up();
    assert!(pair.a.send_touches(b"\x01\x01k"));
    pair.a.send_replica(&vec![0; OUTPUT_STALL_BYTES]);
    assert!(!pair.a.send_touches(b"\x01\x01k"));
}
