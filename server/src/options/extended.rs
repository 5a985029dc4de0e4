//! memcached's `-o` list: which names there are, what values they take, and which of them mean something here. The others are
//! taken with a warning, so that a start script written for memcached works.

use super::{EXIT_FAILURE, Refused};

/// What a name may be given.
#[derive(Clone, Copy, Debug)]
enum Takes {
    /// Nothing.
    Nothing,
    /// A whole number in this range.
    Number(u64, u64),
    /// A number, perhaps with a fraction.
    Fraction,
    /// Anything that is not empty.
    Text,
}

use Takes::{Fraction, Nothing, Number, Text};

/// Names with an effect here.
const HEEDED: [(&str, Takes); 10] = [
    ("idle_timeout", Number(0, u32::MAX as u64)),
    ("ssl_ca_cert", Text),
    ("ssl_chain_cert", Text),
    ("ssl_key", Text),
    ("ssl_keyformat", Text),
    ("ssl_min_version", Number(0, 3)),
    ("ssl_verify_mode", Number(0, 3)),
    // What these ask for is what is done anyway.
    ("ssl_session_cache", Nothing),
    ("maxconns_fast", Nothing),
    ("modern", Nothing),
];

/// TLS 1.2, as memcached counts.
const OLDEST_TLS: u8 = 2;
const ANY: Takes = Number(0, u64::MAX);
const SLAB: &str = "pages move between size classes by themselves";
const LRU: &str = "--policy says what is evicted";
const CRAWLER: &str = "expired items are swept all the time";
const HASH: &str = "the index grows in small steps and its hash cannot be chosen";
const EXT: &str = "there is no storage outside memory";
const PROXY: &str = "this is no proxy";
const BUFFERS: &str = "buffers are bounded by themselves";
const TLS: &str = "the TLS library decides it";

/// Names without an effect here, and why.
const IGNORED: [(&str, Takes, &str); 58] = [
    ("drop_privileges", Nothing, "it is not offered"),
    ("ext_compact_under", ANY, EXT),
    ("ext_drop_under", ANY, EXT),
    ("ext_drop_unread", Nothing, EXT),
    ("ext_io_depth", ANY, EXT),
    ("ext_item_age", ANY, EXT),
    ("ext_item_size", ANY, EXT),
    ("ext_low_ttl", ANY, EXT),
    ("ext_max_frag", Fraction, EXT),
    ("ext_max_sleep", ANY, EXT),
    ("ext_page_size", ANY, EXT),
    ("ext_path", Text, EXT),
    ("ext_recache_rate", ANY, EXT),
    ("ext_threads", ANY, EXT),
    ("ext_wbuf_size", ANY, EXT),
    ("hash_algorithm", Text, HASH),
    ("hashpower", Number(12, 32), HASH),
    ("hot_lru_pct", Number(1, 80), LRU),
    ("hot_max_factor", Fraction, LRU),
    ("inline_ascii_resp", Nothing, "memcached ignores it too"),
    ("lru_crawler", Nothing, CRAWLER),
    ("lru_crawler_sleep", Number(0, 1_000_000), CRAWLER),
    ("lru_crawler_tocrawl", ANY, CRAWLER),
    ("lru_maintainer", Nothing, LRU),
    ("no_chunked_items", Nothing, "large items are always stored in chunks"),
    ("no_drop_privileges", Nothing, "nothing is dropped"),
    ("no_hashexpand", Nothing, HASH),
    ("no_inline_ascii_resp", Nothing, "memcached ignores it too"),
    ("no_lru_crawler", Nothing, CRAWLER),
    ("no_lru_maintainer", Nothing, LRU),
    ("no_maxconns_fast", Nothing, "clients over the limit are told so at once"),
    ("no_modern", Nothing, "there is one way to work"),
    ("no_slab_automove", Nothing, SLAB),
    ("no_slab_reassign", Nothing, SLAB),
    ("proxy_arg", Text, PROXY),
    ("proxy_config", Text, PROXY),
    ("proxy_memprofile", Nothing, PROXY),
    ("proxy_uring", Nothing, PROXY),
    ("read_buf_mem_limit", ANY, BUFFERS),
    ("resp_obj_mem_limit", ANY, BUFFERS),
    ("slab_automove", Number(0, 2), SLAB),
    ("slab_automove_freeratio", Fraction, SLAB),
    ("slab_automove_ratio", Fraction, SLAB),
    ("slab_automove_window", Number(3, 1800), SLAB),
    ("slab_chunk_max", ANY, "the largest chunk follows from the memory"),
    ("slab_reassign", Nothing, SLAB),
    ("slab_sizes", Text, "-f and -n choose the sizes"),
    ("sock_cookie_id", ANY, "sockets are not marked"),
    ("ssl_ciphers", Text, TLS),
    ("ssl_kernel_tls", Nothing, TLS),
    ("ssl_wbuf_size", ANY, BUFFERS),
    ("tail_repair_time", Number(10, u64::MAX), "items are never stuck"),
    ("temporary_ttl", ANY, LRU),
    ("track_sizes", Nothing, "sizes are not tracked"),
    ("warm_lru_pct", Number(1, 80), LRU),
    ("warm_max_factor", Fraction, LRU),
    ("watcher_logbuf_size", ANY, BUFFERS),
    ("worker_logbuf_size", ANY, BUFFERS),
];

