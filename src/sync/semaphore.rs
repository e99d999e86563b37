//! The counting semaphore: permits that know their holders, so that none is lost or invented whoever dies.
//!
//! # The words
//! `state = count:32 | ticks:20 | step:2 | lane:10`, `held[lane] = count:32 | ticks:32`.
//!
//! `state` is the one word that an operation changes: its CAS is the commit. It says how many permits are free, and what
//! the last operation was: which lane, its how-manieth, and what it does to `held[lane]`. Whoever comes next first
//! *settles* that: if `held[lane]` is one tick behind, it gets the effect and the tick, in one CAS. So `held` trails
//! `state` by at most one operation, which `state` itself describes, and anybody can catch up for a lane that was killed
//! or stopped there. There is no lock inside that somebody could be stopped with.
//!
//! | step | by | `count` | `held[lane].count` |
//! |---|---|---|---|
//! | TAKE | acquire | -1 | +1 |
//! | GIVE | release of a permit, or a permit that is forgotten (`count` stays) | +1 | -1 |
//! | CLEAR | recovery | + what the lane held | 0 |
//! | (lane 0) | release without a permit | +1 | |
//!
//! Killed before the CAS on `state`: nothing happened. After it: it happened, and recovery settles it, then returns what
//! the lane holds.
//!
//! **Invariant:** with everything settled, `count` plus the sum of `held` changes by releases without a permit and by
//! forgotten permits only.
//!
//! # Why a late helper does no harm
//! It read `state`, then `held[lane]` one tick behind, then `state` again. Nobody replaces `state` before it is settled,
//! so if `held` has moved on since, the helper's CAS fails (ticks have 32 bits there), and if not, it is due.
//!
//! The lane itself settles by a plain store: only its own next operation can move `held[lane]` further than a helper
//! would. Recovery acts for lanes of the dead, as the only one.
//!
//! # Memory ordering
//! All changes of `state` and `held` are AcqRel and all loads Acquire: who sees a tick in `held` sees the `state` that it
//! came from or a later one. A release matches the acquire that follows it through `state`.

use super::owner::{IsDead, LANE_MASK, Lane, NOBODY, Peers};
use super::wait::{Pace, TimedOut, WaitBlock, wait_until};
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering, broken, store_beside};
use crate::sys::clock::Deadline;

const TAKE: u64 = 0;
const GIVE: u64 = 1;
const CLEAR: u64 = 2;
const TICKS: u64 = (1 << 20) - 1;

fn pack(count: u32, ticks: u64, step: u64, lane: Lane) -> u64 {
    u64::from(count) << 32 | (ticks & TICKS) << 12 | step << 10 | u64::from(lane)
}

fn count_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn lane_of(state: u64) -> Lane {
    (state as u32 & LANE_MASK) as Lane
}

fn ticks_of(state: u64) -> u64 {
    state >> 12 & TICKS
}

/// `held` after the step that `state` describes.
fn applied(state: u64, held: u64) -> u64 {
    let count = match state >> 10 & 3 {
        TAKE => count_of(held).saturating_add(1),
        GIVE => count_of(held).saturating_sub(1),
        _ => 0,
    };
    u64::from(count) << 32 | u64::from((held as u32).wrapping_add(1))
}

/// Whether `held` of the lane of `state` lacks what `state` describes.
fn is_due(state: u64, held: u64) -> bool {
    held & TICKS == ticks_of(state).wrapping_sub(1) & TICKS
}

/// A release of more than was ever there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess;

/// The fixed part of a semaphore in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct SemaphoreBlock {
    state: AtomicU64,
    /// Most permits there may be; for a semaphore that is not bounded the largest number.
    limit: AtomicU32,
    /// No lane above this one has held a permit.
    high: AtomicU32,
    /// 1: the permits of the dead are gone.
    leaks: AtomicU32,
    reserved: AtomicU32,
}

