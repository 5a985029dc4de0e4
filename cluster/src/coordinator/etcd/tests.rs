//! What etcd says, and what this node makes of it. The simulator has the rest: outages, late and doubled news.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;
use crate::names::{Incarnation, NodeId};

const CAPTURED: &str = include_str!("../../../golden/etcd.txt");

fn described(node: &str) -> NodeDescription {
    NodeDescription {
        node: NodeId(node.parse().unwrap()),
        incarnation: Incarnation(7),
        zone: String::new(),
        client: "127.0.0.1:11211".parse().unwrap(),
        peer: "127.0.0.1:7000".parse().unwrap(),
        shards: 2,
        weight: 256,
    }
}

fn etcd() -> Etcd {
    Etcd::new(&ClusterId("t".parse().unwrap()), described("a"))
}

/// The answer lines of one captured exchange.
fn captured(title: &str) -> Vec<&'static [u8]> {
    let (_, rest) = CAPTURED.split_once(&format!("# {title}\n")).unwrap();
    let lines = rest.split("\n\n").next().unwrap().lines();
    lines.filter_map(|line| line.strip_prefix("< ")).map(str::as_bytes).collect()
}

/// The calls that are due, by path.
fn calls(etcd: &mut Etcd, now: Micros) -> Vec<Call> {
    std::iter::from_fn(|| etcd.next(now))
        .filter_map(|need| match need {
            Need::Call(call) => Some(call),
            Need::Cancel(_) => None,
        })
        .collect()
}

fn paths(calls: &[Call]) -> Vec<&'static str> {
    calls.iter().map(|call| call.path).collect()
}

fn reply(etcd: &mut Etcd, now: Micros, call: &Call, status: u16, body: &[u8]) {
    etcd.answered(now, call.id, Answer::Reply { status, body });
    etcd.check_invariants();
}

/// A node that has its lease, is registered, and has read what was captured.
fn settled() -> (Etcd, Call) {
    let mut etcd = etcd();
    let now = Micros(0);
    let first = calls(&mut etcd, now);
    assert_eq!(paths(&first), [gateway::GRANT, gateway::RANGE]);
    reply(&mut etcd, now, &first[0], 200, captured("lease grant")[0]);
    reply(&mut etcd, now, &first[1], 200, captured("range: the ring")[0]);
    let second = calls(&mut etcd, now);
    assert_eq!(paths(&second), [gateway::TRANSACTION, gateway::WATCH]);
    reply(&mut etcd, now, &second[0], 200, captured("register a node")[0]);
    let watch = second.into_iter().next_back().unwrap();
    assert!(watch.is_stream);
    (etcd, watch)
}

#[test]
fn a_node_gets_a_lease_registers_reads_and_watches() {
    let (etcd, watch) = settled();
    assert_eq!(etcd.view.ring, Some((b"{\"epoch\":2}".to_vec(), Revision(5))));
    let from_six = gateway::watch("/slabring/t/", Revision(6));
    assert_eq!(watch.body, from_six);
    assert!(etcd.view.is_complete && etcd.view.is_reachable);
}

#[test]
fn any_cut_of_a_watch_says_the_same_and_old_news_change_nothing() {
    let (mut etcd, watch) = settled();
    let stream: Vec<u8> =
        captured("watch from revision 1").iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
    for byte in &stream {
        etcd.answered(Micros(1), watch.id, Answer::Chunk(std::slice::from_ref(byte)));
        etcd.check_invariants();
    }
    assert_eq!(etcd.view.ring.as_ref().unwrap().1, Revision(5), "revision 4 was told after 5");
    assert_eq!(etcd.view.leader, None, "it was created and deleted");
    let before = etcd.view.clone();
    etcd.answered(Micros(1), watch.id, Answer::Chunk(&stream));
    assert_eq!(etcd.view, before);
}

#[test]
fn a_compacted_watch_is_cancelled_and_everything_read_anew() {
    let (mut etcd, watch) = settled();
    for line in captured("watch from a compacted revision") {
        etcd.answered(Micros(1), watch.id, Answer::Chunk(&[line, &b"\n"[..]].concat()));
    }
    assert_eq!(etcd.next(Micros(1)), Some(Need::Cancel(watch.id)));
    assert_eq!(paths(&calls(&mut etcd, Micros(1))), [gateway::RANGE]);
    let later = calls(&mut etcd, Micros(1) + RETRY_AFTER);
    assert!(later.iter().any(|call| call.path == gateway::WATCH));
}

#[test]
fn a_lease_that_is_gone_is_replaced() {
    let (mut etcd, _) = settled();
    let now = KEEP_EVERY;
    let keep = calls(&mut etcd, now).into_iter().find(|call| call.path == gateway::KEEP_ALIVE).unwrap();
    reply(&mut etcd, now, &keep, 200, captured("keepalive of a lease that is gone")[0]);
    assert!(etcd.is_busy(), "without a lease nothing can be ordered");
    assert!(calls(&mut etcd, now).iter().any(|call| call.path == gateway::GRANT));
}

