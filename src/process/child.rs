//! The child's side: attach, run the function, publish how it ended, exit.

use super::entry::Ticket;
use super::function::{FunctionId, decode};
use super::handoff::{Failure, Handoff, INLINE_BYTES, Order, Panic, Verdict};
use super::{current, log, panics, start};
use crate::error::Error;
use crate::segment::{ObjectId, Segment};
use crate::sys::fork;
use crate::sys::image::Image;
use crate::sys::overflow::{self, Others, Watchable};
use crate::sys::spawn;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit codes, as Python's.
const OK: i32 = 0;
const FAILED: i32 = 1;

/// Runs the child that has begun to its end, in this, the first thread.
///
/// `thread` is this one, if it was [prepared](prepare) before. `furnish` does what is to be done in the child and depends on
/// how it was started; if that fails, the parent is told.
pub(super) fn run(begun: Begun, thread: Option<Watchable>, furnish: impl FnOnce(&Order) -> Result<(), Error>) -> ! {
    let code = match begun {
        Ok((work, order)) => work.run(order, thread, furnish),
        Err(error) => {
            // Without the segment nobody can be told but whoever reads this.
            eprintln!("kinfolk: the child process cannot begin: {error}");
            FAILED
        }
    };
    Segment::announce_leaving();
    std::process::exit(code)
}

/// A child that is ready to run its function.
pub(super) type Begun = Result<(Work, Order), Error>;

/// What children would do each for themselves is done for them, by the process of which they will be forks.
pub(super) fn prepare() -> Option<Watchable> {
    Image::of_program();
    panics::prepare();
    overflow::prepare().ok()
}

/// Goes through what will be done once there is work, so that its code and memory are at hand then.
pub(super) fn rehearse(segment: &Segment) {
    segment.touch();
    if let Ok(function) = FunctionId::of(|(): ()| ()) {
        let _ =
            Order::example(function).encode().map(|order| decode::<Order>(&order, "order").map(|o| o.function.find()));
    }
}

/// Begins as the child of this ticket.
pub(super) fn attach(ticket: Ticket) -> Begun {
    let take = |fd| {
        // SAFETY: the parent opened these three for this process and names them in the ticket; nothing has run here yet
        // that could have taken the numbers for its own.
        unsafe { spawn::inherited(fd) }.map_err(|e| Error::os(format!("take over descriptor {fd}"), e))
    };
    let (segment, lock, life): (OwnedFd, OwnedFd, OwnedFd) =
        (take(ticket.segment)?, take(ticket.lock)?, take(ticket.life)?);
    let life = spawn::bind_life(life).map_err(|e| Error::os("bind to the parent's life", e))?;
    let segment = Segment::adopt(segment, lock, ticket.row)?;
    begin(&segment, ticket.handoff, life)
}

/// Begins as the child for which `handoff` was made, in a process that has its row and is bound by `life`.
pub(super) fn begin(segment: &Segment, handoff: ObjectId, life: OwnedFd) -> Begun {
    let handoff = Handoff::open(segment, handoff)?;
    let order = handoff.order()?;
    start::force_start_method(order.method);
    current::become_child(&order, life);
    log::inherit(&order);
    Ok((Work { handoff, parent_row: order.parent_row, published: AtomicBool::new(false) }, order))
}

/// In a fork of this very process: calls `function`, which answers to `handoff`; the process's exit code.
pub(super) fn run_here(
    handoff: Handoff,
    name: &str,
    parent_row: u32,
    function: impl FnOnce() -> Result<Vec<u8>, Error>,
) -> i32 {
    let work = Arc::new(Work { handoff, parent_row, published: AtomicBool::new(false) });
    panics::note(&work, panics::Told::ByOthers);
    // Rust's runtime has a handler of its own, which knows this thread, and not whom to tell.
    note_overflows(&work, name, None, Others::Second);
    work.attempt(function)
}

/// The work in hand, and where its outcome goes.
pub(super) struct Work {
    handoff: Handoff,
    parent_row: u32,
    published: AtomicBool,
}

