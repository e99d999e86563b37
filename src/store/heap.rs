//! Blocks of memory for a store that is changed under a lock.
//!
//! A heap has runs of memory, cut into blocks that lie side by side. The first word of a block says how long it is, so a
//! run can be walked at any moment. Everything else that the heap knows can be found again from what the store names:
//! [`Heap::collect`] walks the runs, and what neither the store nor a reader names is free. That is the recovery from a
//! death at any instruction, without a log and without an owner in each block; and it is also how free neighbours become
//! one again, so it is not code that runs only after deaths.
//!
//! ```text
//! block: size/8:12 | flags:4 | tag:48, then a word that names the block's run if flag RUN is set, then what the store wants
//! free:  size/8:12, then the next free block of its list
//! ```
//!
//! All calls are made by the holder of the store's lock. Blocks that readers may still read are not freed but retired: a
//! few at a time, those are freed that no hazard names.
//!
//! # Memory ordering
//! A reader names a block, then makes sure that the store still does; a writer unlinks it, then looks at what readers name.
//! Both with a full fence in between, so at least one sees the other. For directories, which are read far more often than
//! they are replaced, the reader's fence is the light half of an asymmetric one ([`Memory::heavy_fence`]).
//!
//! Source: hazard pointers, Maged Michael 2004; segregated lists with deferred joining, Doug Lea's malloc.

use super::collect::Named;
use super::memory::Memory;
use crate::error::Error;
use crate::sync::Lane;
use crate::sys::atomic::Ordering::{self, Relaxed, Release};
use crate::sys::atomic::{AtomicU64, MODELLED, broken, fence};

/// Blocks up to this size come in steps of 8 bytes, larger ones in four steps for each power of two.
const FINE: u64 = if MODELLED { 32 } else { 256 };
/// The largest block that is handed out; what is larger gets a run of its own.
pub const MAX_BLOCK: u64 = if MODELLED { 128 } else { 16 << 10 };
const FINE_LISTS: usize = FINE as usize / 8 - 1;
/// Lists of free blocks: one for each size that is handed out.
pub const LISTS: usize = FINE_LISTS + 4 * (MAX_BLOCK / FINE).ilog2() as usize;
/// Blocks that wait until no reader names them.
pub const RETIRED: usize = if MODELLED { 3 } else { 24 };

/// The block names a run, which goes with it.
pub const RUN: u64 = 1;

const LEAST_BLOCK: u64 = 16;
/// The longest free block, which leaves room for a rest that is too short for a block.
const LONGEST_FREE: u64 = if MODELLED { 192 } else { (0xfff - 1) * 8 };
/// A rest shorter than this stays with the block that it is the rest of.
const LEAST_REST: u64 = 32;
/// Words at the beginning of a run: the name of the next one, and how much of it is blocks.
pub(super) const RUN_HEAD: u64 = 16;
const LEAST_RUN: u64 = if MODELLED { 208 } else { 8 << 10 };
const LARGEST_RUN: u64 = 256 << 10;
/// Bit of an entry in the list of retired blocks: readers name it in the word for directories.
pub(super) const DIRECTORY: u64 = 1;

/// The words of a heap, in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct HeapBlock {
    /// Name of the newest run; each names the one before it.
    pub runs: AtomicU64,
    /// Which lists have blocks.
    pub filled: AtomicU64,
    /// Bytes in blocks that are not free.
    pub used: AtomicU64,
    /// Bytes in blocks.
    pub held: AtomicU64,
    /// Number of retired blocks.
    pub retired_len: AtomicU64,
    /// Blocks were lost track of; collecting finds them.
    pub untidy: AtomicU64,
    /// First block of each list.
    pub lists: [AtomicU64; LISTS],
    /// Retired blocks.
    pub retired: [AtomicU64; RETIRED],
    /// The most bytes in use since it was last collected.
    pub peak: AtomicU64,
    /// Name of a run that is being given back.
    pub leaving: AtomicU64,
    /// Spare.
    pub spare: AtomicU64,
}

/// A block that is not free any more. Its first word says how long it is, and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Where it is.
    pub at: u64,
    size: u64,
}

impl Block {
    /// Its first word, with flags, and with a number of the store's.
    #[inline]
    pub fn header(self, flags: u64, tag: u64) -> u64 {
        (self.size / 8) | ((flags & 0xf) << 12) | (tag << 16)
    }
}

