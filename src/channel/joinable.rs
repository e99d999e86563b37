//! The queue whose items are tasks: `join` waits until all of them are done.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed as Lax};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::ThreadId;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{GetError, PutError, TaskDoneError, UnfinishedError};
use super::lease::{DeadLetters, Lease};
use super::lease_table::{LeaseTable, Ticket};
use super::mailbox::Ended;
use super::queue::{Delivery, QUEUE, Queue};
use super::queue_builder::QueueBuilder;
use super::stats::QueueStats;
use crate::error::Error;
use crate::segment::{Object, ObjectId, Segment, Source, Waitable, sealed, type_hash};
use crate::sys::clock::Deadline;

/// Tasks that may be open at once, unless the builder says otherwise.
const DEFAULT_LEASES: usize = 256;

/// A [`Queue`] whose items are tasks: whoever gets one says [`task_done`](Self::task_done) after it, and
/// [`join`](Self::join) waits until that was said for every task.
///
/// There is no counter that a death could falsify. A task that was got is on [lease](Queue::lease) to its process, and
/// what is unfinished is what lies in the queue or is on lease. At most 256 tasks may be open at once, unless
/// [`QueueBuilder::leases`] says otherwise; more `get`s wait.
///
/// # If a peer dies
/// The open tasks of a process that dies go back to the queue, marked as redelivered, for others to do; so `join` waits
/// for whoever does them then. With [`QueueBuilder::max_deliveries`] a task that was handed out too often counts as
/// finished, and is a [dead letter](Self::dead_letters).
///
/// # What is different from Python's
/// `task_done` finishes a task that *this process* got: the oldest one of the calling thread, or else of any thread. A
/// task that another process got is not finished by it.
///
/// Python: `multiprocessing.JoinableQueue`.
///
/// ```
/// use kinfolk::{JoinableQueue, Process};
///
/// let tasks = JoinableQueue::new(0)?;
/// fn worker(tasks: JoinableQueue<u32>) {
///     while let Ok(task) = tasks.get() {
///         assert!(task < 5);
///         tasks.task_done().unwrap();
///     }
/// }
/// let worker = Process::builder().daemon(true).spawn(worker, tasks.clone())?;
/// for task in 0..5 {
///     tasks.put(task)?;
/// }
/// tasks.join()?;
/// assert_eq!(tasks.unfinished(), 0);
/// worker.kill()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JoinableQueue<T> {
    queue: Queue<T>,
    tasks: Arc<Tasks>,
}

/// The tasks of one queue that this process has got and not finished, the oldest first. All handles share it; the last one
/// to go gives back what is in it.
#[derive(Default)]
struct Tasks {
    open: Mutex<VecDeque<(ThreadId, Ticket)>>,
    /// This process has got a task once, so it may go on doing the work.
    is_worker: AtomicBool,
}

impl Tasks {
    /// The list of this process for a queue.
    fn of(object: &Object) -> Arc<Self> {
        type Key = (u128, ObjectId);
        static ALL: Mutex<Option<HashMap<Key, Weak<Tasks>>>> = Mutex::new(None);
        let mut all = ALL.lock().unwrap_or_else(|e| e.into_inner());
        let all = all.get_or_insert_default();
        let key = (object.segment().id(), object.id());
        if let Some(tasks) = all.get(&key).and_then(Weak::upgrade) {
            return tasks;
        }
        all.retain(|_, tasks| tasks.strong_count() > 0);
        let tasks = Arc::default();
        all.insert(key, Arc::downgrade(&tasks));
        tasks
    }

    fn open(&self) -> MutexGuard<'_, VecDeque<(ThreadId, Ticket)>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn add(&self, ticket: Ticket) {
        self.is_worker.store(true, Lax);
        self.open().push_back((std::thread::current().id(), ticket));
    }

    /// The oldest task of the calling thread, or else of the process.
    fn take(&self) -> Option<Ticket> {
        let me = std::thread::current().id();
        let mut open = self.open();
        // A forked child has a copy of the list of its parent, whose tasks they are.
        open.retain(|(_, ticket)| ticket.is_ours());
        let mine = open.iter().position(|(thread, _)| *thread == me).unwrap_or(0);
        open.remove(mine).map(|(_, ticket)| ticket)
    }
}

impl QueueBuilder {
    /// Makes a queue of tasks; with 256 [`leases`](Self::leases), unless a number of them was set.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_joinable<T: Serialize + DeserializeOwned + 'static>(self) -> Result<JoinableQueue<T>, Error> {
        let object = self.with_some_leases(DEFAULT_LEASES).build_object(type_hash::<JoinableQueue<T>>())?;
        JoinableQueue::from_object(object)
    }
}

