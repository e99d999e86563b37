//! Typed, blocking communication: [`Queue`] and [`pipe`].

mod codec;
mod error;
mod iter;
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

pub use error::{GetError, PutError, RecvError, SendError};
pub use iter::{Iter, TryIter};
pub use lease::{DeadLetters, Lease};
pub use pipe::{Connection, pipe};
pub use queue::{Delivery, Queue, QueueBuilder};
