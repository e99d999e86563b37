//! How a new dictionary is made.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Dict;
use super::core::Core;
use super::kind::{MAX_SHARDS, SHARDS};
use crate::error::{Error, ErrorKind};
use crate::segment::{Segment, type_hash};

/// Makes a [`Dict`]. See [`Dict::builder`].
///
/// ```
/// use kinfolk::{Dict, Segment};
///
/// let segment = Segment::anonymous(8 << 20)?;
/// let small: Dict<u32, String> = Dict::builder().segment(&segment).shards(1).build()?;
/// small.set(&1, &"one".to_owned())?;
/// # Ok::<(), kinfolk::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "it makes nothing until `build`"]
pub struct DictBuilder<K, V> {
    segment: Option<Segment>,
    shards: usize,
    types: PhantomData<fn(K, V)>,
}

impl<K, V> DictBuilder<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    pub(super) fn new() -> Self {
        Self { segment: None, shards: SHARDS, types: PhantomData }
    }

    /// Makes it in this segment, not in the family's.
    pub fn segment(mut self, segment: &Segment) -> Self {
        self.segment = Some(segment.clone());
        self
    }

    /// Parts that are changed independently of each other: 1 to 256, rounded up to a power of two; 16 unless said otherwise.
    /// So many processes can change it at once; each costs 2 KiB from the beginning.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Makes it.
    ///
    /// # Errors
    /// [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full, [`InvalidInput`](ErrorKind::InvalidInput).
    pub fn build(self) -> Result<Dict<K, V>, Error> {
        if !(1..=MAX_SHARDS).contains(&self.shards) {
            let message = format!("{} shards, expected 1 to {MAX_SHARDS}", self.shards);
            return Err(Error::new(ErrorKind::InvalidInput, "create dict", message));
        }
        let segment = self.segment.map_or_else(Segment::family, Ok)?;
        Ok(Dict::of(Core::create(&segment, type_hash::<(K, V)>(), self.shards)?))
    }
}
