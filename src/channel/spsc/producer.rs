//! The end that pushes, and the slot that it lends.

use std::time::Duration;

use super::{Consumer, Opened, Payload, SEATS, SPSC};
#[cfg(doc)]
use crate::channel::PopError;
use crate::channel::end::{CONSUMER, End, PRODUCER, PushError, Refused};
use crate::error::Error;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::ring::spsc::{Look, Writer};
use crate::segment::{Object, ObjectId, Segment, ShmSlice, type_hash};

/// The end that pushes.
///
/// There is one producer in the world at a time. A handle that was not used yet is only a right to become it: the first push
/// (or [`claim`](Self::claim)) takes the seat, and the handle has it until it is dropped or passed on. A handle is a value
/// that goes to a child as an argument or through a queue; passing it gives the seat up, so whoever receives it can take it.
///
/// # If a peer dies
/// If this process dies, what it had committed is delivered, and a value that it was writing was never there. The consumer gets
/// [`PopError::Disconnected`] once nobody has a producer's handle. A successor, from [`Consumer::other_end`] or
/// [`open`](Self::open), continues behind what was committed.
///
/// If the consumer dies, pushes go on until that is known, and then give [`PushError::Disconnected`]; whoever waits for room
/// finds out at the latest after the next look (64 ms). What was pushed stays for a successor.
pub struct Producer<T> {
    pub(super) end: End,
    pub(super) opened: Opened<T>,
    writer: Writer,
}

impl<T: Payload> Producer<T> {
    pub(super) fn from_object(object: Object) -> Result<Self, Error> {
        let opened = Opened::new(&object)?;
        Ok(Self { end: End::new(object, SEATS), opened, writer: Writer::nowhere() })
    }

