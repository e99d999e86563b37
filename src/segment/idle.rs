//! Free pages: in which pieces they lie, and when their memory goes back to the system.
//!
//! To give memory back and to commit it again costs about 2.5 us for each 4 KiB that are touched again, more than to fill
//! and to read them. So what a loop frees and takes over and over stays, and what was needed once goes:
//!
//! - Whoever frees a long run (64 KiB) looks whether the free memory in long pieces is more than a quarter of all that is
//!   committed, and more than 8 MiB. Half of that is kept, the rest goes.
//! - Memory that is taken again afterwards was given back too early: as much is kept for the next ten seconds. So a loop
//!   pays once in ten seconds at most.
//! - [`Segment::trim`](super::Segment::trim) gives all of it back, whatever was kept, and short pieces too.
//!
//! All this happens under the arena lock, for 2 MiB at a time. A piece is marked HOLLOW first and loses its memory then; a
//! death in between leaves HOLLOW pages that have memory, and a trim finds those. Nobody else can take a page at that time,
//! and the lock of a dead holder is free only after its last system call is over. Whoever frees does not wait for the
//! lock: if somebody has it, the memory stays for the time being.
//!
//! FREE and HOLLOW pieces side by side stay two pieces, and one run may be made of both; what a trim finds becomes one.
//!
//! The counts in the header are hints: they say when to look, and a look counts anew. With a wrong one memory is given
//! back too early or too late.

use super::arena::{COMMIT_STEP, FREE, HOLLOW, INSIDE, LONG, Run, begins_something, parse};
use super::layout::PAGE;
use super::{Inner, Segment};
use crate::error::Error;
use crate::sync::Locked;
use crate::sys::atomic::AtomicU32;
use crate::sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sys::clock::now_ns;
use crate::sys::memfd;

/// So many free pages stay in any case: 8 MiB. Fuzz targets have less memory.
const SLACK: u32 = (if cfg!(fuzzing) { 256 << 10 } else { 8 << 20 }) / PAGE as u32;

/// How long memory is kept that was given back too early.
const KEPT_S: u32 = 10;

/// Free pages side by side, which one entry tells of.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub page: u32,
    pub pages: u32,
    /// Their memory may be gone.
    pub hollow: bool,
}

impl Piece {
    /// The piece that begins at `page`, whose word this is, cut at page `end`; none if the page is in use.
    pub fn of(page: u32, word: u64, end: u32) -> Option<Self> {
        let (run, state, _) = parse(page, word);
        let piece = |pages: u32, hollow| Some(Self { page, pages: pages.clamp(1, end - page), hollow });
        match state {
            FREE => piece(run.pages, false),
            HOLLOW => piece(run.pages, true),
            // Described by no entry before it: left by a death, and nobody knows of its memory.
            INSIDE => piece(1, true),
            _ => None,
        }
    }

    fn end(self) -> u32 {
        self.page + self.pages
    }
}

/// Changes a count that others change too, and that may be wrong anyway.
fn adjust(word: &AtomicU32, change: impl Fn(u32) -> u32) {
    let mut seen = word.load(Relaxed);
    while let Err(now) = word.compare_exchange(seen, change(seen), Relaxed, Relaxed) {
        seen = now;
    }
}

fn seconds() -> u32 {
    (now_ns() / 1_000_000_000) as u32
}

impl Inner {
    /// Says what lies free from a page on. Under the arena lock.
    pub(super) fn mark_free(&self, piece: Piece) {
        let Piece { page, pages, hollow } = piece;
        let head = &self.page_entry(page).head;
        let generation = parse(page, head.load(Relaxed)).0.generation;
        // Release: the entries inside are as they should be, but for a death.
        head.store(Run { page, pages, generation }.word(if hollow { HOLLOW } else { FREE }, 0), Release);
    }

