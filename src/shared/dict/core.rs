//! A dictionary of bytes that is open: entries are read, put and taken one by one.

use super::kind::{CELLS_AT, DICT, MAX_SHARDS, bytes_for, each_shard, open_handles, shard_in, shards_in};
use crate::error::{Error, ErrorKind};
use crate::segment::{Arrived, Object, Pinned, Segment, Storage};
use crate::store::{CellBlock, Changing, DictBlock, Draft, Entry, Shard};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;
use crate::sys::memfd::random_id;

/// Which entry a change is meant for.
#[derive(Clone, Copy, Debug)]
pub(in crate::shared) enum Rule<'r> {
    /// Any, or none.
    Always,
    /// None.
    Absent,
    /// The one of this version.
    Version(u64),
    /// One with this value.
    Equal(&'r [u8]),
}

/// A value that was read: its bytes (behind those that were in the buffer), and what else is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::shared) struct Seen {
    pub marked: bool,
    pub version: u64,
}

/// A dictionary of bytes that is open.
pub(in crate::shared) struct Core {
    pub object: Object,
    pub(super) header: Pinned<DictBlock>,
    pub(super) cells: Pinned<CellBlock>,
    seed: u64,
}

impl Core {
    pub fn create(segment: &Segment, type_hash: u64, shards: usize) -> Result<Self, Error> {
        let shards = shards.clamp(1, MAX_SHARDS).next_power_of_two();
        let random = random_id().map_err(|e| Error::os("create dict", e))?;
        let seed = u64::from_ne_bytes(random[..8].try_into().expect("half of sixteen bytes"));
        let mut made = Object::create(segment, &DICT, type_hash, bytes_for(shards), &[0], |view| {
            let header = view.block::<DictBlock>(0);
            header.shards.store(shards as u64, Relaxed);
            header.seed.store(seed, Relaxed);
            header.check.store(hash(&[], seed), Relaxed);
            each_shard(view, &mut |shard| shard.init())
        })?;
        Self::from_object(made.pop().expect("one role, one handle"))
    }

    /// An empty one with as many shards, in the same segment.
    pub fn create_beside(other: &Self, type_hash: u64) -> Result<Self, Error> {
        Self::create(&other.object.segment_handle(), type_hash, other.cells.len())
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
    pub(super) fn storage(&self) -> Storage<'_> {
        Storage::of(&self.object)
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        hash(key, self.seed)
    }

