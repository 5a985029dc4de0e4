//! The binary protocol: conversations in packets, against Slabring in every way it runs and against the installed memcached.
//!
//! A packet is written as `opcode [cas=N] [x=extras in hex] [k=key] [v=value]`, numbers in hex but the CAS; a reply
//! as `opcode status cas|- extras key value`, each part that is empty as `-`.

use std::fmt::Write as _;

use slabring_tests::{Connection, Server};

const REQUEST_MAGIC: u8 = 0x80;
const REPLY_MAGIC: u8 = 0x81;
const HEADER_SIZE: usize = 24;
/// What the tables below and the servers are trusted with.
const WRITTEN: &str = "a packet is written as the module says";
const OPAQUE: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

/// A title, packets, and the replies to all of them.
type Conversation = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Opcodes are those of memcached's `protocol_binary.h`; extras of a store are flags and expiry, of a counter delta, initial
/// value and expiry.
const CONVERSATIONS: &[Conversation] = &[
    (
        "gets that miss: loud ones say so, those with a key show it, quiet ones are silent",
        &["00 k=miss", "0c k=miss", "09 k=miss", "0d k=miss", "0a"],
        &["00 01 - - - Not_found", "0c 01 - - miss -", "0a 00 - - - -"],
    ),
    (
        "a value with its flags",
        &["01 x=0000000700000000 k=k v=hello", "00 k=k", "0c k=k", "09 k=k", "0d k=k"],
        &[
            "01 00 cas - - -",
            "00 00 cas 00000007 - hello",
            "0c 00 cas 00000007 k hello",
            "09 00 cas 00000007 - hello",
            "0d 00 cas 00000007 k hello",
        ],
    ),
    (
        "quiet stores are silent but for what went wrong",
        &[
            "11 x=0000000000000000 k=k v=1",
            "12 x=0000000000000000 k=k v=2",
            "13 x=0000000000000000 k=none v=3",
            "02 x=0000000000000000 k=k v=4",
            "03 x=0000000000000000 k=none v=5",
            "00 k=k",
        ],
        &[
            "12 02 - - - Data_exists_for_key.",
            "13 01 - - - Not_found",
            "02 02 - - - Data_exists_for_key.",
            "03 01 - - - Not_found",
            "00 00 cas 00000000 - 1",
        ],
    ),
    (
        "a foreign CAS stores and deletes nothing",
        &[
            "01 x=0000000000000000 k=k v=1",
            "01 cas=999999999 x=0000000000000000 k=k v=2",
            "01 cas=999999999 x=0000000000000000 k=none v=2",
            "04 cas=999999999 k=k",
            "04 k=none",
            "14 k=none",
            "14 k=k",
            "00 k=k",
        ],
        &[
            "01 00 cas - - -",
            "01 02 - - - Data_exists_for_key.",
            "01 01 - - - Not_found",
            "04 02 - - - Data_exists_for_key.",
            "04 01 - - - Not_found",
            "14 01 - - - Not_found",
            "00 01 - - - Not_found",
        ],
    ),
    (
        "counters begin at what they are told and count in eight bytes",
        &[
            "05 x=0000000000000001000000000000000a00000000 k=n",
            "05 x=0000000000000005000000000000000000000000 k=n",
            "06 x=0000000000000003000000000000000000000000 k=n",
            "16 x=0000000000000001000000000000000000000000 k=n",
            "05 x=00000000000000010000000000000001ffffffff k=none",
            "15 x=00000000000000010000000000000001ffffffff k=none",
            "00 k=n",
        ],
        &[
            "05 00 cas - - \\0\\0\\0\\0\\0\\0\\0\\n",
            "05 00 cas - - \\0\\0\\0\\0\\0\\0\\0\\x0f",
            "06 00 cas - - \\0\\0\\0\\0\\0\\0\\0\\x0c",
            "05 01 - - - Not_found",
            "15 01 - - - Not_found",
            "00 00 cas 00000000 - 11",
        ],
    ),
    (
        "text does not count",
        &["01 x=0000000000000000 k=t v=abc", "05 x=0000000000000001000000000000000100000000 k=t"],
        &["01 00 cas - - -", "05 06 - - - Non-numeric_server-side_value_for_incr_or_decr"],
    ),
    (
        "append and prepend",
        &[
            "01 x=0000000500000000 k=k v=b",
            "0e k=k v=c",
            "0f k=k v=a",
            "19 k=k v=d",
            "0e k=none v=x",
            "19 k=none v=x",
            "00 k=k",
        ],
        &[
            "01 00 cas - - -",
            "0e 00 cas - - -",
            "0f 00 cas - - -",
            "0e 05 - - - Not_stored.",
            "19 05 - - - Not_stored.",
            "00 00 cas 00000005 - abcd",
        ],
    ),
    (
        "touch, and get and touch",
        &[
            "01 x=0000000500000000 k=k v=1",
            "1c x=00000064 k=k",
            "1c x=00000064 k=none",
            "1d x=00000064 k=k",
            "1e x=00000064 k=none",
            "23 x=00000064 k=k",
            "24 x=00000064 k=k",
            "23 x=00000064 k=none",
        ],
        &[
            "01 00 cas - - -",
            "1c 00 cas 00000005 - -",
            "1c 01 - - - Not_found",
            "1d 00 cas 00000005 - 1",
            "23 00 cas 00000005 k 1",
            "24 00 cas 00000005 k 1",
            "23 01 - - none -",
        ],
    ),
    (
        "flush, loud and quiet",
        &["01 x=0000000000000000 k=k v=1", "08", "00 k=k", "18", "08 x=00000000", "0a"],
        &["01 00 cas - - -", "08 00 - - - -", "00 01 - - - Not_found", "08 00 - - - -", "0a 00 - - - -"],
    ),
    (
        "statistics end with an empty one",
        &["10 k=reset", "10 k=nonsense", "10 k=detail\\son", "10 k=detail\\sdump", "10 k=detail\\soff"],
        &[
            "10 00 - - - -",
            "10 01 - - - Not_found",
            "10 00 - - - -",
            "10 00 - - detailed END\\r\\n",
            "10 00 - - - -",
            "10 00 - - - -",
        ],
    ),
    ("an unknown operation", &["99"], &["99 81 - - - Unknown_command"]),
    ("quit says goodbye", &["07"], &["07 00 - - - -", "closed"]),
    ("a quiet quit does not", &["17"], &["closed"]),
    (
        "sizes that contradict each other end the connection",
        &["01 k=k v=1"],
        &["01 04 - - - Invalid_arguments", "closed"],
    ),
    ("a get without a key", &["00"], &["00 04 - - - Invalid_arguments", "closed"]),
];

