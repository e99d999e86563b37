//! What changes more than the ends of a sequence, or one element: another directory takes the place of the one there was.

use super::super::heap::{MAX_BLOCK, RUN};
use super::super::memory::Memory;
use super::element::ElementDraft;
use super::{Directory, Editing, MAX_ELEMENTS, SLOTS_AT, Sequence, Span};
use crate::error::{Error, ErrorKind};
use crate::sys::atomic::MODELLED;
use crate::sys::atomic::Ordering::{Relaxed, Release};

/// Slots of a new directory, at least.
const LEAST_SLOTS: u64 = if MODELLED { 2 } else { 8 };

impl<'a, M: Memory> Editing<'_, 'a, M> {
    /// A directory with room for so many elements more in front and behind.
    #[inline]
    pub(super) fn room(&mut self, front: u64, back: u64) -> Result<Directory<'a>, Error> {
        match self.directory()? {
            Some(directory) => {
                let span = directory.span()?;
                if span.first() >= front && directory.slots - span.first() - span.len() >= back {
                    return Ok(directory);
                }
                self.grow(Some((directory, span)), front, back)
            }
            None => self.grow(None, front, back),
        }
    }

    /// Half as many slots again as there are elements, on the side where they are wanted; a quarter of that at most on the
    /// other, if there are any now.
    #[cold]
    fn grow(&mut self, old: Option<(Directory<'a>, Span)>, front: u64, back: u64) -> Result<Directory<'a>, Error> {
        let mut image = Vec::new();
        let (mut len, mut free, mut turns) = (0, (0, 0), 0);
        if let Some((directory, span)) = &old {
            len = span.len();
            free = (span.first(), directory.slots - span.first() - len);
            turns = span.turns();
            self.append_slots(directory, span.first(), len, &mut image)?;
        }
        let spare = len / 2 + LEAST_SLOTS;
        let least = self.checked(len + front + back)?;
        let (mut before, mut after) = match front > 0 {
            true => (front + spare, free.1.min(spare / 4)),
            false => (free.0.min(spare / 4), back + spare),
        };
        if before + len + after > MAX_ELEMENTS {
            (before, after) = (front, MAX_ELEMENTS - least + back);
        }
        let span = Span::new(before, len, turns);
        let directory = self.new_directory(before + len + after, span, &image, &[])?;
        self.replace(&directory);
        if let Some((old, _)) = old {
            self.retire_block(old.at, true)?;
        }
        Ok(directory)
    }

    /// So many elements, if there can be so many.
    fn checked(&self, len: u64) -> Result<u64, Error> {
        if len > MAX_ELEMENTS {
            let message = format!("{len} elements, at most {MAX_ELEMENTS}");
            return Err(Error::new(ErrorKind::OutOfSpace, "grow list", message));
        }
        Ok(len)
    }

    /// Appends the words of `count` slots.
    fn append_slots(&self, directory: &Directory<'_>, from: u64, count: u64, image: &mut Vec<u8>) -> Result<(), Error> {
        self.sequence.memory.read(directory.slots_at.wrapping_add(from * 8), count * 8, image)
    }

    /// The commit of a new directory.
    fn replace(&self, directory: &Directory<'_>) {
        // Release: its slots come with it.
        self.sequence.block.root.store(directory.at, Release);
        if let Ok([_, run]) = self.sequence.memory.words::<2>(directory.at) {
            let run = run.load(Relaxed);
            if run != 0 {
                self.sequence.memory.keep_run(run);
            }
        }
    }

    /// Makes a directory whose span has the slots in `image`.
    fn new_directory(&self, slots: u64, span: Span, image: &[u8], pending: &[u64]) -> Result<Directory<'a>, Error> {
        let Sequence { memory, heap, .. } = self.sequence;
        let bytes = slots * 8;
        let is_long = SLOTS_AT + bytes > MAX_BLOCK;
        let block_bytes = if is_long { SLOTS_AT } else { SLOTS_AT + bytes };
        let block = heap.alloc(self.lane, block_bytes, &mut || self.named(pending))?;
        let (run, slots_at) = if is_long {
            let again = |_| {
                // Directories that were replaced may be all that is in the way.
                heap.collect(self.named(pending).map(|mut named| (named.push(block.at), named).1)?)?;
                memory.take_run(self.lane, bytes)
            };
            match memory.take_run(self.lane, bytes).or_else(again) {
                Ok(run) => (run.name, run.at),
                Err(e) => {
                    heap.free(block.at)?;
                    return Err(e);
                }
            }
        } else {
            (0, block.at + SLOTS_AT)
        };
        let [header, name, span_word, slots_word, place] = memory.words::<5>(block.at)?;
        name.store(run, Relaxed);
        span_word.store(span.0, Relaxed);
        slots_word.store(slots, Relaxed);
        place.store(slots_at, Relaxed);
        header.store(block.header(if is_long { RUN } else { 0 }, 0), Relaxed);
        self.write_zeros(slots_at, span.first() * 8)?;
        memory.write(slots_at + span.first() * 8, image)?;
        let end = span.first() * 8 + image.len() as u64;
        self.write_zeros(slots_at + end, bytes - end)?;
        Directory::at(*memory, block.at)
    }

    fn write_zeros(&self, mut at: u64, mut bytes: u64) -> Result<(), Error> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while bytes > 0 {
            let part = bytes.min(ZEROS.len() as u64);
            self.sequence.memory.write(at, &ZEROS[..part as usize])?;
            (at, bytes) = (at + part, bytes - part);
        }
        Ok(())
    }

    /// Makes a directory of these slots current, and frees what was taken out.
    fn commit(
        &mut self,
        image: &[u8],
        pending: &[u64],
        drafts: Vec<ElementDraft<'_, impl Memory>>,
    ) -> Result<(), Error> {
        let old = self.directory()?;
        let len = image.len() as u64 / 8;
        let (mut slots, mut first) = (len + len / 2 + LEAST_SLOTS, 0);
        if let Some(old) = &old {
            if len <= old.slots && len >= old.slots / 4 {
                slots = old.slots;
            }
            first = old.span()?.first();
        }
        let slots = slots.min(MAX_ELEMENTS);
        first = first.min((slots - len) / 2);
        let directory = match self.new_directory(slots, Span::new(first, len, 0), image, pending) {
            Ok(directory) => directory,
            Err(e) => {
                self.free_all(pending)?;
                return Err(e);
            }
        };
        self.begin();
        self.replace(&directory);
        drafts.into_iter().for_each(ElementDraft::keep);
        self.end();
        match old {
            Some(old) => self.retire_block(old.at, true),
            None => Ok(()),
        }
    }

    /// Puts elements in place of those from index `from` up to `to`, all at once. Indices beyond the end mean the end.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    pub fn splice(&mut self, from: u64, to: u64, drafts: Vec<ElementDraft<'_, impl Memory>>) -> Result<(), Error> {
        let len = self.len()?;
        let (from, to) = (from.min(len), to.min(len).max(from.min(len)));
        self.checked(len - (to - from) + drafts.len() as u64)?;
        if drafts.is_empty() && (to == len || from == 0) {
            return self.cut(to - from, to != len);
        }
        if from == to && (from == len || from == 0) {
            return self.extend(drafts, from != len);
        }
        let words = self.place_all(&drafts)?;
        // Not empty: something of it stays, or goes.
        let (mut image, mut out) = (Vec::new(), Vec::new());
        if let Some(directory) = self.directory()? {
            let first = directory.span()?.first();
            self.append_slots(&directory, first, from, &mut image)?;
            words.iter().for_each(|word| image.extend_from_slice(&word.to_ne_bytes()));
            self.append_slots(&directory, first + to, len - to, &mut image)?;
            for k in from..to {
                out.push(directory.slot(self.sequence.memory, first + k)?.load(Relaxed));
            }
        }
        self.commit(&image, &words, drafts)?;
        self.retire_all(&out)
    }

    /// Puts elements in place of those at these indices, all at once. No index may be named twice.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    pub fn replace_at(&mut self, indices: &[u64], drafts: Vec<ElementDraft<'_, impl Memory>>) -> Result<(), Error> {
        let Some(directory) = self.directory()? else { return Ok(()) };
        let span = directory.span()?;
        let (mut image, mut out) = (Vec::new(), Vec::new());
        self.append_slots(&directory, span.first(), span.len(), &mut image)?;
        let words = self.place_all(&drafts)?;
        for (index, word) in indices.iter().zip(&words) {
            let at = *index as usize * 8;
            if let Some(place) = image.get_mut(at..at + 8) {
                out.push(u64::from_ne_bytes((&*place).try_into().expect("eight bytes")));
                place.copy_from_slice(&word.to_ne_bytes());
            }
        }
        self.commit(&image, &words, drafts)?;
        self.retire_all(&out)
    }

    /// Takes the elements from index `from` up to `to` out, all at once.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    pub fn remove(&mut self, from: u64, to: u64) -> Result<(), Error> {
        self.splice(from, to, Vec::<ElementDraft<'_, M>>::new())
    }

    /// Puts the elements in another order, all at once: of each place, the index at which its element was. Those that are not
    /// named are taken out. No index may be named twice.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    pub fn rearrange(&mut self, order: &[u32]) -> Result<(), Error> {
        let Some(directory) = self.directory()? else { return Ok(()) };
        let span = directory.span()?;
        let mut words = vec![0; self.len()? as usize];
        for (k, word) in (span.first()..).zip(&mut words) {
            *word = directory.slot(self.sequence.memory, k)?.load(Relaxed);
        }
        let mut image = Vec::with_capacity(order.len() * 8);
        for index in order {
            let taken = words.get_mut(*index as usize).map(std::mem::take);
            image.extend_from_slice(&taken.unwrap_or(0).to_ne_bytes());
        }
        self.commit(&image, &[], Vec::<ElementDraft<'_, M>>::new())?;
        words.retain(|word| *word != 0);
        self.retire_all(&words)
    }
}
