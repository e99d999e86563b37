//! Pools, and what is asked of them that is hard: initializers that end the worker, iterators without end, tasks that are
//! begun again while the pool is joined, more than fits into memory, signals of a terminal, stopped workers.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kinfolk::process::StartMethod;
use kinfolk::{Event, JoinError, Pool, Process, Queue, TaskError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::pools::square;
use support::watchdog::watchdog;

fn guard() -> impl Sized {
    watchdog(Duration::from_secs(30))
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

/// In a program of its own, with a process group as a terminal's: two workers are in tasks, and the owner waits.
fn interrupted((begun, interrupt): (Queue<u32>, bool)) {
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap();
    let pool = Pool::new(2).unwrap();
    let endless = |begun: Queue<u32>| {
        begun.put(std::process::id()).unwrap();
        loop {
            std::thread::park();
        }
    };
    if interrupt {
        pool.map(endless, [begun.clone(), begun]).map(|_: Vec<()>| ()).unwrap();
    } else {
        begun.put(0).unwrap();
        assert_eq!(pool.apply(square, 3).unwrap(), 9);
    }
}

#[test]
fn workers_leave_interrupts_to_the_owner_and_are_gone_when_it_ends_by_one() {
    let _guard = guard();
    let begun = Queue::<u32>::new(0).unwrap();
    let builder = || Process::builder().daemon(true);
    // Without an interrupt it ends by itself.
    builder().spawn(interrupted, (begun.clone(), false)).unwrap().join().unwrap();
    assert_eq!(begun.get().unwrap(), 0);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let owner = builder().spawn(interrupted, (begun.clone(), true)).unwrap();
        let workers = [begun.get().unwrap(), begun.get().unwrap()];
        // A worker alone ignores it.
        for pid in workers {
            kill(Pid::from_raw(pid as i32), Signal::SIGINT).unwrap();
        }
        let state = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        for pid in workers {
            let ignored =
                state(pid).lines().find_map(|line| line.strip_prefix("SigIgn:\t").map(str::to_owned)).unwrap();
            assert_eq!(u64::from_str_radix(&ignored, 16).unwrap() >> 1 & 1, 1, "{pid} does not ignore it");
        }
        // As the terminal sends it: to all of them.
        let target = if signal == Signal::SIGINT { -(owner.pid() as i32) } else { owner.pid() as i32 };
        kill(Pid::from_raw(target), signal).unwrap();
        assert!(matches!(owner.join(), Err(JoinError::Signaled { signal: s, .. }) if s == signal as i32));
        // Whoever reaps orphans may take its time.
        let runs = |pid: &u32| {
            let state = state(*pid);
            !state.is_empty() && !state.contains("State:\tZ")
        };
        while workers.iter().any(runs) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_pool_is_ended_in_time_while_its_workers_are_stopped() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    pool.apply(square, 1).unwrap();
    pool.pids().iter().for_each(|pid| kill(Pid::from_raw(*pid as i32), Signal::SIGSTOP).unwrap());
    let task = pool.apply_async(square, 2).unwrap();
    let begin = Instant::now();
    pool.terminate();
    pool.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(matches!(task.get(), Err(TaskError::Terminated)));
}

fn die(_: ()) {
    std::process::abort();
}

#[test]
fn pools_work_with_every_start_method() {
    let _guard = guard();
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let pool = Pool::builder().processes(2).start_method(method).name("named").build().unwrap();
        let name = |()| kinfolk::process::current().name().to_owned();
        let names = pool.mapping().chunk_size(1).unwrap().map(name, [(); 10]).unwrap();
        assert!(names.iter().all(|name| ["named:1", "named:2"].contains(&name.as_str())), "{names:?}");
        // One that dies is replaced in the same way.
        let died = pool.apply(die, ());
        assert!(matches!(died, Err(TaskError::WorkerDied { .. })), "{died:?}");
        assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
        pool.close();
        pool.join().unwrap();
    }
}

#[test]
fn handles_travel_to_tasks_and_back_in_chunks() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let make = |n: u64| {
        let queue = Queue::<u64>::new(0).unwrap();
        queue.put(n).unwrap();
        queue
    };
    for chunk in [1, 5, 100] {
        let queues = pool.mapping().chunk_size(chunk).unwrap().map(make, 0..50).unwrap();
        let take = |queue: Queue<u64>| {
            let n = queue.get().unwrap();
            queue.put(n + 1).unwrap();
            n
        };
        let taken = pool.mapping().chunk_size(chunk).unwrap().map(take, queues.iter().cloned()).unwrap();
        assert!(taken.into_iter().eq(0..50));
        assert!(queues.iter().map(|queue| queue.try_get().unwrap()).eq(1..51));
    }
}

#[test]
fn a_callback_may_end_the_pool_and_join_it() {
    let _guard = guard();
    let pool = Arc::new(Pool::new(2).unwrap());
    let inner = Arc::clone(&pool);
    let job = pool.job(square, 3).callback(move |_| {
        inner.close();
        inner.join().unwrap();
    });
    assert_eq!(job.submit().unwrap().get().unwrap(), 9);
    assert!(matches!(pool.apply(square, 1), Err(TaskError::Closed)));
    assert!(pool.pids().is_empty());
}

#[test]
fn a_task_that_ends_its_worker_without_an_error_is_a_death_too() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    fn exit(code: i32) {
        std::process::exit(code)
    }
    for (count, code) in (1..).zip([0, 3]) {
        let died = pool.apply(exit, code);
        assert!(
            matches!(&died, Err(TaskError::WorkerDied { status, .. }) if matches!(**status, JoinError::Exited { code: c } if c == code))
        );
        assert_eq!(pool.stats().deaths, count, "code {code}");
    }
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
}
