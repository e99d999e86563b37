//! How large a new queue is, and what it keeps beside its items.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::layout;
use super::lease_layout::{self, MAX_LEASES};
use super::leases::MOST_DELIVERIES;
use super::queue::{QUEUE, Queue};
use crate::error::{Error, ErrorKind};
use crate::segment::{Object, Segment, type_hash};

/// The largest ring: positions and counts have 19 bits in its words.
const MAX_GRANULES: u32 = 1 << 19;
const DEFAULT_GRANULES: u32 = 1 << 14;
const MIN_GRANULES: u32 = 1 << 10;

/// Sizes of a new queue other than the defaults.
#[derive(Clone, Debug)]
pub struct QueueBuilder {
    capacity: usize,
    bytes: Option<usize>,
    leases: usize,
    max_deliveries: u32,
    segment: Option<Segment>,
}

impl QueueBuilder {
    /// How many items may wait at once, exactly, however large they are; 0 for as many as the bytes allow. So that there is
    /// room for all, an item larger than its share of the ring takes a block of the segment.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// Bytes of the ring, rounded up to a power of two from 4 KiB to 32 MiB. An item takes 8 bytes more than its encoding,
    /// rounded up to 64. An item larger than half the ring takes a block of the segment instead. Without it the ring has 1
    /// MiB; 64 KiB or more in a queue with a capacity. 64 small items need 4 KiB.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// How many items may be on [`lease`](Queue::lease) at once, at most 65536; 0, the default, for a queue without leases.
    /// Each takes 272 bytes, in use or not, and 64 KiB more while an item of more than 256 bytes is on lease. Dead letters
    /// keep their leases until they are drained.
    pub fn leases(mut self, items: usize) -> Self {
        self.leases = items;
        self
    }

    /// As many leases as were asked for, or `items`.
    pub(super) fn with_some_leases(self, items: usize) -> Self {
        if self.leases == 0 { self.leases(items) } else { self }
    }

    /// After how many deliveries that were not acknowledged an item becomes a [dead letter](Queue::dead_letters), at most
    /// 65535; 0, the default, for never. A lease that is dropped counts, as does one whose holder died.
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.max_deliveries = deliveries;
        self
    }

    /// The segment to make it in, instead of the family's.
    pub fn segment(mut self, segment: &Segment) -> Self {
        self.segment = Some(segment.clone());
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a number above its limit, or a limit of deliveries without leases;
    /// [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full.
    pub fn build<T: Serialize + DeserializeOwned + 'static>(self) -> Result<Queue<T>, Error> {
        Queue::from_object(self.build_object(type_hash::<T>())?)
    }

    /// Makes the object of a queue whose values `type_hash` names.
    pub(super) fn build_object(self, type_hash: u64) -> Result<Object, Error> {
        let segment = self.segment.map_or_else(Segment::family, Ok)?;
        let refuse = |message| Err(Error::new(ErrorKind::InvalidInput, "create queue", message));
        if self.capacity > MAX_GRANULES as usize {
            return refuse(format!("capacity {}, expected at most {MAX_GRANULES}, or 0 for no limit", self.capacity));
        }
        if self.leases > MAX_LEASES as usize || self.max_deliveries > MOST_DELIVERIES {
            let (leases, deliveries) = (self.leases, self.max_deliveries);
            let limits = format!("at most {MAX_LEASES} and {MOST_DELIVERIES}");
            return refuse(format!("{leases} leases and {deliveries} deliveries, expected {limits}"));
        }
        if self.leases == 0 && self.max_deliveries > 0 {
            return refuse(format!("{} deliveries of a queue without leases", self.max_deliveries));
        }
        let capacity = self.capacity as u32;
        let granules = match (self.bytes, capacity) {
            (Some(bytes), _) => (bytes >> layout::GRANULE_SHIFT).clamp(64, MAX_GRANULES as usize) as u32,
            (None, 0) => DEFAULT_GRANULES,
            (None, n) => (n.saturating_mul(8)).clamp(MIN_GRANULES, DEFAULT_GRANULES),
        };
        let granules = granules.max(capacity).next_power_of_two();
        let leases = self.leases as u32;
        let bytes =
            if leases == 0 { layout::object_bytes(&[granules]) } else { lease_layout::object_bytes(granules, leases) };
        let mut made = Object::create(&segment, &QUEUE, type_hash, bytes, &[0], |view| {
            layout::init(view, 0, granules, capacity);
            lease_layout::init(view, leases, self.max_deliveries);
            Ok(())
        })?;
        Ok(made.pop().expect("one role, one handle"))
    }
}

impl Queue<()> {
    /// Sizes other than the defaults, for a queue of any type.
    pub fn builder() -> QueueBuilder {
        QueueBuilder { capacity: 0, bytes: None, leases: 0, max_deliveries: 0, segment: None }
    }
}
