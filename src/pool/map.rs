//! One function for many arguments.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use super::error::TaskError;
use super::function::{self, Function, MOST_ITEMS};
use super::guard::{contained, guarded};
use super::ledger::{Call, Sink, Terms};
use super::message::Word;
use super::task::{Callbacks, Cell, Task, deliver};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::process::Panic;
use crate::sys::clock::Deadline;

/// How long a chunk should take whose size the pool may choose.
const CHUNK_NANOS: u64 = 200_000;
/// The largest chunk that the pool chooses.
const MOST_CHOSEN: u64 = 8192;
/// Chunks under way at once, of a size that was chosen by the caller.
const WINDOW: usize = 1024;

type Progress = Arc<dyn Fn(usize) + Send + Sync>;

/// How a function is applied to many arguments: what [`Pool::mapping`] gives.
#[derive(Clone)]
pub struct Mapping<'p> {
    pool: &'p Pool,
    chunk: Option<usize>,
    look_ahead: Option<usize>,
    progress: Option<Progress>,
}

impl std::fmt::Debug for Mapping<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { chunk, look_ahead, .. } = self;
        f.debug_struct("Mapping").field("chunk_size", chunk).field("look_ahead", look_ahead).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The items of one chunk, as they came back.
fn outcomes<R: DeserializeOwned>(outcome: Result<&[u8], TaskError>, count: usize) -> Vec<Result<R, TaskError>> {
    let mut outcomes = Vec::with_capacity(count);
    let failed = match outcome {
        Err(error) => error,
        Ok(mut rest) => loop {
            if outcomes.len() == count {
                return outcomes;
            }
            match next_outcome::<R>(&mut rest) {
                Ok(one) => outcomes.push(one),
                Err(error) => break TaskError::Result(Arc::new(error)),
            }
        },
    };
    outcomes.resize_with(count, || Err(failed.clone()));
    outcomes
}

fn next_outcome<R: DeserializeOwned>(rest: &mut &[u8]) -> Result<Result<R, TaskError>, Error> {
    let short = || Error::new(ErrorKind::Codec, "decode results", "fewer than there were arguments");
    let (word, behind) = rest.split_first().ok_or_else(short)?;
    if *word == Word::Returned as u8 {
        let (result, behind) = guarded("decode result", || codec::decode_one::<R>(behind))?;
        *rest = behind;
        return Ok(Ok(result));
    }
    if *word == Word::Panicked as u8 {
        let (panic, behind) = codec::decode_one::<Panic>(behind)?;
        *rest = behind;
        return Ok(Err(panic.into()));
    }
    let (text, behind) = codec::decode_one::<String>(behind)?;
    *rest = behind;
    Ok(Err(TaskError::Result(Arc::new(Error::new(ErrorKind::Codec, "send result", text)))))
}

/// What chunks under way tell of themselves: how many there are, and how long their items take.
#[derive(Default)]
struct Tally {
    under_way: AtomicUsize,
    nanos: AtomicU64,
    items: AtomicU64,
}

impl Tally {
    fn sent(&self) {
        self.under_way.fetch_add(1, Relaxed);
    }

    fn came(&self, items: usize, nanos: u64) {
        self.nanos.fetch_add(nanos, Relaxed);
        self.items.fetch_add(items as u64, Relaxed);
    }

    fn left(&self) {
        self.under_way.fetch_sub(1, Release);
    }

    fn under_way(&self) -> usize {
        self.under_way.load(Acquire)
    }

    /// How many items make a chunk of the right length, if that is known.
    fn chunk(&self) -> Option<u64> {
        let items = self.items.load(Relaxed);
        let each = self.nanos.load(Relaxed).checked_div(items)?.max(1);
        Some((CHUNK_NANOS / each).clamp(1, MOST_CHOSEN))
    }
}

/// Where the results of [`Mapping::map`] and [`Mapping::map_async`] go.
struct Batch<R> {
    tally: Tally,
    state: Mutex<BatchState<R>>,
    progress: Option<Progress>,
    cell: Option<Arc<Cell<Vec<R>>>>,
}

struct BatchState<R> {
    results: Vec<Option<R>>,
    /// Of each chunk: where it begins, and how many items it has.
    chunks: Vec<(usize, usize)>,
    error: Option<(usize, TaskError)>,
    all_sent: bool,
}

impl<R> Batch<R> {
    fn new(progress: Option<Progress>, cell: Option<Arc<Cell<Vec<R>>>>) -> Self {
        let state = BatchState { results: Vec::new(), chunks: Vec::new(), error: None, all_sent: false };
        Self { tally: Tally::default(), state: Mutex::new(state), progress, cell }
    }

    fn begin_chunk(&self, len: usize) -> u32 {
        let mut state = locked(&self.state);
        let begin = state.results.len();
        state.results.extend(std::iter::repeat_with(|| None).take(len));
        state.chunks.push((begin, len));
        self.tally.sent();
        (state.chunks.len() - 1) as u32
    }

