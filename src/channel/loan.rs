//! Messages that are written and read where they lie: no copy, whatever their size.
//!
//! A [`Loan`] is a record that is claimed and not committed, a [`Message`] one that is taken and not acknowledged. What does
//! not fit the ring lies in a run of pages, which the record names: OWNED by the lender until the commit, LIVE from then on
//! to the end of the message, so that a death at any moment leaves it to the record or to nobody (see `arena.rs`).

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::error::{GetError, PutError, RecvError, SendError};
use super::mailbox::{Ended, MAX_MESSAGE, Mailbox, Refused};
use super::pipe::Connection;
use super::queue::Queue;
use super::record::{BLOCK, BLOCK_PAYLOAD, Head, INLINE, RECORD_HEAD, Record, block_payload};
use crate::error::{Error, ErrorKind};
use crate::ring::{Claim, Taken};
use crate::segment::{Run, ShmSlice};
use crate::sync::Lane;
use crate::sys::clock::Deadline;

/// Room in a queue or pipe for a message that is being written: its place in the order is fixed.
///
/// Messages behind it wait for [`commit`](Self::commit), so write at once. Dropping it gives the room back. It belongs to
/// the thread that made it. If the process dies with it, it vanishes, as every uncommitted message does.
#[must_use = "a loan that is dropped is given back, unsent"]
pub struct Loan<'a> {
    mailbox: &'a Mailbox,
    lane: Lane,
    claim: Claim,
    run: Option<Run>,
    len: usize,
    thread: PhantomData<*const ()>,
}

impl Loan<'_> {
    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the message has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes. What is in them before they are written is left over from other messages.
    #[inline]
    pub fn slice(&self) -> ShmSlice<'_> {
        match self.run {
            None => self.record().part(RECORD_HEAD, self.len),
            Some(run) => self.mailbox.object.segment().run_slice(run).part(0, self.len),
        }
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Panics
    /// If they do not fit.
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.slice().write(offset, bytes);
    }

    /// Makes the message shorter. Longer than it is has no effect.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn record(&self) -> ShmSlice<'_> {
        self.mailbox.record(self.claim.position, self.claim.n)
    }

    /// Sends the message. Never blocks and cannot fail: its room was there before.
    #[inline]
    pub fn commit(self) {
        let n = self.claim.n;
        match self.run {
            None => Record::write_head(&self.record(), INLINE, self.len),
            Some(run) => {
                let payload = block_payload(run, self.len);
                Record { n, kind: BLOCK, handles: &[], payload: &payload }.write(&self.record());
            }
        }
        self.mailbox.commit(self.lane, self.claim);
        if let Some(run) = self.run {
            self.mailbox.object.segment().run_live(run, self.lane);
        }
        std::mem::forget(self);
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(run) = self.run {
            self.mailbox.object.segment().free(run);
        }
        self.mailbox.abort(self.claim);
    }
}

impl fmt::Debug for Loan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loan({} B)", self.len)
    }
}

/// A message that was taken and is read where it lies. Dropping it acknowledges it.
///
/// Its room is used again only then, and so is that of all messages behind it: read at once, or copy. It belongs to the
/// thread that took it. If the process dies with it, it is offered again, marked.
pub struct Message<'a> {
    mailbox: &'a Mailbox,
    lane: Lane,
    taken: Taken,
    bytes: ShmSlice<'a>,
    run: Option<Run>,
    thread: PhantomData<*const ()>,
}

impl<'a> Message<'a> {
    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the message has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes. A faulty peer may change them while they are looked at: copy what has to be checked.
    #[inline]
    pub fn slice(&self) -> ShmSlice<'_> {
        self.bytes
    }

    /// Copies the bytes at `offset`.
    ///
    /// # Panics
    /// If more are wanted than there are.
    #[inline]
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        self.bytes.read(offset, to);
    }

    /// All bytes, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.read_to_vec()
    }

    /// Somebody took it before and died before it was acknowledged, so it comes late and out of order.
    pub fn is_redelivered(&self) -> bool {
        self.taken.redelivered
    }

    /// Finds the bytes of a record that was just taken; if they are not what they should be, the record is acknowledged.
    fn open(mailbox: &'a Mailbox, lane: Lane, taken: Taken) -> Result<Self, Error> {
        let record = mailbox.record(taken.position, taken.n);
        let found = Head::read(&record).and_then(|head| match head.kind {
            INLINE => Ok((None, record.part(head.payload_at(), head.len))),
            BLOCK => {
                let (run, len) = mailbox.block_of(&head, &record)?;
                Ok((Some(run), mailbox.object.segment().run_slice(run).part(0, len)))
            }
            kind => Err(Error::corrupt("message", "kind", kind, "1 or 2")),
        });
        match found {
            Ok((run, bytes)) => Ok(Self { mailbox, lane, taken, bytes, run, thread: PhantomData }),
            Err(e) => {
                mailbox.done(taken, None).map_err(super::layout::corrupt)?;
                Err(e)
            }
        }
    }
}

