//! `Dict`: any serde values under any serde keys.

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::carried::{received, with_encoded};
use super::build::DictBuilder;
use super::core::{Core, Rule, Seen};
use super::error::{InsertError, SetError};
use super::kind::DICT;
use super::views::Iter;
use crate::codec;
use crate::error::Error;
use crate::segment::{Object, ObjectId, Segment, type_hash};
use crate::sys::clock::Deadline;

/// A dictionary: any serde values under any serde keys, for all processes that have a handle.
///
/// Whoever reads takes no lock and waits for nobody. Whoever changes an entry locks one part of the dictionary (a *shard*) for
/// the time of a copy; encoding, decoding and your functions run outside of it. An entry is replaced as a whole: a reader
/// sees the old value or the new one.
///
/// Entries keep the order in which their keys were put in: replacing a value keeps its place, taking a key out and putting it
/// in again moves it to the end, as in Python.
///
/// # One call is atomic, two are not
/// Between a [`get`](Self::get) and a [`set`](Self::set) another process may set the same key, and what it set is lost:
///
/// ```
/// # use kinfolk::Dict;
/// # let d: Dict<String, u64> = Dict::from_pairs([("hits".to_owned(), 0)])?;
/// d.set("hits", &(d.get("hits")?.unwrap_or(0) + 1))?;                   // wrong beside others
/// d.update("hits", |n| Some(n.unwrap_or(0) + 1))?;                      // right
/// d.entry("hits".to_owned()).and_modify(|n| *n += 1).or_insert(1)?;     // the same
/// # assert_eq!(d.get("hits")?, Some(3));
/// # Ok::<(), kinfolk::Error>(())
/// ```
///
/// # Keys
/// A key is its encoding: keys that are encoded alike are one key. So the encoding must follow from what you regard as equal.
/// It does for numbers, text, tuples, structs, enums, vectors and `BTreeMap`s of such; it does not for a `HashMap` or a
/// `HashSet`, whose order is random. Keys of several types are an enum. Floats are told apart by their bits: `0.0` and `-0.0`
/// are two keys, and a NaN is found again, if its bits are the same. A handle cannot be a key. As in `HashMap`, a key can be
/// given as what it is borrowed as (`&str` for a `String`), which must be encoded alike.
///
/// # Values
/// A value is encoded by [postcard](https://docs.rs/postcard), a `Vec<u8>` as it is. What you get is a copy: to change it is
/// not to change the dictionary. Values can be handles, or contain them: queues, locks, other dictionaries, itself. An object
/// lives as long as a process has it open or an entry names it; dictionaries that contain each other in a circle keep each
/// other, until one is emptied. An open descriptor ([`Fd`](crate::channel::Fd)) can be got out only once.
///
/// # If a peer dies
/// A process that is killed while it changes an entry has changed it, or it has not; nobody has to repair anything, and whoever
/// waits for its lock goes on. Objects that only the dead had open, and that no entry names, are gone.
///
/// A process that is only *stopped* while it holds the lock of a shard keeps it, and others wait for it when they change an
/// entry there, for a time that [`with_patience`](Self::with_patience) limits; readers do not.
///
/// Python: `Manager().dict()`, without a server: `DictProxy`.
///
/// ```
/// use kinfolk::{Dict, Process};
///
/// let squares: Dict<u32, u64> = Dict::new()?;
/// let work = |(squares, from): (Dict<u32, u64>, u32)| {
///     for k in from..from + 5 {
///         squares.set(&k, &u64::from(k * k)).unwrap();
///     }
/// };
/// let children = [Process::spawn(work, (squares.clone(), 0))?, Process::spawn(work, (squares.clone(), 5))?];
/// for child in children {
///     child.join()?;
/// }
/// assert_eq!(squares.len(), 10);
/// assert_eq!(squares.get(&7)?, Some(49));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "DictProxy")]
#[doc(alias = "HashMap")]
pub struct Dict<K, V> {
    pub(super) core: Arc<Core>,
    patience: Option<Duration>,
    types: PhantomData<Types<K, V>>,
}

/// Says to the compiler that a dictionary takes and gives these.
type Types<K, V> = fn(K, V) -> (K, V);

impl<K, V> Clone for Dict<K, V> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), patience: self.patience, types: PhantomData }
    }
}

impl<K, V> Dict<K, V> {
    pub(super) fn of(core: Core) -> Self {
        Self { core: Arc::new(core), patience: None, types: PhantomData }
    }

    pub(super) fn object(&self) -> &Object {
        &self.core.object
    }

    /// Its number in its segment.
    pub fn id(&self) -> ObjectId {
        self.object().id()
    }

