//! Starting this program once more, and tying a child's life to its parent's.
//!
//! **The life pipe.** A parent holds the only write end of one pipe; every child holds a read end. The parent never
//! writes: when it ends, for whatever reason, the kernel closes the write end, and that readiness sends each child the
//! signal it asked for with `F_SETSIG`, SIGKILL. This needs no thread and, unlike `PR_SET_PDEATHSIG`, is not bound to the
//! parent's *thread*. Each child opens the pipe anew through `/proc`, because owner and signal belong to an open file
//! description, and siblings would overwrite each other's.

use super::clock::Deadline;
use super::identity::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

/// What a child finds when it begins.
pub struct Launch<'a> {
    /// Its environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// Open under the same numbers, which are above 2.
    pub inherited: Vec<BorrowedFd<'a>>,
    /// Its standard input, output and error, where they are not this process's. The numbers here are above 2.
    pub streams: [Option<BorrowedFd<'a>>; 3],
}

/// Starts this program once more, with its own arguments; gives the child's pid.
///
/// The child gets the calling thread's signal mask and ignores the signals that this process ignores.
pub fn spawn_self(launch: &Launch<'_>) -> io::Result<u32> {
    let mut actions = nix::spawn::PosixSpawnFileActions::init()?;
    for fd in &launch.inherited {
        // A descriptor copied onto itself loses FD_CLOEXEC, in the child only.
        actions.add_dup2(fd.as_raw_fd(), fd.as_raw_fd())?;
    }
    for (number, stream) in (0..).zip(launch.streams) {
        if let Some(fd) = stream {
            actions.add_dup2(fd.as_raw_fd(), number)?;
        }
    }
    let attributes = nix::spawn::PosixSpawnAttr::init()?;
    let environment: Vec<CString> =
        launch.environment.iter().map(|(name, value)| assignment(name, value)).collect::<io::Result<_>>()?;
    let pid = nix::spawn::posix_spawn("/proc/self/exe", &actions, &attributes, &arguments()?, &environment)?;
    Ok(pid.as_raw().unsigned_abs())
}

fn assignment(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut bytes = Vec::with_capacity(name.len() + value.len() + 2);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'=');
    bytes.extend_from_slice(value.as_bytes());
    Ok(CString::new(bytes)?)
}

/// The arguments of this program; from `/proc` where the C library does not pass them before `main` (musl).
fn arguments() -> io::Result<Vec<CString>> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.is_empty() {
        let bytes = std::fs::read("/proc/self/cmdline")?;
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        arguments = bytes.split(|&b| b == 0).map(|a| OsString::from_vec(a.to_vec())).collect();
    }
    arguments.into_iter().map(|a| Ok(CString::new(a.into_vec())?)).collect()
}

/// An open file under a number above the standard streams': a child that inherited a memory file as its standard output
/// would print into it.
pub enum Above<'a> {
    /// It has such a number.
    Already(BorrowedFd<'a>),
    /// It has been given one; closed when dropped.
    Copied(OwnedFd),
}

impl<'a> Above<'a> {
    /// Copies the descriptor if its number is 0, 1 or 2 (because the program closed that stream).
    pub fn stdio(fd: BorrowedFd<'a>) -> io::Result<Self> {
        Ok(if fd.as_raw_fd() > 2 { Self::Already(fd) } else { Self::Copied(fcntl_dupfd_cloexec(fd, 3)?) })
    }
}

impl AsFd for Above<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Already(fd) => *fd,
            Self::Copied(fd) => fd.as_fd(),
        }
    }
}

/// A pipe whose two ends, the one to read from first, have such numbers.
pub fn pipe_above_stdio() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((above_stdio(read)?, above_stdio(write)?))
}

/// What swallows all and says nothing, under such a number.
pub fn null_device() -> io::Result<OwnedFd> {
    above_stdio(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// As [`Above::stdio`], for a descriptor that is to be kept.
pub(super) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { Ok(fcntl_dupfd_cloexec(&fd, 3)?) }
}

/// Takes over the descriptor `fd`, which the parent left open for this process, and closes it on exec from now on.
///
/// # Safety
/// Nobody else in this process uses or closes the number `fd`.
pub unsafe fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: borrowed for this call only, which fails with EBADF and changes nothing if the number is not open.
    fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::CLOEXEC)?;
    // SAFETY: the number is open (the call above succeeded) and by the caller's promise nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes what this process was left open when the program was started, but the standard streams and `kept`.
///
/// What earlier constructors have opened stays, if they did so as one should, with `O_CLOEXEC`.
///
/// # Safety
/// Nobody in this process uses any other descriptor that was there when the program was started.
pub unsafe fn close_inherited_but(kept: &[RawFd]) -> io::Result<()> {
    let mut strays = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        // SAFETY: F_GETFD only asks, and takes no pointer.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if fd > 2 && flags & libc::FD_CLOEXEC == 0 && !kept.contains(&fd) {
            strays.push(fd);
        }
    }
    for fd in strays {
        // SAFETY: nobody uses it, by the caller's promise.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Reads and removes an environment variable.
///
/// # Safety
/// No other thread reads or writes the environment meanwhile.
pub unsafe fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: the caller's promise is the one that this call asks for.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// Removes all environment variables, if `clear` says so, and then sets or removes each of these.
///
/// # Safety
/// As [`take_variable`].
pub unsafe fn edit_environment<'a>((clear, variables): (bool, impl Iterator<Item = (&'a OsStr, Option<&'a OsStr>)>)) {
    // What is no name std refuses by a panic; nobody has such a variable to remove.
    let is_name = |name: &OsStr| !name.is_empty() && !name.as_bytes().iter().any(|byte| matches!(byte, b'=' | 0));
    let removed = clear.then(|| std::env::vars_os().map(|(name, _)| name)).into_iter().flatten();
    for name in removed.collect::<Vec<_>>().iter().filter(|name| is_name(name)) {
        // SAFETY: the caller's promise is the one that this call asks for.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in variables.filter(|(name, _)| is_name(name)) {
        match value.filter(|value| !value.as_bytes().contains(&0)) {
            // SAFETY: as above.
            Some(value) => unsafe { std::env::set_var(name, value) },
            // SAFETY: as above.
            None => unsafe { std::env::remove_var(name) },
        }
    }
}

