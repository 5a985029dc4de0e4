//! The program against a server of a few lines: what it prints, and with which status it ends.
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use fake::Server;
use serde_json::Value;
use slabring_client::cluster::ring::RingDocument;

#[path = "../../client/tests/fake/mod.rs"]
#[expect(unreachable_pub, dead_code, reason = "the client's tests use all of it")]
mod fake;

/// Status, standard output and standard error.
fn run(server: &str, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slabring-cli"));
    command.env_remove("SLABRING_SERVERS").env_remove("SLABRING_ETCD").args(["-s", server]).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Most commands end without having read any of it.
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap_or_default();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn check(server: &Server, arguments: &[&str], status: i32, printed: &str) {
    let (code, out, err) = run(&server.address(), arguments, "from outside");
    assert_eq!((code, out.as_str()), (status, printed), "{arguments:?}: {err}");
}

#[test]
fn items_are_stored_shown_and_removed_and_the_status_says_whether_there_was_one() {
    let server = Server::start();
    check(&server, &["set", "k", "hello", "--ttl", "10m"], 0, "stored\n");
    check(&server, &["set", "k", "again", "--add"], 1, "not stored\n");
    check(&server, &["get", "k"], 0, "hello");
    check(&server, &["get", "none"], 1, "");
    check(&server, &["set", "in", "-"], 0, "stored\n");
    check(
        &server,
        &["get", "k", "in", "none"],
        1,
        "key   flags  value\nk     0      hello\nin    0      from outside\nnone  -      (none)\n",
    );
    check(&server, &["touch", "k", "never"], 0, "touched\n");
    check(&server, &["set", "n", "41"], 0, "stored\n");
    check(&server, &["incr", "n"], 0, "42\n");
    check(&server, &["decr", "n", "50"], 0, "0\n");
    check(&server, &["incr", "none"], 1, "not found\n");
    check(&server, &["delete", "k", "none"], 1, "deleted\nnot found\n");
    check(
        &server,
        &["version"],
        0,
        &format!(
            "server{}version  slabring\n{}  1.6.99   -\n",
            " ".repeat(server.address().len() - 4),
            server.address()
        ),
    );
}

#[test]
fn json_is_json() {
    let server = Server::start();
    let json = |arguments: &[&str]| -> Value {
        let (_, out, err) = run(&server.address(), &[arguments, &["--json"]].concat(), "");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}{err}"))
    };
    assert_eq!(json(&["set", "k", "v"])["stored"], true);
    assert_eq!(json(&["get", "k", "none"])[0]["value"], "v");
    assert_eq!(json(&["get", "k", "none"])[1]["found"], false);
    assert_eq!(json(&["keys"])[0]["key"], "k");
    assert_eq!(json(&["stats"])[server.address()]["curr_items"], "2");
    assert_eq!(json(&["delete", "k"])[0]["deleted"], true);
    assert_eq!(json(&["version"])[server.address()]["version"], "1.6.99");
    assert_eq!(json(&["flush", "--yes"])["flushed"], 1);
}

#[test]
fn nothing_is_emptied_by_accident() {
    let server = Server::start();
    check(&server, &["set", "k", "v"], 0, "stored\n");
    let (code, _, err) = run(&server.address(), &["flush"], "");
    assert!(code == 2 && err.contains("--yes"), "{code}: {err}");
    assert!(err.contains(&format!("this empties {}:", server.address())), "{err}");
    check(&server, &["get", "k"], 0, "v");
    check(&server, &["flush", "--yes"], 0, "flushed\n");
    check(&server, &["get", "k"], 1, "");
}

#[test]
fn errors_say_what_to_do_and_end_with_their_own_status() {
    for (server, arguments, status, words) in [
        ("127.0.0.1:1", &["get", "k"][..], 3, "is it running"),
        ("127.0.0.1:1", &["get", "a b"], 2, "--meta"),
        ("a b", &["get", "k"], 2, "--servers"),
        ("127.0.0.1:1", &["stats", "a\nflush_all"], 2, "word"),
        ("127.0.0.1:1", &["stats", "cachedump", "1", "0"], 2, "`slabring-cli keys`"),
        ("127.0.0.1:1", &["stats", "detail", "dump"], 2, "not shown"),
        ("127.0.0.1:1", &["set", "k", "v", "--ttl", "soon"], 2, "15m"),
        ("127.0.0.1:1", &["set", "k", "v", "--ttl", "0"], 2, "say never, or delete"),
        ("127.0.0.1:1", &["touch", "k", "0s"], 2, "say never, or delete"),
        ("127.0.0.1:1", &["cluster", "plan", "/no/such/file"], 2, "/no/such/file"),
        ("127.0.0.1:1", &["cluster", "drain", "n1", "--yes"], 2, "say --etcd"),
        ("127.0.0.1:1", &["cluster", "join", "n1", "--etcd", "127.0.0.1:2379"], 2, "http://HOST:PORT"),
        ("127.0.0.1:1", &["cluster", "down", "n1", "--etcd", "http://127.0.0.1:1"], 3, "does not answer"),
        ("127.0.0.1:1", &["cluster", "weight", "n1", "257", "--etcd", "http://127.0.0.1:1"], 2, "0..=256"),
    ] {
        let (code, out, err) = run(server, arguments, "");
        assert!(code == status && err.contains(words) && out.is_empty(), "{arguments:?}: {code} {out}{err}");
    }
    let alone = Server::start();
    let (code, _, err) = run(&alone.address(), &["cluster", "status"], "");
    assert!(code == 3 && err.contains("not a node of a cluster"), "{err}");
}

#[test]
fn a_cluster_is_shown_and_what_another_ring_would_move() {
    let servers = [Server::start(), Server::start()];
    let node = |server: &Server| {
        format!(
            "[[node]]\nid = \"n{0}\"\npeer = \"p:{0}\"\nclient = \"{1}\"\n",
            server.port(),
            server.address()
        )
    };
    let now = format!("epoch = 1\n{}", node(&servers[0]));
    let next = format!("epoch = 2\n{}{}", node(&servers[0]), node(&servers[1]));
    servers[0].set_ring(RingDocument::from_toml(&now).unwrap().to_json());
    let file = std::env::temp_dir().join(format!("slabring-cli-{}.toml", std::process::id()));
    std::fs::write(&file, next).unwrap();
    let path = file.to_str().unwrap();

    let (code, out, err) = run(&servers[0].address(), &["cluster", "status"], "");
    assert!(code == 0 && out.contains("epoch 1") && out.contains("100.00%"), "{out}{err}");
    let (code, out, err) = run(&servers[0].address(), &["cluster", "plan", path], "");
    assert!(code == 0 && out.contains("epoch 1 -> 2") && out.contains("of 16384 partitions"), "{out}{err}");
    let (code, out, _) = run("127.0.0.1:1", &["cluster", "plan", path, "--from", path, "--json"], "");
    assert_eq!(
        (code, &serde_json::from_str::<Value>(&out).unwrap()["moved_partitions"]),
        (0, &Value::from(0))
    );
    let whole = std::fs::read_to_string(&file).unwrap();
    servers[0].set_ring(RingDocument::from_toml(&whole).unwrap().to_json());
    let (code, _, err) = run(&servers[0].address(), &["flush"], "");
    assert!(code == 2 && servers.iter().all(|server| err.contains(&server.address())), "{err}");
    let (_, out, _) = run(&servers[0].address(), &["flush", "--yes", "--json"], "");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["flushed"], 2);
    std::fs::remove_file(&file).unwrap();
}
