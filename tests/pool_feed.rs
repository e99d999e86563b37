//! Maps that nobody waits for while their chunks are sent.

mod support;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kinfolk::pool::PoolStats;
use kinfolk::{Event, Pool, Queue, TaskError};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize, Serializer};
use support::pools::{add_up, next};
use support::{children, stopped, watchdog};

const DEPTH: usize = 8;

/// What the tasks of this file wait for, in a worker.
static GO: OnceLock<Event> = OnceLock::new();

fn keep(go: Event) {
    assert!(GO.set(go).is_ok());
}

/// Goes on when it may.
fn wait_for_go(n: u64) -> u64 {
    GO.get().unwrap().wait();
    n + 1
}

/// A pool whose tasks wait until they may go on.
fn held_up(workers: usize) -> (Pool, Event, impl Sized) {
    let guard = watchdog(Duration::from_secs(60));
    let go = Event::new().unwrap();
    let pool = Pool::builder().processes(workers).depth(DEPTH).initializer(keep, go.clone()).build().unwrap();
    (pool, go, guard)
}

#[test]
fn a_map_returns_before_any_of_its_tasks_has_ended_and_join_waits_for_all() {
    const TASKS: u64 = 3 * DEPTH as u64;
    let (pool, go, _guard) = held_up(2);
    let one = pool.mapping().chunk_size(1).unwrap();
    let called = Arc::new(AtomicU64::new(0));
    let count = called.clone();
    let on_done = move |results: &Vec<u64>| {
        count.fetch_add(results.len() as u64, Relaxed);
    };
    let task = one.map_async_with(wait_for_go, 0..TASKS, on_done, |e| panic!("{e}")).unwrap();
    let another = one.map_async(wait_for_go, 0..TASKS).unwrap();
    assert!(!task.is_ready() && !another.is_ready());
    let PoolStats { submitted, done, .. } = pool.stats();
    assert_eq!((submitted, done), (2 * TASKS, 0));
    pool.close();
    assert!(matches!(one.map_async(wait_for_go, 0..TASKS), Err(TaskError::Closed)));
    go.set();
    pool.join().unwrap();
    assert_eq!(called.load(Relaxed), TASKS, "called once, before the end of join");
    assert!(task.is_ready() && another.is_ready());
    assert!(task.get().unwrap().into_iter().eq(1..=TASKS));
    assert!(another.get().unwrap().into_iter().eq(1..=TASKS));
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.done), (2 * TASKS, 2 * TASKS));
}

#[test]
fn terminate_gives_up_what_was_sent_and_what_was_not() {
    const TASKS: u64 = 3 * DEPTH as u64;
    let (pool, _go, _guard) = held_up(2);
    let one = pool.mapping().chunk_size(1).unwrap();
    let called = Arc::new(AtomicU64::new(0));
    let count = called.clone();
    let on_error = move |e: &TaskError| {
        assert!(matches!(e, TaskError::Terminated));
        count.fetch_add(1, Relaxed);
    };
    let task = one.map_async_with(wait_for_go, 0..TASKS, |_| panic!("results"), on_error).unwrap();
    let another = one.map_async(wait_for_go, 0..TASKS).unwrap();
    pool.terminate();
    pool.join().unwrap();
    assert_eq!(called.load(Relaxed), 1);
    assert!(matches!(task.get(), Err(TaskError::Terminated)));
    assert!(matches!(another.get(), Err(TaskError::Terminated)));
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.failed), (2 * TASKS, 2 * TASKS), "{stats:?}");
}

#[test]
fn other_tasks_find_a_slot_beside_a_long_map() {
    let (pool, go, _guard) = held_up(1);
    let map = pool.mapping().chunk_size(1).unwrap().map_async(wait_for_go, 0..1000).unwrap();
    // With all slots taken this would wait until the map is sent.
    let tasks: Vec<_> = (0..DEPTH / 4).map(|n| pool.apply_async(wait_for_go, n as u64).unwrap()).collect();
    assert_eq!(pool.stats().done, 0);
    go.set();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.get().unwrap(), n as u64 + 1);
    }
    assert!(map.get().unwrap().into_iter().eq(1..=1000));
    add_up(&pool.stats());
}

