//! `stats settings`: what the node was started with and what clients have changed since, in memcached's order.

use std::sync::atomic::Ordering;

use slabring_protocol::reply;

use super::all;
use crate::node::Node;

const NONE: &str = "NULL";

/// Appends the settings.
pub fn append(out: &mut Vec<u8>, node: &Node) {
    append_network(out, node);
    append_protocol(out, node);
    append_slabs(out, node);
    append_lru(out, node);
    append_buffers(out, node);
    append_tls(out, node);
    reply::stat(out, "num_napi_ids", NONE);
    let memory_file = node.settings.memory_file.as_ref();
    reply::stat(
        out,
        "memory_file",
        memory_file.map_or(NONE.into(), |path| path.display().to_string()).as_str(),
    );
    reply::stat(out, "client_flags_size", 4u64);
    reply::stat(out, "slabring_policy", node.settings.policy.name());
    reply::stat(out, "slabring_pin", node.settings.pinning.name());
    reply::stat(out, "slabring_io_reason", node.choice.reason.as_str());
}

fn append_network(out: &mut Vec<u8>, node: &Node) {
    let settings = &node.settings;
    let port = settings.listen.first().map_or(0, |listen| listen.address.port());
    let udp_port = settings.udp.first().map_or(0, std::net::SocketAddr::port);
    let addresses: Vec<_> = settings.listen.iter().map(|listen| listen.address.ip().to_string()).collect();
    let unix = settings.unix.as_ref();
    all(
        out,
        [
            ("maxbytes", node.memory_limit_bytes.load(Ordering::Relaxed) as u64),
            ("maxconns", node.max_connections.load(Ordering::Relaxed) as u64),
            ("tcpport", u64::from(port)),
            ("udpport", u64::from(udp_port)),
        ],
    );
    if let Some(base) = settings.shard_ports {
        reply::stat(out, "slabring_shard_ports", u64::from(base));
    }
    reply::stat(out, "inter", addresses.join(",").as_str());
    all(out, [("verbosity", node.verbosity.load(Ordering::Relaxed) as u64), ("oldest", 0)]);
    reply::stat(out, "evictions", on(settings.evict));
    reply::stat(
        out,
        "domain_socket",
        unix.map_or(NONE.into(), |unix| unix.path.display().to_string()).as_str(),
    );
    reply::stat(out, "umask", format_args!("{:o}", unix.map_or(0o700, |unix| unix.mode)));
    reply::stat(out, "shutdown_command", yes(settings.shutdown_enabled));
    reply::stat(out, "growth_factor", format_args!("{:.2}", settings.growth_factor));
    all(
        out,
        [
            ("chunk_size", settings.chunk_size_min as u64),
            ("num_threads", u64::from(settings.threads)),
            ("num_threads_per_udp", u64::from(settings.threads)),
        ],
    );
}

fn append_protocol(out: &mut Vec<u8>, node: &Node) {
    let settings = &node.settings;
    let sasl = settings.authentication.as_ref().map(|authentication| authentication.sasl);
    let delimiter = char::from(settings.prefix_delimiter);
    reply::stat(out, "stat_key_prefix", format_args!("{delimiter}"));
    reply::stat(out, "detail_enabled", yes(node.tuning.detail.load(Ordering::Relaxed)));
    reply::stat(out, "reqs_per_event", u64::from(settings.requests_per_turn));
    all(out, [("cas_enabled", yes(settings.cas_enabled))]);
    reply::stat(out, "tcp_backlog", u64::try_from(settings.backlog).unwrap_or(0));
    all(
        out,
        [
            ("binding_protocol", settings.protocol.name()),
            ("auth_enabled_sasl", yes(sasl == Some(true))),
            ("auth_enabled_ascii", yes(sasl == Some(false))),
        ],
    );
    all(out, [("item_size_max", u64::from(settings.item_size_limit()))]);
    all(out, [("maxconns_fast", "yes"), ("hashpower_init", "0")]);
}

fn append_slabs(out: &mut Vec<u8>, node: &Node) {
    let tuning = &node.tuning;
    reply::stat(out, "slab_reassign", "yes");
    reply::stat(out, "slab_automove", u32::from(tuning.automove.load(Ordering::Relaxed)));
    reply::stat(out, "slab_automove_ratio", format_args!("{:.2}", tuning.automove_ratio()));
    reply::stat(out, "slab_automove_window", tuning.automove_window.load(Ordering::Relaxed));
    reply::stat(out, "slab_automove_freeratio", format_args!("{:.3}", tuning.automove_free_ratio()));
    reply::stat(out, "slab_chunk_max", 0u64);
}

fn append_lru(out: &mut Vec<u8>, node: &Node) {
    let tuning = &node.tuning;
    let load = |cell: &std::sync::atomic::AtomicU32| u64::from(cell.load(Ordering::Relaxed));
    reply::stat(out, "lru_crawler", yes(tuning.crawler.load(Ordering::Relaxed)));
    all(
        out,
        [
            ("lru_crawler_sleep", load(&tuning.crawler_sleep)),
            ("lru_crawler_tocrawl", load(&tuning.crawler_items)),
            ("tail_repair_time", 0),
        ],
    );
    all(
        out,
        [
            ("flush_enabled", yes(node.settings.flush_enabled)),
            ("dump_enabled", yes(node.settings.dump_enabled)),
            ("hash_algorithm", "ahash"),
            ("lru_maintainer_thread", "no"),
            ("lru_segmented", yes(tuning.segmented.load(Ordering::Relaxed))),
        ],
    );
    all(out, [("hot_lru_pct", load(&tuning.hot_percent)), ("warm_lru_pct", load(&tuning.warm_percent))]);
    reply::stat(out, "hot_max_factor", format_args!("{:.2}", tuning.hot_max_factor()));
    reply::stat(out, "warm_max_factor", format_args!("{:.2}", tuning.warm_max_factor()));
    reply::stat(out, "temp_lru", yes(tuning.temporary.load(Ordering::Relaxed)));
    reply::stat(out, "temporary_ttl", load(&tuning.temporary_ttl));
}

fn append_buffers(out: &mut Vec<u8>, node: &Node) {
    all(
        out,
        [
            ("idle_timeout", u64::from(node.idle_timeout_seconds.load(Ordering::Relaxed))),
            ("slabring_request_timeout", u64::from(node.settings.request_timeout_seconds)),
            ("watcher_logbuf_size", crate::watch::LOG_BYTES_MAX as u64),
            ("worker_logbuf_size", 0),
            ("read_buf_mem_limit", 0),
        ],
    );
    reply::stat(out, "track_sizes", yes(node.tuning.sizes.load(Ordering::Relaxed)));
    reply::stat(out, "inline_ascii_response", "no");
}

fn append_tls(out: &mut Vec<u8>, node: &Node) {
    let Some(tls) = &node.settings.tls else { return reply::stat(out, "ssl_enabled", "no") };
    reply::stat(out, "ssl_enabled", "yes");
    reply::stat(out, "ssl_chain_cert", tls.chain.display().to_string().as_str());
    reply::stat(out, "ssl_key", tls.key.display().to_string().as_str());
    reply::stat(out, "ssl_verify_mode", tls.verify as u32);
    reply::stat(out, "ssl_keyformat", 1u64);
    let authorities = tls.authorities.as_ref().map_or(NONE.into(), |path| path.display().to_string());
    reply::stat(out, "ssl_ca_cert", authorities.as_str());
    // Tickets are always offered.
    reply::stat(out, "ssl_session_cache", "yes");
    reply::stat(out, "ssl_min_version", if tls.only_1_3 { "tlsv1.3" } else { "tlsv1.2" });
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
