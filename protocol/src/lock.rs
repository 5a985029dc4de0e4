//! `lk`: what a lock is asked for. No replies.
//!
//! ```text
//! lk NAME M<A|R|U|Q> [S<session>] [T<milliseconds>] [W<milliseconds>] [O<opaque>]
//! ```

use crate::errors::ErrorReply;
use crate::limits::{KEY_SIZE_MAX, LOCK_TTL_MS_MAX, LOCK_WAIT_MS_MAX, OPAQUE_SIZE_MAX, SESSION_SIZE_MAX};
use crate::number::parse_u32;
use crate::request::{Command, Request};
use crate::tokens::Tokens;

/// How long a lock is held when nobody says.
const TTL_MS_DEFAULT: u32 = 30_000;

/// What is asked of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockVerb {
    /// `A`: to hold it.
    Acquire,
    /// `R`: to hold it for another while.
    Renew,
    /// `U`: to give it up.
    Release,
    /// `Q`: who holds it.
    Query,
}

/// A lock command; the lock's name is the request's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockCommand {
    /// What is asked.
    pub verb: LockVerb,
    /// `T`: how long it is held, in milliseconds, 1 to [`LOCK_TTL_MS_MAX`].
    pub ttl_ms: u32,
    /// `W`: how long to wait while somebody else holds it, in milliseconds, up to [`LOCK_WAIT_MS_MAX`].
    pub wait_ms: u32,
}

impl LockCommand {
    /// The `S` and the `O` of the request's flags: who asks, empty for a query, and what to send back with its letter.
    pub fn session_and_opaque<'a>(request: &Request<'a>) -> (&'a [u8], &'a [u8]) {
        let mut found = (&b""[..], &b""[..]);
        for token in Tokens::new(request.flags) {
            match token[0] {
                b'S' => found.0 = &token[1..],
                b'O' => found.1 = token,
                _ => {}
            }
        }
        found
    }
}

/// Reads the arguments of `lk`.
pub(crate) fn parse_lock(arguments: &[u8]) -> Result<Request<'_>, ErrorReply> {
    let mut tokens = Tokens::new(arguments);
    let name = tokens.next().filter(|name| name.len() <= KEY_SIZE_MAX);
    let name = name.ok_or(ErrorReply::BadCommandLineFormat)?;
    let flags = tokens.rest();
    let mut seen = 0_u64;
    let (mut verb, mut has_session) = (None, false);
    let (mut ttl_ms, mut wait_ms) = (TTL_MS_DEFAULT, 0);
    for token in tokens {
        let (letter, argument) = (token[0], &token[1..]);
        if !letter.is_ascii_uppercase() {
            return Err(ErrorReply::InvalidFlag);
        }
        let bit = 1 << (letter - b'A');
        if seen & bit != 0 {
            return Err(ErrorReply::DuplicateFlag);
        }
        seen |= bit;
        let number = |range: std::ops::RangeInclusive<u32>| {
            parse_u32(argument).filter(|number| range.contains(number)).ok_or(ErrorReply::BadToken)
        };
        match letter {
            b'M' => verb = Some(parse_verb(argument)?),
            b'T' => ttl_ms = number(1..=LOCK_TTL_MS_MAX)?,
            b'W' => wait_ms = number(0..=LOCK_WAIT_MS_MAX)?,
            b'S' if (1..=SESSION_SIZE_MAX).contains(&argument.len()) => has_session = true,
            b'S' => return Err(ErrorReply::BadToken),
            b'O' if token.len() <= OPAQUE_SIZE_MAX => {}
            b'O' => return Err(ErrorReply::OpaqueTooLong),
            _ => return Err(ErrorReply::InvalidFlag),
        }
    }
    let verb = verb.ok_or(ErrorReply::BadCommandLineFormat)?;
    if verb != LockVerb::Query && !has_session {
        return Err(ErrorReply::BadCommandLineFormat);
    }
    let command = Command::Lock(LockCommand { verb, ttl_ms, wait_ms });
    Ok(Request { flags, ..Request::keyed(command, name) })
}

fn parse_verb(argument: &[u8]) -> Result<LockVerb, ErrorReply> {
    match argument {
        b"A" => Ok(LockVerb::Acquire),
        b"R" => Ok(LockVerb::Renew),
        b"U" => Ok(LockVerb::Release),
        b"Q" => Ok(LockVerb::Query),
        _ => Err(ErrorReply::BadToken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &str) -> Result<(LockVerb, u32, u32), ErrorReply> {
        let request = parse_lock(arguments.as_bytes())?;
        let Command::Lock(LockCommand { verb, ttl_ms, wait_ms }) = request.command else { panic!() };
        assert_eq!(request.key, b"name");
        Ok((verb, ttl_ms, wait_ms))
    }

    #[test]
    fn each_verb_is_read_with_its_times() {
        assert_eq!(parsed("name MA Sme T5000 W100 O7"), Ok((LockVerb::Acquire, 5000, 100)));
        assert_eq!(parsed("name MR Sme"), Ok((LockVerb::Renew, TTL_MS_DEFAULT, 0)));
        assert_eq!(parsed("name Sme MU"), Ok((LockVerb::Release, TTL_MS_DEFAULT, 0)));
        assert_eq!(parsed("name MQ"), Ok((LockVerb::Query, TTL_MS_DEFAULT, 0)));
        let request = parse_lock(b"name MA O7 Sme").unwrap();
        assert_eq!(LockCommand::session_and_opaque(&request), (&b"me"[..], &b"O7"[..]));
    }

    #[test]
    fn what_is_no_lock_command_is_refused_for_its_reason() {
        let long = format!("name MA S{}", "x".repeat(SESSION_SIZE_MAX + 1));
        for (arguments, error) in [
            ("", ErrorReply::BadCommandLineFormat),
            ("name", ErrorReply::BadCommandLineFormat),
            ("name MA", ErrorReply::BadCommandLineFormat),
            ("name MX Sme", ErrorReply::BadToken),
            ("name MA S", ErrorReply::BadToken),
            (&*long, ErrorReply::BadToken),
            ("name MA Sme T0", ErrorReply::BadToken),
            ("name MA Sme T86400001", ErrorReply::BadToken),
            ("name MA Sme W60001", ErrorReply::BadToken),
            ("name MA Sme Sme", ErrorReply::DuplicateFlag),
            ("name MA Sme Z", ErrorReply::InvalidFlag),
            ("name MA Sme q", ErrorReply::InvalidFlag),
        ] {
            assert_eq!(parsed(arguments), Err(error), "{arguments}");
        }
    }
}
