//! What the tests share.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

pub mod children;
pub mod dispositions;
pub mod pools;
pub mod random;
pub mod stopped;
pub mod victim;
pub mod watchdog;
pub use watchdog::watchdog;
