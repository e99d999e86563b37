//! Pools that other processes use: what they can do, what becomes of them when somebody dies, and where a handle may lie.

mod support;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinfolk::pool::Task;
use kinfolk::{Dict, ErrorKind, Event, JoinError, Manager, Pool, PoolHandle, Process, Queue, Semaphore, TaskError};
use support::children::until;
use support::pools::{endless, held, rest, shoot, square, squares};
use support::watchdog;

fn guard() -> impl Sized {
    watchdog(Duration::from_secs(60))
}

fn fails(_: ()) {
    panic!("at work")
}

#[test]
fn a_child_does_everything_with_it() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let user = |pool: PoolHandle| {
        assert_eq!(pool.processes(), 2);
        assert_eq!(Some(pool.owner_pid()), kinfolk::process::parent().map(|parent| parent.pid()));
        assert_eq!(pool.apply(square, 7).unwrap(), 49);
        assert_eq!(pool.map(square, 0..1000).unwrap(), squares(1000));
        assert_eq!(pool.map(|(a, b): (u64, u64)| a + b, [(1, 2), (3, 4)]).unwrap(), [3, 7]);
        assert_eq!(pool.map_async(square, 0..100).unwrap().get().unwrap(), squares(100));
        assert_eq!(pool.mapping().chunk_size(7).unwrap().map(square, 0..100).unwrap(), squares(100));
        assert_eq!(pool.imap(square, 0..100).map(Result::unwrap).collect::<Vec<_>>(), squares(100));
        let any_order: BTreeSet<u64> = pool.imap_unordered(square, 0..100).map(Result::unwrap).collect();
        assert_eq!(any_order, squares(100).into_iter().collect());
        // A `Vec<u8>` is its own encoding, and a large one takes a block.
        let reverse = |mut bytes: Vec<u8>| {
            bytes.reverse();
            bytes
        };
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        assert_eq!(pool.apply(reverse, bytes.clone()).unwrap(), reverse(bytes));
        let many: Vec<Task<u64>> = (0..500).map(|n| pool.apply_async(square, n).unwrap()).collect();
        for (n, task) in many.into_iter().enumerate() {
            assert_eq!(task.get().unwrap(), square(n as u64));
        }
    };
    Process::spawn(user, pool.handle().unwrap()).unwrap().join().unwrap();
    let stats = rest(&pool);
    assert_eq!((stats.failed, stats.cancelled), (0, 0), "{stats:?}");
}

#[test]
fn a_task_is_looked_at_waited_for_and_taken_back() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    let (begun, go) = (Semaphore::new(0).unwrap(), Event::new().unwrap());
    let user = |(pool, begun, go): (PoolHandle, Semaphore, Event)| {
        let mut task = pool.apply_async(held, (begun.clone(), go.clone(), 5)).unwrap();
        begun.acquire().unwrap().forget();
        let behind = pool.apply_async(held, (begun.clone(), go.clone(), 6)).unwrap();
        assert!(!task.is_ready() && task.is_successful().is_none());
        assert!(matches!(task.try_get(), Err(TaskError::Timeout)));
        assert!(matches!(task.get_timeout(Duration::from_millis(5)), Err(TaskError::Timeout)));
        assert!(!task.wait_timeout(Duration::from_millis(5)));
        assert!(!task.cancel(), "it has begun");
        assert!(behind.cancel(), "it has not");
        assert!(behind.is_ready());
        assert!(!behind.cancel());
        assert!(matches!(behind.get(), Err(TaskError::Cancelled)));
        go.set();
        task.wait();
        assert_eq!(task.is_successful(), Some(true));
        assert_eq!(task.try_get().unwrap(), 5);
        assert!(matches!(task.try_get(), Err(TaskError::Taken)));
    };
    Process::spawn(user, (pool.handle().unwrap(), begun, go)).unwrap().join().unwrap();
    let stats = rest(&pool);
    assert_eq!((stats.done, stats.cancelled), (1, 1), "{stats:?}");
}

#[test]
fn the_owner_uses_a_handle_of_its_own_from_many_threads() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let handle = pool.handle().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let handle = handle.clone();
            scope.spawn(move || assert_eq!(handle.map(square, 0..500).unwrap(), squares(500)));
        }
        assert_eq!(pool.map(square, 0..500).unwrap(), squares(500));
    });
    rest(&pool);
}