impl JoinableQueue<()> {
    /// Sizes other than the defaults, for [`QueueBuilder::build_joinable`].
    pub fn builder() -> QueueBuilder {
        Queue::builder().leases(DEFAULT_LEASES)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> JoinableQueue<T> {
    /// Makes a queue in the family's segment in which up to `capacity` tasks wait; 0 for no limit but its 1 MiB of ring.
    ///
    /// # Errors
    /// As [`QueueBuilder::build`].
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Queue::builder().capacity(capacity).build_joinable()
    }

    /// Opens a queue by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// As [`Queue::open`].
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, 0, &QUEUE, type_hash::<Self>())?)
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        let (queue, tasks) = (Queue::from_object(object.clone())?, Tasks::of(&object));
        let joinable = Self { queue, tasks };
        joinable.table()?;
        Ok(joinable)
    }

    /// Puts a task, waiting while the queue is full.
    ///
    /// # Errors
    /// As [`Queue::put`]. Python: `put(obj)`.
    pub fn put(&self, task: T) -> Result<(), PutError<T>> {
        self.queue.put(task)
    }

    /// Puts a task if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`Queue::try_put`]. Python: `put_nowait(obj)`.
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, task: T) -> Result<(), PutError<T>> {
        self.queue.try_put(task)
    }

    /// Puts a task, waiting at most `timeout` while the queue is full.
    ///
    /// # Errors
    /// As [`Queue::put_timeout`]. Python: `put(obj, timeout=t)`.
    pub fn put_timeout(&self, task: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.queue.put_timeout(task, timeout)
    }

    /// Gets the oldest task, waiting while there is none. It is open until [`task_done`](Self::task_done).
    ///
    /// # Errors
    /// As [`Queue::lease`]. Python: `get()`.
    pub fn get(&self) -> Result<T, GetError> {
        self.get_by(Some(Deadline::NEVER)).map(|delivery| delivery.value)
    }

    /// Gets the oldest task if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`Queue::try_lease`]. Python: `get_nowait()`.
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, GetError> {
        self.get_by(None).map(|delivery| delivery.value)
    }

    /// Gets the oldest task, waiting at most `timeout` for it.
    ///
    /// # Errors
    /// As [`Queue::lease_timeout`]. Python: `get(timeout=t)`.
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.get_by(Some(Deadline::after(timeout))).map(|delivery| delivery.value)
    }

    /// Gets the oldest task and how often it was handed out, waiting at most `timeout` (`None` for ever).
    ///
    /// # Errors
    /// As [`get_timeout`](Self::get_timeout).
    pub fn get_delivery(&self, timeout: Option<Duration>) -> Result<Delivery<T>, GetError> {
        self.get_by(Some(timeout.map_or(Deadline::NEVER, Deadline::after)))
    }

    fn get_by(&self, deadline: Option<Deadline>) -> Result<Delivery<T>, GetError> {
        let (value, ticket) = self.queue.lease_parts(deadline)?;
        let deliveries = ticket.deliveries();
        self.tasks.add(ticket);
        Ok(Delivery { value, redelivered: deliveries > 1, deliveries })
    }

    /// Gets the oldest task as a [`Lease`], which is over when it is acknowledged, by whatever thread, instead of by
    /// `task_done`. Waits while there is none.
    ///
    /// # Errors
    /// As [`Queue::lease`].
    pub fn lease(&self) -> Result<Lease<T>, GetError> {
        self.queue.lease()
    }

    /// As [`lease`](Self::lease), if there is a task now. Never blocks.
    ///
    /// # Errors
    /// As [`Queue::try_lease`].
    pub fn try_lease(&self) -> Result<Lease<T>, GetError> {
        self.queue.try_lease()
    }

    /// As [`lease`](Self::lease), waiting at most `timeout`.
    ///
    /// # Errors
    /// As [`Queue::lease_timeout`].
    pub fn lease_timeout(&self, timeout: Duration) -> Result<Lease<T>, GetError> {
        self.queue.lease_timeout(timeout)
    }

    /// Takes the tasks that were handed out too often; see [`Queue::dead_letters`].
    pub fn dead_letters(&self) -> DeadLetters<'_, T> {
        self.queue.dead_letters()
    }
}

impl<T> JoinableQueue<T> {
    /// Says that a task is finished which this process got: the calling thread's oldest open one, or else the oldest of
    /// any thread. Wakes those who [`join`](Self::join), if it was the last.
    ///
    /// If this process is killed in here, the task was either finished or goes back.
    ///
    /// # Errors
    /// [`TaskDoneError::NoOpenTask`] if there is none: more tasks were finished than got. Python: `task_done()`.
    pub fn task_done(&self) -> Result<(), TaskDoneError> {
        let ticket = self.tasks.take().ok_or(TaskDoneError::NoOpenTask)?;
        ticket.end().map_err(TaskDoneError::Failed)
    }

