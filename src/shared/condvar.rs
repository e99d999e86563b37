//! Waiting, with a lock given up, until somebody says that something has changed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::mutex::LockError;
use super::{handle, made_of_zeros};
use crate::error::Error;
use crate::segment::{KINDS, Kind, Object, Pinned, View};
use crate::sync::{CondvarWords, LANE_SLOTS, LANE_WORDS, Pace, WaitBlock};
use crate::sys::atomic::Ordering::Acquire;
use crate::sys::atomic::{AtomicU32, AtomicU64};
use crate::sys::clock::Deadline;

/// Where the bits of the waiting are, then those of all inside, then what they sleep on.
const WAITING_AT: usize = 64;
const INSIDE_AT: usize = WAITING_AT + LANE_WORDS * 8;
const SLOTS_AT: usize = INSIDE_AT + LANE_WORDS * 8;
const BYTES: usize = SLOTS_AT + LANE_SLOTS * 4;

fn words<'a>(view: &View<'a>) -> CondvarWords<'a> {
    CondvarWords {
        turn: view.block(0),
        waiting: view.blocks(WAITING_AT, LANE_WORDS),
        inside: view.blocks(INSIDE_AT, LANE_WORDS),
        slots: view.blocks(SLOTS_AT, LANE_SLOTS),
    }
}

#[linkme::distributed_slice(KINDS)]
static CONDVAR: Kind = Kind {
    recover: |view: &View<'_>, dead| {
        words(view).recover(dead);
        Ok(())
    },
    describe: |view: &View<'_>| format!("{} waiting", words(view).waiters()),
    least: BYTES,
    ..Kind::plain("condvar", 23)
};

/// Only this crate's guards can be given up and retaken.
pub trait Sealed {}

/// A guard that a [`Condvar`] can give up while it waits: [`MutexGuard`](crate::MutexGuard),
/// [`RLockGuard`](crate::RLockGuard), and the guard of a value or an array.
pub trait WaitGuard: Sealed + Sized {
    /// What the guard guards.
    type Value;
    /// What is needed to have it again.
    #[doc(hidden)]
    type Saved;
    /// Gives the lock up, all levels of it.
    #[doc(hidden)]
    fn release(self) -> Self::Saved;
    /// Takes the lock again, all levels of it.
    #[doc(hidden)]
    fn retake(saved: Self::Saved) -> Result<Self, LockError<Self>>;
    /// The guarded value.
    #[doc(hidden)]
    fn value(&self) -> &Self::Value;
}

/// A condition variable: threads of any process wait on it, with a lock given up, until one of any process notifies them.
///
/// Its methods take the guard of a [`Mutex`](crate::Mutex) or an [`RLock`](crate::RLock) and give it back; of an `RLock`
/// all levels are given up and taken again. A wait may end for no reason, as std's: look again, or use
/// [`wait_for`](Self::wait_for). [`notify`](Self::notify) never blocks, and goes to those who wait at that moment.
///
/// # If a peer dies
/// A notification that went to a process which died before it was back from its wait is not lost: everybody is woken.
/// They are also woken, once, when any process dies that has the condition variable open: it may have been about to
/// notify them. The retaken lock tells, as ever, if one died with *it*.
///
/// Python: `Condition`. Notifying without the lock is allowed, as in std.
///
/// ```
/// use kinfolk::{Condvar, Mutex, Process};
///
/// let (count, changed) = (Mutex::new(0u32)?, Condvar::new()?);
/// let add = |(count, changed): (Mutex<u32>, Condvar)| {
///     *count.lock().unwrap() += 1;
///     changed.notify_one();
/// };
/// let child = Process::spawn(add, (count.clone(), changed.clone()))?;
/// let count = changed.wait_for(count.lock().unwrap(), |count| *count > 0).unwrap();
/// assert_eq!(*count, 1);
/// # child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Condition")]
#[derive(Clone)]
pub struct Condvar {
    inner: Arc<Inner>,
}

struct Inner {
    object: Object,
    turn: Pinned<AtomicU32>,
    waiting: Pinned<AtomicU64>,
    inside: Pinned<AtomicU64>,
    slots: Pinned<WaitBlock>,
    pace: Pace,
}

made_of_zeros!(Condvar, CONDVAR, BYTES, "a condition variable");
handle!(Condvar, CONDVAR, "a condition variable");

