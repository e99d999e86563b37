//! Locks of a segment that are held for microseconds: who keeps one is stopped, or there is no such process.

use std::time::Duration;

use super::Inner;
use crate::error::{Error, ErrorKind};
use crate::sync::{Lane, Locked, MutexBlock, NOBODY};
use crate::sys::clock::Deadline;

/// How long such a lock is waited for at a time.
const ROUND: Duration = Duration::from_millis(50);

/// How many times. Fuzzing spoils locks so that they name a live holder, and has no time for each.
const ROUNDS: u32 = if cfg!(fuzzing) { 1 } else { 100 };

impl Inner {
    /// Takes the lock of `what` for `lane`.
    pub(super) fn lock_briefly(&self, lock: &MutexBlock, lane: Lane, what: &'static str) -> Result<Locked, Error> {
        for _ in 0..ROUNDS {
            if let Ok(locked) = lock.lock(lane, self, Deadline::after(ROUND)) {
                return Ok(locked);
            }
            let holder = lock.holder();
            if holder == lane || holder != NOBODY && self.lane_owner(holder).is_none() {
                return Err(Error::corrupt(what, "lock", format!("held by lane {holder}"), "a lane in use"));
            }
        }
        let holder = self.lane_holder(lock.holder()).map_or("nobody".into(), |holder| holder.to_string());
        let message = format!("{holder} holds it and does not run");
        Err(Error::new(ErrorKind::Stalled, format!("lock the {what} of the segment"), message))
    }
}
