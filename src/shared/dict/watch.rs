//! Waiting until the value of a key is another one.

use std::borrow::Borrow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Dict;
use crate::codec;
use crate::error::Error;
use crate::shared::WaitError;
use crate::sync::{Pace, wait_until};
use crate::sys::clock::Deadline;

/// Waits for changes of one key. See [`Dict::watch`].
pub struct Watch<K, V> {
    dict: Dict<K, V>,
    key: Vec<u8>,
    /// Version of the entry that was seen last, if there was one.
    seen: Option<u64>,
    pace: Pace,
}

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// Watches `key`, from now on: what changes after this call is noticed.
    ///
    /// ```
    /// use kinfolk::{Dict, Process};
    ///
    /// let settings: Dict<String, u32> = Dict::from_pairs([("level".to_owned(), 1)])?;
    /// let mut level = settings.watch("level")?;
    /// let child = Process::spawn(|d: Dict<String, u32>| d.set("level", &2).unwrap(), settings.clone())?;
    /// assert_eq!(level.changed()?, Some(2));
    /// child.join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn watch<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<Watch<K, V>, Error>
    where
        K: Borrow<Q>,
    {
        codec::with_key::<K, _, _>(key, |key| {
            let seen = self.core.version(key)?;
            Ok(Watch { dict: self.clone(), key: key.to_vec(), seen, pace: Pace::default() })
        })
    }
}

impl<K, V> Watch<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// Waits until the key has another entry than at the last call (or than when the watch began); its value, `None` if it has
    /// none any more. Each change is one, also to an equal value; of several since the last call only the last is seen, and a
    /// key that was put in and taken out again has not changed.
    ///
    /// # If a peer dies
    /// A writer that is killed has changed the entry or it has not, and this call finds out, within 64 ms, if it could not tell
    /// any more. If all who might change it are dead, it waits for ever; see [`changed_timeout`](Self::changed_timeout).
    ///
    /// # Errors
    /// As [`Dict::get`]; the change counts as seen.
    pub fn changed(&mut self) -> Result<Option<V>, Error> {
        match self.changed_by(Deadline::NEVER) {
            Ok(value) => Ok(value),
            Err(WaitError::Failed(error)) => Err(error),
            Err(_) => unreachable!("a deadline that never comes"),
        }
    }

    /// As [`changed`](Self::changed), waiting at most `timeout`.
    ///
    /// # Errors
    /// [`WaitError::Timeout`], [`WaitError::Failed`].
    pub fn changed_timeout(&mut self, timeout: Duration) -> Result<Option<V>, WaitError> {
        self.changed_by(Deadline::after(timeout))
    }

    /// As [`changed`](Self::changed), if it has changed already. Never blocks.
    ///
    /// # Errors
    /// [`WaitError::WouldBlock`], [`WaitError::Failed`].
    pub fn try_changed(&mut self) -> Result<Option<V>, WaitError> {
        let now = self.dict.core.version(&self.key).map_err(WaitError::Failed)?;
        if now == self.seen { Err(WaitError::WouldBlock) } else { self.look(now) }
    }

    fn changed_by(&mut self, deadline: Deadline) -> Result<Option<V>, WaitError> {
        let core = &self.dict.core;
        // A lane, before anything is waited for.
        core.lane().map_err(WaitError::Failed)?;
        let storage = core.storage();
        let shard = core.shard(&storage, core.hash(&self.key));
        let block = shard.block();
        let mut looked_at = None;
        let attempt = || {
            let changes = shard.changes();
            if looked_at == Some(changes) {
                return None;
            }
            match core.version(&self.key) {
                Ok(now) if now == self.seen => {
                    // An odd number stays while the change is made, and is that of its entry.
                    looked_at = (changes % 2 == 0).then_some(changes);
                    None
                }
                now => Some(now),
            }
        };
        let idle = || {
            block.lock.question(&storage);
            None
        };
        let came = wait_until(&block.wait, &self.pace, &storage, None, deadline, attempt, idle);
        match came {
            Ok(Ok(now)) => self.look(now),
            Ok(Err(error)) => Err(WaitError::Failed(error)),
            Err(_) => Err(WaitError::Timeout(core.object.segment().lane_holder(block.lock.holder()))),
        }
    }

    /// The value now, which was another than before when its version was `now`.
    fn look(&mut self, now: Option<u64>) -> Result<Option<V>, WaitError> {
        // Before it is decoded, which may fail every time.
        self.seen = now;
        let found = self.dict.look_up(&self.key).map_err(WaitError::Failed)?;
        self.seen = found.as_ref().map(|(_, version)| *version);
        Ok(found.map(|(value, _)| value))
    }
}

impl<K, V> fmt::Debug for Watch<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.seen.is_some() { "an entry" } else { "no entry" };
        write!(f, "Watch(dict {}, which had {state})", self.dict.id().index)
    }
}
