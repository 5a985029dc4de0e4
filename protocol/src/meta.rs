//! The flags of a meta command: read once, checked, kept in a bit set and a few numbers. No replies.

use crate::errors::ErrorReply;
use crate::limits::{META_TOKENS_MAX, OPAQUE_SIZE_MAX};
use crate::number::{parse_i64, parse_u32, parse_u64};
use crate::request::StoreMode;
use crate::tokens::Tokens;

/// The flags of one meta command, without their numbers: it is copied with each request of any kind, so it is small.
///
/// Any command accepts any known letter and ignores what it has no use for, as memcached does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaFlags {
    /// Bit `letter - b'A'` for each flag sent; `z` has bit 57.
    letters: u64,
    /// `M`: first byte of the mode, 0 if the flag was not sent.
    mode: u8,
}

/// The numbers among the flags of one meta command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaNumbers {
    /// `T`: new expiration time as sent.
    pub exptime: Option<i64>,
    /// `N`: create what is missing, with this expiration time.
    pub vivify: Option<i64>,
    /// What was sent last of `N` and `T`: the expiration time of what `mg` or `ma` create.
    last_exptime: Option<i64>,
    /// `R` stands behind `T`.
    recache_is_behind_exptime: bool,
    /// `R`: recache if less than these seconds are left.
    pub recache: Option<i64>,
    /// `C`: the CAS the item must have.
    pub compare: Option<u64>,
    /// `E`: the CAS to give the item.
    pub explicit_cas: Option<u64>,
    /// `D`: by how much to count; 1 unless sent.
    pub delta: u64,
    /// `J`: what a created counter starts at; 0 unless sent.
    pub initial: u64,
    /// `Y`: the fence that the key is written under, above 0. Ours: memcached refuses the letter.
    pub fence: Option<u64>,
    /// `L` with a number: who wants to hear when what is read changes, by [`tracking`](crate::reply::tracking). memcached ignores
    /// whatever stands there.
    pub tracker: Option<u64>,
    /// `F`: client flags; 0 unless sent.
    pub client_flags: u32,
}

/// Tokens of a line that are no flags.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Head {
    /// `mg key`
    Key = 2,
    /// `ms key length`
    KeyAndLength = 3,
}

/// Flags with a number.
const NUMBERED: [u8; 10] = *b"CDEFJLNRTY";

/// Mode of an `M` flag without one.
const MODE_MISSING: u8 = b' ';

impl MetaFlags {
    /// Whether the flag `letter` was sent. O(1).
    pub fn has(&self, letter: u8) -> bool {
        letter.is_ascii_alphabetic() && self.letters & bit(letter) != 0
    }

    /// Whether no other flags were sent than these letters. O(letters).
    pub fn consists_of(&self, letters: &[u8]) -> bool {
        self.letters & !letters.iter().fold(0, |all, &letter| all | bit(letter)) == 0
    }

    /// `q`: hide the nominal answer.
    pub fn quiet(&self) -> bool {
        self.has(b'q')
    }

    /// `b`: the key token is base64.
    pub fn base64(&self) -> bool {
        self.has(b'b')
    }

    /// `M` of an `ms` as the parser let it through; [`StoreMode::Set`] unless sent.
    pub fn store_mode(&self) -> StoreMode {
        self.parse_store_mode().unwrap_or(StoreMode::Set)
    }

    /// `M` of an `ma` as the parser let it through; up unless sent.
    pub fn decrements(&self) -> bool {
        self.parse_decrements().unwrap_or(false)
    }

    /// The fence in flags of a command that has none any more, which the parser let through. O(length).
    pub fn fence_of(flags: &[u8]) -> Option<u64> {
        Tokens::new(flags).find_map(|token| token.strip_prefix(b"Y")).and_then(parse_u64)
    }

