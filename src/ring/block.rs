//! The words of a ring that are not its records': the cursors, and what is counted beside them.

use std::mem::offset_of;

use super::counts::{ABORTED, ITEMS, LOST};
use super::cursor::Cursor;
use crate::sys::atomic::AtomicU64;

/// A word alone on its pair of cache lines (the adjacent-line prefetcher fetches two).
#[repr(C, align(128))]
pub(super) struct Line(pub(super) AtomicU64);

/// What producers move, alone on its pair of cache lines.
#[repr(C, align(128))]
pub(super) struct TailLine {
    pub cursor: AtomicU64,
    /// Half turns of its count of records (see `turns.rs`).
    pub epoch: AtomicU64,
    /// The lane of the one producer. This and what follows belong to rings of one producer: see `single.rs`.
    pub producer: AtomicU64,
    /// Where it will have moved the cursor by the next commit.
    pub reserved: AtomicU64,
    /// Records that producers gave up.
    pub aborted: AtomicU64,
    /// Records that vanished with their producers.
    pub lost: AtomicU64,
}

/// What consumers move.
#[repr(C, align(128))]
pub(super) struct RcurLine {
    pub cursor: AtomicU64,
    /// Half turns of its count of records.
    pub epoch: AtomicU64,
    /// The lane of the one consumer, in rings of one consumer.
    pub consumer: AtomicU64,
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
    pub(super) tail: TailLine,
    pub(super) rcur: RcurLine,
    pub(super) head: HeadLine,
    pub(super) redo: RedoLine,
}

impl RingBlock {
    /// Names and offsets of its words, each of 8 bytes.
    pub const WORDS: [(&'static str, usize); 14] = {
        let (tail, rcur) = (offset_of!(Self, tail), offset_of!(Self, rcur));
        let (head, redo) = (offset_of!(Self, head), offset_of!(Self, redo));
        [
            ("tail", tail + offset_of!(TailLine, cursor)),
            ("tail_epoch", tail + offset_of!(TailLine, epoch)),
            ("producer", tail + offset_of!(TailLine, producer)),
            ("reserved", tail + offset_of!(TailLine, reserved)),
            ("aborted", tail + offset_of!(TailLine, aborted)),
            ("lost", tail + offset_of!(TailLine, lost)),
            ("rcur", rcur + offset_of!(RcurLine, cursor)),
            ("rcur_epoch", rcur + offset_of!(RcurLine, epoch)),
            ("consumer", rcur + offset_of!(RcurLine, consumer)),
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
        let (cursor, epoch) = (|| word(start.bits()), || word(ITEMS.first_epoch(start.bits())));
        Self {
            tail: TailLine {
                cursor: cursor(),
                epoch: epoch(),
                producer: word(0),
                reserved: cursor(),
                aborted: word(0),
                lost: word(0),
            },
            rcur: RcurLine { cursor: cursor(), epoch: epoch(), consumer: word(0) },
            head: HeadLine {
                cursor: word(head.bits()),
                aborted_epoch: word(ABORTED.first_epoch(head.bits())),
                lost_epoch: word(LOST.first_epoch(head.bits())),
            },
            redo: RedoLine { count: word(0), redelivered: word(0) },
        }
    }
}
