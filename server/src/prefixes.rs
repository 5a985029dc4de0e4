//! `stats detail`: counts by the part of the key before the first delimiter. Kept only while somebody has switched it on.

use std::collections::BTreeMap;

use slabring_protocol::reply;

/// Prefixes that one shard counts; memcached counts without a bound. Further ones are not counted.
const PREFIXES_MAX: usize = 16_384;

/// What happened to the keys of one prefix.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PrefixCounts {
    /// Gets.
    pub gets: u64,
    /// Gets that hit.
    pub hits: u64,
    /// Stores.
    pub sets: u64,
    /// Deletes.
    pub deletes: u64,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Prefixes(BTreeMap<Box<[u8]>, PrefixCounts>);

impl Prefixes {
    /// Counts something for the prefix of `key`, if it has one.
    pub fn count(&mut self, key: &[u8], delimiter: u8, add: impl FnOnce(&mut PrefixCounts)) {
        let Some(end) = key.iter().position(|&byte| byte == delimiter) else { return };
        let prefix = &key[..end];
        if let Some(counts) = self.0.get_mut(prefix) {
            add(counts);
        } else if self.0.len() < PREFIXES_MAX {
            add(self.0.entry(prefix.into()).or_default());
        }
    }

    /// Adds another shard's counts.
    pub fn add(&mut self, other: &Self) {
        for (prefix, more) in &other.0 {
            let counts = self.0.entry(prefix.clone()).or_default();
            counts.gets += more.gets;
            counts.hits += more.hits;
            counts.sets += more.sets;
            counts.deletes += more.deletes;
        }
    }

    /// Starts again from nothing.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Appends the answer to `stats detail dump`.
    pub fn render(&self, out: &mut Vec<u8>) {
        for (prefix, counts) in &self.0 {
            reply::stats_prefix(out, prefix, [counts.gets, counts.hits, counts.sets, counts.deletes]);
        }
        reply::end(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_count_for_what_stands_before_the_first_delimiter() {
        let mut prefixes = Prefixes::default();
        for key in ["a:1", "a:b:2", "plain", ":x"] {
            prefixes.count(key.as_bytes(), b':', |counts| counts.sets += 1);
        }
        let mut sum = prefixes.clone();
        sum.add(&prefixes);
        let mut out = Vec::new();
        sum.render(&mut out);
        let text = "PREFIX  get 0 hit 0 set 2 del 0\r\nPREFIX a get 0 hit 0 set 4 del 0\r\nEND\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn the_number_of_prefixes_is_bounded() {
        let mut prefixes = Prefixes::default();
        for number in 0..PREFIXES_MAX + 10 {
            prefixes.count(format!("{number}:").as_bytes(), b':', |counts| counts.gets += 1);
        }
        assert_eq!(prefixes.0.len(), PREFIXES_MAX);
    }
}
