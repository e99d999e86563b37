//! Pools, and what is handed to them that misbehaves: types whose code panics, initializers that end, callbacks, iterators
//! without end. Each is one error in one place, or is waited for, and the pool goes on.

mod support {
    pub mod watchdog;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use kinfolk::{Event, Pool, Queue, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use support::watchdog::watchdog;

fn guard() -> impl Sized {
    watchdog(Duration::from_secs(30))
}

fn square(n: u64) -> u64 {
    n * n
}

/// Where a value's own code panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Where {
    Nowhere,
    Encoding,
    Decoding,
    Dropping,
}

use Where::{Decoding, Dropping, Encoding, Nowhere};

/// Panics somewhere, in the process that did not make it if that is when it is dropped.
#[derive(Debug)]
struct Trap(Where, u32);

impl Trap {
    fn new(at: Where) -> Self {
        Self(at, std::process::id())
    }
}

impl Serialize for Trap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.0 != Encoding, "a trap");
        (self.0, self.1).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (at, pid) = Deserialize::deserialize(deserializer)?;
        assert!(at != Decoding, "a trap");
        Ok(Self(at, pid))
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        if self.0 == Dropping && self.1 != std::process::id() && !std::thread::panicking() {
            panic!("a trap");
        }
    }
}

/// The pool is whole, and so are its accounts.
#[track_caller]
fn goes_on(pool: &Pool, deaths: u64) {
    assert_eq!(pool.map(square, 0..100).unwrap(), (0..100).map(square).collect::<Vec<_>>());
    assert_eq!(pool.job(square, 3).callback(|_| ()).submit().unwrap().get().unwrap(), 9);
    pool.close();
    pool.join().unwrap();
    let stats = pool.stats();
    assert_eq!(stats.submitted, stats.done + stats.failed + stats.cancelled, "{stats:?}");
    assert_eq!(stats.deaths, deaths, "{stats:?}");
}

fn take(trap: Trap) -> u32 {
    // What its drop does is not the subject here.
    let Trap(at, _) = *std::mem::ManuallyDrop::new(trap);
    at as u32
}

#[test]
fn arguments_whose_encoding_panics_are_an_error_of_their_task() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let refused = pool.apply(take, Trap::new(Encoding));
    assert!(matches!(refused, Err(TaskError::Arguments(_))), "{refused:?}");
    let refused = pool.map(take, [Nowhere, Encoding].map(Trap::new));
    assert!(matches!(refused, Err(TaskError::Arguments(_))), "{refused:?}");
    goes_on(&pool, 0);
}

#[test]
fn arguments_whose_decoding_panics_are_an_error_of_their_task() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    assert!(pool.apply(take, Trap::new(Decoding)).is_err());
    assert!(pool.map(take, [Nowhere, Decoding].map(Trap::new)).is_err());
    goes_on(&pool, 0);
}

#[test]
fn results_whose_encoding_panics_are_an_error_of_their_task() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let lost = pool.apply(Trap::new, Encoding);
    assert!(matches!(lost, Err(TaskError::Result(_) | TaskError::Panicked { .. })), "{lost:?}");
    let outcomes: Vec<_> =
        pool.mapping().chunk_size(3).unwrap().imap(Trap::new, [Nowhere, Encoding, Nowhere]).collect();
    assert!(
        matches!(outcomes[..], [Ok(_), Err(TaskError::Result(_) | TaskError::Panicked { .. }), Ok(_)]),
        "{outcomes:?}"
    );
    goes_on(&pool, 0);
}

#[test]
fn results_whose_decoding_panics_are_an_error_of_their_task() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let lost = pool.apply(Trap::new, Decoding);
    assert!(matches!(lost, Err(TaskError::Result(_))), "{lost:?}");
    let lost = pool.map(Trap::new, [Nowhere, Decoding]);
    assert!(matches!(lost, Err(TaskError::Result(_))), "{lost:?}");
    let lost = pool.map_async(Trap::new, [Nowhere, Decoding]).unwrap().get();
    assert!(matches!(lost, Err(TaskError::Result(_))), "{lost:?}");
    goes_on(&pool, 0);
}

#[test]
fn arguments_whose_drop_panics_in_the_worker_are_an_error_of_their_task() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let lost = pool.apply(|trap: Trap| drop(trap), Trap::new(Dropping));
    assert!(matches!(lost, Err(TaskError::Panicked { .. })), "{lost:?}");
    goes_on(&pool, 0);
}

#[test]
fn results_whose_drop_panics_where_nobody_asks_for_them_spoil_nothing_else() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    for _ in 0..20 {
        drop(pool.apply_async(Trap::new, Dropping).unwrap());
        drop(pool.map_async(Trap::new, [Dropping]).unwrap());
        drop(pool.job(Trap::new, Dropping).callback(|_| ()).submit().unwrap());
    }
    goes_on(&pool, 0);
}

