//! The trace formats of others, made into the one form. Keys are numbered by first appearance; sizes and times are
//! taken as they are.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::{BufRead, ErrorKind, Read};

use anyhow::{Context, bail, ensure};

use super::{Operation, Request, Trace};

/// `u32 time_s | u64 object | u32 size_bytes | i64 next access`, little-endian.
///
/// Source: libCacheSim, `libCacheSim/traceReader/customizedReader/oracle/oracleGeneralBin.h`.
const ORACLE_RECORD_BYTES: usize = 24;

/// `time_s,key,key bytes,value bytes,client,operation,ttl`.
///
/// Source: twitter/cache-trace, README.
const TWITTER_COLUMNS: usize = 7;

/// Collects requests whose keys come as something else than dense numbers.
struct Collector<K> {
    numbers: HashMap<K, (u64, u32)>,
    first_second: Option<u32>,
    requests: Vec<Request>,
}

impl<K: Hash + Eq> Collector<K> {
    fn new() -> Self {
        Self { numbers: HashMap::new(), first_second: None, requests: Vec::new() }
    }

    fn add(&mut self, key: K, request: Request) {
        let next = self.numbers.len() as u64;
        let (number, size_bytes) = self.numbers.entry(key).or_insert((next, 0));
        *size_bytes = request.size_bytes;
        let first = *self.first_second.get_or_insert(request.second);
        let second = request.second.saturating_sub(first);
        self.requests.push(Request { key: *number, second, ..request });
    }

    fn finish(self, name: &str) -> anyhow::Result<Trace> {
        ensure!(!self.requests.is_empty(), "no requests in it");
        let name = name.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).collect();
        let unique_bytes = self.numbers.values().map(|&(_, size_bytes)| u64::from(size_bytes)).sum();
        Ok(Trace { name, keys: self.numbers.len() as u64, unique_bytes, requests: self.requests })
    }
}

/// libCacheSim's `oracleGeneral`: every request is a get.
pub(super) fn oracle_general(name: &str, mut from: impl Read) -> anyhow::Result<Trace> {
    let mut collector = Collector::new();
    let mut record = [0; ORACLE_RECORD_BYTES];
    loop {
        match from.read_exact(&mut record[..1]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return collector.finish(name),
            Err(error) => return Err(error.into()),
        }
        let at = collector.requests.len();
        from.read_exact(&mut record[1..]).with_context(|| format!("cut off at record {at}"))?;
        let second = super::u32_at(&record, 0);
        let get = Request::get(0, super::u32_at(&record, 12));
        collector.add(super::u64_at(&record, 4), Request { second, ..get });
    }
}

/// Twitter's CSV: `get` and `gets` read, `delete` deletes, everything else writes.
pub(super) fn twitter(name: &str, from: impl BufRead) -> anyhow::Result<Trace> {
    let mut collector = Collector::new();
    for (at, line) in from.lines().enumerate() {
        let line = line?;
        let (key, request) = twitter_line(&line).with_context(|| format!("line {}", at + 1))?;
        collector.add(key.to_owned(), request);
    }
    collector.finish(name)
}

fn twitter_line(line: &str) -> anyhow::Result<(&str, Request)> {
    let columns: Vec<&str> = line.trim_end().split(',').collect();
    // Anonymised keys may hold commas: what is not needed of the others is the key's.
    ensure!(columns.len() >= TWITTER_COLUMNS, "{} columns, not {TWITTER_COLUMNS}", columns.len());
    let [key_bytes, value_bytes, _client, operation, ttl] = columns[columns.len() - 5..] else {
        unreachable!("the slice has five")
    };
    let key_from = columns[0].len() + 1;
    let key_size: usize = columns[1..columns.len() - 5].iter().map(|part| part.len() + 1).sum();
    let number = |text: &str| text.parse::<u32>().with_context(|| format!("{text:?} is no number"));
    let operation = match operation {
        "get" | "gets" => Operation::Get,
        "delete" => Operation::Delete,
        "set" | "add" | "replace" | "cas" | "append" | "prepend" | "incr" | "decr" => Operation::Set,
        other => bail!("operation {other:?}"),
    };
    let size_bytes = number(key_bytes)?.saturating_add(number(value_bytes)?);
    let (second, ttl_seconds) = (number(columns[0])?, number(ttl)?);
    let request = Request { key: 0, size_bytes, ttl_seconds, second, operation };
    Ok((&line[key_from..key_from + key_size - 1], request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oracle_trace_is_gets_of_keys_numbered_by_appearance() {
        let mut bytes = Vec::new();
        for (second, object, size) in [(100_u32, 77_u64, 10_u32), (100, 5, 20), (103, 77, 30)] {
            bytes.extend(second.to_le_bytes());
            bytes.extend(object.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend((-1_i64).to_le_bytes());
        }
        let trace = oracle_general("disk 1", &bytes[..]).unwrap();
        assert_eq!((trace.name.as_str(), trace.keys, trace.unique_bytes), ("disk1", 2, 50));
        let last = Request { second: 3, ..Request::get(0, 30) };
        assert_eq!(trace.requests, [Request::get(0, 10), Request::get(1, 20), last]);
        assert!(oracle_general("x", &bytes[..bytes.len() - 1]).is_err());
        assert!(oracle_general("x", &[][..]).is_err());
    }

    #[test]
    fn a_twitter_line_may_have_commas_in_its_key() {
        let lines = "5,a,3,100,1,get,0\n5,b,c,4,50,1,set,60\n9,a,3,0,2,delete,0\n";
        let trace = twitter("cluster", lines.as_bytes()).unwrap();
        let set = Request { ttl_seconds: 60, operation: Operation::Set, ..Request::get(1, 54) };
        let delete = Request { second: 4, operation: Operation::Delete, ..Request::get(0, 3) };
        assert_eq!(trace.requests, [Request::get(0, 103), set, delete]);
        assert_eq!(twitter_line(lines.lines().nth(1).unwrap()).unwrap().0, "b,c");
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for (line, because) in
            [("1,2", "columns"), ("5,a,3,x,1,get,0", "no number"), ("5,a,3,1,1,fly,0", "fly")]
        {
            let error = format!("{:#}", twitter("t", line.as_bytes()).unwrap_err());
            assert!(error.contains("line 1") && error.contains(because), "{error}");
        }
    }
}
