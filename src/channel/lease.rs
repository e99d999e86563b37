//! Items that come back unless they are acknowledged.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::GetError;
use super::lease_table::{LeaseTable, Ticket, Unleased};
use super::mailbox::{Ended, Refused};
use super::queue::{Delivery, Queue};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::sync::Lane;
use crate::sys::clock::Deadline;

/// An item of a queue, for as long as somebody works on it: [`Queue::lease`].
///
/// [`ack`](Self::ack) ends it. Dropped without, by a panic for instance, or if the process dies, the item goes back to the
/// queue, and is the next to be taken. A lease may go to another thread; it has no time limit.
#[must_use = "a lease that is dropped gives its item back"]
pub struct Lease<T> {
    value: T,
    ticket: Ticket,
}

impl<T> Lease<T> {
    /// Ends the lease: the work is done, and nobody gets the item again.
    ///
    /// If this process is killed in here, the item was either acknowledged or goes back.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the queue does not know of the lease: its memory is damaged, or this process was forked
    /// from the one that has it.
    #[doc(alias = "task_done")]
    pub fn ack(self) -> Result<(), Error> {
        self.ticket.end()
    }

    /// Ends the lease and gives the value, also if the queue does not know of the lease.
    pub fn into_inner(self) -> T {
        // The value is in hand either way; of a lease that is not there nothing is left to end.
        let _ = self.ticket.end();
        self.value
    }

    /// Whether the item was taken before, and given back or left by somebody who died.
    pub fn is_redelivered(&self) -> bool {
        self.deliveries() > 1
    }

    /// How often the item was handed out, this time included. Counted up to 65535.
    pub fn deliveries(&self) -> u32 {
        self.ticket.deliveries()
    }
}

