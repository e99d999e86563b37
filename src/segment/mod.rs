//! One mapped region of memory and what lives in it: processes, threads, objects, and their recovery.
//!
//! `FORMAT.md` beside this file describes the bytes.

mod accounts;
mod arena;
mod bare;
mod brief;
mod carrier;
mod directory;
mod doorbell;
mod ends;
mod family;
#[cfg(test)]
mod format_test;
mod header;
mod idle;
mod inspect;
mod layout;
mod named;
mod object;
mod office;
mod passing;
mod peers;
mod pinned;
mod process_lane;
mod reactor;
mod recover;
mod root;
mod shm;
mod storage;
mod waitable;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32 as Private, Ordering as PrivateOrdering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

pub use accounts::{KindUse, ProcessUse};
#[doc(hidden)]
pub use arena::Run;
#[doc(hidden)]
pub use bare::Arena;
pub use directory::ObjectId;
pub use doorbell::Doorbell;
pub(crate) use ends::{PinnedEntry, PinnedRecords, PinnedSlots};
pub use family::SegmentBuilder;
pub use inspect::{Inspection, Stats};
pub(crate) use layout::PAGE;
pub(crate) use object::{Object, View, type_hash};
#[cfg(test)]
pub(crate) use office::kept;
pub(crate) use office::{OfficeTicket, fetch, keep_descriptor};
pub(crate) use passing::{
    Arrived, Passed, TICKET, into_kept, into_message, into_nothing, into_text, refuse, take_refusal, with_recipient,
};
pub use peers::Holder;
pub(crate) use peers::{ReservedRow, RowState};
pub(crate) use pinned::{Pinned, PinnedBytes, PinnedRing};
pub(crate) use reactor::{Listener, Taking};
pub use recover::{Death, Losses};
pub(crate) use recover::{KINDS, Kind, NameHandle};
pub(crate) use root::TypeTag;
pub use shm::ShmSlice;
#[allow(unused_imports, reason = "the containers come on top")]
pub(crate) use storage::{Storage, page_of};
pub use waitable::Waitable;
pub(crate) use waitable::{Source, Waited, Watched, sealed};

use crate::error::{Error, ErrorKind};
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::liveness::{self, PinnedLock};
use crate::sys::mapping::{ForkWord, Mapping};
use crate::sys::{membarrier, memfd};
pub(crate) use layout::Block;
use layout::{Geometry, HEADER_BYTES, HeaderBlock, MAX_ROWS};
use object::OpenedTable;

/// A region of memory that several processes have mapped. Clones are handles of the same attachment.
///
/// Most programs never name one: every family of processes has a segment of its own ([`Segment::family`]), made at first
/// use. It is a memory file without a name, so the kernel frees it with the last process that has it, however that ends. A
/// segment with a name ([`create`](Self::create), [`open`](Self::open)) is for programs that are no family; it stays until
/// it is unlinked.
///
/// A segment is itself a value: in a message or in a child's arguments it goes to another process, which then has it
/// attached; so does a handle of anything in it.
///
/// Python: `multiprocessing.shared_memory.SharedMemory`, with everything that `Manager` keeps in a server.
#[derive(Clone)]
pub struct Segment(Arc<Inner>);

/// One attachment of one process.
pub(crate) struct Inner {
    this: Weak<Inner>,
    map: Mapping,
    fd: OwnedFd,
    geometry: Geometry,
    id: u128,
    /// What it was made or opened by.
    name: Option<String>,
    asymmetric: bool,
    /// As far as this process has noticed.
    memory_end: std::sync::atomic::AtomicU64,
    row: Private,
    process_lane: process_lane::ProcessLane,
    pinned: Mutex<Option<PinnedLock>>,
    fork_word: ForkWord,
    opened: Mutex<OpenedTable>,
}

/// Segments that this process has attached, so that a handle in a message finds its own.
static ATTACHED: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// The name under which this process registers.
static PROCESS_NAME: OnceLock<String> = OnceLock::new();

impl Inner {
    /// The block at `offset` of the segment.
    ///
    /// # Panics
    /// If it does not lie inside, aligned: offsets come from the validated geometry.
    #[inline]
    pub(crate) fn block<T: Block>(&self, offset: usize) -> &T {
        &self.blocks(offset, 1)[0]
    }

