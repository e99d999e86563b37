//! What a parent holds of a child: whether it lives, how it ended, and signals to it.

use super::exit;
use super::function::decode;
use super::handoff::{Failure, Handoff, Panic, Verdict};
use super::reaper::Reaper;
use super::{JoinError, Process, log};
use crate::error::{Error, ErrorKind};
use crate::sys::clock::Deadline;
use crate::sys::identity::{Ended, Order, Pidfd};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// SIGABRT, by which a process ends that has used up its stack.
const ABORT: i32 = 6;

/// A child of this process, whatever its function returns: see [`active_children`](super::active_children).
///
/// It may be used by many threads at once.
#[derive(Clone)]
pub struct Child(pub(super) Arc<Shared>);

/// What all handles of a child share, the registry of children included.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) row: u32,
    pub(super) daemon: bool,
    pub(super) pidfd: Pidfd,
    /// Who knows how it ended.
    pub(super) reaper: Reaper,
    pub(super) handoff: Handoff,
    /// How it ended. Only the owner of this lock asks the kernel, which tells it once.
    pub(super) ended: Mutex<Option<Ended>>,
    /// Whether somebody has decoded the result, and with it taken over the handles in it.
    pub(super) taken: AtomicBool,
    /// Decodes the result and drops it, handles and all.
    pub(super) discard: fn(&[u8]),
}

impl Shared {
    /// How the child ended, if it did before the deadline; its status is taken from the kernel then.
    pub(super) fn wait(&self, deadline: Deadline) -> Result<Option<Ended>, Error> {
        let error = |e| Error::os(format!("wait for process {:?}", self.name), e);
        loop {
            if let Some(ended) = *self.ended.lock().unwrap_or_else(PoisonError::into_inner) {
                return Ok(Some(ended));
            }
            if !self.pidfd.wait(deadline).map_err(error)? {
                return Ok(None);
            }
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if ended.is_none() {
                *ended = self.reaper.reap(self.pid, &self.pidfd).map_err(error)?;
                if let Some(how) = *ended {
                    log::ended(&self.name, self.pid, how);
                    self.handoff.child_ended(self.row, self.pid, matches!(how, Ended::Exited(_)));
                }
            }
            if ended.is_some() || deadline.passed() {
                return Ok(*ended);
            }
            // It has ended, but a debugger has not let go of it yet.
            drop(ended);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How the child ended; it does not block.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.wait(Deadline::after(Duration::ZERO)).ok().flatten()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.is_some() && !*self.taken.get_mut() {
            // A result that nobody asked for may hold handles that were opened for this process.
            if let Ok(Some((Verdict::Returned, result))) = self.handoff.answer() {
                (self.discard)(&result);
            }
        }
    }
}

impl Child {
    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its process id. After its end the system may give the number to another process; the methods of this type never
    /// confuse the two.
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Whether it ends with this process, instead of being waited for.
    pub fn is_daemon(&self) -> bool {
        self.0.daemon
    }

    /// Whether it has not ended yet. `false` stays true for ever. It does not block.
    pub fn is_alive(&self) -> bool {
        self.0.ended().is_none()
    }

    /// How it ended, `None` while it lives: 0 after the function returned, 1 after a panic, the code given to
    /// [`std::process::exit`], or -N after signal N. It does not block.
    ///
    /// If the program ignores `SIGCHLD`, or waits for the child by other means, the kernel's answer is lost; then it is 0
    /// or 1 by what the function did, and 255 if it did not end.
    ///
    /// Python: `Process.exitcode`.
    #[doc(alias = "exitcode")]
    pub fn exit_code(&self) -> Option<i32> {
        Some(match self.0.ended()? {
            Ended::Exited(code) => code,
            Ended::Signaled { signal, .. } => -signal,
            Ended::Unknown => match self.0.handoff.answer() {
                Ok(Some((Verdict::Returned, _))) => 0,
                Ok(Some((Verdict::Overflowed, _))) => -ABORT,
                Ok(Some(_)) => 1,
                _ => 255,
            },
        })
    }

    /// Blocks until it has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Os`] if the system refuses to wait.
    pub fn wait(&self) -> Result<(), Error> {
        self.0.wait(Deadline::NEVER)?;
        exit::forget(&self.0);
        Ok(())
    }

    /// Blocks until it has ended, or `timeout` has passed; whether it has ended.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        let ended = self.0.wait(Deadline::after(timeout))?.is_some();
        if ended {
            exit::forget(&self.0);
        }
        Ok(ended)
    }

    /// Asks it to end, by SIGTERM. It does not block; a child that has ended is left alone.
    ///
    /// # Errors
    /// [`ErrorKind::Os`] if the child has become another user, whom this process may not signal.
    pub fn terminate(&self) -> Result<(), Error> {
        self.signal(Order::Terminate)
    }

