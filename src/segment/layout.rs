//! Where everything lies in a segment: the blocks, and the geometry that follows from three numbers.

use crate::error::{Error, ErrorKind};
use crate::store::HAZARDS;
use crate::sync::{
    BarrierBlock, ElementsBlock, EventBlock, MutexBlock, OnceBlock, RLockBlock, SemaphoreBlock, TwinBlock, WaitBlock,
};
use crate::sys::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Bytes of an arena page, the unit in which memory is handed out.
pub const PAGE: usize = 8 * 1024;
/// The largest segment.
pub const MAX_SIZE: u64 = 64 << 30;
/// Process rows: the bitmaps of who has an object open have one bit for each.
pub const MAX_ROWS: u32 = 1024;
/// Lanes: 10 bits in every stamped word, without 0 (nobody) and 1023 (orphans).
pub const MAX_LANES: u32 = 1022;
/// Objects of a segment, and entries of its directory.
pub const MAX_OBJECTS: u64 = 16_384;
/// Words of a bitmap of rows.
pub const ROW_WORDS: usize = (MAX_ROWS / 64) as usize;
/// Bytes reserved for the header.
pub const HEADER_BYTES: usize = 4096;

/// The first eight bytes of a segment.
pub const MAGIC: u64 = u64::from_le_bytes(*b"KINFOLK\n");
/// Version of the format: changes when the meaning of a byte changes.
pub const VERSION: u32 = 5;

/// A type that may be looked at in place in shared memory.
///
/// # Safety
/// `repr(C)`, made of atomics of fixed width only, so every bit pattern is valid and every access is atomic.
pub unsafe trait Block {}

// SAFETY: an atomic of fixed width.
unsafe impl Block for AtomicU8 {}
// SAFETY: an atomic of fixed width.
unsafe impl Block for AtomicU16 {}
// SAFETY: an atomic of fixed width.
unsafe impl Block for AtomicU32 {}
// SAFETY: an atomic of fixed width.
unsafe impl Block for AtomicU64 {}
// SAFETY: repr(C), one 32-bit atomic.
unsafe impl Block for WaitBlock {}
// SAFETY: repr(C), one 32-bit atomic.
unsafe impl Block for MutexBlock {}
// SAFETY: repr(C), 32-bit atomics.
unsafe impl Block for RLockBlock {}
// SAFETY: repr(C), atomics of fixed width.
unsafe impl Block for SemaphoreBlock {}
// SAFETY: repr(C), one 32-bit atomic.
unsafe impl Block for EventBlock {}
// SAFETY: repr(C), atomics of fixed width.
unsafe impl Block for BarrierBlock {}
// SAFETY: repr(C), one 32-bit atomic.
unsafe impl Block for OnceBlock {}
// SAFETY: repr(C), atomics of fixed width.
unsafe impl Block for crate::store::HeapBlock {}
// SAFETY: repr(C), atomics of fixed width.
unsafe impl Block for crate::store::ShardBlock {}
// SAFETY: repr(C), such blocks and atomics of fixed width.
unsafe impl Block for crate::store::CellBlock {}
// SAFETY: repr(C), atomics of fixed width.
unsafe impl Block for crate::store::DictBlock {}
// SAFETY: repr(C), one 64-bit atomic.
unsafe impl Block for TwinBlock {}
// SAFETY: repr(C), atomics of fixed width.
unsafe impl Block for ElementsBlock {}
// SAFETY: repr(C), such blocks and atomics of fixed width.
unsafe impl Block for crate::store::ListBlock {}
// SAFETY: repr(C), atomics of fixed width with padding.
unsafe impl Block for crate::ring::RingBlock {}
// SAFETY: repr(C), 32-bit atomics.
unsafe impl Block for crate::ring::Seat {}
// SAFETY: repr(C), atomics with padding.
unsafe impl Block for crate::ring::spsc::SlotBlock {}
// SAFETY: repr(C), atomics with padding.
unsafe impl Block for crate::ring::bytes::RecordBlock {}

