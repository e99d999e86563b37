//! One element: how it is read and written whole, and everything that is done with it in place.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytemuck::{CheckedBitPattern, NoUninit};

use super::cells::{Memory, copy_bytes, is_word, stride};
use super::error::WaitError;
use super::number::Number;
use crate::error::{Error, ErrorKind};
use crate::segment::ShmSlice;
use crate::sync::{Lane, MutexBlock, STRIPES, TwinBlock};
use crate::sys::atomic::Ordering::{AcqRel, Acquire, Release};
use crate::sys::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, spin_loop};
use crate::sys::clock::Deadline;

/// How often a large element is read before the reader takes its lock.
const TRIES: u32 = 8;
/// How long it then waits for the lock before it tries again. A writer that is stopped with the lock leaves the selector
/// where it is, so the next try succeeds.
const TURN: Duration = Duration::from_millis(1);
/// How often it does both. Writers that get in every time are not met: such a selector is moved by somebody without the lock.
const TURNS: u32 = 2000;
/// How long a writer waits before it looks whether the lock names the writer itself, which only damage can do.
const LOOK: Duration = Duration::from_millis(100);

/// One element of an array, for as long as the handle that it came from: what [`RawArray::at`](super::RawArray::at) gives.
///
/// All its operations are those of a [`Value`](crate::Value).
pub struct Element<'a, T> {
    memory: &'a Memory,
    index: usize,
    value: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Element<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Element<'_, T> {}

/// Whether, and how long, a writer waits for another.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    Not,
    Until(Deadline),
}

impl Wait {
    pub(super) const FOREVER: Self = Self::Until(Deadline::NEVER);

    pub(super) fn at_most(timeout: Duration) -> Self {
        Self::Until(Deadline::after(timeout))
    }
}

/// The error of one who would have waited for ever.
pub(super) fn only_failure(e: WaitError) -> Error {
    match e {
        WaitError::Failed(e) => e,
        other => Error::new(ErrorKind::Stalled, "write element", other.to_string()),
    }
}

/// Does something with the word of `$size` bytes at `$at`, whichever of the four types it is.
macro_rules! with_word {
    ($size:expr, $slice:expr, $at:expr, |$word:ident: $int:ident| $do:expr) => {
        match $size {
            1 => {
                type $int = u8;
                let $word = $slice.block::<AtomicU8>($at);
                $do
            }
            2 => {
                type $int = u16;
                let $word = $slice.block::<AtomicU16>($at);
                $do
            }
            4 => {
                type $int = u32;
                let $word = $slice.block::<AtomicU32>($at);
                $do
            }
            _ => {
                type $int = u64;
                let $word = $slice.block::<AtomicU64>($at);
                $do
            }
        }
    };
}

/// One read-modify-write instruction on the word of an integer, whose old bits it gives.
macro_rules! fetch {
    ($name:ident, $fetch:ident) => {
        #[inline]
        pub(super) fn $name(&self, bits: u64) -> u64 {
            let slice = self.memory.elements();
            with_word!(size_of::<T>(), slice, self.offset(), |word: Int| widen(word.$fetch(bits as Int, AcqRel)))
        }
    };
}

/// The bits of any of the four.
#[inline(always)]
fn widen<W: Into<u64>>(bits: W) -> u64 {
    bits.into()
}

/// The bytes of a word as a number.
#[inline]
pub(super) fn to_bits<T: NoUninit>(value: &T) -> u64 {
    let bytes = bytemuck::bytes_of(value);
    match bytes.len() {
        1 => bytes[0].into(),
        2 => bytemuck::pod_read_unaligned::<u16>(bytes).into(),
        4 => bytemuck::pod_read_unaligned::<u32>(bytes).into(),
        _ => bytemuck::pod_read_unaligned::<u64>(bytes),
    }
}

/// The value that the bits of a word are, if they are one.
#[inline]
fn from_bits<T: NoUninit + CheckedBitPattern>(bits: u64) -> Result<T, Error> {
    let read = |bytes: &[u8]| bytemuck::checked::try_pod_read_unaligned(bytes).ok();
    let value = match size_of::<T>() {
        1 => read(&(bits as u8).to_ne_bytes()),
        2 => read(&(bits as u16).to_ne_bytes()),
        4 => read(&(bits as u32).to_ne_bytes()),
        _ => read(&bits.to_ne_bytes()),
    };
    value.ok_or_else(no_value::<T>)
}

#[cold]
pub(super) fn no_value<T>() -> Error {
    Error::corrupt("element", std::any::type_name::<T>(), "other bytes", "a value of the type")
}

impl<'a, T: NoUninit + CheckedBitPattern> Element<'a, T> {
    const IS_WORD: bool = is_word(size_of::<T>());

    /// `index` is below the length.
    #[inline]
    pub(super) fn new(memory: &'a Memory, index: usize) -> Self {
        Self { memory, index, value: PhantomData }
    }

    /// Itself: the operations below are a value's too.
    #[inline]
    pub(super) fn element(&self) -> Self {
        *self
    }

    #[inline]
    fn offset(&self) -> usize {
        self.index * stride(size_of::<T>())
    }

    #[inline]
    pub(super) fn load_bits(&self) -> u64 {
        let slice = self.memory.elements();
        with_word!(size_of::<T>(), slice, self.offset(), |word: Int| widen::<Int>(word.load(Acquire)))
    }

    #[inline]
    pub(super) fn store_bits(&self, bits: u64) {
        let slice = self.memory.elements();
        with_word!(size_of::<T>(), slice, self.offset(), |word: Int| word.store(bits as Int, Release));
    }

