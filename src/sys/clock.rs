//! Monotonic time in nanoseconds.
//!
//! Under loom time stands still, but for a thread that a model gives an hour ([`with_time_up`]): then it jumps.

use std::time::Duration;

#[cfg(all(test, loom))]
pub use modelled::{TimeUp, now_ns, sleep, with_time_up};

/// Nanoseconds of `CLOCK_MONOTONIC` (about 22 ns a call; the same clock in every process of the host).
#[cfg(not(all(test, loom)))]
#[inline]
pub fn now_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

/// A point in time at which a blocking call gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// Never.
    pub const NEVER: Self = Self(u64::MAX);

    /// Before everything: what is not there at once is not waited for, and the clock is not read.
    pub const PASSED: Self = Self(0);

    /// `timeout` from now; a timeout too long to count is never.
    #[inline]
    pub fn after(timeout: Duration) -> Self {
        if timeout.is_zero() {
            return Self::PASSED;
        }
        let ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Self(now_ns().saturating_add(ns))
    }

    /// Nanoseconds that are left; `None` if it never comes.
    pub fn left_ns(self) -> Option<u64> {
        match self {
            Self::NEVER => None,
            Self::PASSED => Some(0),
            Self(at) => Some(at.saturating_sub(now_ns())),
        }
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.left_ns() == Some(0)
    }
}

#[cfg(all(test, loom))]
mod modelled {
    use core::cell::Cell;

    /// When the time of a modelled thread is over, counted from 0.
    #[derive(Clone, Copy, Debug)]
    pub enum TimeUp {
        /// At this look at the clock.
        AtLook(u32),
        /// In this sleep, and nobody has woken it.
        Asleep(u32),
        /// In this sleep, and it was woken just before.
        Woken(u32),
    }

    const LATE: u64 = u64::MAX / 2;

    loom::thread_local! {
        static TIME_UP: Cell<Option<TimeUp>> = Cell::new(None);
        static NOW: Cell<u64> = Cell::new(0);
    }

    /// Runs `f`; the modelled thread's time is over when `time_up` says.
    pub fn with_time_up<R>(time_up: TimeUp, f: impl FnOnce() -> R) -> R {
        TIME_UP.with(|t| t.set(Some(time_up)));
        let result = f();
        TIME_UP.with(|t| t.set(None));
        NOW.with(|now| now.set(0));
        result
    }

    /// The time, as the calling thread sees it.
    pub fn now_ns() -> u64 {
        match TIME_UP.with(Cell::get) {
            Some(TimeUp::AtLook(0)) => late(),
            Some(TimeUp::AtLook(n)) => TIME_UP.with(|t| t.set(Some(TimeUp::AtLook(n - 1)))),
            _ => {}
        }
        NOW.with(Cell::get)
    }

    fn late() {
        NOW.with(|now| now.set(LATE));
    }

    /// Lets `f` sleep, unless the time is over first; whether it slept.
    pub fn sleep(f: impl FnOnce()) -> bool {
        match TIME_UP.with(Cell::get) {
            Some(TimeUp::Asleep(0)) => {
                late();
                return false;
            }
            Some(TimeUp::Woken(0)) => {
                f();
                late();
                return true;
            }
            Some(TimeUp::Asleep(n)) => TIME_UP.with(|t| t.set(Some(TimeUp::Asleep(n - 1)))),
            Some(TimeUp::Woken(n)) => TIME_UP.with(|t| t.set(Some(TimeUp::Woken(n - 1)))),
            _ => {}
        }
        f();
        true
    }
}
