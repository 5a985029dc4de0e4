//! Options that come from elsewhere than the command line: presets, and TOML files. Both are words that stand before
//! the command line's, so these win.

use std::path::Path;

/// A workload that was measured somewhere.
struct Preset {
    name: &'static str,
    /// The sizes are distributions that were published as such; else a few sizes and shares stand for them.
    is_published: bool,
    about: &'static str,
    words: &'static str,
}

/// `createFacebookValue` of leverich/mutilate: the values of Atikoglu et al., table 5, and the fit of the rest.
const ETC_VALUES: &str = "0@0.00536,1@0.00047,2@0.1782,3@0.09239,4@0.00018,5@0.0274,6@0.00065,7@0.00606,8@0.00023,\
9@0.00837,10@0.00837,11@0.08989,12@0.00092,13@0.00326,14@0.0198,gpareto:15:214.476:0.348238";

/// Atikoglu, Xu, Frachtenberg, Jiang, Paleczny, "Workload Analysis of a Large-Scale Key-Value Store", SIGMETRICS 2012,
/// has fits for ETC only. Of the others there are figure 1 (shares of requests) and figure 2 (sizes as curves): the main
/// steps of the curves are taken as sizes, the rest is spread evenly. Popularity is published for none.
const PRESETS: [Preset; 7] = [
    Preset {
        name: "etc",
        is_published: true,
        about: "Facebook ETC, general purpose; sizes: the fits of SIGMETRICS 2012, section 5 (keys GEV, values 15 sizes and a \
                generalised Pareto), GET:SET 30:1; popularity assumed",
        words: "--keys 1000000 --key-size gev:30.7984:8.20449:0.078688 --value-size {etc} --mix get:30,set:1 \
                --distribution zipf:0.99",
    },
    Preset {
        name: "usr",
        is_published: false,
        about: "Facebook USR, user status: two key sizes, values of 2 B, 99.8 % gets (same, figures 1 and 2)",
        words: "--keys 1000000 --key-size 16@0.5,21@0.5 --value-size 2 --mix get:998,set:2 --distribution zipf:0.99",
    },
    Preset {
        name: "app",
        is_published: false,
        about: "Facebook APP, application objects: most keys of 31 B, a step of the values at 270 B (same, figures 1 and 2)",
        words: "--keys 1000000 --key-size 31@0.9,16-60 --value-size 270@0.3,100-1000 --mix get:84,set:10,delete:6 \
                --distribution zipf:0.99",
    },
    Preset {
        name: "var",
        is_published: false,
        about: "Facebook VAR, browser state: most keys of 32 B and values of 50 B, more writes than reads (same, figures 1 and 2)",
        words: "--keys 1000000 --key-size 32@0.9,16-60 --value-size 50@0.8,10-1000 --mix get:18,set:82 \
                --distribution zipf:0.99",
    },
    Preset {
        name: "sys",
        is_published: false,
        about: "Facebook SYS, system data: few keys, most values near 500 B (same, figures 1 and 2)",
        words: "--keys 100000 --key-size 16-45 --value-size 500@0.7,64-2000 --mix get:67,set:33 --distribution zipf:0.99",
    },
    Preset {
        name: "ycsb-a",
        is_published: true,
        about: "YCSB A, half reads and half updates of 1 KB records (YCSB workloads/workloada: zipfian 0.99, 10 fields of 100 B)",
        words: "--keys 1000000 --key-size 23 --value-size 1000 --mix get:1,set:1 --distribution zipf:0.99",
    },
    Preset {
        name: "ycsb-b",
        is_published: true,
        about: "YCSB B, 95 % reads (YCSB workloads/workloadb)",
        words: "--keys 1000000 --key-size 23 --value-size 1000 --mix get:95,set:5 --distribution zipf:0.99",
    },
];

const PUBLISHED: &str = "published";
const APPROXIMATE: &str = "approximate";

const LEGEND: &str = "
published: the sizes are the source's own distributions or constants. approximate: a few sizes and shares stand for the
source's; twitter-N has the means of cluster N's keys and values, its times to live, operations and Zipf exponent
(twitter/cache-trace, stat/2020Mar.md; Yang et al., OSDI 2020), not its distributions. docs/benchmarking.md has the formulas.
";

/// Twitter's clusters in figures. Source: twitter/cache-trace, `stat/2020Mar.md`, CC BY 4.0; Yang et al., OSDI 2020.
const TWITTER: &str = include_str!("presets/twitter.csv");

/// The words of `words` with those that a preset and a file bring before them.
pub(crate) fn expand(words: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    if let Some(name) = value_of(words, "--preset") {
        all.extend(preset(&name)?);
    }
    if let Some(path) = value_of(words, "--config") {
        let more = file(Path::new(&path))?;
        give_way(&mut all, &more);
        all.extend(more);
    }
    give_way(&mut all, words);
    all.extend_from_slice(words);
    Ok(all)
}

/// All presets, a line for each, and what the words in it mean.
pub(crate) fn list() -> String {
    let line = |name: &str, is_published, about: &str| {
        format!("{name:12} {:12} {about}\n", if is_published { PUBLISHED } else { APPROXIMATE })
    };
    let first =
        PRESETS.iter().map(|Preset { name, is_published, about, .. }| line(name, *is_published, about));
    let twitter = rows().map(|row| {
        let Row { preset, key_size, value_size, mix, exponent, .. } = &row;
        let about = format!(
            "Twitter {preset}: keys of {key_size} B, values of {value_size} B, {mix}, zipf {exponent}"
        );
        line(preset, false, &about)
    });
    first.chain(twitter).collect::<String>() + LEGEND
}

