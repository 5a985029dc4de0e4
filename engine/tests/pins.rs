//! Values that are being read or written while everything around them changes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use slabring_engine::{
    Arithmetic, Config, Delete, DeleteMode, EXTENDED_AT_ONCE_MAX, Expiry, Extended, Pin, Reservation, Room,
    Seconds, Shard, Store, StoreMode, StoreOutcome,
};

const NOW: Seconds = Seconds(1_700_000_000);

fn shard(memory_bytes: usize) -> Shard {
    Shard::new(&Config { hash_seed: Some(1), ..Config::with_memory(memory_bytes) }).unwrap()
}

fn set(shard: &mut Shard, key: &[u8], value: &[u8]) {
    let outcome = shard.store(NOW, &Store::set(key, value, Expiry::Never));
    assert!(matches!(outcome, StoreOutcome::Stored { .. }), "{outcome:?}");
}

fn pinned(shard: &Shard, pin: &Pin) -> Vec<u8> {
    shard.pinned_value(pin).chunks().collect::<Vec<_>>().concat()
}

/// Pins a value, does something to its item, and sees the old bytes whole and their memory given back in the end.
#[track_caller]
fn check_survives(value: &[u8], change: impl FnOnce(&mut Shard)) {
    let mut shard = shard(2 << 20);
    set(&mut shard, b"key", value);
    let (first, second) = (shard.pin(NOW, b"key").unwrap(), shard.pin(NOW, b"key").unwrap());
    change(&mut shard);
    shard.check_invariants();
    assert!(shard.memory().held >= value.len(), "{:?}", shard.memory());
    assert!(pinned(&shard, &first) == value);
    shard.unpin(first);
    for id in 0..30_000_u32 {
        set(&mut shard, &id.to_le_bytes(), &[1; 100]);
    }
    assert!(pinned(&shard, &second) == value && shard.counters().evictions > 0);
    shard.unpin(second);
    assert_eq!(shard.memory().held, 0);
    shard.check_invariants();
}

fn check_all_survive(change: impl Fn(&mut Shard)) {
    check_survives(b"12345", &change);
    check_survives(&vec![b'1'; 200_000], &change);
}

#[test]
fn a_pinned_value_survives_whatever_becomes_of_its_item() {
    check_all_survive(|shard| {
        let key = b"key";
        shard.delete(NOW, &Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None });
    });
    check_all_survive(|shard| set(shard, b"key", b"54321"));
    check_all_survive(|shard| {
        let append = Store { mode: StoreMode::Append, ..Store::set(b"key", b"6", Expiry::Never) };
        assert!(matches!(shard.store(NOW, &append), StoreOutcome::Stored { .. }));
    });
    check_all_survive(|shard| {
        shard.flush();
        assert!(shard.get(NOW, b"key").is_none());
    });
    check_all_survive(|shard| {
        assert!(shard.touch(NOW, b"key", Expiry::At(NOW)).is_some());
        shard.sweep(NOW, usize::MAX);
    });
    check_all_survive(|shard| {
        for id in 0..30_000_u32 {
            set(shard, &id.to_be_bytes(), &vec![2; if id % 1_000 == 0 { 100_000 } else { 10 }]);
        }
        assert!(shard.peek(NOW, b"key").is_none());
    });
}

#[test]
fn counting_up_leaves_a_pinned_number_as_it_was() {
    check_survives(b"12345", |shard| {
        let (key, delta, decrement) = (&b"key"[..], 1, false);
        let (compare, explicit_cas, touch, vivify) = (None, None, None, None);
        let binary_key = false;
        shard.arithmetic(
            NOW,
            &Arithmetic { key, delta, decrement, compare, explicit_cas, touch, vivify, binary_key },
        );
        assert_eq!(shard.get(NOW, b"key").and_then(|item| item.value().as_slice()), Some(&b"12346"[..]));
    });
}

