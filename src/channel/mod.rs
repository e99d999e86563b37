//! Typed, blocking communication: [`Queue`] and [`pipe`]; and [`spsc`] and [`bytes`], for one producer and one consumer.

pub mod bytes;
mod codec;
mod end;
mod error;
mod layout;
mod mailbox;
mod pipe;
mod queue;
mod record;
pub mod spsc;

pub use end::{PopError, PushError};
pub use error::{GetError, PutError, RecvError, SendError};
pub use pipe::{Connection, pipe};
pub use queue::{Delivery, Queue, QueueBuilder};
