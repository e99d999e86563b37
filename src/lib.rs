//! Multiprocessing over shared memory.

pub mod channel;
mod codec;
mod error;
pub mod future;
pub mod manager;
pub mod pool;
pub mod process;
pub mod ring;
pub mod segment;
pub mod shared;
mod store;
pub mod sync;
mod sys;

pub use channel::{
    Connection, GetError, JoinableQueue, Lease, PutError, Queue, Receiver, RecvError, SendError, Sender, TaskDoneError,
    UnfinishedError, pipe, pipe_in, pipe_oneway,
};
pub use error::{Error, ErrorKind};
#[cfg(feature = "async-io")]
pub use future::async_io;
#[cfg(feature = "tokio")]
pub use future::tokio;
pub use manager::Manager;
pub use pool::{Pool, PoolHandle, Task, TaskError};
pub use process::{JoinError, Process, init};
pub use segment::Segment;
pub use shared::{
    Array, ArrayError, Barrier, BarrierError, BoundedSemaphore, ByteDict, ByteList, ByteRef, Condvar, DeadHolder, Dict,
    Event, List, ListError, Lock, LockError, Mutex, MutexGuard, Namespace, Once, OverRelease, Permit, Previous, RLock,
    RLockGuard, RawArray, RawValue, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, Set, Value, WaitError,
};
#[cfg(feature = "raw-sync")]
pub use shared::{RawLock, RawSyncGuard, RawSyncLock};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
