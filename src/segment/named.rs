//! Segments with names, for programs that are no family.
//!
//! Such a segment is a file of mode 0600 in `/dev/shm/kinfolk-<uid>/`, a directory of mode 0700 that is made when it is
//! needed; the environment variable `KINFOLK_SHM_DIR` may name another directory. The file is built whole before it gets its
//! name (`sys/folder.rs`), so whoever is killed while making one leaves nothing, and of several that make the same one
//! exactly one succeeds.
//!
//! # Trust
//! A file with a name cannot be sealed. What keeps it from being resized under its users is that nobody but they can open
//! it: directory and file must be this user's and nobody else's to use, or they are refused. A process of the same user that
//! truncates the file kills those who have it mapped (SIGBUS), as it could by a signal.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::family::SegmentBuilder;
use super::{Segment, process_name};
use crate::error::{Error, ErrorKind};
use crate::sys::folder::{self, Folder, Refused, is_same_file};

/// The environment variable that names the directory.
const VARIABLE: &str = "KINFOLK_SHM_DIR";
/// The longest name, in bytes.
const LONGEST: usize = 200;
/// How often one that is there when it is to be made, and gone when it is to be opened, is tried again.
const TRIES: u32 = 1000;

/// Held while a segment is attached by a name or for a handle, so that it is attached once.
pub(super) static ATTACHING: Mutex<()> = Mutex::new(());

fn path() -> PathBuf {
    std::env::var_os(VARIABLE)
        .filter(|path| !path.is_empty())
        .map_or_else(|| format!("/dev/shm/kinfolk-{}", folder::user()).into(), PathBuf::from)
}

/// Checks a name before anything is done with it. `doing` is what was to be done.
fn check(doing: &str, name: &str) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidInput, format!("{doing} segment {name:?}"), why));
    if name.is_empty() {
        return refuse("a name has at least one byte");
    }
    if name.len() > LONGEST {
        return refuse(&format!("the name has {} bytes, expected at most {LONGEST}", name.len()));
    }
    if name.contains(['/', '\0']) || name == "." || name == ".." {
        return refuse("a name has no '/' and no NUL, and is not \".\" or \"..\"");
    }
    Ok(())
}

fn refused(doing: &str, refused: Refused) -> Error {
    match refused {
        Refused::NotPrivate(message) => Error::new(ErrorKind::PermissionDenied, doing, message),
        Refused::OtherKind(what) => Error::new(ErrorKind::NotASegment, doing, format!("it is {what}")),
        Refused::Os(e) => Error::os(doing, e),
    }
}

fn directory(make: bool) -> Result<Option<Folder>, Error> {
    let path = path();
    Folder::open(&path, make).map_err(|e| refused(&format!("open directory {}", path.display()), e))
}

fn not_found(doing: &str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{doing} segment {name:?}"), "there is none of this name")
}

/// Checks that a file that was found under no name may have had one in the directory.
pub(super) fn check_file(file: impl AsFd) -> Result<(), Error> {
    folder::check_file(file.as_fd()).map_err(|e| refused("attach segment", e))
}

impl SegmentBuilder {
    /// Makes the segment under a name, by which other programs of the same user [`open`](Segment::open) it.
    ///
    /// The name is there when the segment is whole, and only then, whoever is killed. It stays, with all memory of the
    /// segment, until it is [`unlink`](Segment::unlink)ed or the system restarts.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]; [`InvalidInput`](ErrorKind::InvalidInput) for a name that is empty, longer than 200
    /// bytes, `.` or `..`, or has a `/` or a NUL in it; [`PermissionDenied`](ErrorKind::PermissionDenied) if the directory is
    /// not this user's alone; else as [`anonymous`](Self::anonymous).
    pub fn create(self, name: &str) -> Result<Segment, Error> {
        check("create", name)?;
        let doing = format!("create segment {name:?}");
        let os = |e| Error::os(doing.as_str(), e);
        let geometry = self.geometry()?;
        let folder = directory(true)?.ok_or_else(|| not_found("create", name))?;
        let file = folder.make(geometry.size).map_err(os)?;
        Segment::format(file.as_fd(), geometry)?;
        if !folder.link(file.as_fd(), name).map_err(os)? {
            return Err(Error::new(ErrorKind::AlreadyExists, doing, "there is one of this name"));
        }
        Segment::attach(file, Some(name.to_owned()), |inner| inner.register(process_name()))
    }

    /// Opens the segment of this name, whatever its size, or makes it. Of several that do so at once one makes it, and all
    /// have the same.
    ///
    /// # Errors
    /// As [`create`](Self::create), but for `AlreadyExists`, and as [`Segment::open`], but for `NotFound`.
    pub fn open_or_create(self, name: &str) -> Result<Segment, Error> {
        for _ in 0..TRIES {
            match Segment::open(name) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                opened => return opened,
            }
            match self.clone().create(name) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
        let message = "it comes and goes all the time";
        Err(Error::new(ErrorKind::Stalled, format!("open or create segment {name:?}"), message))
    }
}

