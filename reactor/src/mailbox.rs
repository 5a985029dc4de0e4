//! A bounded queue from one thread to one other: letters are staged, published once a turn, and
//! read without a lock. It never allocates after its creation, never blocks and never drops a letter.
//! Waking the reader is the [`Waker`](crate::Waker)'s part.
#![expect(unsafe_code, reason = "the one place where two threads share memory")]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

struct Ring<T> {
    /// Letters that the reader has taken, counted from the start; written by the reader only.
    taken: CachePadded<AtomicUsize>,
    /// Letters that the writer has published, counted from the start; written by the writer only.
    published: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot belongs to the writer from `taken` to `published` round the ring and to the reader otherwise; the
// counters hand it over with release and acquire, so `T` only ever moves between threads.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, count: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[count & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let taken = *self.taken.get_mut();
        let published = *self.published.get_mut();
        for count in taken..published {
            let index = count & (self.slots.len() - 1);
            // SAFETY: slots between `taken` and `published` hold letters that nobody has read.
            unsafe { self.slots[index].get_mut().assume_init_drop() };
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
        // SAFETY: the slot is free (checked above) and not published, so only this thread touches it.
        unsafe { (*self.ring.slot(self.staged).get()).write(letter) };
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
        // SAFETY: the slot was published (checked above), and the writer leaves it alone until `taken` passes it.
        let slot = unsafe { &*self.ring.slot(self.taken).get() };
        // SAFETY: the writer has initialised it, and `taken` moves past it, so it is read once.
        let letter = unsafe { slot.assume_init_read() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_invisible_until_published_and_arrive_in_order() {
        let (mut sender, mut receiver) = mailbox(4);
        sender.stage(1).unwrap();
        sender.stage(2).unwrap();
        assert_eq!(receiver.take(), None);
        assert!(sender.publish());
        assert!(!sender.publish());
        assert_eq!((receiver.take(), receiver.take(), receiver.take()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_full_mailbox_gives_the_letter_back_until_one_is_taken() {
        let (mut sender, mut receiver) = mailbox(2);
        sender.stage(1).unwrap();
        sender.stage(2).unwrap();
        assert_eq!(sender.stage(3), Err(3));
        sender.publish();
        assert_eq!(receiver.take(), Some(1));
        sender.stage(3).unwrap();
        assert_eq!(sender.stage(4), Err(4));
    }

    #[test]
    fn letters_that_nobody_reads_are_dropped_once() {
        let token = Arc::new(());
        let (mut sender, mut receiver) = mailbox(8);
        for _ in 0..5 {
            sender.stage(Arc::clone(&token)).unwrap();
        }
        sender.publish();
        drop(receiver.take());
        sender.stage(Arc::clone(&token)).unwrap();
        drop((sender, receiver));
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn two_threads_pass_every_letter_once_and_in_order() {
        const LETTERS: u64 = 200_000;
        let (mut sender, mut receiver) = mailbox::<Box<u64>>(16);
        let writer = std::thread::spawn(move || {
            for n in 0..LETTERS {
                let mut letter = Box::new(n);
                while let Err(back) = sender.stage(letter) {
                    letter = back;
                    sender.publish();
                    std::thread::yield_now();
                }
                if n % 3 == 0 {
                    sender.publish();
                }
            }
            sender.publish();
        });
        for n in 0..LETTERS {
            let letter = loop {
                match receiver.take() {
                    Some(letter) => break letter,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(*letter, n);
        }
        writer.join().unwrap();
        assert!(receiver.is_empty());
    }
}
