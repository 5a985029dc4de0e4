//! Jump consistent hash and the bit mixer that feeds it. Pure arithmetic: never a table, never an allocation.
//!
//! Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", arXiv 1406.2294, figure 1.

/// Multiplier of the paper's linear congruential generator.
const GENERATOR_MULTIPLIER: u64 = 2_862_933_555_777_941_757;

/// The generator's top 31 bits are the random number of each jump.
const JUMP_BITS: u32 = 31;

/// Chooses one of `buckets` buckets: `0..buckets`, which must not be zero.
///
/// Adding bucket `n` moves exactly the share `1 / (n + 1)` of all seeds, every one of them to the new bucket.
/// Only the last bucket can go without moving others, so callers give a bucket a weight instead of removing it.
/// Expected steps: `ln(buckets)`.
///
/// This is the published floating point form. IEEE 754 makes it the same on every processor.
pub fn jump(seed: u64, buckets: u16) -> u16 {
    assert!(buckets > 0, "there is no bucket to choose");
    let mut state = seed;
    let mut bucket = 0;
    let mut next = 0;
    while next < u64::from(buckets) {
        bucket = next;
        state = state.wrapping_mul(GENERATOR_MULTIPLIER).wrapping_add(1);
        next = jump_from(bucket, state);
    }
    u16::try_from(bucket).expect("below `buckets`")
}

/// The bucket count at which a seed in `bucket` moves next: `(bucket + 1) * 2^31 / (random + 1)`.
fn jump_from(bucket: u64, state: u64) -> u64 {
    let random = u32::try_from(state >> (u64::BITS - JUMP_BITS)).expect("31 bits fit 32");
    let bucket = u32::try_from(bucket).expect("below 2^16");
    let target = f64::from(bucket + 1) * (f64::from(1_u32 << JUMP_BITS) / f64::from(random + 1));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 2^47: the paper drops the fraction here"
    )]
    let target = target as u64;
    target
}

/// Mixes 64 bits so that each input bit changes each output bit with even odds: the finaliser of SplitMix64.
///
/// A bijection. Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", and
/// Vigna's `splitmix64.c`.
pub fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The twin: the same jump in integers alone.
    fn jump_in_integers(mut state: u64, buckets: u16) -> u64 {
        let (mut bucket, mut next) = (0, 0);
        while next < u128::from(buckets) {
            bucket = next;
            state = state.wrapping_mul(GENERATOR_MULTIPLIER).wrapping_add(1);
            next = ((bucket + 1) << 31) / (u128::from(state >> 33) + 1);
        }
        u64::try_from(bucket).unwrap()
    }

    #[test]
    fn jump_gives_the_values_other_implementations_publish() {
        // From the tests of Guava's `Hashing.consistentHash`, which the ports to other languages share.
        let of_hundred = [0, 55, 62, 8, 45, 59, 86, 97, 82, 59, 73, 37, 17, 56, 86, 21, 90, 37, 38, 83];
        for (seed, bucket) in (0..).zip(of_hundred) {
            assert_eq!(jump(seed, 100), bucket, "jump({seed}, 100)");
        }
        let published = [
            (10_863_919_174_838_991, 11, 6),
            (2_016_238_256_797_177_309, 11, 3),
            (1_673_758_223_894_951_030, 11, 5),
        ];
        for (seed, buckets, bucket) in published {
            assert_eq!(jump(seed, buckets), bucket, "jump({seed}, {buckets})");
        }
    }

    #[test]
    fn mix_gives_the_published_splitmix64_sequence() {
        // SplitMix64 seeded with 1234567 is `mix` of a counter that grows by the golden ratio.
        let mut state = 1_234_567_u64;
        let outputs = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for output in outputs {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            assert_eq!(mix(state), output);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn floats_and_integers_agree(seed: u64, buckets in 1_u16..) {
            prop_assert_eq!(u64::from(jump(seed, buckets)), jump_in_integers(seed, buckets));
        }

        #[test]
        fn a_new_bucket_takes_seeds_and_moves_none_between_old_ones(seed: u64, buckets in 1_u16..u16::MAX) {
            let (before, after) = (jump(seed, buckets), jump(seed, buckets + 1));
            prop_assert!(after == before || after == buckets);
        }
    }
}
