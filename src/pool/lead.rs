//! Who of those that wait reads for all of them.
//!
//! Of the threads that wait for results one *leads*: it has the lock [`desk`](Lead::desk), and reads. The others *follow*: they
//! sleep in the *hall*, on its condition variable. The pool's own thread *stands by*: it leads when nobody else has come for a
//! while, and gives way to whoever comes.
//!
//! 1. A follower counts itself in `followers`, passes a fence, asks whether it is done, and tries to lead once more. Whoever leads
//!    passes a fence after each message, and again when it has stopped leading, and then looks at `followers`. So either the
//!    follower finds what is new, or the leader finds the follower. The same goes for the pool's own thread and `stands_by`;
//!    but that only wants to know when nobody leads.
//! 2. A follower has the hall from before it counts itself until it sleeps. Whoever wakes it has had the hall in between.
//! 3. What changes besides messages is told by [`look_again`](Lead::look_again): the leader is sent a message without meaning,
//!    after which it asks, and followers are woken. If there is no room for that message, there are others which the leader
//!    has not read yet: whoever changes something passes a fence before it looks for room, and the leader one between making
//!    room and asking. So either the one finds room, or the other finds the change.
//! 4. `own_leads` is the own thread's alone, which sets it before it gives back the hall. So whoever finds in the hall that the
//!    own thread leads finds this, too, and asks it to give way.
//!
//! `models.rs` has the models.

use std::time::Duration;

use crate::sys::atomic::Ordering::{self, Relaxed};
use crate::sys::atomic::{AtomicU32, AtomicU64, broken, fence};
use crate::sys::clock::Deadline;
use crate::sys::monitor::{Condvar, Mutex, MutexGuard, TryLock, TryLockGuard};

/// What is read.
pub(super) trait Source {
    /// Where it is put. Whoever leads has it.
    type Desk;

    /// Waits for a message and deals with it, and perhaps with others that are there; whether there was one. May come back
    /// for no reason.
    fn read(&self, desk: &mut Self::Desk, deadline: Deadline, is_done: &dyn Fn() -> bool) -> bool;

    /// As [`read`](Self::read), without waiting.
    fn try_read(&self, desk: &mut Self::Desk) -> bool;

    /// Puts a message that says nothing, unless there is no room.
    fn nudge(&self);
}

/// Who leads, who follows, and what is in the hall.
pub(super) struct Lead<D, H> {
    /// Whoever has it leads.
    desk: TryLock<D>,
    /// Whether the pool's own thread leads, and who else wants to.
    own_leads: AtomicU32,
    give_way: AtomicU32,
    /// How often somebody has led.
    visits: AtomicU64,
    /// The pool's own thread wants to be told when nobody leads.
    stands_by: AtomicU32,
    /// It sleeps because there is nothing to be read for anybody.
    own_sleeps: AtomicU32,
    followers: AtomicU32,
    hall: Mutex<H>,
    news: Condvar,
}

impl<D, H> Lead<D, H> {
    pub fn new(desk: D, hall: H) -> Self {
        Self {
            desk: TryLock::new(desk),
            own_leads: AtomicU32::new(0),
            give_way: AtomicU32::new(0),
            visits: AtomicU64::new(0),
            stands_by: AtomicU32::new(0),
            own_sleeps: AtomicU32::new(0),
            followers: AtomicU32::new(0),
            hall: Mutex::new(hall),
            news: Condvar::new(),
        }
    }

