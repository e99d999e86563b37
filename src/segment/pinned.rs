//! Parts of an object for hot paths: checked once, held in place by a handle of their own, and then reached without
//! another look at offsets.

use super::layout::Block;
use super::object::Object;
use super::shm::ShmSlice;
use crate::ring::{self, Form, Many, Records, Ring, RingBlock, Side};
use crate::sync::WaitBlock;
use crate::sys::atomic::AtomicU64;

/// Blocks of an object, held in place by a count of their own: for hot paths that cannot afford to check offsets.
pub(crate) struct Pinned<T: Block> {
    first: *const T,
    count: usize,
    _object: Object,
}

// SAFETY: blocks are atomics in memory that the object keeps mapped; any thread may use them.
unsafe impl<T: Block> Send for Pinned<T> {}
// SAFETY: as above.
unsafe impl<T: Block> Sync for Pinned<T> {}

impl<T: Block> Pinned<T> {
    /// `count` blocks from `offset` of the object.
    pub fn new(object: &Object, offset: usize, count: usize) -> Self {
        let first = object.view().blocks::<T>(offset, count).as_ptr();
        Self { first, count, _object: object.clone() }
    }
}

/// A ring in an object, held in place as [`Pinned`] blocks are.
pub(crate) struct PinnedRing<P: Side = Many, C: Side = Many, F: Form = Records> {
    ring: Ring<'static, P, C, F>,
    _object: Object,
}

impl PinnedRing {
    /// The ring whose control block is at `control`, and whose `granules` claim, ready and take words follow from `words`.
    pub fn new(object: &Object, control: usize, words: usize, granules: usize) -> Result<Self, ring::Corrupt> {
        let part = |k: usize| (words + k * granules * size_of::<u64>(), granules);
        Self::made_for(object, control, granules, [part(0), part(1), part(2)])
    }
}

impl<P: Side, C: Side, F: Form> PinnedRing<P, C, F> {
    /// The ring of `granules` whose control block is at `control`, and whose claim, ready and take words are at these
    /// offsets, so many of each.
    pub fn made_for(
        object: &Object,
        control: usize,
        granules: usize,
        words: [(usize, usize); 3],
    ) -> Result<Self, ring::Corrupt> {
        let view = object.view();
        let [claim, ready, take] = words.map(|(at, count)| view.blocks::<AtomicU64>(at, count));
        let ring = Ring::<P, C, F>::made_for(view.block::<RingBlock>(control), granules, claim, ready, take)?;
        // SAFETY: the same type but for the lifetime. The memory stays mapped as long as the object that we hold, and
        // `get` ties what it gives to `self`.
        let ring = unsafe { std::mem::transmute::<Ring<'_, P, C, F>, Ring<'static, P, C, F>>(ring) };
        Ok(Self { ring, _object: object.clone() })
    }

    /// The ring.
    #[inline]
    pub fn get(&self) -> &Ring<'_, P, C, F> {
        &self.ring
    }
}

impl Pinned<WaitBlock> {
    /// `count` of the words that the object's users sleep on, from the one numbered `first`.
    pub fn waits(object: &Object, first: usize, count: usize) -> Self {
        let words = &object.entry().waits[first..first + count];
        Self { first: words.as_ptr(), count, _object: object.clone() }
    }
}

impl<T: Block> std::ops::Deref for Pinned<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `View::blocks` checked the range, and the object that we hold keeps it mapped at the same address.
        unsafe { std::slice::from_raw_parts(self.first, self.count) }
    }
}

/// Bytes of an object, held in place as [`Pinned`] blocks are.
pub(crate) struct PinnedBytes {
    bytes: ShmSlice<'static>,
    _object: Object,
}

// SAFETY: a slice is an address and a length of memory that any thread may copy to and from; the object keeps it mapped.
unsafe impl Send for PinnedBytes {}
// SAFETY: as above.
unsafe impl Sync for PinnedBytes {}

impl PinnedBytes {
    /// `bytes` bytes from `offset` of the object.
    pub fn new(object: &Object, offset: usize, bytes: usize) -> Self {
        let slice = object.view().slice(offset, bytes);
        // SAFETY: the memory stays mapped as long as the object that we hold, and `slice` ties what it gives to `self`.
        let bytes = unsafe { slice.unbound() };
        Self { bytes, _object: object.clone() }
    }

    /// All of them.
    #[inline]
    pub fn all(&self) -> ShmSlice<'_> {
        self.bytes
    }

    /// `bytes` bytes from `offset`.
    ///
    /// # Panics
    /// If they do not lie inside.
    #[inline]
    pub fn slice(&self, offset: usize, bytes: usize) -> ShmSlice<'_> {
        self.bytes.part(offset, bytes)
    }
}
