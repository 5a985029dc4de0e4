//! The binary against a real memcached, where one is installed.

#[path = "server/mod.rs"]
mod server;

use std::process::Command;

use server::Memcached;

fn load(memcached: &Memcached, options: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_slabring-load"))
        .args(options.split_whitespace())
        .args(["--json", memcached.address()])
        .output()
        .expect("the binary runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{options}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn every_stored_value_comes_back_right_at_any_size_and_in_any_number() {
    let Some(memcached) = Memcached::start() else { return };
    for options in [
        "--keys 1000",
        "--keys 1000 --value-size 0-3000 -d 8",
        "--keys 500 --key-size 250 --multiget 100 -d 2 -c 4",
        "--keys 20 --value-size 500000 -c 3",
        "--keys 1000 --ratio 1:1 --value-size 10-200 -t 2 -d 16 --distribution zipf:0.99",
        "--keys 1000 --rate 5000 --poisson --io epoll",
    ] {
        let result = load(&memcached, &format!("--requests 3000 --prefill --verify {options}"));
        assert_eq!(result["operations"], 3000, "{options}");
        for nothing in ["misses", "wrong_values", "errors"] {
            assert_eq!(result[nothing], 0, "{options}: {nothing}");
        }
    }
}

#[test]
fn what_was_prefilled_is_touched_and_counted_with_in_every_protocol() {
    let Some(memcached) = Memcached::start() else { return };
    let mix = "--mix get:1,touch:2,incr:2,decr:1 --requests 2000 --keys 100";
    for protocol in ["text", "meta", "binary"] {
        let empty = load(&memcached, &format!("--protocol {protocol} --key-size 30 {mix}"));
        let told = "no decr, no get, no incr, no touch found its key: use --prefill to measure hits";
        let warnings = empty["warnings"].as_array().expect("a list");
        assert!(warnings.iter().any(|warning| warning == told), "{protocol}: {warnings:?}");
        let result = load(&memcached, &format!("--protocol {protocol} --prefill {mix}"));
        // Values, and counters.
        assert_eq!(result["prefilled_keys"], 200, "{protocol}");
        for kind in ["get", "touch", "incr", "decr"] {
            assert_eq!(result["kinds"][kind]["hits"], result["kinds"][kind]["answers"], "{protocol} {kind}");
        }
        for warning in result["warnings"].as_array().expect("a list") {
            assert!(!warning.as_str().expect("words").contains("found"), "{protocol}: {warning}");
        }
    }
}

#[test]
fn a_timed_run_takes_its_time_and_measures_every_request() {
    let Some(memcached) = Memcached::start() else { return };
    let result = load(&memcached, "--duration 0.5 --prefill --keys 1000 --ratio 1:4");
    let seconds = result["seconds"].as_f64().expect("a number");
    // It ends with the last answer, for which it waits.
    assert!((0.4..30.0).contains(&seconds), "{seconds}");
    assert_eq!(result["latency"]["all"]["count"], result["operations"]);
    assert!(result["operations"].as_u64() > Some(100));
}
