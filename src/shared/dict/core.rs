//! A dictionary of bytes: where it lies in its object, and what is done to it.

use std::mem::offset_of;

use crate::error::{Error, ErrorKind};
use crate::segment::{KINDS, Kind, Losses, Object, ObjectId, Pinned, Segment, Storage, View, page_of};
use crate::store::{CellBlock, Changing, DictBlock, Draft, Entry, Shard};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;
use crate::sys::memfd::random_id;

/// Shards of a dictionary, unless it is made with another number.
pub(super) const SHARDS: usize = 16;
/// The most that there can be.
pub(super) const MAX_SHARDS: usize = 256;
/// Where the shards are.
const CELLS_AT: usize = size_of::<DictBlock>();
/// How often a shard is read without its lock before it is read with it.
const WALKS: u32 = 4;
/// How many entries room is made for at once.
const MOST_FORESEEN: usize = 1 << 16;

#[linkme::distributed_slice(KINDS)]
pub(super) static DICT: Kind = Kind {
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
            walk(shard, view.lane(), &mut |entry| handles_of(&entry, &mut found), &mut || ())?;
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
fn shards_in(bytes: usize) -> Result<usize, Error> {
    let shards = bytes.saturating_sub(CELLS_AT) / size_of::<CellBlock>();
    if !(1..=MAX_SHARDS).contains(&shards) || bytes != bytes_for(shards) {
        return Err(Error::corrupt("dict", "size", bytes, "that of 1 to 256 shards"));
    }
    Ok(shards)
}

fn bytes_for(shards: usize) -> usize {
    CELLS_AT + shards * size_of::<CellBlock>()
}

#[inline]
fn shard_in<'a>(storage: &'a Storage<'a>, cell: &'a CellBlock, place: u64, k: usize) -> Shard<'a, Storage<'a>> {
    let from = place + (CELLS_AT + k * size_of::<CellBlock>() + offset_of!(CellBlock, first)) as u64;
    Shard::new(storage, &cell.shard, &cell.heap, (from, from + size_of_val(&cell.first) as u64))
}

fn each_shard(view: &View<'_>, f: &mut dyn FnMut(&Shard<'_, Storage<'_>>) -> Result<(), Error>) -> Result<(), Error> {
    let storage = view.storage();
    let cells = view.blocks::<CellBlock>(CELLS_AT, shards_in(view.len())?);
    cells.iter().enumerate().try_for_each(|(k, cell)| f(&shard_in(&storage, cell, view.place(), k)))
}

/// Gives `f` every entry of a shard, as one moment saw it, if that can be had; `again` is called before it begins anew.
fn walk(
    shard: &Shard<'_, Storage<'_>>,
    lane: Option<Lane>,
    f: &mut dyn FnMut(Entry<'_, Storage<'_>>) -> Result<(), Error>,
    again: &mut dyn FnMut(),
) -> Result<(), Error> {
    for _ in 0..WALKS {
        let before = shard.changes();
        let whole = match lane {
            Some(lane) => shard.try_for_each(lane, &mut |entry| f(entry))?,
            None => shard.for_each_unnamed(&mut |entry| f(entry)).map(|()| true)?,
        };
        if whole && before % 2 == 0 && shard.is_at(before) {
            return Ok(());
        }
        again();
    }
    let Some(lane) = lane else {
        return Err(Error::new(ErrorKind::Stalled, "read dict", "it changes all the time"));
    };
    match shard.lock(lane, Deadline::NEVER)? {
        Ok(changing) => changing.for_each(&mut |entry| f(entry)),
        Err(_) => Ok(()),
    }
}

/// What a value with handles begins with: how many, and each.
pub(super) fn handle_list(handles: &[(ObjectId, usize)]) -> Vec<u8> {
    let mut bytes = (handles.len() as u64).to_ne_bytes().to_vec();
    for (id, role) in handles {
        bytes.extend_from_slice(&id.index.to_ne_bytes());
        bytes.extend_from_slice(&id.generation.to_ne_bytes());
        bytes.extend_from_slice(&(*role as u64).to_ne_bytes());
    }
    bytes
}

