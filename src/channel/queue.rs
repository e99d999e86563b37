//! The multi-producer, multi-consumer queue of a process family.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32 as Private, Ordering::Relaxed as Lax};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{GetError, PutError};
use super::lease_layout;
use super::lease_table::LeaseTable;
use super::mailbox::{Ended, Mailbox, News, Refused};
use super::record::Handle;
use crate::codec;
use crate::error::Error;
use crate::segment::{KINDS, Kind, Object, ObjectId, Segment, into_message, type_hash};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::{Acquire, Relaxed};
use crate::sys::clock::Deadline;

#[linkme::distributed_slice(KINDS)]
pub(super) static QUEUE: Kind = Kind {
    code: 1,
    name: "queue",
    least: super::layout::RING_AT,
    count: |view, dead| lease_layout::count(view, dead),
    recover: |view, dead| lease_layout::recover(view, dead),
    linked: |view, f| lease_layout::linked(view, f),
    handles: |view, f| lease_layout::handles(view, f),
    describe: |view| lease_layout::describe(view),
};

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
    pub(super) inner: Arc<Inner>,
    values: PhantomData<fn(T) -> T>,
}

pub(super) struct Inner {
    pub object: Object,
    pub mailbox: Mailbox,
    pub leases: Option<Arc<LeaseTable>>,
    closed: AtomicBool,
    /// Departures of other processes that have been reported.
    pub reported: Private,
}

/// A value with the history of its delivery: see [`Queue::get_delivery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery<T> {
    /// What was put.
    pub value: T,
    /// Somebody took it before and died before it had been copied, so it comes late and out of order.
    pub redelivered: bool,
    /// How often it was handed out, this time included; of a queue without leases, 1 or 2.
    pub deliveries: u32,
}

impl<T: Serialize + DeserializeOwned + 'static> Queue<T> {
    /// Makes a queue in the family's segment that holds up to `capacity` items; 0 for no limit but its 1 MiB of ring.
    ///
    /// # Errors
    /// As [`QueueBuilder::build`](super::QueueBuilder::build).
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Queue::builder().capacity(capacity).build()
    }

    /// Opens a queue by the [`id`](Self::id) that another handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is no queue of `T`, [`Gone`](crate::ErrorKind::Gone) if it exists
    /// no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, 0, &QUEUE, type_hash::<T>())?)
    }

    pub(super) fn from_object(object: Object) -> Result<Self, Error> {
        let mailbox = Mailbox::open(&object, 0, 0)?;
        let reported = Private::new(object.entry().departures.load(Acquire));
        let leases = LeaseTable::open(&object)?;
        let inner = Arc::new(Inner { object, mailbox, leases, closed: AtomicBool::new(false), reported });
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
                let object = &self.inner.object;
                let (encoded, mut passed) = into_message(object.segment(), || codec::encode(&value, buffer));
                let sent = encoded.map(|()| self.send(lane, buffer, &passed.named(object.segment()), deadline));
                if matches!(sent, Ok(Ok(()))) {
                    passed.sent_in(object);
                }
                sent
            }),
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Err(e) => Err(PutError::Encode(value, e)),
            Ok(Err(ended)) => Err(PutError::from_ended(value, ended)),
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
        let received = codec::received(|buffer| self.try_recv(lane, buffer));
        received.map(|(value, _)| value).map_err(|e: Result<Refused, Error>| match e {
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
        if self.inner.leases.is_some() {
            return self.get_beside_leases(deadline);
        }
        let lane = self.inner.object.segment().lane().map_err(GetError::Failed)?;
        let received = codec::received(|buffer| self.inner.mailbox.recv(lane, buffer, deadline, self.stop()));
        let delivery = |(value, news): (T, News)| {
            let redelivered = news.redelivered;
            Delivery { value, redelivered, deliveries: 1 + u32::from(redelivered) }
        };
        received.map(delivery).map_err(|e| self.not_got(e))
    }

    #[cold]
    fn not_got(&self, why: Result<Ended, Error>) -> GetError {
        match why {
            Ok(ended) => self.get_error(ended),
            Err(e) => GetError::Decode(e),
        }
    }

    /// As `get_by`, of a queue with leases: what was given back comes first.
    #[inline(never)]
    fn get_beside_leases(&self, deadline: Deadline) -> Result<Delivery<T>, GetError> {
        let lane = self.inner.object.segment().lane().map_err(GetError::Failed)?;
        let received = codec::received(|buffer| {
            let mut attempt = || match self.try_recv(lane, buffer) {
                Ok(taken) => Some(Ok(taken)),
                Err(Refused::Failed(e)) => Some(Err(Ended::Failed(e))),
                Err(Refused::NotNow) => None,
            };
            attempt().unwrap_or_else(|| self.inner.mailbox.wait_for_item(lane, deadline, self.stop(), attempt))
        });
        let delivery = |(value, (news, deliveries)): (T, (News, u32))| Delivery {
            value,
            redelivered: news.redelivered,
            deliveries,
        };
        received.map(delivery).map_err(|e| self.not_got(e))
    }

    /// Takes the oldest message, one that was given back before others, and says how often it was handed out.
    fn try_recv(&self, lane: Lane, buffer: &mut Vec<u8>) -> Result<(News, u32), Refused> {
        if let Some(again) = self.inner.leases.as_ref().and_then(|leases| leases.try_get_again(buffer)) {
            return again;
        }
        let news = self.inner.mailbox.try_recv(lane, buffer)?;
        let deliveries = 1 + u32::from(news.redelivered);
        Ok((news, deliveries))
    }
}

