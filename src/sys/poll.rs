//! Waiting for descriptors, a descriptor to wait for, and a thread that does nothing but wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::clock::Deadline;

/// Waits until one of `fds` can be read without blocking (data, end of file, or an error to be told), and tells of each
/// whether it can; none of them can if the deadline came first. A signal does not end the wait.
///
/// # Errors
/// `EBADF` if one is not open.
pub fn readable(fds: &[BorrowedFd<'_>], deadline: Deadline) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        let timeout = deadline
            .left_ns()
            .map(|ns| Timespec { tv_sec: (ns / 1_000_000_000) as _, tv_nsec: (ns % 1_000_000_000) as _ });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) if !deadline.passed() => {}
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    if polled.iter().any(|fd| fd.revents().contains(PollFlags::NVAL)) {
        return Err(Errno::BADF.into());
    }
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// A descriptor that is readable from [`ring`](Self::ring) until [`clear`](Self::clear).
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent one.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable.
    pub fn ring(&self) {
        // It can fail only if it was rung 2^64 - 2 times, and then it is readable.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it silent.
    pub fn clear(&self) {
        // It can fail only if it is silent.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Starts a thread that the program did not ask for: it gets none of the program's signals.
pub fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow};
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    before.thread_set_mask()?;
    started.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bell_is_readable_from_ring_to_clear() {
        let (bell, other) = (Bell::new().unwrap(), Bell::new().unwrap());
        let look = || readable(&[other.as_fd(), bell.as_fd()], Deadline::after(Duration::ZERO)).unwrap();
        assert_eq!(look(), [false, false]);
        bell.ring();
        bell.ring();
        assert_eq!(look(), [false, true]);
        bell.clear();
        assert_eq!(look(), [false, false]);
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_an_error() {
        // SAFETY: a number far beyond any limit, which nobody uses.
        let none = unsafe { BorrowedFd::borrow_raw(1 << 30) };
        let error = readable(&[none], Deadline::NEVER).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
