//! A value in two copies, and the word that says which one counts: readers never wait, and see a whole value.
//!
//! `selector`: counts the writes; its lowest bit names the copy that counts. A writer holds a lock, writes the *idle*
//! copy and adds 1, which is the commit. So a copy that a reader has begun to read is not written before the word has
//! moved on once, and a reader that finds the word where it was has read a whole value.
//!
//! | a writer is killed | left behind | outcome |
//! |---|---|---|
//! | before the store to `selector` | half a value in the idle copy, and the lock | the old value; recovery frees the lock |
//! | after it | the lock | the new value; recovery frees the lock |
//!
//! Whoever gets the lock of a dead writer need not be told: nothing that counts was touched. No value of the word is
//! wrong, so there is nothing to check in it.
//!
//! # Memory ordering
//! The store to `selector` (Release) matches the reader's first load (Acquire): with the word comes the copy that it
//! names. A reader that sees a byte of a *later* write has to see that the word has moved: its `fence(Acquire)` between
//! the bytes and its second load matches the writer's `fence(Release)` in front of the bytes, before which the writer
//! has seen the word where it is now (its own earlier store, or another's through the lock).
//!
//! Source: Hans-J. Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?", MSPC 2012; two copies as in
//! LMDB's meta pages.

use super::mutex::MutexBlock;
use super::rlock::RLockBlock;
use crate::sys::atomic::{AtomicU64, Ordering, broken, fence};

/// How many locks the writers of all elements share.
pub const STRIPES: usize = 8;

/// What is in front of the elements of a value or an array, in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct ElementsBlock {
    /// For those who ask for it.
    pub lock: RLockBlock,
    /// How many elements there are.
    pub len: AtomicU64,
    /// Bytes of one, as its type has them.
    pub size: AtomicU64,
    /// 0.
    pub reserved: AtomicU64,
    /// What the writers of an element hold that has two copies.
    pub stripes: [MutexBlock; STRIPES],
}

/// The word beside two copies, in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct TwinBlock {
    selector: AtomicU64,
}

impl TwinBlock {
    /// Copy 0 counts.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { selector: AtomicU64::new(0) }
    }

    /// Has the copy that counts copied out, by a function that gets its number. What it gave, and the count of writes that
    /// belongs to it; `None` if writers came in between, and it may be a mixture.
    #[inline]
    pub fn read<R>(&self, copy_out: impl FnOnce(usize) -> R) -> Option<(R, u64)> {
        let order = if broken("twin: read without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        let seen = self.selector.load(order);
        let value = copy_out((seen & 1) as usize);
        if !broken("twin: look again without the fence") {
            fence(Ordering::Acquire);
        }
        let same = broken("twin: do not look again") || self.selector.load(Ordering::Relaxed) == seen;
        same.then_some((value, seen))
    }

    /// Has the idle copy written, by a function that gets its number, and makes it count. The caller holds the lock.
    /// False, and nothing is written, if there has been another write since `unless_after` was told.
    #[inline]
    pub fn write(&self, unless_after: Option<u64>, copy_in: impl FnOnce(usize)) -> bool {
        // Nobody else stores while we have the lock, which ordered this.
        let now = self.selector.load(Ordering::Relaxed);
        if unless_after.is_some_and(|seen| seen != now) && !broken("twin: write whatever came between") {
            return false;
        }
        let next = now.wrapping_add(1);
        if broken("twin: flip before the copy") {
            self.selector.store(next, Ordering::Release);
        }
        if !broken("twin: write without the fence") {
            fence(Ordering::Release);
        }
        let idle = if broken("twin: write the copy that counts") { now } else { next };
        copy_in((idle & 1) as usize);
        let order = if broken("twin: flip without release") { Ordering::Relaxed } else { Ordering::Release };
        self.selector.store(next, order);
        true
    }
}
