//! Why something that several processes share was not had.

use std::fmt;

use crate::error::Error;
use crate::segment::Holder;

/// Why a permit was not got, or a call not made.
#[derive(Debug)]
#[non_exhaustive]
pub enum WaitError {
    /// It would have had to wait.
    WouldBlock,
    /// It had to wait until the time-out, for the process that is named, if one is known.
    Timeout(Option<Holder>),
    /// The segment failed: no lane for this thread.
    Failed(Error),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => write!(f, "wait: others have it"),
            Self::Timeout(Some(holder)) => write!(f, "wait: {holder} had it until the time-out"),
            Self::Timeout(None) => write!(f, "wait: nothing came until the time-out"),
            Self::Failed(e) => write!(f, "wait: {e}"),
        }
    }
}

impl std::error::Error for WaitError {}
