//! What a store stands on: words and bytes of shared memory, runs of it, and the hazards of those who read.

use crate::error::Error;
use crate::sync::{Lane, Peers};
use crate::sys::atomic::AtomicU64;

/// Words of each lane in which a reader names what must not be reused.
pub const HAZARDS: usize = 8;

/// Hazard word for the piece that is being read.
pub const READING: usize = 0;
/// Hazard word for the directory in which it was found.
pub const LOOKING: usize = 1;

/// A run of memory apart from a heap's own: its name, by which it is found and given back, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Tells the run and this use of it; never 0.
    pub name: u64,
    /// Where it begins, a multiple of 8.
    pub at: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Shared memory as a store sees it: places are numbers of bytes from its beginning, and never 0.
///
/// A place may come from shared memory itself, so it can be any number: whoever asks for one that is not there gets an
/// error, and whoever asks for a wrong one gets wrong bytes.
pub trait Memory: Peers {
    /// The word at `at`.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    fn word(&self, at: u64) -> Result<&AtomicU64, Error>;

    /// The `N` words from `at` on.
    ///
    /// # Errors
    /// `Corrupt` if they are not there.
    fn words<const N: usize>(&self, at: u64) -> Result<&[AtomicU64; N], Error>;

    /// Copies `bytes` to `at`, a multiple of 8.
    ///
    /// # Errors
    /// `Corrupt` if it has no room there.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Appends the `len` bytes at `at`, a multiple of 8.
    ///
    /// # Errors
    /// `Corrupt` if they are not there.
    fn read(&self, at: u64, len: u64, to: &mut Vec<u8>) -> Result<(), Error>;

    /// Whether the bytes at `at`, a multiple of 8, are these.
    ///
    /// # Errors
    /// `Corrupt` if there are not so many.
    fn equals(&self, at: u64, bytes: &[u8]) -> Result<bool, Error>;

    /// Takes a run of at least `bytes` bytes. Until [`keep_run`](Self::keep_run) it goes with the caller's death, unless the
    /// store names it.
    ///
    /// # Errors
    /// `OutOfSpace`.
    fn take_run(&self, lane: Lane, bytes: u64) -> Result<Piece, Error>;

    /// The run of that name, if there is one.
    fn find_run(&self, name: u64) -> Option<Piece>;

    /// The store names the run: whoever's it was, it stays.
    fn keep_run(&self, name: u64);

    /// Gives a run back, if there still is one of that name.
    fn give_run(&self, name: u64);

    /// The hazard words of a lane.
    fn hazards(&self, lane: Lane) -> &[AtomicU64; HAZARDS];

    /// Every hazard word that may be in use.
    fn for_each_hazard(&self, f: &mut dyn FnMut(u64));

    /// The heavy half of the fence between [`LOOKING`] and what was looked for.
    fn heavy_fence(&self);
}
