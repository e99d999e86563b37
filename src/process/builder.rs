//! What a child can be given besides its work: a name, an environment, streams, a place to run.

use super::entry::VARIABLE;
use super::start::StartMethod;
use super::stdio::Stdio;
use crate::error::{Error, ErrorKind};
use crate::sys::cpu;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many descriptors are kept at most: the kernel takes 253 along with one message.
const MOST_KEPT: usize = 200;

/// How a child is to be started: see [`Process::builder`](super::Process::builder).
///
/// What is not set is as in this process, at the moment of the start. A builder may start many children.
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is started until `spawn` or `run` is called"]
pub struct Builder {
    pub(super) name: Option<String>,
    pub(super) daemon: Option<bool>,
    pub(super) method: Option<StartMethod>,
    clear: bool,
    /// `None` for a variable that is removed.
    variables: BTreeMap<OsString, Option<OsString>>,
    /// Standard input, output, error.
    pub(super) streams: [Stdio; 3],
    pub(super) kept: Vec<Arc<OwnedFd>>,
    directory: Option<PathBuf>,
    cpus: Option<Vec<u32>>,
    nicer: i32,
}

/// What the child does to itself before its function runs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Setup {
    /// A path, as bytes; as none of them it may be any.
    directory: Option<Vec<u8>>,
    /// For a child that has an environment already, which was not made for it.
    clear: bool,
    variables: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    cpus: Option<Vec<u32>>,
    nicer: i32,
}

