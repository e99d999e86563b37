//! Panics in the code of arguments' and results' types, in workers and in the owner: one error in one place, and the pool goes
//! on.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use kinfolk::{Pool, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use support::watchdog;

/// Where a value's code panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    Nowhere,
    Serialize,
    Deserialize,
    Drop,
}

/// In which process it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Side {
    Owner,
    Worker,
}

use Place::{Deserialize as Decoding, Drop as Dropping, Nowhere, Serialize as Encoding};

/// A value whose code panics at one place, in one process.
#[derive(Debug, Clone)]
struct Touchy {
    number: u64,
    place: Place,
    side: Side,
    owner: u32,
}

/// Panics in this process.
static FELL: AtomicU32 = AtomicU32::new(0);

impl Touchy {
    fn new(number: u64, place: Place, side: Side) -> Self {
        Self { number, place, side, owner: std::process::id() }
    }

    fn touch(&self, place: Place) {
        let side = if std::process::id() == self.owner { Side::Owner } else { Side::Worker };
        if (self.place, self.side) == (place, side) && !std::thread::panicking() {
            FELL.fetch_add(1, SeqCst);
            panic!("in {place:?} of {}", self.number);
        }
    }
}

impl Serialize for Touchy {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.touch(Encoding);
        (self.number, self.place, self.side, self.owner).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (number, place, side, owner) = Deserialize::deserialize(from)?;
        // A value whose drop panics is not to be dropped by this panic.
        let value = Self { number, place, side, owner };
        value.touch(Decoding);
        Ok(value)
    }
}

impl Drop for Touchy {
    fn drop(&mut self) {
        self.touch(Dropping);
    }
}

fn take(touchy: Touchy) -> u64 {
    touchy.number + 1
}

fn make((number, place, side, owner): (u64, Place, Side, u32)) -> Touchy {
    Touchy { number, place, side, owner }
}

fn wanted(number: u64, place: Place, side: Side) -> (u64, Place, Side, u32) {
    (number, place, side, std::process::id())
}

/// The pool is as good as new: nobody died, all tasks have ended, and it does more.
fn goes_on(pool: &Pool) {
    let untouched = |n| Touchy::new(n, Nowhere, Side::Owner);
    assert_eq!(pool.map(take, (0..50).map(untouched)).unwrap(), (1..51).collect::<Vec<_>>());
    let made = pool.map(make, (0..50).map(|n| wanted(n, Nowhere, Side::Owner))).unwrap();
    assert!(made.iter().map(|touchy| touchy.number).eq(0..50));
    // The callbacks' thread lives, too.
    let (tell, told) = std::sync::mpsc::channel();
    let job = pool.job(take, untouched(7)).callback(move |n| tell.send(*n).unwrap());
    assert_eq!(job.submit().unwrap().get().unwrap(), 8);
    assert_eq!(told.recv().unwrap(), 8);
    let stats = pool.stats();
    assert_eq!(stats.deaths, 0, "{stats:?}");
    assert_eq!(stats.submitted, stats.done + stats.failed + stats.cancelled, "{stats:?}");
}

fn pool() -> (Pool, impl Sized) {
    (Pool::new(2).unwrap(), watchdog(Duration::from_secs(60)))
}

fn panicked(outcome: Result<impl std::fmt::Debug, TaskError>, text: &str) {
    match outcome {
        Err(TaskError::Panicked { message, location, .. }) => {
            assert_eq!(message, text);
            assert!(location.contains("pool_panics.rs"), "{location}");
        }
        other => panic!("{other:?}, expected a panic {text:?}"),
    }
}

#[test]
fn a_panic_in_a_worker_is_its_tasks_error() {
    let (pool, _guard) = pool();
    // While it is decoded, and when the function drops it.
    for place in [Decoding, Dropping] {
        let touchy = |n, bad| Touchy::new(n, if bad { place } else { Nowhere }, Side::Worker);
        panicked(pool.apply(take, touchy(1, true)), &format!("in {place:?} of 1"));
        let one_by_one = pool.mapping().chunk_size(1).unwrap();
        let outcomes: Vec<_> = one_by_one.imap(take, (0..5).map(|n| touchy(n, n == 3))).collect();
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match n {
                3 => panicked(outcome, &format!("in {place:?} of 3")),
                _ => assert_eq!(outcome.unwrap(), n as u64 + 1),
            }
        }
        goes_on(&pool);
    }
    for place in [Encoding, Dropping] {
        let item = |n, bad| wanted(n, if bad { place } else { Nowhere }, Side::Worker);
        panicked(pool.apply(make, item(1, true)), &format!("in {place:?} of 1"));
        // One item of a chunk.
        let chunks = pool.mapping().chunk_size(5).unwrap();
        let outcomes: Vec<_> = chunks.imap(make, (0..10).map(|n| item(n, n == 3))).collect();
        assert_eq!(outcomes.len(), 10);
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match n {
                3 => panicked(outcome, &format!("in {place:?} of 3")),
                _ => assert_eq!(outcome.unwrap().number, n as u64),
            }
        }
        panicked(chunks.map(make, (0..10).map(|n| item(n, n == 3))), &format!("in {place:?} of 3"));
        goes_on(&pool);
    }
}

