//! Stores: data in borrowed memory that many read without locks and change under one, and that a death at any instruction
//! leaves whole.
//!
//! A store knows words, lanes and hazards, but not where they live: so loom, the fuzzers and a segment run the same code.

mod change;
mod check;
mod collect;
mod entry;
mod heap;
mod memory;
#[cfg(test)]
mod models;
mod sequence;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial;

pub use change::Changing;
pub use entry::{Draft, Entry};
pub use heap::HeapBlock;
pub use memory::{HAZARDS, Memory, Piece};
#[cfg(test)]
pub use sequence::SequenceBlock;
pub use sequence::{Editing, Element, ElementDraft, Identity, ListBlock, MAX_ELEMENTS, Sequence};
pub use table::{CellBlock, DictBlock, Shard, ShardBlock};
