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
    /// A task has ended: the bytes of its result, and how long the function ran. Called once for each index, by any thread of
    /// the pool's owner. What it gives back is run by the pool's own thread.
    fn put(&self, index: u32, outcome: Result<&[u8], TaskError>, nanos: u64) -> Option<Box<dyn FnOnce() + Send>>;
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
}

/// A task under way.
pub(super) struct Entry {
    pub generation: u64,
    pub call: Call,
    pub sink: Arc<dyn Sink>,
    pub index: u32,
    pub terms: Terms,
}

/// All tasks under way, each in a slot.
pub(super) struct Ledger {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    next: u64,
    shut: bool,
}

impl Ledger {
    pub fn new(slots: usize) -> Self {
        let entries = (0..slots).map(|_| None).collect();
        Self { entries, free: (0..slots as u32).rev().collect(), next: 1, shut: false }
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

    /// Lets a task leave.
    pub fn take(&mut self, ticket: Ticket) -> Option<Entry> {
        self.get(ticket)?;
        self.free.push(ticket.slot);
        self.entries[ticket.slot as usize].take()
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
