//! Memory for models and tests: words, runs of pages, and processes that may be dead.

use std::sync::Mutex;

use super::heap::HeapBlock;
use super::memory::{HAZARDS, Memory, Piece};
use super::table::{Shard, ShardBlock};
use crate::error::{Error, ErrorKind};
use crate::sync::{Lane, MutexBlock, Peers, WaitBlock};
use crate::sys::atomic::Ordering::{self, Acquire, Relaxed};
use crate::sys::atomic::{AtomicU64, fence};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Owned(Lane),
    Live,
}

/// A page, and the run that begins with it.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    state: State,
    generation: u64,
    pages: usize,
}

/// Where the memory begins: as in a segment, far from the numbers that a slot means otherwise.
const BEGIN: u64 = 64;

/// A death in a test that is no model: [`Trial::kill_after`].
pub struct Fused;

/// One shard's memory: first blocks, then pages.
pub struct Trial {
    words: Vec<AtomicU64>,
    hazards: Vec<[AtomicU64; HAZARDS]>,
    page_bytes: u64,
    first_end: u64,
    /// Not a word of the protocol: a segment's page map has models of its own.
    pages: Mutex<Vec<Page>>,
    pub shard: ShardBlock,
    pub heap: HeapBlock,
    /// Words that may still be asked for.
    fuse: Mutex<Option<u32>>,
    spent: Mutex<bool>,
    asked: Mutex<u32>,
}

fn zero() -> AtomicU64 {
    AtomicU64::new(0)
}

impl Trial {
    /// Memory for as many lanes, with `first` bytes beside the shard and some pages of `page_bytes`.
    pub fn new(lanes: usize, first: u64, page_bytes: u64, pages: usize) -> Self {
        let words = (BEGIN + first + page_bytes * pages as u64) / 8;
        let trial = Self {
            words: (0..words).map(|_| zero()).collect(),
            hazards: (0..lanes).map(|_| std::array::from_fn(|_| zero())).collect(),
            page_bytes,
            first_end: BEGIN + first,
            pages: Mutex::new(vec![Page::default(); pages]),
            shard: ShardBlock {
                lock: MutexBlock::new(),
                wait: WaitBlock::new(),
                changes: zero(),
                len: zero(),
                used: zero(),
                ordered: zero(),
                spare: std::array::from_fn(|_| zero()),
                table: zero(),
                reserved: std::array::from_fn(|_| zero()),
            },
            heap: HeapBlock {
                runs: zero(),
                filled: zero(),
                used: zero(),
                held: zero(),
                retired_len: zero(),
                untidy: zero(),
                lists: std::array::from_fn(|_| zero()),
                retired: std::array::from_fn(|_| zero()),
                leaving: zero(),
                peak: zero(),
                spare: zero(),
            },
            fuse: Mutex::new(None),
            spent: Mutex::new(false),
            asked: Mutex::new(0),
        };
        trial.shard().init().unwrap();
        trial
    }

    /// Where its first blocks are.
    pub fn first(&self) -> (u64, u64) {
        (BEGIN, self.first_end)
    }