#[test]
fn an_item_that_was_replaced_since_it_was_read_is_not_pinned() {
    let mut shard = shard(1 << 20);
    set(&mut shard, b"key", b"old");
    let place = shard.get(NOW, b"key").unwrap().place();
    set(&mut shard, b"key", b"new");
    assert!(shard.pin_at(place).is_none());
    let place = shard.get_and_touch(NOW, b"key", Expiry::At(NOW)).unwrap().place();
    let pin = shard.pin_at(place).unwrap();
    assert!(shard.get(NOW, b"key").is_none() && pinned(&shard, &pin) == b"new");
    shard.unpin(pin);
}

#[test]
fn no_more_is_held_than_leaves_room_to_go_on() {
    let mut shard = shard(1 << 20);
    let mut pins = Vec::new();
    for id in 0..1_000_u32 {
        set(&mut shard, &id.to_le_bytes(), &[1; 3_000]);
        pins.extend(shard.pin(NOW, &id.to_le_bytes()));
    }
    assert!((8..200).contains(&pins.len()), "{}", pins.len());
    for len in [10, 1_000, 100_000] {
        set(&mut shard, b"another", &vec![2; len]);
    }
    let request = Store::set(b"key", &[], Expiry::Never);
    assert!(shard.reserve(NOW, &request, 3_000).is_none());
    shard.check_invariants();
    pins.into_iter().for_each(|pin| shard.unpin(pin));
    let reservation = shard.reserve(NOW, &request, 3_000).unwrap();
    shard.abandon(reservation);
    shard.check_invariants();
}

/// Fills so much of a value.
fn fill(shard: &mut Shard, reservation: &mut Reservation, mut bytes: usize) {
    while bytes > 0 {
        match shard.space(NOW, reservation) {
            Room::Here(space) => {
                let filled = space.len().min(bytes);
                shard.filled(reservation, filled);
                bytes -= filled;
            }
            Room::Later => {}
            Room::NoMemory => break,
        }
    }
}

#[test]
fn half_written_values_and_external_bytes_leave_room_for_what_others_store() {
    const VALUE_BYTES: usize = 900_000;
    for memory_bytes in [8 << 20, 21 << 20, 64 << 20] {
        let mut shard = shard(memory_bytes);
        let request = Store::set(b"large", &[], Expiry::Never);
        let mut half_written = Vec::new();
        while let Some(reservation) = shard.reserve(NOW, &request, VALUE_BYTES) {
            half_written.push(reservation);
        }
        assert!(half_written.len() * VALUE_BYTES > memory_bytes / 2, "{}", half_written.len());
        shard.set_external_bytes(memory_bytes);
        for reservation in &mut half_written {
            fill(&mut shard, reservation, VALUE_BYTES / 9 * 8);
        }
        for len in [5, 300, 3_000, 50_000] {
            set(&mut shard, b"small", &vec![1; len]);
        }
        shard.check_invariants();
        half_written.into_iter().for_each(|reservation| shard.abandon(reservation));
        while shard.maintain(NOW, 100) {}
        shard.set_external_bytes(memory_bytes);
        while shard.maintain(NOW, 100) {}
        assert_eq!(shard.memory().external, memory_bytes / 2);
        shard.check_invariants();
    }
}

#[test]
fn a_value_filled_piece_by_piece_is_stored_when_it_is_complete_and_not_before() {
    let mut shard = shard(4 << 20);
    for value_len in [0, 1, 5_000, 300_000] {
        let value: Vec<u8> = (0..value_len).map(|at: usize| at.to_le_bytes()[0]).collect();
        let request = Store { client_flags: 9, ..Store::set(b"key", &[], Expiry::Never) };
        let mut reservation = shard.reserve(NOW, &request, value_len).unwrap();
        assert!(shard.memory().held >= value_len && shard.peek(NOW, b"key").is_none());
        let mut source = &value[..];
        while reservation.left() > 0 {
            let Room::Here(space) = shard.space(NOW, &mut reservation) else {
                panic!("an empty shard has room")
            };
            let (now, later) = source.split_at(space.len().min(777));
            space[..now.len()].copy_from_slice(now);
            shard.filled(&mut reservation, now.len());
            source = later;
        }
        let stored = shard.commit(NOW, reservation);
        assert!(matches!(stored, StoreOutcome::Stored { value_len: stored, .. } if stored == value_len));
        let item = shard.get(NOW, b"key").unwrap();
        assert!(item.client_flags() == 9 && item.value().chunks().collect::<Vec<_>>().concat() == value);
        assert_eq!(shard.memory().held, 0);
        shard.flush();
    }
}

