//! The commands that measure the engine, as processes and in small: what goes in and what comes out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs, process};

/// A directory that is gone with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("slabring-bench-{name}-{}", process::id()));
        fs::create_dir_all(&path).expect("a directory for temporary files");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("nobody else removes it");
    }
}

fn bench(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slabring-bench")).args(words).output().expect("the binary was built")
}

#[track_caller]
fn check(words: &[&str]) -> String {
    let output = bench(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn check_refused(words: &[&str], expected: &str) {
    let output = bench(words);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains(expected), "{words:?}: {error}");
}

/// A trace of gets for these keys, items of 100 bytes, compressed.
fn write_trace(path: &Path, name: &str, keys: &[u64]) {
    let distinct = keys.iter().max().map_or(0, |most| most + 1);
    let mut bytes = b"CTRACE01".to_vec();
    bytes.extend((keys.len() as u64).to_le_bytes());
    bytes.extend(distinct.to_le_bytes());
    bytes.extend([24_u32, 0].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend((distinct * 100).to_le_bytes());
    bytes.extend(format!("{name:\0<24}").as_bytes());
    for key in keys {
        bytes.extend(key.to_le_bytes());
        bytes.extend(100_u32.to_le_bytes());
        bytes.extend([0; 12]);
    }
    let file = fs::File::create(path).expect("a writable directory");
    zstd::stream::copy_encode(&bytes[..], file, 1).expect("room on the disk");
}

#[test]
fn hitratio_prints_a_table_and_writes_what_it_is_told_to() {
    let scratch = Scratch::new("hitratio");
    let [one, two, csv, svg] = ["one.zst", "two.zst", "out.csv", "out.svg"].map(|name| scratch.path(name));
    // Every key twice in a row, and once more at the end: with room for all, one miss for each key.
    let keys: Vec<u64> = (0..1000).flat_map(|key| [key, key]).chain(0..1000).collect();
    write_trace(&one, "one", &keys);
    write_trace(&two, "two", &keys[..2000]);
    fs::write(
        scratch.path("reference_objects.csv"),
        "trace,size_frac,capacity_objects,policy,miss_ratio,source\none,1,1000,LRU,0.3,libcachesim-1\n",
    )
    .expect("a writable directory");
    let [one, two, csv_path, svg_path, directory] =
        [&one, &two, &csv, &svg, &scratch.0].map(|path| path.to_str().expect("plain"));

    let words = ["hitratio", "--trace", one, two, "--sizes", "1,0.5", "--policy", "lru,clock"];
    let outputs = ["--reference", directory, "--csv", csv_path, "--svg", svg_path];
    let table = check(&[&words[..], &outputs].concat());
    assert!(
        table.contains("| one | 100 % | 1000 | 0.3333 | 0.3333 | 0.3000 LRU | +3.33 | 0.3000 |"),
        "{table}"
    );
    assert!(table.contains("| two | 50 % | 500 | 0.5000 | 0.5000 | - | - | - |"), "{table}");
    let csv = fs::read_to_string(&csv).expect("it was written");
    assert!(csv.contains("\nobjects,one,1,1000,lru,3000,1000,0.333333,0,0,LRU,0.033333\n"), "{csv}");
    assert_eq!(csv.lines().count(), 1 + 2 * 2 * 2, "{csv}");
    assert!(fs::read_to_string(&svg).expect("it was written").contains("</svg>"));
}

#[test]
fn hitratio_says_what_is_wrong() {
    let scratch = Scratch::new("wrong");
    let path = scratch.path("not.zst");
    fs::write(&path, "no trace").expect("a writable directory");
    let path = path.to_str().expect("plain");
    check_refused(&["hitratio", "--trace", path], path);
    check_refused(&["hitratio", "--trace", "/nowhere/x.zst"], "/nowhere/x.zst");
    check_refused(&["hitratio", "--trace", path, "--reference", "/nowhere"], "reference_objects.csv");
    check_refused(&["hitratio", "--trace", path, "--policy", "best"], "tinylfu");
    check_refused(&["hitratio", "--trace", path, "--sizes", "2"], "share");
    check_refused(&["hitratio"], "--trace");
}

#[test]
fn memory_and_worst_print_json() {
    let memory = check(&["memory", "--memory", "1", "--shapes", "10x32", "--json"]);
    assert!(memory.starts_with(r#"{"held":[{"holder":"engine","memory_bytes":1048576,"#), "{memory}");
    let worst = check(&["worst", "--operations", "1000", "--memory", "2", "--json"]);
    assert!(worst.contains(r#""kind":"sweep","count":1,"#), "{worst}");
}
