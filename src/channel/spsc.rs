//! The slot channel: one producer, one consumer, values of one plain type, and nothing between them but a cache line.
//!
//! ```text
//! 0     capacity u32 | payload u32       written at creation, read once at opening
//! 128   SlotBlock
//! 512   slot[capacity]                   sequence u64, payload, up to a multiple of 64
//! ```
//! For whoever counts nanoseconds: a message that meets a waiting consumer costs one transfer of one line; no allocation, no
//! system call unless somebody sleeps, and [`loan`](Producer::loan) and [`peek`](Consumer::peek) work in place.
//!
//! ```
//! use kinfolk::Process;
//! use kinfolk::channel::spsc;
//!
//! let (mut numbers, there) = spsc::channel::<u64>(64)?;
//! let sum = |mut numbers: spsc::Consumer<u64>| {
//!     let mut sum = 0;
//!     while let Ok(number) = numbers.pop() {
//!         sum += number;
//!     }
//!     sum
//! };
//! let child = Process::spawn(sum, there)?;
//! for number in 1..=100 {
//!     numbers.push(number)?;
//! }
//! drop(numbers);
//! assert_eq!(child.join()?, 5050);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod consumer;
mod producer;

use std::fmt;
use std::marker::PhantomData;

use bytemuck::{CheckedBitPattern, NoUninit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use consumer::{Consumer, Peek};
pub use producer::{Loan, Producer};

use super::end::{CONSUMER, PRODUCER};
use super::layout::corrupt;
use crate::error::{Error, ErrorKind};
use crate::ring::spsc::{SlotBlock, Slots};
use crate::segment::{
    KINDS, Kind, Losses, Object, ObjectId, PinnedBytes, PinnedSlots, Segment, ShmSlice, View, type_hash,
};
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::atomic::{AtomicU32, AtomicU64};

#[linkme::distributed_slice(KINDS)]
static SPSC: Kind = Kind {
    code: 7,
    name: "spsc",
    least: SLOTS_AT,
    count: |view, dead| {
        let redelivered = Numbers::read(view)?.ring(view)?.count(dead);
        Ok(Losses { redelivered, ..Losses::default() })
    },
    recover: |view, dead| {
        Numbers::read(view)?.ring(view)?.recover(dead);
        Ok(())
    },
    linked: |_, _| Ok(()),
    handles: |_, _| Ok(()),
    describe: |view| match Numbers::read(view).and_then(|numbers| numbers.ring(view)) {
        Ok(ring) => {
            let (producer, consumer) = (ring.producer().holder(), ring.consumer().holder());
            format!("{} of {}, lane {producer} produces, lane {consumer} consumes", ring.len(), ring.capacity())
        }
        Err(e) => e.to_string(),
    },
};

const CONTROL_AT: usize = 128;
const SLOTS_AT: usize = CONTROL_AT + size_of::<SlotBlock>();
const SEATS: [usize; 2] = [CONTROL_AT + SlotBlock::SEATS[0], CONTROL_AT + SlotBlock::SEATS[1]];
const SEQUENCE: usize = size_of::<AtomicU64>();

/// Bytes of a slot for so many bytes of payload.
const fn slot_bytes(payload: usize) -> usize {
    (SEQUENCE + payload).next_multiple_of(64)
}

/// The numbers of a channel, checked.
#[derive(Clone, Copy)]
struct Numbers {
    capacity: usize,
    payload: usize,
}

impl Numbers {
    fn read(view: &View<'_>) -> Result<Self, Error> {
        if view.len() < SLOTS_AT {
            return Err(Error::corrupt("spsc", "size", view.len(), SLOTS_AT));
        }
        let capacity = view.block::<AtomicU32>(0).load(Relaxed) as usize;
        let payload = view.block::<AtomicU32>(4).load(Relaxed) as usize;
        let bytes = slot_bytes(payload).checked_mul(capacity);
        let allowed = (Slots::MIN_CAPACITY..=Slots::MAX_CAPACITY).contains(&capacity) && capacity.is_power_of_two();
        if !allowed || bytes.is_none_or(|bytes| bytes > view.len() - SLOTS_AT) {
            let found = format!("{capacity} slots of {payload} B");
            return Err(Error::corrupt(
                "spsc",
                "capacity",
                found,
                format!("a power of two that fits {} B", view.len()),
            ));
        }
        Ok(Self { capacity, payload })
    }

    fn words(self) -> usize {
        self.capacity * slot_bytes(self.payload) / size_of::<AtomicU64>()
    }

    fn ring<'a>(self, view: &View<'a>) -> Result<Slots<'a>, Error> {
        Slots::new(view.block(CONTROL_AT), view.blocks(SLOTS_AT, self.words()), self.capacity).map_err(corrupt)
    }
}

