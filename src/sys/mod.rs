//! The operating system and the memory model: the only layer that names `libc`, `rustix`, `nix` or `cfg(loom)`.
//!
//! Everything above sees atomics ([`atomic`]), sleeping words ([`futex`]), mapped files ([`mapping`]) and processes
//! ([`identity`], [`liveness`]) through this layer, so that the lock-free code above runs unchanged under loom.

pub mod atomic;
