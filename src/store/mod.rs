//! Stores: data in borrowed memory that many read without locks and change under one, and that a death at any instruction
//! leaves whole.
//!
//! A store knows words, lanes and hazards, but not where they live: so loom, the fuzzers and a segment run the same code.

mod change;
mod collect;
mod entry;
mod heap;
mod memory;
mod table;

pub use change::{Changing, Hash, Spot};
pub use entry::{Draft, Entry, MARKED, MAX_KEY, MAX_VALUE};
pub use heap::{Heap, HeapBlock, MAX_BLOCK};
pub use memory::{HAZARDS, LOOKING, Memory, Piece, READING};
pub use table::{Shard, ShardBlock};
