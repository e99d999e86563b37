//! What this process does about signals.

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};

/// Which signals a thread gets, and passes on to processes that it starts.
#[derive(Debug)]
pub struct Mask(SigSet);

impl Mask {
    /// The calling thread's.
    pub fn of_thread() -> Self {
        // It can fail only without memory for a few words on the stack.
        Self(SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty()))
    }

    /// Runs `f` while the calling thread has this one.
    pub fn during<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.0.thread_swap_mask(SigmaskHow::SIG_SETMASK);
        let result = f();
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
        result
    }
}

/// Leaves SIGINT, which a terminal sends to all processes in front of it, to others.
pub fn ignore_interrupts() {
    // SAFETY: no handler is installed, so no code runs in one. It fails for no signal that there is.
    let _ = unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) };
}
