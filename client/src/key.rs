//! What may name an item. Checked once, before anything is sent: a key with a space in it would be two words of a
//! command.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use slabring_protocol::KEY_SIZE_MAX;

use crate::options::Wire;

/// Bytes of base64 for each three of a key.
const BASE64_GROUP: usize = 4;

/// The name of an item: 1 to 250 bytes.
///
/// Over [`Wire::Text`] no byte may be a space or a control character. Over [`Wire::Meta`] any byte may be in it; a
/// key that needs it is sent as base64, which leaves room for 186 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<[u8]>);

/// Why some bytes are no key. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    /// No bytes.
    #[error("a key has at least one byte")]
    Empty,
    /// More bytes than a server takes.
    #[error("a key has at most {KEY_SIZE_MAX} bytes on the wire, not {0}")]
    TooLong(usize),
    /// A space or a control character, over the text protocol.
    #[error("the byte {0:#04x} cannot be in a key of the text protocol: use the meta protocol")]
    Byte(u8),
}

impl Key {
    /// Checks a key for a wire. O(length).
    pub(crate) fn new(bytes: &[u8], wire: Wire) -> Result<Self, NotAKey> {
        if bytes.is_empty() {
            return Err(NotAKey::Empty);
        }
        let special = bytes.iter().copied().find(|&byte| is_special(byte));
        let size = match (special, wire) {
            (None, _) => bytes.len(),
            (Some(_), Wire::Meta) => bytes.len().div_ceil(3) * BASE64_GROUP,
            (Some(byte), Wire::Text) => return Err(NotAKey::Byte(byte)),
        };
        if size > KEY_SIZE_MAX {
            return Err(NotAKey::TooLong(size));
        }
        Ok(Self(bytes.into()))
    }

    /// A key that a server names. `None` if it can be none.
    pub(crate) fn of_line(bytes: &[u8]) -> Option<Self> {
        let is_key = !bytes.is_empty() && bytes.len() <= KEY_SIZE_MAX;
        is_key.then(|| Self(bytes.into()))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How a meta command names it, and whether that is base64.
    pub(crate) fn meta_token(&self) -> (Cow<'_, [u8]>, bool) {
        if self.0.iter().any(|&byte| is_special(byte)) {
            (Cow::Owned(STANDARD.encode(&self.0).into_bytes()), true)
        } else {
            (Cow::Borrowed(&self.0), false)
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

fn is_special(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_command_line_is_no_key_of_the_text_protocol() {
        for byte in [b' ', b'\r', b'\n', 0, b'\t', 0x7f] {
            assert_eq!(Key::new(&[b'k', byte], Wire::Text), Err(NotAKey::Byte(byte)));
        }
        assert!(Key::new("schlüssel".as_bytes(), Wire::Text).is_ok());
        assert_eq!(Key::new(b"", Wire::Text), Err(NotAKey::Empty));
        assert_eq!(Key::new(&[b'k'; 251], Wire::Text), Err(NotAKey::TooLong(251)));
        assert!(Key::new(&[b'k'; 250], Wire::Text).is_ok());
    }

    #[test]
    fn the_meta_protocol_takes_any_bytes_as_base64() {
        let key = Key::new(b"a b", Wire::Meta).unwrap();
        assert_eq!(key.meta_token(), (Cow::Borrowed(&b"YSBi"[..]), true));
        assert_eq!(Key::new(b"ab", Wire::Meta).unwrap().meta_token(), (Cow::Borrowed(&b"ab"[..]), false));
        assert!(Key::new(&[b' '; 186], Wire::Meta).is_ok());
        assert_eq!(Key::new(&[b' '; 187], Wire::Meta), Err(NotAKey::TooLong(252)));
    }
}
