//! A line cut at its spaces. No meaning, no allocation.

use memchr::{memchr, memrchr};

const WORD_BYTES: usize = 8;
/// Behind so many bytes a key is long enough for a call that looks at many at once.
const LOOKED_AT_HERE_BYTES: usize = 32;

/// The tokens of a line: what stands between runs of spaces. Only a space separates, as in memcached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    /// What follows the tokens taken so far, its leading spaces included.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The last token left, `None` if only spaces are. O(1) but for trailing spaces.
    pub(crate) fn last_left(&self) -> Option<&'a [u8]> {
        let end = self.rest.iter().rposition(|&byte| byte != b' ')? + 1;
        let text = &self.rest[..end];
        let start = memrchr(b' ', text).map_or(0, |space| space + 1);
        Some(&text[start..])
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.rest.iter().position(|&byte| byte != b' ')?;
        let text = &self.rest[start..];
        let (token, rest) = text.split_at(find_space(text).unwrap_or(text.len()));
        self.rest = rest;
        Some(token)
    }
}

/// Where the first space is. Most tokens are short, so the first bytes are looked at here: a call costs more than they do.
#[inline]
fn find_space(text: &[u8]) -> Option<usize> {
    let mut before = 0;
    let mut rest = text;
    while let Some((word, behind)) = rest.split_first_chunk() {
        if let Some(at) = find_space_in_word(*word) {
            return Some(before + at);
        }
        if before >= LOOKED_AT_HERE_BYTES {
            return memchr(b' ', behind).map(|at| before + WORD_BYTES + at);
        }
        before += WORD_BYTES;
        rest = behind;
    }
    rest.iter().position(|&byte| byte == b' ').map(|at| before + at)
}

/// All bytes at once: what is zero after the exclusive or is the only byte below the first borrow.
#[inline]
fn find_space_in_word(word: [u8; WORD_BYTES]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let difference = u64::from_le_bytes(word) ^ (ONES * u64::from(b' '));
    let zeros = difference.wrapping_sub(ONES) & !difference & (ONES << 7);
    (zeros != 0).then(|| zeros.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_space_is_where_a_loop_finds_it(text in "[ !a\u{0}\u{7f}\u{a0}]{0,90}") {
            let text = text.as_bytes();
            prop_assert_eq!(find_space(text), text.iter().position(|&byte| byte == b' '));
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let tokens: Vec<_> =
            Tokens::new(text.as_bytes()).map(|token| str::from_utf8(token).unwrap()).collect();
        assert_eq!(tokens, expected);
        let last = Tokens::new(text.as_bytes()).last_left().map(|token| str::from_utf8(token).unwrap());
        assert_eq!(last, expected.last().copied());
    }

    #[test]
    fn runs_of_spaces_separate_like_one() {
        check("", &[]);
        check("   ", &[]);
        check("a", &["a"]);
        check("  a   bc d  ", &["a", "bc", "d"]);
    }

    #[test]
    fn tabs_and_control_characters_belong_to_their_token() {
        check("a\tb c\x01", &["a\tb", "c\x01"]);
    }
}
