//! One face for two locks without data: ours, and raw_sync's pthread mutex in the same shared memory.
//!
//! | | [`Lock`] | [`RawSyncLock`] |
//! |---|---|---|
//! | a holder is killed | the next locker has the lock and is told | everybody waits for ever, or until the time-out |
//! | who releases | the guard | the guard |
//! | a time-out names the holder | yes | no |
//! | passed to children | as a handle | by its [`id`](RawSyncLock::id), opened with a promise |
//!
//! Use [`Lock`]. The other is there to compare with, and for code that has to wait on a pthread mutex.

use std::fmt;
use std::time::Duration;

use super::mutex::{Lock, LockError, MutexGuard};
use crate::error::Error;
use crate::segment::{KINDS, Kind, Object, ObjectId, Pinned, Segment, View, type_hash};
use crate::sys::atomic::AtomicU64;
use crate::sys::clock::Deadline;
use crate::sys::pthread::{PthreadGuard, PthreadMutex, WORDS};

#[linkme::distributed_slice(KINDS)]
static PTHREAD_MUTEX: Kind = Kind::plain("pthread mutex", 100);

/// What a lock call gives: the guard, or why there is none, or the guard with news.
pub type LockResult<G> = Result<G, LockError<G>>;

/// A lock in shared memory that all threads of all processes with a handle can take, and that only its guard releases.
///
/// ```
/// use kinfolk::{Lock, Mutex, RawLock};
///
/// fn twice(lock: &impl RawLock) {
///     let held = lock.lock().unwrap();
///     assert!(lock.try_lock().is_err());
///     drop(held);
///     assert!(lock.try_lock().is_ok());
/// }
/// twice(&Lock::new(())?);
/// # Ok::<(), kinfolk::Error>(())
/// ```
///
/// A lock that somebody else holds cannot be released:
///
/// ```compile_fail,E0599
/// fn steal(lock: &impl kinfolk::RawLock) {
///     lock.release();
/// }
/// ```
///
/// and what a thread holds, another cannot release for it:
///
/// ```compile_fail,E0277
/// let lock = kinfolk::Lock::new(()).unwrap();
/// let held = kinfolk::RawLock::lock(&lock).unwrap();
/// std::thread::scope(|scope| scope.spawn(move || drop(held)).join().unwrap());
/// ```
pub trait RawLock {
    /// The lock, held; it is released on drop.
    type Guard<'a>
    where
        Self: 'a;

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// [`LockError::OwnerDied`] with the lock held, where the lock survives a death; [`LockError::Failed`].
    fn lock(&self) -> LockResult<Self::Guard<'_>>;

    /// Takes the lock if it is free. Never blocks.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockError::WouldBlock`].
    fn try_lock(&self) -> LockResult<Self::Guard<'_>>;

    /// Takes the lock, waiting for it at most `timeout`.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockError::Timeout`].
    fn lock_timeout(&self, timeout: Duration) -> LockResult<Self::Guard<'_>>;
}

impl RawLock for Lock {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn lock(&self) -> LockResult<Self::Guard<'_>> {
        self.lock()
    }

    fn try_lock(&self) -> LockResult<Self::Guard<'_>> {
        self.try_lock()
    }

    fn lock_timeout(&self, timeout: Duration) -> LockResult<Self::Guard<'_>> {
        self.lock_timeout(timeout)
    }
}

/// raw_sync's lock, a process-shared pthread mutex, in a segment. Not crash-safe.
///
/// Timed locks wait by the monotonic clock (by the time of day where the C library has nothing else), and work for every
/// duration. A thread that locks what it holds already waits for itself.
///
/// # If a peer dies
/// A lock whose holder died is never free again. [`lock_timeout`](RawLock::lock_timeout) gives up on it in time,
/// [`lock`](RawLock::lock) never returns.
///
/// ```
/// use kinfolk::{RawLock, RawSyncLock, Segment};
///
/// // SAFETY: this process is the only one of its family.
/// let lock = unsafe { RawSyncLock::new_in(&Segment::family()?)? };
/// let held = lock.lock().unwrap();
/// assert!(lock.try_lock().is_err());
/// drop(held);
/// # Ok::<(), kinfolk::Error>(())
/// ```
pub struct RawSyncLock {
    mutex: PthreadMutex,
    object: Object,
    _words: Pinned<AtomicU64>,
}

