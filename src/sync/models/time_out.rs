//! Every interleaving of a waiter that gives up, wherever its time is over, with others: no wake-up is lost with it.

use std::time::Duration;

use super::*;
use crate::sync::condvar::CondvarWords;
use crate::sync::wait::{Pace, wait_until};
use crate::sys::atomic::AtomicU64;
use crate::sys::clock::{Deadline, TimeUp, with_time_up};

/// All places where it may be over.
fn hours() -> impl Iterator<Item = TimeUp> {
    let looks = (0..7).map(TimeUp::AtLook);
    looks.chain((0..2).flat_map(|n| [TimeUp::Asleep(n), TimeUp::Woken(n)]))
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(1))
}

/// The lock is held, and two want it: one that gives up, and one that does not.
fn a_locker_gives_up(time_up: TimeUp) {
    model_with(2, move || {
        let lock = Arc::new(MutexBlock::new());
        assert_eq!(lock.try_lock(3), Some(Locked::Clean));
        let other = {
            let lock = lock.clone();
            thread::spawn(move || {
                if with_time_up(time_up, || lock.lock_until(1, &Alive, soon())).is_ok() {
                    lock.unlock(true);
                }
            })
        };
        let patient = {
            let lock = lock.clone();
            thread::spawn(move || {
                let _ = lock.lock_at_once(2, &Alive);
                lock.unlock(true);
            })
        };
        lock.unlock(true);
        other.join().unwrap();
        patient.join().unwrap();
        assert_eq!(lock.holder(), 0);
    });
}

/// A number of things to take, and a word to sleep on for them.
struct Things {
    count: AtomicU32,
    wait: WaitBlock,
}

impl Things {
    fn try_take(&self) -> Option<()> {
        self.count.compare_exchange(1, 0, Acquire, Relaxed).ok().map(|_| ())
    }

    fn give(&self) {
        self.count.store(1, Release);
        self.wait.notify(&Alive);
    }
}

/// One thing comes; whoever gets it gives it back.
fn a_taker_gives_up(time_up: TimeUp) {
    model_with(2, move || {
        let things = Arc::new(Things { count: AtomicU32::new(0), wait: WaitBlock::new() });
        let other = {
            let things = things.clone();
            thread::spawn(move || {
                let (wait, pace) = (&things.wait, Pace::asleep());
                let taken = with_time_up(time_up, || {
                    wait_until(wait, &pace, &Alive, None, soon(), || things.try_take(), || None)
                });
                if taken.is_ok() {
                    things.give();
                }
            })
        };
        let patient = {
            let things = things.clone();
            thread::spawn(move || {
                things.wait.sleep_until(&Alive, || things.try_take().is_some());
                things.give();
            })
        };
        things.give();
        other.join().unwrap();
        patient.join().unwrap();
        assert_eq!(things.count.peek(), 1);
    });
}

struct Waiters {
    turn: AtomicU32,
    waiting: [AtomicU64; 1],
    inside: [AtomicU64; 1],
    slots: [WaitBlock; 3],
}

impl Waiters {
    fn words(&self) -> CondvarWords<'_> {
        let Self { turn, waiting, inside, slots } = self;
        CondvarWords { turn, waiting, inside, slots }
    }
}

/// One notification for two waiters; the one that gives up passes it on if it was notified all the same.
fn a_waiter_gives_up(time_up: TimeUp) {
    model_with(2, move || {
        let waiters = Arc::new(Waiters {
            turn: AtomicU32::new(0),
            waiting: [AtomicU64::new(0)],
            inside: [AtomicU64::new(0)],
            slots: std::array::from_fn(|_| WaitBlock::new()),
        });
        [1, 2].into_iter().for_each(|lane| waiters.words().enter(lane));
        let other = {
            let waiters = waiters.clone();
            thread::spawn(move || {
                let (words, pace) = (waiters.words(), Pace::asleep());
                let slept = with_time_up(time_up, || words.sleep(1, &pace, &Alive, soon(), || false, || ()));
                let notified = words.stop(1);
                assert!(notified || slept.is_err(), "a wait ended for no reason");
                words.leave(1);
                if notified {
                    words.notify(1, &Alive);
                }
            })
        };
        let patient = {
            let waiters = waiters.clone();
            thread::spawn(move || {
                waiters.words().sleep_at_once(2, &Alive);
                assert!(waiters.words().stop(2));
                waiters.words().leave(2);
            })
        };
        assert_eq!(waiters.words().notify(1, &Alive), 1);
        other.join().unwrap();
        patient.join().unwrap();
    });
}

#[test]
fn models_a_locker_that_gives_up_leaves_the_lock_to_others() {
    hours().for_each(a_locker_gives_up);
}

#[test]
fn models_a_taker_that_gives_up_leaves_the_thing_to_others() {
    hours().for_each(a_taker_gives_up);
}

#[test]
fn models_a_waiter_that_gives_up_leaves_the_notification_to_others() {
    hours().for_each(a_waiter_gives_up);
}

#[test]
fn models_a_locker_that_gives_up_without_a_last_look_is_noticed() {
    assert!(with_broken("mutex: give up without a last look", || hours().for_each(a_locker_gives_up)));
}

#[test]
fn models_a_wait_that_ends_without_a_last_look_is_noticed() {
    assert!(with_broken("wait: give up without a last look", || hours().for_each(a_taker_gives_up)));
}

#[test]
fn models_a_notification_that_is_given_up_is_noticed() {
    assert!(with_broken("condvar: give up a notification", || hours().for_each(a_waiter_gives_up)));
}
