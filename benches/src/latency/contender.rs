//! A server to measure: its name and the command line that starts it.

use slabring_reactor::thread::is_root;

use crate::process::is_installed;

/// Where a command line names the port.
const PORT: &str = "{port}";

/// A server and how it is started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Contender {
    /// In the table.
    pub(crate) name: String,
    /// Whether it is spoken to in Redis' protocol instead of memcached's.
    is_redis: bool,
    /// Program and arguments, with [`PORT`] in at least one of them.
    command: Vec<String>,
}

impl Contender {
    /// Those `names` that are known, and `others`, with this much memory, as far as they are installed. Says who is not.
    pub(crate) fn all(names: &[String], others: &[Self], slabring: &str, megabytes: u32) -> Vec<Self> {
        let known = names.iter().filter_map(|name| {
            let contender = Self::known(name, slabring, megabytes);
            if contender.is_none() {
                eprintln!("SKIPPED {name}: give its command with --server '{name}=COMMAND'");
            }
            contender
        });
        known.chain(others.iter().cloned()).filter(Self::is_there).collect()
    }

    fn is_there(&self) -> bool {
        let is_installed = is_installed(self.program());
        if !is_installed {
            eprintln!("SKIPPED {}: cannot run {}", self.name, self.program());
        }
        is_installed
    }

    /// What slabring-load is told about its protocol.
    pub(crate) fn protocol_words(&self) -> impl Iterator<Item = String> {
        let words = if self.is_redis { &["--protocol", "resp"][..] } else { &[] };
        words.iter().map(ToString::to_string)
    }

    /// One of the servers that need no command line: memory for all keys, one thread, nothing written to a disk.
    fn known(name: &str, slabring: &str, megabytes: u32) -> Option<Self> {
        let root = if is_root() { " -u root" } else { "" };
        let command = match name {
            "slabring" => format!("{slabring} -l 127.0.0.1 -p {PORT} -t 1 -m {megabytes} -c 4096"),
            "memcached" => format!("memcached -l 127.0.0.1 -p {PORT} -U 0 -t 1 -m {megabytes} -c 4096{root}"),
            "redis" => format!(
                "redis-server --bind 127.0.0.1 --port {PORT} --appendonly no --loglevel warning \
                 --maxmemory {megabytes}mb --maxmemory-policy allkeys-lru --save"
            ),
            _ => return None,
        };
        let mut command: Vec<_> = command.split_ascii_whitespace().map(str::to_owned).collect();
        if name == "redis" {
            // An empty word: never.
            command.push(String::new());
        }
        Some(Self { name: name.into(), is_redis: name == "redis", command })
    }

    /// Reads `NAME=COMMAND`. Words are separated by spaces; there are no quotes.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("expected NAME=COMMAND")?;
        if name.is_empty() || command.trim().is_empty() {
            return Err("expected NAME=COMMAND, neither of them empty".into());
        }
        if !command.contains(PORT) {
            return Err(format!("the command must say {PORT} where the port belongs"));
        }
        let command = command.split_ascii_whitespace().map(str::to_owned).collect();
        Ok(Self { name: name.into(), is_redis: false, command })
    }

    /// What is started.
    fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Its command line for a port.
    pub(crate) fn words(&self, port: u16) -> Vec<String> {
        self.command.iter().map(|word| word.replace(PORT, &port.to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_at_spaces_and_told_the_port() {
        let contender = Contender::parse("old=./slabring  -p {port} --x=a=b").unwrap();
        assert_eq!((contender.name.as_str(), contender.program()), ("old", "./slabring"));
        assert_eq!(contender.words(7), ["./slabring", "-p", "7", "--x=a=b"]);
    }

    #[test]
    fn what_is_no_command_is_refused_with_the_reason() {
        for (text, reason) in
            [("x", "NAME=COMMAND"), ("=x {port}", "empty"), ("x= ", "empty"), ("x=memcached", "{port}")]
        {
            let error = Contender::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn known_servers_have_their_port_and_redis_its_protocol() {
        for name in ["slabring", "memcached", "redis"] {
            let contender = Contender::known(name, "S", 64).unwrap();
            assert!(contender.words(7).contains(&"7".to_owned()), "{contender:?}");
            assert_eq!(contender.is_redis, name == "redis");
        }
        assert_eq!(Contender::known("other", "S", 64), None);
    }
}
