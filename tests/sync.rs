//! The lock family as programs see it: threads, children, time-outs, and what a stopped process means.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kinfolk::{
    Barrier, BarrierError, BoundedSemaphore, Condvar, DeadHolder, ErrorKind, Event, LockError, Mutex, Once, Previous,
    Process, Queue, RLock, RwLock, Segment, Semaphore, WaitError,
};
use support::watchdog;
use support::watchdog::Watchdog;

/// A time-out that a test waits for.
const SHORT: Duration = Duration::from_millis(30);

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(60))
}

fn park() {
    loop {
        std::thread::park();
    }
}

/// Panics without a message.
fn panic() {
    std::panic::resume_unwind(Box::new(()))
}

fn stop(pid: u32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGSTOP).unwrap();
}

fn go_on(pid: u32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGCONT).unwrap();
}

#[test]
fn every_handle_works_in_any_segment_travels_and_knows_its_kind() {
    let _guard = guard();
    let segment = Segment::anonymous(64 << 20).unwrap();
    let event = Event::new_in(&segment).unwrap();
    let once = Once::new_in(&segment).unwrap();
    let rlock = RLock::new_in(&segment).unwrap();
    let rwlock = RwLock::new_in(&segment, 7u64).unwrap();
    let semaphore = Semaphore::new_in(&segment, 1).unwrap();
    let bounded = BoundedSemaphore::new_in(&segment, 1).unwrap();
    let condvar = Condvar::new_in(&segment).unwrap();
    let barrier = Barrier::new_in(&segment, 1).unwrap();
    Event::open(&segment, event.id()).unwrap().set();
    assert!(event.is_set());
    Once::open(&segment, once.id()).unwrap().call_once(|_| {}).unwrap();
    assert!(once.is_completed());
    let outer = rlock.lock().unwrap();
    drop(RLock::open(&segment, rlock.id()).unwrap().lock().unwrap());
    assert_eq!(rlock.depth(), 1);
    drop(outer);
    *RwLock::open(&segment, rwlock.id()).unwrap().write().unwrap() = 8u64;
    assert_eq!(*rwlock.read().unwrap(), 8);
    Semaphore::open(&segment, semaphore.id()).unwrap().acquire().unwrap().forget();
    assert_eq!(semaphore.value(), 0);
    assert!(BoundedSemaphore::open(&segment, bounded.id()).unwrap().release().is_err());
    assert_eq!(Condvar::open(&segment, condvar.id()).unwrap().notify_all(), 0);
    assert_eq!(Barrier::open(&segment, barrier.id()).unwrap().wait().unwrap(), 0);
    assert_eq!(Event::open(&segment, once.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);
    assert_eq!(Semaphore::open(&segment, bounded.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);
    assert_eq!(RwLock::<u32>::open(&segment, rwlock.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);

    // Through a queue, and to a child.
    let handles = Queue::<(Event, Semaphore)>::new(0).unwrap();
    let (event, semaphore) = (Event::new().unwrap(), Semaphore::new(0).unwrap());
    handles.put((event.clone(), semaphore.clone())).unwrap();
    let child = Process::spawn(
        |handles: Queue<(Event, Semaphore)>| {
            let (event, semaphore) = handles.get().unwrap();
            semaphore.release().unwrap();
            event.set();
        },
        handles,
    )
    .unwrap();
    event.wait();
    semaphore.acquire().unwrap().forget();
    child.join().unwrap();
}

#[test]
fn a_rwlock_has_many_readers_or_one_writer() {
    let _guard = guard();
    let lock = RwLock::new([1u64; 4]).unwrap();
    let first = lock.read().unwrap();
    let value = *first;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = lock.read().unwrap();
            assert_eq!((value, lock.readers()), (*other, 2));
            assert!(matches!(lock.try_write(), Err(LockError::WouldBlock)));
        });
    });
    let again = lock.read().unwrap();
    drop(first);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let refused = lock.write_timeout(SHORT);
            let Err(LockError::Timeout(Some(holder))) = refused else { panic!("{refused:?}") };
            assert_eq!(holder.pid, std::process::id());
            // The refused writer does not keep readers out.
            drop(lock.try_read().unwrap());
        });
    });
    drop(again);
    let mut writer = lock.write().unwrap();
    *writer = [2; 4];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(lock.try_read(), Err(LockError::WouldBlock)));
            assert!(matches!(lock.read_timeout(SHORT), Err(LockError::Timeout(Some(_)))));
        });
    });
    assert!(matches!(lock.try_read(), Err(LockError::WouldBlock)), "not even the writer reads beside itself");
    drop(writer);
    assert_eq!(*lock.read().unwrap(), [2; 4]);
}

