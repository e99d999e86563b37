//! Going through a list.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{List, ListError};
use crate::error::Error;

/// The elements of a list, one after the other, as it is when each is reached: see [`List::iter`].
pub struct ListIter<'a, T> {
    list: &'a List<T>,
    next: Option<usize>,
    /// In front of which index the last one is; not known before the last one is asked for.
    end: Option<usize>,
}

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// The elements by index, each as it is when it is reached: what others change meanwhile is seen, and if they take out
    /// or put in before that place, an element may be left out or come twice, as in Python. For all of one moment see
    /// [`to_vec`](Self::to_vec). [`rev`](Iterator::rev) begins with the one that is the last then. Python: `for value in list`,
    /// `reversed(list)`.
    #[doc(alias = "reversed")]
    pub fn iter(&self) -> ListIter<'_, T> {
        ListIter { list: self, next: Some(0), end: None }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Iterator for ListIter<'_, T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Result<T, Error>> {
        let index = self.next.filter(|index| self.end.is_none_or(|end| *index < end))?;
        self.next = None;
        match self.list.get(index) {
            Ok(value) => {
                self.next = Some(index + 1);
                Some(Ok(value))
            }
            Err(ListError::Index { .. }) => None,
            Err(ListError::Failed((), e)) => Some(Err(e)),
        }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> DoubleEndedIterator for ListIter<'_, T> {
    fn next_back(&mut self) -> Option<Result<T, Error>> {
        let from = self.next?;
        let end = match self.end {
            Some(end) => end,
            None => match self.list.len() {
                Ok(len) => len,
                Err(e) => {
                    self.next = None;
                    return Some(Err(e));
                }
            },
        };
        // What is not there any more is left out.
        for index in (from..end).rev() {
            self.end = Some(index);
            match self.list.get(index) {
                Ok(value) => return Some(Ok(value)),
                Err(ListError::Index { .. }) => {}
                Err(ListError::Failed((), e)) => {
                    self.next = None;
                    return Some(Err(e));
                }
            }
        }
        self.next = None;
        None
    }
}

impl<T: Serialize + DeserializeOwned + 'static> std::iter::FusedIterator for ListIter<'_, T> {}

impl<'a, T: Serialize + DeserializeOwned + 'static> IntoIterator for &'a List<T> {
    type Item = Result<T, Error>;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}
