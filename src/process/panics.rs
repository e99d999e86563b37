//! Panics in a child: noted for the parent, and told to whoever reads its standard error.

use super::child::Work;
use super::handoff::Panic;
use crate::sys::identity::this_thread_id;
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// The last panic of this thread, as the panic hook saw it.
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Does what the first panic of a thread would have to, for this thread and forks of it.
pub(super) fn prepare() {
    // The first destructor of a thread's local makes the C library look for the function that notes it.
    LAST.with(|_| ());
}

/// Who writes about a panic to standard error.
pub(super) enum Told {
    /// The hook that is there.
    ByOthers,
    /// Ours, in the form of the standard library's, which knows no name of a thread that it has not started: of the first
    /// thread of the process with this name.
    Here { name: String },
}

/// Sets a panic hook that notes where a panic happened, and has it told.
pub(super) fn note(work: &Arc<Work>, told: Told) {
    let before = std::panic::take_hook();
    // A program that aborts on panics gets no further than the hook.
    let aborting = cfg!(panic = "abort").then(|| Arc::clone(work));
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let location = info.location().map(ToString::to_string).unwrap_or_else(unknown);
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let panic = Panic { message: message_of(info.payload()), location, backtrace };
        if let Told::Here { name } = &told {
            tell(name, &panic);
        }
        match &aborting {
            Some(work) => work.tell_panic(panic),
            // A panic while the thread's locals are torn down is in nobody's result.
            None => drop(LAST.try_with(|last| last.replace(Some(panic)))),
        }
        if matches!(told, Told::ByOthers) {
            before(info);
        }
    }));
}

/// Writes about a panic as the standard library does, all at once.
fn tell(process: &str, panic: &Panic) {
    static HINTED: AtomicBool = AtomicBool::new(false);
    let (this, id) = (std::thread::current(), this_thread_id());
    let thread = if id == std::process::id() { process } else { this.name().unwrap_or("<unnamed>") };
    let Panic { message, location, backtrace } = panic;
    let mut text = format!("\nthread '{thread}' ({id}) panicked at {location}:\n{message}\n");
    match backtrace {
        Some(backtrace) => text.extend(["stack backtrace:\n", backtrace]),
        // Relaxed: nothing hangs on it.
        None if HINTED.swap(true, Ordering::Relaxed) => {}
        None => text += "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
    }
    // There is nobody to be told of an error.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The panic that carried `payload` here.
pub(crate) fn last(payload: &(dyn Any + Send)) -> Panic {
    let message = message_of(payload);
    // `resume_unwind` calls no hook, and a hook of the program's own may have replaced ours.
    match LAST.take() {
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
