//! Sets: a dictionary that has keys and nothing else.

mod algebra;

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use algebra::Elements;

use super::dict::Dict;
use super::repr::Repr;
use crate::error::{Error, ErrorKind};
use crate::segment::{ObjectId, Segment};

/// What an element has in the place of a value: nothing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Member;

/// A set of any serde values, for all processes that have a handle.
///
/// What a [`Dict`] says of keys goes for elements: they are the same if they are encoded alike, keep the order in which they
/// were put in, are read without a lock, and a killed process has put one in or it has not. One call with one element is
/// atomic; one that concerns another set as well goes from element to element.
///
/// What a method returns as a `HashSet` is this process's own. `&a | &b`, `&a & &b`, `&a - &b` and `&a ^ &b` do what
/// [`union`](Self::union), [`intersection`](Self::intersection), [`difference`](Self::difference) and
/// [`symmetric_difference`](Self::symmetric_difference) do; the other side may be any [`Elements`], as in Python's methods.
///
/// Python: `Manager().set()`, from 3.14 on.
///
/// ```
/// use std::collections::HashSet;
///
/// use kinfolk::{Process, Set};
///
/// let seen: Set<String> = Set::new()?;
/// let child = Process::spawn(|seen: Set<String>| seen.add("child").unwrap(), seen.clone())?;
/// assert!(child.join()?, "nobody had put it in");
/// seen.add("parent")?;
/// assert_eq!(seen.difference(&["child".to_owned()])?, HashSet::from(["parent".to_owned()]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "SetProxy")]
#[doc(alias = "HashSet")]
#[doc(alias = "frozenset")]
pub struct Set<T> {
    dict: Dict<T, Member>,
}

impl<T> Clone for Set<T> {
    fn clone(&self) -> Self {
        Self { dict: self.dict.clone() }
    }
}

impl<T> Set<T> {
    /// Its number in its segment.
    pub fn id(&self) -> ObjectId {
        self.dict.id()
    }

    /// Elements, as one moment saw each shard. What a process changed that died in the change is counted once somebody else
    /// changes that shard, or reads all of it.
    #[doc(alias = "__len__")]
    pub fn len(&self) -> usize {
        self.dict.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.dict.is_empty()
    }

    /// As [`Dict::with_patience`].
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { dict: self.dict.with_patience(patience) }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Set<T> {
    /// Makes an empty set in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { dict: Dict::new()? })
    }

    /// Makes an empty set in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment) -> Result<Self, Error> {
        Ok(Self { dict: Dict::new_in(segment)? })
    }

    /// Makes a set of these. Python: `manager.set(iterable)`.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`add`](Self::add).
    #[allow(clippy::should_implement_trait, reason = "it can fail")]
    pub fn from_iter(elements: impl IntoIterator<Item = T>) -> Result<Self, Error> {
        let set = Self::new()?;
        for element in elements {
            set.add(&element)?;
        }
        Ok(set)
    }

    /// Opens a set by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](ErrorKind::TypeMismatch) if it is no set of these, [`Gone`](ErrorKind::Gone) if it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Ok(Self { dict: Dict::open(segment, id)? })
    }

    /// Puts an element in; whether it was not in. Python: `add`.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec), [`OutOfSpace`](ErrorKind::OutOfSpace), [`Stalled`](ErrorKind::Stalled): then nothing
    /// has changed.
    #[doc(alias = "insert")]
    pub fn add<Q: Serialize + ?Sized>(&self, element: &Q) -> Result<bool, Error>
    where
        T: Borrow<Q>,
    {
        self.dict.put_new(element, &Member)
    }

    /// Takes an element out, if it is in; whether it was. Python: `discard`.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec), [`Stalled`](ErrorKind::Stalled): then nothing has changed.
    pub fn discard<Q: Serialize + ?Sized>(&self, element: &Q) -> Result<bool, Error>
    where
        T: Borrow<Q>,
    {
        self.dict.discard(element)
    }

    /// Takes an element out that is in. Python: `remove`.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it was not in (Python: `KeyError`), and as [`discard`](Self::discard).
    #[doc(alias = "KeyError")]
    pub fn remove<Q: Serialize + ?Sized>(&self, element: &Q) -> Result<(), Error>
    where
        T: Borrow<Q>,
    {
        match self.discard(element)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::NotFound, "remove element", format!("{} is not in", Repr(element)))),
        }
    }

    /// Whether an element is in, at this moment. Never blocks. Python: `x in s`.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec), [`Corrupt`](ErrorKind::Corrupt).
    #[doc(alias = "__contains__")]
    pub fn contains<Q: Serialize + ?Sized>(&self, element: &Q) -> Result<bool, Error>
    where
        T: Borrow<Q>,
    {
        self.dict.contains_key(element)
    }

    /// Takes some element out: the one that was put in last. Python: `pop`.
    ///
    /// # Errors
    /// As [`discard`](Self::discard).
    pub fn pop(&self) -> Result<Option<T>, Error> {
        Ok(self.dict.popitem()?.map(|(element, _)| element))
    }

    /// Takes all out, shard by shard. Python: `clear`.
    ///
    /// # Errors
    /// As [`discard`](Self::discard); some may be out.
    pub fn clear(&self) -> Result<(), Error> {
        self.dict.clear()
    }

    /// A new set in the same segment with the same elements, as one moment saw them. Python: `copy`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn copy(&self) -> Result<Self, Error> {
        Ok(Self { dict: self.dict.copy()? })
    }

    /// The elements, in the order in which they were put in; seen as [`Dict::iter`] sees keys.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    pub fn iter(&self) -> Result<std::vec::IntoIter<T>, Error> {
        Ok(self.dict.keys()?.into_iter())
    }

    /// The elements as one moment saw them all.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    pub fn snapshot(&self) -> Result<HashSet<T>, Error>
    where
        T: Eq + Hash,
    {
        Ok(self.dict.snapshot()?.into_iter().map(|(element, _)| element).collect())
    }
}

impl<T> Serialize for Set<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.dict.serialize(serializer)
    }
}

impl<'de, T: 'static> Deserialize<'de> for Set<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { dict: Dict::deserialize(deserializer)? })
    }
}

/// As a `HashSet`'s, in the order in which they were put in.
impl<T: Serialize + DeserializeOwned + fmt::Debug + 'static> fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.iter() {
            Ok(elements) => f.debug_set().entries(elements).finish(),
            Err(error) => write!(f, "Set({error})"),
        }
    }
}

/// As Python prints a set: `{1, 'two'}`, and `set()` if it is empty.
impl<T: Serialize + DeserializeOwned + 'static> fmt::Display for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.iter() {
            Ok(elements) if elements.len() == 0 => f.write_str("set()"),
            Ok(elements) => {
                for (k, element) in elements.enumerate() {
                    write!(f, "{}{}", if k == 0 { "{" } else { ", " }, Repr(&element))?;
                }
                f.write_str("}")
            }
            Err(error) => write!(f, "<set: {error}>"),
        }
    }
}
