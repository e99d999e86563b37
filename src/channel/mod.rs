//! Typed, blocking communication: [`Queue`] and [`pipe`].

mod codec;
mod error;
mod iter;
mod joinable;
mod layout;
mod lease;
mod lease_layout;
mod lease_table;
mod leases;
mod mailbox;
mod models;
mod pipe;
mod queue;
mod record;
mod stats;

pub use error::{GetError, PutError, RecvError, SendError, TaskDoneError, UnfinishedError};
pub use iter::{Iter, TryIter};
pub use joinable::JoinableQueue;
pub use lease::{DeadLetters, Lease};
pub use pipe::{Connection, pipe};
pub use queue::{Delivery, Queue, QueueBuilder};
pub use stats::QueueStats;
