//! What the two ends of a one-to-one ring need of their object: the words to look at and to sleep on, held in place.

use super::layout::ObjectBlock;
use super::object::Object;
use crate::ring::Corrupt;
use crate::ring::bytes::{RecordBlock, Records};
use crate::ring::spsc::{SlotBlock, Slots};
use crate::sync::WaitBlock;
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::Acquire;

/// The directory entry of an object, held in place.
pub(crate) struct PinnedEntry {
    entry: *const ObjectBlock,
    _object: Object,
}

// SAFETY: an address of atomics in memory that the object keeps mapped; any thread may use them.
unsafe impl Send for PinnedEntry {}
// SAFETY: as above.
unsafe impl Sync for PinnedEntry {}

impl PinnedEntry {
    pub fn new(object: &Object) -> Self {
        Self { entry: object.entry(), _object: object.clone() }
    }

    #[inline(always)]
    fn entry(&self) -> &ObjectBlock {
        // SAFETY: it came from a reference, and the object that we hold keeps the segment mapped at the same address.
        unsafe { &*self.entry }
    }

    /// One of the words that the object's users sleep on.
    #[inline(always)]
    pub fn waits<const K: usize>(&self) -> &WaitBlock {
        &self.entry().waits[K]
    }

    /// How often a process has given the object up.
    #[inline(always)]
    pub fn departures(&self) -> u32 {
        self.entry().departures.load(Acquire)
    }
}

/// A slot ring in an object, held in place.
pub(crate) struct PinnedSlots {
    ring: Slots<'static>,
    _object: Object,
}

impl PinnedSlots {
    /// The ring whose control block is at `control`, with `capacity` slots in the `words` words from `slots` on.
    pub fn new(object: &Object, control: usize, slots: usize, words: usize, capacity: usize) -> Result<Self, Corrupt> {
        let view = object.view();
        let ring = Slots::new(view.block::<SlotBlock>(control), view.blocks::<AtomicU64>(slots, words), capacity)?;
        // SAFETY: the same type but for the lifetime. The memory stays mapped as long as the object that we hold, and `get`
        // ties what it gives to `self`.
        let ring = unsafe { std::mem::transmute::<Slots<'_>, Slots<'static>>(ring) };
        Ok(Self { ring, _object: object.clone() })
    }

    /// The ring.
    #[inline(always)]
    pub fn get(&self) -> &Slots<'_> {
        &self.ring
    }
}

/// A record ring in an object, held in place.
pub(crate) struct PinnedRecords {
    ring: Records<'static>,
    _object: Object,
}

impl PinnedRecords {
    /// The ring whose control block is at `control`, with its data in the `words` words from `data` on.
    pub fn new(object: &Object, control: usize, data: usize, words: usize) -> Result<Self, Corrupt> {
        let view = object.view();
        let ring = Records::new(view.block::<RecordBlock>(control), view.blocks::<AtomicU64>(data, words))?;
        // SAFETY: as in `PinnedSlots::new`.
        let ring = unsafe { std::mem::transmute::<Records<'_>, Records<'static>>(ring) };
        Ok(Self { ring, _object: object.clone() })
    }

    /// The ring.
    #[inline(always)]
    pub fn get(&self) -> &Records<'_> {
        &self.ring
    }
}
