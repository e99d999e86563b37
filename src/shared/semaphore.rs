//! Counting semaphores, whose permits come back when their holder dies.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::error::WaitError;
use super::handle;
use crate::error::Error;
use crate::segment::{Holder, KINDS, Kind, Losses, Object, Pinned, Segment, View, type_hash};
use crate::sync::{LANE_SLOTS, Lane, Pace, SemaphoreBlock, SemaphoreWords, WaitBlock};
use crate::sys::atomic::AtomicU64;
use crate::sys::clock::Deadline;

/// Where the counts of the lanes are.
const HELD_AT: usize = 64;
const BYTES: usize = HELD_AT + LANE_SLOTS * 8;

fn words<'a>(view: &View<'a>, wait: &'a WaitBlock) -> SemaphoreWords<'a> {
    SemaphoreWords { block: view.block(0), held: view.blocks(HELD_AT, LANE_SLOTS), wait }
}

#[linkme::distributed_slice(KINDS)]
static SEMAPHORE: Kind = Kind {
    code: 22,
    name: "semaphore",
    least: BYTES,
    count: |view, dead| {
        let held = words(view, &WaitBlock::new()).held_by(dead);
        Ok(Losses { locks: held, ..Losses::default() })
    },
    recover: |view, dead| {
        // Nobody sleeps through this: all users of the object are woken afterwards.
        words(view, &WaitBlock::new()).recover(dead);
        Ok(())
    },
    linked: |_, _| Ok(()),
    handles: |_, _| Ok(()),
    describe: |view| format!("{} free", view.block::<SemaphoreBlock>(0).count()),
};

/// What becomes of the permits of a process that dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadHolder {
    /// They are free again: for permits that count something which ends with the process.
    #[default]
    Return,
    /// They are gone: for permits that count something which stays in use, as POSIX semaphores do.
    Leak,
}

/// A release of more than a bounded semaphore may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverRelease;

impl fmt::Display for OverRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "release semaphore: all its permits are free or held")
    }
}

impl std::error::Error for OverRelease {}

/// A number of permits for all processes and threads that have a handle.
///
/// [`acquire`](Self::acquire) gives a [`Permit`], which is returned on drop. For counting without holders, as Python's
/// semaphores count, forget the permit and [`release`](Self::release) from anywhere.
///
/// # If a peer dies
/// The permits that it held are free again (or gone, with [`DeadHolder::Leak`]), once somebody who waits finds out. None
/// is lost or invented, whatever the process was doing. Forgotten permits are nobody's, and stay taken. A holder that is
/// only stopped keeps its permits.
///
/// Python: `Semaphore`.
///
/// ```
/// let slots = kinfolk::Semaphore::new(2)?;
/// let permit = slots.acquire()?;
/// assert_eq!(slots.value(), 1);
/// drop(permit);
/// slots.acquire()?.forget();
/// slots.release()?;
/// assert_eq!(slots.value(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Semaphore {
    inner: Arc<Inner>,
}

struct Inner {
    object: Object,
    block: Pinned<SemaphoreBlock>,
    held: Pinned<AtomicU64>,
    wait: Pinned<WaitBlock>,
    pace: Pace,
}

handle!(Semaphore, SEMAPHORE, "a semaphore");

impl Semaphore {
    /// Makes a semaphore in the family's segment, with `permits` free permits.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn new(permits: u32) -> Result<Self, Error> {
        Self::new_in(&Segment::family()?, permits)
    }

    /// Makes a semaphore in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment, permits: u32) -> Result<Self, Error> {
        Self::new_with(segment, permits, DeadHolder::Return)
    }

    /// Makes a semaphore in a segment, and says what becomes of the permits of the dead.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_with(segment: &Segment, permits: u32, dead: DeadHolder) -> Result<Self, Error> {
        Self::from_object(create(segment, type_hash::<Self>(), permits, u32::MAX, dead)?)
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        if object.len() != BYTES {
            return Err(Error::corrupt("semaphore", "size", object.len(), BYTES));
        }
        let inner = Inner {
            block: Pinned::new(&object, 0, 1),
            held: Pinned::new(&object, HELD_AT, LANE_SLOTS),
            wait: Pinned::waits(&object, 0, 1),
            pace: Pace::default(),
            object,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn object(&self) -> &Object {
        &self.inner.object
    }

    #[inline]
    fn words(&self) -> SemaphoreWords<'_> {
        SemaphoreWords { block: &self.inner.block[0], held: &self.inner.held, wait: &self.inner.wait[0] }
    }

    /// Permits that are free, at this moment. Python: `get_value()`.
    #[doc(alias = "get_value")]
    #[doc(alias = "available_permits")]
    pub fn value(&self) -> u32 {
        self.inner.block[0].count()
    }

    /// Takes a permit, waiting for one.
    ///
    /// # Errors
    /// [`WaitError::Failed`]. Python: `acquire()`.
    #[inline]
    pub fn acquire(&self) -> Result<Permit<'_>, WaitError> {
        self.acquire_by(Some(Deadline::NEVER))
    }

    /// Takes a permit if one is free. Never blocks.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`WaitError::WouldBlock`]. Python: `acquire(block=False)`.
    pub fn try_acquire(&self) -> Result<Permit<'_>, WaitError> {
        self.acquire_by(None)
    }

    /// Takes a permit, waiting for one at most `timeout`.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`WaitError::Timeout`] with the name of one who holds a permit. Python:
    /// `acquire(timeout=t)`.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, WaitError> {
        self.acquire_by(Some(Deadline::after(timeout)))
    }

    #[inline]
    fn acquire_by(&self, deadline: Option<Deadline>) -> Result<Permit<'_>, WaitError> {
        let (segment, words) = (self.inner.object.segment(), self.words());
        let lane = segment.lane().map_err(WaitError::Failed)?;
        match (words.try_acquire(lane), deadline) {
            (true, _) => {}
            (false, None) => return Err(WaitError::WouldBlock),
            (false, Some(deadline)) => {
                let acquired = words.acquire(lane, &self.inner.pace, segment, deadline);
                acquired.map_err(|_| WaitError::Timeout(self.holder()))?;
            }
        }
        Ok(Permit { semaphore: self, lane, thread: PhantomData })
    }

    /// Adds a permit that nobody held: returns a forgotten one, or raises the number. Any thread of any process may.
    ///
    /// # Errors
    /// [`OverRelease`] from a [`BoundedSemaphore`] of which no permit was forgotten, and beyond four billion.
    /// Python: `release()`.
    pub fn release(&self) -> Result<(), OverRelease> {
        self.words().add(self.inner.object.segment()).map_err(|_| OverRelease)
    }

    /// One of those who hold permits at this moment.
    pub fn holder(&self) -> Option<Holder> {
        let mut holders = self.words().holders();
        holders.find_map(|lane| self.inner.object.segment().lane_holder(lane))
    }
}

