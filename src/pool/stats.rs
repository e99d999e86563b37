//! What a pool has done.

/// What became of a pool's tasks since it was made, a chunk of items counting as one.
///
/// `submitted = done + failed + cancelled` when none is under way, whatever died in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Tasks that were taken in.
    pub submitted: u64,
    /// Tasks whose function returned.
    pub done: u64,
    /// Tasks with an error: panics, deaths, time-outs, results that could not be sent.
    pub failed: u64,
    /// Tasks that were cancelled before they had begun.
    pub cancelled: u64,
    /// How often a task was begun again after its worker had died.
    pub retried: u64,
    /// Workers that ended otherwise than the pool wanted.
    pub deaths: u64,
}
