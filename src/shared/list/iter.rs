//! Going through a list.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{List, ListError};
use crate::error::Error;

/// The elements of a list, one after the other, as it is when each is reached: see [`List::iter`].
pub struct ListIter<'a, T> {
    list: &'a List<T>,
    next: Option<usize>,
}

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// The elements by index, each as it is when it is reached: what others change meanwhile is seen, and if they take out
    /// or put in before that place, an element may be left out or come twice, as in Python. For all of one moment see
    /// [`to_vec`](Self::to_vec). Python: `for value in list`.
    pub fn iter(&self) -> ListIter<'_, T> {
        ListIter { list: self, next: Some(0) }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Iterator for ListIter<'_, T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Result<T, Error>> {
        let index = self.next?;
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

impl<T: Serialize + DeserializeOwned + 'static> std::iter::FusedIterator for ListIter<'_, T> {}

impl<'a, T: Serialize + DeserializeOwned + 'static> IntoIterator for &'a List<T> {
    type Item = Result<T, Error>;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}
