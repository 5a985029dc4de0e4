//! Large values on their way to clients, straight from the shard's memory: they are pinned, not copied, and the kernel reads
//! them where they lie. A pin goes back once, whatever becomes of its client. No I/O.
//!
//! A value leaves in windows, so that no send and no copy takes long, and each window that the kernel has holds a pin
//! of its own. For a client of another shard the owner keeps the pin under a number, and hands out copies of
//! at most [`SLICE_BYTES_MAX`] when they are asked for: nobody but the owner touches the value.

use slabring_engine::{Pin, Reading, Shard};
use slabring_reactor::LoanId;

use crate::shards::ShardId;

/// Values from this size on are lent; copying smaller ones costs less than another piece for the kernel.
/// `docs/measurements.md` has the figures.
pub const LENT_BYTES_MIN: usize = 16 << 10;
/// A large value that cannot be lent now is copied all the same if it has no more bytes, and there is room for them.
pub const COPIED_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one send that contains something lent.
pub const WINDOW_BYTES_MAX: usize = 256 << 10;
/// Most bytes that are sealed at once.
pub const SEALED_BYTES_MAX: usize = 64 << 10;
/// Bytes of a value that travel to another shard at once, where a letter is meant for so many.
pub const SLICE_BYTES_MAX: usize = 128 << 10;

/// The rest of a pinned value. Must be [given back](Lent::give_back).
#[derive(Debug)]
#[must_use = "its pin must be given back"]
pub struct Lent {
    pin: Pin,
    reading: Reading,
    left: usize,
}

/// A value that another shard lends.
#[derive(Debug)]
pub struct Remote {
    /// Who has it.
    pub owner: ShardId,
    /// The owner's number for it.
    pub number: u32,
    /// Bytes that were not sent yet.
    pub left: usize,
    /// Bytes that were not asked for yet.
    pub to_ask: usize,
    /// A slice that has come and was not sent yet.
    pub slice: Vec<u8>,
    /// A slice is under way.
    pub asked: bool,
}

/// What an owner says of a value that it lends to another shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LentAway {
    /// Who has it.
    pub owner: ShardId,
    /// Bytes of the reply before the value.
    pub place: usize,
    /// The owner's number for it.
    pub number: u32,
    /// Bytes of the value.
    pub bytes: usize,
}

/// What a reply shows without containing it.
#[derive(Debug)]
pub enum Value {
    /// This shard's.
    Here(Lent),
    /// Another's.
    There(Box<Remote>),
}

/// Things under numbers that are used again.
#[derive(Debug)]
struct Numbered<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

/// What of a shard's values is lent at the moment.
#[derive(Default, Debug)]
pub struct Loans {
    /// To the kernel, with the place in its buffer.
    sending: Numbered<Vec<(usize, Lent)>>,
    /// To other shards.
    away: Numbered<Lent>,
}

impl Lent {
    /// All of a pinned value.
    pub fn new(shard: &Shard, pin: Pin) -> Self {
        Self { reading: shard.begin_reading(&pin), left: shard.pinned_value(&pin).len(), pin }
    }

    /// Bytes.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Takes the first `bytes` off, with a pin of their own.
    pub fn split_off(&mut self, shard: &mut Shard, bytes: usize) -> Self {
        assert!(bytes < self.left);
        let first = Self { pin: shard.pin_again(&self.pin), reading: self.reading, left: bytes };
        self.pass(shard, bytes, |_| {});
        first
    }

    /// Takes the first `bytes` off, or as many as there are, and appends them.
    pub fn copy_to(&mut self, shard: &Shard, bytes: usize, out: &mut Vec<u8>) {
        let bytes = bytes.min(self.left);
        out.reserve(bytes);
        self.pass(shard, bytes, |piece| out.extend_from_slice(piece));
    }

    fn pass(&mut self, shard: &Shard, mut bytes: usize, mut each: impl FnMut(&[u8])) {
        self.left -= bytes;
        while let Some(piece) = shard.read_on(&mut self.reading, bytes) {
            bytes -= piece.len();
            each(piece);
        }
        assert!(bytes == 0, "a value has the bytes that it says");
    }

    fn pieces<'a>(&self, shard: &'a Shard) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (mut reading, mut left) = (self.reading, self.left);
        std::iter::from_fn(move || {
            let piece = shard.read_on(&mut reading, left)?;
            left -= piece.len();
            Some(piece)
        })
    }

    /// Ends it.
    pub fn give_back(self, shard: &mut Shard) {
        shard.unpin(self.pin);
    }
}

impl Remote {
    /// A value of which nothing has come.
    pub fn new(lent: LentAway) -> Self {
        let LentAway { owner, number, bytes, .. } = lent;
        Self { owner, number, left: bytes, to_ask: bytes, slice: Vec::new(), asked: false }
    }
}

impl Value {
    /// Bytes that were not sent yet.
    pub fn left(&self) -> usize {
        match self {
            Self::Here(lent) => lent.left,
            Self::There(remote) => remote.left,
        }
    }
}

impl Loans {
    /// Keeps what the kernel is about to read.
    pub fn begin_sending(&mut self, window: Vec<(usize, Lent)>) -> LoanId {
        LoanId(self.sending.insert(window))
    }

    /// The pieces of a loan with their places.
    pub fn pieces<'a>(&'a self, loan: LoanId, shard: &'a Shard) -> impl Iterator<Item = (usize, &'a [u8])> {
        let window = self.sending.get(loan.0).expect("a loan is returned once");
        window.iter().flat_map(|(place, lent)| lent.pieces(shard).map(move |piece| (*place, piece)))
    }

    /// The kernel has read it all, or will never.
    pub fn end_sending(&mut self, loan: LoanId, shard: &mut Shard) {
        let window = self.sending.remove(loan.0).expect("a loan is returned once");
        window.into_iter().for_each(|(_, lent)| lent.give_back(shard));
    }

    /// Keeps a value for another shard. Returns its number.
    pub fn lend_away(&mut self, lent: Lent) -> u32 {
        self.away.insert(lent)
    }

    /// Appends the next `bytes` of what another shard was lent.
    pub fn slice(&mut self, number: u32, bytes: usize, shard: &Shard, out: &mut Vec<u8>) {
        let lent = self.away.get_mut(number).expect("it is asked for before it is given back");
        lent.copy_to(shard, bytes, out);
    }

    /// The other shard is done with it.
    pub fn take_back(&mut self, number: u32, shard: &mut Shard) {
        self.away.remove(number).expect("it is given back once").give_back(shard);
    }

    /// Gives everything back: nobody reads any more.
    pub fn end(&mut self, shard: &mut Shard) {
        let windows = std::mem::take(&mut self.sending).places.into_iter().flatten();
        windows.flatten().for_each(|(_, lent)| lent.give_back(shard));
        let away = std::mem::take(&mut self.away).places.into_iter().flatten();
        away.for_each(|lent| lent.give_back(shard));
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Numbered<T> {
    fn insert(&mut self, thing: T) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).expect("the engine pins fewer")
        });
        self.places[number as usize] = Some(thing);
        number
    }

    fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.as_ref()
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places.get_mut(number as usize)?.as_mut()
    }

    fn remove(&mut self, number: u32) -> Option<T> {
        let thing = self.places.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(thing)
    }
}
