//! `test_concurrent_futures/test_deadlock.py`: a task, its arguments or its result fail, end the process or crash it, at every
//! place on their way. Each time one task has an error, nobody hangs, and, other than in Python, the pool goes on.

use std::time::Duration;

use kinfolk::{JoinError, Pool, Semaphore, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pools::{sqr, squares};
use super::{guard, reaches};

/// What somebody's code does instead of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Fault {
    Error,
    Panic,
    Exit,
    Crash,
}

use Fault::{Crash, Error as Fails, Exit, Panic};

impl Fault {
    /// `Err` for one that is an error of the codec.
    fn happen(self) -> Result<(), &'static str> {
        match self {
            Fails => Err("it does not work"),
            Panic => panic!("it panics"),
            Exit => std::process::exit(1),
            Crash => {
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
                unreachable!()
            }
        }
    }
}

/// Has its fault where it is decoded in another process than where it was made, or in this one when it comes back.
#[derive(Clone, Copy)]
struct Undecodable(Fault, u32, bool);

impl Undecodable {
    fn elsewhere(fault: Fault) -> Self {
        Self(fault, std::process::id(), false)
    }
}

impl Serialize for Undecodable {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.0, self.1, self.2).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Undecodable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (fault, maker, here) = Deserialize::deserialize(from)?;
        if (maker == std::process::id()) == here {
            Fault::happen(fault).map_err(serde::de::Error::custom)?;
        }
        Ok(Self(fault, maker, here))
    }
}

/// Has its fault where it is encoded.
struct Unencodable(Fault);

impl Serialize for Unencodable {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.happen().map_err(serde::ser::Error::custom)?;
        to.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Unencodable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from).map(|()| Self(Fails))
    }
}

/// The error is what comes of the fault; a worker is lost where the fault ends it, and only there.
fn fits(pool: &Pool, fault: Fault, outcome: Result<(), TaskError>, deaths: &mut u64) {
    match (fault, &outcome) {
        (Fails, Err(TaskError::Result(_))) => {}
        (Panic, Err(TaskError::Panicked { message, .. })) => assert_eq!(message, "it panics"),
        (Exit, Err(TaskError::WorkerDied { status, .. })) => {
            assert!(matches!(**status, JoinError::Exited { code: 1 }), "{status}")
        }
        (Crash, Err(TaskError::WorkerDied { status, .. })) => {
            assert!(matches!(**status, JoinError::Signaled { signal: 9, .. }), "{status}");
        }
        _ => panic!("{fault:?}: {outcome:?}"),
    }
    *deaths += u64::from(matches!(fault, Exit | Crash));
    assert_eq!(pool.stats().deaths, *deaths, "{fault:?}");
    assert_eq!(pool.map(sqr, 0..20).unwrap(), squares(20), "{fault:?}");
}

/// One after the other, all faults; and a pool that can be joined behind them.
fn with_every_fault(work: impl Fn(&Pool, Fault) -> Result<(), TaskError>) {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let mut deaths = 0;
    for fault in [Fails, Panic, Exit, Crash] {
        fits(&pool, fault, work(&pool, fault), &mut deaths);
    }
    pool.close();
    pool.join().unwrap();
}

#[test]
fn arguments_that_fail_exit_or_crash_where_they_are_decoded_cost_their_task() {
    with_every_fault(|pool, fault| pool.apply(|_: Undecodable| (), Undecodable::elsewhere(fault)));
}

#[test]
fn a_function_that_fails_exits_or_crashes_costs_its_task() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let mut deaths = 0;
    for fault in [Panic, Exit, Crash] {
        let outcome = pool.apply(|fault: Fault| fault.happen().unwrap(), fault);
        fits(&pool, fault, outcome, &mut deaths);
    }
    // An error of its own is a result.
    let error = |fault: Fault| fault.happen().map_err(str::to_owned);
    assert_eq!(pool.apply(error, Fails).unwrap(), Err("it does not work".to_owned()));
}

#[test]
fn results_that_fail_exit_or_crash_where_they_are_encoded_cost_their_task() {
    with_every_fault(|pool, fault| pool.apply(Unencodable, fault).map(drop));
}

#[test]
fn a_result_that_fails_where_it_is_decoded_is_an_error_and_costs_nobody() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    // To exit where results are read is, in Python, one more exception.
    for fault in [Fails, Panic] {
        let me = std::process::id();
        let outcome = pool.apply(|(fault, maker): (Fault, u32)| Undecodable(fault, maker, true), (fault, me));
        assert!(matches!(outcome.map(drop), Err(TaskError::Result(_))), "{fault:?}");
        assert_eq!(pool.map(sqr, 0..20).unwrap(), squares(20));
    }
    assert_eq!(pool.stats().deaths, 0);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn a_worker_that_crashes_while_the_pool_is_joined_does_not_keep_it() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    pool.map(sqr, 0..20).unwrap();
    let crash_after = |go: Semaphore| {
        go.acquire().unwrap().forget();
        Crash.happen().unwrap();
    };
    let go = Semaphore::new(0).unwrap();
    let task = pool.apply_async(crash_after, go.clone()).unwrap();
    pool.close();
    assert!(!pool.join_timeout(Duration::from_millis(1)).unwrap());
    go.release().unwrap();
    pool.join().unwrap();
    assert!(matches!(task.get(), Err(TaskError::WorkerDied { .. })));
}

#[test]
fn arguments_that_cannot_be_encoded_do_not_keep_a_closed_pool() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    for fault in [Fails, Panic] {
        let refused = pool.apply_async(|_: Unencodable| (), Unencodable(fault));
        assert!(matches!(refused, Err(TaskError::Arguments(_))), "{refused:?}");
    }
    pool.close();
    pool.join().unwrap();
    assert!(pool.pids().is_empty());
}

#[test]
fn workers_that_crash_while_large_arguments_are_written_cost_their_tasks() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    // Together more than is let into the queue at once, so that some are written while workers die.
    let crash = |data: Vec<u8>| {
        assert!(data.iter().all(|byte| *byte == b'a'));
        Crash.happen().unwrap();
    };
    let tasks: Vec<_> = (0..10).map(|_| pool.apply_async(crash, vec![b'a'; 3 << 20]).unwrap()).collect();
    for task in tasks {
        assert!(matches!(task.get(), Err(TaskError::WorkerDied { .. })));
    }
    assert_eq!((pool.stats().failed, pool.stats().deaths), (10, 10));
    assert_eq!(pool.apply(|data: Vec<u8>| data.len(), vec![b'a'; 3 << 20]).unwrap(), 3 << 20);
}

#[test]
fn tasks_are_submitted_while_nobody_reads_results() {
    let _guard = guard();
    let pool = Pool::builder().processes(2).depth(1 << 16).build().unwrap();
    // In Python, each of them writes a byte into a pipe that wakes up a thread which may be waiting for its caller.
    let (begun, go) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    let wait = |(begun, go): (Semaphore, Semaphore)| {
        begun.release().unwrap();
        go.acquire().unwrap().forget();
    };
    let held: Vec<_> = (0..2).map(|_| pool.apply_async(wait, (begun.clone(), go.clone())).unwrap()).collect();
    reaches(&begun, 2);
    // Tasks of two megabytes, and results of a hundred.
    let tasks: Vec<_> = (0..25_000u64).map(|n| pool.apply_async(|n: u64| vec![n; 512], n).unwrap()).collect();
    go.release().unwrap();
    go.release().unwrap();
    held.into_iter().for_each(|task| task.get().unwrap());
    for (n, task) in (0..).zip(tasks) {
        assert_eq!(task.get().unwrap(), [n; 512]);
    }
}
