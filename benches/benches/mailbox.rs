//! A letter from one thread to another and back: what a request for another shard's key pays before anything is executed.

use std::hint::{black_box, spin_loop};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slabring_reactor::mailbox::{Receiver, Sender, mailbox};

const CAPACITY: usize = 64;
const LETTERS: u64 = 16;
/// Ends the other thread.
const LAST: u64 = u64::MAX;

fn put(to: &mut Sender<u64>, letter: u64) {
    let mut letter = letter;
    while let Err(back) = to.stage(letter) {
        letter = back;
        spin_loop();
    }
}

fn take(from: &mut Receiver<u64>) -> u64 {
    loop {
        if let Some(letter) = from.take() {
            return letter;
        }
        spin_loop();
    }
}

fn mailboxes(c: &mut Criterion) {
    let mut group = c.benchmark_group("mailbox");
    group.throughput(Throughput::Elements(LETTERS));
    group.bench_function("one_thread", |b| {
        let (mut to, mut from) = mailbox(CAPACITY);
        b.iter(|| {
            (0..LETTERS).for_each(|letter| put(&mut to, black_box(letter)));
            to.publish();
            (0..LETTERS).map(|_| take(&mut from)).sum::<u64>()
        });
    });
    group.bench_function("to_another_thread_and_back", |b| {
        let (mut to, mut there) = mailbox(CAPACITY);
        let (mut back, mut from) = mailbox(CAPACITY);
        let echo = thread::spawn(move || {
            loop {
                let letter = take(&mut there);
                if letter == LAST {
                    return;
                }
                put(&mut back, letter);
                back.publish();
            }
        });
        b.iter(|| {
            (0..LETTERS).for_each(|letter| put(&mut to, black_box(letter)));
            to.publish();
            (0..LETTERS).map(|_| take(&mut from)).sum::<u64>()
        });
        put(&mut to, LAST);
        to.publish();
        echo.join().expect("it only echoes");
    });
    group.finish();
}

criterion_group!(benches, mailboxes);
criterion_main!(benches);
