//! The one error of everything that is set up: segments, objects, processes.
//!
//! Hot operations (`put`, `get`, `lock`, `join`) have small enums of their own that hand the value back; whatever goes
//! wrong underneath them arrives there as an [`Error`].

use std::fmt;
use std::io;

/// What kind of thing went wrong, for a program to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The segment has no room left for what was asked. It works again when something in it is dropped.
    OutOfSpace,
    /// All process rows of the segment are taken, or the system lets this user start no more processes.
    TooManyProcesses,
    /// This process, or the system, may open no more files.
    TooManyFiles,
    /// All lanes of the segment are taken: too many threads use it at once.
    TooManyThreads,
    /// All directory entries of the segment are taken.
    TooManyObjects,
    /// The thread holds as many values in place as it can.
    TooManyRefs,
    /// The bytes are not a kinfolk segment.
    NotASegment,
    /// The segment was made by a version of this library with another format.
    VersionMismatch,
    /// The segment was made by a build of this library with another layout.
    LayoutMismatch,
    /// The file is shorter or longer than its header says.
    SizeMismatch,
    /// The memory file can still be resized, so that reading it could kill the reader.
    NotSealed,
    /// The object holds another type than the one it was opened as.
    TypeMismatch,
    /// The object was dropped by everybody who had it.
    Gone,
    /// What was to be there is not: nothing has this name, or this key.
    NotFound,
    /// Something has this name already.
    AlreadyExists,
    /// It belongs to another user, or others may use it, who are not trusted with it.
    PermissionDenied,
    /// A word in the segment has a value that no correct process writes.
    Corrupt,
    /// A process that lives but does not run (stopped, or starved) keeps what is needed.
    Stalled,
    /// A value could not be turned into bytes, or bytes into a value.
    Codec,
    /// The function given to a child is not one that the child can find.
    ForeignFunction,
    /// An argument is out of its range.
    InvalidInput,
    /// This system lacks something that the library needs.
    Unsupported,
    /// The operating system refused.
    Os,
}

/// Why something could not be set up: what was being done, what was found, what was wanted.
///
/// ```
/// let error = kinfolk::Segment::anonymous(1).unwrap_err();
/// assert_eq!(error.kind(), kinfolk::ErrorKind::InvalidInput);
/// assert!(error.to_string().starts_with("create segment: size 1 B"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    doing: String,
    message: String,
    source: Option<io::Error>,
}

impl Error {
    /// An error of `kind` while `doing` something, with what was found and wanted.
    pub(crate) fn new(kind: ErrorKind, doing: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, doing: doing.into(), message: message.into(), source: None }))
    }

    /// The operating system refused while `doing` something.
    pub(crate) fn os(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.raw_os_error() {
            Some(libc_code::ENOSPC | libc_code::ENOMEM | libc_code::EFBIG) => ErrorKind::OutOfSpace,
            Some(libc_code::ENFILE | libc_code::EMFILE) => ErrorKind::TooManyFiles,
            Some(libc_code::ENOSYS | libc_code::EOPNOTSUPP) => ErrorKind::Unsupported,
            _ => ErrorKind::Os,
        };
        Self::os_as(kind, doing, source)
    }

    /// The operating system refused while `doing` something, for a reason that has a kind.
    pub(crate) fn os_as(kind: ErrorKind, doing: impl Into<String>, source: io::Error) -> Self {
        Self(Box::new(Inner { kind, doing: doing.into(), message: source.to_string(), source: Some(source) }))
    }

    /// A word of the segment is not what a correct process writes.
    pub(crate) fn corrupt(object: &str, field: &str, found: impl fmt::Display, wanted: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Corrupt, format!("read {object}"), format!("{field} is {found}, expected {wanted}"))
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

/// The few `errno` values that have a kind of their own (the same numbers on every Linux).
mod libc_code {
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const EFBIG: i32 = 27;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const ENOSPC: i32 = 28;
    pub(super) const ENOSYS: i32 = 38;
    pub(super) const EOPNOTSUPP: i32 = 95;
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.doing, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}