impl Drop for Message<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(run) = self.run {
            self.mailbox.object.segment().retire(run, self.lane);
        }
        // A damaged ring is reported by the next call.
        let _ = self.mailbox.done(self.taken, self.run);
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} B)", self.bytes.len())
    }
}

impl Mailbox {
    /// Lends room for a message of `len` bytes, if there is room.
    #[inline]
    fn try_loan(&self, lane: Lane, len: usize) -> Result<Loan<'_>, Refused> {
        let inline = self.granules_for(len);
        let n = match inline {
            Some(n) => n,
            None if len <= MAX_MESSAGE => {
                self.granules_for_block(len).max(self.granules_for(BLOCK_PAYLOAD).unwrap_or(1))
            }
            None => {
                let message = format!("{len} B, expected at most {MAX_MESSAGE} B");
                return Err(Error::new(ErrorKind::InvalidInput, "lend room for a message", message).into());
            }
        };
        let claim = self.claim(lane, n)?;
        let mut loan = Loan { mailbox: self, lane, claim, run: None, len, thread: PhantomData };
        if inline.is_none() {
            // If there is no memory, the claim is given up.
            loan.run = Some(self.object.segment().alloc(lane, len, self.object.id().word())?);
        }
        Ok(loan)
    }

    #[inline]
    pub fn loan(&self, lane: Lane, len: usize, deadline: Deadline, stop: impl Fn() -> bool) -> Result<Loan<'_>, Ended> {
        match self.try_loan(lane, len) {
            Ok(loan) => Ok(loan),
            Err(Refused::Failed(e)) => Err(Ended::Failed(e)),
            Err(Refused::NotNow) => self.wait_for_room(lane, deadline, stop, || self.try_loan(lane, len)),
        }
    }

    /// Takes the oldest message and leaves it where it is, if there is one.
    #[inline]
    pub fn try_message(&self, lane: Lane) -> Result<Message<'_>, Refused> {
        let taken = self.take(lane)?;
        Ok(Message::open(self, lane, taken)?)
    }

    #[inline]
    pub fn message(&self, lane: Lane, deadline: Deadline, stop: impl Fn() -> bool) -> Result<Message<'_>, Ended> {
        match self.try_message(lane) {
            Ok(message) => Ok(message),
            Err(Refused::Failed(e)) => Err(Ended::Failed(e)),
            Err(Refused::NotNow) => self.wait_for_item(lane, deadline, stop, || match self.try_message(lane) {
                Ok(message) => Some(Ok(message)),
                Err(Refused::Failed(e)) => Some(Err(Ended::Failed(e))),
                Err(Refused::NotNow) => None,
            }),
        }
    }
}