/// The start of a segment. Read once at attach, but for the words that change (from `committed` on).
#[repr(C)]
pub struct HeaderBlock {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Bit 0: committers use no fence, sleepers use membarrier for both.
    pub flags: AtomicU32,
    /// [`layout_hash`] of the library that made it.
    pub layout_hash: AtomicU64,
    /// Bytes of the whole segment.
    pub size: AtomicU64,
    /// A random number that names the segment.
    pub id: [AtomicU64; 2],
    /// Number of process rows.
    pub rows: AtomicU32,
    /// Number of lanes; lane numbers start at 1.
    pub lanes: AtomicU32,
    /// Number of directory entries.
    pub objects: AtomicU32,
    /// Number of arena pages.
    pub pages: AtomicU32,
    /// Offset of the first row.
    pub rows_at: AtomicU64,
    /// Offset of the first lane.
    pub lanes_at: AtomicU64,
    /// Offset of the first page-map entry.
    pub pagemap_at: AtomicU64,
    /// Offset of the first directory entry.
    pub objects_at: AtomicU64,
    /// Offset of the first arena page.
    pub pages_at: AtomicU64,
    /// Arena pages whose memory is committed, their page-map entries too: neither ever faults for lack of memory.
    pub committed_pages: AtomicU32,
    /// Directory entries whose memory is committed.
    pub committed_objects: AtomicU32,
    /// Directory entries from here on were never used.
    pub objects_high: AtomicU32,
    /// No page below this one is free (a hint).
    pub free_hint: AtomicU32,
    /// Held while pages are looked for.
    pub arena_lock: MutexBlock,
    /// Counts recoveries; a futex for those who wait for deaths.
    pub death_seq: AtomicU32,
    /// Processes that died with the segment open.
    pub deaths: AtomicU64,
    /// Uncommitted items that died with them.
    pub vanished: AtomicU64,
    /// Items taken but not acknowledged by them, offered again.
    pub redelivered: AtomicU64,
    /// No long run of free pages begins below this one (a hint).
    pub long_hint: AtomicU32,
    /// The highest lane that was ever taken.
    pub lanes_high: AtomicU32,
    /// Free pages that have memory, in long pieces (a hint).
    pub idle_pages: AtomicU32,
    /// Free pages whose memory was given back (a hint).
    pub hollow_pages: AtomicU32,
    /// Free pages whose memory is kept because it was given back before and wanted again (a hint).
    pub kept_pages: AtomicU32,
    /// When that was last, in seconds of the monotonic clock.
    pub kept_s: AtomicU32,
    /// Directory entry of the root object, plus 1; 0 if there is none. See `root.rs`.
    pub root: AtomicU32,
    /// Spare.
    pub reserved: AtomicU32,
}
// SAFETY: repr(C), atomics only.
unsafe impl Block for HeaderBlock {}

/// One process. See `peers.rs` for the states.
#[repr(C)]
pub struct RowBlock {
    /// `generation:32 | flags:16 | phase:8 | state:8`.
    pub state: AtomicU64,
    /// Process id, as its own namespace numbers it.
    pub pid: AtomicU32,
    /// Row of the process that started it, plus 1; 0 if none did.
    pub parent: AtomicU32,
    /// When it came, in nanoseconds of the monotonic clock.
    pub since_ns: AtomicU64,
    /// Its name, UTF-8, zero-padded.
    pub name: [AtomicU64; 6],
    /// Generation whose death the ledger below describes; 0 if none.
    pub died_generation: AtomicU32,
    /// Its process id.
    pub died_pid: AtomicU32,
    /// When its death was found.
    pub died_ns: AtomicU64,
    /// Its uncommitted items.
    pub vanished: AtomicU32,
    /// Its taken and unacknowledged items.
    pub redelivered: AtomicU32,
    /// Locks that it held.
    pub locks: AtomicU32,
    /// Spare.
    pub spare: AtomicU32,
    /// Its name.
    pub died_name: [AtomicU64; 6],
    /// Spare.
    pub reserved: [AtomicU64; 13],
}
// SAFETY: repr(C), atomics only.
unsafe impl Block for RowBlock {}

