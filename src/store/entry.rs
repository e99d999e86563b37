//! An entry of a table: how its key and its value lie in memory.
//!
//! ```text
//! block tagged with the entry's number, and: value:40 | key:24 (bytes), version, the key, padding, the value
//! or, with flag RUN: name of the run, version, value:40 | key:24, place of the key
//! ```

use super::heap::{Block, MAX_BLOCK, RUN, flags_of};
use super::memory::{Memory, Piece};
use crate::error::{Error, ErrorKind};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;

/// Flag of an entry that the table passes on: of its value.
pub const MARKED: u64 = 2;
/// The longest key.
pub const MAX_KEY: u64 = (1 << 24) - 1;
/// The longest value.
pub const MAX_VALUE: u64 = (1 << 40) - 1;

/// Where the key begins of an entry that is one block.
const KEY_AT: u64 = 24;
/// Bytes of the block of an entry that has a run.
const LONG_ENTRY: u64 = 40;

/// An entry that was found, as long as it stays in place.
pub struct Entry<'a, M> {
    memory: &'a M,
    pub(super) at: u64,
    header: u64,
    version: u64,
    key: (u64, u64),
    value: (u64, u64),
}

impl<'a, M: Memory> Entry<'a, M> {
    #[inline]
    pub(super) fn at(memory: &'a M, at: u64) -> Result<Self, Error> {
        let [header, second, version] = memory.words::<3>(at)?;
        let (header, version) = (header.load(Relaxed), version.load(Relaxed));
        let (lengths, key_at) = if flags_of(header) & RUN == 0 {
            (second.load(Relaxed), at + KEY_AT)
        } else {
            let [lengths, key_at] = memory.words::<2>(at + KEY_AT)?;
            (lengths.load(Relaxed), key_at.load(Relaxed))
        };
        let (key, value) = (lengths & MAX_KEY, lengths >> 24);
        let value_at = key_at.wrapping_add(key.next_multiple_of(8));
        Ok(Self { memory, at, header, version, key: (key_at, key), value: (value_at, value) })
    }

    /// Its number: greater than that of each entry that was inserted before it.
    pub fn number(&self) -> u64 {
        self.header >> 16
    }

    /// Whether it was [`MARKED`].
    pub fn is_marked(&self) -> bool {
        flags_of(self.header) & MARKED != 0
    }

    /// Tells it from every other entry that the shard ever had.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where its block is: what a reader names that keeps it in place.
    pub fn place(&self) -> u64 {
        self.at
    }

    /// Where its value is, and how many bytes it has.
    #[inline]
    pub fn value(&self) -> (u64, u64) {
        self.value
    }

    /// Appends its key.
    pub fn read_key(&self, to: &mut Vec<u8>) -> Result<(), Error> {
        self.memory.read(self.key.0, self.key.1, to)
    }

    /// Appends its value.
    #[inline]
    pub fn read_value(&self, to: &mut Vec<u8>) -> Result<(), Error> {
        self.memory.read(self.value.0, self.value.1, to)
    }

    /// Whether its value is these bytes.
    pub fn has_value(&self, value: &[u8]) -> Result<bool, Error> {
        Ok(self.value.1 == value.len() as u64 && self.memory.equals(self.value.0, value)?)
    }

    #[inline]
    pub(super) fn has_key(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.key.1 == key.len() as u64 && self.memory.equals(self.key.0, key)?)
    }
}

/// A key and a value about to be set: what is long is in shared memory already.
pub struct Draft<'a, M: Memory> {
    memory: &'a M,
    key: &'a [u8],
    value: &'a [u8],
    marked: bool,
    run: Option<Piece>,
}

impl<M: Memory> Drop for Draft<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if let Some(run) = self.run {
            self.memory.give_run(run.name);
        }
    }
}

impl<'a, M: Memory> Draft<'a, M> {
    /// Prepares an entry. What is too long for a block is copied now, before any lock is taken; it is given back on drop.
    ///
    /// # Errors
    /// `OutOfSpace`; `InvalidInput` if key or value are longer than can be.
    #[inline]
    pub fn new(memory: &'a M, lane: Lane, key: &'a [u8], value: &'a [u8], marked: bool) -> Result<Self, Error> {
        let mut draft = Self { memory, key, value, marked, run: None };
        if draft.block_bytes() > MAX_BLOCK {
            draft.run = Some(draft.write_run(lane)?);
        }
        Ok(draft)
    }

    #[inline]
    fn block_bytes(&self) -> u64 {
        KEY_AT + self.padded_key() + self.value.len() as u64
    }

    #[inline]
    fn padded_key(&self) -> u64 {
        (self.key.len() as u64).next_multiple_of(8)
    }

    #[inline]
    fn lengths(&self) -> u64 {
        (self.value.len() as u64) << 24 | self.key.len() as u64
    }

    #[cold]
    fn write_run(&self, lane: Lane) -> Result<Piece, Error> {
        for (what, len, most) in [("key", self.key.len(), MAX_KEY), ("value", self.value.len(), MAX_VALUE)] {
            if len as u64 > most {
                let message = format!("{len} B, at most {most} B");
                return Err(Error::new(ErrorKind::InvalidInput, format!("set {what}"), message));
            }
        }
        let run = self.memory.take_run(lane, self.padded_key() + self.value.len() as u64)?;
        self.memory.write(run.at, self.key)?;
        self.memory.write(run.at + self.padded_key(), self.value)?;
        Ok(run)
    }

    /// Bytes of its block.
    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        if self.run.is_some() { LONG_ENTRY } else { self.block_bytes() }
    }

    /// The table names it now: its run stays.
    #[inline]
    pub(super) fn keep(mut self) {
        if let Some(run) = self.run.take() {
            self.memory.keep_run(run.name);
        }
    }

    /// Writes it into its block.
    #[inline]
    pub(super) fn write(&self, block: Block, number: u64, version: u64) -> Result<(), Error> {
        let (memory, at) = (self.memory, block.at);
        let [header, second, third] = memory.words::<3>(at)?;
        third.store(version, Relaxed);
        match self.run {
            None => {
                second.store(self.lengths(), Relaxed);
                memory.write(at + KEY_AT, self.key)?;
                memory.write(at + KEY_AT + self.padded_key(), self.value)?;
            }
            Some(run) => {
                second.store(run.name, Relaxed);
                let [lengths, key_at] = memory.words::<2>(at + KEY_AT)?;
                lengths.store(self.lengths(), Relaxed);
                key_at.store(run.at, Relaxed);
            }
        }
        // Last: from here on a run goes with the block.
        header.store(block.header(self.flags(), number), Relaxed);
        Ok(())
    }

    fn flags(&self) -> u64 {
        (if self.run.is_some() { RUN } else { 0 }) | if self.marked { MARKED } else { 0 }
    }
}