/// Takes the mix out of `words` that `stronger` words say in the other way.
fn give_way(words: &mut Vec<String>, stronger: &[String]) {
    for (said, other) in [("--ratio", "--mix"), ("--mix", "--ratio")] {
        if value_of(stronger, said).is_some() {
            remove(words, other);
        }
    }
}

/// Takes an option and its value out of `words`, wherever it stands.
fn remove(words: &mut Vec<String>, option: &str) {
    let is_it = |word: &String| {
        word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    while let Some(at) = words.iter().position(is_it) {
        let end = if words[at] == option { at + 2 } else { at + 1 };
        words.drain(at..end.min(words.len()));
    }
}

fn value_of(words: &[String], option: &str) -> Option<String> {
    words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(option) {
        Some("") => words.get(at + 1).cloned(),
        Some(value) => value.strip_prefix('=').map(String::from),
        None => None,
    })
}

fn preset(name: &str) -> Result<Vec<String>, String> {
    let split = |line: &str| line.split_whitespace().map(String::from).collect();
    if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
        return Ok(split(&preset.words.replace("{etc}", ETC_VALUES)));
    }
    let row = rows().find(|row| row.preset == name);
    row.map(|row| split(&row.words()))
        .ok_or_else(|| format!("there is no preset {name:?}; `slabring-load presets` lists them"))
}

/// One cluster of Twitter's.
struct Row {
    preset: String,
    key_size: &'static str,
    value_size: &'static str,
    ttls: String,
    mix: String,
    exponent: &'static str,
}

impl Row {
    fn words(&self) -> String {
        let Self { key_size, value_size, ttls, mix, exponent, .. } = self;
        let popularity = match exponent.parse::<f64>() {
            Ok(exponent) if exponent > 0.0 => format!("zipf:{exponent}"),
            _ => "uniform".into(),
        };
        format!(
            "--keys 1000000 --key-size {key_size} --value-size {value_size} --ttl {ttls} --mix {mix} \
             --distribution {popularity}"
        )
    }
}

fn rows() -> impl Iterator<Item = Row> {
    TWITTER.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let columns: Vec<&'static str> = line.split(';').collect();
        let &[cluster, key_size, value_size, ttls, mix, exponent] = &columns[..] else { return None };
        let preset = format!("twitter-{}", cluster.trim_start_matches("cluster"));
        Some(Row { preset, key_size, value_size, ttls: ttls.into(), mix: mix.into(), exponent })
    })
}

/// The words of a TOML file: each key an option without its dashes; `true` is a flag, a list several values.
fn file(path: &Path) -> Result<Vec<String>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let table: toml::Table = text.parse().map_err(|error| format!("{shown}: {error}"))?;
    let mut words = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Boolean(true) => words.push(format!("--{key}")),
            toml::Value::Boolean(false) => {}
            toml::Value::String(text) => words.push(format!("--{key}={text}")),
            toml::Value::Integer(number) => words.push(format!("--{key}={number}")),
            toml::Value::Float(number) => words.push(format!("--{key}={number}")),
            toml::Value::Array(values) if key == "servers" => {
                words.extend(values.iter().filter_map(|value| value.as_str().map(String::from)));
            }
            _ => return Err(format!("{shown}: {key} is neither a text nor a number nor true or false")),
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;

    #[test]
    fn every_preset_is_a_command_line() {
        let names = PRESETS.iter().map(|preset| preset.name.to_owned()).chain(rows().map(|row| row.preset));
        let mut count = 0;
        for name in names {
            Args::of(&format!("--preset {name}")).unwrap_or_else(|error| panic!("{name}: {error}"));
            count += 1;
        }
        assert!(count > 50, "{count}");
        let listed = list();
        let of =
            |word: &str| listed.lines().filter(|line| line.split_whitespace().nth(1) == Some(word)).count();
        assert_eq!((of(PUBLISHED), of(PUBLISHED) + of(APPROXIMATE)), (3, count), "{listed}");
    }

    #[test]
    fn a_file_says_what_the_command_line_does_not() {
        let path = std::env::temp_dir().join(format!("slabring-load-{}.toml", std::process::id()));
        let text = "value-size = \"5-9\"\nkeys = 77\nverify = true\nprefill = false\nrate = 1.5\nservers = [\"h:1\"]\n";
        std::fs::write(&path, text).unwrap();
        let args = Args::of(&format!("--config {} --keys 78", path.display())).unwrap();
        assert_eq!((args.value_size.bounds(), args.keys, args.rate), ((5, 9), 78, Some(1.5)));
        assert!(args.verify && !args.prefill && args.addresses == ["h:1"]);
        std::fs::write(&path, "ratio = \"1:2\"\n").unwrap();
        let mix =
            |line: &str| Args::of(&format!("{line} --config {}", path.display())).unwrap().mix().to_string();
        assert_eq!(mix("--preset etc"), "set:1,get:2");
        assert_eq!(mix("--preset etc --mix get:3,set:4"), "get:3,set:4");
        std::fs::write(&path, "keys = [").unwrap();
        let refused = Args::of(&format!("--config {}", path.display())).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(refused.contains("TOML") || refused.contains(".toml"), "{refused}");
    }
}
