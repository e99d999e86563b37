//! Maps that nobody waits for while they are sent: their chunks go out as slots become free, by whoever reads results.
//!
//! The chunks are in the ledger from the beginning, as tasks that wait for a slot, so nothing ends before they have ended.
//! They leave a quarter of the slots to tasks whose sender waits for one.
//!
//! # Who looks again
//! Whoever frees slots feeds after that. One thread feeds at a time; another one that comes meanwhile makes it look once more.
//! If the queue of tasks has no room, its messages may be of tasks that were cancelled, whose end nobody tells: so the thread
//! that looks after workers tries again every millisecond.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

use serde::Serialize;

use super::client::Client;
use super::error::TaskError;
use super::guard::{contained, guarded};
use super::ledger::{Again, Call, Draft, Leaves, Part, Sink, Terms};
use super::message::HEAD;
use super::owner::{Owner, locked};
use crate::codec;
use crate::error::Error;
use crate::sys::clock::Deadline;

/// What became of an attempt to send.
pub(super) enum Fed {
    /// There is nothing more.
    Over,
    /// No slot is free.
    Full,
    /// The queue has no room.
    Starved,
}

/// The chunks of a map that wait for slots.
pub(super) trait Feed: Send {
    /// Sends as many as there is room for. It never waits.
    fn feed(&mut self, owner: &Owner) -> Fed;

    /// Gives those up that are not sent.
    fn give_up(&mut self, owner: &Owner, why: TaskError, how: Leaves);

    /// How many they are.
    fn len(&self) -> usize;
}

/// All such maps, the oldest first.
#[derive(Default)]
pub(super) struct Feeds {
    waiting: VecDeque<Box<dyn Feed>>,
    /// Somebody feeds.
    busy: bool,
    /// Slots may have become free since.
    again: bool,
    /// What is being fed is not wanted any more.
    cancelled: bool,
}

impl Owner {
    /// Takes a map in, and sends as much as there is room for.
    pub fn feed_all(&self, feed: impl Feed + 'static) -> Result<(), TaskError> {
        let chunks = feed.len();
        if !self.change(|ledger| ledger.owe(chunks)) {
            return Err(self.refusal().unwrap_or(TaskError::Closed));
        }
        self.feeding.fetch_add(1, AcqRel);
        locked(&self.feeds).waiting.push_back(Box::new(feed));
        self.feed();
        Ok(())
    }

    /// Sends what there is room for.
    pub(super) fn feed(&self) {
        if !self.feed_is_fed() && !self.starved.swap(true, Relaxed) {
            self.bell.ring();
        }
    }

    /// Tries again what found no room; whether there is room now.
    pub fn feed_the_starved(&self) -> bool {
        if self.starved.swap(false, Relaxed) && !self.feed_is_fed() {
            self.starved.store(true, Relaxed);
        }
        !self.starved.load(Relaxed)
    }

    /// Sends what there is room for; false if the queue has none. While chunks are written nothing is locked.
    fn feed_is_fed(&self) -> bool {
        let mut feeds = locked(&self.feeds);
        if feeds.busy {
            feeds.again = true;
            return true;
        }
        while let Some(mut feed) = feeds.waiting.pop_front() {
            (feeds.busy, feeds.again, feeds.cancelled) = (true, false, false);
            drop(feeds);
            let fed = feed.feed(self);
            let given_up = || self.refusal().filter(|why| !matches!(why, TaskError::Closed));
            feeds = locked(&self.feeds);
            feeds.busy = false;
            if feeds.cancelled && !matches!(fed, Fed::Over) {
                drop(feeds);
                feed.give_up(self, TaskError::Cancelled, Leaves::Cancelled);
                self.end_feed(feed);
                feeds = locked(&self.feeds);
                if feeds.busy {
                    return true;
                }
                continue;
            }
            match (fed, given_up()) {
                (Fed::Over, _) => {
                    drop(feeds);
                    self.end_feed(feed);
                    feeds = locked(&self.feeds);
                    if feeds.busy {
                        return true;
                    }
                }
                (Fed::Full | Fed::Starved, Some(why)) => {
                    drop(feeds);
                    feed.give_up(self, why, Leaves::Failed);
                    self.end_feed(feed);
                    self.give_up_feeds();
                    return true;
                }
                (Fed::Full, None) => {
                    feeds.waiting.push_front(feed);
                    if !feeds.again {
                        return true;
                    }
                }
                (Fed::Starved, None) => {
                    feeds.waiting.push_front(feed);
                    return false;
                }
            }
        }
        true
    }

    /// Takes back what is not sent; how many chunks that were. One that is just being fed does not count: who does that takes
    /// back the rest of it.
    pub(super) fn cancel_feeds(&self) -> usize {
        let feeds = {
            let mut feeds = locked(&self.feeds);
            feeds.cancelled = feeds.busy;
            std::mem::take(&mut feeds.waiting)
        };
        let mut count = 0;
        for mut feed in feeds {
            count += feed.len();
            feed.give_up(self, TaskError::Cancelled, Leaves::Cancelled);
            self.end_feed(feed);
        }
        count
    }

    fn end_feed(&self, feed: Box<dyn Feed>) {
        contained(|| drop(feed));
        self.feeding.fetch_sub(1, AcqRel);
        self.look_again();
    }

    /// Gives all maps up that are not sent, now that the pool does nothing more. One that is just being fed is given up by who
    /// does that.
    pub(super) fn give_up_feeds(&self) {
        let Some(why) = self.refusal() else { return };
        loop {
            let Some(mut feed) = locked(&self.feeds).waiting.pop_front() else { return };
            feed.give_up(self, why.clone(), Leaves::Failed);
            self.end_feed(feed);
        }
    }