#[test]
fn writers_get_in_although_readers_never_stop_coming() {
    let _guard = guard();
    let lock = RwLock::new(0u64).unwrap();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    let _one = lock.read().unwrap();
                    let _more = lock.read().unwrap();
                }
            });
        }
        for _ in 0..200 {
            *lock.write().unwrap() += 1;
        }
        end.store(true, Ordering::Relaxed);
    });
    assert_eq!(*lock.read().unwrap(), 200);
}

#[test]
fn readers_get_in_although_writers_never_stop_coming() {
    let _guard = guard();
    // The semaphore counts the writes, for somebody who has not got the lock.
    let (lock, writes) = (RwLock::new(0u64).unwrap(), Semaphore::new(0).unwrap());
    let write = |(lock, writes): (RwLock<u64>, Semaphore)| {
        for _ in 0u64.. {
            let _guard = lock.write().unwrap();
            writes.release().unwrap();
            let until = Instant::now() + Duration::from_micros(50);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
    };
    let args = (lock.clone(), writes.clone());
    let writers = [(); 2].map(|()| Process::builder().daemon(true).spawn(write, args.clone()).unwrap());
    let mut waits = [(); 101].map(|()| {
        while lock.try_read().is_ok() {
            std::hint::spin_loop();
        }
        let before = writes.value();
        drop(lock.read().unwrap());
        writes.value() - before
    });
    waits.sort_unstable();
    println!("{waits:?}");
    // Not the most: a reader that the system does not run misses its turn, and any number of writes.
    assert!(waits[75] <= 4, "a quarter of the reads waited for {} writes or more", waits[75]);
    writers.iter().for_each(|writer| writer.kill().unwrap());
}

#[test]
fn a_reader_that_was_stopped_or_killed_while_it_waited_keeps_no_writer_out() {
    let _guard = guard();
    let (lock, waits) = (RwLock::new(0u64).unwrap(), Event::new().unwrap());
    let read = |(lock, waits): (RwLock<u64>, Event)| {
        waits.set();
        drop(lock.read().unwrap());
    };
    for kills in [false, true] {
        waits.clear();
        let guard = lock.write().unwrap();
        let reader = Process::builder().daemon(true).spawn(read, (lock.clone(), waits.clone())).unwrap();
        waits.wait();
        // It is about to wait, or waits; both are well.
        stop(reader.pid());
        if kills {
            reader.kill().unwrap();
        }
        drop(guard);
        for _ in 0..3 {
            *lock.write().unwrap() += 1;
        }
        reader.kill().unwrap();
    }
    assert_eq!(*lock.read().unwrap(), 6);
}

#[test]
fn writers_of_several_processes_lose_no_update_and_no_reader_sees_half_of_one() {
    let _guard = guard();
    let lock = RwLock::new([0u64; 8]).unwrap();
    let work = |lock: RwLock<[u64; 8]>| {
        for _ in 0..500 {
            lock.write().unwrap().iter_mut().for_each(|word| *word += 1);
            let seen = lock.read().unwrap();
            assert!(seen.iter().all(|word| *word == seen[0]));
        }
    };
    let children: Vec<_> = (0..3).map(|_| Process::spawn(work, lock.clone()).unwrap()).collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(*lock.read().unwrap(), [1500; 8]);
}

#[test]
#[should_panic(expected = "for reading")]
fn a_reader_that_writes_is_told_that_it_would_wait_for_itself() {
    let lock = RwLock::new(0u8).unwrap();
    let _reader = lock.read().unwrap();
    let _ = lock.write();
}

#[test]
fn a_condvar_gives_all_levels_of_an_rlock_up_and_takes_them_again() {
    let _guard = guard();
    let (lock, condvar) = (RLock::new().unwrap(), Condvar::new().unwrap());
    let outer = lock.lock().unwrap();
    let middle = lock.lock().unwrap();
    let inner = lock.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while condvar.waiters() == 0 {
                std::thread::yield_now();
            }
            let free = lock.lock().unwrap();
            assert_eq!(lock.depth(), 1);
            assert!(condvar.notify_one());
            drop(free);
        });
        let inner = condvar.wait(inner).unwrap();
        assert_eq!(lock.depth(), 3);
        drop((inner, middle, outer));
    });
    assert_eq!((lock.depth(), lock.holder()), (0, None));
}

#[test]
fn a_once_runs_once_among_processes_and_a_panic_is_told_to_the_next() {
    let _guard = guard();
    let (once, count) = (Once::new().unwrap(), Mutex::new(0u32).unwrap());
    let quiet = std::panic::AssertUnwindSafe(|| once.call_once(|_| panic()));
    assert!(std::panic::catch_unwind(quiet).is_err());
    assert!(!once.is_completed());
    let run = |(once, count): (Once, Mutex<u32>)| {
        once.call_once(|previous| {
            assert_eq!(previous, Previous::Panicked);
            *count.lock().unwrap() += 1;
        })
        .unwrap();
        assert_eq!(*count.lock().unwrap(), 1, "whoever returns finds it done");
    };
    let children: Vec<_> = (0..4).map(|_| Process::spawn(run, (once.clone(), count.clone())).unwrap()).collect();
    for child in children {
        child.join().unwrap();
    }
    assert!(once.is_completed());
}

