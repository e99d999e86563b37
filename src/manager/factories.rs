//! A method for each kind of thing that a manager makes: the thing's own constructor, in the manager's segment.

use bytemuck::{CheckedBitPattern, NoUninit, Zeroable};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Manager;
use crate::channel::{Connection, JoinableQueue, Queue, Receiver, Sender};
use crate::error::Error;
use crate::pool::Pool;
use crate::shared::{
    Array, Barrier, BoundedSemaphore, ByteDict, Condvar, Dict, Event, List, Lock, Mutex, Namespace, Once, RLock,
    RawArray, RawValue, RwLock, Semaphore, Set, Value,
};

/// Queues and pipes.
impl Manager {
    /// Makes a queue that holds up to `capacity` items; 0 for no limit but its 1 MiB of ring. Other sizes:
    /// `Queue::builder().segment(manager.segment())`.
    ///
    /// # Errors
    /// As [`Queue::new`]. Python: `Queue(maxsize)`.
    pub fn queue<T: Serialize + DeserializeOwned + 'static>(&self, capacity: usize) -> Result<Queue<T>, Error> {
        Queue::builder().capacity(capacity).segment(&self.segment).build()
    }

    /// Makes a queue of tasks in which up to `capacity` wait; 0 for no limit but its 1 MiB of ring.
    ///
    /// # Errors
    /// As [`JoinableQueue::new`]. Python: `JoinableQueue(maxsize)`.
    #[doc(alias = "JoinableQueue")]
    pub fn joinable_queue<T>(&self, capacity: usize) -> Result<JoinableQueue<T>, Error>
    where
        T: Serialize + DeserializeOwned + 'static,
    {
        Queue::builder().capacity(capacity).segment(&self.segment).build_joinable()
    }

    /// Makes a pipe: two connected ends. The first sends `T` and receives `U`.
    ///
    /// # Errors
    /// As [`pipe`](crate::pipe()).
    #[allow(clippy::type_complexity, reason = "two ends, each with its two types")]
    pub fn pipe<T, U>(&self) -> Result<(Connection<T, U>, Connection<U, T>), Error>
    where
        T: Serialize + DeserializeOwned + 'static,
        U: Serialize + DeserializeOwned + 'static,
    {
        Connection::builder().segment(&self.segment).build()
    }

    /// Makes a pipe that goes one way.
    ///
    /// # Errors
    /// As [`pipe_oneway`](crate::pipe_oneway).
    pub fn pipe_oneway<T>(&self) -> Result<(Receiver<T>, Sender<T>), Error>
    where
        T: Serialize + DeserializeOwned + 'static,
    {
        Connection::builder().segment(&self.segment).build_oneway()
    }
}

/// Locks and what else processes wait for.
impl Manager {
    /// Makes a mutex without data.
    ///
    /// # Errors
    /// As [`Mutex::new`]. Python: `Lock()`.
    pub fn lock(&self) -> Result<Lock, Error> {
        Lock::new_in(&self.segment, ())
    }

    /// Makes a mutex around a value of plain bytes.
    ///
    /// # Errors
    /// As [`Mutex::new`].
    pub fn mutex<T: NoUninit + CheckedBitPattern>(&self, value: T) -> Result<Mutex<T>, Error> {
        Mutex::new_in(&self.segment, value)
    }

    /// Makes a lock that its holder may take again.
    ///
    /// # Errors
    /// As [`RLock::new`]. Python: `RLock()`.
    pub fn rlock(&self) -> Result<RLock, Error> {
        RLock::new_in(&self.segment)
    }

    /// Makes a lock for many readers or one writer around a value of plain bytes.
    ///
    /// # Errors
    /// As [`RwLock::new`].
    pub fn rwlock<T: NoUninit + CheckedBitPattern>(&self, value: T) -> Result<RwLock<T>, Error> {
        RwLock::new_in(&self.segment, value)
    }

    /// Makes a semaphore with so many permits.
    ///
    /// # Errors
    /// As [`Semaphore::new`]. Python: `Semaphore(value)`.
    pub fn semaphore(&self, permits: u32) -> Result<Semaphore, Error> {
        Semaphore::new_in(&self.segment, permits)
    }

    /// Makes a semaphore that never has more than so many permits.
    ///
    /// # Errors
    /// As [`BoundedSemaphore::new`]. Python: `BoundedSemaphore(value)`.
    #[doc(alias = "BoundedSemaphore")]
    pub fn bounded_semaphore(&self, permits: u32) -> Result<BoundedSemaphore, Error> {
        BoundedSemaphore::new_in(&self.segment, permits)
    }

    /// Makes a condition variable.
    ///
    /// # Errors
    /// As [`Condvar::new`]. Python: `Condition()`.
    #[doc(alias = "Condition")]
    pub fn condvar(&self) -> Result<Condvar, Error> {
        Condvar::new_in(&self.segment)
    }

    /// Makes an event, which is not set.
    ///
    /// # Errors
    /// As [`Event::new`]. Python: `Event()`.
    pub fn event(&self) -> Result<Event, Error> {
        Event::new_in(&self.segment)
    }

    /// Makes a barrier at which so many have to meet.
    ///
    /// # Errors
    /// As [`Barrier::new`]. Python: `Barrier(parties)`.
    pub fn barrier(&self, parties: u32) -> Result<Barrier, Error> {
        Barrier::new_in(&self.segment, parties)
    }

    /// Makes what is done once.
    ///
    /// # Errors
    /// As [`Once::new`].
    pub fn once(&self) -> Result<Once, Error> {
        Once::new_in(&self.segment)
    }
}

