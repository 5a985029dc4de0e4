//! Lines of the dumps of all keys, and the answers of rare commands about the server.
//!
//! Source: memcached 1.6.45 `crawler.c`, its odd line ends included.

use super::{CRLF, append_field, append_or_never, append_uri};
use crate::base64;
use crate::limits::KEY_SIZE_MAX;
use crate::number;

/// What `lru_crawler metadump` shows of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpItem<'a> {
    /// As stored: a base64 key decoded.
    pub key: &'a [u8],
    /// Unix second from which it is dead, `None` for never.
    pub expires: Option<u64>,
    /// Unix second of the last access.
    pub accessed: u64,
    /// CAS.
    pub cas: u64,
    /// Somebody fetched it.
    pub fetched: bool,
    /// Slab class.
    pub class: u32,
    /// Size of the whole item in memory, in bytes.
    pub size: u32,
    /// Client flags.
    pub client_flags: u32,
}

/// One item of a `metadump`, behind its `OK`. The line ends in a space and a lone LF.
pub fn metadump_item(out: &mut Vec<u8>, item: &DumpItem<'_>) {
    assert!(item.key.len() <= KEY_SIZE_MAX);
    out.extend_from_slice(b"key=");
    append_uri(out, item.key);
    out.extend_from_slice(b" exp=");
    append_or_never(out, item.expires);
    append_field(out, " la=", item.accessed);
    append_field(out, " cas=", item.cas);
    out.extend_from_slice(if item.fetched { b" fetch=yes" } else { b" fetch=no" });
    append_field(out, " cls=", item.class);
    append_field(out, " size=", item.size);
    append_field(out, " flags=", item.client_flags);
    out.extend_from_slice(b" \n");
}

/// Behind the last item of a `metadump`.
pub fn metadump_end(out: &mut Vec<u8>) {
    super::end(out);
}

/// One key of an `mgdump`, behind its `OK`: a command that gets it. `base64` for a key that was stored so.
pub fn mgdump_item(out: &mut Vec<u8>, key: &[u8], base64: bool) {
    assert!(key.len() <= KEY_SIZE_MAX);
    out.extend_from_slice(b"mg ");
    if base64 {
        base64::append(out, key);
        out.extend_from_slice(b" b");
    } else {
        out.extend_from_slice(key);
    }
    out.extend_from_slice(CRLF);
}

/// Behind the last key of an `mgdump`.
pub fn mgdump_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"EN\r\n");
}

/// One item of `stats cachedump`. `expires` is the Unix second from which it is dead, `None` for never.
///
/// Source: memcached 1.6.45 `items.c`; the key is shown as it is, so that this dump is for printable keys.
pub fn cachedump_item(out: &mut Vec<u8>, key: &[u8], value_len: u32, expires: Option<u64>) {
    assert!(key.len() <= KEY_SIZE_MAX);
    out.extend_from_slice(b"ITEM ");
    out.extend_from_slice(key);
    append_field(out, " [", value_len);
    append_field(out, " b; ", expires.unwrap_or(0));
    out.extend_from_slice(b" s]\r\n");
}

/// One prefix of `stats detail dump`: its gets, hits, sets and deletes.
pub fn stats_prefix(out: &mut Vec<u8>, prefix: &[u8], counts: [u64; 4]) {
    assert!(prefix.len() <= KEY_SIZE_MAX);
    out.extend_from_slice(b"PREFIX ");
    out.extend_from_slice(prefix);
    for (name, count) in [" get ", " hit ", " set ", " del "].into_iter().zip(counts) {
        append_field(out, name, count);
    }
    out.extend_from_slice(CRLF);
}

/// Answers `refresh_certs` when the files could not be used; `reason` is one line's rest. The old ones stay.
pub fn certificates_error(out: &mut Vec<u8>, reason: &str) {
    assert!(!reason.contains(['\r', '\n']));
    out.extend_from_slice(b"Error ");
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(CRLF);
}

