//! The shared object through which a parent hands a child its work, and gets the answer.
//!
//! # Layout
//! ```text
//!   0  state         u32   READY 0, or how the function ended: RETURNED 1, PANICKED 2, FAILED 3, OVERFLOWED 4
//!   4  order_bytes   u32   the order: an encoded [`Order`], from 576 on
//!   8  args_bytes    u64   the encoded arguments, behind the order
//!  16  answer        u64   0, or the id of the object that holds the answer: index + 1 : 32 | generation : 32
//!  24  answer_bytes  u64   the encoded answer
//!  64  inline        512   the answer, if it fits
//! 576  order, args
//! ```
//!
//! # Rules
//! 1. The parent writes everything but `state`, `answer*` and `inline` before the child exists, and nothing after.
//! 2. The child alone writes the rest, from one thread, once. The parent reads it only after the child's end.
//! 3. The store of `state` is the commit: before it there is no answer, after it there is one, whatever happens next.
//! 4. Every number is loaded once and checked against the object's size before it is used.
//!
//! # If the child is killed while it publishes
//! | right after | the parent finds |
//! |---|---|
//! | creating the answer object, or writing its bytes | no answer; the object was open in the child alone, and goes with the child's row |
//! | `answer = id` | no answer; the object is gone with the child's row |
//! | `open_for(parent)` | no answer; it opens and drops the object by its id ([`Handoff::answer`]) |
//! | `state = RETURNED` (the commit) | the answer, though the child ended by a signal |
//!
//! # Memory ordering
//! The child's Release store of `state` matches the parent's Acquire load of it, to make the answer visible. Everything
//! that the parent writes is ordered before the child by the system call that starts it.

use super::builder::Setup;
use super::function::{FunctionId, decode};
use super::start::StartMethod;
use crate::error::{Error, ErrorKind};
use crate::segment::{KINDS, Kind, Object, ObjectId, Segment};
use crate::sys::atomic::Ordering::{Acquire, Relaxed, Release};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

#[linkme::distributed_slice(KINDS)]
static HANDOFF: Kind = Kind::plain("handoff", 10);
#[linkme::distributed_slice(KINDS)]
static ANSWER: Kind = Kind::plain("answer", 11);
/// Hash of the layout above (there is no type parameter to hash): change it with the layout.
const LAYOUT: u64 = 0x6b69_6e68_616e_6402;

const STATE: usize = 0;
const ORDER_BYTES: usize = 4;
const ARGS_BYTES: usize = 8;
const ANSWER_ID: usize = 16;
const ANSWER_BYTES: usize = 24;
const INLINE: usize = 64;
pub(super) const INLINE_BYTES: usize = 512;
const ORDER: usize = INLINE + INLINE_BYTES;

const READY: u32 = 0;

/// How the function in the child ended: the values of `state` but READY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The answer is the encoded result.
    Returned = 1,
    /// The answer is an encoded [`Panic`].
    Panicked = 2,
    /// The answer is an encoded [`Failure`].
    Failed = 3,
    /// It has used up its stack. There is no answer.
    Overflowed = 4,
}

/// What the child is to do, and who it is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) function: FunctionId,
    pub(super) name: String,
    /// The child's number in its parent, behind the parent's own.
    pub(super) lineage: Vec<u32>,
    pub(super) daemon: bool,
    /// How the child is started.
    pub(super) method: StartMethod,
    pub(super) parent_name: String,
    pub(super) parent_pid: u32,
    /// The parent's process row, for which the answer is opened.
    pub(super) parent_row: u32,
    pub(super) setup: Setup,
    /// What the parent logs, and whether to standard error: see [`super::log`].
    pub(super) log_level: u8,
    pub(super) log_to_stderr: bool,
}

impl Order {
    /// One that nobody is to carry out.
    pub(super) fn example(function: FunctionId) -> Self {
        Self {
            function,
            name: String::new(),
            lineage: vec![1],
            daemon: false,
            method: StartMethod::Spawn,
            parent_name: String::new(),
            parent_pid: 1,
            parent_row: 0,
            setup: Setup::default(),
            log_level: 0,
            log_to_stderr: false,
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        postcard::to_stdvec(self).map_err(|e| Error::new(ErrorKind::Codec, "encode the child's order", e.to_string()))
    }
}

/// What is told of a panic.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Panic {
    pub(crate) message: String,
    pub(crate) location: String,
    pub(crate) backtrace: Option<String>,
}

/// An [`Error`] of the child, told to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    kind: u32,
    pub(super) message: String,
}

