//! A process that uses the pool of this one: its tasks under way, and its replies.
//!
//! Replies are sent by whoever reads results, who must not wait. So what finds no room in the user's pipe is parked here, and a
//! thread of the user's own sends it; the thread is there only as long as anything is parked. A user that is stopped holds up
//! nobody but itself, and one that is dead is given up with everything that is kept for it.

use std::collections::{HashMap, VecDeque};
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::board::Ticket;
use super::error::TaskError;
use super::ledger::{Part, Sink};
use super::owner::{Owner, locked};
use super::report::{Outcome, REPLY_HEAD, Reply, write_error};
use crate::channel::{Came, RawRefused, Sender};
use crate::codec;
use crate::segment::Arrived;
use crate::sys::clock::Deadline;
use crate::sys::poll::start_thread;

/// So many replies are parked for nobody who keeps to his own limit of tasks.
const MOST_PARKED: usize = 1 << 16;

/// One process that uses the pool. It is the sink of its tasks, whose numbers are the indices.
pub(super) struct User {
    me: Weak<Self>,
    owner: Weak<Owner>,
    state: Mutex<State>,
}

struct State {
    /// Where its replies go; none any more if it was given up.
    replies: Option<Sender<Vec<u8>>>,
    /// Its tasks that are not answered, with the ticket if they are in the ledger.
    tasks: HashMap<u32, Option<Ticket>>,
    parked: VecDeque<Parcel>,
    /// A thread sends what is parked.
    carried: bool,
}

/// A reply on its way.
struct Parcel {
    bytes: Vec<u8>,
    /// The handles in it.
    arrived: Arrived,
}

fn send(to: &Sender<Vec<u8>>, parcel: &Parcel, deadline: Deadline, stop: impl Fn() -> bool) -> Result<(), RawRefused> {
    let ((), mut passed) = to.encoding(|| parcel.arrived.pass_on());
    to.put_encoded(&parcel.bytes, &mut passed, deadline, stop)
}

impl Parcel {
    /// The error of a task of which not even its outcome can be sent.
    fn instead(&self, error: crate::error::Error) -> Self {
        let number = Reply::read(&self.bytes).map_or(0, |reply| reply.number);
        let mut bytes = vec![0; REPLY_HEAD];
        Reply { outcome: Outcome::Failed, number, nanos: 0 }.write(&mut bytes);
        write_error(&TaskError::Result(Arc::new(error)), &mut bytes);
        Self { bytes, arrived: Arrived::default() }
    }
}

impl User {
    pub fn new(owner: &Arc<Owner>, replies: Sender<Vec<u8>>) -> Arc<Self> {
        let (tasks, parked) = (HashMap::new(), VecDeque::new());
        let state = Mutex::new(State { replies: Some(replies), tasks, parked, carried: false });
        Arc::new_cyclic(|me| Self { me: me.clone(), owner: Arc::downgrade(owner), state })
    }

    /// Whether anybody waits for its replies, as far as it is known.
    pub fn is_there(&self) -> bool {
        locked(&self.state).replies.as_ref().is_some_and(|replies| !replies.has_no_peer())
    }

    /// Takes a task in that is to be answered; not if it is, or the user was given up.
    pub fn begin(&self, number: u32) -> bool {
        let mut state = locked(&self.state);
        if state.replies.is_none() || state.tasks.contains_key(&number) {
            return false;
        }
        state.tasks.insert(number, None);
        true
    }

    /// The task is in the ledger.
    pub fn began(&self, number: u32, ticket: Ticket) {
        let mut state = locked(&self.state);
        if let Some(task) = state.tasks.get_mut(&number) {
            *task = Some(ticket);
            return;
        }
        let is_gone = state.replies.is_none();
        drop(state);
        // Given up meanwhile; or it has ended, and there is nothing to cancel.
        if let (true, Some(owner)) = (is_gone, self.owner.upgrade()) {
            owner.cancel(ticket);
        }
    }

    /// The ticket of a task that is not answered.
    pub fn ticket(&self, number: u32) -> Option<Ticket> {
        locked(&self.state).tasks.get(&number).copied().flatten()
    }

