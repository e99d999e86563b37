//! Children that go on where their parent is: a fork of this very process.

use super::function::{FunctionId, encode_for};
use super::handoff::Handoff;
use super::launch::Streams;
use super::reaper::Reaper;
use super::spawn::Plan;
use super::start::{Started, refused, start_method};
use super::{Builder, Process, child, current, exit, forkserver, launch};
use crate::error::Error;
use crate::segment::Segment;
use crate::sys::fork::{self, Forked};
use crate::sys::identity::{Pidfd, abandon_child};
use crate::sys::spawn;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Write};
use std::os::fd::AsFd;

impl<R: Serialize + DeserializeOwned> Process<R> {
    /// Starts a child that is a fork of this process, and in it calls `function` with `args`.
    ///
    /// The child has a copy of all memory, so `function` may capture, and `args` are not encoded; handles among what it has
    /// are open in both processes. It has one thread, which goes on from here: it calls `function`, hands over what that
    /// returns, waits for its own children, and ends. Nothing behind this call is run in it, no destructor of what lies
    /// below on the stack, and no handler that this program has registered for its exit.
    ///
    /// Descriptors are inherited, and with them the other ends of pipes and sockets. It costs as much as the process has
    /// memory (10 ms a GiB and more): see [`StartMethod::ForkServer`](super::StartMethod::ForkServer).
    ///
    /// # Safety
    /// `function`, and what is dropped when it returns, do nothing that needs what another thread of this process may have
    /// held at this moment, or may have left half done: a lock (but those of standard output and error), a memory allocator
    /// other than the C library's, the state of a library. If this process has one thread, or none of the others is doing
    /// anything, that is no limit. Guards and loans of this thread's stay with the parent; the child must not use them.
    ///
    /// # Errors
    /// [`TooManyProcesses`](crate::ErrorKind::TooManyProcesses) if the family is full, or the user has as many as the system
    /// allows,
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if its memory is,
    /// [`TooManyFiles`](crate::ErrorKind::TooManyFiles), and [`Os`](crate::ErrorKind::Os) if the system refuses
    /// to fork.
    ///
    /// # Examples
    /// ```
    /// use kinfolk::Process;
    ///
    /// let words = vec!["captured", "and", "not", "sent"];
    /// // SAFETY: no other thread of this program does anything.
    /// let child = unsafe { Process::fork(|n: usize| words[n].to_owned(), 0)? };
    /// assert_eq!(child.join()?, "captured");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Python: `get_context("fork").Process(target=function, args=args).start()`.
    pub unsafe fn fork<F, A>(function: F, args: A) -> Result<Self, Error>
    where
        F: FnOnce(A) -> R,
    {
        // SAFETY: the caller's promise is the one that this call asks for.
        unsafe { Builder::default().fork(function, args) }
    }
}

impl Builder {
    /// Starts a child that is a fork of this process, and in it calls `function` with `args`: see [`Process::fork`]. The
    /// start method is not looked at. What the builder says of the environment, the directory and the streams is done in
    /// the child, before `function`.
    ///
    /// # Safety
    /// As [`Process::fork`]. If the environment is to be changed, no other thread is just doing so.
    ///
    /// # Errors
    /// As [`Process::fork`]; [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) as [`spawn`](Self::spawn).
    pub unsafe fn fork<F, A, R>(self, function: F, args: A) -> Result<Process<R>, Error>
    where
        F: FnOnce(A) -> R,
        R: Serialize + DeserializeOwned,
    {
        let Plan { segment, row, order } = self.plan(FunctionId::of_fork::<F>(), start_method(), self.setup(true)?)?;
        let os = |e| refused(&order.name, e);
        let handoff = Handoff::create(&segment, &order, &[], row.index)?;
        let life = spawn::life_line().map_err(os)?;
        let lock = row.lock.try_clone().map_err(os)?;
        let (streams, pipes) = launch::streams(&self).map_err(os)?;
        segment.open_all_for(row.index);
        // Standard library's, which the child needs at its end and for a panic. What is buffered is the parent's; both would
        // print it.
        let (mut out, errors) = (io::stdout().lock(), io::stderr().lock());
        let _ = out.flush();
        let held = (out, errors, forkserver::hold(), exit::hold(), spawn::hold_life(), segment.hold());
        // SAFETY: `function` is the caller's promise. What this library does in the child needs its own locks and those of
        // the standard streams, all of which this thread holds, and the allocator, of which the caller speaks.
        let forked = unsafe { fork::fork() };
        drop(held);
        match forked.map_err(os)? {
            Forked::Child => {
                let (index, parent_row) = (row.index, order.parent_row);
                row.started(std::process::id());
                let begun = spawn::bind_life(life).map_err(os).and_then(|life| {
                    segment.adopt_row_after_fork(lock, index)?;
                    current::become_fork(&order, life);
                    Ok(())
                });
                // The parent's ends of the child's pipes.
                drop(pipes);
                let call = || {
                    begun?;
                    furnish(&self, &streams).map_err(os)?;
                    drop(streams);
                    // SAFETY: the caller's promise, and this process has one thread.
                    unsafe { spawn::edit_environment(order.setup.environment()) };
                    order.setup.apply()?;
                    encode_for(parent_row, &function(args), "result")
                };
                let code = child::run_here(handoff, &order.name, parent_row, call);
                exit::settle();
                Segment::announce_leaving();
                let _ = io::stdout().flush();
                fork::exit_now(code)
            }
            Forked::Parent(pid) => {
                let row_index = row.index;
                let pidfd = Pidfd::of_child(pid).inspect_err(|_| abandon_child(pid)).map_err(os)?;
                row.started(pid);
                Ok(Process::started(
                    order,
                    None,
                    row_index,
                    Started { pid, pidfd, reaper: Reaper::This },
                    handoff,
                    pipes,
                ))
            }
        }
    }
}

/// In the child: gives it the streams and the kept descriptors of its builder.
fn furnish(builder: &Builder, streams: &Streams) -> io::Result<()> {
    for (number, given) in (0..).zip(streams.as_fds()) {
        given.map_or(Ok(()), |given| fork::set_standard_stream(number, given))?;
    }
    builder.kept.iter().try_for_each(|fd| fork::leave_open(fd.as_fd()))
}
