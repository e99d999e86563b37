//! A task that was submitted, and its outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::board::Ticket;
use super::error::TaskError;
use super::ledger::{Part, Sink};
use super::via::Via;
use crate::codec;
use crate::sys::clock::Deadline;

pub(super) type OnDone<R> = Box<dyn FnOnce(&R) + Send>;
pub(super) type OnError = Box<dyn FnOnce(&TaskError) + Send>;
/// What is called with a result, and what with an error, if anything is.
pub(super) type Callbacks<R> = Option<(Option<OnDone<R>>, Option<OnError>)>;

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// Where the outcome of one task is kept.
pub(super) struct Cell<R> {
    state: AtomicU8,
    outcome: Mutex<Option<Result<R, TaskError>>>,
    pub(super) callbacks: Mutex<Callbacks<R>>,
}

impl<R> Cell<R> {
    pub(super) fn new(callbacks: Callbacks<R>) -> Self {
        Self { state: AtomicU8::new(RUNNING), outcome: Mutex::new(None), callbacks: Mutex::new(callbacks) }
    }

    fn keep(&self, outcome: Result<R, TaskError>) {
        let state = if outcome.is_ok() { DONE } else { FAILED };
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.state.store(state, Release);
    }

    fn is_ready(&self) -> bool {
        self.state.load(Acquire) != RUNNING
    }

    fn take(&self) -> Result<R, TaskError> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.unwrap_or(Err(TaskError::Taken))
    }
}

/// Where one task's result goes, however many parts it came in.
pub(super) struct Single<R> {
    pub cell: Arc<Cell<R>>,
    pub decode: fn(&[u8]) -> Result<R, TaskError>,
}

impl<R: Send + 'static> Sink for Single<R> {
    fn put(&self, _: Part, outcome: Result<&[u8], TaskError>, _: u64) -> Option<Box<dyn FnOnce() + Send>> {
        let outcome = outcome.and_then(self.decode);
        deliver(&self.cell, outcome)
    }
}

/// Keeps the outcome, or gives the work that has to be done before.
pub(super) fn deliver<R: Send + 'static>(
    cell: &Arc<Cell<R>>,
    outcome: Result<R, TaskError>,
) -> Option<Box<dyn FnOnce() + Send>> {
    let callbacks = cell.callbacks.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((on_done, on_error)) = callbacks else {
        cell.keep(outcome);
        return None;
    };
    let cell = Arc::clone(cell);
    Some(Box::new(move || {
        let called = catch_unwind(AssertUnwindSafe(|| match (&outcome, on_done, on_error) {
            (Ok(result), Some(f), _) => f(result),
            (Err(error), _, Some(f)) => f(error),
            _ => {}
        }));
        cell.keep(match called {
            Ok(()) => outcome,
            Err(payload) => {
                let text = payload.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
                Err(TaskError::Callback { message: text.unwrap_or_else(|| "a value that is not text".into()) })
            }
        });
    }))
}

/// Decodes a result; a panic of its code is an error of this task.
pub(super) fn decode_result<R: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<R, TaskError> {
    match catch_unwind(|| codec::decode_last::<R>(bytes)) {
        Ok(decoded) => decoded.map_err(|e| TaskError::Result(Arc::new(e))),
        Err(_) => {
            let message = "its type's `Deserialize` panicked";
            let doing = format!("decode {}", std::any::type_name::<R>());
            Err(TaskError::Result(Arc::new(crate::error::Error::new(crate::error::ErrorKind::Codec, doing, message))))
        }
    }
}

/// A task under way: what [`Pool::apply_async`](super::Pool::apply_async) gives.
///
/// Dropping it leaves the task running; its result is dropped when it comes.
///
/// Python: `AsyncResult`.
#[doc(alias = "AsyncResult")]
#[doc(alias = "Future")]
#[must_use = "dropping it loses the result, and whether there was one"]
pub struct Task<R> {
    pub(super) owner: Via,
    pub(super) cell: Arc<Cell<R>>,
    /// None for what is more than one message.
    pub(super) ticket: Option<Ticket>,
}

impl<R> std::fmt::Debug for Task<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("ready", &self.is_ready()).finish_non_exhaustive()
    }
}

impl<R> Task<R> {
    /// A task that is not one message but many, and its cell.
    pub(super) fn of_many(owner: &Via, callbacks: Callbacks<R>) -> (Self, Arc<Cell<R>>) {
        let cell = Arc::new(Cell::new(callbacks));
        (Self { owner: owner.clone(), cell: Arc::clone(&cell), ticket: None }, cell)
    }

    /// Waits for the result and gives it.
    ///
    /// # Errors
    /// [`TaskError`] tells why there is none. The death of the worker, whatever its cause, ends the wait.
    ///
    /// Python: `get()`, `Future.result()`.
    #[doc(alias = "result")]
    pub fn get(self) -> Result<R, TaskError> {
        self.wait();
        self.cell.take()
    }

    /// Gives the result if it is there now. Never blocks.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`TaskError::Timeout`] if there is none yet, [`TaskError::Taken`] if it was given before.
    pub fn try_get(&mut self) -> Result<R, TaskError> {
        self.get_timeout(Duration::ZERO)
    }

    /// Waits for the result at most `timeout` and gives it.
    ///
    /// # Errors
    /// As [`try_get`](Self::try_get). After [`TaskError::Timeout`] the task goes on, and so may the wait.
    ///
    /// Python: `get(timeout)`.
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<R, TaskError> {
        if self.wait_timeout(timeout) { self.cell.take() } else { Err(TaskError::Timeout) }
    }

    /// Waits until the task has ended. Python: `wait()`.
    pub fn wait(&self) {
        self.owner.wait_until(&|| self.cell.is_ready(), Deadline::NEVER);
    }

    /// Waits until the task has ended, at most `timeout`; whether it has. Python: `wait(timeout)`, then `ready()`.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        if !self.cell.is_ready() {
            self.owner.read_what_is_there();
        }
        self.owner.wait_until(&|| self.cell.is_ready(), Deadline::after(timeout))
    }

    /// Whether the task has ended. It does not block. Python: `ready()`.
    #[doc(alias = "ready")]
    #[doc(alias = "done")]
    pub fn is_ready(&self) -> bool {
        self.cell.is_ready() || {
            self.owner.read_what_is_there();
            self.cell.is_ready()
        }
    }

    /// Whether the task has ended with a result, `None` if it has not ended. It does not block.
    ///
    /// Python: `successful()`, which raises `ValueError` before the end.
    #[doc(alias = "successful")]
    pub fn is_successful(&self) -> Option<bool> {
        self.is_ready().then(|| self.cell.state.load(Acquire) == DONE)
    }

    /// Takes the task back if no worker has begun it; whether it did. Then [`get`](Self::get) gives
    /// [`TaskError::Cancelled`]. Python: `Future.cancel()`.
    pub fn cancel(&self) -> bool {
        self.ticket.is_some_and(|ticket| self.owner.cancel(ticket))
    }
}
