//! Which CPU runs this thread, and whether another could run its peer.

use rustix::thread::{CpuSet, sched_setaffinity};

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

/// Lets the calling thread, and those that it starts later, run on these CPUs only.
pub fn pin(cpus: &[u32]) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        let fits = (cpu as usize) < CpuSet::MAX_CPU;
        set.set(if fits { cpu as usize } else { return Err(std::io::ErrorKind::InvalidInput.into()) });
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Adds to the nice value of the calling thread and of those that it starts later; the system keeps it from -20 to 19.
pub fn be_nicer(by: i32) -> std::io::Result<()> {
    Ok(rustix::process::nice(by).map(drop)?)
}