impl Work {
    /// Runs the function of `order`, in a process that `furnish` makes what the order says; the process's exit code.
    fn run(self, order: Order, thread: Option<Watchable>, furnish: impl FnOnce(&Order) -> Result<(), Error>) -> i32 {
        let work = Arc::new(self);
        panics::note(&work, panics::Told::Here { name: order.name.clone() });
        if let Err(error) = furnish(&order).and_then(|()| order.setup.apply()) {
            return work.fail(&error);
        }
        let found = order.function.find().and_then(|record| Ok((record, work.handoff.arguments()?)));
        let (record, arguments) = match found {
            Ok(found) => found,
            Err(error) => return work.fail(&error),
        };
        // Rust's runtime has a handler of its own, if `main` has begun.
        let others = if cfg!(feature = "explicit-init") { Others::Second } else { Others::First };
        note_overflows(&work, &order.name, thread, others);
        fork::set_command_name(order.name.as_bytes());
        log::set_up(&order.name, std::process::id());
        let mut buffer = arguments;
        work.attempt(|| record.entry()(&mut buffer, work.parent_row).map(|()| buffer))
    }

    /// Calls `function`, and publishes what it returns, or how it ended instead; the process's exit code.
    fn attempt(&self, function: impl FnOnce() -> Result<Vec<u8>, Error>) -> i32 {
        match catch_unwind(AssertUnwindSafe(function)) {
            Ok(Ok(result)) => match self.publish(Verdict::Returned, &result) {
                Ok(()) => OK,
                Err(error) => self.fail(&error),
            },
            Ok(Err(error)) => self.fail(&error),
            Err(payload) => {
                self.tell_panic(panics::last(&*payload));
                // Its destructor might panic again.
                std::mem::forget(payload);
                FAILED
            }
        }
    }

    /// Publishes once: only the first call counts.
    fn publish(&self, verdict: Verdict, answer: &[u8]) -> Result<(), Error> {
        // Relaxed: it only has to be one; a call that fails has published nothing and gives the right to the next.
        if self.published.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let published = self.handoff.publish(verdict, answer, self.parent_row);
        if published.is_err() {
            self.published.store(false, Ordering::Relaxed);
        }
        published
    }

    fn fail(&self, error: &Error) -> i32 {
        let mut failure = Failure::of(error);
        shorten(&mut failure.message, INLINE_BYTES - 16);
        let bytes = postcard::to_stdvec(&failure).expect("a number and a string are encodable");
        self.publish(Verdict::Failed, &bytes).expect("it is short enough to lie inline");
        FAILED
    }

    /// Publishes that the function panicked.
    pub(super) fn tell_panic(&self, mut panic: Panic) {
        let encoded = |panic: &Panic| postcard::to_stdvec(panic).expect("two strings are encodable");
        if self.publish(Verdict::Panicked, &encoded(&panic)).is_err() {
            // No room for all of it.
            panic.backtrace = None;
            shorten(&mut panic.message, INLINE_BYTES / 2);
            shorten(&mut panic.location, INLINE_BYTES / 4);
            self.publish(Verdict::Panicked, &encoded(&panic)).expect("it is short enough to lie inline");
        }
    }
}

/// Tells the parent if the calling thread uses up its stack. `thread` is the same, if it was prepared before.
fn note_overflows(work: &Arc<Work>, name: &str, thread: Option<Watchable>, others: Others) {
    let last_words = format!("\nthread '{name}' has overflowed its stack\nfatal runtime error: stack overflow\n");
    let work = Arc::downgrade(work);
    let note = move || {
        // In a signal handler of the thread that has the work: nothing is allocated or dropped here.
        if let Some(work) = work.upgrade() {
            work.handoff.note_overflow();
        }
    };
    // If that fails, a stack overflow is a SIGSEGV as others are.
    let _ = thread.map_or_else(overflow::prepare, Ok).and_then(|t| overflow::watch(t, note, last_words, others));
}

/// Cuts `text` to at most `max` bytes.
fn shorten(text: &mut String, mut max: usize) {
    if text.len() > max {
        while !text.is_char_boundary(max) {
            max -= 1;
        }
        text.truncate(max);
    }
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn a_text_is_cut_between_its_characters() {
        let mut text = "aéé".to_owned();
        shorten(&mut text, 4);
        assert_eq!(text, "aé");
        shorten(&mut text, 4);
        assert_eq!(text, "aé");
        shorten(&mut text, 0);
        assert_eq!(text, "");
    }
}
