//! Watching: waiting on several words at once, by somebody who takes nothing.
//!
//! # Rules
//! 1. A commit wakes one sleeper and counts on it to take what was committed. A watcher takes nothing. So a watcher that
//!    has been asleep on a word, and finds what it watches there ready, wakes another sleeper of that word
//!    ([`WaitBlock::pass_on`]) before it goes, whatever it goes for: it may have been given the only wake-up.
//! 2. A watcher that finds nothing ready has nothing to pass on: somebody took it, and that is what the wake-up was for.
//!    So two watchers do not keep each other awake.
//! 3. A watcher that did not sleep was given nothing. Its marks stay; the next committer clears them (`wait.rs`).
//!
//! One sleep can be given a wake-up of each of its words, and the kernel tells of one of them; so rule 1 is applied to
//! every word, after every sleep, however it ended. A watcher killed before it could pass a wake-up on leaves a sleeper
//! that looks again within its bounded sleep, like any sleeper that was killed after it was woken.
//!
//! # Memory ordering
//! As in `wait.rs`: marks, then one fence for all of them, then looks. The look after a sleep sees whatever a wake-up was
//! for, because the commit comes before the wake-up, and the kernel orders that before the end of the sleep; the Acquire
//! load in `pass_on` matches the Release of `wake_one`.

use super::owner::{Lane, Peers};
use super::wait::{Pace, SLEEP_MS, SLEEPERS, TimedOut, WaitBlock, before_looking, hot};
use crate::sys::atomic::{Ordering, broken};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::futex;

/// The peers of a word that only this process knows: none of them can die alone.
pub(crate) struct InProcess;

impl Peers for InProcess {
    fn bury(&self, _lane: Lane) -> bool {
        false
    }

    fn is_lane(&self, _lane: Lane) -> bool {
        false
    }

    fn cpu_of(&self, _lane: Lane) -> Option<u32> {
        None
    }

    fn asymmetric(&self) -> bool {
        false
    }
}

impl WaitBlock {
    /// Wakes another sleeper, if there is one: rule 1.
    pub fn pass_on(&self) {
        // Whoever marks the word after this load sees the new sequence, and the commit with it.
        if !broken("watch: keep the wake-up") && self.word.load(Ordering::Acquire) & SLEEPERS != 0 {
            self.wake_one();
        }
    }
}

/// One word to watch, and whether those who commit under it go without a fence.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    /// The word.
    pub block: &'a WaitBlock,
    /// As [`Peers::asymmetric`] says.
    pub asymmetric: bool,
}

/// The words that a watcher is about to sleep on, as they were when it marked them.
#[derive(Default)]
pub(crate) struct Words<'a> {
    marked: Vec<(&'a crate::sys::atomic::AtomicU32, u32)>,
}

impl<'a> Words<'a> {
    /// Marks them. What is waited for must be looked at after this.
    pub fn mark(&mut self, watches: impl Iterator<Item = Watch<'a>>) {
        self.marked.clear();
        let mut asymmetric = false;
        for watch in watches {
            asymmetric |= watch.asymmetric;
            self.marked.push((&watch.block.word, watch.block.mark()));
        }
        before_looking(asymmetric);
    }

    /// Sleeps until one of them has moved since it was marked, at most `longest_ns`; whether the time is over.
    pub fn sleep(&self, longest_ns: Option<u64>) -> bool {
        futex::wait_any(&self.marked, longest_ns) == futex::Woken::Timeout
    }
}

/// How long the sleep number `round` (from 0) may last before somebody looks whether the peers live.
pub(crate) fn longest_sleep_ns(round: usize) -> u64 {
    SLEEP_MS[round.min(SLEEP_MS.len() - 1)] * 1_000_000
}

/// The part of a wait that never sleeps: see [`wait_until`](super::wait_until).
pub(crate) fn warm<R>(
    pace: &Pace,
    peer_cpu: Option<u32>,
    deadline: Deadline,
    mut attempt: impl FnMut() -> Option<R>,
) -> Option<R> {
    hot(pace, peer_cpu, deadline, &mut attempt)
}

/// Waits until `attempt` gives something, asleep on all `watches` at once.
///
/// `is_ready` tells of one watch whether there is something for others to take. `idle` is called as by
/// [`wait_until`](super::wait_until), and looks whether the peers live. A signal does not end the wait.
///
/// # Errors
/// [`TimedOut`] when the deadline passes; `attempt` has been tried at least once after it.
pub(crate) fn watch_until<R>(
    watches: &[Watch<'_>],
    deadline: Deadline,
    mut attempt: impl FnMut() -> Option<R>,
    mut is_ready: impl FnMut(usize) -> bool,
    mut idle: impl FnMut(),
) -> Result<R, TimedOut> {
    let mut asked = now_ns();
    let mut words = Words::default();
    for round in 0.. {
        words.mark(watches.iter().copied());
        if let Some(r) = attempt() {
            return Ok(r);
        }
        let longest = longest_sleep_ns(round);
        let sleep = match deadline.left_ns() {
            Some(0) => return Err(TimedOut),
            Some(left) => left.min(longest),
            None => longest,
        };
        let timeout = words.sleep(Some(sleep));
        if let Some(r) = attempt() {
            for (k, watch) in watches.iter().enumerate() {
                if is_ready(k) {
                    watch.block.pass_on();
                }
            }
            return Ok(r);
        }
        let now = now_ns();
        if timeout || now - asked > SLEEP_MS[0] * 1_000_000 {
            asked = now;
            idle();
        }
    }
    unreachable!("an endless range ended")
}
