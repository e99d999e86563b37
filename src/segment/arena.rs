//! Memory: runs of 64 KiB pages.
//!
//! A run is one word, at the page-map entry of its first page: `generation:24 | pages:20 | 0:6 | lane:10 | state:4`. Entries
//! inside a run stay as free ones look and are skipped, so one store makes a run and one store unmakes it.
//!
//! | state | meaning | a death of `lane` |
//! |---|---|---|
//! | FREE | nobody's | - |
//! | OWNED(lane) | being filled, not yet reachable from its object | FREE if the object does not name it, else LIVE |
//! | LIVE | reachable from its object | - |
//! | RETIRED(lane) | being taken out of its object | LIVE if the object still names it, else FREE |
//!
//! Only the holder of the arena lock makes runs. Anybody who owns one may free it without the lock.

use std::time::Duration;

use super::Inner;
use super::layout::{PAGE, PAGE_ENTRY_BYTES, PageBlock};
use crate::error::{Error, ErrorKind};
use crate::sync::{Lane, Locked, NOBODY, TimedOut};
use crate::sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sys::clock::Deadline;
use crate::sys::memfd;

const FREE: u64 = 0;
const OWNED: u64 = 1;
const LIVE: u64 = 2;
const RETIRED: u64 = 3;

/// Memory is committed in steps of this many pages (2 MiB).
const COMMIT_STEP: u32 = 32;

/// How long the arena lock is waited for, at a time and in all. Its holder does microseconds of work.
const LOCK_ROUND: Duration = Duration::from_millis(50);
const LOCK_ROUNDS: u32 = 100;

/// A run of pages: where it is, how long, and which of the successive users of that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// First page.
    pub page: u32,
    /// Number of pages.
    pub pages: u32,
    /// Counts the users of the first page, 24 bits.
    pub generation: u32,
}

impl Run {
    /// Bytes that fit.
    pub fn bytes(self) -> usize {
        self.pages as usize * PAGE
    }

    fn word(self, state: u64, lane: Lane) -> u64 {
        u64::from(self.generation) << 40 | u64::from(self.pages) << 20 | u64::from(lane) << 4 | state
    }
}

fn parse(page: u32, word: u64) -> (Run, u64, Lane) {
    let run = Run { page, pages: (word >> 20 & 0xf_ffff) as u32, generation: (word >> 40) as u32 };
    (run, word & 0xf, (word >> 4 & 0x3ff) as Lane)
}

impl Inner {
    fn page_entry(&self, page: u32) -> &PageBlock {
        self.block(self.geometry.pagemap_at as usize + page as usize * PAGE_ENTRY_BYTES)
    }

    /// Makes a run for `bytes` bytes, OWNED by `lane`, for the object `owner` (`generation:32 | index:32`).
    pub(crate) fn alloc(&self, lane: Lane, bytes: usize, owner: u64) -> Result<Run, Error> {
        let pages = bytes.div_ceil(PAGE).max(1);
        let out = |free: String| {
            Error::new(ErrorKind::OutOfSpace, "allocate in segment", format!("{bytes} B wanted, {free}"))
        };
        let Ok(pages) = u32::try_from(pages) else { return Err(out("more than any segment has".into())) };
        if pages > self.geometry.pages {
            return Err(out(format!("the whole arena has {} B", self.geometry.pages as usize * PAGE)));
        }
        let header = self.header();
        self.lock_arena(lane)?;
        let mut made = self.alloc_locked(lane, pages, owner);
        if matches!(made, Ok(None)) && header.free_hint.swap(0, Relaxed) != 0 {
            // The hint is moved without the lock by those who free, so it may have passed something.
            made = self.alloc_locked(lane, pages, owner);
        }
        header.arena_lock.unlock(true);
        made?.ok_or_else(|| out(format!("no {pages} free pages of {PAGE} B side by side")))
    }

