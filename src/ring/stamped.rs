//! The split-word stamped ring: many producers, many consumers, records of one or more granules, any of them killed at
//! any instruction.
//!
//! # Words
//! `claim[]` belongs to the producers, `take[]` to the consumers, and `ready[]` carries a record from one to the other:
//! ```text
//! claim[i]  WRITING(lap,lane,n) | PAD(lap,n)                      by CAS from an older lap
//! ready[i]  READY(lap,lane,n) | TOMB(lap,lane,n) | PAD(lap,n)     by the owner; by recovery; PAD by anybody
//! take[i]   READING(lap,lane,n) | DONE(lap,n) | REDO(lap,n)       by CAS; by the owner; by recovery
//! tail, rcur, head    cursors, moved forward only, by CAS, by anybody
//! redo                counts recoveries
//! ```
//! Position `p` has index `p % capacity` and lap `p / capacity + 1`. A claim is one CAS that says both *taken* and *by
//! whom*; the cursors only follow it. So a death leaves either nothing or a stamp, and never a cursor that nobody moves.
//!
//! # Rules
//! 1. `head <= rcur <= tail`. Whoever moves a cursor over a record has first seen the one before it moved that far.
//! 2. A claim of position `p` succeeds only while `tail == p`: the word it replaces was loaded while `tail == p`, and
//!    `tail` leaves `p` only after that word is gone. Of `take[]` the same holds with `ready[i]` saying READY in the
//!    lap: the word it replaces was loaded *before* `ready[i]`, so it cannot be of a later lap.
//! 3. From its claim to its commit a record belongs to the claiming lane, from take to done to the taking one. Nobody
//!    else writes its words or its granules, except recovery, after proof that the lane is dead.
//! 4. `head` passes a record only if it is PAD, TOMB or DONE; granules are claimed only up to `head + capacity`.
//! 5. A shared word is loaded once, checked, used. An index is a masked position, an extent lies in `1..=capacity-index`;
//!    any other word is [`Corrupt`], and so is a loop that does not end in [`Ring::rounds`].
//!
//! # Memory ordering
//! Each word is written with Release and read with Acquire, so whoever sees a word of a lap sees everything that was
//! done before it: READY brings the payload to the consumer; DONE, then `head`, bring the end of its reading to the
//! producer that reuses the granules (through [`RingCache`] too, hence Release and Acquire there). Failed CASes are
//! Relaxed: their value is not used. Two places need store-load order, made by fences:
//! * `done` stores DONE, then asks whether the records before it are finished, while their consumers do the same. With
//!   `fence(SeqCst)` between the two, the later fence of any two consumers sees both, and moves `head`.
//! * Moving `rcur` over TOMB or PAD, then reclaiming, against a reclaimer that was stopped by `rcur`: `rmw_fence`.
//!
//! # What a lap is worth
//! A CAS is fooled only by a process that sleeps through exactly `k * 2^31` laps (2^44 granules for the larger rings).
//!
//! Source: the idea of a state and a lap in each slot is D. Vyukov's bounded MPMC queue
//! (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>).

use super::counts::{ABORTED, LOST};
use super::cursor::Cursor;
use super::sides::{Form, Side};
use super::view::{Ring, RingCache};
use super::word::{DONE, PAD, READING, READY, REDO, TOMB, WRITING, Word};
use crate::sys::atomic::{Ordering, broken, fence, rmw_fence};
use Ordering::{AcqRel, Acquire, Relaxed, Release};

/// So many aborted and lost records `head` passes in one move: less than half a turn of either count.
const MOST_TOMBS: u32 = 256;

/// A word in shared memory holds what no process of this library writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("corrupt ring: {field} holds {found:#x}")]
pub struct Corrupt {
    /// Which word.
    pub field: &'static str,
    /// What it held.
    pub found: u64,
}