/// Kinds that travel, by their number; others arrive as [`ErrorKind::Os`].
const ERROR_KINDS: [ErrorKind; 13] = [
    ErrorKind::Os,
    ErrorKind::Codec,
    ErrorKind::ForeignFunction,
    ErrorKind::OutOfSpace,
    ErrorKind::TooManyObjects,
    ErrorKind::TooManyThreads,
    ErrorKind::Corrupt,
    ErrorKind::Gone,
    ErrorKind::TypeMismatch,
    ErrorKind::InvalidInput,
    ErrorKind::TooManyFiles,
    ErrorKind::TooManyProcesses,
    ErrorKind::Unsupported,
];

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        let kind = ERROR_KINDS.iter().position(|k| *k == error.kind()).unwrap_or(0);
        Self { kind: kind as u32, message: error.to_string() }
    }

    pub(super) fn into_error(self) -> Error {
        let kind = ERROR_KINDS.get(self.kind as usize).copied().unwrap_or(ErrorKind::Os);
        Error::new(kind, "run the child", self.message)
    }
}

/// The object, open in this process.
pub(super) struct Handoff {
    segment: Segment,
    object: Object,
    /// In the parent: the answer's object, once it was opened, so that the answer can be read again.
    answer: Mutex<Option<Object>>,
}

impl Handoff {
    /// Makes the object, and opens it for the child in `row` too.
    pub(super) fn create(segment: &Segment, order: &Order, args: &[u8], row: u32) -> Result<Self, Error> {
        let order = order.encode()?;
        let order_bytes = u32::try_from(order.len())
            .map_err(|_| Error::new(ErrorKind::InvalidInput, "start process", "the name is too long"))?;
        let object = segment.create_object(&HANDOFF, LAYOUT, ORDER + order.len() + args.len())?;
        object.open_for(row);
        // Relaxed: see "Memory ordering".
        object.word32(ORDER_BYTES).store(order_bytes, Relaxed);
        object.word64(ARGS_BYTES).store(args.len() as u64, Relaxed);
        object.bytes(ORDER, order.len()).write(0, &order);
        object.bytes(ORDER + order.len(), args.len()).write(0, args);
        Ok(Self { segment: segment.clone(), object, answer: Mutex::new(None) })
    }

    /// In the child: opens the object that the parent made.
    pub(super) fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        let object = segment.open_object(id, &HANDOFF, LAYOUT)?;
        if object.len() < ORDER {
            return Err(Error::corrupt("handoff", "size", object.len(), format!("at least {ORDER}")));
        }
        Ok(Self { segment: segment.clone(), object, answer: Mutex::new(None) })
    }

    pub(super) fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// In the parent: the child was reaped, so what it held in the segment is recovered.
    pub(super) fn child_ended(&self, row: u32, pid: u32, by_itself: bool) {
        self.segment.child_ended(row, pid, by_itself);
    }

    /// In the child: what is to be done.
    pub(super) fn order(&self) -> Result<Order, Error> {
        let order: Order = decode(&self.part(ORDER, u64::from(self.order_bytes()), "order_bytes")?, "order")?;
        if order.name.contains('\0') {
            return Err(Error::corrupt("handoff", "name", format!("{:?}", order.name), "a name without NUL"));
        }
        let rows = self.segment.rows();
        if order.parent_row >= rows {
            return Err(Error::corrupt("handoff", "parent_row", order.parent_row, format!("below {rows}")));
        }
        Ok(order)
    }

    /// In the child: the encoded arguments.
    pub(super) fn arguments(&self) -> Result<Vec<u8>, Error> {
        let start = ORDER + self.order_bytes() as usize;
        self.part(start, self.object.word64(ARGS_BYTES).load(Relaxed), "args_bytes")
    }

    fn order_bytes(&self) -> u32 {
        self.object.word32(ORDER_BYTES).load(Relaxed)
    }

    fn part(&self, start: usize, len: u64, field: &str) -> Result<Vec<u8>, Error> {
        let room = self.object.len().saturating_sub(start);
        match usize::try_from(len) {
            Ok(len) if len <= room => Ok(self.object.bytes(start, len).read_to_vec()),
            _ => Err(Error::corrupt("handoff", field, len, format!("at most {room}"))),
        }
    }

    /// In the child: publishes the answer (rule 3). An answer of up to [`INLINE_BYTES`] always finds room.
    pub(super) fn publish(&self, verdict: Verdict, answer: &[u8], parent_row: u32) -> Result<(), Error> {
        let mut kept = None;
        if answer.len() <= INLINE_BYTES {
            self.object.bytes(INLINE, answer.len()).write(0, answer);
        } else {
            let object = self.segment.create_object(&ANSWER, LAYOUT, answer.len())?;
            object.bytes(0, answer.len()).write(0, answer);
            // Release: whoever reads the id (after our death) finds the object made.
            self.object.word64(ANSWER_ID).store(id_word(object.id()), Release);
            object.open_for(parent_row);
            kept = Some(object);
        }
        self.object.word64(ANSWER_BYTES).store(answer.len() as u64, Relaxed);
        self.object.word32(STATE).store(verdict as u32, Release);
        drop(kept);
        Ok(())
    }

    /// In the child, in a signal handler: the function has used up its stack. An answer that was published stays.
    pub(super) fn note_overflow(&self) {
        // Release: as all stores of `state`. Relaxed: a failure is not looked at.
        let _ = self.object.word32(STATE).compare_exchange(READY, Verdict::Overflowed as u32, Release, Relaxed);
    }

    /// In the parent, after the child's end: the answer, if there is one. It can be read again.
    pub(super) fn answer(&self) -> Result<Option<(Verdict, Vec<u8>)>, Error> {
        let verdict = match self.object.word32(STATE).load(Acquire) {
            READY => None,
            1 => Some(Verdict::Returned),
            2 => Some(Verdict::Panicked),
            3 => Some(Verdict::Failed),
            4 => Some(Verdict::Overflowed),
            other => return Err(Error::corrupt("handoff", "state", other, "0 to 4")),
        };
        let id = self.object.word64(ANSWER_ID).load(Acquire);
        let Some(verdict) = verdict.filter(|verdict| *verdict != Verdict::Overflowed) else {
            // A child killed before the commit may have opened the answer for us: to open and drop it gives it back.
            // If it did not get that far, the object is gone, or is about to go with the child's row.
            if let Some(id) = id_of(id) {
                drop(self.segment.open_object(id, &ANSWER, LAYOUT));
            }
            return Ok(verdict.map(|verdict| (verdict, Vec::new())));
        };
        let len = self.object.word64(ANSWER_BYTES).load(Relaxed);
        let Some(id) = id_of(id) else {
            let len = usize::try_from(len).ok().filter(|len| *len <= INLINE_BYTES);
            let len = len.ok_or_else(|| Error::corrupt("handoff", "answer_bytes", "too large", INLINE_BYTES))?;
            return Ok(Some((verdict, self.object.bytes(INLINE, len).read_to_vec())));
        };
        let mut answer = self.answer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let object = match &mut *answer {
            Some(object) => object,
            none => none.insert(self.segment.open_object(id, &ANSWER, LAYOUT)?),
        };
        match usize::try_from(len) {
            Ok(len) if len <= object.len() => Ok(Some((verdict, object.bytes(0, len).read_to_vec()))),
            _ => Err(Error::corrupt("handoff", "answer_bytes", len, format!("at most {}", object.len()))),
        }
    }
}

