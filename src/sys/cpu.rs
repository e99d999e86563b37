//! Which CPU runs this thread, and how many there are.

/// Number of the CPU that runs the calling thread, right now (about 1 ns where glibc registers `rseq`, a vDSO call elsewhere).
#[inline]
pub fn current() -> u32 {
    // SAFETY: sched_getcpu has no preconditions; a negative answer (no vDSO and ENOSYS) becomes a CPU number nobody has.
    unsafe { libc::sched_getcpu() as u32 }
}

/// CPUs that the calling process may run on, at least 1.
pub fn usable() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Lets other runnable threads of this CPU run first.
#[inline]
pub fn yield_now() {
    std::thread::yield_now();
}

/// As [`usable`] when it was first asked: for decisions on a hot path.
#[inline]
pub fn usable_cached() -> usize {
    static USABLE: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *USABLE.get_or_init(usable)
}
