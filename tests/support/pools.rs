//! Functions for the workers of pools, and what is looked at when a pool is at its end.

use kinfolk::pool::PoolStats;
use kinfolk::{Event, GetError, Pool, Queue, Semaphore};
use nix::sys::signal::Signal;

use super::children::park;
use super::stopped::signal;

pub fn square(n: u64) -> u64 {
    n * n
}

pub fn squares(n: u64) -> Vec<u64> {
    (0..n).map(square).collect()
}

/// Says that it has begun, and waits until it may go on.
pub fn held((begun, go, n): (Semaphore, Event, u64)) -> u64 {
    begun.release().unwrap();
    go.wait();
    n
}

/// Says that it has begun, and ends by a signal only.
pub fn endless(begun: Semaphore) {
    begun.release().unwrap();
    park(());
}

pub fn shoot(pid: u32) {
    signal(pid, Signal::SIGKILL);
}

/// Who has begun next, of workers that say so. While all are dead, nobody else has the queue.
pub fn next(begun: &Queue<u32>) -> u32 {
    loop {
        match begun.get() {
            Ok(pid) => return pid,
            Err(GetError::Disconnected(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Every task has ended once.
pub fn add_up(stats: &PoolStats) {
    assert_eq!(stats.submitted, stats.done + stats.failed + stats.cancelled, "{stats:?}");
}

/// Ends the work of the pool, and looks whether everything was counted.
pub fn rest(pool: &Pool) -> PoolStats {
    pool.close();
    pool.join().unwrap();
    add_up(&pool.stats());
    pool.stats()
}
