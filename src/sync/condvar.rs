//! The condition variable: who waits is a bit, and who is notified is the lane whose bit a notifier took.
//!
//! A waiter sets two bits of its lane, `inside` and then `waiting`, gives the lock up, and sleeps on a word of its own
//! until its bit in `waiting` is gone. A notifier takes as many bits away as it wants to wake, each by one instruction
//! that tells whether it was there. So a notification goes to exactly one waiter, and a waiter whose time is over takes
//! its own bit: if that was gone already, it has been notified. `inside` is cleared when the waiter has the lock again.
//!
//! | killed | left behind | outcome |
//! |---|---|---|
//! | a waiter, not notified | both bits | recovery clears them |
//! | a waiter, notified | `inside` alone | it may have swallowed the notification: recovery wakes everybody |
//! | a notifier, after it took a bit | a waiter that was not woken | its sleep is bounded |
//!
//! A waiter may also be woken for no reason; see the contract of the handle.
//!
//! # Memory ordering
//! `waiting` is set before the lock is given up, and whoever notifies after having had the lock sees it there (the lock's
//! Release and Acquire). A taken bit (AcqRel) matches the waiter's look at it (Acquire).

use super::lanes::LaneSet;
use super::owner::{IsDead, Lane, Peers};
use super::wait::{Pace, TimedOut, WaitBlock, wait_until};
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering, broken};
use crate::sys::clock::Deadline;

/// The words of a condition variable.
#[derive(Clone, Copy)]
pub struct CondvarWords<'a> {
    /// The lane at which the next notification begins to look: so everybody's turn comes.
    pub turn: &'a AtomicU32,
    /// Lanes that wait and have not been notified.
    pub waiting: &'a [AtomicU64],
    /// Lanes between the begin and the end of a wait.
    pub inside: &'a [AtomicU64],
    /// What each lane sleeps on.
    pub slots: &'a [WaitBlock],
}

impl CondvarWords<'_> {
    fn waiting(&self) -> LaneSet<'_> {
        LaneSet(self.waiting)
    }

    /// Begins a wait; called with the lock held.
    pub fn enter(&self, me: Lane) {
        LaneSet(self.inside).insert(me, Ordering::AcqRel);
        self.waiting().insert(me, Ordering::AcqRel);
    }

    /// Whether the lane has been notified since it entered.
    pub fn is_notified(&self, me: Lane) -> bool {
        !self.waiting().contains(me, Ordering::Acquire)
    }

    /// Waits for a notification, or until `give_up` says that there may never be one; called without the lock.
    ///
    /// # Errors
    /// [`TimedOut`]. Whether the lane was notified in the last moment is [`stop`](Self::stop)'s to say.
    pub fn sleep(
        &self,
        me: Lane,
        pace: &Pace,
        peers: &impl Peers,
        deadline: Deadline,
        give_up: impl Fn() -> bool,
        mut idle: impl FnMut(),
    ) -> Result<(), TimedOut> {
        let attempt = || (self.is_notified(me) || give_up()).then_some(());
        wait_until(&self.slots[usize::from(me)], pace, peers, None, deadline, attempt, || {
            idle();
            None
        })
    }

    /// Ends the wait for a notification; true if there was one.
    pub fn stop(&self, me: Lane) -> bool {
        let notified = !self.waiting().remove(me, Ordering::AcqRel);
        notified && !broken("condvar: give up a notification")
    }

    /// Ends the wait altogether; called with the lock held, so that whoever is killed up to here has not acted on what
    /// it was notified of.
    pub fn leave(&self, me: Lane) {
        LaneSet(self.inside).remove(me, Ordering::Release);
    }

    /// Notifies up to `most` waiters. How many there were.
    pub fn notify(&self, most: usize, peers: &impl Peers) -> usize {
        let set = self.waiting();
        let mut notified = 0;
        if most == 0 {
            return 0;
        }
        for lane in set.iter_from(self.turn.load(Ordering::Relaxed) as Lane) {
            // Somebody else may have notified it meanwhile, or its time was over.
            if set.remove(lane, Ordering::AcqRel) || broken("condvar: count whom another notified") {
                self.slots[usize::from(lane)].notify(peers);
                notified += 1;
                if notified == most {
                    self.turn.store(u32::from(lane) + 1, Ordering::Relaxed);
                    break;
                }
            }
        }
        notified
    }

    /// Lanes that wait now.
    pub fn waiters(&self) -> usize {
        self.waiting().iter().count()
    }

    /// Takes dead lanes out; if one of them may have swallowed a notification, everybody is notified.
    pub fn recover(&self, dead: IsDead<'_>) {
        let (inside, waiting) = (LaneSet(self.inside), self.waiting());
        for lane in inside.iter().filter(|lane| dead(*lane)) {
            let swallowed = !waiting.remove(lane, Ordering::AcqRel);
            if swallowed && !broken("condvar: let the dead keep a notification") {
                waiting.iter().for_each(|lane| {
                    if waiting.remove(lane, Ordering::AcqRel) {
                        self.slots[usize::from(lane)].notify_all();
                    }
                });
            }
            // Last: a recoverer that is killed before this leaves the lane for the next, which finds it without its bit
            // and notifies everybody, once too often at most.
            inside.remove(lane, Ordering::Release);
        }
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "only the models go through here")]
pub(super) mod model_doors {
    use super::*;

    impl CondvarWords<'_> {
        /// A whole sleep without spinning or deadline.
        pub(in crate::sync) fn sleep_at_once(&self, me: Lane, peers: &impl Peers) {
            self.slots[usize::from(me)].sleep_until(peers, || self.is_notified(me));
        }
    }
}