    fn fail(&self, index: u32, error: TaskError) {
        let mut state = locked(&self.state);
        let at = state.chunks.get(index as usize).map_or(0, |chunk| chunk.0);
        note_error(&mut state, at, error);
        self.tally.left();
    }

    fn take(&self) -> Result<Vec<R>, TaskError> {
        let mut state = locked(&self.state);
        if let Some((_, error)) = state.error.take() {
            return Err(error);
        }
        let results = std::mem::take(&mut state.results);
        results.into_iter().map(|result| result.ok_or(TaskError::Taken)).collect()
    }
}

/// Keeps the error of the first item that has one.
fn note_error<R>(state: &mut BatchState<R>, at: usize, error: TaskError) {
    if state.error.as_ref().is_none_or(|(first, _)| at < *first) {
        state.error = Some((at, error));
    }
}

impl<R: DeserializeOwned + Send + 'static> Sink for Batch<R> {
    fn put(&self, index: u32, outcome: Result<&[u8], TaskError>, nanos: u64) -> Option<Box<dyn FnOnce() + Send>> {
        let (begin, len) = locked(&self.state).chunks.get(index as usize).copied()?;
        let outcomes = outcomes::<R>(outcome, len);
        self.tally.came(len, nanos);
        let mut state = locked(&self.state);
        for (k, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(result) => state.results[begin + k] = Some(result),
                Err(error) => note_error(&mut state, begin + k, error),
            }
        }
        let all_sent = state.all_sent;
        drop(state);
        if let Some(progress) = &self.progress {
            contained(|| progress(len));
        }
        self.tally.left();
        (all_sent && self.tally.under_way() == 0).then(|| self.deliver()).flatten()
    }
}

impl<R: Send + 'static> Batch<R> {
    fn deliver(&self) -> Option<Box<dyn FnOnce() + Send>> {
        deliver(self.cell.as_ref()?, self.take())
    }
}

impl<'p> Mapping<'p> {
    pub(super) fn new(pool: &'p Pool) -> Self {
        Self { pool, chunk: None, look_ahead: None, progress: None }
    }

    /// How many items a worker gets at once. A chunk is one task: its worker's death costs all of its items. By default the
    /// pool chooses so that a chunk takes about 0.2 ms; of [`map_async`](Self::map_async), four chunks for each worker.
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
    fn send<A>(
        &self,
        function: u64,
        items: Vec<A>,
        sink: &Arc<dyn Sink>,
        index: u32,
        calls: bool,
    ) -> Result<(), TaskError>
    where
        A: Serialize + Send + Sync + 'static,
    {
        let call = Call { function, count: items.len() as u64 };
        let write = |items: &[A], buffer: &mut Vec<u8>| items.iter().try_for_each(|item| codec::encode(item, buffer));
        let (retries, timeout) = self.pool.default_terms();
        let mut terms = Terms { retries, timeout, again: None, calls_back: calls };
        let owner = self.pool.owner();
        if retries == 0 {
            return owner.submit(call, |buffer| write(&items, buffer), sink, index, terms).map(|_| ());
        }
        let items = Arc::new(items);
        let once_more = Arc::clone(&items);
        terms.again = Some(Arc::new(move |buffer| write(&once_more, buffer)));
        owner.submit(call, |buffer| write(&items, buffer), sink, index, terms).map(|_| ())
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
        let batch = Arc::new(Batch::<R>::new(self.progress.clone(), None));
        let sink: Arc<dyn Sink> = Arc::clone(&batch) as _;
        let mut items = items.into_iter();
        loop {
            let measured = batch.tally.chunk();
            let (chunk, window) = match (self.chunk, measured) {
                (Some(chunk), _) => (chunk, WINDOW),
                // Until something is known of how long they take.
                (None, None) => (1, 2 * workers),
                (None, Some(chunk)) => {
                    // Near the end smaller ones, so that all workers end at the same time.
                    let left = items.size_hint().0 as u64 / (2 * workers as u64);
                    (chunk.min(left.max(1)) as usize, 4 * workers)
                }
            };
            let part: Vec<A> = items.by_ref().take(chunk).collect();
            if part.is_empty() {
                break;
            }
            let index = batch.begin_chunk(part.len());
            if let Err(error) = self.send(call, part, &sink, index, false) {
                batch.fail(index, error);
                break;
            }
            if batch.tally.under_way() >= window {
                owner.wait_until(&|| batch.tally.under_way() <= window / 2, Deadline::NEVER);
            }
        }
        owner.wait_until(&|| batch.tally.under_way() == 0, Deadline::NEVER);
        batch.take()
    }