    /// Entries, as one moment saw each shard. What a process changed that died in the change is counted once somebody else
    /// changes that shard, or reads all of it.
    #[doc(alias = "__len__")]
    pub fn len(&self) -> usize {
        self.core.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A handle whose changes wait at most so long for the lock of a process that does not run: then they fail with
    /// [`ErrorKind::Stalled`](crate::ErrorKind::Stalled), which names it. Without, they wait until it goes on or has died. Zero never waits.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let patient: kinfolk::Dict<u32, u32> = kinfolk::Dict::new()?;
    /// let hasty = patient.with_patience(Duration::from_millis(50));
    /// hasty.set(&1, &1)?;
    /// # Ok::<(), kinfolk::Error>(())
    /// ```
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self.clone() }
    }

    #[inline]
    pub(super) fn deadline(&self) -> Deadline {
        self.patience.map_or(Deadline::NEVER, Deadline::after)
    }
}

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// Makes an empty dictionary in the family's segment. It has 16 shards, and takes 33 KiB before it grows.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Makes an empty dictionary in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment) -> Result<Self, Error> {
        Self::builder().segment(segment).build()
    }

    /// Makes one in another way.
    pub fn builder() -> DictBuilder<K, V> {
        DictBuilder::new()
    }

    /// Makes a dictionary of these entries. Python: `dict(pairs)`.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Codec`](crate::ErrorKind::Codec).
    pub fn from_pairs(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, Error> {
        let dict = Self::new()?;
        dict.extend(pairs)?;
        Ok(dict)
    }

    /// Makes a dictionary with one value under all these keys. Python: `dict.fromkeys(keys, value)`.
    ///
    /// # Errors
    /// As [`from_pairs`](Self::from_pairs).
    #[doc(alias = "fromkeys")]
    pub fn from_keys(keys: impl IntoIterator<Item = K>, value: &V) -> Result<Self, Error> {
        let dict = Self::new()?;
        keys.into_iter().try_for_each(|key| dict.set(&key, value))?;
        Ok(dict)
    }

    /// Opens a dictionary by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is no dictionary of these types, [`Gone`](crate::ErrorKind::Gone) if it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Ok(Self::of(Core::from_object(segment.open_object(id, &DICT, type_hash::<(K, V)>())?)?))
    }

    /// The value of `key`, if it has one. Never blocks. Python: `d.get(key)`.
    ///
    /// # Errors
    /// [`Codec`](crate::ErrorKind::Codec) if the value cannot be decoded; [`Corrupt`](crate::ErrorKind::Corrupt).
    #[doc(alias = "__getitem__")]
    pub fn get<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<Option<V>, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| Ok(self.look_up(key)?.map(|(value, _)| value)))
    }

    /// The value of `key`, or this one. Python: `d.get(key, default)`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_or<Q: Serialize + ?Sized>(&self, key: &Q, default: V) -> Result<V, Error>
    where
        K: Borrow<Q>,
    {
        Ok(self.get(key)?.unwrap_or(default))
    }

    /// Whether `key` has a value, at this moment. Never blocks. Python: `key in d`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt).
    #[doc(alias = "__contains__")]
    #[doc(alias = "has_key")]
    pub fn contains_key<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<bool, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| Ok(self.core.version(key)?.is_some()))
    }

    /// Sets the value of `key`. Python: `d[key] = value`.
    ///
    /// # Errors
    /// [`Codec`](crate::ErrorKind::Codec), [`OutOfSpace`](crate::ErrorKind::OutOfSpace), [`Stalled`](crate::ErrorKind::Stalled): then nothing
    /// has changed.
    #[doc(alias = "__setitem__")]
    pub fn set<Q: Serialize + ?Sized>(&self, key: &Q, value: &V) -> Result<(), Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| {
            self.encoded(value, |bytes, marked| {
                self.core.put(key, bytes, marked, Rule::Always, self.deadline(), None).map(|_| (true, ()))
            })
        })
    }

    /// Sets the value of `key`; the one that it had. If only that cannot be decoded, the error is
    /// [`Codec`](crate::ErrorKind::Codec), and the new value is in.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn insert<Q: Serialize + ?Sized>(&self, key: &Q, value: &V) -> Result<Option<V>, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| {
            let old = self.encoded(value, |bytes, marked| {
                let mut is_in = false;
                let old = Self::received(|buffer| {
                    let change = self.core.put(key, bytes, marked, Rule::Always, self.deadline(), Some(buffer))?;
                    is_in = true;
                    Ok(change.old.map(|seen| (seen, change)))
                });
                Ok((is_in, old))
            })?;
            Ok(old?.map(|(value, ..)| value))
        })
    }

    /// Puts `value` in if `key` has none.
    ///
    /// # Errors
    /// [`InsertError`], with both: the key has a value, or as for [`set`](Self::set).
    pub fn try_insert(&self, key: K, value: V) -> Result<(), InsertError<K, V>> {
        match codec::with_key::<K, _, _>(&key, |key| self.put(key, &value, Rule::Absent)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(InsertError::Occupied(key, value)),
            Err(error) => Err(InsertError::Failed(SetError::new((key, value), error))),
        }
    }

    /// The value of `key`; if it has none, `default` is put in. Python: `d.setdefault(key, default)`.
    ///
    /// # Errors
    /// As [`set`](Self::set), with `default`.
    pub fn setdefault<Q: Serialize + ?Sized>(&self, key: &Q, default: V) -> Result<V, SetError<V>>
    where
        K: Borrow<Q>,
    {
        self.change_or_insert(key, || default, None)
    }

    /// Takes the entry of `key` out; its value. Python: `d.pop(key, None)`.
    ///
    /// # Errors
    /// As [`get`](Self::get), and then the entry is out; [`Stalled`](crate::ErrorKind::Stalled), and it is not.
    #[doc(alias = "pop")]
    #[doc(alias = "__delitem__")]
    pub fn remove<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<Option<V>, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| {
            let taken = Self::received(|buffer| {
                let change = self.core.take(key, Rule::Always, self.deadline(), Some(buffer))?;
                Ok(change.old.map(|seen| (seen, change)))
            });
            Ok(taken?.map(|(value, ..)| value))
        })
    }

    /// As [`remove`](Self::remove), without its value: whether there was one. Python: `del d[key]`.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn discard<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<bool, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| Ok(self.core.take(key, Rule::Always, self.deadline(), None)?.done))
    }

    /// Takes the entry of `key` out; its value, or `default`. Python: `d.pop(key, default)`.
    ///
    /// # Errors
    /// As [`remove`](Self::remove), with `default`.
    pub fn pop_or<Q: Serialize + ?Sized>(&self, key: &Q, default: V) -> Result<V, SetError<V>>
    where
        K: Borrow<Q>,
    {
        match self.remove(key) {
            Ok(value) => Ok(value.unwrap_or(default)),
            Err(error) => Err(SetError::new(default, error)),
        }
    }

    /// Takes the entry out whose key was put in last. Python: `d.popitem()`.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    #[doc(alias = "pop_last")]
    pub fn popitem(&self) -> Result<Option<(K, V)>, Error> {
        let taken = self.core.take_last(self.deadline())?;
        taken.and_then(|items| Iter::new(items).next()).transpose()
    }

    /// Puts `value` in if `key` has none; whether it had none.
    pub(in crate::shared) fn put_new<Q: Serialize + ?Sized>(&self, key: &Q, value: &V) -> Result<bool, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| self.put(key, value, Rule::Absent))
    }

    /// The value of an encoded key, and the version of its entry.
    #[inline]
    pub(super) fn look_up(&self, key: &[u8]) -> Result<Option<(V, u64)>, Error> {
        let found = Self::received(|buffer| self.core.read(key, buffer))?;
        Ok(found.map(|(value, seen, _)| (value, seen.version)))
    }

    /// Puts a value in for an encoded key, if its entry is as `rule` says; whether it was.
    pub(super) fn put(&self, key: &[u8], value: &V, rule: Rule<'_>) -> Result<bool, Error> {
        self.encoded(value, |bytes, marked| {
            let done = self.core.put(key, bytes, marked, rule, self.deadline(), None)?.done;
            Ok((done, done))
        })
    }

    /// Decodes what `read` appends to a buffer; with it comes what else it says, and that lives until then.
    #[inline]
    fn received<N>(
        read: impl FnOnce(&mut Vec<u8>) -> Result<Option<(Seen, N)>, Error>,
    ) -> Result<Option<(V, Seen, N)>, Error> {
        let found = received(|buffer| Ok(read(buffer)?.map(|(seen, news)| (seen.marked, (seen, news)))))?;
        Ok(found.map(|(value, (seen, news))| (value, seen, news)))
    }

    /// Gives `f` the encoding of a value, and whether handles stand before it. It says whether the value is in now.
    #[inline]
    pub(super) fn encoded<R>(
        &self,
        value: &V,
        f: impl FnOnce(&[u8], bool) -> Result<(bool, R), Error>,
    ) -> Result<R, Error> {
        if let Some(bytes) = codec::as_bytes(value) {
            return f(bytes, false).map(|(_, r)| r);
        }
        with_encoded(self.object(), |_| (), value, f)
    }
}

impl<K, V> Serialize for Dict<K, V> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.core.object.pass(serializer)
    }
}

impl<'de, K: 'static, V: 'static> serde::Deserialize<'de> for Dict<K, V> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &DICT, |_| type_hash::<(K, V)>())?;
        Core::from_object(object).map(Self::of).map_err(serde::de::Error::custom)
    }
}
