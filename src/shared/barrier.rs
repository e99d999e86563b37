//! The barrier: a number of parties meet, and go on together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::handle;
use crate::error::{Error, ErrorKind};
use crate::segment::{Holder, KINDS, Kind, Object, Pinned, Segment, View, type_hash};
use crate::sync::{Arrival, BarrierBlock, NOBODY, Pace, Peers, WaitBlock, wait_until};
use crate::sys::atomic::Ordering::{Acquire, Relaxed};
use crate::sys::clock::Deadline;

#[linkme::distributed_slice(KINDS)]
static BARRIER: Kind = Kind {
    recover: |view: &View<'_>, dead| {
        view.block::<BarrierBlock>(0).recover(dead);
        Ok(())
    },
    describe: |view: &View<'_>| {
        let block = view.block::<BarrierBlock>(0);
        let state = if block.is_broken().is_some() { ", broken" } else { "" };
        format!("{} of {} parties{state}", block.arrived(), block.parties())
    },
    least: size_of::<BarrierBlock>(),
    ..Kind::plain("barrier", 25)
};

/// The most parties: their number has 16 bits in the barrier's word.
const MAX_PARTIES: u32 = u16::MAX as u32;

/// Why a party did not pass.
#[derive(Debug)]
#[non_exhaustive]
pub enum BarrierError {
    /// The barrier is broken, or was reset while this party waited: another's time-out, an abort, or a death.
    Broken {
        /// The process whose death broke it, if it was one.
        who: Option<Holder>,
    },
    /// The others had not come when this party's time was over; that broke the barrier.
    Timeout,
    /// The segment failed: no lane for this thread.
    Failed(Error),
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { who: Some(who) } => write!(f, "barrier: broken by the death of {who}"),
            Self::Broken { who: None } => write!(f, "barrier: broken"),
            Self::Timeout => write!(f, "barrier: broken by the time-out of this party"),
            Self::Failed(e) => write!(f, "barrier: {e}"),
        }
    }
}

impl std::error::Error for BarrierError {}

/// A meeting point for a number of parties, threads of any processes: each waits until all are there. It may be used
/// again and again.
///
/// A time-out or [`abort`](Self::abort) breaks it: all who wait and all who come later get [`BarrierError::Broken`], until
/// [`reset`](Self::reset).
///
/// # If a peer dies
/// The death of any process that has the barrier open breaks it, and the error names the process: nobody can know that
/// it was not expected. A party that ends by itself breaks nothing.
///
/// Python: `Barrier`; its action is [`wait_with`](Self::wait_with) here.
///
/// ```
/// use kinfolk::{Barrier, Process};
///
/// let barrier = Barrier::new(2)?;
/// let child = Process::spawn(|barrier: Barrier| barrier.wait().unwrap(), barrier.clone())?;
/// let indices = [barrier.wait()?, child.join()?];
/// assert_eq!(indices.iter().sum::<usize>(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Barrier {
    inner: Arc<Inner>,
}

struct Inner {
    object: Object,
    block: Pinned<BarrierBlock>,
    wait: Pinned<WaitBlock>,
    pace: Pace,
}

handle!(Barrier, BARRIER, "a barrier");

impl Barrier {
    /// Makes a barrier for `parties` parties in the family's segment.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for no party or more than 65535, [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full.
    pub fn new(parties: u32) -> Result<Self, Error> {
        Self::new_in(&Segment::family()?, parties)
    }

