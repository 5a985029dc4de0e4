//! The `stats` answers: memcached's field names with this node's numbers, and our own behind the prefix `slabring_`.
//!
//! A field whose mechanism does not exist here is 0, because exporters and dashboards miss it otherwise.

use std::sync::atomic::Ordering;

use slabring_engine::ClassStats;
use slabring_protocol::reply::{self, StatText};
use slabring_protocol::{ErrorReply, StatsTopic};
use slabring_reactor::thread::cpu_time_us;

use crate::node::Node;
use crate::report::ShardReport;

/// What `version` answers: the memcached whose behaviour this node has. Clients read features out of it, and
/// some parse it as dotted numbers.
pub const MEMCACHED_VERSION: &str = "1.6.45";
/// This program's own version.
pub const SLABRING_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Appends the answer to `stats` on a topic, or says why there is none.
pub fn render(
    out: &mut Vec<u8>,
    node: &Node,
    topic: StatsTopic,
    report: &ShardReport,
) -> Result<(), ErrorReply> {
    match topic {
        StatsTopic::General => general(out, node, report),
        StatsTopic::Settings => settings(out, node),
        StatsTopic::Items => items(out, report),
        StatsTopic::Slabs => slabs(out, report),
        StatsTopic::Sizes | StatsTopic::CountSizes(_) => reply::stat(out, "sizes_status", "disabled"),
        StatsTopic::Extstore => {}
        StatsTopic::Reset | StatsTopic::Conns | StatsTopic::Detail(_) | StatsTopic::Cachedump { .. } => {
            return Err(ErrorReply::Error);
        }
    }
    reply::end(out);
    Ok(())
}