    /// Applies `function` to all items; the results come together, as those of [`map`](Self::map) do. All items are read and
    /// sent before this returns; it waits if there are more chunks than the pool takes at once.
    ///
    /// # Errors
    /// As [`Pool::apply_async`]. Python: `map_async(f, items, chunksize)`; also `starmap_async`, with tuples as items.
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
    /// As [`Pool::apply_async`]. Python: `map_async(f, items, callback=..., error_callback=...)`.
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
        let (task, cell) = Task::of_many(owner, callbacks);
        let batch = Arc::new(Batch::<R>::new(self.progress.clone(), Some(cell)));
        let sink: Arc<dyn Sink> = Arc::clone(&batch) as _;
        // One more than there are, so that the last result does not end it before the last chunk is sent.
        batch.tally.sent();
        let mut items = items.into_iter();
        loop {
            let part: Vec<A> = items.by_ref().take(chunk.min(MOST_ITEMS as usize)).collect();
            if part.is_empty() {
                break;
            }
            let index = batch.begin_chunk(part.len());
            if let Err(error) = self.send(call, part, &sink, index, calls) {
                batch.fail(index, error);
                break;
            }
        }
        locked(&batch.state).all_sent = true;
        batch.tally.left();
        if batch.tally.under_way() == 0 {
            if let Some(callback) = batch.deliver() {
                owner.call_back(callback);
            }
        }
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

/// Where the results of [`Imap`] go.
struct Stream<R> {
    tally: Tally,
    ordered: bool,
    /// Items of each chunk under way.
    sizes: Mutex<HashMap<u32, usize>>,
    came: Mutex<HashMap<u32, VecDeque<Result<R, TaskError>>>>,
    progress: Option<Progress>,
}

impl<R: DeserializeOwned + Send + 'static> Sink for Stream<R> {
    fn put(&self, index: u32, outcome: Result<&[u8], TaskError>, nanos: u64) -> Option<Box<dyn FnOnce() + Send>> {
        let len = locked(&self.sizes).remove(&index)?;
        let outcomes = outcomes::<R>(outcome, len);
        self.tally.came(len, nanos);
        // In any order, all are in one queue.
        let key = if self.ordered { index } else { 0 };
        locked(&self.came).entry(key).or_default().extend(outcomes);
        if let Some(progress) = &self.progress {
            contained(|| progress(len));
        }
        self.tally.left();
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
    next: u32,
    sent: u32,
    args: PhantomData<fn(A)>,
}

impl<'p, I, A, R> Imap<'p, I, A, R>
where
    I: Iterator<Item = A>,
    A: Serialize + Send + Sync + 'static,
    R: DeserializeOwned + Send + 'static,
{
    fn new(mapping: Mapping<'p>, function: Result<u64, TaskError>, items: I, ordered: bool) -> Self {
        let progress = mapping.progress.clone();
        let (tally, sizes, came) = Default::default();
        let stream = Arc::new(Stream { tally, ordered, sizes, came, progress });
        Self { mapping, function, items: Some(items), stream, next: 0, sent: 0, args: PhantomData }
    }

    /// Sends as much as may be ahead.
    fn send_ahead(&mut self) -> Result<(), TaskError> {
        let workers = self.mapping.pool.processes();
        let ahead = self.mapping.look_ahead.unwrap_or(2 * workers);
        while self.items.is_some() && self.ahead() < ahead {
            let chunk = self.mapping.chunk.unwrap_or_else(|| self.stream.tally.chunk().unwrap_or(1) as usize);
            let part: Vec<A> = self.items.as_mut().map(|items| items.take(chunk).collect()).unwrap_or_default();
            if part.len() < chunk {
                self.items = None;
            }
            if part.is_empty() {
                break;
            }
            let index = self.sent;
            locked(&self.stream.sizes).insert(index, part.len());
            self.stream.tally.sent();
            let sink: Arc<dyn Sink> = Arc::clone(&self.stream) as _;
            let function = self.function.clone()?;
            self.sent += 1;
            if let Err(error) = self.mapping.send(function, part, &sink, index, false) {
                // An error for each item, in their place.
                drop(sink.put(index, Err(error), 0));
            }
        }
        Ok(())
    }

    /// Chunks that are under way or not taken.
    fn ahead(&self) -> usize {
        if self.stream.ordered { (self.sent - self.next) as usize } else { self.stream.tally.under_way() }
    }

    fn take(&mut self) -> Option<Result<R, TaskError>> {
        let key = if self.stream.ordered { self.next } else { 0 };
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
        if let Err(error) = self.send_ahead() {
            self.items = None;
            self.stream.tally.left();
            return Some(Err(error));
        }
        if let Some(one) = self.take() {
            return Some(one);
        }
        let stream = &self.stream;
        if stream.tally.under_way() == 0 && locked(&stream.came).is_empty() {
            return None;
        }
        let key = if stream.ordered { self.next } else { 0 };
        let has_come = || locked(&stream.came).contains_key(&key);
        self.mapping.pool.owner().wait_until(&has_come, Deadline::NEVER);
        self.take()
    }
}
