//! One end of a one-to-one ring: the seat that one process has, whether the other end is there, and waiting for it.
//!
//! An object of such a ring has two roles, the producer's end and the consumer's. Any number of handles of an end may be on
//! their way; the first one that is *used* takes the end's seat, by one CAS that names its process, and keeps it until it is
//! dropped or passed on. Recovery frees the seat of a dead process.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use super::layout::corrupt;
use crate::error::Error;
use crate::ring::{Corrupt, Seat};
use crate::segment::{Holder, Object, Pinned, PinnedEntry};
use crate::sync::{Pace, Peers, TimedOut, wait_until};
use crate::sys::atomic::Ordering::Acquire;
use crate::sys::atomic::spin_loop;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::cpu;

/// The role of the producer's end.
pub(super) const PRODUCER: usize = 0;
/// The role of the consumer's end.
pub(super) const CONSUMER: usize = 1;

/// No attachment has this epoch.
const NOWHERE: u64 = u64::MAX;

/// Looks of a busy wait between two looks at the clock, and nanoseconds between two proofs that the other side lives.
const LOOKS: u32 = 1 << 10;
const PROOF_NS: u64 = 64_000_000;

/// Why an end cannot be used now.
pub(super) enum Refused {
    InUse(Option<Holder>),
    Disconnected(Option<u32>),
    Timeout(Option<Holder>),
    Failed(Error),
}

impl From<Error> for Refused {
    #[cold]
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl From<Corrupt> for Refused {
    #[cold]
    fn from(e: Corrupt) -> Self {
        Self::Failed(corrupt(e))
    }
}

/// A busy wait of fewer looks is short; the one after it begins with so many pauses.
const SHORT: u32 = 16;
const PAUSES: u32 = 4;

/// One end, open in this process.
pub(super) struct End {
    object: Object,
    entry: PinnedEntry,
    seats: [Pinned<Seat>; 2],
    /// The attachment in which this handle has the seat. After a fork the child's attachment is another, so there it has none.
    seated: Cell<u64>,
    /// Departures after which the other end was still there.
    departures: Cell<u32>,
    pace: Pace,
    /// The last busy wait was short.
    hasty: Cell<bool>,
}

impl End {
    /// The end that `object` is a handle of. `seats` are offsets.
    pub fn new(object: Object, seats: [usize; 2]) -> Self {
        let entry = PinnedEntry::new(&object);
        let seats = seats.map(|at| Pinned::new(&object, at, 1));
        // One that never was: the first look is a real one.
        let departures = Cell::new(entry.departures().wrapping_sub(1));
        Self {
            object,
            entry,
            seats,
            seated: Cell::new(NOWHERE),
            departures,
            pace: Pace::default(),
            hasty: Cell::new(false),
        }
    }

    pub fn object(&self) -> &Object {
        &self.object
    }

    fn role(&self) -> usize {
        self.object.role()
    }

    /// Whether this handle has its end's seat.
    #[inline(always)]
    pub fn is_seated(&self) -> bool {
        self.seated.get() == self.object.segment().epoch()
    }

    /// Takes the seat, from the dead if need be.
    #[cold]
    pub fn sit(&self) -> Result<(), Refused> {
        let segment = self.object.segment();
        let (seat, lane) = (&self.seats[self.role()][0], segment.process_lane()?);
        let mut taken = seat.take(lane);
        if let Err(holder) = taken {
            if segment.bury(holder) {
                taken = seat.take(lane);
            }
        }
        taken.map_err(|holder| Refused::InUse(segment.lane_holder(holder)))?;
        self.seated.set(segment.epoch());
        Ok(())
    }

    /// Takes the seat and what goes with it, or neither.
    #[cold]
    pub fn sit_with<W>(&self, begin: impl FnOnce() -> Result<W, Corrupt>) -> Result<W, Refused> {
        self.sit()?;
        begin().map_err(|e| {
            self.leave();
            e.into()
        })
    }

    /// Gives the seat up, if this handle has it.
    pub fn leave(&self) {
        if self.is_seated() {
            self.seats[self.role()][0].leave();
        }
        self.seated.set(NOWHERE);
    }

