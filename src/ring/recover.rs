//! Recovery of a ring: what the dead left open is closed, by whoever proved the death.
//!
//! | killed | left behind | becomes |
//! |---|---|---|
//! | producer before its claim | nothing | |
//! | producer from claim to commit | WRITING, perhaps `tail` behind | TOMB, counted as vanished |
//! | producer after commit | READY | delivered |
//! | consumer from take to done | READING, perhaps `rcur` behind | REDO: taken again, marked, counted as redelivered |
//! | consumer after done | DONE, perhaps `head` behind | reclaimed by the next who looks |
//! | recoverer | some TOMB and REDO | the next recoverer finds fewer stamps |
//!
//! A dead lane's open record stops `head`, so the walk from `head` cannot miss one, nor count one twice: it starts
//! again only where `head` has passed it, and no dead stamp is behind `head`. Every change is a CAS from the word that
//! carries the dead stamp, or from the older one it stands for, so a record of the living is never touched.

use super::cursor::Cursor;
use super::sides::{Form, Side};
use super::stamped::Corrupt;
use super::view::Ring;
use super::word::{DONE, PAD, READING, READY, REDO, TOMB, WRITING, Word};
use crate::sys::atomic::{Ordering, broken, rmw_fence};
use Ordering::{AcqRel, Relaxed};

/// What a death cost a ring, in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Claimed, never committed: gone.
    pub vanished: u32,
    /// Taken, never done: will be taken again.
    pub redelivered: u32,
}

/// What the walk found at a place.
pub(super) struct Record {
    at: Cursor,
    index: usize,
    pub lap: u64,
    n: u32,
    claim: Word,
    pub ready: Word,
}

impl Record {
    fn is_open_write(&self) -> bool {
        self.claim.state() == WRITING && !self.ready.is_of(self.lap)
    }
}

/// A walk over the claimed records, oldest first, tolerant of everybody else.
pub(super) struct Walk<'a, P: Side, C: Side, F: Form> {
    ring: Ring<'a, P, C, F>,
    start: Cursor,
    at: Cursor,
    rounds: usize,
}

impl<'a, P: Side, C: Side, F: Form> Walk<'a, P, C, F> {
    fn new(ring: Ring<'a, P, C, F>) -> Self {
        Self::from(ring, ring.head())
    }

    /// A walk that begins at `start`, where `head` was a moment ago.
    pub fn from(ring: Ring<'a, P, C, F>, start: Cursor) -> Self {
        Self { ring, start, at: start, rounds: ring.rounds() }
    }

    /// `head` as it was where the walk began, or began again because `head` had passed it.
    pub fn start(&self) -> Cursor {
        self.start
    }

    /// `head`, if it has passed `at`. Exact however long this process slept, since `at` is at most a ring past `start`.
    fn overtaken(&self) -> Option<Cursor> {
        let head = self.ring.head();
        (head.granules_since(self.start) > self.at.granules_since(self.start)).then_some(head)
    }

    /// The record at the current place; `None` at the end of the claimed ones.
    pub fn look(&mut self) -> Result<Option<Record>, Corrupt> {
        loop {
            if self.rounds == 0 {
                return Err(Corrupt { field: "head", found: self.start.bits() });
            }
            self.rounds -= 1;
            if self.at.granules_since(self.start) >= self.ring.capacity() as u64 {
                return Ok(None);
            }
            let (index, lap) = self.ring.place(self.at.position());
            let claim = if P::MANY { self.ring.load(self.ring.claim_word(index)) } else { Word(0) };
            // After `claim`: a word of a later lap in `ready[]` shows in `head`, which is loaded after both.
            let ready = self.ring.load(self.ring.ready_word(index));
            // One producer claims in private: what is there is committed.
            let claim = if P::MANY || !ready.is_of(lap) { claim } else { ready.as_claim() };
            if !broken("recovery-looks-at-head-again") || !claim.is_of(lap) {
                if let Some(head) = self.overtaken() {
                    (self.start, self.at) = (head, head);
                    continue;
                }
            }
            if !claim.is_of(lap) {
                return Ok(None);
            }
            let (WRITING | PAD) = claim.state() else {
                return Err(Corrupt { field: "claim", found: claim.0 });
            };
            let n = self.ring.extent(index, claim, "claim")?;
            return Ok(Some(Record { at: self.at, index, lap, n, claim, ready }));
        }
    }

    pub fn step(&mut self, record: &Record) {
        self.at = record.at.advance(record.n, false);
    }
}

