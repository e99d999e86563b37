//! What the tests share.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

pub mod random;
pub mod stopped;
pub mod watchdog;
pub use watchdog::watchdog;
