//! A sequence in shared memory that is read without locks and changed under one: what a list is made of.
//!
//! An element never changes once it can be found. Whatever changes the sequence is one store: of a slot, which names
//! another element then; of the span, which says which slots count; or of the root, which names another directory with
//! other slots. So whoever reads finds what was there before or what is there after, whole, and whoever is killed has
//! committed or has not.
//!
//! ```text
//! root       place of the directory; 0 of a sequence that never had an element, or was cleared
//! directory  block: name of the slots' run, if they have one of their own (flag RUN); span; number of slots; their place;
//!            then the slots, if they have no run
//! span       turns:12 | first:26 | length:26
//! slot       0 nothing; or place of the element's block; or the element itself, see `element.rs`
//! ```
//!
//! 1. Slots outside the span are 0, but for the moment in which one is about to get into the span or has just left it.
//! 2. An element of the span has the slot `first + index`. While the directory and `turns` are the same, an index has the
//!    same slot: `turns` counts the changes of `first`, and the deaths.
//! 3. A block is named by at most one slot of a directory.
//!
//! | killed | left behind | outcome |
//! |---|---|---|
//! | before the commit | the old state; blocks that nothing names, a slot outside the span | collected, emptied by the next who locks |
//! | after it | the new state; the old blocks | as above |
//! | while it puts in order what another left | the same | done again |
//!
//! # What a reader may believe
//! It reads the span, then the slot, names the element's block, and after a full fence reads slot, span and root once
//! more. If the slot is the same then, the block was not given up before the fence, by rule 1: so it stays (see `heap.rs`).
//! If the root is the same, no other directory has come meanwhile: the one that is named cannot have been reused. If `turns`
//! is the same and the index was inside both times, the slot was the index's all the time, and what it says was written
//! for that index, by one who lived to commit it: by rule 2, since a death counts as a turn. So there was a moment in between at
//! which the element was at the index. Twelve bits of turns come round when a reader is held up for exactly a multiple of
//! 4096 of them.
//!
//! # Memory ordering
//! Slots, spans and roots are stored with Release and loaded with Acquire: with a place comes what lies there.

mod check;
mod edit;
mod element;
#[cfg(test)]
#[path = "models/sequence.rs"]
mod models;
mod rebuild;
#[cfg(test)]
mod tests;

pub use edit::Editing;
pub use element::{Element, ElementDraft, Identity};

use std::ops::Range;

use super::heap::{Heap, HeapBlock, RUN, flags_of};
use super::memory::{HAZARDS, LOOKING, Memory, READING};
use crate::error::Error;
use crate::sync::{Lane, MutexBlock, TimedOut, WaitBlock};
use crate::sys::atomic::Ordering::{self, Acquire, Relaxed, Release};
use crate::sys::atomic::{AtomicU64, broken, fence};
use crate::sys::clock::Deadline;

const LEN_BITS: u32 = 26;
/// The most elements, and the most slots of a directory.
pub const MAX_ELEMENTS: u64 = (1 << LEN_BITS) - 1;
/// Where the slots of a directory begin that is one block.
const SLOTS_AT: u64 = 40;
/// How often a reader begins anew, before it says that something is wrong: each time somebody has changed what it read.
const MOST_LOOKS: u32 = 1 << 16;

/// The words of a sequence, in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct SequenceBlock {
    /// Held while it is changed.
    pub lock: MutexBlock,
    /// Whoever waits for a change sleeps here.
    pub wait: WaitBlock,
    /// Counts the changes, twice each: odd while one is made.
    pub changes: AtomicU64,
    /// 1 if a marked element was ever put in.
    pub marked: AtomicU64,
    /// Spare.
    pub spare: [AtomicU64; 5],
    /// Place of the directory; 0 if there is none. Apart from the words above, which change more often.
    pub root: AtomicU64,
    /// Spare.
    pub reserved: [AtomicU64; 7],
}

/// Bytes of the blocks that lie beside the words of a sequence: with them it is one page.
const FIRST_BYTES: usize = 8192 - size_of::<SequenceBlock>() - size_of::<HeapBlock>();

/// A sequence with all that it needs while it is small, in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct ListBlock {
    /// The sequence.
    pub sequence: SequenceBlock,
    /// Its heap.
    pub heap: HeapBlock,
    /// The heap's first blocks.
    pub first: [AtomicU64; FIRST_BYTES / 8],
}

