//! etcd's JSON gateway: the bodies of calls and what their answers say. Text to values and back; never a connection.
//!
//! Keys and values are base64, 64-bit numbers are decimal strings, and what is zero or empty is left out. Verified against
//! etcd 3.4.23: `golden/etcd.txt` has the exchanges. Source: etcd `Documentation/dev-guide/api_grpc_gateway.md`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Fence, Revision};

/// Gives a token for a name and a password.
pub const LOGIN: &str = "/v3/auth/authenticate";
/// Grants a lease.
pub const GRANT: &str = "/v3/lease/grant";
/// Ends a lease.
pub const REVOKE: &str = "/v3/lease/revoke";
/// Keeps a lease.
pub const KEEP_ALIVE: &str = "/v3/lease/keepalive";
/// Reads keys.
pub const RANGE: &str = "/v3/kv/range";
/// Writes on conditions.
pub const TRANSACTION: &str = "/v3/kv/txn";
/// Streams changes.
pub const WATCH: &str = "/v3/watch";

/// What etcd answers to a token that it does not know, or that has come of age.
const UNAUTHENTICATED: u16 = 401;
/// What it says, under another status, to a signed token (`--auth-token jwt`) of before its users or roles were changed, and to who
/// shows none, as nobody had to before it began to ask.
const TOKENS_OF_BEFORE: [&[u8]; 2] = [b"revision of auth store is old", b"user name is empty"];
/// What it says to a login where nobody has to log in.
const LOGIN_NOT_WANTED: &[u8] = b"authentication is not enabled";

/// A lease: a promise of etcd to delete keys when nobody keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId(pub i64);

/// The body of a [`LOGIN`].
pub fn login(name: &str, password: &str) -> String {
    json!({ "name": name, "password": password }).to_string()
}

/// Whether a bad answer is one to the token, so that another login may help.
pub fn is_token_refused(status: u16, body: &[u8]) -> bool {
    status == UNAUTHENTICATED || TOKENS_OF_BEFORE.iter().any(|words| says(body, words))
}

/// Whether a [`LOGIN`] is refused because none is needed.
pub fn is_login_unwanted(body: &[u8]) -> bool {
    says(body, LOGIN_NOT_WANTED)
}

/// Whether etcd's text of an error has these words.
pub fn says(body: &[u8], words: &[u8]) -> bool {
    body.windows(words.len()).any(|said| said == words)
}

/// The body of a [`GRANT`] for whole seconds.
pub fn grant(seconds: u64) -> String {
    json!({ "TTL": seconds.to_string() }).to_string()
}

/// The body of a [`REVOKE`].
pub fn revoke(lease: LeaseId) -> String {
    json!({ "ID": lease.0.to_string() }).to_string()
}

/// The body of a [`KEEP_ALIVE`].
pub fn keep_alive(lease: LeaseId) -> String {
    json!({ "ID": lease.0.to_string() }).to_string()
}

/// The body of a [`RANGE`] over all keys that begin with `prefix`, which ends in `/`.
pub fn range(prefix: &str) -> String {
    json!({ "key": encode(prefix), "range_end": encode(&range_end(prefix)) }).to_string()
}

/// The body of a [`WATCH`] of all keys that begin with `prefix`, from a revision on, that one included.
pub fn watch(prefix: &str, from: Revision) -> String {
    let request = json!({
        "key": encode(prefix),
        "range_end": encode(&range_end(prefix)),
        "start_revision": from.0.to_string(),
        "progress_notify": true,
    });
    json!({ "create_request": request }).to_string()
}

/// The body of a [`TRANSACTION`] that puts a key under a lease if its revision is `expect` (0: it is not there), and reads it otherwise.
pub fn claim(key: &str, expect: Revision, value: &str, lease: LeaseId) -> String {
    let unchanged = json!({
        "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": expect.0.to_string(),
    });
    json!({ "compare": [unchanged], "success": [put_under(key, value, lease)], "failure": [read(key)] })
        .to_string()
}

