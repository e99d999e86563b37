//! Results come in.
//!
//! There is no thread that all results pass through. Of the threads that wait, one leads: it reads the queue of results,
//! for all. The others follow, and one of them leads when the leader has what it waited for. A thread of the pool's own
//! leads when there are callbacks to be run, or when nobody else has come for a millisecond, so that workers never wait for
//! room; it makes way for others.

use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use std::sync::atomic::fence;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use super::audit::PERIOD;
use super::error::TaskError;
use super::guard::contained;
use super::message::{AnswerHead, HEAD, Word};
use super::owner::{Owner, locked};
use crate::channel::RawRefused;
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::process::Panic;
use crate::sys::clock::Deadline;

/// How long the pool's own thread lets others come for their results before it reads them.
const GRACE: Duration = Duration::from_millis(1);

impl Owner {
    /// Waits until `is_done`, which is asked after every result and every change of state; whether it came true in time.
    pub fn wait_until(&self, is_done: &dyn Fn() -> bool, deadline: Deadline) -> bool {
        self.wait_for(is_done, deadline, false)
    }

    /// The buffer of whoever leads, if nobody does.
    fn try_lead(&self) -> Option<MutexGuard<'_, Vec<u8>>> {
        match self.lead.try_lock() {
            Ok(buffer) => Some(buffer),
            Err(TryLockError::Poisoned(buffer)) => Some(buffer.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn wait_for(&self, is_done: &dyn Fn() -> bool, deadline: Deadline, own: bool) -> bool {
        loop {
            if is_done() {
                return true;
            }
            if let Some(mut buffer) = self.try_lead() {
                self.own_leads.store(own, Relaxed);
                let ended = self.lead_until(is_done, &mut buffer, deadline, own);
                drop(buffer);
                self.hand_over();
                match ended {
                    Some(done) => return done,
                    // Somebody else wants to, who is faster if this one does not come back at once.
                    None => return is_done(),
                }
            }
            if !self.follow(is_done, deadline, own) {
                return is_done();
            }
        }
    }

    /// Reads results until `is_done`; `None` if somebody else wants to lead.
    fn lead_until(
        &self,
        is_done: &dyn Fn() -> bool,
        buffer: &mut Vec<u8>,
        deadline: Deadline,
        own: bool,
    ) -> Option<bool> {
        loop {
            if is_done() {
                return Some(true);
            }
            if own && self.give_way.swap(false, Relaxed) {
                return None;
            }
            match self.results.get_encoded(buffer, deadline, || self.waits_on() && is_done()) {
                Ok(_came) => self.read(buffer),
                Err(RawRefused::Timeout) if deadline.passed() => return Some(is_done()),
                Err(RawRefused::Timeout | RawRefused::Stopped) => {}
                Err(RawRefused::Failed(error)) => self.break_off(TaskError::failed(error)),
            }
        }
    }

    /// Sleeps until there is news; whether it makes sense to look again.
    fn follow(&self, is_done: &dyn Fn() -> bool, deadline: Deadline, own: bool) -> bool {
        let mut hall = locked(&self.hall);
        self.followers.fetch_add(1, Relaxed);
        // Whoever leads looks for followers after each result, and after it has stopped leading.
        fence(Ordering::SeqCst);
        if !own && self.own_leads.load(Relaxed) && !self.give_way.swap(true, Relaxed) {
            self.nudge();
        }
        let mut again = true;
        if !is_done() && self.try_lead().is_none() {
            match deadline.left_ns() {
                None => hall = self.news.wait(hall).unwrap_or_else(PoisonError::into_inner),
                Some(0) => again = false,
                Some(nanos) => {
                    let waited = self.news.wait_timeout(hall, Duration::from_nanos(nanos));
                    hall = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        self.followers.fetch_sub(1, Relaxed);
        drop(hall);
        again
    }

    /// Tells followers that there is news, or nobody leads.
    fn hand_over(&self) {
        self.own_leads.store(false, Relaxed);
        fence(Ordering::SeqCst);
        if self.followers.load(Relaxed) > 0 {
            drop(locked(&self.hall));
            self.news.notify_all();
        }
    }

    /// Makes everybody who waits ask again whether it is done.
    pub fn look_again(&self) {
        self.nudge();
        drop(locked(&self.hall));
        self.news.notify_all();
    }

    /// Makes whoever leads ask again.
    fn nudge(&self) {
        let look = AnswerHead::of_worker(Word::Look, 0).with(&[]);
        // If there is no room, there is enough to be read.
        let _ = self.results.put_encoded(&look, &mut None, Deadline::after(Duration::ZERO), || false);
    }

    /// Reads results that are there, unless somebody leads.
    pub fn read_what_is_there(&self) {
        if let Some(mut buffer) = self.try_lead() {
            while let Ok(_came) = self.results.try_get_encoded(&mut buffer) {
                self.read(&buffer);
            }
            drop(buffer);
            self.hand_over();
        }
    }

    /// Deals with a message.
    fn read(&self, message: &[u8]) {
        let Some(AnswerHead { word, ticket, nanos }) = AnswerHead::read(message) else { return };
        let rest = &message[HEAD..];
        match word {
            Word::Returned => drop(self.resolve(ticket, Ok(rest), nanos)),
            Word::Panicked => drop(self.resolve(ticket, Err(panicked(rest)), nanos)),
            Word::Unsendable => drop(self.resolve(ticket, Err(unsendable(rest)), nanos)),
            Word::Ready => locked(&self.ready).push(ticket.generation),
            Word::Hopeless => {
                self.break_off(TaskError::Broken { reason: String::from_utf8_lossy(rest).into_owned() });
            }
            Word::Died => self.bury(ticket.generation),
            Word::Look => {}
        }
        fence(Ordering::SeqCst);
        if self.followers.load(Relaxed) > 0 {
            drop(locked(&self.hall));
            self.news.notify_all();
        }
    }

    /// Runs callbacks, and reads results when nobody else does, until [`dismiss`](Self::dismiss).
    pub fn serve(&self) {
        // Nobody else sets it.
        let _ = self.own.set(thread::current().id());
        let mut look = Deadline::after(PERIOD);
        loop {
            let mut hall = locked(&self.hall);
            if let Some(callback) = hall.pop_front() {
                self.called.store(hall.len(), Release);
                drop(hall);
                contained(callback);
                self.calls.fetch_sub(1, Release);
                self.look_again();
                continue;
            }
            if self.leave.load(Acquire) {
                return;
            }
            if self.calling_back.load(Acquire) == 0 {
                if self.under_way() == 0 {
                    self.own_sleeps.store(true, Relaxed);
                    fence(Ordering::SeqCst);
                    if self.under_way() == 0 {
                        drop(self.news.wait(hall).unwrap_or_else(PoisonError::into_inner));
                    }
                    self.own_sleeps.store(false, Relaxed);
                    look = Deadline::after(PERIOD);
                    continue;
                }
                // Whoever wants a result reads it himself, if he comes at once.
                hall = self.news.wait_timeout(hall, GRACE).unwrap_or_else(PoisonError::into_inner).0;
            }
            drop(hall);
            let is_called = || self.called.load(Acquire) > 0 || self.leave.load(Acquire);
            let is_done = || is_called() || self.under_way() == 0;
            let own = self.calling_back.load(Acquire) == 0;
            self.wait_for(&is_done, look, own);
            if look.passed() {
                // Tasks have been under way for long: whoever looks after the workers looks after them, too.
                self.bell.ring();
                look = Deadline::after(PERIOD);
            }
        }
    }

    /// Ends the pool's own thread, when it has run all callbacks.
    pub fn dismiss(&self) {
        self.leave.store(true, Release);
        self.look_again();
    }
}

fn panicked(bytes: &[u8]) -> TaskError {
    match codec::decode::<Panic>(bytes) {
        Ok(panic) => panic.into(),
        Err(error) => TaskError::Result(Arc::new(error)),
    }
}

fn unsendable(bytes: &[u8]) -> TaskError {
    let error = match codec::decode::<String>(bytes) {
        Ok(text) => Error::new(ErrorKind::Codec, "send result", text),
        Err(error) => error,
    };
    TaskError::Result(Arc::new(error))
}
