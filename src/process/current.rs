//! Who this process is, and who started it.

use super::handoff::Order;
use crate::sys::clock::Deadline;
use crate::sys::spawn;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The process that asks: see [`current`].
#[derive(Debug)]
pub struct Current {
    name: String,
    /// Numbers of its ancestors and of itself, each counted by its parent; empty in the first process.
    lineage: Vec<u32>,
    daemon: bool,
    parent: Option<Parent>,
    children: AtomicU32,
    /// Who the process is instead, if it is a fork of the one that this describes.
    forked: OnceLock<Box<Current>>,
}

/// The process that started this one: see [`parent`].
#[derive(Debug)]
pub struct Parent {
    name: String,
    pid: u32,
    life: OwnedFd,
}

static CURRENT: OnceLock<Current> = OnceLock::new();

/// This process: its name and pid. It never blocks.
///
/// ```
/// assert_eq!(kinfolk::process::current().name(), "MainProcess");
/// assert_eq!(kinfolk::process::current().pid(), std::process::id());
/// ```
///
/// Python: `current_process()`.
#[doc(alias = "current_process")]
pub fn current() -> &'static Current {
    let mut current = CURRENT.get_or_init(|| Current {
        name: "MainProcess".to_owned(),
        lineage: Vec::new(),
        daemon: false,
        parent: None,
        children: AtomicU32::new(0),
        forked: OnceLock::new(),
    });
    while let Some(forked) = current.forked.get() {
        current = forked;
    }
    current
}

/// The process that started this one, `None` if that was no [`Process`](super::Process). It never blocks.
///
/// ```
/// use kinfolk::{Process, process};
///
/// assert!(process::parent().is_none());
/// let child = Process::spawn(|()| process::parent().map(|p| (p.name().to_owned(), p.pid())), ())?;
/// assert_eq!(child.join()?, Some(("MainProcess".to_owned(), std::process::id())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Python: `parent_process()`.
#[doc(alias = "parent_process")]
pub fn parent() -> Option<&'static Parent> {
    current().parent.as_ref()
}

/// How many CPUs this process may use, at least 1. It respects CPU affinity and control groups, so the answer may differ
/// between processes and change while they run. It never blocks.
///
/// Python: `os.process_cpu_count()`, which counts what `multiprocessing.Pool` starts; `multiprocessing.cpu_count()`
/// counts those of the machine.
#[doc(alias = "process_cpu_count")]
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Current {
    /// The name: `MainProcess` in the first process, what it was started under in a child.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Whether the parent ends this process when it ends itself, instead of waiting for it.
    pub fn is_daemon(&self) -> bool {
        self.daemon
    }

    /// The lineage of the next child.
    pub(super) fn next_child(&self) -> Vec<u32> {
        // Relaxed: the numbers only have to differ.
        let number = self.children.fetch_add(1, Ordering::Relaxed) + 1;
        self.lineage.iter().copied().chain([number]).collect()
    }
}

impl Parent {
    /// The parent's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parent's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the parent lives. A child is killed when its parent ends, so no child sees `false` for long.
    ///
    /// It does not block.
    pub fn is_alive(&self) -> bool {
        !self.join_timeout(Duration::ZERO)
    }

    /// Blocks until the parent has ended, and then no longer, since this process ends with it: for a thread that has
    /// nothing else to do. Python: `parent_process().join()`.
    pub fn join(&self) {
        self.ends_by(Deadline::NEVER);
    }

    /// Blocks until the parent has ended, or `timeout` has passed; whether it has ended, which this process survives for
    /// moments only. Python: `parent_process().join(timeout)`.
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        self.ends_by(Deadline::after(timeout))
    }

    /// A descriptor that polls as hung up once the parent has ended.
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.life.as_fd()
    }

    fn ends_by(&self, deadline: Deadline) -> bool {
        // The pipe that ends this process, and not a pidfd: a number that the parent left may be another's by now.
        spawn::hangs_up(self.life.as_fd(), deadline).unwrap_or(false)
    }
}

/// The name of the child with this lineage that was given none: `Process-1`, and `Process-1:2` for its second child.
pub(super) fn default_name(lineage: &[u32]) -> String {
    let numbers: Vec<_> = lineage.iter().map(u32::to_string).collect();
    format!("Process-{}", numbers.join(":"))
}

/// In a child, before anybody can ask: makes it the one of this order, bound to its parent by `life`.
pub(super) fn become_child(order: &Order, life: OwnedFd) {
    // A constructor of the program that asked earlier keeps its answer; nobody else has run.
    let _ = CURRENT.set(child(order, life));
}

/// The same in a fork of this process, in which somebody may have asked before the fork, and keeps that answer.
pub(super) fn become_fork(order: &Order, life: OwnedFd) {
    // It fails if this process is such a fork already, and has forked no other: it cannot be.
    let _ = current().forked.set(Box::new(child(order, life)));
}

fn child(order: &Order, life: OwnedFd) -> Current {
    Current {
        name: order.name.clone(),
        lineage: order.lineage.clone(),
        daemon: order.daemon,
        parent: Some(Parent { name: order.parent_name.clone(), pid: order.parent_pid, life }),
        children: AtomicU32::new(0),
        forked: OnceLock::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::default_name;

    #[test]
    fn names_count_children_and_grandchildren() {
        assert_eq!(default_name(&[3]), "Process-3");
        assert_eq!(default_name(&[1, 2, 1]), "Process-1:2:1");
    }
}
