//! Typed, blocking communication: [`Queue`] and [`pipe`], and the fixed-size rings of [`stamped`].

mod codec;
mod error;
mod layout;
mod mailbox;
mod pipe;
mod queue;
mod record;
pub mod stamped;

pub use error::{GetError, PutError, RecvError, SendError};
pub use pipe::{Connection, pipe};
pub use queue::{Delivery, Queue, QueueBuilder};