/// What Rust's runtime does before `main` and a child that never gets there has to do itself: a write to a closed pipe
/// is an error instead of a signal, and the three standard streams are open.
pub fn prepare_runtime() {
    // SAFETY: SIG_IGN is no handler, so nothing of ours runs in signal context.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    for fd in 0..=2 {
        // SAFETY: F_GETFD only asks whether the number is open; both calls take no pointers but a literal.
        unsafe {
            if libc::fcntl(fd, libc::F_GETFD) == -1 {
                // The lowest free number is `fd`, as those below it are open by now.
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
}

/// Runs `f` when the process exits (not when it is killed); whether the C library had room for it.
pub fn at_exit(f: extern "C" fn()) -> bool {
    // SAFETY: `f` is a function of the program; the C library calls it once, in `exit`.
    unsafe { libc::atexit(f) == 0 }
}

/// The write end of this process's life pipe, -1 if there is none.
static LIFE_WRITE: AtomicI32 = AtomicI32::new(-1);
/// The read end, with the pid of the process that made it.
static LIFE_READ: Mutex<Option<(u32, Arc<OwnedFd>)>> = Mutex::new(None);

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> libc::c_int;
}

/// In a forked copy: lets go of the original's write end, so that the original's death still shows.
unsafe extern "C" fn let_go_of_life() {
    let fd = LIFE_WRITE.swap(-1, Ordering::Relaxed);
    if fd >= 0 {
        // SAFETY: the number was taken out of the static, so it is closed once; `close` is safe to call after a fork.
        unsafe { libc::close(fd) };
    }
}

/// The read end of this process's life pipe, which is made on first use and anew in a forked copy.
pub fn life_pipe() -> io::Result<Arc<OwnedFd>> {
    static FORK_HOOK: Once = Once::new();
    let mut life = LIFE_READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((maker, read)) = &*life {
        if *maker == std::process::id() {
            return Ok(Arc::clone(read));
        }
    }
    // SAFETY: the handler is a function of the program that touches one atomic and calls `close`.
    FORK_HOOK.call_once(|| unsafe {
        pthread_atfork(None, None, Some(let_go_of_life));
    });
    let (read, write) = pipe_above_stdio()?;
    let read = Arc::new(read);
    // Relaxed: the mutex orders makers; the fork handler runs in the only thread of its process.
    LIFE_WRITE.store(write.into_raw_fd(), Ordering::Relaxed);
    *life = Some((std::process::id(), Arc::clone(&read)));
    Ok(read)
}

/// Keeps other threads from making the life pipe, so that a fork finds it in order.
pub fn hold_life() -> impl Sized {
    LIFE_READ.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Binds this process's life to whoever holds the write end of the pipe: from now on it ends by SIGKILL with them, and at
/// once if they have ended already. The descriptor must be kept open.
pub fn bind_life(inherited: OwnedFd) -> io::Result<OwnedFd> {
    bind_own_life(own_life(inherited.as_fd())?)
}

/// The pipe's read end once more, for one process to be bound by.
pub fn own_life(inherited: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if !FileType::from_raw_mode(rustix::fs::fstat(inherited)?.st_mode).is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no pipe"));
    }
    let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
    above_stdio(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

/// The second half of [`bind_life`], with what [`own_life`] opened for this process.
pub fn bind_own_life(own: OwnedFd) -> io::Result<OwnedFd> {
    /// Not in `libc` for glibc; the same on every Linux.
    const F_SETSIG: libc::c_int = 10;
    let set = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: these three commands of fcntl take an integer, and `own` is open.
        match unsafe { libc::fcntl(own.as_raw_fd(), command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    set(libc::F_SETOWN, std::process::id() as libc::c_int)?;
    set(F_SETSIG, libc::SIGKILL)?;
    set(libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC)?;
    // A parent that died before the line above sent no signal, but it left the pipe hung up.
    if hangs_up(own.as_fd(), Deadline::after(Duration::ZERO))? {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    Ok(own)
}

/// Blocks until the pipe's write end is closed or the deadline has passed; whether it is closed. Nobody writes to it.
pub fn hangs_up(read: BorrowedFd<'_>, deadline: Deadline) -> io::Result<bool> {
    loop {
        let mut polled = [PollFd::from_borrowed_fd(read, PollFlags::IN)];
        match poll(&mut polled, deadline.left_ns().map(timespec).as_ref()) {
            Ok(0) if deadline.passed() => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(polled[0].revents().contains(PollFlags::HUP)),
        }
    }
}
