//! One producer, one consumer: what a side does that is alone on its side of the ring.
//!
//! # One producer
//! ```text
//! producer   the lane that has the role
//! tail       behind the last committed record; stored by that lane, after the record's READY
//! reserved   where `tail` will be when the record being written is committed; `tail` itself if there is none
//! ```
//! Nobody else claims, so a claim is no stamp: it is private, and vanishes with its lane. `reserved` only tells that
//! there was one. The commit is READY as ever; a producer that dies between it and `tail` leaves `tail` behind, which
//! its recovery or its successor brings up to what is READY. So `rcur` may run ahead of `tail`, by what was committed.
//!
//! # One consumer
//! ```text
//! consumer   the lane that has the role
//! rcur       behind the last record that was ever taken; stored by that lane, before it looks into the record
//! head       the oldest record that is not done with; stored by that lane
//! ```
//! What lies between `head` and `rcur` is open. A successor begins at `head`, so it is given again in the old order, and
//! whatever lies before `rcur` was taken before: it is marked as redelivered, and not counted as taken again. Several
//! records may be open; they are done in the order in which they were taken. A record that was given up is stepped over
//! only by the consumer, and only while nothing is open.
//!
//! # Memory ordering
//! As in `stamped.rs`: READY is Release and brings the payload, `head` is Release and brings the end of the reading.
//! `producer` and `consumer` are taken with Acquire and left with Release, so a successor sees what was stored before.
//!
//! Source: L. Lamport, "Specifying Concurrent Program Modules", 1983 (one producer, one consumer); the flag in each slot
//! is from J. Giacomoni et al., "FastForward", PPoPP 2008.

use super::counts::{ABORTED, ITEMS, LOST};
use super::cursor::Cursor;
use super::sides::{Form, Side, Slots};
use super::stamped::{Claim, ClaimError, Corrupt, TakeError, Taken};
use super::view::{Ring, RingCache};
use super::word::{PAD, READY, TOMB, Word};
use crate::sys::atomic::{AtomicU64, Ordering, broken};
use Ordering::{AcqRel, Acquire, Relaxed, Release};

/// Somebody else has the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("lane {lane} has the role")]
pub struct Occupied {
    /// Its lane, perhaps a dead one's.
    pub lane: u16,
}

fn enter(role: &AtomicU64, lane: u16) -> Result<(), Occupied> {
    let taken = role.compare_exchange(0, lane.into(), AcqRel, Acquire);
    taken.map(|_| ()).map_err(|holder| Occupied { lane: holder as u16 })
}

fn leave(role: &AtomicU64, lane: u16) {
    let _ = role.compare_exchange(lane.into(), 0, AcqRel, Relaxed);
}

