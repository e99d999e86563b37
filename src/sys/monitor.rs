//! Locks and a condition variable between the threads of a process: `std`'s, or loom's in a model.
//!
//! What a panic left in a lock is there for the next one who takes it: nothing that these protect is left half changed by
//! code that may panic.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

#[cfg(not(all(test, loom)))]
pub use real::{Condvar, Mutex, MutexGuard, TryLock, TryLockGuard};

#[cfg(all(test, loom))]
pub use modelled::{Condvar, Mutex, MutexGuard, TryLock, TryLockGuard};

#[cfg(not(all(test, loom)))]
mod real {
    use std::sync::{self, PoisonError, TryLockError};

    use super::{Deref, DerefMut, Duration};

    /// A lock that is waited for.
    #[derive(Debug)]
    pub struct Mutex<T>(sync::Mutex<T>);

    pub type MutexGuard<'a, T> = sync::MutexGuard<'a, T>;

    impl<T> Mutex<T> {
        pub const fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        #[inline]
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// A lock that nobody waits for: whoever does not get it at once does something else.
    #[derive(Debug)]
    pub struct TryLock<T>(sync::Mutex<T>);

    /// What is locked.
    #[derive(Debug)]
    pub struct TryLockGuard<'a, T>(sync::MutexGuard<'a, T>);

    impl<T> TryLock<T> {
        pub const fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        #[inline]
        pub fn try_lock(&self) -> Option<TryLockGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(guard) => Some(TryLockGuard(guard)),
                Err(TryLockError::Poisoned(guard)) => Some(TryLockGuard(guard.into_inner())),
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }

    impl<T> Deref for TryLockGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> DerefMut for TryLockGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.0
        }
    }

    /// What threads sleep on that hold a [`Mutex`]. They may wake for no reason.
    #[derive(Debug)]
    pub struct Condvar(sync::Condvar);

    impl Condvar {
        pub const fn new() -> Self {
            Self(sync::Condvar::new())
        }

        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }

        /// As [`wait`](Self::wait), for so long at most.
        pub fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> MutexGuard<'a, T> {
            self.0.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
        }

        #[inline]
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

#[cfg(all(test, loom))]
mod modelled {
    use super::super::atomic::{AtomicU32, Ordering};
    use super::super::clock;
    use super::{Deref, DerefMut, Duration};

    /// A lock that is waited for. Under loom it also orders all that is before it and after it, as `fence(SeqCst)` would.
    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    /// What is locked.
    #[derive(Debug)]
    pub struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        guard: loom::sync::MutexGuard<'a, T>,
    }

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: self, guard: self.0.lock().unwrap() }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.guard
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.guard
        }
    }

    /// A lock that nobody waits for, with no more order than `std`'s promises: loom's mutex would hide that a fence is
    /// missing.
    #[derive(Debug)]
    pub struct TryLock<T> {
        taken: AtomicU32,
        value: std::sync::Mutex<T>,
    }

    /// What is locked.
    #[derive(Debug)]
    pub struct TryLockGuard<'a, T> {
        taken: &'a AtomicU32,
        /// Nobody else has it, or is about to.
        guard: Option<std::sync::MutexGuard<'a, T>>,
    }

    impl<T> TryLock<T> {
        pub fn new(value: T) -> Self {
            Self { taken: AtomicU32::new(0), value: std::sync::Mutex::new(value) }
        }

        pub fn try_lock(&self) -> Option<TryLockGuard<'_, T>> {
            self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
            Some(TryLockGuard { taken: &self.taken, guard: Some(self.value.try_lock().unwrap()) })
        }
    }

    impl<T> Drop for TryLockGuard<'_, T> {
        fn drop(&mut self) {
            self.guard = None;
            // A model that has failed is at its end.
            if !std::thread::panicking() {
                self.taken.store(0, Ordering::Release);
            }
        }
    }

    impl<T> Deref for TryLockGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.guard.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for TryLockGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.guard.as_mut().unwrap()
        }
    }

    /// What threads sleep on that hold a [`Mutex`]. A time-out comes where the model says so, and at once if it is zero.
    #[derive(Debug)]
    pub struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub fn wait<'a, T>(&self, MutexGuard { mutex, guard }: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            MutexGuard { mutex, guard: self.0.wait(guard).unwrap() }
        }

        pub fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> MutexGuard<'a, T> {
            let (mutex, mut held) = (guard.mutex, Some(guard));
            if !timeout.is_zero() && clock::sleep(|| held = held.take().map(|guard| self.wait(guard))) {
                return held.unwrap();
            }
            // Others come in before it goes on.
            drop(held);
            mutex.lock()
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}
