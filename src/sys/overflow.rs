//! A thread that runs out of stack is told apart from one that follows a wild pointer.
//!
//! Rust's runtime does this for every program, before `main`; a child never gets there. The handler looks at the address
//! of the fault: if it lies in the guard below the thread's stack, it says so and aborts, as Rust's does; any other fault
//! ends the process as if there were no handler.

use super::identity::this_thread_id;
use std::ffi::{c_char, c_int};
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Enough for the kernel's frame with the widest registers there are, and for the handler.
const STACK_BYTES: usize = 64 << 10;

/// Below the first thread's stack nothing is mapped so far down, and its guard has no size.
const FIRST_GUARD_BYTES: usize = 64 << 10;

const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// A thread that can be watched: it has a second stack for the handler.
#[derive(Clone, Debug)]
pub struct Watchable {
    /// Addresses that are touched only by who has used up its stack.
    guard: std::ops::Range<usize>,
}

/// Makes the calling thread watchable. It is so in forks, too.
pub fn prepare() -> io::Result<Watchable> {
    let guard = match is_first_thread().then(guard_of_first_thread).flatten() {
        Some(guard) => guard,
        None => guard_of_this_thread()?,
    };
    // Never freed: the thread has it to the process's end. Not zeroed either: most never need it.
    let stack = Box::leak(Box::<[u8]>::new_uninit_slice(STACK_BYTES));
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    // SAFETY: the memory is nobody else's and stays.
    check(unsafe { libc::sigaltstack(&stack, null_mut()) })?;
    Ok(Watchable { guard })
}

/// What becomes of the handlers that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// A program that handles SIGSEGV or SIGBUS itself goes on doing so.
    First,
    /// They hear of faults that are no overflows. After the first of these the watch is over.
    Second,
}

/// The one thread that is watched.
struct Watched {
    guard: std::ops::Range<usize>,
    note: Box<dyn Fn() + Send + Sync>,
    last_words: String,
    /// The actions to go back to.
    before: [libc::sigaction; SIGNALS.len()],
}

static WATCHED: AtomicPtr<Watched> = AtomicPtr::new(null_mut());

/// Has a thread watched, and no other. If it overflows its stack, `note` is called, `last_words` go to standard error, and
/// the process aborts. `note` may do what a signal handler may: touch atomics.
pub fn watch(
    thread: Watchable,
    note: impl Fn() + Send + Sync + 'static,
    last_words: String,
    others: Others,
) -> io::Result<()> {
    let ours = on_fault as extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    // SAFETY: all bytes zero are a `sigaction`: the default action, no flags, an empty mask.
    let (mut before, mut action): ([libc::sigaction; SIGNALS.len()], libc::sigaction) = unsafe { (zeroed(), zeroed()) };
    // SAFETY: what the pointer leads to is never freed.
    let earlier = unsafe { WATCHED.load(Ordering::Acquire).as_ref() };
    for (k, signal) in SIGNALS.into_iter().enumerate() {
        // SAFETY: asks for the action and changes nothing.
        check(unsafe { libc::sigaction(signal, std::ptr::null(), &mut before[k]) })?;
        if let Some(earlier) = earlier.filter(|_| before[k].sa_sigaction == ours) {
            // A fork of a process that has a watch.
            before[k] = earlier.before[k];
        }
    }
    let watched = Watched { guard: thread.guard, note: Box::new(note), last_words, before };
    // Release: the handler finds all of it. It is never freed: the process has it to its end.
    WATCHED.store(Box::leak(Box::new(watched)), Ordering::Release);
    action.sa_sigaction = ours;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    for (k, signal) in SIGNALS.into_iter().enumerate() {
        if others == Others::Second || before[k].sa_sigaction == libc::SIG_DFL {
            // SAFETY: the handler has the type that SA_SIGINFO asks for, and keeps to what a handler may do.
            check(unsafe { libc::sigaction(signal, &action, null_mut()) })?;
        }
    }
    Ok(())
}

fn check(answer: c_int) -> io::Result<()> {
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn is_first_thread() -> bool {
    this_thread_id() == std::process::id()
}

/// The pages below the first thread's stack, if it is known how far that may grow. glibc reads a file of `/proc` for this, line
/// by line.
///
/// The kernel puts the program's name at the top of the stack, and above that nothing but a null pointer (`fs/exec.c`).
fn guard_of_first_thread() -> Option<std::ops::Range<usize>> {
    let page = rustix::param::page_size();
    let most = usize::try_from(rustix::process::getrlimit(rustix::process::Resource::Stack).current?).ok()?;
    // SAFETY: it only asks.
    let name = std::ptr::NonNull::new(unsafe { libc::getauxval(libc::AT_EXECFN) } as *mut c_char)?;
    // SAFETY: the kernel's string, which ends; the program may have written over it, but not over the null pointer above.
    let name_bytes = unsafe { libc::strlen(name.as_ptr()) };
    let top = (name.as_ptr() as usize + name_bytes + 1 + size_of::<usize>()).next_multiple_of(page);
    let lowest = top.checked_sub(most / page * page)?;
    Some(lowest.checked_sub(FIRST_GUARD_BYTES)?..lowest)
}

/// The pages below the stack: of glibc's account of a stack they are a part, or lie below it, by its version.
fn guard_of_this_thread() -> io::Result<std::ops::Range<usize>> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut stack, mut bytes, mut guard) = (null_mut(), 0, 0);
    // SAFETY: the first call makes the attributes, of a thread that lives, which the others read and destroy.
    let failed = unsafe {
        let attributes = attributes.as_mut_ptr();
        match libc::pthread_getattr_np(libc::pthread_self(), attributes) {
            0 => {
                let failed = libc::pthread_attr_getstack(attributes, &mut stack, &mut bytes)
                    | libc::pthread_attr_getguardsize(attributes, &mut guard);
                libc::pthread_attr_destroy(attributes);
                failed
            }
            failed => failed,
        }
    };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    let lowest = stack as usize;
    let below = if is_first_thread() { guard.max(FIRST_GUARD_BYTES) } else { guard };
    Ok(lowest.saturating_sub(below)..lowest + guard)
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO what it is told; for a fault it has an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // SAFETY: what the pointer leads to is never freed.
    let watched = unsafe { WATCHED.load(Ordering::Acquire).as_ref() };
    if let Some(watched) = watched.filter(|watched| code > 0 && watched.guard.contains(&address)) {
        (watched.note)();
        // SAFETY: both calls are allowed in a handler; the bytes are borrowed from what is never freed.
        unsafe {
            libc::write(2, watched.last_words.as_ptr().cast(), watched.last_words.len());
            libc::abort();
        }
    }
    let before = watched.and_then(|w| SIGNALS.iter().position(|s| *s == signal).map(|k| &raw const w.before[k]));
    // SAFETY: the action was there before, or is the default one. A fault comes again when the handler returns, what
    // somebody sent is sent on; the calls are allowed in a handler.
    unsafe {
        match before {
            Some(before) => drop(libc::sigaction(signal, before, null_mut())),
            None => drop(libc::signal(signal, libc::SIG_DFL)),
        }
        if code <= 0 {
            libc::raise(signal);
        }
    }
}
