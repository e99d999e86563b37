//! The record channel: one producer, one consumer, records of bytes, each in one piece in shared memory.
//!
//! ```text
//! 0     capacity u32                     bytes of the ring; written at creation, read once at opening
//! 128   RecordBlock
//! 640   data[capacity]                   records: header u64, payload, up to a multiple of 8
//! ```
//! As [`spsc`](super::spsc), for what has no fixed size: frames, encoded messages, text. What is said there about handles, seats
//! and successors holds here.
//!
//! ```
//! use kinfolk::Process;
//! use kinfolk::channel::bytes;
//!
//! let (mut lines, there) = bytes::channel(4096)?;
//! let count = |mut lines: bytes::Consumer| {
//!     let mut total = 0;
//!     while let Ok(line) = lines.pop() {
//!         total += line.len();
//!     }
//!     total
//! };
//! let child = Process::spawn(count, there)?;
//! lines.push(b"one line")?;
//! lines.push(b"and another")?;
//! drop(lines);
//! assert_eq!(child.join()?, 19);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod consumer;
mod producer;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use consumer::{Consumer, Peek};
pub use producer::{Producer, Reservation};

use super::end::{CONSUMER, PRODUCER};
use super::layout::corrupt;
use crate::error::{Error, ErrorKind};
use crate::ring::bytes::{Record, RecordBlock, Records, Reserved};
use crate::segment::{
    KINDS, Kind, Losses, Object, ObjectId, PinnedBytes, PinnedRecords, Segment, ShmSlice, View, type_hash,
};
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::atomic::{AtomicU32, AtomicU64};

#[linkme::distributed_slice(KINDS)]
static BYTES: Kind = Kind {
    code: 5,
    name: "bytes",
    least: DATA_AT,
    count: |view, dead| {
        let (vanished, redelivered) = ring(view)?.count(dead);
        Ok(Losses { vanished, redelivered, ..Losses::default() })
    },
    recover: |view, dead| {
        ring(view)?.recover(dead);
        Ok(())
    },
    linked: |_, _| Ok(()),
    handles: |_, _| Ok(()),
    describe: |view| match ring(view) {
        Ok(ring) => {
            let (producer, consumer) = (ring.producer().holder(), ring.consumer().holder());
            format!("{} of {} B, lane {producer} produces, lane {consumer} consumes", ring.len(), ring.capacity())
        }
        Err(e) => e.to_string(),
    },
};

const CONTROL_AT: usize = 128;
const DATA_AT: usize = CONTROL_AT + size_of::<RecordBlock>();
const SEATS: [usize; 2] = [CONTROL_AT + RecordBlock::SEATS[0], CONTROL_AT + RecordBlock::SEATS[1]];
const WORD: usize = size_of::<AtomicU64>();

/// Bytes of the ring, checked.
fn capacity(view: &View<'_>) -> Result<usize, Error> {
    if view.len() < DATA_AT {
        return Err(Error::corrupt("bytes", "size", view.len(), DATA_AT));
    }
    let capacity = view.block::<AtomicU32>(0).load(Relaxed) as usize;
    let allowed = (Records::MIN_CAPACITY..=Records::MAX_CAPACITY).contains(&capacity) && capacity.is_power_of_two();
    if !allowed || capacity > view.len() - DATA_AT {
        let wanted = format!("a power of two that fits {} B", view.len());
        return Err(Error::corrupt("bytes", "capacity", capacity, wanted));
    }
    Ok(capacity)
}

fn ring<'a>(view: &View<'a>) -> Result<Records<'a>, Error> {
    let words = capacity(view)? / WORD;
    Records::new(view.block(CONTROL_AT), view.blocks(DATA_AT, words)).map_err(corrupt)
}

/// Any channel of records is of this type.
fn hash() -> u64 {
    type_hash::<Vec<u8>>()
}

