//! Waiting: spin while it can pay, let others run, then sleep; and waking, without a system call unless somebody sleeps.
//!
//! # The word
//! `sequence:30 | proven:1 | sleepers:1`. A waiter reads the word, sets the bit, looks once more and sleeps on the value it saw.
//! Whoever commits looks at the bit after the commit; if it is set, the sequence moves on and one sleeper is woken.
//! The bit stays set while the kernel finds sleepers. When it finds none the bit is cleared and *then* all are woken:
//! somebody who queued between the two calls must not sleep on a word without the bit. So neither a sleeper's death
//! nor a waker's needs repair: a bit without sleepers costs the next committer two calls and is gone.
//!
//! # Memory ordering
//! Dekker's pattern: the committer publishes, then reads the bit; the waiter sets the bit, then reads what was
//! published. Each side needs store-load order ([`Fences`]). A commit that is a read-modify-write has it ([`Swapped`]). For
//! one that is a store, in an asymmetric segment, the committer has a compiler fence and the waiter runs
//! [`membarrier::heavy`], a full fence on every CPU that runs a participant; otherwise both use `fence(SeqCst)`. If the
//! committer's load comes before the waiter's fence in the single order of fences, its publish does too, and the waiter
//! sees it; if it comes after, it sees the bit.
//!
//! The heavy fence costs a microsecond, so it is paid once: whoever has run it marks the bit as proven, unless the word has
//! changed, and whoever clears the bit clears that mark with it. A waiter that finds the mark knows that a fence lies
//! between the setting of the bit and its own look: a committer that did not see the bit published before that fence.
//!
//! # How long to spin
//! A spin can pay only if the peer runs on another CPU. Yielding pays if it waits for this one. Each handle keeps a
//! balance of what won lately ([`Pace`]), so that a slow peer or a loaded machine soon costs nothing but a probe. Probes
//! are rationed by time and not by number: where others want the CPU, one yield costs as much as a thousand round trips.
//! The first sleep lasts 8 ms or more: a futex time-out shorter than the timer tick programs the timer on each sleep, which
//! costs more than the switch itself (17.6 us a round trip at 100 us, 5.1 at 10 ms, measured).
//!
//! Source: the event count of Dmitry Vyukov, with the waiter count reduced to one bit that no death can falsify.

use core::sync::atomic::{AtomicU32 as Private, AtomicU64 as PrivateTime, Ordering::Relaxed as Lax};

use super::owner::Peers;
use crate::sys::atomic::{AtomicU32, Ordering, broken, fence, rmw_fence, spin_loop};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::{cpu, futex, membarrier};

pub(super) const SLEEPERS: u32 = 1;
/// A fence was run since the sleepers' bit was set.
const PROVEN: u32 = 2;
const STEP: u32 = 4;

/// How long a spin lasts at most: about what waking another CPU costs.
const SPIN_NS: u64 = 20_000;
/// How often to let others run before sleeping.
const YIELDS: u32 = 4;
/// A yield that took longer than this gave the CPU to somebody else's work. One such costs as much as hundreds of others
/// save, so a single one ends the credit.
const RUIN_NS: u64 = 100_000;
/// The first and the longest sleep between two looks at whether the peers live.
pub(super) const SLEEP_MS: [u64; 4] = [8, 16, 32, 64];
/// What a balance may grow to, and what a win adds.
const CREDIT_MAX: u32 = 16;
const CREDIT_WIN: u32 = 2;
/// After how many times the cost of its last failure a method without credit is tried again: twice as many each time, up
/// to a second, until its credit is full again. So what is hopeless costs 0.1 % in the end.
const REST: u32 = 8;
const REST_MAX: u32 = 1024;
const REST_NS: u64 = 1_000_000_000;

/// The deadline came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// What stands between publishing and looking at the bit, and between setting the bit and looking at what is published.
/// All users of a word must use the same.
pub trait Fences {
    /// After the commit.
    fn committer(&self);

    /// After the bit was set by a read-modify-write.
    fn sleeper(&self);
}

