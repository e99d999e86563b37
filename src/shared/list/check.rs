//! A list counted anew, for tests.

use super::List;
use crate::error::Error;

impl<T> List<T> {
    /// Counts all that the list has, under its lock, and compares it with what its words say; then collects, and counts
    /// again. Gives the bytes of blocks in use and the number of runs.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if anything differs.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(u64, usize), Error> {
        let counted = self.core.edit(self.deadline(), |editing| editing.count_and_collect())?;
        Ok((counted.named + counted.retired, counted.runs.len()))
    }
}
