//! Tasks that take long are waited for, whoever is stopped or slow meanwhile: nothing is wrong with them, and the pool does not
//! think so.

mod support;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use kinfolk::{Event, Pool, TaskError};
use nix::sys::signal::Signal;
use support::random::Random;
use support::{stopped, watchdog};

/// Longer than the pool takes to find that wrong bytes keep a task from ending.
const LONG: Duration = Duration::from_secs(3);

fn guard() -> impl Sized {
    watchdog(Duration::from_secs(100))
}

fn after((n, go): (u64, Event)) -> u64 {
    go.wait();
    n * n
}

/// Lets a while pass in which nobody does anything.
fn while_passes() {
    let (_tell, told): (_, Receiver<()>) = channel();
    assert_eq!(told.recv_timeout(LONG), Err(RecvTimeoutError::Timeout));
}

#[test]
fn stopped_workers_are_waited_for() {
    let _guard = guard();
    let mut random = Random::new(71);
    for crowd in [0, 400] {
        let pool = Pool::new(3).unwrap();
        let go = Event::new().unwrap();
        // One is in a task. Two are idle, and have said so; or they are stopped anywhere in their work.
        let mut busy = pool.apply_async(after, (3, go.clone())).unwrap();
        if crowd == 0 {
            assert!(matches!(busy.get_timeout(Duration::from_secs(1)), Err(TaskError::Timeout)));
        }
        let mut tasks: Vec<_> = (0..crowd).map(|n| (n, pool.apply_async(|n: u64| n + 1, n).unwrap())).collect();
        random.moment();
        let pids = pool.pids();
        pids.iter().for_each(|pid| stopped::stop(*pid));
        tasks.extend((crowd..crowd + 5).map(|n| (n, pool.apply_async(|n: u64| n + 1, n).unwrap())));
        while_passes();
        pids.iter().for_each(|pid| stopped::signal(*pid, Signal::SIGCONT));
        go.set();
        assert_eq!(busy.get().unwrap(), 9);
        for (n, task) in tasks {
            assert_eq!(task.get().unwrap(), n + 1);
        }
        assert_eq!((pool.pids(), pool.stats().deaths), (pids, 0));
    }
}

#[test]
fn results_that_are_read_slowly_are_waited_for() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    // Whoever reads results is in this function, which nobody should write: all others are behind it.
    let mapping = pool.mapping().chunk_size(20).unwrap().on_progress(|_| while_passes());
    assert!(mapping.map(|n: u64| n + 1, 0..40).unwrap().into_iter().eq(1..41));
    // A callback keeps nobody but the callbacks.
    let task = pool.job(|n: u64| n + 1, 1).callback(|_| while_passes()).submit().unwrap();
    let behind: Vec<_> = (0..50).map(|n| pool.job(|n: u64| n + 1, n).callback(|_| ()).submit().unwrap()).collect();
    assert_eq!(task.get().unwrap(), 2);
    assert!(behind.into_iter().map(|task| task.get().unwrap()).eq(1..51));
    assert_eq!(pool.stats().failed, 0);
}

#[test]
fn a_task_in_front_of_which_others_wait_for_long_is_no_lost_one() {
    let _guard = guard();
    let pool = Pool::builder().processes(2).depth(4).build().unwrap();
    let go = Event::new().unwrap();
    // Two are begun, two are queued, and their callers wait for room.
    std::thread::scope(|scope| {
        let (pool, go) = (&pool, &go);
        let callers: Vec<_> = (0..8).map(|n| scope.spawn(move || pool.apply(after, (n, go.clone())))).collect();
        while_passes();
        go.set();
        for (n, caller) in (0..).zip(callers) {
            assert_eq!(caller.join().unwrap().unwrap(), n * n);
        }
    });
}
