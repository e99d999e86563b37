//! A dictionary whose keys and values are bytes: no codec, and values can be read in place.

use std::fmt;
use std::sync::Arc;

use super::core::{Core, DICT, Rule, SHARDS};
use crate::error::Error;
use crate::segment::{Object, Segment};
use crate::shared::handle;
use crate::sys::clock::Deadline;

/// A dictionary of byte strings. See [`Dict`](super::Dict) for what it promises.
#[derive(Clone)]
pub struct ByteDict {
    pub(super) core: Arc<Core>,
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
        let core = Core::create(segment, &DICT, crate::segment::type_hash::<Self>(), SHARDS)?;
        Ok(Self { core: Arc::new(core) })
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        Core::from_object(object).map(|core| Self { core: Arc::new(core) })
    }

    fn object(&self) -> &Object {
        &self.core.object
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

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`OutOfSpace`](crate::ErrorKind::OutOfSpace): then nothing has changed.
    #[inline]
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.core.put(key, value, false, Rule::Always, Deadline::NEVER, None).map(|_| ())
    }

    /// Takes the entry of `key` out; whether there was one.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn remove(&self, key: &[u8]) -> Result<bool, Error> {
        let (done, _, carried) = self.core.take(key, Rule::Always, Deadline::NEVER, None)?;
        self.core.taken(carried);
        Ok(done)
    }

    /// Entries, as one moment saw each part.
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
