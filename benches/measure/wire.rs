//! The transports behind one face, and what the messages contain.
//!
//! # Messages
//! Words of 8 bytes. The first is `number:62 | flags:2`, where the number counts the messages of one direction; each
//! following word is the one before plus [`STRIDE`]. Both sides know the size, so a stream carries no lengths, and
//! reads go into a buffer that exists. A queue takes a message with its memory and gives one with its memory, so there the
//! buffer is new or the one received last.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use kinfolk::Queue;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use super::{Failure, Who};

/// Flag of a message that wants an answer.
pub(super) const ANSWER: u64 = 1;
/// Flag of the last message of all.
pub(super) const LAST: u64 = 2;
const FLAG_BITS: u32 = 2;

const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// One end of a transport.
pub(super) struct Wire {
    link: Link,
    buffer: Vec<u8>,
    sent: u64,
    received: u64,
}

enum Link {
    Queues { out: Queue<Vec<u8>>, inward: Queue<Vec<u8>> },
    Stream { out: File, inward: File },
}

/// The other end, on its way to another process: queues, or the numbers of descriptors that it inherits.
#[derive(Serialize, Deserialize)]
pub(super) enum Ends {
    Queues { out: Queue<Vec<u8>>, inward: Queue<Vec<u8>> },
    Fds { out: RawFd, inward: RawFd },
}

/// The files of two descriptors that have no owner in this process; they may be the same.
fn own([out, inward]: [RawFd; 2]) -> (File, File) {
    // SAFETY: descriptors that came with the process, and are owned once, here.
    let out = unsafe { OwnedFd::from_raw_fd(out) };
    let inward = if out.as_raw_fd() == inward {
        out.try_clone().expect("duplicate a descriptor")
    } else {
        // SAFETY: as above, and another one.
        unsafe { OwnedFd::from_raw_fd(inward) }
    };
    (out.into(), inward.into())
}

impl Wire {
    /// A new transport: this process's end, the other, and the descriptors that the other side has to keep. So each
    /// process has its own ends only, and sees the other's end.
    pub(super) fn pair(who: Who) -> Result<(Self, Ends, Vec<OwnedFd>), Failure> {
        let ([out, inward], [its_out, its_inward], kept) = match who {
            Who::Kinfolk => {
                let (there, back) = (Queue::new(0)?, Queue::new(0)?);
                let ends = Ends::Queues { out: back.clone(), inward: there.clone() };
                return Ok((Self::new(Link::Queues { out: there, inward: back }), ends, Vec::new()));
            }
            Who::Pipe => {
                let ((its_inward, out), (inward, its_out)) =
                    (pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?);
                ([out, inward], [its_out.as_raw_fd(), its_inward.as_raw_fd()], vec![its_out, its_inward])
            }
            Who::UnixSocket => {
                let (here, there) = UnixStream::pair()?;
                let here = OwnedFd::from(here);
                ([here.try_clone()?, here], [there.as_raw_fd(); 2], vec![there.into()])
            }
        };
        let link = Link::Stream { out: out.into(), inward: inward.into() };
        Ok((Self::new(link), Ends::Fds { out: its_out, inward: its_inward }, kept))
    }

    /// The end that came from another process.
    pub(super) fn from_ends(ends: Ends) -> Self {
        Self::new(match ends {
            Ends::Queues { out, inward } => Link::Queues { out, inward },
            Ends::Fds { out, inward } => {
                let (out, inward) = own([out, inward]);
                Link::Stream { out, inward }
            }
        })
    }

    fn new(link: Link) -> Self {
        Self { link, buffer: Vec::new(), sent: 0, received: 0 }
    }

    /// Writes and sends a message of `bytes` bytes.
    #[inline]
    pub(super) fn send(&mut self, bytes: usize, flags: u64) -> Result<(), Failure> {
        write_payload(&mut self.buffer, bytes, self.sent << FLAG_BITS | flags);
        self.sent += 1;
        match &mut self.link {
            Link::Queues { out, .. } => out.put(std::mem::take(&mut self.buffer)).map_err(|e| e.to_string())?,
            Link::Stream { out, .. } => out.write_all(&self.buffer)?,
        }
        Ok(())
    }

    /// Receives and checks a message of `bytes` bytes: its flags.
    #[inline]
    pub(super) fn receive(&mut self, bytes: usize) -> Result<u64, Failure> {
        match &mut self.link {
            Link::Queues { inward, .. } => self.buffer = inward.get()?,
            Link::Stream { inward, .. } => {
                self.buffer.resize(bytes, 0);
                inward.read_exact(&mut self.buffer)?;
            }
        }
        let first = check_payload(&self.buffer, bytes)
            .filter(|first| first >> FLAG_BITS == self.received)
            .ok_or_else(|| io::Error::other(format!("message {} is not what was sent", self.received)))?;
        self.received += 1;
        Ok(first & (ANSWER | LAST))
    }
}

/// Replaces the contents of `buffer` by a message, which has whole words.
#[inline]
fn write_payload(buffer: &mut Vec<u8>, bytes: usize, first: u64) {
    let count = bytes / 8;
    buffer.clear();
    buffer.reserve(count * 8);
    let slots = buffer.as_mut_ptr().cast::<[u8; 8]>();
    let mut word = first;
    for index in 0..count {
        // SAFETY: `index < count`, and there is room for `count` slots of 8 bytes, which need no alignment.
        unsafe { slots.add(index).write(word.to_le_bytes()) };
        word = word.wrapping_add(STRIDE);
    }
    // SAFETY: so many bytes are reserved, and all have been written.
    unsafe { buffer.set_len(count * 8) };
}

/// The first word of a message, if all the others are as it says.
#[inline]
fn check_payload(message: &[u8], bytes: usize) -> Option<u64> {
    let (first, _) = message.split_first_chunk::<8>()?;
    let first = u64::from_le_bytes(*first);
    let (mut expected, mut difference) = (first, 0);
    for slot in message.chunks_exact(8) {
        difference |= u64::from_le_bytes(slot.try_into().expect("chunks of 8")) ^ expected;
        expected = expected.wrapping_add(STRIDE);
    }
    (message.len() == bytes && difference == 0).then_some(first)
}
