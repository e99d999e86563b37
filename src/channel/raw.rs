//! A queue of messages whose types only their senders and takers know: the layer above says what is in the bytes.

use std::cell::Cell;

use super::layout::corrupt;
use super::mailbox::{Ended, Flow, News, Refused};
use super::plain::Target;
use super::queue::Queue;
use crate::error::Error;
use crate::segment::{Arrived, Passed, ShmSlice, into_message};
use crate::sys::clock::Deadline;

/// Why a message was not put or taken.
#[derive(Debug)]
pub(crate) enum RawRefused {
    /// Not in time.
    Timeout,
    /// The caller's own check ended the wait.
    Stopped,
    /// The segment failed, or the message is too large.
    Failed(Error),
}

impl From<Ended> for RawRefused {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Timeout(_) => Self::Timeout,
            Ended::Stopped => Self::Stopped,
            Ended::Failed(e) => Self::Failed(e),
        }
    }
}

/// Keeps the handles in a message open until they are decoded.
#[derive(Default)]
pub(crate) struct Came(pub(super) News);

thread_local! {
    /// What came with the message that the calling thread is dealing with.
    static AT_HAND: Cell<Option<Came>> = const { Cell::new(None) };
}

impl Came {
    /// Runs `f`, which deals with the message; [`at_hand`](Self::at_hand) knows meanwhile what came with it.
    #[inline]
    pub(crate) fn during<R>(self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<Came>);
        impl Drop for Restore {
            #[inline]
            fn drop(&mut self) {
                drop(AT_HAND.replace(self.0.take()));
            }
        }
        let _restore = Restore(AT_HAND.replace(Some(self)));
        f()
    }

    /// What came with the message that the calling thread is dealing with, kept for longer.
    pub(crate) fn at_hand() -> Arrived {
        let came = AT_HAND.take();
        let again = came.as_ref().map(Came::again).unwrap_or_default();
        AT_HAND.set(came);
        again
    }

    /// The handles in the message, kept open for longer.
    fn again(&self) -> Arrived {
        self.0.arrived.again()
    }

    /// While another message is encoded, which has the same bytes: it is to have the same handles. This must be kept until
    /// that is put.
    pub(crate) fn pass_on(&self) {
        self.0.arrived.pass_on();
    }
}

/// From this length on a message may lie in two places: bytes that are long are not copied only to have something in front.
pub(crate) const LARGE: usize = 64 << 10;

/// Where a message goes: the first bytes to one buffer, and the rest, if that is [`LARGE`], to another, which is empty
/// otherwise.
pub(crate) struct Parts<'a> {
    pub head: &'a mut Vec<u8>,
    pub rest: &'a mut Vec<u8>,
    /// How many bytes go to the head then.
    pub at: usize,
}

/// Two buffers, and what is done as soon as a message is in them, while the message is still the queue's.
struct Claimed<'a, F> {
    parts: Parts<'a>,
    claim: F,
}

impl<F: FnMut(&[u8])> Target for Claimed<'_, F> {
    #[inline]
    fn fill(&mut self, data: &ShmSlice<'_>, at: usize, len: usize) {
        let Parts { head, rest, at: first } = &mut self.parts;
        let first = if len - len.min(*first) >= LARGE { *first } else { len };
        head.fill(data, at, first);
        rest.clear();
        if first < len {
            rest.fill(data, at + first, len - first);
        }
        (self.claim)(head);
    }
}

impl Queue<Vec<u8>> {
    /// Runs `f`, which encodes something that is to be put. The second part of the answer goes to
    /// [`put_encoded`](Self::put_encoded).
    #[inline]
    pub(crate) fn encoding<R>(&self, f: impl FnOnce() -> R) -> (R, Passed) {
        into_message(self.inner.object.segment(), f)
    }

    /// Puts a message with the handles that were encoded into it. If it is not put, it may be tried again.
    #[inline]
    pub(crate) fn put_encoded(
        &self,
        bytes: &[u8],
        passed: &mut Passed,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), RawRefused> {
        let object = &self.inner.object;
        let lane = object.segment().lane().map_err(RawRefused::Failed)?;
        let named = passed.named(object.segment());
        self.inner.mailbox.send(lane, bytes, &named, deadline, stop)?;
        passed.sent_in(object);
        Ok(())
    }

    /// As [`put_encoded`](Self::put_encoded), of a message without handles that lies in two places, if there is something in
    /// the second, which is [`LARGE`] then.
    #[inline]
    pub(crate) fn put_parts(
        &self,
        [head, rest]: [&[u8]; 2],
        passed: &mut Passed,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), RawRefused> {
        if rest.is_empty() {
            return self.put_encoded(head, passed, deadline, stop);
        }
        let lane = self.inner.object.segment().lane().map_err(RawRefused::Failed)?;
        Ok(self.inner.mailbox.send_parts(lane, [head, rest], &[], deadline, stop)?)
    }

    /// Takes the oldest message into `buffer`.
    #[inline]
    pub(crate) fn get_encoded(
        &self,
        buffer: &mut Vec<u8>,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<Came, RawRefused> {
        let lane = self.inner.object.segment().lane().map_err(RawRefused::Failed)?;
        Ok(Came(self.inner.mailbox.recv(lane, buffer, deadline, stop)?))
    }

    /// As [`get_encoded`](Self::get_encoded); calls `claim` with its first part before the queue forgets it. Whoever dies before
    /// `claim` leaves the message to another; whoever dies in it or soon after it may leave it to another, too, who has to
    /// find out that it was claimed.
    #[inline]
    pub(crate) fn claim_encoded(
        &self,
        parts: Parts<'_>,
        deadline: Deadline,
        stop: impl Fn() -> bool,
        claim: impl FnMut(&[u8]),
    ) -> Result<Came, RawRefused> {
        let lane = self.inner.object.segment().lane().map_err(RawRefused::Failed)?;
        Ok(Came(self.inner.mailbox.recv(lane, &mut Claimed { parts, claim }, deadline, stop)?))
    }

    /// As [`get_encoded`](Self::get_encoded), if there is one now.
    #[inline]
    pub(crate) fn try_get_encoded(&self, buffer: &mut Vec<u8>) -> Result<Came, RawRefused> {
        let lane = self.inner.object.segment().lane().map_err(RawRefused::Failed)?;
        match self.inner.mailbox.try_recv(lane, buffer) {
            Ok(news) => Ok(Came(news)),
            Err(Refused::NotNow) => Err(RawRefused::Timeout),
            Err(Refused::Failed(e)) => Err(RawRefused::Failed(e)),
        }
    }

    /// How it stands.
    ///
    /// # Errors
    /// If it is damaged.
    pub(crate) fn flow(&self) -> Result<Flow, Error> {
        self.inner.mailbox.flow().map_err(corrupt)
    }

    /// Makes everybody look again whether to stop waiting, in this process and in others.
    pub(crate) fn wake_all(&self) {
        self.inner.mailbox.wake_all();
    }
}