/// The body of a [`TRANSACTION`] that puts a key under a lease, whatever it was.
pub fn put(key: &str, value: &str, lease: LeaseId) -> String {
    json!({ "compare": [], "success": [put_under(key, value, lease)] }).to_string()
}

/// The body of a [`TRANSACTION`] that puts a key which outlives whoever put it.
pub fn put_for_good(key: &str, value: &str) -> String {
    json!({ "compare": [], "success": [put_plainly(key, value)] }).to_string()
}

/// An office: the key under which whoever decides is written down.
#[derive(Clone, Copy, Debug)]
pub struct Office<'a> {
    /// The key.
    pub key: &'a str,
    /// Who holds it, as the key says. Revisions begin anew when etcd does, and may then be those of another holder.
    pub holder: &'a str,
    /// Since when: the key's revision.
    pub fence: Fence,
}

/// The body of a [`TRANSACTION`] that replaces a key's revision `expect`, if the office is held as it is said; and reads
/// both otherwise. Not fenced, it is replaced by whomever.
pub fn replace(key: &str, expect: Revision, value: &str, office: Office<'_>, is_fenced: bool) -> String {
    let mut compare = vec![json!({
        "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": expect.0.to_string(),
    })];
    if is_fenced {
        let (key, Fence(fence)) = (office.key, office.fence);
        compare.push(json!({
            "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": fence.to_string(),
        }));
        compare.push(json!({
            "key": encode(key), "target": "VALUE", "result": "EQUAL", "value": encode(office.holder),
        }));
    }
    let put = put_plainly(key, value);
    json!({ "compare": compare, "success": [put], "failure": [read(key), read(office.key)] }).to_string()
}

/// What must be so for one who enters a queue, or leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nobody is in the queue.
    Empty,
    /// The key was created then, and is there.
    Created(Revision),
    /// The key was not changed since then; 0: it is not there.
    Changed(Revision),
}

impl Condition {
    fn compare(self, queue: &str, key: &str) -> Value {
        match self {
            Self::Empty => json!({
                "key": encode(queue), "range_end": encode(&range_end(queue)),
                "target": "VERSION", "result": "EQUAL", "version": "0",
            }),
            Self::Created(at) => json!({
                "key": encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": at.0.to_string(),
            }),
            Self::Changed(at) => json!({
                "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": at.0.to_string(),
            }),
        }
    }
}

/// A key beside a queue: what it must be, and what it becomes.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// The key.
    pub key: &'a str,
    /// What it must be; `None`: it must not be there.
    pub known: Option<&'a [u8]>,
    /// What it becomes; `None`: it stays.
    pub value: Option<&'a str>,
}

impl Beside<'_> {
    fn compare(&self) -> Value {
        let key = encode(self.key);
        match self.known {
            Some(known) => json!({
                "key": key, "target": "VALUE", "result": "EQUAL", "value": BASE64_STANDARD.encode(known),
            }),
            None => json!({ "key": key, "target": "VERSION", "result": "EQUAL", "version": "0" }),
        }
    }
}

/// The body of a [`TRANSACTION`] that reads a queue, the keys that begin with `queue`, which ends in `/`, and the key `beside` it.
pub fn look(queue: &str, beside: &str) -> String {
    json!({ "success": [read_queue(queue), read(beside)] }).to_string()
}

/// The body of a [`TRANSACTION`] that puts a key into a queue if the condition holds and the key beside it is what it must be. It
/// reads both as [`look`] does, also when they do not.
pub fn enter(
    queue: &str,
    key: &str,
    value: &str,
    lease: LeaseId,
    condition: Condition,
    beside: Beside<'_>,
) -> String {
    let reads = [read_queue(queue), read(beside.key)];
    let mut success = vec![put_under(key, value, lease)];
    success.extend(beside.value.map(|value| put_plainly(beside.key, value)));
    success.extend(reads.clone());
    json!({ "compare": [condition.compare(queue, key), beside.compare()], "success": success, "failure": reads })
        .to_string()
}

