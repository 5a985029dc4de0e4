use super::*;
use crate::distribution::Distribution;
use crate::key::Key;
use crate::options::{Servers, Wire};
use slabring_cluster::ring::RingDocument;

fn get(text: &str) -> Command {
    Command::Get { key: Key::new(text.as_bytes(), Wire::Text).unwrap(), cas: false }
}

/// Runs a call against a network that is this function, with time that passes by a millisecond a step.
fn run(
    router: &mut Router,
    call: &mut Call,
    mut network: impl FnMut(&Endpoint, &[u8]) -> Result<Vec<u8>, Failure>,
) -> Duration {
    let (start, options) = (Instant::now(), Options::default());
    let mut now = start;
    loop {
        now += Duration::from_millis(1);
        match call.step(router, now, 0, &options) {
            Step::Done => return now - start,
            Step::Wait(time) => now += time,
            Step::Exchange(batches) => {
                for mut batch in batches {
                    let output = batch.exchange.output().to_vec();
                    batch.exchange.wrote(output.len());
                    let failure = network(&batch.server, &output)
                        .and_then(|reply| batch.exchange.received(&reply))
                        .err();
                    call.settle(batch, failure.as_ref(), router, now, &options);
                }
            }
        }
    }
}

fn call(commands: impl IntoIterator<Item = Command>) -> Call {
    let commands = commands.into_iter().map(|command| (command, None));
    Call::new(commands, Instant::now() + Options::default().timeout)
}

#[test]
fn a_list_gets_one_batch_per_server_and_answers_in_the_order_of_the_commands() {
    let mut router = Router::new(&Servers::list(["a", "b", "c"], Distribution::Jump).unwrap());
    let mut call = call((0..30).map(|n| get(&format!("key{n}"))));
    let mut asked = Vec::new();
    run(&mut router, &mut call, |server, request| {
        asked.push(server.clone());
        let mut reply = Vec::new();
        for key in String::from_utf8_lossy(request).split_ascii_whitespace().skip(1) {
            reply.extend(format!("VALUE {key} 0 {}\r\n{key}\r\n", key.len()).bytes());
        }
        reply.extend_from_slice(b"END\r\n");
        Ok(reply)
    });
    assert_eq!(asked.len(), 3);
    for (n, result) in call.finish().enumerate() {
        assert_eq!(result.unwrap().item().unwrap().value, format!("key{n}").into_bytes());
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_not_tried_again_where_no_other_can_answer() {
    let mut router = Router::new(&Servers::one("a").unwrap());
    let mut call = call([get("k")]);
    let mut tries = 0;
    run(&mut router, &mut call, |_, _| {
        tries += 1;
        Err(Failure::Unreachable("refused".to_owned()))
    });
    assert_eq!(tries, 1);
    assert!(matches!(call.finish().next().unwrap(), Err(Error::Unreachable { .. })));
}

#[test]
fn a_client_finds_nodes_that_have_taken_the_places_of_all_it_knew() {
    let document = |port: u16| {
        let node = |n: u16| {
            format!("[[node]]\npeer = \"seed:{}\"\nclient = \"seed:{}\"\n", port + 100 + n, port + n)
        };
        RingDocument::from_toml(&format!("{}{}", node(0), node(1))).unwrap().to_json()
    };
    let mut router = Router::new(&Servers::ring(["seed:1"]).unwrap());
    for (alive, tries_max) in [(1_000, 2), (2_000, 4)] {
        let mut call = call([get("k")]);
        let mut asked = Vec::new();
        run(&mut router, &mut call, |server, request| {
            let server = server.to_string();
            asked.push(server.clone());
            let is_alive = [1, alive, alive + 1].iter().any(|port| server == format!("seed:{port}"));
            if !is_alive {
                return Err(Failure::Unreachable("refused".to_owned()));
            }
            let json = document(alive);
            let ring = format!("CONFIG ring 0 {}\r\n{json}\r\nEND\r\n", json.len());
            let request = String::from_utf8_lossy(request).into_owned();
            let get = if request.starts_with("get") { "VALUE k 0 1\r\nv\r\nEND\r\n" } else { "" };
            let ring = if request.contains("config") { &ring[..] } else { "" };
            let stats = if request.contains("stats") { "END\r\n" } else { "" };
            Ok(format!("{get}{ring}{stats}").into_bytes())
        });
        let value = call.finish().next().unwrap().unwrap().item().unwrap().value;
        assert_eq!(value, b"v", "{asked:?}");
        assert!(asked.len() <= tries_max, "{asked:?}");
    }
}

#[test]
fn a_cluster_that_does_not_settle_costs_a_bounded_number_of_tries() {
    let mut router = Router::new(&Servers::ring(["a", "b"]).unwrap());
    let mut call = call([get("k")]);
    let (mut rings, mut gets) = (0, 0);
    let time = run(&mut router, &mut call, |_, request| {
        let ring = request.windows(6).filter(|word| word == b"config").count();
        rings += ring;
        let is_get = request.starts_with(b"get");
        gets += u32::from(is_get);
        let mut reply = if is_get { b"SERVER_ERROR the key's node is busy\r\n".to_vec() } else { Vec::new() };
        reply.extend(b"SERVER_ERROR no ring yet\r\n".repeat(ring));
        Ok(reply)
    });
    assert_eq!(gets, 1 + Options::default().retries);
    assert!((1..=4).contains(&rings), "{rings}");
    assert!(time >= SETTLE_TIME * Options::default().retries);
    assert!(matches!(call.finish().next().unwrap(), Err(Error::Refused { executed: Executed::No, .. })));
}

#[test]
fn a_call_past_its_deadline_asks_nobody() {
    let mut router = Router::new(&Servers::one("a").unwrap());
    let mut call = Call::new([(get("k"), None)], Instant::now());
    run(&mut router, &mut call, |_, _| panic!("it was asked"));
    assert!(matches!(call.finish().next().unwrap(), Err(Error::Late { executed: Executed::No, .. })));
}
