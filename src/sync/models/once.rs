//! Every interleaving of two callers of a once, one of whom dies.

use super::*;
use crate::sync::once::{Begin, OnceBlock, Previous};
use crate::sys::atomic::kill_point;

struct Shared {
    once: OnceBlock,
    wait: WaitBlock,
    /// 0: untouched, 1: half done, 2: done.
    value: UnsafeCell<u32>,
}

impl Shared {
    /// A whole call; whether it ran.
    fn call(&self, me: Lane) -> bool {
        let mut begin = self.once.begin(me);
        if let Begin::Running(_) = begin {
            self.wait.sleep_until(&Alive, || {
                begin = self.once.begin(me);
                !matches!(begin, Begin::Running(_))
            });
        }
        // SAFETY: either it is done, or this thread runs it; loom checks that.
        let value = self.value.with(|v| unsafe { *v });
        match begin {
            Begin::Done => assert_eq!(value, 2),
            Begin::Run(previous) => {
                assert!(value != 1 || previous == Previous::Died, "half done, and the next runner was not told");
                // SAFETY: as above.
                self.value.with_mut(|v| unsafe { *v = 1 });
                kill_point();
                // SAFETY: as above.
                self.value.with_mut(|v| unsafe { *v = 2 });
                self.once.finish(true, &self.wait, &Alive);
                return true;
            }
            Begin::Running(_) => unreachable!(),
        }
        false
    }
}

fn a_runner_dies_at(k: u32) {
    model(move || {
        let new = Shared { once: OnceBlock::new(), wait: WaitBlock::new(), value: UnsafeCell::new(0) };
        let shared = Arc::new(new);
        let victim = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ended = with_budget(k, || shared.call(1));
                if ended.is_err() {
                    shared.once.recover(&|lane| lane == 1);
                    shared.wait.notify_all();
                }
                ended.is_ok_and(|ran| ran)
            })
        };
        let ran = shared.call(2);
        let other_ran = victim.join().unwrap();
        assert!(!(ran && other_ran), "both ran it to the end");
        assert!(shared.once.is_done());
    });
}

fn all() {
    for k in [99, 0, 1, 2, 3, 4, 5, 6, 7, 8] {
        a_runner_dies_at(k);
    }
}

#[test]
fn models_a_once_is_done_once_and_the_next_runner_is_told_of_a_death() {
    all();
}

#[test]
fn models_a_finish_without_release_is_noticed() {
    assert!(with_broken("once: finish without release", all));
}

#[test]
fn models_a_finish_that_wakes_nobody_is_noticed() {
    assert!(with_broken("once: finish without waking", all));
}

#[test]
fn models_a_recovery_that_hides_the_death_is_noticed() {
    assert!(with_broken("once: recover as if nobody had begun", all));
}