    /// The hall, in which nobody goes to sleep meanwhile.
    pub fn hall(&self) -> MutexGuard<'_, H> {
        self.hall.lock()
    }

    /// Wakes everybody in the hall. Whoever goes to sleep there at this moment has to find what is new there, too.
    pub fn wake(&self) {
        self.news.notify_all();
    }

    /// Wakes everybody who was in the hall before.
    fn wake_hall(&self) {
        if !broken("lead: wake past the hall") {
            drop(self.hall());
        }
        self.wake();
    }

    /// Waits until `is_done`, which is asked after every message and every change that is told of; whether it came true in
    /// time.
    pub fn wait_until(&self, source: &impl Source<Desk = D>, is_done: &dyn Fn() -> bool, deadline: Deadline) -> bool {
        loop {
            if is_done() {
                return true;
            }
            if let Some(mut desk) = self.desk.try_lock() {
                let ended = self.lead_until(source, is_done, &mut desk, deadline, false);
                self.hand_over(desk);
                if let Some(done) = ended {
                    return done;
                }
            }
            if !self.follow(source, is_done, deadline) {
                return is_done();
            }
        }
    }

    /// Reads until `is_done`; `None` if somebody else wants to lead.
    fn lead_until(
        &self,
        source: &impl Source<Desk = D>,
        is_done: &dyn Fn() -> bool,
        desk: &mut D,
        deadline: Deadline,
        own: bool,
    ) -> Option<bool> {
        loop {
            if is_done() {
                return Some(true);
            }
            if own && self.give_way.swap(0, Relaxed) != 0 {
                return None;
            }
            if source.read(desk, deadline, is_done) {
                self.tell();
            } else if deadline.passed() {
                return Some(is_done());
            }
        }
    }

    /// Tells followers that a message was dealt with.
    #[inline]
    fn tell(&self) {
        if !broken("lead: tell without the fence") {
            // Matches those of the followers (rule 1) and of who nudges (rule 3).
            fence(Ordering::SeqCst);
        }
        if self.followers.load(Relaxed) > 0 && !broken("lead: tell nobody") {
            self.wake_hall();
        }
    }

    /// Sleeps until there is news; whether it makes sense to look again.
    fn follow(&self, source: &impl Source<Desk = D>, is_done: &dyn Fn() -> bool, deadline: Deadline) -> bool {
        let mut hall = self.hall();
        self.followers.fetch_add(1, Relaxed);
        if !broken("lead: follow without the fence") {
            // Matches those of the leader (rule 1).
            fence(Ordering::SeqCst);
        }
        let asks = self.own_leads.load(Relaxed) != 0 && self.give_way.swap(1, Relaxed) == 0;
        if asks && !broken("lead: ask nobody to give way") {
            self.nudge(source);
        }
        let mut again = true;
        if !is_done() && (broken("lead: try only once") || self.desk.try_lock().is_none()) {
            match deadline.left_ns() {
                None => hall = self.news.wait(hall),
                Some(0) => again = false,
                Some(nanos) => hall = self.news.wait_timeout(hall, Duration::from_nanos(nanos)),
            }
        }
        self.followers.fetch_sub(1, Relaxed);
        drop(hall);
        again
    }

    /// Leads no more, and tells those who may want to.
    fn hand_over(&self, desk: TryLockGuard<'_, D>) {
        drop(desk);
        self.visits.fetch_add(1, Relaxed);
        if broken("lead: let everybody say that the own thread leads no more") {
            self.own_leads.store(0, Relaxed);
        }
        if !broken("lead: hand over without the fence") {
            // Matches those of the followers and of who stands by (rule 1).
            fence(Ordering::SeqCst);
        }
        let stands_by = self.stands_by.load(Relaxed) != 0 && !broken("lead: forget who stands by");
        if (self.followers.load(Relaxed) > 0 || stands_by) && !broken("lead: hand over to nobody") {
            self.wake_hall();
        }
    }

    /// Makes everybody who waits ask again whether it is done.
    pub fn look_again(&self, source: &impl Source) {
        if !broken("lead: look again without the leader") {
            self.nudge(source);
        }
        self.wake_hall();
    }

    /// Makes whoever leads ask again (rule 3).
    fn nudge(&self, source: &impl Source) {
        if !broken("lead: nudge without the fence") {
            // Matches the leader's after a message: either it finds what was changed, or we find the room that it made.
            fence(Ordering::SeqCst);
        }
        source.nudge();
    }

    /// Reads what is there, unless somebody leads.
    pub fn read_what_is_there(&self, source: &impl Source<Desk = D>) {
        if let Some(mut desk) = self.desk.try_lock() {
            while source.try_read(&mut desk) {
                self.tell();
            }
            self.hand_over(desk);
        }
    }

    /// The pool's own thread leads until `is_done` or until somebody comes who wants to, if nobody has for a while. While
    /// somebody leads it sleeps, and is no follower, who would be woken for each message.
    pub fn stand_by(
        &self,
        source: &impl Source<Desk = D>,
        hall: MutexGuard<'_, H>,
        is_done: &dyn Fn() -> bool,
        grace: Duration,
        deadline: Deadline,
    ) {
        let visits = self.visits.load(Relaxed);
        let hall = self.news.wait_timeout(hall, grace);
        if is_done() || self.visits.load(Relaxed) != visits {
            return;
        }
        if let Some(mut desk) = self.desk.try_lock() {
            if broken("lead: say late that the own thread leads") {
                drop(hall);
                self.own_leads.store(1, Relaxed);
            } else {
                self.own_leads.store(1, Relaxed);
                drop(hall);
            }
            self.lead_until(source, is_done, &mut desk, deadline, true);
            self.own_leads.store(0, Relaxed);
            self.hand_over(desk);
            return;
        }
        self.stands_by.store(1, Relaxed);
        if !broken("lead: stand by without the fence") {
            // Matches that of whoever has stopped leading (rule 1).
            fence(Ordering::SeqCst);
        }
        if broken("lead: stand by without a second try") || self.desk.try_lock().is_none() {
            let left = Duration::from_nanos(deadline.left_ns().unwrap_or(u64::MAX));
            drop(self.news.wait_timeout(hall, left));
        }
        self.stands_by.store(0, Relaxed);
    }

    /// The pool's own thread sleeps, if there is nothing to be read for anybody, until there is.
    pub fn rest(&self, hall: MutexGuard<'_, H>, is_idle: &dyn Fn() -> bool) {
        self.own_sleeps.store(1, Relaxed);
        // Matches the lock under which `is_idle` changes, before `rouse`.
        fence(Ordering::SeqCst);
        if is_idle() {
            drop(self.news.wait(hall));
        }
        self.own_sleeps.store(0, Relaxed);
    }

    /// The pool's own thread is not idle any more.
    #[inline]
    pub fn rouse(&self) {
        if self.own_sleeps.load(Relaxed) != 0 && self.own_sleeps.swap(0, Relaxed) != 0 {
            self.wake_hall();
        }
    }
}
