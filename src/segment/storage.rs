//! The memory of a segment as stores see it: places are offsets in the segment, runs belong to an object.

use std::sync::atomic::Ordering::Relaxed as Noted;

use super::directory::ObjectId;
use super::layout::PAGE;
use super::object::Object;
use super::shm::ShmSlice;
use super::{Inner, Run};
use crate::error::Error;
use crate::store::{HAZARDS, Memory, Piece};
use crate::sync::{Lane, Peers};
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::Acquire;
use crate::sys::{copy, membarrier};

/// The memory of one object and of all runs that it takes.
#[derive(Clone, Copy)]
pub(crate) struct Storage<'a> {
    segment: &'a Inner,
    owner: u64,
    /// Where the memory begins that this one knows to be committed, and how much it is.
    from: u64,
    bytes: u64,
}

impl<'a> Storage<'a> {
    /// Runs are taken for `object`, which its kind's functions have to name.
    #[inline]
    pub fn new(segment: &'a Inner, object: ObjectId) -> Self {
        let from = segment.geometry.pages_at;
        Self { segment, owner: object.word(), from, bytes: segment.memory_end.load(Noted).saturating_sub(from) }
    }

    /// As [`new`](Self::new), for an open object.
    #[inline]
    pub fn of(object: &'a Object) -> Self {
        Self::new(object.segment(), object.id())
    }

    /// The segment.
    pub fn segment(&self) -> &'a Inner {
        self.segment
    }

    /// The `len` bytes at `at`, where a store says that they are.
    ///
    /// # Errors
    /// `Corrupt` if they are not there.
    pub fn slice(&self, at: u64, len: u64) -> Result<ShmSlice<'a>, Error> {
        self.place(at, len)?;
        Ok(self.segment.slice(at as usize, len as usize))
    }

    /// Bytes of the whole segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment.geometry.size
    }

    /// The run of a name, if it is one at all.
    fn run(&self, name: u64) -> Option<Run> {
        let page = (name as u32).checked_sub(1)?;
        self.segment.check_run(page, (name >> 32) as u32, self.owner)
    }
}

impl Storage<'_> {
    /// Address of `bytes` bytes at `at`, if there is committed memory.
    #[inline]
    fn place(&self, at: u64, bytes: u64) -> Result<*mut u8, Error> {
        let inside = at.wrapping_sub(self.from);
        if (inside > self.bytes || bytes > self.bytes - inside) && !self.has_memory(at, bytes) {
            return Err(nowhere(at, bytes));
        }
        // SAFETY: inside the mapping: committed memory never ends beyond it.
        Ok(unsafe { self.segment.map.base().add(at as usize) })
    }

    /// As `place` looks, after another look at how much is committed.
    #[cold]
    fn has_memory(&self, at: u64, bytes: u64) -> bool {
        let end = self.segment.look_at_memory_end();
        at >= self.from && at <= end && bytes <= end - at
    }
}

/// First page of the run of that name, for a kind's `linked`.
pub(crate) fn page_of(name: u64) -> Option<u32> {
    (name as u32).checked_sub(1)
}

impl Peers for Storage<'_> {
    fn bury(&self, lane: Lane) -> bool {
        self.segment.bury(lane)
    }

    fn is_lane(&self, lane: Lane) -> bool {
        self.segment.is_lane(lane)
    }

    fn cpu_of(&self, lane: Lane) -> Option<u32> {
        self.segment.cpu_of(lane)
    }

    #[inline]
    fn asymmetric(&self) -> bool {
        self.segment.asymmetric()
    }
}

impl Memory for Storage<'_> {
    #[inline]
    fn word(&self, at: u64) -> Result<&AtomicU64, Error> {
        self.words::<1>(at).map(|[word]| word)
    }

    #[inline]
    fn words<const N: usize>(&self, at: u64) -> Result<&[AtomicU64; N], Error> {
        let place = self.place(at, 8 * N as u64)?;
        if at % 8 != 0 {
            return Err(nowhere(at, 8 * N as u64));
        }
        // SAFETY: `place` checked that so many bytes are mapped, for as long as the segment is borrowed; the base is aligned
        // to a page and the offset to a word. Any bytes and any concurrent change are fine for atomics.
        Ok(unsafe { &*place.cast::<[AtomicU64; N]>() })
    }

    #[inline]
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let place = self.place(at, bytes.len() as u64)?;
        // SAFETY: `place` checked that so many bytes are mapped.
        unsafe { copy::write_shared(place, bytes) };
        Ok(())
    }

    #[inline]
    fn read(&self, at: u64, len: u64, to: &mut Vec<u8>) -> Result<(), Error> {
        let (place, len) = (self.place(at, len)?, len as usize);
        to.reserve(len);
        // SAFETY: `place` checked that so many bytes are mapped; the vector has room for them, and all are written before
        // they count.
        unsafe {
            copy::read_shared(place, to.as_mut_ptr().add(to.len()), len);
            to.set_len(to.len() + len);
        }
        Ok(())
    }

    #[inline]
    fn equals(&self, at: u64, bytes: &[u8]) -> Result<bool, Error> {
        let place = self.place(at, bytes.len() as u64)?;
        // SAFETY: `place` checked that so many bytes are mapped.
        Ok(unsafe { copy::equals_shared(place, bytes) })
    }

    fn take_run(&self, lane: Lane, bytes: u64) -> Result<Piece, Error> {
        let run = self.segment.alloc(lane, usize::try_from(bytes).unwrap_or(usize::MAX), self.owner)?;
        Ok(piece(self.segment, run))
    }

    fn find_run(&self, name: u64) -> Option<Piece> {
        self.run(name).map(|run| piece(self.segment, run))
    }

    fn keep_run(&self, name: u64) {
        if let Some(run) = self.run(name) {
            self.segment.run_stays(run);
        }
    }

    fn give_run(&self, name: u64) {
        if let Some(run) = self.run(name) {
            self.segment.free(run);
        }
    }

    #[inline]
    fn hazards(&self, lane: Lane) -> &[AtomicU64; HAZARDS] {
        &self.segment.lane_block(lane).hazards
    }

    fn for_each_hazard(&self, f: &mut dyn FnMut(u64)) {
        let high = self.segment.header().lanes_high.load(Acquire).min(self.segment.geometry.lanes);
        for lane in 1..=high as Lane {
            for hazard in &self.segment.lane_block(lane).hazards {
                // Acquire: whoever named it here has read what it wanted to read.
                let at = hazard.load(Acquire);
                if at != 0 {
                    f(at);
                }
            }
        }
    }

    fn heavy_fence(&self) {
        if self.segment.asymmetric() {
            membarrier::heavy();
        }
    }
}

fn piece(segment: &Inner, run: Run) -> Piece {
    Piece {
        name: u64::from(run.generation) << 32 | u64::from(run.page + 1),
        at: segment.geometry.page_at(run.page) as u64,
        bytes: run.bytes() as u64,
    }
}

#[cold]
#[inline(never)]
fn nowhere(at: u64, bytes: u64) -> Error {
    Error::corrupt("store", "place", format!("{bytes} B at {at:#x}"), "memory in use")
}

impl Inner {
    /// The hazard words of a lane.
    #[inline]
    pub(crate) fn hazards_of(&self, lane: Lane) -> &[AtomicU64; HAZARDS] {
        &self.lane_block(lane).hazards
    }

    /// Where committed memory ends; noted, since the header's line changes often.
    fn look_at_memory_end(&self) -> u64 {
        let end = self.geometry.pages_at + u64::from(self.committed_pages()) * PAGE as u64;
        self.memory_end.store(end, Noted);
        end
    }
}