/// One thread of one process.
#[repr(C)]
pub struct LaneBlock {
    /// `generation:24 | row:8`; 0 if the lane is free.
    pub owner: AtomicU32,
    /// CPU on which it waited last, plus 1 (a hint for those who wait for it).
    pub cpu: AtomicU32,
    /// Spare.
    pub reserved: [AtomicU64; 7],
    /// Places that the thread reads at this moment, which must stay as they are. In a cache line of their own.
    pub hazards: [AtomicU64; HAZARDS],
}
// SAFETY: repr(C), atomics only.
unsafe impl Block for LaneBlock {}

/// One run of arena pages, at the entry of its first page; entries inside a run are marked, and skipped.
#[repr(C)]
pub struct PageBlock {
    /// `generation:24 | pages:26 | lane:10 | state:4` (see `arena.rs`).
    pub head: AtomicU64,
    /// The object that it belongs to: `generation:32 | index:32`.
    pub owner: AtomicU64,
}
// SAFETY: repr(C), atomics only.
unsafe impl Block for PageBlock {}

/// One object: what it is, where its memory is, and which processes have it open.
#[repr(C)]
pub struct ObjectBlock {
    /// `generation:32 | spare:14 | lane:10 | state:8` (see `directory.rs`).
    pub state: AtomicU64,
    /// Code of its kind.
    pub kind: AtomicU32,
    /// First page of its memory.
    pub page: AtomicU32,
    /// Hash of the Rust type that it holds.
    pub type_hash: AtomicU64,
    /// Bytes of its memory.
    pub bytes: AtomicU64,
    /// Rows that have it open, for each of its two roles (the ends of a pipe; other kinds use role 0).
    pub openers: [[AtomicU64; ROW_WORDS]; 2],
    /// Spare.
    pub reserved_roles: [AtomicU32; 2],
    /// Counts the processes that gave it up, alive or dead.
    pub departures: AtomicU32,
    /// How many of those died.
    pub deaths: AtomicU32,
    /// Process id of the last that died.
    pub last_dead: AtomicU32,
    /// Counts how often a process has opened it, right after its bit was set.
    pub arrivals: AtomicU32,
    /// The same for each role: of the last that died with it.
    pub last_dead_as: [AtomicU32; 2],
    /// What the object's users sleep on. Here and not in the object's memory, so that anybody may wake them without
    /// keeping the object in place: waking the users of a later object does no harm.
    pub waits: [WaitBlock; WAITS],
    /// Spare.
    pub spare: [AtomicU64; 22],
}
// SAFETY: repr(C), atomics only.
unsafe impl Block for ObjectBlock {}

/// Words to sleep on that each object has.
pub const WAITS: usize = 4;
/// Bits of a row's number in a lane's owner; the others are its generation's.
pub const ROW_BITS: u32 = 10;
/// The part of a row's generation that a lane's owner has.
pub const LANE_GENERATION: u32 = u32::MAX >> ROW_BITS;
/// Bytes of a row.
pub const ROW_BYTES: usize = 256;
/// Bytes of a lane.
pub const LANE_BYTES: usize = 128;
/// Bytes of a page-map entry.
pub const PAGE_ENTRY_BYTES: usize = 16;
/// Bytes of a directory entry.
pub const OBJECT_BYTES: usize = 512;

