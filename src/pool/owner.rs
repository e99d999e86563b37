//! The owner's side of a pool: what its threads share, how tasks go out, and how each ends once.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::audit::{Audit, Said};
use super::board::{Board, Ticket};
use super::error::TaskError;
use super::feed::Feeds;
use super::guard::{contained, guarded};
use super::lead::Lead;
use super::ledger::{Call, Counts, Draft, Entry, Leaves, Ledger, Part};
use super::letters::Letters;
use super::message::{HEAD, TaskHead};
use super::stats::PoolStats;
use crate::channel::{Queue, RawRefused};
use crate::codec;
use crate::error::Error;
use crate::process::JoinError;
use crate::segment::Passed;
use crate::sys::clock::Deadline;
use crate::sys::poll::Bell;

/// How long a task waits for room in the queue before its sender reads results.
pub(super) const TURN: Duration = Duration::from_millis(1);

/// What the pool takes and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Closed,
    Terminated,
}

/// How a worker ended.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub pid: u32,
    pub status: Arc<JoinError>,
}

/// What the owner's threads share.
pub(super) struct Owner {
    pub tasks: Queue<Vec<u8>>,
    pub results: Queue<Vec<u8>>,
    pub board: Board,
    pub(super) ledger: Mutex<Ledger>,
    /// How many tasks were under way when the ledger was last changed.
    pub(super) crowd: AtomicUsize,
    /// What of maps goes out as slots become free, and how many of these maps there are.
    pub(super) feeds: Mutex<Feeds>,
    pub(super) feeding: AtomicUsize,
    /// One of them waits for room in the queue, which nobody else may look for.
    pub(super) starved: AtomicBool,
    /// Who reads results, into these letters, and who sleeps meanwhile, with the pool's own thread.
    pub(super) lead: Lead<Letters, Hall>,
    /// How many callbacks wait in the hall.
    pub(super) called: AtomicUsize,
    /// How many callbacks have not returned.
    pub(super) calls: AtomicUsize,
    /// The pool's own thread, which may wait for the pool in a callback.
    pub(super) own: OnceLock<ThreadId>,
    pub(super) leave: AtomicBool,
    /// Tasks that want the pool's own thread when they end.
    pub(super) calling_back: AtomicUsize,
    pub(super) state: Mutex<(State, Option<TaskError>)>,
    /// It is another than open and whole.
    refuses: AtomicBool,
    /// What was said on the board, which others can write.
    pub(super) said: Said,
    pub(super) audit: Mutex<Audit>,
    pub(super) endings: Mutex<HashMap<u64, Ending>>,
    /// Tasks of dead workers that are to be begun again.
    pub(super) again: Mutex<Vec<Ticket>>,
    pub(super) ready: Mutex<Vec<u64>>,
    /// Rings for the thread that looks after the workers.
    pub bell: Bell,
    pub(super) retried: AtomicU64,
    pub(super) deaths: AtomicU64,
}

