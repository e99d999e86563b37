//! Who does the tasks: a pool of this process, or that of another, which is asked. Whatever submits tasks does not see which.

use std::sync::Arc;
use std::time::Duration;

use super::board::Ticket;
use super::client::Client;
use super::error::TaskError;
use super::feed::Chunks;
use super::ledger::{Again, Draft, Terms};
use super::owner::Owner;
use serde::Serialize;

use crate::error::Error;
use crate::sys::clock::Deadline;

/// Who is asked to do tasks.
#[derive(Clone)]
pub(super) enum Via {
    /// A pool of this process.
    Own(Arc<Owner>),
    /// A pool that is reached through a [`PoolHandle`](super::PoolHandle).
    Far(Arc<Client>),
}

impl Via {
    /// As [`Owner::submit`].
    #[inline]
    pub fn submit(
        &self,
        draft: &mut Draft<'_>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<Ticket, TaskError> {
        match self {
            Self::Own(owner) => owner.submit(draft, encode),
            Self::Far(client) => {
                let large = std::mem::take(&mut draft.large);
                client.submit(draft, |buffer| {
                    buffer.extend_from_slice(large);
                    encode(buffer)
                })
            }
        }
    }

    /// As [`Owner::feed_all`]; for another process's pool all are sent before this returns, which may wait.
    pub fn feed_all<A, T>(&self, chunks: Chunks<A, T>) -> Result<(), TaskError>
    where
        A: Serialize + Send + Sync + 'static,
        T: Fn(Option<Again>) -> Option<Box<Terms>> + Send + 'static,
    {
        match self {
            Self::Own(owner) => owner.feed_all(chunks),
            Self::Far(client) => {
                chunks.send_all(client);
                Ok(())
            }
        }
    }

    /// Takes a task out that no worker has begun; whether it is out.
    pub fn cancel(&self, ticket: Ticket) -> bool {
        match self {
            Self::Own(owner) => owner.cancel(ticket),
            Self::Far(client) => client.cancel(ticket),
        }
    }

    /// Waits until `is_done`, which is asked after every result and every change of state; whether it came true in time.
    #[inline]
    pub fn wait_until(&self, is_done: &dyn Fn() -> bool, deadline: Deadline) -> bool {
        match self {
            Self::Own(owner) => owner.wait_until(is_done, deadline),
            Self::Far(client) => client.wait_until(is_done, deadline),
        }
    }

    /// Reads results that are there, unless somebody does.
    #[inline]
    pub fn read_what_is_there(&self) {
        match self {
            Self::Own(owner) => owner.read_what_is_there(),
            Self::Far(client) => client.read_what_is_there(),
        }
    }

    /// Why nothing is taken any more, if that is so.
    pub fn refusal(&self) -> Option<TaskError> {
        match self {
            Self::Own(owner) => owner.refusal(),
            Self::Far(client) => client.refusal(),
        }
    }

    /// Has a thread of this process, one for all, run something.
    pub fn call_back(&self, callback: Box<dyn FnOnce() + Send>) {
        match self {
            Self::Own(owner) => owner.call_back(callback),
            Self::Far(client) => client.call_back(callback),
        }
    }
}

/// A pool as those see it who submit tasks.
#[derive(Clone)]
pub(super) struct Source {
    pub via: Via,
    pub processes: usize,
    pub retries: u32,
    pub timeout: Option<Duration>,
}

impl Source {
    /// Who does the tasks.
    #[inline]
    pub fn owner(&self) -> &Via {
        &self.via
    }

    /// What is agreed for a task, unless something else is.
    #[inline]
    pub fn default_terms(&self) -> (u32, Option<Duration>) {
        (self.retries, self.timeout)
    }

    /// How many workers there are.
    #[inline]
    pub fn processes(&self) -> usize {
        self.processes
    }
}
