//! One function for many arguments.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{Batch, Progress};
use super::error::TaskError;
use super::feed::Chunks;
use super::function::{self, Function, MOST_ITEMS};
use super::imap::Imap;
use super::ledger::{Again, Call, Draft, Sink, Terms};
use super::task::{Callbacks, Task};
use super::via::Source;
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::sys::clock::Deadline;

/// Chunks under way at once, of a size that was chosen by the caller.
const WINDOW: usize = 1024;

/// How a function is applied to many arguments: what [`Pool::mapping`](super::Pool::mapping) and
/// [`PoolHandle::mapping`](super::PoolHandle::mapping) give.
#[derive(Clone)]
pub struct Mapping<'p> {
    pub(super) pool: &'p Source,
    pub(super) chunk: Option<usize>,
    pub(super) look_ahead: Option<usize>,
    pub(super) progress: Option<Progress>,
}

impl std::fmt::Debug for Mapping<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { chunk, look_ahead, .. } = self;
        f.debug_struct("Mapping").field("chunk_size", chunk).field("look_ahead", look_ahead).finish_non_exhaustive()
    }
}

impl<'p> Mapping<'p> {
    pub(super) fn new(pool: &'p Source) -> Self {
        Self { pool, chunk: None, look_ahead: None, progress: None }
    }

    /// How many items a worker gets at once. A chunk is one task: its worker's death costs all of its items. By default the
    /// pool chooses so that a chunk takes about 0.2 ms, up to 2 ms while a [`map`](Self::map) has much before it; of
    /// [`map_async`](Self::map_async), four chunks for each worker.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for 0, or more than 1048576. Python: `chunksize`.
    #[doc(alias = "chunksize")]
    pub fn chunk_size(mut self, items: usize) -> Result<Self, Error> {
        if items == 0 || items as u64 > MOST_ITEMS {
            let message = format!("{items} items, expected 1 to {MOST_ITEMS}");
            return Err(Error::new(ErrorKind::InvalidInput, "set chunk size", message));
        }
        self.chunk = Some(items);
        Ok(self)
    }

    /// How many chunks [`imap`](Self::imap) and [`imap_unordered`](Self::imap_unordered) may be ahead of whoever takes their
    /// results, at least 1; by default, two for each worker. Python: `buffersize` of `Executor.map`.
    #[doc(alias = "buffersize")]
    pub fn look_ahead(mut self, chunks: usize) -> Self {
        self.look_ahead = Some(chunks.max(1));
        self
    }

