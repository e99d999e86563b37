//! Typed, blocking communication: [`Queue`] and [`pipe`], and open descriptors in their messages: [`Fd`].

mod bytes;
mod codec;
mod error;
mod fd;
mod layout;
mod mailbox;
mod one_way;
mod pipe;
mod pipe_builder;
mod queue;
mod record;

pub use error::{GetError, PutError, RecvError, SendError};
pub use fd::Fd;
pub use one_way::{Never, Receiver, Sender, pipe_oneway};
pub use pipe::{Connection, pipe, pipe_in};
pub use pipe_builder::PipeBuilder;
pub use queue::{Delivery, Queue, QueueBuilder};
