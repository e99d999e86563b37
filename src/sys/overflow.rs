//! A thread that runs out of stack is told apart from one that follows a wild pointer.
//!
//! Rust's runtime does this for every program, before `main`; a child never gets there. The handler looks at the address
//! of the fault: if it lies in the guard below the thread's stack, it says so and aborts, as Rust's does; any other fault
//! ends the process as if there were no handler.

use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;
use std::sync::OnceLock;

/// Enough for the kernel's frame with the widest registers there are, and for the handler.
const STACK_BYTES: usize = 64 << 10;

/// The one thread that is watched.
struct Watched {
    /// Addresses that are touched only by who has used up its stack.
    guard: std::ops::Range<usize>,
    note: fn(),
    last_words: String,
}

static WATCHED: OnceLock<Watched> = OnceLock::new();

/// Has the calling thread watched, the first one that asks. If it overflows its stack, `note` is called, `last_words` go
/// to standard error, and the process aborts. `note` may do what a signal handler may: touch atomics.
///
/// A program that handles SIGSEGV or SIGBUS itself goes on doing so.
pub fn watch(note: fn(), last_words: String) -> io::Result<()> {
    let guard = guard_of_this_thread()?;
    if WATCHED.set(Watched { guard, note, last_words }).is_err() {
        return Ok(());
    }
    // Never freed: the thread has it to the process's end.
    let stack = Box::leak(vec![0u8; STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    // SAFETY: the memory is nobody else's and stays.
    check(unsafe { libc::sigaltstack(&stack, null_mut()) })?;
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: all bytes zero are a `sigaction`: the default action, no flags, an empty mask.
        let (mut before, mut action): (libc::sigaction, libc::sigaction) = unsafe { (zeroed(), zeroed()) };
        // SAFETY: asks for the action and changes nothing.
        check(unsafe { libc::sigaction(signal, std::ptr::null(), &mut before) })?;
        if before.sa_sigaction == libc::SIG_DFL {
            action.sa_sigaction = on_fault as extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: the handler has the type that SA_SIGINFO asks for, and keeps to what a handler may do.
            check(unsafe { libc::sigaction(signal, &action, null_mut()) })?;
        }
    }
    Ok(())
}

fn check(answer: c_int) -> io::Result<()> {
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
    Ok(lowest.saturating_sub(guard)..lowest + guard)
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO what it is told; for a fault it has an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if let Some(watched) = WATCHED.get().filter(|watched| code > 0 && watched.guard.contains(&address)) {
        (watched.note)();
        // SAFETY: both calls are allowed in a handler; the bytes are borrowed from a static.
        unsafe {
            libc::write(2, watched.last_words.as_ptr().cast(), watched.last_words.len());
            libc::abort();
        }
    }
    // SAFETY: the default action needs no handler. A fault comes again when the handler returns, what somebody sent is sent
    // on; both calls are allowed in a handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        if code <= 0 {
            libc::raise(signal);
        }
    }
}
