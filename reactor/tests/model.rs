//! The mailbox and the sleep flag under loom: small cases, all interleavings with a few preemptions, and every value that the memory model lets a
//! load return. The sources are those of the crate, compiled here over loom's atomics, so no flag of the compiler is needed.

#[expect(unreachable_pub, reason = "the crate shows it, this test does not")]
#[path = "../src/mailbox.rs"]
mod mailbox;
#[path = "../src/sleep.rs"]
mod sleep;

/// Stands where `src/sync.rs` stands in the crate.
mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering, fence};

    /// loom leaves a plain store unordered to an exchange that it has overtaken, so that a later exchange may find the older
    /// value, which no memory model allows. As exchanges, stores stand in one order.
    #[derive(Debug)]
    pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(crate) fn new(value: bool) -> Self {
            Self(loom::sync::atomic::AtomicBool::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> bool {
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            self.0.swap(value, order);
        }

        pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
            self.0.swap(value, order)
        }
    }
}

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use mailbox::{Receiver, Sender, mailbox};
use sleep::SleepFlag;

/// Switches of threads that no thread asks for: bugs of two or three threads need fewer, and each more takes ten times the time.
const PREEMPTIONS_MAX: usize = 3;

/// How a thread is found by those who post to it.
struct Sleeper {
    flag: SleepFlag,
    bell: Bell,
}

/// What the ring or the eventfd is to a real thread: rung before it is waited for, it is heard all the same.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().expect("nobody fails") = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().expect("nobody fails");
        while !*rung {
            rung = self.changed.wait(rung).expect("nobody fails");
        }
        *rung = false;
    }
}

/// Goes through all interleavings with so many preemptions.
fn explore(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(case);
}

impl Sleeper {
    fn new() -> Arc<Self> {
        Arc::new(Self { flag: SleepFlag::new(), bell: Bell::default() })
    }

    /// Posts as `Post::publish` does.
    fn post(&self, sender: &mut Sender<Box<u32>>, letter: u32) {
        sender.stage(Box::new(letter)).expect("the mailbox holds all letters of a case");
        if sender.publish() && self.flag.must_wake() {
            self.bell.ring();
        }
    }

    /// Takes one letter from any of the mailboxes, as a shard's turns do. A lost wake is a deadlock, which loom reports.
    fn take(&self, mailboxes: &mut [Receiver<Box<u32>>]) -> u32 {
        loop {
            if let Some(letter) = mailboxes.iter_mut().find_map(Receiver::take) {
                return *letter;
            }
            self.flag.prepare_sleep();
            if mailboxes.iter().all(Receiver::is_empty) {
                self.bell.wait();
            }
            self.flag.awake();
        }
    }
}

#[test]
fn no_wake_is_lost_and_no_letter_read_twice() {
    explore(|| {
        let sleeper = Sleeper::new();
        let (mut sender, receiver) = mailbox(2);
        let poster = Arc::clone(&sleeper);
        let writing = thread::spawn(move || (0..2).for_each(|letter| poster.post(&mut sender, letter)));
        let mut mailboxes = [receiver];
        let taken = [sleeper.take(&mut mailboxes), sleeper.take(&mut mailboxes)];
        assert_eq!(taken, [0, 1]);
        writing.join().expect("the writer does not fail");
        assert!(mailboxes[0].is_empty());
    });
}

#[test]
fn whoever_of_two_posters_comes_second_finds_the_sleeper_woken_or_wakes_it() {
    explore(|| {
        let sleeper = Sleeper::new();
        let (mut first, first_receiver) = mailbox(1);
        let (mut second, second_receiver) = mailbox(1);
        let posters = [Arc::clone(&sleeper), Arc::clone(&sleeper)];
        let [one, two] = posters;
        let writing = thread::spawn(move || one.post(&mut first, 1));
        let also_writing = thread::spawn(move || two.post(&mut second, 2));
        let mut mailboxes = [first_receiver, second_receiver];
        assert_eq!(sleeper.take(&mut mailboxes) + sleeper.take(&mut mailboxes), 3);
        writing.join().expect("a writer does not fail");
        also_writing.join().expect("a writer does not fail");
    });
}

#[test]
fn a_slot_is_written_again_only_after_its_letter_was_read() {
    explore(|| {
        let (mut sender, mut receiver) = mailbox(1);
        let writing = thread::spawn(move || {
            for letter in 0..2 {
                let mut letter = Box::new(letter);
                while let Err(back) = sender.stage(letter) {
                    letter = back;
                    thread::yield_now();
                }
                sender.publish();
            }
        });
        for expected in 0..2 {
            let letter = loop {
                match receiver.take() {
                    Some(letter) => break letter,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*letter, expected);
        }
        writing.join().expect("the writer does not fail");
    });
}

#[test]
fn letters_that_nobody_reads_go_with_whichever_end_goes_last() {
    explore(|| {
        let (mut sender, mut receiver) = mailbox(2);
        let letters = Arc::new(());
        let kept = Arc::clone(&letters);
        let writing = thread::spawn(move || {
            for letter in [Arc::clone(&letters), letters] {
                sender.stage(letter).expect("there is room for two");
            }
            sender.publish();
        });
        drop(receiver.take());
        drop(receiver);
        writing.join().expect("the writer does not fail");
        assert_eq!(Arc::strong_count(&kept), 1);
    });
}
