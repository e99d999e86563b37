//! The rest of `_TestPool`, `_TestPoolWorkerErrors`, `_TestPoolWorkerLifetime`, `TestPoolNotLeakOnFailure`, `test_large_pool`,
//! and what `TestSyncManagerTypes` and `TestInitializers` have about pools.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use kinfolk::{
    Error, ErrorKind, Event, Manager, Namespace, Pool, PoolHandle, Process, Queue, Semaphore, TaskError, process,
};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize, Serializer};

use super::pools::{SayWhen, Unsendable, caught, panicking, sqr, sqr_after, squares};
use super::shared_memory::program;
use super::{DELTA, guard, reaches};

fn kind<T>(made: Result<T, Error>) -> Option<ErrorKind> {
    made.err().map(|error| error.kind())
}

/// Waits until there is no such process any more.
pub(super) fn gone(pids: &[u32]) {
    let is_there = |pid: &u32| kill(Pid::from_raw(*pid as i32), None) != Err(Errno::ESRCH);
    while pids.iter().any(is_there) {
        std::thread::yield_now();
    }
}

#[test]
fn a_pool_has_as_many_workers_as_it_was_given() {
    let _guard = guard();
    // Fewer than none cannot be said.
    assert_eq!(kind(Pool::new(0)), Some(ErrorKind::InvalidInput));
    let pool = Pool::new(3).unwrap();
    assert_eq!((pool.processes(), pool.pids().len()), (3, 3));
    pool.close();
    pool.join().unwrap();
}

#[test]
fn ten_thousand_endless_tasks_are_terminated() {
    let _guard = guard();
    static BEGUN: OnceLock<Semaphore> = OnceLock::new();
    let endless = |()| {
        BEGUN.get().unwrap().release().unwrap();
        loop {
            std::thread::park();
        }
    };
    let keep = |begun: Semaphore| drop(BEGUN.set(begun));
    let begun = Semaphore::new(0).unwrap();
    let builder = || Pool::builder().processes(3).initializer(keep, begun.clone());
    let pool = builder().depth(10_000).build().unwrap();
    let task = pool.mapping().chunk_size(1).unwrap().map_async(endless, [(); 10_000]).unwrap();
    reaches(&begun, 3);
    pool.terminate();
    pool.join().unwrap();
    assert!(matches!(task.get(), Err::<Vec<()>, _>(TaskError::Terminated)));
    assert_eq!(begun.value(), 3);

    // More than it takes at once: the caller still waits when the end comes.
    let pool = builder().depth(100).build().unwrap();
    std::thread::scope(|scope| {
        let mapping = pool.mapping().chunk_size(1).unwrap();
        let caller = scope.spawn(move || mapping.map_async(endless, [(); 10_000]).and_then(|task| task.get()));
        reaches(&begun, 6);
        pool.terminate();
        pool.join().unwrap();
        assert!(matches!(caller.join().unwrap(), Err::<Vec<()>, _>(TaskError::Terminated)));
    });
}

#[test]
fn a_pool_in_a_block_is_gone_behind_it() {
    let _guard = guard();
    let (task, pids);
    {
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.map_async(sqr, 0..10).unwrap().get().unwrap(), squares(10));
        task = pool.apply_async(sqr_after, (1, Event::new().unwrap())).unwrap();
        pids = pool.pids();
    }
    // The compiler refuses what Python finds out: nothing can be asked of it here. What was under way is over.
    assert!(matches!(task.get(), Err(TaskError::Terminated)));
    gone(&pids);
}

fn raising(number: u32) {
    panic!("{number}"); // some comment
}