/// A sequence: its words, and the memory in which its elements are.
pub struct Sequence<'a, M> {
    memory: &'a M,
    block: &'a SequenceBlock,
    heap: Heap<'a, M>,
}

/// Which slots of a directory count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(u64);

impl Span {
    fn new(first: u64, len: u64, turns: u64) -> Self {
        Self(turns << (2 * LEN_BITS) | first << LEN_BITS | len)
    }

    #[inline]
    fn first(self) -> u64 {
        self.0 >> LEN_BITS & MAX_ELEMENTS
    }

    #[inline]
    fn len(self) -> u64 {
        self.0 & MAX_ELEMENTS
    }

    fn turns(self) -> u64 {
        self.0 >> (2 * LEN_BITS)
    }

    /// Whether an index has the same slot in both.
    #[inline]
    fn is_aligned_with(self, other: Self) -> bool {
        (self.0 ^ other.0) >> LEN_BITS == 0
    }

    /// So many elements from `first` on, which is another than before.
    fn turned(self, first: u64, len: u64) -> Self {
        Self::new(first, len, self.turns().wrapping_add(1) & 0xfff)
    }

    fn with_len(self, len: u64) -> Self {
        Self(self.0 & !MAX_ELEMENTS | len)
    }
}

/// Where the slots of a directory are, and how many.
#[derive(Clone, Copy, Debug)]
struct Directory<'a> {
    at: u64,
    span: &'a AtomicU64,
    slots_at: u64,
    slots: u64,
}

impl<'a> Directory<'a> {
    #[inline]
    fn at<M: Memory>(memory: &'a M, at: u64) -> Result<Self, Error> {
        let [_, _, span, slots, slots_at] = memory.words::<5>(at)?;
        let (slots, slots_at) = (slots.load(Relaxed), slots_at.load(Relaxed));
        if slots > MAX_ELEMENTS || slots_at % 8 != 0 {
            return Err(corrupt("slots", slots, "fewer, at a multiple of 8"));
        }
        Ok(Self { at, span, slots_at, slots })
    }

    #[inline]
    fn span(&self) -> Result<Span, Error> {
        let span = Span(self.span.load(Acquire));
        // Each of the two has 26 bits.
        if span.first() + span.len() > self.slots {
            return Err(corrupt("span", span.0, "slots that there are"));
        }
        Ok(span)
    }

    #[inline]
    fn slot<M: Memory>(&self, memory: &'a M, slot: u64) -> Result<&'a AtomicU64, Error> {
        memory.word(self.slots_at.wrapping_add(slot * 8))
    }
}

#[cold]
#[inline(never)]
fn corrupt(field: &str, found: u64, wanted: &str) -> Error {
    Error::corrupt("sequence", field, found, wanted)
}

/// Hazard words in use; cleared on drop.
struct Naming<'a>(&'a [AtomicU64; HAZARDS]);

impl Drop for Naming<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: what was read was read before.
        self.0[READING].store(0, Release);
        self.0[LOOKING].store(0, Release);
    }
}

/// What a look at one index found.
enum Looked<'a, M> {
    Found(Element<'a, M>),
    /// There are only so many.
    Beyond(u64),
    /// There is another directory now.
    Moved,
}

impl<'a, M: Memory> Sequence<'a, M> {
    /// The sequence with these words, and blocks at `first`.
    #[inline]
    pub fn new(memory: &'a M, block: &'a SequenceBlock, heap: &'a HeapBlock, first: (u64, u64)) -> Self {
        Self { memory, block, heap: Heap::new(memory, heap, first) }
    }

    /// Makes an empty sequence of zeroed words.
    ///
    /// # Errors
    /// If the memory is not there.
    pub fn init(&self) -> Result<(), Error> {
        self.heap.init()
    }