    fn mark_inside(&self, page: u32) {
        let head = &self.page_entry(page).head;
        head.store(u64::from(parse(page, head.load(Relaxed)).0.generation) << 40 | INSIDE, Relaxed);
    }

    /// The piece that begins at `page`, together with all behind it that are like it. Under the arena lock.
    fn joined(&self, page: u32, end: u32) -> Option<Piece> {
        let piece_at = |at: u32| Piece::of(at, self.page_entry(at).head.load(Acquire), end);
        let first = piece_at(page)?;
        let mut whole = first;
        while whole.end() < end {
            match piece_at(whole.end()) {
                Some(next) if next.hollow == first.hollow => whole.pages += next.pages,
                _ => break,
            }
        }
        let is_inside = self.page_entry(page).head.load(Relaxed) & 0xf == INSIDE;
        if whole.pages > first.pages || is_inside {
            // The other way round, a death in between would leave pages that no entry tells of.
            self.mark_free(whole);
            let mut at = first.end();
            while at < whole.end() {
                let next = piece_at(at).map_or(1, |piece| piece.pages);
                self.mark_inside(at);
                at += next;
            }
        }
        Some(whole)
    }

    /// Joins the pieces in the `pages` free pages from `page` on, so that nobody has to go through them again.
    pub(super) fn join_free(&self, page: u32, pages: u32) {
        let end = page + pages;
        let mut at = page;
        while at < end {
            at = self.joined(at, end).map_or(at + 1, Piece::end);
        }
    }

    /// Goes through all free pieces from the one at `page` on, joined, until `f` has had enough. Under the arena lock.
    fn for_each_free(&self, page: u32, f: &mut dyn FnMut(Piece) -> Result<bool, Error>) -> Result<(), Error> {
        let committed = self.committed_pages();
        let mut page = page.min(committed);
        if page < committed && !begins_something(self.page_entry(page).head.load(Relaxed)) {
            page = 0;
        }
        while page < committed {
            if let Some(piece) = self.joined(page, committed) {
                page = piece.end();
                if !f(piece)? {
                    return Ok(());
                }
            } else {
                let run = parse(page, self.page_entry(page).head.load(Acquire)).0;
                page += run.pages.clamp(1, committed - page);
            }
        }
        Ok(())
    }

    /// Puts in order what a holder of the arena lock may have left when it died: entries within free pages that begin
    /// something, and hints. Runs are single words. Under the arena lock.
    pub(super) fn after_death(&self) {
        self.reset_hints();
        let _ = self.for_each_free(0, &mut |piece| {
            for page in piece.page + 1..piece.end() {
                if begins_something(self.page_entry(page).head.load(Relaxed)) {
                    self.mark_inside(page);
                }
            }
            Ok(true)
        });
    }

    /// Commits what is hollow in the `pages` free pages from `page` on. How many that were. Under the arena lock.
    pub(super) fn fill(&self, page: u32, pages: u32) -> Result<u32, Error> {
        let end = page + pages;
        let (mut at, mut filled) = (page, 0);
        while at < end {
            let from = at;
            let hollow = |at| match Piece::of(at, self.page_entry(at).head.load(Relaxed), end) {
                Some(piece) => (piece.hollow, piece.pages),
                // Damage: a page in use has memory, and to commit it once more does no harm.
                None => (true, 1),
            };
            while at < end && hollow(at).0 {
                at += hollow(at).1;
            }
            if at > from {
                let (start, end) = (self.geometry.page_at(from) as u64, self.geometry.page_at(at) as u64);
                memfd::commit(self.fd(), start, end - start).map_err(|e| Error::os("commit memory of segment", e))?;
                filled += at - from;
            }
            while at < end && !hollow(at).0 {
                at += hollow(at).1;
            }
        }
        if filled == 0 {
            return Ok(0);
        }
        let (header, now) = (self.header(), seconds());
        adjust(&header.hollow_pages, |n| n.saturating_sub(filled));
        // What had stayed is wanted too.
        let kept = self.kept(now).max(self.slack(header.idle_pages.load(Relaxed)) / 2);
        header.kept_pages.store(kept.saturating_add(filled).min(self.geometry.pages), Relaxed);
        header.kept_s.store(now, Relaxed);
        Ok(filled)
    }

