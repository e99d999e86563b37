//! A shard that is locked: how it is changed, and put in order after a death.

use super::entry::{Draft, Entry};
use super::heap::{Block, MAX_BLOCK, RUN};
use super::memory::Memory;
use super::table::{
    EMPTY, LEAST_SLOTS, MOST_SLOTS, SLOTS_AT, Shard, TOMB, Table, is_entry, limit, place_of, slot_word, tag_of,
};
use crate::error::{Error, ErrorKind};
use crate::sync::{Lane, Locked};
use crate::sys::atomic::Ordering::{Relaxed, Release};
use crate::sys::atomic::{AtomicU64, broken};

/// How many entries room is made for at once. What the shard says of their number may be anything.
const MOST_FORESEEN: u64 = 1 << 16;

/// A shard whose lock is held; it is given back on drop.
pub struct Changing<'s, 'a, M: Memory> {
    pub(super) shard: &'s Shard<'a, M>,
    lane: Lane,
    consistent: bool,
    changed: bool,
}

/// Where an entry was found, and the entry: good as long as the lock is held and nothing is inserted.
pub struct Spot<'a, M> {
    /// The entry.
    pub entry: Entry<'a, M>,
    slot: &'a AtomicU64,
    word: u64,
}

/// What gives the hash of a key.
pub type Hash<'h> = &'h dyn Fn(&[u8]) -> u64;

impl<M: Memory> Drop for Changing<'_, '_, M> {
    #[inline]
    fn drop(&mut self) {
        let block = self.shard.block;
        block.lock.unlock(self.consistent);
        if self.changed {
            block.wait.notify_sleepers(self.shard.memory);
        }
    }
}

impl<'s, 'a, M: Memory> Changing<'s, 'a, M> {
    #[inline]
    pub(super) fn new(shard: &'s Shard<'a, M>, lane: Lane, locked: Locked) -> Result<Self, Error> {
        let mut this = Self { shard, lane, consistent: true, changed: false };
        if locked == Locked::OwnerDied {
            this.consistent = false;
            this.repair()?;
            this.consistent = true;
            // The dead may have committed and told nobody.
            this.changed = true;
        }
        Ok(this)
    }

    pub(super) fn table(&self) -> Result<Option<Table>, Error> {
        match self.shard.block.table.load(Relaxed) {
            0 => Ok(None),
            at => self.shard.table_at(at).map(Some),
        }
    }

    /// Everything that the shard names.
    pub(super) fn named(&self) -> Result<Vec<u64>, Error> {
        let Some(table) = self.table()? else { return Ok(Vec::new()) };
        let mut named = Vec::with_capacity(self.shard.len().min(MOST_FORESEEN) as usize + 1);
        named.push(table.at);
        for k in 0..table.slots {
            let word = table.slot(self.shard.memory, k)?.load(Relaxed);
            if is_entry(word) {
                named.push(place_of(word));
            }
        }
        Ok(named)
    }

    /// Puts in order what a holder of the lock left who died: counts, the order, and which blocks are free.
    #[cold]
    fn repair(&self) -> Result<(), Error> {
        let Shard { memory, block, heap } = self.shard;
        let (mut used, mut entries, mut named) = (0, Vec::new(), Vec::new());
        if let Some(table) = self.table()? {
            named.push(table.at);
            for k in 0..table.slots {
                let word = table.slot(*memory, k)?.load(Relaxed);
                used += u64::from(word != EMPTY);
                if is_entry(word) {
                    named.push(place_of(word));
                    entries.push((Entry::at(*memory, place_of(word))?.number(), k));
                }
            }
            if used > limit(table.slots) {
                return Err(self.shard.corrupt("slots in use", used, "at most five in six"));
            }
            entries.sort_unstable();
            for (place, (_, slot)) in entries.iter().enumerate() {
                table.set_order(*memory, place as u64, *slot)?;
            }
        }
        if !broken("table: repair without collecting") {
            heap.collect(named)?;
        }
        block.used.store(used, Relaxed);
        block.len.store(entries.len() as u64, Relaxed);
        block.ordered.store(entries.len() as u64, Relaxed);
        let changes = block.changes.load(Relaxed);
        // Also what the dead has committed counts as a change.
        block.changes.store(changes.wrapping_add(2) & !1, Release);
        Ok(())
    }

