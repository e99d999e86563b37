//! Handles of objects: one count for a process, one bit for everybody else, and how handles travel.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::directory::{ObjectId, Standing};
use super::layout::{Block, LANE_GENERATION, ObjectBlock, fnv1a};
use super::recover::{Kind, Losses, kind};
use super::shm::ShmSlice;
use super::{Inner, Segment, Storage};
use crate::error::Error;
use crate::sync::{IsDead, Lane};
use crate::sys::atomic::Ordering::{Acquire, Relaxed};
use crate::sys::atomic::{AtomicU32, AtomicU64};

/// An object's memory, for the code of its kind.
#[derive(Clone, Copy)]
pub struct View<'a> {
    segment: &'a Inner,
    /// No object's while it is made.
    id: ObjectId,
    offset: usize,
    bytes: usize,
}

impl<'a> View<'a> {
    /// Bytes of the object's memory.
    #[allow(clippy::len_without_is_empty, reason = "no object is empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The memory of the object and of its runs, as a store sees it.
    pub fn storage(&self) -> Storage<'a> {
        Storage::new(self.segment, self.id)
    }

    /// Where the object's memory begins in the segment.
    pub fn place(&self) -> u64 {
        self.offset as u64
    }

    /// A lane of the calling thread, if it can have one.
    pub fn lane(&self) -> Option<Lane> {
        self.segment.lane().ok()
    }

    /// The block at `offset` of the object.
    ///
    /// # Panics
    /// If it does not lie inside, aligned: kinds compute their offsets from validated sizes.
    #[inline]
    pub fn block<T: Block>(&self, offset: usize) -> &'a T {
        assert!(offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.bytes), "block beyond the object");
        self.segment.block(self.offset + offset)
    }

    /// `count` blocks from `offset`.
    ///
    /// # Panics
    /// As [`block`](Self::block).
    pub fn blocks<T: Block>(&self, offset: usize, count: usize) -> &'a [T] {
        let bytes = count.checked_mul(size_of::<T>());
        assert!(
            bytes.and_then(|b| offset.checked_add(b)).is_some_and(|end| end <= self.bytes),
            "blocks beyond the object"
        );
        self.segment.blocks(self.offset + offset, count)
    }

    /// The bytes from `offset`.
    ///
    /// # Panics
    /// If they do not lie inside.
    #[inline]
    pub fn slice(&self, offset: usize, bytes: usize) -> ShmSlice<'a> {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes), "slice beyond the object");
        self.segment.slice(self.offset + offset, bytes)
    }

    /// The memory of the run that the contents name, if there is one.
    pub fn run(&self, page: u32, generation: u32) -> Option<ShmSlice<'a>> {
        self.segment.run_at(page, generation).map(|run| self.segment.run_slice(run))
    }
}

impl Inner {
    /// The memory of an object that somebody keeps in place.
    pub(crate) fn view(&self, id: ObjectId) -> Option<(&'static Kind, View<'_>)> {
        let kind = kind(self.entry(id.index).kind.load(Relaxed))?;
        let (offset, bytes) = self.entry_memory(id).ok()?;
        if bytes < kind.least {
            return None;
        }
        Some((kind, View { segment: self, id, offset, bytes }))
    }
}

/// A number for a Rust type, the same in every process of the same program.
pub(crate) fn type_hash<T: 'static>() -> u64 {
    fnv1a(std::any::type_name::<T>().as_bytes())
}

/// One object in one role, open in this process. The last one to be dropped gives it up.
pub(crate) struct Opened {
    segment: Arc<Inner>,
    id: ObjectId,
    role: usize,
    kind: &'static Kind,
    type_hash: u64,
    offset: usize,
    bytes: usize,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let key = (self.id, self.role);
        let mut table = self.segment.opened();
        // Another thread may have opened it anew since our count fell to zero; then the bit is theirs.
        if table.handles.get(&key).is_some_and(|other| other.strong_count() == 0) {
            table.handles.remove(&key);
            if !table.arriving.contains_key(&key) {
                self.segment.give_up(&table, self.id, self.role);
            }
        }
    }
}

