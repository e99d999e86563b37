//! `TestSyncManagerTypes` (locks and queues), `_TestMyManager`, `_TestRemoteManager`, `_TestManagerRestart` and
//! `TestInitializers`.

use std::time::Duration;

use kinfolk::{
    Barrier, BoundedSemaphore, Condvar, ErrorKind, Event, GetError, JoinError, JoinableQueue, Lock, LockError, Manager,
    Mutex, OverRelease, Process, PutError, Queue, RLock, Semaphore,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::guard;

/// A manager that is large enough for everything here.
fn manager() -> Manager {
    Manager::with_size(64 << 20).unwrap()
}

/// A name for a manager that no other test has.
fn name(of: &str) -> String {
    format!("parity-{}-{of}", std::process::id())
}

/// Runs `worker` with the handle in a child, which must return.
#[track_caller]
fn run_worker<H, F>(worker: F, handle: &H)
where
    H: Clone + Serialize + DeserializeOwned + 'static,
    F: Fn(H) + Copy + Send + 'static,
{
    Process::builder().daemon(true).spawn(worker, handle.clone()).unwrap().join().unwrap();
    assert!(kinfolk::process::active_children().iter().all(|child| child.name() != "Manager"), "there is no server");
}

#[test]
fn an_event_of_a_manager_is_set_here_and_cleared_by_a_child() {
    let _guard = guard();
    let event = manager().event().unwrap();
    event.set();
    let worker = |event: Event| {
        assert!(event.is_set());
        event.wait();
        event.clear();
        assert!(!event.wait_timeout(Duration::from_millis(1)));
    };
    run_worker(worker, &event);
    assert!(!event.is_set());
    assert!(!event.wait_timeout(Duration::from_millis(1)));
}

#[test]
fn a_lock_of_a_manager_taken_by_a_child_that_ends_is_had_again() {
    let _guard = guard();
    let lock = manager().lock().unwrap();
    // A guard that is dropped gives it back, so that nothing has to be released here.
    run_worker(|lock: Lock| drop(lock.lock().unwrap()), &lock);
    drop(lock.try_lock().unwrap());
    // One that is kept beyond the child's end is the next locker's, who is told. There is no releasing what others hold,
    // and none twice: a guard is dropped once.
    run_worker(|lock: Lock| std::mem::forget(lock.lock().unwrap()), &lock);
    match lock.lock() {
        Err(LockError::OwnerDied(mut guard)) => guard.mark_consistent(),
        other => panic!("{other:?}"),
    }
    drop(lock.lock().unwrap());
}

#[test]
fn an_rlock_of_a_manager_is_taken_and_released_by_a_child() {
    let _guard = guard();
    let lock = manager().rlock().unwrap();
    let worker = |lock: RLock| {
        let outer = lock.lock().unwrap();
        drop((lock.lock().unwrap(), outer));
    };
    run_worker(worker, &lock);
    drop(lock.try_lock().unwrap());
}

#[test]
fn a_semaphore_of_a_manager_taken_by_a_child_that_ends_is_full_again() {
    let _guard = guard();
    let semaphore = manager().semaphore(1).unwrap();
    // A permit whose holder has ended is free; one that was forgotten on purpose is released by anybody, as Python's.
    run_worker(|semaphore: Semaphore| std::mem::forget(semaphore.acquire().unwrap()), &semaphore);
    semaphore.acquire_timeout(Duration::from_secs(20)).unwrap().forget();
    assert_eq!(semaphore.value(), 0);
    run_worker(|semaphore: Semaphore| semaphore.release().unwrap(), &semaphore);
    assert_eq!(semaphore.value(), 1);
}

#[test]
fn a_bounded_semaphore_of_a_manager_taken_by_a_child_is_full_again_and_not_fuller() {
    let _guard = guard();
    let semaphore = manager().bounded_semaphore(1).unwrap();
    run_worker(|semaphore: BoundedSemaphore| std::mem::forget(semaphore.acquire().unwrap()), &semaphore);
    semaphore.acquire_timeout(Duration::from_secs(20)).unwrap().forget();
    semaphore.release().unwrap();
    assert_eq!(semaphore.release(), Err(OverRelease));
}

#[test]
fn a_condition_of_a_manager_is_used_by_a_child() {
    let _guard = guard();
    let manager = manager();
    let (lock, condvar) = (manager.mutex(0u32).unwrap(), manager.condvar().unwrap());
    let worker = |(lock, condvar): (Mutex<u32>, Condvar)| {
        *lock.lock().unwrap() = 1;
        condvar.notify_all();
    };
    let both = (lock, condvar);
    run_worker(worker, &both);
    assert_eq!(*both.1.wait_for(both.0.lock().unwrap(), |value| *value == 1).unwrap(), 1);
}

#[test]
fn a_barrier_of_a_manager_is_reset_by_a_child() {
    let _guard = guard();
    let barrier = manager().barrier(5).unwrap();
    let worker = |barrier: Barrier| {
        assert_eq!(barrier.parties(), 5);
        barrier.reset();
    };
    run_worker(worker, &barrier);
    assert!(!barrier.is_broken());
}

#[test]
fn a_queue_of_a_manager_is_full_here_and_empty_when_a_child_has_got_all() {
    let _guard = guard();
    let queue = manager().queue::<u32>(2).unwrap();
    queue.put(5).unwrap();
    queue.put(6).unwrap();
    assert!(matches!(queue.try_put(7), Err(PutError::Full(7))));
    let worker = |queue: Queue<u32>| {
        assert!(queue.is_full() && !queue.is_empty());
        assert_eq!((queue.len(), queue.get().unwrap(), queue.get().unwrap()), (2, 5, 6));
        assert!(queue.is_empty());
    };
    run_worker(worker, &queue);
    assert!(queue.is_empty() && !queue.is_full());
    assert_eq!(queue.len(), 0);
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
}

#[test]
fn a_queue_of_tasks_of_a_manager_is_worked_off_by_a_child() {
    let _guard = guard();
    let tasks = manager().joinable_queue::<u32>(2).unwrap();
    tasks.put(5).unwrap();
    tasks.put(6).unwrap();
    assert!(tasks.is_full());
    let worker = |tasks: JoinableQueue<u32>| {
        for task in [5, 6] {
            assert_eq!(tasks.get().unwrap(), task);
            tasks.task_done().unwrap();
        }
    };
    run_worker(worker, &tasks);
    tasks.join().unwrap();
    assert!(tasks.is_empty() && !tasks.is_full());
}

/// A type of one's own: `f` and `g` may be called by others, `h` is for this module.
#[derive(Clone, Serialize, Deserialize)]
struct FooBar {
    calls: Mutex<u32>,
    squares: Queue<u64>,
}

impl FooBar {
    fn new(manager: &Manager) -> Result<Self, kinfolk::Error> {
        let squares = manager.queue(0)?;
        (0..10u64).try_for_each(|k| squares.put(k * k)).unwrap();
        Ok(Self { calls: manager.mutex(0)?, squares })
    }

    fn f(&self) -> &'static str {
        *self.calls.lock().unwrap() += 1;
        "f()"
    }

    fn g(&self) -> Result<u32, std::num::ParseIntError> {
        "no number".parse()
    }
}

