//! From options as given to settings that can work: every check, and a line that says what to do. Starts nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::available_parallelism;

use slabring_engine::{CHUNK_SIZE_MIN_MAX, Config, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN};
use slabring_reactor::thread::{allowed_cpus, is_root};

use super::arguments::{Binding, POLICY_NONE, Pinning};
use super::extended::{self, Extended};
use super::listen::{Listen, TlsUse, addresses};
use super::sources::{Given, Origin, Sources};
use super::{
    Authentication, ClusterSettings, CoordinatorSettings, EXIT_FAILURE, EXIT_SYSTEM, EXIT_USAGE,
    ITEMS_PER_SHARD_MIN, Refused, Settings, TlsSettings, UnixListen, Verify,
};
use crate::machine;
use crate::post::shard_bytes_for_letters;
use crate::replication::COPIED_ITEM_BYTES_MAX;

const MIB: usize = 1 << 20;
const THREADS_MAX: u16 = 1024;
const ITEM_SIZE_MIN: usize = 1 << 10;
const ITEM_SIZE_MAX: usize = 1 << 30;
const ITEM_SIZE_DEFAULT: usize = MIB;
/// What a node that stands alone may have resident beside its memory limit: the README's sum, which `tests/capacity.rs` holds.
const BESIDE_SHARE: usize = 4;
const BESIDE_BYTES_MAX: usize = 100 * MIB;
const PROGRAM_BYTES: usize = 8 * MIB;
const SHARD_BYTES: usize = 2 * MIB;
/// memcached's most verbose level.
const VERBOSITY_MAX: u8 = 3;
const UNIX_MODE_MAX: u32 = 0o777;
const PREFIX_DELIMITER_DEFAULT: u8 = b':';
/// Where memcached's tests, and ours, want to read which ports were taken.
const PORT_FILE_VARIABLE: &str = "MEMCACHED_PORT_FILENAME";
/// Where memcached looks for the passwords of SASL.
const SASL_FILE_VARIABLE: &str = "MEMCACHED_SASL_PWDB";

impl Given {
    /// Checks everything that can be checked before the node starts. Adds to the warnings.
    pub fn settings(&mut self, sources: &Sources) -> Result<Settings, Refused> {
        let extended = extended::parse(&self.arguments.extended, &mut self.warnings)?;
        self.check_numbers()?;
        let threads = self.threads()?;
        let memory_bytes = self.memory_bytes(threads)?;
        let unix = self.unix()?;
        let (listen, udp) = self.networks(unix.is_some())?;
        let protocol = self.protocol()?;
        let shard_ports = self.shard_ports(&listen, unix.is_some(), threads)?;
        let cluster = self.cluster(&listen, threads)?;
        let mut settings = Settings {
            shard_ports,
            tls: self.tls(&extended, &listen)?,
            authentication: self.authentication(sources)?,
            protocol,
            item_size_max: self.item_size(memory_bytes, threads)?,
            growth_factor: self.growth_factor()?,
            chunk_size_min: self.chunk_size_min()?,
            prefix_delimiter: self.prefix_delimiter()?,
            detail_enabled: self.is_given("prefix_delimiter"),
            idle_timeout_seconds: extended.idle_timeout_seconds,
            memory_file: self.arguments.memory_file.as_ref().map(|path| self.path(path)),
            lock_file: self.lock_file(cluster.is_some())?,
            pid_file: self.arguments.pidfile.as_ref().map(|path| self.path(path)),
            cluster,
            port_file: sources.variables.get(PORT_FILE_VARIABLE).map(|path| self.path(path)),
            listen,
            udp,
            unix,
            memory_bytes,
            threads,
            pinning: self.pinning(threads),
            ..self.plain_settings()
        };
        let copied = settings.cluster.as_ref().is_some_and(ClusterSettings::has_copies);
        if copied && settings.item_size_max > COPIED_ITEM_BYTES_MAX {
            return self.misuse("max_item_size", "items with copies have 8m at most");
        }
        settings.options = self.options(&settings);
        self.warn(&settings);
        Ok(settings)
    }

