//! Starting this program once more, in a child.
//!
//! As `posix_spawn` does it, but for what that does for programs that it does not know. The child is born sharing its parent's
//! memory, and the thread that made it sleeps until the child has become a program of its own: nothing is copied. The child
//! does system calls only. All signals stay blocked until the new program, which is this one, says otherwise: so no handler
//! of the parent's runs in the child, and none has to be looked for. What it is not to have open the child closes before,
//! in a few calls, since at that moment it is known what is to stay.
//!
//! Source: glibc, `sysdeps/unix/sysv/linux/spawni.c`, for the rules that the child has to keep.

use super::fork::{set_signal_mask, signal_mask};
use super::identity::{Pidfd, abandon_child};
use super::spawn::take_variable;
use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr::null;

/// The environment variable that says what is left to be done for a program that was started so: its signal mask, and
/// whether it has to close what it inherited.
const STATE: &str = "KINFOLK_STATE";

/// Enough for some system calls.
const STACK_BYTES: usize = 32 << 10;

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
/// The child ignores the signals that this process ignores; once it has called [`arrive`], it has the calling thread's
/// signal mask, and of this process's descriptors the standard streams and those that it was given.
pub fn spawn_self(launch: &Launch<'_>) -> io::Result<(u32, Pidfd)> {
    let mut inherited: Vec<RawFd> = launch.inherited.iter().map(|fd| fd.as_raw_fd()).collect();
    inherited.sort_unstable();
    inherited.dedup();
    let closes = can_close_ranges();
    let state = format!("{},{}", signal_mask(), u8::from(closes));
    let environment = launch.environment.iter().map(|(name, value)| assignment(name, value));
    let environment: Vec<CString> =
        environment.chain([assignment(STATE.as_ref(), state.as_ref())]).collect::<io::Result<_>>()?;
    let arguments = arguments()?;
    let pointers =
        |strings: &[CString]| -> Vec<*const c_char> { strings.iter().map(|s| s.as_ptr()).chain([null()]).collect() };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    let gaps = if closes { gaps(&inherited) } else { Vec::new() };
    let streams = launch.streams.map(|stream| stream.map_or(-1, |fd| fd.as_raw_fd()));
    let birth = Birth {
        inherited: &inherited,
        gaps: &gaps,
        streams,
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        failed: UnsafeCell::new(0),
    };
    birth.give()
}

unsafe extern "C" {
    /// clone(2), under glibc's own name for it: what a sanitizer does before and after a `clone` is for a child in memory of its
    /// own, and spoils this one's.
    #[cfg_attr(target_env = "gnu", link_name = "__clone")]
    fn clone(
        child: extern "C" fn(*mut c_void) -> c_int,
        stack: *mut c_void,
        flags: c_int,
        argument: *mut c_void,
        ...
    ) -> c_int;
}

/// A child that is about to be, in memory that it shares with its parent.
struct Birth<'a> {
    inherited: &'a [RawFd],
    /// First and last of the numbers to be closed.
    gaps: &'a [(u32, u32)],
    /// -1 for those that stay as they are.
    streams: [RawFd; 3],
    argv: *const *const c_char,
    envp: *const *const c_char,
    /// Why the child could not become a program.
    failed: UnsafeCell<c_int>,
}