#[test]
fn a_reserved_add_is_refused_when_the_key_has_come_meanwhile() {
    let mut shard = shard(1 << 20);
    let request = Store { mode: StoreMode::Add, ..Store::set(b"key", &[], Expiry::Never) };
    let mut reservation = shard.reserve(NOW, &request, 4).unwrap();
    let Room::Here(space) = shard.space(NOW, &mut reservation) else { panic!("there is room") };
    space.copy_from_slice(b"mine");
    shard.filled(&mut reservation, 4);
    set(&mut shard, b"key", b"theirs");
    assert_eq!(shard.commit(NOW, reservation), StoreOutcome::NotStored);
    assert_eq!(shard.get(NOW, b"key").and_then(|item| item.value().as_slice()), Some(&b"theirs"[..]));
    assert_eq!(shard.memory().held, 0);
    shard.check_invariants();
}

#[test]
fn a_value_that_is_read_in_bits_is_whole_whatever_the_bits_and_outlives_its_first_pin() {
    let mut shard = shard(4 << 20);
    let value: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    set(&mut shard, b"key", &value);
    let first = shard.pin(NOW, b"key").unwrap();
    let second = shard.pin_again(&first);
    let mut reading = shard.begin_reading(&second);
    let mut read = Vec::new();
    for bytes_max in (1..).map(|n| n * n) {
        let Some(piece) = shard.read_on(&mut reading, bytes_max) else { break };
        assert!((1..=bytes_max).contains(&piece.len()));
        read.extend_from_slice(piece);
    }
    assert!(read == value);
    shard.unpin(first);
    set(&mut shard, b"key", b"new");
    assert!(pinned(&shard, &second) == value);
    shard.unpin(second);
    assert_eq!(shard.memory().held, 0);
}

#[test]
fn a_single_value_may_be_half_of_the_budget_and_a_second_one_is_not_pinned_beside_it() {
    let config = Config { item_size_max: 3 << 20, hash_seed: Some(1), ..Config::with_memory(8 << 20) };
    let mut shard = Shard::new(&config).unwrap();
    set(&mut shard, b"large", &vec![1; 3 << 20]);
    set(&mut shard, b"other", &vec![2; 1 << 20]);
    assert!(shard.has_room_for_any_pin());
    let pin = shard.pin(NOW, b"large").unwrap();
    let other = shard.peek(NOW, b"other").unwrap().place();
    assert!(!shard.has_room_for_any_pin() && !shard.has_room_for_pin(other));
    assert!(shard.pin_at(other).is_none());
    assert_eq!(shard.value_at(other).unwrap().len(), 1 << 20);
    let again = shard.pin(NOW, b"large").unwrap();
    shard.unpin(again);
    shard.unpin(pin);
    let pin = shard.pin_at(other).unwrap();
    shard.unpin(pin);
}

