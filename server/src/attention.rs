//! Which requests are looked at beside being executed: a sample of them, or all while somebody wants to know of each. All others
//! pay a countdown. No clock; the sample is random, so that no pattern of requests hides from it.

/// One request in so many is a sample, on average.
pub const SAMPLED_OF: u32 = 64;
/// Longest way from one sample to the next: with the shortest, 1, their mean is [`SAMPLED_OF`].
const GAP_MAX: u32 = 2 * SAMPLED_OF - 1;

/// See the module.
#[derive(Debug)]
pub struct Attention {
    /// Requests until one is looked at, that one included.
    left: u32,
    /// What `left` began with.
    stride: u32,
    /// Requests until the next sample, as of when `left` began.
    until_sample: u32,
    /// All are looked at.
    all: bool,
    random: u64,
}

impl Attention {
    /// Begins with a sample as random as `seed`.
    pub fn new(seed: u64) -> Self {
        let mut attention = Self { left: 1, stride: 1, until_sample: 1, all: false, random: seed | 1 };
        attention.begin(1);
        attention
    }

    /// Whether the next request is looked at. If so, [`Attention::is_sample`] must be asked next.
    #[inline]
    pub fn looks(&mut self) -> bool {
        self.left -= 1;
        self.left == 0
    }

    /// Whether a request that is looked at is a sample.
    pub fn is_sample(&mut self) -> bool {
        self.until_sample -= self.stride;
        let is_sample = self.until_sample == 0;
        self.begin(self.until_sample);
        is_sample
    }

    /// From here on all requests are looked at, or the sample.
    pub fn look_at_all(&mut self, all: bool) {
        let passed = self.stride - self.left;
        self.all = all;
        self.begin(self.until_sample - passed);
    }

    fn begin(&mut self, until_sample: u32) {
        self.until_sample = if until_sample == 0 { self.gap() } else { until_sample };
        self.stride = if self.all { 1 } else { self.until_sample };
        self.left = self.stride;
    }

    /// xorshift64, and its upper half brought into the range.
    fn gap(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let gap = ((self.random >> 32) * u64::from(GAP_MAX)) >> 32;
        u32::try_from(gap).expect("below the range") + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(attention: &mut Attention, requests: u32) -> u32 {
        (0..requests).map(|_| u32::from(attention.looks() && attention.is_sample())).sum()
    }

    #[test]
    fn one_request_in_sixty_four_is_a_sample_whether_all_are_looked_at_or_not() {
        let mut attention = Attention::new(7);
        for all in [false, true, false] {
            attention.look_at_all(all);
            let samples = samples(&mut attention, 640_000);
            assert!((9_500..10_500).contains(&samples), "{all}: {samples}");
        }
    }

    #[test]
    fn a_key_that_comes_in_step_with_the_rate_is_sampled_no_more_than_another() {
        let mut attention = Attention::new(3);
        let mut at_step = 0;
        for request in 0..6_400_000_u32 {
            at_step += u32::from(attention.looks() && attention.is_sample() && request % SAMPLED_OF == 0);
        }
        assert!((1_300..1_800).contains(&at_step), "{at_step} of 100 000 samples, 1 562 is even");
    }

    #[test]
    fn while_all_are_looked_at_none_is_missed() {
        let mut attention = Attention::new(1);
        samples(&mut attention, 100);
        attention.look_at_all(true);
        for _ in 0..1_000 {
            assert!(attention.looks());
            attention.is_sample();
        }
    }
}
