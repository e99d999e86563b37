//! What becomes of the tasks of workers that died.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::board::{Held, Ticket};
use super::error::TaskError;
use super::message::{AnswerHead, HEAD, Word};
use super::owner::{Ending, Owner, TURN, locked};
use crate::channel::RawRefused;
use crate::sys::clock::Deadline;

impl Owner {
    /// Notes how a worker ended, and whether the pool wanted it to. All that it sent was sent before.
    pub fn announce_death(&self, serial: u64, ending: Ending, wanted: bool) {
        self.deaths.fetch_add(u64::from(!wanted), Relaxed);
        locked(&self.endings).insert(serial, ending);
        let died = AnswerHead::of_worker(Word::Died, serial).with(&[]);
        while let Err(RawRefused::Timeout) = self.results.put_encoded(&died, &mut None, Deadline::after(TURN), || false)
        {
            self.read_what_is_there();
        }
        self.wait_until(&|| !locked(&self.endings).contains_key(&serial), Deadline::NEVER);
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
        let Some(entry) = ledger.get(ticket) else { return };
        if held == Held::Running && entry.terms.retries > 0 {
            if let Some(mut entry) = ledger.take(ticket) {
                drop(ledger);
                entry.terms.retries -= 1;
                self.retried.fetch_add(1, Relaxed);
                locked(&self.again).push(entry);
            }
            return;
        }
        let error = match (held, entry.terms.timeout) {
            (Held::Expired, Some(timeout)) => TaskError::TimedOut { timeout },
            _ => TaskError::WorkerDied { pid: ending.pid, status: Arc::clone(&ending.status) },
        };
        drop(ledger);
        self.resolve(ticket, Err(error), 0);
    }

    /// Sends the tasks of dead workers once more.
    pub fn send_again(&self) {
        loop {
            let Some(entry) = locked(&self.again).pop() else { return };
            if let Some(refusal) = self.refusal().filter(|why| !matches!(why, TaskError::Closed)) {
                self.give_up(entry, refusal);
                continue;
            }
            let again = entry.terms.again.as_ref().expect("whoever may be begun again can be");
            let mut buffer = vec![0; HEAD];
            let (encoded, passed) = self.tasks.encoding(|| again(&mut buffer));
            let call = entry.call;
            let mut entry = Some(entry);
            let ticket = loop {
                match locked(&self.ledger).add(entry.take().expect("it came back")) {
                    Ok(ticket) => break ticket,
                    Err(back) => entry = Some(back),
                }
                self.wait_until(&|| !locked(&self.ledger).is_full(), Deadline::NEVER);
            };
            let sent = match encoded {
                Ok(()) => self.send(ticket, call, &mut buffer, passed),
                Err(error) => Err(TaskError::Arguments(Arc::new(error))),
            };
            if let Err(error) = sent {
                self.board.cancel(ticket);
                self.resolve(ticket, Err(error), 0);
            }
        }
    }
}
