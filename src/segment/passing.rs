//! How handles travel.
//!
//! A handle inside a message is named by the message's record, and that keeps its object alive (see `directory.rs`); the
//! taker opens it before the record is acknowledged, and decodes it afterwards ([`Arrived`]). A handle among the arguments
//! of a child is opened for the child's row while the parent encodes it, so it cannot be lost whoever dies.
//!
//! A handle of another segment than the message's own (or the family's, for a child) takes its segment along, and the
//! sender keeps the handle until it was received: see `carrier.rs`.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::carrier::Carrier;
use super::directory::{ObjectId, Standing};
use super::object::Object;
use super::recover::Kind;
use super::{Inner, Segment};
use crate::error::{Error, ErrorKind};

/// Handles in a message that this process has taken: their objects are kept open until this is dropped, after decoding.
/// Most messages have none, so it is one word.
#[derive(Default)]
pub(crate) struct Arrived(Option<Box<Arrivals>>);

#[derive(Default)]
struct Arrivals(Vec<(Arc<Inner>, ObjectId, usize)>);

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
        self.0.get_or_insert_default().0.push((segment, id, role));
    }

    /// The same handles once more, kept open for as long as the copy is there.
    pub fn again(&self) -> Self {
        let mut again = Self::default();
        for (segment, id, role) in self.0.iter().flat_map(|arrivals| &arrivals.0) {
            again.open(segment, *id, *role);
        }
        again
    }

    /// While a message is encoded: its record is to name these, too. They must be kept until the message is put.
    pub fn pass_on(&self) {
        let named = |(segment, id, role): &(Arc<Inner>, ObjectId, usize)| Item::Named(segment.id, *id, *role);
        if let Some(arrivals) = &self.0 {
            PASSED.with_borrow_mut(|passed| passed.extend(arrivals.0.iter().map(named)));
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        for (segment, id, role) in self.0.drain(..) {
            let key = (id, role);
            let mut table = segment.opened();
            let Some(left) = table.arriving.get_mut(&key) else { continue };
            *left -= 1;
            if *left == 0 {
                table.arriving.remove(&key);
                if table.handles.get(&key).is_none_or(|handle| handle.strong_count() == 0) {
                    segment.give_up(&table, id, role);
                }
            }
        }
    }
}

/// Where the handles go that the calling thread serialises.
#[derive(Clone, Copy)]
enum Passing {
    /// Nowhere: a handle outside a message means nothing.
    Nowhere,
    /// To the process that a row was reserved for.
    Row(u32),
    /// Into a message in this segment that somebody will take some day.
    Message(u128),
    /// Nowhere, but as much has to be written as into a message in this segment.
    Measured(u128),
    /// Into something in this segment that stays there: see `root.rs`.
    Kept(u128),
    /// Nowhere: it is to be shown.
    Shown,
}

thread_local! {
    static PASSING: Cell<Passing> = const { Cell::new(Passing::Nowhere) };
    /// What went into the message being encoded.
    static PASSED: RefCell<Vec<Item>> = const { RefCell::new(Vec::new()) };
    /// Why something could not be passed: a serialiser's own error may have no room for it.
    static REFUSED: Cell<Option<Error>> = const { Cell::new(None) };
}