/// Fills and commits a value, and returns the most that one step evicted and the most chunks that one step took or freed.
fn write_in_steps(shard: &mut Shard, key: &[u8], value_len: usize) -> (u64, usize) {
    let mut reservation = shard.reserve(NOW, &Store::set(key, &[], Expiry::Never), value_len).unwrap();
    let (mut evicted_max, mut moved_max) = (0, 0);
    let used = |shard: &Shard| shard.classes().map(|class| class.used).sum::<usize>();
    while reservation.left() > 0 {
        let (evictions, before) = (shard.counters().evictions, used(shard));
        let filled = match shard.space(NOW, &mut reservation) {
            Room::Here(space) => {
                let some = space.len().min(4_096);
                space[..some].fill(7);
                some
            }
            Room::Later => 0,
            Room::NoMemory => panic!("there is room"),
        };
        shard.filled(&mut reservation, filled);
        evicted_max = evicted_max.max(shard.counters().evictions - evictions);
        moved_max = moved_max.max(used(shard).abs_diff(before));
    }
    let before = used(shard);
    assert!(matches!(shard.commit(NOW, reservation), StoreOutcome::Stored { .. }));
    (evicted_max, moved_max.max(used(shard).abs_diff(before)))
}

#[test]
fn no_step_in_the_life_of_a_large_value_does_more_than_a_bounded_part_of_the_work() {
    const LEN: usize = 24 << 20;
    // Chunks that are looked at for a page, with what a store does besides.
    const EVICTED_MAX: u64 = 1_100;
    const FREED_MAX: usize = 100;
    let (page_size_bytes, item_size_max, hash_seed) = (Some(1 << 20), LEN, Some(1));
    let config = Config { page_size_bytes, item_size_max, hash_seed, ..Config::with_memory(64 << 20) };
    let mut shard = Shard::new(&config).unwrap();
    for id in 0..600_000_u32 {
        set(&mut shard, &id.to_le_bytes(), &[1; 60]);
    }
    let (evicted, moved) = write_in_steps(&mut shard, b"first", LEN);
    assert!((100..EVICTED_MAX).contains(&evicted), "{evicted} items at once");
    assert!(moved < usize::try_from(EVICTED_MAX).unwrap(), "{moved} chunks at once");

    let used = |shard: &Shard| shard.classes().map(|class| class.used).sum::<usize>();
    let check = |shard: &mut Shard, what: &str, step: &mut dyn FnMut(&mut Shard)| {
        let before = used(shard);
        step(shard);
        let changed = used(shard).abs_diff(before);
        assert!(changed <= FREED_MAX, "{what}: {changed} chunks at once");
    };
    let mut pin = None;
    check(&mut shard, "pin", &mut |shard| pin = shard.pin(NOW, b"first"));
    let delete = Delete { key: b"first", compare: None, mode: DeleteMode::Remove, explicit_cas: None };
    check(&mut shard, "delete", &mut |shard| {
        shard.delete(NOW, &delete);
    });
    assert!(shard.memory().held >= LEN);
    check(&mut shard, "unpin", &mut |shard| shard.unpin(pin.take().unwrap()));
    assert_eq!(shard.memory().held, 0);
    shard.check_invariants();
    for id in 0..100_u32 {
        check(&mut shard, "store", &mut |shard| set(shard, &id.to_be_bytes(), b"value"));
    }
    shard.check_invariants();
    let largest = shard.classes().last().unwrap();
    assert!(largest.used < 10, "{} of the largest chunks are in use", largest.used);

    write_in_steps(&mut shard, b"key", LEN / 2);
    let (evicted, moved) = write_in_steps(&mut shard, b"key", LEN);
    assert!(evicted < EVICTED_MAX && moved < usize::try_from(EVICTED_MAX).unwrap(), "{evicted} {moved}");
    assert_eq!(shard.get(NOW, b"key").map(|item| item.value().len()), Some(LEN));
    let half = shard.reserve(NOW, &Store::set(b"half", &[], Expiry::Never), LEN / 2).unwrap();
    check(&mut shard, "abandon", &mut |_| {});
    shard.abandon(half);
    shard.check_invariants();
}

