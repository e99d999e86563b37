//! Lists of bytes, without a vector for each call.

use super::place::ListIndex;
use super::{List, ListError};

impl List<Vec<u8>> {
    /// Puts bytes behind all others, as [`push`](Self::push).
    ///
    /// # Errors
    /// As [`push`](Self::push).
    #[inline]
    pub fn push_bytes(&self, bytes: &[u8]) -> Result<(), ListError> {
        Ok(self.core.push(bytes, false, self.deadline())?)
    }

    /// Puts bytes in place of those at an index, as [`set`](Self::set).
    ///
    /// # Errors
    /// As [`set`](Self::set).
    #[inline]
    pub fn set_bytes(&self, index: impl ListIndex, bytes: &[u8]) -> Result<(), ListError> {
        let place = index.signed();
        match self.core.set(place, bytes, false, None, self.deadline())? {
            Ok(_) => Ok(()),
            Err(len) => Err(ListError::Index { index: place, len, value: () }),
        }
    }

    /// Replaces the contents of `to` by the bytes at an index, as [`get`](Self::get).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    #[inline]
    pub fn get_into(&self, index: impl ListIndex, to: &mut Vec<u8>) -> Result<(), ListError> {
        let place = index.signed();
        to.clear();
        match self.core.read_at(place, to)? {
            Ok(_) => Ok(()),
            Err(len) => Err(ListError::Index { index: place, len, value: () }),
        }
    }
}
