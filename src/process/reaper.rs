//! Who takes a child's exit status from the kernel: its parent by the system's account, which is not always this process.

use super::forkserver::Server;
use crate::sys::identity::{Ended, Pidfd};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Where the exit status of a child comes from.
pub(super) enum Reaper {
    /// This process waits for it.
    This,
    /// The kernel reaps it and keeps the status with the pidfd, or the fork server waits for it and tells.
    Server(Arc<Server>),
}

/// How long the kernel may take from the end of a process to its being reaped, before a debugger is suspected.
const PATIENCE: Duration = Duration::from_millis(10);

/// How often it is asked before it is waited for.
const LOOKS: u32 = 50;

impl Reaper {
    /// How the child ended, of which the pidfd says that it has; `None` if something holds it up. Must not be called again
    /// after it has told.
    pub(super) fn reap(&self, pid: u32, pidfd: &Pidfd) -> io::Result<Option<Ended>> {
        let server = match self {
            Self::This => return pidfd.reap(),
            Self::Server(server) => server,
        };
        if !server.keeps_children() {
            for look in 0..=LOOKS {
                if let Some(ended) = pidfd.remembered()? {
                    return Ok(Some(ended));
                }
                if look == LOOKS {
                    pidfd.wait_reaped(PATIENCE)?;
                } else {
                    std::thread::yield_now();
                }
            }
            if let Some(ended) = pidfd.remembered()? {
                return Ok(Some(ended));
            }
        } else if let Some(ended) = server.ask_for_status(pid) {
            return Ok(Some(ended));
        }
        if !server.is_gone() {
            return Ok(None);
        }
        server.bury();
        // Its children were given to another process: to this one, if it is the first in its container, or to one that
        // reaps them, or does not.
        match pidfd.reap()? {
            Some(ended) => Ok(Some(pidfd.remembered()?.unwrap_or(ended))),
            None => Ok(Some(Ended::Unknown)),
        }
    }
}
