//! The end that pops, and the slot that it shows.

use std::mem::ManuallyDrop;
use std::time::Duration;

use super::{Opened, Payload, Producer, SEATS, SPSC};
use crate::channel::Delivery;
use crate::channel::end::{CONSUMER, End, PRODUCER, PopError, Refused};
use crate::error::{Error, ErrorKind};
use crate::ring::spsc::Reader;
use crate::segment::{Object, ObjectId, Segment, ShmSlice, type_hash};

/// The end that pops.
///
/// There is one consumer in the world at a time; what [`Producer`] says about handles and seats holds here too.
///
/// # If a peer dies
/// If this process dies, a value that [`pop`](Self::pop) has not returned is delivered to a successor. One that was
/// [peeked](Self::peek) at and not released is delivered again, first and marked. A successor comes from
/// [`Producer::other_end`] or [`open`](Self::open).
///
/// If the producer dies, what it had committed is popped first; then comes [`PopError::Disconnected`] with the process id, at
/// the latest after the next look (64 ms).
pub struct Consumer<T> {
    pub(super) end: End,
    pub(super) opened: Opened<T>,
    reader: Reader,
}

impl<T: Payload> Consumer<T> {
    pub(super) fn from_object(object: Object) -> Result<Self, Error> {
        let opened = Opened::new(&object)?;
        Ok(Self { end: End::new(object, SEATS), opened, reader: Reader::nowhere() })
    }

    /// Opens the consumer's end of a channel by the [`id`](Self::id) that a handle told.
    ///
    /// # Errors
    /// As [`Producer::open`].
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, CONSUMER, &SPSC, type_hash::<T>())?)
    }

    /// The other end once more, for a successor of its producer.
    ///
    /// # Errors
    /// As [`Producer::open`].
    pub fn other_end(&self) -> Result<Producer<T>, Error> {
        let object = self.end.object();
        Producer::from_object(object.in_role(PRODUCER)?)
    }

    /// Takes the consumer's seat now and not at the first pop.
    ///
    /// # Errors
    /// [`PopError::InUse`] if another handle has it, [`Failed`](PopError::Failed).
    pub fn claim(&mut self) -> Result<(), PopError> {
        if self.end.is_seated() { Ok(()) } else { self.sit().map_err(PopError::new) }
    }

    #[cold]
    fn sit(&mut self) -> Result<(), Refused> {
        self.end.sit()?;
        self.reader = self.opened.ring().reader();
        Ok(())
    }

    /// Whether the next value is there.
    #[inline(always)]
    fn is_ready(&mut self) -> Result<bool, Refused> {
        if !self.end.is_seated() {
            self.sit()?;
        }
        Ok(self.opened.ring().is_ready(&self.reader)?)
    }

    /// Whether the next value is there; if not, whether there will never be one.
    #[inline(always)]
    fn is_ready_now(&mut self) -> Result<(), PopError> {
        match self.is_ready() {
            Ok(true) => Ok(()),
            Ok(false) => self.is_empty_or_ended(),
            Err(why) => Err(PopError::new(why)),
        }
    }

    #[cold]
    fn is_empty_or_ended(&mut self) -> Result<(), PopError> {
        let alone = self.end.is_alone();
        match self.is_ready() {
            Ok(true) => Ok(()),
            Ok(false) if alone => Err(PopError::new(self.end.disconnected())),
            Ok(false) => Err(PopError::Empty),
            Err(why) => Err(PopError::new(why)),
        }
    }

    #[inline(always)]
    fn wait_for_value(&mut self, timeout: Option<Duration>) -> Result<(), PopError> {
        match self.is_ready() {
            Ok(true) => Ok(()),
            Ok(false) => self.sleep_for_value(timeout),
            Err(why) => Err(PopError::new(why)),
        }
    }

    #[cold]
    fn sleep_for_value(&mut self, timeout: Option<Duration>) -> Result<(), PopError> {
        let Self { end, opened, reader } = self;
        end.wait(timeout, |_| Ok(opened.ring().is_ready(reader)?.then_some(()))).map_err(PopError::new)
    }

    /// Copies the value out and acknowledges it; it is there.
    #[inline(always)]
    fn take(&mut self) -> Result<T, PopError> {
        let value = self.opened.payload(self.reader.position()).read_checked::<T>();
        self.release(1);
        value.ok_or_else(invalid::<T>)
    }

    #[inline(always)]
    fn release(&mut self, count: u64) {
        self.opened.ring().release(&mut self.reader, count);
        if self.end.is_room_wanted() && self.opened.ring().offer_room(&mut self.reader) {
            self.end.wake_producer();
        }
    }

    /// Pops the oldest value, waiting for one.
    ///
    /// # Errors
    /// [`PopError::Disconnected`] if the ring is empty and nobody has the other end; [`Invalid`](PopError::Invalid),
    /// [`InUse`](PopError::InUse), [`Failed`](PopError::Failed).
    #[inline(always)]
    pub fn pop(&mut self) -> Result<T, PopError> {
        self.wait_for_value(None)?;
        self.take()
    }

    /// Pops the oldest value if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Empty`].
    #[inline(always)]
    pub fn try_pop(&mut self) -> Result<T, PopError> {
        self.is_ready_now()?;
        self.take()
    }

    /// Pops the oldest value, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Timeout`].
    pub fn pop_timeout(&mut self, timeout: Duration) -> Result<T, PopError> {
        self.wait_for_value(Some(timeout))?;
        self.take()
    }

    /// Pops the oldest value, looking again and again: for threads that own their CPU. Never sleeps.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    #[inline(always)]
    pub fn pop_spin(&mut self) -> Result<T, PopError> {
        match self.is_ready() {
            Ok(true) => {}
            Ok(false) => self.spin_for_value()?,
            Err(why) => return Err(PopError::new(why)),
        }
        self.take()
    }

    #[inline(never)]
    fn spin_for_value(&mut self) -> Result<(), PopError> {
        let Self { end, opened, reader } = self;
        let ring = opened.ring();
        end.spin(|| Ok(ring.is_ready(reader)?.then_some(()))).map_err(PopError::new)
    }

    /// Pops the oldest value and whether somebody who died had it in hand, waiting at most `timeout` (`None` for ever).
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Timeout`].
    pub fn pop_delivery(&mut self, timeout: Option<Duration>) -> Result<Delivery<T>, PopError> {
        self.wait_for_value(timeout)?;
        let redelivered = self.reader.is_redelivered();
        Ok(Delivery { value: self.take()?, redelivered, deliveries: 1 + u32::from(redelivered) })
    }

    /// Pops as many values as there are into `values`, which has room for one at least, waiting for the first: how many.
    /// They are acknowledged together.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn pop_into(&mut self, values: &mut [T]) -> Result<usize, PopError> {
        self.wait_for_value(None)?;
        self.take_some(values)
    }

    /// Pops as many values as there are now. Never blocks.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Empty`].
    pub fn try_pop_into(&mut self, values: &mut [T]) -> Result<usize, PopError> {
        self.is_ready_now()?;
        self.take_some(values)
    }

    /// Pops as many values as there are, waiting at most `timeout` for the first.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Timeout`].
    pub fn pop_into_timeout(&mut self, values: &mut [T], timeout: Duration) -> Result<usize, PopError> {
        self.wait_for_value(Some(timeout))?;
        self.take_some(values)
    }

    fn take_some(&mut self, values: &mut [T]) -> Result<usize, PopError> {
        let mut count = 0;
        let mut bad = false;
        for to in values.iter_mut() {
            // A damaged slot is found again by the call that begins with it.
            if !matches!(self.opened.ring().is_ready_behind(&self.reader, count), Ok(true)) {
                break;
            }
            match self.opened.payload(self.reader.position().wrapping_add(count)).read_checked::<T>() {
                Some(value) => *to = value,
                None => {
                    bad = true;
                    break;
                }
            }
            count += 1;
        }
        if bad && count == 0 {
            self.release(1);
            return Err(invalid::<T>());
        }
        if count > 0 {
            self.release(count);
        }
        Ok(count as usize)
    }

    /// Shows the oldest value in place, waiting for one. It stays in the ring until it is [released](Peek::release).
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn peek(&mut self) -> Result<Peek<'_, T>, PopError> {
        self.wait_for_value(None)?;
        Ok(Peek::new(self))
    }

    /// Shows the oldest value in place if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Empty`].
    pub fn try_peek(&mut self) -> Result<Peek<'_, T>, PopError> {
        self.is_ready_now()?;
        Ok(Peek::new(self))
    }

    /// Shows the oldest value in place, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Timeout`].
    pub fn peek_timeout(&mut self, timeout: Duration) -> Result<Peek<'_, T>, PopError> {
        self.wait_for_value(Some(timeout))?;
        Ok(Peek::new(self))
    }
}