#[test]
fn callbacks_run_in_the_process_that_uses_it() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let user = |pool: PoolHandle| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (done, failed, all) = (Arc::clone(&seen), Arc::clone(&seen), Arc::clone(&seen));
        let within = pool.clone();
        // One that uses the pool itself.
        let callback = move |n: &u64| done.lock().unwrap().push(within.apply(square, *n).unwrap());
        assert_eq!(pool.job(square, 3).callback(callback).submit().unwrap().get().unwrap(), 9);
        let task = pool.job(fails, ()).error_callback(move |_| failed.lock().unwrap().push(1));
        assert!(matches!(task.submit().unwrap().get(), Err(TaskError::Panicked { .. })));
        let on_done = move |results: &Vec<u64>| all.lock().unwrap().push(results.iter().sum());
        let task = pool.mapping().map_async_with(square, 0..10, on_done, |_| unreachable!()).unwrap();
        assert_eq!(task.get().unwrap(), squares(10));
        let none = pool.mapping().map_async_with(square, 0..0, |_| (), |_| unreachable!()).unwrap();
        assert!(none.get().unwrap().is_empty());
        assert_eq!(*seen.lock().unwrap(), [81, 1, 285]);
        let task = pool.job(square, 3).callback(|_| panic!("called")).submit().unwrap();
        assert!(matches!(task.get(), Err(TaskError::Callback { message }) if message == "called"));
        let came = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&came);
        let mapping = pool.mapping().on_progress(move |n| {
            counts.fetch_add(n, Relaxed);
        });
        assert_eq!(mapping.map(square, 0..50).unwrap(), squares(50));
        assert_eq!(came.load(Relaxed), 50);
    };
    Process::spawn(user, pool.handle().unwrap()).unwrap().join().unwrap();
    rest(&pool);
}

#[test]
fn four_children_use_it_at_once_and_one_of_their_children() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let user = |pool: PoolHandle| {
        for _ in 0..3 {
            assert_eq!(pool.map(square, 0..500).unwrap(), squares(500));
        }
    };
    let parent = |pool: PoolHandle| {
        let user = |pool: PoolHandle| assert_eq!(pool.map(square, 0..500).unwrap(), squares(500));
        assert_eq!(pool.apply(square, 2).unwrap(), 4);
        Process::spawn(user, pool).unwrap().join().unwrap();
    };
    let handle = pool.handle().unwrap();
    let mut users: Vec<_> = (0..4).map(|_| Process::spawn(user, handle.clone()).unwrap()).collect();
    users.push(Process::spawn(parent, handle).unwrap());
    assert_eq!(pool.map(square, 0..500).unwrap(), squares(500));
    for user in users {
        user.join().unwrap();
    }
    assert_eq!(rest(&pool).failed, 0);
}

#[test]
fn a_worker_of_one_pool_uses_another() {
    let _guard = guard();
    let (outer, inner) = (Pool::new(2).unwrap(), Pool::new(2).unwrap());
    let sum = |(pool, n): (PoolHandle, u64)| pool.map(square, 0..n).unwrap().into_iter().sum::<u64>();
    let handle = inner.handle().unwrap();
    let sums = outer.map(sum, (0..20).map(|n| (handle.clone(), n))).unwrap();
    assert_eq!(sums, (0..20).map(|n| squares(n).into_iter().sum::<u64>()).collect::<Vec<_>>());
    rest(&outer);
    rest(&inner);
}

#[test]
fn errors_arrive_as_the_owner_would_get_them() {
    let _guard = guard();
    // Long enough for a panic with a backtrace.
    let pool = Pool::builder().processes(1).task_timeout(Duration::from_secs(3)).build().unwrap();
    let user = |pool: PoolHandle| {
        match pool.apply(
            |n: u32| {
                if n > 0 {
                    panic!("number {n}")
                }
            },
            3,
        ) {
            Err(TaskError::Panicked { message, location, .. }) => {
                assert_eq!(message, "number 3");
                assert!(location.contains("pool_handle.rs"), "{location}");
            }
            other => panic!("{other:?}"),
        }
        match pool.apply(
            |code| {
                if code > 0 {
                    std::process::exit(code)
                }
            },
            3,
        ) {
            Err(TaskError::WorkerDied { status, .. }) => {
                assert!(matches!(*status, JoinError::Exited { code: 3 }), "{status:?}");
            }
            other => panic!("{other:?}"),
        }
        let pid = pool.apply(|()| std::process::id(), ()).unwrap();
        match pool.apply(|()| shoot(std::process::id()), ()) {
            Err(TaskError::WorkerDied { pid: dead, status }) => {
                assert_eq!(dead, pid);
                assert!(matches!(*status, JoinError::Signaled { signal: 9, .. }), "{status:?}");
            }
            other => panic!("{other:?}"),
        }
        let forever = Event::new().unwrap();
        match pool.apply(|event: Event| event.wait(), forever) {
            Err(TaskError::TimedOut { timeout }) => assert_eq!(timeout, Duration::from_secs(3)),
            other => panic!("{other:?}"),
        }
        let mut once = pool.map(|n: u64| if n == 3 { panic!("three") } else { n }, 0..5);
        assert!(matches!(once, Err(TaskError::Panicked { .. })));
        once = pool.map(square, 0..5);
        assert_eq!(once.unwrap(), squares(5));
    };
    Process::spawn(user, pool.handle().unwrap()).unwrap().join().unwrap();
    let stats = rest(&pool);
    assert_eq!(stats.deaths, 3, "{stats:?}");
}

