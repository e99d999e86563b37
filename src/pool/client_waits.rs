//! The threads of a process that wait for results of a pool which another process has.
//!
//! Of those that wait one leads: it reads the replies, for all. The others follow, and one of them leads when the leader has
//! what it waited for. Whoever leads also finds out that the owner is gone. Callbacks are run by a thread that is there as long
//! as any are to come; while none is there to be run, it waits as others do.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::{Callback, Client, Line};
use super::error::TaskError;
use super::guard::contained;
use super::owner::locked;
use super::report::{Outcome, REPLY_HEAD, Reply, read_error};
use crate::channel::RawRefused;
use crate::error::Error;
use crate::sys::clock::Deadline;
use crate::sys::poll::start_thread;

/// How long whoever waits sleeps until it asks whether the owner lives.
const LOOK: Duration = Duration::from_millis(64);

/// Where the threads of this process meet that wait for results.
#[derive(Default)]
pub(super) struct Hall {
    /// Somebody reads replies.
    led: bool,
    followers: usize,
    callbacks: VecDeque<Callback>,
    /// There is a thread for callbacks.
    has_caller: bool,
}

/// Waiting.
impl Client {
    /// Waits until `is_done`, which is asked after every reply; whether it came true in time.
    pub fn wait_until(&self, is_done: &dyn Fn() -> bool, deadline: Deadline) -> bool {
        let mut hall = locked(&self.hall);
        loop {
            if is_done() {
                return true;
            }
            if !hall.led {
                hall.led = true;
                drop(hall);
                let done = self.lead_until(is_done, deadline);
                locked(&self.hall).led = false;
                self.news.notify_all();
                return done;
            }
            hall.followers += 1;
            hall = match deadline.left_ns() {
                None => self.news.wait(hall).unwrap_or_else(PoisonError::into_inner),
                Some(0) => {
                    hall.followers -= 1;
                    return false;
                }
                Some(nanos) => {
                    let waited = self.news.wait_timeout(hall, Duration::from_nanos(nanos));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            hall.followers -= 1;
        }
    }

    fn lead_until(&self, is_done: &dyn Fn() -> bool, deadline: Deadline) -> bool {
        let Ok(line) = self.line() else { return is_done() };
        let mut buffer = locked(&self.buffer);
        let stop = || self.nudged.load(Acquire) || self.is_cut_off(line);
        loop {
            if is_done() {
                return true;
            }
            match line.replies.get_encoded(&mut buffer, deadline.min(Deadline::after(LOOK)), stop) {
                Ok(came) => came.during(|| self.read(&buffer)),
                Err(RawRefused::Timeout) if deadline.passed() => return is_done(),
                // It may be dead with a request in hand that nobody else waits for.
                Err(RawRefused::Timeout) => self.reach.requests.bury(),
                Err(RawRefused::Stopped) if self.nudged.swap(false, Acquire) => {}
                Err(RawRefused::Stopped) => {
                    self.break_off(&self.owner_gone());
                    return is_done();
                }
                Err(RawRefused::Failed(error)) => {
                    self.break_off(&TaskError::failed(error));
                    return is_done();
                }
            }
        }
    }

    /// Whether no reply comes any more. One that has ended the pool may still send what it has kept for this process; one that
    /// has not read that this process exists never will.
    fn is_cut_off(&self, line: &Line) -> bool {
        self.is_owner_gone() && !line.replies.is_peer_at_hand()
    }

    /// Reads replies that are there, unless somebody leads.
    pub fn read_what_is_there(&self) {
        let Some(line) = self.own_line() else { return };
        {
            let mut hall = locked(&self.hall);
            if hall.led {
                return;
            }
            hall.led = true;
        }
        self.reach.requests.bury();
        let mut buffer = locked(&self.buffer);
        loop {
            // Looked at first: what was sent before counts.
            let cut_off = self.is_cut_off(line);
            match line.replies.try_get_encoded(&mut buffer) {
                Ok(came) => came.during(|| self.read(&buffer)),
                Err(refused) if cut_off || matches!(refused, RawRefused::Stopped) => {
                    self.break_off(&self.owner_gone());
                    break;
                }
                Err(_) => break,
            }
        }
        drop(buffer);
        locked(&self.hall).led = false;
        self.news.notify_all();
    }

    /// Deals with a reply.
    fn read(&self, message: &[u8]) {
        let Some(Reply { outcome, number, nanos }) = Reply::read(message) else {
            let error = Error::corrupt("reply", "head", format!("of {} B", message.len()), "a reply's");
            return self.break_off(&TaskError::failed(error));
        };
        let rest = &message[REPLY_HEAD..];
        match outcome {
            Outcome::Returned => self.resolve(number, Ok(rest), nanos),
            Outcome::Failed => self.resolve(number, Err(read_error(rest)), nanos),
            Outcome::Over => self.break_off(&read_error(rest)),
        }
        self.tell_followers(&locked(&self.hall));
    }

    fn tell_followers(&self, hall: &MutexGuard<'_, Hall>) {
        if hall.followers > 0 {
            self.news.notify_all();
        }
    }

    /// Makes everybody who waits ask again whether it is done.
    pub(super) fn tell(&self) {
        let hall = locked(&self.hall);
        self.tell_followers(&hall);
        if let (true, Some(line)) = (hall.led, self.own_line()) {
            self.nudged.store(true, Release);
            line.replies.wake_all();
        }
    }
}

/// Callbacks.
impl Client {
    pub(super) fn push(&self, callback: Callback) {
        let mut hall = locked(&self.hall);
        hall.callbacks.push_back(callback);
        self.called.store(hall.callbacks.len(), Release);
        self.tell_followers(&hall);
    }

    /// Has the thread for callbacks run something.
    pub fn call_back(self: &Arc<Self>, callback: Callback) {
        self.push(callback);
        self.start_caller();
        self.tell();
    }

    /// Starts the thread for callbacks, if there is none; without one they are run here.
    pub(super) fn start_caller(self: &Arc<Self>) {
        if std::mem::replace(&mut locked(&self.hall).has_caller, true) {
            return;
        }
        let client = Arc::clone(self);
        if start_thread("kinfolk-calls", move || client.run_callbacks()).is_err() {
            self.run_callbacks();
        }
    }

    /// Runs callbacks, as long as any are to come.
    fn run_callbacks(&self) {
        loop {
            let mut hall = locked(&self.hall);
            if let Some(callback) = hall.callbacks.pop_front() {
                self.called.store(hall.callbacks.len(), Release);
                drop(hall);
                contained(callback);
                self.tell();
                continue;
            }
            // Whoever ends a task first puts its callback here.
            if self.calling_back.load(Acquire) == 0 {
                hall.has_caller = false;
                return;
            }
            drop(hall);
            let is_called = || self.called.load(Acquire) > 0 || self.calling_back.load(Acquire) == 0;
            self.wait_until(&is_called, Deadline::NEVER);
        }
    }
}
