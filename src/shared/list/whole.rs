//! Parts of a list, and all of it.

use std::borrow::Borrow;
use std::ops::RangeBounds;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::List;
use super::core::{Edit, Take};
use super::place::part;
use super::value::decode_all;
use crate::error::{Error, ErrorKind};
use crate::segment::Storage;
use crate::store::{ElementDraft, MAX_ELEMENTS};
use crate::sys::clock::Deadline;

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// All values, as one moment had them. Python: `list[:]`.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if a value cannot be decoded; [`Corrupt`](ErrorKind::Corrupt).
    #[doc(alias = "snapshot")]
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        self.slice(..)
    }

    /// The values of a range, as one moment had them; what of it is beyond the ends is not there. Python: `list[a:b]`.
    ///
    /// Clippy takes a literal `1..-1` for an empty range (`reversed_empty_ranges`), which it is not here.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn slice(&self, range: impl RangeBounds<isize>) -> Result<Vec<T>, Error> {
        decode_all(&self.core.read(self.deadline(), &|len| part(&range, len))?)
    }

    /// Puts values behind all others, all at once. Python: `extend`, `+=`.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec), [`OutOfSpace`](ErrorKind::OutOfSpace): then nothing has changed.
    pub fn extend(&self, values: impl IntoIterator<Item: Borrow<T>>) -> Result<(), Error> {
        let batch = self.batch(values)?;
        batch.put(&self.core, |drafts| {
            self.core.edit(self.deadline(), |editing| {
                let len = editing.len()?;
                editing.splice(len, len, drafts).map(|()| (true, ()))
            })
        })
    }

    /// Puts values in place of those of a range, all at once; there may be more or fewer. Python: `list[a:b] = values`.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn set_slice(
        &self,
        range: impl RangeBounds<isize>,
        values: impl IntoIterator<Item: Borrow<T>>,
    ) -> Result<(), Error> {
        let batch = self.batch(values)?;
        batch.put(&self.core, |drafts| self.replace(&range, drafts).map(|()| (true, ())))
    }

    fn replace(
        &self,
        range: &impl RangeBounds<isize>,
        drafts: Vec<ElementDraft<'_, Storage<'_>>>,
    ) -> Result<(), Error> {
        let at = |editing: &Edit<'_, '_>| editing.len().map(|len| part(range, len));
        let doomed = |editing: &Edit<'_, '_>, take: Take<'_>| at(editing)?.try_for_each(|k| take(editing.element(k)?));
        let ((), _arrived) = self.core.take_out(self.deadline(), doomed, |editing| {
            let range = at(editing)?;
            editing.splice(range.start, range.end, drafts)
        })?;
        Ok(())
    }

    /// Takes the elements of a range out, all at once. Python: `del list[a:b]`.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn remove_range(&self, range: impl RangeBounds<isize>) -> Result<(), Error> {
        self.replace(&range, Vec::<ElementDraft<'_, Storage<'_>>>::new())
    }

    /// Takes all elements out but the first `len`. Python: `del list[len:]`.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt).
    pub fn truncate(&self, len: usize) -> Result<(), Error> {
        self.remove_range(isize::try_from(len).unwrap_or(isize::MAX)..)
    }

    /// Takes all elements out. Python: `clear`.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt).
    pub fn clear(&self) -> Result<(), Error> {
        let doomed =
            |editing: &Edit<'_, '_>, take: Take<'_>| (0..editing.len()?).try_for_each(|k| take(editing.element(k)?));
        self.core.take_out(self.deadline(), doomed, |editing| editing.clear()).map(drop)
    }

    /// Makes the list `times` times as long, by repeating its values. Python: `*=`.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn repeat(&self, times: usize) -> Result<(), Error> {
        if times == 0 {
            return self.clear();
        }
        loop {
            let elements = self.core.read(self.deadline(), &|len| 0..len)?;
            let (storage, lane) = (self.core.storage(), self.core.lane()?);
            let count = elements.len().saturating_mul(times - 1);
            if count as u64 > MAX_ELEMENTS {
                let message = format!("{} elements {times} times", elements.len());
                return Err(Error::new(ErrorKind::OutOfSpace, "repeat list", message));
            }
            let mut drafts = Vec::with_capacity(count);
            for (bytes, marked) in (1..times).flat_map(|_| elements.iter()) {
                drafts.push(ElementDraft::new(&storage, lane, bytes, marked)?);
            }
            let done = self.core.edit(self.deadline(), |editing| {
                let len = editing.len()?;
                if editing.changes() != elements.changes {
                    return Ok(false);
                }
                editing.splice(len, len, drafts).map(|()| true)
            })?;
            if done {
                return Ok(());
            }
        }
    }

    /// The first index at which an element equals `value`, as one moment had them. Python: `index(value)`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn index(&self, value: &T) -> Result<Option<usize>, Error>
    where
        T: PartialEq,
    {
        self.index_in(value, ..)
    }

    /// The first index of a range at which an element equals `value`. Python: `index(value, start, stop)`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn index_in(&self, value: &T, range: impl RangeBounds<isize>) -> Result<Option<usize>, Error>
    where
        T: PartialEq,
    {
        // The range's begin as the same moment saw it.
        let begin = std::cell::Cell::new(0);
        let elements = self.core.read(self.deadline(), &|len| {
            let part = part(&range, len);
            begin.set(part.start as usize);
            part
        })?;
        let values: Vec<T> = decode_all(&elements)?;
        Ok(values.iter().position(|found| found == value).map(|k| begin.get() + k))
    }

    /// How many elements equal `value`, as one moment had them. Python: `count(value)`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn count(&self, value: &T) -> Result<usize, Error>
    where
        T: PartialEq,
    {
        Ok(self.to_vec()?.iter().filter(|found| *found == value).count())
    }

    /// Whether an element equals `value`. Python: `value in list`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    #[doc(alias = "in")]
    pub fn contains(&self, value: &T) -> Result<bool, Error>
    where
        T: PartialEq,
    {
        Ok(self.index(value)?.is_some())
    }

    /// Takes the first element out that equals `value`; false if none does. Looks again if the list changes meanwhile.
    /// Python: `remove(value)`, which raises `ValueError` then.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn remove(&self, value: &T) -> Result<bool, Error>
    where
        T: PartialEq,
    {
        loop {
            let (values, changes) = self.values()?;
            let Some(index) = values.iter().position(|found| found == value) else { return Ok(false) };
            let index = index as u64;
            let doomed = |editing: &Edit<'_, '_>, take: Take<'_>| take(editing.element(index)?);
            let (done, _arrived) = self.core.take_out(self.deadline(), doomed, |editing| {
                let same = editing.changes() == changes;
                if same {
                    editing.remove(index, index + 1)?;
                }
                Ok(same)
            })?;
            if done {
                return Ok(true);
            }
        }
    }
}

