//! The event: a flag to wait for.
//!
//! # The word
//! It counts the changes: odd is set, even is clear. A waiter that saw an even number goes on when it sees another one,
//! so a `set` wakes it also if a `clear` follows at once.
//!
//! A death means nothing here: nobody owns an event, and whoever is killed between the change and the wake-up leaves
//! sleepers that look again within their bounded sleep.
//!
//! # Memory ordering
//! `set` (Release) matches the load in `is_set` and `wait` (Acquire). It is a read-modify-write also when the event was
//! set already, so a waiter sees what came before every `set`, not only before the first.

use super::wait::{Pace, Swapped, TimedOut, WaitBlock, wait_until};
use crate::sys::atomic::{AtomicU32, Ordering, broken};
use crate::sys::clock::Deadline;

const SET: u32 = 1;

/// An event in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct EventBlock {
    changes: AtomicU32,
}

impl EventBlock {
    /// An event that is not set.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { changes: AtomicU32::new(0) }
    }

    /// Whether it is set. One load: safe in a signal handler.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.changes.load(Ordering::Acquire) & SET != 0
    }

    /// Sets it and wakes all who wait on `wait`. Atomics and at most one system call: safe in a signal handler.
    #[inline]
    pub fn set(&self, wait: &WaitBlock) {
        let order = if broken("event: set without release") { Ordering::Relaxed } else { Ordering::Release };
        if self.changes.fetch_or(SET, order) & SET == 0 && !broken("event: set without waking") {
            wait.notify_sleepers(&Swapped);
        }
    }

    /// Clears it.
    pub fn clear(&self) {
        let mut seen = self.changes.load(Ordering::Relaxed);
        while seen & SET != 0 {
            match self.changes.compare_exchange(seen, seen.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// What a waiter begins with: to be given to [`has_come`](Self::has_come).
    #[inline]
    pub fn moment(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether the event is set, or was since `moment`.
    #[inline]
    pub fn has_come(&self, moment: u32) -> bool {
        let now = self.changes.load(Ordering::Acquire);
        now & SET != 0 || (now != moment && !broken("event: wait for the flag alone"))
    }

    /// Waits until it is set.
    ///
    /// # Errors
    /// [`TimedOut`].
    pub fn wait(&self, wait: &WaitBlock, pace: &Pace, deadline: Deadline) -> Result<(), TimedOut> {
        let moment = self.moment();
        if moment & SET != 0 {
            return Ok(());
        }
        wait_until(wait, pace, &Swapped, None, deadline, || self.has_come(moment).then_some(()), || None)
    }
}
