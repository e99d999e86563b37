//! The lane of a whole process: for claims that outlive the thread which made them, or wander from thread to thread.
//!
//! It is a lane like any other, taken at first use. It goes with the attachment or, after a death, with the row.

use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

use super::Inner;
use crate::error::Error;
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Release;

const LANE_BITS: u32 = 16;

/// `epoch:48 | lane:16`, private to the process: the lane counts in the attachment of that epoch only, so not in a forked
/// child.
#[derive(Default)]
pub(super) struct ProcessLane(AtomicU64);

impl Inner {
    /// The lane that all threads of this process share, taken at the first call.
    #[inline]
    pub(crate) fn process_lane(&self) -> Result<Lane, Error> {
        let known = self.process_lane.0.load(Acquire);
        if known != 0 && known >> LANE_BITS == self.epoch() { Ok(known as Lane) } else { self.find_process_lane() }
    }

    #[cold]
    fn find_process_lane(&self) -> Result<Lane, Error> {
        // A forked child becomes a process of its own in here.
        self.lane()?;
        loop {
            let (known, epoch) = (self.process_lane.0.load(Acquire), self.epoch());
            if known != 0 && known >> LANE_BITS == epoch {
                return Ok(known as Lane);
            }
            let lane = self.claim_lane()?;
            let mine = epoch << LANE_BITS | u64::from(lane);
            if self.process_lane.0.compare_exchange(known, mine, AcqRel, Acquire).is_ok() {
                return Ok(lane);
            }
            self.lane_block(lane).owner.store(0, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::segment::Segment;

    #[test]
    fn threads_of_a_process_share_one_lane_that_is_none_of_theirs() {
        let segment = Segment::anonymous(4 << 20).unwrap();
        let inner = segment.inner();
        let shared =
            || std::thread::scope(|s| s.spawn(|| (inner.process_lane().unwrap(), inner.lane().unwrap())).join());
        let lanes: Vec<_> = (0..4).map(|_| shared().unwrap()).collect();
        assert!(lanes.iter().all(|(process, thread)| *process == lanes[0].0 && process != thread));
        assert_eq!(inner.process_lane().unwrap(), lanes[0].0);
        inner.lane().unwrap();
        assert_eq!(segment.stats().lanes, 2, "the threads that ended gave theirs back");
    }
}