/// What the pool's own thread has to run. No other lock is taken, and nothing is asked whether it is done, that takes this
/// one: [`Owner::called`] tells about it.
pub(super) type Hall = VecDeque<Box<dyn FnOnce() + Send>>;

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owner {
    pub fn new(tasks: Queue<Vec<u8>>, results: Queue<Vec<u8>>, board: Board, slots: usize) -> Result<Self, Error> {
        Ok(Self {
            tasks,
            results,
            board,
            ledger: Mutex::new(Ledger::new(slots)),
            crowd: AtomicUsize::new(0),
            feeds: Mutex::default(),
            feeding: AtomicUsize::new(0),
            starved: AtomicBool::new(false),
            lead: Lead::new(Letters::default(), Hall::new()),
            called: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            own: OnceLock::new(),
            leave: AtomicBool::new(false),
            calling_back: AtomicUsize::new(0),
            state: Mutex::new((State::Open, None)),
            refuses: AtomicBool::new(false),
            said: Said::default(),
            audit: Mutex::default(),
            endings: Mutex::default(),
            again: Mutex::default(),
            ready: Mutex::default(),
            bell: Bell::new().map_err(|e| Error::os("make pool", e))?,
            retried: AtomicU64::new(0),
            deaths: AtomicU64::new(0),
        })
    }

    /// Why nothing is taken any more, if that is so.
    #[inline]
    pub fn refusal(&self) -> Option<TaskError> {
        if self.refuses.load(Acquire) { self.why() } else { None }
    }

    #[cold]
    fn why(&self) -> Option<TaskError> {
        let state = locked(&self.state);
        match (&state.0, &state.1) {
            (_, Some(broken)) => Some(broken.clone()),
            (State::Open, _) => None,
            (State::Closed, _) => Some(TaskError::Closed),
            (State::Terminated, _) => Some(TaskError::Terminated),
        }
    }

    /// Sends a task whose arguments `encode` writes.
    pub fn submit(
        &self,
        draft: &mut Draft<'_>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<Ticket, TaskError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        codec::with_scratch(|buffer| {
            buffer.resize(HEAD, 0);
            let (encoded, passed) = self.tasks.encoding(|| guarded("encode arguments", || encode(buffer)));
            encoded.map_err(|e| TaskError::Arguments(Arc::new(e)))?;
            let timed = self.will_be_timed(draft);
            let ticket = match self.change(|ledger| ledger.add(draft)) {
                Some(ticket) => ticket,
                None => self.enter(draft)?,
            };
            if timed {
                // Whoever is woken finds it in the ledger.
                self.bell.ring();
            }
            if draft.calls_back {
                self.calling_back.fetch_add(1, Relaxed);
            }
            let error = match self.send(ticket, draft.call, (buffer, draft.large), passed, draft.until) {
                Ok(true) => return Ok(ticket),
                Ok(false) => TaskError::Full,
                Err(error) => error,
            };
            // Nobody saw it, so it is still there, unless all were taken out: then that is what became of it.
            self.board.cancel(ticket);
            let Some(entry) = self.change(|ledger| ledger.take(ticket, Leaves::Unsent)) else {
                return if matches!(error, TaskError::Full) { Ok(ticket) } else { Err(error) };
            };
            self.left(&entry);
            self.look_again();
            Err(error)
        })
    }

    /// Says that tasks may have time limits, before this one can be begun, if it has one; whether it has.
    pub(super) fn will_be_timed(&self, draft: &Draft<'_>) -> bool {
        let timed = draft.terms.as_ref().is_some_and(|terms| terms.timeout.is_some());
        if timed {
            self.set_timed();
        }
        timed
    }

    /// Changes the ledger, and says how many tasks are under way then.
    #[inline]
    pub(super) fn change<R>(&self, f: impl FnOnce(&mut Ledger) -> R) -> R {
        let mut ledger = locked(&self.ledger);
        let changed = f(&mut ledger);
        self.crowd.store(ledger.len(), Relaxed);
        changed
    }

    /// Takes a task in, waiting for a slot.
    #[cold]
    fn enter(&self, draft: &mut Draft<'_>) -> Result<Ticket, TaskError> {
        loop {
            if let Some(ticket) = self.change(|ledger| ledger.add(draft)) {
                return Ok(ticket);
            }
            let full = || locked(&self.ledger).is_full();
            if draft.until.passed() {
                // Results that wait to be read may be those of all slots.
                self.read_what_is_there();
            }
            let has_room = self.wait_until(&|| !full() || self.refusal().is_some(), draft.until);
            if let Some(refusal) = self.refusal() {
                return Err(refusal);
            }
            if !has_room {
                return Err(TaskError::Full);
            }
        }
    }

    /// Puts the message of a task that was taken in, which may lie in two places; whether there was room in time. After an error the task is still in.
    pub(super) fn send(
        &self,
        ticket: Ticket,
        call: Call,
        (buffer, large): (&mut [u8], &[u8]),
        mut passed: Passed,
        until: Deadline,
    ) -> Result<bool, TaskError> {
        let Call { function, count, measured } = call;
        TaskHead { ticket, function, count: count.into(), measured }.write(buffer);
        self.board.queue(ticket);
        let stop = || self.refusal().is_some_and(|why| !matches!(why, TaskError::Closed));
        let mut wait = Deadline::after(Duration::ZERO);
        let mut sent = true;
        loop {
            match self.tasks.put_parts([buffer, large], &mut passed, wait, stop) {
                Ok(()) => break,
                Err(RawRefused::Timeout) if until.passed() => {
                    sent = false;
                    break;
                }
                Err(RawRefused::Timeout) => {
                    // The workers may wait for room for their results.
                    self.read_what_is_there();
                    wait = until.min(Deadline::after(TURN));
                }
                // It was taken out with all others.
                Err(RawRefused::Stopped) => break,
                Err(RawRefused::Failed(error)) => return Err(TaskError::Arguments(Arc::new(error))),
            }
        }
        self.lead.rouse();
        Ok(sent)
    }

    /// Takes a task out that no worker has begun; whether it is out.
    pub fn cancel(&self, ticket: Ticket) -> bool {
        // Whoever changes the word takes the entry out.
        if !self.board.cancel(ticket) {
            return false;
        }
        let cancelled = self.resolve(ticket, Err(TaskError::Cancelled), 0);
        self.look_again();
        cancelled
    }

    /// Takes all tasks out that no worker has begun; how many.
    pub fn cancel_all(&self) -> usize {
        // First what would take the slots of the others.
        let waiting = self.cancel_feeds();
        let tickets = locked(&self.ledger).tickets();
        let is_out =
            |ticket: &Ticket| self.board.cancel(*ticket) && self.resolve(*ticket, Err(TaskError::Cancelled), 0);
        let count = tickets.into_iter().filter(is_out).count() + waiting;
        self.look_again();
        count
    }

    /// Lets a task leave with this outcome, unless it has left; whether it does.
    pub(super) fn resolve(&self, ticket: Ticket, outcome: Result<&[u8], TaskError>, nanos: u64) -> bool {
        let how = match &outcome {
            Ok(_) => Leaves::Done,
            Err(TaskError::Cancelled) => Leaves::Cancelled,
            Err(_) => Leaves::Failed,
        };
        let Some(entry) = self.change(|ledger| ledger.take(ticket, how)) else { return false };
        self.settle(entry, outcome, nanos);
        true
    }

    pub(super) fn settle(&self, entry: Entry, outcome: Result<&[u8], TaskError>, nanos: u64) {
        let part = Part { index: entry.index, items: entry.call.count as usize };
        if let Some(callback) = contained(|| entry.sink.put(part, outcome, nanos)).flatten() {
            self.push_callback(callback);
            self.lead.wake();
        }
        self.leave(entry);
    }

    /// A task has left the ledger and was settled.
    pub(super) fn leave(&self, entry: Entry) {
        self.left(&entry);
        // With it go arguments, and results that nobody wants.
        contained(|| drop(entry));
    }

    pub(super) fn left(&self, entry: &Entry) {
        if entry.calls_back {
            self.calling_back.fetch_sub(1, Release);
        }
    }

    /// Ends everything: the pool can do nothing any more, for this reason.
    pub fn break_off(&self, why: TaskError) {
        {
            let mut state = locked(&self.state);
            if state.1.is_some() {
                return;
            }
            state.1 = Some(why.clone());
            self.refuses.store(true, Release);
        }
        self.said.ending.store(true, Release);
        locked(&self.ledger).end();
        self.fail_all(&why);
        self.bell.ring();
        self.tasks.wake_all();
        self.look_again();
    }

    pub(super) fn fail_all(&self, why: &TaskError) {
        let tickets = locked(&self.ledger).tickets();
        for ticket in tickets {
            self.board.cancel(ticket);
            self.resolve(ticket, Err(why.clone()), 0);
        }
        self.give_up_feeds();
    }

    pub fn state(&self) -> State {
        locked(&self.state).0
    }

    /// Whether the pool can do nothing any more, and why.
    pub fn is_broken(&self) -> bool {
        locked(&self.state).1.is_some()
    }

    /// Takes no more tasks.
    pub fn close(&self) {
        {
            let mut state = locked(&self.state);
            if state.0 == State::Open {
                state.0 = State::Closed;
            }
            self.refuses.store(true, Release);
        }
        locked(&self.ledger).shut();
        // Whoever waits for a slot gets none any more.
        self.look_again();
    }

    /// Takes no more tasks, and gives those up that there are.
    pub fn terminate(&self) {
        {
            let mut state = locked(&self.state);
            state.0 = State::Terminated;
            self.refuses.store(true, Release);
        }
        self.said.ending.store(true, Release);
        locked(&self.ledger).end();
        self.stop();
        self.fail_all(&TaskError::Terminated);
        self.tasks.wake_all();
        self.results.wake_all();
        self.look_again();
        self.bell.ring();
    }

    /// Workers end when they have nothing to do.
    pub fn stop_workers(&self) {
        self.stop();
        self.tasks.wake_all();
        self.bell.ring();
    }

    /// Has the pool's own thread run something.
    pub fn call_back(&self, callback: Box<dyn FnOnce() + Send>) {
        self.push_callback(callback);
        self.look_again();
    }

    pub(super) fn push_callback(&self, callback: Box<dyn FnOnce() + Send>) {
        self.calls.fetch_add(1, Relaxed);
        let mut hall = self.lead.hall();
        hall.push_back(callback);
        self.called.store(hall.len(), Release);
    }

    /// Whether no task is under way, and no callback of one that was.
    pub fn is_at_rest(&self) -> bool {
        // What was taken in is in the ledger, and so dropped when it has left. A task leaves it, then its callback is one that has not returned, then it no longer calls back.
        let mine = usize::from(self.own.get() == Some(&thread::current().id()));
        self.under_way() == 0
            && self.feeding.load(Acquire) == 0
            && self.calling_back.load(Acquire) == 0
            && self.calls.load(Acquire) <= mine
    }

    /// How many tasks are under way.
    pub fn under_way(&self) -> usize {
        locked(&self.ledger).len()
    }

    /// Workers that said they can begin, since the last call.
    pub fn take_ready(&self) -> Vec<u64> {
        std::mem::take(&mut *locked(&self.ready))
    }

    /// How long the task in a slot may run.
    pub fn limit_of(&self, slot: u32) -> Option<(Ticket, Duration)> {
        let ledger = locked(&self.ledger);
        let (ticket, entry) = ledger.in_slot(slot)?;
        Some((ticket, entry.timeout()?))
    }

    /// The shortest time that a task under way may run.
    pub fn shortest_limit(&self) -> Option<Duration> {
        if !self.is_timed() {
            return None;
        }
        let ledger = locked(&self.ledger);
        let limits = ledger.tickets();
        limits.into_iter().filter_map(|ticket| ledger.get(ticket)?.timeout()).min()
    }

    pub fn stats(&self) -> PoolStats {
        let Counts { submitted, done, failed, cancelled } = locked(&self.ledger).counts;
        let (retried, deaths) = (self.retried.load(Relaxed), self.deaths.load(Relaxed));
        PoolStats { submitted, done, failed, cancelled, retried, deaths }
    }
}
