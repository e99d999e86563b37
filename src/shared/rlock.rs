//! The lock that its owner may take again.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::condvar::{Sealed, WaitGuard};
use super::mutex::LockError;
use super::{handle, made_of_zeros, owner_name};
use crate::error::Error;
use crate::segment::{Holder, KINDS, Kind, Losses, Object, Pinned};
use crate::sync::{Lane, Levels, Locked, NOBODY, RLockBlock};
use crate::sys::clock::Deadline;

#[linkme::distributed_slice(KINDS)]
static RLOCK: Kind = Kind {
    code: 20,
    name: "rlock",
    least: size_of::<RLockBlock>(),
    count: |view, dead| {
        let held = view.block::<RLockBlock>(0).lock_word().held_by(dead);
        Ok(Losses { locks: u32::from(held), ..Losses::default() })
    },
    recover: |view, dead| {
        view.block::<RLockBlock>(0).recover(dead);
        Ok(())
    },
    linked: |_, _| Ok(()),
    handles: |_, _| Ok(()),
    describe: |view| {
        let block = view.block::<RLockBlock>(0);
        match block.lock_word().holder() {
            NOBODY => "free".into(),
            lane => format!("held by lane {lane}, depth {}", block.depth()),
        }
    },
};

/// Mutual exclusion between all processes and threads that have a handle; the thread that has it may take it again.
///
/// The lock is free again when as many guards are dropped as were got.
///
/// # If a peer dies
/// As with [`Mutex`](crate::Mutex): the next locker has the lock and is told by [`LockError::OwnerDied`], as is every one
/// after it until one calls [`mark_consistent`](RLockGuard::mark_consistent). A holder that is only stopped keeps it.
///
/// Python: `RLock`. That only the owner releases it is the type system's work.
///
/// ```
/// let lock = kinfolk::RLock::new()?;
/// let outer = lock.lock().unwrap();
/// let inner = lock.lock().unwrap();
/// assert_eq!(lock.depth(), 2);
/// # drop((outer, inner));
/// # Ok::<(), kinfolk::Error>(())
/// ```
#[doc(alias = "ReentrantLock")]
pub struct RLock {
    object: Object,
    block: Pinned<RLockBlock>,
}

made_of_zeros!(RLock, RLOCK, size_of::<RLockBlock>(), "a free lock");
handle!(RLock, RLOCK, "an RLock");

impl RLock {
    fn from_object(object: Object) -> Result<Self, Error> {
        if object.len() < size_of::<RLockBlock>() {
            return Err(Error::corrupt("rlock", "size", object.len(), size_of::<RLockBlock>()));
        }
        let block = Pinned::new(&object, 0, 1);
        Ok(Self { object, block })
    }

    fn object(&self) -> &Object {
        &self.object
    }

    /// Takes the lock, waiting for it, or takes it once more.
    ///
    /// # Errors
    /// [`LockError::OwnerDied`] with the lock held, [`LockError::Failed`]. Python: `acquire()`.
    #[doc(alias = "acquire")]
    pub fn lock(&self) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        self.lock_by(Deadline::NEVER)
    }

    /// Takes the lock if it is free or the calling thread's own. Never blocks.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockError::WouldBlock`]. Python: `acquire(block=False)`.
    pub fn try_lock(&self) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        let locked = self.block[0].try_lock(self.lane()?);
        self.guard(locked.ok_or(LockError::WouldBlock)?)
    }

    /// Takes the lock, waiting for it at most `timeout`.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`LockError::Timeout`] with the holder's name. Python: `acquire(timeout=t)`.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        self.lock_by(Deadline::after(timeout))
    }

    fn lock_by(&self, deadline: Deadline) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        match self.block[0].lock(self.lane()?, self.object.segment(), deadline) {
            Ok(locked) => self.guard(locked),
            Err(_) => Err(LockError::Timeout(self.holder())),
        }
    }

    fn lane<G>(&self) -> Result<Lane, LockError<G>> {
        self.object.segment().lane().map_err(LockError::Failed)
    }

    fn guard(&self, locked: Locked) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        let guard = RLockGuard { lock: self, thread: PhantomData };
        if locked == Locked::Clean { Ok(guard) } else { Err(LockError::OwnerDied(guard)) }
    }

    /// Who holds the lock at this moment. Python: `locked()`, and the name in `repr`.
    #[doc(alias = "locked")]
    pub fn holder(&self) -> Option<Holder> {
        self.object.segment().lane_holder(self.block[0].lock_word().holder())
    }

    /// How often its holder has it, at this moment; 0 if it is free.
    #[doc(alias = "count")]
    pub fn depth(&self) -> u32 {
        if self.block[0].lock_word().holder() == NOBODY { 0 } else { self.block[0].depth() }
    }
}

/// The lock, held; one level is given back on drop. Not `Send`: a lock belongs to the thread that took it.
#[must_use = "the lock is given back when the guard is dropped"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    thread: PhantomData<*const ()>,
}

impl RLockGuard<'_> {
    /// Declares what the lock protects right again after [`LockError::OwnerDied`]: later lockers are not told any more.
    pub fn mark_consistent(&mut self) {
        self.lock.block[0].mark_consistent();
    }
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        self.lock.block[0].unlock();
    }
}

impl Sealed for RLockGuard<'_> {}

impl<'a> WaitGuard for RLockGuard<'a> {
    type Value = ();
    type Saved = (&'a RLock, Levels);

    fn release(self) -> Self::Saved {
        let lock = self.lock;
        // All levels go, this guard's among them.
        std::mem::forget(self);
        (lock, lock.block[0].release())
    }

    fn retake((lock, levels): Self::Saved) -> Result<Self, LockError<Self>> {
        let lane = lock.lane()?;
        let locked = lock.block[0].retake(levels, lane, lock.object.segment(), Deadline::NEVER);
        lock.guard(locked.unwrap_or_else(|_| unreachable!("a deadline that never comes")))
    }

    fn value(&self) -> &() {
        &()
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RLockGuard(depth {})", self.lock.depth())
    }
}

impl Clone for RLock {
    fn clone(&self) -> Self {
        Self { object: self.object.clone(), block: Pinned::new(&self.object, 0, 1) }
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = owner_name(&self.object, self.block[0].lock_word().holder());
        write!(f, "RLock(held by {holder}, depth {})", self.depth())
    }
}