    /// Ends it, by SIGKILL: nothing in it runs any more. It does not block; a child that has ended is left alone.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> Result<(), Error> {
        self.signal(Order::Kill)
    }

    /// Interrupts it, by SIGINT, as Ctrl-C does. It does not block; a child that has ended is left alone. A child ignores what
    /// its parent ignored when it started it, or the fork server that it is from: so an interrupt does nothing in a program that
    /// a shell has started in the background.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn interrupt(&self) -> Result<(), Error> {
        self.signal(Order::Interrupt)
    }

    fn signal(&self, order: Order) -> Result<(), Error> {
        let doing = || format!("signal process {:?} ({})", self.0.name, self.0.pid);
        self.0.pidfd.signal(order).map_err(|e| Error::os(doing(), e))
    }

    /// A descriptor that polls as readable once it has ended: for `poll`, `epoll` and asynchronous runtimes.
    ///
    /// Python: `Process.sentinel`.
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Child");
        shown.field("name", &self.0.name).field("pid", &self.0.pid).field("daemon", &self.0.daemon);
        shown.field("exit_code", &self.exit_code()).finish()
    }
}

impl<R: Serialize + DeserializeOwned> Process<R> {
    /// Blocks until the child has ended, and gives what its function returned.
    ///
    /// # Errors
    /// [`JoinError`] tells why there is no result. A result that was handed over stays one: if the child is killed
    /// afterwards, while it waits for its own children, say, this gives the result, and
    /// [`exit_code`](Self::exit_code) the signal.
    ///
    /// # If a peer dies
    /// The child's death, whatever its cause, ends the wait.
    ///
    /// # Examples
    /// ```
    /// use kinfolk::{JoinError, Process};
    ///
    /// let child = Process::spawn(|n: u32| 100 / n, 0)?;
    /// match child.join() {
    ///     Err(JoinError::Panicked { message, .. }) => assert_eq!(message, "attempt to divide by zero"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), kinfolk::Error>(())
    /// ```
    ///
    /// Python: `Process.join()`, which returns nothing.
    pub fn join(mut self) -> Result<R, JoinError> {
        // A child that reads to the end of its input would wait for us.
        drop(self.stdin.take());
        let ended = self.child.0.wait(Deadline::NEVER).map_err(JoinError::Failed)?;
        self.outcome(ended.unwrap_or(Ended::Unknown))
    }

    /// Blocks until the child has ended, or `timeout` has passed: `None` then.
    ///
    /// The result is decoded anew by each call that gives one.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// Python: `Process.join(timeout)`.
    pub fn join_timeout(&mut self, timeout: Duration) -> Result<Option<R>, JoinError> {
        match self.child.0.wait(Deadline::after(timeout)).map_err(JoinError::Failed)? {
            Some(ended) => self.outcome(ended).map(Some),
            None => Ok(None),
        }
    }

    /// Gives what the function returned, if the child has ended. It does not block.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// Python: `Process.join(0)`.
    pub fn try_join(&mut self) -> Result<Option<R>, JoinError> {
        self.join_timeout(Duration::ZERO)
    }

    fn outcome(&self, ended: Ended) -> Result<R, JoinError> {
        exit::forget(&self.child.0);
        let read = |bytes: &[u8], what| decode(bytes, what).map_err(JoinError::Decode);
        match self.child.0.handoff.answer().map_err(JoinError::Failed)? {
            Some((Verdict::Returned, bytes)) => {
                // Relaxed: read in `drop` only, which comes after every other use.
                self.child.0.taken.store(true, Ordering::Relaxed);
                read(&bytes, "result")
            }
            Some((Verdict::Panicked, bytes)) => {
                let Panic { message, location, backtrace } = decode(&bytes, "panic").map_err(JoinError::Decode)?;
                Err(JoinError::Panicked { message, location, backtrace })
            }
            Some((Verdict::Failed, bytes)) => {
                let failure: Failure = decode(&bytes, "failure").map_err(JoinError::Decode)?;
                Err(JoinError::Failed(failure.into_error()))
            }
            Some((Verdict::Overflowed, _)) => Err(JoinError::StackOverflow),
            None => Err(match ended {
                Ended::Exited(code) => JoinError::Exited { code },
                Ended::Signaled { signal, core_dumped } => JoinError::Signaled { signal, core_dumped },
                Ended::Unknown => {
                    let doing = format!("wait for process {:?}", self.name());
                    let why = "it ended without a result, and its exit status was taken by somebody else";
                    JoinError::Failed(Error::new(ErrorKind::Os, doing, why))
                }
            }),
        }
    }
}
