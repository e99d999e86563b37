//! Data that many processes hold in common, each with its own lock or rule.

mod mutex;

pub use mutex::{Lock, LockError, Mutex, MutexGuard};
