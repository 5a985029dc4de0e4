//! The eviction policies a user may name, and what each of them is made of. Never looks at an item.

use std::str::FromStr;

/// Which item goes when there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PolicyKind {
    /// Chooses rule and window as it goes, among two of S3-FIFO's kind and three of W-TinyLFU's, by sampled
    /// shadow caches. The choice for a workload that nobody has measured.
    #[default]
    TinyLfu,
    /// CLOCK with three frequency bits and no window: every new item is admitted (Corbató, 1968).
    Clock,
    /// A window of 10 % that items leave for the main region if they were hit, with a ghost of those that were
    /// not (Yang et al., 2023).
    S3Fifo,
    /// A window of 5 % whose oldest item enters the main region only if it was asked for more often than the
    /// item it would replace (Einziger et al., 2017).
    WTinyLfu,
    /// The item used least recently, exactly. Eight bytes more for each chunk.
    Lru,
    /// The item asked for least often lately, among a few that lie side by side.
    Lfu,
    /// The item that would expire first, among a few that lie side by side.
    Ttl,
}

/// Who leaves a window for the main region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// Who was hit since it came; who was evicted from the window lately need not wait in it again.
    S3,
    /// Who was asked for more often than the item under the hand.
    TinyLfu,
}

/// One configuration of the mechanism: a rule, and the share of the items that wait in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    pub(crate) rule: Rule,
    /// 0 is no window at all: plain CLOCK.
    pub(crate) window_percent: u8,
}

/// How a victim is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// A window in front of a region swept by a hand.
    Regions,
    /// A list by last use.
    Recency,
    /// The lowest of a few under the hand.
    Sampled(Score),
}

/// What the lowest of a sample is the lowest in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Score {
    Frequency,
    TimeToLive,
}

/// The five configurations the adaptive policy chooses from; it starts with the first.
///
/// Against the best of four times as many on real traces these cost less than a tenth of a point; a fixed window
/// of one percent costs six.
pub(crate) const SETTINGS: [Setting; 5] = [
    Setting::new(Rule::S3, 10),
    Setting::new(Rule::S3, 40),
    Setting::new(Rule::TinyLfu, 1),
    Setting::new(Rule::TinyLfu, 5),
    Setting::new(Rule::TinyLfu, 95),
];

impl PolicyKind {
    /// All of them, the default first.
    pub const ALL: [PolicyKind; 7] = [
        PolicyKind::TinyLfu,
        PolicyKind::Clock,
        PolicyKind::S3Fifo,
        PolicyKind::WTinyLfu,
        PolicyKind::Lru,
        PolicyKind::Lfu,
        PolicyKind::Ttl,
    ];

    /// The name that [`PolicyKind::from_str`] knows it by.
    pub fn name(self) -> &'static str {
        match self {
            PolicyKind::TinyLfu => "tinylfu",
            PolicyKind::Clock => "clock",
            PolicyKind::S3Fifo => "s3fifo",
            PolicyKind::WTinyLfu => "wtinylfu",
            PolicyKind::Lru => "lru",
            PolicyKind::Lfu => "lfu",
            PolicyKind::Ttl => "ttl",
        }
    }

    /// What it starts with; only the adaptive policy ever changes it.
    pub(crate) fn setting(self) -> Setting {
        match self {
            PolicyKind::TinyLfu | PolicyKind::S3Fifo => SETTINGS[0],
            PolicyKind::WTinyLfu => SETTINGS[3],
            PolicyKind::Clock | PolicyKind::Lru | PolicyKind::Lfu | PolicyKind::Ttl => {
                Setting::new(Rule::S3, 0)
            }
        }
    }

    pub(crate) fn order(self) -> Order {
        match self {
            PolicyKind::TinyLfu | PolicyKind::S3Fifo | PolicyKind::WTinyLfu | PolicyKind::Clock => {
                Order::Regions
            }
            PolicyKind::Lru => Order::Recency,
            PolicyKind::Lfu => Order::Sampled(Score::Frequency),
            PolicyKind::Ttl => Order::Sampled(Score::TimeToLive),
        }
    }

    /// Whether it ever asks how often a key was requested.
    pub(crate) fn counts_requests(self) -> bool {
        matches!(self, PolicyKind::TinyLfu | PolicyKind::WTinyLfu | PolicyKind::Lfu)
    }

    /// Whether it ever asks which keys were evicted from the window.
    pub(crate) fn remembers_evicted(self) -> bool {
        matches!(self, PolicyKind::TinyLfu | PolicyKind::S3Fifo)
    }
}

/// A name that no policy has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name:?} is no eviction policy")]
pub struct UnknownPolicy {
    /// What was asked for.
    pub name: String,
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<PolicyKind, UnknownPolicy> {
        let found = PolicyKind::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| UnknownPolicy { name: name.to_owned() })
    }
}

impl Setting {
    const fn new(rule: Rule, window_percent: u8) -> Setting {
        assert!(window_percent < 100);
        Setting { rule, window_percent }
    }

    /// Items of so many that the window is meant to hold.
    #[inline]
    pub(crate) fn window_limit(self, items: usize) -> usize {
        if self.window_percent == 0 {
            return 0;
        }
        (items * usize::from(self.window_percent) / 100).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_known_by_its_own_name_and_by_no_other() {
        for policy in PolicyKind::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert!("none".parse::<PolicyKind>().is_err() && "TinyLfu".parse::<PolicyKind>().is_err());
    }

    #[test]
    fn a_window_is_never_empty_unless_it_is_none() {
        assert_eq!(Setting::new(Rule::S3, 10).window_limit(1000), 100);
        assert_eq!(Setting::new(Rule::TinyLfu, 1).window_limit(20), 1);
        assert_eq!(PolicyKind::Clock.setting().window_limit(1000), 0);
    }
}