impl Segment {
    /// Makes a segment of `size` bytes with a name, by which other programs of the same user find it. See
    /// [`SegmentBuilder::create`].
    ///
    /// Who asks for it by name has to be of the same build of this library; else it is refused.
    ///
    /// # Errors
    /// As [`SegmentBuilder::create`].
    ///
    /// Python: `SharedMemory(name, create=True, size=n)`. No process owns it: it stays when its maker has ended.
    ///
    /// ```
    /// use kinfolk::{ErrorKind, Mutex, Segment};
    ///
    /// # let name = &format!("doc-{}", std::process::id());
    /// let segment = Segment::create(name, 4 << 20)?;
    /// assert_eq!(Segment::create(name, 4 << 20).unwrap_err().kind(), ErrorKind::AlreadyExists);
    /// assert!(Segment::names()?.contains(name));
    /// Segment::unlink(name)?;
    /// assert_eq!(Segment::open(name).unwrap_err().kind(), ErrorKind::NotFound);
    /// // Who has it keeps it.
    /// let lock = Mutex::new_in(&segment, 5u64)?;
    /// # Ok::<(), kinfolk::Error>(())
    /// ```
    #[doc(alias = "SharedMemory")]
    pub fn create(name: &str, size: u64) -> Result<Self, Error> {
        Self::builder().size(size).create(name)
    }

    /// Opens the segment of this name. In a process that has it attached already this is another handle of that.
    ///
    /// Processes that died with it are recovered first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`InvalidInput`](ErrorKind::InvalidInput) for what cannot be a name;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if the file or its directory is not this user's alone;
    /// [`NotASegment`](ErrorKind::NotASegment) for a symbolic link, a directory or other contents; else as
    /// [`from_fd`](Self::from_fd), but that it is not sealed.
    ///
    /// Python: `SharedMemory(name)`.
    pub fn open(name: &str) -> Result<Self, Error> {
        check("open", name)?;
        let file = match directory(false)? {
            Some(folder) => folder.file(name).map_err(|e| refused(&format!("open segment {name:?}"), e))?,
            None => None,
        };
        let file = file.ok_or_else(|| not_found("open", name))?;
        let _one_at_a_time = ATTACHING.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |other: &Self| is_same_file(other.as_fd(), file.as_fd()).unwrap_or(false);
        if let Some(attached) = Self::all_attached().into_iter().find(is_it) {
            return Ok(attached);
        }
        let segment = Self::attach(file, Some(name.to_owned()), |inner| inner.register(process_name()))?;
        segment.sweep();
        Ok(segment)
    }

    /// Opens the segment of this name, or makes one of `size` bytes; one that is there keeps its size. See
    /// [`SegmentBuilder::open_or_create`].
    ///
    /// # Errors
    /// As [`SegmentBuilder::open_or_create`].
    pub fn open_or_create(name: &str, size: u64) -> Result<Self, Error> {
        Self::builder().size(size).open_or_create(name)
    }

    /// Takes the name of a segment away. Who has it attached keeps it; the last of them to go frees its memory. Then the
    /// name can be used for another.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none, so also the second time; [`InvalidInput`](ErrorKind::InvalidInput),
    /// [`PermissionDenied`](ErrorKind::PermissionDenied). Python: `unlink()`.
    pub fn unlink(name: &str) -> Result<(), Error> {
        check("unlink", name)?;
        let gone = match directory(false)? {
            Some(folder) => folder.unlink(name).map_err(|e| Error::os(format!("unlink segment {name:?}"), e))?,
            None => false,
        };
        if gone { Ok(()) } else { Err(not_found("unlink", name)) }
    }

    /// The names of this user's segments at this moment, in order. Files that are none are among them, if somebody put such
    /// into the directory.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if the directory is not this user's alone, or what the system says.
    pub fn names() -> Result<Vec<String>, Error> {
        match directory(false)? {
            Some(folder) => folder.names().map_err(|e| Error::os("list segments", e)),
            None => Ok(Vec::new()),
        }
    }

    /// What it was made or opened by, also when the name was taken away since; `None` for an anonymous one.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_name_is_refused_by_its_name() {
        for name in ["", ".", "..", "a/b", "/", "a\0b", &"x".repeat(201)] {
            let error = check("open", name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
            assert!(error.to_string().starts_with(&format!("open segment {name:?}: ")), "{error}");
        }
        for name in ["a", "a:b", "a\nb", "...", " ", "ü€", &"x".repeat(200)] {
            check("open", name).unwrap();
        }
    }
}