#[test]
fn an_error_says_where_it_was_made_and_by_which_calls() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    match pool.apply(raising, 123) {
        Err(error @ TaskError::Panicked { .. }) => {
            let text = error.to_string();
            let TaskError::Panicked { message, location, .. } = error else { unreachable!() };
            assert_eq!(message, "123");
            let (file, line) = location.split_once(':').unwrap();
            assert_eq!(file, file!());
            let line: usize = line.split(':').next().unwrap().parse().unwrap();
            let source = include_str!("pool_workers.rs").lines().nth(line - 1).unwrap();
            assert!(source.contains("panic!(\"{number}\"); // some comment"), "{source}");
            assert!(text.contains(&location), "{text}");
        }
        other => panic!("{other:?}"),
    }
    // The iterator's panic is not one of a worker.
    assert!(caught(|| pool.map(sqr, panicking(1, None)).map(drop)).is_err());

    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "pool_workers::a_program_that_shows_the_calls", "--ignored", "--nocapture"]);
    let output = command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_shows_the_calls() {
    let _guard = guard();
    match Pool::new(1).unwrap().apply(raising, 123) {
        Err(TaskError::Panicked { backtrace: Some(backtrace), .. }) => {
            assert!(backtrace.contains("pool_workers::raising"), "{backtrace}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_functions_own_error_has_its_type() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    assert_eq!(pool.apply(|()| Err::<u32, _>(SayWhen), ()).unwrap(), Err(SayWhen));
    let all: Result<Vec<u64>, SayWhen> =
        pool.map(|n: u64| if n == 3 { Err(SayWhen) } else { Ok(n) }, 0..5).unwrap().into_iter().collect();
    assert_eq!(all, Err(SayWhen));
}

/// How many [`Counted`] this process has.
static COUNTED: AtomicUsize = AtomicUsize::new(0);

#[derive(Deserialize)]
#[serde(from = "u32")]
struct Counted(u32);

impl From<u32> for Counted {
    fn from(number: u32) -> Self {
        COUNTED.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        COUNTED.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn arguments_and_results_are_dropped_after_use() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    let identity = |counted: Counted| counted;
    let made = || (0..10).map(Counted::from);
    let numbers = |results: Vec<Counted>| results.iter().map(|counted| counted.0).collect::<Vec<_>>();
    assert_eq!(numbers(pool.map(identity, made()).unwrap()), (0..10).collect::<Vec<_>>());
    assert_eq!(numbers(pool.imap(identity, made()).map(Result::unwrap).collect()), (0..10).collect::<Vec<_>>());
    assert_eq!(pool.apply(identity, Counted::from(7)).unwrap().0, 7);
    assert_eq!(pool.job(identity, Counted::from(8)).retries(1).submit().unwrap().get().unwrap().0, 8);
    // Results that nobody asks for.
    drop(pool.map_async(identity, made()).unwrap());
    drop(pool.apply_async(identity, Counted::from(9)).unwrap());
    // There is one worker: behind this, it has done all.
    assert_eq!(pool.apply(|()| COUNTED.load(Ordering::Relaxed), ()).unwrap(), 0, "in the worker");
    pool.close();
    pool.join().unwrap();
    assert_eq!(COUNTED.load(Ordering::Relaxed), 0, "in the parent");
}

#[test]
fn a_terminated_pool_does_nothing_more() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    pool.terminate();
    assert!(matches!(pool.apply(sqr, 1), Err(TaskError::Terminated)));
    assert!(matches!(pool.map(sqr, [1]), Err(TaskError::Terminated)));
    assert!(matches!(pool.map_async(sqr, [1]), Err(TaskError::Terminated)));
    let mut results = pool.imap(sqr, [1]);
    assert!(matches!(results.next(), Some(Err(TaskError::Terminated))) && results.next().is_none());
    drop(results);
    pool.join().unwrap();
}

#[test]
fn a_running_pool_that_is_dropped_leaves_nothing_behind() {
    let _guard = guard();
    // Python warns that its workers are left to a collector; here the drop ends them, whatever they do.
    let begun = Semaphore::new(0).unwrap();
    let pool = Pool::new(1).unwrap();
    let task = pool.apply_async(
        |begun: Semaphore| {
            begun.release().unwrap();
            std::thread::park();
        },
        begun.clone(),
    );
    reaches(&begun, 1);
    let pids = pool.pids();
    drop(pool);
    gone(&pids);
    assert!(matches!(task.unwrap().get(), Err(TaskError::Terminated)));
}

fn raises_key(_: ()) {
    panic!("key");
}

#[test]
fn an_error_is_told_to_its_callback_and_given() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let scratchpad = Arc::new(Mutex::new(None));
    let pad = Arc::clone(&scratchpad);
    let job = pool.job(raises_key, ()).error_callback(move |error| *pad.lock().unwrap() = Some(error.clone()));
    let is_key = |error: &TaskError| matches!(error, TaskError::Panicked { message, .. } if message == "key");
    assert!(job.submit().unwrap().get().is_err_and(|error: TaskError| is_key(&error)));
    assert!(scratchpad.lock().unwrap().as_ref().is_some_and(is_key));
    pool.close();
    pool.join().unwrap();
}

/// No test of CPython's is about this alone, but program 25 of the tutorials is.
#[test]
fn callbacks_have_run_when_the_pool_has_been_joined() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let (never, told) = mpsc::channel::<()>();
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let job = pool.job(sqr, 4).callback(move |_| {
        // As long as somebody could be quicker.
        told.recv_timeout(DELTA).unwrap_err();
        count.fetch_add(1, Ordering::Relaxed);
    });
    drop(job.submit().unwrap());
    for k in 0..10 {
        let count = Arc::clone(&called);
        let job = pool.job(sqr, k).callback(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        drop(job.submit().unwrap());
    }
    pool.close();
    pool.join().unwrap();
    assert_eq!(called.load(Ordering::Relaxed), 11);
    drop(never);
}

#[test]
fn a_result_that_cannot_be_sent_is_an_error_and_costs_no_worker() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let before = pool.pids();
    for _ in 0..20 {
        let told = Arc::new(Mutex::new(None));
        let pad = Arc::clone(&told);
        let job = pool.job(|()| Unsendable, ());
        let task = job.error_callback(move |error| *pad.lock().unwrap() = Some(error.clone())).submit().unwrap();
        assert!(matches!(task.get(), Err(TaskError::Result(_))));
        let told = told.lock().unwrap();
        assert!(matches!(&*told, Some(TaskError::Result(error)) if error.kind() == ErrorKind::Codec), "{told:?}");
    }
    assert_eq!(pool.pids(), before);
    assert_eq!(pool.stats().deaths, 0);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn workers_are_replaced_after_their_number_of_tasks() {
    let _guard = guard();
    let pool = Pool::builder().processes(3).max_tasks_per_child(10).build().unwrap();
    let before: BTreeSet<_> = pool.pids().into_iter().collect();
    assert_eq!(before.len(), 3);
    let tasks: Vec<_> = (0..100).map(|k| pool.apply_async(sqr, k).unwrap()).collect();
    for (k, task) in (0..).zip(tasks) {
        assert_eq!(task.get().unwrap(), sqr(k));
    }
    // A hundred tasks are more than the first three may do: at least one is gone, and there are three again.
    loop {
        let now: BTreeSet<_> = pool.pids().into_iter().collect();
        if now.len() == 3 && now != before {
            break;
        }
        std::thread::yield_now();
    }
    pool.close();
    pool.join().unwrap();
}

#[test]
fn a_pool_of_workers_for_one_task_each_may_be_closed_early() {
    let _guard = guard();
    let pool = Pool::builder().processes(3).max_tasks_per_child(1).build().unwrap();
    let go = Event::new().unwrap();
    let tasks: Vec<_> = (0..6).map(|k| pool.apply_async(sqr_after, (k, go.clone())).unwrap()).collect();
    pool.close();
    go.set();
    pool.join().unwrap();
    for (k, task) in (0..).zip(tasks) {
        assert_eq!(task.get().unwrap(), sqr(k));
    }
}

#[test]
fn workers_for_no_task_are_refused() {
    let _guard = guard();
    // It is a whole number that is not negative: there is only one more that makes no sense.
    assert_eq!(kind(Pool::builder().processes(3).max_tasks_per_child(0).build()), Some(ErrorKind::InvalidInput));
}

#[test]
fn a_program_with_an_open_global_pool_ends_well() {
    let _guard = guard();
    let output = program("pool_workers::a_program_with_a_global_pool", "");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    assert_eq!(complained, "");
    let pids = said.lines().find_map(|line| line.split_once("workers ")).unwrap_or_else(|| panic!("{said}")).1;
    gone(&pids.split(' ').map(|pid| pid.parse().unwrap()).collect::<Vec<_>>());
}

#[test]
#[ignore = "run by another test"]
fn a_program_with_a_global_pool() {
    static POOL: OnceLock<Pool> = OnceLock::new();
    let pool = POOL.get_or_init(|| Pool::new(2).unwrap());
    assert_eq!(pool.map(sqr, 0..10).unwrap(), squares(10));
    let pids: Vec<_> = pool.pids().iter().map(ToString::to_string).collect();
    println!("workers {}", pids.join(" "));
}

#[test]
fn a_pool_that_cannot_start_all_its_workers_leaves_none() {
    let _guard = guard();
    fn limited(_: ()) -> u64 {
        // The fork server and whatever else a first pool opens.
        drop(Pool::new(1).unwrap());
        while !process::active_children().is_empty() {
            std::thread::yield_now();
        }
        let before = getrlimit(Resource::Nofile);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        // Each time a little further.
        for more in 0..1000 {
            setrlimit(Resource::Nofile, Rlimit { current: Some(open + more), ..before }).unwrap();
            let made = Pool::new(5);
            setrlimit(Resource::Nofile, before).unwrap();
            match made {
                Ok(pool) => {
                    assert_eq!(pool.map(sqr, 0..10).unwrap(), squares(10));
                    return more;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::TooManyFiles, "{error}"),
            }
            assert!(process::active_children().is_empty(), "{more} more descriptors");
        }
        panic!("it never could");
    }
    // Each of its five workers wants a descriptor at least, so it has also failed at the fourth.
    let failures = Process::spawn(limited, ()).unwrap().join().unwrap();
    assert!(failures >= 5, "{failures}");
}

#[test]
fn two_hundred_workers_square_a_thousand_numbers() {
    let _guard = guard();
    let pool = Pool::new(200).unwrap();
    assert_eq!(pool.map(sqr, 0..1000).unwrap().iter().sum::<u64>(), 332_833_500);
}

/// A pool belongs to the process that made it. What others need of it are the handles that its tasks are given, which may be
/// a manager's.
#[test]
fn a_pool_in_a_child_is_gone_behind_its_block_and_its_tasks_use_a_managers_queue() {
    let _guard = guard();
    let manager = Manager::with_size(64 << 20).unwrap();
    let (results, pids) = (manager.queue::<u64>(0).unwrap(), manager.queue::<Vec<u32>>(0).unwrap());
    let worker = |(results, pids): (Queue<u64>, Queue<Vec<u32>>)| {
        let pool = Pool::new(4).unwrap();
        pids.put(pool.pids()).unwrap();
        pool.map(|(x, results): (u64, Queue<u64>)| results.put(sqr(x)).unwrap(), (0..10).map(|x| (x, results.clone())))
            .unwrap();
    };
    Process::spawn(worker, (results.clone(), pids.clone())).unwrap().join().unwrap();
    let mut all: Vec<_> = results.drain().map(Result::unwrap).collect();
    all.sort_unstable();
    assert_eq!(all, squares(10));
    gone(&pids.get().unwrap());
}

/// Python's child ends the pool by `with obj: pass`; here it is its owner's, and goes on when a handle has gone.
#[test]
fn a_managers_pool_is_used_and_let_go_by_a_child() {
    let _guard = guard();
    let manager = Manager::with_size(64 << 20).unwrap();
    let pool = manager.pool(4).unwrap();
    let worker = |pool: PoolHandle| {
        {
            let pool = pool;
            assert_eq!(pool.processes(), 4);
            assert_eq!(pool.map(sqr, 0..10).unwrap(), squares(10));
            assert_eq!(pool.apply_async(sqr, 5).unwrap().get().unwrap(), 25);
        }
        std::process::id()
    };
    let child = Process::spawn(worker, pool.handle().unwrap()).unwrap();
    assert_eq!(child.pid(), child.join().unwrap());
    assert_eq!(pool.apply(sqr, 3).unwrap(), 9);
    let handle = pool.handle().unwrap();
    pool.close();
    pool.join().unwrap();
    assert!(matches!(handle.apply(sqr, 3), Err(TaskError::Closed)));
}

thread_local! {
    static INITIALIZED: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn an_initializer_runs_in_each_worker() {
    let _guard = guard();
    // What is no function is refused by the compiler.
    let manager = Manager::with_size(64 << 20).unwrap();
    let (namespace, started) = (manager.namespace().unwrap(), manager.semaphore(0).unwrap());
    let initializer = |(namespace, started): (Namespace, Semaphore)| {
        namespace.set("test", &1u32).unwrap();
        INITIALIZED.set(INITIALIZED.get() + 1);
        started.release().unwrap();
    };
    let pool =
        Pool::builder().processes(2).initializer(initializer, (namespace.clone(), started.clone())).build().unwrap();
    // Where its tasks run too, and once.
    assert_eq!(pool.map(|()| INITIALIZED.get(), [(); 20]).unwrap(), [1; 20]);
    reaches(&started, 2);
    pool.close();
    pool.join().unwrap();
    assert_eq!(namespace.get::<u32>("test").unwrap(), Some(1));
    assert_eq!(started.value(), 2);
}
