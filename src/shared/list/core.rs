//! A list of bytes: where it lies in its object, and what is done to it.

use std::mem::offset_of;
use std::ops::Range;

use super::super::carried::{LOOKS, open_listed, split_handles};
use super::place::resolve;
use crate::error::{Error, ErrorKind};
use crate::segment::{Arrived, KINDS, Kind, Losses, Object, Pinned, Segment, Storage, View, page_of};
use crate::store::{Editing, Element, ElementDraft, Identity, ListBlock, Sequence};
use crate::sync::{Lane, Pace, TimedOut, wait_until};
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;

/// How often a list is read without its lock before it is read with it.
const WALKS: u32 = 4;

#[linkme::distributed_slice(KINDS)]
pub(super) static LIST: Kind = Kind {
    code: 33,
    name: "list",
    least: size_of::<ListBlock>(),
    count: |view, dead| {
        let locks = u32::from(view.block::<ListBlock>(0).sequence.lock.held_by(dead));
        Ok(Losses { locks, ..Losses::default() })
    },
    recover: |view, dead| {
        view.block::<ListBlock>(0).sequence.lock.recover(dead);
        Ok(())
    },
    linked: |view, name| {
        in_view(view, |sequence| sequence.for_each_run(&mut |run| page_of(run).into_iter().for_each(&mut *name)));
        Ok(())
    },
    handles: |view, name| {
        let mut found = Vec::new();
        in_view(view, |sequence| {
            look_through(sequence, view.lane(), &mut |element| {
                if element.is_marked() {
                    let mut bytes = Vec::new();
                    element.read(&mut bytes)?;
                    found.extend(split_handles(&bytes)?.0);
                }
                Ok(())
            })
        })?;
        found.drain(..).for_each(|(id, role)| name(id, role));
        Ok(())
    },
    describe: |view| {
        in_view(view, |sequence| sequence.len(None)).map_or_else(|e| e.to_string(), |n| format!("{n} elements"))
    },
};

fn sequence_in<'a>(storage: &'a Storage<'a>, block: &'a ListBlock, place: u64) -> Sequence<'a, Storage<'a>> {
    let from = place + offset_of!(ListBlock, first) as u64;
    Sequence::new(storage, &block.sequence, &block.heap, (from, from + size_of_val(&block.first) as u64))
}

fn in_view<R>(view: &View<'_>, f: impl FnOnce(&Sequence<'_, Storage<'_>>) -> R) -> R {
    let storage = view.storage();
    f(&sequence_in(&storage, view.block(0), view.place()))
}

/// Gives `f` at least every element that is there all the time. It takes no lock: whoever gives up an object looks here,
/// and may hold any lock itself, in a process whose other threads hold others.
fn look_through(
    sequence: &Sequence<'_, Storage<'_>>,
    lane: Option<Lane>,
    f: &mut dyn FnMut(&Element<'_, Storage<'_>>) -> Result<(), Error>,
) -> Result<(), Error> {
    if sequence.block().marked.load(Relaxed) == 0 {
        return Ok(());
    }
    for _ in 0..LOOKS {
        let before = sequence.changes();
        let whole = match lane {
            Some(lane) => sequence.try_for_all(lane, f)?,
            // Nothing stays in place for who has no lane: only what did not change meanwhile is true.
            None => {
                let looked = sequence.for_each_unnamed(f);
                if before % 2 == 0 && sequence.is_at(before) {
                    return looked;
                }
                false
            }
        };
        if whole {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::Stalled, "read list", "it changes all the time"))
}

/// Opens what an element carries, before it is taken out.
pub(super) fn open_handles(
    storage: &Storage<'_>,
    element: &Element<'_, Storage<'_>>,
    arrived: &mut Arrived,
) -> Result<(), Error> {
    if element.is_marked() {
        let mut bytes = Vec::new();
        element.read(&mut bytes)?;
        open_listed(storage.segment(), &bytes, arrived)?;
    }
    Ok(())
}

/// Takes each of the elements that a change is about to take out.
pub(super) type Take<'t> = &'t mut dyn FnMut(Option<Element<'_, Storage<'_>>>) -> Result<(), Error>;

/// A list being changed.
pub(super) type Edit<'s, 'a> = Editing<'s, 'a, Storage<'a>>;

/// Elements as one moment had them, one after the other.
#[derive(Default)]
pub(super) struct Elements {
    bytes: Vec<u8>,
    /// Where each ends, and whether it is marked.
    ends: Vec<(usize, bool)>,
    /// Changes up to that moment.
    pub changes: u64,
    /// What they carry is open as long as this lives.
    _arrived: Arrived,
}

