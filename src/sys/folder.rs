//! A directory that is one user's alone, and files in it that have their names only when they are whole.
//!
//! A file is made without a name (`O_TMPFILE`) and gets one by linkat(2), which fails if somebody else has the name. So a
//! name is there with all that belongs to it or not at all, whoever is killed. A file is looked at through a descriptor that
//! can do nothing else (`O_PATH`), and opened through that: what was checked is what is opened.
//!
//! Source: open(2) `O_TMPFILE` and `O_PATH`, linkat(2), proc_pid_fd(5).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::memfd;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Why a directory or a file is not used.
#[derive(Debug)]
pub enum Refused {
    /// Others may use it, or it is somebody else's: what was found and wanted.
    NotPrivate(String),
    /// It is something else: what.
    OtherKind(&'static str),
    /// The system refused.
    Os(io::Error),
}

impl From<Errno> for Refused {
    fn from(e: Errno) -> Self {
        Self::Os(e.into())
    }
}

impl From<io::Error> for Refused {
    fn from(e: io::Error) -> Self {
        Self::Os(e)
    }
}

/// The user whom this process acts for.
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A directory that only its owner, this process's user, may use.
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens the directory at `path`; makes it first, if `make` and there is none. `None` if there is none.
    pub fn open(path: &Path, make: bool) -> Result<Option<Self>, Refused> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::open(path, flags, Mode::empty());
        let mut opened = open();
        if make && matches!(opened, Err(Errno::NOENT)) {
            match rustix::fs::mkdir(path, Mode::from_raw_mode(FOLDER_MODE)) {
                Ok(()) | Err(Errno::EXIST) => opened = open(),
                Err(e) => return Err(e.into()),
            }
        }
        let folder = match opened {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Refused::OtherKind("no directory, or a symbolic link to one"));
            }
            Err(Errno::ACCESS | Errno::PERM) => return Err(Refused::NotPrivate("this user may not open it".into())),
            Err(e) => return Err(e.into()),
        };
        check_private(folder.as_fd(), FOLDER_MODE)?;
        Ok(Some(Self(folder)))
    }

    /// Makes a sparse file of `bytes` that has no name, to be [`link`](Self::link)ed.
    pub fn make(&self, bytes: u64) -> io::Result<OwnedFd> {
        let (flags, mode) = (OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::from_raw_mode(FILE_MODE));
        let file = rustix::fs::openat(&self.0, ".", flags, mode)?;
        // Whatever the process's umask took away.
        rustix::fs::fchmod(&file, mode)?;
        rustix::fs::ftruncate(&file, bytes)?;
        Ok(file)
    }

    /// Gives the file its name; false if the name is taken.
    pub fn link(&self, file: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, path, &self.0, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the file with this name for reading and writing; `None` if there is none.
    pub fn file(&self, name: &str) -> Result<Option<OwnedFd>, Refused> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        check_file(found.as_fd())?;
        Ok(Some(memfd::reopen(found.as_fd())?))
    }

    /// Takes the name away; false if there is none. Who has the file open keeps it.
    pub fn unlink(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The names of the regular files, as far as they are UTF-8, in order.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            if matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
                names.extend(entry.file_name().to_str().ok().map(str::to_owned));
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Checks that it is a regular file that only its owner, this process's user, may use.
pub fn check_file(file: BorrowedFd<'_>) -> Result<(), Refused> {
    match FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) {
        FileType::RegularFile => check_private(file, FILE_MODE),
        FileType::Symlink => Err(Refused::OtherKind("a symbolic link")),
        FileType::Directory => Err(Refused::OtherKind("a directory")),
        _ => Err(Refused::OtherKind("no regular file")),
    }
}

/// Checks that it is this user's, and that its permissions are these.
fn check_private(fd: BorrowedFd<'_>, wanted: u32) -> Result<(), Refused> {
    let stat = rustix::fs::fstat(fd)?;
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o7777);
    if (owner, mode) == (user(), wanted) {
        return Ok(());
    }
    let me = user();
    Err(Refused::NotPrivate(format!(
        "user {owner}'s with mode {mode:03o}, expected user {me}'s with mode {wanted:03o}"
    )))
}

/// Whether both descriptors are of the same file.
pub fn is_same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let [a, b] = [rustix::fs::fstat(a)?, rustix::fs::fstat(b)?];
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}
