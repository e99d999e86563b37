//! A hash table in shared memory that is read without locks and changed under one: a shard of a dictionary.
//!
//! An entry never changes once it can be found; replacing it is one store into its slot, of another one. So whoever reads
//! finds the old entry or the new one, whole, and whoever is killed has committed or has not. What readers read stays in
//! place as long as they name it (`heap.rs`). A reader never waits, and a reader that is stopped keeps two blocks.
//!
//! ```text
//! slot     0 EMPTY | 1 TOMB | tag:24 | place/8:40      (the tag is part of the key's hash)
//! table    block: name of the run, if the slots have one of their own (flag RUN); how many slots; their place
//!          slots: one word each, then the order: 32 bits each, the number of the slot of each entry, oldest first
//! entry    see `entry.rs`
//! ```
//!
//! | killed | left behind | outcome |
//! |---|---|---|
//! | before the slot is stored | the old entry; a block that nothing names | collected by the next who locks |
//! | after that | the new entry; the old block | as above |
//! | while the table grows | the old table, or the new one | as above |
//! | while it collects | all entries | collected again |
//!
//! # Memory ordering
//! A slot is stored with Release and loaded with Acquire, so with a place comes the entry; likewise the place of a
//! table. For the fences of readers see `heap.rs`.
//!
//! Source: open addressing with tombs, as in Knuth; the dense order beside the slots, as in Python's `dict`.

use super::change::Changing;
use super::entry::Entry;
use super::heap::{Heap, HeapBlock, RUN, flags_of};
use super::memory::{HAZARDS, LOOKING, Memory, READING};
use crate::error::Error;
use crate::sync::{Lane, MutexBlock, TimedOut, WaitBlock};
use crate::sys::atomic::Ordering::{self, Acquire, Relaxed, Release};
use crate::sys::atomic::{AtomicU64, MODELLED, broken, fence};
use crate::sys::clock::Deadline;

pub(super) const EMPTY: u64 = 0;
pub(super) const TOMB: u64 = 1;
pub(super) const LEAST_SLOTS: u64 = if MODELLED { 2 } else { 16 };
pub(super) const MOST_SLOTS: u64 = 1 << 31;
/// Where the slots of a table begin that is one block.
pub(super) const SLOTS_AT: u64 = 32;
/// A table of which the order names no slot any more.
pub(super) const NO_SLOT: u64 = u32::MAX as u64;
/// Tables that readers find in a row, before they say that something is wrong: each is a whole table's growth of a writer.
const MOST_TABLES: u32 = 1 << 16;

/// The words of a shard, in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct ShardBlock {
    /// Held while it is changed.
    pub lock: MutexBlock,
    /// Whoever waits for a change sleeps here.
    pub wait: WaitBlock,
    /// Counts the changes, twice each: odd while one is made.
    pub changes: AtomicU64,
    /// Entries.
    pub len: AtomicU64,
    /// Slots that are not EMPTY.
    pub used: AtomicU64,
    /// Places of the order that are taken.
    pub ordered: AtomicU64,
    /// Spare.
    pub spare: [AtomicU64; 3],
    /// Place of the table; 0 if there is none. Apart from the words above, which change more often.
    pub table: AtomicU64,
    /// Spare.
    pub reserved: [AtomicU64; 7],
}

/// Bytes of the blocks that lie beside a shard's words.
const FIRST_BYTES: usize = 1152;

/// A shard with all that it needs while it is small, in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct CellBlock {
    /// The shard.
    pub shard: ShardBlock,
    /// Its heap.
    pub heap: HeapBlock,
    /// The heap's first blocks.
    pub first: [AtomicU64; FIRST_BYTES / 8],
}