impl Elements {
    fn add(&mut self, storage: &Storage<'_>, element: &Element<'_, Storage<'_>>) -> Result<(), Error> {
        open_handles(storage, element, &mut self._arrived)?;
        element.read(&mut self.bytes)?;
        // Elements that lie in each other are damage, and could be more than there is memory.
        if self.bytes.len() as u64 / 2 > storage.segment_bytes() {
            return Err(Error::corrupt(
                "list",
                "bytes of all elements",
                self.bytes.len(),
                "at most what the segment has",
            ));
        }
        self.ends.push((self.bytes.len(), element.is_marked()));
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of each, and whether it is marked.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let begins = std::iter::once(0).chain(self.ends.iter().map(|(end, _)| *end));
        begins.zip(&self.ends).map(|(begin, (end, marked))| (&self.bytes[begin..*end], *marked))
    }
}

/// What is known of an element that was read, besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub marked: bool,
    pub identity: Identity,
}

/// A list of bytes that is open.
pub(super) struct Core {
    pub object: Object,
    block: Pinned<ListBlock>,
    pace: Pace,
}

impl Core {
    pub fn create(segment: &Segment, type_hash: u64) -> Result<Self, Error> {
        let mut made = Object::create(segment, &LIST, type_hash, size_of::<ListBlock>(), &[0], |view| {
            in_view(view, |sequence| sequence.init())
        })?;
        Self::from_object(made.pop().expect("one role, one handle"))
    }

    pub fn from_object(object: Object) -> Result<Self, Error> {
        if object.len() != size_of::<ListBlock>() {
            return Err(Error::corrupt("list", "size", object.len(), size_of::<ListBlock>()));
        }
        let block = Pinned::new(&object, 0, 1);
        Ok(Self { object, block, pace: Pace::default() })
    }

