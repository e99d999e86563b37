//! Sets of lanes, one bit each: a bit says who, which a count could not.

use super::owner::Lane;
use crate::sys::atomic::{AtomicU64, Ordering};

/// Words of a set that has room for every lane.
pub const LANE_WORDS: usize = 16;

/// Length of an array with one element for every lane, at the lane's number.
pub const LANE_SLOTS: usize = LANE_WORDS * 64;

/// A set of lanes in shared words.
#[derive(Clone, Copy)]
pub struct LaneSet<'a>(pub &'a [AtomicU64]);

impl LaneSet<'_> {
    fn at(&self, lane: Lane) -> (&AtomicU64, u64) {
        (&self.0[usize::from(lane) / 64], 1 << (lane % 64))
    }

    /// Adds a lane; false if it was inside.
    #[inline]
    pub fn insert(&self, lane: Lane, order: Ordering) -> bool {
        let (word, bit) = self.at(lane);
        word.fetch_or(bit, order) & bit == 0
    }

    /// Takes a lane out; false if it was not inside.
    #[inline]
    pub fn remove(&self, lane: Lane, order: Ordering) -> bool {
        let (word, bit) = self.at(lane);
        word.fetch_and(!bit, order) & bit != 0
    }

    /// Whether a lane is inside.
    #[inline]
    pub fn contains(&self, lane: Lane, order: Ordering) -> bool {
        let (word, bit) = self.at(lane);
        word.load(order) & bit != 0
    }

    /// Whether no lane is inside. Acquire: with its absence comes everything that a lane did before it was taken out.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }

    /// The lanes inside, each word as one moment saw it: those from `first` on, then the others.
    pub fn iter_from(&self, first: Lane) -> impl Iterator<Item = Lane> + use<'_> {
        let words = self.0.len();
        let (start, bit) = (usize::from(first) / 64 % words, first % 64);
        (0..=words).flat_map(move |k| {
            let at = (start + k) % words;
            let upper = u64::MAX << bit;
            // The first word is visited twice: its upper part first, its lower part last.
            let part = if k == 0 {
                upper
            } else if k == words {
                !upper
            } else {
                u64::MAX
            };
            let mut left = self.0[at].load(Ordering::Relaxed) & part;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then_some((at * 64) as Lane + bit as Lane)
            })
        })
    }

    /// The lanes inside, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Lane> + use<'_> {
        self.iter_from(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_begins_where_it_is_told_and_visits_everybody_once() {
        let words: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        let set = LaneSet(&words);
        let lanes = [0, 1, 63, 64, 100, 191];
        assert!(set.is_empty());
        assert!(lanes.iter().all(|lane| set.insert(*lane, Ordering::Relaxed)));
        assert!(!set.insert(64, Ordering::Relaxed));
        assert_eq!(set.iter().collect::<Vec<_>>(), lanes);
        assert_eq!(set.iter_from(63).collect::<Vec<_>>(), [63, 64, 100, 191, 0, 1]);
        assert_eq!(set.iter_from(65).collect::<Vec<_>>(), [100, 191, 0, 1, 63, 64]);
        assert!(set.remove(100, Ordering::Relaxed) && !set.remove(100, Ordering::Relaxed));
        assert!(!set.contains(100, Ordering::Relaxed) && set.contains(1, Ordering::Relaxed));
    }
}
