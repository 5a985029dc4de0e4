//! How long calls take against a running server: `cargo run --release -p slabring-client --example measure -- HOST:PORT`.

use std::time::{Duration, Instant};

use slabring_client::{Client, Options, Servers, Ttl, Wire};

/// How long each kind of call is repeated.
const SPAN: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11211".to_owned());
    for wire in [Wire::Text, Wire::Meta] {
        let mut options = Options::default();
        options.wire = wire;
        let client = Client::new(&Servers::one(&server)?, options);
        let keys: Vec<_> = (0..1_000).map(|n| format!("measure:{n}")).collect();
        for key in &keys {
            client.set(key, vec![b'v'; 32], Ttl::After(Duration::from_secs(60)))?;
        }
        let mut next = keys.iter().cycle();
        measure(&format!("{wire:?}, get"), 1, || client.get(next.next().expect("it is endless")).is_ok());
        for count in [10, 100, 1_000] {
            let keys = &keys[..count];
            measure(&format!("{wire:?}, get of {count}"), count, || {
                client.get_many(keys).iter().all(Result::is_ok)
            });
        }
    }
    Ok(())
}

/// Prints time per call and keys per second.
fn measure(what: &str, keys: usize, mut call: impl FnMut() -> bool) {
    let (start, mut calls) = (Instant::now(), 0_u32);
    while start.elapsed() < SPAN {
        assert!(call(), "the server fails");
        calls += 1;
    }
    let seconds = start.elapsed().as_secs_f64() / f64::from(calls);
    let keys = f64::from(u32::try_from(keys).expect("a thousand at most"));
    println!("{what:<20} {:>9.1} us {:>10.0} keys/s", seconds * 1e6, keys / seconds);
}
