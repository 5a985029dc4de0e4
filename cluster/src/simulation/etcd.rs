//! An etcd for the simulator: the calls that this crate makes, over the same JSON, in memory.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::coordinator::gateway::{GRANT, KEEP_ALIVE, RANGE, TRANSACTION};
use crate::time::Micros;

/// The ring's key as calls name it.
pub(super) fn ring_key() -> String {
    BASE64_STANDARD.encode("/slabring/sim/ring")
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) created: u64,
    pub(super) changed: u64,
    pub(super) value: Vec<u8>,
    lease: u64,
}

#[derive(Clone, Debug)]
struct Logged {
    revision: u64,
    key: String,
    entry: Option<Entry>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SimEtcd {
    pub(super) revision: u64,
    pub(super) entries: BTreeMap<String, Entry>,
    leases: BTreeMap<u64, (Micros, Micros)>,
    log: Vec<Logged>,
    compacted: u64,
    /// Leases that were ever granted: a new one has another name, in whatever history.
    granted: u64,
    /// How many of the rings were written before it last went back.
    pub(super) rings_before: usize,
    /// Every ring document that was written: revision and JSON.
    pub(super) rings: Vec<Vec<u8>>,
}

impl SimEtcd {
    /// Executes a call; the HTTP status and body.
    pub(super) fn execute(&mut self, now: Micros, path: &str, body: &str) -> (u16, String) {
        let asked: Value = serde_json::from_str(body).expect("this crate writes JSON");
        match path {
            GRANT => self.grant(now, &asked),
            KEEP_ALIVE => self.keep(now, &asked),
            RANGE => (200, self.range(&asked).to_string()),
            TRANSACTION => self.transact(&asked),
            other => panic!("etcd has no {other}"),
        }
    }

    fn header(&self) -> Value {
        json!({ "revision": self.revision.to_string() })
    }

    fn grant(&mut self, now: Micros, asked: &Value) -> (u16, String) {
        let seconds = number(&asked["TTL"]);
        self.granted += 1;
        let id = 1_000 + self.granted;
        let span = Micros::from_millis(seconds * 1_000);
        self.leases.insert(id, (span, now + span));
        (
            200,
            json!({ "header": self.header(), "ID": id.to_string(), "TTL": seconds.to_string() }).to_string(),
        )
    }

    fn keep(&mut self, now: Micros, asked: &Value) -> (u16, String) {
        let id = number(&asked["ID"]);
        let mut result = json!({ "header": self.header(), "ID": id.to_string() });
        if let Some((span, until)) = self.leases.get_mut(&id) {
            *until = now + *span;
            result["TTL"] = (span.0 / 1_000_000).to_string().into();
        }
        (200, json!({ "result": result }).to_string())
    }

    fn range(&self, asked: &Value) -> Value {
        let from = text(&asked["key"]);
        let keys: Vec<Value> = match asked.get("range_end") {
            Some(end) => {
                self.entries.range(from..text(end)).map(|(key, entry)| described(key, entry)).collect()
            }
            None => self.entries.get(&from).map(|entry| described(&from, entry)).into_iter().collect(),
        };
        let mut answer = json!({ "header": self.header() });
        if !keys.is_empty() {
            answer["count"] = keys.len().to_string().into();
            answer["kvs"] = keys.into();
        }
        answer
    }

    fn transact(&mut self, asked: &Value) -> (u16, String) {
        let none = Vec::new();
        let list = |name: &str| asked.get(name).and_then(Value::as_array).unwrap_or(&none);
        let holds = |compare: &Value| {
            let entry = self.entries.get(&text(&compare["key"]));
            if compare["target"] == "VALUE" {
                return entry.is_some_and(|entry| BASE64_STANDARD.encode(&entry.value) == compare["value"]);
            }
            let (actual, wanted) = match compare["target"].as_str().unwrap() {
                "VERSION" => (entry.map_or(0, |_| 1), &compare["version"]),
                "MOD" => (entry.map_or(0, |entry| entry.changed), &compare["mod_revision"]),
                "CREATE" => (entry.map_or(0, |entry| entry.created), &compare["create_revision"]),
                other => panic!("no target {other}"),
            };
            actual == number(wanted)
        };
        let succeeded = list("compare").iter().all(holds);
        let puts = |step: &&Value| step.get("request_put").is_some();
        for put in list("success").iter().filter(puts).filter(|_| succeeded) {
            let put = &put["request_put"];
            let lease = put.get("lease").map_or(0, number);
            if lease != 0 && !self.leases.contains_key(&lease) {
                let error = "etcdserver: requested lease not found";
                return (404, json!({ "error": error, "message": error, "code": 5 }).to_string());
            }
            self.put(
                &text(&put["key"]),
                &BASE64_STANDARD.decode(put["value"].as_str().unwrap()).unwrap(),
                lease,
            );
        }
        let deletes = |step: &&Value| step.get("request_delete_range").is_some();
        for delete in list("success").iter().filter(deletes).filter(|_| succeeded) {
            self.delete(&text(&delete["request_delete_range"]["key"]));
        }
        let mut answer = json!({ "header": self.header() });
        if succeeded {
            answer["succeeded"] = true.into();
        } else {
            let reads = list("failure")
                .iter()
                .map(|step| json!({ "response_range": self.range(&step["request_range"]) }));
            answer["responses"] = reads.collect::<Vec<_>>().into();
        }
        (200, answer.to_string())
    }

