//! A locked sequence is counted anew: its slots, and that its heap has what they name and no more.

use super::super::check::Counted;
use super::super::memory::Memory;
use super::element::Element;
use super::{Editing, corrupt};
use crate::error::Error;
use crate::sys::atomic::Ordering::Relaxed;

impl<M: Memory> Editing<'_, '_, M> {
    /// Counts the sequence anew.
    ///
    /// # Errors
    /// `Corrupt` if a slot within the span has no element or one outside of it has, if two name the same block, or if
    /// anything in the heap is otherwise than its words say.
    pub fn count(&self) -> Result<Counted, Error> {
        let memory = self.sequence.memory;
        self.sequence.for_each_slot(&mut |slot, inside| {
            let word = slot.load(Relaxed);
            if (word != 0) != inside {
                return Err(corrupt("slot", word, if inside { "an element" } else { "0 outside of the span" }));
            }
            if inside {
                Element::at(memory, word)?.read(&mut Vec::new())?;
            }
            Ok(())
        })?;
        self.sequence.heap.count(&self.named(&[])?)
    }

    /// Counts, collects, and counts again: then nothing is lost, and what waits is what readers name.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn count_and_collect(&self) -> Result<Counted, Error> {
        let before = self.count()?;
        self.sequence.heap.collect(self.named(&[])?)?;
        let after = self.count()?;
        if after.named != before.named {
            return Err(corrupt("named bytes", after.named, &before.named.to_string()));
        }
        Ok(after)
    }
}