    #[inline]
    pub(super) fn exchange_bits(&self, old: u64, new: u64) -> Result<u64, u64> {
        let slice = self.memory.elements();
        with_word!(size_of::<T>(), slice, self.offset(), |word: Int| {
            let ended = word.compare_exchange(old as Int, new as Int, AcqRel, Acquire);
            ended.map(widen).map_err(widen)
        })
    }

    fetch!(swap_bits, swap);
    fetch!(add_bits, fetch_add);
    fetch!(sub_bits, fetch_sub);
    fetch!(and_bits, fetch_and);
    fetch!(or_bits, fetch_or);
    fetch!(xor_bits, fetch_xor);

    #[inline]
    fn twin(&self) -> &'a TwinBlock {
        self.memory.elements().block(self.offset())
    }

    #[inline]
    fn copy(&self, copy: usize) -> ShmSlice<'a> {
        let at = self.offset() + size_of::<TwinBlock>() + copy * copy_bytes(size_of::<T>());
        self.memory.elements().part(at, size_of::<T>())
    }

    #[inline]
    fn stripe(&self) -> &'a MutexBlock {
        &self.memory.block().stripes[self.index % STRIPES]
    }

    /// The value, and what tells later whether it has been written since: its bits, or the count of its writes.
    #[inline]
    pub(super) fn read(&self) -> Result<(T, u64), Error> {
        if Self::IS_WORD {
            let bits = self.load_bits();
            return Ok((from_bits(bits)?, bits));
        }
        for _ in 0..TRIES {
            if let Some(found) = self.read_copy() {
                return found;
            }
            spin_loop();
        }
        self.read_among_writers()
    }

    #[inline]
    fn read_copy(&self) -> Option<Result<(T, u64), Error>> {
        let (value, writes) = self.twin().read(|copy| self.copy(copy).read_checked::<T>())?;
        Some(value.map(|value| (value, writes)).ok_or_else(no_value::<T>))
    }

    /// Writers came in between every time: now they wait for us.
    #[cold]
    fn read_among_writers(&self) -> Result<(T, u64), Error> {
        let lane = self.memory.object.segment().lane()?;
        for _ in 0..TURNS {
            if self.lock(lane, Wait::at_most(TURN)).is_ok() {
                let found = self.read_copy();
                self.stripe().unlock(true);
                let moved = || Error::corrupt("element", "selector", "moved by one without the lock", "at rest");
                return found.unwrap_or_else(|| Err(moved()));
            }
            if let Some(found) = (0..TRIES).find_map(|_| self.read_copy()) {
                return found;
            }
        }
        let message = "others write it without end, and one of them has its lock";
        Err(Error::new(ErrorKind::Stalled, "read element", message))
    }

    /// Writes the value, if it has not been written since `unless_after` was told. Whether it did.
    #[inline]
    pub(super) fn write(&self, unless_after: Option<u64>, value: &T, wait: Wait) -> Result<bool, WaitError> {
        if Self::IS_WORD {
            return Ok(match unless_after {
                Some(bits) => self.exchange_bits(bits, to_bits(value)).is_ok(),
                None => {
                    self.store_bits(to_bits(value));
                    true
                }
            });
        }
        let lane = self.memory.object.segment().lane().map_err(WaitError::Failed)?;
        self.lock(lane, wait)?;
        let write = |copy| self.copy(copy).write(0, bytemuck::bytes_of(value));
        let written = self.twin().write(unless_after, write);
        self.stripe().unlock(true);
        Ok(written)
    }

    /// Takes the lock of the element's writers. That an owner died with it means nothing: see [`TwinBlock`].
    #[inline]
    fn lock(&self, me: Lane, wait: Wait) -> Result<(), WaitError> {
        match (self.stripe().try_lock(me), wait) {
            (Some(_), _) => Ok(()),
            (None, Wait::Not) => Err(WaitError::WouldBlock),
            (None, Wait::Until(deadline)) => self.wait_for_lock(me, deadline),
        }
    }

    #[cold]
    fn wait_for_lock(&self, me: Lane, deadline: Deadline) -> Result<(), WaitError> {
        let (stripe, segment) = (self.stripe(), self.memory.object.segment());
        loop {
            if stripe.lock(me, segment, deadline.min(Deadline::after(LOOK))).is_ok() {
                return Ok(());
            }
            // Nobody asks for a second one, so a lock that names us was never taken by us.
            if stripe.recover(&|lane| lane == me) && stripe.try_lock(me).is_some() {
                return Ok(());
            }
            if deadline.passed() {
                return Err(WaitError::Timeout(segment.lane_holder(stripe.holder())));
            }
        }
    }

    #[inline]
    pub(super) fn update_waiting(&self, wait: Wait, mut f: impl FnMut(T) -> T) -> Result<(T, T), WaitError> {
        loop {
            let (old, seen) = self.read().map_err(WaitError::Failed)?;
            let new = f(old);
            if self.write(Some(seen), &new, wait)? {
                return Ok((old, new));
            }
        }
    }
}

impl<T: Number> Element<'_, T> {
    /// Replaces the number by what `f` makes of it, unless that is the same; the old one.
    #[inline]
    pub(super) fn fetch(&self, f: impl Fn(T) -> T) -> T {
        let mut seen = self.load_bits();
        loop {
            let old = T::from_bits_of_word(seen);
            let new = to_bits(&f(old));
            if new == seen {
                return old;
            }
            match self.exchange_bits(seen, new) {
                Ok(_) => return old,
                Err(now) => seen = now,
            }
        }
    }
}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for Element<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Element({}: {self})", self.index)
    }
}
