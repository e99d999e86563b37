//! What a lease table needs of a mailbox: records that move elsewhere before they are acknowledged. And what the ring counts.

use super::{Mailbox, Refused, Traffic};
use crate::error::Error;
use crate::ring::{Corrupt, Counts, Taken};
use crate::segment::ShmSlice;
use crate::sync::Lane;

/// Why a record that was taken is not kept elsewhere.
pub(in crate::channel) enum Unkept {
    /// It cannot be read, by nobody.
    Unreadable(Error),
    /// There is no room for it: it goes back.
    NoRoom(Error),
}

impl Mailbox {
    /// Whether taking is worth a try.
    pub fn may_take(&self) -> bool {
        self.ring().has_ready(&self.cache)
    }

    /// Takes the oldest record, lets `keep` move it elsewhere, and only then acknowledges it.
    pub fn try_move<R>(
        &self,
        lane: Lane,
        keep: impl FnOnce(&Taken, &ShmSlice<'_>) -> Result<R, Unkept>,
    ) -> Result<R, Refused> {
        let ring = self.ring();
        let taken = self.take(lane)?;
        let kept = keep(&taken, &self.record(taken.position, taken.n));
        if let Err(Unkept::NoRoom(e)) = kept {
            ring.give_back(taken);
            self.tell_item();
            return Err(Refused::Failed(e));
        }
        // What was kept stays kept, also if the ring is damaged: the next call says so.
        self.offer_room(ring.done(taken, self.numbers.max_items != 0).unwrap_or(true));
        kept.map_err(|why| match why {
            Unkept::Unreadable(e) | Unkept::NoRoom(e) => Refused::Failed(e),
        })
    }

    /// Somebody who was woken for an item does not take it: somebody else may.
    pub fn pass_on_item(&self) {
        self.tell_item();
    }

    /// What has been counted beside the ring.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What the ring has done since it was made.
    pub fn counts(&self) -> Result<Counts, Corrupt> {
        self.ring().counts()
    }
}
