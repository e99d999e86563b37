//! A ring as one process sees it: its words, checked once, and what the process remembers of them.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64 as PrivateU64;

use super::block::RingBlock;
use super::counts::{ABORTED, ITEMS, LOST};
use super::cursor::Cursor;
use super::sides::{Form, Many, Records, Side};
use super::stamped::Corrupt;
use super::word::{LAPS, Word};
use crate::sys::atomic::{AtomicU64, Ordering};
use Ordering::{AcqRel, Acquire, Relaxed, Release};

/// What one process remembers of a ring to spare itself looking; shared by its threads, never by processes.
///
/// Made by [`Ring::cache`]; use it with that ring only.
#[derive(Debug)]
pub struct RingCache {
    pub(super) head: PrivateU64,
    pub(super) rcur: PrivateU64,
    pub(super) redo: PrivateU64,
    /// Where the one consumer takes next; of its position only.
    pub(super) next: PrivateU64,
}

impl RingCache {
    pub(super) fn redo_seen(&self) -> u64 {
        self.redo.load(Acquire)
    }

    pub(super) fn remember(&self, head: Cursor, rcur: Cursor) {
        // Release: a thread that gets its room from here must also get the end of the reading that made it.
        self.head.store(head.bits(), Release);
        self.rcur.store(rcur.bits(), Release);
    }
}

/// A view of a ring in shared memory, for many or one (`P`) producers, many or one (`C`) consumers, and records of the
/// form `F`.
#[derive(Clone, Copy)]
pub struct Ring<'a, P: Side = Many, C: Side = Many, F: Form = Records> {
    control: &'a RingBlock,
    /// `mask + 1` words, a power of two, or none for one producer.
    claim: &'a [AtomicU64],
    /// `mask + 1` words, or slots of `1 << stride` words.
    ready: &'a [AtomicU64],
    /// `mask + 1` words, or none for one consumer.
    take: &'a [AtomicU64],
    mask: u64,
    shift: u32,
    stride: u32,
    made_for: PhantomData<(P, C, F)>,
}

impl<'a> Ring<'a> {
    /// The smallest ring, in granules.
    pub const MIN_CAPACITY: usize = 64;
    /// The largest ring, in granules.
    pub const MAX_CAPACITY: usize = 1 << 19;

    /// Views a ring: its cursors, and the words of its granules.
    ///
    /// # Errors
    /// If the three arrays differ in length, or the length is no power of two between [`MIN_CAPACITY`] and
    /// [`MAX_CAPACITY`].
    ///
    /// [`MIN_CAPACITY`]: Self::MIN_CAPACITY
    /// [`MAX_CAPACITY`]: Self::MAX_CAPACITY
    pub fn new(
        control: &'a RingBlock,
        claim: &'a [AtomicU64],
        ready: &'a [AtomicU64],
        take: &'a [AtomicU64],
    ) -> Result<Self, Corrupt> {
        Self::made_for(control, claim.len(), claim, ready, take)
    }
}

