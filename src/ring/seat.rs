//! The seat at one end of a one-to-one ring: who sits there, and on which CPU it waited last.
//!
//! `lane` is 0, or the lane of whoever produces (or consumes). It is taken by one CAS that names the taker, and freed by
//! the taker or, after proof of its death, by recovery. What the end keeps in the ring (a hint of the tail, the head) is
//! written only from the seat, so Acquire in [`Seat::take`] matches Release in [`Seat::leave`] and [`Seat::recover`], to make
//! sure that a successor sees where its predecessor stopped.

use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering};
use Ordering::{AcqRel, Acquire, Relaxed, Release};

/// A seat, as it lies in a segment: 8 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct Seat {
    lane: AtomicU32,
    /// The CPU, plus 1; 0 if unknown. A hint.
    cpu: AtomicU32,
}

impl Seat {
    /// An empty seat.
    #[allow(clippy::new_without_default, reason = "a block is written into a segment, never made by default")]
    pub fn new() -> Self {
        Self { lane: AtomicU32::new(0), cpu: AtomicU32::new(0) }
    }

    /// Takes the seat for `lane`.
    ///
    /// # Errors
    /// The lane that has it; a number that is no lane becomes `u16::MAX`.
    pub fn take(&self, lane: u16) -> Result<(), u16> {
        match self.lane.compare_exchange(0, lane.into(), AcqRel, Acquire) {
            Ok(_) => Ok(()),
            Err(holder) => Err(u16::try_from(holder).unwrap_or(u16::MAX)),
        }
    }

    /// Frees the seat, which the caller has.
    pub fn leave(&self) {
        self.lane.store(0, Release);
    }

    /// The lane that has the seat; 0 if none has.
    pub fn holder(&self) -> u16 {
        u16::try_from(self.lane.load(Acquire)).unwrap_or(u16::MAX)
    }

    /// Whether a dead lane has the seat.
    pub fn is_held_by(&self, dead: &dyn Fn(u16) -> bool) -> bool {
        let holder = self.holder();
        holder != 0 && dead(holder)
    }

    /// Frees the seat of a dead lane. Idempotent.
    pub fn recover(&self, dead: &dyn Fn(u16) -> bool) {
        let holder = self.holder();
        if holder != 0 && dead(holder) {
            let _ = self.lane.compare_exchange(holder.into(), 0, AcqRel, Relaxed);
        }
    }

    /// Notes that whoever sits here is about to wait on `cpu`.
    pub fn note_cpu(&self, cpu: u32) {
        let cpu = cpu.wrapping_add(1);
        if self.cpu.load(Relaxed) != cpu {
            self.cpu.store(cpu, Relaxed);
        }
    }

    /// The CPU noted last.
    pub fn cpu(&self) -> Option<u32> {
        self.cpu.load(Relaxed).checked_sub(1)
    }
}

/// A seat and the word that its holder alone writes, apart from everything that the other side polls.
#[repr(C, align(128))]
pub(super) struct Side {
    pub seat: Seat,
    pub word: AtomicU64,
}

impl Side {
    pub fn new() -> Self {
        Self { seat: Seat::new(), word: AtomicU64::new(0) }
    }
}