impl Condvar {
    fn from_object(object: Object) -> Result<Self, Error> {
        if object.len() != BYTES {
            return Err(Error::corrupt("condvar", "size", object.len(), BYTES));
        }
        let inner = Inner {
            turn: Pinned::new(&object, 0, 1),
            waiting: Pinned::new(&object, WAITING_AT, LANE_WORDS),
            inside: Pinned::new(&object, INSIDE_AT, LANE_WORDS),
            slots: Pinned::new(&object, SLOTS_AT, LANE_SLOTS),
            pace: Pace::default(),
            object,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn object(&self) -> &Object {
        &self.inner.object
    }

    fn words(&self) -> CondvarWords<'_> {
        let Inner { turn, waiting, inside, slots, .. } = &*self.inner;
        CondvarWords { turn: &turn[0], waiting, inside, slots }
    }

    /// Gives the lock up and waits for a notification, then takes the lock again. May end for no reason.
    ///
    /// # Errors
    /// As [`Mutex::lock`](crate::Mutex::lock); with [`LockError::Failed`] the lock is not held any more. Python: `wait()`.
    pub fn wait<G: WaitGuard>(&self, guard: G) -> Result<G, LockError<G>> {
        first(self.wait_by(guard, Deadline::NEVER))
    }

    /// Waits as [`wait`](Self::wait) does, at most `timeout` (the lock may take longer); whether it ended before the time-out.
    ///
    /// # Errors
    /// As [`wait`](Self::wait). Python: `wait(t)`.
    pub fn wait_timeout<G: WaitGuard>(&self, guard: G, timeout: Duration) -> Result<(G, bool), LockError<(G, bool)>> {
        self.wait_by(guard, Deadline::after(timeout))
    }

    /// Waits until `holds` says yes of the guarded value; it is asked with the lock held, the first time at once.
    ///
    /// # Errors
    /// As [`wait`](Self::wait). Python: `wait_for(predicate)`.
    pub fn wait_for<G: WaitGuard>(&self, guard: G, holds: impl FnMut(&G::Value) -> bool) -> Result<G, LockError<G>> {
        first(self.wait_for_by(guard, holds, Deadline::NEVER))
    }

    /// Waits as [`wait_for`](Self::wait_for) does, at most `timeout`; what `holds` said last.
    ///
    /// # Errors
    /// As [`wait`](Self::wait). Python: `wait_for(predicate, t)`.
    pub fn wait_for_timeout<G: WaitGuard>(
        &self,
        guard: G,
        holds: impl FnMut(&G::Value) -> bool,
        timeout: Duration,
    ) -> Result<(G, bool), LockError<(G, bool)>> {
        self.wait_for_by(guard, holds, Deadline::after(timeout))
    }

    /// Waits while `holds` says yes: std's name for the opposite of [`wait_for`](Self::wait_for).
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_while<G: WaitGuard>(
        &self,
        guard: G,
        mut holds: impl FnMut(&G::Value) -> bool,
    ) -> Result<G, LockError<G>> {
        self.wait_for(guard, |value| !holds(value))
    }

    fn wait_for_by<G: WaitGuard>(
        &self,
        guard: G,
        mut holds: impl FnMut(&G::Value) -> bool,
        deadline: Deadline,
    ) -> Result<(G, bool), LockError<(G, bool)>> {
        let mut guard = guard;
        loop {
            if holds(guard.value()) {
                return Ok((guard, true));
            }
            if deadline.passed() {
                return Ok((guard, false));
            }
            guard = self.wait_by(guard, deadline)?.0;
        }
    }

    fn wait_by<G: WaitGuard>(&self, guard: G, deadline: Deadline) -> Result<(G, bool), LockError<(G, bool)>> {
        let object = &self.inner.object;
        let lane = object.segment().lane().map_err(LockError::Failed)?;
        let words = self.words();
        let deaths = || object.entry().deaths.load(Acquire);
        let before = deaths();
        words.enter(lane);
        let saved = guard.release();
        let slept = words.sleep(
            lane,
            &self.inner.pace,
            object.segment(),
            deadline,
            || deaths() != before,
            || {
                object.bury_openers();
            },
        );
        let notified = words.stop(lane) || slept.is_ok();
        let retaken = G::retake(saved);
        words.leave(lane);
        match retaken {
            Ok(guard) => Ok((guard, notified)),
            Err(LockError::OwnerDied(guard)) => Err(LockError::OwnerDied((guard, notified))),
            Err(LockError::WouldBlock) => Err(LockError::WouldBlock),
            Err(LockError::Timeout(holder)) => Err(LockError::Timeout(holder)),
            Err(LockError::Failed(e)) => Err(LockError::Failed(e)),
        }
    }

    /// Notifies up to `most` of those who wait; how many it were. Never blocks. Python: `notify(n)`.
    pub fn notify(&self, most: usize) -> usize {
        self.words().notify(most, self.inner.object.segment())
    }

    /// Notifies one of those who wait, if anybody does. Never blocks. Python: `notify()`.
    pub fn notify_one(&self) -> bool {
        self.notify(1) == 1
    }

    /// Notifies all who wait; how many it were. Never blocks. Python: `notify_all()`.
    pub fn notify_all(&self) -> usize {
        self.notify(usize::MAX)
    }

    /// How many threads wait and have not been notified, at this moment.
    pub fn waiters(&self) -> usize {
        self.words().waiters()
    }
}

/// The guard alone.
fn first<G>(result: Result<(G, bool), LockError<(G, bool)>>) -> Result<G, LockError<G>> {
    match result {
        Ok((guard, _)) => Ok(guard),
        Err(LockError::OwnerDied((guard, _))) => Err(LockError::OwnerDied(guard)),
        Err(LockError::WouldBlock) => Err(LockError::WouldBlock),
        Err(LockError::Timeout(holder)) => Err(LockError::Timeout(holder)),
        Err(LockError::Failed(e)) => Err(LockError::Failed(e)),
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Condvar({} waiting)", self.waiters())
    }
}