    /// Those that every value is good for. The others are to be filled in.
    fn plain_settings(&self) -> Settings {
        let given = &self.arguments;
        Settings {
            listen: Vec::new(),
            shard_ports: None,
            udp: Vec::new(),
            udp_allow_large: given.udp_allow_large,
            unix: None,
            tls: None,
            authentication: None,
            protocol: given.protocol,
            memory_bytes: 0,
            max_connections: given.conn_limit,
            requests_per_turn: given.max_reqs_per_event,
            threads: 0,
            pinning: Pinning::Off,
            item_size_max: 0,
            evict: !given.disable_evictions && given.policy != POLICY_NONE,
            growth_factor: 0.0,
            chunk_size_min: 0,
            backlog: given.listen_backlog,
            cas_enabled: !given.disable_cas,
            flush_enabled: !given.disable_flush_all,
            dump_enabled: !given.disable_dumping,
            watch_enabled: !given.disable_watch,
            shutdown_enabled: given.enable_shutdown,
            prefix_delimiter: PREFIX_DELIMITER_DEFAULT,
            detail_enabled: false,
            verbosity: usize::from(given.verbose.min(VERBOSITY_MAX)),
            idle_timeout_seconds: 0,
            request_timeout_seconds: given.request_timeout,
            io: given.io.into(),
            // Without evictions it does not matter which.
            policy: given.policy.parse().unwrap_or_default(),
            daemon: given.daemon,
            memory_file: None,
            lock_file: None,
            pid_file: None,
            port_file: None,
            user: given.user.clone(),
            core_dumps: given.enable_coredumps,
            take_memory_at_start: given.enable_largepages,
            lock_memory: given.lock_memory,
            cluster: None,
            options: BTreeMap::new(),
        }
    }

    fn lock_file(&self, is_of_cluster: bool) -> Result<Option<PathBuf>, Refused> {
        match &self.arguments.lock_file {
            Some(_) if is_of_cluster => self.misuse("lock_file", "is for a node that stands alone"),
            path => Ok(path.as_ref().map(|path| self.path(path))),
        }
    }

    fn warn(&mut self, settings: &Settings) {
        let mut warn = |text: &str| self.warnings.push(text.to_owned());
        if is_root() && settings.user.is_none() {
            warn("running as root; -u USER gives that up once the ports are open");
        }
        if settings.listen.iter().any(|listen| !listen.address.ip().is_loopback())
            && settings.authentication.is_none()
            && settings.tls.is_none()
        {
            warn(
                "other machines can connect and nobody is asked for a password; -Y or -Z with ssl_verify_mode=2 changes that",
            );
        }
        if let Some(warning) =
            memory_warning(settings.memory_bytes, settings.threads, machine::memory_bytes())
        {
            warn(&warning);
        }
        if let Some(warning) = shards_warning(settings.memory_bytes, settings.threads) {
            warn(&warning);
        }
        if matches!(&settings.cluster, Some(part) if matches!(part.coordinator, CoordinatorSettings::Local(_)))
        {
            warn(
                "there is no automatic fail-over: while a node is away its keys are errors, until all nodes get another list",
            );
        }
        for (id, why) in [("napi_ids", "shards are not chosen by network queue")] {
            if self.is_given(id) {
                self.warnings.push(format!("{} has no effect: {why}", self.named(id)));
            }
        }
    }

    /// A refusal that names an option as its user gave it.
    pub(super) fn refuse(&self, id: &str, why: &str, exit_code: u8) -> Refused {
        Refused { text: format!("{}: {why}", self.named(id)), exit_code }
    }

    fn fail<T>(&self, id: &str, why: &str) -> Result<T, Refused> {
        Err(self.refuse(id, why, EXIT_FAILURE))
    }

    pub(super) fn misuse<T>(&self, id: &str, why: &str) -> Result<T, Refused> {
        Err(self.refuse(id, why, EXIT_USAGE))
    }

    fn check_numbers(&self) -> Result<(), Refused> {
        if self.arguments.conn_limit == 0 {
            return self.fail("conn_limit", "at least one client must be allowed");
        }
        if self.arguments.listen_backlog <= 0 {
            return self.fail("listen_backlog", "must be above 0");
        }
        if self.arguments.max_reqs_per_event == 0 {
            return self.fail("max_reqs_per_event", "must be above 0");
        }
        Ok(())
    }

