//! The mutex that a death cannot jam, around a value in shared memory.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytemuck::{CheckedBitPattern, NoUninit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::condvar::{Sealed, WaitGuard};
use crate::error::Error;
use crate::segment::{
    Holder, KINDS, Kind, Losses, Object, ObjectId, Pinned, PinnedBytes, Segment, ShmSlice, type_hash,
};
use crate::sync::{Lane, Locked, MutexBlock, NOBODY};
use crate::sys::clock::Deadline;

#[linkme::distributed_slice(KINDS)]
static MUTEX: Kind = Kind {
    code: 3,
    name: "mutex",
    least: VALUE_AT,
    count: |view, dead| {
        let held = view.block::<MutexBlock>(0).held_by(dead);
        Ok(Losses { locks: u32::from(held), ..Losses::default() })
    },
    recover: |view, dead| {
        view.block::<MutexBlock>(0).recover(dead);
        Ok(())
    },
    linked: |_, _| Ok(()),
    handles: |_, _| Ok(()),
    describe: |view| match view.block::<MutexBlock>(0).holder() {
        NOBODY => "free".into(),
        lane => format!("held by lane {lane}"),
    },
};

/// The value follows the lock word, so that a small one shares its cache line.
const VALUE_AT: usize = 8;

/// Mutual exclusion between all processes and threads that have a handle, around a value of plain bytes.
///
/// The guard holds a copy of the value and writes it back, if it was changed, before the lock is free again. So nobody can
/// see it half changed, unless the holder dies while it writes: then the next locker is told.
///
/// `T` is any type without pointers or padding whose bytes can be checked: integers, floats, arrays, `bool`, and structs
/// and enums that derive bytemuck's `NoUninit` and `CheckedBitPattern` (or `Pod`).
///
/// # If a peer dies
/// A lock whose holder died is freed by the next one that waits for it, and [`lock`](Self::lock) gives
/// [`LockError::OwnerDied`] with the guard inside: you hold the lock. Call [`mark_consistent`](MutexGuard::mark_consistent)
/// once the value is right again; until then every locker is told. A holder that is only stopped keeps the lock.
///
/// Python: `Lock` with the data inside. Unlike Python's, only the holder can release it; for a signal between processes
/// use a queue or a pipe.
///
/// ```
/// use kinfolk::{Mutex, Process};
///
/// let total = Mutex::new(0u64)?;
/// let add = |total: Mutex<u64>| *total.lock().unwrap() += 20;
/// let children = [Process::spawn(add, total.clone())?, Process::spawn(add, total.clone())?];
/// for child in children {
///     child.join()?;
/// }
/// assert_eq!(*total.lock().unwrap(), 40);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Mutex<T> {
    object: Object,
    word: Pinned<MutexBlock>,
    bytes: PinnedBytes,
    value: PhantomData<fn(T) -> T>,
}

/// A mutex without data. Python: `Lock`.
pub type Lock = Mutex<()>;

/// Why a lock was not got, or was got with news.
#[non_exhaustive]
pub enum LockError<G> {
    /// You have the lock, in the guard; a holder died with it, and the value may be half changed.
    OwnerDied(G),
    /// Somebody holds it.
    WouldBlock,
    /// Somebody held it until the time-out, who is named if known.
    Timeout(Option<Holder>),
    /// The segment failed: no lane for this thread, or bytes that are no value of this type.
    Failed(Error),
}

impl<G> LockError<G> {
    /// The guard, if the lock was got although its owner died.
    pub fn into_guard(self) -> Option<G> {
        match self {
            Self::OwnerDied(guard) => Some(guard),
            _ => None,
        }
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnerDied(_) => write!(f, "lock: a holder died with it, the value may be half changed"),
            Self::WouldBlock => write!(f, "lock: somebody holds it"),
            Self::Timeout(Some(holder)) => write!(f, "lock: held by {holder} until the time-out"),
            Self::Timeout(None) => write!(f, "lock: held until the time-out"),
            Self::Failed(e) => write!(f, "lock: {e}"),
        }
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockError({self})")
    }
}

impl<G> std::error::Error for LockError<G> {}