fn packet(text: &str) -> Vec<u8> {
    let mut words = text.split(' ');
    let opcode = u8::from_str_radix(words.next().expect(WRITTEN), 16).expect(WRITTEN);
    let (mut cas, mut extras, mut key, mut value) = (0u64, Vec::new(), Vec::new(), Vec::new());
    for word in words {
        let (name, part) = word.split_once('=').expect(WRITTEN);
        match name {
            "cas" => cas = part.parse().expect(WRITTEN),
            "x" => {
                let digits = part.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect(WRITTEN));
                extras = digits.map(|pair| u8::from_str_radix(pair, 16).expect(WRITTEN)).collect();
            }
            "k" => key = part.replace("\\s", " ").into_bytes(),
            "v" => value = part.as_bytes().to_vec(),
            _ => panic!("{word}"),
        }
    }
    packet_of(opcode, cas, &extras, &key, &value)
}

fn packet_of(opcode: u8, cas: u64, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = u32::try_from(extras.len() + key.len() + value.len()).expect(WRITTEN);
    let key_size = u16::try_from(key.len()).expect(WRITTEN).to_be_bytes();
    let mut bytes = vec![
        REQUEST_MAGIC,
        opcode,
        key_size[0],
        key_size[1],
        u8::try_from(extras.len()).expect(WRITTEN),
        0,
        0,
        0,
    ];
    bytes.extend_from_slice(&body.to_be_bytes());
    bytes.extend_from_slice(&OPAQUE);
    bytes.extend_from_slice(&cas.to_be_bytes());
    [extras, key, value].into_iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// The next reply as text, or `closed`.
fn reply(connection: &mut Connection) -> String {
    let Ok(header) = connection.read_exact(HEADER_SIZE) else { return "closed".into() };
    assert_eq!((header[0], &header[12..16]), (REPLY_MAGIC, &OPAQUE[..]));
    let body = u32::from_be_bytes(header[8..12].try_into().expect(WRITTEN));
    let body = connection.read_exact(usize::try_from(body).expect(WRITTEN)).expect("a whole body");
    let (extras, rest) = body.split_at(usize::from(header[4]));
    let (key, value) = rest.split_at(usize::from(u16::from_be_bytes([header[2], header[3]])));
    let has_cas = header[16..].iter().any(|byte| *byte != 0);
    let mut text = format!("{:02x} {:02x}{:02x}", header[1], header[6], header[7]).replacen(" 00", " ", 1);
    let hex: String = extras.iter().map(|byte| format!("{byte:02x}")).collect();
    let word = |bytes: &[u8]| match bytes.escape_ascii().to_string().replace(' ', "_").replace("\\x00", "\\0")
    {
        empty if empty.is_empty() => "-".to_owned(),
        word => word,
    };
    let extras = if hex.is_empty() { "-".to_owned() } else { hex };
    write!(text, " {} {extras} {} {}", if has_cas { "cas" } else { "-" }, word(key), word(value))
        .expect(WRITTEN);
    text
}

/// Plays everything; in whole conversations, or cut into single bytes.
#[track_caller]
fn check(server: &Server, piece_size: usize) {
    for (title, packets, expected) in CONVERSATIONS {
        assert_eq!(server.connect().command("flush_all"), "OK");
        let mut connection = server.connect();
        let sent: Vec<u8> = packets.iter().flat_map(|text| packet(text)).collect();
        for piece in sent.chunks(piece_size) {
            // It may have closed already.
            if connection.send(piece).is_err() {
                break;
            }
        }
        let got: Vec<String> = expected.iter().map(|_| reply(&mut connection)).collect();
        assert_eq!(got, *expected, "{title}, in pieces of {piece_size}: {}", server.stderr());
    }
}

#[track_caller]
fn check_slabring(threads: &str, io: &str) {
    let Some(server) = Server::start_over(io, &["-t", threads]) else { return };
    check(&server, usize::MAX);
    check(&server, 1);
    check(&server, 7);
}

#[test]
fn memcached_answers_packets_as_written() {
    let Some(server) = Server::memcached(&["-t", "1"]) else { return };
    check(&server, usize::MAX);
}

#[test]
fn one_shard_answers_packets_as_written() {
    check_slabring("1", "uring");
}

#[test]
fn three_shards_answer_packets_as_written() {
    check_slabring("3", "uring");
    check_slabring("3", "epoll");
}

#[test]
fn large_values_and_quiet_gets_over_all_shards_stay_in_order() {
    let server = Server::start(&["-t", "3"]).expect("slabring starts");
    let mut connection = server.connect();
    let key = |number: usize| format!("key{number}").into_bytes();
    let value = |number: usize| vec![b'a' + u8::try_from(number % 26).unwrap(); 1 + number * 9_000];
    let sets = (0..100).flat_map(|number| packet_of(0x11, 0, &[0; 8], &key(number), &value(number)));
    let gets = (0..200).flat_map(|number| packet_of(0x0d, 0, &[], &key(number), &[]));
    let noop = packet_of(0x0a, 0, &[], &[], &[]);
    let sent: Vec<u8> = sets.chain(gets).chain(noop).collect();
    std::thread::scope(|scope| {
        let stream = connection.stream().try_clone().unwrap();
        scope.spawn(move || std::io::Write::write_all(&mut &stream, &sent).unwrap());
        for number in 0..100 {
            let text = reply(&mut connection);
            let value = String::from_utf8(value(number)).unwrap();
            assert!(text == format!("0d 00 cas 00000000 key{number} {value}"), "{number}: {text:.80}");
        }
        assert_eq!(reply(&mut connection), "0a 00 - - - -");
    });
}

#[test]
fn a_value_over_the_limit_is_swallowed_and_the_old_one_goes() {
    let server = Server::start(&["-t", "2"]).expect("slabring starts");
    let mut connection = server.connect();
    let too_large = vec![b'x'; 1_100_000];
    connection.send(packet_of(0x01, 0, &[0; 8], b"k", b"old")).unwrap();
    connection.send(packet_of(0x01, 0, &[0; 8], b"k", &too_large)).unwrap();
    connection.send(packet_of(0x00, 0, &[], b"k", &[])).unwrap();
    let got: Vec<_> = (0..3).map(|_| reply(&mut connection)).collect();
    assert_eq!(got, ["01 00 cas - - -", "01 03 - - - Too_large.", "00 01 - - - Not_found"]);
}

#[test]
fn every_kind_of_statistics_comes_in_packets() {
    let server = Server::start(&["-t", "2"]).expect("slabring starts");
    let mut connection = server.connect();
    connection.send(packet("01 x=0000000000000000 k=k v=1")).unwrap();
    reply(&mut connection);
    for (topic, wanted) in [
        ("", "curr_items 1"),
        ("settings", "num_threads 2"),
        ("items", "items:1:number 1"),
        ("slabs", "active_slabs 1"),
    ] {
        connection.send(packet_of(0x10, 0, &[], topic.as_bytes(), &[])).unwrap();
        let replies: Vec<_> =
            std::iter::from_fn(|| Some(reply(&mut connection)).filter(|text| text != "10 00 - - - -"))
                .collect();
        assert!(replies.contains(&format!("10 00 - - {wanted}")), "{topic}: {replies:?}");
    }
}
