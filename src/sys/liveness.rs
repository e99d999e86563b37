//! The proof of life: a kernel byte lock that lives exactly as long as an address space.
//!
//! A process locks one byte of the segment's file through an open file description of its own (an OFD lock belongs to
//! the description, not to the process), maps a page of that description with `PROT_NONE` and closes the descriptor.
//! The mapping now holds the only reference: the kernel drops the lock when the address space goes (death, `exec`) or
//! the mapping is removed, and at no other moment. `MADV_DONTFORK` keeps a forked child from prolonging it. Process ids,
//! zombies, `closefrom` and namespaces play no part.
//!
//! Source: fcntl(2) "Open file description locks", mmap(2), madvise(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::clock::Deadline;
use super::{cpu, memfd};

/// Byte locks start here, far behind the contents.
const LOCK_BASE: i64 = 1 << 40;

fn byte_lock(kind: i32, byte: u32) -> libc::flock {
    // SAFETY: flock is plain integers; all-zero is a valid value (and l_pid must be 0 for OFD locks).
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = LOCK_BASE + i64::from(byte);
    lock.l_len = 1;
    lock
}

/// Takes byte `byte` for the description of `fd`; false if another description has it.
pub fn try_lock(fd: BorrowedFd<'_>, byte: u32) -> io::Result<bool> {
    use nix::fcntl::{FcntlArg, fcntl};
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_WRLCK, byte))) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Gives byte `byte` back if the description of `fd` has it.
pub fn unlock(fd: BorrowedFd<'_>, byte: u32) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(fd, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_UNLCK, byte)))?;
    Ok(())
}

/// Whether some other description than that of `fd` holds byte `byte` (0.4 us).
pub fn is_locked(fd: BorrowedFd<'_>, byte: u32) -> io::Result<bool> {
    use nix::fcntl::{FcntlArg, fcntl};
    let mut lock = byte_lock(libc::F_WRLCK, byte);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// A byte lock that lasts until it is dropped, or until the process dies or executes another program.
pub struct PinnedLock {
    page: *mut libc::c_void,
}

// SAFETY: the page is never read or written; unmapping it is allowed from any thread.
unsafe impl Send for PinnedLock {}
// SAFETY: as above, there is nothing to access.
unsafe impl Sync for PinnedLock {}

impl PinnedLock {
    /// Takes byte `byte` of the file of `segment`; `None` if somebody else has it.
    pub fn try_new(segment: BorrowedFd<'_>, byte: u32) -> io::Result<Option<Self>> {
        let own = memfd::reopen(segment)?;
        if !try_lock(own.as_fd(), byte)? {
            return Ok(None);
        }
        Self::pin(own).map(Some)
    }

    /// Ties the locks of the description of `fd` to this address space, and closes `fd`.
    pub fn pin(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: a new mapping at an address the kernel chooses; PROT_NONE, so nothing can be read through it.
        let page =
            unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_NONE, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pinned = Self { page };
        // SAFETY: the page just mapped.
        if unsafe { libc::madvise(page, 4096, libc::MADV_DONTFORK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(pinned)
    }
}

impl Drop for PinnedLock {
    fn drop(&mut self) {
        // SAFETY: the page that `pin` mapped and nothing else refers to.
        unsafe { libc::munmap(self.page, 4096) };
    }
}

/// Checks on this very file that the mechanism works: locked while pinned, free afterwards.
pub fn self_test(segment: BorrowedFd<'_>, byte: u32) -> io::Result<bool> {
    let Some(pinned) = PinnedLock::try_new(segment, byte)? else { return Ok(false) };
    let probe = memfd::reopen(segment)?;
    let locked = is_locked(probe.as_fd(), byte)?;
    drop(pinned);
    // A process that another thread is just starting has a copy of the descriptor until its program begins.
    let patience = Deadline::after(Duration::from_secs(1));
    while is_locked(probe.as_fd(), byte)? {
        if patience.passed() {
            return Ok(false);
        }
        cpu::yield_now();
    }
    Ok(locked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_lock_is_seen_by_others_until_it_is_dropped() {
        let fd = memfd::create("liveness", 8192).unwrap();
        assert!(self_test(fd.as_fd(), 7).unwrap());
        let pinned = PinnedLock::try_new(fd.as_fd(), 3).unwrap().unwrap();
        assert!(PinnedLock::try_new(fd.as_fd(), 3).unwrap().is_none());
        assert!(is_locked(fd.as_fd(), 3).unwrap());
        assert!(!is_locked(fd.as_fd(), 4).unwrap());
        drop(pinned);
        assert!(!is_locked(fd.as_fd(), 3).unwrap());
    }
}
