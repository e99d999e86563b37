//! The tasks under way, as the pool's owner knows them: where their results go, and what else was agreed.
//!
//! Each task that is taken in leaves exactly once, by [`Ledger::take`]: so submitted = done + failed + cancelled, whatever
//! died in between.

use std::sync::Arc;
use std::time::Duration;

use super::board::Ticket;
use super::error::TaskError;
use crate::error::Error;

/// Where the result of a task goes.
pub(super) trait Sink: Send + Sync {
    /// A task has ended: the bytes of its result, and how long the function ran, if it was measured. Called once for each part,
    /// by any thread of the pool's owner. What it gives back is run by the pool's own thread.
    fn put(&self, part: Part, outcome: Result<&[u8], TaskError>, nanos: u64) -> Option<Box<dyn FnOnce() + Send>>;
}

/// What of that which a sink waits for a task brings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Its number, or that of its first item, as the sink wants it.
    pub index: usize,
    /// How many items it has.
    pub items: usize,
}

/// Writes the arguments once more, for a task that is begun again.
pub(super) type Again = Arc<dyn Fn(&mut Vec<u8>) -> Result<(), Error> + Send + Sync>;

/// What was agreed for a task.
#[derive(Default)]
pub(super) struct Terms {
    /// How often it may be begun again when its worker died.
    pub retries: u32,
    pub timeout: Option<Duration>,
    pub again: Option<Again>,
    /// The pool's own thread has something to do when it ends.
    pub calls_back: bool,
}

/// What is to be called, and for how many arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Where it is in the program.
    pub function: u64,
    pub count: u64,
    /// Whether somebody wants to know how long it takes.
    pub measured: bool,
}

/// A task under way.
pub(super) struct Entry {
    pub generation: u64,
    pub call: Call,
    pub sink: Arc<dyn Sink>,
    pub index: usize,
    pub terms: Terms,
}

/// All tasks under way, each in a slot.
pub(super) struct Ledger {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    next: u64,
    shut: bool,
    /// What was taken in, and how it left.
    pub counts: Counts,
}

/// How many tasks there were, and how they left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub submitted: u64,
    pub done: u64,
    pub failed: u64,
    pub cancelled: u64,
}

/// How a task leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    Done,
    Failed,
    Cancelled,
    /// It was never sent, and does not count.
    Unsent,
}

impl Ledger {
    pub fn new(slots: usize) -> Self {
        let entries = (0..slots).map(|_| None).collect();
        Self { entries, free: (0..slots as u32).rev().collect(), next: 1, shut: false, counts: Counts::default() }
    }

    /// Takes a task in, if a slot is free and the ledger is not shut.
    pub fn add(&mut self, mut entry: Entry) -> Result<Ticket, Entry> {
        if self.shut {
            return Err(entry);
        }
        let Some(slot) = self.free.pop() else { return Err(entry) };
        let generation = self.next;
        self.next += 1;
        entry.generation = generation;
        self.entries[slot as usize] = Some(entry);
        self.counts.submitted += 1;
        Ok(Ticket { slot, generation })
    }

    /// From now on no task is taken in: once there is none, there will be none.
    pub fn shut(&mut self) {
        self.shut = true;
    }

    /// Makes another ticket for a task that is to be begun again, if it may be: it stays in its slot all the time.
    pub fn renew(&mut self, ticket: Ticket) -> Option<Ticket> {
        let entry = self.entries.get_mut(ticket.slot as usize)?.as_mut()?;
        if entry.generation != ticket.generation || entry.terms.again.is_none() {
            return None;
        }
        entry.terms.retries = entry.terms.retries.checked_sub(1)?;
        entry.generation = self.next;
        self.next += 1;
        Some(Ticket { slot: ticket.slot, generation: entry.generation })
    }

    /// The task of a ticket, unless it has left.
    pub fn get(&self, ticket: Ticket) -> Option<&Entry> {
        self.entries.get(ticket.slot as usize)?.as_ref().filter(|entry| entry.generation == ticket.generation)
    }

    /// The task in a slot.
    pub fn in_slot(&self, slot: u32) -> Option<(Ticket, &Entry)> {
        let entry = self.entries.get(slot as usize)?.as_ref()?;
        Some((Ticket { slot, generation: entry.generation }, entry))
    }

    /// Lets a task leave, unless it has left.
    pub fn take(&mut self, ticket: Ticket, how: Leaves) -> Option<Entry> {
        let slot = self.entries.get_mut(ticket.slot as usize)?;
        let entry = slot.take_if(|entry| entry.generation == ticket.generation)?;
        self.free.push(ticket.slot);
        match how {
            Leaves::Done => self.counts.done += 1,
            Leaves::Failed => self.counts.failed += 1,
            Leaves::Cancelled => self.counts.cancelled += 1,
            Leaves::Unsent => self.counts.submitted -= 1,
        }
        Some(entry)
    }

    /// The tickets of all tasks.
    pub fn tickets(&self) -> Vec<Ticket> {
        (0..self.entries.len() as u32).filter_map(|slot| Some(self.in_slot(slot)?.0)).collect()
    }

    /// Whether no slot is free.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// How many tasks are under way.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
