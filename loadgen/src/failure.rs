//! What ends a run before its time, each as one line that says what to do. Replies that only count as errors
//! are in `tally.rs`.

use std::io;
use std::time::Duration;

use slabring_reactor::backend::Refusal;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot find {address}: {error}; give HOST, HOST:PORT or the path of a Unix socket")]
    Unresolved { address: String, error: io::Error },
    #[error("cannot connect to {address}: {error}; start the server or give its address as HOST:PORT")]
    Connect { address: String, error: io::Error },
    #[error(
        "no socket is left for {address}: {error}; use fewer --connections, or raise the limit of open files (ulimit -n)"
    )]
    Sockets { address: String, error: io::Error },
    #[error("cannot listen at {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error("no TLS with {address}: {error}; see --tls-ca, --tls-name and --tls-insecure")]
    Tls { address: String, error: io::Error },
    #[error("{address} did not let us in: {text}; check --auth and --protocol")]
    Login { address: String, text: String },
    #[error("TLS failed: {0}")]
    TlsRecord(#[from] rustls::Error),
    #[error("{0:#}")]
    File(anyhow::Error),
    #[error("cannot write {path}: {error}")]
    Export { path: String, error: io::Error },
    #[error("{address} tells no ring: {text}; give a node of a cluster, or another --route")]
    Ring { address: String, text: String },
    #[error("{address} takes the connection and does not answer: {why}; is it the port for clients?")]
    Mute { address: String, why: String },
    #[error("agent {agent}: {text}")]
    Agent { agent: String, text: String },
    #[error("{0}; or use --io epoll")]
    Backend(#[from] Refusal),
    #[error("cannot pin to CPU {cpu}: {error}; this process may use CPUs {allowed:?}")]
    Pin { cpu: usize, error: io::Error, allowed: Vec<usize> },
    #[error(
        "the server closed a connection ({cause}); it has stopped or takes fewer connections: see its log"
    )]
    Closed { cause: String },
    #[error("the server refused a connection: {text}; use fewer --connections or raise its limit")]
    Refused { text: String },
    #[error(
        "no reply within {timeout:?} ({in_flight} requests in flight); the server hangs or is overloaded: raise \
         --timeout or lower --rate, --connections or --depth"
    )]
    Timeout { timeout: Duration, in_flight: usize },
    #[error("this is not the {protocol} protocol: {excerpt}; check the address and --protocol")]
    Malformed { protocol: &'static str, excerpt: String },
    #[error("the server gave an answer to another question: {text}; its replies are out of step")]
    OutOfStep { text: String },
    #[error("prefill stored {stored} of {keys} keys ({first_error}){}", advice(first_error))]
    Prefill { stored: u64, keys: u64, first_error: String },
    #[error("prefill was cut short when {stored} of {keys} keys were stored: {why}")]
    PrefillCut { stored: u64, keys: u64, why: String },
    #[error("interrupted")]
    Interrupted,
    #[error("this machine failed the load generator: {0}")]
    Machine(#[from] io::Error),
}

/// What helps against a store that a server refused in these words, behind them.
fn advice(refusal: &str) -> &'static str {
    if refusal.contains("out of memory") || refusal.contains("Out of memory") {
        "; give the server more memory or ask for less"
    } else if refusal.contains("too large") || refusal.contains("Too large") {
        "; ask for smaller values, or raise the server's limit of an item"
    } else {
        ""
    }
}

/// The start of what a server said, fit for one line of a terminal.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const SIZE_MAX: usize = 120;
    // A binary reply says it behind its header.
    let bytes = if bytes.first() == Some(&0x81) { bytes.get(24..).unwrap_or(bytes) } else { bytes };
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line[..line.len().min(SIZE_MAX)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefill_that_fell_short_gets_advice_only_where_there_is_some() {
        let told = |refusal: &str| {
            Failure::Prefill { stored: 1, keys: 2, first_error: refusal.to_owned() }.to_string()
        };
        assert!(told("SERVER_ERROR out of memory storing object").ends_with("more memory or ask for less"));
        assert!(told("SERVER_ERROR object too large for cache").ends_with("the server's limit of an item"));
        assert_eq!(told("the connection was lost"), "prefill stored 1 of 2 keys (the connection was lost)");
    }

    #[test]
    fn an_excerpt_is_one_printable_line() {
        assert_eq!(excerpt(b"SERVER_ERROR out of memory\r\nEND\r\n"), "SERVER_ERROR out of memory");
        assert_eq!(excerpt(b"\x1b[2J\xff"), "\\x1b[2J\\xff");
        assert_eq!(excerpt(&[b'a'; 5000]).len(), 120);
        assert_eq!(excerpt(b""), "");
    }
}
