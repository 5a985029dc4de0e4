//! One shard's post office: a letter box to and from each other shard.
//!
//! Per peer there is one open batch that the turn's requests are written into. At most [`LETTERS_MAX`] of them are
//! under way; the open batch then waits, and when it is full too, the connections that write to it wait. Replies always
//! find room, because a mailbox holds all letters that both sides may have under way: no two shards can block each other.
//!
//! An owner does not make more replies than a letter should hold: the rest *bounces*, and so does every later letter of
//! that sender, since nothing may overtake. When all of them have come back, the sender posts the bounced requests again, those of
//! connections that read their replies first and those of other nodes, and says that it *resumes*. So a connection that asks for large
//! values and does not read them costs its own memory and nobody else's time.

use std::sync::Arc;

use slabring_protocol::{Plain, Request};
use slabring_reactor::mailbox::{Receiver, Sender, mailbox};
use slabring_reactor::{Io, Waker};

use crate::batch::{Batch, LETTER_BYTES_MAX, ReturnAddress, Senders, Visit};
use crate::intake::Coming;
use crate::report::Question;
use crate::shards::ShardId;

/// Request letters of one shard to one other that may be unanswered.
const LETTERS_MAX: usize = 8;
/// As many at the least, however little memory there is: one is read while the next is on its way.
const LETTERS_MIN: usize = 2;
/// Requests of one side and replies to the other.
const MAILBOX_LETTERS: usize = 2 * LETTERS_MAX;

/// Part of a shard's memory that its letters to all others may have, as far as [`LETTERS_MIN`] of [`LETTER_BYTES_MIN`] allow.
const LETTERS_SHARE: usize = 4;
/// What a letter is for at the least. A line of keys and most values fit.
const LETTER_BYTES_MIN: usize = 16 << 10;

const _: () = assert!(LETTER_BYTES_MIN <= LETTER_BYTES_MAX && LETTER_BYTES_MIN.is_power_of_two());
const _: () = assert!(LETTERS_MIN <= LETTERS_MAX);

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

/// Memory with which a shard of so many has room for the least of letters to all others.
pub fn shard_bytes_for_letters(shards: u16) -> usize {
    usize::from(shards - 1) * LETTERS_MIN * 2 * LETTER_BYTES_MIN * LETTERS_SHARE
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

/// How many letters a shard has under way to each other one, and how large they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    /// See [`LETTERS_MAX`].
    letters: usize,
    /// What each is for, in requests and again in replies: a power of two, so that buffers have one of few sizes.
    bytes: usize,
}

/// Letters that lie empty, for whichever shard is written to next.
struct Spares {
    letter_bytes: usize,
    #[expect(clippy::vec_box, reason = "the boxes themselves travel and come back")]
    letters: Vec<Box<Batch>>,
    /// Fewest of them since they were last looked through.
    letters_min: usize,
}

struct Peer {
    /// See [`Extent`].
    letters_max: usize,
    outgoing: Sender<Letter>,
    incoming: Receiver<Letter>,
    waker: Arc<Waker>,
    /// This turn's requests, if there are any.
    open: Option<Box<Batch>>,
    /// A letter has bounced: no more is sent until all that are under way have come back.
    resyncing: bool,
    /// What has bounced since then.
    bounced: Batch,
    /// Everything that bounced before and was not sent again. Its connections post nothing new until it is empty of them.
    returned: Batch,
    /// The next letter tells the peer to execute again.
    must_resume: bool,
    /// The peer's letters bounce until it resumes.
    bouncing: bool,
    /// Request letters that are not answered.
    under_way: usize,
    /// Request letters that were ever answered.
    answered: u64,
    /// Their memory when they left.
    under_way_bytes: usize,
}

/// See the module.
pub struct Post {
    me: ShardId,
    peers: Vec<Peer>,
    spares: Spares,
    /// Peers that can take no more requests now.
    blocked: usize,
}

impl Post {
    /// `wakers` are those of all shards, in the order of their numbers; `memory_bytes` what this one has.
    pub fn new(me: ShardId, boxes: LetterBoxes, wakers: &[Arc<Waker>], memory_bytes: usize) -> Self {
        let extent = Extent::of(memory_bytes, boxes.ends.len());
        let peers = boxes.ends.into_iter().map(|(peer, outgoing, incoming)| Peer {
            letters_max: extent.letters,
            outgoing,
            incoming,
            waker: Arc::clone(&wakers[peer.index()]),
            open: None,
            resyncing: false,
            bounced: Batch::default(),
            returned: Batch::default(),
            must_resume: false,
            bouncing: false,
            under_way: 0,
            answered: 0,
            under_way_bytes: 0,
        });
        let spares = Spares { letter_bytes: extent.bytes, letters: Vec::new(), letters_min: 0 };
        Self { me, peers: peers.collect(), spares, blocked: 0 }
    }