impl<P: Side, C: Side, F: Form> Ring<'_, P, C, F> {
    /// Counts what [`recover`](Self::recover) would find, and changes nothing.
    ///
    /// `dead` says whether a lane belongs to the dead; the caller has the proof, and keeps those lanes out of use.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn count(&self, dead: &dyn Fn(u16) -> bool) -> Result<Ledger, Corrupt> {
        self.count_kept(dead, &|_| false)
    }

    /// As [`count`](Self::count), for a ring whose records may have been `kept` elsewhere before they were done.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn count_kept(&self, dead: &dyn Fn(u16) -> bool, kept: &dyn Fn(u64) -> bool) -> Result<Ledger, Corrupt> {
        let mut ledger = Ledger::default();
        let producer_died = !P::MANY && dead(self.producer());
        if producer_died {
            ledger.vanished = self.reserved_records();
        }
        let consumer_died = !C::MANY && dead(self.consumer());
        let mut walk = Walk::new(*self);
        while let Some(record) = walk.look()? {
            if record.is_open_write() && dead(record.claim.lane()) {
                ledger.vanished += 1;
            } else if C::MANY {
                let take = self.load(self.take_word(record.index));
                let open = take.says(record.lap, READING) && dead(take.lane());
                ledger.redelivered += u32::from(open && !kept(record.at.position()));
            } else {
                ledger.redelivered += u32::from(consumer_died && self.is_open_read(&record));
            }
            walk.step(&record);
        }
        Ok(ledger)
    }

    /// Whether the one consumer has taken this record, which lies behind `head`.
    fn is_open_read(&self, record: &Record) -> bool {
        let after = self.rcur().granules_since(record.at);
        record.ready.says(record.lap, READY) && (1..=self.capacity() as u64).contains(&after)
    }

    /// Closes what the dead left open: their unfinished records vanish, those they were reading are taken again.
    ///
    /// Runs while the living use the ring; idempotent, so if a recoverer dies the next one does the rest. The same lane
    /// must not be recovered by two at once. Afterwards producers and consumers may find the ring changed: wake both.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn recover(&self, dead: &dyn Fn(u16) -> bool) -> Result<Ledger, Corrupt> {
        self.recover_kept(dead, &|_| false)
    }

    /// As [`recover`](Self::recover), for a ring whose records may have been kept elsewhere before they were done:
    /// `kept` says whether the dead had come so far with the record at a position. Then it is done, and not given back.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn recover_kept(&self, dead: &dyn Fn(u16) -> bool, kept: &dyn Fn(u64) -> bool) -> Result<Ledger, Corrupt> {
        let mut ledger = Ledger::default();
        let consumer_died = !C::MANY && dead(self.consumer());
        let mut walk = Walk::new(*self);
        while let Some(record) = walk.look()? {
            if record.is_open_write() && dead(record.claim.lane()) {
                let lane = if broken("recovery-names-the-dead") { 0 } else { record.claim.lane() };
                let tomb = Word::new(record.lap, TOMB, lane, record.n);
                let slot = self.ready_word(record.index);
                if slot.compare_exchange(record.ready.0, tomb.0, AcqRel, Relaxed).is_err() {
                    continue;
                }
                ledger.vanished += 1;
            }
            if !C::MANY {
                ledger.redelivered += u32::from(consumer_died && self.is_open_read(&record));
                walk.step(&record);
                continue;
            }
            let slot = self.take_word(record.index);
            let take = self.load(slot);
            let gives_back = !broken("recovery-gives-records-back");
            if take.says(record.lap, READING) && dead(take.lane()) && gives_back {
                let state = if kept(record.at.position()) { DONE } else { REDO };
                let end = Word::new(record.lap, state, 0, record.n);
                if slot.compare_exchange(take.0, end.0, AcqRel, Relaxed).is_err() {
                    continue;
                }
                if state == REDO {
                    ledger.redelivered += 1;
                    self.control().redo.redelivered.fetch_add(1, Relaxed);
                }
            }
            walk.step(&record);
        }
        // Even if nothing was found: an earlier recoverer may have died before it said so.
        let found = ledger.redelivered > 0 || !broken("recovery-announces-again");
        if found && !broken("recovery-announces-redo") {
            self.announce_redo();
        }
        rmw_fence();
        self.settle()?;
        self.heal_epochs();
        if !P::MANY && dead(self.producer()) {
            ledger.vanished += self.bury_producer();
        }
        if consumer_died {
            self.control().redo.redelivered.fetch_add(ledger.redelivered.into(), Relaxed);
            self.leave_consumer(self.consumer());
        }
        Ok(ledger)
    }

    /// Ends what the dead producer left: its records that are committed, and those that are not. How many these are.
    fn bury_producer(&self) -> u32 {
        let line = &self.control().tail;
        let vanished = self.reserved_records();
        self.catch_up();
        line.lost.store(line.lost.load(Relaxed).wrapping_add(vanished.into()), Relaxed);
        line.reserved.store(line.cursor.load(Relaxed), Relaxed);
        self.leave_producer(self.producer());
        vanished
    }

    /// Calls `f(position, n)` for each record that is committed and not done.
    ///
    /// Others go on meanwhile: a record may be done before `f` sees it, and one committed during the walk may be missed.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn for_each_live(&self, f: &mut dyn FnMut(u64, u32)) -> Result<(), Corrupt> {
        let mut walk = Walk::new(*self);
        while let Some(record) = walk.look()? {
            let is_done = C::MANY && self.load(self.take_word(record.index)).says(record.lap, DONE);
            if record.ready.says(record.lap, READY) && !is_done {
                f(record.at.position(), record.n);
            }
            walk.step(&record);
        }
        Ok(())
    }
}
