//! What is accepted, what is refused, and which source wins.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use slabring_engine::PolicyKind;

use super::*;

const MIB: usize = 1 << 20;

fn sources(arguments: &str) -> Sources {
    Sources {
        words: std::iter::once("slabring").chain(arguments.split_whitespace()).map(str::to_owned).collect(),
        variables: BTreeMap::new(),
        directory: PathBuf::from("/base"),
    }
}

fn read(sources: &Sources) -> Result<(Settings, Vec<String>), Refused> {
    let mut given = sources.read()?;
    let settings = given.settings(sources)?;
    Ok((settings, given.warnings))
}

#[track_caller]
fn settings(arguments: &str) -> Result<Settings, Refused> {
    read(&sources(arguments)).map(|(settings, _)| settings)
}

#[track_caller]
fn check_refused(arguments: &str, exit_code: u8, word: &str) {
    let refused = settings(arguments).expect_err(arguments);
    assert!(refused.text.contains(word), "{arguments}: {}", refused.text);
    assert_eq!((refused.exit_code, refused.text.lines().count()), (exit_code, 1), "{}", refused.text);
}

fn tcp(settings: &Settings) -> Vec<String> {
    settings.listen.iter().map(|listen| listen.address.to_string()).collect()
}

/// A file in a directory of its own, removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slabring-options-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn flag(&self) -> String {
        format!("--config {}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn without_arguments_a_node_is_memcached_on_loopback() {
    let settings = settings("").unwrap();
    assert_eq!(tcp(&settings), ["127.0.0.1:11211"]);
    assert_eq!((settings.memory_bytes, settings.max_connections), (64 * MIB, 1024));
    assert_eq!((settings.item_size_max, settings.evict), (MIB, true));
    assert!(settings.udp.is_empty() && settings.unix.is_none() && settings.tls.is_none());
}

#[test]
fn memcached_flags_keep_their_meaning() {
    let settings =
        settings("-p 1 -l ::1,127.0.0.2:7 -m 1024 -c 5 -t 3 -I 2m -M -f 1.5 -n 64 -b 9 -C -F -vv").unwrap();
    assert_eq!(tcp(&settings), ["[::1]:1", "127.0.0.2:7"]);
    assert_eq!((settings.memory_bytes, settings.max_connections, settings.threads), (1024 * MIB, 5, 3));
    assert_eq!((settings.item_size_max, settings.evict, settings.cas_enabled), (2 * MIB, false, false));
    assert_eq!((settings.backlog, settings.flush_enabled, settings.verbosity), (9, false, 2));
    assert_eq!((settings.growth_factor, settings.chunk_size_min), (1.5, 64));
}

#[test]
fn the_other_flags_are_understood_too() {
    let settings =
        settings("-A -X -W -D / -d -r -k -u nobody -P run/pid -vvv -B ascii -R 20 -L -e f").unwrap();
    assert!(settings.shutdown_enabled && !settings.dump_enabled && !settings.watch_enabled);
    assert!(
        settings.detail_enabled
            && settings.daemon
            && settings.core_dumps
            && settings.lock_memory
            && settings.take_memory_at_start
    );
    assert_eq!((settings.prefix_delimiter, settings.verbosity), (b'/', 3));
    assert_eq!((settings.requests_per_turn, settings.request_timeout_seconds), (20, 60));
    assert_eq!(settings.user.as_deref(), Some("nobody"));
    assert_eq!(settings.pid_file, Some(PathBuf::from("/base/run/pid")));
    assert_eq!(settings.protocol, Binding::Ascii);
}

#[test]
fn threads_are_pinned_where_there_is_one_for_each_cpu_unless_told() {
    let cpus = slabring_reactor::thread::allowed_cpus().unwrap().len();
    let pinning = |arguments: &str| settings(arguments).unwrap().pinning;
    assert_eq!(pinning(&format!("-t {cpus} -m 1024")), Pinning::On);
    assert_eq!(pinning(&format!("-t {} -m 1024", cpus + 1)), Pinning::On);
    if cpus > 1 {
        assert_eq!(pinning(&format!("-t {} -m 1024", cpus - 1)), Pinning::Off);
    }
    assert_eq!((pinning("-t 1 --pin on"), pinning("-t 200 -m 1024 --pin off")), (Pinning::On, Pinning::Off));
    check_refused("--pin maybe", EXIT_USAGE, "on, off");
}