/// Plain data, in place.
impl Manager {
    /// Makes a value of plain bytes with a lock.
    ///
    /// # Errors
    /// As [`Value::new`]. Python: `Value(typecode, value)`.
    #[doc(alias = "ValueProxy")]
    pub fn value<T: NoUninit + CheckedBitPattern>(&self, value: T) -> Result<Value<T>, Error> {
        Value::new_in(&self.segment, value)
    }

    /// Makes a value of plain bytes without a lock.
    ///
    /// # Errors
    /// As [`RawValue::new`].
    pub fn raw_value<T: NoUninit + CheckedBitPattern>(&self, value: T) -> Result<RawValue<T>, Error> {
        RawValue::new_in(&self.segment, value)
    }

    /// Makes an array of `len` zeros with a lock. Of other elements: [`array_of`](Self::array_of).
    ///
    /// # Errors
    /// As [`Array::new`]. Python: `Array(typecode, len)`.
    #[doc(alias = "ArrayProxy")]
    pub fn array<T: NoUninit + CheckedBitPattern + Zeroable>(&self, len: usize) -> Result<Array<T>, Error> {
        Array::new_in(&self.segment, len)
    }

    /// Makes an array of these elements with a lock.
    ///
    /// # Errors
    /// As [`Array::from_slice`]. Python: `Array(typecode, sequence)`.
    pub fn array_of<T: NoUninit + CheckedBitPattern>(&self, values: &[T]) -> Result<Array<T>, Error> {
        Array::from_slice_in(&self.segment, values)
    }

    /// Makes an array of `len` zeros without a lock.
    ///
    /// # Errors
    /// As [`RawArray::new`].
    pub fn raw_array<T: NoUninit + CheckedBitPattern + Zeroable>(&self, len: usize) -> Result<RawArray<T>, Error> {
        RawArray::new_in(&self.segment, len)
    }

    /// Makes an array of these elements without a lock.
    ///
    /// # Errors
    /// As [`RawArray::from_slice`].
    pub fn raw_array_of<T: NoUninit + CheckedBitPattern>(&self, values: &[T]) -> Result<RawArray<T>, Error> {
        RawArray::from_slice_in(&self.segment, values)
    }
}

/// Containers.
impl Manager {
    /// Makes an empty dictionary. With another number of shards: `Dict::builder().segment(manager.segment())`.
    ///
    /// # Errors
    /// As [`Dict::new`]. Python: `dict()`; `dict(pairs)` is [`Dict::extend`] of it.
    #[doc(alias = "DictProxy")]
    pub fn dict<K, V>(&self) -> Result<Dict<K, V>, Error>
    where
        K: Serialize + DeserializeOwned + 'static,
        V: Serialize + DeserializeOwned + 'static,
    {
        Dict::new_in(&self.segment)
    }

    /// Makes an empty dictionary whose keys and values are bytes.
    ///
    /// # Errors
    /// As [`ByteDict::new`].
    pub fn byte_dict(&self) -> Result<ByteDict, Error> {
        ByteDict::new_in(&self.segment)
    }

    /// Makes an empty set.
    ///
    /// # Errors
    /// As [`Set::new`]. Python, from 3.14 on: `set()`; `set(iterable)` is [`Set::update`] of it.
    #[doc(alias = "SetProxy")]
    pub fn set<T: Serialize + DeserializeOwned + 'static>(&self) -> Result<Set<T>, Error> {
        Set::new_in(&self.segment)
    }

    /// Makes an empty list.
    ///
    /// # Errors
    /// As [`List::new`]. Python: `list()`; `list(values)` is [`list_of`](Self::list_of).
    #[doc(alias = "ListProxy")]
    #[doc(alias = "ShareableList")]
    pub fn list<T: Serialize + DeserializeOwned + 'static>(&self) -> Result<List<T>, Error> {
        List::new_in(&self.segment)
    }

    /// Makes a list of these values.
    ///
    /// # Errors
    /// As [`List::from_slice`].
    pub fn list_of<T: Serialize + DeserializeOwned + 'static>(&self, values: &[T]) -> Result<List<T>, Error> {
        List::from_slice_in(&self.segment, values)
    }

    /// Makes a namespace without names.
    ///
    /// # Errors
    /// As [`Namespace::new`]. Python: `Namespace()`.
    #[doc(alias = "Namespace")]
    pub fn namespace(&self) -> Result<Namespace, Error> {
        Namespace::new_in(&self.segment)
    }
}

/// Pools.
impl Manager {
    /// Makes a pool of so many workers, which this process has, and whose [handle](Pool::handle) may be
    /// [published](Self::publish). Other pools: `Pool::builder().segment(manager.segment())`.
    ///
    /// # Errors
    /// As [`Pool::new`].
    ///
    /// Python: `Manager().Pool(processes)`, whose workers are the children of the manager's server.
    ///
    /// ```
    /// use kinfolk::{Manager, PoolHandle};
    ///
    /// let manager = Manager::new()?;
    /// let pool = manager.pool(2)?;
    /// manager.publish("workers", &pool.handle()?)?;
    /// // Elsewhere:
    /// let pool = manager.find::<PoolHandle>("workers")?;
    /// assert_eq!(pool.apply(|n: u32| n + 1, 1)?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PoolProxy")]
    pub fn pool(&self, processes: usize) -> Result<Pool, Error> {
        Pool::builder().processes(processes).segment(&self.segment).build()
    }
}
