//! Pools: tasks, results, deaths.

mod support;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kinfolk::{ErrorKind, Event, JoinError, Pool, Queue, TaskError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::pools::{add_up, square};
use support::watchdog::watchdog;

fn guard() -> impl Sized {
    watchdog(Duration::from_secs(60))
}

fn die(signal: i32) -> u32 {
    kill(Pid::this(), Signal::try_from(signal).unwrap()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn tasks_are_done_and_their_results_come_back() {
    let _guard = guard();
    let pool = Pool::new(3).unwrap();
    assert_eq!(pool.apply(square, 7).unwrap(), 49);
    let tasks: Vec<_> = (0..100).map(|n| pool.apply_async(square, n).unwrap()).collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.get().unwrap(), (n * n) as u64);
    }
    assert_eq!(pool.map(square, 0..1000).unwrap(), (0..1000).map(square).collect::<Vec<_>>());
    assert_eq!(pool.map_async(square, 0..1000).unwrap().get().unwrap(), (0..1000).map(square).collect::<Vec<_>>());
    let results: Result<Vec<u64>, _> = pool.imap(square, 0..1000).collect();
    assert_eq!(results.unwrap(), (0..1000).map(square).collect::<Vec<_>>());
    let mut results: Vec<u64> = pool.imap_unordered(square, 0..1000).map(Result::unwrap).collect();
    results.sort_unstable();
    assert_eq!(results, (0..1000).map(square).collect::<Vec<_>>());
    for chunk in [1, 7, 5000] {
        let mapping = pool.mapping().chunk_size(chunk).unwrap();
        assert_eq!(mapping.map(|()| 1u8, [(); 100]).unwrap(), [1; 100]);
        assert_eq!(mapping.imap(square, 0..100).map(Result::unwrap).sum::<u64>(), 328_350);
    }
    assert_eq!(pool.mapping().chunk_size(0).unwrap_err().kind(), ErrorKind::InvalidInput);
    pool.close();
    pool.join().unwrap();
    add_up(&pool.stats());
    assert_eq!((pool.stats().failed, pool.stats().deaths), (0, 0));
}

#[test]
fn nothing_is_mapped_to_nothing() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    let none = || std::iter::empty::<u64>();
    assert!(pool.map(square, none()).unwrap().is_empty());
    assert!(pool.map_async(square, none()).unwrap().get().unwrap().is_empty());
    assert_eq!(pool.imap(square, none()).count(), 0);
    assert_eq!(pool.imap_unordered(square, none()).count(), 0);
}

#[test]
fn the_next_result_is_waited_for_as_long_as_one_likes() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let go = Event::new().unwrap();
    let wait = |(go, n): (Event, u32)| {
        if n == 1 {
            go.wait();
        }
        n
    };
    let items = |n: u32| (0..n).map(|n| (go.clone(), n)).collect::<Vec<_>>();
    let one = pool.mapping().chunk_size(1).unwrap();
    let mut results = one.clone().imap(wait, items(4));
    assert_eq!(results.next().unwrap().unwrap(), 0);
    for _ in 0..3 {
        assert!(matches!(results.try_next(), Some(Err(TaskError::Timeout))));
        assert!(matches!(results.next_timeout(Duration::from_millis(3)), Some(Err(TaskError::Timeout))));
    }
    // In any order the others come.
    let mut unordered = one.clone().imap_unordered(wait, items(2));
    assert_eq!(unordered.next_timeout(Duration::from_secs(20)).unwrap().unwrap(), 0);
    assert!(matches!(unordered.try_next(), Some(Err(TaskError::Timeout))));
    go.set();
    assert_eq!(results.next_timeout(Duration::from_secs(20)).unwrap().unwrap(), 1);
    assert_eq!(results.map(Result::unwrap).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(unordered.next().unwrap().unwrap(), 1);
    assert!(unordered.try_next().is_none());
    let mut none = one.imap(wait, items(0));
    assert!(none.try_next().is_none() && none.next_timeout(Duration::ZERO).is_none());
}

#[test]
fn large_arguments_and_results_travel() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let bytes = vec![7u8; 3 << 20];
    assert_eq!(pool.apply(|bytes: Vec<u8>| bytes, bytes.clone()).unwrap(), bytes);
    let sums = pool.map(|bytes: Vec<u64>| bytes.iter().sum::<u64>(), (0..40).map(|n| vec![n; 100_000])).unwrap();
    assert_eq!(sums, (0..40).map(|n| n * 100_000).collect::<Vec<u64>>());
}