    #[inline]
    pub(super) fn shard<'s>(&'s self, storage: &'s Storage<'s>, hash: u64) -> Shard<'s, Storage<'s>> {
        let k = ((hash >> 56) as usize * self.cells.len()) >> 8;
        shard_in(storage, &self.cells[k], self.object.place(), k)
    }

    /// All shards.
    pub(super) fn shards<'s>(&'s self, storage: &'s Storage<'s>) -> impl Iterator<Item = Shard<'s, Storage<'s>>> {
        let place = self.object.place();
        self.cells.iter().enumerate().map(move |(k, cell)| shard_in(storage, cell, place, k))
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

    /// Gives `f` the entry of a key, which stays until `f` returns. `f` reads no other.
    #[inline]
    pub fn get<R>(
        &self,
        key: &[u8],
        f: impl FnOnce(&Entry<'_, Storage<'_>>) -> Result<R, Error>,
    ) -> Result<Option<R>, Error> {
        let (lane, hash) = (self.lane()?, self.hash(key));
        self.shard(&self.storage(), hash).get(lane, hash, key, |entry| f(&entry))
    }

    /// The version of a key's entry.
    pub fn version(&self, key: &[u8]) -> Result<Option<u64>, Error> {
        self.get(key, |entry| Ok(entry.version()))
    }

    /// Appends the value of a key. Its handles are open until the second part of the answer is dropped.
    #[inline]
    pub fn read(&self, key: &[u8], to: &mut Vec<u8>) -> Result<Option<(Seen, Arrived)>, Error> {
        let from = to.len();
        match self.get(key, |entry| read(entry, to))? {
            Some(seen) if seen.marked => self.read_marked(key, to, from),
            seen => Ok(seen.map(|seen| (seen, Arrived::default()))),
        }
    }

    /// Reads again, until the entry is still there when what it carries has been opened: then it was alive.
    #[cold]
    fn read_marked(&self, key: &[u8], to: &mut Vec<u8>, from: usize) -> Result<Option<(Seen, Arrived)>, Error> {
        let storage = self.storage();
        loop {
            to.truncate(from);
            let mut arrived = Arrived::default();
            let seen = self.get(key, |entry| {
                open_handles(&storage, entry, &mut arrived)?;
                read(entry, to)
            })?;
            let Some(seen) = seen else {
                to.truncate(from);
                return Ok(None);
            };
            if !seen.marked || self.version(key)? == Some(seen.version) {
                return Ok(Some((seen, arrived)));
            }
        }
    }

    /// Locks a shard.
    #[inline]
    pub(super) fn lock<'s, 'a>(
        &self,
        shard: &'s Shard<'a, Storage<'a>>,
        lane: Lane,
        deadline: Deadline,
    ) -> Result<Changing<'s, 'a, Storage<'a>>, Error> {
        shard.lock(lane, deadline)?.map_err(|_| self.stalled(shard.block().lock.holder()))
    }

    #[cold]
    fn stalled(&self, holder: Lane) -> Error {
        let holder = self.object.segment().lane_holder(holder).map_or("nobody".into(), |holder| holder.to_string());
        Error::new(ErrorKind::Stalled, "change dict", format!("{holder} was changing it until the time-out"))
    }

    /// Sets the value of a key if the entry that it has is as `rule` says. The value that it had is appended to `old`.
    #[inline]
    pub fn put(
        &self,
        key: &[u8],
        value: &[u8],
        marked: bool,
        rule: Rule<'_>,
        deadline: Deadline,
        mut old: Option<&mut Vec<u8>>,
    ) -> Result<Change, Error> {
        let (hash, lane) = (self.hash(key), self.lane()?);
        if marked {
            // Before the entry can be found.
            self.header[0].marked.store(1, Relaxed);
        }
        let storage = self.storage();
        let draft = Draft::new(&storage, lane, key, value, marked)?;
        let shard = self.shard(&storage, hash);
        // Before the lock, so that what it carries is never given up under it, whatever fails.
        let mut arrived = Arrived::default();
        let mut changing = self.lock(&shard, lane, deadline)?;
        let spot = changing.find(hash, key)?;
        let change = Change::begin(spot.as_ref().map(|spot| &spot.entry), rule, &mut old)?;
        if !change.done {
            return Ok(change);
        }
        match spot {
            Some(spot) => {
                open_handles(&storage, &spot.entry, &mut arrived)?;
                changing.replace(spot, draft)?;
            }
            None => {
                let number = self.header[0].next.fetch_add(1, Relaxed);
                changing.insert(hash, draft, number, &|key| self.hash(key))?;
            }
        }
        drop(changing);
        Ok(Change { _arrived: arrived, ..change })
    }

    /// Takes the entry of a key out if it is as `rule` says. The value that it had is appended to `old`.
    pub fn take(
        &self,
        key: &[u8],
        rule: Rule<'_>,
        deadline: Deadline,
        mut old: Option<&mut Vec<u8>>,
    ) -> Result<Change, Error> {
        let (hash, lane) = (self.hash(key), self.lane()?);
        let storage = self.storage();
        let shard = self.shard(&storage, hash);
        // Before the lock: as in `put`.
        let mut arrived = Arrived::default();
        let mut changing = self.lock(&shard, lane, deadline)?;
        let Some(spot) = changing.find(hash, key)? else { return Ok(Change::default()) };
        let change = Change::begin(Some(&spot.entry), rule, &mut old)?;
        if change.done {
            open_handles(&storage, &spot.entry, &mut arrived)?;
            changing.remove(spot)?;
        }
        drop(changing);
        Ok(Change { _arrived: arrived, ..change })
    }
}

/// What became of a change.
#[derive(Default)]
#[must_use]
pub(in crate::shared) struct Change {
    /// Whether it was made: the entry was as the rule said.
    pub done: bool,
    /// The entry that there was.
    pub old: Option<Seen>,
    /// What that carried is open until this is dropped, after decoding.
    _arrived: Arrived,
}

impl Change {
    /// Whether an entry is as `rule` says, and what there is to know of it.
    #[inline]
    fn begin(
        entry: Option<&Entry<'_, Storage<'_>>>,
        rule: Rule<'_>,
        old: &mut Option<&mut Vec<u8>>,
    ) -> Result<Self, Error> {
        let Some(entry) = entry else {
            return Ok(Self { done: matches!(rule, Rule::Always | Rule::Absent), ..Self::default() });
        };
        let seen = match old {
            Some(old) => read(entry, old)?,
            None => Seen { marked: entry.is_marked(), version: entry.version() },
        };
        let done = match rule {
            Rule::Always => true,
            Rule::Absent => false,
            Rule::Version(version) => seen.version == version,
            Rule::Equal(value) => entry.has_value(value)?,
        };
        Ok(Self { done, old: Some(seen), _arrived: Arrived::default() })
    }
}

#[inline]
pub(super) fn read(entry: &Entry<'_, Storage<'_>>, to: &mut Vec<u8>) -> Result<Seen, Error> {
    entry.read_value(to)?;
    Ok(Seen { marked: entry.is_marked(), version: entry.version() })
}

#[inline]
fn hash(key: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, seed)
}
