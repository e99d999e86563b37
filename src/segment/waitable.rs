//! What waiting for several things at once needs of each of them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};

use super::Inner;
use super::directory::ObjectId;
use super::object::Object;
use crate::sync::{WaitBlock, Watch};

/// Something that [`channel::wait`](crate::channel::wait()) can wait for: a queue or an end of a pipe (there is something
/// to get), an event (it is set), a process (it has ended), or anything with a descriptor (it can be read).
///
/// It cannot be implemented outside this crate, but through [`AsFd`].
pub trait Waitable: sealed::Sealed {}

impl<T: AsFd> Waitable for T {}

pub(crate) mod sealed {
    /// Only this crate's handles and descriptors are waited for.
    pub trait Sealed {
        #[doc(hidden)]
        fn source(&self) -> super::Source<'_>;
    }
}

/// How one of the things is waited for.
pub struct Source<'a>(pub(crate) Waited<'a>);

/// As [`Source`], for this crate.
pub(crate) enum Waited<'a> {
    /// By a word in shared memory.
    Object(Arc<dyn Watched>),
    /// By its descriptor.
    Descriptor(BorrowedFd<'a>),
}

/// Something in a segment that is watched: see the rules of [`sync`](crate::sync)'s watchers.
pub(crate) trait Watched: Send + Sync {
    /// The object whose word commits move.
    fn object(&self) -> &Object;

    /// Which of the object's words that is.
    fn word_index(&self) -> usize;

    /// What a wait begins with: to be given to [`is_ready`](Self::is_ready).
    fn moment(&self) -> u32 {
        0
    }

    /// Whether there is what is waited for, or was since `moment` if that counts. It takes nothing and does not block.
    fn is_ready(&self, moment: u32) -> bool;

    /// Recovers the dead among those who are waited for.
    fn bury(&self);

    /// Notes where the caller runs, and tells where the one waited for ran last, if that is known.
    fn peer_cpu(&self) -> Option<u32> {
        None
    }

    /// The word.
    fn word(&self) -> &WaitBlock {
        &self.object().entry().waits[self.word_index()]
    }

    /// The word, to be slept on.
    fn watch(&self) -> Watch<'_> {
        Watch { block: self.word(), asymmetric: self.object().segment().asymmetric }
    }
}

impl<T: AsFd> sealed::Sealed for T {
    fn source(&self) -> Source<'_> {
        Source(Waited::Descriptor(self.as_fd()))
    }
}

/// A word that objects of a segment sleep on, without a hold on the object: it keeps the segment mapped, so whoever
/// sleeps there when the object goes away sleeps on a word that means nothing, or something else, and finds out later.
#[derive(Clone)]
pub(crate) struct Place {
    segment: Arc<Inner>,
    index: u32,
    word: usize,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.segment, &other.segment) && (self.index, self.word) == (other.index, other.word)
    }
}

impl Place {
    /// Where `watched` sleeps; `None` if its segment is on its way out.
    pub fn of(watched: &dyn Watched) -> Option<Self> {
        let ObjectId { index, .. } = watched.object().id();
        let segment = Weak::upgrade(&watched.object().segment().this)?;
        Some(Self { segment, index, word: watched.word_index() })
    }

    /// The word.
    pub fn watch(&self) -> Watch<'_> {
        Watch { block: &self.segment.entry(self.index).waits[self.word], asymmetric: self.segment.asymmetric }
    }
}