/// For commits that are stores: what the segment has agreed on.
impl<P: Peers> Fences for P {
    #[inline]
    fn committer(&self) {
        if self.asymmetric() {
            core::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    fn sleeper(&self) {
        before_looking(self.asymmetric());
    }
}

/// For commits that are read-modify-writes, and so a fence already.
#[derive(Clone, Copy, Debug)]
pub struct Swapped;

impl Fences for Swapped {
    #[inline]
    fn committer(&self) {
        rmw_fence();
    }

    #[inline]
    fn sleeper(&self) {
        rmw_fence();
    }
}

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
    pub fn notify(&self, fences: &impl Fences) {
        if self.has_sleepers(fences) {
            self.wake_one();
        }
    }

    /// Whether somebody may be asleep, after a commit. For those who wake only when it is worth it.
    #[inline]
    pub fn has_sleepers(&self, fences: &impl Fences) -> bool {
        fences.committer();
        self.word.load(Ordering::Relaxed) & SLEEPERS != 0
    }

    /// Wakes one sleeper.
    #[cold]
    pub fn wake_one(&self) {
        // Release: a waiter that reads the new sequence sees what was committed before it.
        let word = self.word.fetch_add(STEP, Ordering::Release).wrapping_add(STEP);
        if futex::wake(&self.word, 1) == 0
            && self
                .word
                .compare_exchange(word, word & !(SLEEPERS | PROVEN), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            && !broken("wait: clear the bit without waking all")
        {
            futex::wake_all(&self.word);
        }
    }

    /// Wakes all sleepers, if there are any, after a commit that concerns them all. Safe in a signal handler.
    #[inline]
    pub fn notify_sleepers(&self, fences: &impl Fences) {
        if self.has_sleepers(fences) {
            self.wake_sleepers();
        }
    }

    #[cold]
    fn wake_sleepers(&self) {
        // Release as in `wake_one`. Whoever announces itself from here on sets the bit again, and sees the commit.
        self.word.fetch_add(STEP, Ordering::Release);
        if broken("wait: wake all before clearing the bit") {
            futex::wake_all(&self.word);
            self.word.fetch_and(!(SLEEPERS | PROVEN), Ordering::Relaxed);
            return;
        }
        self.word.fetch_and(!(SLEEPERS | PROVEN), Ordering::Relaxed);
        futex::wake_all(&self.word);
    }

    /// Wakes everybody, whatever the bit says: for recovery.
    pub fn notify_all(&self) {
        fence(Ordering::SeqCst);
        self.word.fetch_add(STEP, Ordering::Release);
        futex::wake_all(&self.word);
    }

    /// Announces a sleeper; the value to sleep on. What is waited for must be looked at again after this.
    fn announce(&self, fences: &impl Fences) -> u32 {
        let before = self.word.fetch_or(SLEEPERS, Ordering::Acquire);
        let word = before | SLEEPERS;
        let trusted = if broken("wait: trust the bit unproven") { SLEEPERS } else { PROVEN };
        if before & trusted != 0 {
            // Acquire above matches the Release below: the fence comes before our look.
            return word;
        }
        if broken("wait: sleep without the fence") {
            return word;
        }
        fences.sleeper();
        match self.word.compare_exchange(word, word | PROVEN, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => word | PROVEN,
            Err(_) => word,
        }
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
#[derive(Debug, Default)]
pub struct Pace {
    spin: Method,
    yields: Method,
}

/// How one way to wait without sleeping has done.
#[derive(Debug)]
struct Method {
    credit: Private,
    /// How many times its cost it rests after the next failure.
    rest: Private,
    rests_until: PrivateTime,
}

impl Default for Method {
    fn default() -> Self {
        Self { credit: Private::new(CREDIT_MAX), rest: Private::new(REST), rests_until: PrivateTime::new(0) }
    }
}

impl Method {
    /// Whether to try it: it has credit, or has rested long enough.
    #[inline]
    fn is_worth_it(&self, now: &mut Option<u64>) -> bool {
        self.credit.load(Lax) > 0 || *now.get_or_insert_with(now_ns) >= self.rests_until.load(Lax)
    }

    #[inline]
    fn won(&self) {
        let credit = (self.credit.load(Lax) + CREDIT_WIN).min(CREDIT_MAX);
        self.credit.store(credit, Lax);
        if credit == CREDIT_MAX {
            self.rest.store(REST, Lax);
        }
    }

    /// It was tried in vain until `now`, which took `cost_ns`.
    #[cold]
    fn lost(&self, now: u64, cost_ns: u64) {
        let credit = if cost_ns > RUIN_NS { 0 } else { self.credit.load(Lax) / 2 };
        self.credit.store(credit, Lax);
        if credit == 0 {
            let rest = self.rest.load(Lax);
            self.rest.store((rest * 2).min(REST_MAX), Lax);
            self.rests_until.store(now + (cost_ns * u64::from(rest)).min(REST_NS), Lax);
        }
    }
}

/// Waits until `attempt` gives something.
///
/// `peer_cpu` tells the CPU on which the one waited for ran last, if known. `idle` is called after every sleep that
/// ended without a wake-up, every few sleeps in any case, and before a wait is given up that never slept: it looks whether the
/// peers live, and may end the wait.
/// A waiting thread may be woken for no reason and looks again; a signal does not end the wait.
///
/// # Errors
/// [`TimedOut`] when the deadline passes; `attempt` has been tried at least once after it.
pub fn wait_until<R>(
    block: &WaitBlock,
    pace: &Pace,
    fences: &impl Fences,
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
    let mut asked = None;
    for round in 0.. {
        let word = block.announce(fences);
        if let Some(r) = attempt() {
            return Ok(r);
        }
        let longest = SLEEP_MS[SLEEP_MS.len().min(round + 1) - 1] * 1_000_000;
        let sleep = match deadline.left_ns() {
            Some(0) if round > 0 => return Err(TimedOut),
            // Nobody gives up without having asked.
            Some(0) => return idle().or_else(attempt).ok_or(TimedOut),
            Some(left) => left.min(longest),
            None => longest,
        };
        let timeout = futex::wait(&block.word, word, Some(sleep)) == futex::Woken::Timeout;
        if broken("wait: give up without a last look") && deadline.passed() {
            return Err(TimedOut);
        }
        if let Some(r) = attempt() {
            return Ok(r);
        }
        // Also when others wake us all the time: what holds us up need not be what they do.
        let now = now_ns();
        if timeout || now - *asked.get_or_insert(now) > SLEEP_MS[0] * 1_000_000 {
            asked = Some(now);
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
    let mut now = None;
    if cpu::is_elsewhere(peer_cpu) && pace.spin.is_worth_it(&mut now) {
        let most = deadline.left_ns().map_or(SPIN_NS, |left| left.min(SPIN_NS));
        let until = now_ns() + most;
        let won = spin(until, attempt);
        if won.is_some() {
            pace.spin.won();
            return won;
        }
        // What others took of the CPU meanwhile is not the spin's fault.
        pace.spin.lost(until, most);
    }
    if pace.yields.is_worth_it(&mut now) {
        let first = now_ns();
        let mut before = first;
        for _ in 0..YIELDS {
            if deadline.passed() {
                return None;
            }
            cpu::yield_now();
            let won = attempt();
            let after = now_ns();
            if after - before > RUIN_NS {
                pace.yields.lost(after, after - before);
                return won;
            }
            if won.is_some() {
                pace.yields.won();
                return won;
            }
            before = after;
        }
        pace.yields.lost(before, before - first);
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
mod tests {
    use super::*;

    /// Whether `method` would be tried at `now`.
    fn is_tried(method: &Method, now: u64) -> bool {
        method.is_worth_it(&mut Some(now))
    }

    #[test]
    fn a_method_rests_when_its_credit_is_gone_and_longer_each_time() {
        let method = Method::default();
        for now in 0..4 {
            method.lost(now, 1_000);
            assert!(is_tried(&method, now), "it has credit still");
        }
        method.lost(100, 1_000);
        let rest = 1_000 * u64::from(REST);
        assert!(!is_tried(&method, 99 + rest));
        assert!(is_tried(&method, 100 + rest));
        method.lost(100 + rest, 1_000);
        assert!(!is_tried(&method, 99 + 3 * rest));
        assert!(is_tried(&method, 100 + 3 * rest));
    }

    #[test]
    fn one_ruinous_failure_ends_the_credit() {
        let method = Method::default();
        method.lost(0, RUIN_NS + 1);
        assert!(!is_tried(&method, RUIN_NS));
        method.lost(0, u64::from(u32::MAX));
        assert!(is_tried(&method, REST_NS));
    }

    #[test]
    fn wins_bring_the_credit_back_and_shorten_the_rest() {
        let method = Method::default();
        for _ in 0..3 {
            method.lost(0, RUIN_NS + 1);
        }
        assert!(method.rest.load(Lax) > REST);
        method.won();
        assert!(is_tried(&method, 0));
        assert!(method.rest.load(Lax) > REST, "one win is not enough");
        (0..CREDIT_MAX).for_each(|_| method.won());
        assert_eq!(method.rest.load(Lax), REST);
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "only the models go through here")]
pub(super) mod model_doors {
    //! What the models drive step by step.
    use super::*;

    impl Pace {
        /// One that sleeps at once.
        pub(in crate::sync) fn asleep() -> Self {
            let never = || Method {
                credit: Private::new(0),
                rest: Private::new(REST),
                rests_until: PrivateTime::new(u64::MAX),
            };
            Self { spin: never(), yields: never() }
        }
    }

    impl WaitBlock {
        /// One whole wait without spinning or deadline.
        pub(in crate::sync) fn sleep_until(&self, fences: &impl Fences, mut ready: impl FnMut() -> bool) {
            loop {
                let word = self.announce(fences);
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
