//! Forking this process, and what a fork server needs: signals that it does not hear, children that nobody has to wait for,
//! and for these what a started program would have inherited.
//!
//! The children are made by the C library's `fork`, not by a system call of our own: it puts the thread's id, its robust
//! locks and the allocator in order.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::identity::{Ended, Pidfd};

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The copy.
    Child,
    /// The original, and its child's pid.
    Parent(u32),
}

/// Makes a copy of this process, with the calling thread only.
///
/// # Safety
/// As fork(2): the child does nothing that needs what another thread of the original may have held at that moment (a lock,
/// a half changed structure). In a process with one thread that is nothing.
pub unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: the caller's promise is the one that this call asks for.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid.unsigned_abs())),
    }
}

/// Ends the process now: no handler, no destructor, no buffer is flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// What a fork server does with the two signals that it treats in its own way, as its children are to find them.
pub struct Dispositions {
    interrupt: libc::sigaction,
    child: libc::sigaction,
}

impl Dispositions {
    /// Notes them.
    pub fn current() -> Self {
        Self { interrupt: action(libc::SIGINT), child: action(libc::SIGCHLD) }
    }

    /// Sets them as they were.
    pub fn restore(&self) {
        for (signal, action) in [(libc::SIGINT, &self.interrupt), (libc::SIGCHLD, &self.child)] {
            // SAFETY: `action` is what the same call filled in; the signal may be handled.
            unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) };
        }
    }
}

fn action(signal: libc::c_int) -> libc::sigaction {
    // SAFETY: any bytes are a `sigaction`, zeros among them (an option of null); the call fills it in.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action);
        action
    }
}

fn handle(signal: libc::c_int, how: libc::sighandler_t) {
    // SAFETY: `how` is SIG_IGN or SIG_DFL, which are no handlers, so nothing of ours runs in signal context.
    unsafe { libc::signal(signal, how) };
}

/// Ctrl-C is for the programs in the terminal's foreground; who serves them goes on.
pub fn ignore_interrupts() {
    handle(libc::SIGINT, libc::SIG_IGN);
}

/// Says whether the kernel itself reaps the children that end from now on.
pub fn let_kernel_reap(yes: bool) {
    handle(libc::SIGCHLD, if yes { libc::SIG_IGN } else { libc::SIG_DFL });
}

/// Reaps the children that have ended; it does not block.
pub fn reap_all() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some(_)) = rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG)) {}
}

/// Blocks until this process has no children, and reaps them.
pub fn reap_to_the_last() {
    use rustix::process::{WaitOptions, wait};
    while rustix::io::retry_on_intr(|| wait(WaitOptions::empty())).is_ok() {}
}

/// The wait status of a child of this process that has ended, which the kernel tells once.
///
/// # Errors
/// `EAGAIN` if it has not ended, `ECHILD` if it is no child of this process.
pub fn take_status(pid: u32) -> io::Result<i32> {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return Err(Errno::CHILD.into()) };
    let mut status = 0;
    // SAFETY: the pointer leads to the number that the call fills in.
    match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Err(Errno::AGAIN.into()),
        _ => Ok(status),
    }
}

/// Whether a pidfd tells how its process ended after the kernel has reaped it (Linux 6.15).
///
/// # Safety
/// As [`fork`]. The kernel must not reap children by itself, and no other child may be there.
pub unsafe fn kernel_remembers() -> io::Result<bool> {
    const CODE: i32 = 77;
    // SAFETY: the caller's promise; the child calls `_exit` and nothing else.
    match unsafe { fork() }? {
        Forked::Child => exit_now(CODE),
        Forked::Parent(pid) => {
            let pidfd = Pidfd::of_child(pid)?;
            pidfd.wait(super::clock::Deadline::NEVER)?;
            while pidfd.reap()?.is_none() {}
            Ok(matches!(pidfd.remembered(), Ok(Some(Ended::Exited(CODE)))))
        }
    }
}

/// The signals that the calling thread has blocked, a bit for each from 1 on.
pub fn signal_mask() -> u64 {
    // SAFETY: any bytes are a `sigset_t`; the first call fills it in, the second looks at it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set);
        (1..=64).filter(|&signal| libc::sigismember(&raw const set, signal) == 1).map(|signal| 1 << (signal - 1)).sum()
    }
}

