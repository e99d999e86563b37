//! The slot ring: one producer, one consumer, slots of one size, and one cache line a message.
//!
//! # Words
//! ```text
//! slot[i]         sequence u64 | payload     multiples of 64 bytes; sequence == p + 1: the message of position p is there
//! producer.word   a position at or before the tail, at most `step` behind it
//! consumer.word   head << 1 | open           open: somebody has the message at head in hand
//! published       a position at or before the head, at most `quantum` behind it
//! ```
//! Positions count up from 0 for ever; position `p` has index `p % capacity`. A zeroed ring is empty.
//!
//! The flag travels in the line of the payload, so a message costs one transfer. The exact head has a line that nobody polls,
//! so acknowledging costs a store into a line that stays. The producer looks at `published`, when what it remembers of it is used
//! up, and at the exact head only when that gives no room.
//!
//! # Rules
//! 1. Between two looks at a slot by its consumer, its sequence is that of the lap before (0 in the first), or the wanted
//!    one; anything else is [`Corrupt`]. Likewise a head that is not within a capacity behind the tail.
//! 2. A slot is written only while `tail < head + capacity` was seen, and only from the producer's seat; it is read only after its
//!    sequence was seen, and before the head passes it, only from the consumer's seat.
//! 3. COMMIT is the store of the sequence; ACKNOWLEDGE is the store of the head. Hint and `published` follow them, never
//!    lead: so a successor finds the tail by walking from the hint, and the head where it stands.
//!
//! | killed | effect |
//! |---|---|
//! | producer before COMMIT | nothing to be seen |
//! | producer after COMMIT | delivered |
//! | consumer before ACKNOWLEDGE | the message is delivered again, marked if it was `open` |
//! | consumer after ACKNOWLEDGE | consumed |
//!
//! # Memory ordering
//! COMMIT is a Release, matched by the Acquire that looks at the sequence: with it comes the payload. Head and `published`
//! are Releases after the last look at the payload, matched by the producer's Acquire: what it writes there comes later. The
//! hint is Relaxed: it is read from a seat, and [`Seat`] orders it.
//!
//! Source: the sequence in the slot is D. Vyukov's
//! (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>); the lazily published index is that of
//! P. P. C. Lee et al., "A Lock-Free, Cache-Efficient Shared Ring Buffer" (ANCS 2009).

use core::mem::offset_of;

use super::block::Line;
use super::seat::{Seat, Side};
use super::stamped::Corrupt;
use crate::sys::atomic::{AtomicU64, Ordering, broken};
use Ordering::{Acquire, Relaxed, Release};

/// The words of a slot ring beside its slots, as they lie in a segment: 384 bytes.
#[repr(C)]
pub struct SlotBlock {
    producer: Side,
    consumer: Side,
    published: Line,
}

impl SlotBlock {
    /// Where the producer's and the consumer's [`Seat`] are in it.
    pub const SEATS: [usize; 2] = [offset_of!(SlotBlock, producer.seat), offset_of!(SlotBlock, consumer.seat)];

    /// The block of an empty ring, whose slots are zeroed.
    #[allow(clippy::new_without_default, reason = "a block is written into a segment, never made by default")]
    pub fn new() -> Self {
        Self { producer: Side::new(), consumer: Side::new(), published: Line(AtomicU64::new(0)) }
    }

    /// Its words, for tests that spoil them.
    #[cfg(test)]
    pub(super) fn words(&self) -> [&AtomicU64; 3] {
        [&self.producer.word, &self.consumer.word, &self.published.0]
    }
}

/// Where the producer stands: private to whoever has the seat.
#[derive(Debug)]
pub struct Writer {
    tail: u64,
    /// Positions before this one may be written.
    limit: u64,
}

/// Where the consumer stands: private to whoever has the seat.
#[derive(Debug)]
pub struct Reader {
    head: u64,
    published: u64,
    /// The message at `head` was in the hands of a consumer that did not acknowledge it.
    redelivered: bool,
}

impl Writer {
    /// Nowhere: finds no room. For ends that have no seat yet.
    pub const fn nowhere() -> Self {
        Self { tail: 0, limit: 0 }
    }

    /// The position that is written next.
    #[inline(always)]
    pub fn position(&self) -> u64 {
        self.tail
    }

    /// How many slots are known to be free, without a look at shared memory.
    #[inline(always)]
    pub fn room(&self) -> u64 {
        self.limit.wrapping_sub(self.tail)
    }
}

impl Reader {
    /// Nowhere. For ends that have no seat yet; to be replaced before it is used.
    pub const fn nowhere() -> Self {
        Self { head: 0, published: 0, redelivered: false }
    }

    /// The position that is read next.
    #[inline(always)]
    pub fn position(&self) -> u64 {
        self.head
    }

    /// Whether a consumer had the next message in hand and did not acknowledge it.
    #[inline(always)]
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }
}