#[test]
fn workers_that_die_cost_a_map_the_chunks_that_they_had() {
    let _guard = watchdog(Duration::from_secs(60));
    const TASKS: u64 = 1000;
    for retries in [0, TASKS as u32] {
        let pool = Pool::builder().processes(2).depth(DEPTH).retries(retries).build().unwrap();
        let begun = Queue::<u32>::new(0).unwrap();
        let items = (0..TASKS).map(|n| (begun.clone(), n));
        let function = |(begun, n): (Queue<u32>, u64)| {
            if n % 100 == 50 {
                begun.put(std::process::id()).unwrap();
            }
            n
        };
        let task = pool.mapping().chunk_size(1).unwrap().map_async(function, items).unwrap();
        for _ in 0..5 {
            // It may be at another task by now.
            stopped::signal(next(&begun), Signal::SIGKILL);
        }
        match task.get() {
            Ok(results) => assert!(results.into_iter().eq(0..TASKS)),
            Err(TaskError::WorkerDied { .. }) => assert_eq!(retries, 0),
            Err(error) => panic!("{error}"),
        }
        let stats = pool.stats();
        assert_eq!(stats.submitted, TASKS);
        add_up(&stats);
        assert!(stats.failed <= 5, "{stats:?}");
    }
}

/// A number that may not be sent.
#[derive(Deserialize)]
struct Odd(u64);

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            u64::MAX => Err(serde::ser::Error::custom("it is odd")),
            n => n.serialize(serializer),
        }
    }
}

#[test]
fn an_item_that_cannot_be_sent_ends_a_map_whenever_its_turn_comes() {
    let (pool, go, _guard) = held_up(2);
    let one = pool.mapping().chunk_size(1).unwrap();
    for bad in [0, 2 * DEPTH] {
        go.clear();
        let before = pool.stats().submitted;
        let items = (0..4 * DEPTH).map(|n| Odd(if n == bad { u64::MAX } else { n as u64 }));
        let task = one.map_async(|Odd(n): Odd| wait_for_go(n), items).unwrap();
        go.set();
        assert!(matches!(task.get(), Err(TaskError::Arguments(_))));
        assert_eq!(pool.apply(wait_for_go, 1).unwrap(), 2);
        let stats = pool.stats();
        assert_eq!(stats.submitted - before, bad as u64 + 1, "those before it, and the last one");
        add_up(&stats);
    }
    pool.close();
    pool.join().unwrap();
}

#[test]
fn a_map_goes_on_when_cancelled_tasks_leave_room() {
    let _guard = watchdog(Duration::from_secs(60));
    const BYTES: usize = 16 << 10;
    let pool = Pool::new(1).unwrap();
    let worker = pool.apply(|()| std::process::id(), ()).unwrap();
    stopped::stop(worker);
    // Their messages fill the queue, and nobody tells when they leave it.
    let length = |bytes: Vec<u8>| bytes.len();
    let mut cancelled = Vec::new();
    for _ in 0..50 {
        cancelled.push(pool.apply_async(length, vec![1; BYTES]).unwrap());
    }
    assert!(cancelled.iter().all(|task| task.cancel()));
    // For the first chunk there is no room, and so no result is on its way when there is.
    let items = (0..200).map(|_| vec![2; BYTES]);
    let map = pool.mapping().chunk_size(25).unwrap().map_async(length, items).unwrap();
    assert!(!map.is_ready());
    stopped::signal(worker, Signal::SIGCONT);
    // Nobody reads results for the sake of the map, and so nobody looks for room but the pool itself.
    children::until(|| pool.stats().done == 1 + 8);
    assert!(map.get().unwrap().into_iter().eq([BYTES; 200]));
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.done, stats.cancelled), (1 + 50 + 8, 1 + 8, 50));
}

#[test]
fn a_map_that_waits_for_slots_is_taken_back_with_all_that_has_not_begun() {
    const TASKS: u64 = 10 * DEPTH as u64;
    let (pool, go, _guard) = held_up(2);
    let one = pool.mapping().chunk_size(1).unwrap();
    let begun = pool.apply_async(wait_for_go, 1).unwrap();
    let mapped = one.map_async(wait_for_go, 0..TASKS).unwrap();
    // Two are with the workers, sooner or later; nobody reads results, so nobody else feeds.
    let taken_back = pool.cancel_all() as u64;
    assert!((TASKS - 1..=TASKS + 1).contains(&taken_back), "{taken_back}");
    go.set();
    assert!(matches!(mapped.get(), Err(TaskError::Cancelled)));
    assert!(matches!(begun.get(), Ok(2) | Err(TaskError::Cancelled)));
    assert_eq!(pool.apply(wait_for_go, 4).unwrap(), 5, "it goes on");
    pool.close();
    pool.join().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.cancelled), (TASKS + 2, taken_back));
    add_up(&stats);
}