impl<P: Side, C: Side, F: Form> Ring<'_, P, C, F> {
    /// Makes `lane` the one producer. Without this call, nobody may claim in a ring of one producer.
    ///
    /// # Errors
    /// [`Occupied`] by the lane that is; if it is dead, after [`recover`](Self::recover) it is not.
    pub fn enter_producer(&self, lane: u16) -> Result<(), Occupied> {
        let line = &self.control().tail;
        enter(&line.producer, lane)?;
        self.catch_up();
        // The record of a producer that left without an end to it was given up.
        if self.reserved_records() > 0 {
            self.abort_alone();
        }
        line.reserved.store(line.cursor.load(Relaxed), Relaxed);
        Ok(())
    }

    /// Ends what [`enter_producer`](Self::enter_producer) began.
    pub fn leave_producer(&self, lane: u16) {
        leave(&self.control().tail.producer, lane);
    }

    /// Makes `lane` the one consumer, which takes with `cache` from the oldest record that is not done with. Without
    /// this call, nobody may take in a ring of one consumer.
    ///
    /// # Errors
    /// [`Occupied`] by the lane that is; if it is dead, after [`recover`](Self::recover) it is not.
    pub fn enter_consumer(&self, cache: &RingCache, lane: u16) -> Result<(), Occupied> {
        enter(&self.control().rcur.consumer, lane)?;
        self.heal_epochs();
        cache.next.store(self.head().bits(), Relaxed);
        Ok(())
    }

    /// Ends what [`enter_consumer`](Self::enter_consumer) began. What is open is given to the successor.
    pub fn leave_consumer(&self, lane: u16) {
        leave(&self.control().rcur.consumer, lane);
    }

    /// The lane that is the one producer; 0 for nobody.
    pub fn producer(&self) -> u16 {
        self.control().tail.producer.load(Acquire) as u16
    }

    /// The lane that is the one consumer; 0 for nobody.
    pub fn consumer(&self) -> u16 {
        self.control().rcur.consumer.load(Acquire) as u16
    }

    // ---- the producer

    /// `tail`, and the records behind it that are committed although it does not say so.
    pub(super) fn true_tail(&self) -> Cursor {
        self.committed_from(self.tail())
    }

    /// The end of the committed records that follow `at` without a gap.
    pub(super) fn committed_from(&self, mut at: Cursor) -> Cursor {
        let start = at;
        while at.granules_since(start) < self.capacity() as u64 {
            let (index, lap) = self.place(at.position());
            let ready = self.load(self.ready_word(index));
            let Ok(n) = self.extent(index, ready, "ready") else { break };
            if !ready.is_of(lap) {
                break;
            }
            at = at.advance(n, ready.state() != PAD);
        }
        at
    }

    /// Brings `tail` up to what its last producer committed. For who has the role, or proof that its holder is dead.
    pub(super) fn catch_up(&self) {
        let line = &self.control().tail;
        ITEMS.heal(&line.cursor, &line.epoch);
        let (tail, committed) = (self.tail(), self.true_tail());
        if tail != committed && !broken("successor-catches-up") {
            line.cursor.store(committed.bits(), Release);
            ITEMS.moved(committed.bits(), &line.cursor, &line.epoch);
        }
    }

    /// Records that the one producer has claimed and not committed.
    pub(super) fn reserved_records(&self) -> u32 {
        let reserved = Cursor::from_bits(self.control().tail.reserved.load(Acquire));
        let committed = self.true_tail();
        let ahead = reserved.granules_since(committed);
        // Behind what is committed, if the producer died between a commit and saying so.
        if ahead <= self.capacity() as u64 { reserved.items_since(committed).min(ahead as u32) } else { 0 }
    }

    #[inline(always)]
    pub(super) fn claim_alone(&self, cache: &RingCache, n: u32, max_items: u32) -> Result<Claim, ClaimError> {
        let line = &self.control().tail;
        let limit = ((max_items as usize) < self.capacity()).then_some(max_items);
        for _ in 0..self.rounds() {
            let tail = Cursor::from_bits(line.cursor.load(Relaxed));
            let (index, lap) = self.place(tail.position());
            let rest = (self.capacity() - index) as u32;
            let (fits, m) = if n > rest { (false, rest) } else { (true, n) };
            if !self.has_room_by_cache(cache, tail, m, limit) {
                if self.look_for_room(cache, tail, m, limit)? {
                    continue;
                }
                return Err(ClaimError::Full);
            }
            if fits {
                if broken("one-producer-reserves") {
                    return Ok(Claim { position: tail.position(), n });
                }
                line.reserved.store(tail.advance(n, true).bits(), Relaxed);
                return Ok(Claim { position: tail.position(), n });
            }
            self.ready_word(index).store(Word::new(lap, PAD, 0, m).0, Release);
            let next = tail.advance(m, false).bits();
            line.reserved.store(next, Relaxed);
            line.cursor.store(next, Release);
        }
        Err(Corrupt { field: "head", found: self.head().bits() }.into())
    }

    /// Moves `tail` over `records` records of `n` granules each, which the caller has committed.
    #[inline(always)]
    pub(super) fn follow_commit(&self, n: u32, records: u32) {
        let line = &self.control().tail;
        let to = Cursor::from_bits(line.cursor.load(Relaxed)).advance_all(n, records);
        line.cursor.store(to.bits(), Release);
        ITEMS.moved(to.bits(), &line.cursor, &line.epoch);
    }

    #[inline]
    pub(super) fn abort_alone(&self) {
        let line = &self.control().tail;
        line.aborted.store(line.aborted.load(Relaxed).wrapping_add(1), Relaxed);
        line.reserved.store(line.cursor.load(Relaxed), Relaxed);
    }

    // ---- the consumer

    #[inline(always)]
    pub(super) fn take_alone(&self, cache: &RingCache) -> Result<Taken, TakeError> {
        for _ in 0..self.rounds() {
            let next = Cursor::from_bits(cache.next.load(Relaxed));
            let (index, lap) = self.place(next.position());
            let ready = self.load(self.ready_word(index));
            if !ready.says(lap, READY) {
                if ready.is_of(lap) && self.step_over_alone(cache, next, ready)? {
                    continue;
                }
                return Err(TakeError::Empty);
            }
            let n = self.extent(index, ready, "ready")?;
            let redelivered = self.pass(next, n, true);
            cache.next.store(next.advance(n, true).bits(), Relaxed);
            return Ok(Taken { position: next.position(), n, producer: ready.lane(), redelivered });
        }
        Err(Corrupt { field: "rcur", found: self.rcur().bits() }.into())
    }

    /// Moves `rcur` over what lies at `next`, unless it has passed it before; then true.
    #[inline(always)]
    fn pass(&self, next: Cursor, n: u32, item: bool) -> bool {
        let line = &self.control().rcur;
        let rcur = Cursor::from_bits(line.cursor.load(Relaxed));
        if rcur.position() != next.position() {
            return true;
        }
        let to = rcur.advance(n, item).bits();
        if !broken("rcur-before-the-record") {
            line.cursor.store(to, Release);
        }
        ITEMS.moved(to, &line.cursor, &line.epoch);
        false
    }

    /// Steps over a record that was given up, if nothing is open. True if it did.
    #[cold]
    fn step_over_alone(&self, cache: &RingCache, next: Cursor, ready: Word) -> Result<bool, Corrupt> {
        let (TOMB | PAD) = ready.state() else {
            return Err(Corrupt { field: "ready", found: ready.0 });
        };
        let n = self.extent(self.index(next.position()), ready, "ready")?;
        let head = self.head();
        if head.position() != next.position() {
            return Ok(false);
        }
        // `rcur` before `head`: rule 1.
        self.pass(next, n, ready.state() == TOMB);
        let to = if ready.state() == TOMB { head.bury(n, ready.lane() != 0) } else { head.advance(n, false) };
        let line = &self.control().head;
        line.cursor.store(to.bits(), Release);
        ABORTED.moved(to.bits(), &line.cursor, &line.aborted_epoch);
        LOST.moved(to.bits(), &line.cursor, &line.lost_epoch);
        cache.next.store(to.bits(), Relaxed);
        Ok(true)
    }

    /// Acknowledges `taken` and what was taken before it.
    #[inline(always)]
    pub(super) fn done_alone(&self, taken: Taken) {
        let line = &self.control().head;
        let head = Cursor::from_bits(line.cursor.load(Relaxed));
        let to = Cursor::new(taken.position + u64::from(taken.n), head.items());
        line.cursor.store(to.bits(), if broken("done-releases") { Relaxed } else { Release });
    }
}

