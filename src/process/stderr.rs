//! Events on standard error: what children of a program that logs there do too (feature `tracing`).

use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The levels by their numbers.
const LEVELS: [LevelFilter; 6] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];

pub(super) fn to_number(level: LevelFilter) -> u8 {
    LEVELS.iter().position(|l| *l == level).unwrap_or(0) as u8
}

pub(super) fn from_number(number: u8) -> LevelFilter {
    LEVELS.get(usize::from(number)).copied().unwrap_or(LevelFilter::OFF)
}

/// Whether [`log_to_stderr`] was called, here or in the process of which this is a child.
static USED: AtomicBool = AtomicBool::new(false);

static INHERITED: OnceLock<LevelFilter> = OnceLock::new();

pub(super) fn is_used() -> bool {
    // Relaxed: nothing is published by it.
    USED.load(Ordering::Relaxed)
}

/// In a child, before its function runs.
pub(super) fn inherit(level: LevelFilter, to_stderr: bool) {
    let _ = INHERITED.set(level);
    if to_stderr {
        // A constructor of the program may have set another.
        let _ = log_to_stderr(level);
    }
}

/// The level up to which the parent was logging when it started this process; `None` in a process that no parent started.
/// For a child that sets up a subscriber of its own, and is to log as much.
pub fn inherited_log_level() -> Option<LevelFilter> {
    INHERITED.get().copied()
}

/// Writes all events up to this level to standard error, those of this library and the program's own, one line each; here
/// and in the children that this process starts from now on. False if another subscriber has been set.
///
/// Not needed in a program that sets a subscriber of its own (`tracing_subscriber::fmt::init()`, say), which its children
/// then do too: see [`inherited_log_level`].
///
/// ```
/// use kinfolk::{Process, process};
/// use tracing::level_filters::LevelFilter;
///
/// assert!(process::log_to_stderr(LevelFilter::INFO));
/// // Prints [INFO/Process-1 71] doctest: at work n=5
/// let child = Process::spawn(|n: u32| tracing::info!(target: "doctest", n, "at work"), 5)?;
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Python: `log_to_stderr(level)`.
pub fn log_to_stderr(level: LevelFilter) -> bool {
    let set = tracing::subscriber::set_global_default(Stderr { level, spans: AtomicU64::new(1) }).is_ok();
    if set {
        USED.store(true, Ordering::Relaxed);
    }
    set
}

struct Stderr {
    level: LevelFilter,
    /// Spans are numbered, and not told of.
    spans: AtomicU64,
}

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let (this, metadata) = (super::current(), event.metadata());
        let mut line = Line { message: String::new(), fields: String::new() };
        event.record(&mut line);
        let (level, target) = (metadata.level(), metadata.target());
        let text = format!("[{level}/{} {}] {target}: {}{}\n", this.name(), this.pid(), line.message, line.fields);
        // In one piece, so that lines of several processes do not mix; nobody can be told if that fails.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_they_were_written() {
        for level in LEVELS {
            assert_eq!(from_number(to_number(level)), level);
        }
        assert_eq!(from_number(200), LevelFilter::OFF);
    }
}
