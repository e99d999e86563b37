//! Open descriptors as values: files, sockets, whatever has a number.
//!
//! A message carries a ticket; the descriptor itself stays in the process that sent it, as a copy, until whoever decodes the
//! message fetches it (`sys/fd.rs`). Each copy is given away once.

use std::collections::HashMap;
use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::error::{Error, ErrorKind};
use crate::segment::{Fate, Recipient, nowhere, on_fate, recipient, refuse, when_gone, when_row_gone};
use crate::sys::clock::Deadline;
use crate::sys::fd::{self, Giver, Token, Unfetched};
use crate::sys::memfd::random_id;

/// How long a process that lives may take to hand a descriptor over.
const PATIENCE: Duration = Duration::from_secs(10);
/// Stack of the thread that gives descriptors away.
const STACK_BYTES: usize = 64 << 10;

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
/// [`ErrorKind::Gone`] that names it: [`RecvError::Decode`](crate::RecvError::Decode),
/// [`GetError::Decode`](crate::GetError::Decode). So a descriptor in what a child returns always comes too late: send it
/// through a pipe. A sender that is stopped is waited for 10 s, also by `try_recv` and `try_get`; then the error is of kind
/// [`ErrorKind::Stalled`]. A receiver that dies holds nobody up.
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

/// What lies in a message in place of a descriptor.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Ticket {
    pid: u32,
    /// Random part of the name of the sender's socket: a later process with the same id has another.
    office: [u8; 16],
    token: Token,
}

impl Ticket {
    fn name(&self) -> String {
        format!("kinfolk-{}-{:032x}", self.pid, u128::from_ne_bytes(self.office))
    }
}

/// The descriptors that this process gives away.
struct Office {
    /// The process that it is of: a forked copy has its own.
    pid: u32,
    name: [u8; 16],
    kept: HashMap<Token, Kept>,
}

struct Kept {
    fd: OwnedFd,
    /// Whether the message is known to be gone.
    is_lost: Option<Box<dyn Fn() -> bool + Send>>,
}

static OFFICE: Mutex<Option<Office>> = Mutex::new(None);

fn office() -> MutexGuard<'static, Option<Office>> {
    OFFICE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a descriptor out for whoever has its token.
fn give(token: &Token) -> Option<OwnedFd> {
    office().as_mut()?.kept.remove(token).map(|kept| kept.fd)
}

/// Opens this process's office, and starts the thread in it.
fn open() -> Result<Office, Error> {
    let os = |e| Error::os("give descriptors away", e);
    let (pid, name) = (std::process::id(), random_id().map_err(os)?);
    let address = Ticket { pid, office: name, token: name }.name();
    let giver = Giver::bind(address.as_bytes()).map_err(os)?;
    let thread = std::thread::Builder::new().name("kinfolk-fds".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(move || giver.serve(give)).map_err(os)?;
    Ok(Office { pid, name, kept: HashMap::new() })
}

/// Keeps a copy of the descriptor for who gets what the calling thread is encoding.
fn keep(fd: BorrowedFd<'_>) -> Result<Ticket, Error> {
    let os = |e| Error::os("duplicate descriptor", e);
    let to = recipient().ok_or_else(|| nowhere("descriptor"))?;
    let is_lost = match to {
        Recipient::Row(row) => Some(Box::new(when_row_gone(row)?) as Box<dyn Fn() -> bool + Send>),
        Recipient::Taker => None,
    };
    let (fd, token) = (fd.try_clone_to_owned().map_err(os)?, random_id().map_err(os)?);
    let mut guard = office();
    let office = match guard.take().filter(|office| office.pid == std::process::id()) {
        Some(office) => guard.insert(office),
        None => guard.insert(open()?),
    };
    office.kept.retain(|_, kept| kept.is_lost.as_ref().is_none_or(|is_lost| !is_lost()));
    office.kept.insert(token, Kept { fd, is_lost });
    let ticket = Ticket { pid: office.pid, office: office.name, token };
    drop(guard);
    if to == Recipient::Taker {
        on_fate(move |fate| settle(&token, fate));
    }
    Ok(ticket)
}

/// The message with the descriptor has been sent, or was not.
fn settle(token: &Token, fate: Fate<'_>) {
    match fate {
        Fate::Withdrawn => drop(give(token)),
        Fate::Sent(object) => {
            if let Some(kept) = office().as_mut().and_then(|office| office.kept.get_mut(token)) {
                kept.is_lost = Some(Box::new(when_gone(object)));
            }
        }
    }
}

/// Fetches the descriptor that the ticket is for.
fn fetch(ticket: &Ticket) -> Result<OwnedFd, Error> {
    let fail = |kind, message: String| Err(Error::new(kind, "receive descriptor", message));
    let pid = ticket.pid;
    let is_mine = office().as_ref().is_some_and(|office| (office.pid, office.name) == (pid, ticket.office));
    let fetched = if is_mine {
        give(&ticket.token).ok_or(Unfetched::Unknown)
    } else {
        fd::fetch(ticket.name().as_bytes(), &ticket.token, Deadline::after(PATIENCE))
    };
    match fetched {
        Ok(fd) => Ok(fd),
        Err(Unfetched::Gone) => fail(ErrorKind::Gone, format!("process {pid}, which sent it, has ended")),
        Err(Unfetched::Unknown) => {
            fail(ErrorKind::Gone, format!("process {pid}, which sent it, does not keep it: it was fetched before"))
        }
        Err(Unfetched::NoAnswer) => {
            fail(ErrorKind::Stalled, format!("process {pid}, which sent it, lives and does not answer"))
        }
        Err(Unfetched::Os(e)) => Err(Error::os("receive descriptor", e)),
    }
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        keep(self.as_fd()).map_err(|e| refuse(e, ser::Error::custom))?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        fetch(&ticket).map(Self).map_err(|e| refuse(e, de::Error::custom))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Queue, pipe};
    use super::*;

    /// Copies that this process keeps.
    fn kept() -> usize {
        office().as_ref().map_or(0, |office| office.kept.len())
    }

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
