//! The readers-writer lock: a lock word for the writer, a bit for every reader.
//!
//! A reader sets its bit, then looks at the writer's word; a writer takes the word, then looks at the bits (Dekker). So
//! they see each other whoever comes first: the reader withdraws, the writer waits for the bits to go. From the moment it
//! has the word no new reader gets in, so a writer waits for those who are inside and for no one else. A thread that reads
//! already reads again without asking, so it never waits for a writer that waits for it.
//!
//! # Turns
//! A reader that has to wait asks for a turn, by a bit in the word that is held. The writer that gives the word back leaves
//! the bit there: then writers sleep until a reader that waited has come in. So writers that follow each other without a
//! pause keep a reader out for the rest of one turn. A writer waits for no more than 5 ms, in case that who asked was killed
//! or stopped; taking the word ends the readers' turn. Readers that did not have to wait do not look at any of this.
//!
//! `counts[lane]` tells how often the lane reads. Only that lane writes it, while its bit is set.
//!
//! | killed | left behind | outcome |
//! |---|---|---|
//! | a reader, from its bit on | the bit | recovery clears count and bit |
//! | a writer, from the CAS on its word on | its lane in the word | recovery marks that; the next writer and all readers are told |
//!
//! # Memory ordering
//! Both sides of Dekker's pattern are a read-modify-write and [`rmw_fence`]. A writer's swap (Release) matches the
//! reader's look at the word (Acquire); a reader's `remove` (Release) matches the writer's look at the bits (Acquire).

use super::lanes::LaneSet;
use super::mutex::{Locked, MutexBlock};
use super::owner::{IsDead, Lane, NOBODY, Peers};
use super::wait::{Pace, TimedOut, WaitBlock, wait_until};
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering, broken, rmw_fence};
use crate::sys::clock::Deadline;

/// The words of a readers-writer lock.
#[derive(Clone, Copy)]
pub struct RwLockWords<'a> {
    /// The writer's lock word.
    pub writer: &'a MutexBlock,
    /// Lanes that read: one bit each.
    pub readers: &'a [AtomicU64],
    /// How often each lane reads.
    pub counts: &'a [AtomicU32],
    /// Readers sleep here for the writer to go.
    pub may_read: &'a WaitBlock,
    /// The writer sleeps here for the readers to go.
    pub may_write: &'a WaitBlock,
}

