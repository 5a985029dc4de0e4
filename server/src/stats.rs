//! The `stats` answers: memcached's field names with this node's numbers, and our own behind the prefix `slabring_`.
//!
//! A field whose mechanism does not exist here is 0, because exporters and dashboards miss it otherwise.

mod classes;
mod settings;

use std::sync::atomic::{AtomicUsize, Ordering};

use slabring_cluster::ring::Mode;
use slabring_protocol::StatsTopic;
use slabring_protocol::reply::{self, StatText};
use slabring_reactor::thread::cpu_time_us;

use crate::cluster::Cluster;
use crate::locks::Locks;
use crate::node::Node;
use crate::options::CoordinatorSettings;
use crate::report::ShardReport;

/// What `version` answers: the memcached whose behaviour this node has. Clients read features out of it, and
/// some parse it as dotted numbers.
pub const MEMCACHED_VERSION: &str = "1.6.45";
/// This program's own version.
pub const SLABRING_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Appends the answer to `stats` on a topic that is all numbers.
pub fn render(out: &mut Vec<u8>, node: &Node, topic: StatsTopic, report: &ShardReport) {
    match topic {
        StatsTopic::General => general(out, node, report),
        StatsTopic::Settings => settings::append(out, node),
        StatsTopic::Items => classes::append_items(out, report),
        StatsTopic::Slabs => classes::append_slabs(out, report),
        StatsTopic::Extstore => {}
        topic => unreachable!("{topic:?} is answered elsewhere"),
    }
    reply::end(out);
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
    let ShardReport { commands, traffic, engine, io, turns, .. } = report;
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
        ],
    );
    if node.idle_timeout_seconds.load(Ordering::Relaxed) > 0 {
        reply::stat(out, "idle_kicks", traffic.idle_kicks);
    }
    all(
        out,
        [
            ("bytes_read", traffic.bytes_read),
            ("bytes_written", traffic.bytes_written),
            ("limit_maxbytes", node.memory_limit_bytes.load(Ordering::Relaxed) as u64),
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
            "slab_reassign_inline_reclaim",
            "slab_reassign_busy_items",
            "slab_reassign_busy_deletes",
            "slab_reassign_busy_nomem",
            "slab_reassign_last_busy_status",
            "slab_reassign_running",
        ],
    );
    all(
        out,
        [
            ("slab_reassign_rescues", engine.rescues),
            ("slab_reassign_chunk_rescues", engine.chunk_rescues),
            ("slabs_moved", engine.page_moves),
            ("lru_crawler_running", 0),
            ("lru_crawler_starts", traffic.crawls),
            ("lru_maintainer_juggles", 0),
            ("malloc_fails", 0),
            ("log_worker_dropped", 0),
            ("log_worker_written", traffic.log_written),
            ("log_watcher_skipped", traffic.log_skipped),
            ("log_watcher_sent", traffic.log_sent),
            ("log_watchers", node.watchers.count() as u64),
        ],
    );
    if node.tls.is_some() {
        let read_at = node.certificates_read.load(Ordering::Relaxed);
        let since = node.clock.unix_seconds().saturating_sub(read_at);
        all(
            out,
            [
                ("ssl_new_sessions", traffic.tls_sessions),
                ("ssl_handshake_errors", traffic.tls_handshake_errors),
                ("ssl_proto_errors", traffic.tls_record_errors),
                ("time_since_server_cert_refresh", u64::from(since)),
            ],
        );
    }
    zeroes(out, &["unexpected_napi_ids", "round_robin_fallback"]);
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
            ("crawler_reclaimed", traffic.sweep_reclaimed),
            ("crawler_items_checked", traffic.swept),
        ],
    );
    zeroes(
        out,
        &[
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
            ("slabring_memory_items_bytes", memory.items as u64),
            ("slabring_memory_held_bytes", memory.held as u64),
            ("slabring_memory_policy_bytes", memory.policy as u64),
            ("slabring_memory_policy_sketch_bytes", memory.policy_parts.sketch as u64),
            ("slabring_memory_policy_ghost_bytes", memory.policy_parts.ghost as u64),
            ("slabring_memory_policy_windows_bytes", memory.policy_parts.windows as u64),
            ("slabring_memory_policy_shadows_bytes", memory.policy_parts.shadows as u64),
            ("slabring_memory_policy_departures_bytes", memory.policy_parts.departures as u64),
            ("slabring_memory_policy_links_bytes", memory.policy_parts.links as u64),
            ("slabring_memory_policy_tables_bytes", memory.policy_parts.tables as u64),
            ("slabring_memory_buffers_bytes", traffic.buffer_bytes),
            ("slabring_memory_resident_bytes", node.resident_bytes.load(Ordering::Relaxed)),
            ("slabring_admission_refusals", engine.admission_refusals),
            ("slabring_datagrams_dropped", traffic.datagrams_dropped),
            ("slabring_slow_kicks", traffic.slow_kicks),
            ("slabring_connections_handed_over", traffic.connections_handed_over),
            ("slabring_requests_posted", traffic.requests_posted),
            ("slabring_hot_samples", traffic.hot_samples),
            ("slabring_trackers", node.trackers.count() as u64),
            ("slabring_tracked_keys", traffic.tracked_keys),
            ("slabring_tracked_reads", traffic.tracked_reads),
            ("slabring_track_told", traffic.track_told),
            ("slabring_track_forced", traffic.track_forced),
            ("slabring_track_flushes", traffic.track_flushes),
            ("slabring_io_turns", io.turns),
            ("slabring_turn_max_us", turns.max_us()),
            ("slabring_turns_above_1_ms", turns.long),
            ("slabring_shard_silences", node.pulses.silences()),
            ("slabring_io_completions", io.completions),
            ("slabring_io_sends", io.sends),
            ("slabring_io_out_of_buffers", io.out_of_buffers),
            ("slabring_io_rearmed", io.rearmed),
            ("slabring_io_overflows", io.overflows),
            ("slabring_io_accept_failures", io.accept_failures),
            ("slabring_io_wakes", io.wakes),
        ],
    );
    if let Some(cluster) = &node.cluster {
        cluster_fields(out, cluster, report);
    }
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
    if let Some(base) = node.settings.shard_ports {
        reply::stat(out, "slabring_shard_ports", u64::from(base));
    }
    if let Some(Locks { counts, .. }) = &node.locks {
        let now = |count: &AtomicUsize| count.load(Ordering::Relaxed) as u64;
        all(
            out,
            [
                ("slabring_locks_held", now(&counts.held)),
                ("slabring_locks_waiting", now(&counts.waiting)),
                ("slabring_locks_bytes", now(&counts.bytes)),
            ],
        );
    }
}

