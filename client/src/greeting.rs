//! What is said first on a connection to a server that asks who is there: a `set` whose value is name and password.
//!
//! Source: memcached `doc/protocol.txt`, "Authentication".

use crate::command::{Answer, Command, StoreMode, StoreOptions, Stored};
use crate::encode::Context;
use crate::error::Failure;
use crate::exchange::{Exchange, Outcome};
use crate::key::Key;
use crate::options::{Options, Wire};

/// Longest answer to it, in bytes.
const REPLY_SIZE_MAX: usize = 4096;

/// The exchange, if there are credentials.
pub(crate) fn exchange(options: &Options) -> Option<Exchange> {
    let credentials = options.credentials.as_ref()?;
    let command = Command::Store {
        mode: StoreMode::Set,
        key: Key::new(b"auth", Wire::Text).expect("it is a plain word"),
        value: format!("{} {}", credentials.user, credentials.password).into_bytes(),
        options: StoreOptions::default(),
    };
    Some(Exchange::new(vec![command], Context { wire: Wire::Text, unix_seconds: 0 }, REPLY_SIZE_MAX))
}

/// Whether it let us in.
pub(crate) fn judge(exchange: Exchange) -> Result<(), Failure> {
    match exchange.finish().next() {
        Some((_, Outcome::Answered(Answer::Stored(Stored::Stored)))) => Ok(()),
        Some((_, Outcome::Refused { words, .. })) => {
            Err(Failure::Unreachable(format!("it refuses the credentials: {words}")))
        }
        _ => Err(Failure::Unreachable("it does not answer the credentials".to_owned())),
    }
}
