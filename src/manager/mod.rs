//! One place from which everything shared is made: a segment of its own, with a method for each kind of thing in it, and
//! names by which other programs find them.

mod factories;
mod names;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::segment::Segment;

/// A segment of its own from which shared things are made.
///
/// Python's manager is a server process, and what it makes are proxies that call it. Here nothing is served: a manager is
/// memory, what it makes are the same handles as elsewhere ([`Queue`](crate::Queue), [`Mutex`](crate::Mutex) and so on), and
/// every process works on them directly. What a manager adds is a segment apart from the family's, which is gone as a
/// whole, has a size of its own, and can have a name.
///
/// The manager and all handles are values: they go to children as arguments and through queues and pipes, and the receiver
/// attaches the segment if it has to. A sender must live until its message has been decoded, unless the manager has a name
/// and the handle is [`publish`](Self::publish)ed.
///
/// # Without a name, and with one
/// [`Manager::new`]: the segment is gone when the last process that has the manager, or a handle from it, has dropped that
/// or is dead. [`Manager::create`]: programs that are no family [`open`](Self::open) it by its name, and find what is
/// [`publish`](Self::publish)ed in it. It outlives all of them, until it is [`unlink`](Self::unlink)ed.
///
/// # If a peer dies
/// Nothing ends with it but what it held: there is no process that the others need. Each kind of handle says what it does
/// about a death.
///
/// Python: `multiprocessing.Manager()`, `SyncManager`, `SharedMemoryManager`; `BaseManager.register`, `connect` and
/// `get_server` have [`publish`](Self::publish) and [`find`](Self::find) for a counterpart. There is nothing to start, so
/// there is no initialiser: what it would do is done after `new`. `shutdown()` is a drop.
///
/// ```
/// use kinfolk::{Manager, Process, Queue};
///
/// let manager = Manager::new()?;
/// let (tasks, results) = (manager.queue::<u64>(0)?, manager.queue::<u64>(0)?);
/// let square = |(tasks, results): (Queue<u64>, Queue<u64>)| {
///     while let Ok(task) = tasks.try_get() {
///         results.put(task * task).unwrap();
///     }
/// };
/// tasks.put(7)?;
/// Process::spawn(square, (tasks.clone(), results.clone()))?.join()?;
/// assert_eq!(results.get()?, 49);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "SyncManager")]
#[doc(alias = "BaseManager")]
#[doc(alias = "SharedMemoryManager")]
#[derive(Clone, Serialize, Deserialize)]
pub struct Manager {
    segment: Segment,
}

impl Manager {
    /// Makes a manager without a name, whose segment has up to 1 GiB; memory is committed as it is used.
    ///
    /// # Errors
    /// As [`SegmentBuilder::anonymous`](crate::segment::SegmentBuilder::anonymous). Python: `Manager()`.
    pub fn new() -> Result<Self, Error> {
        Segment::builder().anonymous().map(Self::from)
    }

    /// Makes a manager without a name, whose segment has `bytes` bytes. Other limits are set by [`Segment::builder`]:
    /// `Manager::from(Segment::builder().processes(8).anonymous()?)`.
    ///
    /// # Errors
    /// As [`Segment::anonymous`].
    pub fn with_size(bytes: u64) -> Result<Self, Error> {
        Segment::anonymous(bytes).map(Self::from)
    }

    /// Makes a manager with a name, by which other programs of the same user [`open`](Self::open) it.
    ///
    /// # Errors
    /// As [`SegmentBuilder::create`](crate::segment::SegmentBuilder::create).
    ///
    /// Python: `BaseManager(address).start()`.
    pub fn create(name: &str) -> Result<Self, Error> {
        Segment::builder().create(name).map(Self::from)
    }

    /// Opens the manager of this name. It is the segment of this name, however that was made.
    ///
    /// # Errors
    /// As [`Segment::open`]. Python: `BaseManager(address).connect()`.
    #[doc(alias = "connect")]
    pub fn open(name: &str) -> Result<Self, Error> {
        Segment::open(name).map(Self::from)
    }

    /// Opens the manager of this name, or makes it. Of several programs that do so at once one makes it.
    ///
    /// # Errors
    /// As [`SegmentBuilder::open_or_create`](crate::segment::SegmentBuilder::open_or_create).
    pub fn open_or_create(name: &str) -> Result<Self, Error> {
        Segment::builder().open_or_create(name).map(Self::from)
    }

    /// Takes the name of a manager away. Who has it keeps it; it is gone with the last of them.
    ///
    /// # Errors
    /// As [`Segment::unlink`]. Python: `shutdown()`.
    #[doc(alias = "shutdown")]
    pub fn unlink(name: &str) -> Result<(), Error> {
        Segment::unlink(name)
    }

    /// The segment in which it makes things.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// What it was made or opened by; `None` if it has no name.
    #[doc(alias = "address")]
    pub fn name(&self) -> Option<&str> {
        self.segment.name()
    }
}

/// A manager of a segment that was made otherwise, for its limits or its name.
impl From<Segment> for Manager {
    fn from(segment: Segment) -> Self {
        Self { segment }
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manager({:?})", self.segment)
    }
}
