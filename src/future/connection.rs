//! The end of a pipe.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::until::{Target, until, until_room};
use crate::channel::{self, RecvError, SendError};
use crate::error::Error;
use crate::segment::{Doorbell, Taking};

/// A [`Connection`](crate::Connection) whose `send` and `recv` are awaited.
///
/// It travels as the blocking one does, and is the same value: one that was sent can be received as the other.
///
/// # If a peer dies
/// As with the blocking connection: what it had sent is received first, then the end of file.
///
/// Python: none.
pub struct Connection<T, U>(channel::Connection<T, U>);

impl<T, U> Connection<T, U>
where
    T: Serialize + DeserializeOwned + 'static,
    U: Serialize + DeserializeOwned + 'static,
{
    /// Sends a value when there is room.
    ///
    /// Cancel-safe: a future that is dropped has not sent the value, which goes with it.
    ///
    /// # Errors
    /// As [`Connection::send`](crate::Connection::send).
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        let attempt = |value| match self.0.try_send(value) {
            Err(SendError::Full(value)) => Err(value),
            other => Ok(other),
        };
        let sent = until_room(value, attempt, |value| self.0.room_for(value).map(Target)).await;
        sent.unwrap_or_else(|(value, e)| Err(SendError::Failed(value, e)))
    }

    /// Sends a value if there is room now: see [`Connection::try_send`](crate::Connection::try_send).
    ///
    /// # Errors
    /// As there.
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.0.try_send(value)
    }

    /// Receives the oldest message when there is one.
    ///
    /// Cancel-safe: a future that is dropped has taken nothing.
    ///
    /// # Errors
    /// As [`Connection::recv`](crate::Connection::recv).
    pub async fn recv(&self) -> Result<U, RecvError> {
        let attempt = || match self.0.try_recv() {
            Err(RecvError::Empty) => None,
            other => Some(other),
        };
        until(Taking::One, 0, attempt, || Target(self.0.messages())).await.unwrap_or_else(|e| Err(RecvError::Failed(e)))
    }

    /// Receives the oldest message if there is one now: see [`Connection::try_recv`](crate::Connection::try_recv).
    ///
    /// # Errors
    /// As there.
    pub fn try_recv(&self) -> Result<U, RecvError> {
        self.0.try_recv()
    }

    /// Waits until there is something to receive, a message or the end of file. It takes nothing: another user of the same
    /// end may be faster.
    ///
    /// # Errors
    /// If there is no thread to wait in.
    pub async fn poll(&self) -> Result<(), Error> {
        let messages = self.0.messages();
        let attempt = || messages.is_ready(0).then_some(());
        until(Taking::Nothing, 0, attempt, || Target(messages.clone())).await
    }
}

impl<T, U> Connection<T, U> {
    /// Drops this handle: see [`Connection::close`](crate::Connection::close).
    pub fn close(self) {}

    /// See [`Connection::doorbell`](crate::Connection::doorbell).
    ///
    /// # Errors
    /// As there.
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        self.0.doorbell()
    }

    /// The blocking connection.
    pub fn get_ref(&self) -> &channel::Connection<T, U> {
        &self.0
    }

    /// The blocking connection.
    pub fn into_inner(self) -> channel::Connection<T, U> {
        self.0
    }
}

impl<T, U> From<channel::Connection<T, U>> for Connection<T, U> {
    fn from(connection: channel::Connection<T, U>) -> Self {
        Self(connection)
    }
}

impl<T, U> Clone for Connection<T, U> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, U> fmt::Debug for Connection<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T, U> Serialize for Connection<T, U> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T, U> Deserialize<'de> for Connection<T, U>
where
    T: Serialize + DeserializeOwned + 'static,
    U: Serialize + DeserializeOwned + 'static,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        channel::Connection::deserialize(deserializer).map(Self)
    }
}
