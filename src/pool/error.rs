//! Why a task has no result.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error as ThisError;

use crate::error::Error;
use crate::process::{JoinError, Panic};

/// Why a task of a [`Pool`](super::Pool) has no result.
///
/// Python: the exception that `AsyncResult.get` raises; of a dead worker it tells nothing, and waits for ever.
#[derive(Clone, Debug, ThisError)]
#[non_exhaustive]
pub enum TaskError {
    /// The function panicked. The worker has printed the panic to its standard error, and goes on with other tasks.
    #[error("the task panicked at {location}: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
        /// Where, as `file:line:column`.
        location: String,
        /// The calls that led there, innermost first, if the environment variable `RUST_BACKTRACE` asked for them.
        backtrace: Option<String>,
    },
    /// The worker that ran the task died of it, or at the same time. Another worker has taken its place.
    #[error("worker {pid} died with the task: {status}")]
    WorkerDied {
        /// The worker's process id, of which another process may make use now.
        pid: u32,
        /// How it ended.
        status: Arc<JoinError>,
    },
    /// The task ran longer than it may; its worker was killed.
    #[error("the task ran longer than {timeout:?}")]
    TimedOut {
        /// How long it might run.
        timeout: Duration,
    },
    /// It was cancelled before it had begun.
    #[error("the task was cancelled")]
    Cancelled,
    /// The pool was terminated before the task had ended.
    #[error("the pool was terminated")]
    Terminated,
    /// As many tasks are under way as the pool takes, or their arguments fill its memory.
    #[error("as many tasks are under way as the pool takes")]
    Full,
    /// The pool takes no more tasks: it was closed.
    #[error("the pool is closed")]
    Closed,
    /// The pool has no workers: its initializer failed, or workers died again and again before they could begin.
    #[error("the pool's workers cannot begin: {reason}")]
    Broken {
        /// Why.
        reason: String,
    },
    /// The process that has the pool has died, has dropped it, or has given this process up, for which it could keep no more
    /// results: a [`PoolHandle`](super::PoolHandle) is of no use any more.
    #[error(
        "process {pid} does nothing for this pool's users any more: it has ended, dropped the pool or given this one up"
    )]
    OwnerGone {
        /// The process id that it had.
        pid: u32,
    },
    /// The arguments cannot be sent.
    #[error("the arguments cannot be sent: {0}")]
    Arguments(#[source] Arc<Error>),
    /// The function returned, but its result cannot be sent or read. The worker goes on with other tasks.
    #[error("the result cannot be read: {0}")]
    Result(#[source] Arc<Error>),
    /// A callback of the task panicked, in this process.
    #[error("a callback of the task panicked: {message}")]
    Callback {
        /// What the panic said.
        message: String,
    },
    /// There was no result in time: the task goes on, and so may the wait.
    #[error("there was no result in time")]
    Timeout,
    /// The result was given away by an earlier call.
    #[error("the result was taken before")]
    Taken,
    /// The segment failed: of its memory there is none left, or there are wrong bytes where the task, or the whole pool, was.
    #[error("the pool failed: {0}")]
    Failed(#[source] Arc<Error>),
}

impl From<Panic> for TaskError {
    fn from(Panic { message, location, backtrace }: Panic) -> Self {
        Self::Panicked { message, location, backtrace }
    }
}

impl TaskError {
    pub(super) fn failed(error: Error) -> Self {
        Self::Failed(Arc::new(error))
    }
}