    /// Puts a key, whatever was there.
    pub(super) fn put(&mut self, key: &str, value: &[u8], lease: u64) {
        self.revision += 1;
        let created = self.entries.get(key).map_or(self.revision, |entry| entry.created);
        let entry = Entry { created, changed: self.revision, value: value.to_vec(), lease };
        self.entries.insert(key.to_owned(), entry.clone());
        self.log.push(Logged { revision: self.revision, key: key.to_owned(), entry: Some(entry) });
        if key.ends_with("/ring") {
            self.rings.push(value.to_vec());
        }
    }

    pub(super) fn delete(&mut self, key: &str) {
        if self.entries.remove(key).is_some() {
            self.revision += 1;
            self.log.push(Logged { revision: self.revision, key: key.to_owned(), entry: None });
        }
    }

    /// Lets leases run out.
    pub(super) fn expire(&mut self, now: Micros) {
        let ended: Vec<u64> =
            self.leases.iter().filter(|(_, (_, until))| *until <= now).map(|(&id, _)| id).collect();
        for id in ended {
            self.leases.remove(&id);
            let keys: Vec<String> = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.lease == id)
                .map(|(key, _)| key.clone())
                .collect();
            self.revision += u64::from(!keys.is_empty());
            for key in keys {
                self.entries.remove(&key);
                self.log.push(Logged { revision: self.revision, key, entry: None });
            }
        }
    }

    /// A new leader of etcd gives every lease its whole time again.
    pub(super) fn renew_all(&mut self, now: Micros) {
        for (span, until) in self.leases.values_mut() {
            *until = now + *span;
        }
    }

    /// Goes on from a copy, or from nothing.
    pub(super) fn go_back(&mut self, now: Micros, copy: Self) {
        let rings = std::mem::take(&mut self.rings);
        *self = Self { granted: self.granted, rings_before: rings.len(), rings, ..copy };
        self.renew_all(now);
    }

    /// Forgets changes up to now.
    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.log.retain(|logged| logged.revision > self.compacted);
    }

    /// What a watch says that asked from `from`: lines, and the revision from which the next ones come; `None`: canceled.
    pub(super) fn watch(&self, body: Option<&str>, from: u64) -> (Vec<String>, Option<u64>) {
        let mut lines = Vec::new();
        if body.is_some() {
            lines.push(json!({ "result": { "header": self.header(), "created": true } }).to_string() + "\n");
            if from <= self.compacted {
                let over =
                    json!({ "header": {}, "canceled": true, "compact_revision": self.compacted.to_string() });
                lines.push(json!({ "result": over }).to_string() + "\n");
                return (lines, None);
            }
        }
        let news: Vec<&Logged> = self.log.iter().filter(|logged| logged.revision >= from).collect();
        for same in news.chunk_by(|one, other| one.revision == other.revision) {
            let events: Vec<Value> = same.iter().map(|logged| event(logged)).collect();
            let header = json!({ "revision": same[0].revision.to_string() });
            lines.push(json!({ "result": { "header": header, "events": events } }).to_string() + "\n");
        }
        (lines, Some(self.revision + 1))
    }
}

fn event(logged: &Logged) -> Value {
    match &logged.entry {
        Some(entry) => json!({ "kv": described(&logged.key, entry) }),
        None => {
            let kv = json!({ "key": BASE64_STANDARD.encode(&logged.key), "mod_revision": logged.revision.to_string() });
            json!({ "type": "DELETE", "kv": kv })
        }
    }
}

fn described(key: &str, entry: &Entry) -> Value {
    json!({
        "key": BASE64_STANDARD.encode(key),
        "value": BASE64_STANDARD.encode(&entry.value),
        "create_revision": entry.created.to_string(),
        "mod_revision": entry.changed.to_string(),
    })
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

fn text(value: &Value) -> String {
    String::from_utf8(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap()
}