    /// Whether nobody has the other end any more. One load, unless somebody has left since the last time.
    #[inline(always)]
    pub fn is_alone(&self) -> bool {
        self.entry.departures() != self.departures.get() && self.look_who_left()
    }

    #[cold]
    fn look_who_left(&self) -> bool {
        let departures = self.entry.departures();
        let alone = !self.object.is_open(1 - self.role());
        if !alone {
            self.departures.set(departures);
        }
        alone
    }

    /// What to say about that.
    #[cold]
    pub fn disconnected(&self) -> Refused {
        let dead = self.object.entry().last_dead_as[1 - self.role()].load(Acquire);
        Refused::Disconnected(Some(dead).filter(|pid| *pid != 0))
    }

    /// Wakes the consumer, if it sleeps, after a commit.
    #[inline(always)]
    pub fn notify_consumer(&self) {
        self.entry.waits::<CONSUMER>().notify(self.object.segment());
    }

    /// Whether the producer sleeps for room.
    #[inline(always)]
    pub fn is_room_wanted(&self) -> bool {
        self.entry.waits::<PRODUCER>().has_sleepers(self.object.segment())
    }

    #[cold]
    pub fn wake_producer(&self) {
        self.entry.waits::<PRODUCER>().wake_one();
    }

    /// Waits until `attempt` gives something. It is told whether it is asked for the last time before a sleep, or after one.
    #[cold]
    pub fn wait<R>(
        &self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(bool) -> Result<Option<R>, Refused>,
    ) -> Result<R, Refused> {
        let segment = self.object.segment();
        let deadline = timeout.map_or(Deadline::NEVER, Deadline::after);
        let role = self.role();
        let word = if role == PRODUCER { self.entry.waits::<PRODUCER>() } else { self.entry.waits::<CONSUMER>() };
        self.seats[role][0].note_cpu(cpu::current());
        let peer = self.seats[1 - role][0].cpu();
        let mut attempt = || {
            // What was there before the other end went still counts.
            let alone = self.is_alone();
            match attempt(word.has_sleepers(segment)) {
                Ok(Some(r)) => Some(Ok(r)),
                Ok(None) => alone.then(|| Err(self.disconnected())),
                Err(e) => Some(Err(e)),
            }
        };
        let idle = || {
            self.object.bury_openers();
            None
        };
        match wait_until(word, &self.pace, segment, peer, deadline, &mut attempt, idle) {
            Ok(result) => result,
            Err(TimedOut) => {
                // The last word: what the hot part of a wait saw may be old.
                let holder = segment.lane_holder(self.seats[1 - role][0].holder());
                attempt().unwrap_or(Err(Refused::Timeout(holder)))
            }
        }
    }

    /// Tries again and again until `attempt` gives something, and never sleeps.
    ///
    /// Whoever waits for each message of a stream takes the line away from under the one who fills it. So where the last wait
    /// was short, the next one begins with a few pauses, and the other side gets ahead. The answer of a round
    /// trip mostly takes more looks than that to come.
    #[inline(always)]
    pub fn spin<R>(&self, mut attempt: impl FnMut() -> Result<Option<R>, Refused>) -> Result<R, Refused> {
        let mut proven = 0;
        if self.hasty.get() {
            (0..PAUSES).for_each(|_| spin_loop());
        }
        loop {
            for look in 0..LOOKS {
                if let Some(r) = attempt()? {
                    self.hasty.set(proven == 0 && look < SHORT);
                    return Ok(r);
                }
            }
            let alone = self.is_alone();
            if let Some(r) = attempt()? {
                return Ok(r);
            }
            if alone {
                return Err(self.disconnected());
            }
            self.prove(&mut proven);
        }
    }

