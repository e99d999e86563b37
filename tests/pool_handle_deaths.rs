//! Pools that other processes use, when somebody dies: the owner, a user, or both of them at random moments.

mod support;

use std::time::Duration;

use kinfolk::{Event, Manager, Pool, PoolHandle, Process, Queue, Semaphore, TaskError};
use nix::sys::signal::Signal;
use support::children::{park, until};
use support::pools::{endless, held, rest, shoot, square, squares};
use support::random::Random;
use support::{stopped, watchdog};

fn guard() -> impl Sized {
    watchdog(Duration::from_secs(60))
}

/// A process that has a pool of two workers and gives a handle away.
fn owner_of_a_pool(handles: Queue<PoolHandle>) {
    let pool = Pool::new(2).unwrap();
    handles.put(pool.handle().unwrap()).unwrap();
    park(());
}

#[test]
fn everybody_who_waits_is_told_that_the_owner_was_killed() {
    let _guard = guard();
    let (handles, begun) = (Queue::new(1).unwrap(), Semaphore::new(0).unwrap());
    let owner = Process::builder().daemon(false).spawn(owner_of_a_pool, handles.clone()).unwrap();
    let pool = handles.get().unwrap();
    let user = |(pool, begun): (PoolHandle, Semaphore)| {
        let tasks: Vec<_> = (0..10).map(|_| pool.apply_async(endless, begun.clone()).unwrap()).collect();
        begun.release().unwrap();
        for task in tasks {
            match task.get() {
                Err(TaskError::OwnerGone { pid }) => assert_eq!(pid, pool.owner_pid()),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(pool.apply(square, 2), Err(TaskError::OwnerGone { .. })));
        assert!(matches!(pool.map(square, 0..10), Err(TaskError::OwnerGone { .. })));
        assert!(matches!(pool.imap(square, 0..10).next(), Some(Err(TaskError::OwnerGone { .. }))));
    };
    let users: Vec<_> = (0..3).map(|_| Process::spawn(user, (pool.clone(), begun.clone())).unwrap()).collect();
    let idle = pool.clone();
    let waiting = std::thread::spawn({
        let (pool, begun) = (pool.clone(), begun.clone());
        move || pool.apply(endless, begun)
    });
    // Two tasks have begun, and each child has sent its own.
    for _ in 0..5 {
        begun.acquire().unwrap().forget();
    }
    shoot(owner.pid());
    for user in users {
        user.join().unwrap();
    }
    assert!(matches!(waiting.join().unwrap(), Err(TaskError::OwnerGone { .. })));
    // One that was not used before.
    assert!(matches!(idle.apply_async(square, 1), Err(TaskError::OwnerGone { .. })));
    assert!(owner.join().is_err());
}

#[test]
fn an_owner_that_is_killed_with_a_request_unread_lets_nobody_wait() {
    let _guard = guard();
    for polls in [false, true] {
        let handles = Queue::new(1).unwrap();
        let owner = Process::builder().daemon(false).spawn(owner_of_a_pool, handles.clone()).unwrap();
        let pool = handles.get().unwrap();
        stopped::stop(owner.pid());
        let mut task = pool.apply_async(square, 3).unwrap();
        assert!(!task.wait_timeout(Duration::from_millis(20)));
        shoot(owner.pid());
        if polls {
            until(|| task.is_ready());
            assert!(matches!(task.try_get(), Err(TaskError::OwnerGone { .. })));
        } else {
            assert!(matches!(task.get(), Err(TaskError::OwnerGone { .. })));
        }
        assert!(owner.join().is_err());
    }
}

#[test]
fn users_with_nothing_under_way_leave_nothing_however_they_end() {
    let _guard = guard();
    let manager = Manager::with_size(64 << 20).unwrap();
    let pool = manager.pool(1).unwrap();
    let handle = pool.handle().unwrap();
    assert_eq!(handle.apply(square, 3).unwrap(), 9);
    let objects = || manager.segment().stats().objects;
    let before = objects();
    let user = |(pool, ready, waits): (PoolHandle, Event, bool)| {
        assert_eq!(pool.apply(square, 3).unwrap(), 9);
        std::mem::forget(pool);
        ready.set();
        if waits {
            park(());
        }
    };
    for killed in [true, false] {
        let ready = Event::new().unwrap();
        let arguments = (handle.clone(), ready.clone(), killed);
        let user: Process<()> = Process::builder().daemon(true).spawn(user, arguments).unwrap();
        ready.wait();
        if killed {
            assert_eq!(objects(), before + 1, "its pipe of replies");
            shoot(user.pid());
        }
        assert_eq!(user.join().is_err(), killed);
        until(|| objects() == before);
    }
    rest(&pool);
}

#[test]
fn a_user_that_is_killed_harms_nobody_and_leaves_nothing() {
    let _guard = guard();
    let manager = Manager::with_size(256 << 20).unwrap();
    let pool = manager.pool(2).unwrap();
    let handle = pool.handle().unwrap();
    assert_eq!(handle.apply(square, 3).unwrap(), 9);
    let (begun, go) = (Semaphore::new(0).unwrap(), Event::new().unwrap());
    let objects = || manager.segment().stats().objects;
    let before = objects();
    let victim = |(pool, begun, go): (PoolHandle, Semaphore, Event)| {
        let _tasks: Vec<_> =
            (0..100).map(|n| pool.apply_async(held, (begun.clone(), go.clone(), n)).unwrap()).collect();
        begun.release().unwrap();
        park(());
    };
    let other = |pool: PoolHandle| assert_eq!(pool.map(square, 0..300).unwrap(), squares(300));
    for _ in 0..3 {
        let victim: Process<()> =
            Process::builder().daemon(true).spawn(victim, (handle.clone(), begun.clone(), go.clone())).unwrap();
        let other = Process::spawn(other, handle.clone()).unwrap();
        for _ in 0..3 {
            begun.acquire().unwrap().forget();
        }
        shoot(victim.pid());
        assert!(victim.join().is_err());
        // Those of the dead that have begun hold both workers, until they may go on.
        go.set();
        other.join().unwrap();
        assert_eq!(handle.map(square, 0..100).unwrap(), squares(100));
        until(|| {
            let s = pool.stats();
            s.submitted == s.done + s.failed + s.cancelled
        });
        until(|| objects() <= before);
        go.clear();
        // Permits of tasks that were begun after it was gone.
        while let Ok(permit) = begun.try_acquire() {
            permit.forget();
        }
    }
    let stats = rest(&pool);
    assert_eq!(stats.failed, 0, "{stats:?}");
}

#[test]
fn a_stopped_user_holds_up_nobody_and_has_its_results_when_it_goes_on() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let handle = pool.handle().unwrap();
    let (asked, go) = (Event::new().unwrap(), Event::new().unwrap());
    let large = |n: u8| vec![n; 50_000];
    let user = |(pool, asked, go): (PoolHandle, Event, Event)| {
        let large = |n: u8| vec![n; 50_000];
        // More than the pipe of replies holds, and nobody reads.
        let tasks: Vec<_> = (0..200).map(|n| pool.apply_async(large, n).unwrap()).collect();
        asked.set();
        go.wait();
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.get().unwrap(), large(n as u8));
        }
    };
    let user = Process::builder().daemon(true).spawn(user, (handle.clone(), asked.clone(), go.clone())).unwrap();
    asked.wait();
    stopped::stop(user.pid());
    assert_eq!(handle.map(square, 0..1000).unwrap(), squares(1000));
    for n in 0..20 {
        assert_eq!(handle.apply(large, n).unwrap(), large(n));
    }
    until(|| {
        let s = pool.stats();
        s.submitted == s.done
    });
    rest(&pool);
    // What is done is kept for it, also when there is no pool any more.
    drop(pool);
    stopped::signal(user.pid(), Signal::SIGCONT);
    go.set();
    user.join().unwrap();
}