/// The handles that a marked value begins with, and the rest of it.
pub(super) fn split_handles(value: &[u8]) -> Result<(Vec<(ObjectId, usize)>, &[u8]), Error> {
    let bad = || Error::corrupt("dict", "handles of a value", value.len(), "as many bytes as they have");
    let number = |at: usize| value.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    let count = usize::try_from(number(0).ok_or_else(bad)?).map_err(|_| bad())?;
    let end = count.checked_mul(16).and_then(|b| b.checked_add(8)).filter(|end| *end <= value.len()).ok_or_else(bad)?;
    let handles = (8..end).step_by(16).filter_map(|at| {
        let (id, role) = (number(at)?.to_ne_bytes(), number(at + 8)?);
        let half = |k: usize| u32::from_ne_bytes(id[k..k + 4].try_into().expect("half of eight bytes"));
        Some((ObjectId { index: half(0), generation: half(4) }, role.min(2) as usize))
    });
    Ok((handles.collect(), &value[end..]))
}

/// Adds the handles of an entry's value.
fn handles_of(entry: &Entry<'_, Storage<'_>>, found: &mut Vec<(ObjectId, usize)>) -> Result<(), Error> {
    if entry.is_marked() {
        let mut value = Vec::new();
        entry.read_value(&mut value)?;
        found.extend(split_handles(&value)?.0);
    }
    Ok(())
}

/// Which entry a change is meant for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule<'r> {
    /// Any, or none.
    Always,
    /// None.
    Absent,
    /// Any.
    Present,
    /// The one of this version.
    Version(u64),
    /// One with this value.
    Equal(&'r [u8]),
}

/// A value that was read: its bytes (behind those that were in the buffer), and what else is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub marked: bool,
    pub version: u64,
}

/// A dictionary of bytes that is open.
pub(super) struct Core {
    pub object: Object,
    header: Pinned<DictBlock>,
    cells: Pinned<CellBlock>,
    seed: u64,
}

impl Core {
    pub fn create(segment: &Segment, kind: &'static Kind, type_hash: u64, shards: usize) -> Result<Self, Error> {
        let shards = shards.clamp(1, MAX_SHARDS).next_power_of_two();
        let random = random_id().map_err(|e| Error::os("create dict", e))?;
        let seed = u64::from_ne_bytes(random[..8].try_into().expect("half of sixteen bytes"));
        let mut made = Object::create(segment, kind, type_hash, bytes_for(shards), &[0], |view| {
            let header = view.block::<DictBlock>(0);
            header.shards.store(shards as u64, Relaxed);
            header.seed.store(seed, Relaxed);
            header.check.store(hash(&[], seed), Relaxed);
            each_shard(view, &mut |shard| shard.init())
        })?;
        Self::from_object(made.pop().expect("one role, one handle"))
    }

    pub fn from_object(object: Object) -> Result<Self, Error> {
        let shards = shards_in(object.len())?;
        let header: Pinned<DictBlock> = Pinned::new(&object, 0, 1);
        let seed = header[0].seed.load(Relaxed);
        let (found, wanted) = (header[0].check.load(Relaxed), hash(&[], seed));
        if found != wanted {
            let message = format!("its keys are hashed otherwise: {found:#x}, expected {wanted:#x}");
            return Err(Error::new(ErrorKind::LayoutMismatch, "open dict", message));
        }
        let cells = Pinned::new(&object, CELLS_AT, shards);
        Ok(Self { object, header, cells, seed })
    }