    /// What a letter is for, in bytes of requests and again of replies: nothing larger should be put in that can be cut.
    pub fn letter_bytes(&self) -> usize {
        self.spares.letter_bytes
    }

    fn index_of(&self, shard: ShardId) -> usize {
        assert!(shard != self.me, "nobody writes to oneself");
        shard.index() - usize::from(shard > self.me)
    }

    fn shard_at(&self, index: usize) -> ShardId {
        let index = u16::try_from(index).expect("there are fewer shards");
        ShardId(index + u16::from(index >= self.me.0))
    }

    /// Changes a peer, keeping count of those that are blocked.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Peer, &mut Spares)) {
        let peer = &mut self.peers[index];
        let before = peer.is_blocked();
        change(peer, &mut self.spares);
        self.blocked = self.blocked + usize::from(peer.is_blocked()) - usize::from(before);
    }

    /// Whether any request can be posted now. If not, another shard's replies will make room. O(1).
    pub fn has_room(&self) -> bool {
        self.blocked == 0
    }

    /// Writes a request into this turn's letter to `owner`. There must be room.
    pub fn request(&mut self, owner: ShardId, sender: ReturnAddress, request: &Request<'_>) {
        self.write(owner, |open| open.push(sender, request));
    }

    /// As [`Post::request`]. The reply to a get has the end of its line with it.
    pub fn plain(&mut self, owner: ShardId, sender: ReturnAddress, plain: &Plain<'_>) {
        self.write(owner, |open| open.push_plain(sender, plain));
    }

    /// Tells `owner` that a value comes in parts. There must be room, for each part too.
    pub fn begin_value(&mut self, owner: ShardId, sender: ReturnAddress, coming: &Coming) {
        self.write(owner, |open| open.begin_value(sender, coming));
    }

    /// The next part of it.
    pub fn value_part(&mut self, owner: ShardId, sender: ReturnAddress, bytes: &[u8]) {
        self.write(owner, |open| open.value_part(sender, bytes));
    }

    /// Its end, which is answered.
    pub fn end_value(&mut self, owner: ShardId, sender: ReturnAddress) {
        self.write(owner, |open| open.end_value(sender));
    }

    /// Sends a reply that was promised to a connection of another shard.
    pub fn deliver(&mut self, shard: ShardId, to: ReturnAddress, reply: &[u8]) {
        self.change(self.index_of(shard), |peer, spares| peer.open(spares).deliver(to, reply));
    }

    /// Posts requests again that were deferred. There must be room; together they may be more than a letter should hold. Then they are a
    /// letter by themselves, if it can go at once: a long value may be deferred many times, and is not copied each time.
    pub fn again(&mut self, owner: ShardId, deferred: Box<Batch>) {
        let index = self.index_of(owner);
        let peer = &self.peers[index];
        if !deferred.is_full() || !peer.may_send_besides_open() {
            return self.write(owner, |open| open.absorb(&deferred, |_known| {}));
        }
        self.change(index, |peer, _spares| {
            assert!(!peer.is_blocked(), "the caller asks for room first");
            if !peer.has_nothing_open() {
                peer.send_open();
            }
            peer.send(deferred);
        });
    }

    /// Takes note that a letter has come back which is kept to be posted [again](Post::again).
    pub fn kept(&mut self, owner: ShardId, letter: &Batch) {
        self.change(self.index_of(owner), |peer, _spares| peer.came_back(letter));
    }

    /// The number of the letter to `owner` with which all is answered that was written by now.
    pub fn letter_of_now(&self, owner: ShardId) -> u64 {
        let peer = &self.peers[self.index_of(owner)];
        peer.answered + peer.under_way as u64 + u64::from(!peer.has_nothing_open())
    }

    /// Whether a letter to `owner` is answered.
    pub fn is_answered(&self, owner: ShardId, letter: u64) -> bool {
        self.peers[self.index_of(owner)].answered >= letter
    }

    fn write(&mut self, owner: ShardId, write: impl FnOnce(&mut Batch)) {
        self.change(self.index_of(owner), |peer, spares| {
            assert!(!peer.is_blocked(), "the caller asks for room first");
            let open = peer.open(spares);
            write(open);
            if open.is_full() && peer.may_send() {
                peer.send_open();
            }
        });
    }

    /// Asks every other shard, behind the requests that were posted before.
    pub fn ask_all(&mut self, sender: ReturnAddress, question: Question) {
        for index in 0..self.peers.len() {
            self.change(index, |peer, spares| peer.open(spares).ask(sender, question));
        }
    }

    /// Asks one other shard, as [`Post::ask_all`] asks every.
    pub fn ask(&mut self, shard: ShardId, sender: ReturnAddress, question: Question) {
        self.change(self.index_of(shard), |peer, spares| peer.open(spares).ask(sender, question));
    }

    /// The next letter of any other shard, and which that is.
    pub fn take(&mut self) -> Option<(ShardId, Letter)> {
        let mut peers = self.peers.iter_mut().enumerate();
        let (index, letter) = peers.find_map(|(index, peer)| Some((index, peer.incoming.take()?)))?;
        Some((self.shard_at(index), letter))
    }

    /// Executes another shard's requests and sends them back.
    pub fn execute(&mut self, mut batch: Box<Batch>, visit: Visit<'_>) {
        let index = self.index_of(visit.sender);
        let peer = &mut self.peers[index];
        batch.execute(visit, &mut peer.bouncing);
        peer.stage(Letter::Replies(batch));
    }

    /// Takes back a batch whose replies have been handed out, and keeps what of it has bounced.
    pub fn recycle(&mut self, owner: ShardId, batch: Box<Batch>, senders: &mut impl Senders) {
        self.change(self.index_of(owner), |peer, spares| {
            peer.came_back(&batch);
            if batch.has_bounced() {
                peer.bounced.absorb(&batch, |id| senders.bounced(id));
                peer.resyncing = true;
            }
            spares.put(batch);
        });
    }

    /// The end of a turn: everything written becomes visible, and whoever sleeps over it is woken. `senders` say which
    /// bounced requests go again.
    pub fn publish(&mut self, io: &mut impl Io, senders: &mut impl Senders) {
        for index in 0..self.peers.len() {
            self.change(index, |peer, spares| peer.send_what_may_go(senders, spares));
            let peer = &mut self.peers[index];
            if peer.outgoing.publish() && peer.waker.must_wake() {
                io.wake(&peer.waker);
            }
        }
    }

    /// Whether no letter waits to be read.
    pub fn is_empty(&self) -> bool {
        self.peers.iter().all(|peer| peer.incoming.is_empty())
    }

    /// Whether nothing is written, under way or to be sent again.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn is_at_rest(&self) -> bool {
        let rests =
            |peer: &Peer| peer.bounced.is_empty() && peer.returned.is_empty() && peer.has_nothing_open();
        self.peers.iter().all(|peer| peer.under_way == 0 && rests(peer))
    }

    /// Drops the letters that nobody needed since the last call.
    pub fn shed(&mut self) {
        let Spares { letters, letters_min, .. } = &mut self.spares;
        letters.drain(..*letters_min);
        *letters_min = letters.len();
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        let spare: usize = self.spares.letters.iter().map(|batch| batch.capacity_bytes()).sum();
        let of_peer = |peer: &Peer| {
            let held = peer.bounced.capacity_bytes() + peer.returned.capacity_bytes();
            held + peer.open.as_ref().map_or(0, |open| open.capacity_bytes()) + peer.under_way_bytes
        };
        spare + self.peers.iter().map(of_peer).sum::<usize>()
    }
}