    /// Reads the tokens behind `head`. The first bad one decides the refusal. O(length), at most 20 tokens.
    pub(crate) fn parse(flags: &[u8], head: Head) -> Result<(Self, MetaNumbers), ErrorReply> {
        let mut parsed = (Self::default(), MetaNumbers::default());
        for (at, token) in Tokens::new(flags).enumerate() {
            if at + head as usize >= META_TOKENS_MAX {
                return Err(ErrorReply::TooManyFlags);
            }
            parsed.0.add(token, &mut parsed.1)?;
        }
        Ok(parsed)
    }

    /// The numbers of flags that were let through. O(length) if there are any.
    pub(crate) fn numbers(&self, flags: &[u8]) -> MetaNumbers {
        let mut numbers = MetaNumbers::default();
        if NUMBERED.iter().any(|&letter| self.has(letter)) {
            for (letter, argument) in Tokens::new(flags).filter_map(<[u8]>::split_first) {
                numbers.add(*letter, argument).expect("the parser has read them before");
            }
        }
        numbers
    }

    /// As [`MetaFlags::store_mode`], refusing what is no mode.
    pub(crate) fn parse_store_mode(&self) -> Result<StoreMode, ErrorReply> {
        match self.mode {
            0 | b'S' => Ok(StoreMode::Set),
            b'E' => Ok(StoreMode::Add),
            b'A' => Ok(StoreMode::Append),
            b'P' => Ok(StoreMode::Prepend),
            b'R' => Ok(StoreMode::Replace),
            _ => Err(ErrorReply::InvalidStoreMode),
        }
    }

    /// As [`MetaFlags::decrements`], refusing what is no mode.
    pub(crate) fn parse_decrements(&self) -> Result<bool, ErrorReply> {
        match self.mode {
            0 | b'I' | b'+' => Ok(false),
            b'D' | b'-' => Ok(true),
            _ => Err(ErrorReply::InvalidArithmeticMode),
        }
    }

    /// Only `b`, for `me`, which ignores every other flag whatever it looks like.
    pub(crate) fn parse_base64_only(flags: &[u8]) -> Self {
        let sent = Tokens::new(flags).any(|token| token == b"b");
        Self { letters: if sent { bit(b'b') } else { 0 }, ..Self::default() }
    }

    fn add(&mut self, token: &[u8], numbers: &mut MetaNumbers) -> Result<(), ErrorReply> {
        let Some((&letter, argument)) = token.split_first() else { unreachable!("a token is not empty") };
        if !letter.is_ascii_alphanumeric() {
            return Err(ErrorReply::BadCommandLineFormat);
        }
        if self.has(letter) {
            return Err(ErrorReply::DuplicateFlag);
        }
        match letter {
            letter if NUMBERED.contains(&letter) => numbers.add(letter, argument)?,
            b'M' => self.mode = argument.first().copied().unwrap_or(MODE_MISSING),
            b'O' if token.len() > OPAQUE_SIZE_MAX => return Err(ErrorReply::OpaqueTooLong),
            b'b' | b'c' | b'f' | b'h' | b'k' | b'l' | b'q' | b's' | b't' | b'u' | b'v' | b'x' => {}
            b'I' | b'O' | b'P' => {}
            _ => return Err(ErrorReply::InvalidFlag),
        }
        self.letters |= bit(letter);
        Ok(())
    }
}

impl MetaNumbers {
    /// With which expiration time `mg` or `ma` create what is missing; `None` if they are not to. Flags count in their order:
    /// of `N` and `T` the later one gives a new item its time.
    ///
    /// Source: memcached 1.6.45, `process_mget_command`.
    pub fn creation_exptime(&self) -> Option<i64> {
        self.vivify.and(self.last_exptime)
    }

    /// Whether `R` looks at the time that `T` gives, because it stands behind it.
    pub fn recaches_after_touch(&self) -> bool {
        self.recache_is_behind_exptime
    }

