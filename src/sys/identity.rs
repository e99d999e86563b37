//! Who a child is: its pidfd, through which it is waited for and signalled, so that a reused pid never stands for it.

use super::clock::Deadline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By `exit(code)`, or by returning.
    Exited(i32),
    /// By a signal.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether a core file was written.
        core_dumped: bool,
    },
    /// Somebody else took the status: `SIGCHLD` is ignored, or `wait` is called elsewhere in the program.
    Unknown,
}

impl Ended {
    /// What a wait status says.
    pub fn of_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited(status >> 8 & 0xff),
            signal => Self::Signaled { signal, core_dumped: status & 0x80 != 0 },
        }
    }
}

/// A signal that a parent sends to its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `SIGTERM`.
    Terminate,
    /// `SIGKILL`.
    Kill,
    /// `SIGINT`.
    Interrupt,
}

/// The kernel's handle on one child of this process.
#[derive(Debug)]
pub struct Pidfd {
    /// The pidfd; or, for a child that was gone before it could be opened, the read end of a pipe that nobody can write
    /// to, which polls as ready for ever, as the pidfd of an ended child does.
    fd: OwnedFd,
    /// Whether `fd` is that pipe.
    gone: bool,
}

impl Pidfd {
    /// Opens the child `pid` of this process. A child that somebody else reaped meanwhile is shown as ended.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let open = || {
            let fd = rustix::process::pidfd_open(pid_of(pid)?, PidfdFlags::empty())?;
            // A pid that was reaped and given to a stranger is not our child: the kernel says ECHILD.
            let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            retry(|| rustix::process::waitid(WaitId::PidFd(fd.as_fd()), peek))?;
            Ok(fd)
        };
        match open() {
            Ok(fd) => Ok(Self { fd, gone: false }),
            Err(Errno::SRCH | Errno::CHILD) => Self::of_gone(),
            Err(error) => Err(error.into()),
        }
    }

    /// The process that is open as `fd`, which somebody else gave to this one.
    pub fn of_other(fd: OwnedFd) -> Self {
        Self { fd, gone: false }
    }

    /// A process that ended before it could be opened.
    pub fn of_gone() -> io::Result<Self> {
        let (read, _write_end_closes_here) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { fd: read, gone: true })
    }

    /// Opens the process `pid`, whoever started it, or whatever has its number now.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        match pid_of(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) {
            Ok(fd) => Ok(Self { fd, gone: false }),
            Err(Errno::SRCH) => Self::of_gone(),
            Err(error) => Err(error.into()),
        }
    }

    /// How the process ended, by what the kernel keeps of it with this descriptor; `None` if it has not been reaped yet, or
    /// if this kernel keeps nothing (before Linux 6.15). Anybody may ask, as often as they like.
    pub fn remembered(&self) -> io::Result<Option<Ended>> {
        /// `struct pidfd_info` in its first version: the mask, and the wait status in the last of twelve words.
        #[repr(C)]
        struct Info {
            mask: u64,
            control_group: u64,
            identities: [u32; 11],
            status: i32,
        }
        const EXIT: u64 = 1 << 3;
        /// `_IOWR(0xff, 11, struct pidfd_info)`.
        const GET_INFO: u32 = 3 << 30 | (size_of::<Info>() as u32) << 16 | 0xff << 8 | 11;
        let mut info = Info { mask: EXIT, control_group: 0, identities: [0; 11], status: 0 };
        // SAFETY: the request names the size of what the pointer leads to, and its numbers may have any value.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), GET_INFO as _, &raw mut info) } != 0 {
            let error = io::Error::last_os_error();
            return match Errno::from_io_error(&error) {
                // Not known to this kernel, or reaped and nothing kept.
                Some(Errno::NOTTY | Errno::INVAL | Errno::SRCH) => Ok(None),
                _ => Err(error),
            };
        }
        Ok((info.mask & EXIT != 0).then(|| Ended::of_status(info.status)))
    }

    /// Blocks until somebody has reaped the process, `patience` at most; kernels before Linux 6.15 do not tell.
    pub fn wait_reaped(&self, patience: Duration) -> io::Result<()> {
        let timeout = timespec(patience.as_nanos().try_into().unwrap_or(u64::MAX));
        // A hang-up need not be asked for.
        retry(|| poll(&mut [PollFd::new(&self.fd, PollFlags::empty())], Some(&timeout)))?;
        Ok(())
    }

    /// Blocks until the child has ended (all its threads have) or the deadline has passed; whether it has ended.
    pub fn wait(&self, deadline: Deadline) -> io::Result<bool> {
        loop {
            let timeout = deadline.left_ns().map(timespec);
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) if deadline.passed() => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the child's status from the kernel if it has ended; must not be called again after it gave one.
    pub fn reap(&self) -> io::Result<Option<Ended>> {
        if self.gone {
            return Ok(Some(Ended::Unknown));
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match retry(|| rustix::process::waitid(WaitId::PidFd(self.fd.as_fd()), options)) {
            Ok(None) => Ok(None),
            Ok(Some(status)) => Ok(Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Exited(code),
                (None, Some(signal)) => Ended::Signaled { signal, core_dumped: status.dumped() },
                (None, None) => Ended::Unknown,
            })),
            // Not a child of ours (any more): the status is lost, the end itself is told by polling.
            Err(Errno::CHILD) if self.wait(Deadline::after(Duration::ZERO))? => Ok(Some(Ended::Unknown)),
            Err(Errno::CHILD) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal; nothing happens if the child has ended.
    pub fn signal(&self, order: Order) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        let signal = match order {
            Order::Terminate => Signal::TERM,
            Order::Kill => Signal::KILL,
            Order::Interrupt => Signal::INT,
        };
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Which of `pidfds` have ended, in one call that does not block.
pub fn ended_among(pidfds: &[&Pidfd]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = pidfds.iter().map(|p| PollFd::new(&p.fd, PollFlags::IN)).collect();
    retry(|| poll(&mut polled, Some(&timespec(0))))?;
    Ok(polled.iter().map(|p| !p.revents().is_empty()).collect())
}

/// Kills a child of which no [`Pidfd`] could be made, and reaps it.
pub fn abandon_child(pid: u32) {
    if let Ok(pid) = pid_of(pid) {
        // Errors mean that it has ended and been reaped, which is what is wanted.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = retry(|| rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
    }
}

/// The kernel's number of the calling thread, that of the process for its first one.
pub fn this_thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

fn pid_of(pid: u32) -> Result<Pid, Errno> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)
}

pub(super) fn timespec(ns: u64) -> Timespec {
    // Below 2^64 ns there are fewer than 2^35 seconds.
    Timespec { tv_sec: (ns / 1_000_000_000) as _, tv_nsec: (ns % 1_000_000_000) as _ }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The name of a signal, such as `SIGKILL`.
pub fn signal_name(signal: i32) -> Option<&'static str> {
    nix::sys::signal::Signal::try_from(signal).ok().map(nix::sys::signal::Signal::as_str)
}