    #[inline]
    pub(crate) fn blocks<T: Block>(&self, offset: usize, count: usize) -> &[T] {
        let end = size_of::<T>().checked_mul(count).and_then(|bytes| offset.checked_add(bytes));
        assert!(
            end.is_some_and(|end| end <= self.map.len()) && offset % align_of::<T>() == 0,
            "block beyond the segment"
        );
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned (the base is page-aligned and no block
        // asks for more); a Block is made of atomics, so any bytes and any concurrent change are fine.
        unsafe { std::slice::from_raw_parts(self.map.base().add(offset).cast::<T>(), count) }
    }

    /// `bytes` bytes from `offset`.
    ///
    /// # Panics
    /// If they do not lie inside.
    #[inline]
    pub(crate) fn slice(&self, offset: usize, bytes: usize) -> ShmSlice<'_> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.map.len());
        assert!(inside, "slice beyond the segment");
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { ShmSlice::new(self.map.base().add(offset), bytes) }
    }

    /// The memory of a run.
    pub(crate) fn run_slice(&self, run: Run) -> ShmSlice<'_> {
        self.slice(self.geometry.page_at(run.page), run.bytes())
    }

    #[inline]
    pub(crate) fn header(&self) -> &HeaderBlock {
        self.block(0)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The number that names the segment.
    pub(crate) fn id(&self) -> u128 {
        self.id
    }

    /// This process's row.
    #[inline]
    pub(crate) fn row(&self) -> u32 {
        self.row.load(PrivateOrdering::Relaxed)
    }

    fn opened(&self) -> MutexGuard<'_, OpenedTable> {
        self.opened.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nothing of this attachment is in use any more (every handle holds it), so leaving is giving back the lanes,
        // then the row, then the lock.
        if self.epoch() == 0 {
            // In a forked child, which never used it: the lock's page was not copied, and its address may be another's.
            let pinned = self.pinned.get_mut().unwrap_or_else(|e| e.into_inner());
            std::mem::forget(pinned.take());
            return;
        }
        let (row, state) = (self.row(), self.row_state(self.row()));
        let free_lanes = || {
            for lane in self.lanes_of(row, state.generation()) {
                self.lane_block(lane).owner.store(0, crate::sys::atomic::Ordering::Release);
            }
        };
        let is_open = |index| (0..2).any(|role| self.has_bit(index, role, row));
        if (0..self.object_count()).any(is_open) {
            // Guards were leaked (`give_up`), or handles for us were never decoded: we leave as one that dies.
            self.announce_leaving();
            drop(self.pinned.lock().unwrap_or_else(|e| e.into_inner()).take());
            self.recover_row(row);
            // What this thread may have claimed for that.
            free_lanes();
            return;
        }
        free_lanes();
        self.free_row(row, state.generation());
    }
}

impl Segment {
    /// The segment of this process family: made at first use, handed to every child before its function runs.
    ///
    /// Its size is 1 GiB, sparse, unless [`SegmentBuilder::make_family`] or the environment variable
    /// `KINFOLK_SEGMENT_BYTES` (bytes, or with a suffix `K`, `M`, `G`) said otherwise before.
    ///
    /// # Errors
    /// What [`SegmentBuilder::anonymous`] gives, at the first call only.
    pub fn family() -> Result<Self, Error> {
        family::get()
    }

    /// Makes an anonymous segment of `size` bytes. Its memory is committed as it is used.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if it is too small for its own tables or larger than 64 GiB.
    pub fn anonymous(size: u64) -> Result<Self, Error> {
        Self::builder().size(size).anonymous()
    }

    /// Sizes and limits other than the defaults.
    pub fn builder() -> SegmentBuilder {
        SegmentBuilder::default()
    }

