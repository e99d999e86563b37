//! Rings: bounded queues in shared memory whose every claim is stamped with its owner.
//!
//! [`Ring`] is the protocol alone. It hands out *granules*, equal pieces of a data area that it never touches; the
//! caller copies bytes between [`claim`](Ring::claim) and [`commit`](Ring::commit), and between [`take`](Ring::take)
//! and [`done`](Ring::done).
//!
//! [`spsc`] and [`bytes`] are the rings for one producer and one consumer, whose ends are taken by whoever names itself
//! in a [`Seat`]: slots of one size, and records of any.

mod block;
pub mod bytes;
mod counts;
mod cursor;
mod recover;
mod returned;
mod seat;
mod sides;
mod single;
pub mod spsc;
mod stamped;
mod turns;
mod view;
mod waiting;
mod word;

mod models;
#[cfg(test)]
mod tests;

pub use block::RingBlock;
pub use counts::Counts;
pub use cursor::Cursor;
pub use recover::Ledger;
pub use seat::Seat;
pub use sides::{Form, Many, One, Records, Side, Slots};
pub use single::Occupied;
pub use stamped::{Claim, ClaimError, Corrupt, TakeError, Taken};
pub use view::{Ring, RingCache};
