//! Every interleaving of notifiers and waiters, one of whom dies with a notification.

use super::*;
use crate::sync::condvar::CondvarWords;
use crate::sys::atomic::AtomicU64;

struct Shared {
    turn: AtomicU32,
    waiting: [AtomicU64; 1],
    inside: [AtomicU64; 1],
    slots: [WaitBlock; 3],
}

impl Shared {
    /// Lanes 1 and 2 wait.
    fn new() -> Arc<Self> {
        let shared = Self {
            turn: AtomicU32::new(0),
            waiting: [AtomicU64::new(0)],
            inside: [AtomicU64::new(0)],
            slots: std::array::from_fn(|_| WaitBlock::new()),
        };
        shared.words().enter(1);
        shared.words().enter(2);
        Arc::new(shared)
    }

    fn words(&self) -> CondvarWords<'_> {
        let Self { turn, waiting, inside, slots } = self;
        CondvarWords { turn, waiting, inside, slots }
    }

    fn rest_of_wait(&self, me: Lane) {
        self.words().sleep_at_once(me, &Alive);
        assert!(self.words().stop(me));
        self.words().leave(me);
    }
}

/// One notification for two waiters, and the first one dies at its access `k`; if it lives, it passes the word on.
fn a_waiter_dies_at(k: u32) {
    model_with(2, move || {
        let shared = Shared::new();
        let victim = {
            let shared = shared.clone();
            thread::spawn(move || match with_budget(k, || shared.rest_of_wait(1)) {
                Ok(()) => {
                    shared.words().notify(1, &Alive);
                }
                Err(Killed) => shared.words().recover(&|lane| lane == 1),
            })
        };
        let notifier = {
            let shared = shared.clone();
            thread::spawn(move || {
                let notified = shared.words().notify(1, &Alive);
                // Lane 2 alone, if it got it, cannot pass it on to a living lane 1.
                if notified == 1 && !shared.words().is_notified(1) {
                    shared.words().notify(1, &Alive);
                }
            })
        };
        shared.rest_of_wait(2);
        notifier.join().unwrap();
        victim.join().unwrap();
        assert_eq!((shared.waiting[0].peek(), shared.inside[0].peek()), (0, 0));
    });
}

/// Two notifiers of one each, two waiters.
fn two_notifiers() {
    model_with(2, || {
        let shared = Shared::new();
        let other = {
            let shared = shared.clone();
            thread::spawn(move || shared.words().notify(1, &Alive))
        };
        let notified = shared.words().notify(1, &Alive) + other.join().unwrap();
        // Both may have aimed at the same lane, and one of them found nobody else in what it had read.
        assert!(notified <= 2);
        let waiting = shared.words().waiters();
        assert_eq!(notified + waiting, 2, "a notification went to nobody");
    });
}

fn all() {
    (0..7).for_each(a_waiter_dies_at);
}

#[test]
fn models_no_notification_dies_with_a_waiter() {
    all();
}

#[test]
fn models_each_notification_goes_to_one_waiter() {
    two_notifiers();
}

#[test]
fn models_a_notification_that_the_dead_keep_is_noticed() {
    assert!(with_broken("condvar: let the dead keep a notification", all));
}

#[test]
fn models_a_notification_counted_twice_is_noticed() {
    assert!(with_broken("condvar: count whom another notified", two_notifiers));
}
