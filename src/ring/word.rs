//! The words of the three arrays: who did what to the record that starts at this index, and in which lap.
//!
//! ```text
//! lap:31 | state:3 | lane:10 | n:20
//! ```
//! The first lap is 1, and a word whose state is 0 belongs to no lap, so a zeroed array is a valid empty one.

const LANE: u64 = (1 << 10) - 1;
const EXTENT: u64 = (1 << 20) - 1;
const STATE_SHIFT: u32 = 30;
const LAP_SHIFT: u32 = 33;
/// Laps are counted modulo this plus one.
pub(super) const LAPS: u64 = (1 << 31) - 1;

/// A producer is filling the record (`claim`).
pub(super) const WRITING: u64 = 1;
/// The record is committed (`ready`).
pub(super) const READY: u64 = 2;
/// A consumer is using the record (`take`).
pub(super) const READING: u64 = 3;
/// The record is acknowledged (`take`).
pub(super) const DONE: u64 = 4;
/// The record was given up, or its producer died (`ready`).
pub(super) const TOMB: u64 = 5;
/// No record: the rest of the lap, too short for what was asked (`claim` and `ready`).
pub(super) const PAD: u64 = 6;
/// The record's consumer died; it is to be taken again (`take`).
pub(super) const REDO: u64 = 7;

/// One loaded word. Every `u64` decodes to something; who uses it checks it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    #[inline(always)]
    pub(super) const fn new(lap: u64, state: u64, lane: u16, n: u32) -> Self {
        Self(lap << LAP_SHIFT | state << STATE_SHIFT | (lane as u64 & LANE) << 20 | n as u64 & EXTENT)
    }

    #[inline(always)]
    pub(super) const fn state(self) -> u64 {
        self.0 >> STATE_SHIFT & 7
    }

    #[inline(always)]
    pub(super) const fn lane(self) -> u16 {
        (self.0 >> 20 & LANE) as u16
    }

    /// Granules of the record.
    #[inline(always)]
    pub(super) const fn n(self) -> u32 {
        (self.0 & EXTENT) as u32
    }

    /// What `claim` would say of the record that `ready` says this of.
    pub(super) const fn as_claim(self) -> Self {
        let state = if self.state() == PAD { PAD } else { WRITING };
        Self(self.0 & !(7 << STATE_SHIFT) | state << STATE_SHIFT)
    }

    /// Whether the word was written in `lap`.
    #[inline(always)]
    pub(super) const fn is_of(self, lap: u64) -> bool {
        self.0 >> LAP_SHIFT == lap && self.state() != 0
    }

    /// Whether the word says `state` in `lap`.
    #[inline(always)]
    pub(super) const fn says(self, lap: u64, state: u64) -> bool {
        self.0 >> STATE_SHIFT == lap << 3 | state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_its_parts() {
        let word = Word::new(LAPS, REDO, 1023, 1 << 19);
        assert_eq!((word.state(), word.lane(), word.n()), (REDO, 1023, 1 << 19));
        assert!(word.is_of(LAPS) && word.says(LAPS, REDO) && !word.says(LAPS, DONE) && !word.is_of(1));
    }

    #[test]
    fn a_zero_word_is_of_no_lap() {
        assert!(!Word(0).is_of(0) && !Word(0).is_of(1));
    }
}
