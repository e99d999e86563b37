//! A descriptor that becomes readable when there is something in an object, for event loops of any make.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::reactor::Listener;
use super::waitable::Watched;
use crate::error::{Error, ErrorKind};
use crate::sys::poll::Bell;

/// A descriptor that becomes readable when there is something to get: for `poll`, `epoll` and event loops.
///
/// It is made by [`Queue::doorbell`](crate::Queue::doorbell), [`Connection::doorbell`](crate::Connection::doorbell) and
/// [`Event::doorbell`](crate::Event::doorbell). It rings once: then it stays readable until [`reset`](Self::reset). So a
/// loop takes what is there until there is nothing more, resets the doorbell, and polls. What comes before the reset
/// rings it again.
///
/// It rings for no reason at times, and another user of the object may be faster: what it announces has to be taken with
/// a call that does not block. It does not keep the object open; when the last handle in this process is dropped, it
/// rings.
///
/// The rings are made by a thread of this process, which is started when the first doorbell is. Objects without a
/// doorbell do not notice.
///
/// # If a peer dies
/// The thread looks after the dead as every waiter does, so the end of a pipe rings at the latest after the next look
/// (64 ms).
///
/// ```
/// use kinfolk::{Process, Queue};
///
/// let queue = Queue::new(0)?;
/// let doorbell = queue.doorbell()?;
/// let child = Process::spawn(|queue: Queue<u32>| queue.put(7).unwrap(), queue.clone())?;
/// // Any event loop does: this one is poll(2).
/// kinfolk::channel::wait(&[&doorbell], None)?;
/// assert_eq!(queue.try_get()?, 7);
/// doorbell.reset()?;
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Doorbell {
    bell: Arc<Bell>,
    watched: Weak<dyn Watched>,
    listener: Mutex<Option<Listener>>,
}

impl Doorbell {
    pub(crate) fn new(watched: &Arc<dyn Watched>) -> Result<Self, Error> {
        let bell = Arc::new(Bell::new().map_err(|e| Error::os("make a doorbell", e))?);
        let listener = Listener::for_bell(watched, watched.moment(), &bell)?;
        Ok(Self { bell, watched: Arc::downgrade(watched), listener: Mutex::new(Some(listener)) })
    }

    /// Makes it silent, until there is something: what is there already rings it again. An event's doorbell rings again
    /// only if the event is set now, or will be.
    ///
    /// It does not block.
    ///
    /// # Errors
    /// [`Gone`](crate::ErrorKind::Gone) if the last handle of the object in this process was dropped.
    pub fn reset(&self) -> Result<(), Error> {
        let Some(watched) = self.watched.upgrade() else {
            return Err(Error::new(
                ErrorKind::Gone,
                "reset a doorbell",
                "its object is not open in this process any more",
            ));
        };
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        // First the old registration, so that it does not ring afterwards for what it has rung for.
        *listener = None;
        self.bell.clear();
        *listener = Some(Listener::for_bell(&watched, watched.moment(), &self.bell)?);
        Ok(())
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("open", &(self.watched.strong_count() > 0)).finish_non_exhaustive()
    }
}