    fn growth_factor(&self) -> Result<f64, Refused> {
        match self.arguments.slab_growth_factor {
            None => Ok(Config::with_memory(MEMORY_BYTES_MIN).growth_factor),
            Some(factor) if factor > 1.0 && factor.is_finite() => Ok(factor),
            Some(_) => self.fail("slab_growth_factor", "the growth factor must be above 1"),
        }
    }

    fn chunk_size_min(&self) -> Result<usize, Refused> {
        match self.arguments.slab_min_size {
            None => Ok(Config::with_memory(MEMORY_BYTES_MIN).chunk_size_min),
            Some(bytes) if (1..=CHUNK_SIZE_MIN_MAX).contains(&bytes) => Ok(bytes),
            Some(_) => self.fail("slab_min_size", &format!("must be 1 to {CHUNK_SIZE_MIN_MAX} bytes")),
        }
    }

    fn prefix_delimiter(&self) -> Result<u8, Refused> {
        match self.arguments.prefix_delimiter.as_deref().map(str::as_bytes) {
            None => Ok(PREFIX_DELIMITER_DEFAULT),
            Some([delimiter]) => Ok(*delimiter),
            Some(_) => self.fail("prefix_delimiter", "must be one character of one byte"),
        }
    }

    fn unix(&self) -> Result<Option<UnixListen>, Refused> {
        let mode =
            u32::from_str_radix(&self.arguments.unix_mask, 8).ok().filter(|mode| *mode <= UNIX_MODE_MAX);
        let Some(mode) = mode else {
            return self.fail("unix_mask", "must be octal permission bits, such as 0770");
        };
        Ok(self.arguments.unix_socket.as_ref().map(|path| UnixListen { path: self.path(path), mode }))
    }

    /// TCP and UDP addresses.
    fn networks(&mut self, has_unix: bool) -> Result<(Vec<Listen>, Vec<SocketAddr>), Refused> {
        let udp_port = self.port("udp_port", &self.arguments.udp_port)?;
        let tcp_port = match self.port("port", &self.arguments.port)? {
            _ if udp_port.is_some() && !self.is_given("port") => udp_port,
            port => port,
        };
        if has_unix {
            let unused = ["port", "udp_port", "listen", "shard_ports"];
            for id in unused.into_iter().filter(|id| self.is_given(id)).collect::<Vec<_>>() {
                self.warnings
                    .push(format!("{} has no effect: with -s the unix socket serves alone", self.named(id)));
            }
            return Ok((Vec::new(), Vec::new()));
        }
        let find = |port: u16| {
            addresses(&self.arguments.listen, port).map_err(|text| {
                let place = match self.origin("listen") {
                    origin @ (Origin::Variable(_) | Origin::File(_)) => format!("{origin}: "),
                    Origin::Flag | Origin::Default => String::new(),
                };
                Refused { text: format!("{place}{text}"), exit_code: EXIT_SYSTEM }
            })
        };
        let listen = tcp_port.map(find).transpose()?.unwrap_or_default();
        let udp = udp_port.map(find).transpose()?.unwrap_or_default();
        if listen.is_empty() && udp.is_empty() {
            return self.misuse("port", "a node without a port serves nobody; give -p, -U or -s");
        }
        Ok((listen, udp.into_iter().map(|listen| listen.address).collect()))
    }

    /// The port of the first shard, if shards have ports. All of them must be free of what is listened on.
    fn shard_ports(&self, listen: &[Listen], has_unix: bool, threads: u16) -> Result<Option<u16>, Refused> {
        const ID: &str = "shard_ports";
        let Some(base) = self.arguments.shard_ports.filter(|_| !has_unix) else { return Ok(None) };
        if listen.is_empty() {
            return self.misuse(ID, "shards have TCP ports only; leave it out or give -p");
        }
        let Some(last) = base.checked_add(threads - 1).filter(|_| base > 0) else {
            let why =
                format!("{threads} shard threads need the ports from {base} on, and a port is 1 to 65535");
            return self.misuse(ID, &why);
        };
        for (number, one) in listen.iter().enumerate() {
            let port = one.address.port();
            if (base..=last).contains(&port) {
                let why =
                    format!("shards take the ports {base} to {last}, and {} is for all of them", one.address);
                return self.misuse(ID, &why);
            }
            let alike = |other: &&Listen| (other.tls, other.protocol) == (one.tls, one.protocol);
            let same_address = |other: &&Listen| other.address.ip() == one.address.ip();
            if listen[..number].iter().filter(same_address).any(|other| !alike(&other)) {
                let why = format!(
                    "{} is given twice and not alike: which of the two would they be",
                    one.address.ip()
                );
                return self.misuse(ID, &why);
            }
        }
        Ok(Some(base))
    }

