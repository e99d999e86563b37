//! Every interleaving of two lockers, one of whom has the lock twice and dies.

use super::*;
use crate::sync::rlock::RLockBlock;

struct Shared {
    lock: RLockBlock,
    value: UnsafeCell<u32>,
}

impl Shared {
    fn twice(&self, me: Lane) -> Locked {
        let locked = self.lock.lock_at_once(me, &Alive);
        let _ = self.lock.lock_at_once(me, &Alive);
        assert_eq!(self.lock.depth(), 2, "the levels of somebody else");
        // SAFETY: the lock is held; loom checks that nobody else is here.
        self.value.with_mut(|v| unsafe { *v += 1 });
        self.lock.unlock();
        // SAFETY: as above.
        self.value.with_mut(|v| unsafe { *v += 1 });
        if locked == Locked::OwnerDied {
            self.lock.mark_consistent();
        }
        self.lock.unlock();
        locked
    }
}

fn an_owner_dies_at(k: u32) {
    model_with(2, move || {
        let shared = Arc::new(Shared { lock: RLockBlock::new(), value: UnsafeCell::new(0) });
        let victim = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ended = with_budget(k, || shared.twice(1));
                let freed = shared.lock.recover(&|lane| lane == 1);
                crate::sys::futex::wake_all(shared.lock.lock_word().word_for_model());
                assert!(!freed || ended.is_err(), "a free lock was recovered");
                freed
            })
        };
        let locked = shared.twice(2);
        let freed = victim.join().unwrap();
        if freed && locked == Locked::Clean {
            assert_eq!(shared.twice(3), Locked::OwnerDied);
        }
        assert_eq!(shared.twice(4), Locked::Clean);
    });
}

fn all() {
    for k in [99, 0, 1, 2, 4, 6, 8, 10, 12] {
        an_owner_dies_at(k);
    }
}

#[test]
fn models_the_levels_of_a_dead_owner_mean_nothing() {
    all();
}

#[test]
fn models_keeping_the_levels_of_the_dead_is_noticed() {
    assert!(with_broken("rlock: keep the levels of the dead", all));
}
