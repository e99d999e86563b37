//! What the standard streams of a child are.

use crate::channel::Fd;
use crate::sys::spawn::{self, Above};
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;

/// What a standard stream of a child is: as [`std::process::Stdio`], but it may serve many children. Besides what the
/// functions here give, it is made from any open file, which is closed here with the last copy of the value.
///
/// ```
/// use kinfolk::{Process, process::Stdio};
/// use std::io::Read;
///
/// let mut child = Process::builder().stdout(Stdio::piped()).spawn(|()| println!("hello"), ())?;
/// let mut said = String::new();
/// child.stdout.take().unwrap().read_to_string(&mut said)?;
/// assert_eq!(said, "hello\n");
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stdio(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    Inherit,
    Null,
    Piped,
    Open(Arc<OwnedFd>),
}

impl Stdio {
    /// This process's. The default.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// Nothing to read, and what is written is lost.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe to this process. A child that prints more than a pipe holds (64 KiB, mostly) waits until it is read.
    pub fn piped() -> Self {
        Self(Kind::Piped)
    }

    /// What the child gets, if it is not this process's own, and the end of a pipe that stays here.
    pub(super) fn open(&self, direction: Direction) -> io::Result<(Option<Given>, Option<OwnedFd>)> {
        Ok(match &self.0 {
            Kind::Inherit => (None, None),
            Kind::Null => (Some(Given::Made(spawn::null_device()?)), None),
            Kind::Piped => {
                let (read, write) = spawn::pipe_above_stdio()?;
                let (its, ours) = if direction == Direction::In { (read, write) } else { (write, read) };
                (Some(Given::Made(its)), Some(ours))
            }
            Kind::Open(fd) => match Above::stdio(fd.as_fd())? {
                Above::Copied(copy) => (Some(Given::Made(copy)), None),
                Above::Already(_) => (Some(Given::Shared(Arc::clone(fd))), None),
            },
        })
    }
}

/// Which way a stream goes, as the child sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// A descriptor above 2 that becomes a stream of a child.
pub(super) enum Given {
    Made(OwnedFd),
    Shared(Arc<OwnedFd>),
}

impl AsFd for Given {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Made(fd) => fd.as_fd(),
            Self::Shared(fd) => fd.as_fd(),
        }
    }
}

/// Conversions from what owns a descriptor.
macro_rules! from_open {
    ($($open:ty),*) => {$(
        impl From<$open> for Stdio {
            fn from(open: $open) -> Self {
                Self(Kind::Open(Arc::new(open.into())))
            }
        }
    )*};
}

from_open!(OwnedFd, File, UnixStream, TcpStream, ChildStdin, ChildStdout, ChildStderr, Fd);
