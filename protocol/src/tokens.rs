//! A line cut at its spaces. No meaning, no allocation.

use memchr::{memchr, memrchr};

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
        let (token, rest) = text.split_at(memchr(b' ', text).unwrap_or(text.len()));
        self.rest = rest;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
