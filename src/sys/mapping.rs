//! Mapped memory: a whole segment, a page that a fork wipes, and typed access to words in both.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use memmap2::{MmapOptions, MmapRaw};

use super::atomic::AtomicU64;

/// A file mapped shared and writable, whole. Memory is reached by offset; every access is checked against the size.
pub struct Mapping {
    raw: MmapRaw,
}

impl Mapping {
    /// Maps `bytes` of the file from its start.
    pub fn new(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let raw = MmapOptions::new().len(bytes).map_raw(fd.as_raw_fd())?;
        Ok(Self { raw })
    }

    /// Size in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Address of the first byte, aligned to a page.
    #[inline]
    pub fn base(&self) -> *mut u8 {
        self.raw.as_mut_ptr()
    }
}

/// One private word that reads 0 in a forked child, whatever the parent stored.
pub struct ForkWord {
    page: MmapRaw,
}

impl ForkWord {
    /// Maps the page. Where the kernel has no `MADV_WIPEONFORK` a fork is not noticed.
    pub fn new() -> io::Result<Self> {
        let page: MmapRaw = MmapOptions::new().len(4096).map_anon()?.into();
        // SAFETY: the whole of our own private anonymous page.
        let _ = unsafe { rustix::mm::madvise(page.as_mut_ptr().cast(), 4096, rustix::mm::Advice::LinuxWipeOnFork) };
        Ok(Self { page })
    }

    /// The word.
    #[inline]
    pub fn word(&self) -> &AtomicU64 {
        // SAFETY: a page of our own, aligned, written through this atomic only.
        unsafe { &*self.page.as_mut_ptr().cast::<AtomicU64>() }
    }
}
