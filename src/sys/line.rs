//! A line between this process and one that it started: short messages, with open descriptors, over a pair of sockets that
//! has no name, so that nobody else can be at either end.
//!
//! Messages keep their boundaries (SOCK_SEQPACKET) and are never cut. When one end is gone the other is told so, after all
//! that was sent before has been received.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// As many descriptors go with one message (`SCM_MAX_FD`).
pub const MOST: usize = 253;

/// One end.
#[derive(Debug)]
pub struct Line(OwnedFd);

/// What came with a message.
#[derive(Debug, Default)]
pub struct Received {
    /// How long the message is.
    pub bytes: usize,
    /// The descriptors, closed on exec. The last ones are missing if this process had no number free for them.
    pub descriptors: Vec<OwnedFd>,
}

/// Why nothing was sent or received.
#[derive(Debug)]
pub enum Broken {
    /// The other end is gone.
    Gone,
    /// The system refused.
    Os(io::Error),
}

impl From<Errno> for Broken {
    fn from(e: Errno) -> Self {
        match e {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Gone,
            other => Self::Os(other.into()),
        }
    }
}

impl Line {
    /// Both ends, closed on exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(super::spawn::above_stdio(a)?), Self(super::spawn::above_stdio(b)?)))
    }

    /// The end that is open as `fd`.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a message; it blocks while the other end has received nothing of a great many.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Broken> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            with.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(message)], &mut with, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Blocks until a message is there, and copies it to `into`, or the other end is gone.
    pub fn receive(&self, into: &mut [u8]) -> Result<Received, Broken> {
        self.take(into, RecvFlags::CMSG_CLOEXEC)
    }

    /// As [`receive`](Self::receive); it also ends when the process of `pidfd` has, should copies of the other end have
    /// outlived it.
    pub fn receive_from(&self, into: &mut [u8], pidfd: BorrowedFd<'_>) -> Result<Received, Broken> {
        loop {
            let mut polled = [PollFd::new(&self.0, PollFlags::IN), PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            match poll(&mut polled, None) {
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(_) => {}
            }
            match self.take(into, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
                // It has ended without an answer.
                Err(Broken::Os(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !polled[1].revents().is_empty() {
                        return Err(Broken::Gone);
                    }
                }
                other => return other,
            }
        }
    }

    fn take(&self, into: &mut [u8], flags: RecvFlags) -> Result<Received, Broken> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| recvmsg(&self.0, &mut [IoSliceMut::new(into)], &mut with, flags))?;
        let mut received = Received { bytes: got.bytes, ..Default::default() };
        for message in with.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                received.descriptors.extend(descriptors);
            }
        }
        if received.bytes == 0 { Err(Broken::Gone) } else { Ok(received) }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_message_comes_whole_and_with_its_descriptors() {
        let (here, there) = Line::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        here.send(b"one", &[write.as_fd()]).unwrap();
        here.send(b"two", &[]).unwrap();
        drop((here, write));
        let mut bytes = [0; 16];
        let mut first = there.receive(&mut bytes).unwrap();
        assert_eq!((&bytes[..first.bytes], first.descriptors.len()), (&b"one"[..], 1));
        let fd = first.descriptors.pop().unwrap();
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        std::fs::File::from(fd).write_all(b"through").unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(there.receive(&mut bytes).unwrap().bytes, 3);
        assert!(matches!(there.receive(&mut bytes), Err(Broken::Gone)));
        assert!(matches!(there.send(b"x", &[]), Err(Broken::Gone)));
    }

    #[test]
    fn an_end_that_was_copied_does_not_hide_the_death_of_its_process() {
        let (here, there) = Line::pair().unwrap();
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        there.send(b"last words", &[]).unwrap();
        assert_eq!(here.receive_from(&mut [0; 16], pidfd.as_fd()).unwrap().bytes, 10);
        assert!(matches!(here.receive_from(&mut [0; 16], pidfd.as_fd()), Err(Broken::Gone)));
        child.wait().unwrap();
    }
}