#[test]
fn an_etcd_that_is_away_costs_the_view_nothing_but_its_freshness() {
    let (mut etcd, watch) = settled();
    etcd.answered(Micros(1), watch.id, Answer::Failed);
    let mut now = KEEP_EVERY;
    for _ in 0..100 {
        for call in calls(&mut etcd, now) {
            etcd.answered(now, call.id, Answer::Failed);
        }
        now = etcd.wake_at().max(now + Micros(1));
    }
    assert!(etcd.view.is_complete && !etcd.view.is_reachable);
    assert_eq!(etcd.view.ring.as_ref().unwrap().1, Revision(5));
    assert!(now > Micros::from_millis(10_000), "a hundred rounds of retries pause: {now:?}");
}

#[test]
fn no_answer_makes_it_panic() {
    for body in [&b""[..], b"{", b"[]", b"{\"header\":{\"revision\":\"x\"}}", b"\xff", b"{\"result\":1}\n"] {
        for status in [200, 404, 500] {
            let mut etcd = etcd();
            for step in 0..20 {
                let now = Micros::from_millis(step * 500);
                for call in calls(&mut etcd, now) {
                    reply(&mut etcd, now, &call, status, body);
                }
            }
            assert!(!etcd.view.is_reachable);
        }
    }
}

#[test]
fn a_login_comes_first_and_again_when_the_token_is_too_old() {
    let login = Login { name: "node".to_owned(), password: "secret".to_owned() };
    let mut etcd = etcd().with_login(Some(login));
    let first = calls(&mut etcd, Micros(0));
    assert_eq!(paths(&first), [gateway::LOGIN]);
    assert!(calls(&mut etcd, Micros(0)).is_empty() && etcd.wake_at() == Micros::NEVER);
    reply(&mut etcd, Micros(0), &first[0], 200, captured("login")[0]);
    let next = calls(&mut etcd, Micros(0));
    assert_eq!(paths(&next), [gateway::GRANT, gateway::RANGE]);
    assert!(next.iter().all(|call| call.token.as_deref() == Some("hmuodcbWOkowTAWh.13")));
    let too_old = captured("call with a token that is too old: status 401")[0];
    next.iter().for_each(|call| reply(&mut etcd, Micros(1), call, 401, too_old));
    let login = calls(&mut etcd, Micros(1));
    assert_eq!(paths(&login), [gateway::LOGIN], "at once");
    reply(&mut etcd, Micros(1), &login[0], 200, captured("login")[0]);
    let next = calls(&mut etcd, Micros(1));
    reply(&mut etcd, Micros(2), &next[0], 200, captured("lease grant")[0]);
    let later = Micros(2) + RETRY_AFTER;
    let next = calls(&mut etcd, later);
    let read = next.iter().find(|call| call.path == gateway::RANGE).expect("what was refused is read again");
    let of_before = captured("call with a token of before a user was added: status 400")[0];
    reply(&mut etcd, later, read, 400, of_before);
    assert!(etcd.view.is_reachable, "that a token ends is no trouble");
    assert_eq!(paths(&calls(&mut etcd, later)), [gateway::LOGIN], "at once");
    assert!(format!("{etcd:?}").contains("node") && !format!("{etcd:?}").contains("secret"));
}

#[test]
fn a_login_that_is_refused_is_tried_again_later_and_one_that_is_not_wanted_never() {
    let login = Login { name: "node".to_owned(), password: "wrong".to_owned() };
    let mut etcd = etcd().with_login(Some(login));
    let first = calls(&mut etcd, Micros(0)).remove(0);
    reply(&mut etcd, Micros(0), &first, 400, captured("login with another password: status 400")[0]);
    assert!(calls(&mut etcd, Micros(0)).is_empty());
    assert_eq!(etcd.wake_at(), LOGIN_AGAIN_AFTER);
    let again = calls(&mut etcd, LOGIN_AGAIN_AFTER).remove(0);
    let not_wanted = br#"{"error":"etcdserver: authentication is not enabled","code":9}"#;
    reply(&mut etcd, LOGIN_AGAIN_AFTER, &again, 400, not_wanted);
    assert!(etcd.view.is_reachable, "it answers");
    let next = calls(&mut etcd, LOGIN_AGAIN_AFTER);
    assert!(next.len() == 2 && next.iter().all(|call| call.token.is_none()), "{next:?}");
}

