//! Results that are taken one by one.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{Progress, Tally, outcomes};
use super::error::TaskError;
use super::guard::contained;
use super::ledger::{Part, Sink};
use super::map::Mapping;
use super::owner::locked;
use crate::sys::clock::Deadline;

/// Where the results of [`Imap`] go.
struct Stream<R> {
    tally: Tally,
    ordered: bool,
    /// By the numbers of the chunks; in any order, by that in which they came.
    came: Mutex<HashMap<usize, VecDeque<Result<R, TaskError>>>>,
    arrived: AtomicUsize,
    progress: Option<Progress>,
}

impl<R: DeserializeOwned + Send + 'static> Sink for Stream<R> {
    fn put(&self, part: Part, outcome: Result<&[u8], TaskError>, nanos: u64) -> Option<Box<dyn FnOnce() + Send>> {
        let outcomes = outcomes::<R>(outcome, part.items);
        self.tally.came(part.items, nanos);
        let mut came = locked(&self.came);
        let key = if self.ordered { part.index } else { self.arrived.fetch_add(1, Relaxed) };
        came.insert(key, outcomes.into());
        drop(came);
        if let Some(progress) = &self.progress {
            contained(|| progress(part.items));
        }
        self.tally.left(1);
        None
    }
}

/// Results that come one by one: what [`Mapping::imap`] gives. Dropping it leaves what was sent running.
#[must_use = "nothing is sent until results are asked for"]
pub struct Imap<'p, I, A, R> {
    mapping: Mapping<'p>,
    function: Result<u64, TaskError>,
    items: Option<I>,
    stream: Arc<Stream<R>>,
    next: usize,
    sent: usize,
    /// What `items` panicked with.
    panic: Option<Box<dyn Any + Send>>,
    args: PhantomData<fn(A)>,
}

impl<'p, I, A, R> Imap<'p, I, A, R>
where
    I: Iterator<Item = A>,
    A: Serialize + Send + Sync + 'static,
    R: DeserializeOwned + Send + 'static,
{
    pub(super) fn new(mapping: Mapping<'p>, function: Result<u64, TaskError>, items: I, ordered: bool) -> Self {
        let progress = mapping.progress.clone();
        let (tally, came, arrived) = Default::default();
        let stream = Arc::new(Stream { tally, ordered, came, arrived, progress });
        Self { mapping, function, items: Some(items), stream, next: 0, sent: 0, panic: None, args: PhantomData }
    }

    /// Sends as much as may be ahead.
    fn send_ahead(&mut self) -> Result<(), TaskError> {
        let workers = self.mapping.pool.processes();
        let ahead = self.mapping.look_ahead.unwrap_or(2 * workers);
        while self.items.is_some() && self.ahead() < ahead {
            let chunk = self.mapping.chunk.unwrap_or_else(|| self.stream.tally.chunk().unwrap_or(1) as usize);
            let Some(items) = &mut self.items else { break };
            let part: Vec<A> = match catch_unwind(AssertUnwindSafe(|| items.take(chunk).collect())) {
                Ok(part) => part,
                Err(payload) => {
                    // It comes behind the results of the chunks before.
                    self.panic = Some(payload);
                    self.items = None;
                    break;
                }
            };
            if part.len() < chunk {
                self.items = None;
            }
            if part.is_empty() {
                break;
            }
            let (index, items) = (self.sent, part.len());
            self.stream.tally.sent();
            let sink: Arc<dyn Sink> = Arc::clone(&self.stream) as _;
            let function = self.function.clone()?;
            self.sent += 1;
            if let Err(error) = self.mapping.send(function, part, &sink, index) {
                // An error for each item, in their place.
                drop(sink.put(Part { index, items }, Err(error), 0));
            }
        }
        Ok(())
    }

    /// Chunks that are under way or not taken.
    fn ahead(&self) -> usize {
        self.sent - self.next
    }

    fn take(&mut self) -> Option<Result<R, TaskError>> {
        let key = self.next;
        let mut came = locked(&self.stream.came);
        let chunk = came.get_mut(&key)?;
        let one = chunk.pop_front();
        if chunk.is_empty() {
            came.remove(&key);
            self.next += 1;
        }
        one
    }
}

impl<I, A, R> Iterator for Imap<'_, I, A, R>
where
    I: Iterator<Item = A>,
    A: Serialize + Send + Sync + 'static,
    R: DeserializeOwned + Send + 'static,
{
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_by(Deadline::NEVER)
    }
}

impl<I, A, R> Imap<'_, I, A, R>
where
    I: Iterator<Item = A>,
    A: Serialize + Send + Sync + 'static,
    R: DeserializeOwned + Send + 'static,
{
    /// As [`next`](Iterator::next), if the result is there now; otherwise [`TaskError::Timeout`], and it may be asked for again.
    ///
    /// # Panics
    /// As [`Mapping::imap`](super::Mapping::imap).
    pub fn try_next(&mut self) -> Option<Result<R, TaskError>> {
        self.next_by(Deadline::PASSED)
    }

    /// As [`next`](Iterator::next), but waits for the result at most `timeout`; then [`TaskError::Timeout`], and it may be asked
    /// for again. Items are sent ahead as ever, which takes longer only while tasks of others fill the pool.
    ///
    /// # Panics
    /// As [`Mapping::imap`](super::Mapping::imap).
    ///
    /// Python: `next(timeout)`.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<R, TaskError>> {
        self.next_by(Deadline::after(timeout))
    }

    fn next_by(&mut self, deadline: Deadline) -> Option<Result<R, TaskError>> {
        if let Err(error) = self.send_ahead() {
            self.items = None;
            self.stream.tally.left(1);
            return Some(Err(error));
        }
        if let Some(one) = self.take() {
            return Some(one);
        }
        let stream = &self.stream;
        if stream.tally.under_way() == 0 && locked(&stream.came).is_empty() {
            if let Some(payload) = self.panic.take() {
                resume_unwind(payload);
            }
            return None;
        }
        let key = self.next;
        let has_come = || locked(&stream.came).contains_key(&key);
        if deadline.passed() {
            self.mapping.pool.owner().read_what_is_there();
        }
        if !self.mapping.pool.owner().wait_until(&has_come, deadline) {
            return Some(Err(TaskError::Timeout));
        }
        self.take()
    }
}
