//! The end that pops, and the record that it shows.

use std::mem::ManuallyDrop;
use std::time::Duration;

use super::{BYTES, Opened, Producer, SEATS, hash};
use crate::channel::end::{CONSUMER, End, PRODUCER, PopError, Refused};
use crate::error::Error;
use crate::ring::bytes::{Reader, Record};
use crate::segment::{Object, ObjectId, Segment, ShmSlice};

/// The end that pops. There is one consumer in the world at a time: see [`spsc::Consumer`](crate::channel::spsc::Consumer), also for
/// what deaths do.
pub struct Consumer {
    pub(super) end: End,
    pub(super) opened: Opened,
    reader: Reader,
}

impl Consumer {
    pub(super) fn from_object(object: Object) -> Result<Self, Error> {
        let opened = Opened::new(&object)?;
        Ok(Self { end: End::new(object, SEATS), opened, reader: Reader::nowhere() })
    }

    /// Opens the consumer's end of a channel by the [`id`](Self::id) that a handle told.
    ///
    /// # Errors
    /// As [`Producer::open`].
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, CONSUMER, &BYTES, hash())?)
    }

    /// The other end once more, for a successor of its producer.
    ///
    /// # Errors
    /// As [`Producer::open`].
    pub fn other_end(&self) -> Result<Producer, Error> {
        Producer::from_object(self.end.object().in_role(PRODUCER)?)
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
        self.reader = self.end.sit_with(|| self.opened.ring().reader())?;
        Ok(())
    }

    #[inline(always)]
    fn next(&mut self) -> Result<Option<Record>, Refused> {
        if !self.end.is_seated() {
            self.sit()?;
        }
        Ok(self.opened.ring().peek(&mut self.reader)?)
    }

    #[inline(always)]
    fn next_now(&mut self) -> Result<Record, PopError> {
        match self.next() {
            Ok(Some(record)) => Ok(record),
            Ok(None) => self.is_empty_or_ended(),
            Err(why) => Err(PopError::new(why)),
        }
    }

    #[cold]
    fn is_empty_or_ended(&mut self) -> Result<Record, PopError> {
        let alone = self.end.is_alone();
        match self.next() {
            Ok(Some(record)) => Ok(record),
            Ok(None) if alone => Err(PopError::new(self.end.disconnected())),
            Ok(None) => Err(PopError::Empty),
            Err(why) => Err(PopError::new(why)),
        }
    }

    #[inline(always)]
    fn wait_for_record(&mut self, timeout: Option<Duration>) -> Result<Record, PopError> {
        match self.next() {
            Ok(Some(record)) => Ok(record),
            Ok(None) => self.sleep_for_record(timeout),
            Err(why) => Err(PopError::new(why)),
        }
    }

    #[cold]
    fn sleep_for_record(&mut self, timeout: Option<Duration>) -> Result<Record, PopError> {
        let Self { end, opened, reader } = self;
        end.wait(timeout, |_| Ok(opened.ring().peek(reader)?)).map_err(PopError::new)
    }

    #[inline(always)]
    fn release(&mut self, record: Record) {
        let ring = self.opened.ring();
        ring.step(&mut self.reader, record);
        ring.acknowledge(&mut self.reader);
        if self.end.is_room_wanted() && ring.offer_room(&mut self.reader) {
            self.end.wake_producer();
        }
    }

    #[inline(always)]
    fn take(&mut self, record: Record, bytes: &mut Vec<u8>) {
        self.opened.record(record).read_into(0, record.len(), bytes);
        self.release(record);
    }

    /// Pops the oldest record, waiting for one.
    ///
    /// # Errors
    /// [`PopError::Disconnected`] if the ring is empty and nobody has the other end; [`InUse`](PopError::InUse),
    /// [`Failed`](PopError::Failed).
    pub fn pop(&mut self) -> Result<Vec<u8>, PopError> {
        let mut bytes = Vec::new();
        self.pop_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Pops the oldest record if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Empty`].
    pub fn try_pop(&mut self) -> Result<Vec<u8>, PopError> {
        let mut bytes = Vec::new();
        self.try_pop_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Pops the oldest record, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Timeout`].
    pub fn pop_timeout(&mut self, timeout: Duration) -> Result<Vec<u8>, PopError> {
        let mut bytes = Vec::new();
        self.pop_into_timeout(&mut bytes, timeout)?;
        Ok(bytes)
    }

    /// Replaces the contents of `bytes` by the oldest record, waiting for one.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    #[inline]
    pub fn pop_into(&mut self, bytes: &mut Vec<u8>) -> Result<(), PopError> {
        let record = self.wait_for_record(None)?;
        self.take(record, bytes);
        Ok(())
    }

    /// Replaces the contents of `bytes` by the oldest record if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Empty`].
    #[inline]
    pub fn try_pop_into(&mut self, bytes: &mut Vec<u8>) -> Result<(), PopError> {
        let record = self.next_now()?;
        self.take(record, bytes);
        Ok(())
    }

    /// Replaces the contents of `bytes` by the oldest record, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Timeout`].
    pub fn pop_into_timeout(&mut self, bytes: &mut Vec<u8>, timeout: Duration) -> Result<(), PopError> {
        let record = self.wait_for_record(Some(timeout))?;
        self.take(record, bytes);
        Ok(())
    }

    /// Shows the oldest record in place, waiting for one. It stays in the ring until it is [released](Peek::release).
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn peek(&mut self) -> Result<Peek<'_>, PopError> {
        let record = self.wait_for_record(None)?;
        Ok(Peek::new(self, record))
    }

    /// Shows the oldest record in place if there is one now. Never blocks.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Empty`].
    pub fn try_peek(&mut self) -> Result<Peek<'_>, PopError> {
        let record = self.next_now()?;
        Ok(Peek::new(self, record))
    }

    /// Shows the oldest record in place, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and [`PopError::Timeout`].
    pub fn peek_timeout(&mut self, timeout: Duration) -> Result<Peek<'_>, PopError> {
        let record = self.wait_for_record(Some(timeout))?;
        Ok(Peek::new(self, record))
    }

    /// Shows the oldest record in place, looking again and again: for threads that own their CPU. Never sleeps.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn peek_spin(&mut self) -> Result<Peek<'_>, PopError> {
        let record = match self.next() {
            Ok(Some(record)) => record,
            Ok(None) => {
                let Self { end, opened, reader } = self;
                end.spin(|| Ok(opened.ring().peek(reader)?)).map_err(PopError::new)?
            }
            Err(why) => return Err(PopError::new(why)),
        };
        Ok(Peek::new(self, record))
    }
}

/// The oldest record, in place. Dropped without [`release`](Self::release), it stays the oldest.
pub struct Peek<'a> {
    consumer: &'a mut Consumer,
    record: Record,
}

impl<'a> Peek<'a> {
    #[inline]
    fn new(consumer: &'a mut Consumer, record: Record) -> Self {
        consumer.opened.ring().open(&consumer.reader);
        Self { consumer, record }
    }

    /// Its bytes; `ShmSlice` copies out parts, or, for whoever trusts the producer, gives a slice.
    #[inline]
    pub fn bytes(&self) -> ShmSlice<'_> {
        self.consumer.opened.record(self.record)
    }

    /// Whether a consumer that died had it in hand.
    pub fn is_redelivered(&self) -> bool {
        self.consumer.reader.is_redelivered()
    }

    /// Takes the record out of the ring: its place is the producer's again.
    #[inline]
    pub fn release(self) {
        let record = self.record;
        ManuallyDrop::new(self).consumer.release(record);
    }
}

impl Drop for Peek<'_> {
    fn drop(&mut self) {
        self.consumer.opened.ring().close(&self.consumer.reader);
    }
}
