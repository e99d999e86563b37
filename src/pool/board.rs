//! What a pool and its workers see of each other: one word for each task under way.
//!
//! A task is a message in the queue of tasks and a word here, its slot. A worker begins it by changing the word from QUEUED
//! to its own number: whoever cancels it, and whoever has the same message because its first taker died, does the same, so
//! one of them wins. From then on the word tells who is to blame if no result comes.
//!
//! ```text
//! slot: generation:40 | worker:21 | state:3
//! ```
//!
//! Each worker has a row of two words. What it has begun, as slot + 1, and when; written only while there are time limits. Or, in
//! the first, that it has had nothing to do for a while.

use crate::error::Error;
use crate::segment::Segment;
use crate::shared::{Element, RawArray};

/// Free, or its task is over.
const FREE: u64 = 0;
const QUEUED: u64 = 1;
const RUNNING: u64 = 2;
/// The function has ended in time, the result is on its way.
const OVER: u64 = 3;
/// The function ran too long: its worker is going to be killed.
const EXPIRED: u64 = 4;

/// Numbers of workers go up to here, and begin again.
pub(super) const MAX_SERIAL: u64 = (1 << 21) - 1;
const MAX_GENERATION: u64 = (1 << 40) - 1;

/// Word 0: bits of the pool's state.
const STATE: usize = 0;
/// Workers end when they have nothing to do.
const STOPPING: u64 = 1;
/// Tasks may have time limits, so workers say when they begin.
const TIMED: u64 = 2;

const ROWS_AT: usize = 8;
/// In place of a slot's number, with a count in the lower half.
const RESTING: u64 = 0xffff_ffff << 32;

/// The words, open in this process.
#[derive(Clone)]
pub(super) struct Board {
    words: RawArray<u64>,
    rows: usize,
}

/// A task under way as its slot's word names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub slot: u32,
    pub generation: u64,
}

/// How a slot stands that a worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Running,
    Expired,
}

/// What a slot's word says of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Queued,
    /// By this worker, which may be dead.
    Begun(u64),
    /// Nothing that fits.
    Wrong(u64),
}

impl Ticket {
    fn word(self, worker: u64, state: u64) -> u64 {
        (self.generation & MAX_GENERATION) << 24 | (worker & MAX_SERIAL) << 3 | state
    }
}

impl Board {
    /// A board for so many tasks and workers.
    pub fn new(segment: &Segment, slots: usize, workers: usize) -> Result<Self, Error> {
        Ok(Self { words: RawArray::new_in(segment, ROWS_AT + 2 * workers + slots)?, rows: workers })
    }

    /// The board that another process sees as these words.
    pub fn open(words: RawArray<u64>, workers: usize) -> Self {
        Self { words, rows: workers }
    }

    /// What another process opens.
    pub fn words(&self) -> &RawArray<u64> {
        &self.words
    }

    fn word(&self, at: usize) -> Option<Element<'_, u64>> {
        self.words.at(at).ok()
    }

    fn slot(&self, slot: u32) -> Option<Element<'_, u64>> {
        self.word(ROWS_AT + 2 * self.rows + slot as usize)
    }

    fn change(&self, ticket: Ticket, from: u64, to: u64) -> bool {
        self.slot(ticket.slot).is_some_and(|word| word.compare_exchange(from, to).is_ok())
    }

    fn has(&self, bit: u64) -> bool {
        self.word(STATE).is_some_and(|word| word.load() & bit != 0)
    }

    fn set(&self, bit: u64) {
        if let Some(word) = self.word(STATE) {
            word.or(bit);
        }
    }

    /// Workers are to end when they have nothing to do.
    pub fn stop(&self) {
        self.set(STOPPING);
    }

    /// Whether workers are to end.
    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.has(STOPPING)
    }

    /// Workers are to say when they begin.
    pub fn set_timed(&self) {
        if !self.is_timed() {
            self.set(TIMED);
        }
    }

    /// Whether they do.
    #[inline]
    pub fn is_timed(&self) -> bool {
        self.has(TIMED)
    }

    /// The task can be begun.
    #[inline]
    pub fn queue(&self, ticket: Ticket) {
        if let Some(word) = self.slot(ticket.slot) {
            word.store(ticket.word(0, QUEUED));
        }
    }

    /// Takes a task that nobody has begun out; whether it is out.
    pub fn cancel(&self, ticket: Ticket) -> bool {
        self.change(ticket, ticket.word(0, QUEUED), FREE)
    }

    /// Begins a task, unless it was begun or cancelled.
    #[inline]
    pub fn begin(&self, ticket: Ticket, worker: u64) -> bool {
        self.change(ticket, ticket.word(0, QUEUED), ticket.word(worker, RUNNING))
    }

    /// Ends a task, unless it ran too long.
    pub fn finish(&self, ticket: Ticket, worker: u64) -> bool {
        self.change(ticket, ticket.word(worker, RUNNING), ticket.word(worker, OVER))
    }

    /// Ends a task that runs too long, unless it has just ended.
    pub fn expire(&self, ticket: Ticket, worker: u64) -> bool {
        self.change(ticket, ticket.word(worker, RUNNING), ticket.word(worker, EXPIRED))
    }

    /// How the task stands if this worker has it.
    pub fn held(&self, ticket: Ticket, worker: u64) -> Option<Held> {
        let word = self.slot(ticket.slot)?.load();
        let has = |state| word == ticket.word(worker, state);
        if has(EXPIRED) {
            return Some(Held::Expired);
        }
        (has(RUNNING) || has(OVER)).then_some(Held::Running)
    }

    /// What the board says of a task.
    pub fn standing(&self, ticket: Ticket) -> Standing {
        let Some(word) = self.slot(ticket.slot).map(|word| word.load()) else { return Standing::Wrong(0) };
        let worker = word >> 3 & MAX_SERIAL;
        match word & 7 {
            QUEUED if word == ticket.word(0, QUEUED) => Standing::Queued,
            state @ (RUNNING | OVER | EXPIRED) if word == ticket.word(worker, state) => Standing::Begun(worker),
            _ => Standing::Wrong(word),
        }
    }

    /// The worker of a row has had nothing to do for a while, and has said so this many times.
    pub fn rest(&self, row: usize, times: u32) {
        if let Some(what) = self.word(ROWS_AT + 2 * row) {
            what.store(RESTING | u64::from(times));
        }
    }

    /// How many times the worker of a row has said that it has nothing to do, if that is what it says.
    pub fn rests(&self, row: usize) -> Option<u32> {
        let word = self.word(ROWS_AT + 2 * row)?.load();
        (word & !u64::from(u32::MAX) == RESTING).then_some(word as u32)
    }

    /// The worker of a row notes which slot's task it has begun, and when.
    pub fn note(&self, row: usize, slot: u32, nanos: u64) {
        if let (Some(begun), Some(what)) = (self.word(ROWS_AT + 2 * row + 1), self.word(ROWS_AT + 2 * row)) {
            begun.store(nanos);
            what.store(u64::from(slot) + 1);
        }
    }

    /// The worker of a row has nothing to do.
    pub fn clear(&self, row: usize) {
        if let Some(what) = self.word(ROWS_AT + 2 * row) {
            what.store(0);
        }
    }

    /// What the worker of a row has noted: slot, and when it began.
    pub fn noted(&self, row: usize) -> Option<(u32, u64)> {
        let what = self.word(ROWS_AT + 2 * row)?.load().checked_sub(1)?;
        Some((u32::try_from(what).ok()?, self.word(ROWS_AT + 2 * row + 1)?.load()))
    }
}
