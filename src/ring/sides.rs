//! What a ring is made for: how many producers and consumers it has at a time, and of what size its records are.
//!
//! These are types without values, so that what a ring does not need is not compiled into it:
//!
//! | | has | does without |
//! |---|---|---|
//! | [`Many`] producers | `claim[]`, a CAS for each record, `tail` moved by anybody | |
//! | [`One`] producer | the word `reserved` | `claim[]`; `tail` is a plain store |
//! | [`Many`] consumers | `take[]`, a CAS for each record, `rcur` and `head` moved by anybody | |
//! | [`One`] consumer | | `take[]`; `rcur` and `head` are plain stores |
//! | [`Records`] | records of any extent, `ready[]` an array of its own | |
//! | [`Slots`] | one granule a record, whose first word is its `ready` | padding, the second cache line |

/// How many lanes may be on one side of a ring at a time: [`One`] or [`Many`].
pub trait Side: Copy + Send + Sync + 'static {
    /// Whether more than one.
    const MANY: bool;
}

/// The size of records: [`Records`] or [`Slots`].
pub trait Form: Copy + Send + Sync + 'static {
    /// Whether each is one granule that begins with its word of `ready`.
    const SLOTS: bool;
}

/// Any number of lanes.
#[derive(Debug, Clone, Copy)]
pub enum Many {}

/// One lane at a time, by [`Ring::enter_producer`](super::Ring::enter_producer) or
/// [`Ring::enter_consumer`](super::Ring::enter_consumer).
#[derive(Debug, Clone, Copy)]
pub enum One {}

/// Records of one or more granules in a row.
#[derive(Debug, Clone, Copy)]
pub enum Records {}

/// Records of one granule each.
#[derive(Debug, Clone, Copy)]
pub enum Slots {}

impl Side for Many {
    const MANY: bool = true;
}

impl Side for One {
    const MANY: bool = false;
}

impl Form for Records {
    const SLOTS: bool = false;
}

impl Form for Slots {
    const SLOTS: bool = true;
}