    /// Attaches to the segment in a memory file, which came from another process or from [`as_fd`](Self::as_fd).
    ///
    /// Every word of it is checked first; a wrong file is an error and never a crash. The file must be sealed against
    /// shrinking, or reading it could kill this process.
    ///
    /// # Errors
    /// [`ErrorKind::NotASegment`], [`VersionMismatch`](ErrorKind::VersionMismatch),
    /// [`LayoutMismatch`](ErrorKind::LayoutMismatch), [`SizeMismatch`](ErrorKind::SizeMismatch),
    /// [`NotSealed`](ErrorKind::NotSealed), [`Corrupt`](ErrorKind::Corrupt),
    /// [`TooManyProcesses`](ErrorKind::TooManyProcesses), or what the system says.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        Self::attach(fd, None, |inner| inner.register(process_name()))
    }

    /// Attaches to the file of a segment that another process of this user has, with the name that it has there.
    fn from_kept(fd: OwnedFd, name: Option<String>) -> Result<Self, Error> {
        if name.is_some() {
            named::check_file(&fd)?;
        }
        Self::attach(fd, name, |inner| inner.register(process_name()))
    }

    /// Child side of a start: maps the family segment and becomes the row that the parent reserved.
    pub(crate) fn adopt(segment: OwnedFd, lock: OwnedFd, row: u32) -> Result<Self, Error> {
        let segment = Self::attach(segment, None, |inner| inner.adopt_row(row, lock))?;
        let _ = PROCESS_NAME.set(peers::read_name(&segment.0.row_block(row).name));
        family::set(segment.clone())?;
        Ok(segment)
    }

    /// Fork server's side: maps the family segment for those that will be forked, and takes no part in it.
    pub(crate) fn look_on(segment: OwnedFd) -> Result<Self, Error> {
        Self::attach(segment, None, |_| Ok(()))
    }

    /// Opens all that this process has open for the fork of it that will have `row`.
    pub(crate) fn open_all_for(&self, row: u32) {
        self.0.reopen_objects(row);
    }

    /// Keeps other threads from what a fork of this process will need, until the result is dropped, in both.
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        // In this order: some are taken while an earlier one is held.
        let attaching = named::ATTACHING.lock().unwrap_or_else(|e| e.into_inner());
        let (office, family) = (office::hold(), family::hold());
        let attached = ATTACHED.lock().unwrap_or_else(|e| e.into_inner());
        let pinned = self.0.pinned.lock().unwrap_or_else(|e| e.into_inner());
        (attaching, office, family, attached, pinned, self.0.opened())
    }

    /// In a fork of this process: becomes the row that was reserved for it.
    pub(crate) fn adopt_row_after_fork(&self, lock: OwnedFd, row: u32) -> Result<(), Error> {
        self.0.adopt_row_after_fork(row, lock)
    }

    /// Looks at what a process uses first, so that it is in the page table when it is needed.
    pub(crate) fn touch(&self) {
        let _ = (self.0.row_state(0), self.0.lane_holder(1), self.0.standing(0));
    }

    /// In a fork of a process that only [looks on](Self::look_on): becomes the row that was reserved for it.
    pub(crate) fn adopt_row(&self, lock: OwnedFd, row: u32) -> Result<(), Error> {
        self.0.adopt_row(row, lock)?;
        let _ = PROCESS_NAME.set(peers::read_name(&self.0.row_block(row).name));
        family::set(self.clone())
    }

    /// The attached segment with this id.
    pub(crate) fn attached(id: u128) -> Result<Self, Error> {
        let find = || {
            let all = ATTACHED.lock().unwrap_or_else(|e| e.into_inner());
            all.iter().filter_map(Weak::upgrade).find(|inner| inner.id == id).map(Self)
        };
        find().ok_or_else(|| {
            Error::new(ErrorKind::Gone, "open handle", format!("its segment {id:032x} is not attached in this process"))
        })
    }

    fn make_anonymous(geometry: Geometry) -> Result<Self, Error> {
        let fd = memfd::create("kinfolk", geometry.size).map_err(|e| Error::os("create segment", e))?;
        Self::format(fd.as_fd(), geometry)?;
        Self::from_fd(fd)
    }

    /// Makes a segment of an empty file that has the size.
    fn format(fd: BorrowedFd<'_>, geometry: Geometry) -> Result<(), Error> {
        let os = |e| Error::os("create segment", e);
        // Header, rows and lanes; the page map, the directory and the pages follow as they are used.
        memfd::commit(fd, 0, geometry.pagemap_at).map_err(os)?;
        let map = Mapping::new(fd, geometry.size as usize).map_err(os)?;
        if !liveness::self_test(fd, MAX_ROWS).map_err(os)? {
            let message = "this system drops a byte lock that a mapping still holds, so no death could be proven";
            return Err(Error::new(ErrorKind::Unsupported, "create segment", message));
        }
        let flags = if membarrier::register() { header::ASYMMETRIC } else { 0 };
        let id = memfd::random_id().map_err(os)?;
        assert!(map.len() >= HEADER_BYTES, "a segment is larger than its header");
        // SAFETY: inside the mapping (just checked), aligned to a page, and a Block is made of atomics.
        header::write(unsafe { &*map.base().cast::<HeaderBlock>() }, &geometry, id, flags);
        Ok(())
    }

    /// Attaches to the segment in a file: one that is sealed, or that has a name where only this user has names.
    fn attach(
        fd: OwnedFd,
        name: Option<String>,
        register: impl FnOnce(&Inner) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let os = |e| Error::os("open segment", e);
        let refuse = |kind, message: String| Err(Error::new(kind, "open segment", message));
        let size = memfd::size(fd.as_fd()).map_err(os)?;
        if size < HEADER_BYTES as u64 {
            return refuse(ErrorKind::NotASegment, format!("file has {size} B, a header alone has {HEADER_BYTES} B"));
        }
        if name.is_none() && !memfd::is_sealed(fd.as_fd()).map_err(os)? {
            return refuse(ErrorKind::NotSealed, "the file can be resized, expected a sealed memory file".into());
        }
        let Ok(bytes) = usize::try_from(size) else {
            return refuse(ErrorKind::SizeMismatch, format!("file has {size} B, more than can be mapped"));
        };
        let map = Mapping::new(fd.as_fd(), bytes).map_err(os)?;
        // SAFETY: at least HEADER_BYTES are mapped, aligned to a page, and a Block is made of atomics.
        let (geometry, id, flags) = header::check(unsafe { &*map.base().cast::<HeaderBlock>() }, size)?;
        if memfd::size(fd.as_fd()).map_err(os)? != size {
            return refuse(ErrorKind::SizeMismatch, format!("file had {size} B and is being resized"));
        }
        let asymmetric = flags & header::ASYMMETRIC != 0;
        if asymmetric && !membarrier::register() {
            let message = "its users rely on membarrier(2), which this process may not register for".into();
            return refuse(ErrorKind::Unsupported, message);
        }
        let fork_word = ForkWord::new().map_err(os)?;
        let inner = Arc::new_cyclic(|this| Inner {
            this: this.clone(),
            map,
            fd,
            geometry,
            id,
            name,
            asymmetric,
            memory_end: Default::default(),
            row: Private::new(0),
            process_lane: Default::default(),
            pinned: Mutex::new(None),
            fork_word,
            opened: Mutex::default(),
        });
        register(&inner)?;
        let mut all = ATTACHED.lock().unwrap_or_else(|e| e.into_inner());
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&inner));
        Ok(Self(inner))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// This process's own row.
    pub(crate) fn row(&self) -> u32 {
        self.0.row()
    }

    /// How many process rows there are.
    pub(crate) fn rows(&self) -> u32 {
        self.0.geometry.rows
    }

    /// Reserves a process row for a child that is about to be started.
    pub(crate) fn reserve_row(&self, name: &str) -> Result<ReservedRow, Error> {
        self.0.reserve_row(name)
    }

    /// The child of `row` has ended and was reaped: what it held is recovered now, and if it ended by itself it is not
    /// counted as a death.
    pub(crate) fn child_ended(&self, row: u32, pid: u32, by_itself: bool) {
        self.0.child_ended(row, pid, by_itself);
        // What it had of other segments that this process has too.
        for other in Self::all_attached().iter().filter(|other| other.0.id != self.0.id) {
            let rows = (0..other.rows()).filter(|row| other.0.row_block(*row).pid.load(Relaxed) == pid);
            for row in rows.filter(|row| other.0.is_dead(*row)) {
                other.0.recover_row(row);
            }
        }
    }

    /// Says in every segment that this process has, that the process is about to end by itself.
    pub(crate) fn announce_leaving() {
        // What a forked process has not used yet is not its own.
        let own = |segment: &&Self| segment.0.epoch() != 0;
        Self::all_attached().iter().filter(own).for_each(|segment| segment.0.announce_leaving());
    }

    /// The segments that this process has attached.
    fn all_attached() -> Vec<Self> {
        let all = ATTACHED.lock().unwrap_or_else(|e| e.into_inner());
        all.iter().filter_map(Weak::upgrade).map(Self).collect()
    }

    /// Makes an object of zeroed bytes, for kinds that need no more.
    pub(crate) fn create_object(&self, kind: &'static Kind, type_hash: u64, bytes: usize) -> Result<Object, Error> {
        let mut made = Object::create(self, kind, type_hash, bytes, &[0], |_| Ok(()))?;
        Ok(made.pop().expect("one role, one handle"))
    }

    /// Opens an object that [`create_object`](Self::create_object) made.
    pub(crate) fn open_object(&self, id: ObjectId, kind: &'static Kind, type_hash: u64) -> Result<Object, Error> {
        Object::open(self, id, 0, kind, type_hash)
    }

    /// The processes that died with the segment open, as far as their rows remember, the latest last.
    ///
    /// A death is in the list once somebody has found it: see [`sweep`](Self::sweep).
    pub fn deaths(&self) -> Vec<Death> {
        self.0.deaths()
    }

    /// Looks at every process that has the segment open, and recovers those that are dead. How many there were.
    ///
    /// Nobody needs to call it: whoever is blocked by a dead process finds out by itself.
    pub fn sweep(&self) -> usize {
        (0..self.0.geometry.rows).filter(|row| self.0.is_dead(*row) && self.0.recover_row(*row)).count()
    }
}

impl AsFd for Segment {
    /// The memory file: pass it to another process, which attaches with [`Segment::from_fd`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.0.name.as_ref().map_or(String::new(), |name| format!("{name:?}, "));
        write!(f, "Segment({name}{:032x}, {} B, row {})", self.0.id, self.0.geometry.size, self.0.row())
    }
}

fn process_name() -> &'static str {
    PROCESS_NAME.get().map_or("MainProcess", String::as_str)
}
