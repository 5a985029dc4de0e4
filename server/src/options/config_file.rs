//! The configuration file: TOML whose keys are the long flags. Tells each value with the line it stands in; knows no option.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// One key of the file.
#[derive(PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key as written.
    pub key: String,
    /// Its line, from 1.
    pub line: usize,
    /// Its values: one, or those of an array, or `name=value` for each entry of a table.
    pub values: Vec<String>,
}

/// All keys of `text`, or the line of a mistake and what it is.
pub fn entries(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(text, error.span().unwrap_or(0..0));
        (line, error.message().to_owned())
    })?;
    let mut found = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_of(text, key.span());
        let key = key.get_ref().to_string();
        let values = values_of(value.get_ref()).map_err(|what| (line, format!("{key}: {what}")))?;
        found.push(Entry { key, line, values });
    }
    Ok(found)
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or_default();
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

fn values_of(value: &DeValue<'_>) -> Result<Vec<String>, &'static str> {
    match value {
        DeValue::Array(values) => values.iter().map(|value| scalar(value.get_ref())).collect(),
        DeValue::Table(table) => {
            let named = |(name, value): (&_, &_)| named(name, value);
            let entries = table.iter().map(|(name, value)| named((name.get_ref().as_ref(), value.get_ref())));
            Ok(entries.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
        value => Ok(vec![scalar(value)?]),
    }
}

/// An entry of a table: a switch that is on is its name alone, one that is off is not there.
fn named(name: &str, value: &DeValue<'_>) -> Result<Option<String>, &'static str> {
    match value {
        DeValue::Boolean(on) => Ok(on.then(|| name.to_owned())),
        value => Ok(Some(format!("{name}={}", scalar(value)?))),
    }
}

fn scalar(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Float(number) => Ok(number.to_string()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        DeValue::Datetime(_) => Err("a date is no setting"),
        DeValue::Array(_) | DeValue::Table(_) => Err("lists and tables cannot hold others"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_comes_with_its_line() {
        let text = "port = 11\n\n# comment\nlisten = [\"a\", \"b\"]\nlock-memory = true\n[extended]\nidle_timeout = 5\n\
                    modern = true\ntrack_sizes = false\n";
        let found = entries(text).unwrap();
        let entry = |key: &str, line, values: &[&str]| Entry {
            key: key.into(),
            line,
            values: values.iter().map(|&value| value.to_owned()).collect(),
        };
        assert!(found.contains(&entry("port", 1, &["11"])));
        assert!(found.contains(&entry("listen", 4, &["a", "b"])));
        assert!(found.contains(&entry("lock-memory", 5, &["true"])));
        assert!(found.contains(&entry("extended", 6, &["idle_timeout=5", "modern"])));
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        assert_eq!(entries("port = 1\nlisten = [").unwrap_err().0, 2);
        assert_eq!(entries("port = 1\nport = 2\n").unwrap_err().0, 2);
        assert_eq!(entries("a = 1\nb = 2020-01-01\n").unwrap_err(), (2, "b: a date is no setting".into()));
    }
}
