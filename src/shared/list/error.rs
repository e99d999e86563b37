//! Why an element was not had, or not put in.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Why an element of a list was not had, or not put in: then the value comes back, as `V`.
#[non_exhaustive]
pub enum ListError<V = ()> {
    /// The list has no such element. Python: `IndexError`.
    #[non_exhaustive]
    Index {
        /// What was asked for; negative from the end.
        index: isize,
        /// How many elements there were.
        len: usize,
        /// What was to be put there.
        value: V,
    },
    /// The value is none that can be put there or read, the segment is full, or a process keeps it that does not run.
    Failed(V, Error),
}

impl<V> ListError<V> {
    /// The value that was not put in.
    pub fn into_value(self) -> V {
        match self {
            Self::Index { value, .. } | Self::Failed(value, _) => value,
        }
    }

    /// The error underneath, if it is not about the index.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Index { .. } => None,
            Self::Failed(_, e) => Some(e),
        }
    }
}

impl<V> ListError<V> {
    /// What kind of reason it is: [`NotFound`](ErrorKind::NotFound) if there is no such element.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Index { .. } => ErrorKind::NotFound,
            Self::Failed(_, e) => e.kind(),
        }
    }
}

/// The value is dropped.
impl<V> From<ListError<V>> for Error {
    fn from(e: ListError<V>) -> Self {
        match e {
            ListError::Index { index, len, .. } => {
                Error::new(ErrorKind::NotFound, "list", format!("index {index} of {len} elements"))
            }
            ListError::Failed(_, e) => e,
        }
    }
}

impl From<Error> for ListError {
    fn from(e: Error) -> Self {
        Self::Failed((), e)
    }
}

impl<V> fmt::Display for ListError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index { index, len, .. } => write!(f, "list: index {index} of {len} elements"),
            Self::Failed(_, e) => write!(f, "list: {e}"),
        }
    }
}

impl<V> fmt::Debug for ListError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListError({self})")
    }
}

impl<V> std::error::Error for ListError<V> {}
