//! The side that pushes: loans, and the one producer's handle.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::error::{PushError, RoleError};
use super::{Ring, Value};
use crate::ring::{Claim, Many, Occupied, One, RingCache, Side};
use crate::segment::ShmSlice;
use crate::sync::{Lane, Peers};
use crate::sys::clock::Deadline;

/// A slot that belongs to the caller until [`commit`](Self::commit); dropped without it, it is given up, and the others
/// step over it. What stands in it at first is an old value or zeros.
///
/// # If a peer dies
/// Nobody else's death concerns it. If its own process dies, the slot is given up by recovery, and counted as vanished.
#[must_use = "a loan that is dropped without a commit is given up"]
pub struct Loan<'a, T, P: Side, C: Side> {
    core: &'a Core<P, C>,
    claim: Claim,
    lane: Lane,
    /// A lane belongs to one thread.
    thread: PhantomData<(*const (), T)>,
}

impl<T: Value, P: Side, C: Side> Loan<'_, T, P, C> {
    /// The bytes of the value, to be written in parts.
    pub fn slice(&self) -> ShmSlice<'_> {
        self.core.value(self.claim.position)
    }

    /// Writes the whole value.
    #[inline]
    pub fn write(&mut self, value: &T) {
        self.slice().write(0, bytemuck::bytes_of(value));
    }

    /// Makes the value available.
    #[inline]
    pub fn commit(self) {
        self.core.commit(self.claim, self.lane);
        std::mem::forget(self);
    }
}

impl<T, P: Side, C: Side> Drop for Loan<'_, T, P, C> {
    fn drop(&mut self) {
        self.core.abort(self.claim);
    }
}

impl<T, P: Side, C: Side> fmt::Debug for Loan<'_, T, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loan({} of {})", self.claim.position, self.core.ring().capacity())
    }
}

/// The one producer of a ring of one producer: made by [`Ring::producer`], given up by dropping it.
///
/// It stays in its thread, whose lane stands in the ring. If the process dies, a successor goes on behind what was
/// committed.
pub struct Producer<T, C: Side = One> {
    core: Arc<Core<One, C>>,
    cache: RingCache,
    lane: Lane,
    thread: PhantomData<(*const (), T)>,
}

impl<T: Value, C: Side> Ring<T, One, C> {
    /// Makes the calling thread the one producer. Never blocks; the place of a dead one is free.
    ///
    /// # Errors
    /// [`RoleError::Occupied`] names who is, [`Failed`](RoleError::Failed).
    pub fn producer(&self) -> Result<Producer<T, C>, RoleError> {
        let core = self.core.clone();
        let segment = core.object.segment();
        let lane = segment.lane().map_err(RoleError::Failed)?;
        while let Err(Occupied { lane: holder }) = core.ring().enter_producer(lane) {
            if !segment.bury(holder) {
                return Err(RoleError::Occupied(core.holder(holder)));
            }
        }
        let cache = core.ring().cache();
        Ok(Producer { cache, lane, thread: PhantomData, core })
    }
}

impl<T, C: Side> Drop for Producer<T, C> {
    fn drop(&mut self) {
        self.core.ring().leave_producer(self.lane);
    }
}

impl<T, C: Side> fmt::Debug for Producer<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({} of {})", self.core.ring().len(), self.core.ring().capacity())
    }
}

impl<T, C: Side> Producer<T, C> {
    #[inline(always)]
    fn pushing_place(&self) -> Result<(&Core<One, C>, &RingCache, Lane), crate::error::Error> {
        Ok((&self.core, &self.cache, self.lane))
    }
}

impl<T, C: Side> Ring<T, Many, C> {
    #[inline(always)]
    fn pushing_place(&self) -> Result<(&Core<Many, C>, &RingCache, Lane), crate::error::Error> {
        Ok((&self.core, &self.core.cache, self.core.object.segment().lane()?))
    }
}

