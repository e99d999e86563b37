//! A place in a ring and the number of records before it, in one word.
//!
//! ```text
//! items:20 | position:44
//! ```
//! *position* counts granules for ever, modulo 2^44. *items* counts records, modulo 2^20; padding is no record. A ring
//! has at most 2^19 granules, so the difference of two cursors of one ring is exact in both counts. All arithmetic
//! wraps, and every `u64` is some cursor.
//!
//! The cursor behind which nothing is left counts other records: `lost:10 | aborted:10 | position:44`.

const POSITION_BITS: u32 = 44;
const POSITION: u64 = (1 << POSITION_BITS) - 1;
const ITEMS: u32 = (1 << (64 - POSITION_BITS)) - 1;
const TOMB_BITS: u32 = 10;
const TOMBS: u32 = (1 << TOMB_BITS) - 1;

/// A place in a ring: a position in granules and the number of records that lie before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(u64);

impl Cursor {
    /// The cursor at `position` (modulo 2^44) with `items` records before it (modulo 2^20).
    pub const fn new(position: u64, items: u32) -> Self {
        Self((items as u64) << POSITION_BITS | position & POSITION)
    }

    /// The cursor that a shared word holds.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word that holds this cursor.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Granules before this place, modulo 2^44.
    #[inline(always)]
    pub const fn position(self) -> u64 {
        self.0 & POSITION
    }

    /// Records before this place, modulo 2^20.
    #[inline(always)]
    pub const fn items(self) -> u32 {
        (self.0 >> POSITION_BITS) as u32
    }

    /// The cursor `n` granules further on, over one record (or over none, if `item` is false).
    #[inline(always)]
    pub const fn advance(self, n: u32, item: bool) -> Self {
        let items = self.0.wrapping_add((item as u64) << POSITION_BITS) & !POSITION;
        Self(items | self.0.wrapping_add(n as u64) & POSITION)
    }

    /// The cursor behind `records` records of `n` granules each.
    #[inline(always)]
    pub(super) const fn advance_all(self, n: u32, records: u32) -> Self {
        let items = self.0.wrapping_add((records as u64) << POSITION_BITS) & !POSITION;
        Self(items | self.0.wrapping_add(n as u64 * records as u64) & POSITION)
    }

    /// The cursor `n` granules further on, over a record whose producer died, or gave it up; of a cursor that counts
    /// these.
    pub(super) const fn bury(self, n: u32, died: bool) -> Self {
        let (aborted, lost) = (self.items() & TOMBS, self.items() >> TOMB_BITS);
        let items =
            if died { lost.wrapping_add(1) << TOMB_BITS | aborted } else { lost << TOMB_BITS | (aborted + 1) & TOMBS };
        Self::new(self.0.wrapping_add(n as u64), items)
    }

    /// Granules from `earlier` to here, modulo 2^44: huge when `earlier` is in truth the later one.
    #[inline(always)]
    pub const fn granules_since(self, earlier: Cursor) -> u64 {
        self.0.wrapping_sub(earlier.0) & POSITION
    }

    /// Records from `earlier` to here, modulo 2^20.
    #[inline(always)]
    pub const fn items_since(self, earlier: Cursor) -> u32 {
        self.items().wrapping_sub(earlier.items()) & ITEMS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_keeps_both_counts_apart_when_they_wrap() {
        let last = Cursor::new(POSITION, ITEMS);
        assert_eq!((last.position(), last.items()), (POSITION, ITEMS));
        assert_eq!(last.advance(1, true), Cursor::new(0, 0));
        assert_eq!(last.advance(3, false), Cursor::new(2, ITEMS));
        assert_eq!(Cursor::new(POSITION, 7).advance(1, false), Cursor::new(0, 7));
        assert_eq!(Cursor::new(9, ITEMS).advance(4, true), Cursor::new(13, 0));
    }

    #[test]
    fn the_aborted_and_the_lost_are_counted_apart_when_they_wrap() {
        let last = Cursor::new(POSITION, ITEMS);
        assert_eq!(last.bury(2, false), Cursor::new(1, TOMBS << TOMB_BITS));
        assert_eq!(last.bury(2, true), Cursor::new(1, TOMBS));
        assert_eq!(Cursor::new(5, 0).bury(1, true).bury(1, false), Cursor::new(7, 1 << TOMB_BITS | 1));
    }

    #[test]
    fn differences_hold_across_the_wrap() {
        let (early, late) = (Cursor::new(POSITION - 1, ITEMS), Cursor::new(5, 3));
        assert_eq!(late.granules_since(early), 7);
        assert_eq!(late.items_since(early), 4);
        assert!(early.granules_since(late) > 1 << 40);
        assert_eq!(early.granules_since(early), 0);
    }
}
