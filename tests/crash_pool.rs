//! Pools under SIGKILL at random moments: every task ends exactly once, and nobody waits for ever.

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kinfolk::pool::Task;
use kinfolk::{JoinError, Pool, Process, Queue, TaskError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::pools::add_up;
use support::random::Random;
use support::{stopped, watchdog};

const TASKS: u64 = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
/// Runs of so many tasks, each with kills at other moments.
const RUNS: u64 = if cfg!(debug_assertions) { 6 } else { 10 };

/// One test at a time: the moments of each are to be its own.
fn alone() -> (std::sync::MutexGuard<'static, ()>, impl Sized) {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    (ALONE.lock().unwrap_or_else(|e| e.into_inner()), watchdog(Duration::from_secs(150)))
}

/// Work whose result tells whether it was done right: less than a microsecond mostly, and now and then so much that kills hit.
fn mix(n: u64) -> u64 {
    let long = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
    let rounds = if n % 32 == 5 { long } else { n % 512 };
    (0..rounds).fold(n, |hash, _| hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17))
}

fn end(pid: u32) {
    // It may have ended by itself meanwhile: the pool's to reap, or reaped.
    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
}

fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

/// Kills a worker every few milliseconds while `work` runs, and at least once.
fn with_killer<R>(pool: &Pool, seed: u64, work: impl FnOnce() -> R) -> R {
    let over = AtomicBool::new(false);
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(seed);
            loop {
                let pids = pool.pids();
                if !pids.is_empty() {
                    end(pids[random.below(pids.len() as u64) as usize]);
                }
                if over.load(Relaxed) {
                    return;
                }
                // What varies is the moment of the kill; the wait only sets how many there are.
                std::thread::park_timeout(Duration::from_millis(1 + random.below(8)));
                random.moment();
            }
        });
        // Also if it panics.
        let _over = Over(&over);
        work()
    })
}

/// What became of tasks.
#[derive(Default, Debug)]
struct Account {
    right: u64,
    died: u64,
    cancelled: u64,
}

impl Account {
    fn note(&mut self, outcome: Result<u64, TaskError>, n: u64) {
        match outcome {
            Ok(result) => {
                assert_eq!(result, mix(n), "task {n}");
                self.right += 1;
            }
            Err(TaskError::WorkerDied { status, .. }) => {
                assert!(matches!(*status, JoinError::Signaled { signal: 9, .. }), "task {n}: {status}");
                self.died += 1;
            }
            Err(TaskError::Cancelled) => self.cancelled += 1,
            Err(other) => panic!("task {n}: {other}"),
        }
    }
}

#[test]
fn every_task_ends_once_whoever_is_killed() {
    let _alone = alone();
    let mut died = 0;
    for seed in 1..=RUNS {
        let pool = Pool::new(4).unwrap();
        let mut account = Account::default();
        with_killer(&pool, seed, || {
            let mut waiting: VecDeque<(u64, Task<u64>)> = VecDeque::new();
            for n in 0..TASKS {
                waiting.push_back((n, pool.apply_async(mix, n).unwrap()));
                if waiting.len() > 300 {
                    let (n, task) = waiting.pop_front().unwrap();
                    account.note(task.get(), n);
                }
            }
            waiting.into_iter().for_each(|(n, task)| account.note(task.get(), n));
        });
        pool.close();
        pool.join().unwrap();
        let stats = pool.stats();
        add_up(&stats);
        assert_eq!((stats.submitted, stats.done, stats.failed), (TASKS, account.right, account.died), "{account:?}");
        assert!(stats.deaths > 0 && stats.deaths >= account.died, "{stats:?}");
        println!("seed {seed}: {account:?} {stats:?}");
        died += account.died;
    }
    assert!(died > 0, "no kill hit a task");
}

