//! Messages that were taken out of the queue of results and wait to be dealt with.

use super::ledger::{Entry, Leaves};
use super::message::{AnswerHead, HEAD, Word};
use crate::channel::Came;
use crate::codec;

/// So many results are dealt with at once, if so many are there: the ledger is locked once for all of them.
pub(super) const MOST: usize = 32;
/// Bytes that a message keeps for the next one in its place, if that need not be as large.
const KEEP_BYTES: usize = 1 << 16;

/// A message.
#[derive(Default)]
pub(super) struct Letter {
    pub bytes: Vec<u8>,
    pub head: Option<AnswerHead>,
    /// Its task, once that has left the ledger.
    pub entry: Option<Entry>,
    /// The handles in it are open as long as this is there.
    pub came: Option<Came>,
}

impl Letter {
    /// The message is in `bytes`.
    pub fn came(&mut self, came: Came) {
        self.head = AnswerHead::read(&self.bytes);
        self.came = Some(came);
    }

    /// How its task leaves, if it says what became of one.
    pub fn leaves(&self) -> Option<Leaves> {
        match self.head?.word {
            Word::Returned => Some(Leaves::Done),
            Word::Panicked | Word::Unsendable => Some(Leaves::Failed),
            Word::Ready | Word::Hopeless | Word::Died | Word::Look => None,
        }
    }

    /// Its task, if that has left the ledger and its function has returned.
    pub fn returned(&self) -> Option<&Entry> {
        self.head.filter(|head| head.word == Word::Returned)?;
        self.entry.as_ref()
    }

    /// What stands behind the head.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(HEAD..).unwrap_or_default()
    }

    /// It was dealt with.
    pub fn clear(&mut self) {
        (self.head, self.entry, self.came) = (None, None, None);
        if !codec::is_kept(&self.bytes, KEEP_BYTES) {
            self.bytes = Vec::new();
        }
    }
}

/// Room for as many as are dealt with at once.
pub(super) struct Letters(pub [Letter; MOST]);

impl Default for Letters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Letter::default()))
    }
}