    /// The port, 0 for any free one, or none at all.
    fn port(&self, id: &str, text: &str) -> Result<Option<u16>, Refused> {
        match text.parse::<i64>() {
            Ok(0) => Ok(None),
            Ok(-1) => Ok(Some(0)),
            Ok(port @ 1..=0xffff) => Ok(u16::try_from(port).ok()),
            _ => self.misuse(id, "Invalid port number; it is 1 to 65535, 0 for none or -1 for any free one"),
        }
    }

    fn protocol(&self) -> Result<Binding, Refused> {
        let given = &self.arguments;
        let chosen = self.is_given("protocol");
        let udp_is_on = self.port("udp_port", &given.udp_port)?.is_some();
        for id in ["enable_sasl", "auth_file"] {
            if self.is_given(id) && udp_is_on && (given.enable_sasl || given.auth_file.is_some()) {
                return self.misuse(id, "Cannot use UDP with authentication; leave out -U");
            }
        }
        if given.enable_sasl {
            if chosen && given.protocol != Binding::Binary {
                return self.misuse("enable_sasl", "SASL is binary only; leave out -B or give -B binary");
            }
            return Ok(Binding::Binary);
        }
        if given.auth_file.is_some() {
            if chosen && given.protocol != Binding::Ascii {
                return self.misuse(
                    "auth_file",
                    "the password file is for text only; leave out -B or give -B ascii",
                );
            }
            return Ok(Binding::Ascii);
        }
        Ok(given.protocol)
    }

    fn authentication(&self, sources: &Sources) -> Result<Option<Authentication>, Refused> {
        if self.arguments.enable_sasl {
            let Some(file) = sources.variables.get(SASL_FILE_VARIABLE) else {
                return self.fail(
                    "enable_sasl",
                    &format!("{SASL_FILE_VARIABLE} must name a file of lines user:password"),
                );
            };
            return Ok(Some(Authentication { file: self.path(file), sasl: true }));
        }
        let file = self.arguments.auth_file.as_ref();
        Ok(file.map(|file| Authentication { file: self.path(file), sasl: false }))
    }

    fn tls(&self, extended: &Extended, listen: &[Listen]) -> Result<Option<TlsSettings>, Refused> {
        if !self.arguments.enable_ssl {
            if listen.iter().any(|listen| listen.tls != TlsUse::AsElsewhere) {
                return self.misuse("listen", "notls:, btls: and mtls: need -Z");
            }
            return Ok(None);
        }
        if listen.is_empty() {
            return self.misuse("enable_ssl", "TLS needs a TCP port");
        }
        let Some(chain) = &extended.chain else {
            return self.misuse("enable_ssl", "give the certificate by -o ssl_chain_cert=FILE");
        };
        if extended.key_format.as_deref().is_some_and(|format| !format.eq_ignore_ascii_case("PEM")) {
            return self.misuse(
                "enable_ssl",
                "-o ssl_keyformat: keys are read as PEM only; openssl pkey converts them",
            );
        }
        let verify = match extended.verify_mode {
            0 => Verify::Nothing,
            1 => Verify::Optional,
            _ => Verify::Required,
        };
        let asks = verify != Verify::Nothing || listen.iter().any(|listen| listen.tls == TlsUse::Mutual);
        if asks && extended.authorities.is_none() {
            return self.misuse(
                "enable_ssl",
                "checking clients needs -o ssl_ca_cert=FILE, those who sign their certificates",
            );
        }
        Ok(Some(TlsSettings {
            chain: self.path(chain),
            key: self.path(extended.key.as_ref().unwrap_or(chain)),
            authorities: extended.authorities.as_ref().map(|path| self.path(path)),
            verify,
            only_1_3: extended.min_version == Some(3),
        }))
    }

