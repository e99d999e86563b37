//! Messages of bytes as they are, through a connection of any types.
//!
//! `send_bytes` and `recv_bytes` leave out the encoding, nothing else: their messages and those of `send` and `recv` go
//! through one ring in one order, and have the same limits.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{RecvError, SendError};
use super::mailbox::Ended;
use super::pipe::Connection;
use crate::segment::ShmSlice;
use crate::sys::clock::Deadline;

/// Where the bytes of a message go, once they are known to lie inside `data`.
pub(super) trait Target {
    /// Takes the `len` bytes at `at`, replacing what was there.
    fn fill(&mut self, data: &ShmSlice<'_>, at: usize, len: usize);
}

impl Target for Vec<u8> {
    #[inline]
    fn fill(&mut self, data: &ShmSlice<'_>, at: usize, len: usize) {
        data.read_into(at, len, self);
    }
}

/// The caller's buffer; a message that is too long for it goes into memory of its own.
struct Buffer<'a> {
    to: &'a mut [u8],
    filled: usize,
    too_long: Option<Vec<u8>>,
}

impl Target for Buffer<'_> {
    #[inline]
    fn fill(&mut self, data: &ShmSlice<'_>, at: usize, len: usize) {
        match self.to.get_mut(..len) {
            Some(to) => {
                data.read(at, to);
                self.filled = len;
            }
            None => data.read_into(at, len, self.too_long.insert(Vec::new())),
        }
    }
}

/// When a receiver gives up.
#[derive(Clone, Copy)]
enum Until {
    Now,
    Then(Deadline),
}

impl<T: Serialize + DeserializeOwned + 'static, U> Connection<T, U> {
    /// Sends the bytes as a message of their own, waiting while the pipe is full. No bytes are a message too.
    ///
    /// The other end receives them with [`recv_bytes`](Self::recv_bytes), or with [`recv`](Self::recv) as the value whose
    /// encoding they are; a `Vec<u8>` is its own encoding. Some of the bytes are a slice: `&bytes[3..5]`.
    ///
    /// # Errors
    /// As [`send`](Self::send), but that there is no value to hand back. Up to 64 MiB.
    ///
    /// Python: `send_bytes(buffer, offset, size)`.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.send_bytes_by(bytes, Deadline::NEVER)
    }

    /// Sends the bytes if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`send_bytes`](Self::send_bytes), and [`SendError::Full`].
    pub fn try_send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.send_bytes_by(bytes, Deadline::after(Duration::ZERO)).map_err(|e| match e {
            SendError::Timeout((), _) => SendError::Full(()),
            other => other,
        })
    }

    /// Sends the bytes, waiting at most `timeout` while the pipe is full.
    ///
    /// # Errors
    /// As [`send_bytes`](Self::send_bytes), and [`SendError::Timeout`].
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), SendError<()>> {
        self.send_bytes_by(bytes, Deadline::after(timeout))
    }

    fn send_bytes_by(&self, bytes: &[u8], deadline: Deadline) -> Result<(), SendError<()>> {
        if self.is_peer_closed() {
            return Err(SendError::Disconnected((), self.last_dead()));
        }
        let lane = self.lane().map_err(|e| SendError::Failed((), e))?;
        self.send_encoded(lane, bytes, &[], deadline).map_err(|e| match e {
            Ended::Timeout(holder) => SendError::Timeout((), holder),
            Ended::Stopped => SendError::Disconnected((), self.last_dead()),
            Ended::Failed(e) => SendError::Failed((), e),
        })
    }
}

impl<T, U: Serialize + DeserializeOwned + 'static> Connection<T, U> {
    /// Receives the oldest message as bytes, waiting for one. What [`send`](Self::send) sent arrives encoded; handles in it
    /// are given up.
    ///
    /// # Errors
    /// As [`recv`](Self::recv). [`BufferTooShort`](RecvError::BufferTooShort) if it is longer than `max`: the message is
    /// consumed, so that the next one can be received, and the error holds all of it, so that nothing is lost. (Python
    /// loses it, and the connection with it.)
    ///
    /// Python: `recv_bytes(maxlength)`.
    pub fn recv_bytes(&self, max: Option<usize>) -> Result<Vec<u8>, RecvError> {
        self.recv_bytes_by(max, Until::Then(Deadline::NEVER))
    }

    /// Receives the oldest message as bytes if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`recv_bytes`](Self::recv_bytes), and [`RecvError::Empty`].
    pub fn try_recv_bytes(&self, max: Option<usize>) -> Result<Vec<u8>, RecvError> {
        self.recv_bytes_by(max, Until::Now)
    }

    /// Receives the oldest message as bytes, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`recv_bytes`](Self::recv_bytes), and [`RecvError::Timeout`].
    pub fn recv_bytes_timeout(&self, max: Option<usize>, timeout: Duration) -> Result<Vec<u8>, RecvError> {
        self.recv_bytes_by(max, Until::Then(Deadline::after(timeout)))
    }

    fn recv_bytes_by(&self, max: Option<usize>, until: Until) -> Result<Vec<u8>, RecvError> {
        let mut bytes = Vec::new();
        self.recv_into(&mut bytes, until)?;
        if max.is_some_and(|max| bytes.len() > max) { Err(RecvError::BufferTooShort(bytes)) } else { Ok(bytes) }
    }

    /// Receives the oldest message into the start of `buffer`, waiting for one: how many bytes it has. They are copied
    /// once, and no memory is allocated. `&mut buffer[3..]` leaves the first three bytes alone.
    ///
    /// # Errors
    /// As [`recv_bytes`](Self::recv_bytes); [`BufferTooShort`](RecvError::BufferTooShort), with the whole message, if it is
    /// longer than `buffer`, which is then as it was.
    ///
    /// Python: `recv_bytes_into(buffer, offset)`.
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize, RecvError> {
        self.recv_bytes_into_by(buffer, Until::Then(Deadline::NEVER))
    }

    /// Receives the oldest message into `buffer` if there is one now: how many bytes it has. Never blocks.
    ///
    /// # Errors
    /// As [`recv_bytes_into`](Self::recv_bytes_into), and [`RecvError::Empty`].
    pub fn try_recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize, RecvError> {
        self.recv_bytes_into_by(buffer, Until::Now)
    }

    /// Receives the oldest message into `buffer`, waiting at most `timeout` for one: how many bytes it has.
    ///
    /// # Errors
    /// As [`recv_bytes_into`](Self::recv_bytes_into), and [`RecvError::Timeout`].
    pub fn recv_bytes_into_timeout(&self, buffer: &mut [u8], timeout: Duration) -> Result<usize, RecvError> {
        self.recv_bytes_into_by(buffer, Until::Then(Deadline::after(timeout)))
    }

    fn recv_bytes_into_by(&self, buffer: &mut [u8], until: Until) -> Result<usize, RecvError> {
        let mut buffer = Buffer { to: buffer, filled: 0, too_long: None };
        self.recv_into(&mut buffer, until)?;
        buffer.too_long.map_or(Ok(buffer.filled), |message| Err(RecvError::BufferTooShort(message)))
    }

    fn recv_into(&self, target: &mut impl Target, until: Until) -> Result<(), RecvError> {
        let lane = self.lane().map_err(RecvError::Failed)?;
        match until {
            Until::Now => self.try_recv_encoded(lane, target).map(drop),
            Until::Then(deadline) => self.recv_encoded(lane, target, deadline).map(drop),
        }
    }
}
