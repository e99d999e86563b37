//! The pipe: two ends, a direction each way, end of file when the other side is gone.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::codec;
use super::error::{RecvError, SendError};
use super::layout;
use super::mailbox::{Ended, Mailbox, Refused};
use super::record::Handle;
use crate::error::Error;
use crate::segment::{
    Doorbell, KINDS, Kind, Losses, Object, Segment, Source, View, Waitable, Waited, Watched, into_message, sealed,
    type_hash,
};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::{Acquire, Relaxed};
use crate::sys::clock::Deadline;

#[linkme::distributed_slice(KINDS)]
static PIPE: Kind = Kind {
    code: 2,
    name: "pipe",
    count: |view, dead| {
        let mut losses = Losses::default();
        for base in bases() {
            losses += layout::count(view, base, dead)?;
        }
        Ok(losses)
    },
    recover: |view, dead| bases().into_iter().try_for_each(|base| layout::recover(view, base, dead)),
    linked: |view: &View<'_>, f| bases().into_iter().try_for_each(|base| layout::linked(view, base, f)),
    handles: |view: &View<'_>, f| bases().into_iter().try_for_each(|base| layout::handles(view, base, f)),
    describe: |view| {
        let [a, b] = bases().map(|base| layout::describe(view, base));
        format!("one way {a}; other way {b}")
    },
};

/// 256 KiB of messages each way.
const GRANULES: u32 = 1 << 12;

/// Offsets of the two mailboxes: what end 0 sends, what end 1 sends.
fn bases() -> [usize; 2] {
    [0, layout::bytes_for(GRANULES).next_multiple_of(128)]
}

/// Makes a pipe in the family's segment: two connected ends. The first sends `T` and receives `U`.
///
/// Each end may be used by many processes and threads at once: messages never tear or mix.
///
/// # Errors
/// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
///
/// Python: `Pipe(duplex=True)`.
///
/// ```
/// use kinfolk::{Connection, Process, pipe};
///
/// let (here, there) = pipe::<u32, String>()?;
/// let double = |end: Connection<String, u32>| end.send((end.recv().unwrap() * 2).to_string()).unwrap();
/// let child = Process::spawn(double, there)?;
/// here.send(21)?;
/// assert_eq!(here.recv()?, "42");
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Pipe")]
#[allow(clippy::type_complexity, reason = "two ends, each with its two types")]
pub fn pipe<T, U>() -> Result<(Connection<T, U>, Connection<U, T>), Error>
where
    T: Serialize + DeserializeOwned + 'static,
    U: Serialize + DeserializeOwned + 'static,
{
    let segment = Segment::family()?;
    let bytes = layout::object_bytes(&[GRANULES, GRANULES]);
    let ends = Object::create(&segment, &PIPE, pair_hash::<T, U>(0), bytes, &[0, 1], |view| {
        bases().into_iter().for_each(|base| layout::init(view, base, GRANULES, 0));
        Ok(())
    })?;
    let [first, second] = <[Object; 2]>::try_from(ends).unwrap_or_else(|_| unreachable!("two roles, two handles"));
    Ok((Connection::from_object(first)?, Connection::from_object(second)?))
}

/// The types as end 0 sees them: end `role` sends `T`.
fn pair_hash<T: 'static, U: 'static>(role: usize) -> u64 {
    if role == 0 { type_hash::<(T, U)>() } else { type_hash::<(U, T)>() }
}

/// One end of a pipe: sends `T`, receives `U`.
///
/// A handle is cheap to clone and is itself a value: it goes to a child as an argument, and through queues and pipes. The
/// end is closed when every handle of it, in every process, is dropped or dead.
///
/// # If a peer dies
/// What it had sent is received first; then [`recv`](Self::recv) reports the end of file and [`send`](Self::send) a broken
/// pipe, both with the process id, as soon as no other process has the other end: at the latest after the next look (64 ms).
///
/// Python: `multiprocessing.connection.Connection`.
pub struct Connection<T, U> {
    inner: Arc<Inner>,
    values: PhantomData<fn(T) -> U>,
}

struct Inner {
    object: Object,
    outgoing: Mailbox,
    incoming: Mailbox,
}

