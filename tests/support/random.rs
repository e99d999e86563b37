//! Variety for moments and sizes, the same in every run of a seed (xorshift; quality does not matter here).

use std::time::{Duration, Instant};

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// Lets up to 400 us pass, busily, so that the kill that follows hits any instruction.
    pub fn moment(&mut self) {
        let until = Instant::now() + Duration::from_nanos(self.below(400_000));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
}
