//! The lock for many readers or one writer, around a value in shared memory.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use bytemuck::{CheckedBitPattern, NoUninit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::mutex::LockError;
use super::owner_name;
use crate::error::Error;
use crate::segment::{Holder, KINDS, Kind, Losses, Object, ObjectId, Pinned, PinnedBytes, Segment, View, type_hash};
use crate::sync::{LANE_SLOTS, LANE_WORDS, Lane, Locked, MutexBlock, NOBODY, Pace, RwLockWords, WaitBlock};
use crate::sys::atomic::{AtomicU32, AtomicU64};
use crate::sys::clock::Deadline;

/// Where the readers' bits are, then their counts, then the value.
const READERS_AT: usize = 64;
const COUNTS_AT: usize = READERS_AT + LANE_WORDS * 8;
const VALUE_AT: usize = COUNTS_AT + LANE_SLOTS * 4;

#[linkme::distributed_slice(KINDS)]
static RWLOCK: Kind = Kind {
    code: 21,
    name: "rwlock",
    least: VALUE_AT,
    count: |view, dead| {
        let unused = [WaitBlock::new(), WaitBlock::new()];
        let words = words(view, &unused);
        let read = words.readers().filter(|lane| dead(*lane)).count() as u32;
        Ok(Losses { locks: u32::from(words.writer.held_by(dead)) + read, ..Losses::default() })
    },
    recover: |view, dead| {
        // Nobody sleeps through this: all users of the object are woken afterwards.
        words(view, &[WaitBlock::new(), WaitBlock::new()]).recover(dead);
        Ok(())
    },
    linked: |_, _| Ok(()),
    handles: |_, _| Ok(()),
    describe: |view| match view.block::<MutexBlock>(0).holder() {
        NOBODY => "no writer".into(),
        lane => format!("written by lane {lane}"),
    },
};

/// The lock's words, with these to sleep on.
fn words<'a>(view: &View<'a>, waits: &'a [WaitBlock; 2]) -> RwLockWords<'a> {
    RwLockWords {
        writer: view.block(0),
        readers: view.blocks(READERS_AT, LANE_WORDS),
        counts: view.blocks(COUNTS_AT, LANE_SLOTS),
        may_read: &waits[0],
        may_write: &waits[1],
    }
}

/// Many readers or one writer, of all processes and threads that have a handle, around a value of plain bytes.
///
/// The guards hold a copy of the value; a write guard writes it back when it is dropped, if it was borrowed mutably. A
/// writer waits for those who read when it comes, and nobody else gets in before it. When it is done, readers that wait
/// get in before the next writer. A thread that reads may read again; to write it has to stop reading first.
///
/// # If a peer dies
/// A dead reader does not hold anybody up. After a dead writer, the next writer *and* all readers get
/// [`LockError::OwnerDied`], with the guard inside, until a writer calls
/// [`mark_consistent`](RwLockWriteGuard::mark_consistent). A holder that is only stopped keeps the lock.
///
/// ```
/// let limits = kinfolk::RwLock::new([1u32, 10])?;
/// limits.write().unwrap()[1] = 20;
/// let (here, there) = (limits.read().unwrap(), limits.read().unwrap());
/// assert_eq!((here[1], there[1]), (20, 20));
/// # drop((here, there));
/// # Ok::<(), kinfolk::Error>(())
/// ```
pub struct RwLock<T> {
    inner: Arc<Inner>,
    value: PhantomData<fn(T) -> T>,
}

struct Inner {
    object: Object,
    writer: Pinned<MutexBlock>,
    readers: Pinned<AtomicU64>,
    counts: Pinned<AtomicU32>,
    waits: Pinned<WaitBlock>,
    bytes: PinnedBytes,
    pace: Pace,
}

impl Inner {
    #[inline]
    fn words(&self) -> RwLockWords<'_> {
        RwLockWords {
            writer: &self.writer[0],
            readers: &self.readers,
            counts: &self.counts,
            may_read: &self.waits[0],
            may_write: &self.waits[1],
        }
    }
}

