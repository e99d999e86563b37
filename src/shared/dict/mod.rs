//! Dictionaries: entries that many processes read without a lock, and change as a whole.
//!
//! `kind.rs` says where one lies, and what happens after a death; `core.rs` reads and changes entries of bytes, `whole.rs`
//! all of them. On top are the typed face, and that of bytes.

mod atomic;
mod build;
mod bytes;
mod check;
mod core;
mod error;
mod kind;
mod many;
mod refs;
mod typed;
mod views;
mod watch;
mod whole;

pub use atomic::Entry;
pub use build::DictBuilder;
pub use bytes::{ByteDict, BytePair, BytePairs};
pub use error::{InsertError, SetError};
pub use refs::ByteRef;
pub use typed::Dict;
pub use views::Iter;
pub use watch::Watch;

// What a set and a namespace are made of.
pub(super) use self::core::{Change, Core, Rule};
pub(super) use kind::DICT;
pub(super) use whole::Part;