impl RawSyncLock {
    /// Makes a lock in a segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    ///
    /// # Safety
    /// The C library believes what it finds in a mutex. So every process that has the segment, as long as the lock is
    /// used, writes to it through this library only, and those that open the lock run the same C library.
    pub unsafe fn new_in(segment: &Segment) -> Result<Self, Error> {
        let bytes = WORDS * size_of::<AtomicU64>();
        let hash = type_hash::<PthreadMutex>();
        let made = Object::create(segment, &PTHREAD_MUTEX, hash, bytes, &[0], |view| {
            // SAFETY: the object is being made; nobody else can reach it.
            unsafe { PthreadMutex::init(words(view)) }.map_err(|e| Error::os("make a pthread mutex", e))
        });
        let object = made?.pop().expect("one role, one handle");
        // SAFETY: the caller's promise.
        unsafe { Self::from_object(object) }
    }

    /// Opens a lock by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is no such lock, [`Gone`](crate::ErrorKind::Gone) if it
    /// exists no more: it does as long as one process has it open.
    ///
    /// # Safety
    /// As for [`new_in`](Self::new_in).
    pub unsafe fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        let object = Object::open(segment, id, 0, &PTHREAD_MUTEX, type_hash::<PthreadMutex>())?;
        // SAFETY: the caller's promise.
        unsafe { Self::from_object(object) }
    }

    /// # Safety
    /// As for [`new_in`](Self::new_in).
    unsafe fn from_object(object: Object) -> Result<Self, Error> {
        let wanted = WORDS * size_of::<AtomicU64>();
        if object.len() != wanted {
            return Err(Error::corrupt("pthread mutex", "size", object.len(), wanted));
        }
        let _words = Pinned::new(&object, 0, WORDS);
        // SAFETY: `new_in` made a mutex there, which only this library changed (the caller's promise); the words are
        // pinned beside it.
        let mutex = unsafe { PthreadMutex::at(words(&object.view())) };
        let mutex = mutex.map_err(|e| Error::os("open a pthread mutex", e))?;
        Ok(Self { mutex, object, _words })
    }

    /// Number of the lock in its segment.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }
}

fn words<'a>(view: &View<'a>) -> &'a [AtomicU64; WORDS] {
    view.blocks(0, WORDS).try_into().expect("as many as were asked for")
}

fn failed<G>(e: std::io::Error) -> LockError<G> {
    LockError::Failed(Error::os("lock a pthread mutex", e))
}

impl RawLock for RawSyncLock {
    type Guard<'a> = RawSyncGuard<'a>;

    fn lock(&self) -> LockResult<Self::Guard<'_>> {
        self.mutex.lock().map(RawSyncGuard).map_err(failed)
    }

    fn try_lock(&self) -> LockResult<Self::Guard<'_>> {
        self.mutex.try_lock().map_err(failed)?.map(RawSyncGuard).ok_or(LockError::WouldBlock)
    }

    fn lock_timeout(&self, timeout: Duration) -> LockResult<Self::Guard<'_>> {
        let held = self.mutex.lock_until(Deadline::after(timeout)).map_err(failed)?;
        held.map(RawSyncGuard).ok_or(LockError::Timeout(None))
    }
}

impl fmt::Debug for RawSyncLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSyncLock").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A [`RawSyncLock`], held; it is released on drop, and in no other way.
///
/// Like every guard it stays in its thread:
///
/// ```compile_fail,E0277
/// fn elsewhere<T: Send>() {}
/// elsewhere::<kinfolk::RawSyncGuard<'static>>();
/// ```
#[must_use = "the lock is released when the guard is dropped"]
pub struct RawSyncGuard<'a>(#[expect(dead_code, reason = "held for its drop")] PthreadGuard<'a>);

impl fmt::Debug for RawSyncGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawSyncGuard")
    }
}
