//! Typed, blocking communication: [`Queue`] and [`pipe`]; and waiting for many at once: [`wait`](wait()).

mod codec;
mod error;
mod layout;
mod mailbox;
mod pipe;
mod queue;
mod record;
mod wait;

pub use error::{GetError, PutError, RecvError, SendError};
pub use pipe::{Connection, pipe};
pub use queue::{Delivery, Queue, QueueBuilder};
pub use wait::wait;

pub use crate::segment::{Doorbell, Waitable};
