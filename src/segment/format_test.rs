//! `FORMAT.md` says what the blocks are: every field, where it is and how long it is, and nothing else.

use std::mem::{offset_of, size_of};

use super::layout::*;
use crate::ring::RingBlock;
use crate::store::{CellBlock, DictBlock, HeapBlock, ListBlock, SequenceBlock, ShardBlock};
use crate::sync::{
    BarrierBlock, ElementsBlock, EventBlock, MutexBlock, OnceBlock, RLockBlock, SemaphoreBlock, TwinBlock, WaitBlock,
};

const FORMAT: &str = include_str!("FORMAT.md");

/// A field: its name, offset and size.
type Field = (String, usize, usize);

/// The table under the heading that names `block`, and the block's size as that heading gives it.
fn documented(block: &str) -> (usize, Vec<Field>) {
    let heading = |line: &str| line.starts_with('#') && line.contains(&format!("`{block}`"));
    let mut lines = FORMAT.lines().skip_while(|line| !heading(line));
    let title = lines.next().unwrap_or_else(|| panic!("FORMAT.md has no heading with `{block}`"));
    let size = title.split("`, ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let cells = |row: &str| row.split('|').skip(1).take(3).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let fields = lines.take_while(|line| !line.starts_with('#')).filter_map(|row| match &cells(row)[..] {
        [offset, size, name] => {
            let name = name.strip_prefix('`')?.strip_suffix('`')?;
            Some((name.to_owned(), offset.parse().ok()?, size.parse().ok()?))
        }
        _ => None,
    });
    (size.unwrap_or_else(|| panic!("the heading of `{block}` says no size: {title}")), fields.collect())
}

