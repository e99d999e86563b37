//! What can keep a message from going or coming. Nothing is lost: whoever could not send has the value back.

use std::fmt;

use super::mailbox::Ended;
use crate::error::Error;
use crate::segment::Holder;

fn by(holder: &Option<Holder>) -> String {
    holder.as_ref().map_or(String::new(), |h| format!(", held up by {h}"))
}

/// Why a value was not put; it comes back with the reason.
#[non_exhaustive]
pub enum PutError<T> {
    /// There was no room at once. Python: `queue.Full`.
    Full(T),
    /// There was no room in time. If a live process holds the oldest item without finishing it, it is named.
    /// Python: `queue.Full`.
    Timeout(T, Option<Holder>),
    /// This process has closed the queue. Python: `ValueError`.
    Closed(T),
    /// The value could not be turned into bytes.
    Encode(T, Error),
    /// The segment failed: no space for a large message, no lane for this thread, or impossible bytes.
    Failed(T, Error),
}

impl<T> PutError<T> {
    /// Why a wait for room ended.
    pub(super) fn from_ended(value: T, ended: Ended) -> Self {
        match ended {
            Ended::Timeout(holder) => Self::Timeout(value, holder),
            Ended::Stopped => Self::Closed(value),
            Ended::Failed(e) => Self::Failed(value, e),
        }
    }

    /// The value that was not put.
    pub fn into_value(self) -> T {
        match self {
            Self::Full(v) | Self::Timeout(v, _) | Self::Closed(v) | Self::Encode(v, _) | Self::Failed(v, _) => v,
        }
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => write!(f, "put: the queue is full"),
            Self::Timeout(_, holder) => write!(f, "put: the queue was full until the time-out{}", by(holder)),
            Self::Closed(_) => write!(f, "put: the queue is closed"),
            Self::Encode(_, e) | Self::Failed(_, e) => write!(f, "put: {e}"),
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutError({self})")
    }
}

impl<T> std::error::Error for PutError<T> {}

/// Why there is no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum GetError {
    /// There was none at once. Python: `queue.Empty`.
    Empty,
    /// There was none in time. If a live process is in the middle of putting the next one, it is named.
    /// Python: `queue.Empty`.
    Timeout(Option<Holder>),
    /// The queue is empty and every other process that had it open has dropped it, ended or died since this was last
    /// reported; the process id is that of the last that died. Reported once for each such change: a later call waits.
    Disconnected(Option<u32>),
    /// This process has closed the queue. Python: `ValueError`.
    Closed,
    /// A message came that is not a value of this type. It is consumed.
    Decode(Error),
    /// The segment failed: no lane for this thread, or impossible bytes.
    Failed(Error),
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "get: the queue is empty"),
            Self::Timeout(holder) => write!(f, "get: the queue was empty until the time-out{}", by(holder)),
            Self::Disconnected(None) => write!(f, "get: the queue is empty and nobody else has it open"),
            Self::Disconnected(Some(pid)) => {
                write!(f, "get: the queue is empty and nobody else has it open; process {pid} died with it")
            }
            Self::Closed => write!(f, "get: the queue is closed"),
            Self::Decode(e) | Self::Failed(e) => write!(f, "get: {e}"),
        }
    }
}

impl std::error::Error for GetError {}

/// Why a message was not sent; the value comes back with the reason.
#[non_exhaustive]
pub enum SendError<T> {
    /// The other end is closed everywhere; the process id is that of the last that died with it. Python: `BrokenPipeError`.
    Disconnected(T, Option<u32>),
    /// There was no room at once.
    Full(T),
    /// There was no room in time. If a live process holds the oldest message without finishing it, it is named.
    Timeout(T, Option<Holder>),
    /// The value could not be turned into bytes.
    Encode(T, Error),
    /// The segment failed: no space for a large message, no lane for this thread, or impossible bytes.
    Failed(T, Error),
}

impl<T> SendError<T> {
    /// The value that was not sent.
    pub fn into_value(self) -> T {
        match self {
            Self::Disconnected(v, _)
            | Self::Full(v)
            | Self::Timeout(v, _)
            | Self::Encode(v, _)
            | Self::Failed(v, _) => v,
        }
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected(_, None) => write!(f, "send: the other end is closed"),
            Self::Disconnected(_, Some(pid)) => write!(f, "send: the other end is closed; process {pid} died with it"),
            Self::Full(_) => write!(f, "send: the pipe is full"),
            Self::Timeout(_, holder) => write!(f, "send: the pipe was full until the time-out{}", by(holder)),
            Self::Encode(_, e) | Self::Failed(_, e) => write!(f, "send: {e}"),
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({self})")
    }
}

impl<T> std::error::Error for SendError<T> {}

/// Why there is no message.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// End of file: the other end is closed everywhere and every message was received. The process id is that of the
    /// last process that died with it. Python: `EOFError`.
    Disconnected(Option<u32>),
    /// There was none at once.
    Empty,
    /// There was none in time. If a live process is in the middle of sending the next one, it is named.
    Timeout(Option<Holder>),
    /// A message came that is not a value of this type. It is consumed.
    Decode(Error),
    /// A message came that is longer than the buffer, or than was asked for. It is consumed, and all of it is here.
    /// Python: `BufferTooShort`.
    BufferTooShort(Vec<u8>),
    /// The segment failed: no lane for this thread, or impossible bytes.
    Failed(Error),
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected(None) => write!(f, "receive: end of file"),
            Self::Disconnected(Some(pid)) => write!(f, "receive: end of file; process {pid} died with the other end"),
            Self::Empty => write!(f, "receive: no message"),
            Self::Timeout(holder) => write!(f, "receive: no message until the time-out{}", by(holder)),
            Self::BufferTooShort(message) => write!(f, "receive: the message has {} B, too many", message.len()),
            Self::Decode(e) | Self::Failed(e) => write!(f, "receive: {e}"),
        }
    }
}

impl std::error::Error for RecvError {}

/// Why no task was finished.
#[derive(Debug)]
#[non_exhaustive]
pub enum TaskDoneError {
    /// This process has no open task: more were finished than got. Python: `ValueError`.
    NoOpenTask,
    /// The segment failed: no lane, or impossible bytes.
    Failed(Error),
}

impl fmt::Display for TaskDoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOpenTask => write!(f, "task_done: called more often than tasks were got"),
            Self::Failed(e) => write!(f, "task_done: {e}"),
        }
    }
}

impl std::error::Error for TaskDoneError {}

/// Why a queue of tasks was not joined.
#[derive(Debug)]
#[non_exhaustive]
pub enum UnfinishedError {
    /// Tasks are unfinished, and waiting was not asked for.
    Unfinished,
    /// Tasks were unfinished until the time-out. If a live process has one open, it is named.
    Timeout(Option<Holder>),
    /// Tasks are unfinished, and every other process that had the queue open has dropped it, ended or died since this was
    /// last reported; the process id is that of the last that died. Reported once for each such change.
    Disconnected(Option<u32>),
    /// The segment failed: no lane for this thread, or impossible bytes.
    Failed(Error),
}

impl fmt::Display for UnfinishedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => write!(f, "join: tasks are unfinished"),
            Self::Timeout(holder) => write!(f, "join: tasks were unfinished until the time-out{}", by(holder)),
            Self::Disconnected(None) => write!(f, "join: tasks are unfinished and nobody else has the queue open"),
            Self::Disconnected(Some(pid)) => {
                write!(f, "join: tasks are unfinished and nobody else has the queue open; process {pid} died with it")
            }
            Self::Failed(e) => write!(f, "join: {e}"),
        }
    }
}

impl std::error::Error for UnfinishedError {}