#[test]
fn a_value_that_finds_no_room_while_it_is_filled_is_given_up_and_nothing_else_suffers() {
    let config = Config { evict: false, hash_seed: Some(1), ..Config::with_memory(4 << 20) };
    let mut shard = Shard::new(&config).unwrap();
    let mut reservation = shard.reserve(NOW, &Store::set(b"key", &[], Expiry::Never), 1 << 20).unwrap();
    let mut id = 0_u32;
    while matches!(
        shard.store(NOW, &Store::set(&id.to_le_bytes(), &[1; 1_000], Expiry::Never)),
        StoreOutcome::Stored { .. }
    ) {
        id += 1;
    }
    let refused = loop {
        match shard.space(NOW, &mut reservation) {
            Room::Here(space) => {
                let len = space.len();
                shard.filled(&mut reservation, len);
            }
            Room::Later => panic!("nothing is evicted"),
            Room::NoMemory => break reservation.left() > 0,
        }
    };
    assert!(refused);
    shard.abandon(reservation);
    assert_eq!((shard.memory().held, shard.counters().items), (0, u64::from(id)));
    shard.check_invariants();
}

/// Does what [`Shard::store`] does to a long value, a few bytes at a time. Returns the most bytes written in one step.
fn extend_in_steps(
    shard: &mut Shard,
    request: &Store<'_>,
    bytes_max: usize,
) -> Option<(StoreOutcome, usize)> {
    let mut extension = shard.begin_extension(NOW, request)?;
    let mut most = 0;
    loop {
        let held = shard.memory().held;
        let extended = shard.go_on_extending(NOW, &mut extension, request, bytes_max);
        most = most.max(shard.memory().held.abs_diff(held));
        shard.check_invariants();
        match extended {
            Extended::InPart => {}
            Extended::Whole => break,
            Extended::InVain => panic!("there is room"),
        }
    }
    shard.finish_extension(NOW, extension, request).map(|outcome| (outcome, most))
}

fn value_and_rest(shard: &mut Shard, key: &[u8]) -> (Vec<u8>, u32, Expiry) {
    let item = shard.peek(NOW, key).unwrap();
    (item.value().chunks().collect::<Vec<_>>().concat(), item.client_flags(), item.expiry())
}

#[test]
fn a_long_value_extended_in_steps_of_any_size_becomes_what_it_becomes_at_once() {
    let mut seed = 0x5EED_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let (mut parts, mut whole) = (shard(16 << 20), shard(16 << 20));
    for round in 0..60_usize {
        let old: Vec<u8> =
            (0..EXTENDED_AT_ONCE_MAX + random(100_000)).map(|at| (at * 7 + round).to_le_bytes()[0]).collect();
        let more: Vec<u8> =
            (0..random([2, 300, 90_000][round % 3])).map(|at| (at * 3).to_le_bytes()[1]).collect();
        let expiry = if round % 2 == 0 { Expiry::Never } else { Expiry::At(Seconds(NOW.0 + 60)) };
        let first =
            Store { client_flags: u32::try_from(round % 4).unwrap(), ..Store::set(b"key", &old, expiry) };
        let mode = if random(2) == 0 { StoreMode::Append } else { StoreMode::Prepend };
        let more = Store { mode, ..Store::set(b"key", &more, Expiry::Never) };
        for shard in [&mut parts, &mut whole] {
            assert!(matches!(shard.store(NOW, &first), StoreOutcome::Stored { .. }));
        }
        let step = [1_000, 32_768, 100_000][random(3)];
        let (outcome, _) = extend_in_steps(&mut parts, &more, step).unwrap();
        assert_eq!(outcome, whole.store(NOW, &more), "round {round}");
        assert!(value_and_rest(&mut parts, b"key") == value_and_rest(&mut whole, b"key"), "round {round}");
        assert_eq!(parts.memory().held, 0);
        parts.check_invariants();
    }
}

