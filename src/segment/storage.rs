//! The memory of a segment as stores see it: places are offsets in the segment, runs belong to an object.

use super::directory::ObjectId;
use super::layout::PAGE;
use super::object::Object;
use super::{Inner, Run};
use crate::error::Error;
use crate::store::{HAZARDS, Memory, Piece};
use crate::sync::{Lane, Peers};
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::Acquire;
use crate::sys::membarrier;

/// The memory of one object and of all runs that it takes.
#[derive(Clone, Copy)]
pub(crate) struct Storage<'a> {
    segment: &'a Inner,
    owner: u64,
}

impl<'a> Storage<'a> {
    /// Runs are taken for `object`, which its kind's functions have to name.
    #[inline]
    pub fn new(segment: &'a Inner, object: ObjectId) -> Self {
        Self { segment, owner: object.word() }
    }

    /// As [`new`](Self::new), for an open object.
    #[inline]
    pub fn of(object: &'a Object) -> Self {
        Self::new(object.segment(), object.id())
    }

    /// The run of a name, if it is one at all.
    fn run(&self, name: u64) -> Option<Run> {
        let page = (name as u32).checked_sub(1)?;
        self.segment.check_run(page, (name >> 32) as u32, self.owner)
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
        if at % 8 != 0 || !self.segment.has_memory(at, 8) {
            return Err(nowhere(at, 8));
        }
        Ok(self.segment.block(at as usize))
    }

    #[inline]
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        if !self.segment.has_memory(at, bytes.len() as u64) {
            return Err(nowhere(at, bytes.len() as u64));
        }
        self.segment.slice(at as usize, bytes.len()).write(0, bytes);
        Ok(())
    }

    #[inline]
    fn read(&self, at: u64, len: u64, to: &mut Vec<u8>) -> Result<(), Error> {
        if !self.segment.has_memory(at, len) {
            return Err(nowhere(at, len));
        }
        self.segment.slice(at as usize, len as usize).append_to(to);
        Ok(())
    }

    #[inline]
    fn equals(&self, at: u64, bytes: &[u8]) -> Result<bool, Error> {
        if !self.segment.has_memory(at, bytes.len() as u64) {
            return Err(nowhere(at, bytes.len() as u64));
        }
        Ok(self.segment.slice(at as usize, bytes.len()).equals(bytes))
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
    /// Whether there are `bytes` bytes at `at` in pages whose memory is committed.
    #[inline]
    fn has_memory(&self, at: u64, bytes: u64) -> bool {
        let inside = |end: u64| at >= self.geometry.pages_at && at <= end && bytes <= end - at;
        inside(self.memory_end.load(std::sync::atomic::Ordering::Relaxed)) || inside(self.look_at_memory_end())
    }

    /// Where committed memory ends; noted, since the header's line changes often.
    #[cold]
    fn look_at_memory_end(&self) -> u64 {
        let end = self.geometry.pages_at + u64::from(self.committed_pages()) * PAGE as u64;
        self.memory_end.store(end, std::sync::atomic::Ordering::Relaxed);
        end
    }
}
