//! What a waiter asks a ring before it sleeps, and whom it suspects when it wakes.

use core::sync::atomic::Ordering::Relaxed;

use super::cursor::Cursor;
use super::sides::{Form, Side};
use super::view::{Ring, RingCache};
use super::word::{PAD, READING, READY, REDO, WRITING, Word};

/// Looks at one place before the answer is taken to be in motion.
const LOOKS: usize = 4;

impl<P: Side, C: Side, F: Form> Ring<'_, P, C, F> {
    /// Records that wait to be taken, those still being written included.
    ///
    /// Exact for the moment of the call unless the ring moves all the time; stale at once if others use the ring. A
    /// record that will be taken again, because its taker died, was taken once and does not count.
    pub fn len(&self) -> usize {
        let mut rcur = self.rcur();
        for _ in 0..LOOKS {
            let tail = self.tail();
            let now = self.rcur();
            if now == rcur {
                return self.between(rcur, tail);
            }
            rcur = now;
        }
        self.between(rcur, self.tail())
    }

    /// Records from `rcur` to `tail`, which may be behind if its one producer does not say what it has committed.
    fn between(&self, rcur: Cursor, tail: Cursor) -> usize {
        if !P::MANY && tail.granules_since(rcur) > self.capacity() as u64 {
            return 0;
        }
        (tail.items_since(rcur) as usize).min(self.capacity())
    }

    /// Whether [`len`](Self::len) is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether [`take`](Self::take) is worth calling: false only if it would have found nothing. To be asked again after
    /// announcing a sleep.
    pub fn has_ready(&self, cache: &RingCache) -> bool {
        if !C::MANY {
            let (index, lap) = self.place(Cursor::from_bits(cache.next.load(Relaxed)).position());
            return self.load(self.ready_word(index)).is_of(lap);
        }
        if self.redo() != cache.redo_seen() {
            return true;
        }
        for _ in 0..LOOKS {
            let rcur = self.rcur();
            let (index, lap) = self.place(rcur.position());
            if self.load(self.ready_word(index)).is_of(lap) {
                return true;
            }
            if self.rcur() == rcur {
                return false;
            }
        }
        true
    }

    /// Whether there is a record that [`take`](Self::take) would give, at some moment of the call. Walks over the records
    /// that are taken and not yet reclaimed.
    pub fn has_item(&self) -> bool {
        if !C::MANY {
            return self.has_item_for_one();
        }
        let mut start = self.head();
        let mut at = start;
        for _ in 0..self.rounds() {
            let (index, lap) = self.place(at.position());
            let old = self.load(self.take_word(index));
            let ready = self.load(self.ready_word(index));
            if !ready.is_of(lap) {
                let head = self.head();
                if head == start {
                    return false;
                }
                // Finished and reused under us, or not: what was walked over is gone, so look again from the new head.
                (start, at) = (head, head);
                continue;
            }
            let untaken = !old.is_of(lap) || old.says(lap, REDO);
            if ready.state() == READY && untaken {
                return true;
            }
            // A damaged ring is reported by the call that follows.
            let Ok(n) = self.extent(index, ready, "ready") else { return true };
            at = at.advance(n, ready.state() != PAD);
        }
        true
    }

    /// Whether there is a record for the one consumer: behind what it has taken, or open and without a consumer.
    fn has_item_for_one(&self) -> bool {
        let mut at = if self.consumer() == 0 { self.head() } else { self.rcur() };
        for _ in 0..self.capacity() {
            let (index, lap) = self.place(at.position());
            let ready = self.load(self.ready_word(index));
            if !ready.is_of(lap) {
                return false;
            }
            // A damaged ring is reported by the call that follows.
            let Ok(n) = self.extent(index, ready, "ready") else { return true };
            if ready.state() == READY {
                return true;
            }
            at = at.advance(n, false);
        }
        true
    }

    /// Whether [`claim`](Self::claim) is worth calling: false only if it would have found the ring full. To be asked
    /// again after announcing a sleep; it reclaims what is done first.
    pub fn has_room(&self, n: u32, max_items: u32) -> bool {
        for _ in 0..LOOKS {
            // A damaged ring is reported by the call that follows.
            if self.settle().is_err() {
                return true;
            }
            let tail = self.tail();
            let (head, rcur) = (self.head(), self.rcur());
            let (index, lap) = self.place(tail.position());
            if P::MANY && self.load(self.claim_word(index)).is_of(lap) {
                return true;
            }
            let rest = (self.capacity() - index) as u64;
            let need = if n as u64 > rest { rest + n as u64 } else { n as u64 };
            if self.tail() != tail {
                continue;
            }
            let used = tail.granules_since(head);
            let limited = (max_items as usize) < self.capacity();
            if used > self.capacity() as u64 {
                return true;
            }
            return used + need <= self.capacity() as u64 && (!limited || tail.items_since(rcur) < max_items);
        }
        true
    }

    /// The place from which the next record will be taken.
    pub fn place_to_take(&self) -> Cursor {
        self.rcur()
    }

    /// The lane that consumers wait for: it has claimed the next record and not committed it.
    pub fn pending(&self) -> Option<u16> {
        if !P::MANY {
            let is_writing = self.reserved_records() > 0;
            return Some(self.producer()).filter(|lane| *lane != 0 && is_writing);
        }
        for _ in 0..LOOKS {
            let rcur = self.rcur();
            let (index, lap) = self.place(rcur.position());
            let claim = self.load(self.claim_word(index));
            let ready = self.load(self.ready_word(index));
            if self.rcur() == rcur {
                return (claim.says(lap, WRITING) && !ready.is_of(lap)).then(|| claim.lane());
            }
        }
        None
    }

    /// The lane that producers wait for: it is writing or reading the oldest record, or else the next one to be taken.
    pub fn blocker(&self) -> Option<u16> {
        for _ in 0..LOOKS {
            let head = self.head();
            let (index, lap) = self.place(head.position());
            let claim = if P::MANY { self.load(self.claim_word(index)) } else { Word(0) };
            let take = if C::MANY { self.load(self.take_word(index)) } else { Word(0) };
            let ready = self.load(self.ready_word(index));
            let rcur = self.rcur();
            if self.head() != head {
                continue;
            }
            if claim.says(lap, WRITING) && !ready.is_of(lap) {
                return Some(claim.lane());
            }
            if ready.says(lap, READY) && take.says(lap, READING) {
                return Some(take.lane());
            }
            if !C::MANY && ready.is_of(lap) && rcur.position() != head.position() {
                return Some(self.consumer()).filter(|lane| *lane != 0);
            }
            break;
        }
        self.pending()
    }
}
