//! Waiting: spin while it can pay, let others run, then sleep; and waking, without a system call unless somebody sleeps.
//!
//! # The word
//! `sequence:31 | sleepers:1`. A waiter reads the word, sets the bit, looks once more and sleeps on the value it saw.
//! Whoever commits looks at the bit after the commit; if it is set, the sequence moves on and one sleeper is woken.
//! The bit stays set while the kernel finds sleepers. When it finds none the bit is cleared and *then* all are woken:
//! somebody who queued between the two calls must not sleep on a word without the bit. So neither a sleeper's death
//! nor a waker's needs repair: a bit without sleepers costs the next committer two calls and is gone.
//!
//! # Memory ordering
//! Dekker's pattern: the committer publishes, then reads the bit; the waiter sets the bit, then reads what was
//! published. Each side needs store-load order. In an asymmetric segment the committer has a compiler fence and the
//! waiter runs [`membarrier::heavy`], a full fence on every CPU that runs a participant; otherwise both use
//! `fence(SeqCst)`. If the committer's load comes before the waiter's fence in the single order of fences, its publish
//! does too, and the waiter sees it; if it comes after, it sees the bit.
//!
//! # How long to spin
//! A spin can pay only if the peer runs on another CPU. Yielding pays if it waits for this one. Each handle keeps a
//! balance of what won lately ([`Pace`]), so that a slow peer or a loaded machine soon costs nothing but a probe.
//! The first sleep lasts 8 ms or more: a futex time-out shorter than the timer tick programs the timer on each sleep, which
//! costs more than the switch itself (17.6 us a round trip at 100 us, 5.1 at 10 ms, measured).
//!
//! Source: the event count of Dmitry Vyukov, with the waiter count reduced to one bit that no death can falsify.

use core::sync::atomic::{AtomicU32 as Private, Ordering::Relaxed as Lax};

use super::owner::Peers;
use crate::sys::atomic::{AtomicU32, Ordering, broken, fence, spin_loop};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::{cpu, futex, membarrier};

pub(super) const SLEEPERS: u32 = 1;
const STEP: u32 = 2;

/// How long a spin lasts at most: about what waking another CPU costs.
const SPIN_NS: u64 = 20_000;
/// How often to let others run before sleeping.
const YIELDS: u32 = 4;
/// A yield that took longer than this gave the CPU to somebody else's work.
const YIELD_LOST_NS: u64 = 100_000;
/// The first and the longest sleep between two looks at whether the peers live.
pub(super) const SLEEP_MS: [u64; 4] = [8, 16, 32, 64];
/// What a balance may grow to, what a win adds, and every how many waits a method without credit is tried again.
const CREDIT_MAX: u32 = 16;
const CREDIT_WIN: u32 = 2;
const RETRY_EVERY: u32 = 32;

/// The deadline came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// A word to sleep on, in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct WaitBlock {
    pub(super) word: AtomicU32,
}

impl WaitBlock {
    /// A word on which nobody sleeps.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// Wakes one sleeper, if there is any, after a commit.
    #[inline]
    pub fn notify(&self, peers: &impl Peers) {
        if self.has_sleepers(peers) {
            self.wake_one();
        }
    }