    fn table(&self) -> Result<&Arc<LeaseTable>, Error> {
        let damaged = || Error::corrupt("joinable queue", "leases", 0, "at least 1");
        self.queue.inner.leases.as_ref().ok_or_else(damaged)
    }

    /// Waits until every task that was put is finished: at some moment of the call none lay in the queue and none was
    /// open, in any process. Dead letters count as finished.
    ///
    /// # If a peer dies
    /// Its open tasks are unfinished again. If nobody is left who could do them (every other process that had the queue has
    /// gone since that was last reported, and this one has never got a task), that is an error, and not waited for.
    ///
    /// # Errors
    /// [`UnfinishedError::Disconnected`], [`UnfinishedError::Failed`]. Python: `join()`.
    pub fn join(&self) -> Result<(), UnfinishedError> {
        self.join_by(Deadline::NEVER)
    }

    /// Whether every task that was put is finished now. Never blocks.
    ///
    /// # Errors
    /// [`UnfinishedError::Unfinished`] if not; [`UnfinishedError::Failed`].
    pub fn try_join(&self) -> Result<(), UnfinishedError> {
        match self.table().and_then(|table| table.all_finished()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(UnfinishedError::Unfinished),
            Err(e) => Err(UnfinishedError::Failed(e)),
        }
    }

    /// Waits until every task that was put is finished, at most `timeout`.
    ///
    /// # Errors
    /// As [`join`](Self::join), and [`UnfinishedError::Timeout`] with the name of a process that has an open task, if
    /// there is one.
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), UnfinishedError> {
        self.join_by(Deadline::after(timeout))
    }

    fn join_by(&self, deadline: Deadline) -> Result<(), UnfinishedError> {
        match self.try_join() {
            Err(UnfinishedError::Unfinished) => {}
            ended => return ended,
        }
        let reported = self.queue.reported();
        let nobody_works = || !self.tasks.is_worker.load(Lax) && self.queue.is_abandoned(reported);
        let lane = self.queue.inner.object.segment().lane().map_err(UnfinishedError::Failed)?;
        let table = self.table().map_err(UnfinishedError::Failed)?;
        table.join(lane, deadline, nobody_works).map_err(|ended| match ended {
            Ended::Timeout(holder) => UnfinishedError::Timeout(holder),
            Ended::Stopped => UnfinishedError::Disconnected(self.queue.disconnected()),
            Ended::Failed(e) => UnfinishedError::Failed(e),
        })
    }

    /// Tasks that lie in the queue or are open somewhere, dead letters not counted. Others go on meanwhile, so the number
    /// is old when it arrives, and a task that changes hands may be counted twice or not at all; with nobody else at work
    /// it is exact. [`try_join`](Self::try_join) is exact always.
    pub fn unfinished(&self) -> usize {
        let waiting = self.queue.len();
        waiting + self.table().map_or(0, |table| table.tally().held)
    }

    /// What has been done with the queue since it was made. See [`Queue::stats`].
    ///
    /// # Errors
    /// As [`Queue::stats`].
    pub fn stats(&self) -> Result<QueueStats, Error> {
        self.queue.stats()
    }

    /// Tasks that wait to be got. See [`Queue::len`]. Python: `qsize()`.
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no task waits to be got, at this moment; some may be open. Python: `empty()`.
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a small task would have to wait for room, at this moment. Python: `full()`.
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// How many tasks may wait at once, if that is limited. Python: `maxsize`.
    #[doc(alias = "maxsize")]
    pub fn capacity(&self) -> Option<usize> {
        self.queue.capacity()
    }

    /// Ends putting and getting by this process, as [`Queue::close`] does. What it has open can still be finished, and it
    /// can [`join`](Self::join). Python: `close()`.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Whether this process has closed the queue.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Number of the queue in its segment.
    pub fn id(&self) -> ObjectId {
        self.queue.inner.object.id()
    }
}

impl<T> sealed::Sealed for JoinableQueue<T> {
    fn source(&self) -> Source<'_> {
        sealed::Sealed::source(&self.queue)
    }
}

impl<T> Waitable for JoinableQueue<T> {}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), tasks: self.tasks.clone() }
    }
}

impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinableQueue<{}>({} unfinished)", std::any::type_name::<T>(), self.unfinished())
    }
}

impl<T> Serialize for JoinableQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.queue.serialize(serializer)
    }
}

impl<'de, T: Serialize + DeserializeOwned + 'static> Deserialize<'de> for JoinableQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &QUEUE, |_| type_hash::<Self>())?;
        Self::from_object(object).map_err(serde::de::Error::custom)
    }
}
