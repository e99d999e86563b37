//! Where a child begins: before `main`, in a function that the C library calls because it stands in `.init_array`.
//!
//! So any program can be the parent of its own copy, with nothing to call in `main`: binaries, unit tests, doctests,
//! benches, examples. A process is a child if its environment says so; then this function never returns, and neither the
//! rest of the C library's start-up, nor `main`, nor Rust's runtime before `main` is run: what the child needs of them, it
//! does itself. In any other process the cost is one look into the environment.

use super::child;
use super::forkserver::serving;
use crate::error::Error;
#[cfg(feature = "explicit-init")]
use crate::error::ErrorKind;
use crate::segment::ObjectId;
#[cfg(not(feature = "explicit-init"))]
use crate::sys::image::{Constructor, Image};
use crate::sys::{exec, spawn};
use std::os::fd::RawFd;

/// The environment variable that makes a process a child. It is gone before anything of the program runs.
pub(super) const VARIABLE: &str = "KINFOLK_CHILD";

/// What the variable says: what the parent left open, and where the work lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) segment: RawFd,
    pub(super) lock: RawFd,
    pub(super) life: RawFd,
    pub(super) row: u32,
    pub(super) handoff: ObjectId,
    /// What the program wants open besides.
    pub(super) kept: Vec<RawFd>,
}

/// Tickets of another version are for another copy of this library in the same program.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ":");

impl Ticket {
    pub(super) fn to_text(&self) -> String {
        let Self { segment, lock, life, row, handoff: ObjectId { index, generation }, kept } = self;
        let kept: String = kept.iter().map(|fd| format!(",{fd}")).collect();
        format!("{VERSION}{segment},{lock},{life},{row},{index},{generation}{kept}")
    }

    /// `None` if `text` is not what [`to_text`](Self::to_text) makes.
    fn parse(text: &str) -> Option<Self> {
        let numbers: Result<Vec<u32>, _> = text.strip_prefix(VERSION)?.split(',').map(str::parse).collect();
        let numbers = numbers.ok()?;
        let [segment, lock, life, row, index, generation, kept @ ..] = &numbers[..] else { return None };
        let fd = |n: &u32| RawFd::try_from(*n).ok();
        let handoff = ObjectId { index: *index, generation: *generation };
        let kept = kept.iter().map(fd).collect::<Option<_>>()?;
        let ticket = Self { segment: fd(segment)?, lock: fd(lock)?, life: fd(life)?, row: *row, handoff, kept };
        // Each is taken over by an owner of its own.
        let mut all = ticket.descriptors();
        all.sort_unstable();
        all.windows(2).all(|pair| pair[0] != pair[1]).then_some(ticket)
    }

    /// All that the parent left open.
    fn descriptors(&self) -> Vec<RawFd> {
        [self.segment, self.lock, self.life].iter().chain(&self.kept).copied().collect()
    }
}

/// What a process is started as.
enum Called {
    Child(Ticket),
    Server(serving::Ticket),
}

impl Called {
    fn run(self) -> ! {
        match self {
            Self::Child(ticket) => child::run(child::attach(ticket), None, |_| Ok(())),
            Self::Server(ticket) => serving::serve(ticket),
        }
    }

    fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Child(ticket) => ticket.descriptors(),
            Self::Server(ticket) => ticket.0.to_vec(),
        }
    }
}

#[cfg(not(feature = "explicit-init"))]
#[used]
// SAFETY: the section is an array of functions of this very type, which the C library calls once each.
#[unsafe(link_section = ".init_array")]
static ENTRY: Constructor = enter;

#[cfg(not(feature = "explicit-init"))]
extern "C" fn enter(argc: std::ffi::c_int, argv: *const *const std::ffi::c_char, envp: *const *const std::ffi::c_char) {
    // SAFETY: this runs before `main`, in the only thread (a constructor that starts threads which change the environment
    // could not be used with any program), and nothing of the program has run that could know of other descriptors.
    let Some(called) = (unsafe { called() }) else { return };
    for constructor in Image::of_program().constructors_after(enter) {
        constructor(argc, argv, envp);
    }
    called.run()
}