/// Kills its worker once, then gives back what it got.
fn dies_once((bytes, tries): (Vec<u8>, Queue<u32>)) -> Vec<u8> {
    tries.put(1).unwrap();
    if tries.len() == 1 {
        std::process::abort();
    }
    bytes
}

#[test]
fn bytes_of_all_lengths_travel_as_arguments_and_results() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    let handle = pool.handle().unwrap();
    for len in (65_500..65_570).chain([0, 1, 70_000, 200_000, 65_536]) {
        let bytes: Vec<u8> = (0..len).map(|k| k as u8).collect();
        let text: String = (0..len).map(|k| (b'a' + (k % 26) as u8) as char).collect();
        assert_eq!(pool.apply(|bytes: Vec<u8>| bytes, bytes.clone()).unwrap(), bytes);
        assert_eq!(handle.apply(|bytes: Vec<u8>| bytes, bytes.clone()).unwrap(), bytes);
        assert_eq!(pool.apply(|text: String| text, text.clone()).unwrap(), text);
        let (n, twice) = pool.apply(|bytes: Vec<u8>| (bytes.len(), [bytes.clone(), bytes]), bytes.clone()).unwrap();
        assert!(n == len && twice.iter().all(|half| *half == bytes));
        // Small after large, and the other way round, in one worker.
        assert_eq!(pool.apply(|bytes: Vec<u8>| bytes.len(), bytes.clone()).unwrap(), len);
        assert_eq!(pool.apply(|len: usize| vec![5u8; len], len).unwrap(), vec![5; len]);
        assert_eq!(pool.map(|bytes: Vec<u8>| bytes, [bytes.clone(), Vec::new()]).unwrap(), [bytes, Vec::new()]);
    }
    let bytes = vec![3; 300_000];
    let job = pool.job(|bytes: Vec<u8>| bytes, bytes.clone()).retries(1);
    assert_eq!(job.submit().unwrap().get().unwrap(), bytes);
    let job = pool.job(dies_once, (bytes.clone(), Queue::<u32>::new(0).unwrap())).retries(1);
    assert_eq!(job.submit().unwrap().get().unwrap(), bytes);
    assert!(matches!(pool.apply(|_: Vec<u8>| -> Vec<u8> { panic!("large") }, bytes), Err(TaskError::Panicked { .. })));
    assert_eq!(pool.apply(|n: u32| n, 1).unwrap(), 1);
}

