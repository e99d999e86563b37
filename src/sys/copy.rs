//! Copies between private and shared memory that the compiler cannot see through.
//!
//! Another process may write the shared side at any time. Such a copy may tear, and its reader checks what arrived; but
//! it must not be a data race in the eyes of the compiler, which could read a byte twice and believe both. Small copies
//! are relaxed atomic words; large and unaligned ones go through libc's `memcpy`, called through a pointer that is opaque here.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

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

/// Copies elements of 1, 2, 4 or 8 bytes from shared memory, each of them whole: by 64-bit words where they are aligned,
/// and one by one in front and behind.
///
/// # Safety
/// `bytes` bytes from `from` are mapped, and `to` is valid for as many writes; `from` and `bytes` are multiples of `size`.
#[inline]
pub unsafe fn read_elements(from: *const u8, to: *mut u8, bytes: usize, size: usize) {
    let one = |at: usize| {
        // SAFETY: at + size <= bytes, and the shared side is aligned to `size`, which divides all `at`.
        unsafe {
            let (from, to) = (from.add(at), to.add(at));
            match size {
                1 => to.write((*from.cast::<AtomicU8>()).load(Relaxed)),
                2 => to.cast::<u16>().write_unaligned((*from.cast::<AtomicU16>()).load(Relaxed)),
                4 => to.cast::<u32>().write_unaligned((*from.cast::<AtomicU32>()).load(Relaxed)),
                _ => to.cast::<u64>().write_unaligned((*from.cast::<AtomicU64>()).load(Relaxed)),
            }
        }
    };
    let (first, last) = aligned_part(from.addr(), bytes);
    (0..first).step_by(size).for_each(one);
    for at in (first..last).step_by(8) {
        // SAFETY: at + 8 <= last <= bytes; the shared side is aligned to 8 there.
        unsafe { to.add(at).cast::<u64>().write_unaligned((*from.add(at).cast::<AtomicU64>()).load(Relaxed)) };
    }
    (last..bytes).step_by(size).for_each(one);
}

/// Copies elements of 1, 2, 4 or 8 bytes to shared memory, each of them whole, as [`read_elements`] does.
///
/// # Safety
/// `from.len()` bytes from `to` are mapped and writable; `to` and `from.len()` are multiples of `size`.
#[inline]
pub unsafe fn write_elements(to: *mut u8, from: &[u8], size: usize) {
    let one = |at: usize| {
        // SAFETY: at + size <= from.len(), and the shared side is aligned to `size`, which divides all `at`.
        unsafe {
            let (to, from) = (to.add(at), from.as_ptr().add(at));
            match size {
                1 => (*to.cast::<AtomicU8>()).store(from.read(), Relaxed),
                2 => (*to.cast::<AtomicU16>()).store(from.cast::<u16>().read_unaligned(), Relaxed),
                4 => (*to.cast::<AtomicU32>()).store(from.cast::<u32>().read_unaligned(), Relaxed),
                _ => (*to.cast::<AtomicU64>()).store(from.cast::<u64>().read_unaligned(), Relaxed),
            }
        }
    };
    let (first, last) = aligned_part(to.addr(), from.len());
    (0..first).step_by(size).for_each(one);
    for at in (first..last).step_by(8) {
        // SAFETY: at + 8 <= last <= from.len(); the shared side is aligned to 8 there.
        unsafe {
            (*to.add(at).cast::<AtomicU64>()).store(from.as_ptr().add(at).cast::<u64>().read_unaligned(), Relaxed)
        };
    }
    (last..from.len()).step_by(size).for_each(one);
}

/// Where the whole aligned 64-bit words of `bytes` bytes at `address` begin and end.
#[inline]
fn aligned_part(address: usize, bytes: usize) -> (usize, usize) {
    let first = (address.wrapping_neg() % 8).min(bytes);
    (first, first + (bytes - first) / 8 * 8)
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

    #[test]
    fn elements_of_every_size_arrive_whole_from_every_place() {
        let mut shared = vec![0u64; 64];
        let base = shared.as_mut_ptr().cast::<u8>();
        for size in [1, 2, 4, 8] {
            for (first, count) in (0..20).flat_map(|first| (0..20).map(move |count| (first, count))) {
                let from: Vec<u8> = (0..count * size).map(|k| (k * 7 + first + 1) as u8).collect();
                let (at, end) = (first * size, (first + count) * size);
                let mut back = vec![0; count * size];
                // SAFETY: 512 aligned bytes, end <= 320.
                unsafe {
                    base.write_bytes(0xEE, 512);
                    write_elements(base.add(at), &from, size);
                    read_elements(base.add(at), back.as_mut_ptr(), back.len(), size);
                    assert!((0..at).chain(end..512).all(|k| base.add(k).read() == 0xEE), "{size} {first} {count}");
                }
                assert_eq!(back, from);
            }
        }
    }
}
