use std::time::Instant;

use super::*;
use crate::distribution::Distribution;
use crate::fake::{Reaction, Server, nobody};
use crate::options::Wire;

/// Long enough for a machine that compiles at the same time, and before us.
const PATIENT: Duration = Duration::from_secs(120);

fn patient() -> Options {
    Options { timeout: PATIENT, try_timeout: PATIENT, connect_timeout: PATIENT, ..Options::default() }
}

fn client(servers: &[&Server], options: Options) -> AsyncClient {
    let addresses: Vec<_> = servers.iter().map(|server| server.address()).collect();
    let servers = Servers::list(addresses.iter().map(String::as_str), Distribution::Jump).unwrap();
    AsyncClient::new(&servers, options)
}

#[tokio::test]
async fn every_command_answers_on_both_wires() {
    for wire in [Wire::Text, Wire::Meta] {
        let server = Server::start();
        let client = client(&[&server], Options { wire, ..patient() });
        assert!(client.set("n", "5", Ttl::Never).await.unwrap().is_stored());
        assert_eq!(client.incr("n", 2).await.unwrap(), Some(7));
        assert_eq!(client.decr("n", 9).await.unwrap(), Some(0));
        assert!(client.touch("n", Ttl::Never).await.unwrap());
        let item = client.gets("n").await.unwrap().unwrap();
        assert_eq!(client.cas("n", "x", Ttl::Never, item.cas).await.unwrap(), Stored::Stored);
        assert_eq!(client.get_and_touch("n", Ttl::Never).await.unwrap().unwrap().value, b"x");
        assert!(client.delete("n").await.unwrap());
        assert_eq!(client.get("n").await.unwrap(), None);
        assert_eq!(client.versions().await[0].1.as_deref(), Ok("1.6.99"));
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn many_tasks_share_few_connections_and_get_their_own_values() {
    let servers = [Server::start(), Server::start(), Server::start()];
    let options = Options { connections_max: 2, ..patient() };
    let client = client(&servers.each_ref(), options);
    let mut tasks = JoinSet::new();
    for n in 0..200 {
        let client = client.clone();
        tasks.spawn(async move {
            let keys: Vec<_> = (0..10).map(|part| format!("key:{n}:{part}")).collect();
            for key in &keys {
                client.set(key, key.as_str(), Ttl::Never).await.unwrap();
            }
            for (key, item) in keys.iter().zip(client.get_many(&keys).await) {
                assert_eq!(item.unwrap().unwrap().value, key.as_bytes());
            }
        });
    }
    while let Some(joined) = tasks.join_next().await {
        joined.unwrap();
    }
    assert!(servers.iter().all(|server| server.connections() <= 2));
}

#[tokio::test]
async fn a_future_that_is_dropped_leaves_no_answer_to_the_next_one() {
    let server = Server::spoiling(|_, line, reply| match line {
        "get slow" => Reaction::Dribble(reply, Duration::from_millis(5)),
        _ => Reaction::Reply(reply),
    });
    let client = client(&[&server], Options { connections_max: 1, ..patient() });
    client.set("slow", "slow", Ttl::Never).await.unwrap();
    client.set("other", "other", Ttl::Never).await.unwrap();
    for pause in [0, 1, 8, 20, 40] {
        let slow = tokio::time::timeout(Duration::from_millis(pause), client.get("slow"));
        assert!(slow.await.is_err());
        assert_eq!(client.get("other").await.unwrap().unwrap().value, b"other");
    }
}

#[tokio::test]
async fn a_silent_server_and_a_closed_port_cost_a_bounded_time() {
    let silent = Server::spoiling(|_, _, _| Reaction::Silence);
    let options = Options { try_timeout: Duration::from_millis(50), back_off_min: PATIENT, ..patient() };
    let start = Instant::now();
    let error = client(&[&silent], options.clone()).get("k").await.unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error}");
    assert!(start.elapsed() < PATIENT);

    let client = AsyncClient::new(&Servers::one(&nobody().to_string()).unwrap(), options);
    assert!(matches!(client.get("k").await, Err(Error::Unreachable { .. })));
    assert!(matches!(client.get("k").await, Err(Error::Unreachable { .. })));
    assert!(matches!(client.get("k").await, Err(Error::Down { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_fills_and_the_others_wait_for_it() {
    let server = Server::start();
    let client = client(&[&server], patient());
    let mut tasks = JoinSet::new();
    let fills = Arc::new(std::sync::atomic::AtomicU32::new(0));
    for _ in 0..20 {
        let (client, fills) = (client.clone(), Arc::clone(&fills));
        tasks.spawn(async move {
            let fill = async {
                fills.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                sleep(Duration::from_millis(30)).await;
                Ok::<_, ()>(b"page".to_vec())
            };
            client.get_or_fill("page", &LeaseOptions::default(), Ttl::Never, fill).await.unwrap()
        });
    }
    while let Some(joined) = tasks.join_next().await {
        assert_eq!(joined.unwrap(), b"page");
    }
    assert_eq!(fills.load(std::sync::atomic::Ordering::SeqCst), 1);
}