impl Queue<Vec<u8>> {
    /// Lends room for a message of `len` bytes, to be written in place; waits while the queue is full.
    ///
    /// ```
    /// let queue = kinfolk::Queue::<Vec<u8>>::new(0)?;
    /// let mut loan = queue.loan(1 << 20)?;
    /// loan.write(0, b"head");
    /// loan.commit();
    /// let message = queue.get_ref()?;
    /// assert_eq!((message.len(), &message.to_vec()[..4]), (1 << 20, &b"head"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](PutError::Closed), [`Failed`](PutError::Failed), also if `len` is more than 64 MiB.
    pub fn loan(&self, len: usize) -> Result<Loan<'_>, PutError<()>> {
        self.loan_by(len, Deadline::NEVER)
    }

    /// Lends room if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`loan`](Self::loan), and [`PutError::Full`].
    pub fn try_loan(&self, len: usize) -> Result<Loan<'_>, PutError<()>> {
        self.loan_by(len, Deadline::after(Duration::ZERO)).map_err(|e| match e {
            PutError::Timeout((), _) => PutError::Full(()),
            other => other,
        })
    }

    /// Lends room, waiting at most `timeout` while the queue is full.
    ///
    /// # Errors
    /// As [`loan`](Self::loan), and [`PutError::Timeout`].
    pub fn loan_timeout(&self, len: usize, timeout: Duration) -> Result<Loan<'_>, PutError<()>> {
        self.loan_by(len, Deadline::after(timeout))
    }

    #[inline]
    fn loan_by(&self, len: usize, deadline: Deadline) -> Result<Loan<'_>, PutError<()>> {
        if self.is_closed() {
            return Err(PutError::Closed(()));
        }
        let (mailbox, lane) = self.mailbox_and_lane().map_err(|e| PutError::Failed((), e))?;
        mailbox.loan(lane, len, deadline, || self.is_closed()).map_err(|e| PutError::from_ended((), e))
    }

    /// Takes the oldest message and leaves it where it is, waiting while the queue is empty.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Failed`](GetError::Failed) if the queue was made with leases.
    pub fn get_ref(&self) -> Result<Message<'_>, GetError> {
        self.get_ref_by(Deadline::NEVER)
    }

    /// Takes the oldest message and leaves it where it is, if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`try_get`](Self::try_get).
    pub fn try_get_ref(&self) -> Result<Message<'_>, GetError> {
        if self.is_closed() {
            return Err(GetError::Closed);
        }
        let (mailbox, lane) = self.for_reading_in_place()?;
        mailbox.try_message(lane).map_err(|e| match e {
            Refused::NotNow => GetError::Empty,
            Refused::Failed(e) => GetError::Failed(e),
        })
    }

    /// Takes the oldest message and leaves it where it is, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`get_timeout`](Self::get_timeout).
    pub fn get_ref_timeout(&self, timeout: Duration) -> Result<Message<'_>, GetError> {
        self.get_ref_by(Deadline::after(timeout))
    }

    #[inline]
    fn for_reading_in_place(&self) -> Result<(&Mailbox, Lane), GetError> {
        if self.has_leases() {
            let message = "the queue has leases: what is given back lies elsewhere, and get or lease copies it";
            return Err(GetError::Failed(Error::new(ErrorKind::InvalidInput, "get in place", message)));
        }
        self.mailbox_and_lane().map_err(GetError::Failed)
    }

    #[inline]
    fn get_ref_by(&self, deadline: Deadline) -> Result<Message<'_>, GetError> {
        if self.is_closed() {
            return Err(GetError::Closed);
        }
        let (mailbox, lane) = self.for_reading_in_place()?;
        mailbox.message(lane, deadline, self.stop()).map_err(|e| self.get_error(e))
    }
}

impl<U> Connection<Vec<u8>, U> {
    /// Lends room for a message of `len` bytes, to be written in place; waits while the pipe is full.
    ///
    /// # Errors
    /// As [`send`](Self::send), without the value; [`Failed`](SendError::Failed) also if `len` is more than 64 MiB.
    pub fn loan(&self, len: usize) -> Result<Loan<'_>, SendError<()>> {
        self.loan_by(len, Deadline::NEVER)
    }

    /// Lends room if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`loan`](Self::loan), and [`SendError::Full`].
    pub fn try_loan(&self, len: usize) -> Result<Loan<'_>, SendError<()>> {
        self.loan_by(len, Deadline::after(Duration::ZERO)).map_err(|e| match e {
            SendError::Timeout((), _) => SendError::Full(()),
            other => other,
        })
    }

    /// Lends room, waiting at most `timeout` while the pipe is full.
    ///
    /// # Errors
    /// As [`loan`](Self::loan), and [`SendError::Timeout`].
    pub fn loan_timeout(&self, len: usize, timeout: Duration) -> Result<Loan<'_>, SendError<()>> {
        self.loan_by(len, Deadline::after(timeout))
    }

    #[inline]
    fn loan_by(&self, len: usize, deadline: Deadline) -> Result<Loan<'_>, SendError<()>> {
        if self.is_peer_closed() {
            return Err(SendError::Disconnected((), self.last_dead()));
        }
        let (mailbox, lane) = self.outgoing_and_lane().map_err(|e| SendError::Failed((), e))?;
        mailbox.loan(lane, len, deadline, || self.is_peer_closed()).map_err(|e| self.send_error((), e))
    }
}

impl<T> Connection<T, Vec<u8>> {
    /// Receives the oldest message and leaves it where it is, waiting for one.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_ref(&self) -> Result<Message<'_>, RecvError> {
        self.recv_ref_by(Deadline::NEVER)
    }

    /// Receives the oldest message and leaves it where it is, if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_recv_ref(&self) -> Result<Message<'_>, RecvError> {
        self.recv_ref_by(Deadline::after(Duration::ZERO)).map_err(|e| match e {
            RecvError::Timeout(_) => RecvError::Empty,
            other => other,
        })
    }

    /// Receives the oldest message and leaves it where it is, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_ref_timeout(&self, timeout: Duration) -> Result<Message<'_>, RecvError> {
        self.recv_ref_by(Deadline::after(timeout))
    }

    #[inline]
    fn recv_ref_by(&self, deadline: Deadline) -> Result<Message<'_>, RecvError> {
        let (mailbox, lane) = self.incoming_and_lane().map_err(RecvError::Failed)?;
        mailbox.message(lane, deadline, || self.is_peer_closed()).map_err(|e| self.recv_error(e))
    }
}