    /// Opens the producer's end of a channel by the [`id`](Self::id) that a handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](ErrorKind::TypeMismatch) if it is no channel of `T`, [`Gone`](ErrorKind::Gone) if it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, PRODUCER, &SPSC, type_hash::<T>())?)
    }

    /// The other end once more, for a successor of its consumer.
    ///
    /// # Errors
    /// As [`Consumer::open`].
    pub fn other_end(&self) -> Result<Consumer<T>, Error> {
        let object = self.end.object();
        Consumer::from_object(object.in_role(CONSUMER)?)
    }

    /// Takes the producer's seat now and not at the first push.
    ///
    /// # Errors
    /// [`PushError::InUse`] if another handle has it, [`Failed`](PushError::Failed).
    pub fn claim(&mut self) -> Result<(), PushError<()>> {
        if self.end.is_seated() { Ok(()) } else { self.sit().map_err(|why| PushError::new(why, ())) }
    }

    #[cold]
    fn sit(&mut self) -> Result<(), Refused> {
        self.writer = self.end.sit_with(|| self.opened.ring().writer())?;
        Ok(())
    }

    /// Whether the next slot may be written, as far as one look tells. Whoever may wait looks at what is published: with the exact
    /// head it would get the slots one by one, and take that line from the consumer each time.
    #[inline(always)]
    fn has_room(&mut self, look: Look) -> Result<bool, Refused> {
        if !self.end.is_seated() {
            self.sit()?;
        }
        if self.end.is_alone() {
            return Err(self.end.disconnected());
        }
        Ok(self.writer.room() > 0 || self.opened.ring().look_for_room(&mut self.writer, look)? > 0)
    }

    #[inline(always)]
    fn wait_for_room(&mut self, timeout: Option<Duration>) -> Result<(), Refused> {
        if self.has_room(Look::Published)? { Ok(()) } else { self.sleep_for_room(timeout) }
    }

    #[cold]
    fn sleep_for_room(&mut self, timeout: Option<Duration>) -> Result<(), Refused> {
        let Self { end, opened, writer } = self;
        end.wait(timeout, |exactly| {
            let look = if exactly { Look::Exact } else { Look::Published };
            Ok((opened.ring().look_for_room(writer, look)? > 0).then_some(()))
        })
    }

    /// Writes and commits the value; there is room.
    #[inline(always)]
    fn put(&mut self, value: &T) {
        self.opened.payload(self.writer.position()).write(0, bytemuck::bytes_of(value));
        self.opened.ring().commit(&mut self.writer);
    }

    /// Pushes a value, waiting while the ring is full.
    ///
    /// # Errors
    /// [`PushError`] hands the value back: [`Disconnected`](PushError::Disconnected), [`InUse`](PushError::InUse),
    /// [`Failed`](PushError::Failed).
    #[inline(always)]
    pub fn push(&mut self, value: T) -> Result<(), PushError<T>> {
        self.push_by(value, None)
    }

    /// Pushes a value if there is room now. Never blocks. To try again and again, use [`push_spin`](Self::push_spin).
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`PushError::Full`].
    #[inline(always)]
    pub fn try_push(&mut self, value: T) -> Result<(), PushError<T>> {
        match self.has_room(Look::Exact) {
            Ok(true) => {
                self.put(&value);
                self.end.notify_consumer();
                Ok(())
            }
            Ok(false) => Err(PushError::Full(value)),
            Err(why) => Err(PushError::new(why, value)),
        }
    }

    /// Pushes a value, waiting at most `timeout` while the ring is full.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`PushError::Timeout`].
    pub fn push_timeout(&mut self, value: T, timeout: Duration) -> Result<(), PushError<T>> {
        self.push_by(value, Some(timeout))
    }

    #[inline(always)]
    fn push_by(&mut self, value: T, timeout: Option<Duration>) -> Result<(), PushError<T>> {
        if let Err(why) = self.wait_for_room(timeout) {
            return Err(PushError::new(why, value));
        }
        self.put(&value);
        self.end.notify_consumer();
        Ok(())
    }

    /// Pushes a value, trying again and again while the ring is full: for threads that own their CPU. Never sleeps.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    #[inline(always)]
    pub fn push_spin(&mut self, value: T) -> Result<(), PushError<T>> {
        let room = match self.has_room(Look::Published) {
            Ok(true) => Ok(()),
            Ok(false) => self.spin_for_room(),
            Err(why) => Err(why),
        };
        if let Err(why) = room {
            return Err(PushError::new(why, value));
        }
        self.put(&value);
        self.end.notify_consumer();
        Ok(())
    }

    #[inline(never)]
    fn spin_for_room(&mut self) -> Result<(), Refused> {
        let Self { end, opened, writer } = self;
        let mut looks = 0u32;
        end.spin(|| {
            // The exact head now and then: the consumer may have stopped short of publishing it.
            looks = looks.wrapping_add(1);
            let look = if looks % 1024 == 0 { Look::Exact } else { Look::Published };
            Ok((opened.ring().look_for_room(writer, look)? > 0).then_some(()))
        })
    }

    /// Pushes as many of `values` as there is room for now, and says how many. Never blocks, and looks for sleepers once.
    ///
    /// # Errors
    /// [`PushError::Full`] if there is room for none; else as [`push`](Self::push).
    pub fn try_push_slice(&mut self, values: &[T]) -> Result<usize, PushError<()>> {
        if values.is_empty() {
            return Ok(0);
        }
        match self.has_room(Look::Exact) {
            Ok(true) => Ok(self.put_some(values)),
            Ok(false) => Err(PushError::Full(())),
            Err(why) => Err(PushError::new(why, ())),
        }
    }

    /// Pushes all `values`, waiting while the ring is full. The consumer may get the first before the last is pushed.
    ///
    /// # Errors
    /// As [`push`](Self::push), with the number of values that were pushed.
    pub fn push_slice(&mut self, values: &[T]) -> Result<(), PushError<usize>> {
        let mut pushed = 0;
        while pushed < values.len() {
            self.wait_for_room(None).map_err(|why| PushError::new(why, pushed))?;
            pushed += self.put_some(&values[pushed..]);
        }
        Ok(())
    }

    /// Commits as many as there is room for; there is room for one.
    fn put_some(&mut self, values: &[T]) -> usize {
        if self.writer.room() < values.len() as u64 {
            // What it says stays with the writer; a damaged ring is found by the next who needs room.
            let _ = self.opened.ring().look_for_room(&mut self.writer, Look::Published);
        }
        let count = values.len().min(usize::try_from(self.writer.room()).unwrap_or(usize::MAX));
        values[..count].iter().for_each(|value| self.put(value));
        self.end.notify_consumer();
        count
    }

    /// Lends the next slot, to be filled in place, waiting while the ring is full.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn loan(&mut self) -> Result<Loan<'_, T>, PushError<()>> {
        self.loan_by(None)
    }

    /// Lends the next slot if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`PushError::Full`].
    pub fn try_loan(&mut self) -> Result<Loan<'_, T>, PushError<()>> {
        match self.has_room(Look::Exact) {
            Ok(true) => Ok(Loan { producer: self }),
            Ok(false) => Err(PushError::Full(())),
            Err(why) => Err(PushError::new(why, ())),
        }
    }

    /// Lends the next slot, waiting at most `timeout` while the ring is full.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`PushError::Timeout`].
    pub fn loan_timeout(&mut self, timeout: Duration) -> Result<Loan<'_, T>, PushError<()>> {
        self.loan_by(Some(timeout))
    }

    #[inline]
    fn loan_by(&mut self, timeout: Option<Duration>) -> Result<Loan<'_, T>, PushError<()>> {
        self.wait_for_room(timeout).map_err(|why| PushError::new(why, ()))?;
        Ok(Loan { producer: self })
    }
}

/// A slot that is being filled. Dropped without [`commit`](Self::commit), it was never there.
#[must_use = "a loan that is dropped is given up"]
pub struct Loan<'a, T: Payload> {
    producer: &'a mut Producer<T>,
}

impl<T: Payload> Loan<'_, T> {
    /// The slot's bytes, as its last user left them: write fields at their `offset_of!`.
    #[inline]
    pub fn bytes(&self) -> ShmSlice<'_> {
        self.producer.opened.payload(self.producer.writer.position())
    }

    /// Writes a whole value.
    #[inline]
    pub fn write(&mut self, value: &T) {
        self.bytes().write(0, bytemuck::bytes_of(value));
    }

    /// Commits what is in the slot.
    #[inline]
    pub fn commit(self) {
        self.producer.opened.ring().commit(&mut self.producer.writer);
        self.producer.end.notify_consumer();
    }
}