/// A heap: its words, and the blocks in the memory that came with them.
pub struct Heap<'a, M> {
    pub(super) memory: &'a M,
    pub(super) block: &'a HeapBlock,
    /// Blocks that lie beside the heap's own words: from, to.
    pub(super) first: (u64, u64),
}

/// The smallest list whose blocks have `bytes`.
#[inline]
fn list_for(bytes: u64) -> usize {
    if bytes <= FINE {
        return (bytes.max(LEAST_BLOCK).div_ceil(8) - 2) as usize;
    }
    let below = bytes - 1;
    let top = 63 - below.leading_zeros() as usize;
    FINE_LISTS + (top - FINE.ilog2() as usize) * 4 + (below >> (top - 2) & 3) as usize
}

/// Bytes of a list's blocks, at least.
#[inline]
fn list_bytes(list: usize) -> u64 {
    if list < FINE_LISTS {
        return LEAST_BLOCK + 8 * list as u64;
    }
    let (octave, step) = ((list - FINE_LISTS) / 4, (list - FINE_LISTS) % 4);
    (step as u64 + 5) << (octave as u32 + FINE.ilog2() - 2)
}

/// The list that a free block of so many bytes belongs to.
#[inline]
pub(super) fn list_of(bytes: u64) -> usize {
    if bytes >= MAX_BLOCK {
        return LISTS - 1;
    }
    let list = list_for(bytes);
    if list_bytes(list) > bytes { list - 1 } else { list }
}

#[inline]
pub(super) fn size_of_block(header: u64) -> u64 {
    (header & 0xfff) * 8
}

impl<'a, M: Memory> Heap<'a, M> {
    /// The heap with these words, and blocks at `first`.
    pub fn new(memory: &'a M, block: &'a HeapBlock, first: (u64, u64)) -> Self {
        Self { memory, block, first }
    }

    /// Makes the first memory one free block: for a new heap, of zeroed words.
    ///
    /// # Errors
    /// If the memory is not there.
    pub fn init(&self) -> Result<(), Error> {
        let (from, to) = self.first;
        self.block.held.store(to - from, Relaxed);
        self.carve(from, to)
    }

    pub(super) fn corrupt(&self, field: &str, found: u64, wanted: &str) -> Error {
        Error::corrupt("heap", field, found, wanted)
    }

    /// The first two words of a block, and the value of the first.
    #[inline]
    pub(super) fn header(&self, at: u64) -> Result<(&'a [AtomicU64; 2], u64), Error> {
        let words = self.memory.words::<2>(at)?;
        let header = words[0].load(Relaxed);
        if size_of_block(header) < LEAST_BLOCK {
            return Err(self.corrupt("block", header, "a size of at least 16 B"));
        }
        Ok((words, header))
    }

    /// Makes a free block of `size` bytes of these words, which are at `at`.
    #[inline]
    fn push(&self, words: &[AtomicU64; 2], at: u64, size: u64) {
        words[0].store(size / 8, Relaxed);
        let list = list_of(size);
        let head = &self.block.lists[list];
        words[1].store(head.load(Relaxed), Relaxed);
        head.store(at, Relaxed);
        self.block.filled.store(self.block.filled.load(Relaxed) | 1 << list, Relaxed);
    }

    /// Makes free blocks of the memory between two places.
    ///
    /// First the words that tell their sizes, the last one first: so the memory can be walked at any moment, since what lay
    /// there goes on to do so until the first one's word is written. Then what lies behind these words.
    pub(super) fn carve(&self, from: u64, to: u64) -> Result<(), Error> {
        let mixed = broken("heap: link a piece before all have sizes");
        self.for_each_piece(from, to, &mut |at, size| {
            let words = self.memory.words(at)?;
            words[0].store(size / 8, Relaxed);
            if mixed {
                self.push(words, at, size);
            }
            Ok(())
        })?;
        if mixed {
            return Ok(());
        }
        self.for_each_piece(from, to, &mut |at, size| {
            self.push(self.memory.words(at)?, at, size);
            Ok(())
        })
    }

