//! `_TestCondition`. The lock is an `RLock`, as that of Python's `Condition` is.

use std::time::{Duration, Instant};

use kinfolk::{Condvar, Mutex, Process, RLock, Semaphore};

use super::{DELTA, guard, reaches};

type Shared = (RLock, Condvar, Semaphore, Semaphore);

/// A lock, its condition, and how many sleep and were woken so far.
fn shared() -> Shared {
    (RLock::new().unwrap(), Condvar::new().unwrap(), Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap())
}

/// A waiter, which counts itself before and after.
fn sleeper(((lock, condition, sleeping, woken), timeout): (Shared, Option<Duration>)) {
    let held = lock.lock().unwrap();
    sleeping.release().unwrap();
    match timeout {
        Some(timeout) => assert!(!condition.wait_timeout(held, timeout).unwrap().1),
        None => drop(condition.wait(held).unwrap()),
    }
    woken.release().unwrap();
}

/// `count` waiters, children and threads in turn, that sleep when this returns.
fn sleepers<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    shared: &Shared,
    count: u32,
    timeout: Option<Duration>,
) -> Vec<Process<()>> {
    let before = shared.2.value();
    let mut children = Vec::new();
    for k in 0..count {
        let shared = shared.clone();
        if k % 2 == 0 {
            children.push(Process::spawn(sleeper, (shared, timeout)).unwrap());
        } else {
            scope.spawn(move || sleeper((shared, timeout)));
        }
    }
    reaches(&shared.2, before + count);
    // Whoever has counted itself has the lock until it sleeps.
    drop(shared.0.lock().unwrap());
    children
}

fn join(children: Vec<Process<()>>) {
    children.into_iter().for_each(|child| child.join().unwrap());
}

#[test]
fn one_notification_wakes_one_of_a_process_and_a_thread() {
    let _guard = guard();
    let all = shared();
    let (lock, condition, _, woken) = &all;
    std::thread::scope(|scope| {
        let children = sleepers(scope, &all, 2, None);
        std::thread::sleep(DELTA);
        assert_eq!(woken.value(), 0);
        for n in 1..=2 {
            let held = lock.lock().unwrap();
            assert!(condition.notify_one());
            drop(held);
            reaches(woken, n);
            std::thread::sleep(DELTA);
            assert_eq!(woken.value(), n);
        }
        join(children);
    });
    assert_eq!(condition.waiters(), 0);
}

#[test]
fn all_waiters_time_out_and_all_others_are_woken() {
    let _guard = guard();
    let all = shared();
    let (lock, condition, sleeping, woken) = &all;
    std::thread::scope(|scope| {
        let mut children = sleepers(scope, &all, 6, Some(DELTA));
        reaches(woken, 6);
        assert_eq!(condition.waiters(), 0);
        children.extend(sleepers(scope, &all, 6, None));
        std::thread::sleep(DELTA);
        assert_eq!((sleeping.value(), woken.value()), (12, 6));
        let held = lock.lock().unwrap();
        assert_eq!(condition.notify_all(), 6);
        drop(held);
        reaches(woken, 12);
        join(children);
    });
    assert_eq!((condition.waiters(), lock.depth()), (0, 0));
}

#[test]
fn as_many_are_woken_as_are_notified() {
    let _guard = guard();
    let all = shared();
    let (lock, condition, _, woken) = &all;
    std::thread::scope(|scope| {
        let children = sleepers(scope, &all, 6, None);
        let mut expected = 0;
        for (most, found) in [(0, 0), (2, 2), (4, 4), (3, 0)] {
            let held = lock.lock().unwrap();
            assert_eq!(condition.notify(most), found);
            drop(held);
            expected += found as u32;
            reaches(woken, expected);
            std::thread::sleep(DELTA);
            assert_eq!(woken.value(), expected);
        }
        join(children);
    });
}

#[test]
fn a_wait_without_a_notification_times_out() {
    let (lock, condition) = (RLock::new().unwrap(), Condvar::new().unwrap());
    let begin = Instant::now();
    let (_held, notified) = condition.wait_timeout(lock.lock().unwrap(), DELTA).unwrap();
    assert!(!notified && begin.elapsed() >= DELTA);
}

#[test]
fn a_predicate_on_a_shared_value_is_waited_for() {
    let _guard = guard();
    let (state, condition) = (Mutex::new(-1i32).unwrap(), Condvar::new().unwrap());
    let follow = |(state, condition): (Mutex<i32>, Condvar)| {
        let mut held = state.lock().unwrap();
        *held = 0;
        condition.notify_one();
        let held = condition.wait_for(held, |state| *state == 4).unwrap();
        assert_eq!(*held, 4);
    };
    let child = Process::spawn(follow, (state.clone(), condition.clone())).unwrap();
    let held = condition.wait_for(state.lock().unwrap(), |state| *state == 0).unwrap();
    assert_eq!(*held, 0);
    drop(held);
    for _ in 0..4 {
        *state.lock().unwrap() += 1;
        condition.notify_one();
    }
    child.join().unwrap();
}

#[test]
fn a_predicate_that_does_not_come_true_times_out_although_notified() {
    let _guard = guard();
    let (state, condition) = (Mutex::new(0i32).unwrap(), Condvar::new().unwrap());
    let follow = |(state, condition): (Mutex<i32>, Condvar)| {
        let begin = Instant::now();
        let (held, came) = condition.wait_for_timeout(state.lock().unwrap(), |state| *state == 4, DELTA).unwrap();
        assert!(!came && *held != 4);
        begin.elapsed() >= DELTA
    };
    let child = Process::spawn(follow, (state.clone(), condition.clone())).unwrap();
    for _ in 0..3 {
        *state.lock().unwrap() += 1;
        condition.notify_one();
    }
    assert!(child.join().unwrap());
}

#[test]
fn a_wait_tells_whether_it_was_notified() {
    let _guard = guard();
    let (lock, condition) = (Mutex::new(()).unwrap(), Condvar::new().unwrap());
    let notify = |(lock, condition): (Mutex<()>, Condvar)| {
        loop {
            let held = lock.lock().unwrap();
            if condition.notify_one() {
                break;
            }
            drop(held);
        }
    };
    let (held, notified) = condition.wait_timeout(lock.lock().unwrap(), Duration::ZERO).unwrap();
    assert!(!notified);
    let (held, notified) = condition.wait_timeout(held, DELTA).unwrap();
    assert!(!notified);
    let child = Process::spawn(notify, (lock.clone(), condition.clone())).unwrap();
    let (held, notified) = condition.wait_timeout(held, Duration::from_secs(30)).unwrap();
    assert!(notified);
    drop(held);
    child.join().unwrap();
}
