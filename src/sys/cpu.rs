//! Which CPU runs this thread, and whether another could run its peer.

/// Number of the CPU that runs the calling thread, right now (about 1 ns where glibc registers `rseq`, a vDSO call elsewhere).
#[inline]
pub fn current() -> u32 {
    // SAFETY: sched_getcpu has no preconditions; a negative answer (no vDSO and ENOSYS) becomes a CPU number nobody has.
    unsafe { libc::sched_getcpu() as u32 }
}

/// Lets other runnable threads of this CPU run first.
#[inline]
pub fn yield_now() {
    std::thread::yield_now();
}

/// Whether the machine has a CPU besides the caller's, on which a peer could be running. Asked once.
#[inline]
pub fn is_multiple() -> bool {
    static ONLINE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    // SAFETY: sysconf has no preconditions.
    *ONLINE.get_or_init(|| unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } > 1)
}

/// Whether a peer that ran last on CPU `peer`, if that is known, may be running while the caller waits.
#[inline]
pub fn is_elsewhere(peer: Option<u32>) -> bool {
    is_multiple() && peer.is_none_or(|cpu| cpu != current())
}