    /// The words, for those who count and describe.
    pub fn block(&self) -> &'a SequenceBlock {
        self.block
    }

    /// Counts the changes so far, twice each; odd while one is made.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.block.changes.load(Acquire)
    }

    /// Whether nothing has changed since it was at `changes`: what was read in between is one state.
    pub fn is_at(&self, changes: u64) -> bool {
        fence(Acquire);
        self.block.changes.load(Relaxed) == changes
    }

    fn root(&self) -> u64 {
        self.block.root.load(Acquire)
    }

    #[inline]
    fn light_fence(&self) {
        if self.memory.asymmetric() {
            core::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Names the directory that is current, so that it stays.
    #[inline]
    fn name_directory(&self, hazards: &[AtomicU64; HAZARDS]) -> Result<Option<Directory<'a>>, Error> {
        for _ in 0..MOST_LOOKS {
            let at = self.root();
            if at == 0 {
                return Ok(None);
            }
            // Release: what the one before was read for was read before.
            hazards[LOOKING].store(at, Release);
            if !broken("sequence: look at the directory without a fence") {
                self.light_fence();
            }
            if self.root() == at {
                return Directory::at(self.memory, at).map(Some);
            }
        }
        Err(corrupt("root", self.root(), "a directory that stays for a moment"))
    }

    /// How many elements there are. Without a lane it is a number that was right lately.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn len(&self, lane: Option<Lane>) -> Result<u64, Error> {
        let naming = lane.map(|lane| Naming(self.memory.hazards(lane)));
        let directory = match &naming {
            Some(naming) => self.name_directory(naming.0)?,
            None => Some(self.root()).filter(|at| *at != 0).map(|at| Directory::at(self.memory, at)).transpose()?,
        };
        directory.map_or(Ok(0), |directory| directory.span().map(Span::len))
    }

    /// Gives `f` the element at `index`. It stays in place until `f` returns. `Ok(Err(_))` says how many there are, if
    /// it is not one of them.
    ///
    /// # Errors
    /// `Corrupt`, or what `f` says.
    #[inline]
    pub fn get<R>(
        &self,
        lane: Lane,
        index: u64,
        f: impl FnOnce(&Element<'a, M>) -> Result<R, Error>,
    ) -> Result<Result<R, u64>, Error> {
        let hazards = self.memory.hazards(lane);
        let _naming = Naming(hazards);
        for _ in 0..MOST_LOOKS {
            let Some(directory) = self.name_directory(hazards)? else { return Ok(Err(0)) };
            match self.look(hazards, &directory, index)? {
                Looked::Found(element) => return f(&element).map(Ok),
                Looked::Beyond(len) => return Ok(Err(len)),
                Looked::Moved => {}
            }
        }
        Err(corrupt("root", self.root(), "a directory that stays for a moment"))
    }

    #[inline]
    fn look(
        &self,
        hazards: &[AtomicU64; HAZARDS],
        directory: &Directory<'a>,
        index: u64,
    ) -> Result<Looked<'a, M>, Error> {
        for _ in 0..MOST_LOOKS {
            let span = directory.span()?;
            if index >= span.len() {
                return Ok(if self.root() == directory.at { Looked::Beyond(span.len()) } else { Looked::Moved });
            }
            let slot = directory.slot(self.memory, span.first() + index)?;
            let word = slot.load(Acquire);
            if word != 0 && self.name_element(hazards, slot, word) {
                // Element::at is safe whatever lies there, and costs less than to come back for it.
                let now = directory.span()?;
                let same = index < now.len() && now.is_aligned_with(span)
                    || broken("sequence: believe a slot without a look at the span");
                if same && self.root() == directory.at {
                    return Element::at(self.memory, word).map(Looked::Found);
                }
            }
            if self.root() != directory.at {
                return Ok(Looked::Moved);
            }
        }
        Err(corrupt("slot", index, "an element that stays for a moment"))
    }

    /// Names the element in a slot; whether it is there still, and so stays.
    #[inline]
    fn name_element(&self, hazards: &[AtomicU64; HAZARDS], slot: &AtomicU64, word: u64) -> bool {
        if element::is_inline(word) {
            return true;
        }
        // Release: the element that was named before has been read.
        hazards[READING].store(word, Release);
        if !broken("sequence: read an element without a fence") {
            fence(Ordering::SeqCst);
        }
        slot.load(Acquire) == word
    }

    /// Gives `f` the elements of a range, which `range` tells of how many there are. What it gives is the
    /// count of changes, if there was none meanwhile; else some may be missing, twice or from another moment.
    ///
    /// # Errors
    /// `Corrupt`, or what `f` says.
    pub fn try_for_each(
        &self,
        lane: Lane,
        range: &dyn Fn(u64) -> Range<u64>,
        f: &mut dyn FnMut(&Element<'a, M>) -> Result<(), Error>,
    ) -> Result<Option<u64>, Error> {
        let before = self.changes();
        let hazards = self.memory.hazards(lane);
        let _naming = Naming(hazards);
        if let Some(directory) = self.name_directory(hazards)? {
            let span = directory.span()?;
            let Range { start, end } = range(span.len());
            for index in start..end.min(span.len()) {
                let slot = directory.slot(self.memory, span.first() + index)?;
                let word = slot.load(Acquire);
                if word == 0 || !self.name_element(hazards, slot, word) || self.root() != directory.at {
                    return Ok(None);
                }
                f(&Element::at(self.memory, word)?)?;
            }
        }
        Ok((before % 2 == 0 && self.is_at(before)).then_some(before))
    }

    /// Gives `f` every element that is there all the time, and perhaps others that come and go meanwhile. False if there is
    /// another directory now: then some may be missing.
    ///
    /// # Errors
    /// `Corrupt`, or what `f` says.
    pub fn try_for_all(
        &self,
        lane: Lane,
        f: &mut dyn FnMut(&Element<'a, M>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let hazards = self.memory.hazards(lane);
        let _naming = Naming(hazards);
        let Some(directory) = self.name_directory(hazards)? else { return Ok(true) };
        // All slots: whatever the span does, an element keeps its own as long as there is no other directory.
        for k in 0..directory.slots {
            let slot = directory.slot(self.memory, k)?;
            for _ in 0..MOST_LOOKS {
                let word = slot.load(Acquire);
                if word == 0 {
                    break;
                }
                let stays = self.name_element(hazards, slot, word);
                if self.root() != directory.at {
                    return Ok(false);
                }
                if stays {
                    f(&Element::at(self.memory, word)?)?;
                    break;
                }
            }
        }
        Ok(self.root() == directory.at)
    }

    /// Gives `f` every slot without naming anything: for those who have no lane, or the lock.
    fn for_each_slot(&self, f: &mut dyn FnMut(&AtomicU64, bool) -> Result<(), Error>) -> Result<(), Error> {
        let at = self.root();
        if at == 0 {
            return Ok(());
        }
        let directory = Directory::at(self.memory, at)?;
        let span = directory.span()?;
        for k in 0..directory.slots {
            let inside = k >= span.first() && k - span.first() < span.len();
            f(directory.slot(self.memory, k)?, inside)?;
        }
        Ok(())
    }

    /// Gives `f` every element without naming it: for those who have no lane. Right if nobody changes anything meanwhile.
    ///
    /// # Errors
    /// `Corrupt`, or what `f` says.
    pub fn for_each_unnamed(&self, f: &mut dyn FnMut(&Element<'a, M>) -> Result<(), Error>) -> Result<(), Error> {
        self.for_each_slot(&mut |slot, inside| match slot.load(Acquire) {
            0 => Ok(()),
            _ if !inside => Ok(()),
            word => f(&Element::at(self.memory, word)?),
        })
    }

    /// Tells the names of all runs that the sequence names. For recovery, beside survivors: whoever locks it after a
    /// death collects first, and keeps them all.
    pub fn for_each_run(&self, f: &mut dyn FnMut(u64)) {
        self.heap.for_each_run(f);
        let name_of = |at: u64| {
            let [header, name] = self.memory.words::<2>(at).ok()?;
            (flags_of(header.load(Relaxed)) & RUN != 0).then(|| name.load(Relaxed))
        };
        name_of(self.root()).into_iter().for_each(&mut *f);
        // What a damaged directory names is lost.
        let _ = self.for_each_slot(&mut |slot, _| {
            let word = slot.load(Acquire);
            if word != 0 && !element::is_inline(word) {
                name_of(word).into_iter().for_each(&mut *f);
            }
            Ok(())
        });
    }

    /// Locks the sequence for changes, waiting for it until `deadline`. After a death of its holder, what that one left
    /// is put in order first.
    ///
    /// # Errors
    /// `Ok(Err(_))` if the deadline came first; `Corrupt`.
    #[inline]
    pub fn lock(&self, lane: Lane, deadline: Deadline) -> Result<Result<Editing<'_, 'a, M>, TimedOut>, Error> {
        match self.block.lock.lock(lane, self.memory, deadline) {
            Ok(locked) => Editing::new(self, lane, locked).map(Ok),
            Err(timed_out) => Ok(Err(timed_out)),
        }
    }

    /// As [`lock`](Self::lock), if nobody has it.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub fn try_lock(&self, lane: Lane) -> Result<Option<Editing<'_, 'a, M>>, Error> {
        self.block.lock.try_lock(lane).map(|locked| Editing::new(self, lane, locked)).transpose()
    }
}