    #[inline]
    pub fn storage(&self) -> Storage<'_> {
        Storage::of(&self.object)
    }

    #[inline]
    pub fn lane(&self) -> Result<Lane, Error> {
        self.object.segment().lane()
    }

    #[inline]
    fn with<R>(&self, f: impl FnOnce(&Sequence<'_, Storage<'_>>) -> R) -> R {
        let storage = self.storage();
        f(&sequence_in(&storage, &self.block[0], self.object.place()))
    }

    /// How many elements there are.
    pub fn len(&self) -> Result<usize, Error> {
        let lane = self.lane()?;
        self.with(|sequence| Ok(sequence.len(Some(lane))? as usize))
    }

    /// Counts the changes.
    pub fn changes(&self) -> u64 {
        self.with(|sequence| sequence.changes()) / 2
    }

    /// Gives `f` an element, which stays until `f` returns. `Ok(Err(_))` says how many there are, if it is not one.
    #[inline]
    pub fn get<R>(
        &self,
        index: u64,
        f: impl FnOnce(&Element<'_, Storage<'_>>) -> Result<R, Error>,
    ) -> Result<Result<R, u64>, Error> {
        let lane = self.lane()?;
        self.with(|sequence| sequence.get(lane, index, |element| f(element)))
    }

    /// Appends the element at a place. What it carries is open until the last part of the answer is dropped. `Ok(Err(_))` says
    /// how many there are, if it is not one.
    #[inline]
    pub fn read_at(&self, place: isize, to: &mut Vec<u8>) -> Result<Result<(Seen, Arrived), usize>, Error> {
        let from = to.len();
        loop {
            let index = match place < 0 {
                true => match resolve(place, self.len()? as u64) {
                    Ok(index) => index,
                    Err(len) => return Ok(Err(len)),
                },
                false => place as u64,
            };
            let seen = self.get(index, |element| {
                element.read(to)?;
                Ok(Seen { marked: element.is_marked(), identity: element.identity() })
            })?;
            match seen {
                Ok(seen) if seen.marked => {
                    to.truncate(from);
                    if let Some(found) = self.read_marked(index, to)? {
                        return Ok(Ok(found));
                    }
                    to.truncate(from);
                }
                Ok(seen) => return Ok(Ok((seen, Arrived::default()))),
                // It may have grown since it was asked for its length.
                Err(len) if place < 0 && resolve(place, len).is_ok() => {}
                Err(len) => return Ok(Err(len as usize)),
            }
        }
    }

    /// Reads, opens what was read, and looks whether it is still there: then it was alive.
    #[cold]
    fn read_marked(&self, index: u64, to: &mut Vec<u8>) -> Result<Option<(Seen, Arrived)>, Error> {
        let (storage, mut arrived) = (self.storage(), Arrived::default());
        let seen = self.get(index, |element| {
            open_handles(&storage, element, &mut arrived)?;
            element.read(to)?;
            Ok(Seen { marked: element.is_marked(), identity: element.identity() })
        })?;
        let now = self.get(index, |element| Ok(element.identity()))?;
        Ok(seen.ok().filter(|seen| now == Ok(seen.identity)).map(|seen| (seen, arrived)))
    }

    /// The elements of a range, as one moment had them.
    pub fn read(&self, deadline: Deadline, range: &dyn Fn(u64) -> Range<u64>) -> Result<Elements, Error> {
        let (lane, storage) = (self.lane()?, self.storage());
        for _ in 0..WALKS {
            let mut found = Elements::default();
            let read =
                self.with(|sequence| sequence.try_for_each(lane, range, &mut |element| found.add(&storage, element)))?;
            if let Some(changes) = read {
                found.changes = changes;
                return Ok(found);
            }
        }
        // Others change it all the time.
        let mut found = Elements::default();
        self.edit(deadline, |editing| {
            for index in range(editing.len()?) {
                editing.element(index)?.iter().try_for_each(|element| found.add(&storage, element))?;
            }
            found.changes = editing.changes();
            Ok(())
        })?;
        Ok(found)
    }

    /// Runs `f` with the list locked.
    #[inline]
    pub fn edit<R>(
        &self,
        deadline: Deadline,
        f: impl FnOnce(&mut Edit<'_, '_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let lane = self.lane()?;
        self.with(|sequence| match sequence.lock(lane, deadline)? {
            Ok(mut editing) => f(&mut editing),
            Err(TimedOut) => Err(self.stalled(sequence.block().lock.holder())),
        })
    }

    #[cold]
    fn stalled(&self, holder: Lane) -> Error {
        let holder = self.object.segment().lane_holder(holder).map_or("nobody".into(), |holder| holder.to_string());
        Error::new(ErrorKind::Stalled, "change list", format!("{holder} was changing it until the time-out"))
    }

    /// As [`edit`](Self::edit), for a change that takes out the elements that `doomed` names. What they carry stays open until
    /// what comes with the result is dropped.
    #[inline]
    pub fn take_out<R>(
        &self,
        deadline: Deadline,
        doomed: impl FnOnce(&Edit<'_, '_>, Take<'_>) -> Result<(), Error>,
        f: impl FnOnce(&mut Edit<'_, '_>) -> Result<R, Error>,
    ) -> Result<(R, Arrived), Error> {
        let mut arrived = Arrived::default();
        let done = self.edit(deadline, |editing| {
            if self.is_marked() {
                let storage = self.storage();
                doomed(editing, &mut |element| {
                    element.iter().try_for_each(|element| open_handles(&storage, element, &mut arrived))
                })?;
            }
            f(editing)
        })?;
        Ok((done, arrived))
    }

    /// Whether a handle was ever put in.
    #[inline]
    pub fn is_marked(&self) -> bool {
        self.block[0].sequence.marked.load(Relaxed) != 0
    }

    /// Notes that elements with handles are put in: before they can be found.
    pub fn mark(&self) {
        self.block[0].sequence.marked.store(1, Relaxed);
    }

    /// Puts an element behind all others.
    #[inline]
    pub fn push(&self, bytes: &[u8], marked: bool, deadline: Deadline) -> Result<(), Error> {
        if marked {
            self.mark();
        }
        let storage = self.storage();
        let draft = ElementDraft::new(&storage, self.lane()?, bytes, marked)?;
        self.edit(deadline, |editing| editing.push_back(draft))
    }

    /// Puts an element in place of that at `place`, if it still is the one that `expected` names. `Ok(Err(_))` says how many
    /// there are, if there is none at that place.
    #[inline]
    pub fn set(
        &self,
        place: isize,
        bytes: &[u8],
        marked: bool,
        expected: Option<Identity>,
        deadline: Deadline,
    ) -> Result<Result<bool, usize>, Error> {
        if marked {
            self.mark();
        }
        let storage = self.storage();
        let draft = ElementDraft::new(&storage, self.lane()?, bytes, marked)?;
        let at = |editing: &Edit<'_, '_>| editing.len().map(|len| resolve(place, len));
        let doomed = |editing: &Edit<'_, '_>, take: Take<'_>| match at(editing)? {
            Ok(index) => take(editing.element(index)?),
            Err(_) => Ok(()),
        };
        let (done, _arrived) = self.take_out(deadline, doomed, |editing| {
            let index = match at(editing)? {
                Ok(index) => index,
                Err(len) => return Ok(Err(len)),
            };
            if expected.is_some() && editing.element(index)?.map(|element| element.identity()) != expected {
                return Ok(Ok(false));
            }
            editing.set(index, draft).map(Ok)
        })?;
        Ok(done)
    }

    /// Waits until the list has changed since it had changed `since` times; how often it has now. `None` if the deadline
    /// came first.
    pub fn wait_changed(&self, since: u64, deadline: Deadline) -> Result<Option<u64>, Error> {
        let now = || Some(self.changes()).filter(|now| *now != since).map(Ok);
        if let Some(now) = now() {
            return now.map(Some);
        }
        let lane = self.lane()?;
        let segment = self.object.segment();
        let block = &self.block[0].sequence;
        let bury = || {
            // Whoever died with the lock may have changed it and told nobody: then locking it does.
            block.lock.question(segment);
            let died = block.lock.look().1 == crate::sync::Locked::OwnerDied;
            let locked = if died { self.with(|sequence| sequence.try_lock(lane).map(drop)) } else { Ok(()) };
            match locked {
                Ok(()) => now(),
                Err(e) => Some(Err(e)),
            }
        };
        match wait_until(&block.wait, &self.pace, segment, None, deadline, now, bury) {
            Ok(now) => now.map(Some),
            Err(TimedOut) => Ok(None),
        }
    }
}
