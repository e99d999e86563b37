//! An element of a sequence: how its bytes lie in memory.
//!
//! ```text
//! slot   place of a block; or, of an element of up to 7 bytes without a mark: bytes:56 | spare:4 | length:3 | 1
//! block  tagged with the element's version, and: length, the bytes
//! or, with flag RUN: name of the run, length, place of the bytes
//! ```

use super::super::entry::MARKED;
use super::super::heap::{Block, MAX_BLOCK, RUN, flags_of};
use super::super::memory::{Memory, Piece};
use crate::error::Error;
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;

/// Where the bytes begin of an element that is one block.
const BYTES_AT: u64 = 16;
/// Bytes of the block of an element that has a run.
const LONG_ELEMENT: u64 = 32;
/// The longest element that is a slot.
const MAX_INLINE: usize = 7;
/// A version's bits.
const VERSION: u64 = (1 << 48) - 1;

#[inline]
pub(super) fn is_inline(word: u64) -> bool {
    word & 1 != 0
}

#[inline]
fn inline_word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[1..=bytes.len()].copy_from_slice(bytes);
    word[0] = (bytes.len() as u8) << 1 | 1;
    u64::from_le_bytes(word)
}

/// An element that was found, as long as it stays in place.
pub struct Element<'a, M> {
    memory: &'a M,
    word: u64,
    header: u64,
    /// Place and length of the bytes, unless the slot has them.
    bytes: (u64, u64),
}

/// Tells an element from others that were at its index; two short ones of the same bytes are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(pub(super) u64, u64);

impl<'a, M: Memory> Element<'a, M> {
    /// What a slot names.
    #[inline]
    pub(super) fn at(memory: &'a M, word: u64) -> Result<Self, Error> {
        if is_inline(word) {
            return Ok(Self { memory, word, header: 0, bytes: (0, word >> 1 & 7) });
        }
        let [header, second] = memory.words::<2>(word)?;
        let header = header.load(Relaxed);
        let bytes = if flags_of(header) & RUN == 0 {
            (word + BYTES_AT, second.load(Relaxed))
        } else {
            let [_, _, len, at] = memory.words::<4>(word)?;
            (at.load(Relaxed), len.load(Relaxed))
        };
        Ok(Self { memory, word, header, bytes })
    }

    /// Whether it was marked.
    #[inline]
    pub fn is_marked(&self) -> bool {
        flags_of(self.header) & MARKED != 0
    }

    /// What tells it from others.
    #[inline]
    pub fn identity(&self) -> Identity {
        Identity(self.word, self.header >> 16)
    }

    /// Appends its bytes.
    ///
    /// # Errors
    /// `Corrupt` if they are not there.
    #[inline]
    pub fn read(&self, to: &mut Vec<u8>) -> Result<(), Error> {
        let (at, len) = self.bytes;
        if is_inline(self.word) {
            to.extend_from_slice(&self.word.to_le_bytes()[1..=len as usize]);
            return Ok(());
        }
        self.memory.read(at, len, to)
    }
}

/// An element about to be put in: what is long is in shared memory already.
pub struct ElementDraft<'a, M: Memory> {
    memory: &'a M,
    bytes: &'a [u8],
    marked: bool,
    run: Option<Piece>,
}

impl<M: Memory> Drop for ElementDraft<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if let Some(run) = self.run {
            self.memory.give_run(run.name);
        }
    }
}

impl<'a, M: Memory> ElementDraft<'a, M> {
    /// Prepares an element. What is too long for a block is copied now, before any lock is taken; it is given back on drop.
    ///
    /// # Errors
    /// `OutOfSpace`.
    #[inline]
    pub fn new(memory: &'a M, lane: Lane, bytes: &'a [u8], marked: bool) -> Result<Self, Error> {
        let mut draft = Self { memory, bytes, marked, run: None };
        if BYTES_AT + bytes.len() as u64 > MAX_BLOCK {
            draft.run = Some(draft.write_run(lane)?);
        }
        Ok(draft)
    }

    #[cold]
    fn write_run(&self, lane: Lane) -> Result<Piece, Error> {
        let run = self.memory.take_run(lane, self.bytes.len() as u64)?;
        self.memory.write(run.at, self.bytes)?;
        Ok(run)
    }

    /// The slot that it is, if it is short enough to need no block.
    #[inline]
    pub(super) fn inline(&self) -> Option<u64> {
        (self.bytes.len() <= MAX_INLINE && !self.marked).then(|| inline_word(self.bytes))
    }

    /// Bytes of its block.
    #[inline]
    pub(super) fn block_bytes(&self) -> u64 {
        if self.run.is_some() { LONG_ELEMENT } else { BYTES_AT + self.bytes.len() as u64 }
    }

    /// Writes its block.
    #[inline]
    pub(super) fn write(&self, block: Block, version: u64) -> Result<(), Error> {
        let flags = (if self.run.is_some() { RUN } else { 0 }) | if self.marked { MARKED } else { 0 };
        let len = self.bytes.len() as u64;
        let header = match self.run {
            None => {
                self.memory.write(block.at + BYTES_AT, self.bytes)?;
                let [header, second] = self.memory.words::<2>(block.at)?;
                second.store(len, Relaxed);
                header
            }
            Some(run) => {
                let [header, name, length, at] = self.memory.words::<4>(block.at)?;
                name.store(run.name, Relaxed);
                length.store(len, Relaxed);
                at.store(run.at, Relaxed);
                header
            }
        };
        // Last: with the flag RUN goes the run's name.
        header.store(block.header(flags, version & VERSION), Relaxed);
        Ok(())
    }

    /// The sequence names it now: its run stays.
    #[inline]
    pub(super) fn keep(mut self) {
        if let Some(run) = self.run.take() {
            self.memory.keep_run(run.name);
        }
    }
}
