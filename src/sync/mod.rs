//! Blocking primitives in plain shared words: they know lanes and sleeping, but not where the words live.
//!
//! The handles that users hold ([`Mutex`](crate::Mutex), [`Queue`](crate::Queue), ...) put these words into a segment.

mod barrier;
mod condvar;
mod event;
mod lanes;
mod models;
mod mutex;
mod once;
mod owner;
mod rlock;
mod rwlock;
mod semaphore;
mod twin;
mod wait;
mod watch;

pub use barrier::{Arrival, BarrierBlock};
pub use condvar::CondvarWords;
pub use event::EventBlock;
pub use lanes::{LANE_SLOTS, LANE_WORDS};
pub use mutex::{Locked, MutexBlock};
pub use once::{Begin, OnceBlock, Previous};
pub use owner::{IsDead, LANE_BITS, LANE_MASK, Lane, NOBODY, ORPHAN, Peers};
pub use rlock::{Levels, RLockBlock};
pub use rwlock::RwLockWords;
pub use semaphore::{Excess, SemaphoreBlock, SemaphoreWords};
pub use twin::{ElementsBlock, STRIPES, TwinBlock};
pub use wait::{Pace, TimedOut, WaitBlock, wait_until};
pub(crate) use watch::{InProcess, Watch, Words, longest_sleep_ns, warm, watch_until};