/// What the list asked for, of what means something here. Of a repeated name the last one counts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Extended {
    /// Seconds after which a silent connection is closed; 0 is never.
    pub idle_timeout_seconds: u32,
    /// File of the certificate chain.
    pub chain: Option<String>,
    /// File of the private key.
    pub key: Option<String>,
    /// `PEM` or `DER`.
    pub key_format: Option<String>,
    /// File of those whose signature makes a client's certificate good.
    pub authorities: Option<String>,
    /// 0: clients need no certificate; 1: they may show one; 2 and 3: they must.
    pub verify_mode: u8,
    /// 2: TLS 1.2 and later; 3: TLS 1.3 only.
    pub min_version: Option<u8>,
}

/// Reads lists of `name=value`. Puts a line into `warnings` for each name without an effect.
pub fn parse(lists: &[String], warnings: &mut Vec<String>) -> Result<Extended, Refused> {
    let mut extended = Extended::default();
    for word in lists.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        if let Some((_, takes)) = HEEDED.iter().find(|(known, _)| *known == name) {
            let value = check(name, *takes, value)?;
            heed(&mut extended, name, value);
            if extended.min_version.is_some_and(|version| version < OLDEST_TLS) {
                warnings.push(format!("-o {word}: TLS 1.2 is the oldest that is spoken"));
            }
        } else if let Some((_, takes, why)) = IGNORED.iter().find(|(known, ..)| *known == name) {
            check(name, *takes, value)?;
            let warning = format!("-o {name} has no effect: {why}");
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        } else {
            return Err(refused(format!("-o {name}: Illegal suboption {name:?}; see memcached's -o")));
        }
    }
    Ok(extended)
}

fn heed(extended: &mut Extended, name: &str, value: &str) {
    let small = || value.parse::<u8>().expect("checked against its range");
    match name {
        "idle_timeout" => {
            extended.idle_timeout_seconds = value.parse().expect("checked against its range");
        }
        "ssl_ca_cert" => extended.authorities = Some(value.to_owned()),
        "ssl_chain_cert" => extended.chain = Some(value.to_owned()),
        "ssl_key" => extended.key = Some(value.to_owned()),
        "ssl_keyformat" => extended.key_format = Some(value.to_owned()),
        "ssl_min_version" => extended.min_version = Some(small()),
        "ssl_verify_mode" => extended.verify_mode = small(),
        _ => {}
    }
}

fn check<'a>(name: &str, takes: Takes, value: Option<&'a str>) -> Result<&'a str, Refused> {
    let good = match (takes, value) {
        // memcached takes and forgets a value here.
        (Nothing, _) => return Ok(value.unwrap_or_default()),
        (_, None | Some("")) => return Err(refused(format!("-o {name}: Missing {name} argument"))),
        (Number(least, most), Some(value)) => {
            value.parse::<u64>().is_ok_and(|number| (least..=most).contains(&number))
        }
        (Fraction, Some(value)) => value.parse::<f64>().is_ok_and(f64::is_finite),
        (Text, Some(_)) => true,
    };
    let value = value.expect("matched above");
    match takes {
        _ if good => Ok(value),
        Number(0, u64::MAX) => Err(refused(format!("-o {name}={value}: must be a whole number"))),
        Number(least, u64::MAX) => Err(refused(format!("-o {name}={value}: must be at least {least}"))),
        Number(least, most) => Err(refused(format!("-o {name}={value}: must be {least} to {most}"))),
        _ => Err(refused(format!("-o {name}={value}: must be a number"))),
    }
}

fn refused(text: String) -> Refused {
    Refused { text, exit_code: EXIT_FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> (Result<Extended, Refused>, Vec<String>) {
        let mut warnings = Vec::new();
        (parse(&[list.to_owned()], &mut warnings), warnings)
    }

    #[test]
    fn names_with_an_effect_are_heeded_and_the_last_one_counts() {
        let (extended, warnings) = read("idle_timeout=3,ssl_key=k,ssl_verify_mode=2,modern,idle_timeout=5");
        let wanted = Extended {
            idle_timeout_seconds: 5,
            key: Some("k".into()),
            verify_mode: 2,
            ..Extended::default()
        };
        assert_eq!((extended.unwrap(), warnings.len()), (wanted, 0));
    }

    #[test]
    fn every_other_name_of_memcached_is_taken_with_one_warning() {
        for (name, takes, _) in IGNORED {
            let word = match takes {
                Nothing => name.to_owned(),
                Number(least, _) => format!("{name}={least}"),
                Fraction => format!("{name}=0.5"),
                Text => format!("{name}=x"),
            };
            let (extended, warnings) = read(&format!("{word},{word}"));
            assert_eq!(extended.unwrap(), Extended::default(), "{name}");
            assert!(warnings.len() == 1 && warnings[0].contains(name), "{warnings:?}");
        }
    }

    #[test]
    fn unknown_names_and_bad_values_are_refused_by_name() {
        for (list, word) in [
            ("nosuch", "Illegal suboption \"nosuch\""),
            ("hashpower", "Missing hashpower argument"),
            ("idle_timeout=", "Missing idle_timeout argument"),
            ("idle_timeout=-1", "-o idle_timeout=-1"),
            ("hashpower=64", "must be 12 to 32"),
            ("tail_repair_time=9", "at least 10"),
            ("slab_automove=3", "must be 0 to 2"),
            ("ssl_verify_mode=4", "must be 0 to 3"),
            ("hot_max_factor=much", "must be a number"),
            ("lru_crawler_tocrawl=x", "whole number"),
        ] {
            let text = read(list).0.unwrap_err().text;
            assert!(text.contains(word), "{list}: {text}");
        }
    }
}
