//! The queue.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::until::{Target, until, until_room};
use crate::channel::{self, GetError, PutError};
use crate::error::Error;
use crate::segment::{Doorbell, Taking};

/// A [`Queue`](crate::Queue) whose `put` and `get` are awaited.
///
/// It travels as the blocking queue does, and is the same value: one that was sent can be received as the other.
///
/// # If a peer dies
/// As with the blocking queue.
///
/// Python: none; `asyncio.Queue` is for one process.
pub struct Queue<T>(channel::Queue<T>);

impl<T: Serialize + DeserializeOwned + 'static> Queue<T> {
    /// Makes a queue: see [`Queue::new`](crate::Queue::new).
    ///
    /// # Errors
    /// As there.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        channel::Queue::new(capacity).map(Self)
    }

    /// Puts a value when there is room.
    ///
    /// Cancel-safe: a future that is dropped has not put the value, which goes with it.
    ///
    /// # Errors
    /// As [`Queue::put`](crate::Queue::put).
    pub async fn put(&self, value: T) -> Result<(), PutError<T>> {
        let attempt = |value| match self.0.try_put(value) {
            Err(PutError::Full(value)) => Err(value),
            other => Ok(other),
        };
        let put = until_room(value, attempt, |value| self.0.room_for(value).map(Target)).await;
        put.unwrap_or_else(|(value, e)| Err(PutError::Failed(value, e)))
    }

    /// Puts a value if there is room now: see [`Queue::try_put`](crate::Queue::try_put).
    ///
    /// # Errors
    /// As there.
    pub fn try_put(&self, value: T) -> Result<(), PutError<T>> {
        self.0.try_put(value)
    }

    /// Gets the oldest value when there is one.
    ///
    /// Cancel-safe: a future that is dropped has taken nothing.
    ///
    /// # Errors
    /// As [`Queue::get`](crate::Queue::get).
    pub async fn get(&self) -> Result<T, GetError> {
        // The second look reports what `get` reports instead of waiting.
        let attempt = || match self.0.try_get() {
            Err(GetError::Empty) => match self.0.get_timeout(Duration::ZERO) {
                Err(GetError::Timeout(_)) => None,
                other => Some(other),
            },
            other => Some(other),
        };
        until(Taking::One, 0, attempt, || Target(self.0.items())).await.unwrap_or_else(|e| Err(GetError::Failed(e)))
    }

    /// Gets the oldest value if there is one now: see [`Queue::try_get`](crate::Queue::try_get).
    ///
    /// # Errors
    /// As there.
    pub fn try_get(&self) -> Result<T, GetError> {
        self.0.try_get()
    }
}

impl<T> Queue<T> {
    /// Items that were put and not got: see [`Queue::len`](crate::Queue::len).
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no item to get, at this moment.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the use of the queue by this process: see [`Queue::close`](crate::Queue::close). Tasks that wait go on.
    pub fn close(&self) {
        self.0.close();
    }

    /// See [`Queue::doorbell`](crate::Queue::doorbell).
    ///
    /// # Errors
    /// As there.
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        self.0.doorbell()
    }

    /// The blocking queue.
    pub fn get_ref(&self) -> &channel::Queue<T> {
        &self.0
    }

    /// The blocking queue.
    pub fn into_inner(self) -> channel::Queue<T> {
        self.0
    }
}

impl<T> From<channel::Queue<T>> for Queue<T> {
    fn from(queue: channel::Queue<T>) -> Self {
        Self(queue)
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Serialize + DeserializeOwned + 'static> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        channel::Queue::deserialize(deserializer).map(Self)
    }
}