impl SemaphoreBlock {
    /// A semaphore with `count` free permits, that may never have more than `limit`.
    pub fn new(count: u32, limit: u32, leaks: bool) -> Self {
        Self {
            state: AtomicU64::new(pack(count, 0, TAKE, NOBODY)),
            limit: AtomicU32::new(limit),
            high: AtomicU32::new(0),
            leaks: AtomicU32::new(leaks.into()),
            reserved: AtomicU32::new(0),
        }
    }

    /// Makes it what [`new`](Self::new) makes, where nobody sees it yet.
    pub fn set(&self, count: u32, limit: u32, leaks: bool) {
        self.state.store(pack(count, 0, TAKE, NOBODY), Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.leaks.store(leaks.into(), Ordering::Relaxed);
    }

    /// Permits that are free now.
    pub fn count(&self) -> u32 {
        count_of(self.state.load(Ordering::Acquire))
    }

    /// Most permits there may be.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }
}

/// All words of a semaphore.
#[derive(Clone, Copy)]
pub struct SemaphoreWords<'a> {
    /// The fixed part.
    pub block: &'a SemaphoreBlock,
    /// What each lane holds.
    pub held: &'a [AtomicU64],
    /// Those who wait for a permit sleep here.
    pub wait: &'a WaitBlock,
}

impl<'a> SemaphoreWords<'a> {
    fn load(&self) -> u64 {
        self.block.state.load(Ordering::Acquire)
    }

