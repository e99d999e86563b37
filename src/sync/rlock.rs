//! The lock that its owner may take again: a lock word, and how often its owner has it.
//!
//! Only the owner writes `level`, and it overwrites it when it takes the lock anew, so whatever a dead owner left there
//! means nothing, and recovery frees the lock word as a mutex's and does no more.
//!
//! `level = depth:31 | suspect:1`. The bit says that an owner died with the lock and nobody has declared what it protects
//! whole since; all guards of the owner see it there.
//!
//! # Memory ordering
//! `level` is ordered by the lock word; others read it only to print it.

use super::mutex::{Locked, MutexBlock};
use super::owner::{IsDead, Lane, Peers};
use super::wait::TimedOut;
use crate::sys::atomic::{AtomicU32, Ordering, broken};
use crate::sys::clock::Deadline;

const SUSPECT: u32 = 1;
const ONCE: u32 = 2;

/// A lock of many levels in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct RLockBlock {
    lock: MutexBlock,
    level: AtomicU32,
}

/// How often a lock was held that [`RLockBlock::release`] gave up.
#[derive(Clone, Copy, Debug)]
pub struct Levels(u32);

impl RLockBlock {
    /// A free lock.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { lock: MutexBlock::new(), level: AtomicU32::new(0) }
    }

    /// The lock word.
    pub fn lock_word(&self) -> &MutexBlock {
        &self.lock
    }

    /// How often its owner has it; old as soon as it is known, unless the caller is the owner.
    pub fn depth(&self) -> u32 {
        self.level.load(Ordering::Relaxed) / ONCE
    }

    /// Takes the lock if it is free or the caller's own.
    #[inline]
    pub fn try_lock(&self, me: Lane) -> Option<Locked> {
        if self.lock.holder() == me {
            return Some(self.again());
        }
        self.lock.try_lock(me).map(|locked| self.enter(locked, ONCE))
    }

    /// Takes the lock, waiting for it until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`].
    #[inline]
    pub fn lock(&self, me: Lane, peers: &impl Peers, deadline: Deadline) -> Result<Locked, TimedOut> {
        if self.lock.holder() == me {
            return Ok(self.again());
        }
        Ok(self.enter(self.lock.lock(me, peers, deadline)?, ONCE))
    }

    /// One level more for the owner.
    fn again(&self) -> Locked {
        let level = self.level.load(Ordering::Relaxed);
        // Only a damaged level is near the end; it stays there.
        self.level.store(level.checked_add(ONCE).unwrap_or(level), Ordering::Relaxed);
        if level & SUSPECT != 0 { Locked::OwnerDied } else { Locked::Clean }
    }

    /// The first level of a new owner, or all it had before.
    fn enter(&self, locked: Locked, levels: u32) -> Locked {
        // What a dead owner left in `level` is overwritten here.
        let level = if broken("rlock: keep the levels of the dead") { self.level.load(Ordering::Relaxed) } else { 0 };
        self.level.store((level + levels) | u32::from(locked == Locked::OwnerDied), Ordering::Relaxed);
        locked
    }

    /// Gives back one level; the last one frees the lock.
    #[inline]
    pub fn unlock(&self) {
        let level = self.level.load(Ordering::Relaxed).saturating_sub(ONCE);
        self.level.store(level, Ordering::Relaxed);
        if level < ONCE {
            self.lock.unlock(level & SUSPECT == 0);
        }
    }

    /// The owner declares what the lock protects whole.
    pub fn mark_consistent(&self) {
        self.level.store(self.level.load(Ordering::Relaxed) & !SUSPECT, Ordering::Relaxed);
    }

    /// Gives back all levels at once, to be taken again by [`retake`](Self::retake).
    pub fn release(&self) -> Levels {
        let level = self.level.load(Ordering::Relaxed);
        self.level.store(level & SUSPECT, Ordering::Relaxed);
        self.lock.unlock(level & SUSPECT == 0);
        Levels(level & !SUSPECT)
    }

    /// Takes the lock as often as it was held before [`release`](Self::release).
    ///
    /// # Errors
    /// [`TimedOut`].
    pub fn retake(&self, levels: Levels, me: Lane, peers: &impl Peers, deadline: Deadline) -> Result<Locked, TimedOut> {
        Ok(self.enter(self.lock.lock(me, peers, deadline)?, levels.0))
    }

    /// Frees the lock of an owner that is proven dead, and marks that. True if there was one.
    pub fn recover(&self, dead: IsDead<'_>) -> bool {
        self.lock.recover(dead)
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "only the models go through here")]
pub(super) mod model_doors {
    use super::*;

    impl RLockBlock {
        /// A whole lock without spinning or deadline.
        pub(in crate::sync) fn lock_at_once(&self, me: Lane, peers: &impl Peers) -> Locked {
            if self.lock.holder() == me {
                return self.again();
            }
            self.enter(self.lock.lock_at_once(me, peers), ONCE)
        }
    }
}
