//! The locks that compete, behind one face, and the memory in which those of the C library lie.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kinfolk::Lock;
use memmap2::{MmapOptions, MmapRaw};
use raw_sync::locks::{LockImpl, LockInit};
use serde::{Deserialize, Serialize};

/// The lock is at the start of the memory, the number that it guards in a cache line of its own.
const COUNT_AT: usize = 128;
const BYTES: usize = 4096;

/// Memory that a process or thread shares with the one it competes with.
pub struct Memory {
    map: MmapRaw,
    file: File,
}

/// Where another process finds it: the process and the descriptor that have the file.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct MemoryName(u32, RawFd);

impl Memory {
    /// New memory, of zeros.
    pub fn new() -> std::io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("locks", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(BYTES as u64)?;
        Ok(Self { map: MmapOptions::new().len(BYTES).map_raw(&file)?, file })
    }

    /// What another process opens it by, as long as this one has it.
    pub fn name(&self) -> MemoryName {
        MemoryName(std::process::id(), self.file.as_raw_fd())
    }

    /// The memory of another process.
    pub fn open(MemoryName(pid, fd): MemoryName) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/fd/{fd}"))?;
        Ok(Self { map: MmapOptions::new().len(BYTES).map_raw(&file)?, file })
    }

    fn start(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// The number that the lock guards.
    pub fn count(&self) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned; any bytes are a number, and all use is atomic.
        unsafe { &*self.start().add(COUNT_AT).cast::<AtomicU64>() }
    }

    /// Adds one to the number in two steps, which only a lock makes one.
    #[inline]
    pub fn add(&self) {
        self.count().store(self.count().load(Relaxed) + 1, Relaxed);
    }
}

/// What a lock call gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// The lock.
    Clean,
    /// The lock, and the news that its holder had died.
    OwnerDied,
}

/// A lock that competes.
pub trait Contender {
    /// Runs `work` with the lock held.
    fn with(&self, work: impl FnOnce()) -> Got;
}

impl Contender for Lock {
    #[inline]
    fn with(&self, work: impl FnOnce()) -> Got {
        match self.lock() {
            Ok(_held) => {
                work();
                Got::Clean
            }
            Err(e) => {
                let mut held = e.into_guard().expect("the lock, if its holder died");
                work();
                held.mark_consistent();
                Got::OwnerDied
            }
        }
    }
}

impl Contender for std::sync::Mutex<()> {
    #[inline]
    fn with(&self, work: impl FnOnce()) -> Got {
        let _held = self.lock().expect("nobody panicked");
        work();
        Got::Clean
    }
}

impl Contender for parking_lot::Mutex<()> {
    #[inline]
    fn with(&self, work: impl FnOnce()) -> Got {
        let _held = self.lock();
        work();
        Got::Clean
    }
}

/// raw_sync's mutex, as it comes.
pub struct RawSync(Box<dyn LockImpl>, #[allow(dead_code, reason = "keeps the lock mapped")] Memory);

impl RawSync {
    /// Makes one at the start of the memory.
    pub fn make(memory: Memory) -> Self {
        // SAFETY: mapped, page-aligned, longer than a mutex, and nobody's yet.
        let made = unsafe { raw_sync::locks::Mutex::new(memory.start(), std::ptr::null_mut()) };
        Self(made.expect("make raw_sync's mutex").0, memory)
    }

    /// The one that another process made.
    pub fn open(memory: Memory) -> Self {
        // SAFETY: `make` was called on the memory before its name was told.
        let found = unsafe { raw_sync::locks::Mutex::from_existing(memory.start(), std::ptr::null_mut()) };
        Self(found.expect("open raw_sync's mutex").0, memory)
    }
}

impl Contender for RawSync {
    #[inline]
    fn with(&self, work: impl FnOnce()) -> Got {
        let _held = self.0.lock().expect("lock raw_sync's mutex");
        work();
        Got::Clean
    }
}

/// The C library's robust mutex, shared between processes.
pub struct Robust(Memory);

impl Robust {
    /// Makes one at the start of the memory.
    pub fn make(memory: Memory) -> Self {
        let mut attributes = std::mem::MaybeUninit::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: the attributes are made before they are set and used; the memory is mapped, page-aligned, longer than
        // a mutex, and nobody's yet.
        let codes = unsafe {
            [
                libc::pthread_mutexattr_init(attributes),
                libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED),
                libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST),
                libc::pthread_mutex_init(memory.start().cast(), attributes),
            ]
        };
        assert_eq!(codes, [0; 4], "make a robust mutex");
        Self(memory)
    }

    /// The one that another process made.
    pub fn open(memory: Memory) -> Self {
        Self(memory)
    }
}

impl Contender for Robust {
    #[inline]
    fn with(&self, work: impl FnOnce()) -> Got {
        let mutex = self.0.start().cast();
        // SAFETY: `make` was called on the memory before anybody could open it.
        let got = match unsafe { libc::pthread_mutex_lock(mutex) } {
            0 => Got::Clean,
            libc::EOWNERDEAD => {
                // SAFETY: as above, and this thread holds it.
                assert_eq!(unsafe { libc::pthread_mutex_consistent(mutex) }, 0);
                Got::OwnerDied
            }
            code => panic!("lock a robust mutex: {code}"),
        };
        work();
        // SAFETY: as above, and this thread holds it.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(mutex) }, 0);
        got
    }
}

/// The C library's semaphore, shared between processes.
pub struct Posix(Memory);

impl Posix {
    /// Makes one with `permits` permits at the start of the memory.
    pub fn make(memory: Memory, permits: u32) -> Self {
        // SAFETY: the memory is mapped, page-aligned, longer than a semaphore, and nobody's yet.
        assert_eq!(unsafe { libc::sem_init(memory.start().cast(), 1, permits) }, 0, "make a semaphore");
        Self(memory)
    }

    /// Permits that are free.
    pub fn value(&self) -> i32 {
        let mut value = 0;
        // SAFETY: `make` made it.
        assert_eq!(unsafe { libc::sem_getvalue(self.0.start().cast(), &mut value) }, 0);
        value
    }

    /// Runs `work` with a permit.
    #[inline]
    pub fn with<R>(&self, work: impl FnOnce() -> R) -> R {
        // SAFETY: `make` made it.
        assert_eq!(unsafe { libc::sem_wait(self.0.start().cast()) }, 0, "take a permit");
        let done = work();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::sem_post(self.0.start().cast()) }, 0, "give a permit back");
        done
    }
}
