//! The child's side: attach, run the function in a thread of its own, publish how it ended, exit.

use super::current;
use super::entry::Ticket;
use super::handoff::{Failure, Handoff, INLINE_BYTES, Order, Panic, Verdict};
use crate::error::Error;
use crate::segment::Segment;
use crate::sys::{overflow, spawn};
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Exit codes, as Python's.
const OK: i32 = 0;
const FAILED: i32 = 1;

/// As much as a program's first thread gets by default, in which the function would run without this library.
const STACK_BYTES: usize = 8 << 20;

/// Runs the child to its end. Handlers that the function registered with `atexit` run in this, the first thread.
pub(super) fn run(ticket: Ticket) -> ! {
    let code = match attach(ticket) {
        Ok((work, order)) => work.run(order),
        Err(error) => {
            // Without the segment nobody can be told but whoever reads this.
            eprintln!("kinfolk: the child process cannot begin: {error}");
            FAILED
        }
    };
    Segment::announce_leaving();
    std::process::exit(code)
}

fn attach(ticket: Ticket) -> Result<(Work, Order), Error> {
    let take = |fd| {
        // SAFETY: the parent opened these three for this process and names them in the ticket; nothing has run here yet
        // that could have taken the numbers for its own.
        unsafe { spawn::inherited(fd) }.map_err(|e| Error::os(format!("take over descriptor {fd}"), e))
    };
    let (segment, lock, life): (OwnedFd, OwnedFd, OwnedFd) =
        (take(ticket.segment)?, take(ticket.lock)?, take(ticket.life)?);
    let life = spawn::bind_life(life).map_err(|e| Error::os("bind to the parent's life", e))?;
    let segment = Segment::adopt(segment, lock, ticket.row)?;
    let handoff = Handoff::open(&segment, ticket.handoff)?;
    let order = handoff.order()?;
    current::become_child(&order, life);
    Ok((Work { handoff, parent_row: order.parent_row, published: AtomicBool::new(false) }, order))
}

/// The work in hand, and where its outcome goes.
struct Work {
    handoff: Handoff,
    parent_row: u32,
    published: AtomicBool,
}

impl Work {
    /// Runs the function of `order`; the process's exit code.
    fn run(self, order: Order) -> i32 {
        let work = Arc::new(self);
        note_panics(&work);
        if let Err(error) = order.setup.apply() {
            return work.fail(&error);
        }
        let found = order.function.find().and_then(|record| Ok((record, work.handoff.arguments()?)));
        let (record, arguments) = match found {
            Ok(found) => found,
            Err(error) => return work.fail(&error),
        };
        // Set once: this process is one child.
        let _ = AT_WORK.set(Arc::downgrade(&work));
        let last_words =
            format!("\nthread '{}' has overflowed its stack\nfatal runtime error: stack overflow\n", order.name);
        let task = {
            let work = Arc::clone(&work);
            move || {
                // If that fails, a stack overflow is a SIGSEGV as others are.
                let _ = overflow::watch(note_overflow, last_words);
                match catch_unwind(AssertUnwindSafe(|| record.entry()(arguments, work.parent_row))) {
                    Ok(Ok(result)) => match work.publish(Verdict::Returned, &result) {
                        Ok(()) => OK,
                        Err(error) => work.fail(&error),
                    },
                    Ok(Err(error)) => work.fail(&error),
                    Err(payload) => {
                        work.tell_panic(last_panic(&*payload));
                        // Its destructor might panic again.
                        std::mem::forget(payload);
                        FAILED
                    }
                }
            }
        };
        match std::thread::Builder::new().name(order.name).stack_size(STACK_BYTES).spawn(task) {
            // An error of `join` would be a panic of the lines above, after which nothing was published.
            Ok(thread) => thread.join().unwrap_or(FAILED),
            Err(error) => work.fail(&Error::os("start the task's thread", error)),
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

    fn tell_panic(&self, mut panic: Panic) {
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

/// The work of this process, as long as it lasts.
static AT_WORK: OnceLock<Weak<Work>> = OnceLock::new();

/// In a signal handler of the function's thread, which has the work: nothing is allocated or dropped here.
fn note_overflow() {
    if let Some(work) = AT_WORK.get().and_then(Weak::upgrade) {
        work.handoff.note_overflow();
    }
}

thread_local! {
    /// The last panic of this thread, as the panic hook saw it.
    static LAST_PANIC: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Sets a panic hook that notes where a panic happened, and then does what the hook before it did.
fn note_panics(work: &Arc<Work>) {
    let before = std::panic::take_hook();
    // A program that aborts on panics gets no further than the hook.
    let aborting = cfg!(panic = "abort").then(|| Arc::clone(work));
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let location = info.location().map(ToString::to_string).unwrap_or_else(unknown);
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let panic = Panic { message: message_of(info.payload()), location, backtrace };
        match &aborting {
            Some(work) => work.tell_panic(panic),
            // A panic while the thread's locals are torn down is in nobody's result.
            None => drop(LAST_PANIC.try_with(|last| last.replace(Some(panic)))),
        }
        before(info);
    }));
}

/// The panic that carried `payload` here.
fn last_panic(payload: &(dyn Any + Send)) -> Panic {
    let message = message_of(payload);
    // `resume_unwind` calls no hook, and a hook of the program's own may have replaced ours.
    match LAST_PANIC.take() {
        Some(last) if last.message == message => last,
        _ => Panic { message, location: unknown(), backtrace: None },
    }
}

fn unknown() -> String {
    "an unknown place".to_owned()
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a value that is not text").to_owned()
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