impl<T, U> Connection<T, U>
where
    T: Serialize + DeserializeOwned + 'static,
    U: Serialize + DeserializeOwned + 'static,
{
    fn from_object(object: Object) -> Result<Self, Error> {
        let (mine, theirs) = (object.role(), 1 - object.role());
        let outgoing = Mailbox::open(&object, bases()[mine], 2 * mine)?;
        let incoming = Mailbox::open(&object, bases()[theirs], 2 * theirs)?;
        Ok(Self { inner: Arc::new(Inner { object, outgoing, incoming }), values: PhantomData })
    }

    /// Sends a value, waiting while the pipe is full.
    ///
    /// # Errors
    /// [`SendError`] hands the value back: [`Disconnected`](SendError::Disconnected) if the other end is closed,
    /// [`Encode`](SendError::Encode), [`Failed`](SendError::Failed). Python: `send(obj)`.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.send_by(value, Deadline::NEVER)
    }

    /// Sends a value if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`SendError::Full`].
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.send_by(value, Deadline::after(Duration::ZERO)).map_err(|e| match e {
            SendError::Timeout(value, _) => SendError::Full(value),
            other => other,
        })
    }

    /// Sends a value, waiting at most `timeout` while the pipe is full.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`SendError::Timeout`].
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendError<T>> {
        self.send_by(value, Deadline::after(timeout))
    }

    #[inline]
    fn send_by(&self, value: T, deadline: Deadline) -> Result<(), SendError<T>> {
        if self.is_peer_closed() {
            return Err(SendError::Disconnected(value, self.last_dead()));
        }
        let lane = match self.inner.object.segment().lane() {
            Ok(lane) => lane,
            Err(e) => return Err(SendError::Failed(value, e)),
        };
        let sent = match codec::as_bytes(&value) {
            Some(bytes) => Ok(self.send_bytes(lane, bytes, &[], deadline)),
            None => codec::with_scratch(|buffer| {
                let (encoded, passed) = into_message(|| codec::encode(&value, buffer));
                encoded.map(|()| self.send_bytes(lane, buffer, &passed.named(self.inner.object.segment()), deadline))
            }),
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Err(e) => Err(SendError::Encode(value, e)),
            Ok(Err(Ended::Timeout(holder))) => Err(SendError::Timeout(value, holder)),
            Ok(Err(Ended::Stopped)) => Err(SendError::Disconnected(value, self.last_dead())),
            Ok(Err(Ended::Failed(e))) => Err(SendError::Failed(value, e)),
        }
    }

    #[inline]
    fn send_bytes(&self, lane: Lane, bytes: &[u8], handles: &[Handle], deadline: Deadline) -> Result<(), Ended> {
        self.inner.outgoing.send(lane, bytes, handles, deadline, || self.is_peer_closed())
    }

    /// Receives the oldest message, waiting for one.
    ///
    /// # Errors
    /// [`RecvError::Disconnected`] at the end of file: the other end is closed and everything it sent was received.
    /// [`Decode`](RecvError::Decode), [`Failed`](RecvError::Failed). Python: `recv()`.
    pub fn recv(&self) -> Result<U, RecvError> {
        self.recv_by(Deadline::NEVER)
    }

    /// Receives the oldest message if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Empty`].
    pub fn try_recv(&self) -> Result<U, RecvError> {
        let lane = self.inner.object.segment().lane().map_err(RecvError::Failed)?;
        // Looked at first: what was sent before the other end closed still counts.
        let closed = self.is_peer_closed();
        let received = codec::received(|buffer| self.inner.incoming.try_recv(lane, buffer));
        received.map(|(value, _)| value).map_err(|e| match e {
            Ok(Refused::NotNow) if closed => RecvError::Disconnected(self.last_dead()),
            Ok(Refused::NotNow) => RecvError::Empty,
            Ok(Refused::Failed(e)) => RecvError::Failed(e),
            Err(e) => RecvError::Decode(e),
        })
    }

    /// Receives the oldest message, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Timeout`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<U, RecvError> {
        self.recv_by(Deadline::after(timeout))
    }

    #[inline]
    fn recv_by(&self, deadline: Deadline) -> Result<U, RecvError> {
        let lane = self.inner.object.segment().lane().map_err(RecvError::Failed)?;
        let stop = || self.is_peer_closed();
        let received = codec::received(|buffer| self.inner.incoming.recv(lane, buffer, deadline, stop));
        received.map(|(value, _)| value).map_err(|e| match e {
            Ok(Ended::Timeout(holder)) => RecvError::Timeout(holder),
            Ok(Ended::Stopped) => RecvError::Disconnected(self.last_dead()),
            Ok(Ended::Failed(e)) => RecvError::Failed(e),
            Err(e) => RecvError::Decode(e),
        })
    }

    /// Waits until there is something to receive, a message or the end of file, at most `timeout` (`None` for ever).
    /// Takes nothing. Another user of the same end may take the message before you do.
    ///
    /// # Errors
    /// [`Error`] if the segment failed. Python: `poll(timeout)`.
    pub fn poll(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        if self.inner.incoming.has_ready() || self.is_peer_closed() {
            return Ok(true);
        }
        let deadline = timeout.map_or(Deadline::NEVER, Deadline::after);
        if deadline.passed() {
            return Ok(false);
        }
        let lane = self.inner.object.segment().lane()?;
        match self.inner.incoming.ready(lane, deadline, || self.is_peer_closed()) {
            Ok(()) | Err(Ended::Stopped) => Ok(true),
            Err(Ended::Timeout(_)) => Ok(false),
            Err(Ended::Failed(e)) => Err(e),
        }
    }

    #[inline]
    fn is_peer_closed(&self) -> bool {
        self.inner.is_peer_closed()
    }

    /// The connection, watched for room for this value.
    pub(crate) fn room_for(&self, value: &T) -> Result<Arc<dyn Watched>, Error> {
        let granules = codec::measure(value, |bytes, handles| self.inner.outgoing.granules_of(bytes, handles))?;
        Ok(Arc::new(Room { inner: self.inner.clone(), granules }))
    }

    fn last_dead(&self) -> Option<u32> {
        let entry = self.inner.object.entry();
        (entry.deaths.load(Acquire) > 0).then(|| entry.last_dead.load(Relaxed))
    }
}

