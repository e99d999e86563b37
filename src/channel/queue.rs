//! The multi-producer, multi-consumer queue of a process family.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32 as Private, Ordering::Relaxed as Lax};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::codec;
use super::error::{GetError, PutError};
use super::layout;
use super::mailbox::{Ended, Mailbox, Refused};
use super::record::Handle;
use crate::error::{Error, ErrorKind};
use crate::segment::{
    Doorbell, KINDS, Kind, Object, ObjectId, Segment, Source, Waitable, Waited, Watched, into_message, sealed,
    type_hash,
};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::{Acquire, Relaxed};
use crate::sys::clock::Deadline;

#[linkme::distributed_slice(KINDS)]
static QUEUE: Kind = Kind {
    code: 1,
    name: "queue",
    count: |view, dead| layout::count(view, 0, dead),
    recover: |view, dead| layout::recover(view, 0, dead),
    linked: |view, f| layout::linked(view, 0, f),
    handles: |view, f| layout::handles(view, 0, f),
    describe: |view| layout::describe(view, 0),
};

/// The largest ring: positions and counts have 19 bits in its words.
const MAX_GRANULES: u32 = 1 << 19;
const DEFAULT_GRANULES: u32 = 1 << 14;
const MIN_GRANULES: u32 = 1 << 10;

/// A queue that any number of processes and threads put into and get from, first in, first out.
///
/// An item is in shared memory when [`put`](Self::put) returns: it survives the death of whoever put it, and there is no
/// feeder thread, so nobody needs to drain a queue before a process may end. Values travel as bytes (postcard; a
/// `Vec<u8>` as it is), up to 64 MiB each. A handle is cheap to clone, and is itself a value: it goes to a child as an
/// argument, and through other queues.
///
/// # If a peer dies
/// Killed before its item was committed: the item is gone, and counted in [`Segment::stats`]. Killed after: it is
/// delivered. Killed between taking an item and having copied it: the item is offered again, after those that were taken meanwhile.
/// Whoever waits goes on, at the latest after the next look (64 ms).
///
/// Python: `multiprocessing.Queue`, `SimpleQueue`.
///
/// ```
/// use kinfolk::{Process, Queue};
///
/// let queue = Queue::new(0)?;
/// let child = Process::spawn(|queue: Queue<String>| queue.put("hello".to_owned()).unwrap(), queue.clone())?;
/// assert_eq!(queue.get()?, "hello");
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "SimpleQueue")]
pub struct Queue<T> {
    inner: Arc<Inner>,
    values: PhantomData<fn(T) -> T>,
}

struct Inner {
    object: Object,
    mailbox: Mailbox,
    closed: AtomicBool,
    /// Departures of other processes that have been reported.
    reported: Private,
}

/// A value with the history of its delivery: see [`Queue::get_delivery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery<T> {
    /// What was put.
    pub value: T,
    /// Somebody took it before and died before it had been copied, so it comes late and out of order.
    pub redelivered: bool,
}

/// Sizes of a new queue other than the defaults.
#[derive(Clone, Debug)]
pub struct QueueBuilder {
    capacity: usize,
    bytes: Option<usize>,
    segment: Option<Segment>,
}

impl QueueBuilder {
    /// How many items may wait at once; 0 for as many as the bytes allow.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// Bytes of the ring, rounded up to a power of two from 4 KiB to 32 MiB. An item takes 8 bytes more than its encoding,
    /// rounded up to 64. An item larger than half the ring takes a block of the segment instead.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// The segment to make it in, instead of the family's.
    pub fn segment(mut self, segment: &Segment) -> Self {
        self.segment = Some(segment.clone());
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a capacity above 524288, [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full.
    pub fn build<T: Serialize + DeserializeOwned + 'static>(self) -> Result<Queue<T>, Error> {
        let segment = self.segment.map_or_else(Segment::family, Ok)?;
        if self.capacity > MAX_GRANULES as usize {
            let message = format!("capacity {}, expected at most {MAX_GRANULES}, or 0 for no limit", self.capacity);
            return Err(Error::new(ErrorKind::InvalidInput, "create queue", message));
        }
        let capacity = self.capacity as u32;
        let granules = match (self.bytes, capacity) {
            (Some(bytes), _) => (bytes >> layout::GRANULE_SHIFT).clamp(64, MAX_GRANULES as usize) as u32,
            (None, 0) => DEFAULT_GRANULES,
            (None, n) => (n.saturating_mul(8)).clamp(MIN_GRANULES, DEFAULT_GRANULES),
        };
        let granules = granules.max(capacity).next_power_of_two();
        let bytes = layout::object_bytes(&[granules]);
        let mut made = Object::create(&segment, &QUEUE, type_hash::<T>(), bytes, &[0], |view| {
            layout::init(view, 0, granules, capacity);
            Ok(())
        })?;
        Queue::from_object(made.pop().expect("one role, one handle"))
    }
}

impl Queue<()> {
    /// Sizes other than the defaults, for a queue of any type.
    pub fn builder() -> QueueBuilder {
        QueueBuilder { capacity: 0, bytes: None, segment: None }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Queue<T> {
    /// Makes a queue in the family's segment that holds up to `capacity` items; 0 for no limit but its 1 MiB of ring.
    ///
    /// # Errors
    /// As [`QueueBuilder::build`].
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Queue::builder().capacity(capacity).build()
    }

    /// Opens a queue by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if it is no queue of `T`, [`Gone`](ErrorKind::Gone) if it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, 0, &QUEUE, type_hash::<T>())?)
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        let mailbox = Mailbox::open(&object, 0, 0)?;
        let reported = Private::new(object.entry().departures.load(Acquire));
        let inner = Arc::new(Inner { object, mailbox, closed: AtomicBool::new(false), reported });
        Ok(Self { inner, values: PhantomData })
    }

