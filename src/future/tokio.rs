//! The handles of [`future`](super), and a [`Process`] for tokio: its `join` needs a runtime with I/O enabled.

pub use super::{Connection, Event, Queue};

use std::io;
use std::os::fd::OwnedFd;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;

use super::process::{self, Sentinel};

/// A [`Process`](crate::Process) whose end is awaited, in a tokio runtime.
pub type Process<R> = process::Process<R, AsyncFd<OwnedFd>>;

impl Sentinel for AsyncFd<OwnedFd> {
    #[allow(deprecated, reason = "what its successor asks for an OwnedFd keeps, and older versions lack that")]
    fn watch(fd: OwnedFd) -> io::Result<Self> {
        Self::with_interest(fd, Interest::READABLE)
    }

    async fn readable(&self) -> io::Result<()> {
        self.readable().await.map(drop)
    }
}