    /// Calls `f` whenever results have come, with how many, in the thread that reads them. It should be short.
    pub fn on_progress(mut self, f: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(f));
        self
    }

    /// Moves a bar by each result that comes. Feature `progress`.
    #[cfg(feature = "progress")]
    pub fn progress_bar(self, bar: &indicatif::ProgressBar) -> Self {
        let bar = bar.clone();
        self.on_progress(move |items| bar.inc(items as u64))
    }

    fn call<F, A, R>(&self, function: F) -> Result<u64, TaskError>
    where
        F: Function<A, R>,
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        function::of_chunk(function).map_err(TaskError::failed)
    }

    /// Sends a chunk.
    pub(super) fn send<A, P>(
        &self,
        function: u64,
        items: P,
        sink: &Arc<dyn Sink>,
        index: usize,
    ) -> Result<(), TaskError>
    where
        A: Serialize + Send + Sync + 'static,
        P: AsRef<[A]> + Send + Sync + 'static,
    {
        let call = Call { function, count: items.as_ref().len() as u32, measured: self.chunk.is_none() };
        let write =
            |items: &P, buffer: &mut Vec<u8>| items.as_ref().iter().try_for_each(|item| codec::encode(item, buffer));
        let (retries, timeout) = self.pool.default_terms();
        let mut draft = Draft { call, sink, index, calls_back: false, terms: None, large: &[], until: Deadline::NEVER };
        let owner = self.pool.owner();
        if retries == 0 {
            draft.terms = Terms::unless_usual(0, timeout, None);
            return owner.submit(&mut draft, |buffer| write(&items, buffer)).map(|_| ());
        }
        let items = Arc::new(items);
        let once_more = Arc::clone(&items);
        let again: Again = Arc::new(move |buffer| write(&once_more, buffer));
        draft.terms = Terms::unless_usual(retries, timeout, Some(again));
        owner.submit(&mut draft, |buffer| write(&items, buffer)).map(|_| ())
    }

    /// Applies `function` to all items, and gives the results in their order. Waits for all of them, also after an error.
    ///
    /// # Errors
    /// That of the first item that has one. Python: `map(f, items, chunksize)`; also `starmap`, with tuples as items.
    #[doc(alias = "starmap")]
    pub fn map<F, A, R>(&self, function: F, items: impl IntoIterator<Item = A>) -> Result<Vec<R>, TaskError>
    where
        F: Function<A, R>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let call = self.call::<F, A, R>(function)?;
        let owner = self.pool.owner();
        let workers = self.pool.processes();
        let batch = Arc::new(Batch::<R>::new(self.progress.clone()));
        let sink: Arc<dyn Sink> = Arc::clone(&batch) as _;
        let mut items = items.into_iter();
        let mut begin = 0;
        loop {
            let measured = match items.size_hint() {
                (left, Some(most)) if left == most => batch.tally.chunk_of(left as u64, workers as u64),
                _ => batch.tally.chunk(),
            };
            let (chunk, window) = match (self.chunk, measured) {
                (Some(chunk), _) => (chunk, WINDOW),
                // Until something is known of how long they take.
                (None, None) => (1, 2 * workers),
                (None, Some(chunk)) => (chunk as usize, 4 * workers),
            };
            let (sent, len) = if chunk == 1 {
                let Some(item) = items.next() else { break };
                batch.tally.sent();
                (self.send(call, [item], &sink, begin), 1)
            } else {
                let part: Vec<A> = items.by_ref().take(chunk).collect();
                let len = part.len();
                if len == 0 {
                    break;
                }
                batch.tally.sent();
                (self.send(call, part, &sink, begin), len)
            };
            if let Err(error) = sent {
                batch.fail(begin, error);
                break;
            }
            begin += len;
            if batch.tally.under_way() >= window {
                owner.wait_until(&|| batch.tally.under_way() <= window / 2, Deadline::NEVER);
            }
        }
        owner.wait_until(&|| batch.tally.under_way() == 0, Deadline::NEVER);
        batch.take()
    }

    /// Applies `function` to all items; the results come together, as those of [`map`](Self::map) do. All items are read
    /// before this returns, and as many are sent as the pool takes at once; the others follow as it takes them. It does not
    /// wait for any.
    ///
    /// # Errors
    /// As [`Pool::apply_async`](super::Pool::apply_async). Python: `map_async(f, items, chunksize)`; also `starmap_async`, with
    /// tuples as items.
    #[doc(alias = "starmap_async")]
    pub fn map_async<F, A, R>(&self, function: F, items: impl IntoIterator<Item = A>) -> Result<Task<Vec<R>>, TaskError>
    where
        F: Function<A, R>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        self.send_all(function, items, None)
    }

    /// As [`map_async`](Self::map_async); calls `on_done` once with all results, or `on_error` once with the error, in a thread
    /// of this process, as [`Job::callback`](super::Job::callback) does.
    ///
    /// # Errors
    /// As [`Pool::apply_async`](super::Pool::apply_async). Python: `map_async(f, items, callback=..., error_callback=...)`.
    pub fn map_async_with<F, A, R>(
        &self,
        function: F,
        items: impl IntoIterator<Item = A>,
        on_done: impl FnOnce(&Vec<R>) + Send + 'static,
        on_error: impl FnOnce(&TaskError) + Send + 'static,
    ) -> Result<Task<Vec<R>>, TaskError>
    where
        F: Function<A, R>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        self.send_all(function, items, Some((Some(Box::new(on_done)), Some(Box::new(on_error)))))
    }

    fn send_all<F, A, R>(
        &self,
        function: F,
        items: impl IntoIterator<Item = A>,
        callbacks: Callbacks<Vec<R>>,
    ) -> Result<Task<Vec<R>>, TaskError>
    where
        F: Function<A, R>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let call = self.call::<F, A, R>(function)?;
        let owner = self.pool.owner();
        if let Some(refusal) = owner.refusal() {
            return Err(refusal);
        }
        let calls = callbacks.is_some();
        let items: Vec<A> = items.into_iter().collect();
        let chunk = self.chunk.unwrap_or_else(|| items.len().div_ceil(4 * self.pool.processes()).max(1));
        let chunk = chunk.min(MOST_ITEMS as usize);
        let (task, cell) = Task::of_many(owner, callbacks);
        let batch = Batch::<R>::of_chunks(items.len().div_ceil(chunk), self.progress.clone(), cell);
        if items.is_empty() {
            if let Some(callback) = batch.deliver() {
                owner.call_back(callback);
            }
            return Ok(task);
        }
        let (retries, timeout) = self.pool.default_terms();
        let terms = move |again| Terms::unless_usual(retries, timeout, again);
        owner.feed_all(Chunks::new(call, items, chunk, Arc::new(batch), calls, retries > 0, terms))?;
        Ok(task)
    }

    /// Applies `function` to the items one after the other, and gives the results in their order, each when it is there. Items
    /// are read only when results are taken, and few of them ahead.
    ///
    /// # Errors
    /// Each result is one or an error of its own. Python: `imap(f, items, chunksize)`.
    ///
    /// # Panics
    /// [`Iterator::next`] panics where `items` does.
    pub fn imap<F, A, R, I>(&self, function: F, items: I) -> Imap<'p, I::IntoIter, A, R>
    where
        F: Function<A, R>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        Imap::new(self.clone(), self.call::<F, A, R>(function), items.into_iter(), true)
    }

    /// As [`imap`](Self::imap), with the results in the order in which they come.
    ///
    /// # Errors
    /// As [`imap`](Self::imap). Python: `imap_unordered(f, items, chunksize)`.
    ///
    /// # Panics
    /// As [`imap`](Self::imap).
    pub fn imap_unordered<F, A, R, I>(&self, function: F, items: I) -> Imap<'p, I::IntoIter, A, R>
    where
        F: Function<A, R>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        Imap::new(self.clone(), self.call::<F, A, R>(function), items.into_iter(), false)
    }
}