/// A number that differs between builds whose blocks differ.
pub fn layout_hash() -> u64 {
    use std::mem::{offset_of, size_of};
    let facts = [
        size_of::<HeaderBlock>(),
        offset_of!(HeaderBlock, committed_pages),
        offset_of!(HeaderBlock, arena_lock),
        size_of::<RowBlock>(),
        offset_of!(RowBlock, died_generation),
        size_of::<LaneBlock>(),
        offset_of!(LaneBlock, hazards),
        size_of::<crate::store::HeapBlock>(),
        size_of::<crate::store::CellBlock>(),
        size_of::<crate::store::DictBlock>(),
        size_of::<crate::store::ListBlock>(),
        offset_of!(crate::store::ListBlock, first),
        size_of::<PageBlock>(),
        size_of::<ObjectBlock>(),
        offset_of!(ObjectBlock, openers),
        offset_of!(ObjectBlock, waits),
        size_of::<crate::ring::RingBlock>(),
        size_of::<crate::ring::spsc::SlotBlock>(),
        size_of::<crate::ring::bytes::RecordBlock>(),
        size_of::<WaitBlock>(),
        size_of::<MutexBlock>(),
        size_of::<RLockBlock>(),
        size_of::<SemaphoreBlock>(),
        size_of::<EventBlock>(),
        size_of::<BarrierBlock>(),
        size_of::<OnceBlock>(),
        PAGE,
    ];
    let mut bytes = Vec::new();
    for fact in facts.into_iter().chain(crate::ring::RingBlock::WORDS.map(|(_, offset)| offset)) {
        bytes.extend_from_slice(&(fact as u64).to_le_bytes());
    }
    fnv1a(&bytes)
}

/// FNV-1a, 64 bits: for names and layouts, where nobody gains by a collision.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// Sizes and offsets of a segment: validated once, then private to the process and never read again (rule R1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the whole segment.
    pub size: u64,
    /// Process rows.
    pub rows: u32,
    /// Lanes.
    pub lanes: u32,
    /// Directory entries.
    pub objects: u32,
    /// Arena pages.
    pub pages: u32,
    /// Offset of the first row.
    pub rows_at: u64,
    /// Offset of the first lane.
    pub lanes_at: u64,
    /// Offset of the first page-map entry.
    pub pagemap_at: u64,
    /// Offset of the first directory entry.
    pub objects_at: u64,
    /// Offset of the first arena page.
    pub pages_at: u64,
}

impl Geometry {
    /// The geometry of a segment of `size` bytes: everything follows from these three numbers.
    pub fn new(size: u64, rows: u32, lanes: u32) -> Result<Self, Error> {
        let bad = |message: String| Error::new(ErrorKind::InvalidInput, "create segment", message);
        if rows == 0 || rows > MAX_ROWS {
            return Err(bad(format!("{rows} process rows, expected 1 to {MAX_ROWS}")));
        }
        if lanes == 0 || lanes > MAX_LANES {
            return Err(bad(format!("{lanes} lanes, expected 1 to {MAX_LANES}")));
        }
        let up = |at: u64, to: u64| at.div_ceil(to) * to;
        let page = PAGE as u64;
        // Checked below; until then it must not overflow anything.
        let most_pages = size.min(MAX_SIZE) / page;
        let objects = most_pages.clamp(1, MAX_OBJECTS) as u32;
        let rows_at = HEADER_BYTES as u64;
        let lanes_at = rows_at + u64::from(rows) * ROW_BYTES as u64;
        let pagemap_at = up(lanes_at + u64::from(lanes) * LANE_BYTES as u64, 4096);
        let objects_at = up(pagemap_at + most_pages * PAGE_ENTRY_BYTES as u64, 4096);
        let pages_at = up(objects_at + u64::from(objects) * OBJECT_BYTES as u64, page);
        if size > MAX_SIZE || pages_at + page > size {
            let least = pages_at + page;
            return Err(bad(format!("size {size} B, expected {least} to {MAX_SIZE} B")));
        }
        let pages = ((size - pages_at) / page) as u32;
        Ok(Self { size, rows, lanes, objects, pages, rows_at, lanes_at, pagemap_at, objects_at, pages_at })
    }

    /// Offset of the page-map entry of `page`.
    pub fn page_entry_at(&self, page: u32) -> usize {
        self.pagemap_at as usize + page as usize * PAGE_ENTRY_BYTES
    }

    /// Offset of arena page `page`.
    pub fn page_at(&self, page: u32) -> usize {
        (self.pages_at + u64::from(page) * PAGE as u64) as usize
    }
}
