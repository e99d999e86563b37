//! The record ring: one producer, one consumer, records of any length, in one piece each.
//!
//! # Words
//! ```text
//! data            records from multiples of 8 on: header u64 | payload | up to 7 bytes of nothing
//! header          tag:24 | kind:8 | length:32         tag: bits 3 to 26 of the position
//! producer.word   behind what the producer has reserved: not the tail, if a record is being written
//! tail            behind the last committed record
//! consumer.word   head | open                         open: somebody has the record at head in hand
//! published       a position at or before the head, at most `quantum` behind it
//! ```
//! Positions count bytes from 0 for ever and are multiples of 8; position `p` has index `p % capacity`. A record that does not
//! fit before the end of the ring starts at index 0, and PAD fills the rest. A zeroed ring is empty.
//!
//! # Rules
//! 1. `head <= tail <= head + capacity`, and what lies between them is whole records and PADs, each PAD followed by a record.
//!    Header, length, tag, tail and heads are loaded once and checked against private positions; else [`Corrupt`].
//! 2. A record takes at most half the ring, so it fits into an empty one wherever that stands, with its PAD.
//! 3. COMMIT is the store of the tail, for one record (with the PAD before it) or for many; ACKNOWLEDGE is the store of the
//!    head; `published` follows it. What lies beyond the tail is the producer's alone.
//!
//! | killed | effect |
//! |---|---|
//! | producer before COMMIT | nothing to be seen; counted as vanished if something was reserved |
//! | producer after COMMIT | delivered |
//! | consumer before ACKNOWLEDGE | the record is delivered again, marked if it was `open` |
//! | consumer after ACKNOWLEDGE | consumed |
//!
//! # Memory ordering
//! COMMIT is a Release, matched by the consumer's Acquire of the tail: with it come headers and payloads, which are plain
//! stores. Head and `published` are Releases after the last look at a payload, matched by the producer's Acquire. The other
//! words are read from a seat, and [`Seat`] orders them.

use core::mem::offset_of;

use super::block::Line;
use super::seat::{Seat, Side};
use super::spsc::Look;
use super::stamped::Corrupt;
use crate::sys::atomic::{AtomicU64, Ordering, broken};
use Ordering::{Acquire, Relaxed, Release};

/// Bytes of a record's header.
pub const HEADER: usize = 8;

const DATA: u64 = 1;
const PAD: u64 = 2;

/// The words of a record ring beside its data, as they lie in a segment: 512 bytes.
#[repr(C)]
pub struct RecordBlock {
    producer: Side,
    consumer: Side,
    tail: Line,
    published: Line,
}

impl RecordBlock {
    /// Where the producer's and the consumer's [`Seat`] are in it.
    pub const SEATS: [usize; 2] = [offset_of!(RecordBlock, producer.seat), offset_of!(RecordBlock, consumer.seat)];

    /// The block of an empty ring.
    #[allow(clippy::new_without_default, reason = "a block is written into a segment, never made by default")]
    pub fn new() -> Self {
        let line = || Line(AtomicU64::new(0));
        Self { producer: Side::new(), consumer: Side::new(), tail: line(), published: line() }
    }

    /// Its words, for tests that spoil them.
    #[cfg(test)]
    pub(super) fn words(&self) -> [&AtomicU64; 4] {
        [&self.producer.word, &self.consumer.word, &self.tail.0, &self.published.0]
    }
}

/// Where the producer stands: private to whoever has the seat.
#[derive(Debug)]
pub struct Writer {
    /// Behind the last record that was written.
    next: u64,
    /// The tail: what the consumer can see.
    committed: u64,
    /// Bytes before this position may be written.
    limit: u64,
}

/// Where the consumer stands: private to whoever has the seat.
#[derive(Debug)]
pub struct Reader {
    head: u64,
    tail: u64,
    published: u64,
    redelivered: bool,
}

impl Writer {
    /// Nowhere: finds no room. For ends that have no seat yet.
    pub const fn nowhere() -> Self {
        Self { next: 0, committed: 0, limit: 0 }
    }

    /// Whether something is written and not committed.
    #[inline(always)]
    pub fn is_behind(&self) -> bool {
        self.next != self.committed
    }
}

impl Reader {
    /// Nowhere. For ends that have no seat yet; to be replaced before it is used.
    pub const fn nowhere() -> Self {
        Self { head: 0, tail: 0, published: 0, redelivered: false }
    }