/// A child that holds everything, and says so.
fn hold(args: (RLock, RwLock<u64>, Semaphore, Once, Event)) {
    let (rlock, rwlock, semaphore, once, held) = args;
    let _rlock = rlock.lock().unwrap();
    let _write = rwlock.write().unwrap();
    let _permit = semaphore.acquire().unwrap();
    let _ = once.call_once(|_| {
        held.set();
        park();
    });
}

#[test]
fn a_stopped_holder_is_named_and_not_robbed_and_a_dead_one_is() {
    let _guard = guard();
    let handles = (
        RLock::new().unwrap(),
        RwLock::new(0u64).unwrap(),
        Semaphore::new(1).unwrap(),
        Once::new().unwrap(),
        Event::new().unwrap(),
    );
    let child = Process::spawn(hold, handles.clone()).unwrap();
    let (rlock, rwlock, semaphore, once, held) = handles;
    held.wait();
    let pid = child.pid();
    stop(pid);
    // Long enough that the holder's life is looked into.
    let long = Duration::from_millis(150);
    assert!(matches!(rlock.lock_timeout(long), Err(LockError::Timeout(Some(h))) if h.pid == pid));
    assert!(matches!(rwlock.write_timeout(long), Err(LockError::Timeout(Some(h))) if h.pid == pid));
    assert!(matches!(rwlock.read_timeout(long), Err(LockError::Timeout(Some(h))) if h.pid == pid));
    assert!(matches!(semaphore.acquire_timeout(long), Err(WaitError::Timeout(Some(h))) if h.pid == pid));
    assert!(matches!(once.call_once_timeout(long, |_| {}), Err(WaitError::Timeout(Some(h))) if h.pid == pid));
    assert!(matches!(once.try_call_once(|_| {}), Err(WaitError::WouldBlock)));
    for text in [format!("{rlock:?}"), format!("{rwlock:?}"), format!("{semaphore:?}"), format!("{once:?}")] {
        assert!(text.contains(&format!("(pid {pid})")), "{text}");
    }
    go_on(pid);
    child.kill().unwrap();
    // Not joined: each of these finds the death, or finds it found.
    let permit = semaphore.acquire().unwrap();
    assert_eq!(semaphore.value(), 0);
    drop(permit);
    assert!(matches!(rlock.lock(), Err(LockError::OwnerDied(_))));
    let mut suspect = rlock.lock().err().and_then(LockError::into_guard).expect("told again");
    let inner = rlock.lock().err().and_then(LockError::into_guard).expect("told on each level");
    suspect.mark_consistent();
    drop((inner, suspect));
    drop(rlock.lock().unwrap());
    assert!(matches!(rwlock.read(), Err(LockError::OwnerDied(_))));
    rwlock.write().err().and_then(LockError::into_guard).expect("told").mark_consistent();
    drop(rwlock.read().unwrap());
    once.call_once(|previous| assert_eq!(previous, Previous::Died)).unwrap();
    assert!(once.is_completed());
}

#[test]
fn the_permits_of_the_dead_return_or_leak_as_was_chosen() {
    let _guard = guard();
    let segment = Segment::family().unwrap();
    for policy in [DeadHolder::Return, DeadHolder::Leak] {
        let semaphore = Semaphore::new_with(&segment, 3, policy).unwrap();
        let held = Event::new().unwrap();
        let take = |(semaphore, held): (Semaphore, Event)| {
            let _permits = (semaphore.acquire().unwrap(), semaphore.acquire().unwrap());
            semaphore.acquire().unwrap().forget();
            held.set();
            park();
        };
        let child = Process::spawn(take, (semaphore.clone(), held.clone())).unwrap();
        held.wait();
        assert_eq!(semaphore.value(), 0);
        child.kill().unwrap();
        let _ = child.join();
        // A forgotten permit is nobody's and stays taken.
        assert_eq!(semaphore.value(), if policy == DeadHolder::Return { 2 } else { 0 });
        semaphore.release().unwrap();
        drop(semaphore.acquire().unwrap());
    }
}

