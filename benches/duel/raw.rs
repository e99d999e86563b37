//! Raw words in memory that two processes have mapped: what the limits are made of.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use kinfolk::ring::{Ring, RingBlock};
use memmap2::{MmapOptions, MmapRaw};
use rustix::thread::futex;
use serde::{Deserialize, Serialize};

use super::{Payload, SLOTS};

const LINE: usize = 128;
/// Lines: one each way, the end of a stream, a reader's place, a futex each way.
const END_AT: usize = 2 * LINE;
const PLACE_AT: usize = 3 * LINE;
const FUTEX_AT: usize = 4 * LINE;
const SLOTS_AT: usize = 4096;
const RING_AT: usize = SLOTS_AT + 2 * SLOTS * 64;
const WORDS_AT: usize = RING_AT + size_of::<RingBlock>();
const GRANULES_AT: usize = WORDS_AT + 3 * SLOTS * 8;
const BYTES: usize = GRANULES_AT + SLOTS * 64;

/// Memory that the two sides share.
#[derive(Clone)]
pub struct Memory {
    map: Arc<MmapRaw>,
    file: Arc<File>,
}

/// Where another process finds it: the process and the descriptor that have the file.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct MemoryName(u32, RawFd);

impl Memory {
    /// New memory, of zeros.
    pub fn new() -> std::io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("raw", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(BYTES as u64)?;
        Self::map(file)
    }

    fn map(file: File) -> std::io::Result<Self> {
        let map = Arc::new(MmapOptions::new().len(BYTES).map_raw(&file)?);
        Ok(Self { map, file: Arc::new(file) })
    }

    /// What another process opens it by, as long as this one has it.
    pub fn name(&self) -> MemoryName {
        MemoryName(std::process::id(), self.file.as_raw_fd())
    }

    /// The memory of another process.
    pub fn open(MemoryName(pid, fd): MemoryName) -> std::io::Result<Self> {
        Self::map(OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/fd/{fd}"))?)
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> &T {
        assert!(offset + size_of::<T>() <= BYTES && offset % align_of::<T>() == 0);
        // SAFETY: inside the mapping and aligned; `T` is an atomic or a block of them, for which any bytes will do.
        unsafe { &*self.map.as_mut_ptr().add(offset).cast::<T>() }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        self.at(offset)
    }

    #[inline(always)]
    pub fn set_line(&self, way: usize, number: u64) {
        self.at::<AtomicU64>(way * LINE).store(number, Release);
    }

    #[inline(always)]
    pub fn wait_line(&self, way: usize, number: u64) {
        while self.at::<AtomicU64>(way * LINE).load(Acquire) != number {}
    }

    #[inline(always)]
    pub fn write_slot(&self, way: usize, number: u64, payload: Payload) {
        let slot = self.words::<8>(SLOTS_AT + (way * SLOTS + number as usize % SLOTS) * 64);
        slot[1..].iter().zip(payload).for_each(|(to, word)| to.store(word, Relaxed));
        slot[0].store(number, Release);
    }

    #[inline(always)]
    pub fn read_slot(&self, way: usize, number: u64) -> Payload {
        let slot = self.words::<8>(SLOTS_AT + (way * SLOTS + number as usize % SLOTS) * 64);
        while slot[0].load(Acquire) != number {}
        std::array::from_fn(|k| slot[k + 1].load(Relaxed))
    }

    pub fn tell_place(&self, number: u64) {
        self.at::<AtomicU64>(PLACE_AT).store(number, Release);
    }

    pub fn place(&self) -> u64 {
        self.at::<AtomicU64>(PLACE_AT).load(Acquire)
    }

    pub fn end(&self, number: u64) {
        self.at::<AtomicU64>(END_AT).store(number, Release);
    }

    pub fn wait_for_end(&self, number: u64) {
        while self.at::<AtomicU64>(END_AT).load(Acquire) != number {}
    }

    /// A stamped ring.
    pub fn ring(&self) -> Ring<'_> {
        let part = |k: usize| &self.words::<SLOTS>(WORDS_AT + k * SLOTS * 8)[..];
        Ring::new(self.at(RING_AT), part(0), part(1), part(2)).expect("a ring of an allowed size")
    }

    #[inline(always)]
    pub fn write_granule(&self, index: usize, payload: Payload) {
        let granule = self.words::<7>(GRANULES_AT + index * 64);
        granule.iter().zip(payload).for_each(|(to, word)| to.store(word, Relaxed));
    }

    #[inline(always)]
    pub fn read_granule(&self, index: usize) -> Payload {
        let granule = self.words::<7>(GRANULES_AT + index * 64);
        std::array::from_fn(|k| granule[k].load(Relaxed))
    }

    pub fn set_and_wake(&self, way: usize, number: u32) {
        let word = self.at::<AtomicU32>(FUTEX_AT + way * LINE);
        word.store(number, Release);
        futex::wake(word, futex::Flags::empty(), 1).expect("wake");
    }

    pub fn sleep_until(&self, way: usize, number: u32) {
        let word = self.at::<AtomicU32>(FUTEX_AT + way * LINE);
        loop {
            let seen = word.load(Acquire);
            if seen == number {
                return;
            }
            let _ = futex::wait(word, futex::Flags::empty(), seen, None);
        }
    }
}