    /// A long run was made of `idle` pages that had memory; `new` ones came and are left.
    pub(super) fn count_taken(&self, idle: u32, new: u32) {
        adjust(&self.header().idle_pages, |n| n.saturating_sub(idle).saturating_add(new));
    }

    /// A long run was freed.
    pub(super) fn count_idle(&self, pages: u32) {
        adjust(&self.header().idle_pages, |n| n.saturating_add(pages));
    }

    fn kept(&self, now: u32) -> u32 {
        let header = self.header();
        if now.wrapping_sub(header.kept_s.load(Relaxed)) > KEPT_S { 0 } else { header.kept_pages.load(Relaxed) }
    }

    /// How many idle pages there may be before memory is given back: a third of the used, so a quarter of both.
    fn slack(&self, idle: u32) -> u32 {
        let others = self.header().hollow_pages.load(Relaxed).saturating_add(idle);
        SLACK.max(self.committed_pages().saturating_sub(others) / 3)
    }

    /// Gives memory back if so much is idle. Waits for nobody, and is no error if the system refuses.
    pub(super) fn give_idle_back(&self) {
        let idle = self.header().idle_pages.load(Relaxed);
        if idle > self.slack(idle) && idle > self.kept(seconds()) {
            self.give_excess_back();
        }
    }

    #[cold]
    fn give_excess_back(&self) {
        // Without a lane there is no lock: somebody else will look.
        let Ok(lane) = self.lane() else { return };
        let mut excess = None;
        loop {
            match self.header().arena_lock.try_lock(lane) {
                Some(Locked::Clean) => {}
                Some(Locked::OwnerDied) => self.after_death(),
                None => return,
            }
            let given = self.give_some_back(excess.is_none());
            self.header().arena_lock.unlock(true);
            let (Ok((given, left)), before) = (given, excess) else { return };
            // Never more than there was at first, however much others free meanwhile.
            let rest = before.unwrap_or(left + given).saturating_sub(given);
            if given == 0 || rest == 0 {
                return;
            }
            excess = Some(rest);
        }
    }

    /// Counts anew, and gives up to 2 MiB of the excess back: all but the first idle pages. How many pages, and how many
    /// should follow. Under the arena lock.
    fn give_some_back(&self, is_first: bool) -> Result<(u32, u32), Error> {
        let header = self.header();
        let (mut idle, mut hollow) = (0, 0);
        self.for_each_free(0, &mut |piece| {
            match piece.hollow {
                true => hollow += piece.pages,
                false if piece.pages >= LONG => idle += piece.pages,
                false => {}
            }
            Ok(true)
        })?;
        header.idle_pages.store(idle, Relaxed);
        header.hollow_pages.store(hollow, Relaxed);
        let (slack, kept) = (self.slack(idle), self.kept(seconds()));
        let keep = kept.max(slack / 2);
        if idle <= keep || is_first && idle <= slack {
            return Ok((0, 0));
        }
        let (mut to_keep, mut to_give) = (keep, COMMIT_STEP.min(idle - keep));
        self.for_each_free(0, &mut |piece| {
            if piece.hollow || piece.pages < LONG {
                return Ok(true);
            }
            let stays = to_keep.min(piece.pages);
            to_keep -= stays;
            let goes = to_give.min(piece.pages - stays);
            to_give -= goes;
            if goes > 0 {
                self.hollow_out(piece, piece.page + stays, goes)?;
            }
            Ok(to_give > 0)
        })?;
        let given = COMMIT_STEP.min(idle - keep) - to_give;
        Ok((given, idle - keep - given))
    }

