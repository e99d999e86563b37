//! Every interleaving of a watcher, a taker and a committer on one word: the taker is never left asleep.

use super::*;
use crate::sync::watch::{Watch, watch_until};
use crate::sys::clock::Deadline;

struct Shared {
    items: WaitBlock,
    /// Items that are there.
    count: AtomicU32,
    /// What else the watcher may go for.
    other: AtomicU32,
}

impl Shared {
    fn take(&self) -> bool {
        let mut n = self.count.load(Acquire);
        while n > 0 {
            match self.count.compare_exchange(n, n - 1, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(seen) => n = seen,
            }
        }
        false
    }

    /// Waits until there is an item, or the other thing has come; takes nothing.
    fn watch(&self) {
        let is_ready = || self.count.load(Acquire) > 0;
        let attempt = || (self.other.load(Acquire) > 0 || is_ready()).then_some(());
        let watches = [Watch { block: &self.items, asymmetric: false }];
        watch_until(&watches, Deadline::NEVER, attempt, |_| is_ready(), || ()).unwrap();
    }
}

/// One item, `watchers` who only look, and one who takes. The watchers end too, for the sake of something else.
fn a_taker_among(watchers: u32) {
    model(move || {
        let new = Shared { items: WaitBlock::new(), count: AtomicU32::new(0), other: AtomicU32::new(0) };
        let shared = Arc::new(new);
        let watching: Vec<_> = (0..watchers)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || shared.watch())
            })
            .collect();
        let committer = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.count.fetch_add(1, Release);
                shared.items.notify(&Alive);
            })
        };
        shared.items.sleep_until(&Alive, || shared.take());
        // Those who have come too late for the item go for this.
        shared.other.store(1, Release);
        shared.items.notify_sleepers(&Alive);
        committer.join().unwrap();
        watching.into_iter().for_each(|watcher| watcher.join().unwrap());
    });
}

#[test]
fn models_a_watcher_passes_its_wake_up_on() {
    a_taker_among(1);
}

#[test]
fn models_a_watcher_that_keeps_its_wake_up_is_noticed() {
    assert!(with_broken("watch: keep the wake-up", || a_taker_among(1)));
}

/// The watcher goes for the sake of something else, with the wake-up of an item in its hands.
fn a_watcher_that_leaves_for_something_else() {
    model(|| {
        let new = Shared { items: WaitBlock::new(), count: AtomicU32::new(0), other: AtomicU32::new(0) };
        let shared = Arc::new(new);
        let watcher = {
            let shared = shared.clone();
            thread::spawn(move || shared.watch())
        };
        let committer = {
            let shared = shared.clone();
            thread::spawn(move || {
                // The other thing comes without a wake-up of its own: the item's wake-up is what the watcher sees it by.
                shared.other.store(1, Release);
                shared.count.fetch_add(1, Release);
                shared.items.notify(&Alive);
            })
        };
        shared.items.sleep_until(&Alive, || shared.take());
        // If the wake-up went to the taker, the watcher is owed one.
        shared.items.notify_sleepers(&Alive);
        committer.join().unwrap();
        watcher.join().unwrap();
    });
}

#[test]
fn models_a_watcher_that_leaves_for_something_else_passes_its_wake_up_on() {
    a_watcher_that_leaves_for_something_else();
}

#[test]
fn models_a_watcher_that_leaves_with_the_wake_up_is_noticed() {
    assert!(with_broken("watch: keep the wake-up", a_watcher_that_leaves_for_something_else));
}
