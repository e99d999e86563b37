//! What is free in a heap is found out anew: from the blocks that its store names, and those that readers name.
//!
//! It is done by who locks the store after a death, and by who finds too much of the heap in pieces too short to be used.
//! Whoever dies in it is followed by one who starts over: until the end, the heap's runs can be walked, and nothing of what
//! is kept is changed.

use std::collections::HashSet;

use super::heap::{DIRECTORY, Heap, RUN, RUN_HEAD, flags_of, size_of_block};
use super::memory::{Memory, Piece};
use crate::error::Error;
use crate::sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sys::atomic::{AtomicU64, broken};

/// More runs than a heap can have.
pub(super) const MOST_RUNS: u64 = 1 << 17;

impl<M: Memory> Heap<'_, M> {
    /// Finds out anew what is free: everything that is neither in `named`, the blocks that the store names, nor in a hazard.
    /// Runs without any such block are given back.
    ///
    /// # Errors
    /// `Corrupt`.
    #[cold]
    pub fn collect(&self, mut named: Vec<u64>) -> Result<(), Error> {
        let block = self.block;
        // First of all: whoever collects after this one died starts anew.
        block.untidy.store(1, Relaxed);
        block.filled.store(0, Relaxed);
        block.lists.iter().for_each(|list| list.store(0, Relaxed));
        block.retired_len.store(0, Relaxed);
        self.finish_leaving();
        named.sort_unstable();
        let mut sums = Sums { named, read: self.named_by_readers(true), used: 0, held: 0, untidy: 0 };
        let (from, to) = self.first;
        let end = self.sweep(&mut sums, from, to)?.unwrap_or(from);
        self.carve(end, to)?;
        sums.held += to - from;
        // The word that names the run in hand.
        let mut link = &block.runs;
        let mut seen = HashSet::new();
        loop {
            let Some((run, to)) = self.run_of(link)? else {
                block.used.store(sums.used, Relaxed);
                block.peak.store(sums.used, Relaxed);
                block.held.store(sums.held, Relaxed);
                block.untidy.store(sums.untidy, Relaxed);
                return Ok(());
            };
            if !seen.insert(run.name) {
                return Err(self.corrupt("runs", run.name, "a list that ends"));
            }
            self.memory.keep_run(run.name);
            let next = self.memory.word(run.at)?;
            match self.sweep(&mut sums, run.at + RUN_HEAD, to)? {
                Some(end) => {
                    self.carve(end, to)?;
                    sums.held += to - run.at - RUN_HEAD;
                    link = next;
                }
                None => {
                    if !broken("heap: unlink a run without a note") {
                        block.leaving.store(run.name, Relaxed);
                    }
                    link.store(next.load(Relaxed), Release);
                    self.memory.give_run(run.name);
                    block.leaving.store(0, Relaxed);
                }
            }
        }
    }

    /// Gives a run back that somebody unlinked who died before he had given it back.
    fn finish_leaving(&self) {
        let leaving = self.block.leaving.load(Relaxed);
        if leaving == 0 {
            return;
        }
        let mut is_linked = false;
        self.for_each_run(&mut |name| is_linked |= name == leaving);
        if !is_linked {
            self.memory.give_run(leaving);
        }
        self.block.leaving.store(0, Relaxed);
    }

    /// The run that a word names, and where its blocks end.
    fn run_of(&self, link: &AtomicU64) -> Result<Option<(Piece, u64)>, Error> {
        let name = link.load(Acquire);
        if name == 0 {
            return Ok(None);
        }
        let Some(run) = self.memory.find_run(name) else {
            return Err(self.corrupt("runs", name, "the name of a run"));
        };
        let bytes = self.memory.word(run.at + 8)?.load(Relaxed);
        if bytes % 8 != 0 || bytes > run.bytes.saturating_sub(RUN_HEAD) {
            return Err(self.corrupt("run", bytes, "as many bytes as it has"));
        }
        Ok(Some((run, run.at + RUN_HEAD + bytes)))
    }

    /// Makes free blocks of what lies between blocks in use. Where the last of these ends, if there is one.
    fn sweep(&self, sums: &mut Sums, from: u64, to: u64) -> Result<Option<u64>, Error> {
        let (mut at, mut end) = (from, None);
        while at < to {
            let (words, header) = self.header(at)?;
            let size = size_of_block(header);
            if size > to - at {
                return Err(self.corrupt("block", size, "a size within its run"));
            }
            let is_named = sums.named.binary_search(&at).is_ok();
            if is_named || sums.read.contains(at) && !broken("heap: collect what readers name") {
                self.carve(end.unwrap_or(from), at)?;
                end = Some(at + size);
                sums.used += size;
                if is_named && flags_of(header) & RUN != 0 {
                    self.memory.keep_run(words[1].load(Relaxed));
                }
                if !is_named {
                    self.retire_again(sums, at);
                }
            } else if flags_of(header) & RUN != 0 {
                self.give_run_of(words, header);
                words[0].store(size / 8, Relaxed);
            }
            at += size;
        }
        Ok(end)
    }

    fn retire_again(&self, sums: &mut Sums, at: u64) {
        let len = self.block.retired_len.load(Relaxed);
        let Some(entry) = self.block.retired.get(len as usize) else {
            sums.untidy = 1;
            return;
        };
        // As a directory, which it may be.
        entry.store(at | DIRECTORY, Relaxed);
        self.block.retired_len.store(len + 1, Relaxed);
    }

    /// Tells the runs that the heap itself is made of. For those who do not hold the lock: what they see while somebody
    /// changes it is any numbers.
    pub fn for_each_run(&self, f: &mut dyn FnMut(u64)) {
        let mut name = self.block.runs.load(Acquire);
        for _ in 0..MOST_RUNS {
            if name == 0 {
                return;
            }
            f(name);
            let next = self.memory.find_run(name).and_then(|run| self.memory.word(run.at).ok());
            name = next.map_or(0, |word| word.load(Relaxed));
        }
    }
}

/// What collecting knows and finds.
struct Sums {
    /// What the store names, in order.
    named: Vec<u64>,
    read: Named,
    used: u64,
    held: u64,
    untidy: u64,
}

/// Places that readers name.
pub(super) struct Named {
    few: [u64; 32],
    len: usize,
    more: Vec<u64>,
}

impl Named {
    pub fn new() -> Self {
        Self { few: [0; 32], len: 0, more: Vec::new() }
    }

    pub fn add(&mut self, at: u64) {
        match self.few.get_mut(self.len) {
            Some(place) => {
                *place = at;
                self.len += 1;
            }
            None => self.more.push(at),
        }
    }

    pub fn contains(&self, at: u64) -> bool {
        self.few[..self.len].contains(&at) || self.more.contains(&at)
    }
}
