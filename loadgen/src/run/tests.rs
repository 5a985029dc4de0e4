//! Whole runs against small servers that misbehave on purpose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// A server on a free port that gives each connection a thread and `serve`. Its threads end with their clients.
fn server(serve: impl Fn(BufReader<TcpStream>) + Send + Sync + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(BufReader::new(stream.unwrap())));
        }
    });
    address
}

/// Answers each line by what `answer` makes of it and its number, until the client leaves.
fn line_server(answer: impl Fn(u64, &str) -> String + Send + Sync + Clone + 'static) -> String {
    server(move |mut stream| {
        let mut line = String::new();
        for number in 0.. {
            line.clear();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if stream.get_mut().write_all(answer(number, line.trim_end()).as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn load(options: &str, address: &str) -> Result<Report, Failure> {
    run(&Args::of(&format!("{options} {address}")).unwrap())
}

#[track_caller]
fn fails(options: &str, address: &str, because: &str) {
    // What was measured before a failure is kept.
    let text = match load(options, address) {
        Ok(report) => report.failure.expect("the server misbehaves"),
        Err(failure) => failure.to_string(),
    };
    assert!(text.contains(because) && !text.contains('\n'), "{text}");
}

#[test]
fn a_stall_of_the_server_shows_in_the_open_loop_and_hides_in_the_closed_one() {
    const STALL: Duration = Duration::from_millis(300);
    let address = line_server(|number, _| {
        if number == 100 {
            thread::sleep(STALL);
        }
        "END\r\n".into()
    });
    // 1000 requests in a second; those due in the stall's 300 ms waited for it to end, 150 ms on average.
    let open = load("-c 1 --rate 1000 --duration 1", &address).unwrap();
    let from_send = open.latency_from_send.unwrap();
    assert_eq!(open.operations + open.unsent, 1000);
    assert!(open.latency.all.p90_ns > 150_000_000, "{open}");
    assert!(open.latency.all.p99_ns > 250_000_000, "{open}");
    assert!(from_send.p90_ns < open.latency.all.p90_ns / 2 && from_send.max_ns > 290_000_000, "{open}");

    // Of a busy machine some are late by themselves, and not one of ten by half of the stall.
    let closed = load("-c 1 --requests 1000", &address).unwrap();
    assert!(closed.latency.all.p90_ns < 150_000_000 && closed.latency.all.max_ns > 290_000_000, "{closed}");
}

#[test]
fn a_server_too_slow_for_the_rate_leaves_requests_unsent_and_says_so() {
    let address = line_server(|_, _| {
        thread::sleep(Duration::from_millis(10));
        "END\r\n".into()
    });
    let report = load("-c 1 --rate 1000 --duration 0.5", &address).unwrap();
    assert_eq!(report.operations + report.unsent, 500);
    assert!(report.unsent > 400, "{report}");
    assert_eq!(report.latency.all.count, 500);
    assert!(report.warnings.iter().any(|warning| warning.contains("never sent")), "{report}");
}

#[test]
fn requests_that_hang_when_the_run_gives_up_count_with_what_they_waited() {
    const ANSWERS: u64 = 100;
    let address = line_server(|number, _| {
        if number == ANSWERS {
            thread::sleep(Duration::from_mins(10));
        }
        "END\r\n".into()
    });
    // 1000 a second: two seconds of silence keep 2000 others waiting. Before that a busy machine must not be silent for as long.
    let open = load("-c 1 --rate 1000 --duration 60 --timeout 2", &address).unwrap();
    assert!(open.failure.as_ref().unwrap().contains("no reply within 2s"), "{open}");
    assert_eq!((open.operations, open.unanswered, open.errors), (ANSWERS, 1, 0));
    assert!(open.unsent >= 1_990, "{open}");
    assert_eq!(open.latency.all.count, ANSWERS + 1 + open.unsent);
    assert!(open.latency.all.p90_ns > 1_200_000_000 && open.latency.all.max_ns >= 1_999_000_000, "{open}");
    assert!(open.latency_from_send.unwrap().max_ns >= 1_999_000_000, "{open}");
    assert!(open.seconds > 2.0, "the silence belongs to the time measured: {open}");
    assert!(open.warnings.iter().any(|warning| warning.contains("1 requests had no answer")), "{open}");
    // Only what was still to be sent is missing.
    let few = load("-c 1 --rate 1000 --requests 150 --timeout 2", &address).unwrap();
    assert_eq!((few.operations, few.unanswered, few.unsent), (ANSWERS, 1, 49));

    let closed = load("-c 1 --requests 1000 --timeout 2", &address).unwrap();
    assert_eq!((closed.operations, closed.unanswered, closed.unsent), (ANSWERS, 1, 0));
    assert!(
        closed.latency.all.max_ns >= 1_999_000_000 && closed.to_string().contains("\nunanswered "),
        "{closed}"
    );
}

#[test]
fn requests_are_as_many_as_asked_for_over_any_threads_and_depth() {
    let address = line_server(|_, _| "END\r\n".into());
    for options in ["", "-t 3 -c 7 -d 5", "--rate 20000 -d 4", "--rate 20000 --poisson", "--io epoll -d 9"] {
        let report = load(&format!("--requests 1001 {options}"), &address).unwrap();
        assert_eq!((report.operations, report.misses, report.errors), (1001, 1001, 0), "{options}");
        assert_eq!((report.latency.get.count, report.latency.set.count), (1001, 0), "{options}");
        assert_eq!((report.sent_bytes, report.received_bytes), (1001 * 22, 1001 * 5), "{options}");
    }
}

#[test]
fn a_warm_up_is_not_measured() {
    let start = Instant::now();
    let address = line_server(|_, _| "END\r\n".into());
    let report = load("-c 1 --rate 1000 --warmup 0.4 --duration 0.2", &address).unwrap();
    assert!(start.elapsed() > Duration::from_millis(500));
    assert_eq!(report.operations + report.unsent, 200);
    assert!(report.seconds > 0.1, "{report}");
}

#[test]
fn wrong_values_are_found_and_counted() {
    let wrong = line_server(|number, line| {
        let key = line.strip_prefix("get ").unwrap();
        if number == 3 { format!("VALUE {key} 0 4\r\nEVIL\r\nEND\r\n") } else { "END\r\n".into() }
    });
    let report = load("-c 1 --requests 10 --verify", &wrong).unwrap();
    assert_eq!((report.hits, report.misses, report.wrong_values), (1, 9, 1));
    assert!(report.warnings.iter().any(|warning| warning.contains("WRONG")));
}

#[test]
fn a_prefill_stores_every_key_once_or_fails() {
    let stored = line_server(|number, line| match number % 2 {
        0 => {
            assert!(line.starts_with("set k") && line.ends_with(" 0 0 32"), "{line}");
            String::new()
        }
        _ => "STORED\r\n".into(),
    });
    let report = load("--prefill --keys 500 --requests 10 --ratio 1:0 -c 3 -d 2", &stored).unwrap();
    assert_eq!((report.prefilled_keys, report.sets), (Some(500), 10));

    let full = line_server(|number, _| match number {
        number if number % 2 == 0 => String::new(),
        7 => "SERVER_ERROR out of memory storing object\r\n".into(),
        _ => "STORED\r\n".into(),
    });
    fails(
        "--prefill --keys 10 -c 1",
        &full,
        "stored 9 of 10 keys (SERVER_ERROR out of memory storing object)",
    );
}

#[test]
fn a_prefill_that_is_cut_short_says_by_what() {
    let dying = line_server(|number, _| match number {
        number if number % 2 == 0 => String::new(),
        9 => "rubbish\r\n".into(),
        _ => "STORED\r\n".into(),
    });
    fails(
        "--prefill --keys 10 -c 1",
        &dying,
        "prefill was cut short when 4 of 10 keys were stored: this is not the text protocol: rubbish",
    );
}

#[test]
fn error_replies_are_counted_and_the_first_is_shown() {
    let address = line_server(|number, _| format!("SERVER_ERROR number {number}\r\n"));
    let report = load("-c 1 --requests 5", &address).unwrap();
    assert_eq!((report.operations, report.errors, report.hits), (5, 5, 0));
    assert_eq!(report.first_error.as_deref(), Some("SERVER_ERROR number 0"));
}

#[test]
fn each_way_to_fail_is_one_line_that_says_what_to_do() {
    fails("", "127.0.0.1:1", "start the server");
    fails("", "127.0.0.1:1 -t 2", "start the server");
    fails("", "/nonexistent/sock", "start the server");
    fails("--cpu 100000", &line_server(|_, _| "END\r\n".into()), "this process may use CPUs");
    fails("", &line_server(|_, _| "HTTP/1.1 400 Bad Request\r\n".into()), "check the address");
    fails("", &line_server(|_, _| "STORED\r\n".into()), "another question: STORED");
    fails("", &line_server(|_, _| "END\r\nEND\r\n".into()), "use fewer --connections");
    fails("-c 2", &server(drop), "closed a connection");
    let silent = server(|mut stream| match stream.read_to_end(&mut Vec::new()) {
        Ok(_) | Err(_) => {}
    });
    fails("--timeout 0.2 -c 3 -d 2", &silent, "no reply within 200ms (6 requests in flight)");
}
