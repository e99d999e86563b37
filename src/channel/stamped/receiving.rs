//! The side that pops: values in place, and the one consumer's handle.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::error::{PopError, RoleError};
use super::{Ring, Value};
use crate::error::{Error, ErrorKind};
use crate::ring::{Many, Occupied, One, RingCache, Side, Taken};
use crate::segment::ShmSlice;
use crate::sync::{Lane, Peers};
use crate::sys::clock::Deadline;

/// The value of these bytes, copied and then checked.
#[inline(always)]
fn checked<T: Value>(bytes: ShmSlice<'_>) -> Result<T, PopError> {
    bytes.read_checked().ok_or_else(|| invalid::<T>())
}

#[cold]
fn invalid<T>() -> PopError {
    let message = format!("{} B are no value of it", size_of::<T>());
    PopError::Invalid(Error::new(ErrorKind::Codec, format!("read {}", std::any::type_name::<T>()), message))
}

/// A value in its slot, which belongs to the caller until it is [released](Self::release) or dropped; then it is gone.
///
/// # If a peer dies
/// Nobody else's death concerns it. If its own process dies, the value is offered again, marked as redelivered.
#[must_use = "dropping it consumes the value"]
pub struct Peek<'a, T, P: Side, C: Side> {
    core: &'a Core<P, C>,
    taken: Taken,
    /// A lane belongs to one thread.
    thread: PhantomData<(*const (), T)>,
}

impl<T: Value, P: Side, C: Side> Peek<'_, T, P, C> {
    /// A copy of the value.
    ///
    /// # Errors
    /// [`PopError::Invalid`] if its bytes are no `T`.
    pub fn get(&self) -> Result<T, PopError> {
        checked(self.slice())
    }

    /// The bytes of the value. To look at them without a copy there is [`ShmSlice::as_slice`], which is unsafe.
    pub fn slice(&self) -> ShmSlice<'_> {
        self.core.value(self.taken.position)
    }

    /// Whether somebody took it before and died before the end. Such a value may come late and out of order.
    pub fn is_redelivered(&self) -> bool {
        self.taken.redelivered
    }

    /// Ends the use of the value.
    ///
    /// # Errors
    /// If the ring is damaged; the value is gone all the same.
    pub fn release(self) -> Result<(), Error> {
        let done = self.core.done(self.taken);
        std::mem::forget(self);
        done
    }
}

impl<T, P: Side, C: Side> Drop for Peek<'_, T, P, C> {
    fn drop(&mut self) {
        // A damaged ring is reported by the call that follows.
        let _ = self.core.done(self.taken);
    }
}

impl<T, P: Side, C: Side> fmt::Debug for Peek<'_, T, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peek({} of {})", self.taken.position, self.core.ring().capacity())
    }
}

/// The one consumer of a ring of one consumer: made by [`Ring::consumer`], given up by dropping it.
///
/// It stays in its thread, whose lane stands in the ring. If the process dies, a successor gets first what it had taken
/// and not finished, in the old order.
pub struct Consumer<T, P: Side = One> {
    core: Arc<Core<P, One>>,
    cache: RingCache,
    lane: Lane,
    thread: PhantomData<(*const (), T)>,
}

impl<T: Value, P: Side> Ring<T, P, One> {
    /// Makes the calling thread the one consumer. Never blocks; the place of a dead one is free.
    ///
    /// # Errors
    /// [`RoleError::Occupied`] names who is, [`Failed`](RoleError::Failed).
    pub fn consumer(&self) -> Result<Consumer<T, P>, RoleError> {
        let core = self.core.clone();
        let segment = core.object.segment();
        let lane = segment.lane().map_err(RoleError::Failed)?;
        let cache = core.ring().cache();
        while let Err(Occupied { lane: holder }) = core.ring().enter_consumer(&cache, lane) {
            if !segment.bury(holder) {
                return Err(RoleError::Occupied(core.holder(holder)));
            }
        }
        Ok(Consumer { cache, lane, thread: PhantomData, core })
    }
}

impl<T, P: Side> Drop for Consumer<T, P> {
    fn drop(&mut self) {
        self.core.ring().leave_consumer(self.lane);
    }
}

impl<T, P: Side> fmt::Debug for Consumer<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consumer({} of {})", self.core.ring().len(), self.core.ring().capacity())
    }
}

impl<T, P: Side> Consumer<T, P> {
    #[inline(always)]
    fn popping_place(&self) -> Result<(&Core<P, One>, &RingCache, Lane), Error> {
        Ok((&self.core, &self.cache, self.lane))
    }
}

