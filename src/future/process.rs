//! A process whose end is awaited, whichever event loop tells of it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::OwnedFd;

use super::until::pause;
use crate::error::Error;
use crate::process::{self, JoinError};

/// A descriptor that an event loop watches.
pub trait Sentinel: Sized {
    /// Has it watched from now on.
    fn watch(fd: OwnedFd) -> io::Result<Self>;

    /// Waits until it is readable.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
}

/// A [`Process`](crate::Process) whose end is awaited.
///
/// # If a peer dies
/// The child's death, whatever its cause, ends the wait.
#[derive(Debug)]
pub struct Process<R, S> {
    process: process::Process<R>,
    sentinel: Option<S>,
}

impl<R: Serialize + DeserializeOwned, S: Sentinel> Process<R, S> {
    /// Waits until the child has ended, and gives what its function returned. Every call that gives a result decodes it
    /// anew.
    ///
    /// Cancel-safe: the result stays where it is until it is given.
    ///
    /// # Errors
    /// As [`Process::join`](crate::Process::join).
    ///
    /// # Panics
    /// With tokio, if the child has not ended and no runtime with I/O is there to wait in.
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
                self.sentinel = Some(S::watch(fd).map_err(os)?);
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

impl<R, S> Process<R, S> {
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

impl<R, S> From<process::Process<R>> for Process<R, S> {
    fn from(process: process::Process<R>) -> Self {
        Self { process, sentinel: None }
    }
}
