//! The end that pushes, and the place that it reserves.

use std::mem::ManuallyDrop;
use std::time::Duration;

use super::{BYTES, Consumer, Opened, SEATS, hash};
use crate::channel::end::{CONSUMER, End, PRODUCER, PushError, Refused};
use crate::error::{Error, ErrorKind};
use crate::ring::bytes::{Reserved, Writer};
use crate::ring::spsc::Look;
use crate::segment::{Object, ObjectId, Segment, ShmSlice};

/// The end that pushes. There is one producer in the world at a time: see [`spsc::Producer`](crate::channel::spsc::Producer).
///
/// # If a peer dies
/// As there. A record that was being written vanishes, and is counted in [`Segment::stats`].
pub struct Producer {
    pub(super) end: End,
    pub(super) opened: Opened,
    writer: Writer,
}

impl Producer {
    pub(super) fn from_object(object: Object) -> Result<Self, Error> {
        let opened = Opened::new(&object)?;
        Ok(Self { end: End::new(object, SEATS), opened, writer: Writer::nowhere() })
    }

    /// Opens the producer's end of a channel by the [`id`](Self::id) that a handle told.
    ///
    /// # Errors
    /// [`TypeMismatch`](ErrorKind::TypeMismatch) if it is no such channel, [`Gone`](ErrorKind::Gone) if it exists no more.
    pub fn open(segment: &Segment, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, PRODUCER, &BYTES, hash())?)
    }

    /// The other end once more, for a successor of its consumer.
    ///
    /// # Errors
    /// As [`Consumer::open`].
    pub fn other_end(&self) -> Result<Consumer, Error> {
        Consumer::from_object(self.end.object().in_role(CONSUMER)?)
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

    /// A place for a record, as far as one look tells. Whoever may wait looks at what is published.
    #[inline(always)]
    fn place(&mut self, len: usize, look: Look) -> Result<Option<Reserved>, Refused> {
        if !self.end.is_seated() {
            self.sit()?;
        }
        if self.end.is_alone() {
            return Err(self.end.disconnected());
        }
        let longest = self.opened.ring().longest();
        if len > longest {
            return Err(too_long(len, longest));
        }
        Ok(self.opened.ring().reserve(&mut self.writer, len, look)?)
    }

    #[inline(always)]
    fn wait_for_place(&mut self, len: usize, timeout: Option<Duration>) -> Result<Reserved, Refused> {
        match self.place(len, Look::Published)? {
            Some(place) => Ok(place),
            None => self.sleep_for_place(len, timeout),
        }
    }

    #[cold]
    fn sleep_for_place(&mut self, len: usize, timeout: Option<Duration>) -> Result<Reserved, Refused> {
        // What is written and not committed must not be what the room is waited for.
        self.commit();
        let Self { end, opened, writer } = self;
        end.wait(timeout, |exactly| {
            let look = if exactly { Look::Exact } else { Look::Published };
            Ok(opened.ring().reserve(writer, len, look)?)
        })
    }

    #[inline(always)]
    fn write(&mut self, place: Reserved, bytes: &[u8]) {
        self.opened.room(place).write(0, bytes);
        self.opened.ring().write(&mut self.writer, place);
    }

    #[inline(always)]
    fn commit(&mut self) {
        if self.writer.is_behind() {
            self.opened.ring().commit(&mut self.writer);
            self.end.notify_consumer();
        }
    }

    /// Pushes a record, waiting while there is no room.
    ///
    /// # Errors
    /// [`PushError::Disconnected`], [`InUse`](PushError::InUse), [`Failed`](PushError::Failed), which is also that the
    /// record is longer than [`longest`](Self::longest).
    #[inline]
    pub fn push(&mut self, record: &[u8]) -> Result<(), PushError<()>> {
        self.push_by(record, None)
    }

    /// Pushes a record if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`PushError::Full`].
    #[inline]
    pub fn try_push(&mut self, record: &[u8]) -> Result<(), PushError<()>> {
        match self.place(record.len(), Look::Exact) {
            Ok(Some(place)) => {
                self.write(place, record);
                self.commit();
                Ok(())
            }
            Ok(None) => Err(PushError::Full(())),
            Err(why) => Err(PushError::new(why, ())),
        }
    }

    /// Pushes a record, waiting at most `timeout` while there is no room.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`PushError::Timeout`].
    pub fn push_timeout(&mut self, record: &[u8], timeout: Duration) -> Result<(), PushError<()>> {
        self.push_by(record, Some(timeout))
    }

    #[inline(always)]
    fn push_by(&mut self, record: &[u8], timeout: Option<Duration>) -> Result<(), PushError<()>> {
        let place = self.wait_for_place(record.len(), timeout).map_err(|why| PushError::new(why, ()))?;
        self.write(place, record);
        self.commit();
        Ok(())
    }

    /// Pushes all `records` with few commits, waiting while there is no room: whatever was written is committed before each
    /// wait, and at the end.
    ///
    /// # Errors
    /// As [`push`](Self::push), with the number of records that were pushed.
    pub fn push_all<'b>(&mut self, records: impl IntoIterator<Item = &'b [u8]>) -> Result<(), PushError<usize>> {
        let mut result = Ok(());
        for (pushed, record) in records.into_iter().enumerate() {
            match self.wait_for_place(record.len(), None) {
                Ok(place) => self.write(place, record),
                Err(why) => {
                    result = Err(PushError::new(why, pushed));
                    break;
                }
            }
        }
        self.commit();
        result
    }

    /// Reserves a place for a record of `len` bytes, to be filled in place, waiting while there is no room.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn reserve(&mut self, len: usize) -> Result<Reservation<'_>, PushError<()>> {
        let place = self.wait_for_place(len, None).map_err(|why| PushError::new(why, ()))?;
        Ok(Reservation { producer: self, place })
    }

    /// Reserves a place if there is room now. Never blocks.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`PushError::Full`].
    pub fn try_reserve(&mut self, len: usize) -> Result<Reservation<'_>, PushError<()>> {
        match self.place(len, Look::Exact) {
            Ok(Some(place)) => Ok(Reservation { producer: self, place }),
            Ok(None) => Err(PushError::Full(())),
            Err(why) => Err(PushError::new(why, ())),
        }
    }

    /// Reserves a place, waiting at most `timeout` while there is no room.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`PushError::Timeout`].
    pub fn reserve_timeout(&mut self, len: usize, timeout: Duration) -> Result<Reservation<'_>, PushError<()>> {
        let place = self.wait_for_place(len, Some(timeout)).map_err(|why| PushError::new(why, ()))?;
        Ok(Reservation { producer: self, place })
    }
}