/// Makes a channel in the family's segment with `capacity` bytes, rounded up to a power of two, at least 64. A record takes 8
/// bytes more than its payload, rounded up to 8, and at most half the ring.
///
/// # Errors
/// [`InvalidInput`](ErrorKind::InvalidInput) for more than 1 GiB, [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full.
pub fn channel(capacity: usize) -> Result<(Producer, Consumer), Error> {
    channel_in(&Segment::family()?, capacity)
}

/// Makes a channel in a segment.
///
/// # Errors
/// As [`channel`].
pub fn channel_in(segment: &Segment, capacity: usize) -> Result<(Producer, Consumer), Error> {
    let most = Records::MAX_CAPACITY;
    if capacity > most {
        let message = format!("capacity {capacity} B, expected at most {most} B");
        return Err(Error::new(ErrorKind::InvalidInput, "create bytes channel", message));
    }
    let capacity = capacity.next_power_of_two().max(Records::MIN_CAPACITY);
    let ends = Object::create(segment, &BYTES, hash(), DATA_AT + capacity, &[PRODUCER, CONSUMER], |view| {
        view.block::<AtomicU32>(0).store(capacity as u32, Relaxed);
        Ok(())
    })?;
    let [first, second] = <[Object; 2]>::try_from(ends).unwrap_or_else(|_| unreachable!("two roles, two handles"));
    Ok((Producer::from_object(first)?, Consumer::from_object(second)?))
}

/// The ring and its data, open in this process.
struct Opened {
    ring: PinnedRecords,
    data: PinnedBytes,
}

impl Opened {
    fn new(object: &Object) -> Result<Self, Error> {
        let capacity = capacity(&object.view())?;
        let ring = PinnedRecords::new(object, CONTROL_AT, DATA_AT, capacity / WORD).map_err(corrupt)?;
        Ok(Self { ring, data: PinnedBytes::new(object, DATA_AT, capacity) })
    }

    #[inline(always)]
    fn ring(&self) -> &Records<'_> {
        self.ring.get()
    }

    #[inline(always)]
    fn room(&self, place: Reserved) -> ShmSlice<'_> {
        self.data.slice(self.ring().room_at(place), place.len())
    }

    #[inline(always)]
    fn record(&self, record: Record) -> ShmSlice<'_> {
        self.data.slice(self.ring().record_at(record), record.len())
    }
}

/// What both ends have.
macro_rules! common {
    ($end:ident, $role:expr) => {
        impl $end {
            /// Number of the channel in its segment.
            pub fn id(&self) -> ObjectId {
                self.end.object().id()
            }

            /// Bytes of the ring that records take, their headers included. The other side goes on meanwhile, so the number is
            /// old when it arrives.
            pub fn used(&self) -> usize {
                self.opened.ring().len() as usize
            }

            /// Whether no record waits, at this moment.
            pub fn is_empty(&self) -> bool {
                self.opened.ring().is_empty()
            }

            /// Bytes of the ring.
            pub fn capacity(&self) -> usize {
                self.opened.ring().capacity() as usize
            }

            /// Bytes of the longest record: what half the ring leaves beside a header.
            pub fn longest(&self) -> usize {
                self.opened.ring().longest()
            }
        }

        impl fmt::Debug for $end {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({} of {} B)", stringify!($end), self.used(), self.capacity())
            }
        }

        impl Serialize for $end {
            /// Passes the end on and gives the seat up: the first to use its end has it.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let passed = self.end.object().pass(serializer)?;
                self.end.leave();
                Ok(passed)
            }
        }

        impl<'de> Deserialize<'de> for $end {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let object = Object::receive(deserializer, &BYTES, |_| hash())?;
                if object.role() != $role {
                    return Err(serde::de::Error::custom("this is the other end of the channel"));
                }
                Self::from_object(object).map_err(serde::de::Error::custom)
            }
        }
    };
}

common!(Producer, PRODUCER);
common!(Consumer, CONSUMER);
