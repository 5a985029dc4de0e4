use super::*;
use crate::{Command, Limits, Parser, Request, Step};

#[track_caller]
fn check(line: &str, expected: Admin) {
    for (line, noreply) in [(format!("{line}\r\n"), false), (format!("{line}\n"), false)] {
        let step = Parser::default().next(line.as_bytes(), &Limits::default());
        let request = Request { noreply, ..Request::bare(Command::Admin(expected)) };
        assert_eq!(step, Step::Request { request, consumed: line.len() }, "{line:?}");
    }
}

#[track_caller]
fn check_refused(line: &str, error: ErrorReply) {
    let bytes = format!("{line}\r\n");
    let step = Parser::default().next(bytes.as_bytes(), &Limits::default());
    assert_eq!(step, Step::Reply { error: error.into(), consumed: bytes.len() }, "{line:?}");
}

fn decimal(text: &str) -> Decimal {
    Decimal::parse(text.as_bytes()).unwrap()
}

#[test]
fn lru_commands_are_read() {
    let tune = Admin::LruTune {
        hot_percent: 10,
        warm_percent: 70,
        hot_max_factor: decimal("0.1"),
        warm_max_factor: decimal("2"),
    };
    for line in ["lru tune 10 70 0.1 2.0", "lru t 10 70 1e-1 +2 more"] {
        check(line, tune);
    }
    assert_eq!(decimal("0.25").get(), 0.25);
    check("lru mode flat", Admin::LruMode { segmented: false });
    check("lru m segmented", Admin::LruMode { segmented: true });
    check("lru temp_ttl 61", Admin::LruTemporaryTtl { seconds: Some(61) });
    check("lru temp_ttl -1", Admin::LruTemporaryTtl { seconds: None });
    for line in [
        "lru",
        "lru tune",
        "lru tune 10 20 0.1",
        "lru tune 10 x 0.1 2",
        "lru tune 10 20 nan 2",
        "lru tune 10 20 .1x 2",
        "lru tune -1 20 1 1",
        "lru mode",
        "lru mode x",
        "lru mode FLAT",
        "lru temp_ttl",
        "lru temp_ttl x",
        "lru x y",
    ] {
        check_refused(line, ErrorReply::Error);
    }
    check_refused("lru tune 10 71 0.1 2.0", ErrorReply::LruPercents);
    check_refused("lru tune 4294967295 20 0.1 2.0", ErrorReply::LruPercents);
    check_refused("lru tune 10 20 0 2.0", ErrorReply::LruFactors);
    check_refused("lru tune 10 20 1 -2.0", ErrorReply::LruFactors);
}

#[test]
fn crawler_commands_are_read() {
    check("lru_crawler enable", Admin::Crawler { enabled: true });
    check("lru_crawler dis", Admin::Crawler { enabled: false });
    check("lru_crawler sleep 1000000", Admin::CrawlerSleep { microseconds: 1_000_000 });
    check("lru_crawler tocrawl 7", Admin::CrawlerToCrawl { items: 7 });
    check("lru_crawler crawl all", Admin::Crawl(Classes::All));
    check("lru_crawler crawl 1,,63,3", Admin::Crawl(Classes::Some(1 << 1 | 1 << 3 | 1 << 63)));
    check("lru_crawler crawl 127", Admin::Crawl(Classes::Some(1 << 127)));
    check("lru_crawler crawl ,", Admin::Crawl(Classes::Some(0)));
    check("lru_crawler metadump hash", Admin::Metadump(Classes::Hash));
    check("lru_crawler mg all", Admin::Mgdump(Classes::All));
    check("lru_crawler m all", Admin::Metadump(Classes::All));
    for line in [
        "lru_crawler",
        "lru_crawler x",
        "lru_crawler crawl",
        "lru_crawler enable x",
        "lru_crawler x y",
        "lru_crawler crawl 1 2",
    ] {
        check_refused(line, ErrorReply::Error);
    }
    for classes in ["0", "128", "x", "1,x", "-1", "ALL"] {
        check_refused(&format!("lru_crawler crawl {classes}"), ErrorReply::BadClass);
        check_refused(&format!("lru_crawler metadump {classes}"), ErrorReply::BadClass);
    }
    check_refused("lru_crawler sleep 1000001", ErrorReply::CrawlerSleepTooLong);
    check_refused("lru_crawler sleep -1", ErrorReply::BadCommandLineFormat);
    check_refused("lru_crawler tocrawl x", ErrorReply::BadCommandLineFormat);
}

