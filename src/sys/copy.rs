//! Copies between private and shared memory that the compiler cannot see through.
//!
//! Another process may write the shared side at any time. Such a copy may tear, and its reader checks what arrived; but
//! it must not be a data race in the eyes of the compiler, which could read a byte twice and believe both. Small copies
//! are relaxed atomic words; large and unaligned ones go through libc's `memcpy`, called through a pointer that is opaque here.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Up to this many bytes the words are copied one by one.
const BY_WORDS: usize = 256;

type Memcpy = unsafe extern "C" fn(*mut libc::c_void, *const libc::c_void, usize) -> *mut libc::c_void;

#[inline(always)]
fn opaque_memcpy() -> Memcpy {
    std::hint::black_box(libc::memcpy as Memcpy)
}

/// Copies `from` to shared memory at `to`.
///
/// # Safety
/// `from.len()` bytes from `to` are mapped and writable.
#[inline]
pub unsafe fn write_shared(to: *mut u8, from: &[u8]) {
    let bytes = from.len();
    if bytes > BY_WORDS || to.addr() % 8 != 0 {
        // SAFETY: the caller's promise; the regions cannot overlap, one is private and one is not.
        unsafe { opaque_memcpy()(to.cast(), from.as_ptr().cast(), bytes) };
        return;
    }
    let words = bytes / 8;
    for k in 0..words {
        // SAFETY: k * 8 + 8 <= bytes, so both sides are inside; the shared side is aligned, see above.
        unsafe {
            let word = from.as_ptr().add(k * 8).cast::<u64>().read_unaligned();
            (*to.add(k * 8).cast::<AtomicU64>()).store(word, Relaxed);
        }
    }
    for k in words * 8..bytes {
        // SAFETY: k < bytes.
        unsafe { (*to.add(k).cast::<AtomicU8>()).store(*from.get_unchecked(k), Relaxed) };
    }
}

/// Copies `bytes` from shared memory at `from` to `to`.
///
/// # Safety
/// `bytes` bytes from `from` are mapped, and `to` is valid for as many writes.
#[inline]
pub unsafe fn read_shared(from: *const u8, to: *mut u8, bytes: usize) {
    if bytes > BY_WORDS || from.addr() % 8 != 0 {
        // SAFETY: the caller's promise; the regions cannot overlap, one is private and one is not.
        unsafe { opaque_memcpy()(to.cast(), from.cast(), bytes) };
        return;
    }
    let words = bytes / 8;
    for k in 0..words {
        // SAFETY: k * 8 + 8 <= bytes, so both sides are inside; the shared side is aligned, see above.
        unsafe {
            let word = (*from.add(k * 8).cast::<AtomicU64>()).load(Relaxed);
            to.add(k * 8).cast::<u64>().write_unaligned(word);
        }
    }
    for k in words * 8..bytes {
        // SAFETY: k < bytes.
        unsafe { to.add(k).write((*from.add(k).cast::<AtomicU8>()).load(Relaxed)) };
    }
}

/// Whether the shared bytes at `from` are these.
///
/// # Safety
/// `bytes.len()` bytes from `from` are mapped.
#[inline]
pub unsafe fn equals_shared(from: *const u8, bytes: &[u8]) -> bool {
    let words = if from.addr() % 8 == 0 { bytes.len() / 8 } else { 0 };
    for k in 0..words {
        // SAFETY: k * 8 + 8 <= bytes.len(), so both sides are inside; the shared side is aligned, see above.
        let same = unsafe {
            (*from.add(k * 8).cast::<AtomicU64>()).load(Relaxed)
                == bytes.as_ptr().add(k * 8).cast::<u64>().read_unaligned()
        };
        if !same {
            return false;
        }
    }
    // SAFETY: k < bytes.len().
    (words * 8..bytes.len()).all(|k| unsafe { (*from.add(k).cast::<AtomicU8>()).load(Relaxed) == bytes[k] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_arrives_whole_and_nothing_beyond_it_is_touched() {
        let mut shared = vec![0u64; 128];
        let base = shared.as_mut_ptr().cast::<u8>();
        for len in 0..600 {
            let from: Vec<u8> = (0..len).map(|k| (k * 7 + len) as u8).collect();
            let mut back = vec![0xEE; len + 1];
            // SAFETY: 1024 aligned bytes, len < 600.
            unsafe {
                base.add(len).write(0xAA);
                write_shared(base, &from);
                assert_eq!(base.add(len).read(), 0xAA);
                read_shared(base, back.as_mut_ptr(), len);
            }
            assert_eq!(back[..len], from[..]);
            assert_eq!(back[len], 0xEE);
        }
    }
}
