//! The handles of [`future`](super), and a [`Process`] for async-io: its `join` runs under any executor.

pub use super::{Connection, Event, Queue};

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;

use ::async_io::Async;

use super::until::pause;
use crate::error::Error;
use crate::process::{self, JoinError};

/// A [`Process`](crate::Process) whose end is awaited.
///
/// # If a peer dies
/// The child's death, whatever its cause, ends the wait.
#[derive(Debug)]
pub struct Process<R> {
    process: process::Process<R>,
    sentinel: Option<Async<OwnedFd>>,
}

impl<R: Serialize + DeserializeOwned> Process<R> {
    /// Waits until the child has ended, and gives what its function returned. Every call that gives a result decodes it
    /// anew.
    ///
    /// Cancel-safe: the result stays where it is until it is given.
    ///
    /// # Errors
    /// As [`Process::join`](crate::Process::join).
    pub async fn join(&mut self) -> Result<R, JoinError> {
        loop {
            if let Some(result) = self.process.try_join()? {
                return Ok(result);
            }
            let os = |e| JoinError::Failed(Error::os(format!("wait for process {:?}", self.process.name()), e));
            if let Some(sentinel) = &self.sentinel {
                // It stays ready: an end is not taken back.
                sentinel.readable().await.map_err(os)?;
                // A debugger may hold a child that has ended.
                pause().await;
            } else {
                let fd = self.process.sentinel().try_clone_to_owned().map_err(os)?;
                self.sentinel = Some(Async::new_nonblocking(fd).map_err(os)?);
            }
        }
    }

    /// Gives what the function returned, if the child has ended: see [`Process::try_join`](crate::Process::try_join).
    ///
    /// # Errors
    /// As there.
    pub fn try_join(&mut self) -> Result<Option<R>, JoinError> {
        self.process.try_join()
    }
}

impl<R> Process<R> {
    /// The child itself: its name, its process id, how it ended, and signals to it.
    pub fn child(&self) -> &process::Child {
        self.process.child()
    }

    /// The process whose end is waited for by blocking.
    pub fn get_ref(&self) -> &process::Process<R> {
        &self.process
    }

    /// The process whose end is waited for by blocking.
    pub fn into_inner(self) -> process::Process<R> {
        self.process
    }
}

impl<R> From<process::Process<R>> for Process<R> {
    fn from(process: process::Process<R>) -> Self {
        Self { process, sentinel: None }
    }
}
