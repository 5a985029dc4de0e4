//! One comparison of all tags of a bucket: by SIMD where the target always has it, by plain words elsewhere.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "the compiler wants to hear that SSE2 is there")
)]

/// Bit `i` is set if byte `i` equals `tag`.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn matching(bytes: [u8; 16], tag: u8) -> u32 {
    // SAFETY: SSE2 is part of every x86_64 target.
    unsafe { matching_sse2(bytes, tag) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn matching_sse2(bytes: [u8; 16], tag: u8) -> u32 {
    use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set1_epi8};
    let bytes: __m128i = bytemuck::cast(bytes);
    let equal = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(tag.cast_signed()));
    _mm_movemask_epi8(equal).cast_unsigned()
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use portable::matching;

#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    const LOW_7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const ONES: u64 = 0x0101_0101_0101_0101;
    /// Gathers bit 0 of each byte into the top byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;

    /// Bit `i` is set if byte `i` equals `tag`.
    pub(in crate::index) fn matching(bytes: [u8; 16], tag: u8) -> u32 {
        let [low, high] = bytemuck::cast::<[u8; 16], [[u8; 8]; 2]>(bytes).map(u64::from_le_bytes);
        matching_word(low, tag) | matching_word(high, tag) << 8
    }

    fn matching_word(word: u64, tag: u8) -> u32 {
        let differences = word ^ (ONES * u64::from(tag));
        // The addition carries into bit 7 of exactly the bytes with a bit below it; no byte reaches its neighbour.
        let zeros = !(((differences & LOW_7) + LOW_7) | differences | LOW_7);
        let gathered = (zeros >> 7).wrapping_mul(GATHER) >> 56;
        u32::try_from(gathered).expect("eight bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

    fn naive(bytes: [u8; 16], tag: u8) -> u32 {
        (0..16).filter(|&i| bytes[i] == tag).map(|i| 1 << i).sum()
    }

    #[test]
    fn simd_and_plain_words_find_what_a_loop_finds() {
        let mut random = SmallRng::seed_from_u64(1);
        for round in 0..20_000 {
            let mut bytes = [0; 16];
            random.fill_bytes(&mut bytes);
            // Few different values, so that there are matches and near misses.
            let mask = [0xff, 0x03, 0x81, 0x80, 0x01][round % 5];
            bytes.iter_mut().for_each(|byte| *byte &= mask);
            let tag = random.random::<u8>() & mask;
            assert_eq!(matching(bytes, tag), naive(bytes, tag), "{bytes:?} {tag}");
            assert_eq!(portable::matching(bytes, tag), naive(bytes, tag), "{bytes:?} {tag}");
        }
    }
}
