//! Typed, blocking communication: [`Queue`] and [`pipe`].

mod codec;
mod error;
mod layout;
mod loan;
mod mailbox;
mod pipe;
mod queue;
mod record;

pub use error::{GetError, PutError, RecvError, SendError};
pub use loan::{Loan, Message};
pub use pipe::{Connection, pipe};
pub use queue::{Delivery, Queue, QueueBuilder};