/// The objects of one segment that are open in this process.
#[derive(Default)]
pub(crate) struct OpenedTable {
    pub(super) handles: HashMap<(ObjectId, usize), Weak<Opened>>,
    /// Handles in messages that were taken and are not decoded yet, how often each.
    pub(super) arriving: HashMap<(ObjectId, usize), u32>,
}

/// A handle of an object: cheap to clone, usable by all threads.
#[derive(Clone)]
pub(crate) struct Object(Arc<Opened>);

impl Object {
    /// Makes an object of `bytes` zeroed bytes; `init` fills it before anybody can see it. Handles for `roles` come back.
    pub fn create(
        segment: &Segment,
        kind: &'static Kind,
        type_hash: u64,
        bytes: usize,
        roles: &[usize],
        init: impl Fn(&View<'_>) -> Result<(), Error>,
    ) -> Result<Vec<Self>, Error> {
        let inner = segment.inner();
        let lane = inner.lane()?;
        let unborn = ObjectId { index: u32::MAX, generation: 0 };
        let mut view_init = |offset: usize| init(&View { segment: inner, id: unborn, offset, bytes });
        let id = inner.create_entry(lane, kind, type_hash, bytes, roles, &mut view_init)?;
        let (offset, _) = inner.entry_memory(id)?;
        let mut table = inner.opened();
        Ok(roles
            .iter()
            .map(|role| {
                let segment = inner.clone();
                let opened = Arc::new(Opened { segment, id, role: *role, kind, type_hash, offset, bytes });
                table.handles.insert((id, *role), Arc::downgrade(&opened));
                Self(opened)
            })
            .collect())
    }

    /// Opens an object that exists, as `kind` of `type_hash`.
    pub fn open(
        segment: &Segment,
        id: ObjectId,
        role: usize,
        kind: &'static Kind,
        type_hash: u64,
    ) -> Result<Self, Error> {
        let inner = segment.inner();
        inner.lane()?;
        let mut table = inner.opened();
        if let Some(opened) = table.handles.get(&(id, role)).and_then(Weak::upgrade) {
            if (opened.kind.code, opened.type_hash) == (kind.code, type_hash) {
                return Ok(Self(opened));
            }
        }
        inner.open_entry(id, role, kind, type_hash)?;
        let (offset, bytes) = inner.entry_memory(id)?;
        let opened = Arc::new(Opened { segment: inner.clone(), id, role, kind, type_hash, offset, bytes });
        table.handles.insert((id, role), Arc::downgrade(&opened));
        Ok(Self(opened))
    }

    pub fn id(&self) -> ObjectId {
        self.0.id
    }

    /// What it was opened as.
    pub fn kind(&self) -> &'static Kind {
        self.0.kind
    }

    /// A handle of the same object in `role`.
    pub fn in_role(&self, role: usize) -> Result<Self, Error> {
        let Opened { id, kind, type_hash, .. } = &*self.0;
        Self::open(&self.segment_handle(), *id, role, kind, *type_hash)
    }

    /// The segment that it is in.
    pub fn segment_handle(&self) -> Segment {
        Segment(self.0.segment.clone())
    }

    pub fn role(&self) -> usize {
        self.0.role
    }

    #[inline]
    pub fn segment(&self) -> &Inner {
        &self.0.segment
    }