impl Inner {
    #[inline]
    fn is_peer_closed(&self) -> bool {
        !self.object.is_open(1 - self.object.role())
    }
}

impl Watched for Inner {
    fn object(&self) -> &Object {
        &self.object
    }

    fn word_index(&self) -> usize {
        2 * (1 - self.object.role())
    }

    fn is_ready(&self, _moment: u32) -> bool {
        self.incoming.has_ready() || self.is_peer_closed()
    }

    fn bury(&self) {
        self.incoming.bury_senders();
    }

    fn peer_cpu(&self) -> Option<u32> {
        self.incoming.expect_item()
    }
}

/// A connection, watched for room.
struct Room {
    inner: Arc<Inner>,
    granules: u32,
}

impl Watched for Room {
    fn object(&self) -> &Object {
        &self.inner.object
    }

    fn word_index(&self) -> usize {
        2 * self.inner.object.role() + 1
    }

    fn is_ready(&self, _moment: u32) -> bool {
        self.inner.outgoing.has_room(self.granules) || self.inner.is_peer_closed()
    }

    fn bury(&self) {
        self.inner.outgoing.bury_receivers();
    }
}

impl<T, U> sealed::Sealed for Connection<T, U> {
    fn source(&self) -> Source<'_> {
        Source(Waited::Object(self.messages()))
    }
}

impl<T, U> Waitable for Connection<T, U> {}

impl<T, U> Connection<T, U> {
    /// A descriptor that becomes readable when there is something to receive: a message, or the end of file. It does not
    /// keep this end open.
    ///
    /// # Errors
    /// If there is no descriptor or no thread to be had. Python: `fileno()`.
    #[doc(alias = "fileno")]
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        Doorbell::new(&self.messages())
    }

    /// The connection, watched for something to receive.
    pub(crate) fn messages(&self) -> Arc<dyn Watched> {
        self.inner.clone()
    }

    /// Drops this handle. The end is closed when the last handle of it, in any process, is dropped. Python: `close()`.
    pub fn close(self) {}
}

impl<T, U> Clone for Connection<T, U> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), values: PhantomData }
    }
}

impl<T, U> fmt::Debug for Connection<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (object, messages) = (&self.inner.object, self.inner.incoming.len());
        let [sent, received] = [std::any::type_name::<T>(), std::any::type_name::<U>()];
        write!(f, "Connection<{sent}, {received}>(end {}, {messages} messages)", object.role())
    }
}

impl<T, U> Serialize for Connection<T, U> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.object.pass(serializer)
    }
}

impl<'de, T, U> Deserialize<'de> for Connection<T, U>
where
    T: Serialize + DeserializeOwned + 'static,
    U: Serialize + DeserializeOwned + 'static,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, &PIPE, pair_hash::<T, U>)?;
        Self::from_object(object).map_err(serde::de::Error::custom)
    }
}
