//! What a ring has done since it was made, in exact numbers.

use super::cursor::Cursor;
use super::recover::Walk;
use super::sides::{Form, Side};
use super::stamped::Corrupt;
use super::turns::{Field, snapshot};
use super::view::Ring;
use super::word::TOMB;
use crate::sys::atomic::{Ordering::Acquire, broken};

/// The records before `tail` and `rcur`.
pub(super) const ITEMS: Field = Field::new(44, 20);
/// The aborted records before `head`.
pub(super) const ABORTED: Field = Field::new(44, 10);
/// The records before `head` whose producers died.
pub(super) const LOST: Field = Field::new(54, 10);

/// Records of a ring since it was made.
///
/// Every number only grows. They are read one after the other, `aborted` and `lost` first and `claimed` last, so what is
/// subtracted from `claimed` is never too much; if nobody else is at work, all are of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Claimed: committed, aborted, lost, or being written.
    pub claimed: u64,
    /// Left behind by consumers: taken, or found aborted or lost and stepped over. Claimed and not taken are the records
    /// that [`Ring::len`] counts.
    pub taken: u64,
    /// Claimed and given up by their producers. With many producers no death makes this and `lost` inexact; with one,
    /// a death in the wrong place may count a record in both, and in `claimed` twice.
    pub aborted: u64,
    /// Claimed by producers that died before the commit, as far as their deaths were found.
    pub lost: u64,
    /// Offered again because their takers died. If a recoverer dies in turn, the records that it was closing may be
    /// missing here.
    pub redelivered: u64,
}

impl Counts {
    /// Records that are committed or still being written: claimed, and neither aborted nor lost. No death makes this
    /// inexact. With one producer, a record counts from its commit on.
    pub fn committed(&self) -> u64 {
        self.claimed.wrapping_sub(self.aborted).wrapping_sub(self.lost)
    }
}

impl<P: Side, C: Side, F: Form> Ring<'_, P, C, F> {
    /// The records of this ring since it was made. Walks over those that are claimed and not reclaimed.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn counts(&self) -> Result<Counts, Corrupt> {
        let control = self.control();
        let redelivered = control.redo.redelivered.load(Acquire);
        let (aborted, lost) = self.tombs()?;
        let (rcur, [epoch]) = snapshot(&control.rcur.cursor, [&control.rcur.epoch]);
        let taken = ITEMS.exact(rcur, epoch);
        let (tail, [epoch]) = snapshot(&control.tail.cursor, [&control.tail.epoch]);
        let mut claimed = ITEMS.exact(tail, epoch);
        if !P::MANY {
            // Behind `tail` is what is committed, so what it does not say is added, and what never is.
            let tail = Cursor::from_bits(tail);
            let unsaid = self.committed_from(tail).items_since(tail);
            claimed = claimed.wrapping_add(unsaid.into()).wrapping_add(aborted).wrapping_add(lost);
        }
        Ok(Counts { claimed, taken, aborted, lost, redelivered })
    }

    /// The aborted and the lost records: those before `head` are in its word, the others are in the ring.
    fn tombs(&self) -> Result<(u64, u64), Corrupt> {
        if !P::MANY {
            let line = &self.control().tail;
            return Ok((line.aborted.load(Acquire), line.lost.load(Acquire)));
        }
        let line = &self.control().head;
        for _ in 0..self.rounds() {
            let (head, [a, l]) = snapshot(&line.cursor, [&line.aborted_epoch, &line.lost_epoch]);
            let (mut aborted, mut lost) = (ABORTED.exact(head, a), LOST.exact(head, l));
            let head = Cursor::from_bits(head);
            let mut walk = Walk::from(*self, head);
            while let Some(record) = walk.look()? {
                if walk.start() != head && !broken("counts-begin-again") {
                    break;
                }
                if record.ready.says(record.lap, TOMB) {
                    let died = record.ready.lane() != 0;
                    aborted += u64::from(!died);
                    lost += u64::from(died);
                }
                walk.step(&record);
            }
            // Else `head` has passed the walk, and knows what it has passed.
            if walk.start() == head || broken("counts-begin-again") {
                return Ok((aborted, lost));
            }
        }
        Err(Corrupt { field: "head", found: self.head().bits() })
    }
}
