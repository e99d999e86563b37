//! Dictionaries: entries that many processes read without a lock, and change as a whole.

mod bytes;
mod check;
mod core;
mod typed;

pub use bytes::ByteDict;
pub use typed::Dict;