#[test]
fn a_stopped_user_that_is_killed_is_forgotten() {
    let _guard = guard();
    let manager = Manager::with_size(256 << 20).unwrap();
    let pool = manager.pool(2).unwrap();
    let handle = pool.handle().unwrap();
    assert_eq!(handle.apply(square, 3).unwrap(), 9);
    let asked = Event::new().unwrap();
    let objects = || manager.segment().stats().objects;
    let before = objects();
    let user = |(pool, asked): (PoolHandle, Event)| {
        let _tasks: Vec<_> = (0..200).map(|n| pool.apply_async(|n: u8| vec![n; 50_000], n).unwrap()).collect();
        asked.set();
        park(());
    };
    let user: Process<()> = Process::builder().daemon(true).spawn(user, (handle.clone(), asked.clone())).unwrap();
    asked.wait();
    until(|| {
        let s = pool.stats();
        s.submitted == s.done
    });
    shoot(user.pid());
    assert!(user.join().is_err());
    until(|| objects() <= before);
    assert_eq!(handle.map(square, 0..100).unwrap(), squares(100));
    rest(&pool);
}

/// Uses the pool without end; whatever it is told is no wrong result.
fn user_without_end((pool, begun): (PoolHandle, Semaphore)) {
    begun.release().unwrap();
    loop {
        let tasks: Vec<_> = (0..50).map_while(|n| pool.apply_async(square, n).ok()).collect();
        for (n, task) in tasks.into_iter().enumerate() {
            if let Ok(result) = task.get() {
                assert_eq!(result, square(n as u64));
            }
        }
        if let Ok(all) = pool.map(|n: u64| vec![n; 2000], 0..20) {
            assert!(all.iter().enumerate().all(|(n, v)| *v == vec![n as u64; 2000]));
        }
    }
}

