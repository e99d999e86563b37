//! How a new pool differs from others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use super::board::Board;
use super::crew::{Crew, Start};
use super::function::initialized;
use super::owner::Owner;
use super::service::Desk;
use super::via::{Source, Via};
use super::worker;
use crate::channel::Queue;
use crate::error::{Error, ErrorKind};
use crate::process::{Builder, Process, StartMethod, current};
use crate::segment::Segment;
use crate::sys::poll::start_thread;

/// Tasks under way at once, unless another number is wanted.
const DEPTH: usize = 4096;
const MOST_DEPTH: usize = 1 << 20;
/// Bytes of each queue, at least, and for each task that may be under way.
const QUEUE_BYTES: usize = 1 << 20;
const TASK_BYTES: usize = 128;
const MOST_QUEUE_BYTES: usize = 32 << 20;

/// What a new pool is to be like: what [`Pool::builder`] gives.
#[must_use = "there is no pool until `build` is called"]
pub struct PoolBuilder {
    processes: Option<usize>,
    name: Option<String>,
    max_tasks: Option<u64>,
    depth: usize,
    retries: u32,
    timeout: Option<Duration>,
    initializer: Option<Start>,
    method: StartMethod,
    segment: Option<Segment>,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            processes: None,
            name: None,
            max_tasks: None,
            depth: DEPTH,
            retries: 0,
            timeout: None,
            initializer: None,
            method: StartMethod::ForkServer,
            segment: None,
        }
    }
}

fn worker_builder(name: String, method: StartMethod) -> Builder {
    Process::builder().daemon(true).name(name).start_method(method)
}

impl PoolBuilder {
    /// How many workers there are; by default, as many as there are CPUs that this process may use. Python: `processes`.
    pub fn processes(mut self, processes: usize) -> Self {
        self.processes = Some(processes);
        self
    }

    /// Names the pool, for its workers: `name:1` and so on. By default it is `Pool-1`, `Pool-2` and so on.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Each worker first calls `function` with `args`. If it panics, the pool is [broken](super::TaskError::Broken), with the
    /// reason; no more workers are started.
    ///
    /// Python: `initializer`, `initargs`; Python starts workers for ever.
    #[doc(alias = "initargs")]
    pub fn initializer<F, I>(mut self, _function: F, args: I) -> Self
    where
        F: Fn(I) + Copy + Send + 'static,
        I: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        const { assert!(size_of::<F>() == 0, "an initializer is a function, or a closure that captures nothing") };
        self.initializer = Some(Box::new(move |outfit, name, method| {
            worker_builder(name, method).spawn(initialized::<F, I>, (outfit, args.clone()))
        }));
        self
    }

    /// After how many tasks a worker is replaced by a new one; a chunk of items counts as one. By default, never.
    ///
    /// Python: `maxtasksperchild`.
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_child(mut self, tasks: u64) -> Self {
        self.max_tasks = Some(tasks);
        self
    }

    /// How many tasks may be under way at once, 4096 by default: whoever submits one more waits, or does not, by
    /// [`Job::try_submit`](super::Job::try_submit) and [`submit_timeout`](super::Job::submit_timeout).
    pub fn depth(mut self, tasks: usize) -> Self {
        self.depth = tasks;
        self
    }

    /// How often a task may be begun again when its worker died, 0 by default: see [`Job::retries`](super::Job::retries).
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How long a task may run: see [`Job::timeout`](super::Job::timeout). By default, for ever.
    pub fn task_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How workers are started; by default by the [fork server](StartMethod::ForkServer), of which all are copies: what was drawn
    /// at random before is the same in all of them, the keys of `RandomState` among it. Python: `context`.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = method;
        self
    }

    /// The segment that tasks and results go through, instead of the family's: then its [handle](Pool::handle) may be kept in
    /// that segment, and found by its name.
    pub fn segment(mut self, segment: &Segment) -> Self {
        self.segment = Some(segment.clone());
        self
    }

    /// Makes the pool and starts its workers.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for 0 processes, tasks or depth, or too many; and whatever keeps a process
    /// from being started, as [`Process::spawn`]: then those are ended that were started.
    pub fn build(self) -> Result<Pool, Error> {
        static POOLS: AtomicU64 = AtomicU64::new(0);
        let refuse = |what, found: usize, wanted: &str| {
            Err(Error::new(ErrorKind::InvalidInput, "make pool", format!("{what} {found}, expected {wanted}")))
        };
        let size = match self.processes {
            Some(size) => size,
            None => std::thread::available_parallelism().map_or(1, |n| n.get()),
        };
        Crew::check_size(size)?;
        if self.max_tasks == Some(0) {
            return refuse("max_tasks_per_child", 0, "1 or more");
        }
        if !(1..=MOST_DEPTH).contains(&self.depth) {
            return refuse("depth", self.depth, "1 to 1048576");
        }
        let name = self.name.unwrap_or_else(|| {
            let number = POOLS.fetch_add(1, Relaxed) + 1;
            match current().name() {
                "main" | "MainProcess" => format!("Pool-{number}"),
                within => format!("{within}:Pool-{number}"),
            }
        });
        let segment = self.segment.map_or_else(Segment::family, Ok)?;
        let bytes = (self.depth * TASK_BYTES).clamp(QUEUE_BYTES, MOST_QUEUE_BYTES);
        let queue = || Queue::builder().bytes(bytes).segment(&segment).build::<Vec<u8>>();
        let owner = Arc::new(Owner::new(queue()?, queue()?, Board::new(&segment, self.depth, size)?, self.depth)?);
        let start: Start = match self.initializer {
            Some(start) => start,
            None => Box::new(|outfit, name, method| worker_builder(name, method).spawn(worker::run, outfit)),
        };
        let crew =
            Arc::new(Crew::new(Arc::clone(&owner), (start, self.method), name, size, self.max_tasks.unwrap_or(0)));
        if let Err(error) = crew.fill() {
            owner.terminate();
            crew.end_all(true);
            return Err(error);
        }
        let via = Via::Own(Arc::clone(&owner));
        let source = Source { via, processes: size, retries: self.retries, timeout: self.timeout };
        let pool = Pool { owner, crew, source, segment, desk: Desk::default() };
        let thread = |name, run: Box<dyn FnOnce() + Send>| {
            start_thread(name, run).map_err(|e| Error::os("start the pool's threads", e))
        };
        let (owner, crew) = (Arc::clone(&pool.owner), Arc::clone(&pool.crew));
        thread("kinfolk-pool", Box::new(move || owner.serve()))?;
        thread("kinfolk-workers", Box::new(move || crew.watch()))?;
        Ok(pool)
    }
}