    fn threads(&self) -> Result<u16, Refused> {
        let threads = match self.arguments.threads {
            Some(threads) => threads,
            None => {
                let cpus = available_parallelism().map_err(|error| Refused {
                    text: format!("cannot tell how many CPUs there are: {error}; give -t"),
                    exit_code: EXIT_FAILURE,
                })?;
                u16::try_from(cpus.get()).unwrap_or(THREADS_MAX).min(THREADS_MAX)
            }
        };
        if !(1..=THREADS_MAX).contains(&threads) {
            return self.fail("threads", &format!("must be 1 to {THREADS_MAX}"));
        }
        Ok(threads)
    }

    /// Fewer threads than CPUs leave some to others, who may begin with the first as well; or there is a quota, and whoever has one on the
    /// same machine would be pinned to the same few.
    fn pinning(&self, threads: u16) -> Pinning {
        let has_all = || allowed_cpus().is_ok_and(|cpus| usize::from(threads) >= cpus.len());
        self.arguments.pin.unwrap_or_else(|| if has_all() { Pinning::On } else { Pinning::Off })
    }

    fn memory_bytes(&self, threads: u16) -> Result<usize, Refused> {
        let shards = usize::from(threads);
        let bytes = self.arguments.memory_limit.saturating_mul(MIB);
        // Half a shard's memory is at most its buffers'.
        let least = (2 * shards * MEMORY_BYTES_MIN).div_ceil(MIB);
        let most = MEMORY_BYTES_MAX / MIB * shards;
        if bytes < least * MIB {
            let why = format!("{threads} shard threads need at least {least} MiB; raise -m or lower -t");
            return self.misuse("memory_limit", &why);
        }
        if bytes > most * MIB {
            let why = format!("{threads} shard threads hold at most {most} MiB; lower -m or raise -t");
            return self.misuse("memory_limit", &why);
        }
        Ok(bytes)
    }

    fn item_size(&self, memory_bytes: usize, threads: u16) -> Result<usize, Refused> {
        const ID: &str = "max_item_size";
        let Some(bytes) = parse_size(&self.arguments.max_item_size) else {
            return self.misuse(ID, "not a size; give bytes or a number with k, m or g, such as 4m");
        };
        if !(ITEM_SIZE_MIN..=ITEM_SIZE_MAX).contains(&bytes) {
            return self.misuse(ID, "the largest item must be 1k to 1g");
        }
        let shard = memory_bytes / usize::from(threads);
        if bytes > ITEM_SIZE_DEFAULT && bytes > shard / ITEMS_PER_SHARD_MIN {
            let mib = (ITEMS_PER_SHARD_MIN * usize::from(threads) * bytes).div_ceil(MIB);
            let why = format!(
                "each shard thread ({threads}) must have memory for {ITEMS_PER_SHARD_MIN} of the largest items; give -m \
                 {mib}, or lower -I or -t"
            );
            return self.misuse(ID, &why);
        }
        Ok(bytes)
    }
}

/// What is wrong with more memory than there is, which the system gives out without a word and takes back by killing.
pub(super) fn memory_warning(bytes: usize, threads: u16, there: Option<u64>) -> Option<String> {
    let beside = (bytes / BESIDE_SHARE).min(BESIDE_BYTES_MAX);
    let resident = bytes + beside + PROGRAM_BYTES + usize::from(threads) * SHARD_BYTES;
    let there = there.filter(|&there| resident as u64 > there)?;
    let (given, resident, there) = (bytes / MIB, resident / MIB, there >> 20);
    let what = if given as u64 > there {
        format!("-m {given}: more than the {there} MiB")
    } else {
        format!("-m {given} with -t {threads}: up to {resident} MiB resident, more than the {there} MiB")
    };
    Some(format!(
        "{what} that this machine or its cgroup has: the system may kill the process when they are used up"
    ))
}

/// What is wrong with so many shards that each is too small for its letters to all others.
pub(super) fn shards_warning(bytes: usize, threads: u16) -> Option<String> {
    let least = usize::from(threads) * shard_bytes_for_letters(threads);
    let (given, least) = (bytes / MIB, least.div_ceil(MIB));
    (given < least).then(|| {
        format!(
            "-m {given} with -t {threads}: letters between so many shards may take more than their part of it, and items get less; \
             raise -m to {least} or lower -t"
        )
    })
}

/// A number with an optional suffix k, m or g (powers of 1024).
fn parse_size(text: &str) -> Option<usize> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}
