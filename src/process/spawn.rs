//! Starting a child.

use super::entry::{Ticket, VARIABLE};
use super::function::{FunctionId, decode, encode_for};
use super::handle::{Child, Shared};
use super::handoff::{Handoff, Order};
use super::{Process, Run, current, exit};
use crate::error::{Error, ErrorKind};
use crate::segment::Segment;
use crate::sys::identity::{Pidfd, abandon_child};
use crate::sys::spawn::{self, Above};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// How a child is to be started: see [`Process::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is started until `spawn` or `run` is called"]
pub struct Builder {
    name: Option<String>,
    daemon: Option<bool>,
}

impl Builder {
    /// Names the child, for [`current`](super::current), its first thread, and panic messages. By default it is
    /// `Process-1`, `Process-2` and so on; in `Process-1`, `Process-1:1` and so on.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Says whether the child is a daemon: terminated when this process exits, instead of waited for. By default it is
    /// one if this process is one.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = Some(daemon);
        self
    }

    /// Starts a child that calls `function` with `args`: see [`Process::spawn`].
    ///
    /// # Errors
    /// As [`Process::spawn`]; [`ErrorKind::InvalidInput`] if the name holds a NUL.
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
        let name = self.name.unwrap_or_else(|| current::default_name(&lineage));
        if name.contains('\0') {
            return Err(Error::new(ErrorKind::InvalidInput, "start process", format!("the name {name:?} holds a NUL")));
        }
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
        };
        let encoded = encode_for(row.index, &args, "arguments")?;
        let handoff = Handoff::create(&segment, &order, &encoded, row.index)?;
        drop((args, encoded));

        let life = spawn::life_pipe().map_err(os)?;
        let (segment_fd, lock_fd) =
            (Above::stdio(row.segment_fd()).map_err(os)?, Above::stdio(row.lock.as_fd()).map_err(os)?);
        let ticket = Ticket {
            segment: segment_fd.as_fd().as_raw_fd(),
            lock: lock_fd.as_fd().as_raw_fd(),
            life: life.as_raw_fd(),
            row: row.index,
            handoff: handoff.id(),
        };
        let inherited = [segment_fd.as_fd(), lock_fd.as_fd(), life.as_fd()];
        let pid = spawn::spawn_self((VARIABLE, &ticket.to_text()), &inherited).map_err(os)?;
        let pidfd = Pidfd::of_child(pid).inspect_err(|_| abandon_child(pid)).map_err(os)?;
        drop((segment_fd, lock_fd));
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
        Ok(Process { child: Child(child), result: PhantomData })
    }

    /// Starts a child that runs `job`: see [`Process::run`].
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn run<J: Run>(self, job: J) -> Result<Process<J::Output>, Error> {
        self.spawn(J::run, job)
    }
}