#[test]
fn all_tasks_are_done_that_may_be_begun_again() {
    let _alone = alone();
    let mut retried = 0;
    // A depth that is soon used up: a task that is begun again needs no room that others could take first.
    // Each of them once, and on until a kill has hit a task.
    for (seed, depth) in (11..60).zip([4096, 16, 2].into_iter().cycle()) {
        if seed > 13 && retried > 0 {
            break;
        }
        let pool = Pool::builder().processes(4).retries(100).depth(depth).build().unwrap();
        let tasks = TASKS / 4;
        let next = AtomicU64::new(0);
        with_killer(&pool, seed, || {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut waiting = VecDeque::new();
                        loop {
                            let n = next.fetch_add(1, Relaxed);
                            if n >= tasks {
                                break;
                            }
                            waiting.push_back((n, pool.apply_async(mix, n).unwrap()));
                            if waiting.len() > 50 {
                                let (n, task): (u64, Task<u64>) = waiting.pop_front().unwrap();
                                assert_eq!(task.get().unwrap(), mix(n));
                            }
                        }
                        waiting.into_iter().for_each(|(n, task)| assert_eq!(task.get().unwrap(), mix(n)));
                    });
                }
            });
            let expected: Vec<u64> = (0..tasks).map(mix).collect();
            assert_eq!(pool.mapping().chunk_size(20).unwrap().map(mix, 0..tasks).unwrap(), expected);
        });
        // What is begun again at the end is done before the workers end.
        let last: Vec<_> = (0..200).map(|n| pool.apply_async(mix, n)).take(depth.min(200)).collect();
        pool.pids().into_iter().for_each(end);
        pool.close();
        pool.join().unwrap();
        last.into_iter().zip(0..).for_each(|(task, n)| assert_eq!(task.unwrap().get().unwrap(), mix(n)));
        let stats = pool.stats();
        add_up(&stats);
        assert_eq!((stats.submitted, stats.failed, stats.cancelled), (stats.done, 0, 0), "{stats:?}");
        println!("seed {seed}, depth {depth}: {stats:?}");
        retried += stats.retried;
    }
    assert!(retried > 0, "no kill hit a task");
}

#[test]
fn tasks_of_all_kinds_end_once() {
    let _alone = alone();
    for seed in 21..=23 {
        let pool = Pool::new(4).unwrap();
        let each = TASKS / 8;
        with_killer(&pool, seed, || {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut account = Account::default();
                    (0..each).for_each(|n| account.note(pool.apply(mix, n), n));
                    assert_eq!(account.right + account.died, each);
                });
                scope.spawn(|| {
                    let mut random = Random::new(seed);
                    let mut account = Account::default();
                    let mut took_back = 0;
                    for begin in (0..each).step_by(50) {
                        let tasks: Vec<_> =
                            (begin..begin + 50).map(|n| (n, pool.apply_async(mix, n).unwrap())).collect();
                        for (_, task) in &tasks {
                            took_back += u64::from(random.below(3) == 0 && task.cancel());
                        }
                        tasks.into_iter().for_each(|(n, task)| account.note(task.get(), n));
                    }
                    assert_eq!(account.cancelled, took_back);
                });
                scope.spawn(|| {
                    for begin in (0..each).step_by(500) {
                        let items = begin..begin + 500;
                        match pool.mapping().chunk_size(10).unwrap().map(mix, items.clone()) {
                            Ok(results) => assert_eq!(results, items.map(mix).collect::<Vec<_>>()),
                            Err(error) => assert!(matches!(error, TaskError::WorkerDied { .. }), "{error}"),
                        }
                    }
                });
                scope.spawn(|| {
                    let (mut account, mut count) = (Account::default(), 0);
                    for (n, outcome) in pool.imap(mix, 0..each).enumerate() {
                        account.note(outcome, n as u64);
                        count += 1;
                    }
                    assert_eq!(count, each);
                });
                scope.spawn(|| {
                    let numbered = |n: u64| (n, mix(n));
                    let (mut seen, mut died) = (vec![false; each as usize], 0);
                    for outcome in pool.imap_unordered(numbered, 0..each) {
                        match outcome {
                            Ok((n, result)) => {
                                assert_eq!(result, mix(n));
                                assert!(!std::mem::replace(&mut seen[n as usize], true), "{n} came twice");
                            }
                            Err(error) => {
                                assert!(matches!(error, TaskError::WorkerDied { .. }), "{error}");
                                died += 1;
                            }
                        }
                    }
                    assert_eq!(seen.iter().filter(|seen| !**seen).count(), died);
                });
            });
        });
        pool.close();
        pool.join().unwrap();
        let stats = pool.stats();
        add_up(&stats);
        assert!(stats.deaths > 0 && stats.failed <= stats.deaths, "{stats:?}");
        println!("seed {seed}: {stats:?}");
    }
}

