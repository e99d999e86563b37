//! The types on which one instruction, or a loop of one, calculates in place.

use bytemuck::{CheckedBitPattern, NoUninit};

mod sealed {
    /// What a [`Number`](super::Number) has to know; nobody else's business.
    pub trait Bits: Sized {
        /// Whether the sum of the bits is the bits of the sum.
        const IS_INTEGER: bool;
        /// The number that these bits are. Those above its size mean nothing.
        fn from_bits_of_word(bits: u64) -> Self;
        /// The sum; integers wrap.
        fn plus(self, other: Self) -> Self;
        /// The difference; integers wrap.
        fn minus(self, other: Self) -> Self;
        /// The smaller one; of a number and a NaN the number.
        fn smaller(self, other: Self) -> Self;
        /// The larger one; of a number and a NaN the number.
        fn larger(self, other: Self) -> Self;
    }
}
pub(super) use sealed::Bits;

/// A number that processes can calculate with in place, atomically: the integers up to 64 bits, `f32` and `f64`.
pub trait Number: Bits + NoUninit + CheckedBitPattern + Default {}

/// A [`Number`] whose bits mean something by themselves: the integers.
pub trait Integer: Number {}

macro_rules! integers {
    ($($int:ty)*) => {$(
        impl Bits for $int {
            const IS_INTEGER: bool = true;

            #[inline(always)]
            fn from_bits_of_word(bits: u64) -> Self {
                bits as Self
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }

            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
        }

        impl Number for $int {}
        impl Integer for $int {}
    )*};
}

macro_rules! floats {
    ($($float:ty, $bits:ty;)*) => {$(
        impl Bits for $float {
            const IS_INTEGER: bool = false;

            #[inline(always)]
            fn from_bits_of_word(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self - other
            }

            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }

            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
        }

        impl Number for $float {}
    )*};
}

integers!(u8 i8 u16 i16 u32 i32 u64 i64 usize isize);
floats!(f32, u32; f64, u64;);
