//! `_TestLock`.

use kinfolk::{Event, Lock, LockError, Mutex, Process, RLock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::guard;

/// Runs `check` while another thread of this process has what `lock` locks.
fn while_another_thread<G>(lock: impl FnOnce() -> G + Send, check: impl FnOnce()) {
    let (locked, done) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = lock();
            locked.wait();
            done.wait();
        });
        locked.wait();
        check();
        done.wait();
    });
}

/// Runs `check`, which is told the process id, while a child waits with what `hold` holds.
fn while_a_child<L>(lock: &L, hold: impl Fn(&L, &dyn Fn()) + Copy + Send + 'static, check: impl FnOnce(u32))
where
    L: Clone + Serialize + DeserializeOwned,
{
    let (held, go) = (Event::new().unwrap(), Event::new().unwrap());
    let tell_and_wait = move |(lock, held, go): (L, Event, Event)| {
        hold(&lock, &|| {
            held.set();
            go.wait();
        });
    };
    let child = Process::spawn(tell_and_wait, (lock.clone(), held.clone(), go.clone())).unwrap();
    held.wait();
    check(child.pid());
    go.set();
    child.join().unwrap();
}

#[test]
fn a_lock_is_taken_once_and_given_back_once() {
    let lock = Lock::new(()).unwrap();
    assert_eq!(lock.holder(), None);
    let held = lock.lock().unwrap();
    assert!(lock.holder().is_some());
    assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
    // A second release does not compile: the first one is the guard's end.
    drop(held);
    assert_eq!(lock.holder(), None);
    drop(lock.try_lock().unwrap());
}

#[test]
fn an_rlock_is_taken_three_times_and_given_back_three_times() {
    let lock = RLock::new().unwrap();
    let guards = [lock.lock().unwrap(), lock.lock().unwrap(), lock.lock().unwrap()];
    let is_free = || std::thread::scope(|scope| scope.spawn(|| lock.try_lock().is_ok()).join().unwrap());
    for (k, held) in guards.into_iter().enumerate() {
        assert_eq!(lock.depth(), 3 - k as u32);
        assert!(!is_free());
        drop(held);
    }
    assert_eq!((lock.depth(), is_free()), (0, true));
}

#[test]
fn a_lock_is_held_in_a_block() {
    let lock = Lock::new(()).unwrap();
    {
        let _held = lock.lock().unwrap();
        assert!(lock.holder().is_some());
    }
    assert!(lock.holder().is_none());
}

#[test]
fn an_rlock_is_held_in_a_block() {
    let lock = RLock::new().unwrap();
    {
        let _held = lock.lock().unwrap();
        assert!(lock.holder().is_some());
    }
    assert!(lock.holder().is_none());
}

#[test]
fn a_lock_of_another_process_is_seen_as_held() {
    let _guard = guard();
    let lock = Lock::new(()).unwrap();
    let hold = |lock: &Lock, wait: &dyn Fn()| {
        let _held = lock.lock().unwrap();
        wait();
    };
    while_a_child(&lock, hold, |pid| {
        assert_eq!(lock.holder().unwrap().pid, pid);
        assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
    });
    assert!(lock.holder().is_none());
}

#[test]
fn an_rlock_of_another_process_is_seen_as_held() {
    let _guard = guard();
    let lock = RLock::new().unwrap();
    let hold = |lock: &RLock, wait: &dyn Fn()| {
        let _held = (lock.lock().unwrap(), lock.lock().unwrap());
        wait();
    };
    while_a_child(&lock, hold, |pid| {
        assert_eq!((lock.holder().unwrap().pid, lock.depth()), (pid, 2));
        assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
    });
    assert!(lock.holder().is_none());
}

#[test]
fn a_lock_as_text_names_its_owner() {
    let _guard = guard();
    let lock = Mutex::new(()).unwrap();
    assert!(format!("{lock:?}").contains("held by nobody"), "{lock:?}");
    let me = format!("(pid {})", std::process::id());
    let held = lock.lock().unwrap();
    assert!(format!("{lock:?}").contains(&me), "{lock:?}");
    drop(held);
    while_another_thread(|| lock.lock().unwrap(), || assert!(format!("{lock:?}").contains(&me), "{lock:?}"));
    let hold = |lock: &Lock, wait: &dyn Fn()| {
        let _held = lock.lock().unwrap();
        wait();
    };
    while_a_child(&lock, hold, |pid| {
        assert!(format!("{lock:?}").contains(&format!("(pid {})", pid)), "{lock:?}");
    });
}

#[test]
fn an_rlock_as_text_names_its_owner_and_its_depth() {
    let _guard = guard();
    let lock = RLock::new().unwrap();
    assert_eq!(format!("{lock:?}"), "RLock(held by nobody, depth 0)");
    let held = (lock.lock().unwrap(), lock.lock().unwrap());
    assert_eq!(format!("{lock:?}"), "RLock(held by this thread, depth 2)");
    drop(held);
    let check = || {
        let text = format!("{lock:?}");
        assert!(text.starts_with("RLock(held by another thread of ") && text.ends_with(", depth 1)"), "{text}");
    };
    while_another_thread(|| lock.lock().unwrap(), check);
    let hold = |lock: &RLock, wait: &dyn Fn()| {
        let _held = lock.lock().unwrap();
        wait();
    };
    while_a_child(&lock, hold, |pid| {
        assert!(format!("{lock:?}").ends_with(&format!("(pid {}), depth 1)", pid)), "{lock:?}");
    });
}
