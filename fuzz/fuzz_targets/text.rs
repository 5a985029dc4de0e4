//! Lines of the classic and the meta protocol, in packets. `slabring_protocol::fuzzing` says what must hold.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| slabring_protocol::fuzzing::fuzz_text(data));
