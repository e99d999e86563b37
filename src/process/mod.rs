//! Child processes that run a function of this program.
//!
//! [`Process::spawn`] starts this program once more, and instead of `main` the copy runs the given function. Arguments and
//! result travel through the family's shared memory; handles of queues, locks and containers may be among them.
//!
//! ```
//! use kinfolk::Process;
//!
//! let child = Process::spawn(|(a, b): (u32, u32)| a + b, (2, 3))?;
//! assert_eq!(child.join()?, 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How children start
//! By starting the program once more ([`StartMethod::Spawn`], the default); several times as fast by a copy of a process
//! that was started so and keeps waiting ([`StartMethod::ForkServer`]); or, for those who know what their threads are doing,
//! as a fork of this process ([`Process::fork`], which is `unsafe`). See [`set_start_method`] and
//! [`Builder::start_method`].
//!
//! # What a child inherits
//! Environment, arguments, working directory, standard streams, priority and CPU affinity, the calling thread's signal
//! mask, ignored signals: what of it should differ, [`Builder`] says. No other descriptor, not even one without
//! `FD_CLOEXEC`, unless it is [kept](Builder::keep); no memory, no thread: a `static` has its initial value in the child.
//! `main` does not run in it;
//! constructors that the C library would run before `main` do. Where the C library passes them no arguments (musl),
//! [`std::env::args`] is empty in a child. [`StartMethod`] says where methods differ; a fork inherits everything.
//!
//! # How children end
//! A child ends with its function: exit code 0, or 1 after a panic. It waits for its own children first. When a parent
//! exits (`main` returns or panics, anybody calls [`std::process::exit`]), it terminates its daemons and waits for its
//! other children; then what was registered with `atexit` before its first child runs. When a parent dies, its children are killed at once,
//! and theirs after them, so that nothing is left behind. A parent that replaces itself by `exec` counts as dead.
//!
//! # What children print
//! Standard output goes out by lines, each in one piece of up to 1 KiB, so lines of siblings do not mix; the rest goes out
//! when the child ends, but not if a signal ends it. Standard error goes out as it is written; a panic's message in one
//! piece, with the child's name where the standard library has the thread's. For that, a panic hook that was set before the
//! child's function began (by a constructor, or before [`init`]) is replaced; only a [`Process::fork`]
//! keeps its parent's. One that the function sets is called as usual.
//!
//! # Rules
//! 1. A child is waited for and signalled through its pidfd alone; the kernel is asked for its status once, by this process
//!    or by the fork server that forked it.
//! 2. The registry's lock is never held while code of the program runs, nor while anything blocks.

mod builder;
mod child;
mod current;
mod entry;
mod error;
mod exit;
mod fork;
mod forkserver;
mod function;
mod handle;
mod handoff;
mod launch;
mod log;
mod panics;
mod reaper;
mod spawn;
mod start;
#[cfg(feature = "tracing")]
mod stderr;
mod stdio;

pub use builder::Builder;
pub use current::{Current, Parent, cpu_count, current, parent};
pub use entry::init;
pub use error::JoinError;
pub use exit::active_children;
pub(crate) use exit::is_exiting;
pub(crate) use function::the_function;
pub use handle::Child;
pub(crate) use handoff::Panic;
pub(crate) use panics::last as last_panic;
pub use start::{StartMethod, all_start_methods, force_start_method, set_start_method, start_method};
#[cfg(feature = "tracing")]
pub use stderr::{inherited_log_level, log_to_stderr};
pub use stdio::Stdio;

use crate::error::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

/// A child process, and the claim on what its function returns.
///
/// Dropping it neither waits for the child nor ends it; a child that was dropped is still waited for when this process
/// exits, unless it is a daemon.
///
/// Python: `multiprocessing.Process`, started.
#[derive(Debug)]
pub struct Process<R> {
    /// The child's standard input, if it was made [piped](Stdio::piped). [`join`](Self::join) closes it first.
    pub stdin: Option<ChildStdin>,
    /// The child's standard output, if it was made [piped](Stdio::piped). Read it before [`join`](Self::join), or in
    /// another thread: a child that has filled the pipe goes on only when it is read.
    pub stdout: Option<ChildStdout>,
    /// The child's standard error, if it was made [piped](Stdio::piped). As [`stdout`](Self::stdout).
    pub stderr: Option<ChildStderr>,
    child: Child,
    result: PhantomData<fn() -> R>,
}

