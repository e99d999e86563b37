//! Tasks that nobody is going to end, since somebody wrote wrong bytes under the pool.
//!
//! What a death does is known from the death. Wrong bytes tell nobody: a slot's word that fits no state, a message that is
//! not in its queue any more. So while tasks are under way for long, the thread that looks after the workers compares, every
//! [`PERIOD`], what the ledger knows with what the board and the queues say. What does not fit at [`LOOKS`] looks is an error of its
//! task; what concerns all tasks breaks the pool off. Nothing of this is on the way of a task that is done soon.
//!
//! 1. A task that is queued while the queue of tasks is at rest: its message is lost. A message is in the queue until its task is
//!    begun.
//! 2. A task that was begun by a worker that is not there: the dead were buried before.
//! 3. A task that was begun by a worker which says that it rests, while the queue of results is at rest: its result is lost.
//! 4. Any other word: it is wrong.
//! 5. A task that was begun longer ago than it may run: the worker's own note about it is wrong, so its worker is killed.
//! 6. A message that is being written or read all the time, by this process, by a worker that rests, or by nobody.
//! 7. A message that could be taken all the time, while somebody looks for one and finds none.
//!
//! Not found is what says of a worker that it is at it while it does not rest: it could be stopped. Then
//! [`terminate`](super::Pool::terminate) ends the tasks.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use super::board::{Standing, Ticket};
use super::error::TaskError;
use super::owner::{Owner, locked};
use crate::channel::{Flow, Queue};
use crate::error::Error;
use crate::sys::clock::now_ns;

/// Between two looks.
pub(super) const PERIOD: Duration = Duration::from_millis(500);
/// After so many looks it is certain.
const LOOKS: u32 = 3;

/// What the owner has said on the board, and others may have written over.
#[derive(Default)]
pub(super) struct Said {
    stopping: AtomicBool,
    timed: AtomicBool,
    /// Not on the board: no task is done any more.
    pub ending: AtomicBool,
    /// How often whoever leads has found no result.
    waits: AtomicU64,
}

/// One of a pool's queues.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Tasks = 0,
    Results = 1,
}

/// What was seen at the last looks.
#[derive(Default)]
pub(super) struct Audit {
    last_ns: u64,
    /// How each queue stood, and at how many looks in a row.
    ways: [(Option<Flow>, u32); 2],
    /// What its takers said that find nothing: each worker that rests, whoever leads.
    rests: Vec<(u64, u32)>,
    waits: u64,
    seen: HashMap<u64, Seen>,
    workers: Vec<Worker>,
}

/// A worker that lives.
#[derive(Clone, Copy)]
pub(super) struct Worker {
    pub serial: u64,
    pub row: usize,
    pub pid: u32,
}

/// A task as it was seen.
#[derive(Clone, Copy)]
struct Seen {
    standing: Standing,
    since_ns: u64,
    doubts: u32,
}

impl Owner {
    /// Workers are to end when they have nothing to do.
    pub(super) fn stop(&self) {
        self.said.stopping.store(true, Release);
        self.board.stop();
    }

    /// Whether they are.
    pub(super) fn is_stopping(&self) -> bool {
        self.said.stopping.load(Acquire)
    }

    /// Workers are to say when they begin.
    pub(super) fn set_timed(&self) {
        self.said.timed.store(true, Relaxed);
        self.board.set_timed();
    }

    /// Whether a task may have a time limit.
    pub(super) fn is_timed(&self) -> bool {
        self.said.timed.load(Relaxed)
    }

    /// Whether no task is done any more.
    pub(super) fn is_ending(&self) -> bool {
        self.said.ending.load(Acquire)
    }

    /// Whoever leads has found no result. Whether no task is done any more.
    #[inline]
    pub(super) fn waits_on(&self) -> bool {
        // Only whoever leads changes it.
        let waits = &self.said.waits;
        waits.store(waits.load(Relaxed) + 1, Relaxed);
        self.is_ending()
    }

    /// Says once more what the board does not say any more. If it says what was not said, workers end that are not to.
    pub(super) fn say_again(&self) {
        let says = self.board.is_stopping();
        if says && !self.is_stopping() {
            let error = Error::corrupt("pool", "state", "to be ended", "to go on");
            self.break_off(TaskError::failed(error));
        }
        if !says && self.is_stopping() {
            self.board.stop();
            self.tasks.wake_all();
        }
        if self.is_timed() {
            self.board.set_timed();
        }
    }

