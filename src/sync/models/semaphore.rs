//! Every interleaving of two holders of permits, one of whom dies: no permit is lost or invented.

use super::*;
use crate::sync::semaphore::{SemaphoreBlock, SemaphoreWords};
use crate::sys::atomic::AtomicU64;

struct Shared {
    block: SemaphoreBlock,
    held: [AtomicU64; 3],
    wait: WaitBlock,
}

impl Shared {
    fn words(&self) -> SemaphoreWords<'_> {
        SemaphoreWords { block: &self.block, held: &self.held, wait: &self.wait }
    }

    fn use_one(&self, me: Lane) {
        self.words().acquire_at_once(me, &Alive);
        self.words().release(me, &Alive);
    }
}

fn a_holder_dies_at(k: u32, permits: u32) {
    model_with(2, move || {
        let shared = Arc::new(Shared {
            block: SemaphoreBlock::new(permits, permits, false),
            held: std::array::from_fn(|_| AtomicU64::new(0)),
            wait: WaitBlock::new(),
        });
        let victim = {
            let shared = shared.clone();
            thread::spawn(move || {
                if with_budget(k, || shared.use_one(1)).is_err() {
                    shared.words().recover(&|lane| lane == 1);
                    shared.wait.notify_all();
                }
            })
        };
        shared.words().acquire_at_once(2, &Alive);
        assert_eq!(shared.words().held_for_model(2), 1);
        shared.words().release(2, &Alive);
        victim.join().unwrap();
        assert_eq!(shared.block.count(), permits);
        assert_eq!((shared.words().held_for_model(1), shared.words().held_for_model(2)), (0, 0));
        assert!(shared.words().add(&Alive).is_err());
    });
}

fn all() {
    for k in [99].into_iter().chain(0..24) {
        a_holder_dies_at(k, 1);
        a_holder_dies_at(k, 2);
    }
}

#[test]
fn models_no_permit_is_lost_or_invented() {
    all();
}

#[test]
fn models_settling_twice_is_noticed() {
    assert!(with_broken("semaphore: settle twice", all));
}

#[test]
fn models_replacing_what_is_not_settled_is_noticed() {
    assert!(with_broken("semaphore: replace what is not settled", all));
}

#[test]
fn models_recovering_what_is_not_settled_is_noticed() {
    assert!(with_broken("semaphore: recover what is not settled", all));
}

#[test]
fn models_a_release_that_wakes_nobody_is_noticed() {
    assert!(with_broken("semaphore: release without waking", all));
}