/// Work that runs in a child, with its data: the counterpart of a Python subclass of `Process`.
///
/// ```
/// use kinfolk::{Process, process::Run};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Greeting {
///     whom: String,
/// }
///
/// impl Run for Greeting {
///     type Output = String;
///     fn run(self) -> String {
///         format!("hello {}", self.whom)
///     }
/// }
///
/// assert_eq!(Process::run(Greeting { whom: "world".into() })?.join()?, "hello world");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Run: Serialize + DeserializeOwned + 'static {
    /// What the work yields.
    type Output: Serialize + DeserializeOwned;

    /// Does the work, in the child.
    fn run(self) -> Self::Output;

    /// What the child is called, unless [`Builder::name`] says; by default as any other. Asked in the parent, once.
    fn name(&self) -> Option<String> {
        None
    }
}

impl Process<()> {
    /// Starts a child that is to differ from this process: in its name, its environment, its streams.
    ///
    /// ```
    /// use kinfolk::{Process, process};
    ///
    /// let child = Process::builder().name("clock").spawn(|()| process::current().name().to_owned(), ())?;
    /// assert_eq!(child.name(), "clock");
    /// assert_eq!(child.join()?, "clock");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl<R: Serialize + DeserializeOwned> Process<R> {
    /// Starts a child that calls `function` with `args`, and returns when the child exists, before it has begun.
    ///
    /// `function` is a function or a closure that captures nothing (anything else does not compile); it takes one argument,
    /// so several are a tuple. It must be a function of the main program: one in a shared object cannot be started. The
    /// child is a fresh copy of the program, so what `function` relies on besides its argument it has to set up.
    ///
    /// `args` is encoded here and dropped before this returns.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyProcesses`](crate::ErrorKind::TooManyProcesses) if the family is full, or the user has as many
    /// processes as the system allows, [`TooManyFiles`](crate::ErrorKind::TooManyFiles),
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the arguments do not fit its memory,
    /// [`Codec`](crate::ErrorKind::Codec) if they cannot be encoded,
    /// [`ForeignFunction`](crate::ErrorKind::ForeignFunction) for a function of a shared object, and
    /// [`Os`](crate::ErrorKind::Os) if the system refuses to start a process. What goes wrong in the child is told by
    /// [`join`](Self::join).
    ///
    /// Python: `Process(target=function, args=args).start()`.
    #[doc(alias = "start")]
    pub fn spawn<F, A>(function: F, args: A) -> Result<Self, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
    {
        Builder::default().spawn(function, args)
    }

    /// Starts a child that runs `job`: see [`Run`].
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn run<J: Run<Output = R>>(job: J) -> Result<Self, Error> {
        Builder::default().run(job)
    }
}

/// What does not depend on the result: see [`Child`], which is the same child for any result.
impl<R> Process<R> {
    /// The child without its result.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        self.child.name()
    }

    /// Its process id: see [`Child::pid`].
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Whether it ends with this process, instead of being waited for.
    pub fn is_daemon(&self) -> bool {
        self.child.is_daemon()
    }

    /// Whether it has not ended yet. It does not block.
    pub fn is_alive(&self) -> bool {
        self.child.is_alive()
    }

    /// How it ended: 0, 1 after a panic, the code it exited with, -N after signal N: see [`Child::exit_code`].
    #[doc(alias = "exitcode")]
    pub fn exit_code(&self) -> Option<i32> {
        self.child.exit_code()
    }

    /// Asks it to end, by SIGTERM: see [`Child::terminate`].
    ///
    /// # Errors
    /// As [`Child::terminate`].
    pub fn terminate(&self) -> Result<(), Error> {
        self.child.terminate()
    }

    /// Ends it, by SIGKILL: see [`Child::kill`].
    ///
    /// # Errors
    /// As [`Child::terminate`].
    pub fn kill(&self) -> Result<(), Error> {
        self.child.kill()
    }

    /// Interrupts it, by SIGINT: see [`Child::interrupt`].
    ///
    /// # Errors
    /// As [`Child::terminate`].
    pub fn interrupt(&self) -> Result<(), Error> {
        self.child.interrupt()
    }

    /// Gives the handle of a child that has ended up; of one that has not, back. Nothing is lost by dropping it instead.
    ///
    /// # Errors
    /// The process itself, if it lives. Python: `close()`, which raises `ValueError` then.
    pub fn close(self) -> Result<(), Self> {
        if self.is_alive() { Err(self) } else { Ok(()) }
    }

    /// A descriptor that polls as readable once it has ended: see [`Child::sentinel`].
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.child.sentinel()
    }
}

impl<R> AsFd for Process<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sentinel()
    }
}
