//! The binary `slabring-load`: [`slabring_load::main`] with the words of the command line.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    slabring_load::main(&words)
}
