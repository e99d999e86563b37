//! The owner's side of a pool: tasks go out, and whoever waits for a result reads what the workers send.
//!
//! There is no thread that all results pass through. Of the threads that wait, one leads: it reads the queue of results,
//! for all. The others follow, and one of them leads when the leader has what it waited for. A thread of the pool's own
//! leads when there are callbacks to be run, or when nobody else has come for a millisecond, so that workers never wait for
//! room; it makes way for others.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::board::{Board, Held, Ticket};
use super::error::TaskError;
use super::guard::{contained, guarded};
use super::ledger::{Call, Entry, Ledger, Sink, Terms};
use super::message::{AnswerHead, HEAD, TaskHead, Word};
use super::stats::PoolStats;
use crate::channel::{Queue, RawRefused};
use crate::codec;
use crate::error::Error;
use crate::process::{JoinError, Panic};
use crate::segment::Passed;
use crate::sys::clock::Deadline;
use crate::sys::poll::Bell;

/// How long the pool's own thread lets others come for their results before it reads them.
const GRACE: Duration = Duration::from_millis(1);
/// How long a task waits for room in the queue before its sender reads results.
const TURN: Duration = Duration::from_millis(1);

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
    ledger: Mutex<Ledger>,
    /// Whoever holds it leads; the buffer is for what is read.
    lead: Mutex<Vec<u8>>,
    /// Whether the pool's own thread leads, and who else wants to.
    own_leads: AtomicBool,
    give_way: AtomicBool,
    /// Followers sleep here, with the pool's own thread.
    hall: Mutex<Hall>,
    news: Condvar,
    /// How many callbacks wait in the hall.
    called: AtomicUsize,
    leave: AtomicBool,
    followers: AtomicUsize,
    /// Tasks that want the pool's own thread when they end.
    calling_back: AtomicUsize,
    own_sleeps: AtomicBool,
    state: Mutex<(State, Option<TaskError>)>,
    endings: Mutex<HashMap<u64, Ending>>,
    /// Tasks of dead workers that are to be begun again.
    again: Mutex<Vec<Ticket>>,
    ready: Mutex<Vec<u64>>,
    /// Rings for the thread that looks after the workers.
    pub bell: Bell,
    submitted: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    retried: AtomicU64,
    deaths: AtomicU64,
}

