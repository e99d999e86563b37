//! A one-way pipe of messages whose types only their senders and receivers know: as `raw.rs` is for queues.

use super::error::RecvError;
use super::one_way::Never;
use super::pipe::Connection;
use super::raw::{Came, RawRefused};
use crate::segment::{ObjectId, Passed, Segment, into_message};
use crate::sys::atomic::Ordering::Acquire;
use crate::sys::clock::Deadline;

impl Connection<Vec<u8>, Never> {
    /// Runs `f`, which encodes something that is to be sent. The second part of the answer goes to
    /// [`put_encoded`](Self::put_encoded).
    pub(crate) fn encoding<R>(&self, f: impl FnOnce() -> R) -> (R, Passed) {
        into_message(self.inner.object.segment(), f)
    }

    /// Sends a message with the handles that were encoded into it. If it is not sent, it may be tried again, but for
    /// [`Stopped`](RawRefused::Stopped): nobody has the other end, or `stop` said so.
    pub(crate) fn put_encoded(
        &self,
        bytes: &[u8],
        passed: &mut Passed,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), RawRefused> {
        if self.is_peer_closed() {
            return Err(RawRefused::Stopped);
        }
        let object = &self.inner.object;
        let lane = object.segment().lane().map_err(RawRefused::Failed)?;
        let named = passed.named(object.segment());
        let gone = || self.is_peer_closed() || stop();
        match self.inner.outgoing.send(lane, bytes, &named, deadline, gone).map_err(RawRefused::from) {
            Ok(()) => {}
            Err(RawRefused::Timeout) if self.finds_deaths() && self.is_peer_closed() => {
                return Err(RawRefused::Stopped);
            }
            Err(refused) => return Err(refused),
        }
        passed.sent_in(object);
        Ok(())
    }

    /// Wakes everybody who waits at the other end, to look again whether to stop waiting.
    pub(crate) fn wake_all(&self) {
        self.inner.outgoing.wake_all();
    }
}

impl Connection<Never, Vec<u8>> {
    /// Receives the oldest message into `buffer`. [`Stopped`](RawRefused::Stopped) if there is none, and nobody has the other
    /// end, or `stop` says so.
    pub(crate) fn get_encoded(
        &self,
        buffer: &mut Vec<u8>,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<Came, RawRefused> {
        let lane = self.lane().map_err(RawRefused::Failed)?;
        Ok(Came(self.inner.incoming.recv(lane, buffer, deadline, || self.is_peer_closed() || stop())?))
    }

    /// As [`get_encoded`](Self::get_encoded), if there is one now.
    pub(crate) fn try_get_encoded(&self, buffer: &mut Vec<u8>) -> Result<Came, RawRefused> {
        let lane = self.lane().map_err(RawRefused::Failed)?;
        self.try_recv_encoded(lane, buffer).map(Came).map_err(|refused| match refused {
            RecvError::Disconnected(_) => RawRefused::Stopped,
            RecvError::Failed(error) => RawRefused::Failed(error),
            _ => RawRefused::Timeout,
        })
    }

    /// Wakes everybody who waits at this end, to look again whether to stop waiting.
    pub(crate) fn wake_all(&self) {
        self.inner.incoming.wake_all();
    }

    /// Counts each time that a process has given one of the ends up.
    pub(crate) fn departures(&self) -> u32 {
        self.inner.object.entry().departures.load(Acquire)
    }
}

impl<T: 'static, U: 'static> Connection<T, U> {
    /// The number of the pipe in its segment.
    pub(crate) fn id(&self) -> ObjectId {
        self.inner.object.id()
    }

    /// The segment that the pipe is in.
    pub(crate) fn segment(&self) -> Segment {
        self.inner.object.segment_handle()
    }

    /// Whether nobody has the other end, as far as it is known: [`bury`](Self::bury) finds out who is dead.
    pub(crate) fn has_no_peer(&self) -> bool {
        self.is_peer_closed()
    }

    /// Whether some process has the other end, as far as it is known; one that only lies in a message does not count.
    pub(crate) fn is_peer_at_hand(&self) -> bool {
        let object = &self.inner.object;
        object.entry().openers[1 - object.role()].iter().any(|word| word.load(Acquire) != 0)
    }

    /// Asks the kernel whether those live who have the pipe, at most once in a millisecond.
    pub(crate) fn bury(&self) {
        self.finds_deaths();
    }
}