impl<T> List<T> {
    /// A number that is another after each change, for [`wait_changed`](Self::wait_changed).
    pub fn changes(&self) -> u64 {
        self.core.changes()
    }

    /// Waits until the list has changed since [`changes`](Self::changes) was `since`; what it is now. Returns at once if it has
    /// already. Of changes that follow one another it may see only the last. A death of others ends no wait and
    /// needs none: what the dead had changed is told by the next who looks, at the latest after 64 ms.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt).
    #[doc(alias = "watch")]
    pub fn wait_changed(&self, since: u64) -> Result<u64, Error> {
        let now = self.core.wait_changed(since, Deadline::NEVER)?;
        Ok(now.unwrap_or_else(|| unreachable!("a deadline that never comes")))
    }

    /// As [`wait_changed`](Self::wait_changed), at most `timeout`; `None` if nothing has changed. With a time-out of 0
    /// it only looks.
    ///
    /// # Errors
    /// As [`wait_changed`](Self::wait_changed).
    pub fn wait_changed_timeout(&self, since: u64, timeout: Duration) -> Result<Option<u64>, Error> {
        self.core.wait_changed(since, Deadline::after(timeout))
    }

    /// As [`wait_changed`](Self::wait_changed), without waiting.
    pub fn try_wait_changed(&self, since: u64) -> Option<u64> {
        Some(self.changes()).filter(|now| *now != since)
    }
}
