//! Processes that do one task after the other.
//!
//! ```
//! use kinfolk::Pool;
//!
//! let pool = Pool::new(2)?;
//! assert_eq!(pool.map(|n: u64| n * n, 0..5)?, [0, 1, 4, 9, 16]);
//! assert_eq!(pool.apply(|(a, b): (u32, u32)| a + b, (2, 3))?, 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How tasks travel
//! A task is a message in a queue that all workers take from; what becomes of it comes back through another. The functions
//! are of this program, arguments and results are serde values, handles among them. Whoever waits for a result reads the
//! queue himself, so a result is there one hop after it was sent.
//!
//! # Other processes
//! [`Pool::handle`] gives a [`PoolHandle`]: a value that goes to other processes, which have their tasks done by this pool. The
//! pool stays its owner's, and ends with it.
//!
//! # If a worker dies
//! Its task, if it had one, ends with [`TaskError::WorkerDied`] or is begun again, as was agreed; another worker takes its
//! place at once. What it had sent counts. Nothing else is lost and nobody waits for ever, whenever it dies: while it takes
//! a task, runs it, sends the result, or idles. If the owner of the pool dies, the workers are killed.

mod audit;
mod batch;
mod board;
mod builder;
mod calls;
mod client;
mod client_waits;
mod crew;
mod deaths;
mod error;
mod feed;
mod function;
mod guard;
mod handle;
mod imap;
mod job;
mod lead;
mod ledger;
mod letters;
mod map;
mod message;
mod models;
mod owner;
mod reading;
mod report;
mod service;
mod stats;
mod task;
mod user;
mod via;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use builder::PoolBuilder;
pub use error::TaskError;
pub use function::Function;
pub use handle::PoolHandle;
pub use imap::Imap;
pub use job::{Job, NotSubmitted};
pub use map::Mapping;
pub use stats::PoolStats;
pub use task::Task;

use crate::error::{Error, ErrorKind};
use crate::segment::Segment;
use crate::sys::clock::Deadline;
use calls::calls;
use crew::Crew;
use owner::Owner;
use service::Desk;
use via::Source;

/// Workers, and what is to be done.
///
/// Many threads may use it at once. Dropping it [terminates](Self::terminate) it.
///
/// Python: `multiprocessing.Pool`, `concurrent.futures.ProcessPoolExecutor`.
#[doc(alias = "ProcessPoolExecutor")]
pub struct Pool {
    owner: Arc<Owner>,
    crew: Arc<Crew>,
    source: Source,
    segment: Segment,
    desk: Desk,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("processes", &self.processes())
            .field("state", &self.owner.state())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Makes a pool of so many workers.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`]. Python: `Pool(n)`.
    pub fn new(processes: usize) -> Result<Self, Error> {
        Self::builder().processes(processes).build()
    }

    /// Makes a pool that is to differ from others.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// A handle by which other processes use the pool, and this one: see [`PoolHandle`]. The first one starts a thread that
    /// reads what they ask for.
    ///
    /// # Errors
    /// [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full, and whatever keeps a thread from being started.
    ///
    /// Python: `Manager().Pool(n)` gives such a handle.
    #[doc(alias = "PoolProxy")]
    pub fn handle(&self) -> Result<PoolHandle, Error> {
        self.desk.handle(&self.owner, &self.source, &self.segment)
    }

    /// How many workers it has.
    pub fn processes(&self) -> usize {
        self.source.processes
    }

    /// Process ids of the workers, at this moment.
    pub fn pids(&self) -> Vec<u32> {
        self.crew.pids()
    }

    /// What became of the tasks until now.
    pub fn stats(&self) -> PoolStats {
        self.owner.stats()
    }

    /// Has `function` called with `args` in a worker. Waits only if there are too many tasks under way: see
    /// [`Job::try_submit`].
    ///
    /// # Errors
    /// [`TaskError::Closed`], [`Terminated`](TaskError::Terminated), [`Broken`](TaskError::Broken),
    /// [`Arguments`](TaskError::Arguments), and [`Failed`](TaskError::Failed) for a function of a shared object.
    ///
    /// Python: `apply_async(f, args)`, `Executor.submit(f, args)`.
    #[doc(alias = "submit")]
    pub fn apply_async<F, A, R>(&self, function: F, args: A) -> Result<Task<R>, TaskError>
    where
        F: Function<A, R>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        self.job(function, args).submit()
    }

    calls!();

    /// Takes no more tasks; what was submitted is done. Whoever still waits to submit one gets [`TaskError::Closed`].
    ///
    /// Python: `close()`, `Executor.shutdown(wait=False)`.
    #[doc(alias = "shutdown")]
    pub fn close(&self) {
        self.owner.close();
    }

    /// Gives all tasks up that have not ended, with [`TaskError::Terminated`], and ends the workers: by SIGTERM, and by
    /// SIGKILL those that take longer than half a second. Python: `terminate()`, `Executor.terminate_workers()`.
    #[doc(alias = "terminate_workers")]
    pub fn terminate(&self) {
        self.owner.terminate();
        self.crew.end_all(true);
    }

    /// As [`terminate`](Self::terminate), by SIGKILL at once. Python: `Executor.kill_workers()`.
    #[doc(alias = "kill_workers")]
    pub fn kill(&self) {
        self.owner.terminate();
        self.crew.end_all(false);
    }

    /// Takes all tasks back that no worker has begun, each with [`TaskError::Cancelled`]; how many there were. A chunk of a map is
    /// one task, and ends the map with this error. Others may submit more meanwhile: [`close`](Self::close) it before, if
    /// nobody is to. It does not block.
    ///
    /// Python: `Executor.shutdown(cancel_futures=True)`, after `close`.
    #[doc(alias = "cancel_futures")]
    pub fn cancel_all(&self) -> usize {
        self.owner.cancel_all()
    }

    /// Waits until all tasks have ended, with their callbacks, and the workers too. Only after [`close`](Self::close) or
    /// [`terminate`](Self::terminate).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the pool still takes tasks. Python: `join()`, which raises
    /// `ValueError` then; `Executor.shutdown()` is `close` and `join`.
    #[doc(alias = "shutdown")]
    pub fn join(&self) -> Result<(), Error> {
        self.join_until(Deadline::NEVER).map(drop)
    }

    /// As [`join`](Self::join), at most `timeout`; whether all have ended. If not, the tasks go on, and so may the wait.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.join_until(Deadline::after(timeout))
    }

    fn join_until(&self, deadline: Deadline) -> Result<bool, Error> {
        if self.owner.state() == owner::State::Open && !self.owner.is_broken() {
            let message = "it still takes tasks: close or terminate it first";
            return Err(Error::new(ErrorKind::InvalidInput, "join pool", message));
        }
        if !self.owner.wait_until(&|| self.owner.is_at_rest(), deadline) {
            return Ok(false);
        }
        self.owner.close();
        self.owner.stop_workers();
        Ok(self.crew.wait_all(deadline))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.terminate();
        self.desk.close();
        self.owner.dismiss();
    }
}