impl Builder {
    /// Names the child, for [`current`](super::current), panic messages, and its first thread, in which its function runs, as
    /// `ps` sees it ([`std::thread::current`] knows names of threads that std has started). By default it is `Process-1`, `Process-2` and so on; in `Process-1`, `Process-1:1` and so on. Python: `name=`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Says whether the child is a daemon: terminated when this process exits, instead of waited for. By default it is
    /// one if this process is one. A daemon may have children. Python: `daemon=`; there it may not.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = Some(daemon);
        self
    }

    /// Says how the child is started: by default as [`start_method`](super::start_method) says.
    ///
    /// ```
    /// use kinfolk::Process;
    /// use kinfolk::process::StartMethod;
    ///
    /// let child = Process::builder().start_method(StartMethod::ForkServer).spawn(|n: u32| n + 1, 41)?;
    /// assert_eq!(child.join()?, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Python: `get_context(method).Process`.
    #[doc(alias = "get_context")]
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = Some(method);
        self
    }

    /// Sets an environment variable of the child. With [`StartMethod::Spawn`] the child's constructors see it too, those of
    /// shared objects included.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Leaves an environment variable out.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Leaves all environment variables out, but those that [`env`](Self::env) sets after this.
    pub fn env_clear(mut self) -> Self {
        self.clear = true;
        self.variables.clear();
        self
    }

    /// Says where the child works; a relative path is seen from where this process works.
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Says what the child reads from. With [`Stdio::piped`], the other end is [`Process::stdin`](super::Process::stdin).
    /// Close it before this process exits: a child that reads to the end is waited for, and waits for that.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.streams[0] = stdin.into();
        self
    }

    /// Says what the child prints to. With [`Stdio::piped`], the other end is [`Process::stdout`](super::Process::stdout).
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.streams[1] = stdout.into();
        self
    }

    /// Says what the child complains to. With [`Stdio::piped`], the other end is
    /// [`Process::stderr`](super::Process::stderr).
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.streams[2] = stderr.into();
        self
    }

    /// Lets the child run on these CPUs only, by their numbers. Its children inherit that. If it may use none of them,
    /// [`join`](super::Process::join) says so.
    ///
    /// Python: `os.sched_setaffinity` in the child.
    #[doc(alias = "sched_setaffinity")]
    pub fn affinity(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        let number = |cpu| u32::try_from(cpu).unwrap_or(u32::MAX);
        self.cpus = Some(cpus.into_iter().map(number).collect());
        self
    }

    /// Lets the child be nicer to others by `by` than this process is, as `nice(1)` does; less so if it is negative, for
    /// which most users lack the right: then [`join`](super::Process::join) says so.
    ///
    /// Python: `os.nice` in the child.
    pub fn nice(mut self, by: i32) -> Self {
        self.nicer = by;
        self
    }

    /// Leaves `fd` open in the child, under the number that it has here, and without `FD_CLOEXEC`. Here it is closed with
    /// the builder. At most 200 are kept.
    ///
    /// Descriptors that no `keep` names do not get into a child, whatever their flags. To hand over an open file as a
    /// value, see [`channel::Fd`](crate::channel::Fd).
    ///
    /// ```
    /// use kinfolk::Process;
    /// use std::os::fd::{AsRawFd, OwnedFd};
    ///
    /// let file = OwnedFd::from(std::fs::File::open("/dev/null")?);
    /// let number = file.as_raw_fd();
    /// let is_open = |number: i32| std::fs::exists(format!("/proc/self/fd/{number}")).unwrap();
    /// assert!(Process::builder().keep(file).spawn(is_open, number)?.join()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "pass_fds")]
    pub fn keep(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.kept.push(Arc::new(fd.into()));
        self
    }

    /// The name that was chosen, or `default`; what was chosen is checked.
    pub(super) fn checked(&self, default: impl FnOnce() -> String) -> Result<String, Error> {
        let name = self.name.clone().unwrap_or_else(default);
        let refuse = |what: String| Err(Error::new(ErrorKind::InvalidInput, "start process", what));
        if name.contains('\0') {
            return refuse(format!("the name {name:?} holds a NUL"));
        }
        for (variable, value) in &self.variables {
            let bytes = variable.as_bytes();
            if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
                return refuse(format!("{variable:?} is no name of an environment variable"));
            }
            if variable == VARIABLE {
                return refuse(format!("the environment variable {VARIABLE} is this library's"));
            }
            if value.as_ref().is_some_and(|value| value.as_bytes().contains(&0)) {
                return refuse(format!("the value of the environment variable {variable:?} holds a NUL"));
            }
        }
        if self.kept.len() > MOST_KEPT {
            return refuse(format!("{} descriptors are to be kept, and at most {MOST_KEPT} can be", self.kept.len()));
        }
        if let Some(fd) = self.kept.iter().find(|fd| fd.as_raw_fd() <= 2) {
            return refuse(format!(
                "descriptor {} is a standard stream, which has a method of its own",
                fd.as_raw_fd()
            ));
        }
        if let Some(directory) = &self.directory {
            let os = |e| Error::os(format!("start process {name:?} in {}", directory.display()), e);
            if !std::fs::metadata(directory).map_err(os)?.is_dir() {
                return Err(os(std::io::ErrorKind::NotADirectory.into()));
            }
        }
        Ok(name)
    }

    /// The child's environment, with this library's variable in it.
    pub(super) fn environment(&self, ticket: String) -> BTreeMap<OsString, OsString> {
        let mut environment: BTreeMap<_, _> = if self.clear { BTreeMap::new() } else { std::env::vars_os().collect() };
        for (name, value) in &self.variables {
            match value {
                Some(value) => environment.insert(name.clone(), value.clone()),
                None => environment.remove(name),
            };
        }
        environment.insert(VARIABLE.into(), ticket.into());
        environment
    }

    /// What the child is to do itself, to its environment too if that is not made for it. A relative directory is resolved
    /// now.
    pub(super) fn setup(&self, has_environment: bool) -> Result<Setup, Error> {
        let directory = self.directory.as_ref().map(std::path::absolute).transpose();
        let directory = directory.map_err(|e| Error::os("find the current directory", e))?;
        let directory = directory.map(|path| path.into_os_string().into_vec());
        let mut setup = Setup { directory, cpus: self.cpus.clone(), nicer: self.nicer, ..Setup::default() };
        if has_environment {
            let bytes = |text: &OsString| text.as_bytes().to_vec();
            setup.clear = self.clear;
            setup.variables = self.variables.iter().map(|(n, v)| (bytes(n), v.as_ref().map(bytes))).collect();
        }
        Ok(setup)
    }
}

impl Setup {
    /// What is to be done to the environment that the child has: whether it is emptied first, and the variables.
    pub(super) fn environment(&self) -> (bool, impl Iterator<Item = (&OsStr, Option<&OsStr>)>) {
        let variables = self.variables.iter().map(|(n, v)| (OsStr::from_bytes(n), v.as_deref().map(OsStr::from_bytes)));
        (self.clear, variables)
    }

    /// In the child, in the thread that starts all others.
    pub(super) fn apply(&self) -> Result<(), Error> {
        if let Some(directory) = &self.directory {
            let directory = Path::new(OsStr::from_bytes(directory));
            let doing = || format!("go to {}", directory.display());
            std::env::set_current_dir(directory).map_err(|e| Error::os(doing(), e))?;
        }
        if let Some(cpus) = &self.cpus {
            cpu::pin(cpus).map_err(|e| {
                let doing = format!("run on the CPUs {cpus:?}");
                match e.kind() {
                    std::io::ErrorKind::InvalidInput => Error::os_as(ErrorKind::InvalidInput, doing, e),
                    _ => Error::os(doing, e),
                }
            })?;
        }
        if self.nicer != 0 {
            cpu::be_nicer(self.nicer).map_err(|e| Error::os(format!("add {} to the nice value", self.nicer), e))?;
        }
        Ok(())
    }
}