    /// Number of the queue in its segment.
    pub fn id(&self) -> ObjectId {
        self.inner.object.id()
    }

    /// Puts a value, waiting while the queue is full.
    ///
    /// # Errors
    /// [`PutError`] hands the value back: [`Closed`](PutError::Closed), [`Encode`](PutError::Encode),
    /// [`Failed`](PutError::Failed).
    ///
    /// Python: `put(obj)`.
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_by(value, Deadline::NEVER)
    }

    /// Puts a value if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`put`](Self::put), and [`PutError::Full`]. Python: `put_nowait(obj)`.
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, value: T) -> Result<(), PutError<T>> {
        self.put_by(value, Deadline::after(Duration::ZERO)).map_err(|e| match e {
            PutError::Timeout(value, _) => PutError::Full(value),
            other => other,
        })
    }

    /// Puts a value, waiting at most `timeout` while the queue is full.
    ///
    /// # Errors
    /// As [`put`](Self::put), and [`PutError::Timeout`]. Python: `put(obj, timeout=t)`.
    pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.put_by(value, Deadline::after(timeout))
    }

    #[inline]
    fn put_by(&self, value: T, deadline: Deadline) -> Result<(), PutError<T>> {
        if self.is_closed() {
            return Err(PutError::Closed(value));
        }
        let lane = match self.inner.object.segment().lane() {
            Ok(lane) => lane,
            Err(e) => return Err(PutError::Failed(value, e)),
        };
        let sent = match codec::as_bytes(&value) {
            Some(bytes) => Ok(self.send(lane, bytes, &[], deadline)),
            None => codec::with_scratch(|buffer| {
                let (encoded, passed) = into_message(|| codec::encode(&value, buffer));
                encoded.map(|()| self.send(lane, buffer, &passed.named(self.inner.object.segment()), deadline))
            }),
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Err(e) => Err(PutError::Encode(value, e)),
            Ok(Err(Ended::Timeout(holder))) => Err(PutError::Timeout(value, holder)),
            Ok(Err(Ended::Stopped)) => Err(PutError::Closed(value)),
            Ok(Err(Ended::Failed(e))) => Err(PutError::Failed(value, e)),
        }
    }

    #[inline]
    fn send(&self, lane: Lane, bytes: &[u8], handles: &[Handle], deadline: Deadline) -> Result<(), Ended> {
        self.inner.mailbox.send(lane, bytes, handles, deadline, || self.is_closed())
    }

    /// Gets the oldest value, waiting while the queue is empty.
    ///
    /// # Errors
    /// [`GetError::Disconnected`] instead of waiting for nobody; [`Closed`](GetError::Closed),
    /// [`Decode`](GetError::Decode), [`Failed`](GetError::Failed).
    ///
    /// Python: `get()`.
    pub fn get(&self) -> Result<T, GetError> {
        self.get_by(Deadline::NEVER).map(|delivery| delivery.value)
    }

    /// Gets the oldest value if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`get`](Self::get), but [`GetError::Empty`] also where `get` would report a disconnection.
    /// Python: `get_nowait()`.
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, GetError> {
        if self.is_closed() {
            return Err(GetError::Closed);
        }
        let lane = self.inner.object.segment().lane().map_err(GetError::Failed)?;
        let received = codec::received(|buffer| self.inner.mailbox.try_recv(lane, buffer));
        received.map(|(value, _)| value).map_err(|e| match e {
            Ok(Refused::NotNow) => GetError::Empty,
            Ok(Refused::Failed(e)) => GetError::Failed(e),
            Err(e) => GetError::Decode(e),
        })
    }

    /// Gets the oldest value, waiting at most `timeout` for it.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`GetError::Timeout`]. Python: `get(timeout=t)`.
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.get_by(Deadline::after(timeout)).map(|delivery| delivery.value)
    }

    /// Gets the oldest value and whether it was offered before, waiting at most `timeout` (`None` for ever).
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`GetError::Timeout`].
    pub fn get_delivery(&self, timeout: Option<Duration>) -> Result<Delivery<T>, GetError> {
        self.get_by(timeout.map_or(Deadline::NEVER, Deadline::after))
    }

    #[inline]
    fn get_by(&self, deadline: Deadline) -> Result<Delivery<T>, GetError> {
        if self.is_closed() {
            return Err(GetError::Closed);
        }
        let lane = self.inner.object.segment().lane().map_err(GetError::Failed)?;
        let before = self.inner.reported.load(Lax);
        let stop = || self.is_closed() || self.inner.is_abandoned(before);
        let received = codec::received(|buffer| self.inner.mailbox.recv(lane, buffer, deadline, stop));
        received.map(|(value, news)| Delivery { value, redelivered: news.redelivered }).map_err(|e| match e {
            Ok(Ended::Timeout(holder)) => GetError::Timeout(holder),
            Ok(Ended::Stopped) => self.stopped(),
            Ok(Ended::Failed(e)) => GetError::Failed(e),
            Err(e) => GetError::Decode(e),
        })
    }

    /// The queue, watched for room for this value.
    pub(crate) fn room_for(&self, value: &T) -> Result<Arc<dyn Watched>, Error> {
        let granules = codec::measure(value, |bytes, handles| self.inner.mailbox.granules_of(bytes, handles))?;
        Ok(Arc::new(Room { inner: self.inner.clone(), granules }))
    }

    #[cold]
    fn stopped(&self) -> GetError {
        if self.is_closed() {
            return GetError::Closed;
        }
        let entry = self.inner.object.entry();
        self.inner.reported.store(entry.departures.load(Acquire), Lax);
        let died = (entry.deaths.load(Acquire) > 0).then(|| entry.last_dead.load(Relaxed));
        GetError::Disconnected(died)
    }
}

