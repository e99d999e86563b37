//! Tasks that are begun again after a death: in a full pool, and in one that is being joined.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use kinfolk::{Event, Pool, Queue};
use nix::sys::signal::Signal;
use support::pools::next;
use support::random::Random;
use support::{stopped, watchdog};

fn end(pid: u32) {
    stopped::signal(pid, Signal::SIGKILL);
}

/// Says who runs it, and waits until it may go on.
fn attend((begun, go, n): (Queue<u32>, Event, u64)) -> u64 {
    begun.put(std::process::id()).unwrap();
    go.wait();
    n
}

#[test]
fn a_task_that_is_begun_again_needs_no_room_that_others_wait_for() {
    let _guard = watchdog(Duration::from_secs(60));
    for _ in 0..20 {
        let pool = Pool::builder().processes(2).retries(100).depth(2).build().unwrap();
        let (begun, go) = (Queue::new(0).unwrap(), Event::new().unwrap());
        let submit = |n| pool.apply_async(attend, (begun.clone(), go.clone(), n)).unwrap();
        let tasks = [submit(0), submit(1)];
        let running = [next(&begun), next(&begun)];
        let waiting = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for n in 2..6 {
                let (submit, waiting) = (&submit, &waiting);
                scope.spawn(move || {
                    waiting.fetch_add(1, Relaxed);
                    assert_eq!(submit(n).get().unwrap(), n);
                });
            }
            support::children::until(|| waiting.load(Relaxed) == 4);
            (0..10).for_each(|_| Random::new(71).moment());
            running.into_iter().for_each(end);
            // Both are begun again, by others, before any that came later.
            let again = [next(&begun), next(&begun)];
            assert!(again.iter().all(|pid| !running.contains(pid)));
            go.set();
        });
        tasks.into_iter().zip(0..).for_each(|(task, n)| assert_eq!(task.get().unwrap(), n));
        pool.close();
        pool.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.submitted, stats.done, stats.retried, stats.deaths), (6, 6, 2, 2));
    }
}

/// An argument that is slow to encode for the second time: until somebody joins the pool, and a little longer.
struct Slow;

static ENCODED: AtomicU64 = AtomicU64::new(0);
static JOINS: AtomicBool = AtomicBool::new(false);

impl serde::Serialize for Slow {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if ENCODED.fetch_add(1, Relaxed) > 0 {
            support::children::until(|| JOINS.load(Relaxed));
            let mut random = Random::new(72);
            (0..100).for_each(|_| random.moment());
        }
        to.serialize_unit()
    }
}

impl<'de> serde::Deserialize<'de> for Slow {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from).map(|()| Self)
    }
}

#[test]
fn join_waits_for_a_task_that_is_about_to_be_begun_again() {
    let _guard = watchdog(Duration::from_secs(60));
    let pool = Pool::new(2).unwrap();
    let (begun, go) = (Queue::new(0).unwrap(), Event::new().unwrap());
    let run = |(_, attended): (Slow, (Queue<u32>, Event, u64))| attend(attended);
    let task = pool.job(run, (Slow, (begun.clone(), go.clone(), 7))).retries(1).submit().unwrap();
    end(next(&begun));
    go.set();
    pool.close();
    support::children::until(|| ENCODED.load(Relaxed) == 2);
    JOINS.store(true, Relaxed);
    pool.join().unwrap();
    assert_eq!(task.get().unwrap(), 7);
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.done, stats.retried), (1, 1, 1));
}
