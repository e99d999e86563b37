//! raw_sync's lock: a process-shared pthread mutex that lies in shared words.
//!
//! raw_sync makes the mutex, finds it and locks it. What it does wrongly or too openly is done here on the same mutex,
//! which it hands out ([`LockImpl::as_raw`]): waiting until a deadline, by the monotonic clock (raw_sync adds a duration
//! to the time of day without carrying the nanoseconds, so the C library refuses most of them), and looking without
//! waiting. Releasing, which anybody can do with raw_sync's, is private: a [`PthreadGuard`] does it.

use std::io;
use std::marker::PhantomData;

use raw_sync::locks::{LockImpl, LockInit, Mutex};

use super::atomic::AtomicU64;
use super::clock::{Deadline, now_ns};

/// Words that a mutex is given. No C library's is larger on a 64-bit system.
pub const WORDS: usize = 8;

const _: () = assert!(size_of::<libc::pthread_mutex_t>() <= WORDS * size_of::<AtomicU64>());
const _: () = assert!(align_of::<libc::pthread_mutex_t>() <= align_of::<AtomicU64>());

/// A handle of a mutex in shared words.
pub struct PthreadMutex(Box<dyn LockImpl>);

// SAFETY: the box holds the address of a process-shared mutex, which any thread may use at any time, and raw_sync's
// address of data, which is null and never followed.
unsafe impl Send for PthreadMutex {}
// SAFETY: as above.
unsafe impl Sync for PthreadMutex {}

impl PthreadMutex {
    /// Makes a free mutex.
    ///
    /// # Safety
    /// Nobody else uses the words yet.
    pub unsafe fn init(words: &[AtomicU64; WORDS]) -> io::Result<()> {
        // SAFETY: the words are writable, aligned, and as long as a mutex (see the assertions), so raw_sync adds no
        // padding; nobody else uses them (the caller's promise). Atomics may be written through a shared reference.
        unsafe { Mutex::new(address(words), std::ptr::null_mut()) }.map(drop).map_err(other)
    }

    /// The mutex in `words`.
    ///
    /// # Safety
    /// [`init`](Self::init) was called on the words, with the same C library; since then they were changed by locking
    /// and unlocking only; and they stay mapped as long as the handle.
    pub unsafe fn at(words: &[AtomicU64; WORDS]) -> io::Result<Self> {
        // SAFETY: a mutex lies at the words (the caller's promise).
        unsafe { Mutex::from_existing(address(words), std::ptr::null_mut()) }
            .map(|(mutex, _)| Self(mutex))
            .map_err(other)
    }

    /// Takes the mutex, waiting for it.
    pub fn lock(&self) -> io::Result<PthreadGuard<'_>> {
        // raw_sync's guard would release it too.
        std::mem::forget(self.0.lock().map_err(other)?);
        Ok(PthreadGuard { mutex: self, thread: PhantomData })
    }

    /// Takes the mutex if it is free.
    pub fn try_lock(&self) -> io::Result<Option<PthreadGuard<'_>>> {
        // SAFETY: a mutex lies there, by construction.
        self.taken(unsafe { libc::pthread_mutex_trylock(self.raw()) })
    }

    /// Takes the mutex, waiting for it until `deadline`.
    pub fn lock_until(&self, deadline: Deadline) -> io::Result<Option<PthreadGuard<'_>>> {
        match deadline.left_ns() {
            None => self.lock().map(Some),
            // SAFETY: a mutex lies there, by construction.
            Some(left) => self.taken(unsafe { timed_lock(self.raw(), left) }),
        }
    }

    fn raw(&self) -> *mut libc::pthread_mutex_t {
        self.0.as_raw().cast()
    }

    fn taken(&self, code: libc::c_int) -> io::Result<Option<PthreadGuard<'_>>> {
        match code {
            0 => Ok(Some(PthreadGuard { mutex: self, thread: PhantomData })),
            libc::EBUSY | libc::ETIMEDOUT => Ok(None),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The mutex, held by the thread that has the guard; dropping it is the only way to release.
#[must_use = "the mutex is released when the guard is dropped"]
pub struct PthreadGuard<'a> {
    mutex: &'a PthreadMutex,
    thread: PhantomData<*const ()>,
}

impl Drop for PthreadGuard<'_> {
    fn drop(&mut self) {
        self.mutex.0.release().expect("release a mutex that this thread holds");
    }
}

fn address(words: &[AtomicU64; WORDS]) -> *mut u8 {
    words[0].as_ptr().cast()
}

fn other(e: Box<dyn std::error::Error>) -> io::Error {
    io::Error::other(e.to_string())
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as _, tv_nsec: (ns % 1_000_000_000) as _ }
}

/// Waits for a mutex at most `left_ns`.
///
/// # Safety
/// `mutex` is one.
#[cfg(target_env = "gnu")]
unsafe fn timed_lock(mutex: *mut libc::pthread_mutex_t, left_ns: u64) -> libc::c_int {
    unsafe extern "C" {
        /// glibc 2.30 and later; the libc crate does not have it.
        fn pthread_mutex_clocklock(
            mutex: *mut libc::pthread_mutex_t,
            clock: libc::clockid_t,
            until: *const libc::timespec,
        ) -> libc::c_int;
    }
    let until = timespec(now_ns().saturating_add(left_ns));
    // SAFETY: a mutex (the caller's promise), a clock that exists, and a time on it.
    unsafe { pthread_mutex_clocklock(mutex, libc::CLOCK_MONOTONIC, &until) }
}

/// Waits for a mutex at most `left_ns`, by the time of day: this C library has no other clock for it, so the wait
/// changes its length when somebody sets the clock.
///
/// # Safety
/// `mutex` is one.
#[cfg(not(target_env = "gnu"))]
unsafe fn timed_lock(mutex: *mut libc::pthread_mutex_t, left_ns: u64) -> libc::c_int {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let until = (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64);
    let until = timespec(until.saturating_add(left_ns));
    // SAFETY: a mutex (the caller's promise), and a time of day.
    unsafe { libc::pthread_mutex_timedlock(mutex, &until) }
}