#[test]
fn more_memory_than_there_is_is_a_warning() {
    const GIB: usize = 1 << 30;
    let warning = |bytes, there| super::check::memory_warning(bytes, 4, there);
    let told = warning(60_000 * MIB, Some(23 * GIB as u64)).unwrap();
    assert!(told.starts_with("-m 60000: more than the 23552 MiB"), "{told}");
    let told = warning(GIB, Some(GIB as u64)).unwrap();
    assert!(told.starts_with("-m 1024 with -t 4: up to 1140 MiB resident, more than the 1024 MiB"), "{told}");
    assert_eq!((warning(GIB, Some(1140 * MIB as u64)), warning(GIB, None)), (None, None));
}

#[test]
fn so_many_shards_that_letters_have_no_room_are_a_warning() {
    let told = super::check::shards_warning(64 * MIB, 32).unwrap();
    assert!(
        told.starts_with("-m 64 with -t 32: ") && told.ends_with("raise -m to 248 or lower -t"),
        "{told}"
    );
    let fits = |mib, threads| super::check::shards_warning(mib * MIB, threads).is_none();
    assert!(fits(64, 16) && fits(248, 32) && fits(64, 1) && fits(1, 2));
}

#[test]
fn long_names_may_be_shortened_and_the_last_of_a_repeated_flag_counts() {
    let settings = settings("--memory-l 100 -m 200 --max-item 2m -p 5 --port=6 -v -v").unwrap();
    assert_eq!((settings.memory_bytes, settings.item_size_max), (200 * MIB, 2 * MIB));
    assert_eq!((tcp(&settings), settings.verbosity), (vec!["127.0.0.1:6".to_owned()], 2));
}

#[test]
fn addresses_gather_and_ports_may_be_off_or_free() {
    assert_eq!(
        tcp(&settings("-l 127.0.0.1 -l ::1 -l 127.0.0.1").unwrap()),
        ["127.0.0.1:11211", "[::1]:11211"]
    );
    assert_eq!(tcp(&settings("-p -1").unwrap()), ["127.0.0.1:0"]);
    let both = settings("-U 99").unwrap();
    assert_eq!(
        (tcp(&both), both.udp),
        (vec!["127.0.0.1:99".to_owned()], vec![SocketAddr::from(([127, 0, 0, 1], 99))])
    );
    let udp = settings("-p 0 -U 99").unwrap();
    assert!(udp.listen.is_empty() && udp.udp.len() == 1);
    assert!(settings("-p 98 -U 0").unwrap().udp.is_empty());
}

#[test]
fn a_unix_socket_serves_alone() {
    let (settings, warnings) = read(&sources("-s sock -a 0770 -p 5 -U 6")).unwrap();
    assert_eq!(settings.unix, Some(UnixListen { path: "/base/sock".into(), mode: 0o770 }));
    assert!(settings.listen.is_empty() && settings.udp.is_empty());
    assert_eq!(warnings.iter().filter(|warning| warning.contains("serves alone")).count(), 2, "{warnings:?}");
}

#[test]
fn every_policy_can_be_named_and_none_is_no_eviction() {
    for kind in PolicyKind::ALL {
        let settings = settings(&format!("--policy {}", kind.name())).unwrap();
        assert_eq!((settings.policy, settings.evict), (kind, true));
    }
    assert!(!settings("--policy none").unwrap().evict);
}

#[test]
fn small_shards_take_smaller_items_rather_than_none() {
    assert_eq!(settings("-m 64 -t 2").unwrap().item_size_limit(), 1 << 20);
    assert_eq!(settings("-m 3 -t 4").unwrap().item_size_limit(), 3 * (1 << 20) / 4 / 3);
}

