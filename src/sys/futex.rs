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

/// The words that one call can sleep on.
#[cfg(not(all(test, loom)))]
pub const MOST_WORDS: usize = 128;

/// How long [`wait_any`] sleeps where it cannot see all words.
#[cfg(not(all(test, loom)))]
const POLL_NS: u64 = 1_000_000;

/// Sleeps while every `(word, expected)` still holds, at most `timeout_ns`. May wake for no reason.
///
/// Where the kernel has no `futex_waitv` (before 5.16), or there are more than [`MOST_WORDS`], it sees changes of the
/// words that it cannot sleep on a millisecond late, and says [`Woken::Look`] as often.
#[cfg(not(all(test, loom)))]
pub fn wait_any(words: &[(&AtomicU32, u32)], timeout_ns: Option<u64>) -> Woken {
    if let [(word, expected)] = words {
        return wait(word, *expected, timeout_ns);
    }
    let bounded = timeout_ns.map_or(POLL_NS, |ns| ns.min(POLL_NS));
    let woken = match words.get(..MOST_WORDS) {
        Some(first) if first.len() < words.len() => {
            wait_vector(first, Some(bounded)).map(|woken| whose(woken, bounded, timeout_ns))
        }
        _ => wait_vector(words, timeout_ns),
    };
    woken.unwrap_or_else(|| match words.first() {
        Some((word, expected)) => whose(wait(word, *expected, Some(bounded)), bounded, timeout_ns),
        None => Woken::Look,
    })
}

/// The end of a sleep that was cut short is no time-out.
#[cfg(not(all(test, loom)))]
fn whose(woken: Woken, slept_ns: u64, timeout_ns: Option<u64>) -> Woken {
    if timeout_ns == Some(slept_ns) { woken } else { Woken::Look }
}

/// `futex_waitv`; `None` where there is none.
#[cfg(not(all(test, loom)))]
fn wait_vector(words: &[(&AtomicU32, u32)], timeout_ns: Option<u64>) -> Option<Woken> {
    use rustix::io::Errno;
    use rustix::thread::futex;
    let mut waits = [futex::Wait::new(); MOST_WORDS];
    for (wait, (word, expected)) in waits.iter_mut().zip(words) {
        wait.val = u64::from(*expected);
        wait.uaddr = futex::WaitPtr::new(core::ptr::from_ref(*word).cast_mut().cast());
        wait.flags = futex::WaitFlags::SIZE_U32;
    }
    let until = timeout_ns.map(|ns| {
        let at = super::clock::now_ns().saturating_add(ns).min(i64::MAX as u64);
        futex::Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as _ }
    });
    let waits = &waits[..words.len().min(MOST_WORDS)];
    match futex::waitv(waits, futex::WaitvFlags::empty(), until.as_ref(), futex::ClockId::Monotonic) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Some(Woken::Look),
        Err(Errno::TIMEDOUT) => Some(Woken::Timeout),
        // ENOSYS, or what a filter says instead.
        Err(_) => None,
    }
}

/// The modelled sleep on several words is that on the first: models watch one.
#[cfg(all(test, loom))]
pub fn wait_any(words: &[(&AtomicU32, u32)], timeout_ns: Option<u64>) -> Woken {
    wait(words[0].0, words[0].1, timeout_ns)
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
    if super::atomic::is_dead() {
        return 0;
    }
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
        if wait_vector(&[(&words[0], 0)], Some(0)).is_none() {
            return; // A kernel before 5.16.
        }
        assert_eq!(any(1, 2, 1_000_000), Woken::Timeout);
        assert_eq!(any(1, 3, u64::MAX / 4), Woken::Look);
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

    #[test]
    fn more_words_than_one_call_can_sleep_on_are_looked_at_often() {
        let words: Vec<_> = (0..MOST_WORDS as u32 + 9).map(AtomicU32::new).collect();
        let list: Vec<_> = words.iter().zip(0..).collect();
        assert_eq!(wait_any(&list, None), Woken::Look, "it comes back although nothing has changed");
        assert_eq!(wait_any(&list, Some(1000)), Woken::Timeout);
        words[3].store(0, Relaxed);
        assert_eq!(wait_any(&list, Some(u64::MAX / 4)), Woken::Look);
    }

    #[test]
    fn only_a_sleep_that_was_not_cut_short_times_out() {
        assert_eq!(whose(Woken::Timeout, 5, Some(5)), Woken::Timeout);
        assert_eq!(whose(Woken::Timeout, 5, Some(6)), Woken::Look);
        assert_eq!(whose(Woken::Timeout, 5, None), Woken::Look);
    }
}
