//! Guards that a program has leaked: what they held stays held until the process ends, and no longer.

mod support;

use std::time::Duration;

use kinfolk::{LockError, Manager, Mutex, Process, Queue, RLock, RwLock, Segment, Semaphore, WaitError};
use serde::{Deserialize, Serialize};
use support::watchdog;
use support::watchdog::Watchdog;

const SOON: Duration = Duration::from_secs(20);

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(60))
}

/// Everything that has guards.
#[derive(Clone, Serialize, Deserialize)]
struct Things {
    lock: Mutex<u32>,
    rlock: RLock,
    rwlock: RwLock<u32>,
    semaphore: Semaphore,
    leases: Queue<u32>,
    pipe: Queue<u8>,
}

impl Things {
    fn new_in(segment: &Segment) -> Self {
        let queue = || Queue::builder().segment(segment).bytes(4096);
        Self {
            lock: Mutex::new_in(segment, 0).unwrap(),
            rlock: RLock::new_in(segment).unwrap(),
            rwlock: RwLock::new_in(segment, 0).unwrap(),
            semaphore: Semaphore::new_in(segment, 1).unwrap(),
            leases: queue().leases(2).build().unwrap(),
            pipe: queue().build().unwrap(),
        }
    }

    /// Takes all of it, and keeps no handle.
    fn leak(self) {
        std::mem::forget(self.lock.lock().unwrap());
        std::mem::forget(self.rlock.lock().unwrap());
        std::mem::forget(self.rwlock.read().unwrap());
        std::mem::forget(self.semaphore.acquire().unwrap());
        std::mem::forget(self.leases.lease().unwrap());
    }

    /// The locks and the permit; the item is for others to take.
    fn are_free(&self) {
        assert!(matches!(self.lock.lock_timeout(SOON), Err(LockError::OwnerDied(_))));
        assert!(matches!(self.rlock.lock_timeout(SOON), Err(LockError::OwnerDied(_))));
        drop(self.rwlock.write_timeout(SOON).unwrap());
        drop(self.semaphore.acquire_timeout(SOON).unwrap());
        assert_eq!(self.leases.lease_timeout(SOON).unwrap().into_inner(), 5);
        self.pipe.put(1).unwrap();
    }
}

#[test]
fn what_a_child_leaked_is_free_when_it_has_ended() {
    let _guard = guard();
    let manager = Manager::with_size(16 << 20).unwrap();
    for segment in [&Segment::family().unwrap(), manager.segment()] {
        let things = Things::new_in(segment);
        things.leases.put(5).unwrap();
        Process::spawn(|things: Things| things.leak(), things.clone()).unwrap().join().unwrap();
        things.are_free();
    }
}

#[test]
fn what_an_ended_thread_leaked_is_its_process_and_no_other_threads() {
    let _guard = guard();
    fn leaks_in_a_thread((things, leaked, end): (Things, Queue<()>, Queue<()>)) {
        let clone = things.clone();
        std::thread::spawn(move || clone.leak()).join().unwrap();
        // Another thread, which does not get the lane that stands in the words.
        std::thread::spawn(move || {
            assert!(matches!(things.lock.try_lock(), Err(LockError::WouldBlock)));
            assert!(matches!(things.rlock.try_lock(), Err(LockError::WouldBlock)));
            assert!(matches!(things.semaphore.try_acquire(), Err(WaitError::WouldBlock)));
        })
        .join()
        .unwrap();
        leaked.put(()).unwrap();
        let _ = end.get();
    }
    let manager = Manager::with_size(16 << 20).unwrap();
    for segment in [&Segment::family().unwrap(), manager.segment()] {
        let things = Things::new_in(segment);
        things.leases.put(5).unwrap();
        let (leaked, end) = (Queue::new(0).unwrap(), Queue::new(0).unwrap());
        let args = (things.clone(), leaked.clone(), end.clone());
        let child = Process::builder().name("leaky").spawn(leaks_in_a_thread, args).unwrap();
        leaked.get().unwrap();
        assert!(matches!(things.rwlock.try_write(), Err(LockError::WouldBlock)));
        end.put(()).unwrap();
        child.join().unwrap();
        things.are_free();
    }
}

#[test]
fn threads_that_leak_nothing_give_their_lanes_back() {
    let segment = Segment::builder().size(4 << 20).lanes(4).anonymous().unwrap();
    let things = Things::new_in(&segment);
    for k in 0..20 {
        let things = things.clone();
        let use_all = move || {
            *things.lock.lock().unwrap() += 1;
            drop((things.rlock.lock().unwrap(), things.rwlock.write().unwrap()));
            drop(things.semaphore.acquire().unwrap());
            things.leases.put(k).unwrap();
            things.leases.lease().unwrap().ack().unwrap();
        };
        std::thread::spawn(use_all).join().unwrap();
    }
    assert_eq!(*things.lock.lock().unwrap(), 20);
}
