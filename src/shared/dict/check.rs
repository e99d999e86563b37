//! A dictionary counted anew, for tests.

use super::bytes::ByteDict;
use super::core::Core;
use crate::error::Error;
use crate::segment::{Segment, type_hash};
use crate::sys::clock::Deadline;

impl ByteDict {
    /// Makes one with so many shards, so that all of its entries meet in a few.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[doc(hidden)]
    pub fn with_shards(segment: &Segment, shards: usize) -> Result<Self, Error> {
        Ok(Self::of(Core::create(segment, type_hash::<Self>(), shards)?))
    }

    /// Counts all that the dictionary has, under its locks, and compares it with what its words say; then collects, and
    /// counts again. Gives the bytes of blocks in use and the number of runs.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if anything differs.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(u64, usize), Error> {
        let (lane, mut bytes, mut runs) = (self.core.lane()?, 0, 0);
        let storage = self.core.storage();
        for shard in self.core.shards(&storage) {
            let counted = self.core.lock(&shard, lane, Deadline::NEVER)?.count_and_collect()?;
            bytes += counted.named + counted.retired;
            runs += counted.runs.len();
        }
        Ok((bytes, runs))
    }
}
