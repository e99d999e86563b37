//! The operating system and the memory model: the only layer that names `libc`, `rustix`, `nix` or `cfg(loom)`.
//!
//! Everything above sees atomics ([`atomic`]), sleeping words ([`futex`]), mapped files ([`mapping`], [`memfd`]) and
//! processes ([`identity`], [`liveness`], [`spawn`]) through this layer, so that the lock-free code above runs unchanged
//! under loom.

pub mod atomic;
pub mod clock;
pub mod copy;
pub mod cpu;
pub mod exec;
pub mod fd;
pub mod folder;
pub mod fork;
pub mod futex;
pub mod identity;
#[cfg_attr(feature = "explicit-init", allow(dead_code, reason = "what stands before `main` is not looked at"))]
pub mod image;
pub mod line;

pub mod liveness;
pub mod mapping;
pub mod membarrier;
pub mod memfd;
pub mod models;
pub mod monitor;
pub mod overflow;
pub mod poll;
#[cfg(feature = "raw-sync")]
pub mod pthread;
pub mod signals;
pub mod spawn;