    /// Gives `f` place and size of the free blocks that memory is cut into, the last one first.
    fn for_each_piece(
        &self,
        from: u64,
        to: u64,
        f: &mut dyn FnMut(u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut end = to;
        // The rest that is no whole one comes last in memory, and may be a little longer so that none is too short.
        let mut size = (to - from) % LONGEST_FREE;
        if size < LEAST_BLOCK && to - from > LONGEST_FREE {
            size += LONGEST_FREE;
        }
        while end > from {
            if size >= LEAST_BLOCK {
                end -= size;
                f(end, size)?;
            } else if size > 0 {
                // A single word between two blocks cannot be: every block has two, and leaves no rest so short.
                return Err(self.corrupt("gap", size, "at least 16 B"));
            }
            size = LONGEST_FREE;
        }
        Ok(())
    }

    /// A block of at least `bytes` bytes, if there is a free one.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn try_alloc(&self, bytes: u64) -> Result<Option<Block>, Error> {
        let wanted = list_for(bytes);
        let need = bytes.max(LEAST_BLOCK).next_multiple_of(8);
        let filled = self.block.filled.load(Relaxed);
        if need < list_bytes(wanted) && filled >> (wanted - 1) & 1 == 1 {
            // Not all blocks of the list below are too short: those of the same size are there, which were freed before.
            let at = self.block.lists[wanted - 1].load(Relaxed);
            let (words, header) = self.header(at)?;
            if size_of_block(header) >= need {
                return self.take(wanted - 1, at, words, header, need);
            }
        }
        let list = (filled >> wanted << wanted).trailing_zeros() as usize;
        if list >= LISTS {
            return Ok(None);
        }
        let at = self.block.lists[list].load(Relaxed);
        let (words, header) = self.header(at)?;
        self.take(list, at, words, header, need)
    }

    /// Takes the first block of a list.
    #[inline]
    fn take(
        &self,
        list: usize,
        at: u64,
        words: &[AtomicU64; 2],
        header: u64,
        need: u64,
    ) -> Result<Option<Block>, Error> {
        let size = size_of_block(header);
        if size < need {
            return Err(self.corrupt("free block", size, "as much as its list has"));
        }
        let next = words[1].load(Relaxed);
        self.block.lists[list].store(next, Relaxed);
        if next == 0 {
            self.block.filled.store(self.block.filled.load(Relaxed) & !(1 << list), Relaxed);
        }
        let mut kept = size;
        if size - need >= LEAST_REST {
            // The rest first, so that the memory can be walked at any moment.
            self.push(self.memory.words(at + need)?, at + need, size - need);
            words[0].store(need / 8, Relaxed);
            kept = need;
        }
        self.block.used.store(self.block.used.load(Relaxed).wrapping_add(kept), Relaxed);
        Ok(Some(Block { at, size: kept }))
    }

    /// Whether so much of the heap is free, in blocks too short to be used, that collecting pays.
    fn is_scattered(&self) -> bool {
        let (used, held) = (self.block.used.load(Relaxed), self.block.held.load(Relaxed));
        self.block.untidy.load(Relaxed) != 0 || held > 4 * LEAST_RUN && used < held / 2
    }

