//! How children are started: the methods, which of them is the default, and what a start yields.

use super::builder::Builder;
use super::forkserver;
use super::launch::{self, Streams};
use super::reaper::Reaper;
use crate::error::{Error, ErrorKind};
use crate::segment::{ObjectId, ReservedRow};
use crate::sys::identity::Pidfd;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a child is started: see [`set_start_method`] and [`Builder::start_method`](super::Builder::start_method).
///
/// The same program works with each: either way the child has nothing of its parent's memory, and runs the function with
/// the same arguments, name, standard streams, working directory and signal mask.
///
/// | | `Spawn` | `ForkServer` |
/// |---|---|---|
/// | a child is | the program, started once more | a fork of a fresh copy of the program |
/// | the program's constructors run | in each child | in the server, once |
/// | environment, resource limits, priority, CPU affinity, ignored signals | the parent's | the parent's when it started its server |
/// | what [`Builder`] says of these | is said of the parent's | is said of the server's |
/// | [`Builder::env`] is seen by | the program's constructors, too | the function |
///
/// There is a third way, [`Process::fork`](crate::Process::fork), which is `unsafe`.
///
/// Python: the names that `multiprocessing.get_context` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StartMethod {
    /// Starts the program once more.
    ///
    /// Python: `"spawn"`.
    #[default]
    Spawn,
    /// Asks a *fork server* for a copy of itself: a process that this one starts at its first use, by starting the program
    /// once more, and that then waits, with one thread and nothing of the parent's memory. That is several times as fast as
    /// `Spawn`, however large the parent is.
    ///
    /// Each process has a server of its own, which ends with it. A server that was killed is started anew by the next start;
    /// its children live on. One that is stopped holds starts up until it goes on. It does not hear Ctrl-C. It keeps one
    /// child ready, so there are two processes besides those that were started.
    ///
    /// Processes started so are children of the server by the system's account, so [`std::os::unix::process::parent_id`]
    /// and `waitpid` speak of that; [`parent`](super::parent) tells who asked for them. How they ended is told exactly, with
    /// one exception: before Linux 6.15, of a child whose server was killed before it ended it is told only whether its
    /// function did (see [`Child::exit_code`](super::Child::exit_code)).
    ///
    /// The program's constructors must not leave threads behind: a fork has only one.
    ///
    /// Python: `"forkserver"`.
    #[doc(alias = "forkserver")]
    ForkServer,
}

impl StartMethod {
    /// Its name in Python: `spawn` or `forkserver`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::ForkServer => "forkserver",
        }
    }
}

impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for StartMethod {
    type Err = Error;

    /// Finds the method of this [`name`](Self::name).
    fn from_str(name: &str) -> Result<Self, Error> {
        all_start_methods().iter().copied().find(|method| method.name() == name).ok_or_else(|| {
            let names = all_start_methods().iter().map(|m| m.name()).collect::<Vec<_>>().join(", ");
            Error::new(ErrorKind::InvalidInput, "find start method", format!("{name:?}, expected one of {names}"))
        })
    }
}

/// The default, once somebody has said which: its place in [`all_start_methods`], counted from 1. No lock, which a fork
/// could find taken.
static DEFAULT: AtomicUsize = AtomicUsize::new(0);

fn place(method: StartMethod) -> usize {
    match method {
        StartMethod::Spawn => 1,
        StartMethod::ForkServer => 2,
    }
}

/// Says how children are started by whom nothing else is said. It can be said once.
///
/// In a child the default is the method by which it was started.
///
/// ```
/// use kinfolk::process::{self, StartMethod};
///
/// assert_eq!(process::start_method(), StartMethod::Spawn);
/// process::set_start_method(StartMethod::ForkServer)?;
/// assert!(process::set_start_method(StartMethod::Spawn).is_err());
/// assert_eq!(process::start_method(), StartMethod::ForkServer);
/// # Ok::<(), kinfolk::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if it has been said: see [`force_start_method`].
///
/// Python: `set_start_method(method)`.
pub fn set_start_method(method: StartMethod) -> Result<(), Error> {
    // Relaxed, here and below: nothing is published by it.
    let set = DEFAULT.compare_exchange(0, place(method), Ordering::Relaxed, Ordering::Relaxed);
    set.map(drop).map_err(|_| {
        let message = format!("it is {} already; it can be set once", start_method());
        Error::new(ErrorKind::InvalidInput, "set start method", message)
    })
}

/// Says how children are started by whom nothing else is said, whatever was said before.
///
/// Python: `set_start_method(method, force=True)`.
pub fn force_start_method(method: StartMethod) {
    DEFAULT.store(place(method), Ordering::Relaxed);
}

/// How children are started by whom nothing else is said. To ask sets nothing.
///
/// Python: `get_start_method()`, which sets the default.
#[doc(alias = "get_start_method")]
pub fn start_method() -> StartMethod {
    let place = DEFAULT.load(Ordering::Relaxed);
    place.checked_sub(1).map(|k| all_start_methods()[k]).unwrap_or_default()
}

/// The methods that this system has, the default of a fresh process first.
///
/// Python: `get_all_start_methods()`.
#[doc(alias = "get_all_start_methods")]
pub fn all_start_methods() -> &'static [StartMethod] {
    &[StartMethod::Spawn, StartMethod::ForkServer]
}

/// A child that exists.
pub(super) struct Started {
    pub(super) pid: u32,
    pub(super) pidfd: Pidfd,
    pub(super) reaper: Reaper,
}

/// Starts a child on the work in `handoff`, for which `row` was reserved.
pub(super) fn child(
    method: StartMethod,
    builder: &Builder,
    streams: &Streams,
    row: ReservedRow,
    handoff: ObjectId,
) -> io::Result<Started> {
    match method {
        StartMethod::Spawn => launch::by_exec(builder, streams, row, handoff),
        StartMethod::ForkServer => forkserver::start(builder, streams, row, handoff),
    }
}

/// Why a child was not started.
pub(super) fn refused(name: &str, e: io::Error) -> Error {
    let doing = format!("start process {name:?}");
    match e.kind() {
        // Not memory, which has a number of its own, but how many processes a user may have.
        io::ErrorKind::WouldBlock => Error::os_as(ErrorKind::TooManyProcesses, doing, e),
        _ => Error::os(doing, e),
    }
}
