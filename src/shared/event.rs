//! The event: a flag that processes wait for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{OneBlock, handle, made_of_zeros};
use crate::error::Error;
use crate::segment::{Doorbell, KINDS, Kind, Object, Source, View, Waitable, Waited, Watched, sealed};
use crate::sync::EventBlock;
use crate::sys::clock::Deadline;

#[linkme::distributed_slice(KINDS)]
static EVENT: Kind = Kind {
    describe: |view: &View<'_>| if view.block::<EventBlock>(0).is_set() { "set".into() } else { "not set".into() },
    least: size_of::<EventBlock>(),
    ..Kind::plain("event", 24)
};

/// A flag that any process may set, clear, and wait for.
///
/// [`set`](Self::set) wakes everybody who waits at that moment, also if [`clear`](Self::clear) follows at once. Nobody
/// owns an event, so a death changes nothing.
///
/// Python: `Event`.
///
/// ```
/// use kinfolk::{Event, Process};
///
/// let ready = Event::new()?;
/// let child = Process::spawn(|ready: Event| ready.set(), ready.clone())?;
/// ready.wait();
/// assert!(ready.is_set());
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Event {
    inner: Arc<OneBlock<EventBlock>>,
}

made_of_zeros!(Event, EVENT, size_of::<EventBlock>(), "an event that is not set");
handle!(Event, EVENT, "an event");

impl Event {
    fn from_object(object: Object) -> Result<Self, Error> {
        Ok(Self { inner: Arc::new(OneBlock::of(object, "event")?) })
    }

    fn object(&self) -> &Object {
        &self.inner.object
    }

    /// Whether it is set, at this moment. Async-signal-safe. Python: `is_set()`.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.inner.block[0].is_set()
    }

    /// Sets it, and wakes all who wait. Setting it twice is fine.
    ///
    /// Async-signal-safe: it neither locks nor allocates nor touches anything that belongs to the thread, and makes at
    /// most one system call. Python: `set()`, which is not.
    #[inline]
    pub fn set(&self) {
        self.inner.block[0].set(&self.inner.wait[0]);
    }

    /// Clears it. Whoever waited for a [`set`](Self::set) before this goes on. Python: `clear()`.
    pub fn clear(&self) {
        self.inner.block[0].clear();
    }

    /// Waits until it is set. Python: `wait()`.
    pub fn wait(&self) {
        let came = self.wait_by(Deadline::NEVER);
        debug_assert!(came, "a deadline that never comes");
    }

    /// Waits until it is set, at most `timeout`; whether it was. Python: `wait(t)`.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.is_set() || self.wait_by(Deadline::after(timeout))
    }

    /// A descriptor that becomes readable when it is set.
    ///
    /// # Errors
    /// If there is no descriptor or no thread to be had.
    pub fn doorbell(&self) -> Result<Doorbell, Error> {
        Doorbell::new(&self.watched())
    }

    /// The event, watched for being set.
    pub(crate) fn watched(&self) -> Arc<dyn Watched> {
        self.inner.clone()
    }

    fn wait_by(&self, deadline: Deadline) -> bool {
        let OneBlock { block, wait, pace, .. } = &*self.inner;
        block[0].wait(&wait[0], pace, deadline).is_ok()
    }
}

impl Watched for OneBlock<EventBlock> {
    fn object(&self) -> &Object {
        &self.object
    }

    fn word_index(&self) -> usize {
        0
    }

    fn moment(&self) -> u32 {
        self.block[0].moment()
    }

    fn is_ready(&self, moment: u32) -> bool {
        self.block[0].has_come(moment)
    }

    /// Nobody owns an event.
    fn bury(&self) {}
}

impl sealed::Sealed for Event {
    fn source(&self) -> Source<'_> {
        Source(Waited::Object(self.watched()))
    }
}

impl Waitable for Event {}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", if self.is_set() { "set" } else { "not set" })
    }
}
