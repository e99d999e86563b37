//! What concerns all shards of a dictionary: everything that is in it, the newest entry, nothing at all.

use super::core::{Core, Seen, read};
use super::kind::open_handles;
use crate::error::Error;
use crate::segment::{Arrived, Storage};
use crate::store::{Changing, Entry, Shard};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;

/// How often something is tried without a lock, or with one at a time, before it is done with more.
const TRIES: u32 = 4;

/// What [`Core::items`] reads of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shared) enum Part {
    /// The key.
    Keys,
    /// The key and the value.
    All,
}

/// Entries that were read, oldest first. What their values carry is open as long as this lives.
#[derive(Default)]
pub(in crate::shared) struct Items {
    bytes: Vec<u8>,
    items: Vec<Item>,
    _arrived: Arrived,
}

/// Where an entry that was read is in the bytes.
struct Item {
    number: u64,
    seen: Seen,
    key_at: usize,
    value_at: usize,
    end: usize,
}

impl Items {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The key of one, its value, and what else was seen.
    pub fn get(&self, k: usize) -> (&[u8], &[u8], Seen) {
        let item = &self.items[k];
        (&self.bytes[item.key_at..item.value_at], &self.bytes[item.value_at..item.end], item.seen)
    }

    /// All, as [`get`](Self::get) gives them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8], Seen)> {
        (0..self.len()).map(|k| self.get(k))
    }

    fn add(&mut self, storage: &Storage<'_>, entry: &Entry<'_, Storage<'_>>, part: Part) -> Result<(), Error> {
        let key_at = self.bytes.len();
        entry.read_key(&mut self.bytes)?;
        let value_at = self.bytes.len();
        let seen = match part {
            Part::Keys => Seen { marked: false, version: entry.version() },
            Part::All => {
                open_handles(storage, entry, &mut self._arrived)?;
                read(entry, &mut self.bytes)?
            }
        };
        let end = self.bytes.len();
        // Entries that lie in each other are damage, and could be more than there is memory.
        if end as u64 / 2 > storage.segment_bytes() {
            return Err(Error::corrupt("dict", "bytes of all entries", end, "at most what the segment has"));
        }
        self.items.push(Item { number: entry.number(), seen, key_at, value_at, end });
        Ok(())
    }

    fn cut(&mut self, len: usize) {
        self.items.truncate(len);
        self.bytes.truncate(self.items.last().map_or(0, |item| item.end));
    }

    fn sort(&mut self) {
        self.items.sort_unstable_by_key(|item| item.number);
    }
}