impl<T, P: Side> Ring<T, P, Many> {
    #[inline(always)]
    fn popping_place(&self) -> Result<(&Core<P, Many>, &RingCache, Lane), Error> {
        Ok((&self.core, &self.core.cache, self.core.object.segment().lane()?))
    }
}

macro_rules! popping {
    ($handle:ty, $side:ty, $($me:tt)*) => {
        impl<T: Value, P: Side> $handle {
            /// Pops the oldest value, waiting while the ring is empty.
            ///
            /// # Errors
            /// [`PopError::Disconnected`] instead of waiting for nobody, [`Invalid`](PopError::Invalid),
            /// [`Failed`](PopError::Failed).
            #[inline]
            #[doc(alias = "get")]
            pub fn pop($($me)* self) -> Result<T, PopError> {
                self.pop_by(Some(Deadline::NEVER))
            }

            /// Pops the oldest value if there is one now. Never blocks.
            ///
            /// # Errors
            /// [`PopError::Empty`], [`Invalid`](PopError::Invalid), [`Failed`](PopError::Failed).
            #[inline]
            #[doc(alias = "get_nowait")]
            pub fn try_pop($($me)* self) -> Result<T, PopError> {
                self.pop_by(None)
            }

            /// Pops the oldest value, waiting at most `timeout` for it.
            ///
            /// # Errors
            /// As [`pop`](Self::pop), and [`PopError::Timeout`].
            pub fn pop_timeout($($me)* self, timeout: Duration) -> Result<T, PopError> {
                self.pop_by(Some(Deadline::after(timeout)))
            }

            #[inline(always)]
            fn pop_by($($me)* self, deadline: Option<Deadline>) -> Result<T, PopError> {
                let (core, cache, lane) = self.popping_place().map_err(PopError::Failed)?;
                let taken = core.take(cache, lane, deadline)?;
                let value = checked(core.value(taken.position));
                // Consumed whatever it was: a value that cannot be read must not block those behind it.
                core.done(taken).map_err(PopError::Failed)?;
                value
            }

            /// The oldest value in its place, waiting while the ring is empty. Room for others comes with its end.
            ///
            /// # Errors
            /// As [`pop`](Self::pop), without [`Invalid`](PopError::Invalid).
            pub fn peek($($me)* self) -> Result<Peek<'_, T, P, $side>, PopError> {
                self.peek_by(Some(Deadline::NEVER))
            }

            /// The oldest value in its place, if there is one now. Never blocks.
            ///
            /// # Errors
            /// [`PopError::Empty`], [`Failed`](PopError::Failed).
            pub fn try_peek($($me)* self) -> Result<Peek<'_, T, P, $side>, PopError> {
                self.peek_by(None)
            }

            /// The oldest value in its place, waiting at most `timeout` for it.
            ///
            /// # Errors
            /// As [`peek`](Self::peek), and [`PopError::Timeout`].
            pub fn peek_timeout($($me)* self, timeout: Duration) -> Result<Peek<'_, T, P, $side>, PopError> {
                self.peek_by(Some(Deadline::after(timeout)))
            }

            fn peek_by($($me)* self, deadline: Option<Deadline>) -> Result<Peek<'_, T, P, $side>, PopError> {
                let (core, cache, lane) = self.popping_place().map_err(PopError::Failed)?;
                Ok(Peek { core, taken: core.take(cache, lane, deadline)?, thread: PhantomData })
            }

            /// Pops up to `most` values that are there now onto the end of `values`: how many. Never blocks.
            ///
            /// # Errors
            /// [`PopError::Invalid`] for bytes that are no value, which are consumed; [`Failed`](PopError::Failed). What
            /// came before stands in `values`.
            pub fn try_pop_all($($me)* self, values: &mut Vec<T>, most: usize) -> Result<usize, PopError> {
                let (core, cache, lane) = self.popping_place().map_err(PopError::Failed)?;
                let before = values.len();
                let (mut last, mut ended) = (None, Ok(()));
                while ended.is_ok() && values.len() - before < most {
                    ended = core.take(cache, lane, None).and_then(|taken| {
                        let value = checked(core.value(taken.position));
                        if <$side>::MANY {
                            core.done(taken).map_err(PopError::Failed)?;
                        } else {
                            // One end for all of them.
                            last = Some(taken);
                        }
                        value.map(|value| values.push(value))
                    });
                }
                if let Some(taken) = last {
                    core.done(taken).map_err(PopError::Failed)?;
                }
                match ended {
                    Ok(()) | Err(PopError::Empty) => Ok(values.len() - before),
                    Err(e) => Err(e),
                }
            }
        }
    };
}

popping!(Ring<T, P, Many>, Many, &);
popping!(Consumer<T, P>, One, &mut);
