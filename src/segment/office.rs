//! Where a process keeps what lies in no segment and goes with a message: descriptors, and segments of their own.
//!
//! A message carries a ticket; what it stands for stays in the process that sent it until whoever decodes the message has
//! fetched it (`sys/fd.rs`) or says that it needs it no more. A thread answers, from the first ticket on and not before.
//!
//! A descriptor is given away once. A segment's memory file is given to whoever asks, and with it is kept the handle that
//! was sent, until the receiver has opened its own.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Segment;
use super::object::Object;
use super::passing::{Fate, Recipient, nowhere, on_fate, recipient, when_gone, when_row_gone};
use crate::error::{Error, ErrorKind};
use crate::sys::clock::Deadline;
use crate::sys::fd::{self, Asked, Giver, Token, Unfetched};
use crate::sys::memfd::random_id;

/// How long a process that lives may take to hand a descriptor over.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to try to tell a process that something is not needed any more.
const TRYING: Duration = Duration::from_millis(50);
/// Stack of the thread that gives things away. It may close the last handle of an object.
const STACK_BYTES: usize = 256 << 10;

/// What lies in a message in place of something else.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct OfficeTicket {
    pid: u32,
    /// Random part of the name of the sender's socket: a later process with the same id has another.
    office: [u8; 16],
    token: Token,
}

impl OfficeTicket {
    fn name(&self) -> String {
        format!("kinfolk-{}-{:032x}", self.pid, u128::from_ne_bytes(self.office))
    }

    /// A ticket for nothing, as long as others.
    fn blank() -> Self {
        Self { pid: u32::MAX, office: [0; 16], token: [0; 16] }
    }

    /// The process that it is of.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn is_mine(&self) -> bool {
        self.pid == std::process::id()
            && office().as_ref().is_some_and(|office| (office.pid, office.name) == (self.pid, self.office))
    }
}

/// What this process gives away.
struct Office {
    /// The process that it is of: a forked copy has its own.
    pid: u32,
    name: [u8; 16],
    kept: HashMap<Token, Kept>,
}

struct Kept {
    gift: Gift,
    /// Whether the message is known to be gone.
    is_lost: Option<Box<dyn Fn() -> bool + Send>>,
}

enum Gift {
    Descriptor(OwnedFd),
    /// A segment, and the handle of an object in it if one was sent.
    Segment {
        segment: Segment,
        _handle: Option<Object>,
    },
}

static OFFICE: Mutex<Option<Office>> = Mutex::new(None);

fn office() -> MutexGuard<'static, Option<Office>> {
    OFFICE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps other threads from the office, so that a fork finds it in order.
pub(super) fn hold() -> impl Sized {
    office()
}

/// What a token stands for, for whoever has it.
fn give(asked: Asked, token: &Token) -> Option<OwnedFd> {
    // Dropped when the office is unlocked: the last handle of an object has work to do.
    let removed;
    let given;
    {
        let mut office = office();
        let kept = &mut office.as_mut()?.kept;
        (given, removed) = match (asked, kept.get(token)?) {
            (Asked::Fetch, Kept { gift: Gift::Segment { segment, .. }, .. }) => {
                (segment.as_fd().try_clone_to_owned().ok(), None)
            }
            (Asked::Fetch, Kept { gift: Gift::Descriptor(_), .. }) => match kept.remove(token)?.gift {
                Gift::Descriptor(fd) => (Some(fd), None),
                other @ Gift::Segment { .. } => (None, Some(other)),
            },
            (Asked::Release, _) => (None, kept.remove(token).map(|kept| kept.gift)),
        };
    }
    drop(removed);
    given
}

