//! What is told of children, as events of the crate `tracing` under the target `kinfolk` (feature `tracing`; without it
//! nothing is told, and costs nothing).
//!
//! | event | level | told by |
//! |---|---|---|
//! | `process set up` | debug | a child that is about to call its function; a fork server is told of by its owner |
//! | `process started` | debug | the parent |
//! | `process exited`, with `code` | debug | the parent, when it takes the status |
//! | `process died`, with `signal` | warn | the same |
//! | `process recovered` | warn, or debug if it left in order | whoever cleans up after it in shared memory (`segment/recover.rs`) |
//!
//! All have the fields `name` and `pid`, of the process that the event is about.
//!
//! A subscriber is called while the child that an event is about is being waited for: it must not use that child's handle.

use super::handoff::Order;
use super::start::StartMethod;
use crate::sys::identity::Ended;

/// What a child is told of its parent's logging.
pub(super) struct Inherited {
    /// The most that is told, 0 for nothing and 5 for all.
    pub(super) level: u8,
    /// Whether it goes where [`log_to_stderr`](super::log_to_stderr) says.
    pub(super) to_stderr: bool,
}

#[cfg(not(feature = "tracing"))]
mod events {
    use super::*;

    pub fn set_up(_name: &str, _pid: u32) {}
    pub fn started(_name: &str, _pid: u32, _method: Option<StartMethod>) {}
    pub fn ended(_name: &str, _pid: u32, _how: Ended) {}
    pub fn to_inherit() -> Inherited {
        Inherited { level: 0, to_stderr: false }
    }
    pub fn inherit(_order: &Order) {}
}

#[cfg(feature = "tracing")]
mod events {
    use super::*;
    use crate::process::stderr::{self, from_number, to_number};
    use tracing::level_filters::LevelFilter;
    use tracing::{debug, warn};

    pub fn set_up(name: &str, pid: u32) {
        debug!(target: "kinfolk", name, pid, "process set up");
    }

    /// `None` for a fork.
    pub fn started(name: &str, pid: u32, method: Option<StartMethod>) {
        debug!(target: "kinfolk", name, pid, method = method.map_or("fork", StartMethod::name), "process started");
    }

    pub fn ended(name: &str, pid: u32, how: Ended) {
        match how {
            Ended::Exited(code) => debug!(target: "kinfolk", name, pid, code, "process exited"),
            Ended::Signaled { signal, .. } => warn!(target: "kinfolk", name, pid, signal, "process died"),
            Ended::Unknown => debug!(target: "kinfolk", name, pid, "process exited"),
        }
    }

    pub fn to_inherit() -> Inherited {
        Inherited { level: to_number(LevelFilter::current()), to_stderr: stderr::is_used() }
    }

    pub fn inherit(order: &Order) {
        stderr::inherit(from_number(order.log_level), order.log_to_stderr);
    }
}

pub(super) use events::{ended, inherit, set_up, started, to_inherit};
