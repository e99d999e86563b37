//! A ring of slots in an object: where it lies, how it is recovered, and every step that its handles take.
//!
//! ```text
//! 0     slots u32 | slot_shift u32 | sides u32 | value bytes u32            written at creation, read once at opening
//! 128   RingBlock
//! 640   claim[slots] u64 (many producers), take[slots] u64 (many consumers)
//!       slots of 2^slot_shift bytes: ready u64, then the value
//! ```

use std::sync::atomic::{AtomicU32 as Private, AtomicU64 as Private64, Ordering::Relaxed as Lax};

use super::super::layout::corrupt;
use super::error::{PopError, PushError};
use crate::error::{Error, ErrorKind};
use crate::ring::{Claim, ClaimError, Corrupt, Many, One, Ring, RingBlock, RingCache, Side, Slots, TakeError, Taken};
use crate::segment::{Holder, KINDS, Kind, Losses, Object, PAGE, Pinned, PinnedBytes, PinnedRing, ShmSlice, View};
use crate::sync::{IsDead, Lane, Pace, Peers, WaitBlock, wait_until};
use crate::sys::atomic::Ordering::{Acquire, Relaxed};
use crate::sys::atomic::{AtomicU32, AtomicU64};
use crate::sys::clock::Deadline;

const RING_AT: usize = 128;
const WORDS_AT: usize = RING_AT + size_of::<RingBlock>();
/// Bytes of a slot in front of its value.
const SLOT_HEAD: usize = 8;
const MIN_SHIFT: u32 = 6;
const MAX_SHIFT: u32 = 24;

#[linkme::distributed_slice(KINDS)]
pub(super) static STAMPED: Kind = Kind {
    code: 6,
    least: RING_AT + size_of::<RingBlock>(),
    count: |view, dead| Numbers::read(view)?.dispatch(view, Count(dead)),
    recover: |view, dead| Numbers::read(view)?.dispatch(view, Recover(dead)),
    describe: |view| Numbers::read(view).and_then(|n| n.dispatch(view, Describe)).unwrap_or_else(|e| e.to_string()),
    ..Kind::plain("stamped ring", 6)
};

/// What is done to a ring whose sides are known only from its object.
trait Task<R> {
    fn run<P: Side, C: Side>(self, ring: Ring<'_, P, C, Slots>) -> Result<R, Corrupt>;
}

struct Count<'a>(IsDead<'a>);
struct Recover<'a>(IsDead<'a>);
struct Describe;

impl Task<Losses> for Count<'_> {
    fn run<P: Side, C: Side>(self, ring: Ring<'_, P, C, Slots>) -> Result<Losses, Corrupt> {
        let ledger = ring.count(self.0)?;
        Ok(Losses { vanished: ledger.vanished, redelivered: ledger.redelivered, locks: 0 })
    }
}

impl Task<()> for Recover<'_> {
    fn run<P: Side, C: Side>(self, ring: Ring<'_, P, C, Slots>) -> Result<(), Corrupt> {
        ring.recover(self.0).map(|_| ())
    }
}

impl Task<String> for Describe {
    fn run<P: Side, C: Side>(self, ring: Ring<'_, P, C, Slots>) -> Result<String, Corrupt> {
        let (waiting, slots) = (ring.len(), ring.capacity());
        Ok(format!("{waiting} of {slots}, writing {:?}, holding back {:?}", ring.pending(), ring.blocker()))
    }
}

/// The numbers of a ring, checked.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    slots: u32,
    shift: u32,
    sides: u32,
    bytes: u32,
}

const fn sides<P: Side, C: Side>() -> u32 {
    P::MANY as u32 | (C::MANY as u32) << 1
}

impl Numbers {
    /// The numbers of a ring of at least `capacity` values of `bytes` bytes.
    pub fn new<P: Side, C: Side>(capacity: usize, bytes: usize) -> Result<Self, Error> {
        let refuse = |message| Err(Error::new(ErrorKind::InvalidInput, "create ring", message));
        if capacity > Ring::MAX_CAPACITY {
            return refuse(format!("capacity {capacity}, expected at most {}", Ring::MAX_CAPACITY));
        }
        let most = (1 << MAX_SHIFT) - SLOT_HEAD;
        if bytes > most {
            return refuse(format!("values of {bytes} B, expected at most {most} B"));
        }
        let slots = capacity.max(Ring::MIN_CAPACITY).next_power_of_two() as u32;
        let shift = (SLOT_HEAD + bytes).next_power_of_two().trailing_zeros().max(MIN_SHIFT);
        Ok(Self { slots, shift, sides: sides::<P, C>(), bytes: bytes as u32 })
    }

