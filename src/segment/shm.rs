//! A view of bytes in shared memory: copied in, copied out, never borrowed.

use std::marker::PhantomData;

use super::layout::Block;
use crate::sys::copy;

/// Bytes in a segment. Another process may change them at any time, so there is no way to borrow them: reading is
/// copying, and what was copied is then checked.
#[derive(Clone, Copy, Debug)]
pub struct ShmSlice<'a> {
    base: *mut u8,
    len: usize,
    memory: PhantomData<&'a u8>,
}

impl<'a> ShmSlice<'a> {
    /// The bytes in place.
    ///
    /// # Safety
    /// No process writes them as long as the slice is used: neither the one that hands them over by the rules (a message
    /// that was taken is its taker's, a loan its lender's), nor a faulty or hostile one, which no rule binds.
    #[inline]
    pub unsafe fn as_slice(&self) -> &'a [u8] {
        // SAFETY: mapped by construction; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    /// The bytes in place, to be written.
    ///
    /// # Safety
    /// As for [`as_slice`](Self::as_slice), and nobody reads them either.
    #[inline]
    pub unsafe fn as_mut_slice(&mut self) -> &'a mut [u8] {
        // SAFETY: mapped by construction; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }

    /// # Safety
    /// `len` bytes from `base` stay mapped and writable for the lifetime.
    pub(super) unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self { base, len, memory: PhantomData }
    }

    /// # Safety
    /// The bytes stay mapped and writable wherever the result is used.
    pub(super) unsafe fn unbound(self) -> ShmSlice<'static> {
        ShmSlice { base: self.base, len: self.len, memory: PhantomData }
    }

    /// `bytes` bytes from `offset`.
    ///
    /// # Panics
    /// If they do not lie inside.
    #[inline]
    pub fn part(&self, offset: usize, bytes: usize) -> Self {
        Self { base: self.at(offset, bytes), len: bytes, memory: PhantomData }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of `bytes` bytes from `offset`.
    #[inline]
    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        if offset.checked_add(bytes).is_none_or(|end| end > self.len) {
            beyond(offset, bytes, self.len);
        }
        // SAFETY: inside the slice, as just checked.
        unsafe { self.base.add(offset) }
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// If they do not fit.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: mapped by construction; `at` checked the range.
        unsafe { copy::write_shared(self.at(offset, bytes.len()), bytes) };
    }

    /// Copies the bytes at `offset` to `to`.
    ///
    /// # Panics
    /// If more are wanted than there are.
    #[inline]
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        // SAFETY: mapped by construction; `at` checked the range.
        unsafe { copy::read_shared(self.at(offset, to.len()), to.as_mut_ptr(), to.len()) };
    }

    /// Copies the 64-bit number at `offset`, as this machine stores it.
    ///
    /// # Panics
    /// If it does not lie inside.
    #[inline]
    pub fn read_u64(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes);
        u64::from_ne_bytes(bytes)
    }

    /// Replaces the contents of `to` by the `len` bytes at `offset`.
    ///
    /// # Panics
    /// If more are wanted than there are.
    #[inline]
    pub fn read_into(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        let from = self.at(offset, len);
        to.clear();
        to.reserve(len);
        // SAFETY: the range was checked, the vector has room for it, and all of it is written before it counts.
        unsafe {
            copy::read_shared(from, to.as_mut_ptr(), len);
            to.set_len(len);
        }
    }

    /// The value at the start, copied out and then checked; `None` if its bytes are none of `T`.
    ///
    /// # Panics
    /// If there are fewer bytes than a `T` has.
    #[inline]
    pub fn read_checked<T: bytemuck::CheckedBitPattern>(&self) -> Option<T> {
        let from = self.at(0, size_of::<T>());
        let mut value = std::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the length was checked and the private side is a T's worth of memory. Bits is any bytes of that size
        // and layout (the trait's promise), all of them written, so it may be looked at; and what it accepts is a T.
        unsafe {
            copy::read_shared(from, value.as_mut_ptr().cast(), size_of::<T>());
            T::is_valid_bit_pattern(&*value.as_ptr().cast::<T::Bits>()).then(|| value.assume_init())
        }
    }

    /// The block at `offset`, in place.
    ///
    /// # Panics
    /// If it does not lie inside, aligned.
    #[inline]
    pub(crate) fn block<T: Block>(&self, offset: usize) -> &'a T {
        let at = self.at(offset, size_of::<T>()).cast::<T>();
        assert!(at.is_aligned(), "block at an odd place");
        // SAFETY: inside the mapping, which lives as long as 'a, and aligned; a Block is made of atomics, so any bytes and
        // any concurrent change are fine.
        unsafe { &*at }
    }

    /// Copies elements of `size` bytes (1, 2, 4 or 8) from `offset` to `to`, each of them whole. Relaxed: fences are the
    /// caller's.
    ///
    /// # Panics
    /// If more are wanted than there are, or the place is no multiple of the size.
    #[inline]
    pub(crate) fn read_elements(&self, offset: usize, size: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        assert!(
            matches!(size, 1 | 2 | 4 | 8) && from.addr() % size == 0 && to.len() % size == 0,
            "elements at an odd place"
        );
        // SAFETY: mapped by construction; `at` checked the range, the line above the alignment.
        unsafe { copy::read_elements(from, to.as_mut_ptr(), to.len(), size) };
    }

    /// Copies elements of `size` bytes (1, 2, 4 or 8) to `offset`, each of them whole. Relaxed: fences are the caller's.
    ///
    /// # Panics
    /// As [`read_elements`](Self::read_elements).
    #[inline]
    pub(crate) fn write_elements(&self, offset: usize, size: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        assert!(
            matches!(size, 1 | 2 | 4 | 8) && to.addr() % size == 0 && from.len() % size == 0,
            "elements at an odd place"
        );
        // SAFETY: mapped by construction; `at` checked the range, the line above the alignment.
        unsafe { copy::write_elements(to, from, size) };
    }

    /// All bytes, copied.
    pub fn read_to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_into(0, self.len, &mut bytes);
        bytes
    }

    /// Writes zeros over all of it.
    pub fn clear(&self) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = 0;
        while at < self.len {
            self.write(at, &ZEROS[..(self.len - at).min(ZEROS.len())]);
            at += ZEROS.len();
        }
    }
}

/// Apart, and by value: what a message refers to would be stored in memory on each call.
#[cold]
#[inline(never)]
fn beyond(offset: usize, bytes: usize, len: usize) -> ! {
    panic!("{bytes} bytes at {offset} of a slice of {len}")
}
