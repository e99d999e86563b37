//! A value that processes read and write whole.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use bytemuck::{CheckedBitPattern, NoUninit};

use super::cells::{Cells, Memory, VALUE, cells_handle};
use super::element::Element;
use super::mutex::LockError;
use super::synchronized::{Synchronized, SynchronizedGuard, synchronized};
use crate::error::Error;
use crate::segment::{Holder, Segment};
use crate::sys::clock::Deadline;

/// A value in shared memory without waiting: everything of a [`Value`], which is this with a lock.
///
/// Python: `RawValue`. Unlike there, what is read is never half of what somebody wrote.
///
/// ```
/// let flags = kinfolk::RawValue::new(0b0001u8)?;
/// flags.or(0b0100);
/// assert_eq!(flags.load(), 0b0101);
/// # Ok::<(), kinfolk::Error>(())
/// ```
#[doc(alias = "sharedctypes")]
pub struct RawValue<T>(Cells<T>);

/// A value in shared memory that all processes with a handle read and write, each time whole.
///
/// Reading never waits and never gives half of a write. A value of 1, 2, 4 or 8 bytes (a *word*) is read and written by one
/// instruction. Any other has two copies and a word that says which one counts; those who write it wait for one another.
/// Numbers have [`add`](RawValue::add) and its like, all values [`update`](RawValue::update).
///
/// `T` is as for [`Mutex`](crate::Mutex): any type without pointers or padding whose bytes can be checked.
///
/// # Adding to it
/// What is made of a value that was read a moment ago is wrong if somebody came in between. Python's `v.value += 1` is such
/// a sum, and loses others' work:
///
/// ```
/// # let v = kinfolk::Value::new(0u64)?;
/// v.set(v.get()? + 1)?; // wrong: what others add between the two is lost
///
/// v.add(1); // right, for numbers: one instruction
/// v.update(|n| n + 1)?; // right, for every type: again, if somebody came in between
/// {
///     let v = v.lock().unwrap(); // right, if all who write it take the lock
///     v.set(v.get()? + 1)?;
/// }
/// # assert_eq!(v.load(), 4);
/// # Ok::<(), kinfolk::Error>(())
/// ```
///
/// # The lock
/// [`lock`](Self::lock) is for work of several steps, and may be taken again by the thread that has it. It keeps out those
/// who take it, and nobody else: unlike in Python, `get` and `set` do not. A value whose lock nobody takes pays nothing for it.
///
/// # If a peer dies
/// The value is the old one or the new one, at whichever instruction the writer died, and nobody waits for it. After the
/// death of one who held the lock, the next to take it is told by [`LockError::OwnerDied`], as with
/// [`RLock`](crate::RLock).
///
/// Python: `Value`.
///
/// ```
/// use kinfolk::{Process, Value};
///
/// let hits = Value::new(0u64)?;
/// let count = |hits: Value<u64>| (0..1000).for_each(|_| drop(hits.add(1)));
/// let children = [Process::spawn(count, hits.clone())?, Process::spawn(count, hits.clone())?];
/// for child in children {
///     child.join()?;
/// }
/// assert_eq!(hits.load(), 2000);
///
/// let place = Value::new([0.0f64; 3])?; // no word: 24 bytes, and never a mixture
/// place.update(|[x, y, z]| [x + 1.0, y, z])?;
/// assert_eq!(place.to_string(), "[1.0, 0.0, 0.0]");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Synchronized")]
#[doc(alias = "sharedctypes")]
pub struct Value<T>(RawValue<T>);

/// The lock of a [`Value`], held.
pub type ValueGuard<'a, T> = SynchronizedGuard<'a, RawValue<T>>;

cells_handle!(RawValue, VALUE, "a value");
cells_handle!(Value, VALUE, "a value");
synchronized!(Value, RawValue, ValueGuard);

impl<T: NoUninit + CheckedBitPattern> RawValue<T> {
    /// Makes a value in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn new(value: T) -> Result<Self, Error> {
        Self::new_in(&Segment::family()?, value)
    }

    /// Makes a value in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment, value: T) -> Result<Self, Error> {
        Ok(Self(Cells::create(segment, &VALUE, 1, &[value])?))
    }

    /// What the operations are done with.
    #[inline]
    pub(super) fn element(&self) -> Element<'_, T> {
        // That there is one was checked when it was opened.
        Element::new(&self.0.memory, 0)
    }
}

impl<T: NoUninit + CheckedBitPattern> Value<T> {
    /// Makes a value in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn new(value: T) -> Result<Self, Error> {
        RawValue::new(value).map(Self)
    }

    /// Makes a value in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment, value: T) -> Result<Self, Error> {
        RawValue::new_in(segment, value).map(Self)
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for RawValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawValue({self})")
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({self})")
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Display for Value<T> {
    /// The value, as `Debug` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}
