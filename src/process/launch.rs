//! What a child's builder gives it is opened, and the program is started once more.

use super::builder::Builder;
use super::entry::Ticket;
use super::reaper::Reaper;
use super::start::Started;
use super::stdio::{Direction, Given};
use crate::segment::{ObjectId, ReservedRow};
use crate::sys::exec::{self, Launch};
use crate::sys::spawn::{self, Above};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

/// The standard streams of a child: those that differ from this process's.
pub(super) struct Streams([Option<Given>; 3]);

impl Streams {
    pub(super) fn as_fds(&self) -> [Option<BorrowedFd<'_>>; 3] {
        self.0.each_ref().map(|given| given.as_ref().map(AsFd::as_fd))
    }
}

/// The ends of its streams that stay here.
pub(super) struct Pipes {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// Opens what the builder says.
pub(super) fn streams(builder: &Builder) -> io::Result<(Streams, Pipes)> {
    let (input, stdin) = builder.streams[0].open(Direction::In)?;
    let (output, stdout) = builder.streams[1].open(Direction::Out)?;
    let (errors, stderr) = builder.streams[2].open(Direction::Out)?;
    fn end<T: From<OwnedFd>>(fd: Option<OwnedFd>) -> Option<T> {
        fd.map(Into::into)
    }
    Ok((Streams([input, output, errors]), Pipes { stdin: end(stdin), stdout: end(stdout), stderr: end(stderr) }))
}

/// Starts a child on the work in `handoff`, for which `row` was reserved.
pub(super) fn by_exec(
    builder: &Builder,
    streams: &Streams,
    row: ReservedRow,
    handoff: ObjectId,
) -> io::Result<Started> {
    let life = spawn::life_line()?;
    let (segment, lock) = (Above::stdio(row.segment_fd())?, Above::stdio(row.lock.as_fd())?);
    let ticket = Ticket {
        segment: segment.as_fd().as_raw_fd(),
        lock: lock.as_fd().as_raw_fd(),
        life: life.as_raw_fd(),
        row: row.index,
        handoff,
        kept: builder.kept.iter().map(|fd| fd.as_raw_fd()).collect(),
    };
    let mut inherited = vec![segment.as_fd(), lock.as_fd(), life.as_fd()];
    inherited.extend(builder.kept.iter().map(|fd| fd.as_fd()));
    let launch = Launch { environment: builder.environment(ticket.to_text()), inherited, streams: streams.as_fds() };
    let (pid, pidfd) = exec::spawn_self(&launch)?;
    drop((segment, lock));
    row.started(pid);
    Ok(Started { pid, pidfd, reaper: Reaper::This })
}
