//! Memory: runs of 8 KiB pages.
//!
//! A run is one word, at the page-map entry of its first page: `generation:24 | pages:26 | lane:10 | state:4`. The entries
//! of its other pages are skipped, so one store makes a run and one store unmakes it. They are marked INSIDE before, and
//! stay so after. Then the first entry tells how many pages there are free, so searches skip those too; what is left of
//! them, and what was found side by side, is told likewise.
//!
//! Pages and their entries are committed together, in steps. No entry beyond them is looked at: all of those pages are
//! free, and looking could fault. The memory of free pages may be given back to the system (`idle.rs`): they are HOLLOW
//! from before it goes, and whoever takes them commits them anew before he says so. The entries stay committed.
//!
//! So no page of a run is without memory. A reader without a run of its own, which looks first and asks afterwards whether
//! that was still what it wanted, may look at a page that is HOLLOW by then. This does no harm: it finds zeros or what
//! was there, which it throws away, and the kernel charges the page again, until it is taken or the segment is trimmed.
//!
//! | state | meaning | a death of `lane` |
//! |---|---|---|
//! | FREE | nobody's, and so are those that follow it, `pages` in all | - |
//! | OWNED(lane) | being filled, not yet reachable from its object | FREE if the object does not name it, else LIVE |
//! | LIVE | reachable from its object | - |
//! | RETIRED(lane) | being taken out of its object | LIVE if the object still names it, else FREE |
//! | INSIDE | described by an earlier entry, or nobody's and then as HOLLOW | - |
//! | HOLLOW | as FREE, but the memory of the `pages` may be gone | - |
//!
//! Only the holder of the arena lock makes runs. Anybody who owns one may free it without the lock. So the hints where to
//! begin looking can be wrong in any way: a search begins at an entry that begins something, or at the first. A holder
//! that dies may leave such entries within free pages, so whoever has the lock next goes through all of them.

use super::Inner;
use super::idle::Piece;
use super::layout::{PAGE, PAGE_ENTRY_BYTES, PageBlock};
use crate::error::{Error, ErrorKind};
use crate::sync::{Lane, Locked};
use crate::sys::atomic::AtomicU32;
use crate::sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sys::memfd;

pub(super) const FREE: u64 = 0;
const OWNED: u64 = 1;
const LIVE: u64 = 2;
const RETIRED: u64 = 3;
pub(super) const INSIDE: u64 = 4;
pub(super) const HOLLOW: u64 = 5;

/// Pages of a long run: 64 KiB.
pub(super) const LONG: u32 = (64 << 10) / PAGE as u32;

/// Memory is committed in steps of this many pages (2 MiB), whose entries fill one page of the kernel.
pub(super) const COMMIT_STEP: u32 = (2 << 20) / PAGE as u32;
const _: () = assert!(COMMIT_STEP as usize * PAGE_ENTRY_BYTES % 4096 == 0);

/// What lies side by side in the arena.
pub(super) enum Place {
    Free(Piece),
    /// A run, the lane that moves it into or out of its object, and that object.
    Used(Run, Option<Lane>, u64),
    /// So many pages whose word is none that a correct process writes.
    Damaged(u32),
}

/// Free pages that were found.
struct Found {
    start: u32,
    /// Free pages from there on: enough, or all up to the last that is committed.
    found: u32,
    /// Some of them are without memory.
    hollow: bool,
    /// The last piece of them is.
    hollow_end: bool,
    /// Other free pages were passed, for which the hint has to stay.
    passed: bool,
}

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

    pub(super) fn word(self, state: u64, lane: Lane) -> u64 {
        u64::from(self.generation) << 40 | u64::from(self.pages) << 14 | u64::from(lane) << 4 | state
    }
}

pub(super) fn parse(page: u32, word: u64) -> (Run, u64, Lane) {
    let run = Run { page, pages: (word >> 14 & 0x3ff_ffff) as u32, generation: (word >> 40) as u32 };
    (run, word & 0xf, (word >> 4 & 0x3ff) as Lane)
}

/// Whether the page of this word is the first of a run, or of free pages. One that was never the first has word 0.
pub(super) fn begins_something(word: u64) -> bool {
    word != 0 && word & 0xf != INSIDE
}

fn lower(hint: &AtomicU32, page: u32) {
    let mut seen = hint.load(Relaxed);
    while page < seen {
        match hint.compare_exchange(seen, page, Relaxed, Relaxed) {
            Ok(_) => break,
            Err(now) => seen = now,
        }
    }
}

impl Inner {
    /// Pages that have memory, as have their entries. The word is anybody's, so it may be too high; never beyond the arena.
    pub(super) fn committed_pages(&self) -> u32 {
        // Relaxed: whoever learns of a run learns of its commitment the same way.
        self.header().committed_pages.load(Relaxed).min(self.geometry.pages)
    }

