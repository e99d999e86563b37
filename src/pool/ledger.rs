//! The tasks under way, as the pool's owner knows them: where their results go, and what else was agreed.
//!
//! Each task that is taken in leaves exactly once, by [`Ledger::take`]: so submitted = done + failed + cancelled, whatever
//! died in between.

use std::sync::Arc;
use std::time::Duration;

use super::board::Ticket;
use super::error::TaskError;
use super::letters::Letter;
use crate::error::Error;
use crate::sys::clock::Deadline;

/// Where the result of a task goes.
pub(super) trait Sink: Send + Sync {
    /// A task has ended: the bytes of its result, and how long the function ran, if it was measured. Called once for each part,
    /// by any thread of the pool's owner. What it gives back is run by the pool's own thread.
    fn put(&self, part: Part, outcome: Result<&[u8], TaskError>, nanos: u64) -> Option<Box<dyn FnOnce() + Send>>;

    /// Whether this task may be one of a [run](Self::put_run).
    fn takes_run_of(&self, _task: &Entry) -> bool {
        false
    }

    /// As [`put`](Self::put), for the results of several tasks whose functions returned.
    fn put_run(&self, _run: &[Letter]) -> Option<Box<dyn FnOnce() + Send>> {
        None
    }
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

/// What was agreed for a task that differs from others.
pub(super) struct Terms {
    /// How often it may be begun again when its worker died.
    pub retries: u32,
    pub timeout: Option<Duration>,
    pub again: Option<Again>,
}

impl Terms {
    /// The terms, if they are others than most tasks have.
    pub fn unless_usual(retries: u32, timeout: Option<Duration>, again: Option<Again>) -> Option<Box<Self>> {
        (again.is_some() || timeout.is_some()).then(|| Box::new(Self { retries, timeout, again }))
    }
}

/// What is to be called, and for how many arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Where it is in the program.
    pub function: u64,
    pub count: u32,
    /// Whether somebody wants to know how long it takes.
    pub measured: bool,
}

/// A task that is to be taken in.
pub(super) struct Draft<'a> {
    pub call: Call,
    pub sink: &'a Arc<dyn Sink>,
    /// See [`Part`].
    pub index: usize,
    /// The pool's own thread has something to do when it ends.
    pub calls_back: bool,
    pub terms: Option<Box<Terms>>,
    /// The arguments, if they are bytes as they are, and many: then nothing is written in front of them.
    pub large: &'a [u8],
    /// How long its sender waits for room.
    pub until: Deadline,
}

/// A task under way. It fits a cache line.
pub(super) struct Entry {
    pub generation: u64,
    pub call: Call,
    pub sink: Arc<dyn Sink>,
    pub index: usize,
    pub calls_back: bool,
    pub terms: Option<Box<Terms>>,
}

impl Entry {
    /// How long it may run.
    pub fn timeout(&self) -> Option<Duration> {
        self.terms.as_ref()?.timeout
    }

    /// What writes its arguments once more.
    pub fn again(&self) -> Option<&Again> {
        self.terms.as_ref()?.again.as_ref()
    }
}

/// All tasks under way, each in a slot, and those that were taken in without one.
pub(super) struct Ledger {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    next: u64,
    shut: bool,
    over: bool,
    /// Tasks that wait outside for a slot: see `feed.rs`.
    owed: usize,
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

impl Counts {
    #[inline]
    fn note(&mut self, how: Leaves) {
        match how {
            Leaves::Done => self.done += 1,
            Leaves::Failed => self.failed += 1,
            Leaves::Cancelled => self.cancelled += 1,
            Leaves::Unsent => self.submitted -= 1,
            Leaves::Owed => {}
        }
    }
}

/// How a task leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    Done,
    Failed,
    Cancelled,
    /// It was never sent, and does not count.
    Unsent,
    /// It was not sent, and waits for a slot once more.
    Owed,
}

impl Ledger {
    pub fn new(slots: usize) -> Self {
        let entries = (0..slots).map(|_| None).collect();
        let free = (0..slots as u32).rev().collect();
        Self { entries, free, next: 1, shut: false, over: false, owed: 0, counts: Counts::default() }
    }