    /// Where the entry of a key is.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Result<Option<Spot<'a, M>>, Error> {
        let Some(table) = self.table()? else { return Ok(None) };
        let memory = self.shard.memory;
        let mut k = table.first_slot(hash);
        for _ in 0..table.slots {
            let slot = table.slot(memory, k)?;
            let word = slot.load(Relaxed);
            if word == EMPTY {
                break;
            }
            if is_entry(word) && word >> 40 == tag_of(hash) {
                let entry = Entry::at(memory, place_of(word))?;
                if entry.has_key(key)? {
                    return Ok(Some(Spot { entry, slot, word }));
                }
            }
            k = if k + 1 == table.slots { 0 } else { k + 1 };
        }
        Ok(None)
    }

    /// Gives `f` every entry.
    ///
    /// # Errors
    /// `Corrupt`, or what `f` says.
    pub fn for_each(&self, f: &mut dyn FnMut(Entry<'a, M>) -> Result<(), Error>) -> Result<(), Error> {
        self.shard.for_each_unnamed(f)
    }

    /// The entry that was inserted last.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn last(&self) -> Result<Option<Spot<'a, M>>, Error> {
        let Some(table) = self.table()? else { return Ok(None) };
        let (memory, block) = (self.shard.memory, self.shard.block);
        loop {
            let ordered = block.ordered.load(Relaxed).min(limit(table.slots));
            if ordered == 0 {
                return Ok(None);
            }
            let k = table.ordered(memory, ordered - 1)?;
            if k < table.slots {
                let slot = table.slot(memory, k)?;
                let word = slot.load(Relaxed);
                if is_entry(word) {
                    return Ok(Some(Spot { entry: Entry::at(memory, place_of(word))?, slot, word }));
                }
            }
            block.ordered.store(ordered - 1, Relaxed);
        }
    }

    /// Says that a change is made, until [`end`](Self::end); its version.
    #[inline]
    fn begin(&mut self) -> u64 {
        // Odd, also after a change that was left with an error.
        let changes = self.shard.block.changes.load(Relaxed).wrapping_add(1) | 1;
        self.shard.block.changes.store(changes, Relaxed);
        self.changed = true;
        changes
    }

    #[inline]
    fn end(&self, version: u64) {
        self.shard.block.changes.store(version.wrapping_add(1), Release);
    }

    #[inline]
    fn alloc(&self, bytes: u64) -> Result<Block, Error> {
        self.shard.heap.alloc(self.lane, bytes, &mut || self.named())
    }

    /// Puts an entry in place of another, for the same key.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    #[inline]
    pub fn replace(&mut self, spot: Spot<'a, M>, draft: Draft<'_, M>) -> Result<(), Error> {
        let heap = &self.shard.heap;
        let (old, number) = (place_of(spot.word), spot.entry.number());
        let block = self.alloc(draft.bytes())?;
        let version = self.begin();
        draft.write(block, number, version)?;
        let early = broken("table: retire before the slot is stored");
        if early {
            heap.retire(old, false)?;
        }
        // The commit.
        spot.slot.store((spot.word >> 40 << 40) | (block.at / 8), Release);
        draft.keep();
        self.end(version);
        if early { Ok(()) } else { heap.retire(old, false) }
    }

    /// Puts an entry in for a key that has none. `number` is greater than that of all others.
    ///
    /// # Errors
    /// `OutOfSpace`, `Corrupt`: then nothing has changed.
    #[inline]
    pub fn insert(&mut self, hash: u64, draft: Draft<'_, M>, number: u64, hash_of: Hash<'_>) -> Result<(), Error> {
        let table = self.room(hash_of)?;
        let place = self.alloc(draft.bytes())?;
        let Shard { memory, block, heap } = self.shard;
        let version = self.begin();
        draft.write(place, number, version)?;
        let mut k = table.first_slot(hash);
        for _ in 0..table.slots {
            let slot = table.slot(*memory, k)?;
            if slot.load(Relaxed) == EMPTY {
                let ordered = block.ordered.load(Relaxed).min(limit(table.slots) - 1);
                table.set_order(*memory, ordered, k)?;
                block.ordered.store(ordered + 1, Relaxed);
                block.used.store(block.used.load(Relaxed) + 1, Relaxed);
                block.len.store(block.len.load(Relaxed).wrapping_add(1), Relaxed);
                // The commit.
                slot.store(slot_word(hash, place.at), Release);
                draft.keep();
                self.end(version);
                return Ok(());
            }
            k = if k + 1 == table.slots { 0 } else { k + 1 };
        }
        self.end(version);
        heap.free(place.at)?;
        // The run went with the block.
        draft.keep();
        Err(self.shard.corrupt("slots", table.slots, "an empty one"))
    }

    /// Takes an entry out.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn remove(&mut self, spot: Spot<'a, M>) -> Result<(), Error> {
        let Shard { block, heap, .. } = self.shard;
        let version = self.begin();
        // The commit.
        spot.slot.store(TOMB, Release);
        block.len.store(block.len.load(Relaxed).saturating_sub(1), Relaxed);
        self.end(version);
        heap.retire(place_of(spot.word), false)?;
        heap.tidy(&mut || self.named())
    }

    /// Takes all entries out.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn clear(&mut self) -> Result<(), Error> {
        let Shard { block, heap, .. } = self.shard;
        let version = self.begin();
        // The commit.
        block.table.store(0, Release);
        for count in [&block.len, &block.used, &block.ordered] {
            count.store(0, Relaxed);
        }
        self.end(version);
        heap.collect(Vec::new())
    }

    /// A table with room for one entry more.
    #[inline]
    fn room(&self, hash_of: Hash<'_>) -> Result<Table, Error> {
        match self.table()? {
            Some(table) if self.shard.block.used.load(Relaxed) < limit(table.slots) => Ok(table),
            table => self.grow(table, hash_of),
        }
    }

    /// Makes a new table, of a size that goes with the number of entries, and moves them there.
    #[cold]
    fn grow(&self, old: Option<Table>, hash_of: Hash<'_>) -> Result<Table, Error> {
        let Shard { memory, block, heap } = self.shard;
        // 63 % full, until it is 83 % full.
        let slots = (self.shard.len().saturating_mul(8) / 5 + 8).max(LEAST_SLOTS);
        if slots > MOST_SLOTS {
            return Err(Error::new(ErrorKind::OutOfSpace, "grow table", format!("at most {MOST_SLOTS} slots a shard")));
        }
        let table = self.new_table(slots)?;
        let mut moved = 0;
        if let Some(old) = old {
            let mut key = Vec::new();
            for place in 0..block.ordered.load(Relaxed).min(limit(old.slots)) {
                let slot = old.ordered(*memory, place)?;
                let word = if slot < old.slots { old.slot(*memory, slot)?.load(Relaxed) } else { EMPTY };
                if !is_entry(word) {
                    continue;
                }
                if moved == limit(slots) {
                    return Err(self.shard.corrupt("order", moved, "as many entries as were counted"));
                }
                key.clear();
                Entry::at(*memory, place_of(word))?.read_key(&mut key)?;
                let mut k = table.first_slot(hash_of(&key));
                while table.slot(*memory, k)?.load(Relaxed) != EMPTY {
                    k = if k + 1 == slots { 0 } else { k + 1 };
                }
                table.slot(*memory, k)?.store(word, Relaxed);
                table.set_order(*memory, moved, k)?;
                moved += 1;
            }
        }
        // The commit. Release: the moved slots come with it.
        block.table.store(table.at, Release);
        block.used.store(moved, Relaxed);
        block.ordered.store(moved, Relaxed);
        let run = memory.word(table.at + 8)?.load(Relaxed);
        if run != 0 {
            memory.keep_run(run);
        }
        if let Some(old) = old {
            heap.retire(old.at, true)?;
            // Now: it is as long as hundreds of entries, and nothing else may be retired for long.
            heap.reclaim()?;
        }
        Ok(table)
    }

    fn new_table(&self, slots: u64) -> Result<Table, Error> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let Shard { memory, heap, .. } = self.shard;
        let bytes = Table::bytes(slots);
        let is_long = SLOTS_AT + bytes > MAX_BLOCK;
        let block = self.alloc(if is_long { SLOTS_AT } else { SLOTS_AT + bytes })?;
        let at = block.at;
        let (run, slots_at) = if is_long {
            match memory.take_run(self.lane, bytes) {
                Ok(run) => (run.name, run.at),
                Err(e) => {
                    heap.free(at)?;
                    return Err(e);
                }
            }
        } else {
            (0, at + SLOTS_AT)
        };
        let words = memory.words::<4>(at)?;
        for (word, value) in words[1..].iter().zip([run, slots, slots_at]) {
            word.store(value, Relaxed);
        }
        words[0].store(block.header(if is_long { RUN } else { 0 }, 0), Relaxed);
        let mut done = 0;
        while done < bytes {
            let part = (bytes - done).min(ZEROS.len() as u64);
            memory.write(slots_at + done, &ZEROS[..part as usize])?;
            done += part;
        }
        Ok(Table { at, slots_at, slots })
    }
}