/// Blocks these signals in the calling thread, and no others.
pub fn set_signal_mask(mask: u64) {
    // SAFETY: `sigemptyset` makes it a set, numbers that are no signals are refused.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in (1..=64).filter(|signal| mask >> (signal - 1) & 1 == 1) {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Gives the calling thread a name, if it has no NUL; the first thread's is that of the process in `ps`. The kernel keeps 15
/// bytes.
pub fn set_command_name(name: &[u8]) {
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// The working directory, as a descriptor that can be sent; `None` where it may not be looked up.
pub fn working_directory() -> Option<OwnedFd> {
    rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Makes the directory that is open as `fd` the working directory.
pub fn set_working_directory(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::fchdir(fd)?)
}

/// The standard streams that a started program would inherit: those that are open, and not something else that was given
/// the number of one that the program has closed.
pub fn standard_streams() -> [Option<BorrowedFd<'static>>; 3] {
    [0, 1, 2].map(|number| {
        // SAFETY: F_GETFD only asks for a flag of the number, if it is open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        // SAFETY: the number is open, and stays borrowed for as long as the program leaves its standard streams alone, as
        // std's own handles of them do.
        (flags != -1 && flags & libc::FD_CLOEXEC == 0).then(|| unsafe { BorrowedFd::borrow_raw(number) })
    })
}

/// Makes `fd` the standard stream of this number.
pub fn set_standard_stream(number: u8, fd: BorrowedFd<'_>) -> io::Result<()> {
    match number {
        0 => rustix::stdio::dup2_stdin(fd)?,
        1 => rustix::stdio::dup2_stdout(fd)?,
        _ => rustix::stdio::dup2_stderr(fd)?,
    }
    Ok(())
}

/// Lets go of the three standard streams: they read as empty, and swallow what is written.
pub fn let_go_of_standard_streams() -> io::Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    (0..3).try_for_each(|number| set_standard_stream(number, null.as_fd()))
}

/// The numbers under which a program is to find descriptors that it was given.
pub struct Kept<'a>(pub &'a [RawFd]);

impl Kept<'_> {
    /// Moves a descriptor of the caller's own that is in the way.
    pub fn clear(&self, fd: OwnedFd) -> io::Result<OwnedFd> {
        let mut fd = fd;
        let mut in_the_way = Vec::new();
        while self.0.contains(&fd.as_raw_fd()) {
            let other = rustix::io::fcntl_dupfd_cloexec(&fd, 3)?;
            in_the_way.push(std::mem::replace(&mut fd, other));
        }
        Ok(fd)
    }

    /// Opens the files that came as `given` under their numbers, for the program to use and to hand on. The descriptors
    /// are in nobody's way ([`clear`](Self::clear)).
    ///
    /// # Errors
    /// `EBUSY` if a number is in use: a constructor of the program has opened something that it leaves open.
    pub fn place(&self, given: Vec<OwnedFd>) -> io::Result<()> {
        for (number, fd) in self.0.iter().zip(given) {
            let placed = rustix::io::fcntl_dupfd_cloexec(&fd, *number)?;
            if placed.as_raw_fd() != *number {
                return Err(Errno::BUSY.into());
            }
            leave_open(placed.as_fd())?;
            // The program's from here on.
            let _ = placed.into_raw_fd();
        }
        Ok(())
    }
}

/// Lets programs that this one starts inherit the descriptor.
pub fn leave_open(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}

/// What the system says to a process that has no number free for one more descriptor.
pub fn too_many_files() -> io::Error {
    Errno::MFILE.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_mask_is_set_as_it_was_read() {
        std::thread::spawn(|| {
            assert_eq!(signal_mask(), 0);
            let mask = 1 << (libc::SIGUSR1 - 1) | 1 << 40;
            set_signal_mask(mask);
            assert_eq!(signal_mask(), mask);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn descriptors_are_moved_out_of_the_way_and_then_placed() {
        let (read, _write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let number = read.as_raw_fd();
        let numbers = [number, number + 1, number + 2];
        let kept = Kept(&numbers);
        let given = rustix::io::fcntl_dupfd_cloexec(&read, 3).unwrap();
        let (given, moved) = (kept.clear(given).unwrap(), kept.clear(read).unwrap());
        assert!(!numbers.contains(&moved.as_raw_fd()) && !numbers.contains(&given.as_raw_fd()));
        // Another test may have taken the number meanwhile.
        match Kept(&[number]).place(vec![given]) {
            Ok(()) => assert!(std::fs::exists(format!("/proc/self/fd/{number}")).unwrap()),
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EBUSY)),
        }
        let taken = moved.as_raw_fd();
        let another = rustix::io::fcntl_dupfd_cloexec(&moved, 3).unwrap();
        assert_eq!(Kept(&[taken]).place(vec![another]).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    }
}