    /// Whether a consumer had the next record in hand and did not acknowledge it.
    #[inline(always)]
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }
}

/// A place for a record: the caller's until it is written.
#[must_use = "a reservation that is neither written nor aborted counts as lost when its process dies"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    start: u64,
    len: u32,
}

/// A record: its bytes are the caller's to read until it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    start: u64,
    len: u32,
}

impl Reserved {
    /// Bytes of payload.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The same place for a shorter record.
    ///
    /// # Panics
    /// If it is longer.
    pub fn shortened(self, len: usize) -> Self {
        assert!(len <= self.len(), "{len} bytes into a reservation of {}", self.len);
        Self { len: len as u32, ..self }
    }
}

impl Record {
    /// Bytes of payload.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// Bytes that a record of `len` bytes takes.
#[inline(always)]
const fn taken_by(len: u32) -> u64 {
    HEADER as u64 + (len as u64).next_multiple_of(8)
}

#[inline(always)]
const fn header(position: u64, kind: u64, len: u64) -> u64 {
    (position >> 3) << 40 | kind << 32 | len
}

/// A view of a record ring in shared memory. Copies are views of the same ring.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    control: &'a RecordBlock,
    words: &'a [AtomicU64],
    capacity: u64,
    quantum: u64,
}

impl<'a> Records<'a> {
    /// The smallest ring, in bytes.
    pub const MIN_CAPACITY: usize = 64;
    /// The largest ring, in bytes.
    pub const MAX_CAPACITY: usize = 1 << 30;

    /// Views a ring whose data are `words`.
    ///
    /// # Errors
    /// If the data are no power of two of bytes between [`MIN_CAPACITY`](Self::MIN_CAPACITY) and
    /// [`MAX_CAPACITY`](Self::MAX_CAPACITY).
    pub fn new(control: &'a RecordBlock, words: &'a [AtomicU64]) -> Result<Self, Corrupt> {
        let bytes = words.len().saturating_mul(8);
        if !bytes.is_power_of_two() || !(Self::MIN_CAPACITY..=Self::MAX_CAPACITY).contains(&bytes) {
            return Err(Corrupt { field: "capacity", found: bytes as u64 });
        }
        Ok(Self { control, words, capacity: bytes as u64, quantum: bytes as u64 / 8 })
    }

    /// Bytes of the ring.
    #[inline(always)]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes of the longest record.
    #[inline(always)]
    pub fn longest(&self) -> usize {
        self.capacity as usize / 2 - HEADER
    }