    pub(super) fn page_entries(&self, page: u32, pages: u32) -> &[PageBlock] {
        self.blocks(self.geometry.page_entry_at(page), pages as usize)
    }

    pub(super) fn page_entry(&self, page: u32) -> &PageBlock {
        self.block(self.geometry.page_entry_at(page))
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
        self.lock_arena(lane)?;
        let made = self.alloc_locked(lane, pages, owner);
        self.header().arena_lock.unlock(true);
        made?.ok_or_else(|| out(format!("no {pages} free pages of {PAGE} B side by side")))
    }

    pub(super) fn lock_arena(&self, lane: Lane) -> Result<(), Error> {
        if let Locked::OwnerDied = self.lock_briefly(&self.header().arena_lock, lane, "arena")? {
            self.after_death();
        }
        Ok(())
    }

    /// Where to look for `pages` free pages first. Long runs have a hint of their own, which short holes do not hold up.
    fn hint(&self, pages: u32) -> &AtomicU32 {
        if pages < LONG { &self.header().free_hint } else { &self.header().long_hint }
    }

    /// Hints are changed without the lock by those who free, so after a death they may be too high.
    pub(super) fn reset_hints(&self) {
        self.header().free_hint.store(0, Relaxed);
        self.header().long_hint.store(0, Relaxed);
    }

    fn alloc_locked(&self, lane: Lane, pages: u32, owner: u64) -> Result<Option<Run>, Error> {
        let hint = self.hint(pages);
        let mut from = hint.load(Relaxed);
        let mut place = self.find(from, pages)?;
        if place.found < pages && from != 0 {
            // Before the segment grows or gives up: the hint may have passed runs that were freed meanwhile.
            from = 0;
            hint.store(0, Relaxed);
            place = self.find(0, pages)?;
        }
        // What is not committed is free, and follows the last free pages that were found.
        let start = place.start;
        if pages > self.geometry.pages - start {
            return Ok(None);
        }
        self.commit_pages(start + pages)?;
        let free = place.found.min(pages);
        let filled = if place.hollow { self.fill(start, free)? } else { 0 };
        if !place.passed {
            // Fails if somebody has freed a lower run meanwhile: then the hint is theirs.
            let _ = hint.compare_exchange(from, start + pages, Relaxed, Relaxed);
        }
        let grown = place.found < pages;
        let end = if grown { self.committed_pages() } else { start + place.found };
        let rest = end.saturating_sub(start + pages);
        if rest > 0 {
            // All within the last piece that was found, or new.
            self.mark_free(Piece { page: start + pages, pages: rest, hollow: !grown && place.hollow_end });
        }
        if pages >= LONG {
            self.count_taken(free - filled, if grown && rest >= LONG { rest } else { 0 });
        }
        let entries = self.page_entries(start, pages);
        for entry in &entries[1..] {
            // Only the holder of the lock changes the entry of a free page.
            let word = entry.head.load(Relaxed);
            if word & 0xf != INSIDE {
                entry.head.store(word >> 40 << 40 | INSIDE, Relaxed);
            }
        }
        let generation = (parse(start, entries[0].head.load(Relaxed)).0.generation + 1) & 0xff_ffff;
        let run = Run { page: start, pages, generation };
        entries[0].owner.store(owner, Relaxed);
        // Release: whoever sees the run sees what lies inside it.
        entries[0].head.store(run.word(OWNED, lane), Release);
        Ok(Some(run))
    }

    /// The first `pages` free pages side by side from page `from` on, or the free ones before the first that is not
    /// committed. Under the arena lock.
    fn find(&self, from: u32, pages: u32) -> Result<Found, Error> {
        let committed = self.committed_pages();
        let entries = self.page_entries(0, committed);
        let least = if pages < LONG { 1 } else { LONG };
        let mut page = from.min(committed);
        if entries.get(page as usize).is_some_and(|entry| !begins_something(entry.head.load(Relaxed))) {
            // Whoever freed a run here was slow to say so, and by now the page belongs to a longer one.
            page = 0;
        }
        let nothing = |start, passed| Found { start, found: 0, hollow: false, hollow_end: false, passed };
        let mut place = nothing(page, false);
        let mut pieces = 0;
        while page < committed && place.found < pages {
            let word = entries[page as usize].head.load(Acquire);
            if let Some(piece) = Piece::of(page, word, committed) {
                place.found += piece.pages;
                place.hollow |= piece.hollow;
                place.hollow_end = piece.hollow;
                page += piece.pages;
                pieces += 1;
                continue;
            }
            let (run, state, _) = parse(page, word);
            if state > RETIRED || run.pages == 0 || run.pages > committed - page {
                return Err(Error::corrupt("page map", "run", format!("{run:?} in state {state}"), "a run"));
            }
            if pieces > 1 {
                self.join_free(place.start, place.found);
            }
            page += run.pages;
            pieces = 0;
            place = nothing(page, place.passed || place.found >= least);
        }
        Ok(place)
    }

