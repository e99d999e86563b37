//! Whoever finds no room or no message waits, and is woken when there is some.

use std::sync::atomic::Ordering::Relaxed as Lax;

use super::{Ended, Flow, Mailbox, Refused};
use crate::ring::Corrupt;
use crate::sync::{Lane, Peers, WaitBlock, wait_until};
use crate::sys::clock::Deadline;

impl Mailbox {
    /// Wakes a receiver, if one sleeps.
    #[inline]
    pub(super) fn tell_item(&self) {
        if self.items().has_sleepers(self.object.segment()) {
            self.wake(self.items());
        }
    }

    #[cold]
    pub(super) fn wake(&self, sleepers: &WaitBlock) {
        self.traffic.note_wake();
        sleepers.wake_one();
    }

    /// Looks how many messages wait.
    #[inline(never)]
    pub fn note_items(&self) {
        self.traffic.note_items(self.len());
    }

    #[cold]
    pub fn wait_for_room<R>(
        &self,
        lane: Lane,
        deadline: Deadline,
        stop: impl Fn() -> bool,
        mut attempt: impl FnMut() -> Result<R, Refused>,
    ) -> Result<R, Ended> {
        let segment = self.object.segment();
        segment.note_cpu(lane);
        self.traffic.note_wait();
        self.note_items();
        let attempt = || match attempt() {
            Ok(done) => Some(Ok(done)),
            Err(Refused::Failed(e)) => Some(Err(Ended::Failed(e))),
            Err(Refused::NotNow) => stop().then_some(Err(Ended::Stopped)),
        };
        let idle = || {
            self.bury_receivers();
            None
        };
        wait_until(self.space(), &self.put_pace, segment, None, deadline, attempt, idle).unwrap_or_else(|_| {
            let holder = self.ring().blocker().and_then(|l| segment.lane_holder(l));
            Err(Ended::Timeout(holder))
        })
    }

    /// Wakes one more receiver, if one sleeps and there is one more message. Each commit wakes one, but the message that it
    /// brought may be behind one still being written: whoever was woken then sleeps again, and when the one in front comes,
    /// all are ready and one was woken.
    #[inline]
    pub(super) fn pass_on(&self) {
        if self.items().has_sleepers(self.object.segment()) && self.ring().has_ready(&self.cache) {
            self.wake(self.items());
        }
    }

    /// Wakes a sender, if one sleeps and it is worth it: at a quarter of the ring or when nothing is left, so that sender and
    /// receiver on one CPU change places once for many messages.
    #[inline]
    pub(super) fn offer_room(&self, moved: bool) {
        let ring = self.ring();
        let peers = self.object.segment();
        if !self.space().has_sleepers(peers) {
            return;
        }
        if !moved && ring.reclaim().is_err() {
            return;
        }
        if self.numbers.max_items != 0 || ring.is_empty() || ring.has_room(self.numbers.granules / 4, u32::MAX) {
            self.wake(self.space());
        }
    }

    /// Waits until a message can be taken.
    pub fn ready(&self, lane: Lane, deadline: Deadline, stop: impl Fn() -> bool) -> Result<(), Ended> {
        let ended = self.wait_for_item(lane, deadline, stop, || self.has_ready().then_some(Ok(())));
        if ended.is_ok() {
            // The caller takes nothing, and may have been woken in the place of somebody who would.
            self.items().pass_on();
        }
        ended
    }

    /// Whether a message can be taken now.
    pub fn has_ready(&self) -> bool {
        // The first is quick to say no, the second sure to say yes.
        self.ring().has_ready(&self.cache) && self.ring().has_item()
    }

    /// Waits until `attempt` gives something.
    #[cold]
    pub fn wait_for_item<R>(
        &self,
        lane: Lane,
        deadline: Deadline,
        stop: impl Fn() -> bool,
        mut attempt: impl FnMut() -> Option<Result<R, Ended>>,
    ) -> Result<R, Ended> {
        let segment = self.object.segment();
        segment.note_cpu(lane);
        self.traffic.note_wait();
        let peer = segment.cpu_of(self.writer.load(Lax) as Lane);
        // What stops the wait is looked at first and acted on last: a message that was there before counts.
        let attempt = || {
            let stopped = stop();
            attempt().or_else(|| stopped.then_some(Err(Ended::Stopped)))
        };
        let idle = || {
            self.bury_senders();
            None
        };
        wait_until(self.items(), &self.get_pace, segment, peer, deadline, attempt, idle).unwrap_or_else(|_| {
            let holder = self.ring().pending().and_then(|l| segment.lane_holder(l));
            Err(Ended::Timeout(holder))
        })
    }

    /// Recovers the dead whom receivers wait for.
    pub fn bury_senders(&self) {
        if let Some(writer) = self.ring().pending() {
            self.object.segment().bury(writer);
        }
        // Who writes the next may be stopped, and what a dead one took be had instead.
        self.object.bury_openers();
    }

    /// Recovers the dead whom senders wait for.
    pub fn bury_receivers(&self) {
        if let Some(blocker) = self.ring().blocker() {
            self.object.segment().bury(blocker);
        }
        self.object.bury_openers();
    }

    /// How it stands, for those who find out that nothing moves.
    pub fn flow(&self) -> Result<Flow, Corrupt> {
        let ring = self.ring();
        if let Some(place) = ring.at_rest()? {
            return Ok(Flow::AtRest(place));
        }
        if ring.has_item() {
            return Ok(Flow::Open(ring.place_to_take()));
        }
        let holder = ring.blocker().and_then(|lane| self.object.segment().lane_holder(lane));
        Ok(Flow::Held(ring.place_to_take(), holder.map(|holder| holder.pid)))
    }

    /// Notes where the calling thread runs; where the next message is expected from.
    pub fn expect_item(&self) -> Option<u32> {
        let segment = self.object.segment();
        if let Ok(lane) = segment.lane() {
            segment.note_cpu(lane);
        }
        segment.cpu_of(self.writer.load(Lax) as Lane)
    }

    /// Wakes everybody who waits, to look at something new.
    pub fn wake_all(&self) {
        self.items().notify_all();
        self.space().notify_all();
    }
}
