//! A user's side of a pool that another process has: requests go out through the pool's pipe, replies come in through one of
//! this process's own, which is made with the first request.
//!
//! Whoever finds out that the owner is gone ends everything under way with an error.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Release;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use super::board::Ticket;
use super::client_waits::Hall;
use super::error::TaskError;
use super::guard::{contained, guarded};
use super::ledger::{Draft, Part, Sink};
use super::owner::locked;
use super::report::{Hello, REQUEST_HEAD, Request, Wish};
use crate::channel::{Connection, RawRefused, Receiver, Sender};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::segment::Passed;
use crate::shared::RawValue;
use crate::sys::clock::Deadline;
use crate::sys::image::Image;

/// Tasks of one process under way at once: whoever submits one more waits.
const DEPTH: usize = 4096;
/// Bytes of the ring of replies.
const REPLY_BYTES: usize = 64 << 10;
pub(super) type Callback = Box<dyn FnOnce() + Send>;

/// What reaches a pool, and what marks its end.
pub(super) struct Reach {
    pub requests: Sender<Vec<u8>>,
    /// Not 0: nobody reads requests any more.
    pub over: RawValue<u32>,
    /// The owner's process.
    pub pid: u32,
    /// The build of its program.
    pub mark: u64,
}

/// A pool that is reached through its pipe of requests.
pub(super) struct Client {
    pub reach: Reach,
    line: OnceLock<Line>,
    joining: Mutex<()>,
    state: Mutex<State>,
    pub(super) hall: Mutex<Hall>,
    pub(super) news: Condvar,
    /// What whoever leads reads into.
    pub(super) buffer: Mutex<Vec<u8>>,
    /// Whoever leads is to ask again whether it is done.
    pub(super) nudged: AtomicBool,
    /// How many callbacks wait in the hall.
    pub(super) called: AtomicUsize,
    /// Tasks that want a callback when they end.
    pub(super) calling_back: AtomicUsize,
}

/// Where replies come in.
pub(super) struct Line {
    /// The process that it is of.
    pid: u32,
    user: u64,
    pub(super) replies: Receiver<Vec<u8>>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u32, Pending>,
    next: u32,
    /// Why nothing can be done any more.
    ended: Option<TaskError>,
}

/// A task under way.
struct Pending {
    sink: Arc<dyn Sink>,
    part: Part,
    calls_back: bool,
}

impl Client {
    pub fn new(reach: Reach) -> Self {
        Self {
            reach,
            line: OnceLock::new(),
            joining: Mutex::default(),
            state: Mutex::default(),
            hall: Mutex::default(),
            news: Condvar::new(),
            buffer: Mutex::default(),
            nudged: AtomicBool::new(false),
            called: AtomicUsize::new(0),
            calling_back: AtomicUsize::new(0),
        }
    }

    /// Why nothing is taken any more, as far as this process knows.
    pub fn refusal(&self) -> Option<TaskError> {
        if let Some(ended) = &locked(&self.state).ended {
            return Some(ended.clone());
        }
        let (mine, mark) = (Image::of_program().mark(), self.reach.mark);
        if mine != mark {
            let message = format!("this program's mark is {mine:016x}, the pool's {mark:016x}");
            return Some(TaskError::failed(Error::new(ErrorKind::ForeignFunction, "use pool", message)));
        }
        self.is_owner_gone().then(|| self.owner_gone())
    }

    pub(super) fn is_owner_gone(&self) -> bool {
        self.reach.over.load() != 0 || self.reach.requests.has_no_peer()
    }

    pub(super) fn owner_gone(&self) -> TaskError {
        TaskError::OwnerGone { pid: self.reach.pid }
    }

