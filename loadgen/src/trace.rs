//! Recorded request sequences, each whole in memory: CTRACE01 here, the formats of others in `formats.rs`. Knows nothing
//! of caches.
//!
//! A CTRACE01 file is one zstd frame. Inside, all numbers little-endian:
//!
//! | bytes | header |
//! |---|---|
//! | 0..8 | `CTRACE01` |
//! | 8..16 | number of records |
//! | 16..24 | number of distinct keys |
//! | 24..28 | bytes in a record, 24 |
//! | 28..32 | flags: 4 expiry column valid, 8 time column valid |
//! | 32..40 | sum over the keys of the last size seen |
//! | 40..64 | name, filled up with NUL |
//!
//! | bytes | record |
//! |---|---|
//! | 0..8 | key, counted from 0 by first appearance |
//! | 8..12 | bytes of key and value |
//! | 12..16 | seconds to live, 0 for ever |
//! | 16..20 | second since the start |
//! | 20 | 0 get, 1 set, 2 delete |
//! | 21..24 | 0 |

mod formats;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};

const MAGIC: &[u8; 8] = b"CTRACE01";
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 24;
const FLAG_EXPIRY: u32 = 4;
const FLAG_TIME: u32 = 8;

/// Frames are written with a window of 64 MiB, more than a decoder grants by itself.
const WINDOW_LOG_MAX: u32 = 27;

/// How every zstd frame begins. Source: RFC 8878, 3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A file that claims more is not believed before it has been read.
const RESERVED_RECORDS_MAX: usize = 1 << 24;

/// What a record asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Look aside: on a miss the client stores the value.
    Get,
    /// Stores the value.
    Set,
    /// Removes it.
    Delete,
}

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Below the trace's `keys`.
    pub key: u64,
    /// Bytes of key and value.
    pub size_bytes: u32,
    /// 0 lives for ever. Always 0 where the trace does not know.
    pub ttl_seconds: u32,
    /// Since the start of the trace. Always 0 where the trace does not know.
    pub second: u32,
    /// What is asked for.
    pub operation: Operation,
}

impl Request {
    /// A get without expiry at second 0.
    #[must_use]
    pub const fn get(key: u64, size_bytes: u32) -> Self {
        Self { key, size_bytes, ttl_seconds: 0, second: 0, operation: Operation::Get }
    }
}

/// How a file is written. All may also be compressed by zstd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// See the module.
    Ctrace,
    /// libCacheSim's binary `oracleGeneral`.
    OracleGeneral,
    /// Twitter's CSV.
    Twitter,
}

impl Format {
    /// What a file of this name most likely is: `*.csv`, `*oracleGeneral*`, anything else.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(".zst").unwrap_or(&name);
        match name {
            name if name.contains("oracleGeneral") => Self::OracleGeneral,
            name if name.ends_with(".csv") => Self::Twitter,
            _ => Self::Ctrace,
        }
    }
}

/// A whole trace.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// A plain word.
    pub name: String,
    /// Number of distinct keys.
    pub keys: u64,
    /// What all keys with their last values would take: the working set.
    pub unique_bytes: u64,
    /// In their order.
    pub requests: Vec<Request>,
}

impl Trace {
    /// Reads a compressed CTRACE01 trace.
    ///
    /// # Errors
    /// What is wrong with the file, with its name.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::open_as(path, Format::Ctrace)
    }

    /// Reads a trace of any format, compressed or not.
    ///
    /// # Errors
    /// What is wrong with the file, with its name.
    pub fn open_as(path: &Path, format: Format) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut file = BufReader::new(File::open(path).with_context(|| format!("cannot open {shown}"))?);
        let is_compressed = file.fill_buf().is_ok_and(|start| start.starts_with(&ZSTD_MAGIC));
        let from: Box<dyn BufRead> = if is_compressed {
            let mut decoder = zstd::Decoder::with_buffer(file)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(BufReader::new(decoder))
        } else {
            Box::new(file)
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let trace = match format {
            Format::Ctrace => Self::read(from),
            Format::OracleGeneral => formats::oracle_general(&name, from),
            Format::Twitter => formats::twitter(&name, from),
        };
        trace.with_context(|| format!("cannot read {shown}"))
    }

    fn read(mut from: impl Read) -> anyhow::Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        from.read_exact(&mut bytes).context("no header")?;
        let header = Header::parse(&bytes)?;
        let mut requests = Vec::with_capacity(header.records.min(RESERVED_RECORDS_MAX));
        for at in 0..header.records {
            let mut record = [0; RECORD_BYTES];
            from.read_exact(&mut record).with_context(|| format!("cut off at record {at}"))?;
            requests.push(header.request(&record).with_context(|| format!("record {at}"))?);
        }
        ensure!(from.read(&mut [0])? == 0, "more than the {} records announced", header.records);
        Ok(Self { name: header.name, keys: header.keys, unique_bytes: header.unique_bytes, requests })
    }

    /// The largest item, in bytes of key and value.
    #[must_use]
    pub fn size_max_bytes(&self) -> usize {
        self.requests.iter().map(|request| request.size_bytes as usize).max().unwrap_or(0)
    }
}