/// What Python does with registered types, on a manager of any kind.
fn common(manager: &Manager) {
    manager.publish("Foo", &FooBar::new(manager).unwrap()).unwrap();
    let worker = |manager: Manager| {
        let found = manager.find::<FooBar>("Foo").unwrap();
        assert_eq!(found.f(), "f()");
        // An error is one of the method's own types, not a text from elsewhere.
        assert!(found.g().unwrap_err().to_string().contains("invalid digit"));
        // An iterator that others share: each item is had once.
        assert!((0..5).map(|k| k * k).eq(found.squares.drain().take(5).map(Result::unwrap)));
        // What is not registered is not there, and what is has its type.
        assert_eq!(manager.find::<FooBar>("Bar").err().unwrap().kind(), ErrorKind::NotFound);
        assert_eq!(manager.find::<Queue<u64>>("Foo").err().unwrap().kind(), ErrorKind::TypeMismatch);
    };
    run_worker(worker, manager);
    let found = manager.find::<FooBar>("Foo").unwrap();
    assert_eq!((found.f(), *found.calls.lock().unwrap()), ("f()", 2));
    assert!((5..10).map(|k| k * k).eq(found.squares.drain().map(Result::unwrap)));
}

#[test]
fn types_of_ones_own_are_published_and_found_with_their_methods() {
    let _guard = guard();
    common(&manager());
}

