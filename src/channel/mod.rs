//! Typed, blocking communication: [`Queue`] and [`pipe`].

mod codec;
mod error;
mod iter;
mod layout;
mod mailbox;
mod pipe;
mod queue;
mod record;

pub use error::{GetError, PutError, RecvError, SendError};
pub use iter::{Iter, TryIter};
pub use pipe::{Connection, pipe};
pub use queue::{Delivery, Queue, QueueBuilder};
