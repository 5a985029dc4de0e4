//! The flags of a meta command: read once, checked, kept in a bit set and a few numbers. No replies.

use crate::errors::ErrorReply;
use crate::limits::{META_TOKENS_MAX, OPAQUE_SIZE_MAX};
use crate::number::{parse_i64, parse_u32, parse_u64};
use crate::request::StoreMode;
use crate::tokens::Tokens;

/// The flags of one meta command.
///
/// Any command accepts any known letter and ignores what it has no use for, as memcached does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaFlags {
    /// Bit `letter - b'A'` for each flag sent; `z` has bit 57.
    letters: u64,
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
    /// The number of `Y`, or else of `L`; no command looks at both.
    own: u64,
    /// `F`: client flags; 0 unless sent.
    pub client_flags: u32,
    /// `M`: first byte of the mode, 0 if the flag was not sent.
    mode: u8,
}

/// Tokens of a line that are no flags.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Head {
    /// `mg key`
    Key = 2,
    /// `ms key length`
    KeyAndLength = 3,
}

/// Mode of an `M` flag without one.
const MODE_MISSING: u8 = b' ';

impl MetaFlags {
    /// Whether the flag `letter` was sent. O(1).
    pub fn has(&self, letter: u8) -> bool {
        letter.is_ascii_alphabetic() && self.letters & bit(letter) != 0
    }

    /// `q`: hide the nominal answer.
    pub fn quiet(&self) -> bool {
        self.has(b'q')
    }

    /// `b`: the key token is base64.
    pub fn base64(&self) -> bool {
        self.has(b'b')
    }

    /// `Y`: the fence that the key is written under, above 0. Ours: memcached refuses the letter.
    pub fn fence(&self) -> Option<u64> {
        self.has(b'Y').then_some(self.own)
    }

    /// `L` with a number: who wants to hear when what is read changes, by [`tracking`](crate::reply::tracking). memcached ignores
    /// whatever stands there.
    pub fn tracker(&self) -> Option<u64> {
        (self.has(b'L') && !self.has(b'Y')).then_some(self.own).filter(|&tracker| tracker > 0)
    }

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

    /// `M` of an `ms` as the parser let it through; [`StoreMode::Set`] unless sent.
    pub fn store_mode(&self) -> StoreMode {
        self.parse_store_mode().unwrap_or(StoreMode::Set)
    }

    /// `M` of an `ma` as the parser let it through; up unless sent.
    pub fn decrements(&self) -> bool {
        self.parse_decrements().unwrap_or(false)
    }

    /// The fence in flags that were not kept, which the parser let through. O(length).
    pub fn fence_of(flags: &[u8]) -> Option<u64> {
        Tokens::new(flags).find_map(|token| token.strip_prefix(b"Y")).and_then(parse_u64)
    }

