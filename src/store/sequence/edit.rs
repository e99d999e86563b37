//! A sequence that is locked: how it is changed in place, and put in order after a death.

use super::super::heap::{RETIRED, RUN, flags_of};
use super::super::memory::Memory;
use super::element::{Element, ElementDraft, is_inline};
use super::{Directory, Sequence, corrupt};
use crate::error::Error;
use crate::sync::{Lane, Locked};
use crate::sys::atomic::Ordering::{Relaxed, Release};
use crate::sys::atomic::broken;

/// An empty directory with more slots is given back.
const MOST_IDLE_SLOTS: u64 = 1024;

/// A sequence whose lock is held; it is given back on drop.
pub struct Editing<'s, 'a, M: Memory> {
    pub(super) sequence: &'s Sequence<'a, M>,
    pub(super) lane: Lane,
    consistent: bool,
    changed: bool,
}

impl<M: Memory> Drop for Editing<'_, '_, M> {
    #[inline]
    fn drop(&mut self) {
        let block = self.sequence.block;
        block.lock.unlock(self.consistent);
        if self.changed {
            block.wait.notify_sleepers(self.sequence.memory);
        }
    }
}

impl<'s, 'a, M: Memory> Editing<'s, 'a, M> {
    #[inline]
    pub(super) fn new(sequence: &'s Sequence<'a, M>, lane: Lane, locked: Locked) -> Result<Self, Error> {
        let mut this = Self { sequence, lane, consistent: true, changed: false };
        if locked == Locked::OwnerDied {
            this.consistent = false;
            this.repair()?;
            this.consistent = true;
            // The dead may have committed and told nobody.
            this.changed = true;
        }
        Ok(this)
    }

    /// Puts in order what a holder of the lock left who died: the slots outside the span, and which blocks are free.
    #[cold]
    fn repair(&self) -> Result<(), Error> {
        let Sequence { block, heap, .. } = self.sequence;
        if let Some(directory) = self.directory()? {
            let span = directory.span()?;
            if !broken("sequence: repair without a turn") {
                // What a reader saw in a slot may never have been committed.
                directory.span.store(span.turned(span.first(), span.len()).0, Release);
            }
            self.sequence.for_each_slot(&mut |slot, inside| {
                if !inside && !broken("sequence: leave what a death left in a slot") {
                    slot.store(0, Release);
                }
                Ok(())
            })?;
        }
        if !broken("sequence: repair without collecting") {
            heap.collect(self.named(&[])?)?;
        }
        // Also what the dead has committed counts as a change.
        block.changes.store(block.changes.load(Relaxed).wrapping_add(2) & !1, Release);
        Ok(())
    }

