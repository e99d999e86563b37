//! Every interleaving of two parties of a barrier, one of whom dies, and of a reset.

use super::*;
use crate::sync::barrier::{Arrival, BarrierBlock};
use crate::sys::atomic::kill_point;

struct Shared {
    barrier: BarrierBlock,
    wait: WaitBlock,
    values: [UnsafeCell<u32>; 2],
}

impl Shared {
    fn new() -> Arc<Self> {
        let values = [UnsafeCell::new(0), UnsafeCell::new(0)];
        Arc::new(Self { barrier: BarrierBlock::new(2, u64::MAX), wait: WaitBlock::new(), values })
    }

    fn outcome(&self, generation: u32) -> bool {
        let mut outcome = None;
        self.wait.sleep_until(&Alive, || {
            outcome = self.barrier.outcome(generation);
            outcome.is_some()
        });
        outcome.unwrap()
    }

    /// A whole wait; whether it passed.
    fn meet(&self, me: Lane, acts: bool, acting: &AtomicU32) -> bool {
        // SAFETY: the other party looks after the meeting only; loom checks that.
        self.values[usize::from(me) - 1].with_mut(|v| unsafe { *v = 1 });
        let passed = match self.barrier.arrive(me, acts, &self.wait, &Alive) {
            Arrival::Inside { generation, .. } => self.outcome(generation),
            Arrival::Last { generation } => {
                acting.store(1, Relaxed);
                kill_point();
                self.barrier.finish(generation, me, &self.wait, &Alive)
            }
            Arrival::Broken => false,
            Arrival::NotYet => unreachable!("nobody comes a second time"),
        };
        if passed {
            // SAFETY: the other party wrote it before it came.
            assert_eq!(self.values[2 - usize::from(me)].with(|v| unsafe { *v }), 1);
        }
        passed
    }
}

fn a_party_dies_at(k: u32, acts: bool) {
    model_with(2, move || {
        let shared = Shared::new();
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                let acting = AtomicU32::new(0);
                let ended = with_budget(k, || shared.meet(1, acts, &acting));
                if ended.is_err() {
                    // The end of a process that acts is not always a death that its users are told of.
                    if !shared.barrier.recover(&|lane| lane == 1) && acting.peek() == 0 {
                        shared.barrier.shatter(None, &shared.wait, &Alive);
                    }
                    shared.wait.notify_all();
                }
                ended.ok()
            })
        };
        let passed = shared.meet(2, acts, &AtomicU32::new(0));
        if let Some(other_passed) = other.join().unwrap() {
            assert!(passed && other_passed, "both live, so both pass");
        }
    });
}

fn all() {
    for k in [99].into_iter().chain(0..10) {
        a_party_dies_at(k, false);
        a_party_dies_at(k, true);
    }
}

fn a_reset_while_one_waits() {
    model(|| {
        let shared = Shared::new();
        let Arrival::Inside { generation, index: 0 } = shared.barrier.arrive(1, false, &shared.wait, &Alive) else {
            unreachable!("the first of two")
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || shared.barrier.reset(0, &shared.wait, &Alive))
        };
        assert!(!shared.outcome(generation), "it did not pass");
        other.join().unwrap();
        assert_eq!((shared.barrier.arrived(), shared.barrier.is_broken()), (0, None));
    });
}

/// Somebody breaks the barrier while two meet, and dies at its access `k`.
fn an_abort_that_dies_at(k: u32) {
    model_with(2, move || {
        let shared = Shared::new();
        let breaker = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ended = with_budget(k, || shared.barrier.shatter(None, &shared.wait, &Alive));
                if ended.is_err() {
                    shared.barrier.shatter(None, &shared.wait, &Alive);
                    shared.wait.notify_all();
                }
            })
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || shared.meet(1, false, &AtomicU32::new(0)))
        };
        let passed = shared.meet(2, false, &AtomicU32::new(0));
        assert_eq!(passed, other.join().unwrap(), "one passed, and the other was told that it had not");
        breaker.join().unwrap();
        assert!(shared.barrier.is_broken().is_some());
    });
}

fn all_aborts() {
    [99].into_iter().chain(0..6).for_each(an_abort_that_dies_at);
}

#[test]
fn models_an_abort_meets_both_or_neither() {
    all_aborts();
}

#[test]
fn models_breaking_what_has_ended_is_noticed() {
    assert!(with_broken("barrier: break whatever has become of it", all_aborts));
}

#[test]
fn models_both_pass_or_are_told() {
    all();
}

#[test]
fn models_a_reset_is_not_taken_for_a_meeting() {
    a_reset_while_one_waits();
}

#[test]
fn models_passing_without_release_is_noticed() {
    assert!(with_broken("barrier: pass without release", all));
}

#[test]
fn models_a_change_that_wakes_nobody_is_noticed() {
    assert!(with_broken("barrier: change without waking", all));
}

#[test]
fn models_forgetting_how_a_meeting_ended_is_noticed() {
    assert!(with_broken("barrier: forget how it ended", a_reset_while_one_waits));
}

#[test]
fn models_leaving_the_act_to_the_dead_is_noticed() {
    assert!(with_broken("barrier: let the dead act", all));
}