#[test]
fn no_step_of_an_extension_writes_or_frees_more_than_it_is_told_and_a_chunk() {
    const LEN: usize = 12 << 20;
    const STEP: usize = 256 << 10;
    let (page_size_bytes, item_size_max, hash_seed) = (Some(1 << 20), 2 * LEN, Some(1));
    let config = Config { page_size_bytes, item_size_max, hash_seed, ..Config::with_memory(64 << 20) };
    let mut shard = Shard::new(&config).unwrap();
    set(&mut shard, b"key", &vec![7; LEN]);
    let used = |shard: &Shard| shard.classes().map(|class| class.used).sum::<usize>();
    let request = Store { mode: StoreMode::Append, ..Store::set(b"key", b"more", Expiry::Never) };
    let mut extension = shard.begin_extension(NOW, &request).unwrap();
    let (mut steps, mut chunks_max) = (1, 0);
    loop {
        let before = used(&shard);
        let extended = shard.go_on_extending(NOW, &mut extension, &request, STEP);
        chunks_max = chunks_max.max(used(&shard).abs_diff(before));
        if extended == Extended::Whole {
            break;
        }
        assert_eq!(extended, Extended::InPart);
        steps += 1;
    }
    assert!(steps >= LEN / STEP && chunks_max <= STEP / (30 << 10) + 2, "{steps} steps, {chunks_max} chunks");
    let before = used(&shard);
    let stored = shard.finish_extension(NOW, extension, &request);
    assert!(matches!(stored, Some(StoreOutcome::Stored { value_len, .. }) if value_len == LEN + 4));
    assert!(used(&shard).abs_diff(before) <= 100, "what was replaced goes bit by bit");
    shard.check_invariants();
}

#[test]
fn an_extension_of_a_value_that_is_replaced_meanwhile_changes_nothing() {
    for when in 0..3 {
        let mut shard = shard(16 << 20);
        set(&mut shard, b"key", &vec![7; 400_000]);
        let request = Store { mode: StoreMode::Prepend, ..Store::set(b"key", b"more", Expiry::Never) };
        let mut extension = shard.begin_extension(NOW, &request).unwrap();
        let replace = |shard: &mut Shard, now: usize| {
            if now == when {
                set(shard, b"key", b"new");
            }
        };
        replace(&mut shard, 0);
        let mut extended = shard.go_on_extending(NOW, &mut extension, &request, 100_000);
        replace(&mut shard, 1);
        while extended == Extended::InPart {
            extended = shard.go_on_extending(NOW, &mut extension, &request, 100_000);
        }
        replace(&mut shard, 2);
        match extended {
            Extended::Whole => assert_eq!(shard.finish_extension(NOW, extension, &request), None),
            _ => shard.abandon_extension(extension),
        }
        assert_eq!(value_and_rest(&mut shard, b"key").0, b"new", "{when}");
        assert_eq!(shard.memory().held, 0);
        shard.check_invariants();
    }
}

#[test]
fn what_is_refused_or_short_is_not_extended_in_steps_and_a_touch_meanwhile_counts() {
    let mut shard = shard(16 << 20);
    set(&mut shard, b"short", b"value");
    set(&mut shard, b"long", &vec![7; 400_000]);
    let append = |key| Store { mode: StoreMode::Append, ..Store::set(key, b"more", Expiry::Never) };
    assert!(shard.begin_extension(NOW, &append(b"short")).is_none());
    assert!(shard.begin_extension(NOW, &append(b"absent")).is_none());
    assert!(shard.begin_extension(NOW, &Store::set(b"long", b"new", Expiry::Never)).is_none());
    let other = Store { compare: Some(9_999), ..append(b"long") };
    assert!(shard.begin_extension(NOW, &other).is_none());
    let mut extension = shard.begin_extension(NOW, &append(b"long")).unwrap();
    let expiry = Expiry::At(Seconds(NOW.0 + 9));
    assert!(shard.touch(NOW, b"long", expiry).is_some());
    while shard.go_on_extending(NOW, &mut extension, &append(b"long"), 100_000) == Extended::InPart {}
    assert!(shard.finish_extension(NOW, extension, &append(b"long")).is_some());
    assert_eq!(value_and_rest(&mut shard, b"long").2, expiry);
    shard.check_invariants();
}
