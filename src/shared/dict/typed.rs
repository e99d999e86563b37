//! `Dict`: any serde values under any serde keys.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::core::{Core, DICT, Rule, SHARDS, handle_list, split_handles};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::segment::{Object, ObjectId, Segment, into_kept, type_hash};
use crate::sys::clock::Deadline;

/// A dictionary.
pub struct Dict<K, V> {
    core: Arc<Core>,
    types: PhantomData<fn(K, V) -> (K, V)>,
}

impl<K, V> Clone for Dict<K, V> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), types: PhantomData }
    }
}

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// Makes an empty dictionary in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full.
    pub fn new() -> Result<Self, Error> {
        Self::new_in(&Segment::family()?)
    }

    /// Makes an empty dictionary in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment) -> Result<Self, Error> {
        Self::of(Core::create(segment, &DICT, type_hash::<(K, V)>(), SHARDS)?)
    }

    fn of(core: Core) -> Result<Self, Error> {
        Ok(Self { core: Arc::new(core), types: PhantomData })
    }

    /// Opens a dictionary by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](ErrorKind::TypeMismatch) if it is no dictionary of these types, [`Gone`](ErrorKind::Gone) if it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::of(Core::from_object(segment.open_object(id, &DICT, type_hash::<(K, V)>())?)?)
    }

    /// Its number in its segment.
    pub fn id(&self) -> ObjectId {
        self.object().id()
    }

    fn object(&self) -> &Object {
        &self.core.object
    }

    /// The value of `key`, if it has one. Never blocks.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if the value cannot be decoded; [`Corrupt`](ErrorKind::Corrupt).
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        codec::with_key(key, |key| {
            let mut last = None;
            loop {
                let mut version = 0;
                let received = codec::received(|buffer| match self.core.read(key, buffer) {
                    Ok(Some(seen)) => {
                        version = seen.version;
                        if seen.marked {
                            let rest = split_handles(buffer).map(|(_, rest)| buffer.len() - rest.len());
                            rest.map(|at| drop(buffer.drain(..at))).map_err(Some)
                        } else {
                            Ok(())
                        }
                    }
                    Ok(None) => Err(None),
                    Err(e) => Err(Some(e)),
                });
                return match received {
                    Ok((value, ())) => Ok(Some(value)),
                    Err(Ok(None)) => Ok(None),
                    Err(Ok(Some(e))) => Err(e),
                    // Replaced since it was read, with all that it carried.
                    Err(Err(e)) if e.kind() == ErrorKind::Gone && last != Some(version) => {
                        last = Some(version);
                        continue;
                    }
                    Err(Err(e)) => Err(e),
                };
            }
        })
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec), [`OutOfSpace`](ErrorKind::OutOfSpace): then nothing has changed.
    pub fn set(&self, key: &K, value: &V) -> Result<(), Error> {
        codec::with_key(key, |key| {
            self.encoded(value, |bytes, marked| {
                self.core.put(key, bytes, marked, Rule::Always, Deadline::NEVER, None).map(|_| ())
            })
        })
    }

    /// Gives `f` the encoding of a value, and whether handles stand before it.
    fn encoded<R>(&self, value: &V, f: impl FnOnce(&[u8], bool) -> Result<R, Error>) -> Result<R, Error> {
        if let Some(bytes) = codec::as_bytes(value) {
            return f(bytes, false);
        }
        codec::with_scratch(|buffer| {
            let (encoded, passed) = into_kept(self.object().segment(), || codec::encode(value, buffer));
            encoded?;
            let handles = passed.named(self.object().segment());
            let done = if handles.is_empty() {
                f(buffer, false)
            } else {
                let mut marked = handle_list(&handles);
                marked.extend_from_slice(buffer);
                f(&marked, true)
            };
            match done {
                Ok(_) => passed.sent_in(self.object()),
                Err(_) => passed.withdraw(),
            }
            done
        })
    }

    /// Takes the entry of `key` out; its value.
    ///
    /// # Errors
    /// As [`get`](Self::get); the entry is out.
    pub fn remove(&self, key: &K) -> Result<Option<V>, Error> {
        codec::with_key(key, |key| {
            let mut carried = None;
            let received = codec::received(|buffer| {
                let (done, seen, gone) =
                    self.core.take(key, Rule::Always, Deadline::NEVER, Some(buffer)).map_err(Some)?;
                carried = Some(gone);
                if seen.is_some_and(|seen| seen.marked) {
                    let at = split_handles(buffer).map(|(_, rest)| buffer.len() - rest.len()).map_err(Some)?;
                    buffer.drain(..at);
                }
                if done { Ok(()) } else { Err(None) }
            });
            carried.into_iter().for_each(|gone| self.core.taken(gone));
            match received {
                Ok((value, ())) => Ok(Some(value)),
                Err(Ok(None)) => Ok(None),
                Err(Ok(Some(e)) | Err(e)) => Err(e),
            }
        })
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

impl<K, V> Serialize for Dict<K, V> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.core.object.pass(serializer)
    }
}

impl<'de, K: 'static, V: 'static> serde::Deserialize<'de> for Dict<K, V> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &DICT, |_| type_hash::<(K, V)>())?;
        let core = Core::from_object(object).map_err(serde::de::Error::custom)?;
        Ok(Self { core: Arc::new(core), types: PhantomData })
    }
}
