//! The file behind an anonymous segment: a memfd of fixed, sealed size whose pages are committed before they are touched.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, OFlags, SealFlags};

/// Seals that make a size final: nobody can shrink the file under a reader (SIGBUS) or take the seals off.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Makes a sparse memory file of `bytes`, sealed at that size, closed on exec.
///
/// Beyond the process's limit of file sizes (RLIMIT_FSIZE) this is EFBIG: the kernel would send SIGXFSZ, which ends the
/// process. Later calls are within the size that the file has by then, and do not count.
pub fn create(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    if limit.is_some_and(|limit| bytes > limit) {
        return Err(rustix::io::Errno::FBIG.into());
    }
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, bytes)?;
    rustix::fs::fcntl_add_seals(&fd, SEALS)?;
    Ok(fd)
}

/// Whether nobody can change the file's size any more.
pub fn is_sealed(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match rustix::fs::fcntl_get_seals(fd) {
        Ok(seals) => Ok(seals.contains(SEALS)),
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Size of the file in bytes.
pub fn size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_size as u64)
}

/// Commits the pages of a range now, so that running out of memory is this call's error and not a later SIGBUS.
pub fn commit(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(fd, FallocateFlags::empty(), offset, bytes))?)
}

/// Gives the memory of a range back to the system. The size stays; who reads there finds zeros, in memory that is charged
/// anew.
pub fn punch(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(fd, hole, offset, bytes))?)
}

/// Opens the same file once more, as an open file description of its own.
pub fn reopen(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?)
}

/// 16 random bytes from the kernel.
pub fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0u8; 16];
    rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut id[..], rustix::rand::GetRandomFlags::empty()))?;
    Ok(id)
}
