//! Iterators over what comes out of a queue.

use std::iter::FusedIterator;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::GetError;
use super::queue::Queue;

/// What an iterator does with the end of a `get`: `None` ends it.
fn item<T>(got: Result<T, GetError>, over: &mut bool) -> Option<Result<T, GetError>> {
    match got {
        Err(GetError::Empty | GetError::Closed | GetError::Disconnected(_)) => {
            *over = true;
            None
        }
        Err(GetError::Failed(e)) => {
            *over = true;
            Some(Err(GetError::Failed(e)))
        }
        other => Some(other),
    }
}

/// Waits for each value: [`Queue::iter`].
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct Iter<'a, T> {
    queue: &'a Queue<T>,
    over: bool,
}

/// Never waits: [`Queue::try_iter`] and [`Queue::drain`].
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct TryIter<'a, T> {
    queue: &'a Queue<T>,
    left: usize,
    over: bool,
}

impl<T: Serialize + DeserializeOwned + 'static> Queue<T> {
    /// Gets value after value, waiting while the queue is empty. It ends when `get` would say
    /// [`Disconnected`](GetError::Disconnected) or [`Closed`](GetError::Closed). A message that is no `T` is an error
    /// among the values; after [`Failed`](GetError::Failed) comes nothing more. So does `for item in &queue`.
    ///
    /// Several iterators, here and elsewhere, share the values.
    ///
    /// Python: `iter(queue.get, sentinel)`.
    ///
    /// ```
    /// # let queue = kinfolk::Queue::<u32>::new(0)?;
    /// let child = kinfolk::Process::spawn(|queue: kinfolk::Queue<u32>| for k in 0..3 { queue.put(k).unwrap() }, queue.clone())?;
    /// let all: Vec<u32> = queue.iter().collect::<Result<_, _>>()?;
    /// assert_eq!(all, [0, 1, 2]);
    /// # child.join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { queue: self, over: false }
    }

    /// Gets value after value, and ends when the queue is empty. Never blocks; while others put, it need not end.
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter { queue: self, left: usize::MAX, over: false }
    }

    /// Gets what is in the queue now: at most as many values as [`len`](Queue::len) says at the call. Never blocks. What
    /// is not iterated over stays in the queue.
    pub fn drain(&self) -> TryIter<'_, T> {
        TryIter { queue: self, left: self.len(), over: false }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Iterator for Iter<'_, T> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over { None } else { item(self.queue.get(), &mut self.over) }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> FusedIterator for Iter<'_, T> {}

impl<T: Serialize + DeserializeOwned + 'static> Iterator for TryIter<'_, T> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over || self.left == 0 {
            return None;
        }
        self.left -= 1;
        item(self.queue.try_get(), &mut self.over)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> FusedIterator for TryIter<'_, T> {}

impl<'a, T: Serialize + DeserializeOwned + 'static> IntoIterator for &'a Queue<T> {
    type Item = Result<T, GetError>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}
