//! The steps of the greeting: what each side answers, and whom it refuses.

use super::greeting::{Introduction, Nonce, PROOF_BYTES, Side, Transcript};
use super::{CloseReason, Credit, Event, HEARTBEAT_EVERY, Identity, Link, State};
use crate::ring::Epoch;
use crate::time::Micros;
use crate::wire::{Header, Kind, Versions};

impl Link {
    /// One step of the greeting.
    pub(super) fn greet(&mut self, now: Micros, header: Header) -> Result<Option<Event>, CloseReason> {
        let body = self.body().to_vec();
        match (std::mem::replace(&mut self.state, State::Over), header.kind) {
            (State::Listening { deadline, nonce }, Kind::Hello) => {
                let peer = self.recognise(&body)?;
                let version = self.identity.versions.common(peer.versions);
                let version = version.ok_or(CloseReason::Versions(peer.versions))?;
                let taken = Versions { lowest: version, highest: version };
                let challenge = self.introduction(taken, nonce).encode();
                self.output.append(Header::new(Kind::Challenge, self.epoch), &challenge);
                self.peer = Some(peer);
                self.state =
                    State::Challenged { deadline, version, said: Transcript { hello: body, challenge } };
                Ok(None)
            }
            (State::Greeting { deadline, hello }, Kind::Challenge) => {
                let peer = self.recognise(&body)?;
                self.check_expected(&peer)?;
                let said = Transcript { hello, challenge: body };
                let proof = said.prove(&self.identity.secret, Side::Dialler, Credit::NONE);
                self.output.append(Header::new(Kind::Proof, self.epoch), &proof);
                let version = peer.versions.highest;
                self.peer = Some(peer);
                self.state = State::Proving { deadline, version, said };
                Ok(None)
            }
            (State::Challenged { said, version, .. }, Kind::Proof) => {
                if !said.verify(&self.identity.secret, Side::Dialler, Credit::NONE, &body) {
                    return Err(CloseReason::Secret);
                }
                let granted = self.identity.granted;
                let proof = said.prove(&self.identity.secret, Side::Acceptor, granted);
                self.output.append(
                    Header::new(Kind::Welcome, self.epoch),
                    &[&proof[..], &granted.encode()].concat(),
                );
                Ok(Some(self.rise(now, version, granted, header.epoch)))
            }
            (State::Proving { said, version, .. }, Kind::Welcome) => {
                let (proof, credit) = body.split_first_chunk::<PROOF_BYTES>().ok_or(CloseReason::Greeting)?;
                let granted = Credit::decode(credit.try_into().map_err(|_| CloseReason::Greeting)?);
                if !said.verify(&self.identity.secret, Side::Acceptor, granted, proof) {
                    return Err(CloseReason::Secret);
                }
                Ok(Some(self.rise(now, version, granted, header.epoch)))
            }
            (state, kind) => {
                self.state = state;
                Err(CloseReason::Unexpected(kind))
            }
        }
    }

    /// Whether this is a node of the same cluster, and another one.
    fn recognise(&self, body: &[u8]) -> Result<Introduction, CloseReason> {
        let peer = Introduction::decode(body).ok_or(CloseReason::Greeting)?;
        if peer.cluster != self.identity.cluster {
            return Err(CloseReason::OtherCluster { node: peer.node, cluster: peer.cluster });
        }
        if peer.node == self.identity.node {
            return Err(CloseReason::Itself);
        }
        Ok(peer)
    }

    fn check_expected(&self, peer: &Introduction) -> Result<(), CloseReason> {
        let expected = self.expected.as_ref().expect("a dialler expects somebody");
        if peer.node != expected.node {
            return Err(CloseReason::OtherNode(peer.node.clone()));
        }
        if !expected.incarnation.admits(peer.incarnation) {
            return Err(CloseReason::OtherLife(peer.node.clone()));
        }
        let taken = peer.versions;
        let is_one = taken.lowest == taken.highest && self.identity.versions.common(taken).is_some();
        if is_one { Ok(()) } else { Err(CloseReason::Versions(taken)) }
    }

    fn rise(&mut self, now: Micros, version: u8, granted: Credit, peer_epoch: Epoch) -> Event {
        self.state = State::Up;
        self.version = version;
        self.granted = granted;
        self.failures = 0;
        self.heard_at = now;
        self.heartbeat_at = now + HEARTBEAT_EVERY;
        self.peer_epoch = peer_epoch;
        Event::Up
    }

    pub(super) fn introduction(&self, versions: Versions, nonce: Nonce) -> Introduction {
        let Identity { cluster, node, incarnation, shard, shards, .. } = &*self.identity;
        Introduction {
            versions,
            shard: *shard,
            shards: *shards,
            cluster: cluster.clone(),
            node: node.clone(),
            incarnation: *incarnation,
            nonce,
        }
    }
}