/// The node's part in its cluster.
fn cluster_fields(out: &mut Vec<u8>, cluster: &Cluster, report: &ShardReport) {
    let traffic = &report.traffic;
    reply::stat(out, "slabring_cluster", cluster.settings.cluster.0.as_str());
    reply::stat(out, "slabring_node", cluster.settings.node.0.as_str());
    all(
        out,
        [
            ("slabring_ring_epoch", cluster.epoch()),
            ("slabring_rings_refused", cluster.documents_refused()),
            ("slabring_rings_different", cluster.rings_different()),
            ("slabring_peer_links", traffic.peer_links),
            ("slabring_peer_links_lost", traffic.peer_links_lost),
            ("slabring_peer_links_refused", traffic.peer_links_refused + cluster.turned_away()),
            ("slabring_forwarded", traffic.forwarded),
            ("slabring_forwards_failed", traffic.forwards_failed),
            ("slabring_forwards_refused", traffic.forwards_refused),
            ("slabring_forwards_pending", traffic.forwards_pending),
            ("slabring_peer_requests", traffic.peer_requests),
            ("slabring_front_hits", traffic.front_hits),
            ("slabring_grants_given", traffic.grants_given),
            ("slabring_grants_held", traffic.grants_held),
            ("slabring_revocations", traffic.revocations),
            ("slabring_revocation_waits", traffic.revocation_waits),
        ],
    );
    if let CoordinatorSettings::Etcd { replicas, .. } = &cluster.settings.coordinator {
        reply::stat(out, "slabring_replicas_asked_for", u64::from(*replicas));
    }
    let view = cluster.view.now();
    if let Some(view) = view.as_ref() {
        reply::stat(out, "slabring_ring_replicas", u64::from(view.ring.document().replicas));
    }
    let Some(document) = view.as_ref().as_ref().map(|view| view.ring.document()) else { return };
    if !document.is_replicated() {
        return;
    }
    // A partition is served by all shards of its node.
    let shards = cluster.arrivals.len() as u64;
    let mode = match document.mode {
        Mode::Rf1 => "rf1",
        Mode::Async => "async",
        Mode::Inval => "inval",
        Mode::Sync => "sync",
    };
    reply::stat(out, "slabring_replication_mode", mode);
    all(
        out,
        [
            ("slabring_replication_copies", u64::from(document.replicas)),
            ("slabring_replication_partitions_primary", traffic.copies_primary / shards),
            ("slabring_replication_partitions_backup", traffic.copies_backup / shards),
            ("slabring_replication_partitions_learner", traffic.copies_learner / shards),
            ("slabring_replication_writes_pending", traffic.copies_writes_open),
            ("slabring_replication_waiting", traffic.copies_waiting),
            ("slabring_replication_lag_entries", traffic.copies_lag_entries),
            ("slabring_replication_lag_bytes", traffic.copies_lag_bytes),
            ("slabring_replication_streams_out_of_sync", traffic.copies_out_of_sync),
            ("slabring_replication_writes_unconfirmed", traffic.copies_unconfirmed),
            ("slabring_replication_refused", traffic.copies_refused),
            ("slabring_replication_scrub_compared", traffic.scrub_compared),
            ("slabring_replication_scrub_gone", traffic.scrub_gone),
            ("slabring_replication_scrub_differed", traffic.scrub_differed),
            ("slabring_replication_scrub_open", traffic.scrub_open),
            ("slabring_replication_touches_sent", traffic.touches_sent),
            ("slabring_replication_touches_taken", traffic.touches_taken),
        ],
    );
}