/// The body of a [`TRANSACTION`] that deletes a key of a queue.
pub fn leave(queue: &str, key: &str, condition: Condition) -> String {
    let compare = [condition.compare(queue, key)];
    let delete = json!({ "request_delete_range": { "key": encode(key) } });
    json!({ "compare": compare, "success": [delete] }).to_string()
}

/// The body of a [`TRANSACTION`] that deletes a key if its revision is `fence`, and reads it otherwise.
pub fn delete_held(key: &str, fence: Fence) -> String {
    let is_that = json!({
        "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": fence.0.to_string(),
    });
    let delete = json!({ "request_delete_range": { "key": encode(key) } });
    json!({ "compare": [is_that], "success": [delete], "failure": [read(key)] }).to_string()
}

fn put_under(key: &str, value: &str, lease: LeaseId) -> Value {
    json!({ "request_put": { "key": encode(key), "value": encode(value), "lease": lease.0.to_string() } })
}

fn put_plainly(key: &str, value: &str) -> Value {
    json!({ "request_put": { "key": encode(key), "value": encode(value) } })
}

fn read_queue(queue: &str) -> Value {
    json!({ "request_range": { "key": encode(queue), "range_end": encode(&range_end(queue)) } })
}

fn read(key: &str) -> Value {
    json!({ "request_range": { "key": encode(key) } })
}

fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// The first key behind all that begin with `prefix`: the last byte, a slash, becomes the byte after it.
fn range_end(prefix: &str) -> String {
    let bare = prefix.strip_suffix('/').expect("prefixes end in a slash");
    format!("{bare}0")
}

/// A key as it is or was.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    /// The key.
    #[serde(default, deserialize_with = "decode")]
    pub key: Vec<u8>,
    /// Its value; empty when it was deleted.
    #[serde(default, deserialize_with = "decode")]
    pub value: Vec<u8>,
    /// When it came to be.
    #[serde(default, deserialize_with = "number")]
    pub create_revision: u64,
    /// When it was last changed, or deleted.
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: u64,
    /// The lease that it lies under; 0: under none.
    #[serde(default, deserialize_with = "signed_number")]
    pub lease: i64,
}

/// The beginning of every answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AnswerHeader {
    /// The store's revision.
    #[serde(default, deserialize_with = "number")]
    pub revision: u64,
}

/// The answer to a [`LOGIN`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LoggedIn {
    /// What calls are made with from now on, for as long as etcd pleases.
    pub token: String,
}

/// The answer to a [`GRANT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Granted {
    /// The lease.
    #[serde(rename = "ID", deserialize_with = "signed_number")]
    pub id: i64,
    /// Its seconds, which may be more than asked for.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub seconds: u64,
}

/// The answer to a [`RANGE`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ranged {
    /// The beginning.
    pub header: AnswerHeader,
    /// The keys.
    #[serde(default, rename = "kvs")]
    pub keys: Vec<KeyValue>,
}

/// The answer to a [`TRANSACTION`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Transacted {
    /// The beginning: its revision is that of what was put.
    pub header: AnswerHeader,
    /// Whether the conditions held.
    #[serde(default)]
    pub succeeded: bool,
    #[serde(default)]
    responses: Vec<PartOfTransaction>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct PartOfTransaction {
    response_range: Option<Ranged>,
}

impl Transacted {
    /// What was read first.
    pub fn ranged(&self) -> Option<&Ranged> {
        self.responses.iter().find_map(|part| part.response_range.as_ref())
    }

    /// The keys that were read, in the order of the reads: `None` for one that is not there.
    pub fn reads(&self) -> impl Iterator<Item = Option<&KeyValue>> {
        self.responses.iter().filter_map(|part| Some(part.response_range.as_ref()?.keys.first()))
    }
}

