//! One shard's post office: a letter box to and from each other shard.
//!
//! Per peer there is one open batch that the turn's requests are written into. At most [`LETTERS_MAX`] of them are
//! under way; the open batch then waits, and when it is full too, the connections that write to it wait. Replies always
//! find room, because a mailbox holds all letters that both sides may have under way: no two shards can block each other.

use std::sync::Arc;

use slabring_protocol::Request;
use slabring_reactor::mailbox::{Receiver, Sender, mailbox};
use slabring_reactor::{Io, Waker};

use crate::batch::{Batch, ReturnAddress};
use crate::report::Question;
use crate::shards::ShardId;

/// Request letters of one shard to one other that may be unanswered.
const LETTERS_MAX: usize = 8;
/// Requests of one side and replies to the other.
const MAILBOX_LETTERS: usize = 2 * LETTERS_MAX;

/// What travels.
pub enum Letter {
    /// Please execute.
    Requests(Box<Batch>),
    /// Done, here are the replies.
    Replies(Box<Batch>),
}

/// The ends of the mailboxes of one shard, in the order of the other shards' numbers.
pub struct LetterBoxes {
    ends: Vec<(ShardId, Sender<Letter>, Receiver<Letter>)>,
}

/// Makes the mailboxes of a node: one each way between any two shards.
pub fn connect_all(shards: u16) -> Vec<LetterBoxes> {
    let mut boxes: Vec<_> = (0..shards).map(|_| LetterBoxes { ends: Vec::new() }).collect();
    for a in 0..shards {
        for b in a + 1..shards {
            let (a_to_b, b_from_a) = mailbox(MAILBOX_LETTERS);
            let (b_to_a, a_from_b) = mailbox(MAILBOX_LETTERS);
            boxes[usize::from(a)].ends.push((ShardId(b), a_to_b, a_from_b));
            boxes[usize::from(b)].ends.push((ShardId(a), b_to_a, b_from_a));
        }
    }
    for letter_boxes in &mut boxes {
        letter_boxes.ends.sort_by_key(|(peer, _, _)| *peer);
    }
    boxes
}

struct Peer {
    outgoing: Sender<Letter>,
    incoming: Receiver<Letter>,
    waker: Arc<Waker>,
    open: Box<Batch>,
    under_way: usize,
    #[expect(clippy::vec_box, reason = "the boxes themselves travel and come back")]
    spare: Vec<Box<Batch>>,
}

/// See the module.
pub struct Post {
    me: ShardId,
    peers: Vec<Peer>,
    /// Peers whose open batch is full while no more letters may be under way.
    blocked: usize,
}

impl Post {
    /// `wakers` are those of all shards, in the order of their numbers.
    pub fn new(me: ShardId, boxes: LetterBoxes, wakers: &[Arc<Waker>]) -> Self {
        let peers = boxes.ends.into_iter().map(|(peer, outgoing, incoming)| Peer {
            outgoing,
            incoming,
            waker: Arc::clone(&wakers[peer.index()]),
            open: Box::default(),
            under_way: 0,
            spare: Vec::new(),
        });
        Self { me, peers: peers.collect(), blocked: 0 }
    }

    fn place_of(&self, shard: ShardId) -> usize {
        assert!(shard != self.me, "nobody writes to oneself");
        shard.index() - usize::from(shard > self.me)
    }

    /// Whether any request can be posted now. If not, another shard's replies will make room. O(1).
    pub fn has_room(&self) -> bool {
        self.blocked == 0
    }

    /// Writes a request into this turn's letter to `owner`. There must be room.
    pub fn request(&mut self, owner: ShardId, sender: ReturnAddress, request: &Request<'_>) {
        let place = self.place_of(owner);
        let peer = &mut self.peers[place];
        assert!(!peer.is_blocked(), "the caller asks for room first");
        peer.open.push(sender, request);
        if peer.open.is_full() && peer.under_way < LETTERS_MAX {
            peer.send_open();
        }
        self.blocked += usize::from(peer.is_blocked());
    }

    /// Asks every other shard, behind the requests that were posted before.
    pub fn ask_all(&mut self, sender: ReturnAddress, question: Question) {
        for peer in &mut self.peers {
            peer.open.ask(sender, question);
        }
    }

    /// The next letter of any other shard.
    pub fn take(&mut self) -> Option<(usize, Letter)> {
        self.peers.iter_mut().enumerate().find_map(|(place, peer)| Some((place, peer.incoming.take()?)))
    }

    /// Sends an executed batch back to where it came from.
    pub fn answer(&mut self, place: usize, batch: Box<Batch>) {
        self.peers[place].stage(Letter::Replies(batch));
    }

    /// Takes back a batch whose replies have been handed out.
    pub fn recycle(&mut self, place: usize, mut batch: Box<Batch>) {
        let peer = &mut self.peers[place];
        self.blocked -= usize::from(peer.is_blocked());
        peer.under_way -= 1;
        batch.clear();
        peer.spare.push(batch);
    }

    /// The end of a turn: everything written becomes visible, and whoever sleeps over it is woken.
    pub fn publish(&mut self, io: &mut impl Io) {
        for peer in &mut self.peers {
            if !peer.open.is_empty() && peer.under_way < LETTERS_MAX {
                peer.send_open();
            }
            if peer.outgoing.publish() && peer.waker.must_wake() {
                io.wake(&peer.waker);
            }
        }
    }

    /// Whether no letter waits to be read.
    pub fn is_empty(&self) -> bool {
        self.peers.iter().all(|peer| peer.incoming.is_empty())
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        let of_peer = |peer: &Peer| {
            peer.open.capacity_bytes() + peer.spare.iter().map(|batch| batch.capacity_bytes()).sum::<usize>()
        };
        self.peers.iter().map(of_peer).sum()
    }
}

impl Peer {
    fn is_blocked(&self) -> bool {
        self.open.is_full() && self.under_way >= LETTERS_MAX
    }

    fn send_open(&mut self) {
        assert!(self.under_way < LETTERS_MAX);
        self.under_way += 1;
        let next = self.spare.pop().unwrap_or_default();
        let full = std::mem::replace(&mut self.open, next);
        self.stage(Letter::Requests(full));
    }

    fn stage(&mut self, letter: Letter) {
        if self.outgoing.stage(letter).is_err() {
            unreachable!("a mailbox holds all letters that may be under way");
        }
    }
}