#[test]
fn a_queue_goes_along_and_comes_back() {
    let _guard = guard();
    let manager = Manager::with_size(256 << 20).unwrap();
    let pool = manager.pool(2).unwrap();
    let user = |(pool, manager): (PoolHandle, Manager)| {
        // Nobody but the message has it meanwhile.
        let there_and_back = |(queue, n): (Queue<u64>, u64)| {
            queue.put(n).unwrap();
            queue
        };
        for n in 0..100 {
            let queue = manager.queue(8).unwrap();
            queue.put(1000 + n).unwrap();
            let back: Queue<u64> = pool.apply_async(there_and_back, (queue, n)).unwrap().get().unwrap();
            assert_eq!((back.get().unwrap(), back.get().unwrap()), (1000 + n, n));
        }
        // In chunks, with the results waiting in the pipe.
        let queues = (0..50).map(|n| (manager.queue(8).unwrap(), n));
        let back = pool.map_async(there_and_back, queues).unwrap().get().unwrap();
        assert_eq!(back.len(), 50);
        for (n, queue) in back.iter().enumerate() {
            assert_eq!(queue.try_get().unwrap(), n as u64);
        }
        // One that the worker makes, of another segment than the pool's.
        let queue = pool.apply(
            |n: u64| {
                let queue = Queue::new(8).unwrap();
                queue.put(n).unwrap();
                queue
            },
            5,
        );
        assert_eq!(queue.unwrap().get().unwrap(), 5);
        let back = pool.apply(there_and_back, (Queue::new(8).unwrap(), 6)).unwrap();
        assert_eq!(back.get().unwrap(), 6);
    };
    let handle = pool.handle().unwrap();
    let objects = || manager.segment().stats().objects;
    let before = objects();
    Process::spawn(user, (handle, manager.clone())).unwrap().join().unwrap();
    until(|| objects() <= before);
    rest(&pool);
}

#[test]
fn a_queue_goes_along_once_more_when_the_first_worker_dies() {
    let _guard = guard();
    let pool = Pool::builder().processes(1).retries(2).build().unwrap();
    let user = |pool: PoolHandle| {
        let queue = Queue::new(8).unwrap();
        let dies_twice = |queue: Queue<u64>| {
            queue.put(1).unwrap();
            if queue.len() < 3 {
                shoot(std::process::id());
            }
            queue
        };
        assert_eq!(pool.apply(dies_twice, queue).unwrap().len(), 3);
        let queues = [Queue::new(8).unwrap(), Queue::new(8).unwrap()];
        let back = pool.mapping().chunk_size(1).unwrap().map_async(dies_twice, queues).unwrap().get().unwrap();
        assert_eq!(back.iter().map(Queue::len).collect::<Vec<_>>(), [3, 3]);
        let queue = Queue::new(8).unwrap();
        assert!(matches!(
            pool.job(dies_twice, queue).retries(1).submit().unwrap().get(),
            Err(TaskError::WorkerDied { .. })
        ));
    };
    Process::spawn(user, pool.handle().unwrap()).unwrap().join().unwrap();
    assert_eq!(rest(&pool).retried, 7);
}