impl<C: Side> Ring<'_, super::One, C, Slots> {
    /// Claims up to `most` records in a row: the first, and how many. [`commit_run`](Self::commit_run) must follow.
    ///
    /// # Errors
    /// [`ClaimError::Full`] if there was no room for one.
    #[inline]
    pub fn claim_run(&self, cache: &RingCache, most: u32) -> Result<(Claim, u32), ClaimError> {
        let claim = self.claim(cache, 0, 1, u32::MAX)?;
        let used = Cursor::new(claim.position, 0).granules_since(Cursor::from_bits(cache.head.load(Relaxed)));
        let room = (self.capacity() as u64).saturating_sub(used);
        let count = u64::from(most).min(room).max(1) as u32;
        let line = &self.control().tail;
        let tail = Cursor::from_bits(line.cursor.load(Relaxed));
        line.reserved.store(tail.advance_all(1, count).bits(), Relaxed);
        Ok((claim, count))
    }

    /// Makes the first `count` records of a claimed run available: as many commits, of which others may see some before
    /// the rest, and one move of `tail`.
    #[inline]
    pub fn commit_run(&self, claim: Claim, count: u32, lane: u16) {
        for k in 0..u64::from(count) {
            let (index, lap) = self.place(Cursor::new(claim.position + k, 0).position());
            self.ready_word(index).store(Word::new(lap, READY, lane, 1).0, Release);
        }
        self.follow_commit(1, count);
        let line = &self.control().tail;
        line.reserved.store(line.cursor.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Many, One, RingBlock};
    use super::*;

    const SLOTS: usize = 64;
    const WORDS: usize = 8;

    struct Memory {
        control: RingBlock,
        words: [Vec<AtomicU64>; 3],
    }

    impl Memory {
        fn new<P: Side, C: Side>() -> Self {
            let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
            let side = |many| if many { SLOTS } else { 0 };
            Self {
                control: RingBlock::new(),
                words: [words(side(P::MANY)), words(SLOTS * WORDS), words(side(C::MANY))],
            }
        }

        fn ring<P: Side, C: Side>(&self) -> Ring<'_, P, C, Slots> {
            Ring::made_for(&self.control, SLOTS, &self.words[0], &self.words[1], &self.words[2]).unwrap()
        }
    }

    #[test]
    fn the_arrays_of_a_side_are_there_or_not() {
        let memory = Memory::new::<One, Many>();
        let [none, ready, take] = &memory.words;
        let control = &memory.control;
        assert!(Ring::<One, Many, Slots>::made_for(control, SLOTS, none, ready, take).is_ok());
        assert!(Ring::<Many, Many, Slots>::made_for(control, SLOTS, none, ready, take).is_err());
        assert!(Ring::<One, One, Slots>::made_for(control, SLOTS, none, ready, take).is_err());
        assert!(Ring::<One, Many, Slots>::made_for(control, SLOTS, none, &ready[1..], take).is_err());
        assert!(Ring::<One, Many>::made_for(control, SLOTS, none, ready, take).is_err());
        assert!(Ring::<One, Many>::made_for(control, SLOTS, none, &ready[..SLOTS], take).is_ok());
    }

    #[test]
    fn a_role_has_one_holder() {
        let memory = Memory::new::<One, One>();
        let ring = memory.ring::<One, One>();
        let cache = ring.cache();
        ring.enter_producer(3).unwrap();
        assert_eq!(ring.enter_producer(4), Err(Occupied { lane: 3 }));
        ring.enter_consumer(&cache, 4).unwrap();
        assert_eq!(ring.enter_consumer(&cache, 3), Err(Occupied { lane: 4 }));
        // Not its own to leave.
        ring.leave_producer(4);
        assert_eq!((ring.producer(), ring.consumer()), (3, 4));
        ring.leave_producer(3);
        ring.enter_producer(4).unwrap();
        ring.recover(&|lane| lane == 4).unwrap();
        assert_eq!((ring.producer(), ring.consumer()), (0, 0));
    }

    #[test]
    fn one_producer_leaves_what_it_committed_and_nothing_else() {
        let memory = Memory::new::<One, One>();
        let ring = memory.ring::<One, One>();
        let cache = ring.cache();
        ring.enter_producer(3).unwrap();
        ring.commit(ring.claim(&cache, 3, 1, u32::MAX).unwrap(), 3);
        ring.abort(ring.claim(&cache, 3, 1, u32::MAX).unwrap());
        assert_eq!(ring.pending(), None);
        let _ = ring.claim(&cache, 3, 1, u32::MAX).unwrap();
        assert_eq!((ring.pending(), ring.len()), (Some(3), 1));
        let dead = |lane| lane == 3;
        assert_eq!(ring.count(&dead).unwrap().vanished, 1);
        assert_eq!(ring.recover(&dead).unwrap().vanished, 1);
        let counts = ring.counts().unwrap();
        assert_eq!((counts.claimed, counts.aborted, counts.lost, counts.committed()), (3, 1, 1, 1));
        ring.enter_producer(5).unwrap();
        assert_eq!(ring.claim(&cache, 5, 1, u32::MAX).unwrap().position, 1);
    }

    #[test]
    fn one_consumer_may_hold_several_and_is_done_with_all_of_them_at_once() {
        let memory = Memory::new::<Many, One>();
        let ring = memory.ring::<Many, One>();
        let cache = ring.cache();
        for _ in 0..5 {
            ring.commit(ring.claim(&cache, 1, 1, u32::MAX).unwrap(), 1);
        }
        ring.enter_consumer(&cache, 7).unwrap();
        let taken: Vec<_> = (0..3).map(|_| ring.take(&cache, 7).unwrap()).collect();
        assert_eq!((ring.len(), ring.blocker()), (2, Some(7)));
        ring.done(taken[1], false).unwrap();
        assert_eq!(ring.recover(&|lane| lane == 7).unwrap().redelivered, 1);
        assert!(ring.has_item());
        ring.enter_consumer(&cache, 8).unwrap();
        let again = ring.take(&cache, 8).unwrap();
        assert_eq!((again.position, again.redelivered), (2, true));
        assert!(!ring.take(&cache, 8).unwrap().redelivered);
        assert_eq!(ring.counts().unwrap().taken, 4);
    }

    #[test]
    fn a_run_of_claims_goes_round_the_end() {
        let memory = Memory::new::<One, One>();
        let ring = memory.ring::<One, One>();
        let cache = ring.cache();
        ring.enter_producer(1).unwrap();
        ring.enter_consumer(&cache, 2).unwrap();
        let (mut put, mut got) = (0, 0);
        for most in (1..100).cycle().take(5000) {
            if let Ok((claim, count)) = ring.claim_run(&cache, most) {
                assert!(claim.position == put && count >= 1 && count <= most);
                let commit = count - count / 3;
                ring.commit_run(claim, commit, 1);
                put += u64::from(commit);
            } else {
                while let Ok(taken) = ring.take(&cache, 2) {
                    assert_eq!(taken.position, got);
                    got += 1;
                    ring.done(taken, false).unwrap();
                }
            }
            assert_eq!(ring.len() as u64, put - got);
        }
        assert!(put > 10 * SLOTS as u64);
        assert_eq!(ring.counts().unwrap().claimed, put);
    }

    fn word() -> impl Strategy<Value = u64> {
        let plausible = (0u64..4, 0u64..8, 0u64..10, 0u64..70);
        prop_oneof![any::<u64>(), plausible.prop_map(|(lap, state, lane, n)| lap << 33 | state << 30 | lane << 20 | n)]
    }

    fn cursor() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), (0u64..80, 0u64..80).prop_map(|(position, items)| items << 44 | position)]
    }

    /// Does all that there is with any bytes.
    fn whatever<P: Side, C: Side>(cursors: [u64; 14], words: &[u64], steps: &[(u8, u32, u64)]) {
        let memory = Memory::new::<P, C>();
        let RingBlock { tail, rcur, head, redo } = &memory.control;
        let tails = [&tail.cursor, &tail.epoch, &tail.reserved, &tail.producer, &tail.aborted, &tail.lost];
        let others = [&rcur.cursor, &rcur.epoch, &rcur.consumer, &head.cursor, &head.lost_epoch, &head.aborted_epoch];
        let control: Vec<_> = tails.into_iter().chain(others).chain([&redo.count, &redo.redelivered]).collect();
        for (word, value) in control.iter().zip(cursors) {
            word.store(value, Relaxed);
        }
        let all: Vec<_> = memory.words.iter().flatten().collect();
        for (word, value) in all.iter().zip(words.iter().cycle()) {
            word.store(*value, Relaxed);
        }
        let (ring, cache) = (memory.ring::<P, C>(), memory.ring::<P, C>().cache());
        let (mut claims, mut takes) = (vec![], vec![]);
        for (step, n, value) in steps {
            match step {
                0 | 1 => claims.extend(ring.claim(&cache, 3, *n, if *step == 0 { u32::MAX } else { *n })),
                2 => claims.pop().into_iter().for_each(|claim| ring.commit(claim, 3)),
                3 => claims.pop().into_iter().for_each(|claim| ring.abort(claim)),
                4 | 5 => takes.extend(ring.take(&cache, 4)),
                6 => takes.pop().into_iter().for_each(|taken| ring.done(taken, n % 2 == 0).map(|_| ()).unwrap_or(())),
                7 => drop((ring.reclaim(), ring.len(), ring.pending(), ring.blocker(), ring.has_item())),
                8 => drop((ring.has_ready(&cache), ring.has_room(*n, *n), ring.has_room(*n, u32::MAX))),
                9 => drop((ring.count(&|lane| lane % 2 == 0), ring.recover(&|lane| lane % 2 == 0))),
                10 => drop((ring.counts(), ring.for_each_live(&mut |_, n| assert_eq!(n, 1)))),
                11 => drop((ring.enter_producer(2), ring.enter_consumer(&cache, 2))),
                12 => (ring.leave_producer(2), ring.leave_consumer(2)).0,
                13 => control[*n as usize % control.len()].store(*value, Relaxed),
                _ => all[*value as usize % all.len()].store(*value, Relaxed),
            }
            let places = claims.iter().map(|c| c.position).chain(takes.iter().map(|t| t.position));
            assert!(places.map(|position| ring.index(position)).all(|index| index < SLOTS));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_the_bytes_every_operation_returns(
            cursors in proptest::array::uniform14(cursor()),
            words in proptest::collection::vec(word(), 97),
            steps in proptest::collection::vec((0u8..15, 1u32..34, word()), 0..40),
        ) {
            whatever::<One, One>(cursors, &words, &steps);
            whatever::<One, Many>(cursors, &words, &steps);
            whatever::<Many, One>(cursors, &words, &steps);
            whatever::<Many, Many>(cursors, &words, &steps);
        }
    }
}
