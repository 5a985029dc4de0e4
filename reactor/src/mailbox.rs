//! A bounded queue from one thread to one other: letters are staged, published once a turn, and
//! read without a lock. It never allocates after its creation, never blocks and never drops a letter.
//! Waking the reader is the waker's part. `tests/mailbox.rs` tries it, `tests/model.rs` goes through all interleavings.
#![expect(unsafe_code, reason = "the one place where two threads share memory")]

use std::mem::MaybeUninit;

use crossbeam::utils::CachePadded;

use crate::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

struct Ring<T> {
    /// Letters that the reader has taken, counted from the start; written by the reader only.
    taken: CachePadded<AtomicUsize>,
    /// Letters that the writer has published, counted from the start; written by the writer only.
    published: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: slots from `taken` up to `published` hold letters and are the reader's, all others are the writer's. Each end moves only its
// own counter, with release, and the other reads it with acquire: no slot is touched by both, and `T` only ever moves between threads.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, count: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[count & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // Both ends are gone, and their going made what they wrote visible here.
        for count in self.taken.load(Ordering::Relaxed)..self.published.load(Ordering::Relaxed) {
            self.slot(count).with_mut(|slot| {
                // SAFETY: nobody else has the ring any more.
                let slot = unsafe { &mut *slot };
                // SAFETY: slots between `taken` and `published` hold letters that nobody has read.
                unsafe { slot.assume_init_drop() };
            });
        }
    }
}

/// The writing end.
pub struct Sender<T> {
    ring: Arc<Ring<T>>,
    /// Letters written, published or not.
    staged: usize,
    /// The reader's counter as last seen: saves touching its cache line.
    taken_seen: usize,
}

/// The reading end.
pub struct Receiver<T> {
    ring: Arc<Ring<T>>,
    taken: usize,
    published_seen: usize,
}

/// A mailbox for up to `capacity` letters (a power of two) that nobody has read yet.
#[must_use]
pub fn mailbox<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity.is_power_of_two());
    let ring = Arc::new(Ring {
        taken: CachePadded::new(AtomicUsize::new(0)),
        published: CachePadded::new(AtomicUsize::new(0)),
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    let sender = Sender { ring: Arc::clone(&ring), staged: 0, taken_seen: 0 };
    (sender, Receiver { ring, taken: 0, published_seen: 0 })
}

impl<T: Send> Sender<T> {
    /// Puts `letter` in line; the reader sees it after [`Sender::publish`].
    ///
    /// # Errors
    /// Gives the letter back when the mailbox is full.
    pub fn stage(&mut self, letter: T) -> Result<(), T> {
        if self.staged - self.taken_seen == self.ring.slots.len() {
            self.taken_seen = self.ring.taken.load(Ordering::Acquire);
            if self.staged - self.taken_seen == self.ring.slots.len() {
                return Err(letter);
            }
        }
        self.ring.slot(self.staged).with_mut(|slot| {
            // SAFETY: the slot is free (checked above) and not published, so only this thread touches it.
            unsafe { (*slot).write(letter) };
        });
        self.staged += 1;
        Ok(())
    }

    /// Shows all staged letters to the reader. Returns whether there were any.
    pub fn publish(&mut self) -> bool {
        let fresh = self.ring.published.load(Ordering::Relaxed) != self.staged;
        if fresh {
            self.ring.published.store(self.staged, Ordering::Release);
        }
        fresh
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // Staged letters become the ring's, which drops what nobody reads.
        self.ring.published.store(self.staged, Ordering::Release);
    }
}

impl<T: Send> Receiver<T> {
    /// The oldest published letter.
    pub fn take(&mut self) -> Option<T> {
        if self.taken == self.published_seen {
            self.published_seen = self.ring.published.load(Ordering::Acquire);
            if self.taken == self.published_seen {
                return None;
            }
        }
        let letter = self.ring.slot(self.taken).with(|slot| {
            // SAFETY: the slot was published (checked above), and the writer leaves it alone until `taken` passes it.
            let slot = unsafe { &*slot };
            // SAFETY: the writer has initialised it, and `taken` moves past it, so it is read once.
            unsafe { slot.assume_init_read() }
        });
        self.taken += 1;
        self.ring.taken.store(self.taken, Ordering::Release);
        Some(letter)
    }

    /// Whether a letter waits. One load of the writer's line at most.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken == self.published_seen && self.ring.published.load(Ordering::Acquire) == self.taken
    }
}
