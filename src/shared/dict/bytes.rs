//! A dictionary whose keys and values are bytes: no codec, and values can be read in place.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::core::{Core, Rule};
use super::kind::{DICT, SHARDS};
use super::refs::ByteRef;
use super::whole::Part;
use crate::error::Error;
use crate::segment::{Object, Segment, ShmSlice};
use crate::shared::handle;
use crate::sys::clock::Deadline;

/// Keys and values, oldest first.
pub type BytePairs = Vec<BytePair>;
/// A key and its value.
pub type BytePair = (Vec<u8>, Vec<u8>);

/// A dictionary of byte strings. See [`Dict`](super::Dict) for what it promises.
///
/// ```
/// use kinfolk::ByteDict;
///
/// let dict = ByteDict::new()?;
/// dict.set(b"key", b"value")?;
/// assert_eq!(dict.get(b"key")?.as_deref(), Some(&b"value"[..]));
/// // Without a copy of the whole:
/// let first = dict.get_with(b"key", |value| value.part(0, 1).read_to_vec())?;
/// assert_eq!(first.as_deref(), Some(&b"v"[..]));
/// # Ok::<(), kinfolk::Error>(())
/// ```
#[derive(Clone)]
pub struct ByteDict {
    pub(super) core: Arc<Core>,
    patience: Option<Duration>,
}

handle!(ByteDict, DICT, "a dictionary of bytes");