    fn add(&mut self, letter: u8, argument: &[u8]) -> Result<(), ErrorReply> {
        match letter {
            b'T' | b'N' => {
                let exptime = Some(parse_i64(argument).ok_or(ErrorReply::BadToken)?);
                *(if letter == b'T' { &mut self.exptime } else { &mut self.vivify }) = exptime;
                self.last_exptime = exptime;
            }
            b'R' => {
                self.recache = Some(parse_i64(argument).ok_or(ErrorReply::BadToken)?);
                self.recache_is_behind_exptime = self.exptime.is_some();
            }
            b'C' => self.compare = Some(parse_u64(argument).ok_or(ErrorReply::BadToken)?),
            b'E' => self.explicit_cas = Some(parse_u64(argument).ok_or(ErrorReply::BadToken)?),
            b'D' => self.delta = parse_u64(argument).ok_or(ErrorReply::InvalidDeltaValue)?,
            b'J' => self.initial = parse_u64(argument).ok_or(ErrorReply::InvalidInitialValue)?,
            b'F' => self.client_flags = parse_u32(argument).ok_or(ErrorReply::BadCommandLineFormat)?,
            b'Y' => {
                let fence = parse_u64(argument).filter(|&fence| fence > 0);
                self.fence = Some(fence.ok_or(ErrorReply::BadToken)?);
            }
            b'L' => self.tracker = parse_u64(argument).filter(|&tracker| tracker > 0),
            _ => {}
        }
        Ok(())
    }
}

impl Default for MetaNumbers {
    fn default() -> Self {
        Self {
            exptime: None,
            vivify: None,
            last_exptime: None,
            recache_is_behind_exptime: false,
            recache: None,
            compare: None,
            explicit_cas: None,
            delta: 1,
            initial: 0,
            fence: None,
            tracker: None,
            client_flags: 0,
        }
    }
}

