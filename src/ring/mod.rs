//! Rings: bounded queues in shared memory whose every claim is stamped with its owner.
//!
//! [`Ring`] is the protocol alone. It hands out *granules*, equal pieces of a data area that it never touches; the
//! caller copies bytes between [`claim`](Ring::claim) and [`commit`](Ring::commit), and between [`take`](Ring::take)
//! and [`done`](Ring::done).
//!
//! [`spsc`] and [`bytes`] are the rings for one producer and one consumer, whose ends are taken by whoever names itself
//! in a [`Seat`]: slots of one size, and records of any.

pub mod bytes;
mod cursor;
mod recover;
mod seat;
pub mod spsc;
mod stamped;
mod waiting;
mod word;

mod models;
#[cfg(test)]
mod tests;

pub use cursor::Cursor;
pub use recover::Ledger;
pub use seat::Seat;
pub use stamped::{Claim, ClaimError, Corrupt, Ring, RingBlock, RingCache, TakeError, Taken};
