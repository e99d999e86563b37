//! The lock that goes with a value or an array, for those who ask for it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use super::cells::Memory;
use super::condvar::{Sealed, WaitGuard};
use super::mutex::LockError;
use crate::segment::Holder;
use crate::sync::{Lane, Levels, Locked, NOBODY};
use crate::sys::clock::Deadline;

/// What has such a lock in its memory: [`RawValue`](super::RawValue) and [`RawArray`](super::RawArray).
pub trait Synchronized {
    /// Where.
    #[doc(hidden)]
    fn memory(&self) -> &Memory;
}

/// The lock of a value or an array, held; one level is given back on drop. It gives access to what is locked. Not `Send`: a
/// lock belongs to the thread that took it.
#[must_use = "the lock is given back when the guard is dropped"]
pub struct SynchronizedGuard<'a, H: Synchronized> {
    handle: &'a H,
    thread: PhantomData<*const ()>,
}

fn lane<G>(memory: &Memory) -> Result<Lane, LockError<G>> {
    memory.object.segment().lane().map_err(LockError::Failed)
}

/// Who holds the lock.
pub(super) fn holder(memory: &Memory) -> Option<Holder> {
    memory.object.segment().lane_holder(memory.block().lock.lock_word().holder())
}

/// How often its holder has it.
pub(super) fn depth(memory: &Memory) -> u32 {
    if memory.block().lock.lock_word().holder() == NOBODY { 0 } else { memory.block().lock.depth() }
}

impl<'a, H: Synchronized> SynchronizedGuard<'a, H> {
    pub(super) fn lock_by(handle: &'a H, deadline: Deadline) -> Result<Self, LockError<Self>> {
        let memory = handle.memory();
        match memory.block().lock.lock(lane(memory)?, memory.object.segment(), deadline) {
            Ok(locked) => Self::with(handle, locked),
            Err(_) => Err(LockError::Timeout(holder(memory))),
        }
    }

    pub(super) fn try_lock(handle: &'a H) -> Result<Self, LockError<Self>> {
        let memory = handle.memory();
        let locked = memory.block().lock.try_lock(lane(memory)?);
        Self::with(handle, locked.ok_or(LockError::WouldBlock)?)
    }

    fn with(handle: &'a H, locked: Locked) -> Result<Self, LockError<Self>> {
        let guard = Self { handle, thread: PhantomData };
        if locked == Locked::Clean { Ok(guard) } else { Err(LockError::OwnerDied(guard)) }
    }

    /// Declares what is locked right again after [`LockError::OwnerDied`]: later lockers are not told any more.
    pub fn mark_consistent(&mut self) {
        self.handle.memory().block().lock.mark_consistent();
    }
}

impl<H: Synchronized> Drop for SynchronizedGuard<'_, H> {
    fn drop(&mut self) {
        self.handle.memory().block().lock.unlock();
    }
}

impl<H: Synchronized> Deref for SynchronizedGuard<'_, H> {
    type Target = H;

    #[inline]
    fn deref(&self) -> &H {
        self.handle
    }
}

impl<H: Synchronized> Sealed for SynchronizedGuard<'_, H> {}

impl<'a, H: Synchronized> WaitGuard for SynchronizedGuard<'a, H> {
    type Value = H;
    type Saved = (&'a H, Levels);

    fn release(self) -> Self::Saved {
        let handle = self.handle;
        // All levels go, this guard's among them.
        std::mem::forget(self);
        (handle, handle.memory().block().lock.release())
    }

    fn retake((handle, levels): Self::Saved) -> Result<Self, LockError<Self>> {
        let memory = handle.memory();
        let locked = memory.block().lock.retake(levels, lane(memory)?, memory.object.segment(), Deadline::NEVER);
        Self::with(handle, locked.unwrap_or_else(|_| unreachable!("a deadline that never comes")))
    }

    fn value(&self) -> &H {
        self.handle
    }
}

impl<H: Synchronized + fmt::Debug> fmt::Debug for SynchronizedGuard<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

/// The lock of a handle that derefs to what has it.
macro_rules! synchronized {
    ($handle:ident, $raw:ident, $guard:ident) => {
        impl<T> Synchronized for $raw<T> {
            fn memory(&self) -> &Memory {
                &self.cells().memory
            }
        }

        impl<T: NoUninit + CheckedBitPattern> $handle<T> {
            /// Takes its lock, waiting for it, or takes it once more. The lock keeps out those who take it too; single
            /// operations of others go on.
            ///
            /// # Errors
            /// [`LockError::OwnerDied`] with the lock held, [`LockError::Failed`]. Python: `get_lock()`, `acquire()`.
            #[doc(alias = "get_lock")]
            #[doc(alias = "acquire")]
            pub fn lock(&self) -> Result<$guard<'_, T>, LockError<$guard<'_, T>>> {
                SynchronizedGuard::lock_by(&**self, Deadline::NEVER)
            }

            /// Takes its lock if it is free or the calling thread's own. Never blocks.
            ///
            /// # Errors
            /// As [`lock`](Self::lock), and [`LockError::WouldBlock`]. Python: `acquire(block=False)`.
            pub fn try_lock(&self) -> Result<$guard<'_, T>, LockError<$guard<'_, T>>> {
                SynchronizedGuard::try_lock(&**self)
            }

            /// Takes its lock, waiting for it at most `timeout`.
            ///
            /// # Errors
            /// As [`lock`](Self::lock), and [`LockError::Timeout`] with the holder's name. Python: `acquire(timeout=t)`.
            pub fn lock_timeout(&self, timeout: Duration) -> Result<$guard<'_, T>, LockError<$guard<'_, T>>> {
                SynchronizedGuard::lock_by(&**self, Deadline::after(timeout))
            }

            /// Who holds its lock at this moment.
            pub fn holder(&self) -> Option<Holder> {
                super::synchronized::holder(&self.cells().memory)
            }

            /// How often the holder has its lock, at this moment; 0 if it is free.
            pub fn depth(&self) -> u32 {
                super::synchronized::depth(&self.cells().memory)
            }

            /// The same memory without its lock. Python: `get_obj()`.
            #[doc(alias = "get_obj")]
            pub fn raw(&self) -> &$raw<T> {
                self
            }
        }

        impl<T: NoUninit + CheckedBitPattern> $raw<T> {
            /// The same memory with its lock, which it has whether it is used or not. Python: `sharedctypes.synchronized`.
            pub fn synchronized(&self) -> $handle<T> {
                $handle::from_cells(self.cells().clone())
            }
        }

        impl<T> Deref for $handle<T> {
            type Target = $raw<T>;

            #[inline]
            fn deref(&self) -> &$raw<T> {
                &self.0
            }
        }

        impl<T> $raw<T> {
            fn from_cells(cells: Cells<T>) -> Self {
                Self(cells)
            }

            #[inline]
            fn cells(&self) -> &Cells<T> {
                &self.0
            }
        }

        impl<T> $handle<T> {
            fn from_cells(cells: Cells<T>) -> Self {
                Self($raw(cells))
            }
        }
    };
}
pub(super) use synchronized;
