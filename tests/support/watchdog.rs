//! Ends a test that hangs.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Aborts the test program with a message unless it is dropped in time. Children die with the program.
#[must_use = "it guards as long as it lives"]
pub struct Watchdog {
    /// Dropped with the guard, which tells the watching thread that all is well.
    _alive: Sender<()>,
}

/// Gives the calling test at most `limit`.
pub fn watchdog(limit: Duration) -> Watchdog {
    let (alive, watched) = channel();
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    std::thread::spawn(move || {
        if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            // What the test harness keeps for the end of the test would go with the program: so not by `eprintln`.
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "watchdog: `{test}` has not ended within {limit:?}");
            if let Ok(segment) = kinfolk::Segment::family() {
                let _ = writeln!(stderr, "{}", segment.inspect());
            }
            std::process::abort();
        }
    });
    Watchdog { _alive: alive }
}
