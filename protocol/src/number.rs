//! Decimal numbers, as clients send them and as replies show them. No locale, no allocation, no panic.

/// So many digits are always below [`u64::MAX`], so they are added without a check.
const DIGITS_UNCHECKED_MAX: usize = u64::MAX.ilog10() as usize;

/// Reads an unsigned number: one or more digits and nothing else, `None` above [`u64::MAX`]. O(length).
pub(crate) fn parse_u64(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (head, tail) = digits.split_at(digits.len().min(DIGITS_UNCHECKED_MAX));
    let number = head.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    tail.iter()
        .try_fold(number, |number: u64, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// As [`parse_u64`], with [`u32::MAX`] as the bound.
pub(crate) fn parse_u32(digits: &[u8]) -> Option<u32> {
    u32::try_from(parse_u64(digits)?).ok()
}

/// Reads a number with an optional minus sign, `None` outside `i64`.
///
/// Times are read with it. memcached cuts them to 32 bits, which makes 2^31 negative and an item set to live
/// until 2038 dead at once; here the client gets the time it asked for.
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        None => i64::try_from(parse_u64(text)?).ok(),
        Some(digits) => 0_i64.checked_sub_unsigned(parse_u64(digits)?),
    }
}

/// Reads a number with an optional fraction and exponent, `None` if it is not finite. For commands about the server.
pub(crate) fn parse_f64(text: &[u8]) -> Option<f64> {
    str::from_utf8(text).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Appends `number` in decimal. At most 20 bytes. Short ones, which sizes and flags are, without a call.
#[inline]
pub(crate) fn append(out: &mut Vec<u8>, number: impl Into<u64>) {
    let number = number.into();
    match u16::try_from(number) {
        Ok(number @ 0..10) => out.push(last_digit(number)),
        Ok(number @ 10..100) => out.extend_from_slice(&[last_digit(number / 10), last_digit(number)]),
        Ok(number @ 100..1000) => {
            out.extend_from_slice(&[last_digit(number / 100), last_digit(number / 10), last_digit(number)]);
        }
        _ => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
    }
}

/// The last digit, as it is shown.
#[inline]
pub(crate) fn last_digit(number: u16) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_digits_are_a_number() {
        for text in ["", "-", "+1", " 1", "1 ", "1a", "a", "0x1", "-1", "1.0"] {
            assert_eq!(parse_u64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_i64(b"--1"), None);
        assert_eq!(parse_i64(b""), None);
    }

    #[test]
    fn numbers_end_exactly_at_their_bounds() {
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"18446744073709551616"), None);
        assert_eq!(parse_u64(b"0000000000000000000000018446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u32(b"4294967295"), Some(u32::MAX));
        assert_eq!(parse_u32(b"4294967296"), None);
        assert_eq!(parse_i64(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_i64(b"9223372036854775808"), None);
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_i64(b"-9223372036854775809"), None);
    }

    #[test]
    fn short_numbers_are_written_as_long_ones_are() {
        for number in 0..2000_u32 {
            let mut out = Vec::new();
            append(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    proptest! {
        #[test]
        fn every_number_is_read_as_it_was_written(number: u64, signed: i64) {
            let mut out = Vec::new();
            append(&mut out, number);
            prop_assert_eq!(parse_u64(&out), Some(number));
            prop_assert_eq!(parse_i64(signed.to_string().as_bytes()), Some(signed));
        }

        #[test]
        fn reading_agrees_with_the_standard_library(text in "[0-9]{0,24}") {
            prop_assert_eq!(parse_u64(text.as_bytes()), text.parse().ok());
        }
    }
}