/// Something that went into a message and is more than its bytes.
enum Item {
    Handle(Object),
    /// A handle that somebody else keeps: of this segment, an object in a role.
    Named(u128, ObjectId, usize),
    /// Something else, which wants to know what becomes of the message.
    Other(Box<dyn FnOnce(Fate<'_>)>),
}

/// What became of a message.
pub(crate) enum Fate<'a> {
    /// It lies in this object.
    Sent(&'a Object),
    /// It was not sent.
    Withdrawn,
}

/// For whom the calling thread serialises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipient {
    /// The child in this row of the family's segment.
    Row(u32),
    /// Who takes the message.
    Taker,
    /// Nobody: only the length is wanted.
    Nobody,
}

/// For whom the calling thread serialises, if a value may be passed at all.
pub(crate) fn recipient() -> Option<Recipient> {
    match PASSING.get() {
        Passing::Nowhere | Passing::Kept(_) => None,
        Passing::Row(row) => Some(Recipient::Row(row)),
        Passing::Message(_) => Some(Recipient::Taker),
        Passing::Measured(_) | Passing::Shown => Some(Recipient::Nobody),
    }
}

/// While a message is encoded: `f` is told what becomes of it.
pub(crate) fn on_fate(f: impl FnOnce(Fate<'_>) + 'static) {
    PASSED.with_borrow_mut(|passed| passed.push(Item::Other(Box::new(f))));
}

/// Notes why a value cannot be passed, for [`take_refusal`]; `wrap` makes the serialiser's error.
pub(crate) fn refuse<E>(error: Error, wrap: impl FnOnce(String) -> E) -> E {
    let wrapped = wrap(error.to_string());
    REFUSED.set(Some(error));
    wrapped
}

/// Why the calling thread's last encoding or decoding, which failed, did so, if one of its handles was the reason.
pub(crate) fn take_refusal() -> Option<Error> {
    REFUSED.take()
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

/// The handles that went into a message being sent: the newest so many of the calling thread's list. If this is dropped, the
/// message was not sent.
#[derive(Default)]
#[must_use]
pub(crate) struct Passed(usize);

/// Runs `f`, which encodes a message for a queue or pipe in `segment`; the handles that it serialises have to be named by
/// the message's record.
#[inline]
pub(crate) fn into_message<R>(segment: &Inner, f: impl FnOnce() -> R) -> (R, Passed) {
    collecting(Passing::Message(segment.id), f)
}

/// Runs `f`, which encodes something to learn its length.
pub(crate) fn into_nothing<R>(segment: &Inner, f: impl FnOnce() -> R) -> (R, Passed) {
    collecting(Passing::Measured(segment.id), f)
}

/// Runs `f`, which encodes something that stays in `segment`. It may have handles of that segment only.
pub(crate) fn into_kept<R>(segment: &Inner, f: impl FnOnce() -> R) -> (R, Passed) {
    collecting(Passing::Kept(segment.id), f)
}

/// Runs `f`, which shows a value to people. It may have any handles.
pub(crate) fn into_text<R>(f: impl FnOnce() -> R) -> R {
    collecting(Passing::Shown, f).0
}

#[inline]
fn collecting<R>(to: Passing, f: impl FnOnce() -> R) -> (R, Passed) {
    let before = PASSED.with_borrow(Vec::len);
    let result = passing(to, f);
    (result, Passed(PASSED.with_borrow(Vec::len) - before))
}

impl Passed {
    /// These and `later` ones, which the same thread encoded after them.
    pub fn and(mut self, mut later: Self) -> Self {
        Self(std::mem::take(&mut self.0) + std::mem::take(&mut later.0))
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0
    }

    /// The objects of `segment` among them. Those of other segments no record can name: this process keeps their handles.
    #[inline]
    pub fn named(&self, segment: &Inner) -> Vec<(ObjectId, usize)> {
        if self.0 == 0 {
            return Vec::new();
        }
        let named = |item: &Item| match item {
            Item::Handle(object) => (object.segment().id == segment.id).then(|| (object.id(), object.role())),
            Item::Named(home, id, role) => (*home == segment.id).then_some((*id, *role)),
            Item::Other(_) => None,
        };
        PASSED.with_borrow(|passed| passed[passed.len() - self.0..].iter().filter_map(named).collect())
    }

    /// The message lies in `object` now, and none are left.
    #[inline]
    pub fn sent_in(&mut self, object: &Object) {
        if self.0 > 0 {
            self.tell(|| Fate::Sent(object));
        }
    }

    /// Takes them off the list first, so that nothing of it is borrowed when they are dropped: a drop may run other code.
    #[cold]
    fn tell<'a>(&mut self, fate: impl Fn() -> Fate<'a>) {
        let count = std::mem::take(&mut self.0);
        for item in PASSED.with_borrow_mut(|passed| passed.split_off(passed.len() - count)) {
            if let Item::Other(f) = item {
                f(fate());
            }
        }
    }
}

impl Drop for Passed {
    #[inline]
    fn drop(&mut self) {
        if self.0 > 0 {
            self.tell(|| Fate::Withdrawn);
        }
    }
}

/// Tells, at any later time, whether the object is known to be gone, and with it every message that was in it.
pub(crate) fn when_gone(object: &Object) -> impl Fn() -> bool + Send + use<> {
    let (segment, id) = (object.segment().this.clone(), object.id());
    move || {
        segment.upgrade().is_some_and(|segment| {
            // One that is CLOSING may still be found to be in use.
            let (now, standing) = segment.standing(id.index);
            now != id || matches!(standing, Standing::Free)
        })
    }
}

/// Tells, at any later time, whether the process of this row of the family's segment is known to be gone.
pub(crate) fn when_row_gone(row: u32) -> Result<impl Fn() -> bool + Send + use<>, Error> {
    let segment = Segment::family()?;
    let generation = segment.inner().row_state(row).generation();
    Ok(move || {
        let now = segment.inner().row_state(row);
        !now.is_active() || now.generation() != generation
    })
}

/// Why `what` is not serialised.
pub(crate) fn nowhere(what: &str) -> Error {
    let message = "it travels only in a message or in a child's arguments";
    Error::new(ErrorKind::InvalidInput, format!("serialise {what}"), message)
}

/// What serialisers that print names see of a handle.
pub(crate) const TICKET: &str = "kinfolk handle";

/// How a handle looks in a message.
#[derive(Serialize, Deserialize)]
#[serde(rename = "kinfolk handle")]
struct Ticket {
    segment: u128,
    id: ObjectId,
    role: u8,
    /// For whoever may not have the segment.
    carrier: Option<Carrier>,
}

impl Object {
    /// Serialises the handle for whoever the calling thread is encoding for.
    pub fn pass<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let segment = self.segment().id;
        let carrier = self.prepare(segment).map_err(|e| refuse(e, ser::Error::custom))?;
        Ticket { segment, id: self.id(), role: self.role() as u8, carrier }.serialize(serializer)
    }

    /// Sees to it that the object is there when the handle arrives, and how its segment gets there.
    fn prepare(&self, segment: u128) -> Result<Option<Carrier>, Error> {
        match PASSING.get() {
            Passing::Row(row) if Segment::family()?.inner().id == segment => self.open_for(row),
            Passing::Message(home) | Passing::Measured(home) | Passing::Kept(home) if home == segment => {
                PASSED.with_borrow_mut(|passed| passed.push(Item::Handle(self.clone())));
            }
            Passing::Row(_) | Passing::Message(_) | Passing::Measured(_) => {
                let segment = self.segment().this.upgrade().map(Segment).expect("held by this handle");
                return Carrier::of(&segment, Some(self)).map(Some);
            }
            Passing::Kept(_) => {
                let message = "it is of another segment than what it is to be kept in";
                return Err(Error::new(ErrorKind::InvalidInput, "keep handle", message));
            }
            Passing::Shown => {}
            Passing::Nowhere => return Err(nowhere("handle")),
        }
        Ok(None)
    }

    /// Reads a handle that [`pass`](Self::pass) wrote, as `kind` of the type that `type_hash` gives for its role.
    pub fn receive<'de, D: Deserializer<'de>>(
        deserializer: D,
        kind: &'static Kind,
        type_hash: impl FnOnce(usize) -> u64,
    ) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        let role = usize::from(ticket.role);
        let attached = match &ticket.carrier {
            Some(carrier) => carrier.attach(ticket.segment),
            None => Segment::attached(ticket.segment),
        };
        let opened = attached.and_then(|segment| Self::open(&segment, ticket.id, role, kind, type_hash(role)));
        if let Some(carrier) = &ticket.carrier {
            carrier.release();
        }
        opened.map_err(|e| refuse(e, de::Error::custom))
    }
}
