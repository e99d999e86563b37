//! Sleeping on a shared 32-bit word: futex without the private flag, so that it works between processes.

use super::atomic::AtomicU32;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Woken, or the word had changed already, or a signal came: look again.
    Look,
    /// The time is over.
    Timeout,
}

/// Sleeps while `*word == expected`, at most `timeout_ns` (for ever if `None`). May wake for no reason.
#[cfg(not(all(test, loom)))]
pub fn wait(word: &AtomicU32, expected: u32, timeout_ns: Option<u64>) -> Woken {
    use rustix::thread::futex;
    let timeout = timeout_ns.map(|ns| futex::Timespec {
        tv_sec: (ns / 1_000_000_000).min(i64::MAX as u64) as i64,
        tv_nsec: (ns % 1_000_000_000) as _,
    });
    match futex::wait(word, futex::Flags::empty(), expected, timeout.as_ref()) {
        Err(rustix::io::Errno::TIMEDOUT) => Woken::Timeout,
        _ => Woken::Look,
    }
}

/// Wakes up to `count` sleepers of `word`; says how many there were.
#[cfg(not(all(test, loom)))]
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    use rustix::thread::futex;
    futex::wake(word, futex::Flags::empty(), count.min(i32::MAX as u32)).map_or(0, |n| n as u32)
}

/// Wakes every sleeper of `word`.
pub fn wake_all(word: &AtomicU32) -> u32 {
    wake(word, u32::MAX)
}

/// Sleeps while every `(word, expected)` still holds, at most `timeout_ns`; `None` where the kernel has no `futex_waitv`.
#[cfg(not(all(test, loom)))]
#[cfg_attr(not(test), expect(dead_code, reason = "waiting for several objects at once is built on it"))]
pub fn wait_any(words: &[(&AtomicU32, u32)], timeout_ns: Option<u64>) -> Option<Woken> {
    use rustix::thread::futex;
    let waits: Vec<futex::Wait> = words
        .iter()
        .map(|(word, expected)| {
            let mut wait = futex::Wait::new();
            wait.val = u64::from(*expected);
            wait.uaddr = futex::WaitPtr::new(core::ptr::from_ref(*word).cast_mut().cast());
            wait.flags = futex::WaitFlags::SIZE_U32;
            wait
        })
        .collect();
    let until = timeout_ns.map(|ns| {
        let at = super::clock::now_ns().saturating_add(ns).min(i64::MAX as u64);
        futex::Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as _ }
    });
    match futex::waitv(&waits, futex::WaitvFlags::empty(), until.as_ref(), futex::ClockId::Monotonic) {
        Err(rustix::io::Errno::TIMEDOUT) => Some(Woken::Timeout),
        Err(rustix::io::Errno::NOSYS) => None,
        _ => Some(Woken::Look),
    }
}

/// The modelled kernel: a condition variable beside each word. Time passes only where a model says so, hence a wake-up
/// that is lost shows as loom's deadlock.
#[cfg(all(test, loom))]
pub fn wait(word: &AtomicU32, expected: u32, _timeout_ns: Option<u64>) -> Woken {
    super::atomic::kill_point();
    let slept = super::clock::sleep(|| {
        let mut asleep = word.sleepers.0.lock().unwrap();
        if word.peek() == expected {
            *asleep += 1;
            drop(word.sleepers.1.wait(asleep).unwrap());
        }
    });
    if slept { Woken::Look } else { Woken::Timeout }
}

/// The modelled kernel's wake.
#[cfg(all(test, loom))]
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    super::atomic::kill_point();
    let mut asleep = word.sleepers.0.lock().unwrap();
    let woken = count.min(*asleep);
    *asleep -= woken;
    if count == 1 {
        word.sleepers.1.notify_one();
    } else {
        word.sleepers.1.notify_all();
    }
    woken
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::atomic::Ordering::Relaxed;
    use super::*;

    #[test]
    fn a_wait_for_any_ends_when_one_word_differs_or_is_woken_or_the_time_is_over() {
        let words = [AtomicU32::new(1), AtomicU32::new(2)];
        let any = |a, b, ns| wait_any(&[(&words[0], a), (&words[1], b)], Some(ns));
        if any(1, 2, 1_000_000).is_none() {
            return; // A kernel before 5.16.
        }
        assert_eq!(any(1, 2, 1_000_000), Some(Woken::Timeout));
        assert_eq!(any(1, 3, u64::MAX / 4), Some(Woken::Look));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while words[1].load(Relaxed) == 2 {
                    wait_any(&[(&words[0], 1), (&words[1], 2)], None);
                }
            });
            words[1].store(5, Relaxed);
            wake_all(&words[1]);
            sleeper.join().unwrap();
        });
    }
}