impl<T> Queue<T> {
    /// Items that were put and not got. Others go on meanwhile, so the number is old when it arrives; with nobody else
    /// at work it is exact. An item that somebody is putting right now counts. Python: `qsize()`.
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        self.inner.mailbox.len()
    }

    /// Whether there is no item to get, at this moment. Python: `empty()`.
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        !self.inner.mailbox.has_ready()
    }

    /// Ends the use of the queue by this process: every later and every waiting call on any of its handles here gives
    /// `Closed`. Others go on; what was put stays. Closing twice is fine. Python: `close()`.
    pub fn close(&self) {
        self.inner.closed.store(true, Lax);
        self.inner.mailbox.wake_all();
    }

    /// A descriptor that becomes readable when there is something to get: an item, or what `get` reports instead of
    /// waiting. It costs nothing to those who put as long as nobody polls in vain.
    ///
    /// # Errors
    /// If there is no descriptor or no thread to be had. Python: `Queue._reader.fileno()`.
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        Doorbell::new(&self.items())
    }

    /// The queue, watched for something to get.
    pub(crate) fn items(&self) -> Arc<dyn Watched> {
        self.inner.clone()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
}

impl Inner {
    fn is_closed(&self) -> bool {
        self.closed.load(Lax)
    }

    /// Whether some other process gave the queue up since `reported`, and none has it any more.
    fn is_abandoned(&self, reported: u32) -> bool {
        self.object.entry().departures.load(Acquire) != reported && !self.object.has_others(0)
    }
}

impl Watched for Inner {
    fn object(&self) -> &Object {
        &self.object
    }

    fn word_index(&self) -> usize {
        0
    }

    fn is_ready(&self, _moment: u32) -> bool {
        self.is_closed() || self.mailbox.has_ready() || self.is_abandoned(self.reported.load(Lax))
    }

    fn bury(&self) {
        self.mailbox.bury_senders();
    }

    fn peer_cpu(&self) -> Option<u32> {
        self.mailbox.expect_item()
    }
}

/// A queue, watched for room.
struct Room {
    inner: Arc<Inner>,
    granules: u32,
}

impl Watched for Room {
    fn object(&self) -> &Object {
        &self.inner.object
    }

    fn word_index(&self) -> usize {
        1
    }

    fn is_ready(&self, _moment: u32) -> bool {
        self.inner.is_closed() || self.inner.mailbox.has_room(self.granules)
    }

    fn bury(&self) {
        self.inner.mailbox.bury_receivers();
    }
}

impl<T> sealed::Sealed for Queue<T> {
    fn source(&self) -> Source<'_> {
        Source(Waited::Object(self.items()))
    }
}

impl<T> Waitable for Queue<T> {}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), values: PhantomData }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue<{}>({} items)", std::any::type_name::<T>(), self.len())
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.object.pass(serializer)
    }
}

impl<'de, T: Serialize + DeserializeOwned + 'static> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &QUEUE, |_| type_hash::<T>())?;
        Self::from_object(object).map_err(serde::de::Error::custom)
    }
}