/// Answers `config get cluster`: clients ask again and again and act when `version` has grown.
///
/// `nodes` are host name, address and port of each. Source: AWS, "Adding Auto Discovery to your client library".
pub fn cluster_config<'n>(
    out: &mut Vec<u8>,
    version: u64,
    nodes: impl IntoIterator<Item = (&'n str, &'n str, u16)>,
) {
    let mut config = Vec::new();
    number::append(&mut config, version);
    config.push(b'\n');
    for (at, (host, address, port)) in nodes.into_iter().enumerate() {
        assert!(!format!("{host}{address}").contains([' ', '|', '\r', '\n']), "they separate nodes");
        config.extend_from_slice(if at == 0 { b"" } else { b" " });
        for part in [host, "|", address, "|"] {
            config.extend_from_slice(part.as_bytes());
        }
        number::append(&mut config, port);
    }
    config.push(b'\n');
    append_field(out, "CONFIG cluster 0 ", u64::try_from(config.len()).expect("usize has at most 64 bits"));
    out.extend_from_slice(CRLF);
    out.extend_from_slice(&config);
    out.extend_from_slice(b"\r\nEND\r\n");
}

/// Answers `config get ring`: the document as its cluster's nodes exchange it, in the form of [`cluster_config`].
pub fn ring_config(out: &mut Vec<u8>, json: &str) {
    append_field(out, "CONFIG ring 0 ", u64::try_from(json.len()).expect("usize has at most 64 bits"));
    out.extend_from_slice(CRLF);
    out.extend_from_slice(json.as_bytes());
    out.extend_from_slice(b"\r\nEND\r\n");
}

/// Tells a client that asked for it where a key is: the ring's epoch, the key's partition and the address of its node.
pub fn moved(out: &mut Vec<u8>, epoch: u64, partition: u16, address: &str) {
    append_field(out, "SERVER_ERROR MOVED ", epoch);
    append_field(out, " ", partition);
    out.push(b' ');
    out.extend_from_slice(address.as_bytes());
    out.extend_from_slice(CRLF);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(append: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = Vec::new();
        append(&mut out);
        assert_eq!(str::from_utf8(&out).unwrap(), expected);
    }

    #[test]
    fn a_dumped_item_is_one_line_whatever_its_key() {
        let item = DumpItem {
            key: b"a-._~Z9 /\n\xff",
            expires: None,
            accessed: 1_700_000_000,
            cas: u64::MAX,
            fetched: true,
            class: 3,
            size: 96,
            client_flags: 7,
        };
        check(
            |out| metadump_item(out, &item),
            "key=a-._~Z9%20%2F%0A%FF exp=-1 la=1700000000 cas=18446744073709551615 fetch=yes cls=3 size=96 flags=7 \n",
        );
        let item = DumpItem { key: b"k", expires: Some(5), fetched: false, ..item };
        check(
            |out| metadump_item(out, &item),
            "key=k exp=5 la=1700000000 cas=18446744073709551615 fetch=no cls=3 size=96 flags=7 \n",
        );
        check(metadump_end, "END\r\n");
    }

    #[test]
    fn a_dumped_key_is_a_command_that_gets_it() {
        check(|out| mgdump_item(out, b"key", false), "mg key\r\n");
        check(|out| mgdump_item(out, b"fo\0b", true), "mg Zm8AYg== b\r\n");
        check(mgdump_end, "EN\r\n");
    }

    #[test]
    fn cachedump_and_prefixes_are_memcacheds() {
        check(|out| cachedump_item(out, b"c", 1, Some(1795307074)), "ITEM c [1 b; 1795307074 s]\r\n");
        check(|out| cachedump_item(out, b"x:y", 1, None), "ITEM x:y [1 b; 0 s]\r\n");
        check(|out| stats_prefix(out, b"a", [1, 2, 3, 4]), "PREFIX a get 1 hit 2 set 3 del 4\r\n");
    }

    #[test]
    fn a_cluster_is_told_with_its_version() {
        let nodes = [("a.example", "10.0.0.1", 11211), ("b.example", "10.0.0.2", 11212)];
        check(
            |out| cluster_config(out, 12, nodes),
            "CONFIG cluster 0 53\r\n12\na.example|10.0.0.1|11211 b.example|10.0.0.2|11212\n\r\nEND\r\n",
        );
    }

    #[test]
    fn who_asked_for_it_is_told_where_a_key_is() {
        check(|out| moved(out, 7, 16_383, "10.0.0.1:11211"), "SERVER_ERROR MOVED 7 16383 10.0.0.1:11211\r\n");
    }

    #[test]
    fn a_ring_comes_as_the_nodes_exchange_it() {
        check(|out| ring_config(out, "{}"), "CONFIG ring 0 2\r\n{}\r\nEND\r\n");
    }

    #[test]
    fn certificates_that_cannot_be_used_are_told_with_the_reason() {
        let reason = "loading the certificate chain: no such file";
        check(|out| certificates_error(out, reason), "Error loading the certificate chain: no such file\r\n");
    }
}
