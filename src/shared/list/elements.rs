//! One element at a time.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::carried::received;
use super::core::{Edit, Take};
use super::place::{ListIndex, clamp, resolve};
use super::{List, ListError};
use crate::error::Error;
use crate::store::Identity;

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// The element at an index. Never waits. Python: `list[index]`.
    ///
    /// # Errors
    /// [`ListError::Index`]; [`Failed`](ListError::Failed) if it cannot be decoded.
    #[inline]
    pub fn get(&self, index: impl ListIndex) -> Result<T, ListError> {
        let place = index.signed();
        match self.look(place)? {
            Ok((value, _)) => Ok(value),
            Err(len) => Err(ListError::Index { index: place, len, value: () }),
        }
    }

    /// The first element. Python: `list[0]`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn first(&self) -> Result<T, ListError> {
        self.get(0)
    }

    /// The last element. Python: `list[-1]`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn last(&self) -> Result<T, ListError> {
        self.get(-1)
    }

    /// The value at a place, and what tells its element from others; or how many there are.
    #[inline]
    fn look(&self, place: isize) -> Result<Result<(T, Identity), usize>, Error> {
        let mut beyond = 0;
        let found = received(|buffer| match self.core.read_at(place, buffer)? {
            Ok((seen, arrived)) => Ok(Some((seen.marked, (seen.identity, arrived)))),
            Err(len) => {
                beyond = len;
                Ok(None)
            }
        })?;
        Ok(found.map(|(value, (identity, _))| (value, identity)).ok_or(beyond))
    }

    /// Puts a value in place of the element at an index. Python: `list[index] = value`.
    ///
    /// # Errors
    /// [`ListError`] hands the value back: [`Index`](ListError::Index); [`Failed`](ListError::Failed) if it cannot be encoded
    /// or the segment is full. Then nothing has changed.
    pub fn set(&self, index: impl ListIndex, value: T) -> Result<(), ListError<T>> {
        let place = index.signed();
        match self.encoded(&value, |bytes, marked| {
            let done = self.core.set(place, bytes, marked, None, self.deadline())?;
            Ok((done.is_ok(), done))
        }) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(len)) => Err(ListError::Index { index: place, len, value }),
            Err(e) => Err(ListError::Failed(value, e)),
        }
    }

    /// Puts a value behind all others. Python: `append`.
    ///
    /// # Errors
    /// [`ListError::Failed`] hands the value back, if it cannot be encoded or the segment is full.
    #[doc(alias = "append")]
    #[inline]
    pub fn push(&self, value: T) -> Result<(), ListError<T>> {
        match self.encoded(&value, |bytes, marked| self.core.push(bytes, marked, self.deadline()).map(|()| (true, ())))
        {
            Ok(()) => Ok(()),
            Err(e) => Err(ListError::Failed(value, e)),
        }
    }

    /// [`push`](Self::push) under Python's name.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    #[inline]
    pub fn append(&self, value: T) -> Result<(), ListError<T>> {
        self.push(value)
    }

    /// Puts a value in front of the element at an index; beyond the ends, at the nearer one. Python: `insert`.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn insert(&self, index: impl ListIndex, value: T) -> Result<(), ListError<T>> {
        let place = index.signed();
        let done = self.batch([&value]).and_then(|batch| {
            batch.put(&self.core, |drafts| {
                self.core.edit(self.deadline(), |editing| {
                    let at = clamp(place, editing.len()?);
                    editing.splice(at, at, drafts).map(|()| (true, ()))
                })
            })
        });
        done.map_err(|e| ListError::Failed(value, e))
    }

    /// Takes the last element out. Python: `pop()`.
    ///
    /// # Errors
    /// [`ListError::Index`] if there is none; [`Failed`](ListError::Failed) if it cannot be decoded, and then it is out.
    #[inline]
    pub fn pop(&self) -> Result<T, ListError> {
        self.pop_at(-1)
    }

    /// Takes the element at an index out. Python: `pop(index)`, `del list[index]`.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    #[doc(alias = "remove_at")]
    #[inline]
    pub fn pop_at(&self, index: impl ListIndex) -> Result<T, ListError> {
        let place = index.signed();
        self.taken(place, |editing, index| match index + 1 == editing.len()? {
            true => editing.pop_back().map(drop),
            false => editing.remove(index, index + 1),
        })
    }

    /// Takes the element at an index out, and puts the last one in its place. As every change it is seen whole, for which all
    /// that follows is copied: it saves nothing over [`pop_at`](Self::pop_at) but a shift of the indices.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn swap_remove(&self, index: impl ListIndex) -> Result<T, ListError> {
        self.taken(index.signed(), |editing, index| {
            let last = editing.len()? - 1;
            if index == last {
                return editing.pop_back().map(drop);
            }
            let mut order: Vec<u32> = (0..last as u32).collect();
            order[index as usize] = last as u32;
            editing.rearrange(&order)
        })
    }

    /// Takes an element out as `f` does, and decodes it afterwards.
    #[inline]
    fn taken(&self, place: isize, f: impl Fn(&mut Edit<'_, '_>, u64) -> Result<(), Error>) -> Result<T, ListError> {
        let mut beyond = 0;
        let taken = received(|buffer| {
            let at = |editing: &Edit<'_, '_>| editing.len().map(|len| resolve(place, len));
            let doomed = |editing: &Edit<'_, '_>, take: Take<'_>| match at(editing)? {
                Ok(index) => take(editing.element(index)?),
                Err(_) => Ok(()),
            };
            let (marked, arrived) = self.core.take_out(self.deadline(), doomed, |editing| {
                let index = match at(editing)? {
                    Ok(index) => index,
                    Err(len) => {
                        beyond = len;
                        return Ok(None);
                    }
                };
                let Some(element) = editing.element(index)? else { return Ok(None) };
                element.read(buffer)?;
                f(editing, index)?;
                Ok(Some(element.is_marked()))
            })?;
            Ok(marked.map(|marked| (marked, arrived)))
        })?;
        match taken {
            Some((value, _)) => Ok(value),
            None => Err(ListError::Index { index: place, len: beyond, value: () }),
        }
    }

    /// Puts in place of an element what `f` makes of it. `f` runs while others go on, and again if somebody
    /// else has put another there meanwhile; if it panics, nothing has changed.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`set`](Self::set).
    pub fn update(&self, index: impl ListIndex, mut f: impl FnMut(T) -> T) -> Result<(), ListError> {
        let place = index.signed();
        loop {
            let (value, seen) = match self.look(place)? {
                Ok(found) => found,
                Err(len) => return Err(ListError::Index { index: place, len, value: () }),
            };
            let new = f(value);
            match self.encoded(&new, |bytes, marked| self.put_instead(place, bytes, marked, seen))? {
                Put::Done => return Ok(()),
                Put::Changed => {}
                Put::Beyond(len) => return Err(ListError::Index { index: place, len, value: () }),
            }
        }
    }

    /// Puts `new` in place of an element that is equal to `current`. `Ok(Err(_))` is the element that there was instead.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn compare_exchange(&self, index: impl ListIndex, current: &T, new: T) -> Result<Result<(), T>, ListError<T>>
    where
        T: PartialEq,
    {
        let place = index.signed();
        loop {
            let (value, seen) = match self.look(place) {
                Ok(Ok(found)) => found,
                Ok(Err(len)) => return Err(ListError::Index { index: place, len, value: new }),
                Err(e) => return Err(ListError::Failed(new, e)),
            };
            if value != *current {
                return Ok(Err(value));
            }
            match self.encoded(&new, |bytes, marked| self.put_instead(place, bytes, marked, seen)) {
                Ok(Put::Done) => return Ok(Ok(())),
                Ok(Put::Changed) => {}
                Ok(Put::Beyond(len)) => return Err(ListError::Index { index: place, len, value: new }),
                Err(e) => return Err(ListError::Failed(new, e)),
            }
        }
    }

    fn put_instead(&self, place: isize, bytes: &[u8], marked: bool, seen: Identity) -> Result<(bool, Put), Error> {
        Ok(match self.core.set(place, bytes, marked, Some(seen), self.deadline())? {
            Ok(true) => (true, Put::Done),
            Ok(false) => (false, Put::Changed),
            Err(len) => (false, Put::Beyond(len)),
        })
    }

    /// Lets two elements change places, at once. Python: `list[a], list[b] = list[b], list[a]`, which are two changes there.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn swap(&self, a: impl ListIndex, b: impl ListIndex) -> Result<(), ListError> {
        let places = [a.signed(), b.signed()];
        let done = self.core.edit(self.deadline(), |editing| {
            let len = editing.len()?;
            let [a, b] = places.map(|place| resolve(place, len).map_err(|len| (place, len)));
            let (a, b) = match (a, b) {
                (Ok(a), Ok(b)) => (a as usize, b as usize),
                (Err(e), _) | (_, Err(e)) => return Ok(Err(e)),
            };
            if a != b {
                let mut order: Vec<u32> = (0..len as u32).collect();
                order.swap(a, b);
                editing.rearrange(&order)?;
            }
            Ok(Ok(()))
        })?;
        done.map_err(|(index, len)| ListError::Index { index, len, value: () })
    }
}

enum Put {
    Done,
    /// Another element is there now.
    Changed,
    /// There are only so many.
    Beyond(usize),
}