#[test]
fn a_panic_is_one_error_in_one_place() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    match pool.apply(|n: u32| 100 / n, 0) {
        Err(TaskError::Panicked { message, location, .. }) => {
            assert_eq!(message, "attempt to divide by zero");
            assert!(location.contains("pool.rs"), "{location}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(pool.map(|n: u32| 100 / n, [5, 0, 1]), Err(TaskError::Panicked { .. })));
    let outcomes: Vec<_> = pool.imap(|n: u32| 100 / n, [5, 0, 1]).collect();
    assert!(matches!(outcomes[..], [Ok(20), Err(TaskError::Panicked { .. }), Ok(100)]), "{outcomes:?}");
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
    assert_eq!(pool.stats().deaths, 0);
}

#[test]
fn a_workers_death_costs_its_task_only_and_it_is_replaced() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    for (n, signal) in [9, 11, 6, 15].into_iter().enumerate() {
        let others: Vec<_> = (0..10).map(|n| pool.apply_async(square, n).unwrap()).collect();
        match pool.apply(die, signal) {
            Err(TaskError::WorkerDied { status, .. }) => {
                assert!(matches!(*status, JoinError::Signaled { signal: s, .. } if s == signal), "{status}");
            }
            other => panic!("{other:?}"),
        }
        for (n, task) in others.into_iter().enumerate() {
            assert_eq!(task.get().unwrap(), (n * n) as u64);
        }
        assert_eq!(pool.stats().deaths, n as u64 + 1);
    }
    fn exit(code: i32) {
        std::process::exit(code);
    }
    for code in [0, 3] {
        match pool.apply(exit, code) {
            Err(TaskError::WorkerDied { status, .. }) => {
                assert!(matches!(*status, JoinError::Exited { code: c } if c == code), "{status}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pool.apply(square, 5).unwrap(), 25);
    while pool.pids().len() < 2 {
        std::thread::yield_now();
    }
    add_up(&pool.stats());
}

#[test]
fn an_idle_worker_that_is_killed_is_replaced() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    pool.apply(square, 1).unwrap();
    let before = pool.pids();
    before.iter().for_each(|pid| kill(Pid::from_raw(*pid as i32), Signal::SIGKILL).unwrap());
    while pool.pids().iter().any(|pid| before.contains(pid)) || pool.pids().len() < 2 {
        std::thread::yield_now();
    }
    assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
}

#[test]
fn a_task_is_begun_again_if_it_may_be() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let tries = Queue::<u32>::new(0).unwrap();
    fn third_time((tries, limit): (Queue<u32>, usize)) -> usize {
        tries.put(std::process::id()).unwrap();
        if tries.len() < limit { die(9) as usize } else { tries.len() }
    }
    assert_eq!(pool.job(third_time, (tries.clone(), 3)).retries(2).submit().unwrap().get().unwrap(), 3);
    assert_eq!(pool.stats().retried, 2);
    tries.drain().count();
    let lost = pool.job(third_time, (tries.clone(), 3)).retries(1).submit().unwrap().get();
    assert!(matches!(lost, Err(TaskError::WorkerDied { .. })), "{lost:?}");
    add_up(&pool.stats());
}

#[test]
fn a_task_that_takes_too_long_is_ended() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let limit = Duration::from_millis(50);
    let begin = Instant::now();
    let late = pool.job(|()| std::thread::park(), ()).timeout(limit).submit().unwrap();
    let quick: Vec<_> = (0..50).map(|n| pool.job(square, n).timeout(limit).submit().unwrap()).collect();
    assert!(matches!(late.get(), Err(TaskError::TimedOut { timeout }) if timeout == limit));
    assert!(begin.elapsed() >= limit);
    quick.into_iter().enumerate().for_each(|(n, task)| assert_eq!(task.get().unwrap(), (n * n) as u64));
    assert_eq!(pool.apply(square, 5).unwrap(), 25);
    add_up(&pool.stats());
}

#[test]
fn what_has_not_begun_can_be_cancelled() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let first = pool
        .apply_async(
            |(begun, go): (Event, Event)| {
                begun.set();
                go.wait();
                1
            },
            (begun.clone(), go.clone()),
        )
        .unwrap();
    let second = pool.apply_async(square, 2).unwrap();
    let third = pool.apply_async(square, 3).unwrap();
    begun.wait();
    assert!(second.cancel() && !second.cancel() && !first.cancel());
    assert_eq!((second.is_ready(), first.is_ready()), (true, false));
    assert!(matches!(second.get(), Err(TaskError::Cancelled)));
    go.set();
    assert_eq!((first.get().unwrap(), third.get().unwrap()), (1, 9));
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.done, stats.cancelled), (3, 2, 1));
}

#[test]
fn callbacks_run_here_and_one_that_panics_spoils_its_own_task_only() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let (tell, told) = mpsc::channel();
    for n in 0..10u64 {
        let tell = tell.clone();
        let job = pool.job(square, n).callback(move |squared| {
            tell.send((std::process::id(), *squared)).unwrap();
        });
        drop(job.submit().unwrap());
    }
    let mut heard: Vec<_> = (0..10).map(|_| told.recv().unwrap()).collect();
    heard.sort_unstable();
    assert_eq!(heard, (0..10).map(|n| (std::process::id(), n * n)).collect::<Vec<_>>());
    let task = pool.job(square, 4).callback(|_| panic!("in a callback")).submit().unwrap();
    assert!(matches!(task.get(), Err(TaskError::Callback { message }) if message == "in a callback"));
    let (tell, told) = mpsc::channel();
    let task = pool.job(|n: u32| 1 / n, 0).error_callback(move |e| tell.send(e.to_string()).unwrap()).submit().unwrap();
    assert!(matches!(task.get(), Err(TaskError::Panicked { .. })));
    assert!(told.recv().unwrap().contains("divide by zero"));
    let (tell, told) = mpsc::channel();
    let all = move |squares: &Vec<u64>| tell.send(squares.len()).unwrap();
    let task = pool.mapping().map_async_with(square, 0..1000, all, |e| panic!("{e}")).unwrap();
    assert_eq!((task.get().unwrap().len(), told.recv().unwrap()), (1000, 1000));
}

#[test]
fn a_closed_pool_ends_when_all_is_done_and_takes_nothing_more() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.join().unwrap_err().kind(), ErrorKind::InvalidInput);
    let tasks: Vec<_> = (0..1000).map(|n| pool.apply_async(square, n).unwrap()).collect();
    pool.close();
    assert!(matches!(pool.apply(square, 1), Err(TaskError::Closed)));
    assert!(matches!(pool.map(square, 0..3), Err(TaskError::Closed)));
    pool.join().unwrap();
    pool.join().unwrap();
    assert!(pool.pids().is_empty());
    tasks.into_iter().enumerate().for_each(|(n, task)| assert_eq!(task.get().unwrap(), (n * n) as u64));
}