fn size_behind<T, F>(_field: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// The fields of a block as they are. A field that is missing here does not compile.
macro_rules! fields {
    ($block:ident { $($field:ident),* $(,)? }) => {{
        let _every_field = |block: &$block| {
            let $block { $($field: _),* } = block;
        };
        vec![$((
            stringify!($field).to_owned(),
            offset_of!($block, $field),
            size_behind(|block: &$block| &block.$field),
        )),*]
    }};
}

#[track_caller]
fn check(block: &str, size: usize, room: usize, fields: Vec<Field>) {
    let (documented_size, documented) = documented(block);
    assert_eq!(documented, fields, "the table of `{block}` in FORMAT.md (left) is not what the source says (right)");
    assert_eq!(documented_size, size, "the size of `{block}` in FORMAT.md is not what the source says");
    let mut end = 0;
    for (name, offset, size) in fields {
        assert_eq!(offset, end, "`{block}` has a hole in front of `{name}`: name it `reserved`");
        end = offset + size;
    }
    assert_eq!(end, size, "`{block}` has a hole at its end: name it `reserved`");
    assert!(size <= room, "`{block}` has {size} bytes, and room for {room}");
}

#[test]
fn the_header_is_as_documented() {
    let fields = fields!(HeaderBlock {
        magic,
        version,
        flags,
        layout_hash,
        size,
        id,
        rows,
        lanes,
        objects,
        pages,
        rows_at,
        lanes_at,
        pagemap_at,
        objects_at,
        pages_at,
        committed_pages,
        committed_objects,
        objects_high,
        free_hint,
        arena_lock,
        death_seq,
        deaths,
        vanished,
        redelivered,
        long_hint,
        lanes_high,
        idle_pages,
        hollow_pages,
        kept_pages,
        kept_s,
        root,
        reserved,
    });
    check("HeaderBlock", size_of::<HeaderBlock>(), HEADER_BYTES, fields);
}

#[test]
fn a_row_is_as_documented() {
    let fields = fields!(RowBlock {
        state,
        pid,
        parent,
        since_ns,
        name,
        died_generation,
        died_pid,
        died_ns,
        vanished,
        redelivered,
        locks,
        spare,
        died_name,
        reserved,
    });
    check("RowBlock", size_of::<RowBlock>(), ROW_BYTES, fields);
}

#[test]
fn a_lane_is_as_documented() {
    check("LaneBlock", size_of::<LaneBlock>(), LANE_BYTES, fields!(LaneBlock { owner, cpu, reserved, hazards }));
}

#[test]
fn a_page_map_entry_is_as_documented() {
    check("PageBlock", size_of::<PageBlock>(), PAGE_ENTRY_BYTES, fields!(PageBlock { head, owner }));
}

#[test]
fn a_directory_entry_is_as_documented() {
    let fields = fields!(ObjectBlock {
        state,
        kind,
        page,
        type_hash,
        bytes,
        openers,
        reserved_roles,
        departures,
        deaths,
        last_dead,
        arrivals,
        last_dead_as,
        waits,
        spare,
    });
    check("ObjectBlock", size_of::<ObjectBlock>(), OBJECT_BYTES, fields);
}

#[test]
fn elements_are_as_documented() {
    let fields = fields!(ElementsBlock { lock, len, size, reserved, stripes });
    check("ElementsBlock", size_of::<ElementsBlock>(), 64, fields);
    assert_eq!(size_of::<TwinBlock>(), 8);
}

#[test]
fn lists_are_as_documented() {
    check("ListBlock", size_of::<ListBlock>(), PAGE, fields!(ListBlock { sequence, heap, first }));
    let fields = fields!(SequenceBlock { lock, wait, changes, marked, spare, root, reserved });
    check("SequenceBlock", size_of::<SequenceBlock>(), 128, fields);
}

#[test]
fn dictionaries_are_as_documented() {
    let fields = fields!(DictBlock { shards, seed, check, marked, spare, next, reserved });
    check("DictBlock", size_of::<DictBlock>(), 128, fields);
    check("CellBlock", size_of::<CellBlock>(), 1984, fields!(CellBlock { shard, heap, first }));
    let fields = fields!(ShardBlock { lock, wait, changes, len, used, ordered, spare, table, reserved });
    check("ShardBlock", size_of::<ShardBlock>(), 128, fields);
    let fields =
        fields!(HeapBlock { runs, filled, used, held, retired_len, untidy, lists, retired, peak, leaving, spare });
    check("HeapBlock", size_of::<HeapBlock>(), 704, fields);
}

#[test]
fn words_and_the_rings_control_have_the_documented_sizes() {
    assert_eq!((size_of::<WaitBlock>(), size_of::<MutexBlock>()), (4, 4));
    assert_eq!((size_of::<RLockBlock>(), size_of::<EventBlock>(), size_of::<OnceBlock>()), (8, 4, 4));
    let (size, fields) = documented("RingBlock");
    assert_eq!(size_of::<RingBlock>(), size);
    // The lines they stand in are the ring's own business; `tests/format.rs` finds the words in a live ring.
    let words = RingBlock::WORDS.map(|(name, offset)| (name.to_owned(), offset, 8));
    assert_eq!(fields, words, "the table of `RingBlock` in FORMAT.md (left) is not what the source says (right)");
}

/// Blocks whose fields are the business of `sync`: the sum of the documented sizes is the real one.
#[test]
fn blocks_of_locks_have_the_documented_sizes() {
    for (block, real) in [("SemaphoreBlock", size_of::<SemaphoreBlock>()), ("BarrierBlock", size_of::<BarrierBlock>())]
    {
        let (size, fields) = documented(block);
        let end = fields.iter().fold(0, |end, (name, offset, size)| {
            assert_eq!(*offset, end, "`{block}` has a hole in front of `{name}`");
            end + size
        });
        assert_eq!((size, end), (real, real), "the size of `{block}`");
    }
}

#[test]
fn blocks_of_one_to_one_rings_have_the_documented_sizes_and_seats() {
    use crate::ring::bytes::RecordBlock;
    use crate::ring::spsc::SlotBlock;

    let blocks = [
        ("SlotBlock", size_of::<SlotBlock>(), SlotBlock::SEATS),
        ("RecordBlock", size_of::<RecordBlock>(), RecordBlock::SEATS),
    ];
    for (block, real, seats) in blocks {
        let (size, fields) = documented(block);
        assert_eq!(size, real, "the size of `{block}`");
        let at = |wanted: &str| fields.iter().find(|(name, ..)| name == wanted).map(|(_, offset, _)| *offset);
        assert_eq!([at("producer_seat"), at("consumer_seat")], seats.map(Some), "the seats of `{block}`");
        let (_, last, bytes) = fields.last().expect("it has fields");
        assert_eq!((last + bytes).next_multiple_of(128), size, "the end of `{block}`");
    }
}

#[test]
fn the_documented_constants_are_the_real_ones() {
    let numbers = [PAGE, HEADER_BYTES, MAX_ROWS as usize, MAX_LANES as usize, VERSION as usize];
    assert_eq!(numbers, [8 << 10, 4 << 10, 1024, 1022, 5], "change FORMAT.md with them");
    assert_eq!([ROW_BYTES, LANE_BYTES, PAGE_ENTRY_BYTES, OBJECT_BYTES], [256, 128, 16, 512], "and with these");
    assert_eq!(MAGIC.to_le_bytes(), *b"KINFOLK\n");
    assert_eq!([MAX_SIZE, MAX_OBJECTS], [64 << 30, 16384]);
    assert!(MAX_SIZE / (PAGE as u64) < 1 << 26, "a number of pages fits its bits");
}
