//! Rings of fixed-size values: the shortest way from one process to another.
//!
//! A [`Ring`] carries values of one plain type ([`Value`]) in slots of shared memory. Nothing is encoded and nothing is
//! allocated: a push is a copy into a slot and one store that commits it, and a value of up to 56 bytes moves from one CPU
//! to the other as one cache line. [`Queue`](super::Queue) is for all other values.
//!
//! | | producers | consumers | made by |
//! |---|---|---|---|
//! | `Ring<T>` | many | many | [`Ring::new`] |
//! | `Ring<T, One, Many>`, [`Spmc`] | one at a time | many | [`Ring::with_capacity`] |
//! | `Ring<T, Many, One>`, [`Mpsc`] | many | one at a time | |
//! | `Ring<T, One, One>`, [`Spsc`] | one at a time | one at a time | |
//!
//! A side of many is used through the ring itself, by any thread. A side of one is used through a [`Producer`] or a
//! [`Consumer`], which one thread has at a time; the next who wants it is told who that is.
//!
//! # If a peer dies
//! Killed before its value was committed: the value is gone, and counted in
//! [`Segment::stats`](crate::Segment::stats). Killed after: it is delivered. Killed between taking a value and being
//! done with it: the value is offered again. With many consumers it comes after those that were taken meanwhile, with
//! one consumer first of all; [`Peek::is_redelivered`] tells. Whoever waits goes on, at the latest after the next look
//! (64 ms), and the role of the dead is free.
//!
//! ```
//! use kinfolk::Process;
//! use kinfolk::channel::stamped::{Ring, Spsc};
//!
//! let ring = Spsc::<[f64; 3]>::with_capacity(100)?;
//! let child = Process::spawn(
//!     |ring: Spsc<[f64; 3]>| {
//!         let mut producer = ring.producer().unwrap();
//!         producer.push([1.0, 2.0, 3.0]).unwrap();
//!     },
//!     ring.clone(),
//! )?;
//! assert_eq!(ring.consumer()?.pop()?, [1.0, 2.0, 3.0]);
//! child.join()?;
//!
//! let shared = Ring::new(64)?;
//! shared.push(7u64)?;
//! assert_eq!(shared.pop()?, 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod core;
mod error;
mod receiving;
mod sending;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::core::{Core, Numbers, STAMPED};
use crate::error::Error;
use crate::segment::{Object, ObjectId, Segment, type_hash};

pub use self::error::{PopError, PushError, RoleError};
pub use self::receiving::{Consumer, Peek};
pub use self::sending::{Loan, Producer};
pub use crate::ring::{Counts, Many, One, Side};

/// A type whose values are their bytes: without padding, so that writing it writes no byte that has no value, and told
/// from other bytes by looking at them. Numbers, arrays of them, and structs that derive bytemuck's `NoUninit` and
/// `CheckedBitPattern`.
pub trait Value: bytemuck::NoUninit + bytemuck::CheckedBitPattern + 'static {}

impl<T: bytemuck::NoUninit + bytemuck::CheckedBitPattern + 'static> Value for T {}

/// One producer and one consumer.
pub type Spsc<T> = Ring<T, One, One>;
/// Many producers and one consumer.
pub type Mpsc<T> = Ring<T, Many, One>;
/// One producer and many consumers.
pub type Spmc<T> = Ring<T, One, Many>;

/// A ring of values in shared memory: see the [module](self). A handle is cheap to clone, and is itself a value: it goes
/// to a child as an argument, and through queues.
///
/// Python: a `multiprocessing.Queue` of plain values.
pub struct Ring<T, P: Side = Many, C: Side = Many> {
    core: Arc<Core<P, C>>,
    values: PhantomData<fn(T) -> T>,
}

impl<T: Value> Ring<T> {
    /// Makes a ring for many producers and many consumers in the family's segment.
    ///
    /// # Errors
    /// As [`with_capacity`](Self::with_capacity).
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Self::with_capacity(capacity)
    }
}

impl<T: Value, P: Side, C: Side> Ring<T, P, C> {
    /// Makes a ring in the family's segment that holds at least `capacity` values: the next power of two, from 64 on.
    /// Each takes `size_of::<T>() + 8` bytes, rounded up to a power of two from 64 on.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a capacity above 524288 or a value above 16 MiB,
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn with_capacity(capacity: usize) -> Result<Self, Error> {
        Self::create_in(&Segment::family()?, capacity)
    }

    /// As [`with_capacity`](Self::with_capacity), in another segment.
    ///
    /// # Errors
    /// As [`with_capacity`](Self::with_capacity).
    pub fn create_in(segment: &Segment, capacity: usize) -> Result<Self, Error> {
        let numbers = Numbers::new::<P, C>(capacity, size_of::<T>())?;
        let mut made = Object::create(segment, &STAMPED, Self::type_hash(), numbers.object_bytes(), &[0], |view| {
            numbers.write(view);
            Ok(())
        })?;
        Self::from_object(made.pop().expect("one role, one handle"))
    }

    /// Opens a ring by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is no ring of `T` with these sides,
    /// [`Gone`](crate::ErrorKind::Gone) if it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, 0, &STAMPED, Self::type_hash())?)
    }

    fn type_hash() -> u64 {
        type_hash::<(T, P, C)>()
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        let core = Arc::new(Core::open(object, size_of::<T>())?);
        Ok(Self { core, values: PhantomData })
    }
}

impl<T, P: Side, C: Side> Ring<T, P, C> {
    /// Number of the ring in its segment.
    pub fn id(&self) -> ObjectId {
        self.core.object.id()
    }

    /// Slots in the ring.
    pub fn capacity(&self) -> usize {
        self.core.ring().capacity()
    }

    /// Values that were pushed and not taken, those being pushed right now by one of many included. Others go on
    /// meanwhile, so the number is old when it arrives; with nobody else at work it is exact. Python: `qsize()`.
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        self.core.ring().len()
    }

    /// Whether there is no value to pop, at this moment. Python: `empty()`.
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        !self.core.ring().has_item()
    }

    /// Whether there is no room to push, at this moment. A value that is being looked at takes its room until it is
    /// released. Python: `full()`.
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        !self.core.ring().has_room(1, u32::MAX)
    }

    /// The values since the ring was made, in exact numbers.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn counts(&self) -> Result<Counts, Error> {
        self.core.ring().counts().map_err(super::layout::corrupt)
    }
}

impl<T, P: Side, C: Side> Clone for Ring<T, P, C> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), values: PhantomData }
    }
}

impl<T, P: Side, C: Side> fmt::Debug for Ring<T, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring<{}>({} of {})", std::any::type_name::<T>(), self.len(), self.capacity())
    }
}

impl<T, P: Side, C: Side> Serialize for Ring<T, P, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.core.object.pass(serializer)
    }
}

impl<'de, T: Value, P: Side, C: Side> Deserialize<'de> for Ring<T, P, C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &STAMPED, |_| Self::type_hash())?;
        Self::from_object(object).map_err(serde::de::Error::custom)
    }
}