#[cold]
fn too_long(len: usize, longest: usize) -> Refused {
    let message = format!("{len} B, expected at most {longest} B");
    Refused::Failed(Error::new(ErrorKind::InvalidInput, "push record", message))
}

/// A place that is being filled. Dropped without a commit, it was never there.
#[must_use = "a reservation that is dropped is given up"]
pub struct Reservation<'a> {
    producer: &'a mut Producer,
    place: Reserved,
}

impl Reservation<'_> {
    /// Its bytes, with whatever was there before.
    #[inline]
    pub fn bytes(&self) -> ShmSlice<'_> {
        self.producer.opened.room(self.place)
    }

    /// Commits all of it as a record.
    #[inline]
    pub fn commit(self) {
        let len = self.place.len();
        self.commit_first(len);
    }

    /// Commits its first `len` bytes as a record.
    ///
    /// # Panics
    /// If it has fewer.
    #[inline]
    pub fn commit_first(self, len: usize) {
        let place = self.place.shortened(len);
        let producer = &mut *ManuallyDrop::new(self).producer;
        producer.opened.ring().write(&mut producer.writer, place);
        producer.commit();
    }

    /// Gives it up, as dropping does.
    pub fn abort(self) {}
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.producer.opened.ring().abort(&self.producer.writer);
    }
}
