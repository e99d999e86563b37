//! Changes of one entry that depend on what it is: done as one, without holding a lock while the caller's function runs.

use std::borrow::Borrow;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Dict;
use super::core::Rule;
use super::error::SetError;
use crate::codec;
use crate::error::Error;

/// What changes a value in place, if there is one.
type Modify<'m, V> = Option<&'m mut dyn FnMut(&mut V)>;

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// Makes the value of `key` what `f` makes of it; `None` stands for no value, before and after. The value that `key` has
    /// then.
    ///
    /// This is one step: nobody changes the entry between what `f` was shown and what it gave. `f` runs outside of all locks;
    /// if somebody has changed the entry meanwhile, it runs again with the new value, so it should do nothing else. One of
    /// those who do this at the same time always succeeds; one with a slow `f` among many with a fast one may try for long.
    ///
    /// # If a peer dies
    /// Who dies or panics in `f` has changed nothing.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`set`](Self::set).
    ///
    /// ```
    /// use kinfolk::{Dict, Process};
    ///
    /// let total: Dict<String, u64> = Dict::new()?;
    /// let add = |(total, n): (Dict<String, u64>, u64)| {
    ///     total.update("sum", |sum| Some(sum.unwrap_or(0) + n)).unwrap();
    /// };
    /// let children = [Process::spawn(add, (total.clone(), 20))?, Process::spawn(add, (total.clone(), 22))?];
    /// for child in children {
    ///     child.join()?;
    /// }
    /// assert_eq!(total.get("sum")?, Some(42));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn update<Q: Serialize + ?Sized>(
        &self,
        key: &Q,
        mut f: impl FnMut(Option<V>) -> Option<V>,
    ) -> Result<Option<V>, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| {
            loop {
                let (old, version) = self.look_up(key)?.unzip();
                let rule = version.map_or(Rule::Absent, Rule::Version);
                let new = f(old);
                let done = match (&new, version) {
                    (Some(new), _) => self.put(key, new, rule)?,
                    (None, Some(_)) => self.core.take(key, rule, self.deadline(), None)?.done,
                    // There was none, and there is to be none.
                    (None, None) => true,
                };
                if done {
                    return Ok(new);
                }
            }
        })
    }

    /// Makes the value of `key` `new`, if it is `old`; `None` stands for no value. Whether it was. Values are compared by their
    /// encoding, as keys are.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    #[doc(alias = "compare_and_swap")]
    pub fn compare_exchange<Q: Serialize + ?Sized>(
        &self,
        key: &Q,
        old: Option<&V>,
        new: Option<&V>,
    ) -> Result<bool, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| {
            let Some(old) = old else {
                return match new {
                    Some(new) => self.put(key, new, Rule::Absent),
                    None => Ok(self.core.version(key)?.is_none()),
                };
            };
            let mut expected = Vec::new();
            // Not put in: what it carries is the expected entry's to keep.
            self.encoded(old, |bytes, _| {
                expected.extend_from_slice(bytes);
                Ok((false, ()))
            })?;
            let rule = Rule::Equal(&expected);
            match new {
                // An absent entry equals nothing.
                Some(new) => self.put(key, new, rule),
                None => Ok(self.core.take(key, rule, self.deadline(), None)?.done),
            }
        })
    }

    /// The entry of `key`, there or not, for a change in one step.
    ///
    /// ```
    /// # use kinfolk::Dict;
    /// let words: Dict<String, u32> = Dict::new()?;
    /// for word in ["a", "b", "a"] {
    ///     words.entry(word.to_owned()).and_modify(|n| *n += 1).or_insert(1)?;
    /// }
    /// assert_eq!(words.get("a")?, Some(2));
    /// # Ok::<(), kinfolk::Error>(())
    /// ```
    pub fn entry(&self, key: K) -> Entry<'_, K, V, fn(&mut V)> {
        Entry { dict: self, key, modify: None }
    }

    /// Changes the value of `key` with `modify`, or puts `default` in; the value that there is then.
    pub(super) fn change_or_insert<Q: Serialize + ?Sized>(
        &self,
        key: &Q,
        default: impl FnOnce() -> V,
        mut modify: Modify<'_, V>,
    ) -> Result<V, SetError<V>>
    where
        K: Borrow<Q>,
    {
        let (mut default, mut made) = (Some(default), None);
        let done = codec::with_key::<K, _, _>(key, |key| {
            loop {
                if let Some((mut value, version)) = self.look_up(key)? {
                    let Some(modify) = &mut modify else { return Ok(Some(value)) };
                    modify(&mut value);
                    if self.put(key, &value, Rule::Version(version))? {
                        return Ok(Some(value));
                    }
                } else {
                    let value = made.get_or_insert_with(|| (default.take().expect("called once"))());
                    if self.put(key, value, Rule::Absent)? {
                        return Ok(None);
                    }
                }
            }
        });
        match (done, made) {
            (Ok(Some(value)), _) | (Ok(None), Some(value)) => Ok(value),
            (Ok(None), None) => unreachable!("what was put in was made"),
            (Err(error), made) => {
                let value = made.unwrap_or_else(|| (default.take().expect("called once"))());
                Err(SetError::new(value, error))
            }
        }
    }
}

/// The entry of a key, there or not. Nothing happens until one of the methods that return a value; that is one step for
/// everybody else, as [`Dict::update`] is.
#[must_use = "nothing happens until `or_insert`, `or_insert_with`, `or_default` or `apply`"]
pub struct Entry<'d, K, V, F> {
    dict: &'d Dict<K, V>,
    key: K,
    modify: Option<F>,
}

impl<'d, K, V, F> Entry<'d, K, V, F>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
    F: FnMut(&mut V),
{
    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Changes the value, if there is one. `f` runs again if somebody has changed the entry meanwhile.
    pub fn and_modify(self, mut f: impl FnMut(&mut V)) -> Entry<'d, K, V, impl FnMut(&mut V)> {
        let mut before = self.modify;
        let modify = move |value: &mut V| {
            if let Some(before) = &mut before {
                before(value);
            }
            f(value);
        };
        Entry { dict: self.dict, key: self.key, modify: Some(modify) }
    }

    /// Puts `default` in if there is no value; the value that there is then.
    ///
    /// # Errors
    /// As [`Dict::set`], with `default`.
    #[doc(alias = "setdefault")]
    pub fn or_insert(self, default: V) -> Result<V, SetError<V>> {
        self.or_insert_with(|| default)
    }

    /// As [`or_insert`](Self::or_insert), with what `default` makes if there is no value.
    ///
    /// # Errors
    /// As [`Dict::set`], with what `default` makes.
    #[doc(alias = "defaultdict")]
    pub fn or_insert_with(mut self, default: impl FnOnce() -> V) -> Result<V, SetError<V>> {
        let modify = self.modify.as_mut().map(|f| f as &mut dyn FnMut(&mut V));
        self.dict.change_or_insert(&self.key, default, modify)
    }

    /// As [`or_insert`](Self::or_insert), with the type's default.
    ///
    /// # Errors
    /// As [`Dict::set`].
    pub fn or_default(self) -> Result<V, SetError<V>>
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }

    /// Makes the changes if there is a value, and puts none in; the value that there is then.
    ///
    /// # Errors
    /// As [`Dict::set`].
    pub fn apply(mut self) -> Result<Option<V>, Error> {
        self.dict.update(&self.key, |value| {
            let mut value = value?;
            if let Some(f) = &mut self.modify {
                f(&mut value);
            }
            Some(value)
        })
    }
}

impl<K: fmt::Debug, V, F> fmt::Debug for Entry<'_, K, V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.key).finish()
    }
}