/// Opens this process's office, and starts the thread in it.
fn open() -> Result<Office, Error> {
    let os = |e| Error::os("give descriptors away", e);
    let (pid, name) = (std::process::id(), random_id().map_err(os)?);
    let address = OfficeTicket { pid, office: name, token: name }.name();
    let giver = Giver::bind(address.as_bytes()).map_err(os)?;
    let thread = std::thread::Builder::new().name("kinfolk-fds".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(move || giver.serve(give)).map_err(os)?;
    Ok(Office { pid, name, kept: HashMap::new() })
}

/// Keeps what `gift` makes for who gets what the calling thread is encoding.
fn keep(what: &str, gift: impl FnOnce() -> Result<Gift, Error>) -> Result<OfficeTicket, Error> {
    let to = recipient().ok_or_else(|| nowhere(what))?;
    let is_lost = match to {
        Recipient::Row(row) => Some(Box::new(when_row_gone(row)?) as Box<dyn Fn() -> bool + Send>),
        Recipient::Taker => None,
        Recipient::Nobody => return Ok(OfficeTicket::blank()),
    };
    let (gift, token) = (gift()?, random_id().map_err(|e| Error::os("make a ticket", e))?);
    let mut guard = office();
    let office = match guard.take() {
        Some(office) if office.pid == std::process::id() => guard.insert(office),
        other => {
            // Of the process that forked this one: to drop it would give back what that keeps.
            std::mem::forget(other);
            guard.insert(open()?)
        }
    };
    let lost = office.kept.extract_lost();
    office.kept.insert(token, Kept { gift, is_lost });
    let ticket = OfficeTicket { pid: office.pid, office: office.name, token };
    drop(guard);
    drop(lost);
    if to == Recipient::Taker {
        on_fate(move |fate| settle(&token, fate));
    }
    Ok(ticket)
}

trait ExtractLost {
    /// Takes out what is kept for messages that are gone.
    fn extract_lost(&mut self) -> Vec<Kept>;
}

impl ExtractLost for HashMap<Token, Kept> {
    fn extract_lost(&mut self) -> Vec<Kept> {
        let is_lost = |kept: &Kept| kept.is_lost.as_ref().is_some_and(|is_lost| is_lost());
        let lost: Vec<Token> = self.iter().filter(|(_, kept)| is_lost(kept)).map(|(token, _)| *token).collect();
        lost.iter().filter_map(|token| self.remove(token)).collect()
    }
}

/// Keeps a copy of the descriptor for who gets what the calling thread is encoding.
pub(crate) fn keep_descriptor(fd: BorrowedFd<'_>) -> Result<OfficeTicket, Error> {
    let duplicate = || fd.try_clone_to_owned().map(Gift::Descriptor).map_err(|e| Error::os("duplicate descriptor", e));
    keep("descriptor", duplicate)
}

/// Keeps the segment, and the object's handle, for who gets what the calling thread is encoding.
pub(super) fn keep_segment(segment: &Segment, object: Option<&Object>) -> Result<OfficeTicket, Error> {
    keep("segment", || Ok(Gift::Segment { segment: segment.clone(), _handle: object.cloned() }))
}

/// The message with the ticket has been sent, or was not.
fn settle(token: &Token, fate: Fate<'_>) {
    match fate {
        Fate::Withdrawn => drop(give(Asked::Release, token)),
        Fate::Sent(object) => {
            if let Some(kept) = office().as_mut().and_then(|office| office.kept.get_mut(token)) {
                kept.is_lost = Some(Box::new(when_gone(object)));
            }
        }
    }
}

/// Fetches the descriptor that the ticket is for. `doing` is for the error.
pub(crate) fn fetch(ticket: &OfficeTicket, doing: &str) -> Result<OwnedFd, Error> {
    let fail = |kind, message: String| Err(Error::new(kind, doing, message));
    let pid = ticket.pid;
    let fetched = if ticket.is_mine() {
        give(Asked::Fetch, &ticket.token).ok_or(Unfetched::Unknown)
    } else {
        fd::fetch(ticket.name().as_bytes(), &ticket.token, Deadline::after(PATIENCE))
    };
    match fetched {
        Ok(fd) => Ok(fd),
        Err(Unfetched::Gone) => fail(ErrorKind::Gone, format!("process {pid}, which sent it, has ended")),
        Err(Unfetched::Unknown) => {
            fail(ErrorKind::Gone, format!("process {pid}, which sent it, does not keep it: it was fetched before"))
        }
        Err(Unfetched::NoAnswer) => {
            fail(ErrorKind::Stalled, format!("process {pid}, which sent it, lives and does not answer"))
        }
        Err(Unfetched::Os(e)) => Err(Error::os(doing, e)),
    }
}

/// Says that what the ticket is for is not needed any more. Nobody is waited for.
pub(super) fn release(ticket: &OfficeTicket) {
    if ticket.is_mine() {
        drop(give(Asked::Release, &ticket.token));
    } else {
        fd::release(ticket.name().as_bytes(), &ticket.token, Deadline::after(TRYING));
    }
}

/// How many things this process keeps.
#[cfg(test)]
pub(crate) fn kept() -> usize {
    office().as_ref().map_or(0, |office| office.kept.len())
}
