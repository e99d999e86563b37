//! The heavy half of an asymmetric fence.
//!
//! Whoever commits a message must order "publish" before "does anybody sleep?". A full fence for each message costs two
//! to three times the message itself, so committers use a compiler fence only, and the sleeper, who is about to pay for
//! a system call anyway, makes every CPU that runs a registered process execute a full fence for it.
//!
//! Source: membarrier(2), `MEMBARRIER_CMD_GLOBAL_EXPEDITED`.

/// Registers this process for [`heavy`]; false where the kernel (or a filter) does not allow it.
pub fn register() -> bool {
    // SAFETY: membarrier(2) with a registration command takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0 }
}

/// A full fence on every CPU that runs a registered process (0.5 us on an idle machine).
pub fn heavy() {
    // SAFETY: as above; the command cannot fail once `register` succeeded in any process of this kernel.
    unsafe {
        libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
    }
}
