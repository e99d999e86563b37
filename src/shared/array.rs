//! An array whose elements processes read and write whole.

use std::fmt;
use std::ops::{Deref, RangeBounds};
use std::time::Duration;

use bytemuck::{CheckedBitPattern, NoUninit, Zeroable};

use super::cells::{ARRAY, Cells, Memory, cells_handle};
use super::element::Element;
use super::error::WaitError;
use super::mutex::LockError;
use super::number::Number;
use super::synchronized::{Synchronized, SynchronizedGuard, synchronized};
use crate::error::Error;
use crate::segment::{Holder, Segment, ShmSlice};
use crate::sys::clock::Deadline;

/// An array in shared memory without waiting: everything of an [`Array`], which is this with a lock.
///
/// Python: `RawArray`. Unlike there, an element that is read is never half of what somebody wrote.
///
/// ```
/// let seen = kinfolk::RawArray::<bool>::new(3)?;
/// seen.set(1, true)?;
/// assert_eq!(seen.to_vec()?, [false, true, false]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "sharedctypes")]
pub struct RawArray<T>(pub(super) Cells<T>);

/// An array of fixed length in shared memory. All processes with a handle read and write its elements, each of them whole.
///
/// An element is what a [`Value`](crate::Value) is: reading never waits, one of 1, 2, 4 or 8 bytes is a single access, a
/// larger one has two copies, and [`at`](RawArray::at) gives everything that is done with one in place. Several elements at
/// once ([`slice`](RawArray::slice), [`write_slice`](RawArray::write_slice) and so on) are each whole, but not of one moment,
/// unless all who write take the [`lock`](Self::lock).
///
/// An index that is beyond the end is an error, and nothing is read or written.
///
/// # If a peer dies
/// Every element is the old one or the new one, at whichever instruction its writer died; of several that it wrote at once,
/// the first ones may be new and the others old. Nobody waits for it. After the death of one who held the lock, the next to
/// take it is told by [`LockError::OwnerDied`], as with [`RLock`](crate::RLock).
///
/// Python: `Array`.
///
/// ```
/// use kinfolk::{Array, Process};
///
/// let sums = Array::<u32>::new(4)?;
/// let count = |(sums, k): (Array<u32>, usize)| sums.at(k).unwrap().add(10);
/// for k in [1, 3, 3] {
///     Process::spawn(count, (sums.clone(), k))?.join()?;
/// }
/// assert_eq!(sums.to_string(), "[0, 10, 0, 20]");
/// assert_eq!(sums.set(4, 1).unwrap_err().to_string(), "array: index 4 of 4 elements");
///
/// // As with a value, a sum is made in place or with the lock held.
/// sums.set(0, sums.get(0)? + 1)?; // wrong: what others add between the two is lost
/// sums.at(0)?.add(1); // right
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "SynchronizedArray")]
#[doc(alias = "sharedctypes")]
pub struct Array<T>(RawArray<T>);

/// The lock of an [`Array`], held.
pub type ArrayGuard<'a, T> = SynchronizedGuard<'a, RawArray<T>>;

cells_handle!(RawArray, ARRAY, "an array");
cells_handle!(Array, ARRAY, "an array");
synchronized!(Array, RawArray, ArrayGuard);

/// Why an element was not read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum ArrayError {
    /// There is no such element. Nothing was done.
    OutOfBounds {
        /// The index, or the end of the range.
        index: usize,
        /// How many elements there are.
        len: usize,
    },
    /// So many elements were given for a place of so many. Nothing was done.
    WrongLength {
        /// How many were given.
        given: usize,
        /// How many there is place for.
        wanted: usize,
    },
    /// Somebody else writes it.
    WouldBlock,
    /// Somebody else, who is named if known, wrote it until the time-out.
    Timeout(Option<Holder>),
    /// The segment failed: no lane for this thread, or bytes that are no element.
    Failed(Error),
}

impl fmt::Display for ArrayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBounds { index, len } => write!(f, "array: index {index} of {len} elements"),
            Self::WrongLength { given, wanted } => write!(f, "array: {given} elements for a place of {wanted}"),
            Self::WouldBlock => write!(f, "array: somebody else writes the element"),
            Self::Timeout(Some(holder)) => write!(f, "array: {holder} wrote the element until the time-out"),
            Self::Timeout(None) => write!(f, "array: the element was being written until the time-out"),
            Self::Failed(e) => write!(f, "array: {e}"),
        }
    }
}

impl std::error::Error for ArrayError {}