    /// Whether somebody may be asleep, after a commit. For those who wake only when it is worth it.
    #[inline]
    pub fn has_sleepers(&self, peers: &impl Peers) -> bool {
        if peers.asymmetric() {
            core::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        self.word.load(Ordering::Relaxed) & SLEEPERS != 0
    }

    /// Wakes one sleeper.
    #[cold]
    pub fn wake_one(&self) {
        // Release: a waiter that reads the new sequence sees what was committed before it.
        let word = self.word.fetch_add(STEP, Ordering::Release).wrapping_add(STEP);
        if futex::wake(&self.word, 1) == 0
            && self.word.compare_exchange(word, word & !SLEEPERS, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && !broken("wait: clear the bit without waking all")
        {
            futex::wake_all(&self.word);
        }
    }

    /// Wakes all sleepers, if there are any, after a commit that concerns them all. Safe in a signal handler.
    #[inline]
    pub fn notify_sleepers(&self, peers: &impl Peers) {
        if self.has_sleepers(peers) {
            self.wake_sleepers();
        }
    }

    #[cold]
    fn wake_sleepers(&self) {
        // Release as in `wake_one`. Whoever announces itself from here on sets the bit again, and sees the commit.
        self.word.fetch_add(STEP, Ordering::Release);
        if broken("wait: wake all before clearing the bit") {
            futex::wake_all(&self.word);
            self.word.fetch_and(!SLEEPERS, Ordering::Relaxed);
            return;
        }
        self.word.fetch_and(!SLEEPERS, Ordering::Relaxed);
        futex::wake_all(&self.word);
    }

    /// Wakes everybody, whatever the bit says: for recovery.
    pub fn notify_all(&self) {
        fence(Ordering::SeqCst);
        self.word.fetch_add(STEP, Ordering::Release);
        futex::wake_all(&self.word);
    }

    /// Announces a sleeper; the value to sleep on. What is waited for must be looked at again after this.
    fn announce(&self, peers: &impl Peers) -> u32 {
        let word = self.mark();
        if !broken("wait: sleep without the fence") {
            before_looking(peers.asymmetric());
        }
        word
    }

    /// The first half of announcing a sleeper; [`before_looking`] is the second.
    pub(super) fn mark(&self) -> u32 {
        // Acquire matches the Release of `wake_one`: with the new sequence comes the commit that moved it.
        self.word.fetch_or(SLEEPERS, Ordering::Acquire) | SLEEPERS
    }
}

/// The waiter's side of the fence, between its marks and its looks; one for any number of words.
pub(super) fn before_looking(asymmetric: bool) {
    if asymmetric {
        membarrier::heavy();
    }
    fence(Ordering::SeqCst);
}

/// What won lately, for one side of one handle: private to the process, shared by its threads, only ever a hint.
#[derive(Debug)]
pub struct Pace {
    spin: Private,
    yields: Private,
    waits: Private,
}

impl Default for Pace {
    fn default() -> Self {
        Self { spin: Private::new(CREDIT_MAX), yields: Private::new(CREDIT_MAX), waits: Private::new(0) }
    }
}

fn credit(balance: &Private, won: bool) {
    let now = balance.load(Lax);
    balance.store(if won { (now + CREDIT_WIN).min(CREDIT_MAX) } else { now / 2 }, Lax);
}

/// Waits until `attempt` gives something.
///
/// `peer_cpu` tells the CPU on which the one waited for ran last, if known. `idle` is called after every sleep that
/// ended without a wake-up, and every few sleeps in any case: it looks whether the peers live, and may end the wait.
/// A waiting thread may be woken for no reason and looks again; a signal does not end the wait.
///
/// # Errors
/// [`TimedOut`] when the deadline passes; `attempt` has been tried at least once after it.
pub fn wait_until<R>(
    block: &WaitBlock,
    pace: &Pace,
    peers: &impl Peers,
    peer_cpu: Option<u32>,
    deadline: Deadline,
    mut attempt: impl FnMut() -> Option<R>,
    mut idle: impl FnMut() -> Option<R>,
) -> Result<R, TimedOut> {
    if deadline.passed() {
        return attempt().ok_or(TimedOut);
    }
    if let Some(r) = hot(pace, peer_cpu, deadline, &mut attempt) {
        return Ok(r);
    }
    let mut asked = now_ns();
    for round in 0.. {
        let word = block.announce(peers);
        if let Some(r) = attempt() {
            return Ok(r);
        }
        let longest = SLEEP_MS[SLEEP_MS.len().min(round + 1) - 1] * 1_000_000;
        let sleep = match deadline.left_ns() {
            Some(0) => return Err(TimedOut),
            Some(left) => left.min(longest),
            None => longest,
        };
        let timeout = futex::wait(&block.word, word, Some(sleep)) == futex::Woken::Timeout;
        if let Some(r) = attempt() {
            return Ok(r);
        }
        // Also when others wake us all the time: what holds us up need not be what they do.
        let now = now_ns();
        if timeout || now - asked > SLEEP_MS[0] * 1_000_000 {
            asked = now;
            if let Some(r) = idle() {
                return Ok(r);
            }
        }
    }
    unreachable!("an endless range ended")
}

/// The part of a wait that never sleeps.
pub(super) fn hot<R>(
    pace: &Pace,
    peer_cpu: Option<u32>,
    deadline: Deadline,
    attempt: &mut impl FnMut() -> Option<R>,
) -> Option<R> {
    let waits = pace.waits.load(Lax).wrapping_add(1);
    pace.waits.store(waits, Lax);
    let retry = waits % RETRY_EVERY == 0;
    if cpu::is_elsewhere(peer_cpu) && (retry || pace.spin.load(Lax) > 0) {
        let most = deadline.left_ns().map_or(SPIN_NS, |left| left.min(SPIN_NS));
        let won = spin(now_ns() + most, attempt);
        credit(&pace.spin, won.is_some());
        if won.is_some() {
            return won;
        }
    }
    if retry || pace.yields.load(Lax) > 0 {
        let mut before = now_ns();
        for _ in 0..YIELDS {
            if deadline.passed() {
                return None;
            }
            cpu::yield_now();
            let won = attempt();
            let after = now_ns();
            if won.is_some() || after - before > YIELD_LOST_NS {
                credit(&pace.yields, won.is_some() && after - before <= YIELD_LOST_NS);
                return won;
            }
            before = after;
        }
        credit(&pace.yields, false);
    }
    None
}

#[inline]
fn spin<R>(until: u64, attempt: &mut impl FnMut() -> Option<R>) -> Option<R> {
    loop {
        for _ in 0..16 {
            if let Some(r) = attempt() {
                return Some(r);
            }
            spin_loop();
        }
        if now_ns() >= until {
            return None;
        }
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "only the models go through here")]
pub(super) mod model_doors {
    //! What the models drive step by step.
    use super::*;

    impl WaitBlock {
        /// One whole wait without spinning or deadline.
        pub(in crate::sync) fn sleep_until(&self, peers: &impl Peers, mut ready: impl FnMut() -> bool) {
            loop {
                let word = self.announce(peers);
                if ready() {
                    return;
                }
                futex::wait(&self.word, word, None);
                if ready() {
                    return;
                }
            }
        }
    }
}
