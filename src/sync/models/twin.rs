//! Every interleaving of the writers and the readers of a value in two copies, one of whom dies.

use super::*;
use crate::sync::twin::TwinBlock;

/// A value of two words that are the same, unless it is torn.
struct Shared {
    lock: MutexBlock,
    twin: TwinBlock,
    copies: [[AtomicU32; 2]; 2],
}

impl Shared {
    fn new() -> Arc<Self> {
        let copy = || [AtomicU32::new(0), AtomicU32::new(0)];
        Arc::new(Self { lock: MutexBlock::new(), twin: TwinBlock::new(), copies: [copy(), copy()] })
    }

    /// A whole value, unless writers came in between.
    fn read(&self) -> Option<(u32, u64)> {
        let (words, seen) = self.twin.read(|copy| {
            let copy = &self.copies[copy];
            [copy[0].load(Relaxed), copy[1].load(Relaxed)]
        })?;
        assert_eq!(words[0], words[1], "a torn value was accepted");
        Some((words[0], seen))
    }

    fn write(&self, me: Lane, unless_after: Option<u64>, value: u32) -> bool {
        let _ = self.lock.lock_at_once(me, &Alive);
        let written = self.twin.write(unless_after, |copy| {
            self.copies[copy].iter().for_each(|word| word.store(value, Relaxed));
        });
        self.lock.unlock(true);
        written
    }

    /// Adds 1 with the sum made outside of the lock.
    fn update(&self, me: Lane) {
        loop {
            if let Some((old, seen)) = self.read() {
                if self.write(me, Some(seen), old + 1) {
                    return;
                }
            }
            crate::sys::atomic::spin_loop();
        }
    }

    /// What becomes of the locks of lane 1, whose process is dead.
    fn recover(&self) {
        self.lock.recover(&|lane| lane == 1);
        crate::sys::futex::wake_all(self.lock.word_for_model());
    }
}

/// Two writes, so that the copy that a slow reader reads is written again.
fn two_writes_beside_a_reader() {
    model(|| {
        let shared = Shared::new();
        let writer = {
            let shared = shared.clone();
            thread::spawn(move || {
                for value in [1, 2] {
                    assert!(shared.write(1, None, value));
                }
            })
        };
        let first = shared.read();
        let second = shared.read();
        if let (Some((first, _)), Some((second, _))) = (first, second) {
            assert!(first <= second, "time went back");
        }
        writer.join().unwrap();
        assert_eq!(shared.read(), Some((2, 2)));
    });
}

#[test]
fn models_a_reader_of_two_copies_sees_whole_values() {
    two_writes_beside_a_reader();
}

#[test]
fn models_each_part_of_the_reading_and_writing_of_two_copies_is_needed() {
    for step in [
        "twin: read without acquire",
        "twin: look again without the fence",
        "twin: do not look again",
        "twin: write without the fence",
        "twin: write the copy that counts",
        "twin: flip without release",
        "twin: flip before the copy",
    ] {
        assert!(with_broken(step, two_writes_beside_a_reader), "{step}");
    }
}

/// A writer of 7 dies at its access `k` beside a reader; then somebody writes 8.
fn a_writer_dies_at(k: u32) {
    model_with(2, move || {
        let shared = Shared::new();
        let victim = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ended = with_budget(k, || shared.write(1, None, 7));
                shared.recover();
                let found = shared.read().map(|(value, _)| value);
                // Killed after the commit it has written as well.
                match ended {
                    Ok(written) => assert!(written),
                    Err(Killed) => assert!(found.is_none_or(|value| [0, 7, 8].contains(&value))),
                }
            })
        };
        if let Some((value, _)) = shared.read() {
            assert!(value == 0 || value == 7);
        }
        assert!(shared.write(2, None, 8));
        victim.join().unwrap();
        assert!(shared.read().is_some_and(|(value, _)| value == 8 || value == 7));
        // The lock is free, whoever had it last.
        assert!(shared.write(3, None, 9));
        assert_eq!(shared.read().map(|(value, _)| value), Some(9));
    });
}

fn writers_die() {
    (0..=6).for_each(a_writer_dies_at);
}

#[test]
fn models_a_killed_writer_leaves_the_old_value_or_the_new_one() {
    writers_die();
}

#[test]
fn models_writing_in_place_is_noticed_when_the_writer_dies() {
    assert!(with_broken("twin: write the copy that counts", writers_die));
}

#[test]
fn models_a_flip_before_the_copy_is_noticed_when_the_writer_dies() {
    assert!(with_broken("twin: flip before the copy", writers_die));
}

/// Two who add 1, one of whom dies: each sum that was said to be done is in the value.
fn an_updater_dies_at(k: u32) {
    model_with(2, move || {
        let shared = Shared::new();
        let victim = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ended = with_budget(k, || shared.update(1));
                shared.recover();
                ended.is_ok()
            })
        };
        shared.update(2);
        let done = victim.join().unwrap();
        let (sum, writes) = shared.read().unwrap();
        assert_eq!(u64::from(sum), writes, "an update was lost");
        assert!(if done { sum == 2 } else { (1..=2).contains(&sum) }, "{sum}");
    });
}

#[test]
fn models_no_update_is_lost_whoever_dies() {
    for k in [99, 0, 2, 4, 5, 6, 7, 8, 9, 10] {
        an_updater_dies_at(k);
    }
}

#[test]
fn models_an_update_that_does_not_compare_is_noticed() {
    assert!(with_broken("twin: write whatever came between", || an_updater_dies_at(99)));
}
