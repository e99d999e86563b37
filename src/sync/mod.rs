//! Blocking primitives in plain shared words: they know lanes and sleeping, but not where the words live.
//!
//! The handles that users hold ([`Mutex`](crate::Mutex), [`Queue`](crate::Queue), ...) put these words into a segment.

mod models;
mod mutex;
mod owner;
mod wait;

pub use mutex::{Locked, MutexBlock};
pub use owner::{IsDead, LANE_BITS, LANE_MASK, Lane, NOBODY, ORPHAN, Peers};
pub use wait::{Pace, TimedOut, WaitBlock, wait_until};