    fn words(view: &View<'_>) -> [u32; 4] {
        [0, 4, 8, 12].map(|at| view.block::<AtomicU32>(at).load(Relaxed))
    }

    /// Writes them into a fresh object; the rest of it is zero, which is a valid empty ring.
    pub fn write(&self, view: &View<'_>) {
        for (k, number) in [self.slots, self.shift, self.sides, self.bytes].into_iter().enumerate() {
            view.block::<AtomicU32>(4 * k).store(number, Relaxed);
        }
    }

    fn read(view: &View<'_>) -> Result<Self, Error> {
        if view.len() < WORDS_AT {
            return Err(Error::corrupt("stamped ring", "size", view.len(), WORDS_AT));
        }
        let [slots, shift, sides, bytes] = Self::words(view);
        let numbers = Self { slots, shift, sides, bytes };
        let fits = slots.is_power_of_two()
            && (Ring::MIN_CAPACITY..=Ring::MAX_CAPACITY).contains(&(slots as usize))
            && (MIN_SHIFT..=MAX_SHIFT).contains(&shift)
            && SLOT_HEAD as u64 + u64::from(bytes) <= 1 << shift
            && sides < 4
            && numbers.object_bytes() <= view.len();
        let room = view.len();
        let found = || format!("{slots} slots of 2^{shift} B for {bytes} B, sides {sides}");
        if fits {
            Ok(numbers)
        } else {
            Err(Error::corrupt("stamped ring", "numbers", found(), format!("a ring in {room} B")))
        }
    }

    /// Offset and count of the claim, the ready and the take words: those of a slot begin with the slot.
    fn arrays(&self) -> [(usize, usize); 3] {
        let slots = self.slots as usize;
        let [claims, takes] = [self.sides & 1, self.sides >> 1].map(|many| many as usize * slots);
        let take_at = WORDS_AT + 8 * claims;
        let slots_at = (take_at + 8 * takes).next_multiple_of(128);
        [(WORDS_AT, claims), (slots_at, slots << (self.shift - 3)), (take_at, takes)]
    }

    /// Bytes of an object that holds the ring, whole pages.
    pub fn object_bytes(&self) -> usize {
        let (at, words) = self.arrays()[1];
        (at + 8 * words).next_multiple_of(PAGE)
    }

    fn dispatch<R>(&self, view: &View<'_>, task: impl Task<R>) -> Result<R, Error> {
        match self.sides {
            0 => self.with::<One, One, R>(view, task),
            1 => self.with::<Many, One, R>(view, task),
            2 => self.with::<One, Many, R>(view, task),
            _ => self.with::<Many, Many, R>(view, task),
        }
    }

    fn with<P: Side, C: Side, R>(&self, view: &View<'_>, task: impl Task<R>) -> Result<R, Error> {
        let [claim, ready, take] = self.arrays().map(|(at, count)| view.blocks::<AtomicU64>(at, count));
        let ring = Ring::<P, C, Slots>::made_for(view.block(RING_AT), self.slots as usize, claim, ready, take);
        ring.and_then(|ring| task.run(ring)).map_err(corrupt)
    }
}

/// A ring, open in this process.
pub(super) struct Core<P: Side, C: Side> {
    pub object: Object,
    ring: PinnedRing<P, C, Slots>,
    bytes: PinnedBytes,
    waits: Pinned<WaitBlock>,
    shift: u32,
    value_bytes: usize,
    /// What the threads of a side of many remember.
    pub cache: RingCache,
    pop_pace: Pace,
    push_pace: Pace,
    /// Lane that pushed the value popped last: whom to expect the next one from.
    writer: Private64,
    /// Departures of other processes that have been reported to those who push, and to those who pop.
    reported: [Private; 2],
}

/// Why nothing was claimed or taken.
enum Refused {
    NotNow,
    Failed(Error),
}

impl From<ClaimError> for Refused {
    fn from(e: ClaimError) -> Self {
        match e {
            ClaimError::Full => Self::NotNow,
            ClaimError::Corrupt(e) => Self::Failed(corrupt(e)),
            ClaimError::TooLarge => Self::Failed(Error::corrupt("ring", "record", "none", "one slot")),
        }
    }
}