impl<T: NoUninit + CheckedBitPattern> Mutex<T> {
    /// Makes a mutex in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn new(value: T) -> Result<Self, Error> {
        Self::new_in(&Segment::family()?, value)
    }

    /// Makes a mutex in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment, value: T) -> Result<Self, Error> {
        let bytes = VALUE_AT + size_of::<T>();
        let mut made = Object::create(segment, &MUTEX, type_hash::<T>(), bytes, &[0], |view| {
            view.slice(VALUE_AT, size_of::<T>()).write(0, bytemuck::bytes_of(&value));
            Ok(())
        })?;
        Self::from_object(made.pop().expect("one role, one handle"))
    }

    /// Opens a mutex by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is no mutex around a `T`, [`Gone`](crate::ErrorKind::Gone) if it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, 0, &MUTEX, type_hash::<T>())?)
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        let wanted = VALUE_AT + size_of::<T>();
        if object.view().len() != wanted {
            return Err(Error::corrupt("mutex", "size", object.view().len(), wanted));
        }
        let word = Pinned::new(&object, 0, 1);
        let bytes = PinnedBytes::new(&object, VALUE_AT, size_of::<T>());
        Ok(Self { object, word, bytes, value: PhantomData })
    }

    /// Number of the mutex in its segment.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// [`LockError::OwnerDied`] with the lock held, [`LockError::Failed`].
    ///
    /// # Panics
    /// If the calling thread holds it already: it would wait for itself. Python: `acquire()`.
    #[doc(alias = "acquire")]
    #[inline(always)]
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        let lane = self.lane()?;
        let locked = self.word[0].try_lock(lane).unwrap_or_else(|| self.wait_for(lane));
        self.guard(locked)
    }

    #[cold]
    fn wait_for(&self, lane: Lane) -> Locked {
        assert!(self.word[0].holder() != lane, "the calling thread holds this mutex already");
        let locked = self.word[0].lock(lane, self.object.segment(), Deadline::NEVER);
        locked.unwrap_or_else(|_| unreachable!("a deadline that never comes"))
    }

    /// Takes the lock if it is free. Never blocks. Of a holder that is dead it says `WouldBlock` until somebody waits or
    /// [`Segment::sweep`] is called.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockError::WouldBlock`]. Python: `acquire(block=False)`.
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        match self.word[0].try_lock(self.lane()?) {
            Some(locked) => self.guard(locked),
            None => Err(LockError::WouldBlock),
        }
    }

    /// Takes the lock, waiting for it at most `timeout`.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockError::Timeout`] with the holder's name. Python: `acquire(timeout=t)`.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        let lane = self.lane()?;
        match self.word[0].lock(lane, self.object.segment(), Deadline::after(timeout)) {
            Ok(locked) => self.guard(locked),
            Err(_) => Err(LockError::Timeout(self.holder())),
        }
    }

    /// Who holds the lock at this moment. Python: `locked()`, and the name in `repr`.
    #[doc(alias = "locked")]
    pub fn holder(&self) -> Option<Holder> {
        self.object.segment().lane_holder(self.word[0].holder())
    }

    #[inline]
    fn lane<G>(&self) -> Result<Lane, LockError<G>> {
        self.object.segment().lane().map_err(LockError::Failed)
    }

    /// Called with the lock held.
    #[inline]
    fn guard(&self, locked: Locked) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        let consistent = locked == Locked::Clean;
        match self.read() {
            Ok(value) => {
                let guard = MutexGuard { mutex: self, value, changed: false, consistent, thread: PhantomData };
                if consistent { Ok(guard) } else { Err(LockError::OwnerDied(guard)) }
            }
            Err(e) => {
                self.word[0].unlock(consistent);
                Err(LockError::Failed(e))
            }
        }
    }

    #[inline]
    fn slice(&self) -> ShmSlice<'_> {
        self.bytes.all()
    }

    #[inline]
    fn read(&self) -> Result<T, Error> {
        let bad = || Error::corrupt("mutex", std::any::type_name::<T>(), "other bytes", "a value of the type");
        self.slice().read_checked().ok_or_else(bad)
    }
}

/// The lock, held; it is given back on drop. Not `Send`: a lock belongs to the thread that took it.
#[must_use = "the lock is given back when the guard is dropped"]
pub struct MutexGuard<'a, T: NoUninit + CheckedBitPattern> {
    mutex: &'a Mutex<T>,
    value: T,
    changed: bool,
    consistent: bool,
    thread: PhantomData<*const ()>,
}

impl<T: NoUninit + CheckedBitPattern> MutexGuard<'_, T> {
    /// Declares the value right again after [`LockError::OwnerDied`]: later lockers are not told any more.
    pub fn mark_consistent(&mut self) {
        self.consistent = true;
    }
}

impl<T: NoUninit + CheckedBitPattern> Sealed for MutexGuard<'_, T> {}

impl<'a, T: NoUninit + CheckedBitPattern> WaitGuard for MutexGuard<'a, T> {
    type Value = T;
    type Saved = &'a Mutex<T>;

    fn release(self) -> &'a Mutex<T> {
        self.mutex
    }

    fn retake(mutex: &'a Mutex<T>) -> Result<Self, LockError<Self>> {
        mutex.lock()
    }

    fn value(&self) -> &T {
        &self.value
    }
}

impl<T: NoUninit + CheckedBitPattern> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: NoUninit + CheckedBitPattern> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.changed = true;
        &mut self.value
    }
}

impl<T: NoUninit + CheckedBitPattern> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.changed {
            self.mutex.slice().write(0, bytemuck::bytes_of(&self.value));
        }
        self.mutex.word[0].unlock(self.consistent);
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: NoUninit + CheckedBitPattern> Clone for Mutex<T> {
    fn clone(&self) -> Self {
        let bytes = PinnedBytes::new(&self.object, VALUE_AT, size_of::<T>());
        Self { object: self.object.clone(), word: Pinned::new(&self.object, 0, 1), bytes, value: PhantomData }
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = self.object.segment().lane_holder(self.word[0].holder());
        let holder = holder.map_or("nobody".into(), |h| h.to_string());
        write!(f, "Mutex<{}>(held by {holder})", std::any::type_name::<T>())
    }
}

impl<T> Serialize for Mutex<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.pass(serializer)
    }
}

impl<'de, T: NoUninit + CheckedBitPattern> Deserialize<'de> for Mutex<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &MUTEX, |_| type_hash::<T>())?;
        Self::from_object(object).map_err(serde::de::Error::custom)
    }
}
