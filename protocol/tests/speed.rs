//! What a request costs to read, measured. Ignored: a number is for a person to look at.
//!
//! `cargo test --release -p slabring-protocol --test speed -- --ignored --nocapture`

use slabring_protocol::{Limits, Parser, Step, client};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 200_000;

/// Reads a batch again and again; the best of ten runs in nanoseconds per request.
fn nanoseconds_per_request(batch: &[u8], requests: u32) -> f64 {
    let rounds = ROUNDS / requests + 1;
    let run = || {
        let start = Instant::now();
        for _ in 0..rounds {
            drain(black_box(batch));
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds) / f64::from(requests)
    };
    (0..10).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn drain(batch: &[u8]) {
    let limits = Limits::default();
    let mut parser = Parser::default();
    let mut rest = batch;
    while !rest.is_empty() {
        let step = parser.next(rest, &limits);
        let Step::Request { request, consumed } = step else { panic!("{step:?}") };
        black_box(&request);
        rest = &rest[consumed..];
    }
}

fn report(name: &str, requests: u32, append: impl Fn(&mut Vec<u8>)) {
    let mut batch = Vec::new();
    (0..requests).for_each(|_| append(&mut batch));
    println!("{name:<28} {:7.1} ns", nanoseconds_per_request(&batch, requests));
}

#[test]
#[ignore = "it measures"]
fn speed_of_reading_requests() {
    let keys: Vec<String> = (0..100).map(|key| format!("object:{key:010}")).collect();
    let key = keys[0].as_bytes();
    report("get, 17-byte key", 64, |out| client::get(out, key));
    report("set, 32-byte value", 64, |out| client::set(out, key, 0, 0, &[b'x'; 32]));
    report("get of 100 keys", 4, |out| client::get_many(out, keys.iter().map(String::as_bytes)));
    report("delete", 64, |out| client::delete(out, key));
    report("mg v", 64, |out| client::meta_get(out, key, b"v"));
    report("mg k v t f c O123", 64, |out| client::meta_get(out, key, b"k v t f c O123"));
    report("ms T60, 32-byte value", 64, |out| client::meta_set(out, key, b"T60", &[b'x'; 32]));
}
