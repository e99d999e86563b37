//! Results come in.
//!
//! There is no thread that all results pass through. Of the threads that wait, one leads: it reads the queue of results,
//! for all. The others follow, and one of them leads when the leader has what it waited for. A thread of the pool's own
//! leads when there are callbacks to be run, or when nobody else has come for a millisecond, so that workers never wait for
//! room; it makes way for others.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread;
use std::time::Duration;

use super::audit::PERIOD;
use super::error::TaskError;
use super::guard::contained;
use super::lead::Source;
use super::ledger::Entry;
use super::letters::{Letter, Letters, MOST};
use super::message::{AnswerHead, Word};
use super::owner::{Owner, locked};
use crate::channel::RawRefused;
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::process::Panic;
use crate::segment::Passed;
use crate::sys::clock::Deadline;

/// How long the pool's own thread lets others come for their results before it reads them.
const GRACE: Duration = Duration::from_millis(1);

impl Source for Owner {
    type Desk = Letters;

    fn read(&self, letters: &mut Letters, deadline: Deadline, is_done: &dyn Fn() -> bool) -> bool {
        let first = &mut letters.0[0];
        match self.results.get_encoded(&mut first.bytes, deadline, || self.waits_on() && is_done()) {
            Ok(came) => {
                first.came(came);
                self.deal_with_all(letters);
                return true;
            }
            Err(RawRefused::Timeout | RawRefused::Stopped) => {}
            Err(RawRefused::Failed(error)) => self.break_off(TaskError::failed(error)),
        }
        false
    }

    fn try_read(&self, letters: &mut Letters) -> bool {
        let came = self.take_into(&mut letters.0[0]);
        if came {
            self.deal_with_all(letters);
        }
        came
    }

    fn nudge(&self) {
        let look = AnswerHead::of_worker(Word::Look, 0).with(&[]);
        // If there is no room, there is enough to be read.
        let _ = self.results.put_encoded(&look, &mut Passed::default(), Deadline::after(Duration::ZERO), || false);
    }
}

impl Owner {
    /// Waits until `is_done`, which is asked after every result and every change of state; whether it came true in time.
    pub fn wait_until(&self, is_done: &dyn Fn() -> bool, deadline: Deadline) -> bool {
        self.lead.wait_until(self, is_done, deadline)
    }

    /// Makes everybody who waits ask again whether it is done.
    pub fn look_again(&self) {
        self.lead.look_again(self);
    }

    /// Reads results that are there, unless somebody leads.
    pub fn read_what_is_there(&self) {
        self.lead.read_what_is_there(self);
    }

    /// Takes a message, if there is one.
    fn take_into(&self, letter: &mut Letter) -> bool {
        match self.results.try_get_encoded(&mut letter.bytes) {
            Ok(came) => {
                letter.came(came);
                true
            }
            Err(_) => false,
        }
    }

    /// Deals with the first message, which was taken, and with those behind it, if they are there and tell of tasks.
    fn deal_with_all(&self, letters: &mut Letters) {
        let mut count = 1;
        while count < MOST && letters.0[count - 1].leaves().is_some() {
            // Who waits for the only task waits for nothing else.
            if self.crowd.load(Relaxed) <= count || !self.take_into(&mut letters.0[count]) {
                break;
            }
            count += 1;
        }
        let letters = &mut letters.0[..count];
        self.change(|ledger| {
            for letter in &mut *letters {
                if let (Some(head), Some(how)) = (letter.head, letter.leaves()) {
                    letter.entry = ledger.take(head.ticket, how);
                }
            }
        });
        let mut rest = letters;
        while !rest.is_empty() {
            rest = match self.settle_run(rest) {
                0 => {
                    let came = rest[0].came.take().unwrap_or_default();
                    came.during(|| self.deal_with(&mut rest[0]));
                    rest[0].clear();
                    &mut rest[1..]
                }
                settled => &mut rest[settled..],
            };
        }
        if self.feeding.load(Relaxed) > 0 {
            self.feed();
        }
    }

    /// Settles tasks of one sink together whose functions have returned, if there are two or more in front; how many.
    fn settle_run(&self, letters: &mut [Letter]) -> usize {
        let Some(sink) = letters[0].returned().map(|entry| &entry.sink) else { return 0 };
        let joins = |entry: &Entry| Arc::ptr_eq(&entry.sink, sink) && sink.takes_run_of(entry);
        let same = |letter: &&Letter| letter.returned().is_some_and(joins);
        let count = letters.iter().take_while(same).count();
        if count < 2 {
            return 0;
        }
        if let Some(callback) = contained(|| sink.put_run(&letters[..count])).flatten() {
            self.push_callback(callback);
            self.lead.wake();
        }
        for letter in &mut letters[..count] {
            if let Some(entry) = letter.entry.take() {
                self.leave(entry);
            }
            letter.clear();
        }
        count
    }

    /// Deals with a message, whose task has left the ledger.
    fn deal_with(&self, letter: &mut Letter) {
        let Some(AnswerHead { word, ticket, nanos }) = letter.head else { return };
        let entry = letter.entry.take();
        let rest = letter.rest();
        let settle = |outcome| {
            if let Some(entry) = entry {
                self.settle(entry, outcome, nanos);
            }
        };
        match word {
            Word::Returned => settle(Ok(rest)),
            Word::Panicked => settle(Err(panicked(rest))),
            Word::Unsendable => settle(Err(unsendable(rest))),
            Word::Ready => locked(&self.ready).push(ticket.generation),
            Word::Hopeless => {
                self.break_off(TaskError::Broken { reason: String::from_utf8_lossy(rest).into_owned() });
            }
            Word::Died => self.bury(ticket.generation),
            Word::Look => {}
        }
    }

    /// Runs callbacks, and reads results when nobody else does, until [`dismiss`](Self::dismiss).
    pub fn serve(&self) {
        // Nobody else sets it.
        let _ = self.own.set(thread::current().id());
        let is_done = || self.has_own_work() || self.under_way() == 0;
        let mut look = Deadline::after(PERIOD);
        loop {
            let mut hall = self.lead.hall();
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
                    self.lead.rest(hall, &|| self.under_way() == 0);
                    look = Deadline::after(PERIOD);
                    continue;
                }
                // Whoever wants a result reads it himself, if he comes at once.
                self.lead.stand_by(self, hall, &is_done, GRACE, look);
                self.look_after(&mut look);
                continue;
            }
            drop(hall);
            self.wait_until(&is_done, look);
            self.look_after(&mut look);
        }
    }

    /// Whether there is something besides results for the pool's own thread.
    fn has_own_work(&self) -> bool {
        self.called.load(Acquire) > 0 || self.leave.load(Acquire)
    }

    /// When tasks have been under way for long: whoever looks after the workers looks after them, too.
    fn look_after(&self, look: &mut Deadline) {
        if look.passed() {
            self.bell.ring();
            *look = Deadline::after(PERIOD);
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