    /// Gives one of those that wait for a slot one, and sends it, if there is room.
    fn offer(
        &self,
        mut draft: Draft<'_>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<Option<Fed>, TaskError> {
        if !locked(&self.ledger).has_slot_for_owed() {
            return Ok(Some(Fed::Full));
        }
        codec::with_scratch(|buffer| {
            buffer.resize(HEAD, 0);
            let (encoded, passed) = self.tasks.encoding(|| guarded("encode arguments", || encode(buffer)));
            encoded.map_err(|e| TaskError::Arguments(Arc::new(e)))?;
            let timed = self.will_be_timed(&draft);
            let Some(ticket) = self.change(|ledger| ledger.add_owed(&mut draft)) else { return Ok(Some(Fed::Full)) };
            if draft.calls_back {
                self.calling_back.fetch_add(1, Relaxed);
            }
            if timed {
                self.bell.ring();
            }
            let sent = self.send(ticket, draft.call, (buffer, &[]), passed, Deadline::PASSED);
            if matches!(sent, Ok(true)) {
                return Ok(None);
            }
            // Nobody saw it. If it is there no more, it was given up with all others.
            self.board.cancel(ticket);
            let Some(entry) = self.change(|ledger| ledger.take(ticket, Leaves::Owed)) else { return Ok(None) };
            self.left(&entry);
            sent.map(|_| Some(Fed::Starved))
        })
    }
}

/// Items in chunks.
pub(super) struct Chunks<A, T> {
    function: u64,
    items: Arc<Vec<A>>,
    chunk: usize,
    /// The first item that is not sent.
    begin: usize,
    sink: Arc<dyn Sink>,
    calls_back: bool,
    /// They may be begun again.
    kept: bool,
    terms: T,
}

impl<A, T> Chunks<A, T>
where
    A: Serialize + Send + Sync + 'static,
    T: Fn(Option<Again>) -> Option<Box<Terms>> + Send,
{
    /// `terms` gives those of a chunk; `kept` says whether it wants to be told how to write the arguments once more.
    pub fn new(
        function: u64,
        items: Vec<A>,
        chunk: usize,
        sink: Arc<dyn Sink>,
        calls_back: bool,
        kept: bool,
        terms: T,
    ) -> Self {
        Self { function, items: Arc::new(items), chunk, begin: 0, sink, calls_back, kept, terms }
    }

    /// Sends all of them through another process's pool, waiting while it takes none. After an error they all have it.
    pub fn send_all(mut self, client: &Arc<Client>) {
        let mut refused = None;
        while self.begin < self.items.len() {
            let range = self.next();
            self.begin = range.end;
            if refused.is_none() {
                let mut draft = Draft {
                    call: Call { function: self.function, count: range.len() as u32, measured: false },
                    sink: &self.sink,
                    index: range.start,
                    calls_back: self.calls_back,
                    // It is the owner who keeps the arguments.
                    terms: (self.terms)(self.kept.then(|| Arc::new(|_: &mut Vec<u8>| Ok(())) as Again)),
                    large: &[],
                    until: Deadline::NEVER,
                };
                refused = client.submit(&mut draft, |buffer| write(&self.items[range.clone()], buffer)).err();
            }
            let Some(error) = &refused else { continue };
            let part = Part { index: range.start, items: range.len() };
            if let Some(callback) = contained(|| self.sink.put(part, Err(error.clone()), 0)).flatten() {
                client.call_back(callback);
            }
        }
    }

    fn next(&self) -> Range<usize> {
        self.begin..self.items.len().min(self.begin + self.chunk)
    }
}

fn write<A: Serialize>(items: &[A], buffer: &mut Vec<u8>) -> Result<(), Error> {
    items.iter().try_for_each(|item| codec::encode(item, buffer))
}

impl<A, T> Feed for Chunks<A, T>
where
    A: Serialize + Send + Sync + 'static,
    T: Fn(Option<Again>) -> Option<Box<Terms>> + Send,
{
    fn feed(&mut self, owner: &Owner) -> Fed {
        while self.begin < self.items.len() {
            let range = self.next();
            let again: Option<Again> = self.kept.then(|| {
                let (items, range) = (Arc::clone(&self.items), range.clone());
                Arc::new(move |buffer: &mut Vec<u8>| write(&items[range.clone()], buffer)) as Again
            });
            let draft = Draft {
                call: Call { function: self.function, count: range.len() as u32, measured: false },
                sink: &self.sink,
                index: range.start,
                calls_back: self.calls_back,
                terms: (self.terms)(again),
                large: &[],
                until: Deadline::NEVER,
            };
            match owner.offer(draft, |buffer| write(&self.items[range.clone()], buffer)) {
                Ok(None) => self.begin = range.end,
                Ok(Some(fed)) => return fed,
                Err(error) => self.give_up(owner, error, Leaves::Unsent),
            }
        }
        Fed::Over
    }

    fn give_up(&mut self, owner: &Owner, why: TaskError, how: Leaves) {
        let chunks = self.len();
        while self.begin < self.items.len() {
            let Range { start, end } = self.next();
            self.begin = end;
            let part = Part { index: start, items: end - start };
            if let Some(callback) = contained(|| self.sink.put(part, Err(why.clone()), 0)).flatten() {
                owner.call_back(callback);
            }
        }
        // After its callback was noted: see `is_at_rest`.
        owner.change(|ledger| ledger.forgo(chunks, how));
    }

    fn len(&self) -> usize {
        (self.items.len() - self.begin).div_ceil(self.chunk)
    }
}
