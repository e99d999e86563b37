//! Values that are read where they lie.
//!
//! Whoever reads names the block that it reads in a hazard word of its lane ([`store`](crate::store)); the first two such
//! words are those of a look-up, which the next one needs. So a value that stays named moves to one of the others: it is
//! named there before the look-up's word is cleared, and whoever frees blocks looks at the words from the first to the last.
//! If that one finds the first word cleared, it finds the later word set; so at every moment it finds one.

use std::fmt;
use std::marker::PhantomData;

use super::core::Core;
use crate::error::{Error, ErrorKind};
use crate::segment::{ShmSlice, Storage};
use crate::store::HAZARDS;
use crate::sys::atomic::Ordering::{Relaxed, Release};
use crate::sys::atomic::{AtomicU64, fence};

/// Hazard words that a look-up uses itself.
const LOOK_UP: usize = 2;

/// A value of a [`ByteDict`](super::ByteDict) in place, as [`get_ref`](super::ByteDict::get_ref) found it. What others put in
/// for the key afterwards is not seen here. It belongs to its thread.
pub struct ByteRef<'d> {
    bytes: ShmSlice<'d>,
    named: Named<'d>,
}

/// A hazard word in use; cleared on drop.
struct Named<'d> {
    word: &'d AtomicU64,
    /// The words are the thread's.
    thread: PhantomData<*const ()>,
}

impl Drop for Named<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: what was read was read before.
        self.word.store(0, Release);
    }
}

impl<'d> ByteRef<'d> {
    #[inline]
    pub(super) fn of(core: &'d Core, key: &[u8]) -> Result<Option<Self>, Error> {
        let lane = core.lane()?;
        let words = core.object.segment().hazards_of(lane);
        // Only the thread itself sets them.
        let Some(word) = words[LOOK_UP..].iter().find(|word| word.load(Relaxed) == 0) else {
            let message = format!("this thread has {} already", HAZARDS - LOOK_UP);
            return Err(Error::new(ErrorKind::TooManyRefs, "read value in place", message));
        };
        let found = core.get(key, |entry| {
            word.store(entry.place(), Relaxed);
            // Release: whoever loads with Acquire what the look-up's word is set to after this, 0 or another name, finds ours.
            fence(Release);
            let named = Named { word, thread: PhantomData };
            let (at, len) = entry.value();
            Ok((at, len, named))
        })?;
        let Some((at, len, named)) = found else { return Ok(None) };
        let bytes = Storage::of(&core.object).slice(at, len)?;
        Ok(Some(Self { bytes, named }))
    }

    /// The bytes.
    pub fn slice(&self) -> ShmSlice<'_> {
        let _ = &self.named;
        self.bytes
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A copy of them.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.read_to_vec()
    }
}

impl fmt::Debug for ByteRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByteRef({} B)", self.len())
    }
}
