//! Where settings come from: flags, variables and the file, of which the first that has one wins. All become words of one command
//! line, so that there is one form of every option; each keeps its origin for messages. Checks nothing but form.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, parser::ValueSource};

use super::arguments::Arguments;
use super::config_file::{Entry, entries};
use super::{EXIT_FAILURE, EXIT_USAGE, Refused, Settings};

/// What variables begin with.
const VARIABLE_PREFIX: &str = "SLABRING_";
/// Options that mean something on the command line only, or name the file itself.
const NOT_IN_FILE: [&str; 5] = ["config", "check_config", "help", "version", "license"];
/// The list of which all sources are heard, the winner last.
const EXTENDED: &str = "extended";

/// Everything a process is told at its start, kept so that the file can be read again.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The command line, the program's name first.
    pub words: Vec<String>,
    /// Variables by name.
    pub variables: BTreeMap<String, String>,
    /// Against which relative paths are meant.
    pub directory: PathBuf,
}

/// Where a value was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// On the command line.
    Flag,
    /// In this variable.
    Variable(String),
    /// In a file: its path and line.
    File(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => f.write_str(name),
            Self::File(place) => f.write_str(place),
        }
    }
}

/// The settings as given, in form but not yet in sense.
pub struct Given {
    /// Their values.
    pub arguments: Arguments,
    /// What people should know and what stops nothing.
    pub warnings: Vec<String>,
    /// Against which relative paths are meant.
    pub directory: PathBuf,
    matches: ArgMatches,
    origins: BTreeMap<String, Origin>,
}

/// One option's words from one source.
struct Offer {
    id: String,
    origin: Origin,
    words: Vec<String>,
}

impl Sources {
    /// Those of this process.
    pub fn of_process() -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self {
            words: std::env::args_os().map(lossy).collect(),
            variables: std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect(),
            // Without one, relative paths fail where they are used, with their names.
            directory: std::env::current_dir().unwrap_or_default(),
        }
    }

    /// Whether the settings are only to be looked at: asked of the bare words, since the others may be no command line.
    pub fn ask_only(&self) -> bool {
        self.words.iter().skip(1).any(|word| word.starts_with("--ch") && "--check-config".starts_with(word))
    }

    /// Reads them all. Reads the configuration file.
    pub fn read(&self) -> Result<Given, Refused> {
        let command = Arguments::command();
        let flags = command.clone().try_get_matches_from(&self.words).map_err(|error| refusal(&error))?;
        let mut warnings = Vec::new();
        let variables = self.offers_of_variables(&command, &mut warnings)?;
        let path = flags.get_one::<String>("config").cloned();
        let path = path.or_else(|| self.variables.get("SLABRING_CONFIG").cloned());
        let file = path.map_or_else(|| Ok(Vec::new()), |path| self.offers_of_file(&command, &path))?;
        let (matches, origins) = self.merge(&command, &flags, variables, file)?;
        let arguments = Arguments::from_arg_matches(&matches).map_err(|error| refusal(&error))?;
        Ok(Given { arguments, warnings, directory: self.directory.clone(), matches, origins })
    }

    fn merge(
        &self,
        command: &Command,
        flags: &ArgMatches,
        variables: Vec<Offer>,
        file: Vec<Offer>,
    ) -> Result<(ArgMatches, BTreeMap<String, Origin>), Refused> {
        let by_flag = |id: &str| flags.value_source(id) == Some(ValueSource::CommandLine);
        let mut origins = BTreeMap::new();
        for arg in command.get_arguments().filter(|arg| by_flag(arg.get_id().as_str())) {
            origins.insert(arg.get_id().to_string(), Origin::Flag);
        }
        let mut chosen = Vec::new();
        for offer in variables.into_iter().chain(file) {
            // Each by itself first: its origin belongs into the message.
            let words = std::iter::once(&self.words[0]).chain(&offer.words);
            command.clone().try_get_matches_from(words).map_err(|error| {
                let refused = refusal(&error);
                Refused { text: format!("{}: {}", offer.origin, refused.text), ..refused }
            })?;
            let taken = origins.contains_key(&offer.id);
            origins.entry(offer.id.clone()).or_insert(offer.origin);
            if !taken || offer.id == EXTENDED {
                chosen.push(offer.words);
            }
        }
        // The file's words first: of a repeated name in a list the last one counts.
        let given = chosen.into_iter().rev().flatten();
        let words = self.words[..1].iter().cloned().chain(given).chain(self.words[1..].iter().cloned());
        let matches = command.clone().try_get_matches_from(words).map_err(|error| refusal(&error))?;
        Ok((matches, origins))
    }

    fn offers_of_variables(
        &self,
        command: &Command,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Offer>, Refused> {
        let mut offers = Vec::new();
        for (name, value) in &self.variables {
            let Some(key) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            let origin = Origin::Variable(name.clone());
            match find(command, &key.to_ascii_lowercase()) {
                // Kubernetes describes a service of our name to all its neighbours in such variables.
                Some(arg) if arg.get_id() == "port" && value.contains("://") => {}
                Some(arg) => offers.push(offer(arg, origin, std::slice::from_ref(value))?),
                None if key == "CONFIG" || key.starts_with("SERVICE_") || key.starts_with("PORT_") => {}
                None => warnings.push(format!("{name}: there is no such setting; it is ignored")),
            }
        }
        Ok(offers)
    }

    fn offers_of_file(&self, command: &Command, path: &str) -> Result<Vec<Offer>, Refused> {
        let cannot = |what: String| Refused { text: what, exit_code: EXIT_FAILURE };
        let text = std::fs::read_to_string(self.directory.join(path))
            .map_err(|error| cannot(format!("--config {path}: cannot read it: {error}")))?;
        let entries = entries(&text).map_err(|(line, what)| cannot(format!("{path}:{line}: {what}")))?;
        let offer_of = |Entry { key, line, values }: &Entry| {
            let origin = Origin::File(format!("{path}:{line}"));
            let arg = find(command, &key.replace('-', "_")).ok_or_else(|| {
                cannot(format!(
                    "{origin}: {key}: there is no such setting; keys are the long flags of --help"
                ))
            })?;
            offer(arg, origin, values)
        };
        entries.iter().map(offer_of).collect()
    }
}