#[test]
fn what_cannot_work_is_refused_in_one_line_with_its_flag_and_memcacheds_exit_code() {
    for (arguments, exit_code, word) in [
        ("--policy mru", EXIT_USAGE, "mru"),
        ("-c 0", EXIT_FAILURE, "-c 0"),
        ("-b 0", EXIT_FAILURE, "-b 0"),
        ("-R 0", EXIT_FAILURE, "-R 0"),
        ("-t 0", EXIT_FAILURE, "-t 0"),
        ("-t many", EXIT_USAGE, "many"),
        ("-f 1", EXIT_FAILURE, "-f 1"),
        ("-f nan", EXIT_FAILURE, "-f nan"),
        ("-n 0", EXIT_FAILURE, "-n 0"),
        ("-n 9999", EXIT_FAILURE, "1 to 1024"),
        ("-D ab", EXIT_FAILURE, "-D ab"),
        ("-m 0", EXIT_USAGE, "-m 0"),
        ("-m lots", EXIT_USAGE, "lots"),
        ("-m 1 -t 8", EXIT_USAGE, "lower -t"),
        ("-m 99999999999999", EXIT_USAGE, "-m 99999999999999"),
        ("-I 12x", EXIT_USAGE, "-I 12x"),
        ("-I 1000", EXIT_USAGE, "1k to 1g"),
        ("-I 2g", EXIT_USAGE, "1k to 1g"),
        ("-I 40m -t 1", EXIT_USAGE, "give -m 120"),
        ("-I 30m -t 4", EXIT_USAGE, "give -m 360"),
        ("-I m", EXIT_USAGE, "not a size"),
        ("-l no.such.name.invalid", EXIT_SYSTEM, "-l no.such.name.invalid"),
        ("-p 0", EXIT_USAGE, "-p 0"),
        ("-p 70000", EXIT_USAGE, "-p 70000: Invalid port number"),
        ("-U x", EXIT_USAGE, "-U x: Invalid port number"),
        ("-a 999 -s s", EXIT_FAILURE, "-a 999"),
        ("-a 7777 -s s", EXIT_FAILURE, "octal"),
        ("-B xml", EXIT_USAGE, "xml"),
        ("-U 1 -Y f", EXIT_USAGE, "Cannot use UDP"),
        ("-Y f -B auto", EXIT_USAGE, "-B ascii"),
        ("-S", EXIT_FAILURE, "MEMCACHED_SASL_PWDB"),
        ("-S -B ascii", EXIT_USAGE, "binary only"),
        ("-Z", EXIT_USAGE, "ssl_chain_cert"),
        ("-Z -s sock -o ssl_chain_cert=c", EXIT_USAGE, "TCP port"),
        ("-Z -o ssl_chain_cert=c,ssl_verify_mode=2", EXIT_USAGE, "ssl_ca_cert"),
        ("-Z -o ssl_chain_cert=c,ssl_keyformat=DER", EXIT_USAGE, "PEM"),
        ("-l notls:127.0.0.1", EXIT_USAGE, "need -Z"),
        ("-o nosuch", EXIT_FAILURE, "Illegal suboption \"nosuch\""),
        ("--no-such-flag", EXIT_FAILURE, "--no-such-flag"),
        ("-P", EXIT_USAGE, "--pidfile"),
        ("stray", EXIT_FAILURE, "stray"),
        ("--config /no/such/file", EXIT_FAILURE, "--config /no/such/file"),
    ] {
        check_refused(arguments, exit_code, word);
    }
}

