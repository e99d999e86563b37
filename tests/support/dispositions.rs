//! Signals that whoever started the tests ignores, as a shell does for what runs in the background: they are to end processes
//! here all the same.

use std::ffi::CStr;

use nix::sys::signal::{SigHandler, Signal, signal};

#[used]
// SAFETY: the section is an array of functions that the C library calls before `main`.
#[unsafe(link_section = ".init_array.00500")]
static RESET: extern "C" fn() = reset;

/// The variable that a child has: it is to ignore what its parent ignores.
const CHILD: &CStr = c"KINFOLK_CHILD";

extern "C" fn reset() {
    // SAFETY: this is the only thread, so nobody changes the environment.
    if unsafe { libc::getenv(CHILD.as_ptr()) }.is_null() {
        for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
            // SAFETY: no handler is installed.
            unsafe { signal(ignored, SigHandler::SigDfl) }.unwrap();
        }
    }
}
