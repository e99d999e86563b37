//! Monotonic time in nanoseconds.

use std::time::Duration;

/// Nanoseconds of `CLOCK_MONOTONIC` (about 22 ns a call; the same clock in every process of the host).
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
