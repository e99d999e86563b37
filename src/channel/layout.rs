//! Where a mailbox lies in its object, and how it is recovered.
//!
//! ```text
//! 0     granules u32 | granule_shift u32 | max_items u32                    written at creation, read once at opening
//! 12    carries_handles u32                                                 1 from before the first message with handles on
//! 16    leases u32 | max_deliveries u32                                     of a queue with leases: see lease_layout.rs
//! 24    waits u64 | wakes u64 | high_water u64                              see stats.rs
//! 128   RingBlock
//! 640   claim[granules] u64, ready[granules] u64, take[granules] u64
//!       data[granules] of 2^granule_shift bytes
//! ```

use super::record::Head;
use crate::error::Error;
use crate::ring::{Corrupt, Ring, RingBlock};
use crate::segment::{Losses, NameHandle, PAGE, ShmSlice, View};
use crate::sync::IsDead;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::atomic::{AtomicU32, AtomicU64};

pub(super) const RING_AT: usize = 128;
const WORDS_AT: usize = RING_AT + size_of::<RingBlock>();
pub(super) const CARRIES_AT: usize = 12;
pub(super) const TRAFFIC_AT: usize = 24;

/// Granules of 64 bytes; the smallest record fills one cache line.
pub(super) const GRANULE_SHIFT: u32 = 6;
/// The smallest ring.
pub(super) const MIN_GRANULES: u32 = 64;
/// The largest ring: positions and counts have 19 bits in its words.
pub(super) const MAX_GRANULES: u32 = 1 << 19;
/// Bytes that a mailbox of `granules` takes.
pub(super) const fn bytes_for(granules: u32) -> usize {
    WORDS_AT + granules as usize * (3 * 8 + (1 << GRANULE_SHIFT))
}

/// Writes the numbers of a fresh mailbox at `base` of an object; the rest of it is zero, which is a valid empty ring.
pub(super) fn init(view: &View<'_>, base: usize, granules: u32, max_items: u32) {
    view.block::<AtomicU32>(base).store(granules, Relaxed);
    view.block::<AtomicU32>(base + 4).store(GRANULE_SHIFT, Relaxed);
    view.block::<AtomicU32>(base + 8).store(max_items, Relaxed);
}

/// The numbers of a mailbox, checked.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub base: usize,
    pub granules: u32,
    pub max_items: u32,
}

impl Numbers {
    pub fn read(view: &View<'_>, base: usize) -> Result<Self, Error> {
        let room = view.len().saturating_sub(base);
        if room < WORDS_AT {
            return Err(Error::corrupt("mailbox", "size", room, WORDS_AT));
        }
        let granules = view.block::<AtomicU32>(base).load(Relaxed);
        let shift = view.block::<AtomicU32>(base + 4).load(Relaxed);
        let max_items = view.block::<AtomicU32>(base + 8).load(Relaxed);
        if shift != GRANULE_SHIFT {
            return Err(Error::corrupt("mailbox", "granule shift", shift, GRANULE_SHIFT));
        }
        if !granules.is_power_of_two()
            || !(MIN_GRANULES..=MAX_GRANULES).contains(&granules)
            || bytes_for(granules) > room
        {
            return Err(Error::corrupt("mailbox", "granules", granules, format!("a power of two that fits {room} B")));
        }
        Ok(Self { base, granules, max_items })
    }

    pub fn words_at(&self, which: usize) -> usize {
        self.base + WORDS_AT + which * self.granules as usize * 8
    }

    fn record<'a>(&self, view: &View<'a>, ring: &Ring<'_>, position: u64, n: u32) -> ShmSlice<'a> {
        let at = self.words_at(3) + (ring.index(position) << GRANULE_SHIFT);
        view.slice(at, (n as usize) << GRANULE_SHIFT)
    }

    pub fn ring<'a>(&self, view: &View<'a>) -> Result<Ring<'a>, Corrupt> {
        let words = |which| view.blocks::<AtomicU64>(self.words_at(which), self.granules as usize);
        Ring::new(view.block(self.base + RING_AT), words(0), words(1), words(2))
    }
}

/// A word of the ring that no process of the protocol writes.
pub(super) fn corrupt(e: Corrupt) -> Error {
    Error::corrupt("ring", e.field, format_args!("{:#x}", e.found), "a word of the protocol")
}

/// What lanes have in flight in the mailbox at `base`.
pub(super) fn count(view: &View<'_>, base: usize, dead: IsDead<'_>) -> Result<Losses, Error> {
    let ledger = Numbers::read(view, base)?.ring(view).and_then(|ring| ring.count(dead)).map_err(corrupt)?;
    Ok(Losses { vanished: ledger.vanished, redelivered: ledger.redelivered, locks: 0 })
}

/// Ends what dead lanes have in flight in the mailbox at `base`.
pub(super) fn recover(view: &View<'_>, base: usize, dead: IsDead<'_>) -> Result<(), Error> {
    Numbers::read(view, base)?.ring(view).and_then(|ring| ring.recover(dead)).map_err(corrupt)?;
    Ok(())
}

/// Names the runs of the messages in the mailbox at `base`.
pub(super) fn linked(view: &View<'_>, base: usize, f: &mut dyn FnMut(u32)) -> Result<(), Error> {
    let numbers = Numbers::read(view, base)?;
    let ring = numbers.ring(view).map_err(corrupt)?;
    ring.for_each_live(&mut |position, n| {
        let data = numbers.record(view, &ring, position, n);
        if let Ok((page, ..)) = Head::read(&data).and_then(|head| head.block(&data)) {
            f(page);
        }
    })
    .map_err(corrupt)
}

/// Whether messages in the mailbox at `base` may carry handles.
pub(super) fn carries_handles(view: &View<'_>, base: usize) -> bool {
    view.block::<AtomicU32>(base + CARRIES_AT).load(Relaxed) != 0
}

/// Names the handles in the messages in the mailbox at `base`.
pub(super) fn handles(view: &View<'_>, base: usize, f: NameHandle<'_>) -> Result<(), Error> {
    let numbers = Numbers::read(view, base)?;
    if !carries_handles(view, base) {
        return Ok(());
    }
    let ring = numbers.ring(view).map_err(corrupt)?;
    ring.for_each_live(&mut |position, n| {
        let data = numbers.record(view, &ring, position, n);
        if let Ok(head) = Head::read(&data) {
            head.for_each_handle(&data, f);
        }
    })
    .map_err(corrupt)
}

/// One line for `inspect`.
pub(super) fn describe(view: &View<'_>, base: usize) -> String {
    match Numbers::read(view, base).and_then(|n| n.ring(view).map_err(corrupt)) {
        Ok(ring) => format!("{} items, writing {:?}, holding back {:?}", ring.len(), ring.pending(), ring.blocker()),
        Err(e) => e.to_string(),
    }
}

/// Bytes of an object that holds these mailboxes, whole pages.
pub(super) fn object_bytes(mailboxes: &[u32]) -> usize {
    mailboxes.iter().map(|granules| bytes_for(*granules).next_multiple_of(128)).sum::<usize>().next_multiple_of(PAGE)
}