impl ByteDict {
    /// Makes an empty dictionary in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn new() -> Result<Self, Error> {
        Self::new_in(&Segment::family()?)
    }

    /// Makes an empty dictionary in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment) -> Result<Self, Error> {
        Ok(Self::of(Core::create(segment, crate::segment::type_hash::<Self>(), SHARDS)?))
    }

    pub(super) fn of(core: Core) -> Self {
        Self { core: Arc::new(core), patience: None }
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        Core::from_object(object).map(Self::of)
    }

    fn object(&self) -> &Object {
        &self.core.object
    }

    /// As [`Dict::with_patience`](super::Dict::with_patience).
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { core: self.core.clone(), patience: Some(patience) }
    }

    #[inline]
    fn deadline(&self) -> Deadline {
        self.patience.map_or(Deadline::NEVER, Deadline::after)
    }

    /// Appends the value of `key` to `value`; whether there is one. Never blocks.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the dictionary's memory holds what nobody can have written.
    #[inline]
    pub fn read(&self, key: &[u8], value: &mut Vec<u8>) -> Result<bool, Error> {
        Ok(self.core.read(key, value)?.is_some())
    }

    /// The value of `key`. Never blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut value = Vec::new();
        Ok(self.read(key, &mut value)?.then_some(value))
    }

    /// Gives `f` the value of `key` where it lies; what `f` says. It does not change as long as `f` runs, whatever others do to
    /// the entry: the memory of one that is replaced or taken out is used again later. Never blocks.
    ///
    /// # Errors
    /// As [`get_ref`](Self::get_ref).
    #[inline]
    pub fn get_with<R>(&self, key: &[u8], f: impl FnOnce(ShmSlice<'_>) -> R) -> Result<Option<R>, Error> {
        Ok(self.get_ref(key)?.map(|value| f(value.slice())))
    }

    /// The value of `key`, which stays where it lies until this is dropped. Never blocks.
    ///
    /// A thread can have 6 in each segment. Others who change the dictionary do not wait: they leave the value's memory alone
    /// until then.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`TooManyRefs`](crate::ErrorKind::TooManyRefs) for the seventh.
    ///
    /// # If a peer dies
    /// Whoever dies with one has dropped it.
    #[inline]
    pub fn get_ref(&self, key: &[u8]) -> Result<Option<ByteRef<'_>>, Error> {
        ByteRef::of(&self.core, key)
    }

    /// Whether `key` has a value, at this moment. Never blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn contains_key(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.core.version(key)?.is_some())
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`OutOfSpace`](crate::ErrorKind::OutOfSpace), [`Stalled`](crate::ErrorKind::Stalled): then
    /// nothing has changed.
    #[inline]
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.put(key, value, Rule::Always, None).map(|_| ())
    }

    /// Sets the value of `key`; the one that it had.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn insert(&self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut old = Vec::new();
        let (_, had) = self.put(key, value, Rule::Always, Some(&mut old))?;
        Ok(had.then_some(old))
    }

    /// Sets the value of `key` if it has none; whether it had none.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn try_insert(&self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        Ok(self.put(key, value, Rule::Absent, None)?.0)
    }

    /// Makes the value of `key` `new`, if it is `old`; `None` stands for no value. Whether it was.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn compare_exchange(&self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error> {
        let rule = old.map_or(Rule::Absent, Rule::Equal);
        match (old, new) {
            (_, Some(new)) => Ok(self.put(key, new, rule, None)?.0),
            (Some(_), None) => Ok(self.core.take(key, rule, self.deadline(), None)?.done),
            (None, None) => Ok(!self.contains_key(key)?),
        }
    }

    /// Makes the value of `key` what `f` makes of it, in one step; `None` stands for no value. The value that it has then. See
    /// [`Dict::update`](super::Dict::update).
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn update(
        &self,
        key: &[u8],
        mut f: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut old = Vec::new();
        loop {
            old.clear();
            let version = self.core.read(key, &mut old)?.map(|(seen, _)| seen.version);
            let rule = version.map_or(Rule::Absent, Rule::Version);
            let new = f(version.map(|_| old.as_slice()));
            let done = match (&new, version) {
                (Some(new), _) => self.put(key, new, rule, None)?.0,
                (None, Some(_)) => self.core.take(key, rule, self.deadline(), None)?.done,
                (None, None) => true,
            };
            if done {
                return Ok(new);
            }
        }
    }

    #[inline]
    fn put(&self, key: &[u8], value: &[u8], rule: Rule<'_>, old: Option<&mut Vec<u8>>) -> Result<(bool, bool), Error> {
        let change = self.core.put(key, value, false, rule, self.deadline(), old)?;
        Ok((change.done, change.old.is_some()))
    }

    /// Takes the entry of `key` out; whether there was one.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Stalled`](crate::ErrorKind::Stalled).
    pub fn remove(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.core.take(key, Rule::Always, self.deadline(), None)?.done)
    }

    /// Takes the entry of `key` out; its value.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn pop(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut old = Vec::new();
        let change = self.core.take(key, Rule::Always, self.deadline(), Some(&mut old))?;
        Ok(change.done.then_some(old))
    }

    /// Takes the entry out whose key was put in last.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn popitem(&self) -> Result<Option<BytePair>, Error> {
        let taken = self.core.take_last(self.deadline())?;
        Ok(taken.and_then(|items| items.iter().next().map(|(key, value, _)| (key.to_vec(), value.to_vec()))))
    }

    /// Takes everything out, shard by shard.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn clear(&self) -> Result<(), Error> {
        self.core.clear(self.deadline())
    }

    /// The keys, oldest first, as [`Dict::iter`](super::Dict::iter) sees them.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, Error> {
        let items = self.core.items(Part::Keys, self.deadline())?;
        Ok(items.iter().map(|(key, ..)| key.to_vec()).collect())
    }

    /// The entries, oldest first, as [`Dict::iter`](super::Dict::iter) sees them.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn items(&self) -> Result<BytePairs, Error> {
        let items = self.core.items(Part::All, self.deadline())?;
        Ok(items.iter().map(|(key, value, _)| (key.to_vec(), value.to_vec())).collect())
    }

    /// The entries, oldest first, as one moment saw them all. See [`Dict::snapshot`](super::Dict::snapshot).
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn snapshot(&self) -> Result<BytePairs, Error> {
        let items = self.core.snapshot(self.deadline())?;
        Ok(items.iter().map(|(key, value, _)| (key.to_vec(), value.to_vec())).collect())
    }

    /// Entries, as one moment saw each shard. What a process changed that died in the change is counted once somebody else
    /// changes that shard, or reads all of it.
    pub fn len(&self) -> usize {
        self.core.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for ByteDict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByteDict({} entries)", self.len())
    }
}