fn bit(letter: u8) -> u64 {
    assert!(letter.is_ascii_alphabetic());
    1 << (letter - b'A')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str) -> Result<MetaFlags, ErrorReply> {
        let (flags, numbers) = MetaFlags::parse(text.as_bytes(), Head::Key)?;
        assert_eq!(flags.numbers(text.as_bytes()), numbers);
        Ok(flags)
    }

    #[track_caller]
    fn numbers(flags: &str) -> MetaNumbers {
        MetaFlags::parse(flags.as_bytes(), Head::Key).unwrap().1
    }

    #[test]
    fn every_known_letter_is_accepted_by_every_command() {
        let flags = check("b c f h k l q s t u v x I O1 L P T5 N-1").unwrap();
        for letter in b"bcfhklqstuvxIOLPTN" {
            assert!(flags.has(*letter), "{}", char::from(*letter));
        }
        assert!(!flags.has(b'C') && !flags.has(b'R') && !flags.has(b'0') && !flags.has(b'['));
        let text = "R30 C18446744073709551615 E7 D2 J3 F4294967295 MD";
        let sent = numbers(text);
        assert_eq!((sent.recache, sent.compare, sent.explicit_cas), (Some(30), Some(u64::MAX), Some(7)));
        assert_eq!((sent.delta, sent.initial, sent.client_flags), (2, 3, u32::MAX));
        assert!(check(text).unwrap().decrements());
    }

    #[test]
    fn a_new_item_gets_the_later_time_of_the_two() {
        assert_eq!(numbers("T300").creation_exptime(), None);
        assert_eq!(numbers("N30").creation_exptime(), Some(30));
        assert_eq!(numbers("N30 v T300").creation_exptime(), Some(300));
        assert_eq!(numbers("T300 N30 v").creation_exptime(), Some(30));
    }

    #[test]
    fn a_recache_looks_at_the_time_that_a_touch_before_it_gave() {
        assert!(numbers("T30 v R60").recaches_after_touch());
        assert!(!numbers("R60 T30").recaches_after_touch());
        assert!(!numbers("N30 R60").recaches_after_touch());
    }

    #[test]
    fn a_counter_counts_from_nothing_by_one_unless_told() {
        let sent = numbers("");
        assert_eq!((sent.delta, sent.initial, check("").unwrap().decrements()), (1, 0, false));
    }

    #[test]
    fn each_bad_flag_has_its_refusal() {
        assert_eq!(check("v v"), Err(ErrorReply::DuplicateFlag));
        assert_eq!(check("O1 O2"), Err(ErrorReply::DuplicateFlag));
        for flags in ["!", "v \u{e9}", "[", "_"] {
            assert_eq!(check(flags), Err(ErrorReply::BadCommandLineFormat), "{flags}");
        }
        for flags in ["a", "Z", "W", "X", "0", "z"] {
            assert_eq!(check(flags), Err(ErrorReply::InvalidFlag), "{flags}");
        }
        for flags in ["T", "Tx", "N", "N1x", "R", "C", "C-1", "E", "Ex", "C18446744073709551616"] {
            assert_eq!(check(flags), Err(ErrorReply::BadToken), "{flags}");
        }
        for flags in ["Y", "Y0", "Y-1", "Yx", "Y18446744073709551616"] {
            assert_eq!(check(flags), Err(ErrorReply::BadToken), "{flags}");
        }
        assert_eq!(check("F4294967296"), Err(ErrorReply::BadCommandLineFormat));
        assert_eq!(check("Dx"), Err(ErrorReply::InvalidDeltaValue));
        assert_eq!(check("J"), Err(ErrorReply::InvalidInitialValue));
    }

    #[test]
    fn a_fence_and_a_tracker_are_numbers_and_what_else_stands_behind_l_is_ignored() {
        for (flags, tracker, fence) in [
            ("T0 Y12 q", None, Some(12)),
            ("L7", Some(7), None),
            ("L7 Y5", Some(7), Some(5)),
            ("L", None, None),
            ("Lr7", None, None),
            ("L0", None, None),
        ] {
            let numbers = numbers(flags);
            assert_eq!((numbers.tracker, numbers.fence), (tracker, fence), "{flags}");
        }
    }

    #[test]
    fn an_opaque_token_ends_at_thirty_two_bytes_with_its_letter() {
        assert!(check(&format!("O{}", "x".repeat(31))).is_ok());
        assert_eq!(check(&format!("O{}", "x".repeat(32))), Err(ErrorReply::OpaqueTooLong));
    }

    #[test]
    fn twenty_tokens_fit_in_a_line_and_one_more_does_not() {
        let eighteen = "b c f h k l q s t u v x I L P O T1 N1";
        assert!(MetaFlags::parse(eighteen.as_bytes(), Head::Key).is_ok());
        assert_eq!(MetaFlags::parse(eighteen.as_bytes(), Head::KeyAndLength), Err(ErrorReply::TooManyFlags));
        assert_eq!(check(&format!("{eighteen} R1")), Err(ErrorReply::TooManyFlags));
    }

    #[test]
    fn only_the_first_upper_case_letter_of_a_mode_counts() {
        for (flag, mode) in [("MEx", StoreMode::Add), ("MA", StoreMode::Append), ("MR", StoreMode::Replace)] {
            assert_eq!(check(flag).unwrap().parse_store_mode(), Ok(mode));
        }
        for flag in ["M", "Me", "Mset", "M1"] {
            assert_eq!(check(flag).unwrap().parse_store_mode(), Err(ErrorReply::InvalidStoreMode));
        }
        for (flag, decrements) in [("MI", false), ("M+", false), ("MD", true), ("M-", true), ("MDecr", true)]
        {
            assert_eq!(check(flag).unwrap().parse_decrements(), Ok(decrements));
        }
        assert_eq!(check("Mi").unwrap().parse_decrements(), Err(ErrorReply::InvalidArithmeticMode));
    }
}
