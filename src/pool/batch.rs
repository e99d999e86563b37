//! Chunks on their way back: what their items became, how long they took, and where the results of a map are kept.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;

use super::error::TaskError;
use super::guard::{contained, guarded};
use super::ledger::Sink;
use super::message::Word;
use super::owner::locked;
use super::task::{Cell, deliver};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::process::Panic;

/// How long a chunk should take whose size the pool may choose.
const CHUNK_NANOS: u64 = 200_000;
/// The largest chunk that the pool chooses.
const MOST_CHOSEN: u64 = 8192;

/// Is told how many results came.
pub(super) type Progress = Arc<dyn Fn(usize) + Send + Sync>;

/// The items of one chunk, as they came back.
pub(super) fn outcomes<R: DeserializeOwned>(
    outcome: Result<&[u8], TaskError>,
    count: usize,
) -> Vec<Result<R, TaskError>> {
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
pub(super) struct Tally {
    under_way: AtomicUsize,
    nanos: AtomicU64,
    items: AtomicU64,
}

impl Tally {
    /// A chunk was sent.
    pub fn sent(&self) {
        self.under_way.fetch_add(1, Relaxed);
    }

    /// A chunk came back after so long.
    pub fn came(&self, items: usize, nanos: u64) {
        self.nanos.fetch_add(nanos, Relaxed);
        self.items.fetch_add(items as u64, Relaxed);
    }

    /// A chunk is under way no more: all that it brought is kept.
    pub fn left(&self) {
        self.under_way.fetch_sub(1, Release);
    }

    /// Chunks under way.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Acquire)
    }

    /// How many items make a chunk of the right length, if that is known.
    pub fn chunk(&self) -> Option<u64> {
        let items = self.items.load(Relaxed);
        let each = self.nanos.load(Relaxed).checked_div(items)?.max(1);
        Some((CHUNK_NANOS / each).clamp(1, MOST_CHOSEN))
    }
}

/// Where the results of [`Mapping::map`] and [`Mapping::map_async`] go.
pub(super) struct Batch<R> {
    pub tally: Tally,
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
    pub fn new(progress: Option<Progress>, cell: Option<Arc<Cell<Vec<R>>>>) -> Self {
        let state = BatchState { results: Vec::new(), chunks: Vec::new(), error: None, all_sent: false };
        Self { tally: Tally::default(), state: Mutex::new(state), progress, cell }
    }

    /// Makes room for the results of a chunk; its number.
    pub fn begin_chunk(&self, len: usize) -> u32 {
        let mut state = locked(&self.state);
        let begin = state.results.len();
        state.results.extend(std::iter::repeat_with(|| None).take(len));
        state.chunks.push((begin, len));
        self.tally.sent();
        (state.chunks.len() - 1) as u32
    }

    /// The chunk was not sent.
    pub fn fail(&self, index: u32, error: TaskError) {
        let mut state = locked(&self.state);
        let at = state.chunks.get(index as usize).map_or(0, |chunk| chunk.0);
        note_error(&mut state, at, error);
        self.tally.left();
    }

    /// All results, or the first error.
    pub fn take(&self) -> Result<Vec<R>, TaskError> {
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
    /// Says that no more chunks come; if all have come back, as [`deliver`](Self::deliver).
    pub fn all_sent(&self) -> Option<Box<dyn FnOnce() + Send>> {
        locked(&self.state).all_sent = true;
        self.tally.left();
        (self.tally.under_way() == 0).then(|| self.deliver()).flatten()
    }

    /// Keeps the results where they are waited for, or gives the work that has to be done before.
    fn deliver(&self) -> Option<Box<dyn FnOnce() + Send>> {
        deliver(self.cell.as_ref()?, self.take())
    }
}