    /// Takes a task in, if a slot is free and the ledger is not shut.
    #[inline]
    pub fn add(&mut self, draft: &mut Draft<'_>) -> Option<Ticket> {
        if self.shut {
            return None;
        }
        let ticket = self.enter(draft)?;
        self.counts.submitted += 1;
        Some(ticket)
    }

    #[inline]
    fn enter(&mut self, draft: &mut Draft<'_>) -> Option<Ticket> {
        let slot = self.free.pop()?;
        let generation = self.next;
        self.next += 1;
        let place = self.entries.get_mut(slot as usize)?;
        *place = Some(Entry {
            generation,
            call: draft.call,
            sink: Arc::clone(draft.sink),
            index: draft.index,
            calls_back: draft.calls_back,
            terms: draft.terms.take(),
        });
        Some(Ticket { slot, generation })
    }

    /// Takes so many tasks in that get their slots later; whether it does, which it does not if it is shut.
    pub fn owe(&mut self, tasks: usize) -> bool {
        if self.shut {
            return false;
        }
        self.owed += tasks;
        self.counts.submitted += tasks as u64;
        true
    }

    /// Whether a slot is free for one of those that wait for one. They leave a quarter to others.
    pub fn has_slot_for_owed(&self) -> bool {
        !self.over && self.free.len() > self.entries.len() / 4
    }

    /// Gives one of those that wait for a slot one, also if the ledger is shut.
    pub fn add_owed(&mut self, draft: &mut Draft<'_>) -> Option<Ticket> {
        if !self.has_slot_for_owed() {
            return None;
        }
        self.owed = self.owed.checked_sub(1)?;
        self.enter(draft)
    }

    /// Lets so many leave that wait for a slot.
    pub fn forgo(&mut self, tasks: usize, how: Leaves) {
        self.owed = self.owed.saturating_sub(tasks);
        (0..tasks).for_each(|_| self.counts.note(how));
    }

    /// From now on no task is taken in: once there is none, there will be none.
    pub fn shut(&mut self) {
        self.shut = true;
    }

    /// From now on no task gets a slot or another ticket.
    pub fn end(&mut self) {
        (self.shut, self.over) = (true, true);
    }

    /// Whether all tasks are given up.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Makes another ticket for a task that is to be begun again, if it may be: it stays in its slot all the time. Once all are
    /// given up none is begun again: whoever gives them up knows them by the tickets that they had after [`end`](Self::end).
    pub fn renew(&mut self, ticket: Ticket) -> Option<Ticket> {
        if self.over {
            return None;
        }
        let entry = self.entries.get_mut(ticket.slot as usize)?.as_mut()?;
        if entry.generation != ticket.generation || entry.again().is_none() {
            return None;
        }
        let terms = entry.terms.as_mut()?;
        terms.retries = terms.retries.checked_sub(1)?;
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
        self.counts.note(how);
        self.owed += usize::from(how == Leaves::Owed);
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

    /// How many tasks are under way, or wait for a slot.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len() + self.owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl Sink for Nowhere {
        fn put(&self, _: Part, _: Result<&[u8], TaskError>, _: u64) -> Option<Box<dyn FnOnce() + Send>> {
            None
        }
    }

    #[test]
    fn a_task_that_was_given_up_is_not_begun_again() {
        let sink: Arc<dyn Sink> = Arc::new(Nowhere);
        let mut draft = Draft {
            call: Call { function: 0, count: 1, measured: false },
            sink: &sink,
            index: 0,
            calls_back: false,
            terms: Terms::unless_usual(3, None, Some(Arc::new(|_| Ok(())))),
            large: &[],
            until: Deadline::NEVER,
        };
        let mut ledger = Ledger::new(1);
        let first = ledger.add(&mut draft).unwrap();
        let second = ledger.renew(first).unwrap();
        assert!(ledger.take(first, Leaves::Failed).is_none(), "its ticket is another one now");
        ledger.end();
        let given_up = ledger.tickets();
        assert_eq!((given_up.as_slice(), ledger.renew(second)), ([second].as_slice(), None));
        assert!(ledger.take(second, Leaves::Failed).is_some());
        assert_eq!(ledger.len(), 0);
    }
}
