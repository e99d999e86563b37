//! Chunks on their way back: what their items became, how long they took, and where the results of a map are kept.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;

use super::error::TaskError;
use super::guard::{contained, guarded};
use super::ledger::{Entry, Part, Sink};
use super::letters::Letter;
use super::message::Word;
use super::owner::locked;
use super::task::{Cell, deliver};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::process::Panic;

/// How long a chunk should take whose size the pool may choose,
const CHUNK_NANOS: u64 = 200_000;
/// and how long at most, while each worker has [`MUCH`] such chunks before it.
const LONG_CHUNK_NANOS: u64 = 2_000_000;
const MUCH: u64 = 16;
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

/// As [`outcomes`], of one item, without memory for more.
fn outcome_of_one<R: DeserializeOwned>(outcome: Result<&[u8], TaskError>) -> Result<R, TaskError> {
    next_outcome::<R>(&mut outcome?).unwrap_or_else(|error| Err(TaskError::Result(Arc::new(error))))
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
    /// By one thread.
    sent: AtomicUsize,
    left: AtomicUsize,
    nanos: AtomicU64,
    items: AtomicU64,
}

impl Tally {
    /// A chunk is sent. Only one thread says so, which waits for them.
    pub fn sent(&self) {
        self.sent.store(self.sent.load(Relaxed) + 1, Relaxed);
    }

    /// A chunk came back after so long, 0 if that was not measured.
    pub fn came(&self, items: usize, nanos: u64) {
        if nanos > 0 {
            self.nanos.fetch_add(nanos, Relaxed);
            self.items.fetch_add(items as u64, Relaxed);
        }
    }

    /// So many chunks are under way no more: all that they brought is kept. Whether these are the last ones that are sent.
    pub fn left(&self, chunks: usize) -> bool {
        self.left.fetch_add(chunks, AcqRel) + chunks == self.sent.load(Relaxed)
    }

    /// Chunks under way.
    pub fn under_way(&self) -> usize {
        self.sent.load(Relaxed).wrapping_sub(self.left.load(Acquire))
    }

    /// How long an item takes, if that is known.
    fn each(&self) -> Option<u64> {
        let items = self.items.load(Relaxed);
        (items > 0).then(|| (self.nanos.load(Relaxed) / items).max(1))
    }

    /// How many items make a chunk of the right length, if that is known.
    pub fn chunk(&self) -> Option<u64> {
        Some((CHUNK_NANOS / self.each()?).clamp(1, MOST_CHOSEN))
    }

    /// The same, when so many items are left for so many workers, and nobody waits for the first results: longer ones while
    /// there is much to do, as each costs its sender a wake-up, and shorter ones near the end, so that all workers end at the
    /// same time.
    pub fn chunk_of(&self, left: u64, workers: u64) -> Option<u64> {
        let each = self.each()?;
        let before = left.saturating_mul(each) / workers;
        let chunk = (before / MUCH).clamp(CHUNK_NANOS, LONG_CHUNK_NANOS) / each;
        Some(chunk.clamp(1, MOST_CHOSEN).min(left / (2 * workers)).max(1))
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
    /// As far as they have come.
    results: Vec<Option<R>>,
    error: Option<(usize, TaskError)>,
}

impl<R> Batch<R> {
    /// Whoever sends the chunks waits for them.
    pub fn new(progress: Option<Progress>) -> Self {
        let state = BatchState { results: Vec::new(), error: None };
        Self { tally: Tally::default(), state: Mutex::new(state), progress, cell: None }
    }

    /// So many chunks, whose results go to the cell together.
    pub fn of_chunks(chunks: usize, progress: Option<Progress>, cell: Arc<Cell<Vec<R>>>) -> Self {
        let batch = Self { cell: Some(cell), ..Self::new(progress) };
        batch.tally.sent.store(chunks, Relaxed);
        batch
    }

