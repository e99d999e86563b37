//! How handles travel.
//!
//! A handle inside a message is named by the message's record, and that keeps its object alive (see `directory.rs`); the
//! taker opens it before the record is acknowledged, and decodes it afterwards ([`Arrived`]). A handle among the arguments
//! of a child is opened for the child's row while the parent encodes it, so it cannot be lost whoever dies.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::directory::{ObjectId, Standing};
use super::object::Object;
use super::recover::Kind;
use super::{Inner, Segment};

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
                    segment.close_entry(id, role);
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
    /// How many they are.
    pub fn count(&self) -> usize {
        self.0
    }

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