    /// Makes a barrier in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment, parties: u32) -> Result<Self, Error> {
        Self::create(segment, parties, u64::MAX)
    }

    /// Makes a barrier in a segment at which [`wait`](Self::wait) waits at most `timeout`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_timeout_in(segment: &Segment, parties: u32, timeout: Duration) -> Result<Self, Error> {
        Self::create(segment, parties, u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
    }

    fn create(segment: &Segment, parties: u32, timeout_ns: u64) -> Result<Self, Error> {
        if parties == 0 || parties > MAX_PARTIES {
            let message = format!("{parties} parties, expected 1 to {MAX_PARTIES}");
            return Err(Error::new(ErrorKind::InvalidInput, "create barrier", message));
        }
        let bytes = size_of::<BarrierBlock>();
        let mut made = Object::create(segment, &BARRIER, type_hash::<Self>(), bytes, &[0], |view| {
            view.block::<BarrierBlock>(0).set(parties, timeout_ns);
            Ok(())
        })?;
        Self::from_object(made.pop().expect("one role, one handle"))
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        if object.len() != size_of::<BarrierBlock>() {
            return Err(Error::corrupt("barrier", "size", object.len(), size_of::<BarrierBlock>()));
        }
        let block = Pinned::<BarrierBlock>::new(&object, 0, 1);
        let parties = block[0].parties();
        if parties == 0 || parties > MAX_PARTIES {
            return Err(Error::corrupt("barrier", "parties", parties, format!("1 to {MAX_PARTIES}")));
        }
        let wait = Pinned::waits(&object, 0, 1);
        Ok(Self { inner: Arc::new(Inner { object, block, wait, pace: Pace::default() }) })
    }

    fn object(&self) -> &Object {
        &self.inner.object
    }

    fn block(&self) -> &BarrierBlock {
        &self.inner.block[0]
    }

    /// How many have to meet. Python: `parties`.
    pub fn parties(&self) -> u32 {
        self.block().parties()
    }

    /// How many wait, at this moment. Python: `n_waiting`.
    pub fn n_waiting(&self) -> u32 {
        self.block().arrived()
    }

    /// Whether it is broken. Python: `broken`.
    #[doc(alias = "broken")]
    pub fn is_broken(&self) -> bool {
        self.notice_deaths();
        self.block().is_broken().is_some()
    }

    /// Waits for the other parties; the number of this one, from 0 to one less than there are, in the order in which
    /// they came. Waits at most as long as the barrier was made for.
    ///
    /// # Errors
    /// [`BarrierError`]. Python: `wait()`.
    pub fn wait(&self) -> Result<usize, BarrierError> {
        self.wait_by(None::<fn()>, self.default_deadline())
    }

    /// Waits for the other parties at most `timeout`, and breaks the barrier if they have not come by then.
    ///
    /// # Errors
    /// [`BarrierError`]. Python: `wait(t)`.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<usize, BarrierError> {
        self.wait_by(None::<fn()>, Deadline::after(timeout))
    }

    /// Waits as [`wait`](Self::wait) does; the last party to come runs its `action` before anybody goes on.
    ///
    /// So exactly one action is run, if all parties bring one. If it panics, the barrier is broken.
    ///
    /// # Errors
    /// [`BarrierError`]. Python: `Barrier(parties, action)`.
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<usize, BarrierError> {
        self.wait_by(Some(action), self.default_deadline())
    }

    /// Waits as [`wait_with`](Self::wait_with) does, at most `timeout`.
    ///
    /// # Errors
    /// [`BarrierError`].
    pub fn wait_with_timeout(&self, timeout: Duration, action: impl FnOnce()) -> Result<usize, BarrierError> {
        self.wait_by(Some(action), Deadline::after(timeout))
    }

    fn default_deadline(&self) -> Deadline {
        match self.block().timeout_ns() {
            u64::MAX => Deadline::NEVER,
            ns => Deadline::after(Duration::from_nanos(ns)),
        }
    }

    fn wait_by(&self, action: Option<impl FnOnce()>, deadline: Deadline) -> Result<usize, BarrierError> {
        let Inner { object, block, wait, pace } = &*self.inner;
        let (segment, block, wait) = (object.segment(), &block[0], &wait[0]);
        let lane = segment.lane().map_err(BarrierError::Failed)?;
        let arrive = || {
            self.notice_deaths();
            match block.arrive(lane, action.is_some(), wait, segment) {
                Arrival::NotYet => None,
                arrival => Some(arrival),
            }
        };
        let arrival = arrive().map_or_else(
            || {
                wait_until(wait, pace, segment, None, deadline, arrive, || {
                    self.question();
                    None
                })
            },
            Ok,
        );
        match (arrival, action) {
            (Ok(Arrival::Inside { generation, index }), _) => self.wait_inside(generation, index, deadline),
            (Ok(Arrival::Last { generation }), Some(action)) => {
                let mut acting = Acting { barrier: self, generation, done: false };
                action();
                acting.done = true;
                let passed = block.finish(generation, lane, wait, segment);
                if passed { Ok((self.parties() as usize).saturating_sub(1)) } else { Err(self.broken()) }
            }
            (Err(_), _) => {
                block.shatter(None, wait, segment);
                Err(BarrierError::Timeout)
            }
            _ => Err(self.broken()),
        }
    }

    fn wait_inside(&self, generation: u32, index: u32, deadline: Deadline) -> Result<usize, BarrierError> {
        let Inner { object, block, wait, pace } = &*self.inner;
        let (segment, block, wait) = (object.segment(), &block[0], &wait[0]);
        let ended = || {
            self.notice_deaths();
            block.outcome(generation)
        };
        let waited = match ended() {
            Some(passed) => Ok(passed),
            None => wait_until(wait, pace, segment, None, deadline, ended, || {
                self.question();
                None
            }),
        };
        let passed = waited.or_else(|timed_out| {
            block.shatter(Some(generation), wait, segment);
            // It may have ended in the last moment.
            block.outcome(generation).filter(|passed| *passed).ok_or(timed_out)
        });
        match passed {
            Ok(true) => Ok(index as usize),
            Ok(false) => Err(self.broken()),
            Err(_) => Err(BarrierError::Timeout),
        }
    }

    /// Has dead users buried, and breaks a barrier whose word says that a lane acts which there is not.
    fn question(&self) {
        let object = &self.inner.object;
        object.bury_openers();
        self.block().recover(&|lane| !object.segment().is_lane(lane));
    }

    /// Breaks the barrier if a user of it has died since the last reset.
    fn notice_deaths(&self) {
        // The generation first: a reset in between knows of the death.
        let generation = self.block().generation();
        if self.inner.object.entry().deaths.load(Acquire) != self.block().known_deaths() {
            self.block().shatter(Some(generation), &self.inner.wait[0], self.inner.object.segment());
        }
    }

    fn broken(&self) -> BarrierError {
        let (entry, segment) = (self.inner.object.entry(), self.inner.object.segment());
        if entry.deaths.load(Acquire) != self.block().known_deaths() {
            let pid = entry.last_dead.load(Relaxed);
            let death = segment.deaths().into_iter().rev().find(|death| death.pid == pid);
            let name = death.map_or_else(String::new, |death| death.name);
            return BarrierError::Broken { who: Some(Holder { pid, name }) };
        }
        let lane = self.block().is_broken().unwrap_or(NOBODY);
        BarrierError::Broken { who: segment.lane_holder(lane) }
    }

    /// Breaks the barrier: all who wait and all who come get [`BarrierError::Broken`]. Python: `abort()`.
    pub fn abort(&self) {
        self.block().shatter(None, &self.inner.wait[0], self.inner.object.segment());
    }

    /// Makes the barrier as new, also a broken one. All who wait get [`BarrierError::Broken`]. Python: `reset()`.
    pub fn reset(&self) {
        // Those that are dead already shall not break what begins now.
        self.inner.object.bury_openers();
        let deaths = self.inner.object.entry().deaths.load(Acquire);
        self.block().reset(deaths, &self.inner.wait[0], self.inner.object.segment());
    }
}

/// Breaks the barrier if the action panics.
struct Acting<'a> {
    barrier: &'a Barrier,
    generation: u32,
    done: bool,
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        if !self.done {
            let Inner { object, block, wait, .. } = &*self.barrier.inner;
            block[0].shatter(Some(self.generation), &wait[0], object.segment());
        }
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.block().is_broken().is_some() { ", broken" } else { "" };
        write!(f, "Barrier({} of {} parties{state})", self.n_waiting(), self.parties())
    }
}