impl Given {
    /// An option with its value as its user wrote it: `-c 0`, `SLABRING_CONN_LIMIT=0`, `node.toml:3: conn-limit = 0`.
    pub fn named(&self, id: &str) -> String {
        let value = self.texts(id).join(",");
        let command = Arguments::command();
        let arg =
            command.get_arguments().find(|arg| arg.get_id() == id).expect("options are named by their ids");
        let long = arg.get_long().expect("every option has a long name");
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Count);
        match self.origin(id) {
            Origin::Variable(name) => format!("{name}={value}"),
            Origin::File(place) => format!("{place}: {long} = {value}"),
            Origin::Flag | Origin::Default => {
                let flag = arg.get_short().map_or_else(|| format!("--{long}"), |short| format!("-{short}"));
                if is_switch { flag } else { format!("{flag} {value}") }
            }
        }
    }

    /// Where an option was given.
    pub fn origin(&self, id: &str) -> Origin {
        self.origins.get(id).cloned().unwrap_or(Origin::Default)
    }

    /// Whether an option was given at all.
    pub fn is_given(&self, id: &str) -> bool {
        self.origins.contains_key(id)
    }

    /// All settings as lines of a configuration file, each with its origin.
    pub fn listing(&self, settings: &Settings) -> String {
        let line = |(long, (id, value)): (&String, &(String, String))| {
            format!("{long} = {value}  # {}\n", self.origin(id))
        };
        self.complete(settings).iter().map(line).collect()
    }

    /// The value of every option that has one, by its long name, as a configuration file would have it.
    pub fn options(&self, settings: &Settings) -> BTreeMap<String, String> {
        self.complete(settings).into_iter().map(|(long, (_, value))| (long, value)).collect()
    }

    /// As [`Given::values`], with those that were found because nobody gave them.
    fn complete(&self, settings: &Settings) -> BTreeMap<String, (String, String)> {
        let mut values = self.values();
        for (long, value) in [
            ("threads", settings.threads.to_string()),
            ("pin", settings.pinning.name().to_owned()),
            ("slab-growth-factor", settings.growth_factor.to_string()),
            ("slab-min-size", settings.chunk_size_min.to_string()),
        ] {
            values.entry(long.into()).or_insert_with(|| (long.replace('-', "_"), format!("{value:?}")));
        }
        values
    }

    /// By long name: the id and the value in TOML.
    fn values(&self) -> BTreeMap<String, (String, String)> {
        let command = Arguments::command();
        let fit = command.get_arguments().filter(|arg| !NOT_IN_FILE.contains(&arg.get_id().as_str()));
        let value = |arg: &Arg| {
            let id = arg.get_id().as_str();
            let mut texts = self.texts(id);
            let value = match arg.get_action() {
                ArgAction::SetTrue => texts.pop().unwrap_or_else(|| "false".into()),
                ArgAction::Count => self.arguments.verbose.to_string(),
                ArgAction::Append => format!("{texts:?}"),
                _ if texts.is_empty() => return None,
                _ => format!("{:?}", texts.concat()),
            };
            Some((arg.get_long()?.to_owned(), (id.to_owned(), value)))
        };
        fit.filter_map(value).collect()
    }

    fn texts(&self, id: &str) -> Vec<String> {
        let raw = self.matches.get_raw(id).into_iter().flatten();
        raw.map(|text| text.to_string_lossy().into_owned()).collect()
    }

    /// A path as its user meant it, wherever the process has gone since.
    pub fn path(&self, text: &str) -> PathBuf {
        self.directory.join(Path::new(text))
    }
}

/// The option of that name, which must be fit for a file.
fn find<'a>(command: &'a Command, id: &str) -> Option<&'a Arg> {
    let fits = |arg: &&Arg| arg.get_id() == id && !NOT_IN_FILE.contains(&id);
    command.get_arguments().find(fits)
}

fn offer(arg: &Arg, origin: Origin, values: &[String]) -> Result<Offer, Refused> {
    let long = arg.get_long().expect("every option has a long name");
    let mut words = Vec::new();
    for value in values {
        match arg.get_action() {
            ArgAction::SetTrue => match switch(value) {
                Some(true) => words.push(format!("--{long}")),
                Some(false) => {}
                None => return Err(usage(format!("{origin}: {long}: {value:?} is neither true nor false"))),
            },
            ArgAction::Count => match value.parse::<u8>() {
                Ok(count) => words.extend((0..count.min(3)).map(|_| format!("--{long}"))),
                Err(_) => return Err(usage(format!("{origin}: {long}: {value:?} is not a number"))),
            },
            _ => words.push(format!("--{long}={value}")),
        }
    }
    Ok(Offer { id: arg.get_id().to_string(), origin, words })
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" | "" => Some(false),
        _ => None,
    }
}

fn usage(text: String) -> Refused {
    Refused { text, exit_code: EXIT_USAGE }
}

/// The parser's refusal in one line, without its hints at the help.
fn refusal(error: &clap::Error) -> Refused {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return Refused { text, exit_code: 0 };
    }
    let lines = text.lines().map(str::trim);
    let lines = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let line = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let exit_code = match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => EXIT_USAGE,
        _ => EXIT_FAILURE,
    };
    Refused { text: line.trim_start_matches("error: ").to_owned(), exit_code }
}