#[cold]
fn invalid<T>() -> PopError {
    let message = format!("bytes that are no {}", std::any::type_name::<T>());
    PopError::Invalid(Error::new(ErrorKind::Codec, "pop", message))
}

/// The oldest value, in its slot. Dropped without [`release`](Self::release), it stays the oldest.
pub struct Peek<'a, T: Payload> {
    consumer: &'a mut Consumer<T>,
}

impl<'a, T: Payload> Peek<'a, T> {
    #[inline]
    fn new(consumer: &'a mut Consumer<T>) -> Self {
        consumer.opened.ring().open(&consumer.reader);
        Self { consumer }
    }

    /// The slot's bytes; `ShmSlice` copies out parts, or, for whoever trusts the producer, gives a slice.
    #[inline]
    pub fn bytes(&self) -> ShmSlice<'_> {
        self.consumer.opened.payload(self.consumer.reader.position())
    }

    /// The value, copied out.
    ///
    /// # Errors
    /// [`PopError::Invalid`] if the bytes are no value of this type; it stays in the ring.
    pub fn get(&self) -> Result<T, PopError> {
        self.bytes().read_checked::<T>().ok_or_else(invalid::<T>)
    }

    /// Whether a consumer that died had it in hand.
    pub fn is_redelivered(&self) -> bool {
        self.consumer.reader.is_redelivered()
    }

    /// Takes the value out of the ring: the slot is the producer's again.
    #[inline]
    pub fn release(self) {
        ManuallyDrop::new(self).consumer.release(1);
    }
}

impl<T: Payload> Drop for Peek<'_, T> {
    fn drop(&mut self) {
        self.consumer.opened.ring().close(&self.consumer.reader);
    }
}