impl From<TakeError> for Refused {
    fn from(e: TakeError) -> Self {
        match e {
            TakeError::Empty => Self::NotNow,
            TakeError::Corrupt(e) => Self::Failed(corrupt(e)),
        }
    }
}

const PUSHING: usize = 0;
const POPPING: usize = 1;

impl<P: Side, C: Side> Core<P, C> {
    /// Opens the ring of the object for values of `value_bytes` bytes.
    pub fn open(object: Object, value_bytes: usize) -> Result<Self, Error> {
        let view = object.view();
        let numbers = Numbers::read(&view)?;
        if numbers.sides != sides::<P, C>() || numbers.bytes as usize != value_bytes {
            let found = format!("{} B, sides {}", numbers.bytes, numbers.sides);
            return Err(Error::corrupt(
                "stamped ring",
                "values",
                found,
                format!("{value_bytes} B, sides {}", sides::<P, C>()),
            ));
        }
        let arrays = numbers.arrays();
        let ring = PinnedRing::made_for(&object, RING_AT, numbers.slots as usize, arrays).map_err(corrupt)?;
        let cache = ring.get().cache();
        let departures = object.entry().departures.load(Acquire);
        Ok(Self {
            bytes: PinnedBytes::new(&object, arrays[1].0, 8 * arrays[1].1),
            waits: Pinned::waits(&object, 0, 2),
            ring,
            shift: numbers.shift,
            value_bytes,
            cache,
            pop_pace: Pace::default(),
            push_pace: Pace::default(),
            writer: Private64::new(0),
            reported: [departures, departures].map(Private::new),
            object,
        })
    }

