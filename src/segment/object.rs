//! Handles of objects: one count for a process, one bit for everybody else, and how handles travel.
//!
//! A handle inside a message is named by the message's record, and that keeps its object alive (see `directory.rs`); the
//! taker opens it before the record is acknowledged, and decodes it afterwards ([`Arrived`]). A handle among the arguments of a child is opened for the child's row while the parent encodes it, so it
//! cannot be lost whoever dies.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::directory::{ObjectId, Standing};
use super::layout::{Block, ObjectBlock, fnv1a};
use super::recover::{Kind, kind};
use super::shm::ShmSlice;
use super::{Inner, Segment};
use crate::error::Error;
use crate::ring::{self, Ring, RingBlock};
use crate::sync::WaitBlock;
use crate::sys::atomic::Ordering::{Acquire, Relaxed};
use crate::sys::atomic::{AtomicU32, AtomicU64};

/// An object's memory, for the code of its kind.
#[derive(Clone, Copy)]
pub struct View<'a> {
    segment: &'a Inner,
    offset: usize,
    bytes: usize,
}

impl<'a> View<'a> {
    /// Bytes of the object's memory.
    #[allow(clippy::len_without_is_empty, reason = "no object is empty")]
    pub fn len(&self) -> usize {
        self.bytes
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
}

impl Inner {
    /// The memory of an object that somebody keeps in place.
    pub(crate) fn view(&self, id: ObjectId) -> Option<(&'static Kind, View<'_>)> {
        let kind = kind(self.entry(id.index).kind.load(Relaxed))?;
        let (offset, bytes) = self.entry_memory(id).ok()?;
        Some((kind, View { segment: self, offset, bytes }))
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
                self.segment.close_entry(self.id, self.role);
            }
        }
    }
}

/// The objects of one segment that are open in this process.
#[derive(Default)]
pub(crate) struct OpenedTable {
    handles: HashMap<(ObjectId, usize), Weak<Opened>>,
    /// Handles in messages that were taken and are not decoded yet, how often each.
    arriving: HashMap<(ObjectId, usize), u32>,
}

/// Handles in a message that this process has taken: their objects are kept open until this is dropped, after decoding.
#[derive(Default)]
pub(crate) struct Arrived(Vec<(Arc<Inner>, ObjectId, usize)>);

impl Arrived {
    /// Opens what a record names, before the record is acknowledged. What is not there any more is left out.
    pub fn open(&mut self, segment: &Inner, id: ObjectId, role: usize) {
        let Some(segment) = segment.this.upgrade() else { return };
        if id.index >= segment.object_count() || role > 1 {
            return;
        }
        let mut table = segment.opened();
        if !matches!(segment.standing(id.index), (now, Standing::Live) if now == id) {
            return;
        }
        *table.arriving.entry((id, role)).or_default() += 1;
        segment.set_bit(id.index, role, segment.row());
        drop(table);
        self.0.push((segment, id, role));
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        for (segment, id, role) in self.0.drain(..) {
            let key = (id, role);
            let mut table = segment.opened();
            let Some(left) = table.arriving.get_mut(&key) else { continue };
            *left -= 1;
            if *left == 0 {
                table.arriving.remove(&key);
                if table.handles.get(&key).is_none_or(|handle| handle.strong_count() == 0) {
                    segment.close_entry(id, role);
                }
            }
        }
    }
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
        let mut view_init = |offset: usize| init(&View { segment: inner, offset, bytes });
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

    pub fn role(&self) -> usize {
        self.0.role
    }

    #[inline]
    pub fn segment(&self) -> &Inner {
        &self.0.segment
    }

    #[inline]
    pub fn view(&self) -> View<'_> {
        let Opened { segment, offset, bytes, .. } = &*self.0;
        View { segment, offset: *offset, bytes: *bytes }
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

/// Blocks of an object, held in place by a count of their own: for hot paths that cannot afford to check offsets.
pub(crate) struct Pinned<T: Block> {
    first: *const T,
    count: usize,
    _object: Object,
}

// SAFETY: blocks are atomics in memory that the object keeps mapped; any thread may use them.
unsafe impl<T: Block> Send for Pinned<T> {}
// SAFETY: as above.
unsafe impl<T: Block> Sync for Pinned<T> {}

impl<T: Block> Pinned<T> {
    /// `count` blocks from `offset` of the object.
    pub fn new(object: &Object, offset: usize, count: usize) -> Self {
        let first = object.view().blocks::<T>(offset, count).as_ptr();
        Self { first, count, _object: object.clone() }
    }
}

/// A ring in an object, held in place as [`Pinned`] blocks are.
pub(crate) struct PinnedRing {
    ring: Ring<'static>,
    _object: Object,
}

impl PinnedRing {
    /// The ring whose control block is at `control`, and whose `granules` claim, ready and take words follow from `words`.
    pub fn new(object: &Object, control: usize, words: usize, granules: usize) -> Result<Self, ring::Corrupt> {
        let view = object.view();
        let part = |k: usize| view.blocks::<AtomicU64>(words + k * granules * size_of::<u64>(), granules);
        let ring = Ring::new(view.block::<RingBlock>(control), part(0), part(1), part(2))?;
        // SAFETY: the same type but for the lifetime. The memory stays mapped as long as the object that we hold, and
        // `deref` ties what it gives to `self`.
        let ring = unsafe { std::mem::transmute::<Ring<'_>, Ring<'static>>(ring) };
        Ok(Self { ring, _object: object.clone() })
    }
}

impl PinnedRing {
    /// The ring.
    #[inline]
    pub fn get(&self) -> &Ring<'_> {
        &self.ring
    }
}