struct Header {
    name: String,
    records: usize,
    keys: u64,
    flags: u32,
    unique_bytes: u64,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> anyhow::Result<Self> {
        ensure!(bytes.starts_with(MAGIC), "not a CTRACE01 trace");
        let record_bytes = u32_at(bytes, 24);
        ensure!(record_bytes as usize == RECORD_BYTES, "records of {record_bytes} bytes");
        let records = usize::try_from(u64_at(bytes, 8))?;
        let name = name_in(&bytes[40..])?;
        // Whoever reads it makes room for as many keys.
        let keys = u64_at(bytes, 16);
        ensure!((1..=records as u64).contains(&keys), "{keys} keys in {records} records");
        Ok(Self { name, records, keys, flags: u32_at(bytes, 28), unique_bytes: u64_at(bytes, 32) })
    }

    fn request(&self, record: &[u8; RECORD_BYTES]) -> anyhow::Result<Request> {
        let key = u64_at(record, 0);
        ensure!(key < self.keys, "key {key} of {}", self.keys);
        let column = |flag, at| if self.flags & flag == 0 { 0 } else { u32_at(record, at) };
        Ok(Request {
            key,
            size_bytes: u32_at(record, 8),
            ttl_seconds: column(FLAG_EXPIRY, 12),
            second: column(FLAG_TIME, 16),
            operation: match record[20] {
                0 => Operation::Get,
                1 => Operation::Set,
                2 => Operation::Delete,
                other => bail!("operation {other}"),
            },
        })
    }
}

/// Names go into tables and CSV files as they are, so they have to be plain.
fn name_in(field: &[u8]) -> anyhow::Result<String> {
    let name = field.split(|&byte| byte == 0).next().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    ensure!(!name.is_empty() && name.iter().all(plain), "its name is not a plain word");
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(key: u64, size_bytes: u32) -> Request {
        Request::get(key, size_bytes)
    }

    /// The inverse of the reader, uncompressed.
    fn written(requests: &[Request], flags: u32, keys: u64) -> Vec<u8> {
        let count = u64::try_from(requests.len()).unwrap();
        let mut bytes = MAGIC.to_vec();
        bytes.extend([count, keys].iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend([24, flags].iter().flat_map(|number: &u32| number.to_le_bytes()));
        bytes.extend(77_u64.to_le_bytes());
        bytes.extend(b"tiny_1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        for request in requests {
            bytes.extend(request.key.to_le_bytes());
            let numbers = [request.size_bytes, request.ttl_seconds, request.second];
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            bytes.extend([request.operation as u8, 0, 0, 0]);
        }
        bytes
    }

    fn some() -> Vec<Request> {
        let set = Request { ttl_seconds: 60, second: 1, operation: Operation::Set, ..get(1, 300) };
        let delete = Request { second: 9, operation: Operation::Delete, ..get(2, 0) };
        vec![get(0, 40), set, delete, get(1, 300)]
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], expected: &str) {
        let error = format!("{:#}", Trace::read(bytes).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_trace_is_read_as_it_was_written() {
        let trace = Trace::read(&written(&some(), FLAG_EXPIRY | FLAG_TIME, 3)[..]).unwrap();
        assert_eq!((trace.name.as_str(), trace.keys, trace.unique_bytes), ("tiny_1", 3, 77));
        assert_eq!(trace.requests, some());
        assert_eq!(trace.size_max_bytes(), 300);
    }

    #[test]
    fn columns_that_are_not_valid_read_as_zero() {
        let trace = Trace::read(&written(&some(), 0, 3)[..]).unwrap();
        assert!(trace.requests.iter().all(|request| request.ttl_seconds == 0 && request.second == 0));
        let trace = Trace::read(&written(&some(), FLAG_TIME, 3)[..]).unwrap();
        assert_eq!((trace.requests[1].ttl_seconds, trace.requests[1].second), (0, 1));
    }

    #[test]
    fn every_strict_prefix_and_every_excess_is_refused() {
        let bytes = written(&some(), 0, 3);
        for cut in 0..bytes.len() {
            assert!(Trace::read(&bytes[..cut]).is_err(), "{cut}");
        }
        check_refused(&[&bytes[..], b"x"].concat(), "more than the 4 records");
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let change = |at: usize, byte: u8| {
            let mut bytes = written(&some(), 0, 3);
            bytes[at] = byte;
            bytes
        };
        check_refused(&change(0, b'X'), "not a CTRACE01");
        check_refused(&change(24, 25), "records of 25");
        check_refused(&change(40, b','), "plain word");
        check_refused(&change(23, 1), "keys in 4 records");
        check_refused(&change(HEADER_BYTES, 3), "record 0: key 3 of 3");
        check_refused(&change(HEADER_BYTES + 20, 3), "record 0: operation 3");
    }

    #[test]
    fn a_compressed_file_is_read() {
        let path = std::env::temp_dir().join(format!("slabring-trace-{}.zst", std::process::id()));
        std::fs::write(&path, zstd::encode_all(&written(&some(), 0, 3)[..], 1).unwrap()).unwrap();
        let trace = Trace::open(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(trace.unwrap().requests.len(), 4);
    }
}
