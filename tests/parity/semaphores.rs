//! `_TestSemaphore`.

use std::time::{Duration, Instant};

use kinfolk::{BoundedSemaphore, OverRelease, Semaphore, WaitError};

/// Takes two permits and gives them back, counting as Python does.
fn two_down_and_two_up(semaphore: &Semaphore) {
    assert_eq!(semaphore.value(), 2);
    semaphore.acquire().unwrap().forget();
    assert_eq!(semaphore.value(), 1);
    semaphore.acquire().unwrap().forget();
    assert_eq!(semaphore.value(), 0);
    assert!(matches!(semaphore.try_acquire(), Err(WaitError::WouldBlock)));
    semaphore.release().unwrap();
    assert_eq!(semaphore.value(), 1);
    semaphore.release().unwrap();
    assert_eq!(semaphore.value(), 2);
}

#[test]
fn a_semaphore_counts_and_may_rise_above_its_start() {
    let semaphore = Semaphore::new(2).unwrap();
    two_down_and_two_up(&semaphore);
    semaphore.release().unwrap();
    semaphore.release().unwrap();
    assert_eq!(semaphore.value(), 4);
}

#[test]
fn a_bounded_semaphore_refuses_to_rise_above_its_start() {
    let semaphore = BoundedSemaphore::new(2).unwrap();
    two_down_and_two_up(&semaphore);
    assert_eq!(semaphore.release(), Err(OverRelease));
    assert_eq!(semaphore.value(), 2);
}

#[test]
fn an_acquire_that_may_not_wait_or_not_for_long_ends_in_time() {
    let semaphore = Semaphore::new(0).unwrap();
    assert!(matches!(semaphore.try_acquire(), Err(WaitError::WouldBlock)));
    for ms in [0, 20, 100] {
        let (begin, timeout) = (Instant::now(), Duration::from_millis(ms));
        assert!(matches!(semaphore.acquire_timeout(timeout), Err(WaitError::Timeout(None))));
        assert!(begin.elapsed() >= timeout);
    }
}
