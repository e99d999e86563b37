//! The pipe: two ends, a direction each way, end of file when the other side is gone.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Private, Ordering::Relaxed as Lax};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{RecvError, SendError};
use super::layout;
use super::mailbox::{Ended, Mailbox, News, Refused};
use super::one_way::{Never, ONE_WAY, is_one_way};
use super::plain::Target;
use super::record::Handle;
use crate::codec;
use crate::error::Error;
use crate::segment::{KINDS, Kind, Losses, Object, Segment, View, into_message, refuse, type_hash};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Acquire;
use crate::sys::clock::{Deadline, now_ns};

#[linkme::distributed_slice(KINDS)]
static PIPE: Kind = Kind {
    code: 2,
    name: "pipe",
    least: layout::RING_AT,
    count: |view, dead| {
        let mut losses = Losses::default();
        for base in bases(view)? {
            losses += layout::count(view, base, dead)?;
        }
        Ok(losses)
    },
    recover: |view, dead| bases(view)?.into_iter().try_for_each(|base| layout::recover(view, base, dead)),
    linked: |view: &View<'_>, f| bases(view)?.into_iter().try_for_each(|base| layout::linked(view, base, f)),
    handles: |view: &View<'_>, f| bases(view)?.into_iter().try_for_each(|base| layout::handles(view, base, f)),
    describe: |view| match bases(view) {
        Ok(bases) => {
            let [a, b] = bases.map(|base| layout::describe(view, base));
            format!("one way {a}; other way {b}")
        }
        Err(e) => e.to_string(),
    },
};

/// Offset of the mailbox that end 1 sends into, behind that of end 0, which has `granules`.
fn second_base(granules: u32) -> usize {
    layout::bytes_for(granules).next_multiple_of(128)
}

/// Offsets of the two mailboxes: what end 0 sends, what end 1 sends. How long the first is, the object tells.
fn bases(view: &View<'_>) -> Result<[usize; 2], Error> {
    Ok([0, second_base(layout::Numbers::read(view, 0)?.granules)])
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
    Connection::builder().build()
}

/// Makes a pipe as [`pipe`] does, in `segment` instead of the family's.
///
/// # Errors
/// As [`pipe`].
#[allow(clippy::type_complexity, reason = "two ends, each with its two types")]
pub fn pipe_in<T, U>(segment: &Segment) -> Result<(Connection<T, U>, Connection<U, T>), Error>
where
    T: Serialize + DeserializeOwned + 'static,
    U: Serialize + DeserializeOwned + 'static,
{
    Connection::builder().segment(segment).build()
}

/// Makes the object, with a mailbox of so many granules for each way that the types allow, and opens both its ends.
#[allow(clippy::type_complexity, reason = "two ends, each with its two types")]
pub(super) fn create<T: 'static, U: 'static>(
    segment: &Segment,
    granules: u32,
    max_items: u32,
) -> Result<(Connection<T, U>, Connection<U, T>), Error> {
    let kind = kind::<T, U>();
    let ways = if is_one_way::<T, U>() { 1 } else { 2 };
    let bytes = layout::object_bytes(&[granules, granules][..ways]);
    let ends = Object::create(segment, kind, pair_hash::<T, U>(0), bytes, &[0, 1], |view| {
        let bases = [0, second_base(granules)];
        bases[..ways].iter().for_each(|base| layout::init(view, *base, granules, max_items));
        Ok(())
    })?;
    let [first, second] = <[Object; 2]>::try_from(ends).unwrap_or_else(|_| unreachable!("two roles, two handles"));
    Ok((Connection::from_object(first)?, Connection::from_object(second)?))
}

/// The kind of pipe that has ends of these types.
fn kind<T: 'static, U: 'static>() -> &'static Kind {
    if is_one_way::<T, U>() { &ONE_WAY } else { &PIPE }
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
/// pipe, both with the process id, as soon as no other process has the other end. A parent that joins a child makes it
/// known at once; whoever waits finds out at the latest after the next look (64 ms), whoever only tries (`try_recv`, `poll`
/// without time, `try_send` into a full pipe) within a millisecond. Until then a message goes into a pipe that has room.
///
/// Killed in the middle of `send`: that message is gone, those behind it arrive. Killed in the middle of `recv`: the message
/// is offered again to the other users of that end. Both are counted in [`Segment::stats`]. Whoever was blocked by the dead
/// goes on.
///
/// Python: `multiprocessing.connection.Connection`. There is no `fileno`: nothing of the system is behind an end.
pub struct Connection<T, U> {
    pub(super) inner: Arc<Inner>,
    values: PhantomData<fn(T) -> U>,
}

pub(super) struct Inner {
    pub object: Object,
    pub outgoing: Mailbox,
    pub incoming: Mailbox,
    /// When a call that does not wait last asked the kernel who is dead.
    asked_ns: Private,
}