    /// The chunk that begins with this item was not sent.
    pub fn fail(&self, begin: usize, error: TaskError) {
        note_error(&mut locked(&self.state), begin, error);
        self.tally.left(1);
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

/// The results of one chunk's items, and the first error with its place among them: an error is large, and rare.
struct Chunk<R> {
    results: Vec<Option<R>>,
    error: Option<(usize, TaskError)>,
}

impl<R: DeserializeOwned> Chunk<R> {
    fn read(outcome: Result<&[u8], TaskError>, items: usize) -> Self {
        let mut chunk = Self { results: Vec::new(), error: None };
        let mut rest = match outcome {
            Ok(rest) => rest,
            Err(error) => {
                chunk.error = Some((0, error));
                return chunk;
            }
        };
        chunk.results.reserve(items);
        for k in 0..items {
            let result = match next_outcome::<R>(&mut rest) {
                Ok(Ok(result)) => Some(result),
                Ok(Err(error)) => {
                    chunk.error.get_or_insert((k, error));
                    None
                }
                Err(error) => {
                    chunk.error.get_or_insert_with(|| (k, TaskError::Result(Arc::new(error))));
                    break;
                }
            };
            chunk.results.push(result);
        }
        chunk
    }
}

impl<R> BatchState<R> {
    /// Keeps the results of the items from `begin`.
    fn keep_all(&mut self, begin: usize, chunk: Chunk<R>) {
        if let Some((at, error)) = chunk.error {
            note_error(self, begin + at, error);
        }
        if begin > self.results.len() {
            self.results.resize_with(begin, || None);
        }
        // Those behind it may have come before.
        let there = chunk.results.len().min(self.results.len() - begin);
        let mut results = chunk.results.into_iter();
        self.results[begin..begin + there].iter_mut().zip(&mut results).for_each(|(place, result)| *place = result);
        self.results.extend(results);
    }

    /// Keeps the result of an item.
    fn keep(&mut self, at: usize, outcome: Result<R, TaskError>) {
        match outcome {
            Err(error) => note_error(self, at, error),
            Ok(result) if at == self.results.len() => self.results.push(Some(result)),
            Ok(result) => {
                if at >= self.results.len() {
                    self.results.resize_with(at + 1, || None);
                }
                self.results[at] = Some(result);
            }
        }
    }
}

impl<R: DeserializeOwned + Send + 'static> Sink for Batch<R> {
    /// The index is that of the first item.
    fn put(&self, part: Part, outcome: Result<&[u8], TaskError>, nanos: u64) -> Option<Box<dyn FnOnce() + Send>> {
        let Part { index: begin, items } = part;
        if items == 1 {
            let outcome = outcome_of_one::<R>(outcome);
            locked(&self.state).keep(begin, outcome);
        } else {
            let chunk = Chunk::read(outcome, items);
            locked(&self.state).keep_all(begin, chunk);
        }
        self.tally.came(items, nanos);
        if let Some(progress) = &self.progress {
            contained(|| progress(items));
        }
        if self.tally.left(1) { self.deliver() } else { None }
    }

    fn takes_run_of(&self, entry: &Entry) -> bool {
        entry.call.count == 1 && self.progress.is_none()
    }

    /// One lock for all of them.
    fn put_run(&self, run: &[Letter]) -> Option<Box<dyn FnOnce() + Send>> {
        let mut came = Vec::with_capacity(run.len());
        for letter in run {
            let Some(entry) = letter.returned() else { continue };
            came.push((entry.index, outcome_of_one::<R>(Ok(letter.rest()))));
            self.tally.came(1, letter.head.map_or(0, |head| head.nanos));
        }
        let chunks = came.len();
        let mut state = locked(&self.state);
        came.into_iter().for_each(|(at, outcome)| state.keep(at, outcome));
        drop(state);
        if self.tally.left(chunks) { self.deliver() } else { None }
    }
}

impl<R: Send + 'static> Batch<R> {
    /// Keeps the results where they are waited for, if that is elsewhere, or gives the work that has to be done before.
    pub fn deliver(&self) -> Option<Box<dyn FnOnce() + Send>> {
        deliver(self.cell.as_ref()?, self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returned(results: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for result in results {
            bytes.push(Word::Returned as u8);
            codec::encode(result, &mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn chunks_are_long_while_there_is_much_and_short_near_the_end() {
        let tally = Tally::default();
        assert_eq!((tally.chunk(), tally.chunk_of(1000, 2)), (None, None));
        tally.came(10, 1_000_000);
        // 0.1 ms each.
        assert_eq!(tally.chunk(), Some(2));
        let chunks = [1_000_000, 2000, 200, 64, 20, 7, 3, 1, 0].map(|left| tally.chunk_of(left, 2).unwrap());
        assert_eq!(chunks, [20, 20, 6, 2, 2, 1, 1, 1, 1]);
        assert_eq!(tally.chunk_of(u64::MAX, 1), Some(20));
        // So short that the clock does not see it.
        let tally = Tally::default();
        tally.came(1_000_000, 1);
        assert_eq!((tally.chunk(), tally.chunk_of(1 << 40, 4)), (Some(MOST_CHOSEN), Some(MOST_CHOSEN)));
    }

    #[test]
    fn chunks_find_their_places_in_any_order() {
        let batch = Batch::<u32>::new(None);
        let put = |begin, results: &[u32]| {
            let part = Part { index: begin, items: results.len() };
            assert!(batch.put(part, Ok(&returned(results)), 0).is_none());
        };
        put(3, &[3, 4]);
        put(7, &[7]);
        put(0, &[0, 1, 2]);
        put(6, &[6]);
        put(8, &[8, 9, 10]);
        put(5, &[5]);
        assert_eq!(batch.take().unwrap(), (0..11).collect::<Vec<_>>());
    }

    #[test]
    fn the_error_of_the_first_item_counts_and_costs_no_other_chunk() {
        let batch = Batch::<u32>::new(None);
        let put = |index, items, outcome: Result<&[u8], TaskError>| batch.put(Part { index, items }, outcome, 0);
        put(4, 2, Err(TaskError::Cancelled));
        // One result where there should be three: the second item has none.
        put(1, 3, Ok(&returned(&[1])));
        put(6, 1, Err(TaskError::Terminated));
        put(0, 1, Ok(&returned(&[0])));
        assert!(matches!(&locked(&batch.state).error, Some((2, TaskError::Result(_)))));
        assert!(matches!(batch.take(), Err(TaskError::Result(_))));
    }
}