/// How hard the producer looks for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At what the consumer publishes every eighth of the ring: for polling.
    Published,
    /// At the exact head as well, which the consumer writes for each message: before saying that the ring is full.
    Exact,
}

/// A view of a slot ring in shared memory. Copies are views of the same ring.
#[derive(Clone, Copy)]
pub struct Slots<'a> {
    control: &'a SlotBlock,
    /// `capacity * stride` words.
    words: &'a [AtomicU64],
    mask: u64,
    stride: usize,
    quantum: u64,
    step: u64,
}

impl<'a> Slots<'a> {
    /// The smallest ring, in slots.
    pub const MIN_CAPACITY: usize = 2;
    /// The largest ring, in slots.
    pub const MAX_CAPACITY: usize = 1 << 24;

    /// Views a ring of `capacity` slots that share `words` evenly. The first word of each is its sequence.
    ///
    /// # Errors
    /// If `capacity` is no power of two between [`MIN_CAPACITY`](Self::MIN_CAPACITY) and
    /// [`MAX_CAPACITY`](Self::MAX_CAPACITY), or the words cannot be shared evenly.
    pub fn new(control: &'a SlotBlock, words: &'a [AtomicU64], capacity: usize) -> Result<Self, Corrupt> {
        if !capacity.is_power_of_two() || !(Self::MIN_CAPACITY..=Self::MAX_CAPACITY).contains(&capacity) {
            return Err(Corrupt { field: "capacity", found: capacity as u64 });
        }
        if words.len() < capacity || words.len() % capacity != 0 {
            return Err(Corrupt { field: "words", found: words.len() as u64 });
        }
        let (quantum, step) = ((capacity as u64 / 8).max(1), (capacity as u64).min(32));
        Ok(Self { control, words, mask: capacity as u64 - 1, stride: words.len() / capacity, quantum, step })
    }

    /// Number of slots.
    #[inline(always)]
    pub fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// The index of the slot of `position`.
    #[inline(always)]
    pub fn index(&self, position: u64) -> usize {
        (position & self.mask) as usize
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
    fn sequence(&self, position: u64) -> &'a AtomicU64 {
        // SAFETY: the index is masked, so it is below the capacity, and there are `capacity * stride` words (checked when the
        // view was made, of private memory).
        unsafe { self.words.get_unchecked(self.index(position) * self.stride) }
    }

    fn head(&self) -> u64 {
        self.control.consumer.word.load(Acquire) >> 1
    }

    // ---- the producer

    /// Where the producer stands, for whoever has taken its seat: where the last one stopped.
    ///
    /// # Errors
    /// If the ring is damaged.
    pub fn writer(&self) -> Result<Writer, Corrupt> {
        let hint = self.control.producer.word.load(Relaxed);
        let mut tail = hint;
        if !broken("slots-successor-walks") {
            while self.sequence(tail).load(Acquire) == tail.wrapping_add(1) {
                tail = tail.wrapping_add(1);
                if tail.wrapping_sub(hint) > self.capacity() {
                    return Err(Corrupt { field: "hint", found: hint });
                }
            }
        }
        let mut writer = Writer { tail, limit: tail };
        self.limit_by(&mut writer, self.head(), 0, "head")?;
        Ok(writer)
    }

    /// Lets the writer go a capacity beyond `head`, which is at most `lag` old.
    #[inline]
    fn limit_by(&self, writer: &mut Writer, head: u64, lag: u64, field: &'static str) -> Result<(), Corrupt> {
        let waiting = writer.tail.wrapping_sub(head);
        if waiting > self.capacity() + lag {
            return Err(Corrupt { field, found: head });
        }
        if self.capacity().saturating_sub(waiting) > writer.room() {
            writer.limit = head.wrapping_add(self.capacity());
        }
        Ok(())
    }

    /// Looks for room; how many slots are free. One that only polls does not disturb the consumer with [`Look::Published`].
    ///
    /// # Errors
    /// If the ring is damaged.
    #[cold]
    pub fn look_for_room(&self, writer: &mut Writer, look: Look) -> Result<u64, Corrupt> {
        // Behind the head by a quantum, and by all of a batch while that is being acknowledged.
        self.limit_by(writer, self.control.published.0.load(Acquire), 2 * self.capacity(), "published")?;
        if writer.room() == 0 && look == Look::Exact {
            self.limit_by(writer, self.head(), 0, "head")?;
        }
        Ok(writer.room())
    }

    /// Commits the slot at the writer's position, whose payload is written. There was room.
    #[inline(always)]
    pub fn commit(&self, writer: &mut Writer) {
        debug_assert!(writer.room() > 0, "a commit without room");
        let next = writer.tail.wrapping_add(1);
        if broken("slots-hint-follows") {
            self.control.producer.word.store(next, Relaxed);
        }
        let order = if broken("slots-commit-releases") { Relaxed } else { Release };
        self.sequence(writer.tail).store(next, order);
        writer.tail = next;
        if next & (self.step - 1) == 0 {
            self.control.producer.word.store(next, Relaxed);
        }
    }

