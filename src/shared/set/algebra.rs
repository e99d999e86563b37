//! Sets and other sets: what they have in common, and what not.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;
use std::ops::{BitAnd, BitOr, BitXor, Sub};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Member, Set};
use crate::error::Error;

/// What can stand beside a set: another one, or any collection of elements. Python: any iterable.
pub trait Elements<T> {
    /// Gives every element once or more.
    ///
    /// # Errors
    /// Those of a set that is read.
    fn elements(&self) -> Result<impl Iterator<Item = T>, Error>;
}

impl<T: Serialize + DeserializeOwned + 'static> Elements<T> for Set<T> {
    fn elements(&self) -> Result<impl Iterator<Item = T>, Error> {
        self.iter()
    }
}

/// Collections of this process.
macro_rules! elements_of {
    ($([$($parameters:tt)*] $collection:ty),* $(,)?) => {$(
        impl<T: Clone, $($parameters)*> Elements<T> for $collection {
            fn elements(&self) -> Result<impl Iterator<Item = T>, Error> {
                Ok(self.iter().cloned())
            }
        }
    )*};
}

elements_of!([] HashSet<T>, [] BTreeSet<T>, [] Vec<T>, [] [T], [const N: usize] [T; N]);

/// In a result that is this process's own, elements are told apart by `Eq` and `Hash`.
impl<T: Serialize + DeserializeOwned + Eq + Hash + 'static> Set<T> {
    /// What is in this set or in the other. Python: `union`, `s | other`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "__or__")]
    pub fn union(&self, other: &(impl Elements<T> + ?Sized)) -> Result<HashSet<T>, Error> {
        let mut all: HashSet<T> = self.iter()?.collect();
        all.extend(other.elements()?);
        Ok(all)
    }

    /// What is in both. Python: `intersection`, `s & other`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "__and__")]
    pub fn intersection(&self, other: &(impl Elements<T> + ?Sized)) -> Result<HashSet<T>, Error> {
        let mine: HashSet<T> = self.iter()?.collect();
        Ok(other.elements()?.filter(|element| mine.contains(element)).collect())
    }

    /// What is in this set and not in the other. Python: `difference`, `s - other`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "__sub__")]
    pub fn difference(&self, other: &(impl Elements<T> + ?Sized)) -> Result<HashSet<T>, Error> {
        let mut mine: HashSet<T> = self.iter()?.collect();
        for element in other.elements()? {
            mine.remove(&element);
        }
        Ok(mine)
    }

    /// What is in one of them only. Python: `symmetric_difference`, `s ^ other`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "__xor__")]
    pub fn symmetric_difference(&self, other: &(impl Elements<T> + ?Sized)) -> Result<HashSet<T>, Error> {
        let mut all: HashSet<T> = self.iter()?.collect();
        let others: HashSet<T> = other.elements()?.collect();
        for element in others {
            if !all.remove(&element) {
                all.insert(element);
            }
        }
        Ok(all)
    }

    /// Keeps what is in the other as well. Python: `intersection_update`, `s &= other`.
    ///
    /// # Errors
    /// As [`discard`](Self::discard); some may be out.
    #[doc(alias = "__iand__")]
    pub fn intersection_update(&self, other: &(impl Elements<T> + ?Sized)) -> Result<(), Error> {
        let others: HashSet<T> = other.elements()?.collect();
        self.iter()?
            .filter(|element| !others.contains(element))
            .try_for_each(|element| self.discard(&element).map(drop))
    }

    /// Takes out what is in the other, and puts in what is only there. Python: `symmetric_difference_update`, `s ^= other`.
    ///
    /// # Errors
    /// As [`add`](Self::add) and [`discard`](Self::discard); part of it may be done.
    #[doc(alias = "__ixor__")]
    pub fn symmetric_difference_update(&self, other: &(impl Elements<T> + ?Sized)) -> Result<(), Error> {
        let others: HashSet<T> = other.elements()?.collect();
        for element in others {
            if !self.discard(&element)? {
                self.add(&element)?;
            }
        }
        Ok(())
    }

    /// Whether all of this set is in the other. Python: `issubset`, `s <= other`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "issubset")]
    #[doc(alias = "__le__")]
    pub fn is_subset(&self, other: &(impl Elements<T> + ?Sized)) -> Result<bool, Error> {
        let others: HashSet<T> = other.elements()?.collect();
        Ok(self.iter()?.all(|element| others.contains(&element)))
    }

    /// Whether all of this set is in the other, and more. Python: `s < other`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "__lt__")]
    pub fn is_proper_subset(&self, other: &(impl Elements<T> + ?Sized)) -> Result<bool, Error> {
        let mut others: HashSet<T> = other.elements()?.collect();
        Ok(self.iter()?.all(|element| others.remove(&element)) && !others.is_empty())
    }

    /// Whether all of the other is in this set, and more is. Python: `s > other`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "__gt__")]
    pub fn is_proper_superset(&self, other: &(impl Elements<T> + ?Sized)) -> Result<bool, Error> {
        let mut mine: HashSet<T> = self.iter()?.collect();
        let others: HashSet<T> = other.elements()?.collect();
        Ok(others.iter().all(|element| mine.remove(element)) && !mine.is_empty())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Set<T> {
    /// Puts in what is in the other. Python: `update`, `s |= other`.
    ///
    /// # Errors
    /// As [`add`](Self::add); those before are in.
    #[doc(alias = "__ior__")]
    #[doc(alias = "extend")]
    pub fn update(&self, other: &(impl Elements<T> + ?Sized)) -> Result<(), Error> {
        other.elements()?.try_for_each(|element| self.dict.put_new(&element, &Member).map(drop))
    }

    /// Takes out what is in the other. Python: `difference_update`, `s -= other`.
    ///
    /// # Errors
    /// As [`discard`](Self::discard); some may be out.
    #[doc(alias = "__isub__")]
    pub fn difference_update(&self, other: &(impl Elements<T> + ?Sized)) -> Result<(), Error> {
        other.elements()?.try_for_each(|element| self.dict.discard(&element).map(drop))
    }

    /// Whether all of the other is in this set. Python: `issuperset`, `s >= other`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "issuperset")]
    #[doc(alias = "__ge__")]
    pub fn is_superset(&self, other: &(impl Elements<T> + ?Sized)) -> Result<bool, Error> {
        for element in other.elements()? {
            if !self.dict.contains_key(&element)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether they have nothing in common. Python: `isdisjoint`.
    ///
    /// # Errors
    /// As [`contains`](Self::contains).
    #[doc(alias = "isdisjoint")]
    pub fn is_disjoint(&self, other: &(impl Elements<T> + ?Sized)) -> Result<bool, Error> {
        for element in other.elements()? {
            if self.dict.contains_key(&element)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Python's operators.
macro_rules! operators {
    ($($operator:ident::$method:ident is $named:ident),*) => {$(
        impl<T: Serialize + DeserializeOwned + Eq + Hash + 'static> $operator for &Set<T> {
            type Output = Result<HashSet<T>, Error>;

            #[doc = concat!("As [`", stringify!($named), "`](Set::", stringify!($named), ").")]
            fn $method(self, other: Self) -> Self::Output {
                self.$named(other)
            }
        }
    )*};
}

operators! {
    BitOr::bitor is union, BitAnd::bitand is intersection, Sub::sub is difference, BitXor::bitxor is symmetric_difference
}