#[test]
fn users_are_told_that_the_pool_was_closed_terminated_or_dropped() {
    let _guard = guard();
    let user = |(pool, begun): (PoolHandle, Semaphore)| {
        let tasks: Vec<_> = (0..10).map(|_| pool.apply_async(endless, begun.clone()).unwrap()).collect();
        begun.release().unwrap();
        for task in tasks {
            assert!(matches!(task.get(), Err(TaskError::Terminated)));
        }
    };
    for drops in [false, true] {
        let pool = Pool::new(1).unwrap();
        let (handle, begun) = (pool.handle().unwrap(), Semaphore::new(0).unwrap());
        let users: Vec<_> = (0..2).map(|_| Process::spawn(user, (handle.clone(), begun.clone())).unwrap()).collect();
        for _ in 0..3 {
            begun.acquire().unwrap().forget();
        }
        if !drops {
            pool.terminate();
            assert!(matches!(handle.apply(square, 1), Err(TaskError::Terminated)));
        }
        drop(pool);
        for user in users {
            user.join().unwrap();
        }
        match handle.apply(square, 1) {
            Err(TaskError::Terminated | TaskError::OwnerGone { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let pool = Pool::new(1).unwrap();
    let handle = pool.handle().unwrap();
    assert_eq!(handle.apply(square, 3).unwrap(), 9);
    let (begun, go) = (Semaphore::new(0).unwrap(), Event::new().unwrap());
    let task = handle.apply_async(held, (begun.clone(), go.clone(), 8)).unwrap();
    begun.acquire().unwrap().forget();
    pool.close();
    assert!(matches!(handle.apply(square, 3), Err(TaskError::Closed)));
    assert!(matches!(handle.map(square, 0..9), Err(TaskError::Closed)));
    go.set();
    // What was submitted before is done.
    assert_eq!(task.get().unwrap(), 8);
    rest(&pool);
}

#[test]
fn a_handle_lies_in_a_dictionary_and_in_a_queue() {
    let _guard = guard();
    let manager = Manager::with_size(64 << 20).unwrap();
    let pool = manager.pool(2).unwrap();
    let dict = manager.dict::<String, PoolHandle>().unwrap();
    dict.set("squares", &pool.handle().unwrap()).unwrap();
    let queue = Queue::<PoolHandle>::new(1).unwrap();
    let user = |(dict, queue): (Dict<String, PoolHandle>, Queue<PoolHandle>)| {
        let pool = dict.get("squares").unwrap().unwrap();
        assert_eq!(pool.map(square, 0..100).unwrap(), squares(100));
        queue.put(pool).unwrap();
        // Until it was taken the sender has to live: it is of another segment than the queue.
        until(|| queue.is_empty());
        drop(queue.put_timeout(dict.get("squares").unwrap().unwrap(), Duration::from_secs(30)));
        until(|| queue.is_empty());
    };
    let user = Process::spawn(user, (dict.clone(), queue.clone())).unwrap();
    for _ in 0..2 {
        let there = queue.get().unwrap();
        assert_eq!(there.apply(square, 12).unwrap(), 144);
    }
    user.join().unwrap();
    rest(&pool);
}

#[test]
fn users_that_go_on_asking_are_told_the_end_too() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let begun = Semaphore::new(0).unwrap();
    let user = |(pool, begun): (PoolHandle, Semaphore)| {
        assert_eq!(pool.apply(square, 3).unwrap(), 9);
        begun.release().unwrap();
        // Whatever becomes of the tasks.
        while pool.apply_async(square, 3).is_ok() {}
    };
    let handle = pool.handle().unwrap();
    let users: Vec<_> = (0..3).map(|_| Process::spawn(user, (handle.clone(), begun.clone())).unwrap()).collect();
    for _ in &users {
        begun.acquire().unwrap().forget();
    }
    drop(pool);
    for user in users {
        user.join().unwrap();
    }
}

/// A name that nobody else uses, free again at the end of the test.
struct Name(String);

impl Drop for Name {
    fn drop(&mut self) {
        let _ = Manager::unlink(&self.0);
    }
}

#[test]
fn another_program_finds_it_by_its_name() {
    let _guard = guard();
    let name = Name(format!("test-pool-handle-{}", std::process::id()));
    let manager = Manager::create(&name.0).unwrap();
    let pool = manager.pool(2).unwrap();
    manager.publish("pool", &pool.handle().unwrap()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_program_that_finds_a_pool", "--ignored", "--nocapture"]);
    let output = command.env("TEST_POOL", &name.0).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    rest(&pool);
    drop(pool);
    // What is published stays, and is of no use.
    let found = manager.find::<PoolHandle>("pool").unwrap();
    assert!(matches!(found.apply(square, 1), Err(TaskError::OwnerGone { .. } | TaskError::Terminated)));
    // A handle of the family's segment cannot lie in another.
    let family = Pool::new(1).unwrap();
    assert_eq!(manager.publish("other", &family.handle().unwrap()).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_finds_a_pool() {
    let _guard = guard();
    let manager = Manager::open(&std::env::var("TEST_POOL").unwrap()).unwrap();
    let pool = manager.find::<PoolHandle>("pool").unwrap();
    assert_eq!(pool.map(square, 0..200).unwrap(), squares(200));
    // A queue of this program's own family goes there and back.
    let queue = Queue::<u64>::new(4).unwrap();
    let back = pool
        .apply(
            |queue: Queue<u64>| {
                queue.put(7).unwrap();
                queue
            },
            queue,
        )
        .unwrap();
    assert_eq!(back.get().unwrap(), 7);
}
