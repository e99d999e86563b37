//! Slices with steps, as Python has them: `list[start:stop:step]`.

use std::borrow::Borrow;
use std::ops::{Bound, RangeBounds};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::carried::decode_value;
use super::List;
use super::core::{Edit, Take};
use crate::error::{Error, ErrorKind};

/// The indices among `len` elements that a range of places names, from its start on, each so many after the one before. With
/// a step below 0 it goes from the start down to the end.
fn indices(range: &impl RangeBounds<isize>, step: isize, len: u64) -> Result<Vec<u64>, Error> {
    if step == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "slice list", "a step of 0"));
    }
    let (len, step) = (len as i128, step as i128);
    let absolute = |place: isize| if place < 0 { len + place as i128 } else { place as i128 };
    // Where it may begin, or end in front of.
    let (first, beyond) = if step > 0 { (0, len) } else { (len - 1, -1) };
    let clamp = |place: i128| place.clamp(first.min(beyond), first.max(beyond));
    let one = step.signum();
    let start = match range.start_bound() {
        Bound::Included(place) => clamp(absolute(*place)),
        Bound::Excluded(place) => clamp(absolute(*place) + one),
        Bound::Unbounded => first,
    };
    let stop = match range.end_bound() {
        Bound::Included(place) => clamp(absolute(*place) + one),
        Bound::Excluded(place) => clamp(absolute(*place)),
        Bound::Unbounded => beyond,
    };
    let mut indices = Vec::new();
    let mut at = start;
    while (stop - at) * one > 0 {
        indices.push(at as u64);
        at += step;
    }
    Ok(indices)
}

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// Every `step`-th value of a range, as one moment had them. A step below 0 goes from the start of the range down to its
    /// end: `slice_step(.., -1)` is all of them, the last one first. Python: `list[a:b:step]`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec); [`InvalidInput`](ErrorKind::InvalidInput) for a step of 0.
    pub fn slice_step(&self, range: impl RangeBounds<isize>, step: isize) -> Result<Vec<T>, Error> {
        let elements = self.core.read(self.deadline(), &|len| 0..len)?;
        let all: Vec<_> = elements.iter().collect();
        let indices = indices(&range, step, all.len() as u64)?;
        let chosen = indices.into_iter().map(|index| all[index as usize]);
        chosen.map(|(bytes, marked)| decode_value(bytes, marked)).collect()
    }

    /// Puts values in place of those that [`slice_step`](Self::slice_step) gives, in that order, all at once. With a step of 1
    /// there may be more or fewer. Python: `list[a:b:step] = values`.
    ///
    /// # Errors
    /// As [`extend`](Self::extend); [`InvalidInput`](ErrorKind::InvalidInput) for a step of 0, and if there are not as many
    /// values as places (Python: `ValueError`).
    pub fn set_slice_step(
        &self,
        range: impl RangeBounds<isize>,
        step: isize,
        values: impl IntoIterator<Item: Borrow<T>>,
    ) -> Result<(), Error> {
        if step == 1 {
            return self.set_slice(range, values);
        }
        let batch = self.batch(values)?;
        let count = batch.len();
        batch.put(&self.core, |drafts| {
            let chosen = |editing: &Edit<'_, '_>| indices(&range, step, editing.len()?);
            let doomed = |editing: &Edit<'_, '_>, take: Take<'_>| {
                chosen(editing)?.iter().try_for_each(|k| take(editing.element(*k)?))
            };
            let ((), _arrived) = self.core.take_out(self.deadline(), doomed, |editing| {
                let chosen = chosen(editing)?;
                if chosen.len() != count {
                    let message = format!("{count} values for {} places", chosen.len());
                    return Err(Error::new(ErrorKind::InvalidInput, "set slice of list", message));
                }
                editing.replace_at(&chosen, drafts)
            })?;
            Ok((true, ()))
        })
    }

    /// Takes the elements out that [`slice_step`](Self::slice_step) gives, all at once. Python: `del list[a:b:step]`.
    ///
    /// # Errors
    /// As [`set_slice_step`](Self::set_slice_step).
    pub fn remove_step(&self, range: impl RangeBounds<isize>, step: isize) -> Result<(), Error> {
        let chosen = |editing: &Edit<'_, '_>| indices(&range, step, editing.len()?);
        let doomed = |editing: &Edit<'_, '_>, take: Take<'_>| {
            chosen(editing)?.iter().try_for_each(|k| take(editing.element(*k)?))
        };
        let ((), _arrived) = self.core.take_out(self.deadline(), doomed, |editing| {
            let mut chosen = chosen(editing)?;
            chosen.sort_unstable();
            let stays = |index: &u32| chosen.binary_search(&u64::from(*index)).is_err();
            let order: Vec<u32> = (0..editing.len()? as u32).filter(stays).collect();
            if chosen.is_empty() { Ok(()) } else { editing.rearrange(&order) }
        })?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::reversed_empty_ranges, reason = "they are indices from either end")]
mod tests {
    use super::*;

    fn of(range: impl RangeBounds<isize>, step: isize, len: u64) -> Vec<u64> {
        indices(&range, step, len).unwrap()
    }

    #[test]
    fn they_are_those_that_python_gives() {
        // Each line is what `list(range(*slice(a, b, step).indices(n)))` says.
        assert_eq!(of(.., 2, 5), [0, 2, 4]);
        assert_eq!(of(1.., 2, 5), [1, 3]);
        assert_eq!(of(.., -1, 4), [3, 2, 1, 0]);
        assert_eq!(of(.., -2, 4), [3, 1]);
        assert_eq!(of(3..0, -1, 5), [3, 2, 1]);
        assert_eq!(of(-2..-5, -2, 5), [3, 1]);
        assert_eq!(of(9.., -3, 5), [4, 1]);
        assert_eq!(of(-9..9, 3, 5), [0, 3]);
        assert_eq!(of(0..3, -1, 5), [0; 0]);
        assert_eq!(of(.., 1, 0), [0; 0]);
        assert_eq!(of(.., -1, 0), [0; 0]);
        assert_eq!(of(isize::MIN..isize::MAX, isize::MAX, 3), [0]);
        assert_eq!(of(isize::MAX..isize::MIN, isize::MIN, 3), [2]);
        // Rust's own ends.
        assert_eq!(of(3..=0, -1, 5), [3, 2, 1, 0]);
        assert_eq!(of(1..=3, 2, 5), [1, 3]);
        assert!(indices(&(..), 0, 3).is_err());
    }
}