#[test]
fn idle_workers_that_are_killed_cost_nothing() {
    let _alone = alone();
    let pool = Pool::new(3).unwrap();
    let mut random = Random::new(31);
    for round in 0..50 {
        assert_eq!(pool.apply(mix, round).unwrap(), mix(round));
        let before = pool.pids();
        for pid in &before {
            random.moment();
            end(*pid);
        }
        let replaced = || pool.pids().len() == 3 && pool.pids().iter().all(|pid| !before.contains(pid));
        support::children::until(replaced);
    }
    let stats = pool.stats();
    add_up(&stats);
    assert_eq!((stats.failed, stats.done), (0, 50));
}

#[test]
fn workers_killed_as_soon_as_they_start_are_replaced_but_not_for_ever() {
    let _alone = alone();
    let pool = Pool::new(1).unwrap();
    for round in 0..20 {
        // Less often one after the other than the pool bears.
        let mut dead = Vec::new();
        while dead.len() < 5 {
            for pid in pool.pids() {
                if !dead.contains(&pid) {
                    end(pid);
                    dead.push(pid);
                }
            }
        }
        let task = pool.job(mix, round).retries(100).submit().unwrap();
        assert_eq!(task.get().unwrap(), mix(round));
    }
    add_up(&pool.stats());
    // A pool whose workers never get so far says so.
    let pool = Pool::builder().processes(1).initializer(|()| std::process::abort(), ()).build().unwrap();
    let outcome = pool.apply(mix, 1);
    assert!(matches!(outcome, Err(TaskError::Broken { .. })), "{outcome:?}");
    pool.join().unwrap();
    add_up(&pool.stats());
}

#[test]
fn a_pool_in_a_pools_worker_heals_too() {
    let _alone = alone();
    fn inner((rounds, seed): (u64, u64)) -> (u64, u64) {
        let pool = Pool::builder().processes(2).retries(100).build().unwrap();
        let sum =
            with_killer(&pool, seed, || (0..rounds).map(|n| pool.apply(mix, n).unwrap()).fold(0, u64::wrapping_add));
        pool.close();
        pool.join().unwrap();
        add_up(&pool.stats());
        (sum, pool.stats().deaths)
    }
    let rounds = TASKS / 50;
    let expected = (0..rounds).map(mix).fold(0, u64::wrapping_add);
    let pool = Pool::builder().processes(2).retries(1000).build().unwrap();
    for (sum, deaths) in pool.map(inner, (0..6).map(|seed| (rounds, 41 + seed))).unwrap() {
        assert_eq!(sum, expected);
        assert!(deaths > 0);
    }
    // The outer ones die too, with their pools in them.
    let tasks: Vec<_> = (0..6).map(|seed| pool.apply_async(inner, (rounds / 4, 51 + seed)).unwrap()).collect();
    let expected = (0..rounds / 4).map(mix).fold(0, u64::wrapping_add);
    let mut random = Random::new(51);
    for _ in 0..6 {
        let pids = pool.pids();
        if !pids.is_empty() {
            end(pids[random.below(pids.len() as u64) as usize]);
        }
        (0..20).for_each(|_| random.moment());
    }
    tasks.into_iter().for_each(|task| assert_eq!(task.get().unwrap().0, expected));
    assert!(pool.stats().deaths > 0);
    add_up(&pool.stats());
}