    fn replace(&self, state: u64, next: u64) -> bool {
        self.block.state.compare_exchange(state, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Gives the lane of the last operation what that operation did to it, unless it has it.
    #[inline]
    fn settle(&self, state: u64) {
        let Some(cell) = self.held.get(usize::from(lane_of(state))).filter(|_| lane_of(state) != NOBODY) else {
            return;
        };
        let held = cell.load(Ordering::Acquire);
        if (!is_due(state, held) && !broken("semaphore: settle twice")) || self.load() != state {
            return;
        }
        let _ = cell.compare_exchange(held, applied(state, held), Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The lane's next operation; false if others changed the state first.
    #[inline]
    fn step(&self, state: u64, count: u32, step: u64, lane: Lane) -> bool {
        if !broken("semaphore: replace what is not settled") {
            self.settle(state);
        }
        let cell = &self.held[usize::from(lane)];
        let held = cell.load(Ordering::Acquire);
        let next = pack(count, held.wrapping_add(1), step, lane);
        let done = self.replace(state, next);
        if done {
            // A helper may have been faster, with the same value; nobody else moves this lane on.
            store_beside(cell, applied(next, held), Ordering::Release);
        }
        done
    }

    /// Takes a permit if one is free.
    #[inline]
    pub fn try_acquire(&self, me: Lane) -> bool {
        if self.block.high.load(Ordering::Relaxed) < u32::from(me) {
            self.raise_high(me);
        }
        loop {
            let state = self.load();
            let Some(count) = count_of(state).checked_sub(1) else { return false };
            if self.step(state, count, TAKE, me) {
                return true;
            }
        }
    }

    #[cold]
    fn raise_high(&self, me: Lane) {
        let high = &self.block.high;
        let mut seen = high.load(Ordering::Relaxed);
        while seen < u32::from(me) {
            match high.compare_exchange(seen, me.into(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes a permit, waiting for one until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`].
    pub fn acquire(&self, me: Lane, pace: &Pace, peers: &impl Peers, deadline: Deadline) -> Result<(), TimedOut> {
        let idle = || {
            self.holders().for_each(|lane| {
                peers.bury(lane);
            });
            None
        };
        let cpu = self.holders().next().and_then(|lane| peers.cpu_of(lane));
        wait_until(self.wait, pace, peers, cpu, deadline, || self.try_acquire(me).then_some(()), idle)
    }

    /// Gives back a permit that the lane holds.
    #[inline]
    pub fn release(&self, me: Lane, peers: &impl Peers) {
        while {
            let state = self.load();
            !self.step(state, count_of(state).saturating_add(1), GIVE, me)
        } {}
        if !broken("semaphore: release without waking") {
            self.wait.notify(peers);
        }
    }

    /// Makes a permit that the lane holds nobody's: it counts as taken, and no death returns it.
    pub fn forget(&self, me: Lane) {
        if broken("semaphore: leave what is forgotten to its holder") {
            return;
        }
        while {
            let state = self.load();
            !self.step(state, count_of(state), GIVE, me)
        } {}
    }

    /// Adds a permit that nobody holds.
    ///
    /// # Errors
    /// [`Excess`] if all that a bounded semaphore may have are free or held.
    pub fn add(&self, peers: &impl Peers) -> Result<(), Excess> {
        let most = self.block.limit();
        loop {
            let state = self.load();
            self.settle(state);
            let count = count_of(state);
            // If the state is still the same afterwards, nothing happened while these were added up.
            let held = if most == u32::MAX { 0 } else { self.held_in_all() };
            if u64::from(count) + held >= u64::from(most) {
                if self.load() == state {
                    return Err(Excess);
                }
            } else if self.replace(state, pack(count + 1, ticks_of(state) + 1, TAKE, NOBODY)) {
                self.wait.notify(peers);
                return Ok(());
            }
        }
    }

    fn cells(&self) -> impl Iterator<Item = (Lane, &'a AtomicU64)> + use<'a> {
        let lanes = self.block.high.load(Ordering::Acquire) as usize;
        self.held.iter().enumerate().skip(1).take(lanes).map(|(lane, cell)| (lane as Lane, cell))
    }

    fn held_in_all(&self) -> u64 {
        self.cells().map(|(_, cell)| u64::from(count_of(cell.load(Ordering::Acquire)))).sum()
    }

    /// Lanes that hold permits now.
    pub fn holders(&self) -> impl Iterator<Item = Lane> + use<'a> {
        self.cells().filter(|(_, cell)| count_of(cell.load(Ordering::Relaxed)) > 0).map(|(lane, _)| lane)
    }

    /// Permits that dead lanes hold, also by an operation that nobody has settled yet. Changes nothing.
    pub fn held_by(&self, dead: IsDead<'_>) -> u32 {
        // The state first: if somebody settles it in between, the cell has it.
        let state = self.load();
        let dead = self.cells().filter(|(lane, _)| dead(*lane));
        let held = dead.map(|(lane, cell)| match cell.load(Ordering::Acquire) {
            held if lane == lane_of(state)
                && is_due(state, held)
                && !broken("semaphore: count what is settled only") =>
            {
                count_of(applied(state, held))
            }
            held => count_of(held),
        });
        held.fold(0, u32::saturating_add)
    }

    /// Returns what dead lanes hold, or forgets it. How many permits there were.
    pub fn recover(&self, dead: IsDead<'_>) -> u32 {
        let leaks = self.block.leaks.load(Ordering::Relaxed) != 0;
        let mut all = 0;
        loop {
            let state = self.load();
            if !broken("semaphore: recover what is not settled") {
                self.settle(state);
            }
            let left = self.cells().filter(|(lane, _)| dead(*lane)).find_map(|(lane, cell)| {
                let held = cell.load(Ordering::Acquire);
                (count_of(held) > 0).then_some((lane, cell, held))
            });
            let Some((lane, cell, held)) = left else { return all };
            if leaks && broken("semaphore: let the dead keep what leaks") {
                return count_of(held);
            }
            let done = if leaks {
                let none = u64::from(held as u32);
                cell.compare_exchange(held, none, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            } else {
                self.step(state, count_of(state).saturating_add(count_of(held)), CLEAR, lane)
            };
            if done {
                all += count_of(held);
            }
        }
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "only the models go through here")]
pub(super) mod model_doors {
    use super::*;

    impl SemaphoreWords<'_> {
        /// A whole acquire without spinning or deadline.
        pub(in crate::sync) fn acquire_at_once(&self, me: Lane, peers: &impl Peers) {
            if !self.try_acquire(me) {
                self.wait.sleep_until(peers, || self.try_acquire(me));
            }
        }

        /// What lane `lane` holds.
        pub(in crate::sync) fn held_for_model(&self, lane: Lane) -> u32 {
            self.settle(self.load());
            count_of(self.held[usize::from(lane)].load(Ordering::Acquire))
        }
    }
}
