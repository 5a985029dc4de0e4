//! A mailbox between two threads as the server uses it.

use std::sync::Arc;

use slabring_reactor::mailbox::mailbox;

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
