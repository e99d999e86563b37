//! The event.

use serde::{Deserialize, Serialize};

use super::until::{Target, until};
use crate::error::Error;
use crate::segment::{Doorbell, Taking};
use crate::shared;

/// An [`Event`](crate::Event) that is awaited. It travels as the blocking one does, and is the same value.
///
/// Python: none; `asyncio.Event` is for one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Event(shared::Event);

impl Event {
    /// Makes an event, not set: see [`Event::new`](crate::Event::new).
    ///
    /// # Errors
    /// As there.
    pub fn new() -> Result<Self, Error> {
        shared::Event::new().map(Self)
    }

    /// Waits until it is set, or was since the first poll.
    ///
    /// Cancel-safe: it takes nothing.
    ///
    /// # Errors
    /// If there is no thread to wait in.
    pub async fn wait(&self) -> Result<(), Error> {
        let watched = self.0.watched();
        let moment = watched.moment();
        let attempt = || watched.is_ready(moment).then_some(());
        until(Taking::Nothing, moment, attempt, || Target(watched.clone())).await
    }

    /// Whether it is set, at this moment.
    pub fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Sets it, and wakes all who wait: see [`Event::set`](crate::Event::set).
    pub fn set(&self) {
        self.0.set();
    }

    /// Clears it.
    pub fn clear(&self) {
        self.0.clear();
    }

    /// See [`Event::doorbell`](crate::Event::doorbell).
    ///
    /// # Errors
    /// As there.
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        self.0.doorbell()
    }

    /// The blocking event.
    pub fn get_ref(&self) -> &shared::Event {
        &self.0
    }

    /// The blocking event.
    pub fn into_inner(self) -> shared::Event {
        self.0
    }
}

impl From<shared::Event> for Event {
    fn from(event: shared::Event) -> Self {
        Self(event)
    }
}