/// Calls that do not wait ask the kernel no more often than this.
const ASK_NS: u64 = 1_000_000;

impl<T: 'static, U: 'static> Connection<T, U> {
    fn from_object(object: Object) -> Result<Self, Error> {
        let (mine, theirs) = (object.role(), 1 - object.role());
        let (mine, theirs, bases) = match is_one_way::<T, U>() {
            // The only mailbox; the types keep each end from using it the wrong way.
            true => (0, 0, [0, 0]),
            false => (mine, theirs, bases(&object.view())?),
        };
        let outgoing = Mailbox::open(&object, bases[mine], 2 * mine)?;
        let incoming = Mailbox::open(&object, bases[theirs], 2 * theirs)?;
        Ok(Self {
            inner: Arc::new(Inner { object, outgoing, incoming, asked_ns: Private::new(0) }),
            values: PhantomData,
        })
    }
}

impl<T: Serialize + DeserializeOwned + 'static, U> Connection<T, U> {
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
            Some(bytes) => Ok(self.send_encoded(lane, bytes, &[], deadline)),
            None => codec::with_scratch(|buffer| {
                let object = &self.inner.object;
                let (encoded, mut passed) = into_message(object.segment(), || codec::encode(&value, buffer));
                let sent = encoded.map(|()| self.send_encoded(lane, buffer, &passed.named(object.segment()), deadline));
                if matches!(sent, Ok(Ok(()))) {
                    passed.sent_in(object);
                }
                sent
            }),
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Err(e) => Err(SendError::Encode(value, e)),
            Ok(Err(ended)) => Err(self.send_error(value, ended)),
        }
    }
}

impl<T, U: Serialize + DeserializeOwned + 'static> Connection<T, U> {
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
        let lane = self.lane().map_err(RecvError::Failed)?;
        let received = codec::received(|buffer| self.try_recv_encoded(lane, buffer));
        received.map(|(value, _)| value).map_err(|e| e.unwrap_or_else(RecvError::Decode))
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
        let lane = self.lane().map_err(RecvError::Failed)?;
        let received = codec::received(|buffer| self.recv_encoded(lane, buffer, deadline));
        received.map(|(value, _)| value).map_err(|e| e.unwrap_or_else(RecvError::Decode))
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
            return Ok(self.finds_deaths() && (self.inner.incoming.has_ready() || self.is_peer_closed()));
        }
        let lane = self.lane()?;
        match self.inner.incoming.ready(lane, deadline, || self.is_peer_closed()) {
            Ok(()) | Err(Ended::Stopped) => Ok(true),
            Err(Ended::Timeout(_)) => Ok(false),
            Err(Ended::Failed(e)) => Err(e),
        }
    }
}

impl Inner {
    #[inline]
    pub fn is_peer_closed(&self) -> bool {
        !self.object.is_open(1 - self.object.role())
    }
}

impl<T, U> Connection<T, U> {
    #[inline]
    pub(super) fn lane(&self) -> Result<Lane, Error> {
        self.inner.object.segment().lane()
    }

    #[inline]
    pub(super) fn send_encoded(
        &self,
        lane: Lane,
        bytes: &[u8],
        handles: &[Handle],
        deadline: Deadline,
    ) -> Result<(), Ended> {
        let sent = self.inner.outgoing.send(lane, bytes, handles, deadline, || self.is_peer_closed());
        match sent {
            Err(Ended::Timeout(_)) if self.finds_deaths() && self.is_peer_closed() => Err(Ended::Stopped),
            other => other,
        }
    }

    #[inline]
    pub(super) fn recv_encoded(
        &self,
        lane: Lane,
        bytes: &mut impl Target,
        deadline: Deadline,
    ) -> Result<News, RecvError> {
        self.inner.incoming.recv(lane, bytes, deadline, || self.is_peer_closed()).or_else(|e| match e {
            Ended::Timeout(holder) => self.try_recv_encoded(lane, bytes).map_err(|e| match e {
                RecvError::Empty => RecvError::Timeout(holder),
                other => other,
            }),
            Ended::Stopped => Err(RecvError::Disconnected(self.last_dead())),
            Ended::Failed(e) => Err(RecvError::Failed(e)),
        })
    }

    #[inline]
    pub(super) fn try_recv_encoded(&self, lane: Lane, bytes: &mut impl Target) -> Result<News, RecvError> {
        loop {
            // Looked at first: what was sent before the other end closed still counts.
            let closed = self.is_peer_closed();
            return match self.inner.incoming.try_recv(lane, bytes) {
                Ok(news) => Ok(news),
                Err(Refused::NotNow) if closed => Err(RecvError::Disconnected(self.last_dead())),
                Err(Refused::NotNow) if self.finds_deaths() => continue,
                Err(Refused::NotNow) => Err(RecvError::Empty),
                Err(Refused::Failed(e)) => Err(RecvError::Failed(e)),
            };
        }
    }