    /// Gives the memory of `pages` pages from `page` on back, which lie in a FREE piece. Under the arena lock.
    fn hollow_out(&self, piece: Piece, page: u32, pages: u32) -> Result<(), Error> {
        let end = page + pages;
        // From the end on, so that until the last store the piece tells of all of them.
        if end < piece.end() {
            self.mark_free(Piece { page: end, pages: piece.end() - end, hollow: false });
        }
        self.mark_free(Piece { page, pages, hollow: true });
        if page > piece.page {
            self.mark_free(Piece { page: piece.page, pages: page - piece.page, hollow: false });
        }
        adjust(&self.header().idle_pages, |n| n.saturating_sub(pages));
        adjust(&self.header().hollow_pages, |n| n.saturating_add(pages));
        self.punch(page, pages)
    }

    fn punch(&self, page: u32, pages: u32) -> Result<(), Error> {
        let (from, to) = (self.geometry.page_at(page) as u64, self.geometry.page_at(page + pages) as u64);
        memfd::punch(self.fd(), from, to - from).map_err(|e| Error::os("give memory of segment back", e))
    }

    /// Gives up to 2 MiB back, from `page` on: how many pages, and where to go on. HOLLOW pages are punched too, as a
    /// reader or a death may have left memory there. Under the arena lock.
    fn trim_some(&self, page: u32) -> Result<(u32, Option<u32>), Error> {
        let (mut given, mut budget, mut next) = (0, COMMIT_STEP, None);
        self.for_each_free(page, &mut |piece| {
            if piece.end() <= page {
                return Ok(true);
            }
            let from = piece.page.max(page);
            let pages = budget.min(piece.end() - from);
            if piece.hollow {
                self.punch(from, pages)?;
            } else {
                self.hollow_out(piece, from, pages)?;
                given += pages;
            }
            budget -= pages;
            next = (budget == 0).then_some(from + pages);
            Ok(budget > 0)
        })?;
        Ok((given, next))
    }
}

impl Segment {
    /// Gives the memory of everything that is free in the segment back to the system. How many bytes that were.
    ///
    /// Whoever needs them next commits them again, which costs a few microseconds for 4 KiB more than to use memory that is
    /// there. Without this call long runs of free memory (64 KiB and more) are given back when they are freed, if they are
    /// more than a quarter of what is committed and more than 8 MiB, but not again and again. Waits for others who allocate,
    /// as they wait for each other; it lets them in after every 2 MiB.
    ///
    /// Python: nothing; `multiprocessing.heap` keeps its arenas until they are empty.
    ///
    /// # Errors
    /// [`ErrorKind::Stalled`](crate::ErrorKind::Stalled) if a process that is stopped keeps the arena,
    /// [`TooManyThreads`](crate::ErrorKind::TooManyThreads), or what the system says. What was given back until then is.
    ///
    /// # If a peer dies
    /// Nothing is lost, whoever dies in it; the next who allocates or trims goes on.
    ///
    /// ```
    /// let segment = kinfolk::Segment::anonymous(64 << 20)?;
    /// let queue = kinfolk::Queue::<()>::builder().segment(&segment).build::<Vec<u8>>()?;
    /// queue.put(vec![1; 4 << 20])?;
    /// drop(queue.get()?);
    /// assert!(segment.trim()? >= 4 << 20);
    /// assert_eq!(segment.stats().free_bytes, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn trim(&self) -> Result<usize, Error> {
        let inner = self.inner();
        let lane = inner.lane()?;
        let (mut bytes, mut next) = (0, Some(0));
        while let Some(page) = next {
            inner.lock_arena(lane)?;
            let step = inner.trim_some(page);
            inner.header().arena_lock.unlock(true);
            let (pages, rest) = step?;
            bytes += pages as usize * PAGE;
            next = rest;
        }
        inner.header().kept_pages.store(0, Relaxed);
        Ok(bytes)
    }
}
