//! Starting a child: what is settled before, and what is registered after.

use super::builder::{Builder, Setup};
use super::function::{FunctionId, decode, encode_for};
use super::handle::{Child, Shared};
use super::handoff::{Handoff, Order};
use super::launch::{self, Pipes};
use super::start::{self, StartMethod, Started};
use super::{Process, Run, current, entry, exit, log};
use crate::error::Error;
use crate::segment::{ReservedRow, Segment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// Who a child will be, and the row that waits for it.
pub(super) struct Plan {
    pub(super) segment: Segment,
    pub(super) row: ReservedRow,
    pub(super) order: Order,
}

impl Builder {
    /// Starts a child that calls `function` with `args`: see [`Process::spawn`].
    ///
    /// # Errors
    /// As [`Process::spawn`]; [`InvalidInput`](crate::ErrorKind::InvalidInput) for a name or a variable that the system
    /// cannot carry, and for a [kept](Self::keep) standard stream; [`Os`](crate::ErrorKind::Os) if there is no such
    /// [directory](Self::current_dir).
    pub fn spawn<F, A, R>(self, function: F, args: A) -> Result<Process<R>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let method = self.method.unwrap_or_else(start::start_method);
        let setup = self.setup(method == StartMethod::ForkServer)?;
        let Plan { segment, row, order } = self.plan(FunctionId::of(function)?, method, setup)?;
        let encoded = encode_for(row.index, &args, "arguments")?;
        let handoff = Handoff::create(&segment, &order, &encoded, row.index)?;
        drop((args, encoded));
        let refused = |e| start::refused(&order.name, e);
        let (streams, pipes) = launch::streams(&self).map_err(refused)?;
        let row_index = row.index;
        let started = start::child(method, &self, &streams, row, handoff.id()).map_err(refused)?;
        drop(streams);
        Ok(Process::started(order, Some(method), row_index, started, handoff, pipes))
    }

    /// All that is settled before a child starts.
    pub(super) fn plan(&self, function: FunctionId, method: StartMethod, setup: Setup) -> Result<Plan, Error> {
        entry::is_prepared()?;
        exit::reap();
        let this = current::current();
        let lineage = this.next_child();
        let name = self.checked(|| current::default_name(&lineage))?;
        let segment = Segment::family()?;
        let row = segment.reserve_row(&name)?;
        let inherited = log::to_inherit();
        let order = Order {
            function,
            name,
            lineage,
            daemon: self.daemon.unwrap_or(this.is_daemon()),
            method,
            parent_name: this.name().to_owned(),
            parent_pid: this.pid(),
            parent_row: segment.row(),
            setup,
            log_level: inherited.level,
            log_to_stderr: inherited.to_stderr,
        };
        Ok(Plan { segment, row, order })
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

impl<R: Serialize + DeserializeOwned> Process<R> {
    /// The child of this order, which exists.
    ///
    /// `method` is `None` for a fork.
    pub(super) fn started(
        order: Order,
        method: Option<StartMethod>,
        row: u32,
        started: Started,
        handoff: Handoff,
        pipes: Pipes,
    ) -> Self {
        let Started { pid, pidfd, reaper } = started;
        let child = std::sync::Arc::new(Shared {
            name: order.name,
            pid,
            row,
            daemon: order.daemon,
            pidfd,
            reaper,
            handoff,
            ended: Mutex::new(None),
            taken: AtomicBool::new(false),
            discard: |bytes| drop(decode::<R>(bytes, "result")),
        });
        exit::register(&child);
        log::started(&child.name, pid, method);
        let Pipes { stdin, stdout, stderr } = pipes;
        Self { stdin, stdout, stderr, child: Child(child), result: PhantomData }
    }
}
