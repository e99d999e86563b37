//! Indices and ranges as Python has them: what is negative counts from the end.

use std::ops::{Bound, Range, RangeBounds};

/// A number that says where in a list: from the front, or, if it is negative, from the end, so that -1 is the last.
///
/// Python: an index.
pub trait ListIndex: Copy + sealed::Signed {}

mod sealed {
    pub trait Signed {
        /// The number; the nearest that there is.
        fn signed(self) -> isize;
    }
}

macro_rules! list_index {
    ($($number:ty),*) => {$(
        impl sealed::Signed for $number {
            #[inline]
            fn signed(self) -> isize {
                isize::try_from(self).unwrap_or(isize::MAX)
            }
        }

        impl ListIndex for $number {}
    )*};
}

list_index!(usize, isize, i32, u32, u16, u8, u64);

impl sealed::Signed for i64 {
    #[inline]
    fn signed(self) -> isize {
        isize::try_from(self).unwrap_or(if self < 0 { isize::MIN } else { isize::MAX })
    }
}

impl ListIndex for i64 {}

/// The index among `len` elements; `len` if there is none.
#[inline]
pub(super) fn resolve(place: isize, len: u64) -> Result<u64, usize> {
    let index = if place < 0 { len.checked_sub(place.unsigned_abs() as u64) } else { Some(place as u64) };
    index.filter(|index| *index < len).ok_or(len as usize)
}

/// Where among `len` elements one is inserted: at the nearest end, if the place is beyond it.
pub(super) fn clamp(place: isize, len: u64) -> u64 {
    if place < 0 { len.saturating_sub(place.unsigned_abs() as u64) } else { (place as u64).min(len) }
}

/// The part of `len` elements that a range of places names: what is beyond the ends is not there.
pub(super) fn part(range: &impl RangeBounds<isize>, len: u64) -> Range<u64> {
    // After the last is the end, not the first.
    let after = |place: isize| if place == -1 { len } else { clamp(place.saturating_add(1), len) };
    let start = match range.start_bound() {
        Bound::Included(place) => clamp(*place, len),
        Bound::Excluded(place) => after(*place),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(place) => after(*place),
        Bound::Excluded(place) => clamp(*place, len),
        Bound::Unbounded => len,
    };
    start..end.max(start)
}

#[cfg(test)]
#[allow(clippy::reversed_empty_ranges, reason = "they are indices from either end")]
mod tests {
    use super::sealed::Signed;
    use super::*;

    #[test]
    fn places_are_counted_from_either_end() {
        assert_eq!((resolve(0, 3), resolve(2, 3), resolve(3, 3)), (Ok(0), Ok(2), Err(3)));
        assert_eq!((resolve(-1, 3), resolve(-3, 3), resolve(-4, 3)), (Ok(2), Ok(0), Err(3)));
        assert_eq!((resolve(isize::MIN, 3), resolve(isize::MAX, 3), resolve(0, 0)), (Err(3), Err(3), Err(0)));
        assert_eq!((usize::MAX.signed(), i64::MIN.signed()), (isize::MAX, isize::MIN));
    }

    #[test]
    fn parts_are_what_slices_are_in_python() {
        assert_eq!(part(&(..), 5), 0..5);
        assert_eq!(part(&(1..3), 5), 1..3);
        assert_eq!(part(&(1..=3), 5), 1..4);
        assert_eq!(part(&(-2..), 5), 3..5);
        assert_eq!(part(&(..-1), 5), 0..4);
        assert_eq!(part(&(..=-1), 5), 0..5);
        assert_eq!(part(&(3..1), 5), 3..3);
        assert_eq!(part(&(-9..99), 5), 0..5);
        assert_eq!(part(&(7..9), 5), 5..5);
        assert_eq!(part(&(isize::MIN..=isize::MAX), 5), 0..5);
    }
}
