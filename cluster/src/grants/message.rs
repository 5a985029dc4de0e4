//! What owners and holders say to each other, as bytes. `docs/wire.md` has the table.

/// Bytes of the longest key.
const KEY_BYTES_MAX: usize = 250;

/// A value with what a read of it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy<'a> {
    /// The owner's version.
    pub cas: u64,
    /// Client flags.
    pub client_flags: u32,
    /// It has no time to die, so its time to live can be told.
    pub is_for_ever: bool,
    /// The value.
    pub value: &'a [u8],
}

/// One message. The key is what clients call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Owner: you ask for this key often.
    Offer {
        /// The key.
        key: &'a [u8],
    },
    /// Holder: grant it to me.
    Want {
        /// Comes back with the grant.
        ticket: u64,
        /// Reads that the holder answered since it last asked.
        hits: u32,
        /// The key.
        key: &'a [u8],
    },
    /// Owner: read this.
    Grant {
        /// That of the [`Message::Want`].
        ticket: u64,
        /// Rises with each grant of the owner's shard.
        number: u64,
        /// The key.
        key: &'a [u8],
        /// What to read.
        copy: Copy<'a>,
    },
    /// Owner: read it no more, as far as it was granted up to this number.
    Revoke {
        /// That of the last grant.
        number: u64,
        /// The key.
        key: &'a [u8],
    },
    /// Holder: so be it.
    Revoked {
        /// That of the [`Message::Revoke`].
        number: u64,
        /// The key.
        key: &'a [u8],
    },
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message about hot keys")]
pub struct Garbled;

const OFFER: u8 = 1;
const WANT: u8 = 2;
const GRANT: u8 = 3;
const REVOKE: u8 = 4;
const REVOKED: u8 = 5;

const _: () = assert!(KEY_BYTES_MAX <= u8::MAX as usize);

impl Message<'_> {
    /// The same as bytes.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Self::Offer { key } => [&[OFFER], key].concat(),
            Self::Want { ticket, hits, key } => {
                [&[WANT], &ticket.to_le_bytes()[..], &hits.to_le_bytes(), key].concat()
            }
            Self::Grant { ticket, number, key, copy } => {
                let key_bytes = u8::try_from(key.len()).expect("a key has 250 bytes at most");
                let Copy { cas, client_flags, is_for_ever, value } = copy;
                let numbers = [ticket, number, cas].map(u64::to_le_bytes);
                let rest = [u8::from(is_for_ever), key_bytes];
                [&[GRANT], numbers.as_flattened(), &client_flags.to_le_bytes(), &rest, key, value].concat()
            }
            Self::Revoke { number, key } => [&[REVOKE], &number.to_le_bytes()[..], key].concat(),
            Self::Revoked { number, key } => [&[REVOKED], &number.to_le_bytes()[..], key].concat(),
        }
    }
}

/// Reads a message.
///
/// # Errors
/// [`Garbled`]: no message, or one that is cut.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, Garbled> {
    let (&[kind], rest) = bytes.split_first_chunk().ok_or(Garbled)?;
    let message = match kind {
        OFFER => Message::Offer { key: rest },
        WANT => {
            let (ticket, rest) = number(rest)?;
            let (hits, key) = rest.split_first_chunk().ok_or(Garbled)?;
            Message::Want { ticket, hits: u32::from_le_bytes(*hits), key }
        }
        GRANT => return decode_grant(rest),
        REVOKE => {
            let (number, key) = number(rest)?;
            Message::Revoke { number, key }
        }
        REVOKED => {
            let (number, key) = number(rest)?;
            Message::Revoked { number, key }
        }
        _ => return Err(Garbled),
    };
    let (Message::Offer { key }
    | Message::Want { key, .. }
    | Message::Grant { key, .. }
    | Message::Revoke { key, .. }
    | Message::Revoked { key, .. }) = message;
    if (1..=KEY_BYTES_MAX).contains(&key.len()) { Ok(message) } else { Err(Garbled) }
}

fn decode_grant(bytes: &[u8]) -> Result<Message<'_>, Garbled> {
    let (ticket, rest) = number(bytes)?;
    let (number_, rest) = number(rest)?;
    let (cas, rest) = number(rest)?;
    let (client_flags, rest) = rest.split_first_chunk().ok_or(Garbled)?;
    let (&[is_for_ever, key_bytes], rest) = rest.split_first_chunk().ok_or(Garbled)?;
    let (key, value) = rest.split_at_checked(key_bytes.into()).ok_or(Garbled)?;
    if is_for_ever > 1 || !(1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Err(Garbled);
    }
    let client_flags = u32::from_le_bytes(*client_flags);
    let copy = Copy { cas, client_flags, is_for_ever: is_for_ever == 1, value };
    Ok(Message::Grant { ticket, number: number_, key, copy })
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), Garbled> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Garbled)?;
    Ok((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_shorter_is_a_message() {
        let copy = Copy { cas: 1 << 60 | 7, client_flags: 9, is_for_ever: true, value: b"a value" };
        let messages = [
            Message::Offer { key: b"key" },
            Message::Want { ticket: 3, hits: 70_000, key: b"k" },
            Message::Grant { ticket: 3, number: 4, key: b"key", copy },
            Message::Grant { ticket: 3, number: 4, key: &[b'k'; 250], copy: Copy { value: b"", ..copy } },
            Message::Revoke { number: 4, key: b"key" },
            Message::Revoked { number: 4, key: b"key" },
        ];
        for message in messages {
            let bytes = message.encode();
            assert_eq!(decode(&bytes), Ok(message));
            let head =
                bytes.len() - if let Message::Grant { copy, .. } = message { copy.value.len() } else { 0 };
            for short in 0..head {
                // A key may be cut anywhere but in front.
                assert!(decode(&bytes[..short]) != Ok(message), "{short} of {message:?}");
            }
        }
        let too_long = Message::Offer { key: &[b'k'; 251] }.encode();
        for garbage in [&b""[..], b"\x01", b"\x06key", b"\x02key", &too_long] {
            assert_eq!(decode(garbage), Err(Garbled));
        }
    }
}