/// What the pool's own thread has to run. No other lock is taken, and nothing is asked whether it is done, that takes this
/// one: [`Owner::called`] tells about it.
type Hall = VecDeque<Box<dyn FnOnce() + Send>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owner {
    pub fn new(tasks: Queue<Vec<u8>>, results: Queue<Vec<u8>>, board: Board, slots: usize) -> Result<Self, Error> {
        Ok(Self {
            tasks,
            results,
            board,
            ledger: Mutex::new(Ledger::new(slots)),
            lead: Mutex::default(),
            own_leads: AtomicBool::new(false),
            give_way: AtomicBool::new(false),
            hall: Mutex::default(),
            news: Condvar::new(),
            called: AtomicUsize::new(0),
            leave: AtomicBool::new(false),
            followers: AtomicUsize::new(0),
            calling_back: AtomicUsize::new(0),
            own_sleeps: AtomicBool::new(false),
            state: Mutex::new((State::Open, None)),
            endings: Mutex::default(),
            again: Mutex::default(),
            ready: Mutex::default(),
            bell: Bell::new().map_err(|e| Error::os("make pool", e))?,
            submitted: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            deaths: AtomicU64::new(0),
        })
    }

    // ---- tasks go out

    /// Why nothing is taken any more, if that is so.
    pub fn refusal(&self) -> Option<TaskError> {
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
        call: Call,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
        sink: &Arc<dyn Sink>,
        index: u32,
        terms: Terms,
    ) -> Result<Ticket, TaskError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        codec::with_scratch(|buffer| {
            buffer.resize(HEAD, 0);
            let (encoded, passed) = self.tasks.encoding(|| guarded("encode arguments", || encode(buffer)));
            encoded.map_err(|e| TaskError::Arguments(Arc::new(e)))?;
            let calls_back = terms.calls_back;
            if terms.timeout.is_some() {
                self.board.set_timed();
                self.bell.ring();
            }
            let entry = Entry { generation: 0, call, sink: Arc::clone(sink), index, terms };
            let ticket = self.enter(entry)?;
            self.submitted.fetch_add(1, Relaxed);
            if calls_back {
                self.calling_back.fetch_add(1, Relaxed);
            }
            self.send(ticket, call, buffer, passed, true).inspect_err(|_| {
                // Nobody saw it, so it is still there, unless all were taken out.
                self.board.cancel(ticket);
                if let Some(entry) = locked(&self.ledger).take(ticket) {
                    self.submitted.fetch_sub(1, Relaxed);
                    self.left(&entry);
                }
            })?;
            Ok(ticket)
        })
    }

    /// Takes a task in, waiting for a slot.
    fn enter(&self, mut entry: Entry) -> Result<Ticket, TaskError> {
        loop {
            match locked(&self.ledger).add(entry) {
                Ok(ticket) => return Ok(ticket),
                Err(back) => entry = back,
            }
            if let Some(refusal) = self.refusal() {
                return Err(refusal);
            }
            let full = || locked(&self.ledger).is_full();
            self.wait_until(&|| !full() || self.refusal().is_some(), Deadline::NEVER);
        }
    }

    /// Puts the message of a task that was taken in; whether there was room, for which it may wait. After an error the task
    /// is still in.
    fn send(
        &self,
        ticket: Ticket,
        call: Call,
        buffer: &mut [u8],
        passed: Passed,
        may_wait: bool,
    ) -> Result<bool, TaskError> {
        TaskHead { ticket, function: call.function, count: call.count }.write(buffer);
        self.board.queue(ticket);
        let mut passed = Some(passed);
        let stop = || self.refusal().is_some_and(|why| !matches!(why, TaskError::Closed));
        let mut wait = Deadline::after(Duration::ZERO);
        let mut sent = true;
        loop {
            match self.tasks.put_encoded(buffer, &mut passed, wait, stop) {
                Ok(()) => break,
                Err(RawRefused::Timeout) if !may_wait => {
                    sent = false;
                    break;
                }
                Err(RawRefused::Timeout) => {
                    // The workers may wait for room for their results.
                    self.read_what_is_there();
                    wait = Deadline::after(TURN);
                }
                // It was taken out with all others.
                Err(RawRefused::Stopped) => break,
                Err(RawRefused::Failed(error)) => return Err(TaskError::Arguments(Arc::new(error))),
            }
        }
        if let Some(passed) = passed {
            passed.withdraw();
        }
        if self.own_sleeps.load(Relaxed) && self.own_sleeps.swap(false, Relaxed) {
            drop(locked(&self.hall));
            self.news.notify_all();
        }
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

    // ---- results come in

    /// Waits until `is_done`, which is asked after every result and every change of state; whether it came true in time.
    pub fn wait_until(&self, is_done: &dyn Fn() -> bool, deadline: Deadline) -> bool {
        self.wait_for(is_done, deadline, false)
    }

    fn wait_for(&self, is_done: &dyn Fn() -> bool, deadline: Deadline, own: bool) -> bool {
        loop {
            if is_done() {
                return true;
            }
            if let Ok(mut buffer) = self.lead.try_lock() {
                self.own_leads.store(own, SeqCst);
                let ended = self.lead_until(is_done, &mut buffer, deadline, own);
                drop(buffer);
                self.hand_over();
                match ended {
                    Some(done) => return done,
                    // Somebody else wants to, who is faster if this one does not come back at once.
                    None => return is_done(),
                }
            }
            if !self.follow(is_done, deadline, own) {
                return is_done();
            }
        }
    }

    /// Reads results until `is_done`; `None` if somebody else wants to lead.
    fn lead_until(
        &self,
        is_done: &dyn Fn() -> bool,
        buffer: &mut Vec<u8>,
        deadline: Deadline,
        own: bool,
    ) -> Option<bool> {
        loop {
            if is_done() {
                return Some(true);
            }
            if own && self.give_way.swap(false, SeqCst) {
                return None;
            }
            match self.results.get_encoded(buffer, deadline, || false) {
                Ok(_came) => self.read(buffer),
                Err(RawRefused::Timeout) if deadline.passed() => return Some(is_done()),
                Err(RawRefused::Timeout | RawRefused::Stopped) => {}
                Err(RawRefused::Failed(error)) => self.break_off(TaskError::failed(error)),
            }
        }
    }

    /// Sleeps until there is news; whether it makes sense to look again.
    fn follow(&self, is_done: &dyn Fn() -> bool, deadline: Deadline, own: bool) -> bool {
        let mut hall = locked(&self.hall);
        self.followers.fetch_add(1, Relaxed);
        // Whoever leads looks for followers after each result, and after it has stopped leading.
        fence(SeqCst);
        if !own && self.own_leads.load(SeqCst) && !self.give_way.swap(true, SeqCst) {
            self.nudge();
        }
        let mut again = true;
        if !is_done() && self.lead.try_lock().is_err() {
            match deadline.left_ns() {
                None => hall = self.news.wait(hall).unwrap_or_else(PoisonError::into_inner),
                Some(0) => again = false,
                Some(nanos) => {
                    let waited = self.news.wait_timeout(hall, Duration::from_nanos(nanos));
                    hall = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        self.followers.fetch_sub(1, Relaxed);
        drop(hall);
        again
    }

    /// Tells followers that there is news, or nobody leads.
    fn hand_over(&self) {
        self.own_leads.store(false, SeqCst);
        fence(SeqCst);
        if self.followers.load(Relaxed) > 0 {
            drop(locked(&self.hall));
            self.news.notify_all();
        }
    }

    /// Makes everybody who waits ask again whether it is done.
    pub fn look_again(&self) {
        self.nudge();
        drop(locked(&self.hall));
        self.news.notify_all();
    }

    /// Makes whoever leads ask again.
    fn nudge(&self) {
        let look = AnswerHead::of_worker(Word::Look, 0).with(&[]);
        // If there is no room, there is enough to be read.
        let _ = self.results.put_encoded(&look, &mut None, Deadline::after(Duration::ZERO), || false);
    }

    /// Reads results that are there, unless somebody leads.
    pub fn read_what_is_there(&self) {
        if let Ok(mut buffer) = self.lead.try_lock() {
            while let Ok(_came) = self.results.try_get_encoded(&mut buffer) {
                self.read(&buffer);
            }
            drop(buffer);
            self.hand_over();
        }
    }

    /// Deals with a message.
    fn read(&self, message: &[u8]) {
        let Some(AnswerHead { word, ticket, nanos }) = AnswerHead::read(message) else { return };
        let rest = &message[HEAD..];
        match word {
            Word::Returned => drop(self.resolve(ticket, Ok(rest), nanos)),
            Word::Panicked => drop(self.resolve(ticket, Err(panicked(rest)), nanos)),
            Word::Unsendable => drop(self.resolve(ticket, Err(unsendable(rest)), nanos)),
            Word::Ready => locked(&self.ready).push(ticket.generation),
            Word::InitializerFailed => {
                self.break_off(TaskError::Broken { reason: String::from_utf8_lossy(rest).into_owned() });
            }
            Word::Died => self.bury(ticket.generation),
            Word::Look => {}
        }
        fence(SeqCst);
        if self.followers.load(Relaxed) > 0 {
            drop(locked(&self.hall));
            self.news.notify_all();
        }
    }

    /// Lets a task leave with this outcome, unless it has left; whether it does.
    fn resolve(&self, ticket: Ticket, outcome: Result<&[u8], TaskError>, nanos: u64) -> bool {
        let Some(entry) = locked(&self.ledger).take(ticket) else { return false };
        let count = match &outcome {
            Ok(_) => &self.done,
            Err(TaskError::Cancelled) => &self.cancelled,
            Err(_) => &self.failed,
        };
        count.fetch_add(1, Relaxed);
        self.settle(entry, outcome, nanos);
        true
    }

    fn settle(&self, entry: Entry, outcome: Result<&[u8], TaskError>, nanos: u64) {
        if let Some(callback) = contained(|| entry.sink.put(entry.index, outcome, nanos)).flatten() {
            self.push_callback(callback);
            self.news.notify_all();
        }
        self.left(&entry);
        // With it go arguments, and results that nobody wants.
        contained(|| drop(entry));
    }

    fn left(&self, entry: &Entry) {
        if entry.terms.calls_back {
            self.calling_back.fetch_sub(1, Release);
        }
    }

    // ---- deaths

    /// Notes how a worker ended, and whether the pool wanted it to. All that it sent was sent before.
    pub fn announce_death(&self, serial: u64, ending: Ending, wanted: bool) {
        self.deaths.fetch_add(u64::from(!wanted), Relaxed);
        locked(&self.endings).insert(serial, ending);
        let died = AnswerHead::of_worker(Word::Died, serial).with(&[]);
        while let Err(RawRefused::Timeout) = self.results.put_encoded(&died, &mut None, Deadline::after(TURN), || false)
        {
            self.read_what_is_there();
        }
        self.wait_until(&|| !locked(&self.endings).contains_key(&serial), Deadline::NEVER);
    }

    /// Everything that a dead worker sent was read: what it still had died with it.
    fn bury(&self, serial: u64) {
        let Some(ending) = locked(&self.endings).get(&serial).cloned() else { return };
        let tickets = locked(&self.ledger).tickets();
        for ticket in tickets {
            let Some(held) = self.board.held(ticket, serial) else { continue };
            self.lose(ticket, held, &ending);
        }
        locked(&self.endings).remove(&serial);
    }

    fn lose(&self, ticket: Ticket, held: Held, ending: &Ending) {
        let mut ledger = locked(&self.ledger);
        if held == Held::Running {
            if let Some(ticket) = ledger.renew(ticket) {
                drop(ledger);
                self.retried.fetch_add(1, Relaxed);
                locked(&self.again).push(ticket);
                return;
            }
        }
        let Some(entry) = ledger.get(ticket) else { return };
        let error = match (held, entry.terms.timeout) {
            (Held::Expired, Some(timeout)) => TaskError::TimedOut { timeout },
            _ => TaskError::WorkerDied { pid: ending.pid, status: Arc::clone(&ending.status) },
        };
        drop(ledger);
        self.resolve(ticket, Err(error), 0);
    }

    /// Sends the tasks of dead workers once more; whether there was room for all of them. It never waits, since whoever calls it
    /// replaces the workers that make room.
    pub fn send_again(&self) -> bool {
        loop {
            let Some(ticket) = locked(&self.again).pop() else { return true };
            let found = locked(&self.ledger).get(ticket).map(|entry| (entry.call, entry.terms.again.clone()));
            // If it is gone, all were given up.
            let Some((call, Some(again))) = found else { continue };
            let mut buffer = vec![0; HEAD];
            let (encoded, passed) = self.tasks.encoding(|| guarded("encode arguments", || again(&mut buffer)));
            // Perhaps the last one that has the arguments.
            contained(|| drop(again));
            let sent = match encoded {
                Ok(()) => self.send(ticket, call, &mut buffer, passed, false),
                Err(error) => Err(TaskError::Arguments(Arc::new(error))),
            };
            match sent {
                Ok(true) => {}
                Ok(false) => {
                    locked(&self.again).push(ticket);
                    return false;
                }
                Err(error) => {
                    self.board.cancel(ticket);
                    self.resolve(ticket, Err(error), 0);
                    self.look_again();
                }
            }
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
        }
        locked(&self.ledger).shut();
        self.fail_all(&why);
        self.bell.ring();
        self.tasks.wake_all();
        self.look_again();
    }

    fn fail_all(&self, why: &TaskError) {
        let tickets = locked(&self.ledger).tickets();
        for ticket in tickets {
            self.board.cancel(ticket);
            self.resolve(ticket, Err(why.clone()), 0);
        }
    }

    // ---- the pool's state

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
        }
        locked(&self.ledger).shut();
    }

    /// Takes no more tasks, and gives those up that there are.
    pub fn terminate(&self) {
        locked(&self.state).0 = State::Terminated;
        locked(&self.ledger).shut();
        self.board.stop();
        self.fail_all(&TaskError::Terminated);
        self.tasks.wake_all();
        self.results.wake_all();
        self.look_again();
        self.bell.ring();
    }

    /// Workers end when they have nothing to do.
    pub fn stop_workers(&self) {
        self.board.stop();
        self.tasks.wake_all();
        self.bell.ring();
    }

    /// Has the pool's own thread run something.
    pub fn call_back(&self, callback: Box<dyn FnOnce() + Send>) {
        self.push_callback(callback);
        self.look_again();
    }

    fn push_callback(&self, callback: Box<dyn FnOnce() + Send>) {
        let mut hall = locked(&self.hall);
        hall.push_back(callback);
        self.called.store(hall.len(), Release);
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
        Some((ticket, entry.terms.timeout?))
    }

    /// The shortest time that a task under way may run.
    pub fn shortest_limit(&self) -> Option<Duration> {
        if !self.board.is_timed() {
            return None;
        }
        let ledger = locked(&self.ledger);
        let limits = ledger.tickets();
        limits.into_iter().filter_map(|ticket| ledger.get(ticket)?.terms.timeout).min()
    }

    pub fn stats(&self) -> PoolStats {
        let load = |count: &AtomicU64| count.load(Relaxed);
        PoolStats {
            submitted: load(&self.submitted),
            done: load(&self.done),
            failed: load(&self.failed),
            cancelled: load(&self.cancelled),
            retried: load(&self.retried),
            deaths: load(&self.deaths),
        }
    }

    // ---- the pool's own thread

    /// Runs callbacks, and reads results when nobody else does, until [`dismiss`](Self::dismiss).
    pub fn serve(&self) {
        loop {
            let mut hall = locked(&self.hall);
            if let Some(callback) = hall.pop_front() {
                self.called.store(hall.len(), Release);
                drop(hall);
                contained(callback);
                self.look_again();
                continue;
            }
            if self.leave.load(Acquire) {
                return;
            }
            if self.calling_back.load(Acquire) == 0 {
                if self.under_way() == 0 {
                    self.own_sleeps.store(true, Relaxed);
                    fence(SeqCst);
                    if self.under_way() == 0 {
                        drop(self.news.wait(hall).unwrap_or_else(PoisonError::into_inner));
                    }
                    self.own_sleeps.store(false, Relaxed);
                    continue;
                }
                // Whoever wants a result reads it himself, if he comes at once.
                hall = self.news.wait_timeout(hall, GRACE).unwrap_or_else(PoisonError::into_inner).0;
            }
            drop(hall);
            let is_called = || self.called.load(Acquire) > 0 || self.leave.load(Acquire);
            let is_done = || is_called() || self.under_way() == 0;
            if self.calling_back.load(Acquire) > 0 {
                self.wait_for(&is_done, Deadline::NEVER, false);
            } else {
                self.wait_for(&is_done, Deadline::NEVER, true);
            }
        }
    }

    /// Ends the pool's own thread, when it has run all callbacks.
    pub fn dismiss(&self) {
        self.leave.store(true, Release);
        self.look_again();
    }
}

fn panicked(bytes: &[u8]) -> TaskError {
    match codec::decode::<Panic>(bytes) {
        Ok(panic) => panic.into(),
        Err(error) => TaskError::Result(Arc::new(error)),
    }
}

fn unsendable(bytes: &[u8]) -> TaskError {
    let error = match codec::decode::<String>(bytes) {
        Ok(text) => Error::new(crate::error::ErrorKind::Codec, "send result", text),
        Err(error) => error,
    };
    TaskError::Result(Arc::new(error))
}
