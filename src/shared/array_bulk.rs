//! Many elements of an array at once.
//!
//! # Memory ordering
//! The copies are relaxed accesses, whole elements each. A fence behind those that read (Acquire) and one in front of those
//! that write (Release) order them as single reads and writes are.

use std::ops::Range;

use bytemuck::{CheckedBitPattern, NoUninit};

use super::array::{ArrayError, RawArray};
use super::cells::is_word;
use super::element::{Element, no_value};
use crate::sys::atomic::{Ordering, fence};

/// 64-bit words that are copied out before they are looked at, or filled before they are copied in.
const CHUNK: usize = 128;

impl<T: NoUninit + CheckedBitPattern> RawArray<T> {
    const IS_WORD: bool = is_word(size_of::<T>());

    /// Reads elements that there are, in order, some at a time.
    pub(super) fn read_each(&self, range: Range<usize>, mut each: impl FnMut(&[T])) -> Result<(), ArrayError> {
        if !Self::IS_WORD {
            for index in range {
                each(&[Element::new(&self.0.memory, index).get()?]);
            }
            return Ok(());
        }
        let size = size_of::<T>();
        // Aligned as any word is.
        let mut chunk = [0u64; CHUNK];
        let mut at = range.start * size;
        while at < range.end * size {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut chunk);
            let bytes = &mut bytes[..(range.end * size - at).min(CHUNK * 8)];
            self.0.memory.elements().read_elements(at, size, bytes);
            fence(Ordering::Acquire);
            at += bytes.len();
            each(bytemuck::checked::try_cast_slice(bytes).map_err(|_| no_value::<T>())?);
        }
        Ok(())
    }

    /// Reads as many elements as `to` has, from the one at `start`.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`] if there are fewer; [`ArrayError::Failed`] if the bytes of one are no `T`, and some
    /// in front of it may have been read.
    pub fn read_into(&self, start: usize, to: &mut [T]) -> Result<(), ArrayError> {
        let range = self.range(start..start.saturating_add(to.len()))?;
        let mut at = 0;
        self.read_each(range, |values| {
            to[at..at + values.len()].copy_from_slice(values);
            at += values.len();
        })
    }

    /// Writes elements from the one at `start` on. Each is whole; others may see the first ones before the last are written.
    /// For elements that are no words it waits as [`set`](Self::set) does.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`] if they do not fit, and none is written; [`ArrayError::Failed`]. Python: `a[i:j] = xs`.
    pub fn write_slice(&self, start: usize, values: &[T]) -> Result<(), ArrayError> {
        let range = self.range(start..start.saturating_add(values.len()))?;
        if !Self::IS_WORD {
            for (index, value) in range.zip(values) {
                Element::new(&self.0.memory, index).set(*value)?;
            }
            return Ok(());
        }
        fence(Ordering::Release);
        let size = size_of::<T>();
        self.0.memory.elements().write_elements(range.start * size, size, bytemuck::cast_slice(values));
        Ok(())
    }

    /// Writes all elements, as [`write_slice`](Self::write_slice) does.
    ///
    /// # Errors
    /// [`ArrayError::WrongLength`] if there are more or fewer, and none is written; [`ArrayError::Failed`]. Python:
    /// `a[:] = xs`.
    pub fn copy_from_slice(&self, values: &[T]) -> Result<(), ArrayError> {
        if values.len() != self.len() {
            return Err(ArrayError::WrongLength { given: values.len(), wanted: self.len() });
        }
        self.write_slice(0, values)
    }

    /// Writes the same value to all elements, as [`write_slice`](Self::write_slice) does.
    ///
    /// # Errors
    /// [`ArrayError::Failed`].
    pub fn fill(&self, value: T) -> Result<(), ArrayError> {
        if !Self::IS_WORD {
            return (0..self.len()).try_for_each(|index| Ok(Element::new(&self.0.memory, index).set(value)?));
        }
        let size = size_of::<T>();
        let mut chunk = [0u8; CHUNK * 8];
        chunk.chunks_exact_mut(size).for_each(|place| place.copy_from_slice(bytemuck::bytes_of(&value)));
        fence(Ordering::Release);
        let end = self.len() * size;
        for at in (0..end).step_by(CHUNK * 8) {
            self.0.memory.elements().write_elements(at, size, &chunk[..(end - at).min(CHUNK * 8)]);
        }
        Ok(())
    }
}
