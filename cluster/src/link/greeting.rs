//! How two nodes recognise each other: what they say of themselves, and how each proves that it knows the cluster's
//! secret without saying it. Never decides what follows from it.
//!
//! The proof is HMAC-SHA256 over both introductions, each with a fresh nonce, under a label for the side that proves.
//! The dialler proves first, so a stranger who dials gets nothing to guess a weak secret from. It says who is at the
//! other end when the link begins. It does not protect what follows on the wire: that is TLS.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Credit;
use crate::names::{ClusterId, Incarnation, Name, NodeId};
use crate::ring::document::SHARD_COUNT_MAX;
use crate::wire::Versions;

/// Bytes of a nonce. Fresh random bytes for each connection: the server makes them.
pub const NONCE_BYTES: usize = 32;

/// Random bytes that make a proof good for one connection.
pub type Nonce = [u8; NONCE_BYTES];

/// Bytes of a proof.
pub(super) const PROOF_BYTES: usize = 32;

/// Bytes of a secret: fewer can be guessed, more are a mistake.
const SECRET_BYTES_MIN: usize = 16;
const SECRET_BYTES_MAX: usize = 1024;

/// What nodes of one cluster share and nobody else knows.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// A secret of the wrong length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, not {0}")]
pub struct SecretLength(usize);

impl Secret {
    /// A secret of these bytes: 16 to 1024 of them.
    ///
    /// # Errors
    /// [`SecretLength`]: fewer, or more.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretLength> {
        if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SecretLength(bytes.len()))
        }
    }

    /// The secret of those who have none: proves nothing, for networks where only nodes can dial.
    pub fn none() -> Self {
        Self(Vec::new())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a side says of itself: the body of `Hello` and `Challenge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Protocol versions it speaks; in a challenge the one that is taken, twice.
    pub versions: Versions,
    /// The shard at this end of the link.
    pub shard: u8,
    /// Shards of the node.
    pub shards: u16,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its name.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Fresh random bytes.
    pub nonce: Nonce,
}

impl Introduction {
    /// The body of a frame; `docs/wire.md` has the table.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.versions.lowest, self.versions.highest, self.shard];
        body.extend_from_slice(&self.shards.to_le_bytes());
        body.extend_from_slice(&self.incarnation.0.to_le_bytes());
        body.extend_from_slice(&self.nonce);
        for name in [&self.cluster.0, &self.node.0] {
            body.push(u8::try_from(name.as_str().len()).expect("NAME_BYTES_MAX fits"));
            body.extend_from_slice(name.as_str().as_bytes());
        }
        body
    }

    /// Reads what [`Self::encode`] wrote, and nothing else.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (&[lowest, highest, shard], body) = body.split_first_chunk()?;
        let (&shards, body) = body.split_first_chunk()?;
        let (&incarnation, body) = body.split_first_chunk()?;
        let (&nonce, body) = body.split_first_chunk()?;
        let (cluster, body) = split_name(body)?;
        let (node, rest) = split_name(body)?;
        let introduction = Self {
            versions: Versions { lowest, highest },
            shard,
            shards: u16::from_le_bytes(shards),
            cluster: ClusterId(cluster),
            node: NodeId(node),
            incarnation: Incarnation(u64::from_le_bytes(incarnation)),
            nonce,
        };
        let makes_sense =
            lowest <= highest && (1..=SHARD_COUNT_MAX).contains(&introduction.shards) && rest.is_empty();
        makes_sense.then_some(introduction)
    }
}

fn split_name(body: &[u8]) -> Option<(Name, &[u8])> {
    let (&length, body) = body.split_first()?;
    let (name, rest) = body.split_at_checked(usize::from(length))?;
    Some((std::str::from_utf8(name).ok()?.parse().ok()?, rest))
}

/// Which side proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialler,
    Acceptor,
}

impl Side {
    /// Separates the proofs, so that one side's is never good for the other.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Dialler => b"slabring link 1: dialler",
            Self::Acceptor => b"slabring link 1: acceptor",
        }
    }
}

/// Everything both sides said before the proofs.
#[derive(Clone, Debug)]
pub(super) struct Transcript {
    pub(super) hello: Vec<u8>,
    pub(super) challenge: Vec<u8>,
}

impl Transcript {
    /// The proof of one side, which also covers the credit it grants.
    pub(super) fn prove(&self, secret: &Secret, side: Side, granted: Credit) -> [u8; PROOF_BYTES] {
        self.mac(secret, side, granted).finalize().into_bytes().into()
    }

    /// Whether `proof` is the other side's. Takes the same time whatever is wrong.
    pub(super) fn verify(&self, secret: &Secret, side: Side, granted: Credit, proof: &[u8]) -> bool {
        self.mac(secret, side, granted).verify_slice(proof).is_ok()
    }

    fn mac(&self, secret: &Secret, side: Side, granted: Credit) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
        for part in [side.label(), &self.hello, &self.challenge, &granted.encode()] {
            // Lengths first, so that no byte can move from one part to the next.
            mac.update(&u32::try_from(part.len()).expect("greetings are small").to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn introduction() -> Introduction {
        Introduction {
            versions: Versions { lowest: 1, highest: 2 },
            shard: 3,
            shards: 8,
            cluster: ClusterId("cache".parse().unwrap()),
            node: NodeId("n".parse().unwrap()),
            incarnation: Incarnation(u64::MAX - 1),
            nonce: [7; NONCE_BYTES],
        }
    }

    #[test]
    fn an_introduction_comes_back_and_nothing_shorter_or_longer_does() {
        let body = introduction().encode();
        assert_eq!(Introduction::decode(&body), Some(introduction()));
        for cut in 0..body.len() {
            assert_eq!(Introduction::decode(&body[..cut]), None);
        }
        assert_eq!(Introduction::decode(&[&body[..], b"x"].concat()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            if let Some(introduction) = Introduction::decode(&body) {
                prop_assert_eq!(introduction.encode(), body);
            }
        }
    }

    #[test]
    fn a_proof_is_good_for_one_side_one_secret_and_one_conversation() {
        let secret = Secret::new(vec![1; 16]).unwrap();
        let granted = Credit { operations: 1, bytes: 2 };
        let said = Transcript { hello: vec![1, 2], challenge: vec![3] };
        let proof = said.prove(&secret, Side::Dialler, granted);
        assert!(said.verify(&secret, Side::Dialler, granted, &proof));
        assert!(!said.verify(&secret, Side::Acceptor, granted, &proof));
        assert!(!said.verify(&Secret::none(), Side::Dialler, granted, &proof));
        assert!(!said.verify(&secret, Side::Dialler, Credit { operations: 2, bytes: 2 }, &proof));
        assert!(!said.verify(&secret, Side::Dialler, granted, &proof[..31]));
        let moved = Transcript { hello: vec![1], challenge: vec![2, 3] };
        assert!(!moved.verify(&secret, Side::Dialler, granted, &proof));
    }

    #[test]
    fn secrets_that_can_be_guessed_are_refused_and_none_is_shown() {
        assert_eq!(Secret::new(vec![0; 15]).unwrap_err(), SecretLength(15));
        assert_eq!(Secret::new(vec![0; 1025]).unwrap_err(), SecretLength(1025));
        assert_eq!(format!("{:?}", Secret::new(vec![b'k'; 16]).unwrap()), "Secret(..)");
    }
}