impl<'a, P: Side, C: Side, F: Form> Ring<'a, P, C, F> {
    /// Views a ring of `capacity` granules for these sides and this form.
    ///
    /// `claim` and `take` have a word for each granule, or none if that side has one lane. `ready` has a word for each
    /// granule; with slots it has all words of all slots, a power of two for each.
    ///
    /// # Errors
    /// As [`Ring::new`], if the lengths are others.
    pub fn made_for(
        control: &'a RingBlock,
        capacity: usize,
        claim: &'a [AtomicU64],
        ready: &'a [AtomicU64],
        take: &'a [AtomicU64],
    ) -> Result<Self, Corrupt> {
        if capacity < Ring::<'a>::MIN_CAPACITY {
            return Err(Corrupt { field: "capacity", found: capacity as u64 });
        }
        Self::of_any_size(control, capacity, claim, ready, take)
    }

    /// As `made_for`, without the lower bound: models have rings of two granules.
    pub(crate) fn of_any_size(
        control: &'a RingBlock,
        capacity: usize,
        claim: &'a [AtomicU64],
        ready: &'a [AtomicU64],
        take: &'a [AtomicU64],
    ) -> Result<Self, Corrupt> {
        let wrong = |found: usize| Corrupt { field: "capacity", found: found as u64 };
        if !capacity.is_power_of_two() || capacity > Ring::<'a>::MAX_CAPACITY {
            return Err(wrong(capacity));
        }
        let words_of = |many: bool| if many { capacity } else { 0 };
        if claim.len() != words_of(P::MANY) || take.len() != words_of(C::MANY) {
            return Err(wrong(claim.len().max(take.len())));
        }
        let words = ready.len() / capacity;
        if words * capacity != ready.len() || !words.is_power_of_two() || !F::SLOTS && words != 1 {
            return Err(wrong(ready.len()));
        }
        let (mask, shift, stride) = (capacity as u64 - 1, capacity.trailing_zeros(), words.trailing_zeros());
        Ok(Self { control, claim, ready, take, mask, shift, stride, made_for: PhantomData })
    }

    /// A fresh memory of this ring, for one process.
    pub fn cache(&self) -> RingCache {
        // One less than the counter holds: the first take looks for records given back before this process came.
        RingCache {
            head: PrivateU64::new(self.head().bits()),
            rcur: PrivateU64::new(self.rcur().bits()),
            redo: PrivateU64::new(self.redo().wrapping_sub(1)),
            next: PrivateU64::new(self.head().bits()),
        }
    }

    pub(super) fn control(&self) -> &'a RingBlock {
        self.control
    }

    /// Granules in the ring.
    #[inline(always)]
    pub fn capacity(&self) -> usize {
        self.mask as usize + 1
    }

    /// The index of `position`: where its granule lies in the data area.
    #[inline(always)]
    pub fn index(&self, position: u64) -> usize {
        (position & self.mask) as usize
    }

    /// Rounds after which a loop that should have ended says [`Corrupt`].
    pub(super) fn rounds(&self) -> usize {
        self.capacity() + 65536
    }

    /// The index and the lap of a position.
    #[inline(always)]
    pub(super) fn place(&self, position: u64) -> (usize, u64) {
        (self.index(position), (position >> self.shift).wrapping_add(1) & LAPS)
    }

    /// Only with many producers.
    #[inline(always)]
    pub(super) fn claim_word(&self, index: usize) -> &'a AtomicU64 {
        assert!(P::MANY);
        debug_assert!(index < self.claim.len());
        // SAFETY: `index & mask <= mask`, and with many producers the array has `mask + 1` words (checked when the view
        // was made, of private memory).
        unsafe { self.claim.get_unchecked(index & self.mask as usize) }
    }

    #[inline(always)]
    pub(super) fn ready_word(&self, index: usize) -> &'a AtomicU64 {
        let at = (index & self.mask as usize) << if F::SLOTS { self.stride } else { 0 };
        debug_assert!(at < self.ready.len());
        // SAFETY: as in `claim_word`; the array has `mask + 1` words, or so many slots of `1 << stride`.
        unsafe { self.ready.get_unchecked(at) }
    }

    /// Only with many consumers.
    #[inline(always)]
    pub(super) fn take_word(&self, index: usize) -> &'a AtomicU64 {
        assert!(C::MANY);
        debug_assert!(index < self.take.len());
        // SAFETY: as in `claim_word`.
        unsafe { self.take.get_unchecked(index & self.mask as usize) }
    }

    #[inline(always)]
    pub(super) fn load(&self, word: &AtomicU64) -> Word {
        Word(word.load(Acquire))
    }

    #[inline(always)]
    pub(super) fn tail(&self) -> Cursor {
        Cursor::from_bits(self.control.tail.cursor.load(Acquire))
    }

    #[inline(always)]
    pub(super) fn rcur(&self) -> Cursor {
        Cursor::from_bits(self.control.rcur.cursor.load(Acquire))
    }

    #[inline(always)]
    pub(super) fn head(&self) -> Cursor {
        Cursor::from_bits(self.control.head.cursor.load(Acquire))
    }

    #[inline(always)]
    pub(super) fn redo(&self) -> u64 {
        self.control.redo.count.load(Acquire)
    }

    /// Says that a recovery has made REDO words: Release, after them.
    pub(super) fn announce_redo(&self) {
        self.control.redo.count.fetch_add(1, AcqRel);
    }

    /// Moves `tail` on, unless somebody has.
    #[inline(always)]
    pub(super) fn move_tail(&self, from: Cursor, to: Cursor) {
        let tail = &self.control.tail;
        if tail.cursor.compare_exchange(from.bits(), to.bits(), AcqRel, Relaxed).is_ok() {
            ITEMS.moved(to.bits(), &tail.cursor, &tail.epoch);
        }
    }

    /// Moves `rcur` on, unless somebody has.
    #[inline(always)]
    pub(super) fn move_rcur(&self, from: Cursor, to: Cursor) -> bool {
        let rcur = &self.control.rcur;
        let moved = rcur.cursor.compare_exchange(from.bits(), to.bits(), AcqRel, Relaxed).is_ok();
        if moved {
            ITEMS.moved(to.bits(), &rcur.cursor, &rcur.epoch);
        }
        moved
    }

    /// Says the half turns of the cursors that the dead have moved: see `turns.rs`, rule 2.
    #[cold]
    pub(super) fn heal_epochs(&self) {
        let RingBlock { tail, rcur, head, .. } = self.control;
        ITEMS.heal(&tail.cursor, &tail.epoch);
        ITEMS.heal(&rcur.cursor, &rcur.epoch);
        ABORTED.heal(&head.cursor, &head.aborted_epoch);
        LOST.heal(&head.cursor, &head.lost_epoch);
    }

    /// The extent of the record that starts at `index`, checked.
    #[inline(always)]
    pub(super) fn extent(&self, index: usize, word: Word, field: &'static str) -> Result<u32, Corrupt> {
        if F::SLOTS {
            return Ok(1);
        }
        let n = word.n();
        // `n - 1` of 0 is huge.
        if (n.wrapping_sub(1) as usize) < self.capacity() - index {
            Ok(n)
        } else {
            Err(Corrupt { field, found: word.0 })
        }
    }
}
