//! What a child is given when it is started, and how its life is tied to its parent's.
//!
//! **The life pipe.** A parent holds the only write end of one pipe; every child holds a read end. The parent never
//! writes: when it ends, for whatever reason, the kernel closes the write end, and that readiness sends each child the
//! signal it asked for with `F_SETSIG`, SIGKILL. This needs no thread and, unlike `PR_SET_PDEATHSIG`, is not bound to the
//! parent's *thread*. For each child the pipe is opened anew through `/proc`, because owner and signal belong to an open file
//! description, and siblings would overwrite each other's. The parent does that, or the fork server: the files of `/proc` that
//! lead there are known to the kernel then, and for a new process they are not.

use super::clock::Deadline;
use super::identity::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

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
fn life_pipe() -> io::Result<Arc<OwnedFd>> {
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

/// A read end of this process's life pipe for one child to be bound by. The child's copy has to be the last.
pub fn life_line() -> io::Result<OwnedFd> {
    another_life_line(life_pipe()?.as_fd())
}

/// As [`life_line`], of the pipe that `life` is a read end of.
pub fn another_life_line(life: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", life.as_raw_fd());
    above_stdio(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

/// Binds this process's life to whoever holds the write end of the pipe: from now on it ends by SIGKILL with them, and at
/// once if they have ended already. The descriptor must be kept open.
pub fn bind_life(own: OwnedFd) -> io::Result<OwnedFd> {
    /// Not in `libc` for glibc; the same on every Linux.
    const F_SETSIG: libc::c_int = 10;
    let set = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: these three commands of fcntl take an integer, and `own` is open.
        match unsafe { libc::fcntl(own.as_raw_fd(), command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    if !FileType::from_raw_mode(rustix::fs::fstat(&own)?.st_mode).is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no pipe"));
    }
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