#[test]
fn nobody_is_left_of_a_pool_whose_owner_is_killed() {
    let _alone = alone();
    /// Has a pool whose workers tell who they are: busy ones, idle ones, one with a pool of its own.
    fn owner(told: Queue<u32>) {
        let pool = Pool::new(4).unwrap();
        fn tell_and_park(told: Queue<u32>) {
            told.put(std::process::id()).unwrap();
            loop {
                std::thread::park();
            }
        }
        let nested = |told: Queue<u32>| {
            let pool = Pool::new(2).unwrap();
            pool.pids().into_iter().for_each(|pid| told.put(pid).unwrap());
            tell_and_park(told);
        };
        let _busy = pool.apply_async(tell_and_park, told.clone()).unwrap();
        let _nested = pool.apply_async(nested, told.clone()).unwrap();
        pool.pids().into_iter().for_each(|pid| told.put(pid).unwrap());
        // Tasks come and go while it is killed.
        for n in 0.. {
            assert_eq!(pool.apply(mix, n).unwrap(), mix(n));
        }
    }
    for _ in 0..5 {
        let told = Queue::new(0).unwrap();
        let process = Process::spawn(owner, told.clone()).unwrap();
        let workers: Vec<u32> = (0..8).map(|_| told.get().unwrap()).collect();
        process.kill().unwrap();
        let begin = Instant::now();
        support::children::until(|| workers.iter().all(|pid| is_gone(*pid)));
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert!(matches!(process.join(), Err(JoinError::Signaled { signal: 9, .. })));
    }
}

#[test]
fn terminate_and_join_take_two_seconds_at_most() {
    let _alone = alone();
    fn stubborn(begun: Queue<u32>) {
        // SAFETY: a signal is ignored, no handler is installed.
        unsafe { nix::sys::signal::signal(Signal::SIGTERM, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
        begun.put(std::process::id()).unwrap();
        loop {
            std::hint::spin_loop();
        }
    }
    let in_time = |pool: &Pool| {
        let pids = pool.pids();
        let begin = Instant::now();
        pool.terminate();
        pool.join().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        assert!(pids.into_iter().all(is_gone));
        add_up(&pool.stats());
    };
    let begun = Queue::new(0).unwrap();
    // Stubborn ones, stopped ones that are busy or idle, and a crowd of tasks behind them.
    let pool = Pool::new(4).unwrap();
    let tasks: Vec<_> = (0..2).map(|_| pool.apply_async(stubborn, begun.clone()).unwrap()).collect();
    let busy: Vec<u32> = (0..2).map(|_| begun.get().unwrap()).collect();
    support::children::until(|| pool.pids().len() == 4);
    stopped::stop(busy[0]);
    let idle: Vec<u32> = pool.pids().into_iter().filter(|pid| !busy.contains(pid)).collect();
    stopped::stop(idle[0]);
    let behind: Vec<_> = (0..1000).map(|n| pool.apply_async(mix, n).unwrap()).collect();
    in_time(&pool);
    for task in tasks {
        assert!(matches!(task.get(), Err(TaskError::Terminated)));
    }
    for (n, task) in behind.into_iter().enumerate() {
        match task.get() {
            Ok(result) => assert_eq!(result, mix(n as u64)),
            Err(error) => assert!(matches!(error, TaskError::Terminated), "{error}"),
        }
    }
    // All of them, stopped anywhere in their work, while threads submit and wait.
    let mut random = Random::new(61);
    for _ in 0..10 {
        let pool = Pool::new(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for n in 0.. {
                        match pool.apply(mix, n) {
                            Ok(result) => assert_eq!(result, mix(n)),
                            Err(error) => {
                                assert!(matches!(error, TaskError::Terminated), "{error}");
                                return;
                            }
                        }
                    }
                });
            }
            random.moment();
            support::children::until(|| pool.pids().len() == 3);
            for pid in pool.pids() {
                random.moment();
                stopped::stop(pid);
            }
            in_time(&pool);
        });
    }
    // Just after they were killed, with new ones on their way.
    for _ in 0..200 {
        let pool = Pool::builder().processes(3).retries(100).build().unwrap();
        let tasks: Vec<_> = (0..50).map(|n| pool.apply_async(mix, n).unwrap()).collect();
        pool.pids().into_iter().for_each(end);
        (0..random.below(8)).for_each(|_| random.moment());
        in_time(&pool);
        for (n, task) in tasks.into_iter().enumerate() {
            match task.get() {
                Ok(result) => assert_eq!(result, mix(n as u64)),
                Err(error) => assert!(matches!(error, TaskError::Terminated), "{error}"),
            }
        }
    }
}
