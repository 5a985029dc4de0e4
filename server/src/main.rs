//! The binary `slabring`. All of it is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    slabring_server::main()
}