macro_rules! pushing {
    ($handle:ty, $side:ty, $($me:tt)*) => {
        impl<T: Value, C: Side> $handle {
            /// Pushes a value, waiting while the ring is full.
            ///
            /// # Errors
            /// [`PushError`] hands the value back: [`Disconnected`](PushError::Disconnected) instead of waiting for
            /// nobody, [`Failed`](PushError::Failed).
            #[inline]
            #[doc(alias = "put")]
            pub fn push($($me)* self, value: T) -> Result<(), PushError<T>> {
                self.push_by(value, Some(Deadline::NEVER))
            }

            /// Pushes a value if there is room now. Never blocks.
            ///
            /// # Errors
            /// [`PushError::Full`], [`Failed`](PushError::Failed).
            #[inline]
            #[doc(alias = "put_nowait")]
            pub fn try_push($($me)* self, value: T) -> Result<(), PushError<T>> {
                self.push_by(value, None)
            }

            /// Pushes a value, waiting at most `timeout` while the ring is full.
            ///
            /// # Errors
            /// As [`push`](Self::push), and [`PushError::Timeout`].
            pub fn push_timeout($($me)* self, value: T, timeout: Duration) -> Result<(), PushError<T>> {
                self.push_by(value, Some(Deadline::after(timeout)))
            }

            #[inline(always)]
            fn push_by($($me)* self, value: T, deadline: Option<Deadline>) -> Result<(), PushError<T>> {
                let (core, cache, lane) = match self.pushing_place() {
                    Ok(place) => place,
                    Err(e) => return Err(PushError::Failed(value, e)),
                };
                let claim = match core.claim(cache, lane, deadline) {
                    Ok(claim) => claim,
                    Err(e) => return Err(e.with(value)),
                };
                core.value(claim.position).write(0, bytemuck::bytes_of(&value));
                core.commit(claim, lane);
                Ok(())
            }

            /// Lends a slot to be written in place, waiting while the ring is full. The values behind it wait for its end.
            ///
            /// # Errors
            /// As [`push`](Self::push).
            pub fn loan($($me)* self) -> Result<Loan<'_, T, $side, C>, PushError<()>> {
                self.loan_by(Some(Deadline::NEVER))
            }

            /// Lends a slot if there is one now. Never blocks.
            ///
            /// # Errors
            /// As [`try_push`](Self::try_push).
            pub fn try_loan($($me)* self) -> Result<Loan<'_, T, $side, C>, PushError<()>> {
                self.loan_by(None)
            }

            /// Lends a slot, waiting at most `timeout` while the ring is full.
            ///
            /// # Errors
            /// As [`push_timeout`](Self::push_timeout).
            pub fn loan_timeout($($me)* self, timeout: Duration) -> Result<Loan<'_, T, $side, C>, PushError<()>> {
                self.loan_by(Some(Deadline::after(timeout)))
            }

            fn loan_by($($me)* self, deadline: Option<Deadline>) -> Result<Loan<'_, T, $side, C>, PushError<()>> {
                let (core, cache, lane) = self.pushing_place().map_err(|e| PushError::Failed((), e))?;
                Ok(Loan { core, claim: core.claim(cache, lane, deadline)?, lane, thread: PhantomData })
            }
        }
    };
}

pushing!(Ring<T, Many, C>, Many, &);
pushing!(Producer<T, C>, One, &mut);

impl<T: Value, C: Side> Ring<T, Many, C> {
    /// Pushes values from the front of `values` as long as there is room: how many. Others' values may come between.
    /// Never blocks; wakes those who wait once for all.
    ///
    /// # Errors
    /// [`PushError::Failed`] says how many were pushed before.
    pub fn try_push_all(&self, values: &[T]) -> Result<usize, PushError<usize>> {
        let (core, cache, lane) = self.pushing_place().map_err(|e| PushError::Failed(0, e))?;
        let mut count = 0;
        let refused = values.iter().find_map(|value| {
            let claim = match core.claim(cache, lane, None) {
                Ok(claim) => claim,
                Err(e) => return Some(e),
            };
            core.value(claim.position).write(0, bytemuck::bytes_of(value));
            core.ring().commit(claim, lane);
            count += 1;
            None
        });
        core.notify_items(count);
        match refused {
            None | Some(PushError::Full(())) => Ok(count),
            Some(e) => Err(e.with(count)),
        }
    }
}

impl<T: Value, C: Side> Producer<T, C> {
    /// Pushes values from the front of `values` as long as there is room: how many. Consumers see them one by one, and
    /// those who wait are woken once for all. Never blocks.
    ///
    /// # Errors
    /// [`PushError::Failed`] says how many were pushed before.
    pub fn try_push_all(&mut self, values: &[T]) -> Result<usize, PushError<usize>> {
        let (core, mut count) = (&*self.core, 0);
        while count < values.len() {
            let most = (values.len() - count).min(core.ring().capacity()) as u32;
            // What is remembered of the ring may say less room than there is: claim until it says none.
            match core.ring().claim_run(&self.cache, most) {
                Ok((claim, run)) => {
                    for (k, value) in values[count..][..run as usize].iter().enumerate() {
                        core.value(claim.position + k as u64).write(0, bytemuck::bytes_of(value));
                    }
                    core.ring().commit_run(claim, run, self.lane);
                    count += run as usize;
                }
                Err(crate::ring::ClaimError::Full) => break,
                Err(e) => {
                    core.notify_items(count);
                    let e = crate::error::Error::corrupt("ring", "claim", e, "room or none");
                    return Err(PushError::Failed(count, e));
                }
            }
        }
        core.notify_items(count);
        Ok(count)
    }
}