    /// Collects if that may give runs back: three quarters are free, and half of what was in use at the last time is.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn tidy(&self, named: &mut dyn FnMut() -> Result<Vec<u64>, Error>) -> Result<(), Error> {
        let [used, held, peak] = [&self.block.used, &self.block.held, &self.block.peak].map(|word| word.load(Relaxed));
        if held > 8 * LEAST_RUN && used < held / 4 && used < peak / 2 { self.collect(named()?) } else { Ok(()) }
    }

    /// A block of at least `bytes` bytes, at most [`MAX_BLOCK`]. `named` gives what the store names, if it has to be known.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`.
    #[inline]
    pub fn alloc(
        &self,
        lane: Lane,
        bytes: u64,
        named: &mut dyn FnMut() -> Result<Vec<u64>, Error>,
    ) -> Result<Block, Error> {
        match self.try_alloc(bytes)? {
            Some(at) => Ok(at),
            None => self.alloc_hard(lane, bytes, named),
        }
    }

    #[cold]
    fn alloc_hard(
        &self,
        lane: Lane,
        bytes: u64,
        named: &mut dyn FnMut() -> Result<Vec<u64>, Error>,
    ) -> Result<Block, Error> {
        self.reclaim()?;
        if let Some(at) = self.try_alloc(bytes)? {
            return Ok(at);
        }
        if self.is_scattered() {
            self.collect(named()?)?;
            if let Some(at) = self.try_alloc(bytes)? {
                return Ok(at);
            }
        }
        if let Err(full) = self.grow(lane, bytes) {
            // What is there may do, if free neighbours are joined.
            self.collect(named()?)?;
            return self.try_alloc(bytes)?.ok_or(full);
        }
        self.try_alloc(bytes)?.ok_or_else(|| self.corrupt("lists", bytes, "a block in the new run"))
    }

    fn grow(&self, lane: Lane, bytes: u64) -> Result<(), Error> {
        let held = self.block.held.load(Relaxed);
        let run = self
            .memory
            .take_run(lane, (held / 16).clamp(LEAST_RUN, LARGEST_RUN).max(list_bytes(list_for(bytes)) + RUN_HEAD))?;
        let end = run.at + run.bytes / 8 * 8;
        self.memory.word(run.at)?.store(self.block.runs.load(Relaxed), Relaxed);
        self.memory.word(run.at + 8)?.store(end - run.at - RUN_HEAD, Relaxed);
        self.carve(run.at + RUN_HEAD, end)?;
        // From here on the heap names it.
        self.block.runs.store(run.name, Release);
        self.memory.keep_run(run.name);
        self.block.held.store(held.wrapping_add(end - run.at - RUN_HEAD), Relaxed);
        self.block.peak.store(self.block.used.load(Relaxed), Relaxed);
        Ok(())
    }

    /// Frees a block that no reader can know.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn free(&self, at: u64) -> Result<(), Error> {
        let (words, header) = self.header(at)?;
        self.give_run_of(words, header);
        let size = size_of_block(header);
        self.push(words, at, size);
        self.block.used.store(self.block.used.load(Relaxed).wrapping_sub(size), Relaxed);
        Ok(())
    }

    #[inline]
    pub(super) fn give_run_of(&self, words: &[AtomicU64; 2], header: u64) {
        if flags_of(header) & RUN != 0 {
            self.memory.give_run(words[1].load(Relaxed));
        }
    }

    /// Frees a block that the store names no more, when no reader names it. `directory` if readers name it in the word for
    /// directories.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn retire(&self, at: u64, directory: bool) -> Result<(), Error> {
        if broken("heap: free what readers may name") {
            return self.free(at);
        }
        let len = self.block.retired_len.load(Relaxed) as usize;
        let Some(entry) = self.block.retired.get(len) else {
            // Readers that do not go on name all of them. Collecting will find it.
            self.block.untidy.store(1, Relaxed);
            return self.reclaim();
        };
        entry.store(at | if directory { DIRECTORY } else { 0 }, Relaxed);
        self.block.retired_len.store(len as u64 + 1, Relaxed);
        if len + 1 == RETIRED { self.reclaim() } else { Ok(()) }
    }

    /// Frees what was retired and no reader names.
    ///
    /// # Errors
    /// `Corrupt`.
    #[cold]
    pub fn reclaim(&self) -> Result<(), Error> {
        let len = (self.block.retired_len.load(Relaxed) as usize).min(RETIRED);
        let retired: [u64; RETIRED] = std::array::from_fn(|k| self.block.retired[k].load(Relaxed));
        let retired = &retired[..len];
        let named = self.named_by_readers(retired.iter().any(|entry| entry & DIRECTORY != 0));
        let mut kept = 0;
        for entry in retired {
            if named.contains(entry & !DIRECTORY) {
                self.block.retired[kept].store(*entry, Relaxed);
                kept += 1;
            } else {
                self.free(entry & !DIRECTORY)?;
            }
        }
        self.block.retired_len.store(kept as u64, Relaxed);
        Ok(())
    }

    pub(super) fn named_by_readers(&self, directories: bool) -> Named {
        let mut named = Named::new();
        if !broken("heap: look at hazards without a fence") {
            if directories {
                self.memory.heavy_fence();
            }
            fence(Ordering::SeqCst);
        }
        self.memory.for_each_hazard(&mut |at| named.add(at));
        named
    }
}

/// The flags in a block's first word.
#[inline]
pub fn flags_of(header: u64) -> u64 {
    header >> 12 & 0xf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_begins_where_the_one_before_ends() {
        for bytes in 1..=MAX_BLOCK {
            let list = list_for(bytes);
            assert!(list_bytes(list) >= bytes && (list == 0 || list_bytes(list - 1) < bytes), "{bytes}");
            assert!(bytes < LEAST_BLOCK || list_bytes(list_of(bytes)) <= bytes, "{bytes}");
        }
        assert_eq!((list_for(MAX_BLOCK), list_bytes(LISTS - 1)), (LISTS - 1, MAX_BLOCK));
    }
}