#[test]
fn slabs_commands_are_read() {
    check("slabs reassign -1 2", Admin::SlabsReassign { from: -1, to: 2 });
    check("slabs automove 2", Admin::SlabsAutomove { level: 2 });
    check("slabs automove ratio 0.5", Admin::SlabsAutomoveRatio(decimal("0.5")));
    check("slabs automove freeratio 0.01", Admin::SlabsAutomoveFreeRatio(decimal("0.01")));
    check("slabs automove window 1800", Admin::SlabsAutomoveWindow { rounds: 1800 });
    for line in ["slabs", "slabs x", "slabs x 1 2", "slabs reassign 1", "slabs reassign 1 2 3"] {
        check_refused(line, ErrorReply::Error);
    }
    for line in ["slabs automove", "slabs automove 3", "slabs automove ratio", "slabs automove ratio x"] {
        check_refused(line, ErrorReply::Error);
    }
    for line in ["slabs reassign x 2", "slabs reassign 1 2147483648", "slabs automove x"] {
        check_refused(line, ErrorReply::BadCommandLineFormat);
    }
    check_refused("slabs automove window x", ErrorReply::BadCommandLineFormat);
    check_refused("slabs automove window 2", ErrorReply::AutomoveWindow);
    check_refused("slabs automove window 1801", ErrorReply::AutomoveWindow);
}

#[test]
fn a_watcher_names_what_it_wants_and_else_gets_fetchers() {
    check("watch", Admin::Watch(WatchTopics::FETCHERS));
    check("watch proxyuser deletions", Admin::Watch(WatchTopics::PROXY.and(WatchTopics::DELETIONS)));
    let both = WatchTopics::MUTATIONS.and(WatchTopics::EVICTIONS);
    check("watch mutations evict", Admin::Watch(both));
    assert!(both.contains(WatchTopics::EVICTIONS) && !both.contains(WatchTopics::FETCHERS));
    check_refused("watch fetchers what", ErrorReply::Error);
    check_refused("watch fetchersx", ErrorReply::Error);
}

#[test]
fn the_others_are_read() {
    check("cache_memlimit 8", Admin::MemoryLimit { megabytes: 8 });
    check("cache_memlimit 1000000000 more", Admin::MemoryLimit { megabytes: 1_000_000_000 });
    check_refused("cache_memlimit", ErrorReply::Error);
    check_refused("cache_memlimit x", ErrorReply::Error);
    check_refused("cache_memlimit 7", ErrorReply::MemoryLimitTooSmall);
    check_refused("cache_memlimit 1000000001", ErrorReply::MemoryLimitInBytes);
    check("shutdown", Admin::Shutdown(ShutdownMode::Now));
    check("shutdown graceful", Admin::Shutdown(ShutdownMode::Graceful));
    check("shutdown gracefully", Admin::Shutdown(ShutdownMode::Unknown));
    check("shutdown graceful now", Admin::Shutdown(ShutdownMode::Unknown));
    check("refresh_certs", Admin::RefreshCertificates);
    check("extstore item_size 512", Admin::Extstore);
    check("extstore max_frag 0.8", Admin::Extstore);
    check("extstore free_memchunks 127 0", Admin::Extstore);
    for line in ["extstore", "extstore item_size", "extstore item_size x", "extstore x 1"] {
        check_refused(line, ErrorReply::Error);
    }
    check_refused("extstore free_memchunks 128 0", ErrorReply::Error);
    check("config get cluster", Admin::ClusterConfig);
    check("config get ring", Admin::RingConfig);
    check("config set redirect on", Admin::Redirect(true));
    check("config set redirect off", Admin::Redirect(false));
    check_refused("config get", ErrorReply::Error);
    check_refused("config set cluster", ErrorReply::Error);
    for line in ["debugtime p", "misbehave", "lruu", "sl reassign 1 2"] {
        check_refused(line, ErrorReply::Error);
    }
}

#[test]
fn noreply_hides_the_refusal_and_counts_as_a_word() {
    for line in ["lru mode x noreply\r\n", "lru_crawler crawl 1 noreply\r\n", "watch noreply\r\n"] {
        let step = Parser::default().next(line.as_bytes(), &Limits::default());
        assert_eq!(step, Step::Swallowed { consumed: line.len() });
    }
    let line = b"lru mode flat noreply\r\n";
    let admin = Command::Admin(Admin::LruMode { segmented: false });
    let request = Request { noreply: true, ..Request::bare(admin) };
    let step = Parser::default().next(line, &Limits::default());
    assert_eq!(step, Step::Request { request, consumed: line.len() });
}