fn all<V: StatText>(out: &mut Vec<u8>, fields: impl IntoIterator<Item = (&'static str, V)>) {
    for (name, value) in fields {
        reply::stat(out, name, value);
    }
}

fn zeroes(out: &mut Vec<u8>, names: &[&'static str]) {
    all(out, names.iter().map(|&name| (name, 0u64)));
}

fn general(out: &mut Vec<u8>, node: &Node, report: &ShardReport) {
    let ShardReport { commands, traffic, engine, io, .. } = report;
    let memory = report.memory.expect("every shard reports its memory");
    let connections = node.connections.load(Ordering::Relaxed) as u64;
    process(out, node);
    all(
        out,
        [
            ("max_connections", node.max_connections.load(Ordering::Relaxed) as u64),
            ("curr_connections", connections),
            ("total_connections", traffic.connections_total),
            ("rejected_connections", traffic.connections_rejected),
            ("connection_structures", connections),
        ],
    );
    zeroes(out, &["response_obj_oom", "response_obj_count", "response_obj_bytes", "read_buf_count"]);
    all(out, [("read_buf_bytes", traffic.buffer_bytes)]);
    zeroes(out, &["read_buf_bytes_free", "read_buf_oom", "reserved_fds"]);
    all(
        out,
        [
            ("cmd_get", commands.cmd_get),
            ("cmd_set", commands.cmd_set),
            ("cmd_flush", traffic.cmd_flush),
            ("cmd_touch", commands.cmd_touch),
            ("cmd_meta", commands.cmd_meta),
            ("get_hits", commands.get_hits),
            ("get_misses", commands.get_misses),
            ("get_expired", engine.get_expired),
            ("get_flushed", engine.get_flushed),
            ("delete_misses", commands.delete_misses),
            ("delete_hits", commands.delete_hits),
            ("incr_misses", commands.incr_misses),
            ("incr_hits", commands.incr_hits),
            ("decr_misses", commands.decr_misses),
            ("decr_hits", commands.decr_hits),
            ("cas_misses", commands.cas_misses),
            ("cas_hits", commands.cas_hits),
            ("cas_badval", commands.cas_badval),
            ("touch_hits", commands.touch_hits),
            ("touch_misses", commands.touch_misses),
            ("store_too_large", commands.store_too_large),
            ("store_no_memory", commands.store_no_memory),
            ("auth_cmds", traffic.auth_cmds),
            ("auth_errors", traffic.auth_errors),
            ("bytes_read", traffic.bytes_read),
            ("bytes_written", traffic.bytes_written),
            ("limit_maxbytes", node.settings.memory_bytes as u64),
            ("accepting_conns", u64::from(!node.stopping.load(Ordering::Relaxed))),
            ("listen_disabled_num", 0),
            ("time_in_listen_disabled_us", 0),
            ("threads", u64::from(node.settings.threads)),
            ("conn_yields", traffic.stalls),
            ("hash_power_level", u64::from((memory.index as u64).max(1).ilog2())),
            ("hash_bytes", memory.index as u64),
            ("hash_is_expanding", 0),
        ],
    );
    zeroes(
        out,
        &[
            "slab_reassign_rescues",
            "slab_reassign_chunk_rescues",
            "slab_reassign_inline_reclaim",
            "slab_reassign_busy_items",
            "slab_reassign_busy_deletes",
            "slab_reassign_running",
        ],
    );
    all(out, [("slabs_moved", engine.page_moves)]);
    zeroes(
        out,
        &[
            "lru_crawler_running",
            "lru_crawler_starts",
            "lru_maintainer_juggles",
            "malloc_fails",
            "log_worker_dropped",
            "log_worker_written",
            "log_watcher_skipped",
            "log_watcher_sent",
            "log_watchers",
            "unexpected_napi_ids",
            "round_robin_fallback",
        ],
    );
    all(
        out,
        [
            ("bytes", engine.bytes),
            ("curr_items", engine.items),
            ("total_items", engine.total_items),
            ("slab_global_page_pool", 0),
            ("expired_unfetched", engine.expired_unfetched),
            ("evicted_unfetched", engine.evicted_unfetched),
            ("evicted_active", 0),
            ("evictions", engine.evictions),
            ("reclaimed", engine.reclaimed),
        ],
    );
    zeroes(
        out,
        &[
            "crawler_reclaimed",
            "crawler_items_checked",
            "lrutail_reflocked",
            "moves_to_cold",
            "moves_to_warm",
            "moves_within_lru",
            "direct_reclaims",
            "lru_bumps_dropped",
        ],
    );
    own(out, node, report);
    all(
        out,
        [
            ("slabring_memory_limit_bytes", memory.limit as u64),
            ("slabring_memory_index_bytes", memory.index as u64),
            ("slabring_memory_pages_bytes", memory.pages as u64),
            ("slabring_memory_policy_bytes", memory.policy as u64),
            ("slabring_memory_buffers_bytes", memory.external as u64),
            ("slabring_admission_refusals", engine.admission_refusals),
            ("slabring_requests_posted", traffic.requests_posted),
            ("slabring_io_turns", io.turns),
            ("slabring_io_completions", io.completions),
            ("slabring_io_sends", io.sends),
            ("slabring_io_out_of_buffers", io.out_of_buffers),
            ("slabring_io_rearmed", io.rearmed),
            ("slabring_io_overflows", io.overflows),
            ("slabring_io_accept_failures", io.accept_failures),
            ("slabring_io_wakes", io.wakes),
        ],
    );
}

fn process(out: &mut Vec<u8>, node: &Node) {
    let (user_us, system_us) = cpu_time_us();
    all(
        out,
        [
            ("pid", u64::from(std::process::id())),
            ("uptime", u64::from(node.clock.uptime_seconds())),
            ("time", u64::from(node.clock.unix_seconds())),
        ],
    );
    all(out, [("version", MEMCACHED_VERSION), ("libevent", "none")]);
    all(out, [("pointer_size", u64::from(usize::BITS))]);
    for (name, us) in [("rusage_user", user_us), ("rusage_system", system_us)] {
        reply::stat(out, name, format_args!("{}.{:06}", us / 1_000_000, us % 1_000_000));
    }
}

fn own(out: &mut Vec<u8>, node: &Node, _report: &ShardReport) {
    reply::stat(out, "slabring_version", SLABRING_VERSION);
    reply::stat(out, "slabring_io", format_args!("{}", node.choice.backend));
}

fn settings(out: &mut Vec<u8>, node: &Node) {
    let settings = &node.settings;
    let on = |value: bool| if value { "on" } else { "off" };
    let yes = |value: bool| if value { "yes" } else { "no" };
    let port = settings.listen.first().map_or(0, |listen| listen.address.port());
    all(
        out,
        [
            ("maxbytes", settings.memory_bytes as u64),
            ("maxconns", node.max_connections.load(Ordering::Relaxed) as u64),
            ("tcpport", u64::from(port)),
            ("udpport", settings.udp.first().map_or(0, |address| u64::from(address.port()))),
        ],
    );
    let addresses: Vec<_> = settings.listen.iter().map(|listen| listen.address.ip().to_string()).collect();
    reply::stat(out, "inter", addresses.join(",").as_str());
    all(out, [("verbosity", node.verbosity.load(Ordering::Relaxed) as u64), ("oldest", 0)]);
    all(out, [("evictions", on(settings.evict)), ("domain_socket", "NULL")]);
    all(out, [("umask", 700u64)]);
    reply::stat(out, "growth_factor", format_args!("{:.2}", settings.growth_factor));
    all(
        out,
        [
            ("num_threads", u64::from(settings.threads)),
            ("num_threads_per_udp", 0),
            ("reqs_per_event", 0),
            ("tcp_backlog", u64::try_from(settings.backlog).unwrap_or(0)),
            ("item_size_max", u64::from(settings.item_size_limit())),
        ],
    );
    all(
        out,
        [
            ("stat_key_prefix", ":"),
            ("detail_enabled", "no"),
            ("cas_enabled", yes(settings.cas_enabled)),
            ("binding_protocol", settings.protocol.name()),
            ("auth_enabled_sasl", yes(settings.authentication.as_ref().is_some_and(|auth| auth.sasl))),
            ("auth_enabled_ascii", yes(settings.authentication.as_ref().is_some_and(|auth| !auth.sasl))),
            ("maxconns_fast", "yes"),
            ("flush_enabled", yes(settings.flush_enabled)),
            ("dump_enabled", "no"),
            ("hash_algorithm", "ahash"),
            ("slab_reassign", "yes"),
            ("slab_automove", "0"),
            ("lru_crawler", "no"),
            ("lru_maintainer_thread", "no"),
            ("lru_segmented", "no"),
        ],
    );
    all(
        out,
        [
            ("lru_crawler_sleep", 0u64),
            ("lru_crawler_tocrawl", 0),
            ("hot_lru_pct", 0),
            ("warm_lru_pct", 0),
            ("hot_max_factor", 0),
            ("warm_max_factor", 0),
        ],
    );
    reply::stat(out, "slabring_policy", settings.policy.name());
    reply::stat(out, "slabring_io_reason", node.choice.reason.as_str());
}

/// memcached numbers its classes from 1.
fn class_number(class: &ClassStats) -> u32 {
    u32::from(class.class.0) + 1
}

fn items(out: &mut Vec<u8>, report: &ShardReport) {
    for class in report.classes.iter().filter(|class| class.items > 0) {
        let number = class_number(class);
        let fields = [
            ("number", class.items as u64),
            ("number_hot", class.window_items as u64),
            ("number_warm", 0),
            ("number_cold", (class.items - class.window_items) as u64),
            ("age_hot", 0),
            ("age_warm", 0),
            ("age", 0),
            ("mem_requested", class.bytes as u64),
            ("evicted", class.evicted),
            ("evicted_nonzero", 0),
            ("evicted_time", 0),
            ("outofmemory", 0),
            ("tailrepairs", 0),
            ("reclaimed", 0),
            ("expired_unfetched", 0),
            ("evicted_unfetched", class.evicted_unfetched),
        ];
        for (name, value) in fields {
            reply::stat(out, format_args!("items:{number}:{name}"), value);
        }
    }
}

fn slabs(out: &mut Vec<u8>, report: &ShardReport) {
    let used = || report.classes.iter().filter(|class| class.pages > 0);
    for class in used() {
        let number = class_number(class);
        let fields = [
            ("chunk_size", class.chunk_size),
            ("chunks_per_page", class.chunks_per_page),
            ("total_pages", class.pages),
            ("total_chunks", class.pages * class.chunks_per_page),
            ("used_chunks", class.used),
            ("free_chunks", class.free),
            ("free_chunks_end", 0),
        ];
        for (name, value) in fields {
            reply::stat(out, format_args!("{number}:{name}"), value as u64);
        }
    }
    all(
        out,
        [
            ("active_slabs", used().count() as u64),
            ("total_malloced", report.memory.map_or(0, |memory| memory.pages as u64)),
        ],
    );
}