/// What travels: plain bytes on the way in, checked on the way out.
///
/// Implemented for every type without pointers or padding whose bytes can be checked: numbers, `bool`, arrays, and structs and
/// enums that derive bytemuck's `NoUninit` and `CheckedBitPattern` (or `Pod`).
pub trait Payload: NoUninit + CheckedBitPattern {}

impl<T: NoUninit + CheckedBitPattern> Payload for T {}

/// Makes a channel in the family's segment for `capacity` values, rounded up to a power of two, at least 2.
///
/// 64 slots of up to 56 bytes take 4.5 KiB.
///
/// # Errors
/// [`InvalidInput`](ErrorKind::InvalidInput) for more than 2^24 slots, [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment
/// is full.
pub fn channel<T: Payload>(capacity: usize) -> Result<(Producer<T>, Consumer<T>), Error> {
    channel_in(&Segment::family()?, capacity)
}

/// Makes a channel in a segment.
///
/// # Errors
/// As [`channel`].
pub fn channel_in<T: Payload>(segment: &Segment, capacity: usize) -> Result<(Producer<T>, Consumer<T>), Error> {
    let most = Slots::MAX_CAPACITY;
    if capacity > most || u32::try_from(size_of::<T>()).is_err() {
        let message = format!("{capacity} slots of {} B, expected at most {most}", size_of::<T>());
        return Err(Error::new(ErrorKind::InvalidInput, "create spsc channel", message));
    }
    let capacity = capacity.next_power_of_two().max(Slots::MIN_CAPACITY);
    let bytes = SLOTS_AT + capacity * slot_bytes(size_of::<T>());
    let ends = Object::create(segment, &SPSC, type_hash::<T>(), bytes, &[PRODUCER, CONSUMER], |view| {
        view.block::<AtomicU32>(0).store(capacity as u32, Relaxed);
        view.block::<AtomicU32>(4).store(size_of::<T>() as u32, Relaxed);
        Ok(())
    })?;
    let [first, second] = <[Object; 2]>::try_from(ends).unwrap_or_else(|_| unreachable!("two roles, two handles"));
    Ok((Producer::from_object(first)?, Consumer::from_object(second)?))
}

/// The ring and its slots, open in this process.
struct Opened<T> {
    ring: PinnedSlots,
    slots: PinnedBytes,
    values: PhantomData<fn(T) -> T>,
}

impl<T: Payload> Opened<T> {
    fn new(object: &Object) -> Result<Self, Error> {
        let numbers = Numbers::read(&object.view())?;
        if numbers.payload != size_of::<T>() {
            return Err(Error::corrupt("spsc", "payload", numbers.payload, size_of::<T>()));
        }
        let ring = PinnedSlots::new(object, CONTROL_AT, SLOTS_AT, numbers.words(), numbers.capacity);
        let slots = PinnedBytes::new(object, SLOTS_AT, numbers.capacity * slot_bytes(size_of::<T>()));
        Ok(Self { ring: ring.map_err(corrupt)?, slots, values: PhantomData })
    }

    #[inline(always)]
    fn ring(&self) -> &Slots<'_> {
        self.ring.get()
    }

    /// The payload of the slot of `position`.
    #[inline(always)]
    fn payload(&self, position: u64) -> ShmSlice<'_> {
        self.slots.slice(self.ring().index(position) * slot_bytes(size_of::<T>()) + SEQUENCE, size_of::<T>())
    }
}

/// What both ends have.
macro_rules! common {
    ($end:ident, $role:expr) => {
        impl<T: Payload> $end<T> {
            /// Number of the channel in its segment.
            pub fn id(&self) -> ObjectId {
                self.end.object().id()
            }

            /// Values that wait. The other side goes on meanwhile, so the number is old when it arrives.
            pub fn len(&self) -> usize {
                self.opened.ring().len() as usize
            }

            /// Whether no value waits, at this moment.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Number of slots.
            pub fn capacity(&self) -> usize {
                self.opened.ring().capacity() as usize
            }
        }

        impl<T> fmt::Debug for $end<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let (name, ring) = (stringify!($end), self.opened.ring.get());
                write!(f, "{name}<{}>({} of {})", std::any::type_name::<T>(), ring.len(), ring.capacity())
            }
        }

        impl<T> Serialize for $end<T> {
            /// Passes the end on and gives the seat up: the first to use its end has it.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let passed = self.end.object().pass(serializer)?;
                self.end.leave();
                Ok(passed)
            }
        }

        impl<'de, T: Payload> Deserialize<'de> for $end<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let object = Object::receive(deserializer, &SPSC, |_| type_hash::<T>())?;
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