/// The words of a dictionary, in shared memory. Its shards follow.
#[repr(C)]
#[derive(Debug)]
pub struct DictBlock {
    /// Number of shards.
    pub shards: AtomicU64,
    /// What the hash begins with.
    pub seed: AtomicU64,
    /// The hash of nothing, by which others see that they hash alike.
    pub check: AtomicU64,
    /// 1 if a marked entry was ever put in.
    pub marked: AtomicU64,
    /// Spare.
    pub spare: [AtomicU64; 4],
    /// Number of the next entry. Apart from the words above, which do not change.
    pub next: AtomicU64,
    /// Spare.
    pub reserved: [AtomicU64; 7],
}

/// A shard: its words, and the memory in which its entries are.
pub struct Shard<'a, M> {
    pub(super) memory: &'a M,
    pub(super) block: &'a ShardBlock,
    pub(super) heap: Heap<'a, M>,
}

/// Where the slots are of a table, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub at: u64,
    pub slots_at: u64,
    pub slots: u64,
}

/// What a slot says of an entry that it may name.
#[inline]
pub(super) fn tag_of(hash: u64) -> u64 {
    hash >> 32 & 0xff_ffff
}

#[inline]
pub(super) fn slot_word(hash: u64, at: u64) -> u64 {
    (tag_of(hash) << 40) | (at / 8)
}

#[inline]
pub(super) fn place_of(slot: u64) -> u64 {
    (slot & 0xff_ffff_ffff) * 8
}

#[inline]
pub(super) fn is_entry(slot: u64) -> bool {
    slot > TOMB
}

/// How many slots may be in use.
#[inline]
pub(super) fn limit(slots: u64) -> u64 {
    slots - slots / 6
}

impl Table {
    #[inline]
    pub fn first_slot(&self, hash: u64) -> u64 {
        ((hash & 0xffff_ffff) * self.slots) >> 32
    }

    #[inline]
    pub fn slot<'m, M: Memory>(&self, memory: &'m M, slot: u64) -> Result<&'m AtomicU64, Error> {
        memory.word(self.slots_at.wrapping_add(slot * 8))
    }

    /// The word with place `k` of the order, and by how much its bits are shifted.
    fn order<'m, M: Memory>(&self, memory: &'m M, k: u64) -> Result<(&'m AtomicU64, u64), Error> {
        Ok((memory.word(self.slots_at.wrapping_add((self.slots + k / 2) * 8))?, k % 2 * 32))
    }

    pub fn ordered<M: Memory>(&self, memory: &M, k: u64) -> Result<u64, Error> {
        let (word, shift) = self.order(memory, k)?;
        Ok(word.load(Relaxed) >> shift & NO_SLOT)
    }

    pub fn set_order<M: Memory>(&self, memory: &M, k: u64, slot: u64) -> Result<(), Error> {
        let (word, shift) = self.order(memory, k)?;
        word.store(word.load(Relaxed) & !(NO_SLOT << shift) | slot << shift, Relaxed);
        Ok(())
    }

    pub fn bytes(slots: u64) -> u64 {
        (slots + limit(slots).div_ceil(2)) * 8
    }
}

/// Hazard words in use; cleared on drop, also when a caller's function panics.
struct Naming<'a>(&'a [AtomicU64; HAZARDS]);

impl Drop for Naming<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: what was read was read before.
        self.0[READING].store(0, Release);
        self.0[LOOKING].store(0, Release);
    }
}

impl<'a, M: Memory> Shard<'a, M> {
    /// The shard with these words.
    #[inline]
    pub fn new(memory: &'a M, block: &'a ShardBlock, heap: &'a HeapBlock, first: (u64, u64)) -> Self {
        Self { memory, block, heap: Heap::new(memory, heap, first) }
    }

    /// Makes a shard of zeroed words.
    ///
    /// # Errors
    /// If the memory is not there.
    pub fn init(&self) -> Result<(), Error> {
        self.heap.init()
    }

    /// Entries, as one moment saw them.
    #[inline]
    pub fn len(&self) -> u64 {
        self.block.len.load(Relaxed)
    }

    /// Counts the changes so far, twice each; odd while one is made.
    pub fn changes(&self) -> u64 {
        self.block.changes.load(Acquire)
    }

