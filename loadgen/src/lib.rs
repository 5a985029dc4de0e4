//! What `slabring-load` has that others use too: recorded request sequences.

#![forbid(unsafe_code)]

pub mod trace;
