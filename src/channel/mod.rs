//! Typed, blocking communication: [`Queue`] and [`pipe`], and open descriptors in their messages: [`Fd`]; and [`spsc`] and
//! [`bytes`], for one producer and one consumer; and [`stamped`], rings of plain values
//! for many. And waiting for many of them at once: [`wait`](wait()).

pub mod bytes;
mod end;
mod error;
mod fd;
mod iter;
mod joinable;
mod layout;
mod lease;
mod lease_layout;
mod lease_table;
mod leases;
mod loan;
mod mailbox;
mod models;
mod one_way;
mod pipe;
mod pipe_builder;
mod plain;
mod queue;
mod queue_builder;
mod raw;
mod raw_pipe;
mod record;
pub mod spsc;
pub mod stamped;
mod stats;
mod wait;
mod watched;

pub use end::{PopError, PushError};
pub use error::{GetError, PutError, RecvError, SendError, TaskDoneError, UnfinishedError};
pub use fd::Fd;
pub use iter::{Iter, TryIter};
pub use joinable::JoinableQueue;
pub use lease::{DeadLetters, Lease};
pub use loan::{Loan, Message};
pub(crate) use mailbox::Flow;
pub use one_way::{Never, Receiver, Sender, pipe_oneway};
pub use pipe::{Connection, pipe, pipe_in};
pub use pipe_builder::PipeBuilder;
pub use queue::{Delivery, Queue};
pub use queue_builder::QueueBuilder;
pub(crate) use raw::{Came, LARGE, Parts, RawRefused};
pub use stats::QueueStats;
pub use wait::wait;

pub use crate::segment::{Doorbell, Waitable};