    /// Reads the tokens behind `head`. The first bad one decides the refusal. O(length), at most 20 tokens.
    pub(crate) fn parse(flags: &[u8], head: Head) -> Result<Self, ErrorReply> {
        let mut parsed = Self::default();
        for (at, token) in Tokens::new(flags).enumerate() {
            if at + head as usize >= META_TOKENS_MAX {
                return Err(ErrorReply::TooManyFlags);
            }
            parsed.add(token)?;
        }
        Ok(parsed)
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

    fn add(&mut self, token: &[u8]) -> Result<(), ErrorReply> {
        let Some((&letter, argument)) = token.split_first() else { unreachable!("a token is not empty") };
        if !letter.is_ascii_alphanumeric() {
            return Err(ErrorReply::BadCommandLineFormat);
        }
        if self.has(letter) {
            return Err(ErrorReply::DuplicateFlag);
        }
        match letter {
            b'T' | b'N' => {
                let exptime = Some(parse_i64(argument).ok_or(ErrorReply::BadToken)?);
                *(if letter == b'T' { &mut self.exptime } else { &mut self.vivify }) = exptime;
                self.last_exptime = exptime;
            }
            b'R' => {
                self.recache = Some(parse_i64(argument).ok_or(ErrorReply::BadToken)?);
                self.recache_is_behind_exptime = self.has(b'T');
            }
            b'C' => self.compare = Some(parse_u64(argument).ok_or(ErrorReply::BadToken)?),
            b'E' => self.explicit_cas = Some(parse_u64(argument).ok_or(ErrorReply::BadToken)?),
            b'D' => self.delta = parse_u64(argument).ok_or(ErrorReply::InvalidDeltaValue)?,
            b'J' => self.initial = parse_u64(argument).ok_or(ErrorReply::InvalidInitialValue)?,
            b'F' => self.client_flags = parse_u32(argument).ok_or(ErrorReply::BadCommandLineFormat)?,
            b'Y' => {
                self.own = parse_u64(argument).filter(|&fence| fence > 0).ok_or(ErrorReply::BadToken)?;
            }
            b'M' => self.mode = argument.first().copied().unwrap_or(MODE_MISSING),
            b'O' if token.len() > OPAQUE_SIZE_MAX => return Err(ErrorReply::OpaqueTooLong),
            b'b' | b'c' | b'f' | b'h' | b'k' | b'l' | b'q' | b's' | b't' | b'u' | b'v' | b'x' => {}
            b'L' if self.has(b'Y') => {}
            b'L' => self.own = parse_u64(argument).unwrap_or(0),
            b'I' | b'O' | b'P' => {}
            _ => return Err(ErrorReply::InvalidFlag),
        }
        self.letters |= bit(letter);
        Ok(())
    }
}

impl Default for MetaFlags {
    fn default() -> Self {
        Self {
            letters: 0,
            exptime: None,
            vivify: None,
            last_exptime: None,
            recache_is_behind_exptime: false,
            recache: None,
            compare: None,
            explicit_cas: None,
            delta: 1,
            initial: 0,
            own: 0,
            client_flags: 0,
            mode: 0,
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
    fn check(flags: &str) -> Result<MetaFlags, ErrorReply> {
        MetaFlags::parse(flags.as_bytes(), Head::Key)
    }

    #[test]
    fn every_known_letter_is_accepted_by_every_command() {
        let flags = check("b c f h k l q s t u v x I O1 L P T5 N-1").unwrap();
        for letter in b"bcfhklqstuvxIOLPTN" {
            assert!(flags.has(*letter), "{}", char::from(*letter));
        }
        assert!(!flags.has(b'C') && !flags.has(b'R') && !flags.has(b'0') && !flags.has(b'['));
        let flags = check("R30 C18446744073709551615 E7 D2 J3 F4294967295 MD").unwrap();
        assert_eq!((flags.recache, flags.compare, flags.explicit_cas), (Some(30), Some(u64::MAX), Some(7)));
        assert_eq!((flags.delta, flags.initial, flags.client_flags), (2, 3, u32::MAX));
        assert!(flags.decrements());
    }

    #[test]
    fn a_new_item_gets_the_later_time_of_the_two() {
        assert_eq!(check("T300").unwrap().creation_exptime(), None);
        assert_eq!(check("N30").unwrap().creation_exptime(), Some(30));
        assert_eq!(check("N30 v T300").unwrap().creation_exptime(), Some(300));
        assert_eq!(check("T300 N30 v").unwrap().creation_exptime(), Some(30));
    }

    #[test]
    fn a_recache_looks_at_the_time_that_a_touch_before_it_gave() {
        assert!(check("T30 v R60").unwrap().recaches_after_touch());
        assert!(!check("R60 T30").unwrap().recaches_after_touch());
        assert!(!check("N30 R60").unwrap().recaches_after_touch());
    }

    #[test]
    fn a_counter_counts_from_nothing_by_one_unless_told() {
        let flags = check("").unwrap();
        assert_eq!((flags.delta, flags.initial, flags.decrements()), (1, 0, false));
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
    fn a_fence_is_found_also_where_only_the_bytes_were_kept() {
        assert_eq!((check("T0 Y12 q").unwrap().fence(), check("T0").unwrap().fence()), (Some(12), None));
        assert_eq!((MetaFlags::fence_of(b" T0 Y12 q"), MetaFlags::fence_of(b" T0")), (Some(12), None));
    }

    #[test]
    fn a_tracker_is_a_number_and_never_hides_a_fence() {
        for (flags, tracker, fence) in [
            ("L7", Some(7), None),
            ("L7 Y5", None, Some(5)),
            ("Y5 L7", None, Some(5)),
            ("L", None, None),
            ("Lr7", None, None),
            ("L0", None, None),
        ] {
            let parsed = check(flags).unwrap();
            assert_eq!((parsed.tracker(), parsed.fence()), (tracker, fence), "{flags}");
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
