//! Who owns a claim: lanes, and what a waiter may ask about the owner that blocks it.

/// A thread's number in a segment, 1 to 1022. 0 is [`NOBODY`]; 1023 belongs to no thread and holds what orphans left.
pub type Lane = u16;

/// The lane in a word that nobody has claimed.
pub const NOBODY: Lane = 0;

/// The lane that no thread has.
pub const ORPHAN: Lane = 1023;

/// Bits of a lane in a shared word.
pub const LANE_BITS: u32 = 10;

/// Mask of a lane in a shared word.
pub const LANE_MASK: u32 = (1 << LANE_BITS) - 1;

/// Tells the lanes of one process that is proven dead.
pub type IsDead<'a> = &'a dyn Fn(Lane) -> bool;

/// What a blocking primitive needs to know of the other users of its memory.
pub trait Peers {
    /// Asks the kernel whether the process of `lane` is dead and, if so, recovers everything that it held. True if
    /// something was recovered, so that the caller looks again at once.
    ///
    /// The caller never acts on the lane itself: between the proof and its store the lane could have been given to
    /// somebody alive.
    fn bury(&self, lane: Lane) -> bool;

    /// Whether there is such a lane at all. A word that names another one was never written by a claim, and nobody can
    /// come to have it: so it may be turned into a neutral word by anybody, at any time.
    fn is_lane(&self, lane: Lane) -> bool;

    /// CPU on which the thread of `lane` ran when it last waited: a hint.
    fn cpu_of(&self, lane: Lane) -> Option<u32>;

    /// Whether committers go without a fence, so that a sleeper needs the heavy barrier for both.
    fn asymmetric(&self) -> bool;
}