    // ---- the consumer

    /// Where the consumer stands, for whoever has taken its seat: where the last one stopped.
    pub fn reader(&self) -> Reader {
        let word = self.control.consumer.word.load(Acquire);
        let head = word >> 1;
        // What a dead consumer had acknowledged and not published yet.
        self.control.published.0.store(head, Release);
        Reader { head, published: head, redelivered: word & 1 == 1 }
    }

    /// Whether the message at the reader's position is there.
    ///
    /// # Errors
    /// If the slot is damaged.
    #[inline(always)]
    pub fn is_ready(&self, reader: &Reader) -> Result<bool, Corrupt> {
        self.is_ready_at(reader.head)
    }

    /// As [`is_ready`](Self::is_ready), of the message `behind` positions later. All before it were ready.
    ///
    /// # Errors
    /// If the slot is damaged.
    #[inline(always)]
    pub fn is_ready_behind(&self, reader: &Reader, behind: u64) -> Result<bool, Corrupt> {
        if behind >= self.capacity() { Ok(false) } else { self.is_ready_at(reader.head.wrapping_add(behind)) }
    }

    #[inline(always)]
    fn is_ready_at(&self, position: u64) -> Result<bool, Corrupt> {
        let found = self.sequence(position).load(Acquire);
        let wanted = position.wrapping_add(1);
        if found == wanted {
            Ok(true)
        } else if found == wanted.saturating_sub(self.capacity()) {
            Ok(false)
        } else {
            Err(damaged(found))
        }
    }

    /// Notes that the message at the reader's position is in somebody's hand: if it dies, the next one is told.
    #[inline(always)]
    pub fn open(&self, reader: &Reader) {
        if !broken("slots-open-is-marked") {
            // Release, as it hides the acknowledgement before it from a producer that looks now.
            let order = if broken("slots-open-releases") { Relaxed } else { Release };
            self.control.consumer.word.store(reader.head << 1 | 1, order);
        }
    }

    /// Takes that back.
    #[inline(always)]
    pub fn close(&self, reader: &Reader) {
        self.control.consumer.word.store(reader.head << 1 | u64::from(reader.redelivered), Release);
    }

    /// Acknowledges `n` messages from the reader's position on, which were ready and have been copied out.
    #[inline(always)]
    pub fn release(&self, reader: &mut Reader, n: u64) {
        let head = reader.head.wrapping_add(n);
        if broken("slots-published-follows") {
            self.control.published.0.store(head, Release);
        }
        let order = if broken("slots-release-releases") { Relaxed } else { Release };
        self.control.consumer.word.store(head << 1, order);
        reader.head = head;
        reader.redelivered = false;
        if head.wrapping_sub(reader.published) >= self.quantum {
            self.publish(reader, order);
        }
    }

    #[inline(always)]
    fn publish(&self, reader: &mut Reader, order: Ordering) {
        self.control.published.0.store(reader.head, order);
        reader.published = reader.head;
    }

    /// Publishes the head, and says whether it is worth waking a producer that sleeps for room: a quarter of the ring is free,
    /// or all of it. So on one CPU the two change places once for many messages.
    #[cold]
    pub fn offer_room(&self, reader: &mut Reader) -> bool {
        if reader.published != reader.head {
            self.publish(reader, Release);
        }
        let is_there = |behind: u64| {
            let position = reader.head.wrapping_add(behind);
            self.sequence(position).load(Relaxed) == position.wrapping_add(1)
        };
        !is_there(self.capacity() - (self.capacity() / 4).max(1)) || !is_there(0)
    }

    // ---- anybody

    /// Messages that wait. Exact for a moment of the call if nobody uses the ring meanwhile.
    pub fn len(&self) -> u64 {
        let head = self.head();
        // Messages are committed in order, so the first that is not there ends them.
        let (mut there, mut end) = (0, self.capacity());
        while there < end {
            let middle = (there + end) / 2;
            let position = head.wrapping_add(middle);
            // A later lap, if the head has moved meanwhile, was committed too.
            if self.sequence(position).load(Acquire).wrapping_sub(position.wrapping_add(1)) < 1 << 62 {
                there = middle + 1;
            } else {
                end = middle;
            }
        }
        there
    }

    /// Whether [`len`](Self::len) is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Messages that a dead consumer had in hand: they will be delivered again.
    pub fn count(&self, dead: &dyn Fn(u16) -> bool) -> u32 {
        u32::from(self.consumer().is_held_by(dead) && self.control.consumer.word.load(Acquire) & 1 == 1)
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

#[cold]
#[inline(never)]
fn damaged(found: u64) -> Corrupt {
    Corrupt { field: "sequence", found }
}