impl Core {
    /// Gives `f` all shards, locked: the one place where a process holds several locks. Whoever locks them all does it in
    /// the order of their numbers, and whoever holds one waits for no other: so nobody waits in a circle. If the holder dies,
    /// all of them are freed at once.
    fn lock_all<R>(
        &self,
        deadline: Deadline,
        f: impl FnOnce(&Storage<'_>, &mut [Changing<'_, '_, Storage<'_>>]) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let (lane, storage) = (self.lane()?, self.storage());
        let shards: Vec<_> = self.shards(&storage).collect();
        let mut locked = Vec::with_capacity(shards.len());
        for shard in &shards {
            locked.push(self.lock(shard, lane, deadline)?);
        }
        f(&storage, &mut locked)
    }

    /// Every entry: each shard as one moment saw it.
    pub fn items(&self, part: Part, deadline: Deadline) -> Result<Items, Error> {
        let (lane, storage) = (self.lane()?, self.storage());
        let mut items = Items::default();
        for shard in self.shards(&storage) {
            self.add_shard(&mut items, &storage, &shard, lane, part, deadline)?;
        }
        items.sort();
        Ok(items)
    }

    fn add_shard(
        &self,
        items: &mut Items,
        storage: &Storage<'_>,
        shard: &Shard<'_, Storage<'_>>,
        lane: Lane,
        part: Part,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let len = items.len();
        for _ in 0..TRIES {
            let before = shard.changes();
            if before % 2 == 0
                && shard.try_for_each(lane, &mut |entry| items.add(storage, &entry, part))?
                && shard.is_at(before)
            {
                return Ok(());
            }
            items.cut(len);
        }
        let changing = self.lock(shard, lane, deadline)?;
        changing.for_each(&mut |entry| items.add(storage, &entry, part))
    }

    /// Every entry, as one moment saw them all.
    pub fn snapshot(&self, deadline: Deadline) -> Result<Items, Error> {
        let (lane, storage) = (self.lane()?, self.storage());
        for _ in 0..TRIES {
            let before: Vec<u64> = self.shards(&storage).map(|shard| shard.changes()).collect();
            let mut items = Items::default();
            let mut whole = before.iter().all(|changes| changes % 2 == 0);
            for shard in self.shards(&storage) {
                whole = whole && shard.try_for_each(lane, &mut |entry| items.add(&storage, &entry, Part::All))?;
            }
            if whole && self.shards(&storage).zip(&before).all(|(shard, before)| shard.is_at(*before)) {
                items.sort();
                return Ok(items);
            }
        }
        // Out here, so that what they carry is never given up under the locks, whatever fails.
        let mut items = Items::default();
        self.lock_all(deadline, |storage, locked| {
            for changing in locked {
                changing.for_each(&mut |entry| items.add(storage, &entry, Part::All))?;
            }
            Ok(())
        })?;
        items.sort();
        Ok(items)
    }

    /// Takes the entry out that was put in last: there is none newer at that moment.
    pub fn take_last(&self, deadline: Deadline) -> Result<Option<Items>, Error> {
        for _ in 0..TRIES {
            let (lane, storage) = (self.lane()?, self.storage());
            // Whoever has a smaller number holds the lock of its shard until its entry is in.
            let next = self.header[0].next.load(Relaxed);
            let mut newest: Option<(u64, usize)> = None;
            for (k, shard) in self.shards(&storage).enumerate() {
                if let Some(spot) = self.lock(&shard, lane, deadline)?.last()? {
                    newest = newest.max(Some((spot.entry.number(), k)));
                }
            }
            let chosen = newest.and_then(|(number, k)| Some((number, self.shards(&storage).nth(k)?)));
            let Some((number, shard)) = chosen else {
                if self.header[0].next.load(Relaxed) == next {
                    return Ok(None);
                }
                continue;
            };
            // Before the lock: as in `snapshot`.
            let mut taken = Items::default();
            let mut changing = self.lock(&shard, lane, deadline)?;
            if let Some(spot) = changing.last()? {
                if spot.entry.number() == number && self.header[0].next.load(Relaxed) == next {
                    taken.add(&storage, &spot.entry, Part::All)?;
                    changing.remove(spot)?;
                    drop(changing);
                    return Ok(Some(taken));
                }
            }
        }
        let mut taken = Items::default();
        let found = self.lock_all(deadline, |storage, locked| {
            let mut newest: Option<(u64, usize)> = None;
            for (k, changing) in locked.iter().enumerate() {
                if let Some(spot) = changing.last()? {
                    newest = newest.max(Some((spot.entry.number(), k)));
                }
            }
            let Some((_, k)) = newest else { return Ok(false) };
            let Some(spot) = locked[k].last()? else { return Ok(false) };
            taken.add(storage, &spot.entry, Part::All)?;
            locked[k].remove(spot)?;
            Ok(true)
        })?;
        Ok(found.then_some(taken))
    }

    /// Takes everything out, shard by shard.
    pub fn clear(&self, deadline: Deadline) -> Result<(), Error> {
        let (lane, storage) = (self.lane()?, self.storage());
        let mut arrived = Arrived::default();
        for shard in self.shards(&storage) {
            let mut changing = self.lock(&shard, lane, deadline)?;
            if self.header[0].marked.load(Relaxed) != 0 {
                changing.for_each(&mut |entry| open_handles(&storage, &entry, &mut arrived))?;
            }
            changing.clear()?;
        }
        Ok(())
    }
}
