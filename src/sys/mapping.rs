//! Mapped memory: a whole segment, a page that a fork wipes, and typed access to words in both.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use memmap2::{MmapOptions, MmapRaw};

use super::atomic::{AtomicU32, AtomicU64};

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

    /// The 32-bit word at `offset`; `None` if it is not aligned or not inside.
    #[inline]
    pub fn word32(&self, offset: usize) -> Option<&AtomicU32> {
        (offset % 4 == 0 && offset.checked_add(4)? <= self.len()).then(|| {
            // SAFETY: inside the mapping and aligned (the base is page-aligned), and shared memory is only ever reached
            // through atomics and raw copies, so a shared reference to an atomic is all that exists of it.
            unsafe { &*self.base().add(offset).cast::<AtomicU32>() }
        })
    }

    /// The 64-bit word at `offset`; `None` if it is not aligned or not inside.
    #[inline]
    pub fn word64(&self, offset: usize) -> Option<&AtomicU64> {
        (offset % 8 == 0 && offset.checked_add(8)? <= self.len()).then(|| {
            // SAFETY: as in `word32`.
            unsafe { &*self.base().add(offset).cast::<AtomicU64>() }
        })
    }

    /// Asks the kernel for huge pages under a range; it may decline.
    pub fn advise_huge(&self, offset: usize, bytes: usize) {
        if offset.checked_add(bytes).is_some_and(|end| end <= self.len()) {
            // SAFETY: the range lies inside our mapping; the advice changes no contents.
            let _ = unsafe {
                rustix::mm::madvise(self.base().add(offset).cast(), bytes, rustix::mm::Advice::LinuxHugepage)
            };
        }
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
