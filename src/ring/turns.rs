//! Counts of 64 bits from counts of few: how often a count has gone half round stands beside the word that holds it.
//!
//! A cursor has room for a small count only, modulo 2^bits. Beside it, in the same cache line, an *epoch* counts the
//! half turns of that count, so the parity of the epoch is the count's highest bit. Whoever has moved the cursor looks at
//! the epoch, which costs one load from a line that it owns; where the two differ, somebody (who may be dead) has moved
//! the cursor into another half and not said so, and the epoch is moved by CAS.
//!
//! # Rules
//! 1. The epoch is right or one behind. It is moved only from a value that was loaded *before* the cursor that shows it
//!    to be behind, so never twice for one half turn.
//! 2. Between two half turns somebody has looked. The count moves by 1, a lane is between a move and its look with one
//!    move at most, there are fewer lanes than moves in a half turn, and the lane of a dead process is used again only
//!    after recovery, which looks too. Where the count moves by more, the look comes *before* the move
//!    ([`Field::heal`]), and a move is less than half a turn.
//!
//! # Memory ordering
//! The epoch is moved with Release after a cursor was seen and loaded with Acquire before one is, so a reader's cursor
//! is never older than its epoch.

use crate::sys::atomic::{AtomicU64, Ordering, broken};
use Ordering::{AcqRel, Acquire, Relaxed};

/// Looks before an answer that keeps changing is taken as it is: each change is a half turn.
const LOOKS: usize = 64;

/// Where in a word a count stands.
#[derive(Clone, Copy)]
pub(super) struct Field {
    shift: u32,
    bits: u32,
}

impl Field {
    pub(super) const fn new(shift: u32, bits: u32) -> Self {
        Self { shift, bits }
    }

    /// The highest bit of the count in `word`.
    #[inline(always)]
    const fn half(self, word: u64) -> u64 {
        word >> (self.shift + self.bits - 1) & 1
    }

    /// The epoch of a count that starts in `word`.
    pub(super) const fn first_epoch(self, word: u64) -> u64 {
        self.half(word)
    }

    /// To be called after the cursor was moved to `to`.
    #[inline(always)]
    pub(super) fn moved(self, to: u64, cursor: &AtomicU64, epoch: &AtomicU64) {
        if epoch.load(Relaxed) & 1 != self.half(to) && !broken("turns-look-after-a-move") {
            self.heal(cursor, epoch);
        }
    }

    /// Says the half turn that the cursor has made, if nobody has.
    #[cold]
    pub(super) fn heal(self, cursor: &AtomicU64, epoch: &AtomicU64) {
        let early = cursor.load(Acquire);
        // Rule 1: first the epoch.
        let old = epoch.load(Acquire);
        let word = if broken("turns-epoch-before-cursor") { early } else { cursor.load(Acquire) };
        if old & 1 != self.half(word) {
            // Who fails finds it said.
            let _ = epoch.compare_exchange(old, old.wrapping_add(1), AcqRel, Relaxed);
        }
    }

    /// The whole count in `word`, which was loaded while the epoch was `epoch`.
    pub(super) const fn exact(self, word: u64, epoch: u64) -> u64 {
        let half = 1 << (self.bits - 1);
        let turns = if epoch & 1 == self.half(word) { epoch } else { epoch.wrapping_add(1) };
        turns.wrapping_mul(half).wrapping_add(word >> self.shift & (half - 1))
    }
}

/// A cursor and the epochs beside it, all of the same moment.
pub(super) fn snapshot<const N: usize>(cursor: &AtomicU64, epochs: [&AtomicU64; N]) -> (u64, [u64; N]) {
    let load = || epochs.map(|epoch| epoch.load(Acquire));
    let mut before = load();
    for _ in 0..LOOKS {
        let word = cursor.load(Acquire);
        let after = load();
        if after == before || broken("turns-look-twice") {
            return (word, before);
        }
        before = after;
    }
    (cursor.load(Acquire), before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_whole_on_both_sides_of_a_half_turn() {
        const FIELD: Field = Field::new(4, 3);
        let mut epoch = 0;
        for count in 0..50u64 {
            let word = (count & 7) << 4 | 9;
            // Before the epoch follows, and after.
            assert_eq!(FIELD.exact(word, epoch), count);
            epoch = count / 4;
            assert_eq!(FIELD.exact(word, epoch), count);
            assert_eq!(FIELD.first_epoch(word), epoch & 1);
        }
    }
}
