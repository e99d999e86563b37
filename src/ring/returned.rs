//! A taken record that its taker cannot keep; and the question whether anything is in flight.

use super::cursor::Cursor;
use super::stamped::{Corrupt, Taken};
use super::view::Ring;
use super::word::{REDO, Word};
use crate::sys::atomic::Ordering::{Relaxed, Release};

impl Ring<'_> {
    /// Gives a record back that the caller has taken and not finished: it will be taken again, marked.
    ///
    /// The caller wakes a consumer. If it dies in here, the record is given back by recovery, or it has been and recovery
    /// announces it.
    pub fn give_back(&self, taken: Taken) {
        let (index, lap) = self.place(taken.position);
        // A plain store: nobody else may write this word (rule 3).
        self.take_word(index).store(Word::new(lap, REDO, 0, taken.n).0, Release);
        self.control().redo.redelivered.fetch_add(1, Relaxed);
        self.announce_redo();
    }

    /// Where the ring is at rest: every record before this place is done with, and none behind it has been claimed.
    /// `None` if something waits, is being written or is being read.
    ///
    /// The same place twice means that nothing came in between (the position would have to go round 2^44 granules).
    /// A full fence, then Acquire: what consumers did before they finished the last records is visible.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn at_rest(&self) -> Result<Option<Cursor>, Corrupt> {
        self.settle()?;
        let tail = self.tail();
        Ok((tail.granules_since(self.head()) == 0).then_some(tail))
    }
}
