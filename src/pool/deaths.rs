//! What becomes of the tasks of workers that died.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::audit::{PERIOD, Way};
use super::board::{Held, Ticket};
use super::error::TaskError;
use super::guard::{contained, guarded};
use super::message::{AnswerHead, HEAD, Word};
use super::owner::{Ending, Owner, TURN, locked};
use crate::channel::RawRefused;
use crate::segment::Passed;
use crate::sys::clock::Deadline;

impl Owner {
    /// Notes how a worker ended, and whether the pool wanted it to. All that it sent was sent before.
    pub fn announce_death(&self, serial: u64, ending: Ending, wanted: bool) {
        self.deaths.fetch_add(u64::from(!wanted), Relaxed);
        locked(&self.endings).insert(serial, ending);
        let died = AnswerHead::of_worker(Word::Died, serial).with(&[]);
        loop {
            match self.results.put_encoded(&died, &mut Passed::default(), Deadline::after(TURN), || false) {
                Err(RawRefused::Timeout) if !self.is_ending() => self.read_what_is_there(),
                Err(RawRefused::Failed(error)) => break self.break_off(TaskError::failed(error)),
                _ => break,
            }
        }
        let is_buried = || !locked(&self.endings).contains_key(&serial) || self.is_ending();
        while !self.wait_until(&is_buried, Deadline::after(PERIOD)) {
            if self.is_lost(Way::Results) {
                // All that there was to be read before it was read.
                self.bury(serial);
            }
        }
    }

    /// Everything that a dead worker sent was read: what it still had died with it.
    pub(super) fn bury(&self, serial: u64) {
        let Some(ending) = locked(&self.endings).get(&serial).cloned() else { return };
        let tickets = locked(&self.ledger).tickets();
        for ticket in tickets {
            let Some(held) = self.board.held(ticket, serial) else { continue };
            self.lose(ticket, held, &ending);
        }
        locked(&self.endings).remove(&serial);
    }

    fn lose(&self, ticket: Ticket, held: Held, ending: &Ending) {
        let mut ledger = locked(&self.ledger);
        if ledger.is_over() {
            // Whoever gave all tasks up says what becomes of this one.
            return;
        }
        if held == Held::Running {
            if let Some(ticket) = ledger.renew(ticket) {
                drop(ledger);
                self.retried.fetch_add(1, Relaxed);
                locked(&self.again).push(ticket);
                return;
            }
        }
        let Some(entry) = ledger.get(ticket) else { return };
        let error = match (held, entry.timeout()) {
            (Held::Expired, Some(timeout)) => TaskError::TimedOut { timeout },
            _ => TaskError::WorkerDied { pid: ending.pid, status: Arc::clone(&ending.status) },
        };
        drop(ledger);
        self.resolve(ticket, Err(error), 0);
    }

    /// Sends the tasks of dead workers once more; whether there was room for all of them. It never waits, since whoever calls it
    /// replaces the workers that make room.
    pub fn send_again(&self) -> bool {
        loop {
            let Some(ticket) = locked(&self.again).pop() else { return true };
            let found = locked(&self.ledger).get(ticket).map(|entry| (entry.call, entry.again().cloned()));
            // If it is gone, all were given up.
            let Some((call, Some(again))) = found else { continue };
            let mut buffer = vec![0; HEAD];
            let (encoded, passed) = self.tasks.encoding(|| guarded("encode arguments", || again(&mut buffer)));
            // Perhaps the last one that has the arguments.
            contained(|| drop(again));
            let sent = match encoded {
                Ok(()) => self.send(ticket, call, (&mut buffer, &[]), passed, Deadline::PASSED),
                Err(error) => Err(TaskError::Arguments(Arc::new(error))),
            };
            match sent {
                Ok(true) => {}
                Ok(false) => {
                    locked(&self.again).push(ticket);
                    return false;
                }
                Err(error) => {
                    self.board.cancel(ticket);
                    self.resolve(ticket, Err(error), 0);
                    self.look_again();
                }
            }
        }
    }
}
