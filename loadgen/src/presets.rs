//! Options that come from elsewhere than the command line: presets, and TOML files. Both are words that stand before
//! the command line's, so these win.

use std::path::Path;

/// A workload that was measured somewhere.
struct Preset {
    name: &'static str,
    about: &'static str,
    words: &'static str,
}

/// `createFacebookValue` of leverich/mutilate: the values of Atikoglu et al., table 5, and the fit of the rest.
const ETC_VALUES: &str = "0@0.00536,1@0.00047,2@0.1782,3@0.09239,4@0.00018,5@0.0274,6@0.00065,7@0.00606,8@0.00023,\
9@0.00837,10@0.00837,11@0.08989,12@0.00092,13@0.00326,14@0.0198,gpareto:15:214.476:0.348238";

/// Atikoglu et al. publish fits for ETC only. The others are read off their figures 1 and 2 and table 2: main sizes
/// and shares of requests, not whole distributions.
const PRESETS: [Preset; 7] = [
    Preset {
        name: "etc",
        about: "Facebook ETC: general purpose, the published fits (SIGMETRICS 2012, table 5; mutilate fb_key, fb_value)",
        words: "--keys 1000000 --key-size gev:30.7984:8.20449:0.078688 --value-size {etc} --mix get:30,set:1 \
                --distribution zipf:0.99",
    },
    Preset {
        name: "usr",
        about: "Facebook USR: user status, tiny values, nearly only gets (same, figures 1, 2)",
        words: "--keys 1000000 --key-size 16@0.5,21@0.5 --value-size 2 --mix get:998,set:2 --distribution zipf:0.99",
    },
    Preset {
        name: "app",
        about: "Facebook APP: application objects (same, figures 1, 2)",
        words: "--keys 1000000 --key-size 31@0.9,16-60 --value-size 270@0.3,100-1000 --mix get:84,set:10,delete:6 \
                --distribution zipf:0.99",
    },
    Preset {
        name: "var",
        about: "Facebook VAR: browser state, mostly writes (same, figures 1, 2)",
        words: "--keys 1000000 --key-size 32@0.9,16-60 --value-size 50@0.8,10-1000 --mix get:18,set:82 \
                --distribution zipf:0.99",
    },
    Preset {
        name: "sys",
        about: "Facebook SYS: system data, few keys, values near 500 bytes (same, figures 1, 2)",
        words: "--keys 100000 --key-size 16-45 --value-size 500@0.7,64-2000 --mix get:67,set:33 --distribution zipf:0.99",
    },
    Preset {
        name: "ycsb-a",
        about: "YCSB A: half reads, half updates of 1 KB records (workloads/workloada)",
        words: "--keys 1000000 --key-size 23 --value-size 1000 --mix get:1,set:1 --distribution zipf:0.99",
    },
    Preset {
        name: "ycsb-b",
        about: "YCSB B: 95 % reads (workloads/workloadb)",
        words: "--keys 1000000 --key-size 23 --value-size 1000 --mix get:95,set:5 --distribution zipf:0.99",
    },
];

/// Twitter's clusters in figures. Source: twitter/cache-trace, `stat/2020Mar.md`, CC BY 4.0; Yang et al., OSDI 2020.
const TWITTER: &str = include_str!("presets/twitter.csv");

/// The words of `words` with those that a preset and a file bring before them.
pub(crate) fn expand(words: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    if let Some(name) = value_of(words, "--preset") {
        all.extend(preset(&name)?);
    }
    if let Some(path) = value_of(words, "--config") {
        all.extend(file(Path::new(&path))?);
    }
    all.extend_from_slice(words);
    Ok(all)
}

/// All presets, a line for each.
pub(crate) fn list() -> String {
    let facebook = PRESETS.iter().map(|Preset { name, about, .. }| format!("{name:12} {about}\n"));
    let twitter = rows().map(|row| {
        format!(
            "{:12} Twitter {}: keys of {} B, values of {} B, {}, zipf {} (OSDI 2020; means of twitter/cache-trace)\n",
            row.preset, row.preset, row.key_size, row.value_size, row.mix, row.exponent
        )
    });
    facebook.chain(twitter).collect()
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
        assert_eq!(list().lines().count(), count);
    }

    #[test]
    fn a_file_says_what_the_command_line_does_not() {
        let path = std::env::temp_dir().join(format!("slabring-load-{}.toml", std::process::id()));
        let text = "value-size = \"5-9\"\nkeys = 77\nverify = true\nprefill = false\nrate = 1.5\nservers = [\"h:1\"]\n";
        std::fs::write(&path, text).unwrap();
        let args = Args::of(&format!("--config {} --keys 78", path.display())).unwrap();
        assert_eq!((args.value_size.bounds(), args.keys, args.rate), ((5, 9), 78, Some(1.5)));
        assert!(args.verify && !args.prefill && args.addresses == ["h:1"]);
        std::fs::write(&path, "keys = [").unwrap();
        let refused = Args::of(&format!("--config {}", path.display())).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(refused.contains("TOML") || refused.contains(".toml"), "{refused}");
    }
}