impl Pinned<WaitBlock> {
    /// `count` of the words that the object's users sleep on, from the one numbered `first`.
    pub fn waits(object: &Object, first: usize, count: usize) -> Self {
        let words = &object.entry().waits[first..first + count];
        Self { first: words.as_ptr(), count, _object: object.clone() }
    }
}

impl<T: Block> std::ops::Deref for Pinned<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `View::blocks` checked the range, and the object that we hold keeps it mapped at the same address.
        unsafe { std::slice::from_raw_parts(self.first, self.count) }
    }
}

/// Bytes of an object, held in place as [`Pinned`] blocks are.
pub(crate) struct PinnedBytes {
    bytes: ShmSlice<'static>,
    _object: Object,
}

// SAFETY: a slice is an address and a length of memory that any thread may copy to and from; the object keeps it mapped.
unsafe impl Send for PinnedBytes {}
// SAFETY: as above.
unsafe impl Sync for PinnedBytes {}

impl PinnedBytes {
    /// `bytes` bytes from `offset` of the object.
    pub fn new(object: &Object, offset: usize, bytes: usize) -> Self {
        let slice = object.view().slice(offset, bytes);
        // SAFETY: the memory stays mapped as long as the object that we hold, and `slice` ties what it gives to `self`.
        let bytes = unsafe { slice.unbound() };
        Self { bytes, _object: object.clone() }
    }

    /// All of them.
    #[inline]
    pub fn all(&self) -> ShmSlice<'_> {
        self.bytes
    }

    /// `bytes` bytes from `offset`.
    ///
    /// # Panics
    /// If they do not lie inside.
    #[inline]
    pub fn slice(&self, offset: usize, bytes: usize) -> ShmSlice<'_> {
        self.bytes.part(offset, bytes)
    }
}

/// Where the handles go that the calling thread serialises.
#[derive(Clone, Copy)]
enum Passing {
    /// Nowhere: a handle outside a message means nothing.
    Nowhere,
    /// To the process that a row was reserved for.
    Row(u32),
    /// Into a message that somebody will take some day.
    Message,
}

thread_local! {
    static PASSING: Cell<Passing> = const { Cell::new(Passing::Nowhere) };
    /// Handles that went into the message being encoded.
    static PASSED: RefCell<Vec<Object>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` while handles go to `to`.
#[inline]
fn passing<R>(to: Passing, f: impl FnOnce() -> R) -> R {
    struct Restore(Passing);
    impl Drop for Restore {
        #[inline]
        fn drop(&mut self) {
            PASSING.set(self.0);
        }
    }
    let _restore = Restore(PASSING.replace(to));
    f()
}

/// Runs `f`; every handle that it serialises is opened for the process of `row`.
pub(crate) fn with_recipient<R>(row: u32, f: impl FnOnce() -> R) -> R {
    passing(Passing::Row(row), f)
}

/// The handles that went into a message being sent: the newest so many of the calling thread's list.
#[must_use]
pub(crate) struct Passed(usize);

/// Runs `f`, which encodes a message; the handles that it serialises have to be named by the message's record.
#[inline]
pub(crate) fn into_message<R>(f: impl FnOnce() -> R) -> (R, Passed) {
    let before = PASSED.with_borrow(Vec::len);
    let result = passing(Passing::Message, f);
    (result, Passed(PASSED.with_borrow(Vec::len) - before))
}

impl Passed {
    /// The objects of `segment` among them. Those of other segments no record can name: they live as long as somebody has
    /// them open.
    #[inline]
    pub fn named(&self, segment: &Inner) -> Vec<(ObjectId, usize)> {
        if self.0 == 0 {
            return Vec::new();
        }
        let of_segment = |object: &&Object| object.segment().id == segment.id;
        PASSED.with_borrow(|passed| {
            let newest = &passed[passed.len() - self.0..];
            newest.iter().filter(of_segment).map(|object| (object.id(), object.role())).collect()
        })
    }
}

impl Drop for Passed {
    #[inline]
    fn drop(&mut self) {
        if self.0 > 0 {
            // Dropped when the list is not borrowed any more: a drop may run other code.
            drop(PASSED.with_borrow_mut(|passed| passed.split_off(passed.len() - self.0)));
        }
    }
}

/// How a handle looks in a message.
#[derive(Serialize, Deserialize)]
struct Ticket {
    segment: u128,
    id: ObjectId,
    role: u8,
}

impl Object {
    /// Serialises the handle for whoever the calling thread is encoding for.
    pub fn pass<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match PASSING.get() {
            Passing::Row(row) => self.open_for(row),
            Passing::Message => PASSED.with_borrow_mut(|passed| passed.push(self.clone())),
            Passing::Nowhere => {
                return Err(ser::Error::custom("a kinfolk handle travels only in a message or in a child's arguments"));
            }
        }
        Ticket { segment: self.segment().id, id: self.id(), role: self.role() as u8 }.serialize(serializer)
    }

    /// Reads a handle that [`pass`](Self::pass) wrote, as `kind` of the type that `type_hash` gives for its role.
    pub fn receive<'de, D: Deserializer<'de>>(
        deserializer: D,
        kind: &'static Kind,
        type_hash: impl FnOnce(usize) -> u64,
    ) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        let segment = Segment::attached(ticket.segment).map_err(de::Error::custom)?;
        let role = usize::from(ticket.role);
        let opened = Self::open(&segment, ticket.id, role, kind, type_hash(role));
        opened.map_err(de::Error::custom)
    }
}

impl Inner {
    /// After a raw fork: everything that this process inherited is open in its new row too.
    pub(crate) fn reopen_objects(&self) {
        let row = self.row();
        for ((id, role), opened) in self.opened().handles.iter() {
            if opened.strong_count() > 0 && matches!(self.standing(id.index), (now, Standing::Live) if now == *id) {
                self.set_bit(id.index, *role, row);
            }
        }
    }
}