    /// The shard in it.
    pub fn shard(&self) -> Shard<'_, Self> {
        Shard::new(self, &self.shard, &self.heap, (BEGIN, self.first_end))
    }

    /// Runs `f`, which dies when it has asked for so many words.
    pub fn kill_after<R>(&self, words: u32, f: impl FnOnce() -> R) -> Result<R, Fused> {
        *self.fuse.lock().unwrap() = Some(words);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        let left = self.fuse.lock().unwrap().take();
        *self.asked.lock().unwrap() = words - left.unwrap_or(0);
        *self.spent.lock().unwrap() = false;
        match ended {
            Ok(value) => Ok(value),
            Err(payload) if payload.is::<Fused>() => Err(Fused),
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    /// How many words were asked for by the last one who could die.
    pub fn asked(&self) -> u32 {
        *self.asked.lock().unwrap()
    }

    fn burn(&self) {
        let mut fuse = self.fuse.lock().unwrap();
        match *fuse {
            Some(0) => {
                *fuse = None;
                drop(fuse);
                *self.spent.lock().unwrap() = true;
                std::panic::resume_unwind(Box::new(Fused));
            }
            Some(left) => *fuse = Some(left - 1),
            None => {}
        }
    }

    /// A run changes hands here: somebody may die before.
    fn pass(&self) {
        self.burn();
        crate::sys::atomic::kill_point();
    }

    fn is_dead(&self) -> bool {
        crate::sys::atomic::is_dead() || *self.spent.lock().unwrap()
    }

    /// What the recovery of a process does about a shard: its lock, its runs, its hazards.
    pub fn recover(&self, lane: Lane) {
        self.shard().recover(&|dead| dead == lane);
        let mut linked = Vec::new();
        self.shard().for_each_run(&mut |name| linked.push(name));
        self.recover_runs(lane, &linked);
    }

    /// The same about runs and hazards, for a store that names these.
    pub fn recover_runs(&self, lane: Lane, linked: &[u64]) {
        for (k, page) in self.pages.lock().unwrap().iter_mut().enumerate() {
            if page.state == State::Owned(lane) {
                let kept = linked.contains(&(page.generation << 32 | (k as u64 + 1)));
                page.state = if kept { State::Live } else { State::Free };
            }
        }
        self.hazards[lane as usize - 1].iter().for_each(|hazard| hazard.store(0, Relaxed));
    }

    /// Names of all runs.
    pub fn runs(&self) -> Vec<u64> {
        let pages = self.pages.lock().unwrap();
        let mut names = Vec::new();
        for (k, page) in pages.iter().enumerate() {
            assert!(!matches!(page.state, State::Owned(_)), "page {k} is still {:?}", page.state);
            if page.state == State::Live {
                names.push(page.generation << 32 | (k as u64 + 1));
            }
        }
        names
    }
}

impl Peers for Trial {
    fn bury(&self, _lane: Lane) -> bool {
        false
    }

    fn is_lane(&self, lane: Lane) -> bool {
        lane as usize <= self.hazards.len()
    }

    fn cpu_of(&self, _lane: Lane) -> Option<u32> {
        None
    }

    fn asymmetric(&self) -> bool {
        false
    }
}

fn nowhere(at: u64) -> Error {
    Error::corrupt("trial", "place", at, "memory")
}

impl Memory for Trial {
    fn word(&self, at: u64) -> Result<&AtomicU64, Error> {
        self.burn();
        (at % 8 == 0 && at >= BEGIN).then(|| self.words.get((at / 8) as usize)).flatten().ok_or_else(|| nowhere(at))
    }

    fn words<const N: usize>(&self, at: u64) -> Result<&[AtomicU64; N], Error> {
        self.burn();
        let words = (at % 8 == 0 && at >= BEGIN).then(|| self.words.get((at / 8) as usize..)).flatten();
        words.and_then(|words| words.first_chunk()).ok_or_else(|| nowhere(at))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        for (k, part) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.word(at + 8 * k as u64)?.store(u64::from_ne_bytes(word), Relaxed);
        }
        Ok(())
    }

    fn read(&self, at: u64, len: u64, to: &mut Vec<u8>) -> Result<(), Error> {
        let end = to.len() as u64 + len;
        for k in 0..len.div_ceil(8) {
            let at = at.checked_add(8 * k).ok_or_else(|| nowhere(at))?;
            to.extend_from_slice(&self.word(at)?.load(Relaxed).to_ne_bytes());
        }
        to.truncate(end as usize);
        Ok(())
    }

    fn equals(&self, at: u64, bytes: &[u8]) -> Result<bool, Error> {
        let mut found = Vec::new();
        self.read(at, bytes.len() as u64, &mut found)?;
        Ok(found == bytes)
    }

    fn take_run(&self, lane: Lane, bytes: u64) -> Result<Piece, Error> {
        self.pass();
        let mut all = self.pages.lock().unwrap();
        let wanted = bytes.div_ceil(self.page_bytes).max(1) as usize;
        let (mut start, mut k) = (0, 0);
        while k < all.len() && k < start + wanted {
            k += 1;
            if all[k - 1].state != State::Free {
                k = k - 1 + all[k - 1].pages;
                start = k;
            }
        }
        if all.len() < start + wanted {
            return Err(Error::new(ErrorKind::OutOfSpace, "take run", format!("{wanted} pages wanted")));
        }
        let page = &mut all[start];
        *page = Page { state: State::Owned(lane), generation: page.generation + 1, pages: wanted };
        Ok(Piece {
            name: page.generation << 32 | (start as u64 + 1),
            at: self.first_end + start as u64 * self.page_bytes,
            bytes: wanted as u64 * self.page_bytes,
        })
    }

    fn find_run(&self, name: u64) -> Option<Piece> {
        let k = (name & 0xffff_ffff).checked_sub(1)?;
        let page = *self.pages.lock().unwrap().get(k as usize)?;
        (page.state != State::Free && page.generation == name >> 32).then(|| Piece {
            name,
            at: self.first_end + k * self.page_bytes,
            bytes: page.pages as u64 * self.page_bytes,
        })
    }

    fn keep_run(&self, name: u64) {
        self.pass();
        if self.find_run(name).is_some() && !self.is_dead() {
            self.pages.lock().unwrap()[(name & 0xffff_ffff) as usize - 1].state = State::Live;
        }
    }

    fn give_run(&self, name: u64) {
        if !self.is_dead() {
            self.pass();
        }
        if self.find_run(name).is_some() && !self.is_dead() {
            self.pages.lock().unwrap()[(name & 0xffff_ffff) as usize - 1].state = State::Free;
        }
    }

    fn hazards(&self, lane: Lane) -> &[AtomicU64; HAZARDS] {
        &self.hazards[lane as usize - 1]
    }

    fn for_each_hazard(&self, f: &mut dyn FnMut(u64)) {
        for hazards in &self.hazards {
            for hazard in &hazards[..2] {
                let at = hazard.load(Acquire);
                if at != 0 {
                    f(at);
                }
            }
        }
    }

    fn heavy_fence(&self) {
        fence(Ordering::SeqCst);
    }
}