    #[cold]
    fn prove(&self, proven: &mut u64) {
        let now = now_ns();
        if *proven == 0 {
            *proven = now;
        } else if now - *proven > PROOF_NS {
            self.object.bury_openers();
            *proven = now_ns();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Before the object's own drop tells the other side that we are gone.
        self.leave();
    }
}

fn by(holder: &Option<Holder>) -> String {
    holder.as_ref().map_or(String::new(), |h| format!(", held up by {h}"))
}

/// Why something was not pushed into a one-to-one ring; what was to be pushed comes back with the reason.
#[non_exhaustive]
pub enum PushError<T> {
    /// There was no room at once.
    Full(T),
    /// There was no room in time. If somebody consumes, it is named.
    Timeout(T, Option<Holder>),
    /// Nobody has the other end any more; the process id is that of the last that died with the ring. Works again as soon as
    /// somebody has it.
    Disconnected(T, Option<u32>),
    /// Another handle produces: the process that has it is named, if it is known.
    InUse(T, Option<Holder>),
    /// The segment failed: no lane for this process, a record that is too long, or impossible bytes.
    Failed(T, Error),
}

impl<T> PushError<T> {
    #[cold]
    pub(super) fn new(why: Refused, value: T) -> Self {
        match why {
            Refused::InUse(holder) => Self::InUse(value, holder),
            Refused::Disconnected(pid) => Self::Disconnected(value, pid),
            Refused::Timeout(holder) => Self::Timeout(value, holder),
            Refused::Failed(e) => Self::Failed(value, e),
        }
    }

    /// What was not pushed.
    pub fn into_value(self) -> T {
        match self {
            Self::Full(v) | Self::Timeout(v, _) | Self::Disconnected(v, _) | Self::InUse(v, _) | Self::Failed(v, _) => {
                v
            }
        }
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => write!(f, "push: the ring is full"),
            Self::Timeout(_, holder) => write!(f, "push: the ring was full until the time-out{}", by(holder)),
            Self::Disconnected(_, None) => write!(f, "push: nobody has the other end"),
            Self::Disconnected(_, Some(pid)) => write!(f, "push: nobody has the other end; process {pid} died with it"),
            Self::InUse(_, Some(holder)) => write!(f, "push: {holder} produces"),
            Self::InUse(_, None) => write!(f, "push: somebody else produces"),
            Self::Failed(_, e) => write!(f, "push: {e}"),
        }
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushError({self})")
    }
}

impl<T> std::error::Error for PushError<T> {}

/// Why nothing came out of a one-to-one ring.
#[derive(Debug)]
#[non_exhaustive]
pub enum PopError {
    /// There was nothing at once.
    Empty,
    /// There was nothing in time. If somebody produces, it is named.
    Timeout(Option<Holder>),
    /// The ring is empty and nobody has the other end any more; the process id is that of the last that died with the ring.
    /// Works again as soon as somebody has it.
    Disconnected(Option<u32>),
    /// Another handle consumes: the process that has it is named, if it is known.
    InUse(Option<Holder>),
    /// Bytes came that are no value of this type. They are consumed.
    Invalid(Error),
    /// The segment failed: no lane for this process, or impossible bytes.
    Failed(Error),
}

impl PopError {
    #[cold]
    pub(super) fn new(why: Refused) -> Self {
        match why {
            Refused::InUse(holder) => Self::InUse(holder),
            Refused::Disconnected(pid) => Self::Disconnected(pid),
            Refused::Timeout(holder) => Self::Timeout(holder),
            Refused::Failed(e) => Self::Failed(e),
        }
    }
}

impl fmt::Display for PopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "pop: the ring is empty"),
            Self::Timeout(holder) => write!(f, "pop: the ring was empty until the time-out{}", by(holder)),
            Self::Disconnected(None) => write!(f, "pop: the ring is empty and nobody has the other end"),
            Self::Disconnected(Some(pid)) => {
                write!(f, "pop: the ring is empty and nobody has the other end; process {pid} died with it")
            }
            Self::InUse(Some(holder)) => write!(f, "pop: {holder} consumes"),
            Self::InUse(None) => write!(f, "pop: somebody else consumes"),
            Self::Invalid(e) | Self::Failed(e) => write!(f, "pop: {e}"),
        }
    }
}

impl std::error::Error for PopError {}