impl<T> Queue<T> {
    /// The departures of other processes that have been reported.
    pub(super) fn reported(&self) -> u32 {
        self.inner.reported.load(Lax)
    }

    /// Whether some other process gave the queue up since `reported`, and none has it any more.
    pub(super) fn is_abandoned(&self, reported: u32) -> bool {
        self.inner.is_abandoned(reported)
    }

    /// Notes that a disconnection is reported now. The last process that died with the queue open.
    #[cold]
    pub(super) fn disconnected(&self) -> Option<u32> {
        let entry = self.inner.object.entry();
        self.inner.reported.store(entry.departures.load(Acquire), Lax);
        (entry.deaths.load(Acquire) > 0).then(|| entry.last_dead.load(Relaxed))
    }

    /// Items that were put and not got, nor are on lease. Others go on meanwhile, so the number is old when it arrives; with nobody else
    /// at work it is exact. An item that somebody is putting right now counts. Python: `qsize()`.
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        let given_back = self.inner.leases.as_ref().map_or(0, |leases| leases.tally().waiting);
        self.inner.mailbox.len() + given_back
    }

    /// Whether there is no item to get, at this moment. Python: `empty()`.
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        !self.inner.mailbox.has_ready() && !self.inner.leases.as_ref().is_some_and(|leases| leases.has_waiting())
    }

    /// Whether a small item would have to wait for room, at this moment: as many items wait as the capacity allows, or
    /// the ring has no granule left. Python: `full()`.
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        !self.inner.mailbox.has_room(1)
    }

    /// How many items may wait at once; `None` if only the bytes of the ring limit them. Python: `maxsize`.
    #[doc(alias = "maxsize")]
    pub fn capacity(&self) -> Option<usize> {
        self.inner.mailbox.capacity()
    }

    /// Ends the use of the queue by this process: every later and every waiting `put` and `get` on any of its clones here
    /// gives `Closed`, `put` with its value. Others go on; what was put stays, and they get it. Closing twice is fine.
    ///
    /// What only looks ([`len`](Self::len), [`is_empty`](Self::is_empty), [`is_full`](Self::is_full)) goes on telling the
    /// truth about the shared queue, where Python's raise `OSError`.
    ///
    /// Python: `close()`. There is nothing to join: `join_thread()` and `cancel_join_thread()` have no counterpart.
    #[doc(alias = "join_thread")]
    #[doc(alias = "cancel_join_thread")]
    pub fn close(&self) {
        self.inner.closed.store(true, Lax);
        self.inner.mailbox.wake_all();
        if let Some(leases) = &self.inner.leases {
            leases.wake_all();
        }
    }

    /// Whether this process has closed the queue.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Lax)
    }

    /// What a call works with.
    #[inline]
    pub(super) fn mailbox_and_lane(&self) -> Result<(&Mailbox, Lane), Error> {
        Ok((&self.inner.mailbox, self.inner.object.segment().lane()?))
    }

    /// Whether items that are given back lie in a table beside the ring.
    #[inline]
    pub(super) fn has_leases(&self) -> bool {
        self.inner.leases.is_some()
    }

    /// What ends a wait for an item.
    #[inline]
    pub(super) fn stop(&self) -> impl Fn() -> bool {
        let before = self.reported();
        move || self.is_closed() || self.is_abandoned(before)
    }

    /// Why a wait for an item ended.
    #[cold]
    pub(super) fn get_error(&self, ended: Ended) -> GetError {
        match ended {
            Ended::Timeout(holder) => GetError::Timeout(holder),
            Ended::Stopped => self.stopped(),
            Ended::Failed(e) => GetError::Failed(e),
        }
    }

    #[cold]
    pub(super) fn stopped(&self) -> GetError {
        if self.is_closed() { GetError::Closed } else { GetError::Disconnected(self.disconnected()) }
    }
}

impl Inner {
    pub fn is_closed(&self) -> bool {
        self.closed.load(Lax)
    }

    /// Whether some other process gave the queue up since `reported`, and none has it any more.
    pub fn is_abandoned(&self, reported: u32) -> bool {
        self.object.entry().departures.load(Acquire) != reported && !self.object.has_others(0)
    }
}

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
