//! Every interleaving of a reader and a writer, either of whom dies.

use super::*;
use crate::sync::rwlock::RwLockWords;
use crate::sys::atomic::AtomicU64;

struct Shared {
    writer: MutexBlock,
    readers: [AtomicU64; 1],
    counts: [AtomicU32; 5],
    waits: [WaitBlock; 2],
    value: UnsafeCell<u32>,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            writer: MutexBlock::new(),
            readers: [AtomicU64::new(0)],
            counts: std::array::from_fn(|_| AtomicU32::new(0)),
            waits: [WaitBlock::new(), WaitBlock::new()],
            value: UnsafeCell::new(0),
        })
    }

    fn words(&self) -> RwLockWords<'_> {
        let Self { writer, readers, counts, waits, .. } = self;
        RwLockWords { writer, readers, counts, may_read: &waits[0], may_write: &waits[1] }
    }

    fn read(&self, me: Lane) -> Locked {
        let locked = self.words().read_at_once(me, &Alive);
        // SAFETY: nobody writes meanwhile; loom checks that.
        self.value.with(|v| unsafe { *v });
        self.words().unlock_read(me, &Alive);
        locked
    }

    fn write(&self, me: Lane) -> Locked {
        let locked = self.words().write_at_once(me, &Alive);
        // SAFETY: nobody else is inside; loom checks that.
        self.value.with_mut(|v| unsafe { *v += 1 });
        self.words().unlock_write(true, &Alive);
        locked
    }

    fn recover(&self) -> bool {
        let freed = self.words().recover(&|lane| lane == 1);
        crate::sys::futex::wake_all(self.writer.word_for_model());
        self.waits.iter().for_each(WaitBlock::notify_all);
        freed
    }
}

fn a_victim_and_a_survivor(k: u32, victim: fn(&Shared, Lane) -> Locked, survivor: fn(&Shared, Lane) -> Locked) {
    model_with(2, move || {
        let shared = Shared::new();
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ended = with_budget(k, || victim(&shared, 1));
                let freed = ended.is_err() && shared.recover();
                (ended.is_err(), freed)
            })
        };
        let locked = survivor(&shared, 2);
        let (_, freed) = other.join().unwrap();
        assert!(locked == Locked::Clean || freed);
        if freed && locked == Locked::Clean {
            assert_eq!(shared.read(3), Locked::OwnerDied);
        } else if freed {
            // A writer declared it whole, a reader cannot.
            let _ = shared.read(3);
        }
        let _ = shared.write(3);
        assert_eq!(shared.read(4), Locked::Clean);
        assert_eq!(shared.readers[0].peek(), 0);
    });
}

fn a_reader_dies() {
    for k in [99, 0, 1, 2, 3, 4, 5, 6, 7, 8] {
        a_victim_and_a_survivor(k, Shared::read, Shared::write);
    }
}

fn a_writer_dies() {
    for k in [99, 0, 1, 2, 3, 4, 5, 6, 7] {
        a_victim_and_a_survivor(k, Shared::write, Shared::read);
    }
}

/// A writer writes twice without a pause, and a reader asks for its turn before the first write ends: it has read before
/// the second begins.
fn writes_that_follow_each_other() {
    model_with(2, || {
        let shared = Shared::new();
        let has_read = Arc::new(AtomicU32::new(0));
        let _ = shared.words().write_at_once(2, &Alive);
        let reader = {
            let (shared, has_read) = (shared.clone(), has_read.clone());
            thread::spawn(move || {
                let _ = shared.words().read_at_once(1, &Alive);
                has_read.store(1, Relaxed);
                shared.words().unlock_read(1, &Alive);
            })
        };
        while !shared.writer.is_asked_for_turn() {
            thread::yield_now();
        }
        shared.words().unlock_write(true, &Alive);
        let _ = shared.words().write_at_once(2, &Alive);
        assert_eq!(has_read.peek(), 1, "the next write was first");
        shared.words().unlock_write(true, &Alive);
        reader.join().unwrap();
        assert!(shared.words().try_write(3, &Alive).is_some());
    });
}

#[test]
fn models_a_reader_that_waits_has_its_turn_before_the_next_writer() {
    writes_that_follow_each_other();
}

#[test]
fn models_a_write_in_the_readers_turn_is_noticed() {
    assert!(with_broken("rwlock: write in the readers' turn", writes_that_follow_each_other));
}

#[test]
fn models_a_turn_that_ends_without_waking_the_writer_is_noticed() {
    assert!(with_broken("rwlock: end the turn without waking", writes_that_follow_each_other));
}

#[test]
fn models_a_dead_reader_holds_no_writer_up() {
    a_reader_dies();
}

#[test]
fn models_after_a_dead_writer_readers_are_told() {
    a_writer_dies();
}

#[test]
fn models_two_writers_and_their_readers() {
    a_victim_and_a_survivor(99, Shared::write, Shared::write);
    a_victim_and_a_survivor(99, Shared::read, Shared::read);
}

#[test]
fn models_a_reader_without_the_fence_is_noticed() {
    assert!(with_broken("rwlock: read without the fence", a_reader_dies));
}

#[test]
fn models_a_writer_that_does_not_look_is_noticed() {
    assert!(with_broken("rwlock: write without looking for readers", a_reader_dies));
}

#[test]
fn models_a_reader_that_wakes_no_writer_is_noticed() {
    assert!(with_broken("rwlock: leave without waking the writer", a_reader_dies));
}

#[test]
fn models_a_writer_that_wakes_no_readers_is_noticed() {
    assert!(with_broken("rwlock: unlock without waking readers", a_writer_dies));
}

#[test]
fn models_a_recovery_that_leaves_a_readers_bit_is_noticed() {
    assert!(with_broken("rwlock: leave the bits of the dead", a_reader_dies));
}
