//! `List`: Python's list, in memory that many processes share.

mod bytes;
mod check;
mod compare;
mod core;
mod elements;
mod error;
mod iter;
mod order;
mod place;
mod steps;
mod value;
mod whole;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::core::{Core, LIST};
use super::repr::{Repr, as_text};
use crate::error::Error;
use crate::segment::{Object, ObjectId, Segment, type_hash};
use crate::sys::clock::Deadline;

pub use error::ListError;
pub use iter::ListIter;
pub use place::ListIndex;

/// A list that any number of processes and threads read and change: Python's, under Python's names and Rust's.
///
/// Each call is one change, whole: others see the list as it was before or as it is after, also of [`sort`](Self::sort) or
/// [`extend`](Self::extend). Reading one element takes no lock and waits for nobody. Several, or all, are read until nothing
/// has changed meanwhile; after four tries in vain the list is locked for it. Changes are made one after the other, in
/// microseconds each; functions of yours (a comparison, [`update`](Self::update)'s) run while others go on, and run again
/// if what they saw has changed meanwhile.
///
/// An index counts from the end if it is negative, so that -1 is the last element. Ranges do too, and what of a range lies
/// beyond the ends is not there, as in Python. Up to 2^26 - 1 elements (67 million); elements of up to 7 encoded bytes, such
/// as small numbers, take 8 bytes each.
///
/// Values travel as bytes (postcard; a `Vec<u8>` as it is). A handle is cheap to clone, and is itself a value: it goes to a
/// child as an argument, through queues, and into lists, also into itself. What a list carries stays, as long as the list
/// does. (Two lists that carry each other stay until the segment goes.)
///
/// # Cost
/// The ends (push, pop, index 0) and single elements are reached in constant time. What changes the middle, or the order,
/// copies 8 bytes for each element of the list.
///
/// # If a peer dies
/// Its change has been made, or has not: nothing is half made, and nobody is told. The next one that changes the list
/// puts in order what the dead left. Objects that only the dead had open, and that no list names, are gone.
///
/// A process that is only *stopped* while it makes a change holds up the others' changes, for a time that
/// [`with_patience`](Self::with_patience) limits; readers go on.
///
/// Python: `Manager().list()`, `ShareableList`; without a server.
///
/// ```
/// use kinfolk::{List, Process};
///
/// let list = List::from_slice(&[3, 1, 2])?;
/// let child = Process::spawn(|list: List<i32>| list.push(0).unwrap(), list.clone())?;
/// child.join()?;
/// list.sort()?;
/// assert_eq!(list.to_vec()?, [0, 1, 2, 3]);
/// assert_eq!(list.get(-1)?, 3);
/// assert_eq!(list.to_string(), "[0, 1, 2, 3]");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "ShareableList")]
#[doc(alias = "ListProxy")]
#[doc(alias = "Vec")]
pub struct List<T> {
    core: Arc<Core>,
    patience: Option<Duration>,
    values: PhantomData<fn(T) -> T>,
}

/// A list of bytes: they are not encoded, and can be put in and read without a vector for each call.
pub type ByteList = List<Vec<u8>>;

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// Makes an empty list in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn new() -> Result<Self, Error> {
        Self::new_in(&Segment::family()?)
    }

    /// Makes an empty list in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment) -> Result<Self, Error> {
        Ok(Self::of(Core::create(segment, type_hash::<T>())?))
    }

    /// Makes a list of these values in the family's segment. Python: `list(values)`.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn from_slice(values: &[T]) -> Result<Self, Error> {
        Self::from_slice_in(&Segment::family()?, values)
    }

    /// Makes a list of these values in a segment.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn from_slice_in(segment: &Segment, values: &[T]) -> Result<Self, Error> {
        let list = Self::new_in(segment)?;
        list.extend(values)?;
        Ok(list)
    }

    /// Opens a list by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is no list of `T`, [`Gone`](crate::ErrorKind::Gone) if it
    /// exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Ok(Self::of(Core::from_object(segment.open_object(id, &LIST, type_hash::<T>())?)?))
    }
}

impl<T> List<T> {
    fn of(core: Core) -> Self {
        Self { core: Arc::new(core), patience: None, values: PhantomData }
    }

    #[inline]
    fn deadline(&self) -> Deadline {
        self.patience.map_or(Deadline::NEVER, Deadline::after)
    }

    /// A handle whose changes wait at most so long for the lock of a process that does not run: then they fail with
    /// [`ErrorKind::Stalled`](crate::ErrorKind::Stalled), which names it. Without, they wait until it goes on or has died. Zero never waits.
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self.clone() }
    }

    /// Its number in its segment.
    pub fn id(&self) -> ObjectId {
        self.core.object.id()
    }

    /// How many elements it had a moment ago. Python: `len(list)`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt); no lane for this thread.
    #[allow(clippy::len_without_is_empty, reason = "it is there")]
    pub fn len(&self) -> Result<usize, Error> {
        self.core.len()
    }

    /// Whether it had none a moment ago.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), patience: self.patience, values: PhantomData }
    }
}

/// As a `Vec`'s: `[1, 2, 3]`. A list that is an element of another one says how many it has.
impl<T: Serialize + DeserializeOwned + fmt::Debug + 'static> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        as_text(|inside| match self.to_vec() {
            Ok(values) if inside => write!(f, "List({} elements)", values.len()),
            Ok(values) => f.debug_list().entries(values).finish(),
            Err(error) => write!(f, "List({error})"),
        })
    }
}

/// As Python prints a list: `[1, 'two', None]`. Variants of an enum are printed as what is in them, so that an enum of
/// types looks like the values; handles as `<object 7>`.
impl<T: Serialize + DeserializeOwned + 'static> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_vec() {
            Ok(values) => Repr(&values).fmt(f),
            Err(error) => write!(f, "<list: {error}>"),
        }
    }
}

impl<T> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.core.object.pass(serializer)
    }
}

impl<'de, T: 'static> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &LIST, |_| type_hash::<T>())?;
        Core::from_object(object).map(Self::of).map_err(serde::de::Error::custom)
    }
}
