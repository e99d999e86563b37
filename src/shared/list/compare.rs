//! Lists and other sequences, side by side; and lists made of lists.

use std::cmp::Ordering;
use std::ops::{Add, Mul};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::List;
use super::core::Core;
use crate::error::{Error, ErrorKind};
use crate::segment::type_hash;
use crate::store::MAX_ELEMENTS;

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// Whether these are its values, as one moment had them. Python: `list[:] == values`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    #[doc(alias = "__eq__")]
    pub fn equals(&self, values: &[T]) -> Result<bool, Error>
    where
        T: PartialEq,
    {
        Ok(self.to_vec()? == values)
    }

    /// Which comes first, element by element, as one moment had them. Python: `list[:] < values`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    #[doc(alias = "__lt__")]
    pub fn compare(&self, values: &[T]) -> Result<Option<Ordering>, Error>
    where
        T: PartialOrd,
    {
        Ok(self.to_vec()?.as_slice().partial_cmp(values))
    }

    /// A new list in the same segment with the values of this one, as one moment had them. Python: `copy.copy(list)`.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`to_vec`](Self::to_vec).
    pub fn copy(&self) -> Result<Self, Error> {
        let copy = Self::of(Core::create(&self.core.object.segment_handle(), type_hash::<T>())?);
        copy.extend(self.to_vec()?)?;
        Ok(copy)
    }

    /// The values of this list and those of another. Python: `list + other`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn concat(&self, other: &Self) -> Result<Vec<T>, Error> {
        let mut values = self.to_vec()?;
        values.append(&mut other.to_vec()?);
        Ok(values)
    }

    /// The values of this list so many times, as one moment had them. Python: `list * times`.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec); [`OutOfSpace`](ErrorKind::OutOfSpace) if no list could have so many.
    #[doc(alias = "__rmul__")]
    pub fn repeated(&self, times: usize) -> Result<Vec<T>, Error>
    where
        T: Clone,
    {
        let values = self.to_vec()?;
        if values.len().saturating_mul(times) as u64 > MAX_ELEMENTS {
            let message = format!("{} elements {times} times", values.len());
            return Err(Error::new(ErrorKind::OutOfSpace, "repeat list", message));
        }
        Ok(std::iter::repeat_n(values, times).flatten().collect())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Add for &List<T> {
    type Output = Result<Vec<T>, Error>;

    /// As [`concat`](List::concat).
    fn add(self, other: Self) -> Self::Output {
        self.concat(other)
    }
}

impl<T: Serialize + DeserializeOwned + Clone + 'static> Mul<usize> for &List<T> {
    type Output = Result<Vec<T>, Error>;

    /// As [`repeated`](List::repeated).
    fn mul(self, times: usize) -> Self::Output {
        self.repeated(times)
    }
}