#[test]
fn what_has_no_effect_is_taken_with_one_line_each() {
    let (_, warnings) = read(&sources("-N 2 -o hashpower=20,no_lru_crawler,hashpower=21 -L")).unwrap();
    for word in ["-N 2", "hashpower", "no_lru_crawler"] {
        assert_eq!(warnings.iter().filter(|line| line.contains(word)).count(), 1, "{word}: {warnings:?}");
    }
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = File::new(
        "order.toml",
        "conn-limit = 1\nmemory-limit = 100\nthreads = 2\nlisten = [\"127.0.0.1\", \"::1\"]\nverbose = 2\nlock_memory = true\n\
         [extended]\nidle_timeout = 1\nssl_min_version = 3\n",
    );
    let mut sources = sources(&format!("{} -c 3 -o ssl_session_cache", file.flag()));
    for (name, value) in [("CONN_LIMIT", "2"), ("MEMORY_LIMIT", "200"), ("EXTENDED", "idle_timeout=2")] {
        sources.variables.insert(format!("SLABRING_{name}"), value.into());
    }
    let (settings, warnings) = read(&sources).unwrap();
    assert_eq!((settings.max_connections, settings.memory_bytes, settings.threads), (3, 200 * MIB, 2));
    assert_eq!(tcp(&settings), ["127.0.0.1:11211", "[::1]:11211"]);
    assert_eq!((settings.verbosity, settings.lock_memory, settings.idle_timeout_seconds), (2, true, 2));
    let listing = sources.read().unwrap().listing(&settings);
    assert!(listing.contains("conn-limit = \"3\"  # flag\n"), "{listing}");
    assert!(listing.contains("memory-limit = \"200\"  # SLABRING_MEMORY_LIMIT\n"), "{listing}");
    assert!(listing.contains("order.toml:3\n"), "{listing}");
    assert!(warnings.iter().all(|warning| warning.contains("root")), "{warnings:?}");
}

#[test]
fn a_mistake_is_told_with_the_place_where_it_stands() {
    for (text, word) in [
        ("port = 1\nconn-limit = \"x\"\n", "mistakes.toml:2: invalid value 'x'"),
        ("conn-limit = 0\n", "mistakes.toml:1: conn-limit = 0: at least one"),
        ("\nno-such = 1\n", "mistakes.toml:2: no-such: there is no such setting"),
        ("config = \"other\"\n", "no such setting"),
        ("lock-memory = \"perhaps\"\n", "mistakes.toml:1: lock-memory: \"perhaps\" is neither"),
        ("port = \n", "mistakes.toml:1:"),
        ("listen = [\"no.such.name.invalid\"]", "mistakes.toml:1: -l no.such.name.invalid"),
    ] {
        let file = File::new("mistakes.toml", text);
        let refused = settings(&file.flag()).expect_err(text);
        assert!(refused.text.contains(word), "{text}: {}", refused.text);
        assert_eq!(refused.text.lines().count(), 1);
    }
    let mut sources = sources("");
    sources.variables.insert("SLABRING_CONN_LIMIT".into(), "0".into());
    assert!(read(&sources).unwrap_err().text.starts_with("SLABRING_CONN_LIMIT=0: at least"));
}

#[test]
fn variables_of_others_do_not_keep_a_node_from_starting() {
    let mut sources = sources("");
    for (name, value) in [
        ("SLABRING_PORT", "tcp://10.0.0.1:11211"),
        ("SLABRING_PORT_11211_TCP", "tcp://10.0.0.1:11211"),
        ("SLABRING_SERVICE_HOST", "10.0.0.1"),
        ("SLABRING_PROT", "5"),
    ] {
        sources.variables.insert(name.into(), value.into());
    }
    let (settings, warnings) = read(&sources).unwrap();
    assert_eq!(tcp(&settings), ["127.0.0.1:11211"]);
    let strange: Vec<_> = warnings.iter().filter(|warning| warning.contains("SLABRING_")).collect();
    assert!(strange.len() == 1 && strange[0].contains("SLABRING_PROT:"), "{warnings:?}");
}