/// With the feature `explicit-init`, makes this process a child if it was started as one: then this does not return. It
/// has to be the first thing in `main`, as what stands before it is run by children too; without it nothing can be started.
///
/// Without the feature (the default) children never get to `main`, and this does nothing. The feature is for programs that
/// want nothing to happen before `main`; tests and examples need a `main` of their own then (`harness = false`).
///
/// ```
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     kinfolk::init();
///     let child = kinfolk::Process::spawn(|n: u32| n + 1, 41)?;
///     assert_eq!(child.join()?, 42);
///     Ok(())
/// }
/// ```
///
/// # Panics
/// In a child, if `main` has started threads before. Descriptors without `FD_CLOEXEC` that `main` has opened before are
/// closed in a child.
///
/// Python: `if __name__ == "__main__":` and `freeze_support()`.
#[doc(alias = "freeze_support")]
pub fn init() {
    #[cfg(feature = "explicit-init")]
    {
        INITIALIZED.store(true, std::sync::atomic::Ordering::Relaxed);
        if std::env::var_os(VARIABLE).is_some() {
            let threads = std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count());
            assert_eq!(threads, 1, "kinfolk::init() comes first in `main`, before any thread is started");
            // SAFETY: this is the only thread; of descriptors the documentation speaks.
            if let Some(called) = unsafe { called() } {
                called.run()
            }
        }
    }
}

#[cfg(feature = "explicit-init")]
static INITIALIZED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Whether children of this process would know that they are.
pub(super) fn is_prepared() -> Result<(), Error> {
    #[cfg(feature = "explicit-init")]
    if !INITIALIZED.load(std::sync::atomic::Ordering::Relaxed) {
        let message = "`main` has to begin with kinfolk::init() (feature `explicit-init`)";
        return Err(Error::new(ErrorKind::InvalidInput, "start process", message));
    }
    Ok(())
}

/// What this process was started as, if it was by a parent; then what that left open and does not name is closed.
///
/// # Safety
/// There is one thread, and nobody uses a descriptor without `FD_CLOEXEC` besides the standard streams.
unsafe fn called() -> Option<Called> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    if !text.starts_with(VERSION) {
        return None;
    }
    // SAFETY: one thread, by the caller's promise.
    unsafe { spawn::take_variable(VARIABLE) };
    let called = Ticket::parse(&text).map(Called::Child).or_else(|| serving::Ticket::parse(&text).map(Called::Server));
    let Some(called) = called else {
        eprintln!("kinfolk: the environment variable {VARIABLE} is set, but not by a parent of this process");
        std::process::exit(1);
    };
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { exec::arrive(&called.descriptors()) } {
        eprintln!("kinfolk: the child process cannot close what it inherited: {error}");
        std::process::exit(1);
    }
    spawn::prepare_runtime();
    Some(called)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_as_it_was_written() {
        let handoff = ObjectId { index: 7, generation: u32::MAX };
        for kept in [vec![], vec![9], vec![i32::MAX, 6]] {
            let ticket = Ticket { segment: 3, lock: 4, life: 5, row: 255, handoff, kept };
            assert_eq!(Ticket::parse(&ticket.to_text()), Some(ticket));
        }
    }

    #[test]
    fn other_texts_are_no_tickets() {
        assert_eq!(Ticket::parse("0.0.0:1,2,3,4,5,6"), None);
        for numbers in
            ["", "1,2,3", "1,2,3,4,5,-6", "1,2,3,4,5,6,", "3,3,4,1,1,1", "3,4,5,1,1,1,4", "4294967295,4,5,1,1,1"]
        {
            assert_eq!(Ticket::parse(numbers), None);
            assert_eq!(Ticket::parse(&format!("{VERSION}{numbers}")), None, "{numbers}");
        }
    }
}
