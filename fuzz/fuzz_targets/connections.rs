//! Clients of every manner over whole shards without sockets. `slabring_server::fuzzing` says what must hold.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| slabring_server::fuzzing::fuzz_connections(data));