#[test]
fn a_listing_is_a_configuration_file_that_gives_the_same_settings() {
    let first = sources("-c 7 -l ::1,127.0.0.1:5 -l 127.0.0.9 -M -vv -o idle_timeout=9 -I 3m -m 512 -t 2");
    let file = File::new("listing.toml", &first.read().unwrap().listing(&read(&first).unwrap().0));
    let second = sources(&file.flag());
    let (a, b) = (read(&first).unwrap().0, read(&second).unwrap().0);
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

#[test]
fn ports_of_shards_are_above_their_base_and_apart_from_all_others() {
    assert_eq!(settings("-t 2").unwrap().shard_ports, None);
    assert_eq!(settings("-t 4 --shard-ports 11300").unwrap().shard_ports, Some(11300));
    assert_eq!(settings("-t 2 --shard-ports 65534").unwrap().shard_ports, Some(65534));
    for (arguments, word) in [
        ("-t 2 --shard-ports 65535", "1 to 65535"),
        ("-t 2 --shard-ports 0", "1 to 65535"),
        ("-t 4 --shard-ports 11208", "127.0.0.1:11211 is for all"),
        ("-t 2 -l 127.0.0.1,127.0.0.2:7 --shard-ports 6", "127.0.0.2:7 is for all"),
        ("-t 2 -l proto[ascii]:127.0.0.1:8,127.0.0.1 --shard-ports 11300", "not alike"),
        ("-t 2 -p 0 -U 99 --shard-ports 11300", "TCP ports only"),
    ] {
        check_refused(arguments, EXIT_USAGE, word);
    }
    let (settings, warnings) = read(&sources("-t 2 -s sock --shard-ports 11300")).unwrap();
    assert!(settings.shard_ports.is_none() && warnings.iter().any(|line| line.contains("--shard-ports")));
}

fn cluster(arguments: &str) -> ClusterSettings {
    settings(arguments).expect(arguments).cluster.expect("one of several")
}

#[test]
fn a_node_finds_itself_in_the_list_of_all() {
    const PEERS: &str = "--peers 127.0.0.1:7000,127.0.0.2:7000,127.0.0.3:7000";
    for (arguments, node) in [
        ("-l 127.0.0.2", "127.0.0.2:7000"),
        ("-l 127.0.0.9 --peer-listen 127.0.0.3:7000", "127.0.0.3:7000"),
        ("-l 127.0.0.9 --node-id 127.0.0.1:7000", "127.0.0.1:7000"),
    ] {
        let part = cluster(&format!("{PEERS} {arguments}"));
        assert_eq!((part.node.0.as_str(), part.listen.to_string().as_str()), (node, node));
        let CoordinatorSettings::Local(document) = part.coordinator else { panic!("a list is local") };
        assert_eq!(document.slots[1].client.to_string(), "127.0.0.2:11211");
    }
    assert_eq!(settings("").unwrap().cluster, None);
}

#[test]
fn clients_may_connect_elsewhere_than_nodes() {
    let part = cluster("-p 5 --cluster-id c --peers 127.0.0.1:7000,127.0.0.2:7000=cache.example:9");
    assert_eq!(part.cluster.0.as_str(), "c");
    let CoordinatorSettings::Local(document) = part.coordinator else { panic!("a list is local") };
    let clients: Vec<_> = document.slots.iter().map(|slot| slot.client.to_string()).collect();
    assert_eq!(clients, ["127.0.0.1:5", "cache.example:9"]);
}

#[test]
fn a_ring_file_may_say_more_of_its_nodes() {
    let text = "cluster = \"c\"\nepoch = 3\n[[node]]\nid = \"a\"\npeer = \"127.0.0.1:1\"\nclient = \"127.0.0.1:2\"\n";
    let file = File::new("ring.toml", text);
    let part = cluster(&format!("--cluster {}", file.0.display()));
    assert_eq!((part.node.0.as_str(), part.cluster.0.as_str()), ("a", "c"));
    let wrong = File::new("wrong.toml", "epoch = 3\nnodes = 1\n");
    check_refused(&format!("--cluster {}", wrong.0.display()), EXIT_USAGE, "wrong.toml");
    check_refused("--cluster /no/such/file", EXIT_USAGE, "/no/such/file");
}

#[test]
fn a_node_over_etcd_says_where_it_is() {
    let part =
        cluster("-l 127.0.0.2 --etcd http://127.0.0.1:2379/,http://127.0.0.5:2379 --peer-listen 127.0.0.2:7");
    assert!(!part.has_copies());
    let CoordinatorSettings::Etcd { urls, client, peer, .. } = part.coordinator else {
        panic!("it is in etcd")
    };
    assert_eq!(urls, ["http://127.0.0.1:2379", "http://127.0.0.5:2379"]);
    assert_eq!((client.to_string(), peer.to_string()), ("127.0.0.2:11211".into(), "127.0.0.2:7".into()));
}

#[test]
fn a_node_behind_a_gate_says_where_the_gate_is() {
    let part = cluster(
        "-l 127.0.0.2 --etcd http://127.0.0.1:2379 --peer-listen 127.0.0.2:7 --peer-advertise gate.example:9",
    );
    assert_eq!(part.listen.to_string(), "127.0.0.2:7");
    assert_eq!(part.node.to_string(), "gate.example:9");
    let CoordinatorSettings::Etcd { peer, .. } = part.coordinator else { panic!("it is in etcd") };
    assert_eq!(peer.to_string(), "gate.example:9");
}

#[test]
fn cluster_options_that_cannot_work_are_refused_with_what_to_do() {
    for (arguments, word) in [
        ("--node-id a", "needs --cluster, --peers or --etcd"),
        ("--peers=", "names nobody"),
        ("--etcd= --peer-listen 127.0.0.1:7", "names nobody"),
        ("--peers 127.0.0.1:7 --etcd http://a:1", "one of them says who the nodes are"),
        ("--peers 127.0.0.1", "HOST:PORT"),
        ("--peers 127.0.0.2:7,127.0.0.3:7", "give --node-id or --peer-listen"),
        ("--peers 127.0.0.1:7,127.0.0.1:8=127.0.0.1:9", "give --node-id or --peer-listen"),
        ("--peers 127.0.0.1:7 --node-id x", "no node has that name"),
        ("-p -1 --peers 127.0.0.1:7", "say where its clients connect"),
        ("--peers 127.0.0.1:7,127.0.0.1:7", "127.0.0.1:7"),
        ("-l 10.0.0.1 --peers 10.0.0.1:7", "--cluster-secret-file"),
        ("--etcd http://a:1", "give --peer-listen"),
        ("--etcd http://a --peer-listen 127.0.0.1:7", "is neither http://HOST:PORT nor"),
        ("--etcd a:1 --peer-listen 127.0.0.1:7", "is neither http://HOST:PORT nor"),
        ("--etcd https://a:1 --peer-listen 127.0.0.1:7", "https:// needs --etcd-cacert"),
        ("--etcd http://a:1 --etcd-cacert x --peer-listen 127.0.0.1:7", "https:// needs --etcd-cacert"),
        ("--etcd https://a:1 --etcd-cacert /no --peer-listen 127.0.0.1:7", "/no: No such file"),
        ("--etcd http://a:1 --etcd-cert x --peer-listen 127.0.0.1:7", "go together"),
        ("--etcd http://a:1 --etcd-user-file /no --peer-listen 127.0.0.1:7", "/no: No such file"),
        ("--peers 127.0.0.1:7 --zone a", "needs --etcd"),
        ("--zone a", "needs --etcd"),
        ("--peers 127.0.0.1:7 --peer-advertise 127.0.0.1:8", "needs --etcd"),
        ("-l * --etcd http://a:1 --peer-listen 127.0.0.1:7", "give --advertise"),
        ("--peers 127.0.0.1:7 -t 257 -m 2000", "at most 256 shard threads"),
        ("--replicas 2", "needs --cluster, --peers or --etcd"),
        ("--peers 127.0.0.1:7 --replication sync", "needs --replicas=2 or more"),
        ("--peers 127.0.0.1:7,127.0.0.2:7 --replicas 3", "fewer nodes than copies"),
        ("--peers 127.0.0.1:7,127.0.0.2:7 --replicas 2 -C", "items with copies need their CAS values"),
        ("--peers 127.0.0.1:7,127.0.0.2:7 --replicas 2 -I 9m", "8m at most"),
        (
            "--etcd http://a:1 --peer-listen 127.0.0.1:7 --replicas 2 -C",
            "items with copies need their CAS values",
        ),
        ("--etcd http://a:1 --peer-listen 127.0.0.1:7 --replication sync", "needs --replicas=2 or more"),
        ("--cluster x --cluster-id y", "names the cluster"),
    ] {
        check_refused(arguments, EXIT_USAGE, word);
    }
}