/// A watch's line: the conductor with this number.
fn leader_line(node: &str, created: u64) -> String {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let (key, value) = (encode("/slabring/t/leader"), encode(&format!("{node} 7")));
    let kv = format!(
        r#"{{"key":"{key}","value":"{value}","create_revision":"{created}","mod_revision":"{created}"}}"#
    );
    format!("{{\"result\":{{\"header\":{{}},\"events\":[{{\"kv\":{kv}}}]}}}}\n")
}

#[test]
fn a_conductor_is_deposed_by_its_number_and_its_successor_is_not() {
    for (answer, left) in
        [("depose: done", None), ("depose: there is none", None), ("depose: of another revision", Some(9))]
    {
        let (mut etcd, watch) = settled();
        let created = left.unwrap_or(2);
        etcd.answered(Micros(0), watch.id, Answer::Chunk(leader_line("b", created).as_bytes()));
        assert_eq!(etcd.view.leader.as_ref().map(|leader| leader.fence), Some(Fence(created)));
        etcd.order(Order::Depose(Fence(2)));
        let deposing = calls(&mut etcd, Micros(0));
        assert_eq!(
            deposing.last().map(|call| call.body.clone()),
            Some(gateway::delete_held("/slabring/t/leader", Fence(2)))
        );
        assert!(etcd.is_busy());
        reply(&mut etcd, Micros(0), deposing.last().unwrap(), 200, captured(answer)[0]);
        assert_eq!(etcd.view.leader.as_ref().map(|leader| leader.fence.0), left, "{answer}");
        assert!(!etcd.is_busy());
    }
}