/// Why nothing was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// No room for the record, or as many records as the limit allows wait to be taken.
    #[error("ring full")]
    Full,
    /// A record has at least one granule and at most half the ring's.
    #[error("record too large for the ring")]
    TooLarge,
    /// The ring is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// No committed record waits.
    #[error("ring empty")]
    Empty,
    /// The ring is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// A record being written: its granules are the caller's until [`Ring::commit`] or [`Ring::abort`], one of which must
/// follow, once.
#[must_use = "a claim that is neither committed nor aborted blocks the ring"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Where the record starts, in granules, modulo 2^44.
    pub position: u64,
    /// Granules of the record.
    pub n: u32,
}

/// A record being read: its granules are the caller's until [`Ring::done`], which must follow, once.
#[must_use = "a record that is never done is never reclaimed"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Where the record starts, in granules, modulo 2^44.
    pub position: u64,
    /// Granules of the record.
    pub n: u32,
    /// The lane that committed the record: a hint, for deciding how long to spin for the next.
    pub producer: u16,
    /// Whether an earlier taker died before it was done. Such a record comes late, out of order.
    pub redelivered: bool,
}

impl<P: Side, C: Side, F: Form> Ring<'_, P, C, F> {
    /// Claims `n` granules in a row for `lane`; linearises at the CAS on `claim[]`, which also names the owner.
    ///
    /// Never blocks. `max_items` limits the records that wait to be taken, exactly, whatever others do at the same time.
    ///
    /// # Errors
    /// [`ClaimError::Full`] if there was no room, or as many records as `max_items`, at some moment of the call.
    #[inline]
    pub fn claim(&self, cache: &RingCache, lane: u16, n: u32, max_items: u32) -> Result<Claim, ClaimError> {
        let n = if F::SLOTS { 1 } else { n };
        if n == 0 || n as usize > self.capacity() / 2 {
            return Err(ClaimError::TooLarge);
        }
        if !P::MANY {
            return self.claim_alone(cache, n, max_items);
        }
        for _round in 0..self.rounds() {
            let tail = self.tail();
            let (index, lap) = self.place(tail.position());
            let slot = self.claim_word(index);
            let word = self.load(slot);
            // Rule 2: `word` must have been there while `tail` was.
            if !broken("claim-looks-at-tail-again") && self.tail() != tail {
                continue;
            }
            if word.is_of(lap) {
                self.help_claim(tail, index, lap, word)?;
                continue;
            }
            let rest = (self.capacity() - index) as u32;
            let (state, owner, m) = if n > rest { (PAD, 0, rest) } else { (WRITING, lane, n) };
            let limited = (max_items as usize) < self.capacity() && !(broken("limit-in-every-round") && _round > 0);
            if !self.has_room_by_cache(cache, tail, m, limited.then_some(max_items)) {
                if self.look_for_room(cache, tail, m, limited.then_some(max_items))? {
                    continue;
                }
                return Err(ClaimError::Full);
            }
            if slot.compare_exchange(word.0, Word::new(lap, state, owner, m).0, AcqRel, Relaxed).is_err() {
                continue;
            }
            if state == PAD {
                self.publish_pad(index, lap, m);
            }
            self.move_tail(tail, tail.advance(m, state == WRITING));
            if state == WRITING {
                return Ok(Claim { position: tail.position(), n });
            }
        }
        Err(Corrupt { field: "tail", found: self.tail().bits() }.into())
    }

    #[inline(always)]
    pub(super) fn has_room_by_cache(&self, cache: &RingCache, tail: Cursor, m: u32, max_items: Option<u32>) -> bool {
        // The remembered cursors are old, so they err on the side of no room; one that looks *later* than `tail` (which
        // then is old itself) lies more than a ring away.
        let used = tail.granules_since(Cursor::from_bits(cache.head.load(Acquire)));
        let fits = used.wrapping_add(m as u64) <= self.capacity() as u64;
        let Some(max_items) = max_items else { return fits };
        let rcur = Cursor::from_bits(cache.rcur.load(Acquire));
        fits && tail.granules_since(rcur) <= self.capacity() as u64 && tail.items_since(rcur) < max_items
    }

    /// Looks at the true cursors, and helps them on if there is still no room. False if the ring is full.
    #[cold]
    pub(super) fn look_for_room(
        &self,
        cache: &RingCache,
        tail: Cursor,
        m: u32,
        max_items: Option<u32>,
    ) -> Result<bool, Corrupt> {
        let (head, rcur) = (self.head(), self.rcur());
        if self.tail() != tail {
            return Ok(true);
        }
        // `tail` stood still meanwhile, so by rule 1 the order is head, rcur, tail.
        let (used, untaken) = (tail.granules_since(head), tail.granules_since(rcur));
        if used > self.capacity() as u64 {
            return Err(Corrupt { field: "head", found: head.bits() });
        }
        if untaken > used {
            return Err(Corrupt { field: "rcur", found: rcur.bits() });
        }
        cache.remember(head, rcur);
        if used + m as u64 <= self.capacity() as u64 && max_items.is_none_or(|max| tail.items_since(rcur) < max) {
            return Ok(true);
        }
        // A consumer may have died between DONE and moving `head`, or between READING and moving `rcur`.
        if broken("reclaim-when-full") {
            return Ok(false);
        }
        self.settle()?;
        Ok(self.head() != head || self.rcur() != rcur)
    }

    /// Finishes what the producer that claimed the record at `tail` had still to do (it may be dead).
    #[cold]
    fn help_claim(&self, tail: Cursor, index: usize, lap: u64, word: Word) -> Result<(), Corrupt> {
        let n = self.extent(index, word, "claim")?;
        match word.state() {
            PAD if !broken("help-publish-pad") => self.publish_pad(index, lap, n),
            WRITING | PAD => {}
            _ => return Err(Corrupt { field: "claim", found: word.0 }),
        }
        self.move_tail(tail, tail.advance(n, word.state() == WRITING));
        Ok(())
    }

    #[cold]
    fn publish_pad(&self, index: usize, lap: u64, n: u32) {
        let slot = self.ready_word(index);
        let old = self.load(slot);
        // While `tail` is here, `old` is either this very PAD or of an older lap; later it is not what the CAS expects.
        if !old.is_of(lap) {
            let _ = slot.compare_exchange(old.0, Word::new(lap, PAD, 0, n).0, AcqRel, Relaxed);
        }
    }

    /// Makes a claimed record available. A plain store: nobody else may write this word (rule 3).
    #[inline]
    pub fn commit(&self, claim: Claim, lane: u16) {
        let (index, lap) = self.place(claim.position);
        let order = if broken("commit-releases") { Relaxed } else { Release };
        self.ready_word(index).store(Word::new(lap, READY, lane, claim.n).0, order);
        if !P::MANY {
            self.follow_commit(claim.n, 1);
        }
    }

    /// Gives a claimed record up; consumers step over it.
    #[inline]
    pub fn abort(&self, claim: Claim) {
        if !P::MANY {
            return self.abort_alone();
        }
        let (index, lap) = self.place(claim.position);
        self.ready_word(index).store(Word::new(lap, TOMB, 0, claim.n).0, Release);
    }

    /// Takes the oldest committed record for `lane`; linearises at the CAS on `take[]`, which also names the owner.
    ///
    /// Never blocks. A record whose taker died comes before all others, marked.
    ///
    /// # Errors
    /// [`TakeError::Empty`] if no record was ready at some moment of the call; [`Ring::pending`] tells whether one is
    /// being written.
    #[inline]
    pub fn take(&self, cache: &RingCache, lane: u16) -> Result<Taken, TakeError> {
        if !C::MANY {
            return self.take_alone(cache);
        }
        let redo = self.redo();
        if redo != cache.redo_seen() {
            if let Some(taken) = self.take_again(lane)? {
                return Ok(taken);
            }
            cache.redo.store(redo, Release);
        }
        for _ in 0..self.rounds() {
            let rcur = self.rcur();
            let (index, lap) = self.place(rcur.position());
            let slot = self.take_word(index);
            // Rule 2: first `take[]`, then `ready[]`.
            let mut old = self.load(slot);
            let ready = self.load(self.ready_word(index));
            if broken("take-before-ready") {
                old = self.load(slot);
            }
            if !ready.is_of(lap) {
                if self.rcur() != rcur {
                    continue;
                }
                return Err(TakeError::Empty);
            }
            let n = self.extent(index, ready, "ready")?;
            if ready.state() != READY {
                self.step_over(rcur, ready, n)?;
                rmw_fence();
                self.reclaim()?;
                continue;
            }
            if old.is_of(lap) {
                // Taken before, perhaps by the dead: a record given back is found by `take_again`, wherever `rcur` is.
                self.move_rcur(rcur, rcur.advance(n, true));
                continue;
            }
            if slot.compare_exchange(old.0, Word::new(lap, READING, lane, n).0, AcqRel, Relaxed).is_err() {
                continue;
            }
            self.move_rcur(rcur, rcur.advance(n, true));
            return Ok(Taken { position: rcur.position(), n, producer: ready.lane(), redelivered: false });
        }
        Err(Corrupt { field: "rcur", found: self.rcur().bits() }.into())
    }

    /// Moves `rcur` over a TOMB or PAD, after `tail` (rule 1): who wrote the word may have died before it moved `tail`.
    /// True if `rcur` was moved by this call.
    fn step_over(&self, rcur: Cursor, ready: Word, n: u32) -> Result<bool, Corrupt> {
        let (TOMB | PAD) = ready.state() else {
            return Err(Corrupt { field: "ready", found: ready.0 });
        };
        let next = rcur.advance(n, ready.state() == TOMB);
        if P::MANY && !broken("tail-before-rcur") && self.tail() == rcur {
            self.move_tail(rcur, next);
        }
        Ok(self.move_rcur(rcur, next))
    }

    /// Takes a record whose taker died, if there is one between `head` and `rcur`, the one *at* `rcur` included: a
    /// consumer that saw it READING may yet move `rcur` over it.
    #[cold]
    fn take_again(&self, lane: u16) -> Result<Option<Taken>, Corrupt> {
        let mut start = self.head();
        let end = self.rcur();
        let mut at = start;
        for _ in 0..self.rounds() {
            let left = end.granules_since(at);
            // More than a ring: `at` is past `end`, because `head` is.
            if left > self.capacity() as u64 || left == 0 && broken("redo-scan-includes-rcur") {
                return Ok(None);
            }
            let (index, lap) = self.place(at.position());
            let slot = self.take_word(index);
            let old = self.load(slot);
            let ready = self.load(self.ready_word(index));
            if !ready.is_of(lap) {
                let head = self.head();
                if left == 0 {
                    return Ok(None);
                }
                if head == start {
                    return Err(Corrupt { field: "ready", found: ready.0 });
                }
                // Finished and reused under us: go on at `head`.
                (start, at) = (head, head);
                continue;
            }
            let n = self.extent(index, ready, "ready")?;
            if ready.state() == READY && old.says(lap, REDO) {
                if slot.compare_exchange(old.0, Word::new(lap, READING, lane, n).0, AcqRel, Relaxed).is_err() {
                    continue;
                }
                if left == 0 {
                    self.move_rcur(at, at.advance(n, true));
                }
                return Ok(Some(Taken { position: at.position(), n, producer: ready.lane(), redelivered: true }));
            }
            if left == 0 {
                return Ok(None);
            }
            at = at.advance(n, ready.state() != PAD);
        }
        Err(Corrupt { field: "head", found: start.bits() })
    }

    /// Acknowledges a record: it is gone. A plain store: nobody else may write this word (rule 3).
    ///
    /// Reclaims finished records now and then, or at once if `eager` (somebody waits for room). True if `head` moved.
    /// One consumer acknowledges everything that it took before, too, and `head` moves each time.
    ///
    /// # Errors
    /// If the ring is damaged; the record is acknowledged all the same.
    #[inline]
    pub fn done(&self, taken: Taken, eager: bool) -> Result<bool, Corrupt> {
        if !C::MANY {
            self.done_alone(taken);
            return Ok(true);
        }
        let (index, lap) = self.place(taken.position);
        self.take_word(index).store(Word::new(lap, DONE, 0, taken.n).0, Release);
        let step = ((self.capacity() as u64) >> 5).max(1);
        let crosses = (index as u64 & (step - 1)).wrapping_add(taken.n as u64) >= step;
        if !(eager || taken.redelivered || crosses) {
            return Ok(false);
        }
        if !broken("done-fences") {
            // Store-load: see "Memory ordering".
            fence(Ordering::SeqCst);
        }
        self.reclaim()
    }

    /// Moves `head` over the finished records that follow it. True if it moved. With one consumer only that moves it.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn reclaim(&self) -> Result<bool, Corrupt> {
        if !C::MANY {
            return Ok(false);
        }
        let mut moved = false;
        for _ in 0..self.rounds() {
            let head = self.head();
            let rcur = self.rcur();
            let limit = rcur.granules_since(head);
            if limit > self.capacity() as u64 {
                if self.head() != head {
                    continue;
                }
                return Err(Corrupt { field: "rcur", found: rcur.bits() });
            }
            let (mut at, mut tombs) = (head, 0);
            while at.granules_since(head) < limit && tombs < MOST_TOMBS {
                let (index, lap) = self.place(at.position());
                let ready = self.load(self.ready_word(index));
                if !ready.is_of(lap) {
                    break;
                }
                let n = self.extent(index, ready, "ready")?;
                at = match ready.state() {
                    TOMB => {
                        tombs += 1;
                        at.bury(n, ready.lane() != 0)
                    }
                    READY if !self.load(self.take_word(index)).says(lap, DONE) => break,
                    _ => at.advance(n, false),
                };
            }
            if at == head {
                return Ok(moved);
            }
            if tombs > 0 {
                // Before the move: it may be more than one record. See `turns.rs`, rule 2.
                let line = &self.control().head;
                ABORTED.heal(&line.cursor, &line.aborted_epoch);
                LOST.heal(&line.cursor, &line.lost_epoch);
            }
            // All that was seen is final in its lap, and the lap is still on if `head` has not moved.
            if self.control().head.cursor.compare_exchange(head.bits(), at.bits(), AcqRel, Relaxed).is_ok() {
                if tombs < MOST_TOMBS {
                    return Ok(true);
                }
                moved = true;
            }
        }
        Err(Corrupt { field: "head", found: self.head().bits() })
    }

    /// Moves `rcur` over what no consumer has to take (whoever should have moved it may be dead), then reclaims.
    #[cold]
    pub(super) fn settle(&self) -> Result<bool, Corrupt> {
        if !C::MANY {
            return Ok(false);
        }
        for _ in 0..self.rounds() {
            let rcur = self.rcur();
            let (index, lap) = self.place(rcur.position());
            let old = self.load(self.take_word(index));
            let ready = self.load(self.ready_word(index));
            if !ready.is_of(lap) || ready.state() == READY && !old.is_of(lap) {
                rmw_fence();
                return self.reclaim();
            }
            let n = self.extent(index, ready, "ready")?;
            if ready.state() == READY {
                self.move_rcur(rcur, rcur.advance(n, true));
            } else {
                self.step_over(rcur, ready, n)?;
            }
        }
        Err(Corrupt { field: "rcur", found: self.rcur().bits() })
    }
}