    /// Answers a task, unless it is answered.
    pub fn answer(&self, number: u32, outcome: Result<&[u8], TaskError>, nanos: u64) {
        let mut state = locked(&self.state);
        if state.tasks.remove(&number).is_none() {
            return;
        }
        let kind = if outcome.is_ok() { Outcome::Returned } else { Outcome::Failed };
        // With the handles in the message that brought the result.
        let arrived = if outcome.is_ok() { Came::at_hand() } else { Arrived::default() };
        self.reply(state, Reply { outcome: kind, number, nanos }, &outcome, arrived);
    }

    /// Tells it that there will be no more replies.
    pub fn end(&self, why: TaskError) {
        let head = Reply { outcome: Outcome::Over, number: 0, nanos: 0 };
        self.reply(locked(&self.state), head, &Err(why), Arrived::default());
    }

    fn reply(&self, mut state: MutexGuard<'_, State>, head: Reply, body: &Result<&[u8], TaskError>, arrived: Arrived) {
        let Some(replies) = state.replies.clone() else { return };
        codec::with_scratch(|buffer| {
            buffer.resize(REPLY_HEAD, 0);
            head.write(buffer);
            match body {
                Ok(bytes) => buffer.extend_from_slice(bytes),
                Err(error) => write_error(error, buffer),
            }
            let mut parcel = Parcel { bytes: take(buffer), arrived };
            if !state.carried {
                let mut sent = send(&replies, &parcel, Deadline::PASSED, || false);
                if let Err(RawRefused::Failed(error)) = sent {
                    parcel = parcel.instead(error);
                    sent = send(&replies, &parcel, Deadline::PASSED, || false);
                }
                match sent {
                    Ok(()) => {
                        *buffer = parcel.bytes;
                        return;
                    }
                    Err(RawRefused::Timeout) => {}
                    Err(RawRefused::Stopped | RawRefused::Failed(_)) => return self.give_up(state),
                }
            }
            if state.parked.len() == MOST_PARKED {
                return self.give_up(state);
            }
            state.parked.push_back(parcel);
            self.carry(state);
        });
    }

    /// Has a thread send what is parked.
    fn carry(&self, mut state: MutexGuard<'_, State>) {
        if state.carried {
            return;
        }
        let Some(me) = self.me.upgrade() else { return };
        state.carried = true;
        drop(state);
        if start_thread("kinfolk-replies", move || me.send_parked()).is_err() {
            self.leave();
        }
    }

    fn send_parked(&self) {
        loop {
            let (parcel, to) = {
                let mut state = locked(&self.state);
                match (state.parked.pop_front(), &state.replies) {
                    (Some(parcel), Some(replies)) => (parcel, replies.clone()),
                    _ => {
                        state.carried = false;
                        return;
                    }
                }
            };
            let is_gone = || locked(&self.state).replies.is_none();
            let mut sent = send(&to, &parcel, Deadline::NEVER, is_gone);
            if let Err(RawRefused::Failed(error)) = sent {
                sent = send(&to, &parcel.instead(error), Deadline::NEVER, is_gone);
            }
            if sent.is_err() {
                self.leave();
            }
        }
    }

    /// Gives the user up: it is gone, or wants nothing any more. Those of its tasks are taken out that nobody has begun.
    pub fn leave(&self) {
        self.give_up(locked(&self.state));
    }

    fn give_up(&self, mut state: MutexGuard<'_, State>) {
        let (replies, tasks, parked) = (state.replies.take(), take(&mut state.tasks), take(&mut state.parked));
        drop(state);
        drop((replies, parked));
        if let Some(owner) = self.owner.upgrade() {
            for ticket in tasks.into_values().flatten() {
                owner.cancel(ticket);
            }
        }
    }
}

impl Sink for User {
    fn put(&self, part: Part, outcome: Result<&[u8], TaskError>, nanos: u64) -> Option<Box<dyn FnOnce() + Send>> {
        // The numbers are the users', of 32 bits.
        self.answer(part.index as u32, outcome, nanos);
        None
    }
}
