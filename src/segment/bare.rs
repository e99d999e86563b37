//! The arena without objects, for tests and fuzz targets that drive it by itself.

use crate::sys::atomic::Ordering::Release;

use super::arena::Run;
use super::{Segment, ShmSlice};
use crate::error::Error;
use crate::sync::Lane;

/// The page arena of a segment, seen by one of its processes. Not meant for programs: what is made here belongs to no
/// object, so nothing gives it back but a call.
pub struct Arena(Segment);

impl Arena {
    /// The arena of `segment`.
    pub fn of(segment: &Segment) -> Self {
        Self(segment.clone())
    }

    /// The segment.
    pub fn segment(&self) -> &Segment {
        &self.0
    }

    /// The lane of the calling thread.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyThreads`](crate::ErrorKind::TooManyThreads).
    pub fn lane(&self) -> Result<Lane, Error> {
        self.0.inner().lane()
    }

    /// One more lane of this process, as another thread would have.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyThreads`](crate::ErrorKind::TooManyThreads).
    pub fn another_lane(&self) -> Result<Lane, Error> {
        self.0.inner().claim_lane()
    }

    /// A run for `bytes` bytes, being filled by `lane`, of the object `owner`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfSpace`](crate::ErrorKind::OutOfSpace), and [`Corrupt`](crate::ErrorKind::Corrupt) if the page map
    /// is damaged.
    pub fn alloc(&self, lane: Lane, bytes: usize, owner: u64) -> Result<Run, Error> {
        self.0.inner().alloc(lane, bytes, owner)
    }

    /// The object names the run now.
    pub fn live(&self, run: Run, lane: Lane) {
        self.within(run).for_each(|run| self.0.inner().run_live(run, lane));
    }

    /// `lane` is about to take it out.
    pub fn retire(&self, run: Run, lane: Lane) {
        self.within(run).for_each(|run| self.0.inner().retire(run, lane));
    }

    /// Gives a run back, unless it was given back already.
    pub fn free(&self, run: Run) {
        self.within(run).for_each(|run| self.0.inner().free(run));
    }

    /// The run, if its first page is one of the segment's, as all are that the library names.
    fn within(&self, run: Run) -> impl Iterator<Item = Run> {
        (run.page < self.0.inner().geometry.pages).then_some(run).into_iter()
    }

    /// [`Segment::trim`].
    ///
    /// # Errors
    /// As there.
    pub fn trim(&self) -> Result<usize, Error> {
        self.0.trim()
    }

    /// The run that begins there, if it has this generation and is `owner`'s.
    pub fn check(&self, run: Run, owner: u64) -> Option<Run> {
        self.0.inner().check_run(run.page, run.generation, owner)
    }

    /// All runs: the lane that moves each, if one does, and its object.
    pub fn runs(&self) -> Vec<(Run, Option<Lane>, u64)> {
        let mut runs = Vec::new();
        self.0.inner().for_each_run(&mut |run, lane, owner| runs.push((run, lane, owner)));
        runs
    }

    /// The memory of a run.
    ///
    /// # Panics
    /// If it does not lie in the segment.
    pub fn slice(&self, run: Run) -> ShmSlice<'_> {
        self.0.inner().run_slice(run)
    }

    /// Ends this attachment as SIGKILL would: what it has stays as it is, and its lock is gone. Other handles of the same
    /// attachment are of no use any more.
    pub fn die(self) {
        let inner = self.0.inner();
        drop(inner.pinned.lock().unwrap_or_else(|e| e.into_inner()).take());
        // As in a forked child, which leaves everything alone.
        inner.fork_word.word().store(0, Release);
    }
}