#[test]
fn a_pool_is_terminated_whatever_its_workers_do() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    fn stubborn(begun: Event) {
        // SAFETY: a signal is ignored, no handler is installed.
        unsafe { nix::sys::signal::signal(Signal::SIGTERM, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
        begun.set();
        loop {
            std::thread::park();
        }
    }
    let begun = Event::new().unwrap();
    let task = pool.apply_async(stubborn, begun.clone()).unwrap();
    let waiting: Vec<_> = (0..3000).map(|_| pool.apply_async(|()| std::thread::park(), ()).unwrap()).collect();
    begun.wait();
    let begin = Instant::now();
    pool.terminate();
    pool.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    for task in waiting.into_iter().chain([task]) {
        assert!(matches!(task.get(), Err(TaskError::Terminated)));
    }
    assert!(matches!(pool.apply(square, 1), Err(TaskError::Terminated)));
    add_up(&pool.stats());
}

#[test]
fn an_initializer_runs_in_each_worker_and_its_failure_is_the_pools() {
    let _guard = guard();
    static BASE: AtomicU64 = AtomicU64::new(0);
    fn begin(base: u64) {
        BASE.store(base, Relaxed);
    }
    fn based(n: u64) -> u64 {
        n + BASE.load(Relaxed)
    }
    let pool = Pool::builder().processes(2).initializer(begin, 100).build().unwrap();
    assert_eq!(pool.map(based, 0..10).unwrap(), (100..110).collect::<Vec<_>>());
    let started = Queue::<u32>::new(0).unwrap();
    fn fails(started: Queue<u32>) {
        started.put(std::process::id()).unwrap();
        panic!("no licence");
    }
    let pool = Pool::builder().processes(2).initializer(fails, started.clone()).build().unwrap();
    match pool.apply(square, 1) {
        Err(TaskError::Broken { reason }) => assert!(reason.contains("no licence"), "{reason}"),
        other => panic!("{other:?}"),
    }
    pool.join().unwrap();
    assert!(started.len() <= 2, "{} were started", started.len());
}

#[test]
fn workers_are_replaced_after_so_many_tasks() {
    let _guard = guard();
    let pool = Pool::builder().processes(3).max_tasks_per_child(10).build().unwrap();
    let tasks: Vec<_> = (0..100u64).map(|n| pool.apply_async(|n| (n, std::process::id()), n).unwrap()).collect();
    let results: Vec<_> = tasks.into_iter().map(|task| task.get().unwrap()).collect();
    let pids: std::collections::BTreeSet<u32> = results.iter().map(|result| result.1).collect();
    assert!(pids.len() >= 10, "{pids:?}");
    assert!(results.iter().map(|result| result.0).eq(0..100));
    pool.close();
    pool.join().unwrap();
    assert_eq!(pool.stats().deaths, 0);
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let _guard = guard();
    let kind = |built: Result<Pool, kinfolk::Error>| built.unwrap_err().kind();
    assert_eq!(kind(Pool::new(0)), ErrorKind::InvalidInput);
    assert_eq!(kind(Pool::new(usize::MAX)), ErrorKind::InvalidInput);
    assert_eq!(kind(Pool::builder().max_tasks_per_child(0).build()), ErrorKind::InvalidInput);
    assert_eq!(kind(Pool::builder().depth(0).build()), ErrorKind::InvalidInput);
}

#[test]
fn a_worker_may_have_a_pool_of_its_own() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let sums = pool.map(
        |n: u64| {
            let inner = Pool::new(2).unwrap();
            inner.map(square, 0..n).unwrap().iter().sum::<u64>()
        },
        [3, 4],
    );
    assert_eq!(sums.unwrap(), [5, 14]);
}

#[test]
fn many_threads_use_a_pool_at_once() {
    let _guard = guard();
    let pool = Pool::builder().processes(2).depth(8).build().unwrap();
    std::thread::scope(|scope| {
        for begin in 0..8u64 {
            let pool = &pool;
            scope.spawn(move || {
                for n in begin * 100..begin * 100 + 50 {
                    assert_eq!(pool.apply(square, n).unwrap(), n * n);
                }
                assert_eq!(pool.map(square, 0..200).unwrap().len(), 200);
            });
        }
    });
    add_up(&pool.stats());
}