    /// The line of this process, made if there is none.
    pub(super) fn line(&self) -> Result<&Line, TaskError> {
        let line = match self.line.get() {
            Some(line) => line,
            None => {
                let _one_at_a_time = locked(&self.joining);
                match self.line.get() {
                    Some(line) => line,
                    None => {
                        let line = self.join()?;
                        self.line.get_or_init(|| line)
                    }
                }
            }
        };
        if line.pid == std::process::id() {
            return Ok(line);
        }
        // A forked copy: what was under way is the other process's.
        let reason = format!("process {} used it before this one was forked", line.pid);
        self.break_off(&TaskError::Broken { reason: reason.clone() });
        Err(TaskError::Broken { reason })
    }

    /// The line of this process, if there is one.
    pub(super) fn own_line(&self) -> Option<&Line> {
        self.line.get().filter(|line| line.pid == std::process::id())
    }

    /// The number that the owner knows this process by.
    #[cfg(test)]
    pub fn user(&self) -> Result<u64, TaskError> {
        Ok(self.line()?.user)
    }

    /// Makes a line, and tells the owner of it.
    fn join(&self) -> Result<Line, TaskError> {
        let requests = &self.reach.requests;
        let builder = Connection::builder().bytes(REPLY_BYTES).segment(&requests.segment());
        let (replies, sender) = builder.build_oneway::<Vec<u8>>().map_err(TaskError::failed)?;
        let id = replies.id();
        let user = u64::from(id.index) | u64::from(id.generation) << 32;
        let hello = Hello { replies: sender, mark: Image::of_program().mark() };
        let mut buffer = vec![0; REQUEST_HEAD];
        Request::plain(Wish::Hello, user, 0).write(&mut buffer);
        let (encoded, mut passed) = requests.encoding(|| codec::encode(&hello, &mut buffer));
        let sent = encoded.map_err(RawRefused::Failed).and_then(|()| self.put(&buffer, &mut passed, Deadline::NEVER));
        sent.map_err(|refused| match refused {
            RawRefused::Failed(error) => TaskError::failed(error),
            _ => self.owner_gone(),
        })?;
        Ok(Line { pid: std::process::id(), user, replies })
    }

    fn put(&self, bytes: &[u8], passed: &mut Passed, until: Deadline) -> Result<(), RawRefused> {
        let over = || self.reach.over.load() != 0;
        if over() {
            return Err(RawRefused::Stopped);
        }
        self.reach.requests.put_encoded(bytes, passed, until, over)
    }

    /// Sends a task whose arguments `encode` writes.
    pub fn submit(
        self: &Arc<Self>,
        draft: &mut Draft<'_>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<Ticket, TaskError> {
        let calls_back = draft.calls_back;
        if calls_back {
            self.calling_back.fetch_add(1, Release);
        }
        let part = Part { index: draft.index, items: draft.call.count as usize };
        let pending = Pending { sink: Arc::clone(draft.sink), part, calls_back };
        let mut request = Request::plain(Wish::Task, 0, 0);
        request.call = draft.call;
        if let Some(terms) = &draft.terms {
            (request.retries, request.timeout) = (terms.retries, terms.timeout);
        }
        let sent = self.request(request, encode, pending, DEPTH, draft.until);
        if calls_back {
            match sent {
                Ok(_) => self.start_caller(),
                Err(_) => drop(self.calling_back.fetch_sub(1, Release)),
            }
        }
        let number = sent?;
        Ok(Ticket { slot: number, generation: 0 })
    }