    #[inline]
    pub(super) fn directory(&self) -> Result<Option<Directory<'a>>, Error> {
        match self.sequence.block.root.load(Relaxed) {
            0 => Ok(None),
            at => Directory::at(self.sequence.memory, at).map(Some),
        }
    }

    /// Everything that the sequence names, and what is about to be.
    pub(super) fn named(&self, pending: &[u64]) -> Result<Vec<u64>, Error> {
        let is_block = |word: &u64| *word != 0 && !is_inline(*word);
        let mut named: Vec<u64> = pending.iter().copied().filter(is_block).collect();
        named.extend(Some(self.sequence.block.root.load(Relaxed)).filter(is_block));
        self.sequence.for_each_slot(&mut |slot, inside| {
            named.extend(Some(slot.load(Relaxed)).filter(|word| inside && is_block(word)));
            Ok(())
        })?;
        Ok(named)
    }

    /// Elements.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn len(&self) -> Result<u64, Error> {
        let Some(directory) = self.directory()? else { return Ok(0) };
        let span = directory.span()?;
        // Whoever goes by this number finds that many slots.
        directory.slot(self.sequence.memory, (span.first() + span.len()).saturating_sub(1))?;
        Ok(span.len())
    }

    /// How often it was changed; see [`Sequence::changes`].
    pub fn changes(&self) -> u64 {
        self.sequence.block.changes.load(Relaxed)
    }

    /// The element at an index, if there is one.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn element(&self, index: u64) -> Result<Option<Element<'a, M>>, Error> {
        let Some(directory) = self.directory()? else { return Ok(None) };
        let span = directory.span()?;
        if index >= span.len() {
            return Ok(None);
        }
        let word = directory.slot(self.sequence.memory, span.first() + index)?.load(Relaxed);
        if word == 0 {
            return Err(corrupt("slot", index, "an element"));
        }
        Element::at(self.sequence.memory, word).map(Some)
    }

    /// Says that a change is made, until [`end`](Self::end).
    #[inline]
    pub(super) fn begin(&mut self) {
        let changes = &self.sequence.block.changes;
        changes.store(changes.load(Relaxed).wrapping_add(1), Relaxed);
        self.changed = true;
    }

    #[inline]
    pub(super) fn end(&self) {
        let changes = &self.sequence.block.changes;
        changes.store(changes.load(Relaxed).wrapping_add(1), Release);
    }

    /// Puts an element where no reader finds it yet: its slot. `pending` are others that wait for the same commit.
    #[inline]
    pub(super) fn place(&self, draft: &ElementDraft<'_, impl Memory>, pending: &[u64]) -> Result<u64, Error> {
        if let Some(word) = draft.inline() {
            return Ok(word);
        }
        let Sequence { heap, block, .. } = self.sequence;
        let place = heap.alloc(self.lane, draft.block_bytes(), &mut || self.named(pending))?;
        // The number that the changes come to with this one: no other block in this place will have it.
        draft.write(place, block.changes.load(Relaxed).wrapping_add(1))?;
        Ok(place.at)
    }

    /// As `place`, many at once: all of them or none.
    pub(super) fn place_all(&self, drafts: &[ElementDraft<'_, impl Memory>]) -> Result<Vec<u64>, Error> {
        let mut words = Vec::with_capacity(drafts.len());
        for draft in drafts {
            match self.place(draft, &words) {
                Ok(word) => words.push(word),
                Err(e) => {
                    self.free_all(&words)?;
                    return Err(e);
                }
            }
        }
        Ok(words)
    }

    /// Frees what no reader has found.
    #[cold]
    pub(super) fn free_all(&self, words: &[u64]) -> Result<(), Error> {
        if words.len() < RETIRED {
            return words.iter().filter(|word| !is_inline(**word)).try_for_each(|word| self.sequence.heap.free(*word));
        }
        // With the runs that were taken for them.
        self.sequence.heap.collect(self.named(&[])?)
    }

    #[inline]
    pub(super) fn retire(&self, word: u64) -> Result<(), Error> {
        if word == 0 || is_inline(word) { Ok(()) } else { self.retire_block(word, false) }
    }

    /// Frees a block that was taken out, when no reader names it; at once, if it has a run and can be.
    #[inline]
    pub(super) fn retire_block(&self, at: u64, directory: bool) -> Result<(), Error> {
        let Sequence { memory, heap, .. } = self.sequence;
        let has_run = flags_of(memory.word(at)?.load(Relaxed)) & RUN != 0;
        heap.retire(at, directory)?;
        if has_run { heap.reclaim() } else { Ok(()) }
    }

    /// Frees what was taken out, when no reader names it.
    pub(super) fn retire_all(&self, words: &[u64]) -> Result<(), Error> {
        if words.len() < RETIRED {
            return words.iter().try_for_each(|word| self.retire(*word));
        }
        self.sequence.heap.collect(self.named(&[])?)
    }

    /// Puts an element behind all others.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    #[inline]
    pub fn push_back(&mut self, draft: ElementDraft<'_, impl Memory>) -> Result<(), Error> {
        let directory = self.room(0, 1)?;
        let span = directory.span()?;
        let slot = directory.slot(self.sequence.memory, span.first() + span.len())?;
        let word = self.place(&draft, &[])?;
        self.begin();
        if broken("sequence: store the span before the slot") {
            directory.span.store(span.with_len(span.len() + 1).0, Release);
        }
        slot.store(word, Release);
        // The commit.
        directory.span.store(span.with_len(span.len() + 1).0, Release);
        draft.keep();
        self.end();
        Ok(())
    }

    /// Puts an element in place of another; false if there is none at that index.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    #[inline]
    pub fn set(&mut self, index: u64, draft: ElementDraft<'_, impl Memory>) -> Result<bool, Error> {
        let Some(directory) = self.directory()? else { return Ok(false) };
        let span = directory.span()?;
        if index >= span.len() {
            return Ok(false);
        }
        let slot = directory.slot(self.sequence.memory, span.first() + index)?;
        let word = self.place(&draft, &[])?;
        let old = slot.load(Relaxed);
        self.begin();
        if broken("sequence: retire before the slot is stored") {
            self.retire(old)?;
        }
        // The commit.
        slot.store(word, Release);
        draft.keep();
        self.end();
        if broken("sequence: retire before the slot is stored") {
            return Ok(true);
        }
        self.retire(old)?;
        Ok(true)
    }

    /// Takes the last element out, if there is one.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn pop_back(&mut self) -> Result<bool, Error> {
        let Some(directory) = self.directory()? else { return Ok(false) };
        let span = directory.span()?;
        if span.len() == 0 {
            return Ok(false);
        }
        let slot = directory.slot(self.sequence.memory, span.first() + span.len() - 1)?;
        let old = slot.load(Relaxed);
        self.begin();
        // The commit.
        directory.span.store(span.with_len(span.len() - 1).0, Release);
        self.empty(slot);
        self.end();
        self.retire(old)?;
        self.tidy(&directory, span.len() - 1)?;
        Ok(true)
    }

    /// Gives back what a list that has become short does not need: runs of its heap; the directory, if nothing is left in it.
    #[inline]
    fn tidy(&mut self, directory: &Directory<'_>, left: u64) -> Result<(), Error> {
        if left == 0 && directory.slots > MOST_IDLE_SLOTS {
            return self.clear();
        }
        self.sequence.heap.tidy(&mut || self.named(&[]))
    }

    #[inline]
    fn empty(&self, slot: &crate::sys::atomic::AtomicU64) {
        if !broken("sequence: leave a slot as it was") {
            slot.store(0, Release);
        }
    }

    /// Takes the first elements out, or the last ones, as many as there are.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn cut(&mut self, count: u64, at_front: bool) -> Result<(), Error> {
        let Some(directory) = self.directory()? else { return Ok(()) };
        let span = directory.span()?;
        let count = count.min(span.len());
        if count == 0 {
            return Ok(());
        }
        let left = span.len() - count;
        let (now, from) = match at_front {
            true => (span.turned(span.first() + count, left), span.first()),
            false => (span.with_len(left), span.first() + left),
        };
        self.begin();
        // The commit.
        directory.span.store(now.0, Release);
        let mut out = Vec::new();
        for k in from..from + count {
            let slot = directory.slot(self.sequence.memory, k)?;
            out.push(slot.load(Relaxed));
            self.empty(slot);
        }
        self.end();
        self.retire_all(&out)?;
        self.tidy(&directory, left)
    }

    /// Puts elements in front of all others or behind them, all at once.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    pub(super) fn extend(&mut self, drafts: Vec<ElementDraft<'_, impl Memory>>, at_front: bool) -> Result<(), Error> {
        let count = drafts.len() as u64;
        let directory = if at_front { self.room(count, 0)? } else { self.room(0, count)? };
        let span = directory.span()?;
        let words = self.place_all(&drafts)?;
        let len = span.len() + count;
        let (now, from) = match at_front {
            true => (span.turned(span.first() - count, len), span.first() - count),
            false => (span.with_len(len), span.first() + span.len()),
        };
        self.begin();
        for (k, word) in (from..).zip(words) {
            directory.slot(self.sequence.memory, k)?.store(word, Release);
        }
        // The commit.
        directory.span.store(now.0, Release);
        drafts.into_iter().for_each(ElementDraft::keep);
        self.end();
        Ok(())
    }

    /// Takes all elements out.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn clear(&mut self) -> Result<(), Error> {
        if self.sequence.block.root.load(Relaxed) == 0 {
            return Ok(());
        }
        self.begin();
        // The commit.
        self.sequence.block.root.store(0, Release);
        self.end();
        self.sequence.heap.collect(Vec::new())
    }
}
