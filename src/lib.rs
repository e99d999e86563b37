//! Multiprocessing over shared memory.
#![warn(missing_docs)]

mod sys;
pub mod ring;
