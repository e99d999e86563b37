//! What can keep a value from going into a ring or coming out of it, and who has a role.

use std::fmt;

use crate::error::Error;
use crate::segment::Holder;

fn by(holder: &Option<Holder>) -> String {
    holder.as_ref().map_or(String::new(), |h| format!(", held up by {h}"))
}

fn alone(dead: &Option<u32>) -> String {
    dead.map_or("nobody else has it open".to_owned(), |pid| {
        format!("nobody else has it open; process {pid} died with it")
    })
}

/// Why a value was not pushed; it comes back with the reason. A loan has no value yet, and gives `()`.
#[derive(Debug)]
#[non_exhaustive]
pub enum PushError<T> {
    /// There was no room at once.
    Full(T),
    /// There was no room in time. If a live process holds the oldest value without finishing it, it is named.
    Timeout(T, Option<Holder>),
    /// The ring is full and every other process that had it open has dropped it, ended or died since this was last
    /// reported; the process id is that of the last that died. Reported once for each such change: a later call waits.
    Disconnected(T, Option<u32>),
    /// The segment failed: no lane for this thread, or impossible bytes.
    Failed(T, Error),
}

impl<T> PushError<T> {
    /// The value that was not pushed.
    pub fn into_value(self) -> T {
        match self {
            Self::Full(v) | Self::Timeout(v, _) | Self::Disconnected(v, _) | Self::Failed(v, _) => v,
        }
    }

    /// The same reason with another value.
    pub(super) fn with<U>(self, value: U) -> PushError<U> {
        match self {
            Self::Full(_) => PushError::Full(value),
            Self::Timeout(_, holder) => PushError::Timeout(value, holder),
            Self::Disconnected(_, dead) => PushError::Disconnected(value, dead),
            Self::Failed(_, e) => PushError::Failed(value, e),
        }
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => write!(f, "push: the ring is full"),
            Self::Timeout(_, holder) => write!(f, "push: the ring was full until the time-out{}", by(holder)),
            Self::Disconnected(_, dead) => write!(f, "push: the ring is full and {}", alone(dead)),
            Self::Failed(_, e) => write!(f, "push: {e}"),
        }
    }
}

impl<T: fmt::Debug> std::error::Error for PushError<T> {}

/// Why there is no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum PopError {
    /// There was none at once.
    Empty,
    /// There was none in time. If a live process is in the middle of pushing the next one, it is named.
    Timeout(Option<Holder>),
    /// The ring is empty and every other process that had it open has dropped it, ended or died since this was last
    /// reported; the process id is that of the last that died. Reported once for each such change: a later call waits.
    Disconnected(Option<u32>),
    /// The bytes that came are no value of the type. They are consumed.
    Invalid(Error),
    /// The segment failed: no lane for this thread, or impossible bytes.
    Failed(Error),
}

impl fmt::Display for PopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "pop: the ring is empty"),
            Self::Timeout(holder) => write!(f, "pop: the ring was empty until the time-out{}", by(holder)),
            Self::Disconnected(dead) => write!(f, "pop: the ring is empty and {}", alone(dead)),
            Self::Invalid(e) | Self::Failed(e) => write!(f, "pop: {e}"),
        }
    }
}

impl std::error::Error for PopError {}

/// Why a thread did not become the one producer or the one consumer.
#[derive(Debug)]
#[non_exhaustive]
pub enum RoleError {
    /// A thread of a live process is, perhaps of this one. Without a name if it is just about to stop being it.
    Occupied(Option<Holder>),
    /// The segment failed: no lane for this thread.
    Failed(Error),
}

impl fmt::Display for RoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Occupied(Some(holder)) => write!(f, "enter ring: {holder} has the role"),
            Self::Occupied(None) => write!(f, "enter ring: somebody has the role"),
            Self::Failed(e) => write!(f, "enter ring: {e}"),
        }
    }
}

impl std::error::Error for RoleError {}
