//! Typed, blocking communication: [`Queue`] and [`pipe`].

mod bytes;
mod codec;
mod error;
mod layout;
mod loan;
mod mailbox;
mod one_way;
mod pipe;
mod pipe_builder;
mod queue;
mod record;

pub use error::{GetError, PutError, RecvError, SendError};
pub use loan::{Loan, Message};
pub use one_way::{Never, Receiver, Sender, pipe_oneway};
pub use pipe::{Connection, pipe, pipe_in};
pub use pipe_builder::PipeBuilder;
pub use queue::{Delivery, Queue, QueueBuilder};