    /// Takes the arena lock, whose critical sections are short: a holder that keeps it is stopped or no process at all.
    pub(super) fn lock_arena(&self, lane: Lane) -> Result<(), Error> {
        const DOING: &str = "lock the arena of the segment";
        let header = self.header();
        for _ in 0..LOCK_ROUNDS {
            match header.arena_lock.lock(lane, self, Deadline::after(LOCK_ROUND)) {
                Ok(Locked::Clean) => return Ok(()),
                Ok(Locked::OwnerDied) => {
                    // Runs are single words, so only the hint can be wrong.
                    header.free_hint.store(0, Relaxed);
                    return Ok(());
                }
                Err(TimedOut) => {}
            }
            let holder = header.arena_lock.holder();
            if holder == lane || holder != NOBODY && self.lane_owner(holder).is_none() {
                return Err(Error::corrupt("segment", "arena lock", format!("held by lane {holder}"), "a lane in use"));
            }
        }
        let holder = self.lane_holder(header.arena_lock.holder());
        let holder = holder.map_or("nobody".into(), |h| h.to_string());
        Err(Error::new(ErrorKind::Stalled, DOING, format!("{holder} holds it and does not run")))
    }

    fn alloc_locked(&self, lane: Lane, pages: u32, owner: u64) -> Result<Option<Run>, Error> {
        self.alloc_locked_from(lane, pages, owner, self.header().free_hint.load(Relaxed))
    }

    fn alloc_locked_from(&self, lane: Lane, pages: u32, owner: u64, hint: u32) -> Result<Option<Run>, Error> {
        let header = self.header();
        let total = self.geometry.pages;
        let mut page = hint.min(total);
        let mut first_free = None;
        let (mut start, mut found) = (page, 0);
        while page < total {
            let (run, state, _) = parse(page, self.page_entry(page).head.load(Acquire));
            if state == FREE {
                first_free.get_or_insert(page);
                if found == 0 {
                    start = page;
                }
                found += 1;
                page += 1;
                if found == pages {
                    break;
                }
                continue;
            }
            if state > RETIRED || run.pages == 0 || run.pages > total - page {
                return Err(Error::corrupt("page map", "run", format!("{run:?} in state {state}"), "a run"));
            }
            found = 0;
            page += run.pages;
        }
        if found < pages {
            return Ok(None);
        }
        if start + pages > header.committed_pages.load(Relaxed) && hint != 0 {
            // Before the segment grows: the hint may have passed runs that were freed meanwhile.
            let _ = header.free_hint.compare_exchange(hint, 0, Relaxed, Relaxed);
            return self.alloc_locked_from(lane, pages, owner, 0);
        }
        self.commit_pages(start + pages)?;
        if first_free == Some(start) {
            // Fails if somebody has freed a lower run meanwhile: then the hint is theirs.
            let _ = header.free_hint.compare_exchange(hint, start + pages, Relaxed, Relaxed);
        }
        let entry = self.page_entry(start);
        let generation = (parse(start, entry.head.load(Relaxed)).0.generation + 1) & 0xff_ffff;
        let run = Run { page: start, pages, generation };
        entry.owner.store(owner, Relaxed);
        entry.head.store(run.word(OWNED, lane), Release);
        Ok(Some(run))
    }

    /// Commits the memory of the first `pages` pages. Under the arena lock.
    fn commit_pages(&self, pages: u32) -> Result<(), Error> {
        let header = self.header();
        let done = header.committed_pages.load(Relaxed).min(self.geometry.pages);
        if pages <= done {
            return Ok(());
        }
        let upto = (pages.div_ceil(COMMIT_STEP) * COMMIT_STEP).min(self.geometry.pages);
        let (from, to) = (self.geometry.page_at(done) as u64, self.geometry.page_at(upto) as u64);
        memfd::commit(self.fd(), from, to - from).map_err(|e| Error::os("commit memory of segment", e))?;
        header.committed_pages.store(upto, Relaxed);
        Ok(())
    }

