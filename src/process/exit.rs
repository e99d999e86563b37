//! The children of this process, and what becomes of them when it exits: daemons are terminated, others are waited for.
//!
//! The hook does not run if the process is killed, aborts, or calls `_exit`; then the life pipe
//! ([`crate::sys::spawn`]) ends the children.

use super::forkserver;
use super::handle::{Child, Shared};
use crate::sys::clock::Deadline;
use crate::sys::identity::{Order, Pidfd, ended_among};
use crate::sys::spawn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::time::Duration;

/// The children that have not been seen to end.
struct Registry {
    /// Whose children they are: a forked copy of the process inherits the list, but not the children.
    owner: u32,
    children: Vec<Arc<Shared>>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { owner: 0, children: Vec::new() });

/// Whether this process exits.
static EXITING: AtomicBool = AtomicBool::new(false);

/// Whether this process exits: then no child is started in place of one that ended.
pub(crate) fn is_exiting() -> bool {
    EXITING.load(Ordering::Relaxed)
}

/// How long a daemon may take to end by SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

fn own(mut registry: MutexGuard<'_, Registry>) -> MutexGuard<'_, Registry> {
    let pid = std::process::id();
    if registry.owner != pid {
        registry.owner = pid;
        // To drop them would give back the original's share of their objects.
        std::mem::forget(std::mem::take(&mut registry.children));
    }
    registry
}

fn registry() -> MutexGuard<'static, Registry> {
    own(REGISTRY.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Keeps other threads from changing the list, so that a fork finds it in order.
pub(super) fn hold() -> impl Sized {
    registry()
}

/// Adds a child that has just been started.
pub(super) fn register(child: &Arc<Shared>) {
    static HOOK: Once = Once::new();
    // Without the hook (the C library is out of memory) children end with this process by their life pipes.
    HOOK.call_once(|| {
        let _ = spawn::at_exit(settle);
    });
    registry().children.push(Arc::clone(child));
}

/// Takes a child off the list that has ended.
pub(super) fn forget(child: &Arc<Shared>) {
    let mut registry = registry();
    let at = registry.children.iter().position(|c| Arc::ptr_eq(c, child));
    let removed = at.map(|at| registry.children.swap_remove(at));
    drop(registry);
    // What it drops is the program's, so that comes after the lock.
    drop(removed);
}

/// Reaps the children that have ended, and gives the others.
pub(super) fn reap() -> Vec<Arc<Shared>> {
    let children = registry().children.clone();
    let pidfds: Vec<&Pidfd> = children.iter().map(|c| &c.pidfd).collect();
    let ended = ended_among(&pidfds).unwrap_or_default();
    let mut ended = ended.into_iter().chain(std::iter::repeat(false));
    let (ended, alive): (Vec<_>, Vec<_>) =
        children.into_iter().partition(|child| ended.next() == Some(true) && child.ended().is_some());
    ended.iter().for_each(forget);
    alive
}

/// The children of this process that have not ended, in no particular order; those that have are reaped. It does not
/// block.
///
/// ```
/// use kinfolk::{Process, process};
///
/// let child = Process::spawn(|()| std::thread::park(), ())?;
/// let children = process::active_children();
/// assert_eq!(children[0].pid(), child.pid());
/// children[0].kill()?;
/// # Ok::<(), kinfolk::Error>(())
/// ```
///
/// Python: `active_children()`.
pub fn active_children() -> Vec<Child> {
    forkserver::reap();
    reap().into_iter().map(Child).collect()
}

/// At exit: terminates the daemons, waits for the others, kills the daemons that are still there.
///
/// `exit` may be called by any thread, so another one may hold the lock, and may be stopped for good. Whoever holds it does
/// not block meanwhile, so the lock is given up on after a while; what is left to the life pipe then.
pub(super) extern "C" fn settle() {
    EXITING.store(true, Ordering::Relaxed);
    // A child that ends may let another thread start one more; a program that never stops doing so is not waited for.
    for _ in 0..16 {
        let children = take_all();
        if children.is_empty() {
            break;
        }
        let (daemons, others): (Vec<_>, Vec<_>) = children.iter().partition(|c| c.daemon);
        // Errors mean that a child has become another user's, or cannot be waited for: nothing more can be done here.
        for daemon in &daemons {
            let _ = daemon.pidfd.signal(Order::Terminate);
        }
        let grace = Deadline::after(GRACE);
        for other in others {
            let _ = other.wait(Deadline::NEVER);
        }
        for daemon in daemons {
            if let Ok(None) = daemon.wait(grace) {
                let _ = daemon.pidfd.signal(Order::Kill);
                let _ = daemon.wait(Deadline::NEVER);
            }
        }
        // Results that nobody asked for go with the process; to decode them now could run the program's code.
        std::mem::forget(children);
    }
    forkserver::settle();
}

fn take_all() -> Vec<Arc<Shared>> {
    for _ in 0..100 {
        match REGISTRY.try_lock() {
            Ok(registry) => return std::mem::take(&mut own(registry).children),
            Err(TryLockError::Poisoned(poisoned)) => return std::mem::take(&mut own(poisoned.into_inner()).children),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Vec::new()
}
