//! The parser on whole requests that are already in memory.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slabring_protocol::client::{self, ReplyParser, ReplyStep};
use slabring_protocol::{Limits, Parser, Step};

const KEY: &[u8] = b"k000000000012345";
const VALUE: [u8; 32] = [b'v'; 32];
const MULTI_GET_KEYS: u32 = 100;

/// Takes all steps of `input`. Returns how many there were.
fn steps(input: &[u8]) -> usize {
    let (mut parser, limits) = (Parser::default(), Limits::default());
    let (mut rest, mut count) = (input, 0);
    while !rest.is_empty() {
        let Step::Request { request, consumed } = parser.next(rest, &limits) else { panic!("a bad request") };
        black_box(request);
        rest = &rest[consumed..];
        count += 1;
    }
    count
}

fn replies(input: &[u8]) {
    let mut parser = ReplyParser::default();
    let mut rest = input;
    while !rest.is_empty() {
        let ReplyStep::Reply { reply, consumed } = parser.next(rest) else { panic!("a bad reply") };
        black_box(reply);
        rest = &rest[consumed..];
    }
}

fn protocol(c: &mut Criterion) {
    let (mut get, mut set, mut multi_get) = (Vec::new(), Vec::new(), Vec::new());
    client::get(&mut get, KEY);
    client::set(&mut set, KEY, 0, 0, &VALUE);
    client::get_many(&mut multi_get, (0..MULTI_GET_KEYS).map(|_| KEY));
    let hit = [b"VALUE k000000000012345 0 32\r\n", &VALUE[..], b"\r\nEND\r\n"].concat();

    let mut group = c.benchmark_group("protocol");
    group.bench_function("get", |b| b.iter(|| steps(black_box(&get))));
    group.bench_function("set_32", |b| b.iter(|| steps(black_box(&set))));
    group.bench_function("reply_hit_32", |b| b.iter(|| replies(black_box(&hit))));
    group.throughput(Throughput::Elements(u64::from(MULTI_GET_KEYS)));
    group.bench_function("get_100_keys", |b| b.iter(|| steps(black_box(&multi_get))));
    group.finish();
}

criterion_group!(benches, protocol);
criterion_main!(benches);