impl Extent {
    /// That of a shard with so much memory and so many others: all of its letters, with their replies, have a part of it.
    fn of(memory_bytes: usize, peers: usize) -> Self {
        let bytes_each = memory_bytes / LETTERS_SHARE / peers.max(1) / 2;
        let letters = (bytes_each / LETTER_BYTES_MIN).clamp(LETTERS_MIN, LETTERS_MAX);
        let bytes = (bytes_each / letters).clamp(LETTER_BYTES_MIN, LETTER_BYTES_MAX);
        Self { letters, bytes: 1 << bytes.ilog2() }
    }
}

impl Spares {
    fn take(&mut self) -> Box<Batch> {
        let letter = self.letters.pop().unwrap_or_else(|| Box::new(Batch::of(self.letter_bytes)));
        self.letters_min = self.letters_min.min(self.letters.len());
        letter
    }

    fn put(&mut self, mut letter: Box<Batch>) {
        letter.clear();
        self.letters.push(letter);
    }
}

impl Peer {
    fn may_send(&self) -> bool {
        self.under_way < self.letters_max && !self.resyncing
    }

    /// Whether a letter can go at once, and behind what is open if there is anything.
    fn may_send_besides_open(&self) -> bool {
        self.under_way + usize::from(!self.has_nothing_open()) < self.letters_max && !self.resyncing
    }