    /// Whether nothing has changed since it was at `changes`: what was read in between is one state.
    pub fn is_at(&self, changes: u64) -> bool {
        fence(Acquire);
        self.block.changes.load(Relaxed) == changes
    }

    pub(super) fn corrupt(&self, field: &str, found: u64, wanted: &str) -> Error {
        Error::corrupt("table", field, found, wanted)
    }

    #[inline]
    pub(super) fn table_at(&self, at: u64) -> Result<Table, Error> {
        let [slots, slots_at] = self.memory.words::<2>(at.wrapping_add(16))?;
        let (slots, slots_at) = (slots.load(Relaxed), slots_at.load(Relaxed));
        if slots == 0 || slots > MOST_SLOTS || slots_at % 8 != 0 {
            return Err(self.corrupt("slots", slots, "1 or more"));
        }
        Ok(Table { at, slots_at, slots })
    }

    /// Names the table that is current, so that it stays.
    #[inline]
    fn name_table(&self, hazards: &[AtomicU64; HAZARDS]) -> Result<Option<Table>, Error> {
        for _ in 0..MOST_TABLES {
            let at = self.block.table.load(Acquire);
            if at == 0 {
                return Ok(None);
            }
            // Release: what the table before was read for was read before.
            hazards[LOOKING].store(at, Release);
            if !broken("table: look at the table without a fence") {
                self.light_fence();
            }
            if self.block.table.load(Acquire) == at {
                return self.table_at(at).map(Some);
            }
        }
        Err(self.corrupt("table", self.block.table.load(Relaxed), "a table that stays for a moment"))
    }

    #[inline]
    fn light_fence(&self) {
        if self.memory.asymmetric() {
            core::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Names the entry in a slot of the table that is named, if both still stand.
    #[inline]
    fn name_entry(
        &self,
        hazards: &[AtomicU64; HAZARDS],
        table: Table,
        slot: &AtomicU64,
        word: u64,
    ) -> Result<Option<Entry<'a, M>>, Error> {
        // Release: the entry that was named before has been read; whoever sees this name may reuse that one.
        hazards[READING].store(place_of(word), Release);
        if !broken("table: read an entry without a fence") {
            fence(Ordering::SeqCst);
        }
        if slot.load(Acquire) != word || self.block.table.load(Acquire) != table.at {
            return Ok(None);
        }
        Entry::at(self.memory, place_of(word)).map(Some)
    }

    /// Gives `f` the entry of a key, if there is one. It stays in place until `f` returns.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn get<R>(
        &self,
        lane: Lane,
        hash: u64,
        key: &[u8],
        f: impl FnOnce(Entry<'a, M>) -> Result<R, Error>,
    ) -> Result<Option<R>, Error> {
        let hazards = self.memory.hazards(lane);
        let _naming = Naming(hazards);
        for _ in 0..MOST_TABLES {
            let Some(table) = self.name_table(hazards)? else { return Ok(None) };
            match self.look(hazards, table, hash, key)? {
                Looked::Found(entry) => return f(entry).map(Some),
                Looked::Absent => return Ok(None),
                Looked::Moved => {}
            }
        }
        Err(self.corrupt("table", self.block.table.load(Relaxed), "a table that stays for a moment"))
    }

    #[inline]
    fn look(
        &self,
        hazards: &[AtomicU64; HAZARDS],
        table: Table,
        hash: u64,
        key: &[u8],
    ) -> Result<Looked<'a, M>, Error> {
        let mut k = table.first_slot(hash);
        for _ in 0..table.slots {
            let slot = table.slot(self.memory, k)?;
            let mut word = slot.load(Acquire);
            // Again as long as it is replaced by another entry for the same key.
            while is_entry(word) && word >> 40 == tag_of(hash) {
                match self.name_entry(hazards, table, slot, word)? {
                    Some(entry) if entry.has_key(key)? => return Ok(Looked::Found(entry)),
                    Some(_) => break,
                    None if self.block.table.load(Acquire) != table.at => return Ok(Looked::Moved),
                    None => word = slot.load(Acquire),
                }
            }
            if word == EMPTY {
                return Ok(Looked::Absent);
            }
            k = if k + 1 == table.slots { 0 } else { k + 1 };
        }
        Ok(Looked::Absent)
    }

