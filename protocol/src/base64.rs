//! Base64 for keys (RFC 4648, padded). Decoding is into a caller's fixed buffer: no allocation, no longer inputs.
//!
//! memcached skips characters outside the alphabet; two spellings of one key would then route to different nodes
//! in a client that hashes what it sends, so here they are refused. Unused low bits of the last character are ignored.

use crate::limits::KEY_SIZE_MAX;

/// Marks a byte that is not in the alphabet. Every valid value is below 64.
const INVALID: u8 = 0xff;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static VALUES: [u8; 256] = values();

/// Size of the key `token` stands for, in bytes, or `None` if it is not the base64 form of a key. O(length).
pub(crate) fn decoded_size(token: &[u8]) -> Option<usize> {
    if token.is_empty() || token.len() > KEY_SIZE_MAX || !token.len().is_multiple_of(4) {
        return None;
    }
    let digits = trim_padding(token)?;
    let valid = digits.iter().all(|&byte| VALUES[usize::from(byte)] != INVALID);
    valid.then_some(digits.len() * 3 / 4)
}

/// Decodes `token` into the front of `scratch` and returns that part, or `None` as [`decoded_size`]. O(length).
pub(crate) fn decode<'s>(token: &[u8], scratch: &'s mut [u8; KEY_SIZE_MAX]) -> Option<&'s [u8]> {
    let size = decoded_size(token)?;
    for (four, three) in token.chunks_exact(4).zip(scratch.chunks_mut(3)) {
        // Padding decodes as zero bits, which `size` then leaves out.
        let bits =
            four.iter().fold(0, |bits: u32, &byte| bits << 6 | u32::from(VALUES[usize::from(byte)] & 63));
        let [_, decoded @ ..] = bits.to_be_bytes();
        three.copy_from_slice(&decoded);
    }
    scratch.get(..size)
}

/// Appends the padded form of `key`. O(length).
pub(crate) fn append(out: &mut Vec<u8>, key: &[u8]) {
    for three in key.chunks(3) {
        let byte = |at: usize| three.get(at).map_or(0, |&byte| u32::from(byte));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            // The first `n` bytes fill `n` characters and a part of the next.
            out.push(if at > three.len() { b'=' } else { digit(bits >> (18 - 6 * at)) });
        }
    }
}

fn digit(bits: u32) -> u8 {
    ALPHABET[usize::try_from(bits & 63).expect("six bits")]
}

/// Drops up to two `=`; `None` for more.
fn trim_padding(token: &[u8]) -> Option<&[u8]> {
    let size = token.len() - token.iter().rev().take_while(|&&byte| byte == b'=').count();
    (token.len() - size <= 2).then(|| &token[..size])
}

const fn values() -> [u8; 256] {
    let mut values = [INVALID; 256];
    let mut value = 0;
    while value < 64_u8 {
        values[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    values
}

/// Every whole group of a longest token has its three bytes in the scratch.
const _: () = assert!(KEY_SIZE_MAX / 4 * 3 <= KEY_SIZE_MAX);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obvious twin: bit by bit, into a vector.
    pub(crate) fn encode(key: &[u8]) -> Vec<u8> {
        let bits: Vec<u8> =
            key.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
        let mut token: Vec<u8> = bits
            .chunks(6)
            .map(|six| (0..6).fold(0, |value, at| value << 1 | usize::from(*six.get(at).unwrap_or(&0))))
            .map(|value| ALPHABET[value])
            .collect();
        token.resize(token.len().next_multiple_of(4), b'=');
        token
    }

    #[track_caller]
    fn check(token: &str, expected: Option<&[u8]>) {
        let mut scratch = [0; KEY_SIZE_MAX];
        assert_eq!(decode(token.as_bytes(), &mut scratch), expected, "{token:?}");
        assert_eq!(decoded_size(token.as_bytes()), expected.map(<[u8]>::len), "{token:?}");
    }

    #[test]
    fn vectors_of_rfc_4648_decode() {
        check("Zg==", Some(b"f"));
        check("Zm8=", Some(b"fo"));
        check("Zm9v", Some(b"foo"));
        check("Zm9vYg==", Some(b"foob"));
        check("Zm9vYmE=", Some(b"fooba"));
        check("Zm9vYmFy", Some(b"foobar"));
        check("AP+/", Some(b"\x00\xff\xbf"));
    }

    #[test]
    fn anything_else_is_refused() {
        for token in ["", "Z", "Zg", "Zg=", "====", "Z===", "Zg==Zg==", "Z=g=", "Zm9v\n", "Zm-_", "Zm9 "] {
            check(token, None);
        }
        check(&"A".repeat(KEY_SIZE_MAX + 2), None);
    }

    proptest! {
        #[test]
        fn every_key_survives_the_way_there_and_back(key in proptest::collection::vec(any::<u8>(), 1..=186)) {
            let mut scratch = [0; KEY_SIZE_MAX];
            prop_assert_eq!(decode(&encode(&key), &mut scratch), Some(&key[..]));
            let mut token = Vec::new();
            append(&mut token, &key);
            prop_assert_eq!(token, encode(&key));
        }

        #[test]
        fn no_bytes_at_all_panic(token in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut scratch = [0; KEY_SIZE_MAX];
            let decoded = decode(&token, &mut scratch).map(<[u8]>::len);
            prop_assert_eq!(decoded, decoded_size(&token));
        }
    }
}
