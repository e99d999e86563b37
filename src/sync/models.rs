#![cfg(all(test, loom))]
//! Every interleaving of the locks and the waits, with a death at every shared access. Each model has a twin in which one
//! step of the protocol is left out, and which must fail.

mod barrier;
mod condvar;
mod event;
mod once;
mod rlock;
mod rwlock;
mod semaphore;
mod time_out;
mod twin;
mod watch;

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::mutex::{Locked, MutexBlock};
use super::owner::{Lane, Peers};
use super::wait::WaitBlock;
use crate::sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sys::atomic::{AtomicU32, Killed, with_broken, with_budget};
use crate::sys::models::model_with;

fn model(f: impl Fn() + Sync + Send + 'static) {
    model_with(3, f);
}

/// Peers of whom nobody dies, or whose death somebody else in the model finds.
struct Alive;

impl Peers for Alive {
    fn bury(&self, _lane: Lane) -> bool {
        false
    }

    fn is_lane(&self, _lane: Lane) -> bool {
        true
    }

    fn cpu_of(&self, _lane: Lane) -> Option<u32> {
        None
    }

    fn asymmetric(&self) -> bool {
        false
    }
}

struct Counter {
    lock: MutexBlock,
    value: UnsafeCell<u32>,
}

impl Counter {
    fn new() -> Arc<Self> {
        Arc::new(Self { lock: MutexBlock::new(), value: UnsafeCell::new(0) })
    }

    /// One locked increment; what the lock said.
    fn add(&self, me: Lane) -> Locked {
        let locked = self.lock.lock_at_once(me, &Alive);
        // SAFETY: the lock is held; loom checks that nobody else is here.
        self.value.with_mut(|v| unsafe { *v += 1 });
        self.lock.unlock(true);
        locked
    }
}

fn two_lockers() {
    model(|| {
        let counter = Counter::new();
        let other = {
            let counter = counter.clone();
            thread::spawn(move || counter.add(1))
        };
        assert_eq!(counter.add(2), Locked::Clean);
        assert_eq!(other.join().unwrap(), Locked::Clean);
        // SAFETY: the other thread has ended.
        assert_eq!(counter.value.with(|v| unsafe { *v }), 2);
    });
}

#[test]
fn models_two_lockers_exclude_each_other_and_both_get_in() {
    two_lockers();
}

#[test]
fn models_a_lock_without_acquire_is_noticed() {
    assert!(with_broken("mutex: lock without acquire", two_lockers));
}

#[test]
fn models_an_unlock_that_wakes_nobody_is_noticed() {
    assert!(with_broken("mutex: unlock without waking", two_lockers));
}

/// Lane 1 dies at its access `k` while lane 2 waits; whoever reaps lane 1 recovers the lock beside lane 2.
fn a_locker_dies_at(k: u32) {
    model(move || {
        let counter = Counter::new();
        let victim = {
            let counter = counter.clone();
            thread::spawn(move || {
                let ended = with_budget(k, || counter.add(1));
                let freed = counter.lock.recover(&|lane| lane == 1);
                // Killed between the swap and the wake: the sleeper's bounded sleep ends; here, time does not pass.
                crate::sys::futex::wake_all(counter.lock.word_for_model());
                match ended {
                    Ok(_) => assert!(!freed, "a free lock was recovered"),
                    Err(Killed) => {}
                }
                freed
            })
        };
        let locked = counter.add(2);
        let freed = victim.join().unwrap();
        assert!(locked == Locked::Clean || freed);
        // Whatever happened, the lock works and nobody is told twice: the one who was told declared it whole.
        if freed && locked == Locked::Clean {
            assert_eq!(counter.add(3), Locked::OwnerDied);
        }
        assert_eq!(counter.add(4), Locked::Clean);
    });
}

#[test]
fn models_a_killed_owner_is_recovered_and_the_next_locker_is_told_once() {
    for k in 0..8 {
        a_locker_dies_at(k);
    }
}

#[test]
fn models_a_recovery_that_forgets_the_mark_is_noticed() {
    assert!(with_broken("mutex: recover without the mark", || (0..8).for_each(a_locker_dies_at)));
}

/// Two sleepers for two items, two committers: nobody may sleep for ever.
fn committers_and_sleepers(sleepers: u32) {
    model(move || {
        let shared = Arc::new((WaitBlock::new(), AtomicU32::new(0)));
        let committer = {
            let shared = shared.clone();
            thread::spawn(move || {
                for _ in 0..sleepers {
                    shared.1.fetch_add(1, Release);
                    shared.0.notify(&Alive);
                }
            })
        };
        let take = |shared: &(WaitBlock, AtomicU32)| {
            shared.0.sleep_until(&Alive, || {
                let mut n = shared.1.load(Acquire);
                while n > 0 {
                    match shared.1.compare_exchange(n, n - 1, Acquire, Relaxed) {
                        Ok(_) => return true,
                        Err(seen) => n = seen,
                    }
                }
                false
            });
        };
        let other = (sleepers > 1).then(|| {
            let shared = shared.clone();
            thread::spawn(move || take(&shared))
        });
        take(&shared);
        if let Some(other) = other {
            other.join().unwrap();
        }
        committer.join().unwrap();
    });
}

#[test]
fn models_no_sleeper_is_forgotten() {
    committers_and_sleepers(1);
    committers_and_sleepers(2);
}

#[test]
fn models_a_sleeper_without_the_fence_is_noticed() {
    assert!(with_broken("wait: sleep without the fence", || committers_and_sleepers(1)));
}

#[test]
fn models_a_sleeper_that_trusts_a_bit_without_proof_is_noticed() {
    assert!(with_broken("wait: trust the bit unproven", || committers_and_sleepers(2)));
}

#[test]
fn models_clearing_the_bit_without_waking_all_is_noticed() {
    assert!(with_broken("wait: clear the bit without waking all", || committers_and_sleepers(2)));
}

/// Each commit wakes all; the last one completes what the sleeper waits for.
fn commits_that_wake_all() {
    model(|| {
        let shared = Arc::new((WaitBlock::new(), AtomicU32::new(0)));
        let committer = {
            let shared = shared.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    shared.1.fetch_add(1, Release);
                    shared.0.notify_sleepers(&Alive);
                }
            })
        };
        shared.0.sleep_until(&Alive, || shared.1.load(Acquire) == 2);
        committer.join().unwrap();
    });
}

#[test]
fn models_a_sleeper_that_was_woken_too_early_is_woken_again() {
    commits_that_wake_all();
}

#[test]
fn models_waking_all_before_clearing_the_bit_is_noticed() {
    assert!(with_broken("wait: wake all before clearing the bit", commits_that_wake_all));
}