#[test]
fn arguments_that_cannot_be_encoded_are_an_error_of_the_call() {
    let (pool, _guard) = pool();
    let touchy = |n, bad| Touchy::new(n, if bad { Encoding } else { Nowhere }, Side::Owner);
    let refused = |error: TaskError, text: &str| match error {
        TaskError::Arguments(error) => assert!(error.to_string().contains(text), "{error}"),
        other => panic!("{other}"),
    };
    refused(pool.apply(take, touchy(1, true)).unwrap_err(), "in Serialize of 1");
    refused(pool.map(take, (0..20).map(|n| touchy(n, n == 11))).unwrap_err(), "in Serialize of 11");
    let one_by_one = pool.mapping().chunk_size(1).unwrap();
    for (n, outcome) in one_by_one.imap(take, (0..5).map(|n| touchy(n, n == 3))).enumerate() {
        match n {
            3 => refused(outcome.unwrap_err(), "in Serialize of 3"),
            _ => assert_eq!(outcome.unwrap(), n as u64 + 1),
        }
    }
    goes_on(&pool);
}

#[test]
fn arguments_that_cannot_be_encoded_once_more_are_an_error_of_the_task() {
    let (pool, _guard) = pool();
    /// Can be encoded once in a process.
    struct Once;
    static ENCODED: AtomicU32 = AtomicU32::new(0);
    impl Serialize for Once {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            assert_eq!(ENCODED.fetch_add(1, SeqCst), 0, "encoded once more");
            to.serialize_unit()
        }
    }
    impl<'de> Deserialize<'de> for Once {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            <()>::deserialize(from).map(|()| Self)
        }
    }
    let task = pool.job(|_: Once| std::process::abort(), Once).retries(3).submit().unwrap();
    let outcome: Result<(), _> = task.get();
    match outcome {
        Err(TaskError::Arguments(error)) => assert!(error.to_string().contains("encoded once more"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!((pool.stats().retried, pool.stats().deaths), (1, 1));
    // Whoever replaces workers still does.
    for n in 0..5 {
        let died: Result<(), _> = pool.apply(|_: u64| std::process::abort(), n);
        assert!(matches!(died, Err(TaskError::WorkerDied { .. })), "{died:?}");
    }
    assert_eq!(pool.apply(take, Touchy::new(1, Nowhere, Side::Owner)).unwrap(), 2);
}

#[test]
fn results_that_cannot_be_decoded_are_an_error_of_the_task() {
    let (pool, _guard) = pool();
    let item = |n, bad| wanted(n, if bad { Decoding } else { Nowhere }, Side::Owner);
    let undecoded = |outcome: Result<Touchy, TaskError>| match outcome {
        Err(TaskError::Result(error)) => assert!(error.to_string().contains("panicked"), "{error}"),
        other => panic!("{other:?}"),
    };
    undecoded(pool.apply(make, item(1, true)));
    let results = pool.map(make, (0..20).map(|n| item(n, n == 11)));
    assert!(matches!(results, Err(TaskError::Result(_))), "{results:?}");
    let one_by_one = pool.mapping().chunk_size(1).unwrap();
    for (n, outcome) in one_by_one.imap(make, (0..5).map(|n| item(n, n == 3))).enumerate() {
        match n {
            3 => undecoded(outcome),
            _ => assert_eq!(outcome.unwrap().number, n as u64),
        }
    }
    goes_on(&pool);
}

#[test]
fn results_that_nobody_wants_trouble_nobody_when_they_are_dropped() {
    let (pool, _guard) = pool();
    let fell = || FELL.load(SeqCst);
    let before = fell();
    // Of what has come before its task is dropped here, the panic is this thread's.
    fn forgo<R>(task: Result<kinfolk::pool::Task<R>, TaskError>) {
        let task = task.unwrap();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
    }
    // Their readers are this thread, which waits for something else, and the pool's own.
    for round in 0..20 {
        forgo(pool.apply_async(make, wanted(round, Dropping, Side::Owner)));
        forgo(pool.job(make, wanted(round, Dropping, Side::Owner)).callback(|_| ()).submit());
        forgo(pool.map_async(make, (0..4).map(|n| wanted(n, if n == 2 { Dropping } else { Nowhere }, Side::Owner))));
        assert_eq!(pool.apply(take, Touchy::new(round, Nowhere, Side::Owner)).unwrap(), round + 1);
    }
    support::children::until(|| fell() >= before + 60);
    goes_on(&pool);
    // Whoever takes such a result has the panic himself, where he drops it.
    let task = pool.apply_async(make, wanted(1, Dropping, Side::Owner)).unwrap();
    let result = task.get().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(result))).is_err());
    goes_on(&pool);
}

#[test]
fn arguments_whose_drop_panics_in_the_owner_panic_once() {
    let (pool, _guard) = pool();
    // The caller gives the arguments away, and they are dropped before he gets the task.
    let applied = catch_unwind(AssertUnwindSafe(|| pool.apply(take, Touchy::new(1, Dropping, Side::Owner))));
    assert!(applied.is_err());
    goes_on(&pool);
    // Those that are kept for another try are dropped when the task has ended, by whoever reads its result.
    let before = FELL.load(SeqCst);
    let task = pool.job(take, Touchy::new(2, Dropping, Side::Owner)).retries(1).submit().unwrap();
    assert_eq!(task.get().unwrap(), 3);
    support::children::until(|| FELL.load(SeqCst) > before);
    goes_on(&pool);
}

#[test]
fn a_progress_callback_that_panics_loses_no_result() {
    let (pool, _guard) = pool();
    let mapping = pool.mapping().on_progress(|_| panic!("no progress"));
    let squares = mapping.map(|n: u64| n * n, 0..20).unwrap();
    assert!(squares.into_iter().eq((0..20).map(|n| n * n)));
    assert_eq!(mapping.imap(|n: u64| n, 0..20).map(Result::unwrap).sum::<u64>(), 190);
    goes_on(&pool);
}