    #[inline]
    fn storage(&self) -> Storage<'_> {
        Storage::of(&self.object)
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        hash(key, self.seed)
    }

    #[inline]
    fn shard<'s>(&'s self, storage: &'s Storage<'s>, hash: u64) -> Shard<'s, Storage<'s>> {
        let k = (hash >> 56) as usize * self.cells.len() >> 8;
        shard_in(storage, &self.cells[k], self.object.place(), k)
    }

    pub(super) fn each_shard<R>(
        &self,
        mut f: impl FnMut(&Shard<'_, Storage<'_>>) -> Result<Option<R>, Error>,
    ) -> Result<Option<R>, Error> {
        let storage = self.storage();
        for (k, cell) in self.cells.iter().enumerate() {
            if let Some(found) = f(&shard_in(&storage, cell, self.object.place(), k))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    #[inline]
    pub(super) fn lane(&self) -> Result<Lane, Error> {
        self.object.segment().lane()
    }

    /// Entries, as one moment saw each shard.
    pub fn len(&self) -> usize {
        // Each number may be anything.
        self.cells.iter().fold(0, |sum, cell| sum.saturating_add(cell.shard.len.load(Relaxed) as usize))
    }

    /// Gives `f` the entry of a key, which stays until `f` returns.
    #[inline]
    pub fn get<R>(
        &self,
        key: &[u8],
        f: impl FnOnce(&Entry<'_, Storage<'_>>) -> Result<R, Error>,
    ) -> Result<Option<R>, Error> {
        let (lane, hash) = (self.lane()?, self.hash(key));
        self.shard(&self.storage(), hash).get(lane, hash, key, |entry| f(&entry))
    }

    /// Appends the value of a key.
    #[inline]
    pub fn read(&self, key: &[u8], to: &mut Vec<u8>) -> Result<Option<Seen>, Error> {
        self.get(key, |entry| read(entry, to))
    }

    #[inline]
    fn change<'s, R>(
        &self,
        shard: &Shard<'s, Storage<'s>>,
        deadline: Deadline,
        f: impl FnOnce(&mut Changing<'_, 's, Storage<'s>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match shard.lock(self.lane()?, deadline)? {
            Ok(mut changing) => f(&mut changing),
            Err(_) => Err(self.stalled(shard.block().lock.holder())),
        }
    }

    #[cold]
    fn stalled(&self, holder: Lane) -> Error {
        let holder = self.object.segment().lane_holder(holder).map_or("nobody".into(), |holder| holder.to_string());
        Error::new(ErrorKind::Stalled, "change dict", format!("{holder} was changing it until the time-out"))
    }

    /// Sets the value of a key if the entry that it has is as `rule` says; whether it was. The value that it had is
    /// appended to `old`.
    #[inline]
    pub fn put(
        &self,
        key: &[u8],
        value: &[u8],
        marked: bool,
        rule: Rule<'_>,
        deadline: Deadline,
        mut old: Option<&mut Vec<u8>>,
    ) -> Result<(bool, Option<Seen>), Error> {
        let hash = self.hash(key);
        if marked {
            // Before the entry can be found.
            self.header[0].marked.store(1, Relaxed);
        }
        let storage = self.storage();
        let draft = Draft::new(&storage, self.lane()?, key, value, marked)?;
        let mut carried = Vec::new();
        let done = self.change(&self.shard(&storage, hash), deadline, |changing| {
            let spot = changing.find(hash, key)?;
            let (fits, seen) = look(spot.as_ref().map(|spot| &spot.entry), rule, &mut old)?;
            if !fits {
                return Ok((false, seen));
            }
            match spot {
                Some(spot) => {
                    if seen.is_some_and(|seen| seen.marked) {
                        handles_of(&spot.entry, &mut carried)?;
                    }
                    changing.replace(spot, draft)?;
                }
                None => {
                    let number = self.header[0].next.fetch_add(1, Relaxed);
                    changing.insert(hash, draft, number, &|key| self.hash(key))?;
                }
            }
            Ok((true, seen))
        })?;
        self.uncarry(carried);
        Ok(done)
    }

    /// Takes the entry of a key out if it is as `rule` says; whether it was. The value that it had is appended to `old`.
    pub fn take(
        &self,
        key: &[u8],
        rule: Rule<'_>,
        deadline: Deadline,
        mut old: Option<&mut Vec<u8>>,
    ) -> Result<(bool, Option<Seen>, Carried), Error> {
        let hash = self.hash(key);
        let mut carried = Vec::new();
        let storage = self.storage();
        let (done, seen) = self.change(&self.shard(&storage, hash), deadline, |changing| {
            let Some(spot) = changing.find(hash, key)? else { return Ok((false, None)) };
            let (fits, seen) = look(Some(&spot.entry), rule, &mut old)?;
            if fits {
                if seen.is_some_and(|seen| seen.marked) {
                    handles_of(&spot.entry, &mut carried)?;
                }
                changing.remove(spot)?;
            }
            Ok((fits, seen))
        })?;
        Ok((done, seen, Carried(carried)))
    }

    /// Takes the entry out that was put in last. Its key is appended to `key`, its value to `value`.
    pub fn take_last(
        &self,
        deadline: Deadline,
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<Option<(Seen, Carried)>, Error> {
        let lane = self.lane()?;
        let storage = self.storage();
        let shard = |k: usize| shard_in(&storage, &self.cells[k], self.object.place(), k);
        loop {
            let mut newest: Option<(u64, usize)> = None;
            for k in (0..self.cells.len()).filter(|k| self.cells[*k].shard.len.load(Relaxed) > 0) {
                let shard = shard(k);
                let Ok(changing) = shard.lock(lane, deadline)? else {
                    return Err(self.stalled(self.cells[k].shard.lock.holder()));
                };
                if let Some(spot) = changing.last()? {
                    newest = newest.max(Some((spot.entry.number(), k)));
                }
            }
            let Some((number, k)) = newest else { return Ok(None) };
            let chosen = shard(k);
            let Ok(mut changing) = chosen.lock(lane, deadline)? else {
                return Err(self.stalled(self.cells[k].shard.lock.holder()));
            };
            let Some(spot) = changing.last()? else { continue };
            let entry = &spot.entry;
            if entry.number() != number {
                continue;
            }
            let mut carried = Vec::new();
            handles_of(entry, &mut carried)?;
            entry.read_key(key)?;
            let seen = read(entry, value)?;
            changing.remove(spot)?;
            return Ok(Some((seen, Carried(carried))));
        }
    }

    /// Takes everything out, shard by shard.
    pub fn clear(&self, deadline: Deadline) -> Result<(), Error> {
        let lane = self.lane()?;
        let mut carried = Vec::new();
        self.each_shard(|shard| {
            let Ok(mut changing) = shard.lock(lane, deadline)? else {
                return Err(self.stalled(shard.block().lock.holder()));
            };
            if self.header[0].marked.load(Relaxed) != 0 {
                changing.for_each(&mut |entry| handles_of(&entry, &mut carried))?;
            }
            changing.clear()?;
            Ok(None::<()>)
        })?;
        self.uncarry(carried);
        Ok(())
    }

    /// Every entry, oldest first: each shard as one moment saw it.
    pub fn collect<R>(&self, mut f: impl FnMut(&Entry<'_, Storage<'_>>) -> Result<R, Error>) -> Result<Vec<R>, Error> {
        let lane = self.lane()?;
        let mut all: Vec<(u64, R)> = Vec::with_capacity(self.len().min(MOST_FORESEEN));
        self.each_shard(|shard| {
            let part = std::cell::RefCell::new(Vec::with_capacity((shard.len() as usize).min(MOST_FORESEEN)));
            walk(
                shard,
                Some(lane),
                &mut |entry| {
                    let item = f(&entry)?;
                    part.borrow_mut().push((entry.number(), item));
                    Ok(())
                },
                &mut || part.borrow_mut().clear(),
            )?;
            all.append(&mut part.into_inner());
            Ok(None::<()>)
        })?;
        all.sort_unstable_by_key(|(number, _)| *number);
        Ok(all.into_iter().map(|(_, item)| item).collect())
    }

    fn uncarry(&self, handles: Vec<(ObjectId, usize)>) {
        if !handles.is_empty() {
            self.object.segment().uncarry(handles.into_iter().map(|(id, _)| id));
        }
    }

    /// Values that were taken out are decoded, so whoever wanted the objects of their handles has them.
    pub fn taken(&self, carried: Carried) {
        self.uncarry(carried.0);
    }
}

/// The handles in a value that was taken out: to be given to [`Core::taken`] when it has been decoded.
#[must_use]
pub(super) struct Carried(Vec<(ObjectId, usize)>);

#[inline]
fn read(entry: &Entry<'_, Storage<'_>>, to: &mut Vec<u8>) -> Result<Seen, Error> {
    entry.read_value(to)?;
    Ok(Seen { marked: entry.is_marked(), version: entry.version() })
}

/// Whether an entry is as `rule` says, and what there is to know of it.
#[inline]
fn look(
    entry: Option<&Entry<'_, Storage<'_>>>,
    rule: Rule<'_>,
    old: &mut Option<&mut Vec<u8>>,
) -> Result<(bool, Option<Seen>), Error> {
    let Some(entry) = entry else { return Ok((matches!(rule, Rule::Always | Rule::Absent), None)) };
    let seen = match old {
        Some(old) => read(entry, old)?,
        None => Seen { marked: entry.is_marked(), version: entry.version() },
    };
    let fits = match rule {
        Rule::Always | Rule::Present => true,
        Rule::Absent => false,
        Rule::Version(version) => seen.version == version,
        Rule::Equal(value) => entry.has_value(value)?,
    };
    Ok((fits, Some(seen)))
}

#[inline]
fn hash(key: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, seed)
}