    fn came_back(&mut self, letter: &Batch) {
        self.under_way -= 1;
        self.answered += 1;
        self.under_way_bytes -= letter.posted_bytes;
    }

    fn is_blocked(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_full()) && !self.may_send()
    }

    fn has_nothing_open(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.is_empty())
    }

    fn open(&mut self, spares: &mut Spares) -> &mut Batch {
        self.open.get_or_insert_with(|| spares.take())
    }

    fn send_what_may_go(&mut self, senders: &mut impl Senders, spares: &mut Spares) {
        if self.resyncing && self.under_way == 0 {
            // Everything that bounced is here, in order. Behind it goes what was never sent again, then what was written
            // since, lest it overtakes.
            self.bounced.absorb(&self.returned, |_known| {});
            if let Some(open) = self.open.take() {
                self.bounced.absorb(&open, |id| senders.bounced(id));
                spares.put(open);
            }
            self.returned = std::mem::take(&mut self.bounced);
            self.resyncing = false;
            self.must_resume = true;
        }
        if self.may_send() && !self.returned.is_empty() {
            let mut letter = spares.take();
            self.returned.resend(&mut letter, senders);
            if letter.is_empty() { spares.put(letter) } else { self.send(letter) }
        }
        if self.may_send() && !self.has_nothing_open() {
            self.send_open();
        }
    }

    fn send_open(&mut self) {
        let full = self.open.take().expect("the caller has looked");
        self.send(full);
    }

    fn send(&mut self, mut letter: Box<Batch>) {
        assert!(self.may_send());
        self.under_way += 1;
        letter.resumes = std::mem::take(&mut self.must_resume);
        letter.posted_bytes = letter.capacity_bytes();
        self.under_way_bytes += letter.posted_bytes;
        self.stage(Letter::Requests(letter));
    }

    fn stage(&mut self, letter: Letter) {
        if self.outgoing.stage(letter).is_err() {
            unreachable!("a mailbox holds all letters that may be under way");
        }
    }
}

#[cfg(test)]
mod tests {
    use slabring_protocol::Command;

    use super::*;

    #[test]
    fn letters_have_a_part_of_the_memory_however_many_shards_there_are() {
        for shards in 2..=64 {
            for memory_bytes in [1 << 20, 4 << 20, 8 << 20, 32 << 20, 8 << 30] {
                let extent = Extent::of(memory_bytes, shards - 1);
                let all = extent.bytes * 2 * extent.letters * (shards - 1);
                let least = Extent { letters: LETTERS_MIN, bytes: LETTER_BYTES_MIN };
                assert!(all <= memory_bytes / LETTERS_SHARE || extent == least, "{shards} {extent:?}");
            }
        }
        assert_eq!(Extent::of(32 << 20, 1), Extent { letters: LETTERS_MAX, bytes: LETTER_BYTES_MAX });
    }

    #[test]
    fn a_long_request_that_was_deferred_is_posted_again_as_it_is_behind_what_is_open() {
        let wakers = [(); 2].map(|()| Arc::new(Waker::new().unwrap()));
        let boxes = connect_all(2).into_iter().zip([0, 1].map(ShardId));
        let posts = boxes.map(|(boxes, me)| Post::new(me, boxes, &wakers, 1 << 20));
        let [mut sender, mut owner] = <[Post; 2]>::try_from(posts.collect::<Vec<_>>()).ok().unwrap();
        let value = vec![b'x'; sender.letter_bytes()];
        let long = Request { value: &value, ..Request::get(b"key", false) };
        let long = Request { command: Command::Touch { exptime: 0 }, ..long };
        let mut deferred = Box::new(Batch::of(sender.letter_bytes()));
        deferred.push(ReturnAddress::NOBODY, &long);
        let place = std::ptr::from_ref::<Batch>(&deferred);
        sender.request(ShardId(1), ReturnAddress::NOBODY, &Request::get(b"other", false));
        sender.again(ShardId(1), deferred);
        sender.peers[0].outgoing.publish();
        let mut came = || match owner.take() {
            Some((ShardId(0), Letter::Requests(letter))) => letter,
            _ => panic!("two letters were sent"),
        };
        assert!(!std::ptr::eq(&raw const *came(), place), "what was open goes first");
        assert!(std::ptr::eq(&raw const *came(), place), "it was copied");
    }
}