    /// The run that starts at `page`, if it is there in that generation and belongs to `owner`: for numbers that came
    /// from shared memory.
    pub(crate) fn check_run(&self, page: u32, generation: u32, owner: u64) -> Option<Run> {
        if page >= self.geometry.pages {
            return None;
        }
        let entry = self.page_entry(page);
        let (run, state, _) = parse(page, entry.head.load(Acquire));
        let whole = run.pages > 0 && run.pages <= self.geometry.pages - page;
        (whole && state != FREE && run.generation == generation && entry.owner.load(Relaxed) == owner).then_some(run)
    }

    /// The run that starts at `page`, if it is there in that generation, whoever's it is.
    pub(crate) fn run_at(&self, page: u32, generation: u32) -> Option<Run> {
        let owner = (page < self.geometry.pages).then(|| self.page_entry(page).owner.load(Relaxed))?;
        self.check_run(page, generation, owner)
    }

    fn turn(&self, run: Run, from: (u64, Lane), to: (u64, Lane)) -> bool {
        let (from, to) = (run.word(from.0, from.1), run.word(to.0, to.1));
        self.page_entry(run.page).head.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }

    /// OWNED -> LIVE: the object names it now.
    pub(crate) fn run_live(&self, run: Run, lane: Lane) {
        self.turn(run, (OWNED, lane), (LIVE, 0));
    }

    /// Changes the word of a run that is not free, whatever its state; false if it was given back already.
    fn change(&self, run: Run, to: u64) -> bool {
        let entry = self.page_entry(run.page);
        let mut word = entry.head.load(Acquire);
        loop {
            let (found, state, _) = parse(run.page, word);
            if found != run || state == FREE {
                return false;
            }
            match entry.head.compare_exchange(word, to, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
    }

    /// LIVE (or left OWNED by a writer that has not come to mark it) -> RETIRED: it is about to be taken out.
    pub(crate) fn retire(&self, run: Run, lane: Lane) {
        self.change(run, run.word(RETIRED, lane));
    }

    /// Gives the memory of a run back, whatever its state, unless it was given back already.
    pub(crate) fn free(&self, run: Run) {
        // The generation stays: the next run here differs from this one.
        if !self.change(run, u64::from(run.generation) << 40) {
            return;
        }
        // A hint: a lost race makes it too high until the next free run below it, so it only ever moves down here.
        let hint = &self.header().free_hint;
        let mut seen = hint.load(Relaxed);
        while run.page < seen {
            match hint.compare_exchange(seen, run.page, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
    }

    /// Every run that is not free: the run, whether it is on its way in or out and by whom, and its object.
    pub(crate) fn for_each_run(&self, f: &mut dyn FnMut(Run, Option<Lane>, u64)) {
        let total = self.geometry.pages.min(self.header().committed_pages.load(Relaxed));
        let mut page = 0;
        while page < total {
            let entry = self.page_entry(page);
            let (run, state, lane) = parse(page, entry.head.load(Acquire));
            if state == FREE || run.pages == 0 || run.pages > self.geometry.pages - page {
                page += 1;
                continue;
            }
            f(run, (state != LIVE).then_some(lane), entry.owner.load(Relaxed));
            page += run.pages;
        }
    }

    /// Ends the run of a dead lane as the table above says.
    pub(crate) fn resolve_run(&self, run: Run, lane: Lane, linked: bool) {
        for state in [OWNED, RETIRED] {
            let to = if linked { (LIVE, 0) } else { (FREE, 0) };
            let to_word = if linked { run.word(to.0, to.1) } else { u64::from(run.generation) << 40 };
            let _ = self.page_entry(run.page).head.compare_exchange(run.word(state, lane), to_word, AcqRel, Relaxed);
        }
        if !linked {
            self.header().free_hint.store(0, Relaxed);
        }
    }

    /// Pages in use.
    pub(crate) fn used_pages(&self) -> u32 {
        let mut used = 0;
        self.for_each_run(&mut |run, _, _| used += run.pages);
        used
    }
}