impl Birth<'_> {
    fn give(self) -> io::Result<(u32, Pidfd)> {
        let mut stack = Vec::<u128>::with_capacity(STACK_BYTES / size_of::<u128>());
        let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
        let mut pidfd: c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        let blocked = block_all_signals();
        // SAFETY: the child runs `be_born` on a stack of its own, which is there until it has become another program or has
        // ended: for so long this thread sleeps (CLONE_VFORK). It keeps to what may be done in memory shared with other
        // running threads: system calls on what `self` borrows. No handler runs in it, as all signals are blocked. The kernel
        // writes a descriptor to `pidfd`, if it knows the flag.
        let pid =
            unsafe { clone(be_born, top.cast(), flags, (&raw const self).cast_mut().cast::<c_void>(), &raw mut pidfd) };
        let error = io::Error::last_os_error();
        unblock(blocked);
        let Ok(pid) = u32::try_from(pid) else { return Err(error) };
        let pidfd = match pidfd {
            -1 => Pidfd::of_child(pid).inspect_err(|_| abandon_child(pid))?,
            // SAFETY: the kernel has just opened it for this call.
            fd => Pidfd::of_other(unsafe { OwnedFd::from_raw_fd(fd) }),
        };
        // The child is no longer in this memory.
        match self.failed.into_inner() {
            0 => Ok((pid, pidfd)),
            error => {
                abandon_child(pid);
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }
}

/// The child's side, in its parent's memory: system calls and nothing else.
extern "C" fn be_born(birth: *mut c_void) -> c_int {
    // SAFETY: it is the pointer that `give` has passed, to what lives for as long as this runs. The calls take numbers and
    // pointers to strings that end, in arrays that end.
    unsafe {
        let birth = &*birth.cast_const().cast::<Birth<'_>>();
        let failed = || {
            *birth.failed.get() = *libc::__errno_location();
            EXEC_FAILED
        };
        for &fd in birth.inherited {
            if libc::fcntl(fd, libc::F_SETFD, 0) == -1 {
                return failed();
            }
        }
        for (number, &fd) in (0..).zip(&birth.streams) {
            if fd >= 0 && libc::dup2(fd, number) == -1 {
                return failed();
            }
        }
        for &(first, last) in birth.gaps {
            libc::syscall(libc::SYS_close_range, first, last, 0);
        }
        libc::execve(c"/proc/self/exe".as_ptr(), birth.argv, birth.envp);
        failed()
    }
}

/// The exit code of a child that is no program, as the shell's.
const EXEC_FAILED: c_int = 127;

/// What lies above the standard streams and is not in `kept`, which is in order.
fn gaps(kept: &[RawFd]) -> Vec<(u32, u32)> {
    let mut gaps = Vec::with_capacity(kept.len() + 1);
    let mut next = 3;
    for fd in kept.iter().map(|fd| fd.unsigned_abs()) {
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = fd + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

/// Whether the kernel closes many descriptors at once (Linux 5.9).
fn can_close_ranges() -> bool {
    // SAFETY: nothing has the last of all numbers.
    unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) == 0 }
}

/// Blocks all signals, those too that the C library keeps for itself; gives those that were blocked.
fn block_all_signals() -> u64 {
    let (all, mut before) = (u64::MAX, 0);
    // SAFETY: a signal mask of the kernel has 64 bits.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, size_of::<u64>());
    }
    before
}

fn unblock(before: u64) {
    let nowhere = std::ptr::null_mut::<u64>();
    // SAFETY: as above.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const before, nowhere, size_of::<u64>());
    }
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

/// In a program that [`spawn_self`] has started: does what is left to be done. `kept` are the descriptors that it was given.
///
/// # Safety
/// There is one thread, and nobody uses a descriptor without `FD_CLOEXEC` besides the standard streams.
pub unsafe fn arrive(kept: &[RawFd]) -> io::Result<()> {
    // SAFETY: one thread, by the caller's promise.
    let state = unsafe { take_variable(STATE) }.unwrap_or_default();
    let (mask, closed) = state.to_str().and_then(|text| text.split_once(',')).unwrap_or_default();
    set_signal_mask(mask.parse().unwrap_or(0));
    if closed == "1" {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { close_inherited_but(kept) }
}

/// Closes what this process was left open when the program was started, but the standard streams and `kept`.
///
/// What earlier constructors have opened stays, if they did so as one should, with `O_CLOEXEC`.
///
/// # Safety
/// Nobody in this process uses any other descriptor that was there when the program was started.
unsafe fn close_inherited_but(kept: &[RawFd]) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn what_is_kept_lies_between_what_is_closed() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[3, 4, 7]), [(5, 6), (8, u32::MAX)]);
        assert_eq!(gaps(&[5]), [(3, 4), (6, u32::MAX)]);
    }
}