    /// Looks whether the tasks under way are, if the last look is long enough ago. `workers` are those that live; the numbers
    /// of those are given back that are to be killed.
    pub(super) fn look_after_tasks(&self, workers: Vec<Worker>) -> Vec<u64> {
        let mut audit = locked(&self.audit);
        audit.workers = workers;
        if self.is_ending() || !self.look_at_queues(&mut audit) {
            return Vec::new();
        }
        let now = now_ns();
        let under_way: Vec<_> = {
            let ledger = locked(&self.ledger);
            let limit = |ticket| ledger.get(ticket).and_then(|entry| entry.timeout());
            ledger.tickets().into_iter().map(|ticket| (ticket, limit(ticket))).collect()
        };
        let again = locked(&self.again).clone();
        let at_rest = |way: Way| matches!(audit.ways[way as usize].0, Some(Flow::AtRest(_)));
        let (lost, read) = (at_rest(Way::Tasks), at_rest(Way::Results));
        let before = std::mem::take(&mut audit.seen);
        let (mut wrong, mut late) = (Vec::new(), Vec::new());
        for (ticket, limit) in under_way {
            if again.contains(&ticket) {
                continue;
            }
            let standing = self.board.standing(ticket);
            let doubted = match standing {
                Standing::Queued => lost.then_some(true),
                Standing::Begun(worker) => match audit.workers.iter().find(|other| other.serial == worker) {
                    Some(Worker { row, .. }) if self.board.rests(*row).is_some() => read.then_some(true),
                    Some(_) => Some(false),
                    None => Some(true),
                },
                Standing::Wrong(_) => Some(true),
            };
            let first = Seen { standing, since_ns: now, doubts: 0 };
            let mut seen =
                before.get(&ticket.generation).copied().filter(|seen| seen.standing == standing).unwrap_or(first);
            match doubted {
                Some(true) => seen.doubts += 1,
                Some(false) => seen.doubts = 0,
                // What was put since the last look hides it.
                None => {}
            }
            if seen.doubts >= LOOKS {
                wrong.push((ticket, standing));
                continue;
            }
            if let (Standing::Begun(worker), Some(limit)) = (standing, limit) {
                let ran = u128::from(now.saturating_sub(seen.since_ns));
                if ran > (limit + PERIOD).as_nanos() && self.board.expire(ticket, worker) {
                    late.push(worker);
                }
            }
            audit.seen.insert(ticket.generation, seen);
        }
        drop(audit);
        wrong.into_iter().for_each(|(ticket, standing)| self.give_up(ticket, standing));
        late
    }

    /// Looks at the queues, if the last look is long enough ago; whether it was.
    fn look_at_queues(&self, audit: &mut Audit) -> bool {
        let now = now_ns();
        if now.saturating_sub(audit.last_ns) < PERIOD.as_nanos() as u64 {
            return false;
        }
        audit.last_ns = now;
        let in_vain = self.look_in_vain(audit);
        for which in [Way::Tasks, Way::Results] {
            let way = &mut audit.ways[which as usize];
            let flow = match self.queue(which).flow() {
                Ok(flow) => flow,
                Err(error) => {
                    self.break_off(TaskError::failed(error));
                    return false;
                }
            };
            let same = way.0 == Some(flow) && (!matches!(flow, Flow::Open(_)) || in_vain[which as usize]);
            let count = if same { way.1.saturating_add(1) } else { 1 };
            *way = (Some(flow), count);
            let is_wrong = match flow {
                Flow::AtRest(_) => false,
                Flow::Open(_) => true,
                Flow::Held(_, pid) => {
                    let by = pid.and_then(|pid| audit.workers.iter().find(|worker| worker.pid == pid));
                    by.is_none_or(|worker| self.board.rests(worker.row).is_some())
                }
            };
            if is_wrong && count >= LOOKS {
                let error = Error::corrupt("pool", "queue", format!("{flow:?}"), "one from which somebody takes");
                self.break_off(TaskError::failed(error));
                return false;
            }
        }
        true
    }

    fn queue(&self, way: Way) -> &Queue<Vec<u8>> {
        match way {
            Way::Tasks => &self.tasks,
            Way::Results => &self.results,
        }
    }

    /// Of each queue, whether somebody has looked into it since the last look, and has found nothing.
    fn look_in_vain(&self, audit: &mut Audit) -> [bool; 2] {
        let rests = audit.workers.iter().filter_map(|worker| Some((worker.serial, self.board.rests(worker.row)?)));
        let before = std::mem::replace(&mut audit.rests, rests.collect());
        let went_on = |(serial, times): &(u64, u32)| before.iter().any(|(other, then)| other == serial && times > then);
        let tasks = audit.rests.iter().any(went_on);
        let waits = self.said.waits.load(Relaxed);
        [tasks, std::mem::replace(&mut audit.waits, waits) != waits]
    }

    /// Whether everything in a queue was taken, and nothing came since the looks before.
    pub(super) fn is_lost(&self, way: Way) -> bool {
        let mut audit = locked(&self.audit);
        self.look_at_queues(&mut audit);
        matches!(audit.ways[way as usize], (Some(Flow::AtRest(_)), LOOKS..))
    }

    fn give_up(&self, ticket: Ticket, standing: Standing) {
        // If it should still be there, it is not begun any more.
        self.board.cancel(ticket);
        let found = match standing {
            Standing::Queued => "queued, and its message is not there".to_owned(),
            Standing::Begun(worker) => format!("begun by worker {worker}, which knows nothing of it"),
            Standing::Wrong(word) => format!("{word:#x}"),
        };
        let error = Error::corrupt("pool", "task", found, "one that is under way");
        self.resolve(ticket, Err(TaskError::failed(error)), 0);
        self.look_again();
    }
}
