//! Something that is done once, by one of all processes.
//!
//! # The word
//! `spare:19 | lane:10 | state:3`. NEW, DONE, DIED and PANICKED have lane 0; RUNNING names who runs it.
//!
//! | killed | left behind | outcome |
//! |---|---|---|
//! | before the CAS of `begin` | nothing | - |
//! | while it runs | RUNNING(lane) | recovery stores DIED; the next caller is told, and runs it |
//! | after DONE, before the wake | sleepers | their sleeps are bounded; recovery wakes them |
//!
//! # Memory ordering
//! The store of `finish` (Release) and recovery's CAS (AcqRel) match the load and the CAS of `begin` (Acquire): with DONE
//! comes what the runner wrote, with DIED what it wrote before it died.

use super::owner::{IsDead, LANE_MASK, Lane, Peers};
use super::wait::WaitBlock;
use crate::sys::atomic::{AtomicU32, Ordering, broken};

const NEW: u32 = 0;
const DONE: u32 = 1;
const DIED: u32 = 2;
const PANICKED: u32 = 3;
const RUNNING: u32 = 4;
const STATE: u32 = 7;
const LANE_SHIFT: u32 = 3;

/// What became of the run before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    /// There was none.
    None,
    /// Its process died in it: what it did is half done.
    Died,
    /// It panicked.
    Panicked,
}

/// What a caller finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Begin {
    /// It has been done.
    Done,
    /// The caller runs it now, and says [`finish`](OnceBlock::finish).
    Run(Previous),
    /// This lane runs it.
    Running(Lane),
}

/// A once in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct OnceBlock {
    word: AtomicU32,
}

impl OnceBlock {
    /// Nothing has been done.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(NEW) }
    }

    /// Whether it has been done.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.word.load(Ordering::Acquire) & STATE == DONE
    }

    /// The lane that runs it now.
    pub fn runner(&self) -> Option<Lane> {
        let word = self.word.load(Ordering::Relaxed);
        (word & STATE == RUNNING).then_some((word >> LANE_SHIFT & LANE_MASK) as Lane)
    }

    /// Claims the run, unless it was done or is running.
    pub fn begin(&self, me: Lane) -> Begin {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let previous = match word & STATE {
                DONE => return Begin::Done,
                RUNNING => return Begin::Running((word >> LANE_SHIFT & LANE_MASK) as Lane),
                DIED => Previous::Died,
                PANICKED => Previous::Panicked,
                _ => Previous::None,
            };
            let mine = RUNNING | u32::from(me) << LANE_SHIFT;
            match self.word.compare_exchange(word, mine, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Begin::Run(previous),
                Err(seen) => word = seen,
            }
        }
    }

    /// Ends the caller's run, and wakes all who wait on `wait`.
    pub fn finish(&self, done: bool, wait: &WaitBlock, peers: &impl Peers) {
        let order = if broken("once: finish without release") { Ordering::Relaxed } else { Ordering::Release };
        self.word.store(if done { DONE } else { PANICKED }, order);
        if !broken("once: finish without waking") {
            wait.notify_sleepers(peers);
        }
    }

    /// Gives up the run of a dead lane. True if there was one.
    pub fn recover(&self, dead: IsDead<'_>) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        while word & STATE == RUNNING && dead((word >> LANE_SHIFT & LANE_MASK) as Lane) {
            let free = if broken("once: recover as if nobody had begun") { NEW } else { DIED };
            match self.word.compare_exchange(word, free, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
        false
    }
}