    /// Sends a request that is answered, when fewer than `most` are.
    fn request(
        &self,
        mut request: Request,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
        pending: Pending,
        most: usize,
        until: Deadline,
    ) -> Result<u32, TaskError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        request.user = self.line()?.user;
        codec::with_scratch(|buffer| {
            buffer.resize(REQUEST_HEAD, 0);
            let requests = &self.reach.requests;
            let (encoded, mut passed) = requests.encoding(|| guarded("encode arguments", || encode(buffer)));
            encoded.map_err(|e| TaskError::Arguments(Arc::new(e)))?;
            let number = self.enter(pending, most, until)?;
            request.number = number;
            request.write(buffer);
            let Err(refused) = self.put(buffer, &mut passed, until) else { return Ok(number) };
            let taken_back = locked(&self.state).pending.remove(&number);
            let error = match refused {
                RawRefused::Failed(error) => TaskError::Arguments(Arc::new(error)),
                RawRefused::Timeout => TaskError::Full,
                // What was asked before may still be answered.
                _ => self.owner_gone(),
            };
            // If it is not there any more, it has ended with all others.
            if taken_back.is_some() { Err(error) } else { Ok(number) }
        })
    }

    /// Takes a request in, waiting while there are too many.
    fn enter(&self, pending: Pending, most: usize, until: Deadline) -> Result<u32, TaskError> {
        loop {
            {
                let mut state = locked(&self.state);
                if let Some(ended) = &state.ended {
                    return Err(ended.clone());
                }
                if state.pending.len() < most {
                    while state.pending.contains_key(&state.next) {
                        state.next = state.next.wrapping_add(1);
                    }
                    let number = state.next;
                    state.next = number.wrapping_add(1);
                    state.pending.insert(number, pending);
                    return Ok(number);
                }
            }
            let has_room = || {
                let state = locked(&self.state);
                state.pending.len() < most || state.ended.is_some()
            };
            if until.passed() {
                self.read_what_is_there();
            }
            if !self.wait_until(&has_room, until) {
                return Err(TaskError::Full);
            }
        }
    }

    /// Takes a task out that no worker has begun; whether it is out. The owner is asked, and waited for.
    pub fn cancel(&self, ticket: Ticket) -> bool {
        if !locked(&self.state).pending.contains_key(&ticket.slot) {
            return false;
        }
        let answer = Arc::new(Answer::default());
        let part = Part { index: 0, items: 1 };
        let pending = Pending { sink: Arc::clone(&answer) as _, part, calls_back: false };
        let mut request = Request::plain(Wish::Cancel, 0, 0);
        request.call.count = ticket.slot;
        if self.request(request, |_| Ok(()), pending, usize::MAX, Deadline::NEVER).is_err() {
            return false;
        }
        self.wait_until(&|| answer.get().is_some(), Deadline::NEVER);
        answer.get() == Some(true)
    }

    /// Ends everything that is under way, for this reason; nothing is taken any more.
    pub(super) fn break_off(&self, why: &TaskError) {
        let pending = {
            let mut state = locked(&self.state);
            state.ended.get_or_insert_with(|| why.clone());
            std::mem::take(&mut state.pending)
        };
        for (_, pending) in pending {
            self.settle(pending, Err(why.clone()), 0);
        }
        self.tell();
    }

    pub(super) fn resolve(&self, number: u32, outcome: Result<&[u8], TaskError>, nanos: u64) {
        let pending = locked(&self.state).pending.remove(&number);
        if let Some(pending) = pending {
            self.settle(pending, outcome, nanos);
        }
    }

    fn settle(&self, pending: Pending, outcome: Result<&[u8], TaskError>, nanos: u64) {
        if let Some(callback) = contained(|| pending.sink.put(pending.part, outcome, nanos)).flatten() {
            self.push(callback);
        }
        if pending.calls_back {
            self.calling_back.fetch_sub(1, Release);
        }
        contained(|| drop(pending));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let Some(line) = self.own_line() else { return };
        let mut bytes = [0; REQUEST_HEAD];
        Request::plain(Wish::Leave, line.user, 0).write(&mut bytes);
        // If there is no room, the owner finds out when the pipe of replies is gone.
        let _ = self.reach.requests.put_encoded(&bytes, &mut Passed::default(), Deadline::PASSED, || false);
    }
}

/// What the owner said to a question.
#[derive(Default)]
struct Answer(Mutex<Option<bool>>);

impl Answer {
    fn get(&self) -> Option<bool> {
        *locked(&self.0)
    }
}

impl Sink for Answer {
    fn put(&self, _: Part, outcome: Result<&[u8], TaskError>, _: u64) -> Option<Callback> {
        *locked(&self.0) = Some(outcome.is_ok_and(|bytes| bytes == [1]));
        None
    }
}