/// One line of a [`WATCH`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Watched {
    /// The beginning: everything up to its revision has been told, unless it says canceled.
    #[serde(default)]
    pub header: AnswerHeader,
    /// The watch is over.
    #[serde(default)]
    pub canceled: bool,
    /// The watch is over because what it asked for is gone; this revision is not.
    #[serde(default, deserialize_with = "number")]
    pub compact_revision: u64,
    /// What changed.
    #[serde(default)]
    pub events: Vec<WatchedEvent>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WatchedEvent {
    /// `DELETE`, or nothing.
    #[serde(default, rename = "type")]
    kind: String,
    /// What the key is now.
    pub kv: KeyValue,
}

impl WatchedEvent {
    /// Whether the key is gone.
    pub fn is_delete(&self) -> bool {
        self.kind == "DELETE"
    }
}

#[derive(Deserialize)]
struct Streamed<T> {
    result: T,
}

#[derive(Deserialize)]
struct KeptAlive {
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    seconds: u64,
}

/// Reads an answer; `None` when it is not one.
pub fn read_answer<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

/// Reads one line of a watch; `None` when it is an error or no line of a watch.
pub fn read_watched(line: &[u8]) -> Option<Watched> {
    read_answer::<Streamed<Watched>>(line).map(|line| line.result)
}

/// Reads the answer to a [`KEEP_ALIVE`]: the seconds that the lease has left, 0 when it is gone.
pub fn read_kept_alive(body: &[u8]) -> Option<u64> {
    read_answer::<Streamed<KeptAlive>>(body).map(|answer| answer.result.seconds)
}

fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn signed_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exchanges with etcd 3.4.23, as `curl` saw them.
    const CAPTURED: &str = include_str!("../../golden/etcd.txt");

    /// The lines of one exchange that begin with `mark`.
    fn captured(title: &str, mark: &str) -> Vec<&'static str> {
        let (_, rest) = CAPTURED.split_once(&format!("# {title}\n")).expect("the exchange was captured");
        let exchange = rest.split("\n\n").next().unwrap();
        exchange.lines().filter_map(|line| line.strip_prefix(mark)).collect()
    }

    /// Checks a body of ours against the one that etcd was given.
    #[track_caller]
    fn check_asked(title: &str, path: &str, body: &str) {
        let asked = captured(title, "> ");
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!((asked[0], value(asked[1])), (format!("POST {path}").as_str(), value(body)));
    }

    fn answer(title: &str) -> &'static [u8] {
        captured(title, "< ")[0].as_bytes()
    }

    const LEASE: LeaseId = LeaseId(2_324_035_530_722_741_002);
    const RING: &str = "/slabring/t/ring";
    const LEADER: &str = "/slabring/t/leader";

    #[test]
    fn calls_are_those_that_etcd_understood() {
        check_asked("login", LOGIN, &login("node", "secret"));
        check_asked("lease grant", GRANT, &grant(5));
        check_asked("keepalive", KEEP_ALIVE, &keep_alive(LEASE));
        check_asked("range: the nodes", RANGE, &range("/slabring/t/node/"));
        check_asked("watch from revision 1", WATCH, &watch("/slabring/t/", Revision(1)));
        check_asked("register a node", TRANSACTION, &put("/slabring/t/node/a", "{\"incarnation\":7}", LEASE));
        check_asked("campaign: won", TRANSACTION, &claim(LEADER, Revision(0), "a", LEASE));
        check_asked("campaign: taken over", TRANSACTION, &claim(LEADER, Revision(3), "b", LEASE));
        let office = Office { key: LEADER, holder: "a", fence: Fence(3) };
        let second = replace(RING, Revision(4), "{\"epoch\":2}", office, true);
        check_asked("ring cas: won (second)", TRANSACTION, &second);
        check_asked("depose: done", TRANSACTION, &delete_held(LEADER, Fence(2)));
    }

    #[test]
    fn answers_say_what_etcd_said() {
        let logged_in: LoggedIn = read_answer(answer("login")).unwrap();
        assert_eq!(logged_in.token, "hmuodcbWOkowTAWh.13");
        assert_eq!(read_answer::<LoggedIn>(answer("login with another password: status 400")), None);
        let granted: Granted = read_answer(answer("lease grant")).unwrap();
        assert_eq!(granted, Granted { id: LEASE.0, seconds: 5 });
        assert_eq!(read_kept_alive(answer("keepalive")), Some(5));
        assert_eq!(read_kept_alive(answer("keepalive of a lease that is gone")), Some(0));
        let nodes: Ranged = read_answer(answer("range: the nodes")).unwrap();
        assert_eq!(nodes.header.revision, 5);
        let node = &nodes.keys[0];
        assert_eq!(
            (&node.key[..], &node.value[..]),
            (&b"/slabring/t/node/a"[..], &b"{\"incarnation\":7}"[..])
        );
        assert_eq!((node.create_revision, node.mod_revision), (2, 2));
        assert_eq!(read_answer::<Ranged>(answer("range: nothing there")).unwrap().keys, []);
        let won: Transacted = read_answer(answer("campaign: won")).unwrap();
        assert_eq!((won.succeeded, won.header.revision, won.reads().count()), (true, 3, 0));
        let lost: Transacted = read_answer(answer("ring cas: lost, revision moved")).unwrap();
        let reads: Vec<_> = lost.reads().map(|key| key.unwrap().mod_revision).collect();
        assert_eq!((lost.succeeded, reads), (false, vec![4, 3]));
        let missed: Transacted = read_answer(answer("depose: of another revision")).unwrap();
        assert_eq!((missed.succeeded, missed.reads().flatten().count()), (false, 1));
        let done: Transacted = read_answer(answer("depose: done")).unwrap();
        assert_eq!((done.succeeded, done.header.revision, done.reads().count()), (true, 3, 0));
        let gone: Transacted = read_answer(answer("depose: there is none")).unwrap();
        assert_eq!((gone.succeeded, gone.reads().collect::<Vec<_>>()), (false, vec![None]));
        assert_eq!(read_answer::<Transacted>(answer("put under a lease that is gone")), None);
    }

    #[test]
    fn answers_to_a_token_and_to_a_login_are_told_from_others() {
        let too_old = answer("call with a token that is too old: status 401");
        let of_before = answer("call with a token of before a user was added: status 400");
        assert!(is_token_refused(401, too_old) && is_token_refused(400, of_before));
        let none = br#"{"error":"etcdserver: user name is empty","message":"etcdserver: user name is empty","code":3}"#;
        assert!(is_token_refused(400, none));
        let wrong = answer("login with another password: status 400");
        assert!(!is_token_refused(400, wrong) && !is_login_unwanted(wrong));
        assert!(is_login_unwanted(br#"{"error":"etcdserver: authentication is not enabled","code":9}"#));
    }

    #[test]
    fn watches_tell_changes_deletions_progress_and_compaction() {
        let lines = captured("watch from revision 1", "< ");
        let watched: Vec<_> = lines.iter().map(|line| read_watched(line.as_bytes()).unwrap()).collect();
        assert_eq!((watched[0].events.len(), watched[0].canceled), (0, false));
        let revisions: Vec<_> = watched[1].events.iter().map(|event| event.kv.mod_revision).collect();
        assert_eq!(revisions, [2, 3, 4, 5]);
        assert!(watched[2].events.iter().all(WatchedEvent::is_delete));
        let lines = captured("watch from a compacted revision", "< ");
        let last = read_watched(lines[1].as_bytes()).unwrap();
        assert!(last.canceled && last.compact_revision == 6);
        let lines = captured("watch that only makes progress", "< ");
        let last = read_watched(lines[1].as_bytes()).unwrap();
        assert_eq!((last.header.revision, last.events.len(), last.canceled), (6, 0, false));
    }
}
