//! In steady state a load allocates nothing: a run of many more requests asks the allocator for as much as a short one.
//!
//! Against a real memcached, a process of its own; said aloud where none is installed.

#![expect(unsafe_code, reason = "an allocator is unsafe to write")]

#[path = "server/mod.rs"]
mod server;

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};

use server::Memcached;

/// Tells this program, started anew, to be the load.
const CHILD_VARIABLE: &str = "ALLOCATION_TEST_CHILD";
const REQUESTS: u64 = 20_000;
/// What a run may ask for once a second, on a machine that has other things to do too, and whatever grows to the size that the
/// longest queue needs. One allocation in forty requests would be more.
const SPARE: u64 = 2_000;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        check_all();
        return ExitCode::SUCCESS;
    }
    let code = slabring_load::main(&words);
    eprintln!("{}", ALLOCATIONS.load(Ordering::Relaxed));
    code
}

/// Allocations of one whole run, in a process of its own.
fn allocations(words: &str, requests: u64, address: &str) -> u64 {
    let output = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(words.split_whitespace())
        .args(["--quiet", "--requests", &requests.to_string(), address])
        .env(CHILD_VARIABLE, "1")
        .output()
        .expect("this program runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {told}");
    told.trim().parse().expect("a count")
}

/// Five times the requests must cost no more allocations.
fn check_all() {
    let Some(memcached) = Memcached::start() else { return };
    let everything = "--mix get:40,gets:5,gat:5,set:20,add:5,replace:5,cas:10,delete:5,incr:2,decr:2,touch:1";
    let mut works = Vec::new();
    for io in ["auto", "epoll"] {
        for protocol in ["text", "meta", "binary"] {
            for work in ["", "--ratio 1:0", "--multiget 10", "--verify --ratio 1:1", everything] {
                works.push(format!("--io {io} --protocol {protocol} {work}"));
            }
        }
        works.push(format!("--io {io} --rate 60000 --poisson"));
        works.push(format!("--io {io} --cache-aside --keys 500000 --value-size 1-900 --ttl 1-9"));
    }
    for work in works {
        let words = format!("-c 4 -d 8 --keys 1000 --prefill {work}");
        let short = allocations(&words, REQUESTS, memcached.address());
        let long = allocations(&words, 5 * REQUESTS, memcached.address());
        println!("{short:>6} {long:>6} allocations for {work:?}");
        assert!(
            long < short + SPARE,
            "{work}: {short} for {REQUESTS} requests, {long} for five times as many"
        );
    }
}
