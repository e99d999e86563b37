//! Open descriptors as values: files, sockets, whatever has a number.
//!
//! A message carries a ticket; the descriptor itself stays in the process that sent it, as a copy, until whoever decodes the
//! message fetches it (`segment/office.rs`). Each copy is given away once.

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Stdio;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::error::Error;
use crate::segment::{OfficeTicket, fetch, keep_descriptor, refuse};

/// An open descriptor that can be part of a message of any queue or connection, and of a child's arguments.
///
/// The receiver gets a descriptor of its own for the same open file, closed on exec. Make one of anything that holds a
/// descriptor (`Fd::from(file)`), and take that out again (`File::from(fd)`).
///
/// Nothing of the kind can lie in shared memory, so the sending process keeps a copy, and a thread of its own gives it to
/// whoever decodes the message; both exist from the first descriptor sent on, not before. The copy is closed when it has
/// been fetched; when the value was handed back because it could not be sent; and, once the next descriptor is sent, if the
/// queue or pipe with the message is gone, or the child among whose arguments it was. Else, as after a message that was
/// received as bytes, it stays until the sender ends. A message carries its descriptor to one receiver.
///
/// # If a peer dies
/// The sender must live until the message has been decoded. If it has ended, decoding fails with an error of kind
/// [`ErrorKind::Gone`](crate::ErrorKind::Gone) that names it: [`RecvError::Decode`](crate::RecvError::Decode),
/// [`GetError::Decode`](crate::GetError::Decode). So a descriptor in what a child returns always comes too late: send it
/// through a pipe. A sender that is stopped is waited for 10 s, also by `try_recv` and `try_get`; then the error is of kind
/// [`ErrorKind::Stalled`](crate::ErrorKind::Stalled). A receiver that dies holds nobody up.
///
/// # Who may fetch it
/// Processes of the same user in the same network namespace that hold the ticket, a random number of 128 bits.
///
/// Python: `multiprocessing.reduction.send_handle`, `DupFd`; sockets and files among what is pickled.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// use kinfolk::Process;
/// use kinfolk::channel::Fd;
///
/// let (mut here, there) = UnixStream::pair()?;
/// let child = Process::spawn(|fd: Fd| UnixStream::from(fd).write_all(b"hello").unwrap(), Fd::from(there))?;
/// let mut text = String::new();
/// here.read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "DupFd")]
#[doc(alias = "send_handle")]
#[doc(alias = "recv_handle")]
#[derive(Debug)]
pub struct Fd(OwnedFd);

impl Fd {
    /// Another descriptor for the same open file.
    ///
    /// # Errors
    /// If the process has as many as it may.
    pub fn try_clone(&self) -> Result<Self, Error> {
        self.0.try_clone().map(Self).map_err(|e| Error::os("duplicate descriptor", e))
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Conversions from and into types that own a descriptor.
macro_rules! owners {
    ($($owner:ty),*) => {$(
        impl From<$owner> for Fd {
            fn from(owner: $owner) -> Self {
                Self(owner.into())
            }
        }

        impl From<Fd> for $owner {
            fn from(fd: Fd) -> Self {
                fd.0.into()
            }
        }
    )*};
}

owners!(OwnedFd, File, UnixStream, UnixListener, UnixDatagram, TcpStream, TcpListener, UdpSocket);

impl From<Fd> for Stdio {
    fn from(fd: Fd) -> Self {
        fd.0.into()
    }
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        keep_descriptor(self.as_fd()).map_err(|e| refuse(e, ser::Error::custom))?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ticket = OfficeTicket::deserialize(deserializer)?;
        fetch(&ticket, "receive descriptor").map(Self).map_err(|e| refuse(e, de::Error::custom))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Queue, pipe};
    use super::*;
    use crate::segment::kept;

    fn null() -> Fd {
        Fd::from(File::open("/dev/null").unwrap())
    }

    #[test]
    fn a_copy_is_kept_as_long_as_somebody_may_come_for_it() {
        let queue = Queue::<Vec<Fd>>::new(2).unwrap();
        queue.put(vec![null(), null()]).unwrap();
        assert_eq!(kept(), 2);
        queue.put(vec![null()]).unwrap();
        let back = queue.try_put(vec![null(), null()]).unwrap_err().into_value();
        assert_eq!((kept(), back.len()), (3, 2), "what was handed back is not kept");
        assert_eq!(queue.get().unwrap().len(), 2);
        assert_eq!(kept(), 1);
        let (here, there) = pipe::<Fd, ()>().unwrap();
        drop(queue);
        here.send(null()).unwrap();
        assert_eq!(kept(), 1, "the queue is gone and its message with it; the pipe's is not");
        drop((here, there));
        assert!(postcard::to_stdvec(&null()).is_err(), "outside a message it means nothing");
        assert_eq!(kept(), 1);
    }
}
