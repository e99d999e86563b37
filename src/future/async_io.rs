//! The handles of [`future`](super), and a [`Process`] for async-io: its `join` runs under any executor.

pub use super::{Connection, Event, Queue};

use std::io;
use std::os::fd::OwnedFd;

use ::async_io::Async;

use super::process::{self, Sentinel};

/// A [`Process`](crate::Process) whose end is awaited, wherever async-io's event loop is.
pub type Process<R> = process::Process<R, Async<OwnedFd>>;

impl Sentinel for Async<OwnedFd> {
    fn watch(fd: OwnedFd) -> io::Result<Self> {
        Self::new_nonblocking(fd)
    }

    async fn readable(&self) -> io::Result<()> {
        self.readable().await
    }
}