    #[inline(always)]
    pub fn ring(&self) -> &Ring<'_, P, C, Slots> {
        self.ring.get()
    }

    #[inline(always)]
    fn items(&self) -> &WaitBlock {
        &self.waits[0]
    }

    #[inline(always)]
    fn space(&self) -> &WaitBlock {
        &self.waits[1]
    }

    /// The bytes of the value at `position`.
    #[inline(always)]
    pub fn value(&self, position: u64) -> ShmSlice<'_> {
        self.bytes.slice((self.ring().index(position) << self.shift) + SLOT_HEAD, self.value_bytes)
    }

    pub fn holder(&self, lane: Lane) -> Option<Holder> {
        self.object.segment().lane_holder(lane)
    }

    /// Whether some other process gave the ring up since `reported`, and none has it any more.
    fn is_abandoned(&self, reported: u32) -> bool {
        self.object.entry().departures.load(Acquire) != reported && !self.object.has_others(0)
    }

    /// The last that died, of those whose leaving is reported now.
    #[cold]
    fn report(&self, side: usize) -> Option<u32> {
        let entry = self.object.entry();
        self.reported[side].store(entry.departures.load(Acquire), Lax);
        (entry.deaths.load(Acquire) > 0).then(|| entry.last_dead.load(Relaxed))
    }

    // ---- pushing

    #[inline(always)]
    fn try_claim(&self, cache: &RingCache, lane: Lane) -> Result<Claim, Refused> {
        Ok(self.ring().claim(cache, lane, 1, u32::MAX)?)
    }

    /// Claims a slot, waiting for one until `deadline`; without one, not at all.
    #[inline(always)]
    pub fn claim(&self, cache: &RingCache, lane: Lane, deadline: Option<Deadline>) -> Result<Claim, PushError<()>> {
        match (self.try_claim(cache, lane), deadline) {
            (Ok(claim), _) => Ok(claim),
            (Err(Refused::Failed(e)), _) => Err(PushError::Failed((), e)),
            (Err(Refused::NotNow), None) => Err(PushError::Full(())),
            (Err(Refused::NotNow), Some(deadline)) => self.wait_for_room(cache, lane, deadline),
        }
    }

    #[cold]
    fn wait_for_room(&self, cache: &RingCache, lane: Lane, deadline: Deadline) -> Result<Claim, PushError<()>> {
        let segment = self.object.segment();
        segment.note_cpu(lane);
        let before = self.reported[PUSHING].load(Lax);
        let attempt = || {
            // What ends the wait is looked at first and acted on last.
            let abandoned = self.is_abandoned(before);
            match self.try_claim(cache, lane) {
                Ok(claim) => Some(Ok(claim)),
                Err(Refused::Failed(e)) => Some(Err(PushError::Failed((), e))),
                Err(Refused::NotNow) => abandoned.then(|| Err(PushError::Disconnected((), self.report(PUSHING)))),
            }
        };
        let idle = || {
            if let Some(blocker) = self.ring().blocker() {
                segment.bury(blocker);
            }
            self.object.bury_openers();
            None
        };
        wait_until(self.space(), &self.push_pace, segment, None, deadline, attempt, idle).unwrap_or_else(|_| {
            let holder = self.ring().blocker().and_then(|lane| self.holder(lane));
            Err(PushError::Timeout((), holder))
        })
    }

    /// Makes a claimed slot available.
    #[inline(always)]
    pub fn commit(&self, claim: Claim, lane: Lane) {
        self.ring().commit(claim, lane);
        self.items().notify(self.object.segment());
    }

    /// Gives a claimed slot up. Whoever waits for values may have to step over it.
    pub fn abort(&self, claim: Claim) {
        self.ring().abort(claim);
        self.items().notify(self.object.segment());
    }

    /// After several commits.
    #[inline]
    pub fn notify_items(&self, count: usize) {
        if count > 1 {
            self.items().notify_sleepers(self.object.segment());
        } else if count == 1 {
            self.items().notify(self.object.segment());
        }
    }

    // ---- popping

    #[inline(always)]
    fn try_take(&self, cache: &RingCache, lane: Lane) -> Result<Taken, Refused> {
        let taken = self.ring().take(cache, lane)?;
        self.writer.store(u64::from(taken.producer), Lax);
        Ok(taken)
    }

    /// Takes a slot, waiting for one until `deadline`; without one, not at all.
    #[inline(always)]
    pub fn take(&self, cache: &RingCache, lane: Lane, deadline: Option<Deadline>) -> Result<Taken, PopError> {
        match (self.try_take(cache, lane), deadline) {
            (Ok(taken), _) => Ok(taken),
            (Err(Refused::Failed(e)), _) => Err(PopError::Failed(e)),
            (Err(Refused::NotNow), None) => Err(PopError::Empty),
            (Err(Refused::NotNow), Some(deadline)) => self.wait_for_item(cache, lane, deadline),
        }
    }

    #[cold]
    fn wait_for_item(&self, cache: &RingCache, lane: Lane, deadline: Deadline) -> Result<Taken, PopError> {
        let segment = self.object.segment();
        segment.note_cpu(lane);
        let peer = segment.cpu_of(self.writer.load(Lax) as Lane);
        let before = self.reported[POPPING].load(Lax);
        let attempt = || {
            // What ends the wait is looked at first and acted on last: a value that was there before counts.
            let abandoned = self.is_abandoned(before);
            match self.try_take(cache, lane) {
                Ok(taken) => Some(Ok(taken)),
                Err(Refused::Failed(e)) => Some(Err(PopError::Failed(e))),
                Err(Refused::NotNow) => abandoned.then(|| Err(PopError::Disconnected(self.report(POPPING)))),
            }
        };
        let idle = || {
            match self.ring().pending() {
                Some(writer) => drop(segment.bury(writer)),
                None => drop(self.object.bury_openers()),
            }
            None
        };
        wait_until(self.items(), &self.pop_pace, segment, peer, deadline, attempt, idle).unwrap_or_else(|_| {
            let holder = self.ring().pending().and_then(|lane| self.holder(lane));
            Err(PopError::Timeout(holder))
        })
    }

    /// Acknowledges a taken slot.
    #[inline(always)]
    pub fn done(&self, taken: Taken) -> Result<(), Error> {
        let moved = self.ring().done(taken, false);
        if self.space().has_sleepers(self.object.segment()) {
            self.offer_room();
        }
        moved.map(|_| ()).map_err(corrupt)
    }

    /// Wakes somebody who waits for room, if it is worth it: when a quarter is free or nothing is left, so that both
    /// sides on one CPU change places once for many values.
    #[cold]
    fn offer_room(&self) {
        let ring = self.ring();
        // A damaged ring is reported by the call that follows.
        let damaged = ring.reclaim().is_err();
        if damaged || ring.len() <= ring.capacity() / 4 * 3 {
            self.space().wake_one();
        }
    }
}