    /// Whether a user of the pipe turns out to be dead, now that there is nothing to do. Who waits asks the kernel now and
    /// then; this is for those who never wait, and asks at most once in a millisecond.
    #[cold]
    pub(super) fn finds_deaths(&self) -> bool {
        let (now, asked) = (now_ns(), self.inner.asked_ns.load(Lax));
        if now.saturating_sub(asked) < ASK_NS {
            return false;
        }
        self.inner.asked_ns.store(now, Lax);
        self.inner.object.bury_openers()
    }

    #[inline]
    pub(super) fn is_peer_closed(&self) -> bool {
        self.inner.is_peer_closed()
    }

    /// The process that died last with the other end.
    pub(super) fn last_dead(&self) -> Option<u32> {
        let object = &self.inner.object;
        Some(object.entry().last_dead_as[1 - object.role()].load(Acquire)).filter(|pid| *pid != 0)
    }

    /// Whether the other end is closed: everybody who had it has dropped it or died. It stays true. What was sent before
    /// can still be received; nothing can be sent any more. A death that nobody has found yet counts after the next look:
    /// see [`recv`](Self::recv).
    ///
    /// Python has `closed` for the end itself; here an end that this process has closed is one that it does not have.
    #[doc(alias = "closed")]
    pub fn is_closed(&self) -> bool {
        self.is_peer_closed() || self.finds_deaths() && self.is_peer_closed()
    }

    /// Drops this handle. The end is closed when the last handle of it, in any process, is dropped. Python: `close()`.
    pub fn close(self) {}

    /// What a call that sends works with.
    #[inline]
    pub(super) fn outgoing_and_lane(&self) -> Result<(&Mailbox, Lane), Error> {
        Ok((&self.inner.outgoing, self.inner.object.segment().lane()?))
    }

    /// What a call that receives works with.
    #[inline]
    pub(super) fn incoming_and_lane(&self) -> Result<(&Mailbox, Lane), Error> {
        Ok((&self.inner.incoming, self.inner.object.segment().lane()?))
    }

    /// Why a wait for room ended.
    #[cold]
    pub(super) fn send_error<V>(&self, value: V, ended: Ended) -> SendError<V> {
        match ended {
            Ended::Timeout(holder) => SendError::Timeout(value, holder),
            Ended::Stopped => SendError::Disconnected(value, self.last_dead()),
            Ended::Failed(e) => SendError::Failed(value, e),
        }
    }

    /// Why a wait for a message ended.
    #[cold]
    pub(super) fn recv_error(&self, ended: Ended) -> RecvError {
        match ended {
            Ended::Timeout(holder) => RecvError::Timeout(holder),
            Ended::Stopped => RecvError::Disconnected(self.last_dead()),
            Ended::Failed(e) => RecvError::Failed(e),
        }
    }
}

impl<T, U> Clone for Connection<T, U> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), values: PhantomData }
    }
}

impl<T, U> fmt::Debug for Connection<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (object, messages) = (&self.inner.object, self.inner.incoming.len());
        let [sent, received, never] = [type_name::<T>(), type_name::<U>(), type_name::<Never>()];
        if received == never {
            return write!(f, "Sender<{sent}>({messages} messages)");
        }
        if sent == never {
            return write!(f, "Receiver<{received}>({messages} messages)");
        }
        write!(f, "Connection<{sent}, {received}>(end {}, {messages} messages)", object.role())
    }
}

impl<T, U> Serialize for Connection<T, U> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.object.pass(serializer)
    }
}

impl<'de, T: 'static, U: 'static> Deserialize<'de> for Connection<T, U> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, kind::<T, U>(), pair_hash::<T, U>)?;
        Self::from_object(object).map_err(|e| refuse(e, serde::de::Error::custom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn sizes_that_do_not_fit_the_object_are_refused() {
        let segment = Segment::anonymous(16 << 20).unwrap();
        let (end, _other) = Connection::builder().segment(&segment).bytes(1 << 14).build::<u8, u8>().unwrap();
        let object = &end.inner.object;
        for found in [0, 1, 63, 64, 65, 128, 512, 1 << 19, 1 << 20, 1 << 31, u32::MAX] {
            object.word32(0).store(found, crate::sys::atomic::Ordering::Relaxed);
            let error = Connection::<u8, u8>::from_object(object.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{found} granules");
            assert!((PIPE.recover)(&object.view(), &|_| true).is_err());
            assert!(!(PIPE.describe)(&object.view()).is_empty());
        }
    }
}