/// The word for an object's id, never 0.
fn id_word(id: ObjectId) -> u64 {
    (u64::from(id.index) + 1) << 32 | u64::from(id.generation)
}

fn id_of(word: u64) -> Option<ObjectId> {
    let index = ((word >> 32) as u32).checked_sub(1)?;
    Some(ObjectId { index, generation: word as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handoff(segment: &Segment) -> Handoff {
        handoff_to(segment, "x", segment.row())
    }

    fn handoff_to(segment: &Segment, name: &str, parent_row: u32) -> Handoff {
        let function = FunctionId::of(|(): ()| ()).unwrap();
        let order = Order { name: name.into(), parent_row, ..Order::example(function) };
        Handoff::create(segment, &order, b"args", segment.row()).unwrap()
    }

    #[test]
    fn answers_that_lie_inline_come_back_and_can_be_read_again() {
        let segment = Segment::family().unwrap();
        for len in [0, 1, INLINE_BYTES] {
            let handoff = handoff(&segment);
            assert_eq!(handoff.arguments().unwrap(), b"args");
            assert_eq!(handoff.order().unwrap().name, "x");
            assert!(handoff.answer().unwrap().is_none());
            let answer = vec![7; len];
            handoff.publish(Verdict::Returned, &answer, segment.row()).unwrap();
            for _ in 0..2 {
                assert_eq!(handoff.answer().unwrap(), Some((Verdict::Returned, answer.clone())));
            }
        }
    }

    #[test]
    fn sizes_that_no_child_writes_are_refused() {
        let segment = Segment::family().unwrap();
        for len in [INLINE_BYTES as u64 + 1, u64::MAX] {
            let handoff = handoff(&segment);
            handoff.publish(Verdict::Returned, &[], segment.row()).unwrap();
            handoff.object.word64(ANSWER_BYTES).store(len, Relaxed);
            assert_eq!(handoff.answer().unwrap_err().kind(), ErrorKind::Corrupt);
            handoff.object.word64(ARGS_BYTES).store(len, Relaxed);
            assert_eq!(handoff.arguments().unwrap_err().kind(), ErrorKind::Corrupt);
            handoff.object.word32(ORDER_BYTES).store(u32::MAX, Relaxed);
            assert_eq!(handoff.order().unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn an_order_that_no_parent_gives_is_refused() {
        let segment = Segment::family().unwrap();
        for (name, row) in [("a\0b", 0), ("x", segment.rows()), ("x", u32::MAX)] {
            assert_eq!(handoff_to(&segment, name, row).order().unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn the_kind_of_an_error_arrives() {
        for kind in ERROR_KINDS {
            let told = Failure::of(&Error::new(kind, "do", "not")).into_error();
            assert_eq!((told.kind(), told.to_string()), (kind, "run the child: do: not".to_owned()));
        }
    }
}