    /// Commits the memory of the first `pages` pages, and of their entries. Under the arena lock.
    fn commit_pages(&self, pages: u32) -> Result<(), Error> {
        let done = self.committed_pages();
        if pages <= done {
            return Ok(());
        }
        let upto = (pages.div_ceil(COMMIT_STEP) * COMMIT_STEP).min(self.geometry.pages);
        let os = |e| Error::os("commit memory of segment", e);
        let (from, to) = (self.geometry.page_entry_at(done) as u64, self.geometry.page_entry_at(upto) as u64);
        memfd::commit(self.fd(), from, to - from).map_err(os)?;
        let (from, to) = (self.geometry.page_at(done) as u64, self.geometry.page_at(upto) as u64);
        memfd::commit(self.fd(), from, to - from).map_err(os)?;
        self.header().committed_pages.store(upto, Relaxed);
        Ok(())
    }

    /// The run that starts at `page`, if it is there in that generation and belongs to `owner`: for numbers that came
    /// from shared memory.
    pub(crate) fn check_run(&self, page: u32, generation: u32, owner: u64) -> Option<Run> {
        let committed = self.committed_pages();
        if page >= committed {
            return None;
        }
        let entry = self.page_entry(page);
        let (run, state, _) = parse(page, entry.head.load(Acquire));
        let whole = run.pages > 0 && run.pages <= committed - page;
        (whole
            && (OWNED..=RETIRED).contains(&state)
            && run.generation == generation
            && entry.owner.load(Relaxed) == owner)
            .then_some(run)
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

    /// Whatever state the run is in and whoever's it is, but for a free one -> LIVE.
    pub(crate) fn run_stays(&self, run: Run) {
        self.change(run, run.word(LIVE, 0));
    }

    /// Changes the word of a run that is not free, whatever its state; false if it was given back already.
    fn change(&self, run: Run, to: u64) -> bool {
        let entry = self.page_entry(run.page);
        let mut word = entry.head.load(Acquire);
        loop {
            let (found, state, _) = parse(run.page, word);
            if found != run || !(OWNED..=RETIRED).contains(&state) {
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
        if !self.change(run, run.word(FREE, 0)) {
            return;
        }
        self.count_freed(run);
        if run.pages >= LONG {
            self.give_idle_back();
        }
    }

    fn count_freed(&self, run: Run) {
        // Hints: a lost race makes them too high until the next free run below, so they only ever move down here. Short
        // runs that become a long one side by side are found before the segment grows.
        lower(&self.header().free_hint, run.page);
        if run.pages >= LONG {
            lower(&self.header().long_hint, run.page);
            self.count_idle(run.pages);
        }
    }

    /// All committed pages, from the first to the last. What is made or freed meanwhile may be missed, or seen as it was.
    pub(super) fn for_each_place(&self, f: &mut dyn FnMut(Place)) {
        let committed = self.committed_pages();
        let mut page = 0;
        while page < committed {
            let entry = self.page_entry(page);
            let word = entry.head.load(Acquire);
            let (run, state, lane) = parse(page, word);
            let (pages, place) = match Piece::of(page, word, committed) {
                Some(piece) => (piece.pages, Place::Free(piece)),
                None if state > RETIRED || run.pages == 0 || run.pages > committed - page => {
                    let pages = run.pages.clamp(1, committed - page);
                    (pages, Place::Damaged(pages))
                }
                None => {
                    let lane = (state != LIVE).then_some(lane);
                    (run.pages, Place::Used(run, lane, entry.owner.load(Relaxed)))
                }
            };
            f(place);
            page += pages;
        }
    }

    /// Every run that is not free: the run, whether it is on its way in or out and by whom, and its object. One that is
    /// made or freed meanwhile may be missed.
    pub(crate) fn for_each_run(&self, f: &mut dyn FnMut(Run, Option<Lane>, u64)) {
        self.for_each_place(&mut |place| {
            if let Place::Used(run, lane, owner) = place {
                f(run, lane, owner);
            }
        });
    }

    /// Ends the run of a dead lane as the table above says.
    pub(crate) fn resolve_run(&self, run: Run, lane: Lane, linked: bool) {
        for state in [OWNED, RETIRED] {
            let to = (if linked { LIVE } else { FREE }, 0);
            if self.turn(run, (state, lane), to) && !linked {
                self.count_freed(run);
            }
        }
        if !linked {
            self.reset_hints();
        }
    }
}