impl<T> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({:?}, delivery {})", self.value, self.deliveries())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Queue<T> {
    /// Takes the oldest item on lease, waiting while the queue is empty, or while as many items are on lease as the queue
    /// was [made for](super::QueueBuilder::leases). Items that were given back come first.
    ///
    /// # If a peer dies
    /// Items that it had on lease are offered again, marked, once somebody waits or the process was reaped; each exactly
    /// once. After so many deliveries as [`max_deliveries`](super::QueueBuilder::max_deliveries) allows an item becomes a
    /// [dead letter](Self::dead_letters).
    ///
    /// # Errors
    /// As [`get`](Self::get). [`Failed`](GetError::Failed) with [`ErrorKind::InvalidInput`] if the queue was made without
    /// leases, with [`OutOfSpace`](ErrorKind::OutOfSpace) if dead letters take all its leases, or if the segment has no
    /// room for an item of more than 256 bytes, which then stays in the queue.
    ///
    /// ```
    /// let queue = kinfolk::Queue::builder().leases(4).build()?;
    /// queue.put("work".to_owned())?;
    /// let lease = queue.lease()?;
    /// assert_eq!(lease.len(), 4);
    /// drop(lease);
    /// let again = queue.lease()?;
    /// assert!(again.is_redelivered());
    /// again.ack()?;
    /// assert!(queue.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lease(&self) -> Result<Lease<T>, GetError> {
        self.lease_by(Some(Deadline::NEVER))
    }

    /// Takes the oldest item on lease, if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`lease`](Self::lease), but [`GetError::Empty`] instead of waiting.
    pub fn try_lease(&self) -> Result<Lease<T>, GetError> {
        self.lease_by(None)
    }

    /// Takes the oldest item on lease, waiting for one at most `timeout`.
    ///
    /// # Errors
    /// As [`lease`](Self::lease), and [`GetError::Timeout`] with the name of one who holds a lease, if the wait was for
    /// that.
    pub fn lease_timeout(&self, timeout: Duration) -> Result<Lease<T>, GetError> {
        self.lease_by(Some(Deadline::after(timeout)))
    }

    fn lease_by(&self, deadline: Option<Deadline>) -> Result<Lease<T>, GetError> {
        self.lease_parts(deadline).map(|(value, ticket)| Lease { value, ticket })
    }

    /// A value and what it takes to end its lease.
    pub(super) fn lease_parts(&self, deadline: Option<Deadline>) -> Result<(T, Ticket), GetError> {
        if self.is_closed() {
            return Err(GetError::Closed);
        }
        let Some(table) = &self.inner.leases else {
            let message = "the queue was made without leases, expected QueueBuilder::leases";
            return Err(GetError::Failed(Error::new(ErrorKind::InvalidInput, "lease item", message)));
        };
        let lane = self.inner.object.segment().lane().map_err(GetError::Failed)?;
        let mut ticket = None;
        let received = codec::received(|buffer| {
            ticket = Some(self.lease_bytes(table, lane, buffer, deadline)?);
            Ok(())
        });
        match (received, ticket) {
            (Ok((value, ())), Some(ticket)) => Ok((value, ticket)),
            (Err(Err(e)), ticket) => {
                // Consumed, as by `get`: nobody else could decode it.
                let _ = ticket.map(Ticket::end);
                Err(GetError::Decode(e))
            }
            (Err(Ok(e)), _) => Err(e),
            (Ok(_), None) => Err(GetError::Empty),
        }
    }

    fn lease_bytes(
        &self,
        table: &Arc<LeaseTable>,
        lane: Lane,
        buffer: &mut Vec<u8>,
        deadline: Option<Deadline>,
    ) -> Result<Ticket, GetError> {
        let mailbox = &self.inner.mailbox;
        let reported = self.reported();
        let stop = || self.is_closed() || self.is_abandoned(reported);
        loop {
            let wants_entry = match table.try_lease(lane, mailbox, buffer) {
                Ok(ticket) => return Ok(ticket),
                Err(Unleased::Failed(e)) => return Err(GetError::Failed(e)),
                Err(Unleased::NoItem) => false,
                Err(Unleased::NoEntry) => true,
            };
            let Some(deadline) = deadline else { return Err(GetError::Empty) };
            // `Ok(None)`: the wait is for the other thing now.
            let mut attempt = || match table.try_lease(lane, mailbox, buffer) {
                Ok(ticket) => Some(Ok(Some(ticket))),
                Err(Unleased::Failed(e)) => Some(Err(Ended::Failed(e))),
                Err(Unleased::NoItem) => wants_entry.then_some(Ok(None)),
                Err(Unleased::NoEntry) => (!wants_entry).then_some(Ok(None)),
            };
            let waited = if wants_entry {
                let closed = || self.is_closed().then_some(Err(Ended::Stopped));
                table.wait_for_entry(lane, deadline, || attempt().or_else(closed))
            } else {
                mailbox.wait_for_item(lane, deadline, stop, attempt)
            };
            match waited {
                Ok(Some(ticket)) => return Ok(ticket),
                // The wake-up that came here was for somebody else.
                Ok(None) if wants_entry => table.pass_on_entry(),
                Ok(None) => mailbox.pass_on_item(),
                Err(Ended::Timeout(holder)) => return Err(GetError::Timeout(holder)),
                Err(Ended::Stopped) => return Err(self.stopped()),
                Err(Ended::Failed(e)) => return Err(GetError::Failed(e)),
            }
            if deadline.passed() {
                return Err(GetError::Timeout(None));
            }
        }
    }

    /// Takes the items that were handed out too often, as many as there are. Never blocks. Each is gone from the queue
    /// once it is given; a dead letter that nobody drains keeps its lease.
    pub fn dead_letters(&self) -> DeadLetters<'_, T> {
        DeadLetters { queue: self }
    }
}

/// The dead letters of a queue: [`Queue::dead_letters`].
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct DeadLetters<'a, T> {
    queue: &'a Queue<T>,
}

impl<T: Serialize + DeserializeOwned + 'static> Iterator for DeadLetters<'_, T> {
    type Item = Result<Delivery<T>, GetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let table = self.queue.inner.leases.as_ref()?;
        Some(match codec::received(|buffer| table.try_get_dead(buffer)) {
            Ok((value, (_, deliveries))) => Ok(Delivery { value, redelivered: true, deliveries }),
            Err(Ok(Refused::NotNow)) => return None,
            Err(Ok(Refused::Failed(e))) => Err(GetError::Failed(e)),
            Err(Err(e)) => Err(GetError::Decode(e)),
        })
    }
}