impl<T: NoUninit + CheckedBitPattern> RwLock<T> {
    /// Makes a lock in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn new(value: T) -> Result<Self, Error> {
        Self::new_in(&Segment::family()?, value)
    }

    /// Makes a lock in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment, value: T) -> Result<Self, Error> {
        let bytes = VALUE_AT + size_of::<T>();
        let mut made = Object::create(segment, &RWLOCK, type_hash::<T>(), bytes, &[0], |view| {
            view.slice(VALUE_AT, size_of::<T>()).write(0, bytemuck::bytes_of(&value));
            Ok(())
        })?;
        Self::from_object(made.pop().expect("one role, one handle"))
    }

    /// Opens a lock by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is no such lock around a `T`, [`Gone`](crate::ErrorKind::Gone) if
    /// it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, 0, &RWLOCK, type_hash::<T>())?)
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        let wanted = VALUE_AT + size_of::<T>();
        if object.len() != wanted {
            return Err(Error::corrupt("rwlock", "size", object.len(), wanted));
        }
        let inner = Inner {
            writer: Pinned::new(&object, 0, 1),
            readers: Pinned::new(&object, READERS_AT, LANE_WORDS),
            counts: Pinned::new(&object, COUNTS_AT, LANE_SLOTS),
            waits: Pinned::waits(&object, 0, 2),
            bytes: PinnedBytes::new(&object, VALUE_AT, size_of::<T>()),
            pace: Pace::default(),
            object,
        };
        Ok(Self { inner: Arc::new(inner), value: PhantomData })
    }

    /// Number of the lock in its segment.
    pub fn id(&self) -> ObjectId {
        self.inner.object.id()
    }

    /// Reads, waiting for writers.
    ///
    /// # Errors
    /// [`LockError::OwnerDied`] with the lock held, [`LockError::Failed`].
    ///
    /// # Panics
    /// If the calling thread has the lock for writing: it would wait for itself.
    #[inline]
    pub fn read(&self) -> Result<RwLockReadGuard<'_, T>, LockError<RwLockReadGuard<'_, T>>> {
        self.read_by(Some(Deadline::NEVER))
    }

    /// Reads if no writer has the lock or waits for readers to go. Never blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`LockError::WouldBlock`].
    pub fn try_read(&self) -> Result<RwLockReadGuard<'_, T>, LockError<RwLockReadGuard<'_, T>>> {
        self.read_by(None)
    }

    /// Reads, waiting for writers at most `timeout`.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`LockError::Timeout`] with the writer's name.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn read_timeout(&self, timeout: Duration) -> Result<RwLockReadGuard<'_, T>, LockError<RwLockReadGuard<'_, T>>> {
        self.read_by(Some(Deadline::after(timeout)))
    }

    #[inline]
    fn read_by(&self, deadline: Option<Deadline>) -> Result<RwLockReadGuard<'_, T>, LockError<RwLockReadGuard<'_, T>>> {
        let (lane, words) = (self.lane()?, self.inner.words());
        let locked = match (words.try_read(lane, self.inner.object.segment()), deadline) {
            (Some(locked), _) => locked,
            (None, None) => return Err(LockError::WouldBlock),
            (None, Some(deadline)) => self.wait_to_read(lane, deadline).ok_or_else(|| {
                LockError::Timeout(self.inner.object.segment().lane_holder(self.inner.writer[0].holder()))
            })?,
        };
        match self.copy() {
            Ok(value) => {
                let guard = RwLockReadGuard { lock: self, value, lane, thread: PhantomData };
                if locked == Locked::Clean { Ok(guard) } else { Err(LockError::OwnerDied(guard)) }
            }
            Err(e) => {
                words.unlock_read(lane, self.inner.object.segment());
                Err(LockError::Failed(e))
            }
        }
    }

    #[cold]
    fn wait_to_read(&self, lane: Lane, deadline: Deadline) -> Option<Locked> {
        assert!(self.inner.writer[0].holder() != lane, "the calling thread has this lock for writing");
        self.inner.words().read(lane, &self.inner.pace, self.inner.object.segment(), deadline).ok()
    }

    /// Takes the lock for writing, waiting for it.
    ///
    /// # Errors
    /// [`LockError::OwnerDied`] with the lock held, [`LockError::Failed`].
    ///
    /// # Panics
    /// If the calling thread has the lock already, for reading or for writing: it would wait for itself.
    pub fn write(&self) -> Result<RwLockWriteGuard<'_, T>, LockError<RwLockWriteGuard<'_, T>>> {
        self.write_by(Deadline::NEVER)
    }

    /// Takes the lock for writing if nobody has it. Never blocks.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`LockError::WouldBlock`].
    pub fn try_write(&self) -> Result<RwLockWriteGuard<'_, T>, LockError<RwLockWriteGuard<'_, T>>> {
        let locked = self.inner.words().try_write(self.lane()?, self.inner.object.segment());
        self.written(locked.ok_or(LockError::WouldBlock)?)
    }

    /// Takes the lock for writing, waiting for it at most `timeout`.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`LockError::Timeout`] with the name of the writer, or of one of the readers.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub fn write_timeout(
        &self,
        timeout: Duration,
    ) -> Result<RwLockWriteGuard<'_, T>, LockError<RwLockWriteGuard<'_, T>>> {
        self.write_by(Deadline::after(timeout))
    }

    fn write_by(&self, deadline: Deadline) -> Result<RwLockWriteGuard<'_, T>, LockError<RwLockWriteGuard<'_, T>>> {
        let (lane, words) = (self.lane()?, self.inner.words());
        assert!(words.writer.holder() != lane, "the calling thread has this lock for writing already");
        assert!(!words.is_reading(lane), "the calling thread has this lock for reading");
        match words.write(lane, &self.inner.pace, self.inner.object.segment(), deadline) {
            Ok(locked) => self.written(locked),
            Err(_) => Err(LockError::Timeout(self.holder())),
        }
    }

    /// Called with the lock held for writing.
    fn written(&self, locked: Locked) -> Result<RwLockWriteGuard<'_, T>, LockError<RwLockWriteGuard<'_, T>>> {
        let consistent = locked == Locked::Clean;
        match self.copy() {
            Ok(value) => {
                let guard = RwLockWriteGuard { lock: self, value, changed: false, consistent, thread: PhantomData };
                if consistent { Ok(guard) } else { Err(LockError::OwnerDied(guard)) }
            }
            Err(e) => {
                self.inner.words().unlock_write(consistent, self.inner.object.segment());
                Err(LockError::Failed(e))
            }
        }
    }

    #[inline]
    fn lane<G>(&self) -> Result<Lane, LockError<G>> {
        self.inner.object.segment().lane().map_err(LockError::Failed)
    }

    #[inline]
    fn copy(&self) -> Result<T, Error> {
        let bad = || Error::corrupt("rwlock", std::any::type_name::<T>(), "other bytes", "a value of the type");
        self.inner.bytes.all().read_checked().ok_or_else(bad)
    }
}

