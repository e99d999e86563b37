//! Queues and connections as things that are waited for: by [`wait`](super::wait()), by doorbells, by futures.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pipe::{self, Connection};
use super::queue::{self, Queue};
use crate::codec;
use crate::error::Error;
use crate::segment::{Doorbell, Object, Source, Waitable, Waited, Watched, sealed};

impl Watched for queue::Inner {
    fn object(&self) -> &Object {
        &self.object
    }

    fn word_index(&self) -> usize {
        0
    }

    fn is_ready(&self, _moment: u32) -> bool {
        let given_back = || self.leases.as_ref().is_some_and(|leases| leases.has_waiting());
        self.is_closed() || self.mailbox.has_ready() || given_back() || self.is_abandoned(self.reported.load(Relaxed))
    }

    fn bury(&self) {
        self.mailbox.bury_senders();
    }

    fn peer_cpu(&self) -> Option<u32> {
        self.mailbox.expect_item()
    }
}

/// A queue, watched for room.
struct QueueRoom {
    inner: Arc<queue::Inner>,
    granules: u32,
}

impl Watched for QueueRoom {
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

impl<T: Serialize + DeserializeOwned + 'static> Queue<T> {
    /// The queue, watched for room for this value.
    pub(crate) fn room_for(&self, value: &T) -> Result<Arc<dyn Watched>, Error> {
        let granules = codec::measure(self.inner.object.segment(), value, |bytes, handles| {
            self.inner.mailbox.granules_of(bytes, handles)
        })?;
        Ok(Arc::new(QueueRoom { inner: self.inner.clone(), granules }))
    }
}

impl<T> Queue<T> {
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
}

impl Watched for pipe::Inner {
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
struct PipeRoom {
    inner: Arc<pipe::Inner>,
    granules: u32,
}

impl Watched for PipeRoom {
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

impl<T: Serialize + DeserializeOwned + 'static, U> Connection<T, U> {
    /// The connection, watched for room for this value.
    pub(crate) fn room_for(&self, value: &T) -> Result<Arc<dyn Watched>, Error> {
        let granules = codec::measure(self.inner.object.segment(), value, |bytes, handles| {
            self.inner.outgoing.granules_of(bytes, handles)
        })?;
        Ok(Arc::new(PipeRoom { inner: self.inner.clone(), granules }))
    }
}

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
}
