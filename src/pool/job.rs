//! A task that is not submitted yet, and what can be agreed for it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::TaskError;
use super::function::{self, Function};
use super::ledger::{Again, Call, Draft, Sink, Terms};
use super::task::{Cell, OnDone, OnError, Single, Task, decode_result};
use super::via::Source;
use crate::channel::LARGE;
use crate::codec;
use crate::sys::clock::Deadline;

/// A task that is not submitted yet: what [`Pool::job`](super::Pool::job) gives.
#[must_use = "nothing is submitted until `submit` is called"]
pub struct Job<'p, F, A, R> {
    pool: &'p Source,
    function: F,
    args: A,
    on_done: Option<OnDone<R>>,
    on_error: Option<OnError>,
    retries: u32,
    timeout: Option<Duration>,
    result: PhantomData<fn() -> R>,
}

impl<'p, F, A, R> Job<'p, F, A, R>
where
    F: Function<A, R>,
    A: Serialize + DeserializeOwned + Send + Sync + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    pub(super) fn new(pool: &'p Source, function: F, args: A) -> Self {
        let (retries, timeout) = pool.default_terms();
        Self { pool, function, args, on_done: None, on_error: None, retries, timeout, result: PhantomData }
    }

    /// Calls `f` with the result, in a thread of this process, before [`Task::get`] gives it. Callbacks of a pool are called
    /// one after the other; one that panics makes [`TaskError::Callback`] of the result, and the pool goes on.
    ///
    /// Python: `apply_async(..., callback=f)`, `Future.add_done_callback(f)`.
    #[doc(alias = "add_done_callback")]
    pub fn callback(mut self, f: impl FnOnce(&R) + Send + 'static) -> Self {
        self.on_done = Some(Box::new(f));
        self
    }

    /// As [`callback`](Self::callback), if there is no result. Python: `error_callback=f`.
    pub fn error_callback(mut self, f: impl FnOnce(&TaskError) + Send + 'static) -> Self {
        self.on_error = Some(Box::new(f));
        self
    }

    /// How often the task may be begun again when its worker died: what it did until then is done twice.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How long the function may run: then its worker is killed, and the result is [`TaskError::TimedOut`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Submits it, and waits while as many tasks are under way as the pool takes.
    ///
    /// # Errors
    /// As [`Pool::apply_async`](super::Pool::apply_async).
    pub fn submit(self) -> Result<Task<R>, TaskError> {
        self.submit_by(Deadline::NEVER).map_err(|refused| match refused {
            // Nobody waits so long.
            NotSubmitted::Full(_) => TaskError::Full,
            NotSubmitted::Failed(error) => error,
        })
    }

    /// Submits it if there is room now. It does not wait for any.
    ///
    /// # Errors
    /// [`NotSubmitted::Full`] with the job if as many tasks are under way as the pool takes, or their arguments fill its memory;
    /// else as [`submit`](Self::submit).
    pub fn try_submit(self) -> Result<Task<R>, NotSubmitted<Self>> {
        self.submit_by(Deadline::PASSED)
    }

    /// Submits it, and waits for room at most `timeout`.
    ///
    /// # Errors
    /// As [`try_submit`](Self::try_submit).
    pub fn submit_timeout(self, timeout: Duration) -> Result<Task<R>, NotSubmitted<Self>> {
        self.submit_by(Deadline::after(timeout))
    }

    fn submit_by(self, until: Deadline) -> Result<Task<R>, NotSubmitted<Self>> {
        let Self { pool, function, args, on_done, on_error, retries, timeout, .. } = self;
        let call = match function::of_task(function) {
            Ok(function) => Call { function, count: 1, measured: false },
            Err(error) => return Err(NotSubmitted::Failed(TaskError::failed(error))),
        };
        let calls_back = on_done.is_some() || on_error.is_some();
        let cell = Arc::new(Cell::new(calls_back.then_some((on_done, on_error))));
        let sink: Arc<dyn Sink> = Arc::new(Single { cell: Arc::clone(&cell), decode: decode_result::<R> });
        let owner = pool.owner();
        let mut draft = Draft { call, sink: &sink, index: 0, calls_back, terms: None, large: &[], until };
        let (submitted, args) = if retries > 0 {
            let args = Arc::new(args);
            let once_more = Arc::clone(&args);
            let again: Again = Arc::new(move |buffer| codec::append_last(&*once_more, buffer));
            draft.terms = Terms::unless_usual(retries, timeout, Some(again));
            let submitted = owner.submit(&mut draft, |buffer| codec::append_last(&*args, buffer));
            drop(draft);
            (submitted, Arc::into_inner(args))
        } else {
            draft.terms = Terms::unless_usual(retries, timeout, None);
            let submitted = match codec::as_bytes(&args).filter(|bytes| bytes.len() >= LARGE) {
                Some(bytes) => {
                    draft.large = bytes;
                    owner.submit(&mut draft, |_| Ok(()))
                }
                None => owner.submit(&mut draft, |buffer| codec::append_last(&args, buffer)),
            };
            (submitted, Some(args))
        };
        match (submitted, args) {
            (Ok(ticket), _) => Ok(Task { owner: owner.clone(), cell, ticket: Some(ticket) }),
            // Nobody has seen it, so nobody has anything of it.
            (Err(TaskError::Full), Some(args)) => {
                let callbacks = cell.callbacks.lock().unwrap_or_else(PoisonError::into_inner).take();
                let (on_done, on_error) = callbacks.unwrap_or_default();
                let job = Self { pool, function, args, on_done, on_error, retries, timeout, result: PhantomData };
                Err(NotSubmitted::Full(job))
            }
            (Err(error), _) => Err(NotSubmitted::Failed(error)),
        }
    }
}

/// Why a [`Job`] was not submitted.
#[derive(Clone)]
pub enum NotSubmitted<J> {
    /// There was no room, not in time: here it is again.
    Full(J),
    /// It cannot be submitted.
    Failed(TaskError),
}

impl<J> NotSubmitted<J> {
    /// The job, if it can be submitted later.
    pub fn into_job(self) -> Option<J> {
        match self {
            Self::Full(job) => Some(job),
            Self::Failed(_) => None,
        }
    }
}

impl<J> fmt::Debug for NotSubmitted<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full(..)"),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl<J> fmt::Display for NotSubmitted<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => TaskError::Full.fmt(f),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl<J> std::error::Error for NotSubmitted<J> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Full(_) => None,
            Self::Failed(error) => error.source(),
        }
    }
}