#[test]
fn a_barrier_is_broken_by_a_death_also_of_one_that_has_not_come_yet() {
    let _guard = guard();
    let barrier = Barrier::new(2).unwrap();
    let idle = |_: Barrier| park();
    let child = Process::spawn(idle, barrier.clone()).unwrap();
    let pid = child.pid();
    child.kill().unwrap();
    let broken = barrier.wait();
    assert!(matches!(&broken, Err(BarrierError::Broken { who: Some(who) }) if who.pid == pid), "{broken:?}");
    assert!(barrier.is_broken());
    assert!(matches!(barrier.wait(), Err(BarrierError::Broken { who: Some(_) })));
    barrier.reset();
    assert!(!barrier.is_broken());
    let child = Process::spawn(|barrier: Barrier| barrier.wait().unwrap(), barrier.clone()).unwrap();
    assert_eq!(barrier.wait().unwrap() + child.join().unwrap(), 1);
}

#[test]
fn an_action_that_panics_breaks_the_barrier() {
    let barrier = Barrier::new(1).unwrap();
    let quiet = std::panic::AssertUnwindSafe(|| barrier.wait_with(panic));
    assert!(std::panic::catch_unwind(quiet).is_err());
    assert!(matches!(barrier.wait(), Err(BarrierError::Broken { who: None })));
}

/// The event that the handler below sets, and how often it has run.
static SET_BY_SIGNAL: std::sync::OnceLock<Event> = std::sync::OnceLock::new();
static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn set_event(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
    if let Some(event) = SET_BY_SIGNAL.get() {
        if !event.is_set() {
            event.set();
        }
    }
}

/// Sends SIGUSR1 to `thread`, one each 5 us while this has a CPU, until `end`; how many.
fn storm(thread: libc::pthread_t, end: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !end.load(Ordering::Relaxed) {
        // SAFETY: the caller lets the thread outlive this.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
        sent += 1;
        let next = Instant::now() + Duration::from_micros(5);
        while Instant::now() < next {
            std::hint::spin_loop();
        }
    }
    sent
}

#[test]
fn waiting_survives_a_storm_of_signals_and_an_event_is_set_from_a_handler() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let _guard = guard();
    SET_BY_SIGNAL.set(Event::new().unwrap()).unwrap();
    let action = SigAction::new(SigHandler::Handler(set_event), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does what a handler may.
    unsafe { sigaction(Signal::SIGUSR1, &action).unwrap() };
    let (mutex, rwlock, held) = (Mutex::new(()).unwrap(), RwLock::new(0u8).unwrap(), Event::new().unwrap());
    let end = AtomicBool::new(false);
    let over = Event::new().unwrap();
    // SAFETY: no preconditions.
    let me = unsafe { libc::pthread_self() };
    let begin = Instant::now();
    let sent = std::thread::scope(|scope| {
        // This scope ends before the thread `me` does.
        let sender = scope.spawn(|| storm(me, &end));
        scope.spawn(|| {
            let _guards = (mutex.lock().unwrap(), rwlock.write().unwrap());
            held.set();
            over.wait();
        });
        SET_BY_SIGNAL.get().unwrap().wait();
        held.wait();
        let (event, lock) = (Event::new().unwrap(), Mutex::new(()).unwrap());
        let (there, back) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
        let condvar = Condvar::new().unwrap();
        let timed = |wait: &dyn Fn()| {
            let begin = Instant::now();
            wait();
            let took = begin.elapsed();
            assert!((SHORT..SHORT + Duration::from_secs(1)).contains(&took), "the wait took {took:?}");
        };
        timed(&|| assert!(!event.wait_timeout(SHORT)));
        timed(&|| assert!(there.acquire_timeout(SHORT).is_err()));
        timed(&|| assert!(mutex.lock_timeout(SHORT).is_err()));
        timed(&|| assert!(rwlock.read_timeout(SHORT).is_err()));
        timed(&|| assert!(rwlock.write_timeout(SHORT).is_err()));
        timed(&|| assert!(!condvar.wait_for_timeout(lock.lock().unwrap(), |()| false, SHORT).unwrap().1));
        timed(&|| assert!(Barrier::new(2).unwrap().wait_timeout(SHORT).is_err()));
        // Each turn is a wake-up both ways.
        const TURNS: u32 = 2000;
        let answer = |(there, back, event): (Semaphore, Semaphore, Event)| {
            for _ in 0..TURNS {
                there.acquire().unwrap().forget();
                back.release().unwrap();
            }
            event.set();
        };
        let child = Process::spawn(answer, (there.clone(), back.clone(), event.clone())).unwrap();
        for _ in 0..TURNS {
            there.release().unwrap();
            back.acquire().unwrap().forget();
        }
        event.wait();
        child.join().unwrap();
        // What is sent while one is pending is lost, as signals are: go on until it was a storm.
        while HANDLED.load(Ordering::Relaxed) < 200 {
            timed(&|| assert!(there.acquire_timeout(SHORT).is_err()));
        }
        over.set();
        end.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    let (handled, seconds) = (HANDLED.load(Ordering::Relaxed), begin.elapsed().as_secs_f64());
    println!("{sent} signals were sent in {seconds:.2} s, {handled} handled");
}