#[test]
fn users_are_killed_at_random_moments() {
    let _guard = guard();
    let manager = Manager::with_size(256 << 20).unwrap();
    let pool = manager.pool(2).unwrap();
    let handle = pool.handle().unwrap();
    let mut random = Random::new(7);
    assert_eq!(handle.apply(square, 3).unwrap(), 9);
    let objects = || manager.segment().stats().objects;
    let before = objects();
    let begun = Semaphore::new(0).unwrap();
    for _ in 0..10 {
        let new = || {
            let arguments = (handle.clone(), begun.clone());
            Process::builder().daemon(true).spawn(user_without_end, arguments).unwrap()
        };
        let users: Vec<Process<()>> = (0..3).map(|_| new()).collect();
        for _ in &users {
            begun.acquire().unwrap().forget();
        }
        for user in &users {
            let until = random.below(200);
            assert_eq!(handle.map(square, 0..until).unwrap(), squares(until));
            shoot(user.pid());
        }
        for user in users {
            assert!(user.join().is_err());
        }
    }
    assert_eq!(handle.map(square, 0..500).unwrap(), squares(500));
    until(|| objects() <= before);
    assert_eq!(rest(&pool).failed, 0);
}

#[test]
fn owners_are_killed_at_random_moments() {
    let _guard = guard();
    let mut random = Random::new(11);
    let user = |pool: PoolHandle| {
        let error = loop {
            let tasks: Vec<_> = (0..50).map(|n| pool.apply_async(square, n)).collect();
            let results: Result<Vec<u64>, TaskError> = tasks.into_iter().map(|task| task?.get()).collect();
            match results {
                Ok(results) => assert_eq!(results, squares(50)),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, TaskError::OwnerGone { .. }), "{error:?}");
    };
    for _ in 0..10 {
        let handles = Queue::new(1).unwrap();
        let owner = Process::builder().daemon(false).spawn(owner_of_a_pool, handles.clone()).unwrap();
        let pool = handles.get().unwrap();
        let users: Vec<_> = (0..3).map(|_| Process::spawn(user, pool.clone()).unwrap()).collect();
        for n in 0..random.below(300) {
            assert_eq!(pool.apply(square, n).unwrap(), square(n));
        }
        shoot(owner.pid());
        for user in users {
            user.join().unwrap();
        }
        assert!(owner.join().is_err());
    }
}
