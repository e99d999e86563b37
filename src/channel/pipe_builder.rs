//! How large a new pipe is.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::layout::{GRANULE_SHIFT, MAX_GRANULES, MIN_GRANULES};
use super::one_way::{Receiver, Sender};
use super::pipe::{self, Connection};
use crate::error::{Error, ErrorKind};
use crate::segment::Segment;

/// 64 KiB of messages each way, as a pipe of the system has.
const DEFAULT_GRANULES: u32 = 1 << 10;

/// Sizes of a new pipe other than the defaults: see [`Connection::builder`].
///
/// ```
/// use kinfolk::Connection;
///
/// // Up to 64 messages of up to 56 bytes each way, in 12.5 KB.
/// let (a, b) = Connection::builder().capacity(64).bytes(4096).build::<u64, u64>()?;
/// a.send(1)?;
/// assert_eq!(b.recv()?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is made until it is built"]
pub struct PipeBuilder {
    capacity: usize,
    bytes: Option<usize>,
    segment: Option<Segment>,
}

impl PipeBuilder {
    /// How many messages may wait each way; 0, the default, for as many as the bytes allow.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// Bytes of the ring each way, rounded up to a power of two from 4 KiB to 32 MiB; 64 KiB by default, and more if the
    /// capacity needs it. A message takes 8 bytes more than its encoding, rounded up to 64. A message larger than half the
    /// ring takes a block of the segment instead. A pipe takes 1.4 times these bytes,
    /// for each way that it goes.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// The segment to make it in, instead of the family's.
    pub fn segment(mut self, segment: &Segment) -> Self {
        self.segment = Some(segment.clone());
        self
    }

    /// Makes the pipe: two connected ends. The first sends `T` and receives `U`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a capacity above 524288, [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full.
    #[allow(clippy::type_complexity, reason = "two ends, each with its two types")]
    pub fn build<T, U>(self) -> Result<(Connection<T, U>, Connection<U, T>), Error>
    where
        T: Serialize + DeserializeOwned + 'static,
        U: Serialize + DeserializeOwned + 'static,
    {
        let (granules, max_items) = self.geometry()?;
        let segment = self.segment.map_or_else(Segment::family, Ok)?;
        pipe::create(&segment, granules, max_items)
    }

    /// Makes a pipe that goes one way: see [`pipe_oneway`](super::pipe_oneway).
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_oneway<T>(self) -> Result<(Receiver<T>, Sender<T>), Error>
    where
        T: Serialize + DeserializeOwned + 'static,
    {
        let (granules, max_items) = self.geometry()?;
        let segment = self.segment.map_or_else(Segment::family, Ok)?;
        let (sender, receiver) = pipe::create(&segment, granules, max_items)?;
        Ok((receiver, sender))
    }

    /// Granules of a ring, and how many messages it may hold.
    fn geometry(&self) -> Result<(u32, u32), Error> {
        if self.capacity > MAX_GRANULES as usize {
            let message = format!("capacity {}, expected at most {MAX_GRANULES}, or 0 for no limit", self.capacity);
            return Err(Error::new(ErrorKind::InvalidInput, "create pipe", message));
        }
        let capacity = self.capacity as u32;
        let granules = match self.bytes {
            Some(bytes) => {
                bytes.div_ceil(1 << GRANULE_SHIFT).clamp(MIN_GRANULES as usize, MAX_GRANULES as usize) as u32
            }
            None => DEFAULT_GRANULES,
        };
        Ok((granules.max(capacity).next_power_of_two(), capacity))
    }
}

impl Connection<(), ()> {
    /// Sizes other than the defaults, for a pipe of any types.
    pub fn builder() -> PipeBuilder {
        PipeBuilder::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::object_bytes;
    use super::*;

    #[test]
    fn sizes_are_rounded_up_and_bounded() {
        let of = |builder: PipeBuilder| builder.geometry().unwrap();
        let new = Connection::builder;
        assert_eq!(of(new()), (DEFAULT_GRANULES, 0));
        assert_eq!(of(new().capacity(3)), (DEFAULT_GRANULES, 3));
        assert_eq!(of(new().capacity(1500)), (2048, 1500));
        assert_eq!(of(new().bytes(0)), (64, 0));
        assert_eq!(of(new().bytes(4097)), (128, 0));
        assert_eq!(of(new().capacity(100).bytes(1)), (128, 100));
        assert_eq!(of(new().bytes(usize::MAX)), (MAX_GRANULES, 0));
        assert_eq!(of(new().capacity(MAX_GRANULES as usize)), (MAX_GRANULES, MAX_GRANULES));
        let error = new().capacity(MAX_GRANULES as usize + 1).geometry().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_small_pipe_is_small() {
        let (granules, _) = Connection::builder().capacity(64).bytes(64 * 64).geometry().unwrap();
        let page = crate::segment::PAGE;
        assert!(object_bytes(&[granules, granules]) <= (16usize << 10).next_multiple_of(page));
    }
}
