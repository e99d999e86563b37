//! Where a dictionary lies in its object, what its kind does after a death, and which handles its values carry.

use std::mem::offset_of;

use super::super::carried::{Handles, LOOKS, open_listed, split_handles};
use crate::error::{Error, ErrorKind};
use crate::segment::{Arrived, KINDS, Kind, Losses, Storage, View, page_of};
use crate::store::{CellBlock, DictBlock, Entry, Shard};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;

/// Shards of a dictionary, unless it is made with another number.
pub(super) const SHARDS: usize = 16;
/// The most that there can be.
pub(super) const MAX_SHARDS: usize = 256;
/// Where the shards are.
pub(super) const CELLS_AT: usize = size_of::<DictBlock>();

#[linkme::distributed_slice(KINDS)]
pub(in crate::shared) static DICT: Kind = Kind {
    code: 32,
    name: "dict",
    least: CELLS_AT + size_of::<CellBlock>(),
    count: |view, dead| {
        let mut locks = 0;
        each_shard(view, &mut |shard| {
            locks += u32::from(shard.block().lock.held_by(dead));
            Ok(())
        })?;
        Ok(Losses { locks, ..Losses::default() })
    },
    recover: |view, dead| {
        each_shard(view, &mut |shard| {
            shard.recover(dead);
            Ok(())
        })
    },
    linked: |view, name| {
        each_shard(view, &mut |shard| {
            shard.for_each_run(&mut |run| page_of(run).into_iter().for_each(&mut *name));
            Ok(())
        })
    },
    handles: |view, name| {
        if view.block::<DictBlock>(0).marked.load(Relaxed) == 0 {
            return Ok(());
        }
        each_shard(view, &mut |shard| {
            let mut found = Vec::new();
            look_through(shard, view.lane(), &mut |entry| {
                if entry.is_marked() {
                    found.extend(handles_of(&entry)?);
                }
                Ok(())
            })?;
            found.drain(..).for_each(|(id, role)| name(id, role));
            Ok(())
        })
    },
    describe: |view| {
        let mut len = 0u64;
        let counted = each_shard(view, &mut |shard| {
            len = len.saturating_add(shard.len());
            Ok(())
        });
        counted.map_or_else(|e| e.to_string(), |()| format!("{len} entries"))
    },
};

/// How many shards there are, of an object of so many bytes.
pub(super) fn shards_in(bytes: usize) -> Result<usize, Error> {
    let shards = bytes.saturating_sub(CELLS_AT) / size_of::<CellBlock>();
    if !(1..=MAX_SHARDS).contains(&shards) || bytes != bytes_for(shards) {
        return Err(Error::corrupt("dict", "size", bytes, "that of 1 to 256 shards"));
    }
    Ok(shards)
}

pub(super) fn bytes_for(shards: usize) -> usize {
    CELLS_AT + shards * size_of::<CellBlock>()
}

#[inline]
pub(super) fn shard_in<'a>(
    storage: &'a Storage<'a>,
    cell: &'a CellBlock,
    place: u64,
    k: usize,
) -> Shard<'a, Storage<'a>> {
    let from = place + (CELLS_AT + k * size_of::<CellBlock>() + offset_of!(CellBlock, first)) as u64;
    Shard::new(storage, &cell.shard, &cell.heap, (from, from + size_of_val(&cell.first) as u64))
}

pub(super) fn each_shard(
    view: &View<'_>,
    f: &mut dyn FnMut(&Shard<'_, Storage<'_>>) -> Result<(), Error>,
) -> Result<(), Error> {
    let storage = view.storage();
    let cells = view.blocks::<CellBlock>(CELLS_AT, shards_in(view.len())?);
    cells.iter().enumerate().try_for_each(|(k, cell)| f(&shard_in(&storage, cell, view.place(), k)))
}

/// Gives `f` at least every entry that is there all the time. It takes no lock: whoever gives up an object looks here,
/// and may hold any lock itself, in a process whose other threads hold others.
fn look_through(
    shard: &Shard<'_, Storage<'_>>,
    lane: Option<Lane>,
    f: &mut dyn FnMut(Entry<'_, Storage<'_>>) -> Result<(), Error>,
) -> Result<(), Error> {
    for _ in 0..LOOKS {
        let before = shard.changes();
        let whole = match lane {
            Some(lane) => shard.try_for_each(lane, &mut |entry| f(entry))?,
            // Nothing stays in place for who has no lane: only what did not change meanwhile is true.
            None => shard.for_each_unnamed(&mut |entry| f(entry)).is_ok() && before % 2 == 0 && shard.is_at(before),
        };
        if whole {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::Stalled, "read dict", "it changes all the time"))
}

/// The handles of a marked entry's value.
fn handles_of(entry: &Entry<'_, Storage<'_>>) -> Result<Handles, Error> {
    let mut value = Vec::new();
    entry.read_value(&mut value)?;
    Ok(split_handles(&value)?.0)
}

/// Opens what the value of an entry carries, before the entry is taken out.
pub(super) fn open_handles(
    storage: &Storage<'_>,
    entry: &Entry<'_, Storage<'_>>,
    arrived: &mut Arrived,
) -> Result<(), Error> {
    if entry.is_marked() {
        let mut value = Vec::new();
        entry.read_value(&mut value)?;
        open_listed(storage.segment(), &value, arrived)?;
    }
    Ok(())
}
