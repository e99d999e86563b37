//! A view of bytes in shared memory: copied in, copied out, never borrowed.

use std::marker::PhantomData;

use crate::sys::copy;

/// Bytes in a segment. Another process may change them at any time, so there is no way to borrow them: reading is
/// copying, and what was copied is then checked.
#[derive(Clone, Copy, Debug)]
pub struct ShmSlice<'a> {
    base: *mut u8,
    len: usize,
    memory: PhantomData<&'a u8>,
}

impl ShmSlice<'_> {
    /// # Safety
    /// `base` is aligned to 8 and `len` bytes from it stay mapped and writable for the lifetime.
    pub(super) unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self { base, len, memory: PhantomData }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part from `offset`, a multiple of 8, to the end.
    ///
    /// # Panics
    /// If `offset` is not a multiple of 8 or beyond the end.
    #[inline]
    pub fn from(&self, offset: usize) -> Self {
        assert!(offset % 8 == 0 && offset <= self.len, "offset {offset} of a slice of {} bytes", self.len);
        // SAFETY: a part of the same memory, at a multiple of 8 from an aligned base.
        unsafe { Self::new(self.base.add(offset), self.len - offset) }
    }

    /// Copies `bytes` to the start.
    ///
    /// # Panics
    /// If there are more bytes than fit.
    #[inline]
    pub fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len, "{} bytes into a slice of {}", bytes.len(), self.len);
        // SAFETY: aligned and mapped by construction; the length was checked.
        unsafe { copy::write_shared(self.base, bytes) };
    }

    /// Copies from the start to `to`.
    ///
    /// # Panics
    /// If more bytes are wanted than there are.
    #[inline]
    pub fn read(&self, to: &mut [u8]) {
        assert!(to.len() <= self.len, "{} bytes from a slice of {}", to.len(), self.len);
        // SAFETY: aligned and mapped by construction; the length was checked.
        unsafe { copy::read_shared(self.base, to.as_mut_ptr(), to.len()) };
    }

    /// Replaces the contents of `to` by the first `len` bytes.
    ///
    /// # Panics
    /// If more bytes are wanted than there are.
    #[inline]
    pub fn read_into(&self, len: usize, to: &mut Vec<u8>) {
        assert!(len <= self.len, "{len} bytes from a slice of {}", self.len);
        to.clear();
        to.reserve(len);
        // SAFETY: the length was checked, the vector has room for it, and all of it is written before it counts.
        unsafe {
            copy::read_shared(self.base, to.as_mut_ptr(), len);
            to.set_len(len);
        }
    }

    /// The value at the start, copied out and then checked; `None` if its bytes are none of `T`.
    ///
    /// # Panics
    /// If there are fewer bytes than a `T` has.
    #[inline]
    pub fn read_checked<T: bytemuck::CheckedBitPattern>(&self) -> Option<T> {
        assert!(size_of::<T>() <= self.len, "{} bytes from a slice of {}", size_of::<T>(), self.len);
        let mut value = std::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the length was checked and the private side is a T's worth of memory. Bits is any bytes of that size
        // and layout (the trait's promise), all of them written, so it may be looked at; and what it accepts is a T.
        unsafe {
            copy::read_shared(self.base, value.as_mut_ptr().cast(), size_of::<T>());
            T::is_valid_bit_pattern(&*value.as_ptr().cast::<T::Bits>()).then(|| value.assume_init())
        }
    }

    /// All bytes, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_into(self.len, &mut bytes);
        bytes
    }

    /// Writes zeros over all of it.
    pub fn clear(&self) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = 0;
        while at < self.len {
            let part = self.from(at);
            part.write(&ZEROS[..part.len.min(ZEROS.len())]);
            at += ZEROS.len();
        }
    }
}