    /// Gives `f` every entry, in no order: each one that is there all the time once, and one that is taken out and put in
    /// again meanwhile perhaps twice. False if the table was replaced meanwhile: then the rest is missing.
    ///
    /// # Errors
    /// `Corrupt`, or what `f` says.
    pub fn try_for_each(
        &self,
        lane: Lane,
        f: &mut dyn FnMut(Entry<'a, M>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let hazards = self.memory.hazards(lane);
        let _naming = Naming(hazards);
        let Some(table) = self.name_table(hazards)? else { return Ok(true) };
        for k in 0..table.slots {
            let slot = table.slot(self.memory, k)?;
            let mut word = slot.load(Acquire);
            while is_entry(word) {
                match self.name_entry(hazards, table, slot, word)? {
                    Some(entry) => {
                        f(entry)?;
                        break;
                    }
                    None if self.block.table.load(Acquire) != table.at => return Ok(false),
                    None => word = slot.load(Acquire),
                }
            }
        }
        Ok(true)
    }

    /// Gives `f` every entry without naming it: for those who have no lane. Right if nobody changes the shard meanwhile.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn for_each_unnamed(&self, f: &mut dyn FnMut(Entry<'a, M>) -> Result<(), Error>) -> Result<(), Error> {
        let at = self.block.table.load(Acquire);
        if at == 0 {
            return Ok(());
        }
        let table = self.table_at(at)?;
        for k in 0..table.slots {
            let word = table.slot(self.memory, k)?.load(Acquire);
            if is_entry(word) {
                f(Entry::at(self.memory, place_of(word))?)?;
            }
        }
        Ok(())
    }

    /// Tells the names of all runs that the shard names. For recovery, beside survivors: whoever locks the shard after a
    /// death collects first, and keeps them all.
    pub fn for_each_run(&self, f: &mut dyn FnMut(u64)) {
        self.heap.for_each_run(f);
        let name_of = |at: u64| {
            let header = self.memory.word(at).ok()?.load(Relaxed);
            (flags_of(header) & RUN != 0).then(|| self.memory.word(at + 8).ok().map(|w| w.load(Relaxed)))?
        };
        let table = self.block.table.load(Acquire);
        if table != 0 {
            name_of(table).into_iter().for_each(&mut *f);
        }
        // What a damaged table names is lost.
        let _ = self.for_each_unnamed(&mut |entry| {
            name_of(entry.at).into_iter().for_each(&mut *f);
            Ok(())
        });
    }

    /// Locks the shard for changes. After a death of its holder, what that one left is put in order first.
    ///
    /// # Errors
    /// `Ok(Err(_))` if the deadline came first; `Corrupt`.
    #[inline]
    pub fn lock(&self, lane: Lane, deadline: Deadline) -> Result<Result<Changing<'_, 'a, M>, TimedOut>, Error> {
        match self.block.lock.lock(lane, self.memory, deadline) {
            Ok(locked) => Changing::new(self, lane, locked).map(Ok),
            Err(timed_out) => Ok(Err(timed_out)),
        }
    }

    /// Whether the lock is held by a dead process, and frees it then. For recovery.
    pub fn recover(&self, dead: crate::sync::IsDead<'_>) -> bool {
        self.block.lock.recover(dead)
    }

    /// The words, for those who count and describe.
    pub fn block(&self) -> &'a ShardBlock {
        self.block
    }
}

enum Looked<'a, M> {
    Found(Entry<'a, M>),
    Absent,
    /// There is another table now.
    Moved,
}
