//! What is in a dictionary, one after the other and as text.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::carried::decode_value;
use super::super::repr::{Repr, as_text};
use super::Dict;
use super::whole::{Items, Part};
use crate::error::Error;

/// Decodes a key.
pub(in crate::shared) fn decode_key<K: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<K, Error> {
    decode_value(bytes, false)
}

/// The entries of a dictionary, oldest first, as [`Dict::iter`] read them. They are decoded one by one.
pub struct Iter<K, V> {
    items: Items,
    next: usize,
    end: usize,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Iter<K, V> {
    pub(super) fn new(items: Items) -> Self {
        Self { next: 0, end: items.len(), items, types: PhantomData }
    }
}

impl<K: DeserializeOwned + 'static, V: DeserializeOwned + 'static> Iter<K, V> {
    fn decode(&self, k: usize) -> Result<(K, V), Error> {
        let (key, value, seen) = self.items.get(k);
        Ok((decode_key(key)?, decode_value(value, seen.marked)?))
    }
}

impl<K: DeserializeOwned + 'static, V: DeserializeOwned + 'static> Iterator for Iter<K, V> {
    type Item = Result<(K, V), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            return None;
        }
        self.next += 1;
        Some(self.decode(self.next - 1))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl<K: DeserializeOwned + 'static, V: DeserializeOwned + 'static> DoubleEndedIterator for Iter<K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            return None;
        }
        self.end -= 1;
        Some(self.decode(self.end))
    }
}

impl<K: DeserializeOwned + 'static, V: DeserializeOwned + 'static> ExactSizeIterator for Iter<K, V> {}

impl<K, V> fmt::Debug for Iter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iter({} entries)", self.end - self.next)
    }
}

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// The entries, in the order in which their keys were put in; [`rev`](Iterator::rev) begins with the newest.
    ///
    /// They are read now, encoded, and decoded as you go on: changes after this call are not seen, and none ends the
    /// iteration (Python raises `RuntimeError` when the size changes). What is seen is *weakly* consistent: each shard is
    /// as it was at one moment, and different shards at different moments during this call. So an entry that is there all
    /// the time is seen exactly once; one that is put in, replaced or taken out during the call is seen as it was or as it
    /// is; a key that is taken out and put in again is not seen twice; and of two changes to keys of different shards, the
    /// later may be seen without the earlier. For one moment of all shards see [`snapshot`](Self::snapshot).
    ///
    /// A shard that changes all the time is locked while it is read, after four tries.
    ///
    /// Python: `iter(d)`, `d.items()`, `reversed(d)`.
    ///
    /// # Errors
    /// [`Stalled`](crate::ErrorKind::Stalled), [`Corrupt`](crate::ErrorKind::Corrupt); each item may be an error of kind
    /// [`Codec`](crate::ErrorKind::Codec).
    #[doc(alias = "reversed")]
    pub fn iter(&self) -> Result<Iter<K, V>, Error> {
        Ok(Iter::new(self.core.items(Part::All, self.deadline())?))
    }

    /// The entries as one moment saw them all, in the order in which their keys were put in.
    ///
    /// It reads until nothing has changed meanwhile; after four tries in vain it locks all shards while it reads, so that all
    /// who change the dictionary wait. A process that is killed then holds nobody up.
    ///
    /// # Errors
    /// As [`iter`](Self::iter), and [`Codec`](crate::ErrorKind::Codec).
    pub fn snapshot(&self) -> Result<Vec<(K, V)>, Error> {
        Iter::new(self.core.snapshot(self.deadline())?).collect()
    }

    /// The entries, as [`iter`](Self::iter) sees them. Python: `d.items()`.
    ///
    /// # Errors
    /// As [`iter`](Self::iter), and [`Codec`](crate::ErrorKind::Codec).
    pub fn items(&self) -> Result<Vec<(K, V)>, Error> {
        self.iter()?.collect()
    }

    /// The keys, as [`iter`](Self::iter) sees them. Values are not read. Python: `d.keys()`.
    ///
    /// # Errors
    /// As [`items`](Self::items).
    pub fn keys(&self) -> Result<Vec<K>, Error> {
        let items = self.core.items(Part::Keys, self.deadline())?;
        items.iter().map(|(key, ..)| decode_key(key)).collect()
    }

    /// The values, as [`iter`](Self::iter) sees them. Python: `d.values()`.
    ///
    /// # Errors
    /// As [`items`](Self::items).
    pub fn values(&self) -> Result<Vec<V>, Error> {
        let items = self.core.items(Part::All, self.deadline())?;
        items.iter().map(|(_, value, seen)| decode_value(value, seen.marked)).collect()
    }
}

/// As a `HashMap`'s, in the order of the entries. A dictionary that is a value of another one says how many it has.
impl<K, V> fmt::Debug for Dict<K, V>
where
    K: Serialize + DeserializeOwned + fmt::Debug + 'static,
    V: Serialize + DeserializeOwned + fmt::Debug + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        as_text(|inside| match self.items() {
            _ if inside => write!(f, "Dict({} entries)", self.len()),
            Ok(items) => f.debug_map().entries(items.iter().map(|(k, v)| (k, v))).finish(),
            Err(error) => write!(f, "Dict({error})"),
        })
    }
}

/// As Python prints a dict: `{1: 'one', 'two': None}`. Variants of an enum are printed as what is in them, so that an enum of
/// types looks like the values; handles as `<object 7>`.
impl<K, V> fmt::Display for Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.items() {
            Ok(items) => {
                f.write_str("{")?;
                for (k, (key, value)) in items.iter().enumerate() {
                    let comma = if k == 0 { "" } else { ", " };
                    write!(f, "{comma}{}: {}", Repr(key), Repr(value))?;
                }
                f.write_str("}")
            }
            Err(error) => write!(f, "<dict: {error}>"),
        }
    }
}