impl<'a> RwLockWords<'a> {
    fn set(&self) -> LaneSet<'a> {
        LaneSet(self.readers)
    }

    fn count(&self, lane: Lane) -> &'a AtomicU32 {
        &self.counts[usize::from(lane)]
    }

    /// Whether the lane reads. Only that lane's thread gets an answer that lasts.
    pub fn is_reading(&self, me: Lane) -> bool {
        self.count(me).load(Ordering::Relaxed) > 0 && self.set().contains(me, Ordering::Relaxed)
    }

    /// Lanes that read now.
    pub fn readers(&self) -> impl Iterator<Item = Lane> + use<'a> {
        let set = self.set();
        let mut lanes: Vec<Lane> = set.iter().collect();
        lanes.sort_unstable();
        lanes.into_iter()
    }

    /// Reads if no writer has the lock or waits for the readers to go.
    #[inline]
    pub fn try_read(&self, me: Lane, peers: &impl Peers) -> Option<Locked> {
        let (holder, locked) = self.writer.look();
        let count = self.count(me);
        let times = count.load(Ordering::Relaxed);
        // A count without the bit is damage, and is overwritten below.
        if times > 0 && self.set().contains(me, Ordering::Relaxed) {
            count.store(times.saturating_add(1), Ordering::Relaxed);
            return Some(locked);
        }
        if holder != NOBODY {
            return None;
        }
        self.set().insert(me, Ordering::AcqRel);
        if !broken("rwlock: read without the fence") {
            rmw_fence();
        }
        match self.writer.look() {
            (NOBODY, locked) => {
                count.store(1, Ordering::Relaxed);
                Some(locked)
            }
            _ => {
                self.leave(me, peers);
                None
            }
        }
    }

    /// Reads, waiting for writers until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`].
    pub fn read(&self, me: Lane, pace: &Pace, peers: &impl Peers, deadline: Deadline) -> Result<Locked, TimedOut> {
        let idle = || {
            self.writer.question(peers);
            None
        };
        let cpu = peers.cpu_of(self.writer.holder());
        let read = wait_until(self.may_read, pace, peers, cpu, deadline, || self.try_read_or_ask(me, peers), idle);
        read.inspect_err(|_| self.writer.end_turn())
    }

    /// Reads, or asks for the readers' turn.
    fn try_read_or_ask(&self, me: Lane, peers: &impl Peers) -> Option<Locked> {
        loop {
            if let Some(locked) = self.try_read(me, peers) {
                self.writer.end_turn();
                return Some(locked);
            }
            if self.writer.ask_for_turn() {
                return None;
            }
        }
    }

    /// Ends one read of the lane.
    #[inline]
    pub fn unlock_read(&self, me: Lane, peers: &impl Peers) {
        let count = self.count(me);
        let times = count.load(Ordering::Relaxed);
        count.store(times.saturating_sub(1), Ordering::Relaxed);
        if times <= 1 {
            self.leave(me, peers);
        }
    }

    fn leave(&self, me: Lane, peers: &impl Peers) {
        self.set().remove(me, Ordering::Release);
        if !broken("rwlock: leave without waking the writer") {
            self.may_write.notify(peers);
        }
    }

    /// Takes the lock for writing if nobody has it.
    pub fn try_write(&self, me: Lane, peers: &impl Peers) -> Option<Locked> {
        if !self.set().is_empty() {
            return None;
        }
        let locked = self.writer.try_lock(me)?;
        if self.is_free_of_readers() {
            return Some(locked);
        }
        self.unlock_write(locked == Locked::Clean, peers);
        None
    }

    /// Called with the writer's word taken: the other side of Dekker's pattern.
    fn is_free_of_readers(&self) -> bool {
        if broken("rwlock: write without looking for readers") {
            return true;
        }
        rmw_fence();
        self.set().is_empty()
    }

    /// Takes the lock for writing, waiting until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`].
    pub fn write(&self, me: Lane, pace: &Pace, peers: &impl Peers, deadline: Deadline) -> Result<Locked, TimedOut> {
        let locked = self.writer.lock(me, peers, deadline)?;
        if self.is_free_of_readers() {
            return Ok(locked);
        }
        let idle = || {
            self.set().iter().for_each(|lane| {
                if !peers.bury(lane) && !peers.is_lane(lane) {
                    self.set().remove(lane, Ordering::Relaxed);
                }
            });
            None
        };
        let gone = || self.set().is_empty().then_some(locked);
        wait_until(self.may_write, pace, peers, None, deadline, gone, idle).inspect_err(|_| {
            self.unlock_write(locked == Locked::Clean, peers);
        })
    }

    /// Gives the lock back that the caller has for writing. `consistent` false keeps the mark that an owner died.
    #[inline]
    pub fn unlock_write(&self, consistent: bool, peers: &impl Peers) {
        self.writer.unlock_to_readers(consistent);
        if !broken("rwlock: unlock without waking readers") {
            self.may_read.notify_sleepers(peers);
        }
    }

    /// Ends everything that dead lanes had. True if a writer was among them.
    pub fn recover(&self, dead: IsDead<'_>) -> bool {
        for lane in self.set().iter().filter(|lane| dead(*lane)) {
            self.count(lane).store(0, Ordering::Relaxed);
            if !broken("rwlock: leave the bits of the dead") {
                self.set().remove(lane, Ordering::Release);
            }
        }
        // One of the dead may have asked for it.
        self.writer.cancel_turn();
        self.writer.recover(dead)
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "only the models go through here")]
pub(super) mod model_doors {
    use super::*;

    impl RwLockWords<'_> {
        /// A whole read without spinning or deadline.
        pub(in crate::sync) fn read_at_once(&self, me: Lane, peers: &impl Peers) -> Locked {
            let mut got = None;
            self.may_read.sleep_until(peers, || {
                got = self.try_read_or_ask(me, peers);
                got.is_some()
            });
            got.unwrap()
        }

        /// A whole write without spinning or deadline.
        pub(in crate::sync) fn write_at_once(&self, me: Lane, peers: &impl Peers) -> Locked {
            let locked = self.writer.lock_at_once(me, peers);
            if !self.is_free_of_readers() {
                self.may_write.sleep_until(peers, || self.set().is_empty());
            }
            locked
        }
    }
}
