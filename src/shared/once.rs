//! What only one of all processes does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::WaitError;
use super::{OneBlock, handle, made_of_zeros, owner_name};
use crate::error::Error;
use crate::segment::{KINDS, Kind, Losses, Object};
use crate::sync::{Begin, NOBODY, OnceBlock, Peers, Previous, wait_until};
use crate::sys::clock::Deadline;

#[linkme::distributed_slice(KINDS)]
static ONCE: Kind = Kind {
    code: 26,
    name: "once",
    least: size_of::<OnceBlock>(),
    count: |view, dead| {
        let held = view.block::<OnceBlock>(0).runner().is_some_and(dead);
        Ok(Losses { locks: u32::from(held), ..Losses::default() })
    },
    recover: |view, dead| {
        view.block::<OnceBlock>(0).recover(dead);
        Ok(())
    },
    linked: |_, _| Ok(()),
    handles: |_, _| Ok(()),
    describe: |view| {
        let block = view.block::<OnceBlock>(0);
        match (block.is_done(), block.runner()) {
            (true, _) => "done".into(),
            (_, Some(lane)) => format!("run by lane {lane}"),
            _ => "not done".into(),
        }
    },
};

/// Something that is done once, by whichever process comes first; the others wait until it is done.
///
/// # If a peer dies
/// If the process that runs it dies, the next caller runs it, and is told [`Previous::Died`]: what the dead one did is
/// half done. A runner that is only stopped goes on running it.
///
/// ```
/// use kinfolk::{Once, Process};
///
/// let once = Once::new()?;
/// let greet = |once: Once| once.call_once(|_| println!("hello")).unwrap();
/// let children = [Process::spawn(greet, once.clone())?, Process::spawn(greet, once.clone())?];
/// for child in children {
///     child.join()?;
/// }
/// assert!(once.is_completed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Once {
    inner: Arc<OneBlock<OnceBlock>>,
}

made_of_zeros!(Once, ONCE, size_of::<OnceBlock>(), "a once that has not been done");
handle!(Once, ONCE, "a once");

impl Once {
    fn from_object(object: Object) -> Result<Self, Error> {
        Ok(Self { inner: Arc::new(OneBlock::of(object, "once")?) })
    }

    fn object(&self) -> &Object {
        &self.inner.object
    }

    /// Whether it has been done.
    #[inline]
    pub fn is_completed(&self) -> bool {
        self.inner.block[0].is_done()
    }

    /// Runs `f` unless it has been done; waits while another thread or process runs it. When this returns, it is done.
    ///
    /// `f` is told what became of the run before. If it panics, the next caller is told so and runs it.
    ///
    /// # Errors
    /// [`WaitError::Failed`].
    ///
    /// # Panics
    /// If `f` does, or if it is called from inside its own `f`.
    pub fn call_once(&self, f: impl FnOnce(Previous)) -> Result<(), WaitError> {
        self.call_by(f, Some(Deadline::NEVER))
    }

    /// Runs `f` unless it has been done or is being done. Does not wait for others.
    ///
    /// # Errors
    /// [`WaitError::WouldBlock`] if another thread or process runs it now, [`WaitError::Failed`].
    ///
    /// # Panics
    /// As [`call_once`](Self::call_once).
    pub fn try_call_once(&self, f: impl FnOnce(Previous)) -> Result<(), WaitError> {
        self.call_by(f, None)
    }

    /// Runs `f` unless it has been done; waits at most `timeout` for another that runs it.
    ///
    /// # Errors
    /// [`WaitError::Timeout`] with who runs it, [`WaitError::Failed`].
    ///
    /// # Panics
    /// As [`call_once`](Self::call_once).
    pub fn call_once_timeout(&self, timeout: Duration, f: impl FnOnce(Previous)) -> Result<(), WaitError> {
        self.call_by(f, Some(Deadline::after(timeout)))
    }

    fn call_by(&self, f: impl FnOnce(Previous), deadline: Option<Deadline>) -> Result<(), WaitError> {
        if self.is_completed() {
            return Ok(());
        }
        let OneBlock { object, block, wait, pace } = &*self.inner;
        let segment = object.segment();
        let lane = segment.lane().map_err(WaitError::Failed)?;
        let begin = match (block[0].begin(lane), deadline) {
            (Begin::Running(runner), _) if runner == lane => panic!("a once runs itself again"),
            (Begin::Running(_), None) => return Err(WaitError::WouldBlock),
            (Begin::Running(_), Some(deadline)) => {
                let attempt = || match block[0].begin(lane) {
                    Begin::Running(_) => None,
                    begin => Some(begin),
                };
                let idle = || {
                    segment.bury(block[0].runner().unwrap_or(NOBODY));
                    // Nobody else can end a run of a lane that there is not.
                    block[0].recover(&|lane| !segment.is_lane(lane));
                    None
                };
                let waited = wait_until(&wait[0], pace, segment, None, deadline, attempt, idle);
                waited
                    .map_err(|_| WaitError::Timeout(block[0].runner().and_then(|runner| segment.lane_holder(runner))))?
            }
            (begin, _) => begin,
        };
        if let Begin::Run(previous) = begin {
            let mut run = Run { once: self, done: false };
            f(previous);
            run.done = true;
        }
        Ok(())
    }
}

/// Ends a run, also when it panics.
struct Run<'a> {
    once: &'a Once,
    done: bool,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let OneBlock { object, block, wait, .. } = &*self.once.inner;
        block[0].finish(self.done, &wait[0], object.segment());
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner.block[0].runner() {
            _ if self.is_completed() => write!(f, "Once(done)"),
            Some(lane) => write!(f, "Once(run by {})", owner_name(self.object(), lane)),
            None => write!(f, "Once(not done)"),
        }
    }
}