/// An answer to a campaign that was lost to this conductor.
fn lost_to(node: &str, revision: u64) -> String {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let (key, value) = (encode("/slabring/t/leader"), encode(&format!("{node} 7")));
    let kv =
        format!(r#"{{"key":"{key}","value":"{value}","create_revision":"2","mod_revision":"{revision}"}}"#);
    let read = format!(r#"{{"response_range":{{"header":{{}},"kvs":[{kv}]}}}}"#);
    format!(r#"{{"header":{{"revision":"{revision}"}},"responses":[{read}]}}"#)
}

#[test]
fn a_conductor_is_followed_in_one_step_and_only_while_it_is_the_one() {
    let (vacant, lost) = (captured("depose: there is none")[0], lost_to("c", 9));
    for (answer, leader) in [
        (captured("campaign: taken over")[0], Some(("a", 4))),
        (lost.as_bytes(), Some(("c", 9))),
        (vacant, None),
    ] {
        let (mut etcd, watch) = settled();
        etcd.answered(Micros(0), watch.id, Answer::Chunk(leader_line("b", 2).as_bytes()));
        etcd.order(Order::Campaign(Fence(2)));
        let call = calls(&mut etcd, Micros(0)).pop().unwrap();
        assert_eq!(call.body, gateway::claim("/slabring/t/leader", Revision(2), "a 7", etcd.lease.unwrap()));
        reply(&mut etcd, Micros(0), &call, 200, answer);
        let now = etcd.view.leader.as_ref().map(|leader| (leader.node.to_string(), leader.fence.0));
        assert_eq!(now, leader.map(|(node, fence)| (node.to_owned(), fence)));
        assert!(!etcd.is_busy());
    }
}

#[test]
fn who_has_nothing_to_say_says_nothing_unless_it_must() {
    let (mut etcd, _) = settled();
    let report = Report { incarnation: Incarnation(7), epoch: crate::ring::Epoch(3), ..Report::default() };
    etcd.report(&report, false);
    assert_eq!(calls(&mut etcd, Micros(0)), []);
    etcd.report(&report, true);
    assert_eq!(paths(&calls(&mut etcd, Micros(0))), [gateway::TRANSACTION]);
}

/// An answer to a read of this cluster's keys: the ring, as it was changed at a revision.
fn range_of_ring(revision: u64, ring: Option<(&str, u64)>) -> String {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let keys = ring.map_or(String::new(), |(value, changed)| {
        let (key, value) = (encode("/slabring/t/ring"), encode(value));
        format!(
            r#","kvs":[{{"key":"{key}","value":"{value}","create_revision":"2","mod_revision":"{changed}"}}]"#
        )
    });
    format!(r#"{{"header":{{"revision":"{revision}"}}{keys}}}"#)
}

#[track_caller]
fn check_rewound(revision: u64, ring: Option<(&str, u64)>) {
    let (mut etcd, watch) = settled();
    let now = READ_EVERY;
    let read = calls(&mut etcd, now).into_iter().find(|call| call.path == gateway::RANGE).unwrap();
    reply(&mut etcd, now, &read, 200, range_of_ring(revision, ring).as_bytes());
    assert_eq!(etcd.view.rewinds, 1);
    assert_eq!(etcd.view.ring, ring.map(|(value, changed)| (value.as_bytes().to_vec(), Revision(changed))));
    assert_eq!(etcd.next(now), Some(Need::Cancel(watch.id)), "it would wait for what was");
    let next = calls(&mut etcd, now).into_iter().find(|call| call.path == gateway::WATCH).unwrap();
    assert_eq!(next.body, gateway::watch("/slabring/t/", Revision(revision + 1)));
}

#[test]
fn an_etcd_that_was_emptied_or_goes_on_from_a_copy_is_believed() {
    check_rewound(2, None);
    check_rewound(4, Some(("{\"epoch\":1}", 4)));
    // Beyond what was known by now, and the key is older than it was.
    check_rewound(40, Some(("{\"epoch\":1}", 4)));
}

#[test]
fn a_key_that_says_something_else_at_the_revision_at_which_it_is_known_is_of_another_history() {
    for revision in [5, 40] {
        check_rewound(revision, Some(("{\"epoch\":9}", 5)));
    }
}

#[test]
fn a_read_that_is_answered_late_is_no_other_history() {
    let (mut etcd, watch) = settled();
    let now = READ_EVERY;
    let read = calls(&mut etcd, now).into_iter().find(|call| call.path == gateway::RANGE).unwrap();
    etcd.answered(now, watch.id, Answer::Chunk(leader_line("b", 9).as_bytes()));
    reply(&mut etcd, now, &read, 200, range_of_ring(5, Some(("{\"epoch\":2}", 5))).as_bytes());
    assert_eq!((etcd.view.rewinds, etcd.view.leader.is_some()), (0, true));
}

/// An answer to a read of this cluster's keys: this node's name, and who has it.
fn range_of_name(incarnation: u64, peer: &str) -> String {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let me = described("a");
    let other = NodeDescription { incarnation: Incarnation(incarnation), peer: peer.parse().unwrap(), ..me };
    let (key, value) = (encode("/slabring/t/node/a"), encode(&serde_json::to_string(&other).unwrap()));
    let kv = format!(r#"{{"key":"{key}","value":"{value}","create_revision":"4","mod_revision":"4"}}"#);
    format!(r#"{{"header":{{"revision":"5"}},"kvs":[{kv}]}}"#)
}

/// The transaction by which a node registers that finds this, if it does.
fn registration(found: &str) -> (Etcd, Option<Call>) {
    let mut etcd = etcd();
    let first = calls(&mut etcd, Micros(0));
    reply(&mut etcd, Micros(0), &first[0], 200, captured("lease grant")[0]);
    assert!(!paths(&calls(&mut etcd, Micros(0))).contains(&gateway::TRANSACTION), "it looks first");
    reply(&mut etcd, Micros(0), &first[1], 200, found.as_bytes());
    let call = calls(&mut etcd, Micros(0)).into_iter().find(|call| call.path == gateway::TRANSACTION);
    (etcd, call)
}

#[test]
fn a_name_that_another_life_has_elsewhere_is_waited_for() {
    let (mut etcd, call) = registration(&range_of_name(6, "127.0.0.2:7000"));
    assert_eq!((call, etcd.view.namesake.clone()), (None, Some("127.0.0.2:7000".parse().unwrap())));
    // Its lease has ended.
    let read = calls(&mut etcd, READ_EVERY).into_iter().find(|call| call.path == gateway::RANGE).unwrap();
    reply(&mut etcd, READ_EVERY, &read, 200, range_of_ring(9, None).as_bytes());
    assert_eq!(etcd.view.namesake, None);
    let again = calls(&mut etcd, READ_EVERY);
    assert!(again.iter().any(|call| call.path == gateway::TRANSACTION));
}

#[test]
fn a_node_that_is_started_again_takes_the_place_of_its_last_life_at_once() {
    let (mut etcd, call) = registration(&range_of_name(6, "127.0.0.1:7000"));
    let value = serde_json::to_string(&described("a")).unwrap();
    let lease = etcd.lease.unwrap();
    let call = call.unwrap();
    assert_eq!(call.body, gateway::claim("/slabring/t/node/a", Revision(4), &value, lease));
    reply(&mut etcd, Micros(0), &call, 200, br#"{"header":{"revision":"6"},"succeeded":true}"#);
    assert!(etcd.is_registered && etcd.view.namesake.is_none());
    // Taken over, it waits: two that have one name do not take it from each other in turn.
    let read = calls(&mut etcd, READ_EVERY).into_iter().find(|call| call.path == gateway::RANGE).unwrap();
    let other = range_of_name(8, "127.0.0.1:7000").replace("\"4\"", "\"7\"").replace("\"5\"", "\"7\"");
    reply(&mut etcd, READ_EVERY, &read, 200, other.as_bytes());
    assert!(etcd.view.namesake.is_some() && !etcd.is_registered);
    assert!(!calls(&mut etcd, READ_EVERY).iter().any(|call| call.path == gateway::TRANSACTION));
}
