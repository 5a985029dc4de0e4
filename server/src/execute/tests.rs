use slabring_engine::Config;
use slabring_protocol::{Limits, Parser, Step};

use super::*;
use crate::attention::SAMPLED_OF;
use crate::lending::LENT_BYTES_MIN;
use crate::report::{Answer, Question, ShardReport};

const NOW: Seconds = Seconds(1_000);

type Get = fn(&mut Executor, &mut Vec<u8>);

fn executor() -> Executor {
    Executor::alone(Shard::new(&Config::with_memory(4 << 20)).unwrap())
}

fn hot_list(executor: &mut Executor) -> String {
    executor.end_second(NOW);
    let mut text = Vec::new();
    match executor.answer(NOW, Question::HotKeys, &mut Vec::new()) {
        Answer::HotKeys(list) => list.render(&mut text),
        _ => panic!("not what was asked"),
    }
    String::from_utf8(text).unwrap()
}

/// Each of the ways that a get may take, 6400 times.
#[test]
fn whichever_way_a_get_takes_its_key_is_seen_to_be_hot() {
    let ways: [(&str, Get); 4] = [
        ("of lines", |executor, out| {
            let hash = executor.shard().hash_of(b"key");
            executor.get_lending(NOW, &Request::get(b"key", false), hash, 0, out);
        }),
        ("plain", |executor, out| {
            let hash = executor.shard().hash_of(b"key");
            let plain = Plain { key: b"key", work: PlainWork::Get };
            executor.execute_plain(NOW, &plain, hash, 0, out);
        }),
        ("lending", |executor, out| {
            executor.execute_lending(NOW, &Request::get(b"key", false), 0, out);
        }),
        ("any", |executor, out| executor.execute(NOW, &Request::get(b"key", false), 0, out)),
    ];
    for (way, get) in ways {
        let mut executor = executor();
        for _ in 0..100 * SAMPLED_OF {
            get(&mut executor, &mut Vec::new());
        }
        let shown = hot_list(&mut executor);
        assert!(shown.contains("hot:1:key key\r\n"), "{way}: {shown}");
    }
}

#[test]
fn a_reset_of_the_counters_leaves_what_there_is_now() {
    let mut executor = executor();
    let traffic = &mut executor.traffic;
    (traffic.peer_links, traffic.forwards_pending, traffic.buffer_bytes) = (1, 2, 3);
    (traffic.peer_links_lost, traffic.bytes_read) = (4, 5);
    executor.execute(NOW, &Request::get(b"key", false), 0, &mut Vec::new());
    assert_eq!(executor.report().commands.get_misses, 1);
    executor.answer(NOW, Question::ResetCounters, &mut Vec::new());
    let ShardReport { commands, traffic, .. } = executor.report();
    let left = Traffic { peer_links: 1, forwards_pending: 2, buffer_bytes: 3, ..Traffic::default() };
    assert_eq!((commands, traffic), (CommandCounters::default(), left));
}

#[test]
fn a_value_that_would_be_lent_is_copied_between_its_line_and_the_end() {
    let mut executor = executor();
    for bytes in [0, 1, LENT_BYTES_MIN - 1, LENT_BYTES_MIN, 300_000] {
        let value = "x".repeat(bytes);
        let line = format!("set key 5 0 {bytes}\r\n{value}\r\n");
        let Step::Request { request, .. } = Parser::default().next(line.as_bytes(), &Limits::default())
        else {
            panic!("a set of {bytes} bytes")
        };
        let (mut out, mut reply) = (Vec::new(), b"before".to_vec());
        executor.execute(NOW, &request, 0, &mut out);
        let hash = executor.shard().hash_of(b"key");
        executor.get_line(NOW, b"key", hash, 0, &mut reply);
        let expected = format!("beforeVALUE key 5 {bytes}\r\n{value}\r\nEND\r\n");
        assert!(reply == expected.as_bytes(), "{bytes} bytes");
        assert_eq!(executor.shard().memory().held, 0);
    }
}
