//! One line of a dump of keys. Never asks for one.

use std::str::FromStr;

/// An item as `lru_crawler metadump` shows it. Its value is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyEntry {
    /// Its key.
    pub key: Vec<u8>,
    /// Unix second of its end; `None` if it never ends.
    pub expires: Option<u64>,
    /// Unix second in which it was last asked for.
    pub last_access: u64,
    /// Its version.
    pub cas: u64,
    /// Whether it was ever asked for.
    pub fetched: bool,
    /// Its slab class.
    pub class: u32,
    /// Its size in memory, in bytes.
    pub size: u64,
}

impl KeyEntry {
    /// Reads `key=a%20b exp=-1 la=1700000000 cas=7 fetch=no cls=1 size=63`. Fields it does not know are skipped.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut entry = Self::default();
        let mut has_key = false;
        for (name, text) in line.split_ascii_whitespace().filter_map(|field| field.split_once('=')) {
            match name {
                "key" => {
                    entry.key = percent_decoded(text)?;
                    has_key = true;
                }
                "exp" if text == "-1" => {}
                "exp" => entry.expires = Some(number(text)?),
                "la" => entry.last_access = number(text)?,
                "cas" => entry.cas = number(text)?,
                "fetch" => entry.fetched = text == "yes",
                "cls" => entry.class = number(text)?,
                "size" => entry.size = number(text)?,
                _ => {}
            }
        }
        has_key.then_some(entry)
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut decoded = parts.next()?.as_bytes().to_vec();
    for part in parts {
        decoded.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        decoded.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_dump_is_read_and_fields_of_later_versions_are_skipped() {
        let line = "key=a%20b%25 exp=1700000060 la=1700000000 cas=7 fetch=yes cls=3 size=63 flags=0 new=?";
        let entry = KeyEntry {
            key: b"a b%".to_vec(),
            expires: Some(1_700_000_060),
            last_access: 1_700_000_000,
            cas: 7,
            fetched: true,
            class: 3,
            size: 63,
        };
        assert_eq!(KeyEntry::parse(line), Some(entry));
        assert_eq!(KeyEntry::parse("key=a exp=-1").unwrap().expires, None);
    }

    #[test]
    fn what_is_no_line_of_a_dump_is_refused() {
        for line in ["", "exp=1", "key=%", "key=%zz", "key=%4", "key=a exp=x", "key=%ä"] {
            assert_eq!(KeyEntry::parse(line), None, "{line:?}");
        }
    }
}
