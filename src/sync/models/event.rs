//! Every interleaving of an event's setter and waiter.

use super::*;
use crate::sync::event::EventBlock;
use crate::sync::wait::Swapped;

struct Shared {
    event: EventBlock,
    wait: WaitBlock,
    value: UnsafeCell<u32>,
}

/// Lane 1 writes, sets and clears, and may die at its access `k`; then it is recovered and somebody sets once more.
fn a_waiter_and_a_setter_that_dies_at(k: u32) {
    model(move || {
        let new = Shared { event: EventBlock::new(), wait: WaitBlock::new(), value: UnsafeCell::new(0) };
        let shared = Arc::new(new);
        let moment = shared.event.moment();
        let setter = {
            let shared = shared.clone();
            thread::spawn(move || {
                // SAFETY: the waiter looks after the event only; loom checks that.
                shared.value.with_mut(|v| unsafe { *v = 1 });
                let ended = with_budget(k, || {
                    shared.event.set(&shared.wait);
                    shared.event.clear();
                });
                if let Err(Killed) = ended {
                    shared.wait.notify_all();
                    shared.event.set(&shared.wait);
                }
            })
        };
        shared.wait.sleep_until(&Swapped, || shared.event.has_come(moment));
        // SAFETY: written before the event was set.
        assert_eq!(shared.value.with(|v| unsafe { *v }), 1);
        setter.join().unwrap();
    });
}

fn all() {
    for k in [99, 0, 1, 2, 3, 4, 5, 6] {
        a_waiter_and_a_setter_that_dies_at(k);
    }
}

#[test]
fn models_a_waiter_sees_each_set_however_short() {
    all();
}

#[test]
fn models_a_set_without_release_is_noticed() {
    assert!(with_broken("event: set without release", all));
}

#[test]
fn models_a_set_that_wakes_nobody_is_noticed() {
    assert!(with_broken("event: set without waking", all));
}

#[test]
fn models_a_wait_for_the_flag_alone_is_noticed() {
    assert!(with_broken("event: wait for the flag alone", all));
}

#[test]
fn models_a_sleep_without_the_fence_is_noticed() {
    assert!(with_broken("wait: sleep without the fence", all));
}
