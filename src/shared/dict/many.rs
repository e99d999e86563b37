//! Changes of many entries of a dictionary, one after the other, and dictionaries made of others.

use std::ops::BitOr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::carried::decode_value;
use super::Dict;
use super::core::{Core, Rule};
use super::views::decode_key;
use super::whole::Part;
use crate::error::Error;
use crate::segment::type_hash;

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// Takes everything out, shard by shard: what others put in meanwhile may stay.
    ///
    /// # Errors
    /// [`Stalled`](crate::ErrorKind::Stalled), [`Corrupt`](crate::ErrorKind::Corrupt): then some may be out.
    pub fn clear(&self) -> Result<(), Error> {
        self.core.clear(self.deadline())
    }

    /// Sets all these, one after the other. Python: `d.update(pairs)`.
    ///
    /// # Errors
    /// As [`set`](Self::set); those before are in.
    pub fn extend(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<(), Error> {
        pairs.into_iter().try_for_each(|(key, value)| self.set(&key, &value))
    }

    /// Sets all entries of another dictionary, one after the other. Python: `d.update(other)`, `d |= other`.
    ///
    /// # Errors
    /// As [`set`](Self::set); those before are in.
    #[doc(alias = "update")]
    #[doc(alias = "__ior__")]
    pub fn update_from(&self, other: &Self) -> Result<(), Error> {
        let items = other.core.snapshot(other.deadline())?;
        for (key, bytes, seen) in items.iter() {
            // Handles have to be encoded anew: they may be of another segment.
            let value: V = decode_value(bytes, seen.marked)?;
            self.put(key, &value, Rule::Always)?;
        }
        Ok(())
    }

    /// A new dictionary in the same segment with the entries of this one, as one moment saw them. Python: `d.copy()`.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`snapshot`](Self::snapshot).
    #[doc(alias = "clone")]
    pub fn copy(&self) -> Result<Self, Error> {
        let copy = Self::of(Core::create_beside(&self.core, type_hash::<(K, V)>())?);
        copy.update_from(self)?;
        Ok(copy)
    }

    /// A [`copy`](Self::copy) of this one, with the entries of the other on top; also `&d | &other`. Python: `d | other`.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    #[doc(alias = "__or__")]
    pub fn merged(&self, other: &Self) -> Result<Self, Error> {
        let merged = self.copy()?;
        merged.update_from(other)?;
        Ok(merged)
    }

    /// Takes out what `keep` does not want. Each entry is shown as it is; if it is replaced meanwhile, it is shown again.
    /// `keep` runs outside of all locks.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`set`](Self::set); some may be out.
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) -> Result<(), Error> {
        let items = self.core.items(Part::All, self.deadline())?;
        for (bytes, value, seen) in items.iter() {
            let key: K = decode_key(bytes)?;
            let mut now = Some((decode_value(value, seen.marked)?, seen.version));
            while let Some((value, version)) = now {
                if keep(&key, &value) || self.core.take(bytes, Rule::Version(version), self.deadline(), None)?.done {
                    break;
                }
                now = self.look_up(bytes)?;
            }
        }
        Ok(())
    }
}

impl<K, V> BitOr for &Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    type Output = Result<Dict<K, V>, Error>;

    /// As [`merged`](Dict::merged). What Python's `d |= other` does is [`update_from`](Dict::update_from): an operator that
    /// assigns could not say that it failed.
    fn bitor(self, other: Self) -> Self::Output {
        self.merged(other)
    }
}
