//! What is done with one element in place, of an array or as a value: the methods that [`Element`] and [`RawValue`] share.

use std::fmt;
use std::time::Duration;

use bytemuck::{CheckedBitPattern, NoUninit};

use super::element::{Element, Wait, only_failure, to_bits};
use super::error::WaitError;
use super::number::{Integer, Number};
use super::value::RawValue;
use crate::error::Error;

/// All of them: `self.element()` is the element.
macro_rules! operations {
    ($handle:ty $(, $lifetime:lifetime)?) => {
        impl<$($lifetime,)? T: NoUninit + CheckedBitPattern> $handle {
            /// The value, whole. Never waits for anybody, not even for a writer that is stopped or dead.
            ///
            /// # Errors
            /// [`Corrupt`](crate::ErrorKind::Corrupt) if the bytes are no `T`. Python: `.value`.
            #[doc(alias = "value")]
            #[inline]
            pub fn get(&self) -> Result<T, Error> {
                self.element().read().map(|(value, _)| value)
            }

            /// Replaces the value. If it is no word (1, 2, 4 or 8 bytes), it waits for those who write it at the moment;
            /// one that died does not hold it up, one that is stopped does.
            ///
            /// # Errors
            /// [`TooManyThreads`](crate::ErrorKind::TooManyThreads), and only for a value that is no word. Python: `.value =`.
            #[doc(alias = "value")]
            #[inline]
            pub fn set(&self, value: T) -> Result<(), Error> {
                self.element().write(None, &value, Wait::FOREVER).map(drop).map_err(only_failure)
            }

            /// Replaces the value, if nobody else writes it at the moment. Never waits. After a writer that is dead it says
            /// `WouldBlock` until somebody waits or [`Segment::sweep`](crate::Segment::sweep) is called.
            ///
            /// # Errors
            /// [`WaitError::WouldBlock`], [`WaitError::Failed`]; neither for a word.
            pub fn try_set(&self, value: T) -> Result<(), WaitError> {
                self.element().write(None, &value, Wait::Not).map(drop)
            }

            /// Replaces the value, waiting for other writers at most `timeout`.
            ///
            /// # Errors
            /// [`WaitError::Timeout`] with the name of the other, [`WaitError::Failed`]; neither for a word.
            pub fn set_timeout(&self, value: T, timeout: Duration) -> Result<(), WaitError> {
                self.element().write(None, &value, Wait::at_most(timeout)).map(drop)
            }

            /// Replaces the value and gives the one that was there.
            ///
            /// # Errors
            /// As [`update`](Self::update).
            pub fn replace(&self, value: T) -> Result<T, Error> {
                self.update(|_| value).map(|(old, _)| old)
            }

            /// Replaces the value by what `f` makes of it: the old one and the new one. No write of others is lost: if there
            /// was one meanwhile, `f` is called again with what they wrote. It runs outside of any lock, so a panic or a death
            /// in it changes nothing and holds up nobody, and it may use the value itself.
            ///
            /// # Errors
            /// As [`get`](Self::get) and [`set`](Self::set).
            pub fn update(&self, f: impl FnMut(T) -> T) -> Result<(T, T), Error> {
                self.element().update_waiting(Wait::FOREVER, f).map_err(only_failure)
            }

            /// As [`update`](Self::update), if nobody else writes it at the moment. Never waits.
            ///
            /// # Errors
            /// As [`get`](Self::get) and [`try_set`](Self::try_set).
            pub fn try_update(&self, f: impl FnMut(T) -> T) -> Result<(T, T), WaitError> {
                self.element().update_waiting(Wait::Not, f)
            }

            /// As [`update`](Self::update), waiting for other writers at most `timeout`.
            ///
            /// # Errors
            /// As [`get`](Self::get) and [`set_timeout`](Self::set_timeout).
            pub fn update_timeout(&self, timeout: Duration, f: impl FnMut(T) -> T) -> Result<(T, T), WaitError> {
                self.element().update_waiting(Wait::at_most(timeout), f)
            }
        }

        /// On numbers: one instruction each, but for floating point, `min` and `max`, which repeat one until nobody came in
        /// between. None of them waits or fails. Reads are Acquire, writes Release.
        impl<$($lifetime,)? T: Number> $handle {
            /// The number.
            #[inline]
            pub fn load(&self) -> T {
                T::from_bits_of_word(self.element().load_bits())
            }

            /// Replaces the number.
            #[inline]
            pub fn store(&self, number: T) {
                self.element().store_bits(to_bits(&number));
            }

            /// Replaces the number; the old one.
            #[inline]
            pub fn swap(&self, number: T) -> T {
                T::from_bits_of_word(self.element().swap_bits(to_bits(&number)))
            }

            /// Replaces the number if it is `current`, bit for bit; the old one.
            ///
            /// # Errors
            /// The number that is there instead.
            #[inline]
            pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
                let ended = self.element().exchange_bits(to_bits(&current), to_bits(&new));
                ended.map(T::from_bits_of_word).map_err(T::from_bits_of_word)
            }

            /// Adds; the old number. Integers wrap. Python: `value += n` with the lock held.
            #[doc(alias = "fetch_add")]
            #[inline]
            pub fn add(&self, number: T) -> T {
                if T::IS_INTEGER {
                    return T::from_bits_of_word(self.element().add_bits(to_bits(&number)));
                }
                self.element().fetch(|old| old.plus(number))
            }

            /// Subtracts; the old number. Integers wrap.
            #[doc(alias = "fetch_sub")]
            #[inline]
            pub fn sub(&self, number: T) -> T {
                if T::IS_INTEGER {
                    return T::from_bits_of_word(self.element().sub_bits(to_bits(&number)));
                }
                self.element().fetch(|old| old.minus(number))
            }

            /// Replaces the number by `number` if that is smaller; the old one.
            #[doc(alias = "fetch_min")]
            pub fn min(&self, number: T) -> T {
                self.element().fetch(|old| old.smaller(number))
            }

            /// Replaces the number by `number` if that is larger; the old one.
            #[doc(alias = "fetch_max")]
            pub fn max(&self, number: T) -> T {
                self.element().fetch(|old| old.larger(number))
            }
        }

        /// On integers, bit by bit.
        impl<$($lifetime,)? T: Integer> $handle {
            /// Clears the bits that `bits` does not have; the old number.
            #[doc(alias = "fetch_and")]
            #[inline]
            pub fn and(&self, bits: T) -> T {
                T::from_bits_of_word(self.element().and_bits(to_bits(&bits)))
            }

            /// Sets the bits that `bits` has; the old number.
            #[doc(alias = "fetch_or")]
            #[inline]
            pub fn or(&self, bits: T) -> T {
                T::from_bits_of_word(self.element().or_bits(to_bits(&bits)))
            }

            /// Inverts the bits that `bits` has; the old number.
            #[doc(alias = "fetch_xor")]
            #[inline]
            pub fn xor(&self, bits: T) -> T {
                T::from_bits_of_word(self.element().xor_bits(to_bits(&bits)))
            }
        }

        impl<$($lifetime,)? T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Display for $handle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.get() {
                    Ok(value) => value.fmt(f),
                    Err(e) => write!(f, "<{e}>"),
                }
            }
        }
    };
}

operations!(Element<'a, T>, 'a);
operations!(RawValue<T>);