#[test]
fn a_report_of_progress_that_panics_spoils_nothing_else() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let mapping = pool.mapping().on_progress(|_| panic!("in a report"));
    // It may be the caller's panic, or an error of the map.
    let reported = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mapping.map(square, 0..10)));
    assert!(!matches!(reported, Ok(Ok(_))), "{reported:?}");
    drop(pool.mapping().on_progress(|_| panic!("in a report")).map_async(square, 0..10).unwrap());
    goes_on(&pool, 0);
}

#[test]
fn an_initializer_that_ends_the_worker_breaks_the_pool() {
    let _guard = guard();
    for code in [0, 3, -1] {
        let end = |(started, code): (Queue<u32>, i32)| {
            started.put(std::process::id()).unwrap();
            if code < 0 { std::process::abort() } else { std::process::exit(code) }
        };
        let started = Queue::<u32>::new(0).unwrap();
        let pool = Pool::builder().processes(2).initializer(end, (started.clone(), code)).build().unwrap();
        match pool.apply_async(square, 1).map(|mut task| task.get_timeout(Duration::from_secs(5))) {
            Ok(Err(TaskError::Broken { .. })) | Err(TaskError::Broken { .. }) => {}
            other => panic!("code {code}: {other:?}; {} were started", started.len()),
        }
        assert!(started.len() <= 20, "code {code}: {} were started", started.len());
        pool.join().unwrap();
    }
}

/// An iterator without end that counts what was taken of it.
fn counted(taken: &Arc<AtomicUsize>) -> impl Iterator<Item = u64> + use<> {
    let taken = Arc::clone(taken);
    (0..).inspect(move |_| {
        taken.fetch_add(1, Relaxed);
    })
}

#[test]
fn few_items_are_read_ahead_however_slowly_the_results_are_taken() {
    let _guard = guard();
    const AHEAD: usize = 4;
    for ordered in [true, false] {
        let pool = Pool::new(2).unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let mapping = pool.mapping().chunk_size(1).unwrap().look_ahead(AHEAD);
        let mut results: Box<dyn Iterator<Item = _>> = if ordered {
            Box::new(mapping.imap(square, counted(&taken)))
        } else {
            Box::new(mapping.imap_unordered(square, counted(&taken)))
        };
        for count in 1..=100 {
            results.next().unwrap().unwrap();
            // Everything that is under way ends before the next is taken.
            while pool.stats().done < taken.load(Relaxed) as u64 {
                pool.apply_async(square, 1).unwrap().wait();
            }
            let ahead = taken.load(Relaxed) - count;
            assert!(ahead <= AHEAD + 1, "{ahead} ahead of {count}, ordered: {ordered}");
        }
    }
}

#[test]
fn a_task_that_is_begun_again_is_waited_for_by_join() {
    let _guard = guard();
    let dies_once = |tries: Queue<u32>| {
        tries.put(1).unwrap();
        if tries.len() == 1 {
            std::process::abort();
        }
        7
    };
    for _ in 0..100 {
        let pool = Pool::new(1).unwrap();
        let mut task = pool.job(dies_once, Queue::<u32>::new(0).unwrap()).retries(1).submit().unwrap();
        pool.close();
        pool.join().unwrap();
        assert_eq!(task.get_timeout(Duration::from_secs(5)).unwrap(), 7);
    }
}

#[test]
fn a_map_of_more_than_fits_into_memory_goes_on_as_results_come() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let mapping = pool.mapping().chunk_size(1).unwrap();
    let items = (0..600u64).map(|n| serde_bytes::ByteBuf::from(vec![n as u8; 1 << 20]));
    let firsts = mapping.map(|bytes: serde_bytes::ByteBuf| bytes[0], items).unwrap();
    assert!(firsts.into_iter().eq((0..600u64).map(|n| n as u8)));
}

#[test]
fn a_callback_may_use_the_pool() {
    let _guard = guard();
    let pool = Arc::new(Pool::new(2).unwrap());
    let (done, inner) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&pool));
    let count = Arc::clone(&done);
    let job = pool.job(square, 3).callback(move |nine| {
        count.store(inner.apply(square, *nine).unwrap() as usize, Relaxed);
    });
    assert_eq!(job.submit().unwrap().get().unwrap(), 9);
    assert_eq!(done.load(Relaxed), 81);
}

#[test]
fn a_task_is_waited_for_by_many_threads_and_a_close_in_between() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let go = Event::new().unwrap();
    let after = |(n, go): (u64, Event)| {
        go.wait();
        n
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let task = pool.apply_async(after, (n, go.clone())).unwrap();
                scope.spawn(move || task.get().unwrap())
            })
            .collect();
        pool.close();
        let joined = scope.spawn(|| pool.join());
        go.set();
        assert!(threads.into_iter().map(|thread| thread.join().unwrap()).eq(0..8));
        joined.join().unwrap().unwrap();
    });
}
