//! Data that many processes hold in common, each with its own lock or rule; and the locks and rules without data.

mod array;
mod array_bulk;
mod barrier;
mod carried;
mod cells;
mod condvar;
pub mod dict;
mod element;
mod error;
mod event;
mod list;
mod mutex;
mod namespace;
mod number;
mod once;
mod operations;
#[cfg(feature = "raw-sync")]
mod raw_lock;
mod repr;
mod rlock;
mod rwlock;
mod semaphore;
pub mod set;
mod synchronized;
mod value;

pub use crate::sync::Previous;
pub use array::{Array, ArrayError, ArrayGuard, RawArray};
pub use barrier::{Barrier, BarrierError};
pub use condvar::{Condvar, WaitGuard};
pub use dict::{ByteDict, ByteRef, Dict};
pub use element::Element;
pub use error::WaitError;
pub use event::Event;
pub use list::{ByteList, List, ListError, ListIndex, ListIter};
pub use mutex::{Lock, LockError, Mutex, MutexGuard};
pub use namespace::Namespace;
pub use number::{Integer, Number};
pub use once::Once;
pub use rlock::{RLock, RLockGuard};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{BoundedSemaphore, DeadHolder, OverRelease, Permit, Semaphore};
pub use set::Set;
pub use synchronized::{Synchronized, SynchronizedGuard};
pub use value::{RawValue, Value, ValueGuard};

use crate::error::Error;
use crate::segment::{Block, Object, Pinned};
use crate::sync::{Lane, NOBODY, Pace, WaitBlock};

/// What the handles of an object share that is one block, and one word to sleep on.
struct OneBlock<B: Block> {
    object: Object,
    block: Pinned<B>,
    wait: Pinned<WaitBlock>,
    pace: Pace,
}

impl<B: Block> OneBlock<B> {
    /// `what` the object is said to be if it is too small to be one.
    fn of(object: Object, what: &str) -> Result<Self, Error> {
        if object.len() < size_of::<B>() {
            return Err(Error::corrupt(what, "size", object.len(), size_of::<B>()));
        }
        let block = Pinned::new(&object, 0, 1);
        let wait = Pinned::waits(&object, 0, 1);
        Ok(Self { object, block, wait, pace: Pace::default() })
    }
}

/// Who has a lane, as the calling thread sees it: "nobody", "this thread", "another thread of main (pid 7)",
/// "worker (pid 8)".
fn owner_name(object: &Object, lane: Lane) -> String {
    let segment = object.segment();
    match (lane, segment.lane_holder(lane)) {
        (NOBODY, _) | (_, None) => "nobody".into(),
        (_, Some(_)) if segment.lane().is_ok_and(|me| me == lane) => "this thread".into(),
        (_, Some(holder)) if holder.pid == std::process::id() => format!("another thread of {holder}"),
        (_, Some(holder)) => holder.to_string(),
    }
}

/// What all handles without type parameters have: `open`, `id`, and that they travel, in messages and in a child's
/// arguments. The type gives `from_object`, which checks, and `object`. `$one` is what it is called, with an article.
macro_rules! handle {
    ($handle:ident, $kind:expr, $one:literal) => {
        impl $handle {
            #[doc = concat!("Opens ", $one, " by the [`id`](Self::id) that another handle told.")]
            ///
            /// # Errors
            #[doc = concat!("[`TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is not ", $one, ",")]
            /// [`Gone`](crate::ErrorKind::Gone) if it exists no more.
            pub fn open(segment: &crate::segment::Segment, id: crate::segment::ObjectId) -> Result<Self, Error> {
                Self::from_object(segment.open_object(id, &$kind, crate::segment::type_hash::<Self>())?)
            }

            /// Its number in its segment.
            pub fn id(&self) -> crate::segment::ObjectId {
                self.object().id()
            }
        }

        impl serde::Serialize for $handle {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.object().pass(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $handle {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let object =
                    crate::segment::Object::receive(deserializer, &$kind, |_| crate::segment::type_hash::<$handle>())?;
                Self::from_object(object).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// `new` and `new_in` of a [`handle`] whose object begins as `$bytes` zero bytes.
macro_rules! made_of_zeros {
    ($handle:ident, $kind:expr, $bytes:expr, $one:literal) => {
        impl $handle {
            #[doc = concat!("Makes ", $one, " in the family's segment.")]
            ///
            /// # Errors
            /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
            pub fn new() -> Result<Self, Error> {
                Self::new_in(&crate::segment::Segment::family()?)
            }

            #[doc = concat!("Makes ", $one, " in a segment.")]
            ///
            /// # Errors
            /// As [`new`](Self::new).
            pub fn new_in(segment: &crate::segment::Segment) -> Result<Self, Error> {
                Self::from_object(segment.create_object(&$kind, crate::segment::type_hash::<Self>(), $bytes)?)
            }
        }
    };
}
#[cfg(feature = "raw-sync")]
pub use raw_lock::{LockResult, RawLock, RawSyncGuard, RawSyncLock};
use {handle, made_of_zeros};
