//! `stats items` and `stats slabs`: the size classes.

use slabring_engine::ClassStats;
use slabring_protocol::reply;

use super::all;
use crate::report::{ClassCounters, ShardReport, class_number};

/// Appends the items by class.
pub fn append_items(out: &mut Vec<u8>, report: &ShardReport) {
    for class in report.classes.iter().filter(|class| class.items > 0) {
        let number = class_number(class.class);
        let ClassStats { items, window_items, bytes, evicted, evicted_unfetched, .. } = *class;
        let known = [
            ("number", items as u64),
            ("number_hot", window_items as u64),
            ("number_warm", 0),
            ("number_cold", (items - window_items) as u64),
            ("age_hot", 0),
            ("age_warm", 0),
            ("age", 0),
            ("mem_requested", bytes as u64),
            ("evicted", evicted),
            ("evicted_nonzero", 0),
            ("evicted_time", 0),
            ("outofmemory", 0),
            ("tailrepairs", 0),
            ("reclaimed", 0),
            ("expired_unfetched", 0),
            ("evicted_unfetched", evicted_unfetched),
        ];
        let unknown = [
            "evicted_active",
            "crawler_reclaimed",
            "crawler_items_checked",
            "lrutail_reflocked",
            "moves_to_cold",
            "moves_to_warm",
            "moves_within_lru",
            "direct_reclaims",
            "hits_to_hot",
            "hits_to_warm",
            "hits_to_cold",
            "hits_to_temp",
        ];
        for (name, value) in known.into_iter().chain(unknown.map(|name| (name, 0))) {
            reply::stat(out, format_args!("items:{number}:{name}"), value);
        }
    }
}

/// Appends the slabs by class.
pub fn append_slabs(out: &mut Vec<u8>, report: &ShardReport) {
    let used = || report.classes.iter().filter(|class| class.pages > 0);
    for class in used() {
        let number = class_number(class.class);
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
        let counters = report.by_class.get(usize::from(class.class.0)).copied().unwrap_or_default();
        for (name, value) in commands_of(&counters) {
            reply::stat(out, format_args!("{number}:{name}"), value);
        }
    }
    let pages = report.memory.map_or(0, |memory| memory.pages as u64);
    all(out, [("active_slabs", used().count() as u64), ("total_malloced", pages)]);
}

fn commands_of(counters: &ClassCounters) -> [(&'static str, u64); 8] {
    let ClassCounters {
        get_hits,
        cmd_set,
        delete_hits,
        incr_hits,
        decr_hits,
        cas_hits,
        cas_badval,
        touch_hits,
    } = *counters;
    [
        ("get_hits", get_hits),
        ("cmd_set", cmd_set),
        ("delete_hits", delete_hits),
        ("incr_hits", incr_hits),
        ("decr_hits", decr_hits),
        ("cas_hits", cas_hits),
        ("cas_badval", cas_badval),
        ("touch_hits", touch_hits),
    ]
}