#[test]
fn a_manager_in_a_block_is_gone_behind_it() {
    let _guard = guard();
    let kept;
    {
        let manager = manager();
        common(&manager);
        kept = manager.queue::<u32>(0).unwrap();
        // There is no server, so none that could end badly.
        assert_eq!(manager.segment().stats().processes, 1);
    }
    // What it made goes on, where Python's proxies would fail.
    kept.put(1).unwrap();
    assert_eq!(kept.get().unwrap(), 1);
}

#[test]
fn a_manager_that_was_in_use_before_the_block_is_gone_behind_it_too() {
    let _guard = guard();
    let name = name("prestarted");
    {
        let manager = Manager::create(&name).unwrap();
        let started = manager.event().unwrap();
        manager.publish("started", &started).unwrap();
        common(&manager);
        Manager::unlink(&name).unwrap();
    }
    assert_eq!(Manager::open(&name).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Every kind of value that Python sends, and texts that are not ASCII.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Value {
    Text(String),
    None,
    Bool(bool),
    Number(f64),
    Bytes(Vec<u8>),
}

fn values() -> Vec<Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    let bytes = Value::Bytes(b"hall\xe5 v\xe4rlden".to_vec());
    let russian = "\u{43f}\u{440}\u{438}\u{432}\u{456}\u{442} \u{441}\u{432}\u{456}\u{442}";
    let hello = [text("hello world"), Value::None, Value::Bool(true), Value::Number(2.25)];
    hello.into_iter().chain([text("hall\u{e5} v\u{e4}rlden"), text(russian), bytes]).collect()
}

#[test]
fn a_second_program_connects_by_name_and_uses_a_queue() {
    let _guard = guard();
    let name = name("remote");
    let manager = Manager::create(&name).unwrap();
    manager.publish("queue", &manager.queue::<Vec<Value>>(0).unwrap()).unwrap();
    let putter = |name: String| {
        let manager = Manager::open(&name).unwrap();
        manager.find::<Queue<Vec<Value>>>("queue").unwrap().put(values()).unwrap();
    };
    let child = Process::builder().daemon(true).spawn(putter, name.clone()).unwrap();
    let again = Manager::open(&name).unwrap();
    let queue = again.find::<Queue<Vec<Value>>>("queue").unwrap();
    assert_eq!(queue.get().unwrap(), values());
    child.join().unwrap();
    Manager::unlink(&name).unwrap();
}

#[test]
fn a_name_is_used_again_at_once() {
    let _guard = guard();
    let name = name("restart");
    for round in 0..20 {
        let manager = Manager::create(&name).unwrap();
        manager.publish("queue", &manager.queue::<String>(0).unwrap()).unwrap();
        let putter = |name: String| {
            let manager = Manager::open(&name).unwrap();
            manager.find::<Queue<String>>("queue").unwrap().put("hello world".to_owned()).unwrap();
        };
        if round % 5 == 0 {
            Process::spawn(putter, name.clone()).unwrap().join().unwrap();
        } else {
            putter(name.clone());
        }
        assert_eq!(manager.find::<Queue<String>>("queue").unwrap().try_get().unwrap(), "hello world");
        Manager::unlink(&name).unwrap();
    }
}

#[test]
fn what_an_initialiser_would_do_is_done_before_others_look() {
    let _guard = guard();
    let name = name("initialised");
    // In Python it runs in the server; here whoever makes it does it, once, whoever comes first.
    let open = |name: String| {
        let manager = Manager::open_or_create(&name).unwrap();
        let count = manager.find_or_publish("count", || manager.mutex(0u32)).unwrap();
        let once = manager.find_or_publish("once", || manager.once()).unwrap();
        once.call_once(|_| *count.lock().unwrap() += 1).unwrap();
        *count.lock().unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| Process::spawn(open, name.clone()).unwrap()).collect();
    for child in children {
        assert_eq!(child.join().map_err(|e: JoinError| e.to_string()), Ok(1));
    }
    assert_eq!(open(name.clone()), 1);
    Manager::unlink(&name).unwrap();
}
