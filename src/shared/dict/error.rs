//! Why a change was not made, with what was to be put in.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// A value that was not put in, and why. Nothing has changed.
///
/// With `?` it becomes the [`Error`], and the value is dropped.
pub struct SetError<T> {
    value: T,
    error: Error,
}

impl<T> SetError<T> {
    pub(in crate::shared) fn new(value: T, error: Error) -> Self {
        Self { value, error }
    }

    /// The value.
    pub fn into_value(self) -> T {
        self.value
    }

    /// Why.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// What kind of reason it is.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }
}

impl<T> From<SetError<T>> for Error {
    fn from(error: SetError<T>) -> Self {
        error.error
    }
}

impl<T> fmt::Display for SetError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> fmt::Debug for SetError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetError({:?})", self.error)
    }
}

impl<T> std::error::Error for SetError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why [`Dict::try_insert`](super::Dict::try_insert) did not: with the key and the value.
pub enum InsertError<K, V> {
    /// The key has a value.
    Occupied(K, V),
    /// It could not be put in.
    Failed(SetError<(K, V)>),
}

impl<K, V> InsertError<K, V> {
    /// The key and the value.
    pub fn into_pair(self) -> (K, V) {
        match self {
            Self::Occupied(key, value) => (key, value),
            Self::Failed(error) => error.into_value(),
        }
    }
}

impl<K, V> fmt::Display for InsertError<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Occupied(..) => f.write_str("insert: the key has a value"),
            Self::Failed(error) => write!(f, "insert: {error}"),
        }
    }
}

impl<K, V> fmt::Debug for InsertError<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InsertError({self})")
    }
}

impl<K, V> std::error::Error for InsertError<K, V> {}