fn create(segment: &Segment, type_hash: u64, permits: u32, limit: u32, dead: DeadHolder) -> Result<Object, Error> {
    let leaks = dead == DeadHolder::Leak;
    let mut made = Object::create(segment, &SEMAPHORE, type_hash, BYTES, &[0], |view| {
        view.block::<SemaphoreBlock>(0).set(permits, limit, leaks);
        Ok(())
    })?;
    Ok(made.pop().expect("one role, one handle"))
}

/// A permit, held; it is returned on drop. Not `Send`: a permit belongs to the thread that took it.
#[must_use = "the permit is returned when it is dropped"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    lane: Lane,
    thread: PhantomData<*const ()>,
}

impl Permit<'_> {
    /// Keeps the permit taken without a holder: no drop and no death returns it, a [`release`](Semaphore::release) does.
    pub fn forget(self) {
        self.semaphore.words().forget(self.lane);
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.semaphore.words().release(self.lane, self.semaphore.inner.object.segment());
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({:?})", self.semaphore)
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Semaphore(value {}", self.value())?;
        let held: Vec<String> = self
            .words()
            .holders()
            .filter_map(|l| self.object().segment().lane_holder(l))
            .map(|h| h.to_string())
            .collect();
        if held.is_empty() { write!(f, ")") } else { write!(f, ", held by {})", held.join(", ")) }
    }
}

/// A [`Semaphore`] that never has more permits than it was made with: releasing too often is an error.
///
/// Permits that are held count, so also the release of somebody else's permit is noticed, at once and not when that
/// one is returned.
///
/// Python: `BoundedSemaphore`.
///
/// ```
/// let slots = kinfolk::BoundedSemaphore::new(1)?;
/// let permit = slots.acquire()?;
/// assert!(slots.release().is_err());
/// # drop(permit);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct BoundedSemaphore(Semaphore);

handle!(BoundedSemaphore, SEMAPHORE, "a bounded semaphore");

impl BoundedSemaphore {
    /// Makes a semaphore in the family's segment, with `permits` free permits.
    ///
    /// # Errors
    /// As [`Semaphore::new`].
    pub fn new(permits: u32) -> Result<Self, Error> {
        Self::new_in(&Segment::family()?, permits)
    }

    /// Makes a semaphore in a segment.
    ///
    /// # Errors
    /// As [`Semaphore::new`].
    pub fn new_in(segment: &Segment, permits: u32) -> Result<Self, Error> {
        Self::new_with(segment, permits, DeadHolder::Return)
    }

    /// Makes a semaphore in a segment, and says what becomes of the permits of the dead.
    ///
    /// # Errors
    /// As [`Semaphore::new`].
    pub fn new_with(segment: &Segment, permits: u32, dead: DeadHolder) -> Result<Self, Error> {
        Self::from_object(create(segment, type_hash::<Self>(), permits, permits, dead)?)
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        Semaphore::from_object(object).map(Self)
    }

    fn object(&self) -> &Object {
        &self.0.inner.object
    }
}

impl Deref for BoundedSemaphore {
    type Target = Semaphore;

    fn deref(&self) -> &Semaphore {
        &self.0
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bounded{:?} of {}", self.0, self.0.inner.block[0].limit())
    }
}
