//! Starting a child.

use super::builder::Builder;
use super::function::{FunctionId, decode, encode_for};
use super::handle::{Child, Shared};
use super::handoff::{Handoff, Order};
use super::launch::{self, Pipes};
use super::{Process, Run, current, exit};
use crate::error::{Error, ErrorKind};
use crate::segment::Segment;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::marker::PhantomData;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

impl Builder {
    /// Starts a child that calls `function` with `args`: see [`Process::spawn`].
    ///
    /// # Errors
    /// As [`Process::spawn`]; [`ErrorKind::InvalidInput`] for a name or a variable that the system cannot carry, and for a
    /// [kept](Self::keep) standard stream; [`ErrorKind::Os`] if there is no such [directory](Self::current_dir).
    pub fn spawn<F, A, R>(self, function: F, args: A) -> Result<Process<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let function = FunctionId::of(function)?;
        exit::reap();
        let this = current::current();
        let lineage = this.next_child();
        let name = self.checked(|| current::default_name(&lineage))?;
        let os = |e| Error::os(format!("start process {name:?}"), e);

        let segment = Segment::family()?;
        let row = segment.reserve_row(&name)?;
        let order = Order {
            function,
            name: name.clone(),
            lineage,
            daemon: self.daemon.unwrap_or(this.is_daemon()),
            parent_name: this.name().to_owned(),
            parent_pid: this.pid(),
            parent_row: segment.row(),
            setup: self.setup()?,
        };
        let encoded = encode_for(row.index, &args, "arguments")?;
        let handoff = Handoff::create(&segment, &order, &encoded, row.index)?;
        drop((args, encoded));

        let (streams, pipes) = launch::streams(&self).map_err(os)?;
        let (pid, pidfd) = launch::by_exec(&self, &streams, &row, handoff.id()).map_err(|e| match e.kind() {
            // Not memory, which has a number of its own, but how many processes a user may have.
            io::ErrorKind::WouldBlock => {
                Error::os_as(ErrorKind::TooManyProcesses, format!("start process {name:?}"), e)
            }
            _ => os(e),
        })?;
        drop(streams);
        let row_index = row.index;
        row.started(pid);

        let child = std::sync::Arc::new(Shared {
            name,
            pid,
            row: row_index,
            daemon: order.daemon,
            pidfd,
            handoff,
            ended: Mutex::new(None),
            taken: AtomicBool::new(false),
            discard: |bytes| drop(decode::<R>(bytes, "result")),
        });
        exit::register(&child);
        let Pipes { stdin, stdout, stderr } = pipes;
        Ok(Process { stdin, stdout, stderr, child: Child(child), result: PhantomData })
    }

    /// Starts a child that runs `job`: see [`Process::run`].
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn run<J: Run>(mut self, job: J) -> Result<Process<J::Output>, Error> {
        self.name = self.name.or_else(|| job.name());
        self.spawn(J::run, job)
    }
}