    /// The seat of the producer.
    pub fn producer(&self) -> &'a Seat {
        &self.control.producer.seat
    }

    /// The seat of the consumer.
    pub fn consumer(&self) -> &'a Seat {
        &self.control.consumer.seat
    }

    #[inline(always)]
    fn index(&self, position: u64) -> u64 {
        position & (self.capacity - 1)
    }

    /// Where the payload of a record that starts at `start` lies in the data.
    #[inline(always)]
    fn payload_at(&self, start: u64) -> usize {
        self.index(start) as usize + HEADER
    }

    /// Where the payload of a reservation lies in the data.
    #[inline(always)]
    pub fn room_at(&self, reserved: Reserved) -> usize {
        self.payload_at(reserved.start)
    }

    /// Where the payload of a record lies in the data.
    #[inline(always)]
    pub fn record_at(&self, record: Record) -> usize {
        self.payload_at(record.start)
    }

    #[inline(always)]
    fn header_of(&self, position: u64) -> &'a AtomicU64 {
        &self.words[(self.index(position) / 8) as usize]
    }

    fn head(&self) -> u64 {
        self.control.consumer.word.load(Acquire) & !7
    }

    // ---- the producer

    /// Where the producer stands, for whoever has taken its seat: where the last one stopped.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn writer(&self) -> Result<Writer, Corrupt> {
        let tail = self.control.tail.0.load(Relaxed);
        if tail % 8 != 0 {
            return Err(Corrupt { field: "tail", found: tail });
        }
        let mut writer = Writer { next: tail, committed: tail, limit: tail };
        self.limit_by(&mut writer, self.head(), 0, "head")?;
        self.control.producer.word.store(tail, Relaxed);
        Ok(writer)
    }

    /// Lets the writer go a capacity beyond `head`, which is at most `lag` old.
    fn limit_by(&self, writer: &mut Writer, head: u64, lag: u64, field: &'static str) -> Result<(), Corrupt> {
        let waiting = writer.next.wrapping_sub(head);
        if waiting > self.capacity + lag || head % 8 != 0 {
            return Err(Corrupt { field, found: head });
        }
        if self.capacity.saturating_sub(waiting) > writer.limit.wrapping_sub(writer.next) {
            writer.limit = head.wrapping_add(self.capacity);
        }
        Ok(())
    }

    #[cold]
    fn look_for_room(&self, writer: &mut Writer, wanted: u64, look: Look) -> Result<bool, Corrupt> {
        let has_room = |writer: &Writer| writer.limit.wrapping_sub(writer.next) >= wanted;
        // Behind the head by a quantum, and by all of a batch while that is being acknowledged.
        self.limit_by(writer, self.control.published.0.load(Acquire), 2 * self.capacity, "published")?;
        if !has_room(writer) && look == Look::Exact {
            self.limit_by(writer, self.head(), 0, "head")?;
        }
        Ok(has_room(writer))
    }

    /// Makes room for a record of `len` bytes, at most [`longest`](Self::longest); `None` if there is none.
    ///
    /// # Errors
    /// If the ring is damaged.
    ///
    /// # Panics
    /// If the record is longer than that.
    #[inline]
    pub fn reserve(&self, writer: &mut Writer, len: usize, look: Look) -> Result<Option<Reserved>, Corrupt> {
        assert!(len <= self.longest(), "a record of {len} bytes");
        let len = len as u32;
        let (need, rest) = (taken_by(len), self.capacity - self.index(writer.next));
        let pad = if need > rest { rest } else { 0 };
        let wanted = pad + need;
        if writer.limit.wrapping_sub(writer.next) < wanted && !self.look_for_room(writer, wanted, look)? {
            return Ok(None);
        }
        if pad > 0 {
            // Rule 3: nobody else looks beyond the tail.
            self.header_of(writer.next).store(header(writer.next, PAD, pad - HEADER as u64), Relaxed);
        }
        let start = writer.next.wrapping_add(pad);
        if !broken("bytes-reserve-is-marked") {
            self.control.producer.word.store(start.wrapping_add(need), Relaxed);
        }
        Ok(Some(Reserved { start, len }))
    }

    /// Gives a reservation up.
    #[inline]
    pub fn abort(&self, writer: &Writer) {
        self.control.producer.word.store(writer.next, Relaxed);
    }

    /// Ends the record of a reservation whose payload is written. Nobody sees it before [`commit`](Self::commit).
    #[inline(always)]
    pub fn write(&self, writer: &mut Writer, reserved: Reserved) {
        self.header_of(reserved.start).store(header(reserved.start, DATA, reserved.len.into()), Relaxed);
        writer.next = reserved.start.wrapping_add(taken_by(reserved.len));
        // A shortened record ends before what was reserved for it; this is what the tail becomes.
        self.control.producer.word.store(writer.next, Relaxed);
    }

    /// Commits everything that was written.
    #[inline(always)]
    pub fn commit(&self, writer: &mut Writer) {
        let order = if broken("bytes-commit-releases") { Relaxed } else { Release };
        self.control.tail.0.store(writer.next, order);
        writer.committed = writer.next;
    }

    // ---- the consumer

    /// Where the consumer stands, for whoever has taken its seat: where the last one stopped.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn reader(&self) -> Result<Reader, Corrupt> {
        let word = self.control.consumer.word.load(Acquire);
        if word % 8 > 1 {
            return Err(Corrupt { field: "head", found: word });
        }
        let head = word & !7;
        // What a dead consumer had acknowledged and not published yet.
        self.control.published.0.store(head, Release);
        Ok(Reader { head, tail: head, published: head, redelivered: word & 1 == 1 })
    }

    /// The record at the reader's position, if it is there.
    ///
    /// # Errors
    /// If the ring is damaged.
    #[inline]
    pub fn peek(&self, reader: &mut Reader) -> Result<Option<Record>, Corrupt> {
        if reader.tail == reader.head {
            let tail = self.control.tail.0.load(Acquire);
            if tail % 8 != 0 || tail.wrapping_sub(reader.head) > self.capacity {
                return Err(Corrupt { field: "tail", found: tail });
            }
            reader.tail = tail;
            if tail == reader.head {
                return Ok(None);
            }
        }
        let mut start = reader.head;
        let mut word = self.header_of(start).load(Relaxed);
        let rest = self.capacity - self.index(start);
        if word == header(start, PAD, rest - HEADER as u64) {
            if rest >= reader.tail.wrapping_sub(start) {
                return Err(Corrupt { field: "pad", found: word });
            }
            start = start.wrapping_add(rest);
            word = self.header_of(start).load(Relaxed);
        }
        let len = word as u32;
        let need = taken_by(len);
        let is_data = word == header(start, DATA, len.into());
        if !is_data || need > reader.tail.wrapping_sub(start) || need > self.capacity - self.index(start) {
            return Err(Corrupt { field: "header", found: word });
        }
        Ok(Some(Record { start, len }))
    }

    /// Notes that the record at the reader's position is in somebody's hand: if it dies, the next one is told.
    #[inline(always)]
    pub fn open(&self, reader: &Reader) {
        if !broken("bytes-open-is-marked") {
            // Release, as it hides the acknowledgement before it from a producer that looks now.
            self.control.consumer.word.store(reader.head | 1, Release);
        }
    }

    /// Takes that back.
    #[inline(always)]
    pub fn close(&self, reader: &Reader) {
        self.control.consumer.word.store(reader.head | u64::from(reader.redelivered), Release);
    }

    /// Goes on to the record behind `record`, which [`peek`](Self::peek) gave and which has been copied out. It is not
    /// acknowledged before [`acknowledge`](Self::acknowledge).
    #[inline(always)]
    pub fn step(&self, reader: &mut Reader, record: Record) {
        reader.head = record.start.wrapping_add(taken_by(record.len));
        reader.redelivered = false;
    }

    /// Acknowledges all records that the reader has stepped over.
    #[inline(always)]
    pub fn acknowledge(&self, reader: &mut Reader) {
        if broken("bytes-published-follows") {
            self.control.published.0.store(reader.head, Release);
        }
        let order = if broken("bytes-release-releases") { Relaxed } else { Release };
        self.control.consumer.word.store(reader.head, order);
        if reader.head.wrapping_sub(reader.published) >= self.quantum {
            self.publish(reader, order);
        }
    }

    #[inline(always)]
    fn publish(&self, reader: &mut Reader, order: Ordering) {
        self.control.published.0.store(reader.head, order);
        reader.published = reader.head;
    }

    /// Publishes the head, and says whether it is worth waking a producer that sleeps for room: a quarter of the ring is free,
    /// or all of it. What the reader has stepped over must have been acknowledged.
    #[cold]
    pub fn offer_room(&self, reader: &mut Reader) -> bool {
        if reader.published != reader.head {
            self.publish(reader, Release);
        }
        let waiting = self.control.tail.0.load(Relaxed).wrapping_sub(reader.head);
        waiting == 0 || waiting <= self.capacity - self.capacity / 4
    }

    // ---- anybody

    /// Bytes of the records that wait, with their headers and what fills the end of the ring. Exact for a moment of the call
    /// if nobody uses the ring meanwhile.
    pub fn len(&self) -> u64 {
        let head = self.head();
        self.control.tail.0.load(Acquire).wrapping_sub(head).min(self.capacity)
    }

    /// Whether no record waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the dead had in hand: whether records vanish with a producer, and whether one will be delivered again.
    pub fn count(&self, dead: &dyn Fn(u16) -> bool) -> (u32, u32) {
        let tail = self.control.tail.0.load(Acquire);
        let vanished = self.producer().is_held_by(dead) && self.control.producer.word.load(Acquire) != tail;
        let redelivered = self.consumer().is_held_by(dead) && self.control.consumer.word.load(Acquire) & 1 == 1;
        (vanished.into(), redelivered.into())
    }

    /// Frees the seats of the dead; successors go on where they stopped. Idempotent, beside a living peer.
    pub fn recover(&self, dead: &dyn Fn(u16) -> bool) {
        if self.consumer().is_held_by(dead) {
            // The seat is still theirs, so nobody else writes this.
            self.control.published.0.store(self.head(), Release);
        }
        self.consumer().recover(dead);
        self.producer().recover(dead);
    }
}
