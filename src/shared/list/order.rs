//! The order of a list, and which of its elements stay.

use std::cmp::Ordering;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::List;
use super::core::{Edit, Take};
use crate::error::Error;

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// Sorts the list; elements that are equal stay in order. Python: `sort()`.
    ///
    /// # Errors
    /// As [`sort_by`](Self::sort_by).
    pub fn sort(&self) -> Result<(), Error>
    where
        T: Ord,
    {
        self.sort_by(T::cmp)
    }

    /// Sorts the list by a comparison; elements that are equal stay in order. It compares what it has read while others go on,
    /// and begins anew if they have changed the list meanwhile; if `compare` panics, nothing has changed.
    ///
    /// # Errors
    /// [`Codec`](crate::ErrorKind::Codec) if a value cannot be decoded; [`OutOfSpace`](crate::ErrorKind::OutOfSpace).
    pub fn sort_by(&self, mut compare: impl FnMut(&T, &T) -> Ordering) -> Result<(), Error> {
        self.arrange(|values, order| order.sort_by(|a, b| compare(&values[*a as usize], &values[*b as usize])))
    }

    /// Sorts the list by a key, which is made once of each element. Python: `sort(key=f)`; for `reverse=True` use
    /// [`std::cmp::Reverse`].
    ///
    /// # Errors
    /// As [`sort_by`](Self::sort_by).
    pub fn sort_by_key<K: Ord>(&self, mut key: impl FnMut(&T) -> K) -> Result<(), Error> {
        self.arrange(|values, order| {
            let keys: Vec<K> = values.iter().map(&mut key).collect();
            order.sort_by(|a, b| keys[*a as usize].cmp(&keys[*b as usize]));
        })
    }

    /// Keeps the elements for which `f` is true, and takes out the others, all at once. `f` runs as
    /// [`sort_by`](Self::sort_by)'s comparison does.
    ///
    /// # Errors
    /// As [`sort_by`](Self::sort_by).
    pub fn retain(&self, mut f: impl FnMut(&T) -> bool) -> Result<(), Error> {
        self.arrange(|values, order| order.retain(|k| f(&values[*k as usize])))
    }

    /// Puts the elements in the order that `f` makes of the indices, and takes out those that it leaves out.
    fn arrange(&self, mut f: impl FnMut(&[T], &mut Vec<u32>)) -> Result<(), Error> {
        loop {
            let (values, changes) = self.values()?;
            let mut order: Vec<u32> = (0..values.len() as u32).collect();
            f(&values, &mut order);
            let is_as_before = order.len() == values.len() && order.is_sorted();
            let doomed = |editing: &Edit<'_, '_>, take: Take<'_>| {
                let mut stays = vec![false; values.len()];
                order.iter().for_each(|k| stays[*k as usize] = true);
                (0..).zip(stays).filter(|(_, stays)| !stays).try_for_each(|(k, _)| take(editing.element(k)?))
            };
            let (done, _arrived) = self.core.take_out(self.deadline(), doomed, |editing| {
                if editing.changes() != changes {
                    return Ok(false);
                }
                if !is_as_before {
                    editing.rearrange(&order)?;
                }
                Ok(true)
            })?;
            if done {
                return Ok(());
            }
        }
    }

    /// Turns the list round. Python: `reverse()`.
    ///
    /// # Errors
    /// [`OutOfSpace`](crate::ErrorKind::OutOfSpace), [`Corrupt`](crate::ErrorKind::Corrupt).
    pub fn reverse(&self) -> Result<(), Error> {
        self.core.edit(self.deadline(), |editing| {
            let len = editing.len()?;
            let order: Vec<u32> = (0..len as u32).rev().collect();
            if len > 1 { editing.rearrange(&order) } else { Ok(()) }
        })
    }
}
