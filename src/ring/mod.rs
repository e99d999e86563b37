//! Rings: bounded queues in shared memory whose every claim is stamped with its owner.
//!
//! [`Ring`] is the protocol alone. It hands out *granules*, equal pieces of a data area that it never touches; the
//! caller copies bytes between [`claim`](Ring::claim) and [`commit`](Ring::commit), and between [`take`](Ring::take)
//! and [`done`](Ring::done).

mod block;
mod counts;
mod cursor;
mod recover;
mod stamped;
mod turns;
mod waiting;
mod word;

mod models;
#[cfg(test)]
mod tests;

pub use block::RingBlock;
pub use counts::Counts;
pub use cursor::Cursor;
pub use recover::Ledger;
pub use stamped::{Claim, ClaimError, Corrupt, Ring, RingCache, TakeError, Taken};
