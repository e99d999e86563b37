//! What the fuzz targets share: a ring in private memory, whose every word can be written from outside.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use kinfolk::ring::{Cursor, Form, Ring, RingBlock, Side};

/// Records without a limit.
pub const NO_LIMIT: u32 = u32::MAX;

/// Words of a slot, in rings of slots.
pub const SLOT_WORDS: usize = 4;

/// The memory of a ring.
pub struct Memory {
    control: Box<RingBlock>,
    capacity: usize,
    words: [Vec<AtomicU64>; 3],
}

impl Memory {
    /// An empty ring of `capacity` granules for these sides and this form, whose first record lies at `position`.
    pub fn new<P: Side, C: Side, F: Form>(capacity: usize, position: u64) -> Self {
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let side = |many| if many { capacity } else { 0 };
        let ready = capacity * if F::SLOTS { SLOT_WORDS } else { 1 };
        let words = [words(side(P::MANY)), words(ready), words(side(C::MANY))];
        let memory = Self { control: Box::new(RingBlock::new()), capacity, words };
        for name in ["tail", "reserved", "rcur", "head"] {
            memory.control(name).store(Cursor::new(position, 0).bits(), Relaxed);
        }
        memory
    }

    /// A view of the ring, as it was made.
    pub fn ring<P: Side, C: Side, F: Form>(&self) -> Ring<'_, P, C, F> {
        let [claim, ready, take] = &self.words;
        Ring::made_for(&self.control, self.capacity, claim, ready, take).expect("arrays as they should be")
    }

    /// A word of the arrays.
    pub fn word(&self, k: usize) -> &AtomicU64 {
        let all = self.words.iter().map(Vec::len).sum::<usize>();
        self.words.iter().flatten().nth(k % all).expect("below their number")
    }

    /// A word of the control block, by its number.
    pub fn control_word(&self, k: usize) -> &AtomicU64 {
        let block: *const RingBlock = &*self.control;
        let (_, offset) = RingBlock::WORDS[k % RingBlock::WORDS.len()];
        // SAFETY: WORDS has the offsets of the block's 64-bit atomics.
        unsafe { &*block.byte_add(offset).cast::<AtomicU64>() }
    }

    /// A word of the control block, by its name.
    pub fn control(&self, name: &str) -> &AtomicU64 {
        let k = RingBlock::WORDS.iter().position(|(other, _)| *other == name);
        self.control_word(k.unwrap_or_else(|| panic!("the block has no word {name}")))
    }

    /// Where a cursor stands.
    pub fn position(&self, name: &str) -> u64 {
        Cursor::from_bits(self.control(name).load(Relaxed)).position()
    }
}
