//! A locked shard is counted anew: what is named, what is free, what waits, and that this is all.

use std::collections::{HashMap, HashSet};

use super::change::Changing;
use super::collect::MOST_RUNS;
use super::entry::Entry;
use super::heap::{DIRECTORY, Heap, LISTS, RETIRED, RUN, RUN_HEAD, flags_of, list_of, size_of_block};
use super::memory::Memory;
use super::table::{EMPTY, is_entry, limit, place_of};
use crate::error::Error;
use crate::sys::atomic::Ordering::Relaxed;

/// What a count found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Bytes in blocks that the store names.
    pub named: u64,
    /// Bytes in free blocks.
    pub free: u64,
    /// Bytes in blocks that wait until no reader names them.
    pub retired: u64,
    /// Bytes in blocks that nobody knows; collecting finds them.
    pub lost: u64,
    /// Runs: the heap's own, and those of entries and tables.
    pub runs: Vec<u64>,
}

impl<M: Memory> Heap<'_, M> {
    /// Counts all blocks, of which the store names these.
    ///
    /// # Errors
    /// `Corrupt` if a block is in two states, or a number that the heap keeps is not what was found.
    pub fn count(&self, named: &[u64]) -> Result<Counted, Error> {
        let mut counted = Counted::default();
        let mut sizes = HashMap::new();
        let (from, to) = self.first;
        let mut held = self.walk(from, to, &mut sizes)?;
        let mut link = &self.block.runs;
        while link.load(Relaxed) != 0 {
            let name = link.load(Relaxed);
            if counted.runs.len() as u64 >= MOST_RUNS.min(1 << 12) {
                return Err(self.corrupt("runs", counted.runs.len() as u64, "a list that ends"));
            }
            let run = self.memory.find_run(name).ok_or_else(|| self.corrupt("runs", name, "the name of a run"))?;
            counted.runs.push(name);
            let bytes = self.memory.word(run.at + 8)?.load(Relaxed);
            held += self.walk(run.at + RUN_HEAD, run.at + RUN_HEAD + bytes, &mut sizes)?;
            link = self.memory.word(run.at)?;
        }
        let mut seen = HashSet::new();
        let mut claim = |at: u64, what: &str| {
            let size = *sizes.get(&at).ok_or_else(|| self.corrupt(what, at, "the place of a block"))?;
            if seen.insert(at) { Ok(size) } else { Err(self.corrupt(what, at, "a block that is nothing else")) }
        };
        for at in named {
            counted.named += claim(*at, "named block")?;
            if flags_of(self.memory.word(*at)?.load(Relaxed)) & RUN != 0 {
                let name = self.memory.word(at + 8)?.load(Relaxed);
                self.memory.find_run(name).ok_or_else(|| self.corrupt("block", name, "the name of a run"))?;
                counted.runs.push(name);
            }
        }
        let retired_len = self.block.retired_len.load(Relaxed) as usize;
        for entry in &self.block.retired[..retired_len.min(RETIRED)] {
            let at = entry.load(Relaxed) & !DIRECTORY;
            counted.retired += claim(at, "retired block")?;
            if flags_of(self.memory.word(at)?.load(Relaxed)) & RUN != 0 {
                counted.runs.push(self.memory.word(at + 8)?.load(Relaxed));
            }
        }
        let filled = self.block.filled.load(Relaxed);
        for (k, list) in self.block.lists.iter().enumerate().take(LISTS) {
            let mut at = list.load(Relaxed);
            if (filled >> k & 1 != 0) != (at != 0) {
                return Err(self.corrupt("filled", filled, "a bit for each list with blocks"));
            }
            while at != 0 {
                let size = claim(at, "free block")?;
                if list_of(size) != k || flags_of(self.memory.word(at)?.load(Relaxed)) != 0 {
                    return Err(self.corrupt("free block", size, "one without flags, in its list"));
                }
                counted.free += size;
                at = self.memory.word(at + 8)?.load(Relaxed);
            }
        }
        counted.lost = held - counted.named - counted.retired - counted.free;
        let (said, used) = (self.block.held.load(Relaxed), self.block.used.load(Relaxed));
        if said != held || used != held - counted.free {
            return Err(self.corrupt("held", said, &format!("{held}, with {used} in use of {counted:?}")));
        }
        if counted.lost > 0 && self.block.untidy.load(Relaxed) == 0 {
            return Err(self.corrupt("lost bytes", counted.lost, "0, or a word that says so"));
        }
        Ok(counted)
    }

    /// Notes the size of each block; bytes in all.
    fn walk(&self, from: u64, to: u64, sizes: &mut HashMap<u64, u64>) -> Result<u64, Error> {
        let mut at = from;
        while at < to {
            let size = size_of_block(self.header(at)?.1);
            if size > to - at || sizes.insert(at, size).is_some() {
                return Err(self.corrupt("block", size, "a size within its run, and a run of its own"));
            }
            at += size;
        }
        Ok(to - from)
    }
}

impl<M: Memory> Changing<'_, '_, M> {
    /// Counts the shard anew, and compares.
    ///
    /// # Errors
    /// `Corrupt` if anything is otherwise than its words say.
    pub fn count(&self) -> Result<Counted, Error> {
        let (memory, block) = (self.shard.memory, self.shard.block);
        let wrong = |what: &str, found: u64, wanted: u64| {
            if found == wanted { Ok(()) } else { Err(self.shard.corrupt(what, found, &wanted.to_string())) }
        };
        let (mut used, mut len, mut ordered) = (0, 0, 0);
        if let Some(table) = self.table()? {
            let mut numbers = HashMap::new();
            for k in 0..table.slots {
                let word = table.slot(memory, k)?.load(Relaxed);
                used += u64::from(word != EMPTY);
                if is_entry(word) {
                    len += 1;
                    numbers.insert(k, Entry::at(memory, place_of(word))?.number());
                }
            }
            let mut last = None;
            ordered = block.ordered.load(Relaxed);
            wrong("places in the order", ordered.min(limit(table.slots)), ordered)?;
            for place in 0..ordered {
                // A slot without an entry is one that was removed.
                if let Some(number) = numbers.remove(&table.ordered(memory, place)?) {
                    if last >= Some(number) {
                        return Err(self.shard.corrupt("order", number, &format!("a number above {last:?}")));
                    }
                    last = Some(number);
                }
            }
            wrong("entries that are not in the order", numbers.len() as u64, 0)?;
        }
        wrong("entries", block.len.load(Relaxed), len)?;
        wrong("slots in use", block.used.load(Relaxed), used)?;
        wrong("places in the order", block.ordered.load(Relaxed), ordered)?;
        self.shard.heap.count(&self.named()?)
    }

    /// Counts, collects, and counts again: then nothing is lost, and what waits is what readers name.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn count_and_collect(&self) -> Result<Counted, Error> {
        let before = self.count()?;
        self.shard.heap.collect(self.named()?)?;
        let after = self.count()?;
        if after.named != before.named {
            return Err(self.shard.corrupt("named bytes", after.named, &before.named.to_string()));
        }
        Ok(after)
    }
}
