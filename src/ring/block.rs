//! The words of a ring that are not its records': the cursors, and what is counted beside them.

use std::mem::offset_of;

use super::counts::{ABORTED, ITEMS, LOST};
use super::cursor::Cursor;
use crate::sys::atomic::AtomicU64;

/// A cursor alone on its pair of cache lines (the adjacent-line prefetcher fetches two), but for its epoch.
#[repr(C, align(128))]
pub(super) struct CursorLine {
    pub cursor: AtomicU64,
    /// Half turns of its count of records (see `turns.rs`).
    pub epoch: AtomicU64,
}

/// The cursor behind which nothing is left, and the epochs of its two counts.
#[repr(C, align(128))]
pub(super) struct HeadLine {
    pub cursor: AtomicU64,
    pub aborted_epoch: AtomicU64,
    pub lost_epoch: AtomicU64,
}

/// What recovery tells the living.
#[repr(C, align(128))]
pub(super) struct RedoLine {
    /// Counts recoveries.
    pub count: AtomicU64,
    /// Records that recoveries gave back.
    pub redelivered: AtomicU64,
}

/// The cursors of a ring, as they lie in a segment: 512 bytes.
#[repr(C)]
pub struct RingBlock {
    pub(super) tail: CursorLine,
    pub(super) rcur: CursorLine,
    pub(super) head: HeadLine,
    pub(super) redo: RedoLine,
}

impl RingBlock {
    /// Names and offsets of its words, each of 8 bytes.
    pub const WORDS: [(&'static str, usize); 9] = {
        let (tail, rcur) = (offset_of!(Self, tail), offset_of!(Self, rcur));
        let (head, redo) = (offset_of!(Self, head), offset_of!(Self, redo));
        [
            ("tail", tail + offset_of!(CursorLine, cursor)),
            ("tail_epoch", tail + offset_of!(CursorLine, epoch)),
            ("rcur", rcur + offset_of!(CursorLine, cursor)),
            ("rcur_epoch", rcur + offset_of!(CursorLine, epoch)),
            ("head", head + offset_of!(HeadLine, cursor)),
            ("aborted_epoch", head + offset_of!(HeadLine, aborted_epoch)),
            ("lost_epoch", head + offset_of!(HeadLine, lost_epoch)),
            ("redo", redo + offset_of!(RedoLine, count)),
            ("redelivered", redo + offset_of!(RedoLine, redelivered)),
        ]
    };

    /// The block of an empty ring. The three arrays start zeroed.
    #[allow(clippy::new_without_default, reason = "a block is written into a segment, never made by default")]
    pub fn new() -> Self {
        Self::starting_at(Cursor::new(0, 0), Cursor::new(0, 0))
    }

    /// A ring that is empty at `start`, as far as the epochs need it; `head` is at the same place with its own counts.
    pub(super) fn starting_at(start: Cursor, head: Cursor) -> Self {
        let word = AtomicU64::new;
        let line = || CursorLine { cursor: word(start.bits()), epoch: word(ITEMS.first_epoch(start.bits())) };
        Self {
            tail: line(),
            rcur: line(),
            head: HeadLine {
                cursor: word(head.bits()),
                aborted_epoch: word(ABORTED.first_epoch(head.bits())),
                lost_epoch: word(LOST.first_epoch(head.bits())),
            },
            redo: RedoLine { count: word(0), redelivered: word(0) },
        }
    }
}