impl From<Error> for ArrayError {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl From<WaitError> for ArrayError {
    fn from(e: WaitError) -> Self {
        match e {
            WaitError::WouldBlock => Self::WouldBlock,
            WaitError::Timeout(holder) => Self::Timeout(holder),
            WaitError::Failed(e) => Self::Failed(e),
        }
    }
}

macro_rules! made {
    ($handle:ident, |$cells:ident| $make:expr) => {
        impl<T: NoUninit + CheckedBitPattern> $handle<T> {
            /// Makes an array of `len` zeros in the family's segment.
            ///
            /// # Errors
            /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full. Python: `Array(type, len)`.
            pub fn new(len: usize) -> Result<Self, Error>
            where
                T: Zeroable,
            {
                Self::new_in(&Segment::family()?, len)
            }

            /// Makes an array of `len` zeros in a segment.
            ///
            /// # Errors
            /// As [`new`](Self::new).
            pub fn new_in(segment: &Segment, len: usize) -> Result<Self, Error>
            where
                T: Zeroable,
            {
                let $cells = Cells::create(segment, &ARRAY, len, &[])?;
                Ok($make)
            }

            /// Makes an array of these elements in the family's segment.
            ///
            /// # Errors
            /// As [`new`](Self::new). Python: `Array(type, sequence)`.
            pub fn from_slice(values: &[T]) -> Result<Self, Error> {
                Self::from_slice_in(&Segment::family()?, values)
            }

            /// Makes an array of these elements in a segment.
            ///
            /// # Errors
            /// As [`new`](Self::new).
            pub fn from_slice_in(segment: &Segment, values: &[T]) -> Result<Self, Error> {
                let $cells = Cells::create(segment, &ARRAY, values.len(), values)?;
                Ok($make)
            }
        }
    };
}
made!(RawArray, |cells| Self(cells));
made!(Array, |cells| Self(RawArray(cells)));

impl<T: NoUninit + CheckedBitPattern> RawArray<T> {
    /// How many elements there are: it never changes. Python: `len(a)`.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "the length is chosen once; `len() == 0` says it")]
    pub fn len(&self) -> usize {
        self.0.memory.len
    }

    /// An element, for everything that is done with one in place.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`].
    #[inline]
    pub fn at(&self, index: usize) -> Result<Element<'_, T>, ArrayError> {
        self.0.at(index).ok_or(ArrayError::OutOfBounds { index, len: self.len() })
    }

    /// Reads an element. Never waits for anybody.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`], [`ArrayError::Failed`] if the bytes are no `T`. Python: `a[i]`.
    #[inline]
    pub fn get(&self, index: usize) -> Result<T, ArrayError> {
        Ok(self.at(index)?.get()?)
    }

    /// Writes an element, as [`RawValue::set`](super::RawValue::set) does.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`], [`ArrayError::Failed`]. Python: `a[i] = x`.
    #[inline]
    pub fn set(&self, index: usize, value: T) -> Result<(), ArrayError> {
        Ok(self.at(index)?.set(value)?)
    }

    /// Writes an element, if nobody else writes it at the moment. Never waits.
    ///
    /// # Errors
    /// As [`set`](Self::set), and [`ArrayError::WouldBlock`].
    pub fn try_set(&self, index: usize, value: T) -> Result<(), ArrayError> {
        Ok(self.at(index)?.try_set(value)?)
    }

    /// Writes an element, waiting for others who write it at most `timeout`.
    ///
    /// # Errors
    /// As [`set`](Self::set), and [`ArrayError::Timeout`].
    pub fn set_timeout(&self, index: usize, value: T, timeout: Duration) -> Result<(), ArrayError> {
        Ok(self.at(index)?.set_timeout(value, timeout)?)
    }

    /// Reads the elements one after the other, each at the moment when it is asked for. Python: `iter(a)`.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<T, Error>> + DoubleEndedIterator + '_ {
        (0..self.len()).map(|index| Element::new(&self.0.memory, index).get())
    }

    /// Reads some elements: `a.slice(2..5)?`, `a.slice(..)?`. Each is whole; all are of one moment only if nobody writes.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`], also for a range that ends before it begins; [`ArrayError::Failed`]. Python: `a[2:5]`.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>, ArrayError> {
        let range = self.range(range)?;
        let mut values = Vec::with_capacity(range.len());
        self.read_each(range, |some| values.extend_from_slice(some))?;
        Ok(values)
    }

    /// Reads all elements. Python: `a[:]`, `list(a)`.
    pub fn to_vec(&self) -> Result<Vec<T>, ArrayError> {
        self.slice(..)
    }

    /// The bounds of a range that lies inside.
    pub(super) fn range(&self, range: impl RangeBounds<usize>) -> Result<std::ops::Range<usize>, ArrayError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let len = self.len();
        let start = match range.start_bound() {
            Included(start) => *start,
            Excluded(start) => start.saturating_add(1),
            Unbounded => 0,
        };
        let end = match range.end_bound() {
            Included(end) => end.saturating_add(1),
            Excluded(end) => *end,
            Unbounded => len,
        };
        if end > len || start > end {
            return Err(ArrayError::OutOfBounds { index: end.max(start), len });
        }
        Ok(start..end)
    }
}

impl<T: Number> RawArray<T> {
    /// The memory of all elements, to be copied from and to in any way: nothing is checked or ordered, and what is copied
    /// while somebody writes it may be torn within an element.
    pub fn as_shm(&self) -> ShmSlice<'_> {
        self.0.memory.elements()
    }
}

impl<T: NoUninit + CheckedBitPattern> SynchronizedGuard<'_, RawArray<T>> {
    /// Exchanges two elements. It needs the lock, since it is two writes: if it is cut off by a death, the next to take
    /// the lock is told, and one of the two is there twice.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`], [`ArrayError::Failed`]. Python: `a[i], a[j] = a[j], a[i]`.
    pub fn swap_elements(&self, i: usize, j: usize) -> Result<(), ArrayError> {
        let (one, other) = (self.at(i)?, self.at(j)?);
        let (first, second) = (one.get()?, other.get()?);
        one.set(second)?;
        Ok(other.set(first)?)
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Display for RawArray<T> {
    /// The elements as a list: `[1, 2, 3]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for index in 0..self.len() {
            list.entry(&format_args!("{}", Element::<T>::new(&self.0.memory, index)));
        }
        list.finish()
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Display for Array<T> {
    /// The elements as a list: `[1, 2, 3]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawArray({self})")
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({self})")
    }
}