impl<T> RwLock<T> {
    /// Who writes at this moment, or else one of those who read.
    #[doc(alias = "locked")]
    pub fn holder(&self) -> Option<Holder> {
        let (words, segment) = (self.inner.words(), self.inner.object.segment());
        segment.lane_holder(words.writer.holder()).or_else(|| segment.lane_holder(words.readers().next()?))
    }

    /// How many threads read at this moment.
    pub fn readers(&self) -> usize {
        self.inner.words().readers().count()
    }
}

/// The lock, held for reading, with a copy of the value; given back on drop. Not `Send`.
#[must_use = "the lock is given back when the guard is dropped"]
pub struct RwLockReadGuard<'a, T: NoUninit + CheckedBitPattern> {
    lock: &'a RwLock<T>,
    value: T,
    lane: Lane,
    thread: PhantomData<*const ()>,
}

impl<T: NoUninit + CheckedBitPattern> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: NoUninit + CheckedBitPattern> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let inner = &*self.lock.inner;
        inner.words().unlock_read(self.lane, inner.object.segment());
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// The lock, held for writing; given back on drop. Not `Send`.
#[must_use = "the lock is given back when the guard is dropped"]
pub struct RwLockWriteGuard<'a, T: NoUninit + CheckedBitPattern> {
    lock: &'a RwLock<T>,
    value: T,
    changed: bool,
    consistent: bool,
    thread: PhantomData<*const ()>,
}

impl<T: NoUninit + CheckedBitPattern> RwLockWriteGuard<'_, T> {
    /// Declares the value right again after [`LockError::OwnerDied`]: later readers and writers are not told any more.
    pub fn mark_consistent(&mut self) {
        self.consistent = true;
    }
}

impl<T: NoUninit + CheckedBitPattern> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: NoUninit + CheckedBitPattern> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.changed = true;
        &mut self.value
    }
}

impl<T: NoUninit + CheckedBitPattern> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        let inner = &*self.lock.inner;
        if self.changed {
            inner.bytes.all().write(0, bytemuck::bytes_of(&self.value));
        }
        inner.words().unlock_write(self.consistent, inner.object.segment());
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> Clone for RwLock<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writer = owner_name(&self.inner.object, self.inner.writer[0].holder());
        write!(f, "RwLock<{}>(written by {writer}, {} readers)", std::any::type_name::<T>(), self.readers())
    }
}

impl<T> Serialize for RwLock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.object.pass(serializer)
    }
}

impl<'de, T: NoUninit + CheckedBitPattern> Deserialize<'de> for RwLock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &RWLOCK, |_| type_hash::<T>())?;
        Self::from_object(object).map_err(serde::de::Error::custom)
    }
}