    #[inline]
    pub fn view(&self) -> View<'_> {
        let Opened { segment, id, offset, bytes, .. } = &*self.0;
        View { segment, id: *id, offset: *offset, bytes: *bytes }
    }

    /// The directory entry.
    #[inline]
    pub fn entry(&self) -> &ObjectBlock {
        self.0.segment.entry(self.0.id.index)
    }

    /// Bytes of its memory.
    pub fn len(&self) -> usize {
        self.0.bytes
    }

    /// Where its memory begins in the segment.
    pub fn place(&self) -> u64 {
        self.0.offset as u64
    }

    /// The 32-bit word at `offset`.
    pub fn word32(&self, offset: usize) -> &AtomicU32 {
        self.view().block(offset)
    }

    /// The 64-bit word at `offset`.
    pub fn word64(&self, offset: usize) -> &AtomicU64 {
        self.view().block(offset)
    }

    /// `bytes` bytes from `offset`.
    pub fn bytes(&self, offset: usize, bytes: usize) -> ShmSlice<'_> {
        self.view().slice(offset, bytes)
    }

    /// Opens the object for another process's row, in this handle's role.
    pub fn open_for(&self, row: u32) {
        self.0.segment.set_bit(self.0.id.index, self.0.role, row);
    }

    /// Rows of other processes that have the object open in `role`.
    pub fn other_rows(&self, role: usize) -> impl Iterator<Item = u32> + use<> {
        let me = self.0.segment.row();
        self.0.segment.opener_rows(self.0.id.index, role).filter(move |row| *row != me)
    }

    /// Whether anybody, this process included, has the object open in `role`, or a message carries such a handle.
    #[inline]
    pub fn is_open(&self, role: usize) -> bool {
        self.entry().openers[role].iter().any(|w| w.load(Acquire) != 0) || self.0.segment.is_open(self.0.id, role)
    }

    /// Whether another process has the object open in `role`, or a message carries such a handle.
    pub fn has_others(&self, role: usize) -> bool {
        let others = || self.other_rows(role).next().is_some();
        others() || self.0.segment.is_carried(self.0.id, role) || others()
    }

    /// Recovers every other process that has the object open and is dead. True if there was one.
    pub fn bury_openers(&self) -> bool {
        let segment = &self.0.segment;
        let mut any = false;
        for role in 0..2 {
            for row in self.other_rows(role) {
                any |= segment.is_dead(row) && segment.recover_row(row);
            }
        }
        any
    }
}

impl Inner {
    /// Closes an object of which this process has no handle in `role` any more, unless the process has claims in it that
    /// nobody can end: of a guard that was leaked. Then it stays open until the process ends, and is recovered with it.
    pub(super) fn give_up(&self, table: &OpenedTable, id: ObjectId, role: usize) {
        if self.epoch() == 0 {
            // In a forked child that has not used the segment: it is the parent that has the object open.
            return;
        }
        let has = |role: usize| {
            let handle = table.handles.get(&(id, role));
            handle.is_some_and(|handle| handle.strong_count() > 0) || table.arriving.contains_key(&(id, role))
        };
        // Another handle may be in use, so that claims are nothing odd; the last one sees to it.
        if (0..2).any(has) || !self.has_claims(id) {
            self.close_entry(id, role);
        }
    }

    /// Whether words of the object name lanes of this process.
    fn has_claims(&self, id: ObjectId) -> bool {
        let owner = (self.row(), self.row_state(self.row()).generation() & LANE_GENERATION);
        self.names_lane(id, &|lane| self.lane_owner(lane) == Some(owner))
    }

    /// Whether words of any object that this process has open name the lane.
    pub(super) fn has_claims_of(&self, lane: Lane) -> bool {
        let row = self.row();
        (0..self.object_count())
            .filter(|index| (0..2).any(|role| self.has_bit(*index, role, row)))
            .any(|index| self.names_lane(self.standing(index).0, &|named| named == lane))
    }

    fn names_lane(&self, id: ObjectId, is_it: IsDead<'_>) -> bool {
        let Some((kind, view)) = self.view(id) else { return false };
        (kind.count)(&view, is_it).is_ok_and(|claims| claims != Losses::default())
    }

    /// After a raw fork: everything that this process inherited is open in its new row too.
    pub(crate) fn reopen_objects(&self, row: u32) {
        for ((id, role), opened) in self.opened().handles.iter() {
            if opened.strong_count() > 0 && matches!(self.standing(id.index), (now, Standing::Live) if now == *id) {
                self.set_bit(id.index, *role, row);
            }
        }
    }
}
