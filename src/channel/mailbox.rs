//! One direction of messages: a stamped ring, the bytes beside it, and blocks of the arena for what is too large.
//!
//! ```text
//! 0     granules u32 | granule_shift u32 | max_items u32                    written at creation, read once at opening
//! 12    carries_handles u32                                                 1 from before the first message with handles on
//! 128   RingBlock
//! 640   claim[granules] u64, ready[granules] u64, take[granules] u64
//!       data[granules] of 2^granule_shift bytes
//! ```
//!
//! A record lies in contiguous granules; `record.rs` says what it looks like.
//!
//! The run of a large message is OWNED by its sender until the record is committed, and RETIRED by its taker before the
//! record is acknowledged; so whoever dies, the ring says whether the run still belongs to a message (see `arena.rs`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed as Lax};

use super::record::{BLOCK, BLOCK_PAYLOAD, HANDLE_BYTES, Handle, Head, INLINE, RECORD_HEAD, Record};
use crate::error::{Error, ErrorKind};
use crate::ring::{ClaimError, Corrupt, Ring, RingBlock, RingCache, TakeError};
use crate::segment::{
    Arrived, Holder, Losses, NameHandle, Object, PAGE, Pinned, PinnedBytes, PinnedRing, Run, ShmSlice, View,
};
use crate::sync::{IsDead, Lane, Pace, Peers, WaitBlock, wait_until};
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::atomic::{AtomicU32, AtomicU64 as Shared};
use crate::sys::clock::Deadline;

const RING_AT: usize = 128;
const WORDS_AT: usize = RING_AT + size_of::<RingBlock>();
const CARRIES_AT: usize = 12;

/// Granules of 64 bytes; the smallest record fills one cache line.
pub(super) const GRANULE_SHIFT: u32 = 6;
/// Bytes of blocks that a mailbox lets be under way before senders wait. A block's record takes as large a share of the
/// ring's granules as the block takes of this, so the count survives any death; and memory is used again while it is warm.
const BLOCK_BUDGET: usize = 4 << 20;

/// The largest message.
pub(super) const MAX_MESSAGE: usize = 64 << 20;

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
struct Numbers {
    base: usize,
    granules: u32,
    max_items: u32,
}

impl Numbers {
    fn read(view: &View<'_>, base: usize) -> Result<Self, Error> {
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
        if !granules.is_power_of_two() || !(64..=1 << 19).contains(&granules) || bytes_for(granules) > room {
            return Err(Error::corrupt("mailbox", "granules", granules, format!("a power of two that fits {room} B")));
        }
        Ok(Self { base, granules, max_items })
    }

    fn words_at(&self, which: usize) -> usize {
        self.base + WORDS_AT + which * self.granules as usize * 8
    }

    fn record<'a>(&self, view: &View<'a>, ring: &Ring<'_>, position: u64, n: u32) -> ShmSlice<'a> {
        let at = self.words_at(3) + (ring.index(position) << GRANULE_SHIFT);
        view.slice(at, (n as usize) << GRANULE_SHIFT)
    }

    fn ring<'a>(&self, view: &View<'a>) -> Result<Ring<'a>, Corrupt> {
        let words = |which| view.blocks::<Shared>(self.words_at(which), self.granules as usize);
        Ring::new(view.block(self.base + RING_AT), words(0), words(1), words(2))
    }
}

fn corrupt(e: Corrupt) -> Error {
    Error::corrupt("ring", e.field, format_args!("{:#x}", e.found), "a word of the protocol")
}

/// What comes with a message.
pub(super) struct News {
    /// An earlier taker died with it.
    pub redelivered: bool,
    /// Keeps the handles in it open until they are decoded.
    _arrived: Arrived,
}

/// Why nothing was taken or stored at once.
pub(super) enum Refused {
    /// No room, or nothing there.
    NotNow,
    /// The segment failed.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl From<Corrupt> for Refused {
    fn from(e: Corrupt) -> Self {
        Self::Failed(corrupt(e))
    }
}

/// How a wait ended without what was waited for.
pub(super) enum Ended {
    /// In time; whoever blocks, if somebody does.
    Timeout(Option<Holder>),
    /// The caller's own check ended it.
    Stopped,
    /// The segment failed.
    Failed(Error),
}

/// One direction of messages, open in this process.
pub(super) struct Mailbox {
    object: Object,
    numbers: Numbers,
    ring: PinnedRing,
    bytes: PinnedBytes,
    waits: Pinned<WaitBlock>,
    cache: RingCache,
    get_pace: Pace,
    put_pace: Pace,
    /// Lane that wrote the message taken last: whom to expect the next one from.
    writer: AtomicU64,
}

impl Mailbox {
    /// Opens the mailbox at `base` of the object, which sleeps on the object's words `waits` and `waits + 1`.
    pub fn open(object: &Object, base: usize, waits: usize) -> Result<Self, Error> {
        let view = object.view();
        let numbers = Numbers::read(&view, base)?;
        let waits = Pinned::waits(object, waits, 2);
        let ring = PinnedRing::new(object, base + RING_AT, numbers.words_at(0), numbers.granules as usize);
        let ring = ring.map_err(corrupt)?;
        let cache = ring.get().cache();
        Ok(Self {
            object: object.clone(),
            numbers,
            ring,
            bytes: PinnedBytes::new(object, numbers.words_at(3), (numbers.granules as usize) << GRANULE_SHIFT),
            waits,
            cache,
            get_pace: Pace::default(),
            put_pace: Pace::default(),
            writer: AtomicU64::new(0),
        })
    }

    #[inline]
    fn ring(&self) -> &Ring<'_> {
        self.ring.get()
    }

    #[inline]
    fn items(&self) -> &WaitBlock {
        &self.waits[0]
    }

    #[inline]
    fn space(&self) -> &WaitBlock {
        &self.waits[1]
    }

    #[inline]
    fn data(&self, index: usize, granules: u32) -> ShmSlice<'_> {
        self.bytes.slice(index << GRANULE_SHIFT, (granules as usize) << GRANULE_SHIFT)
    }

    /// Messages that are committed and not taken, and those being written.
    pub fn len(&self) -> usize {
        self.ring().len()
    }

    fn max_items(&self) -> u32 {
        match self.numbers.max_items {
            0 => u32::MAX,
            n => n,
        }
    }

    // ---- sending

    /// Stores a message that carries `handles`, waiting for room until `deadline`. `stop` may end the wait.
    #[inline]
    pub fn send(
        &self,
        lane: Lane,
        bytes: &[u8],
        handles: &[Handle],
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), Ended> {
        match self.granules_for(bytes.len() + handles.len() * HANDLE_BYTES) {
            Some(n) => self.send_record(lane, Record { n, kind: INLINE, handles, payload: bytes }, deadline, stop),
            None => self.send_block(lane, bytes, handles, deadline, stop),
        }
    }

    /// Granules of a record with so many bytes behind its head, if it may be one.
    #[inline]
    fn granules_for(&self, bytes: usize) -> Option<u32> {
        let n = (RECORD_HEAD + bytes).div_ceil(1 << GRANULE_SHIFT);
        (n <= self.numbers.granules as usize / 2).then_some(n as u32)
    }

    fn send_block(
        &self,
        lane: Lane,
        bytes: &[u8],
        handles: &[Handle],
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), Ended> {
        let refuse = |message| Err(Ended::Failed(Error::new(ErrorKind::InvalidInput, "send message", message)));
        if bytes.len() > MAX_MESSAGE {
            return refuse(format!("{} B, expected at most {MAX_MESSAGE} B", bytes.len()));
        }
        let Some(least) = self.granules_for(BLOCK_PAYLOAD + handles.len() * HANDLE_BYTES) else {
            let room = self.numbers.granules << (GRANULE_SHIFT - 1);
            return refuse(format!("{} handles in one message, expected as many as fit {room} B", handles.len()));
        };
        let segment = self.object.segment();
        let run = segment.alloc(lane, bytes.len(), self.object.id().word()).map_err(Ended::Failed)?;
        segment.run_slice(run).write(0, bytes);
        let mut payload = [0u8; BLOCK_PAYLOAD];
        let word = u64::from(run.page) | u64::from(run.generation) << 32;
        payload[..8].copy_from_slice(&word.to_ne_bytes());
        payload[8..].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
        let granules = self.numbers.granules;
        let share = (bytes.len() as u64 * u64::from(granules)).div_ceil(BLOCK_BUDGET as u64);
        let n = (share.min(u64::from(granules / 2)) as u32).max(least);
        let sent = self.send_record(lane, Record { n, kind: BLOCK, handles, payload: &payload }, deadline, stop);
        match sent {
            Ok(()) => segment.run_live(run, lane),
            Err(_) => segment.free(run),
        }
        sent
    }

    #[inline]
    fn send_record(
        &self,
        lane: Lane,
        record: Record<'_>,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), Ended> {
        match self.try_record(lane, record) {
            Ok(()) => Ok(()),
            Err(Refused::Failed(e)) => Err(Ended::Failed(e)),
            Err(Refused::NotNow) => self.wait_for_room(lane, record, deadline, stop),
        }
    }

    #[inline]
    fn try_record(&self, lane: Lane, record: Record<'_>) -> Result<(), Refused> {
        let ring = self.ring();
        if !record.handles.is_empty() {
            // Before the commit, so that whoever looks for the handle looks here.
            self.object.word32(self.numbers.base + CARRIES_AT).store(1, Relaxed);
        }
        let claim = match ring.claim(&self.cache, lane, record.n, self.max_items()) {
            Ok(claim) => claim,
            Err(ClaimError::Full) => return Err(Refused::NotNow),
            Err(ClaimError::Corrupt(e)) => return Err(e.into()),
            Err(ClaimError::TooLarge) => {
                return Err(Refused::Failed(Error::corrupt("ring", "record", record.n, "at most half the ring")));
            }
        };
        record.write(&self.data(ring.index(claim.position), record.n));
        ring.commit(claim, lane);
        self.items().notify(self.object.segment());
        Ok(())
    }

    #[cold]
    fn wait_for_room(
        &self,
        lane: Lane,
        record: Record<'_>,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), Ended> {
        let segment = self.object.segment();
        segment.note_cpu(lane);
        let attempt = || match self.try_record(lane, record) {
            Ok(()) => Some(Ok(())),
            Err(Refused::Failed(e)) => Some(Err(Ended::Failed(e))),
            Err(Refused::NotNow) => stop().then_some(Err(Ended::Stopped)),
        };
        let idle = || {
            if let Some(blocker) = self.ring().blocker() {
                segment.bury(blocker);
            }
            self.object.bury_openers();
            None
        };
        wait_until(self.space(), &self.put_pace, segment, None, deadline, attempt, idle).unwrap_or_else(|_| {
            let holder = self.ring().blocker().and_then(|l| segment.lane_holder(l));
            Err(Ended::Timeout(holder))
        })
    }

    // ---- receiving

    /// Takes the oldest message into `bytes`, if there is one.
    #[inline]
    pub fn try_recv(&self, lane: Lane, bytes: &mut Vec<u8>) -> Result<News, Refused> {
        let ring = self.ring();
        let taken = match ring.take(&self.cache, lane) {
            Ok(taken) => taken,
            Err(TakeError::Empty) => return Err(Refused::NotNow),
            Err(TakeError::Corrupt(e)) => return Err(e.into()),
        };
        self.writer.store(u64::from(taken.producer), Lax);
        let data = self.data(ring.index(taken.position), taken.n);
        let mut news = News { redelivered: taken.redelivered, _arrived: Arrived::default() };
        let read = self.read_record(lane, &data, bytes, &mut news);
        // Acknowledged whatever it was: a message that cannot be read must not block those behind it.
        let moved = ring.done(taken, self.numbers.max_items != 0)?;
        if let Ok(Some(run)) = read {
            self.object.segment().free(run);
        }
        self.offer_room(moved);
        read?;
        Ok(news)
    }

    #[inline]
    fn read_record(
        &self,
        lane: Lane,
        data: &ShmSlice<'_>,
        bytes: &mut Vec<u8>,
        news: &mut News,
    ) -> Result<Option<Run>, Error> {
        let head = Head::read(data)?;
        if head.handles > 0 {
            let segment = self.object.segment();
            head.for_each_handle(data, &mut |id, role| news._arrived.open(segment, id, role));
        }
        match head.kind {
            INLINE => {
                data.read_into(head.payload_at(), head.len, bytes);
                Ok(None)
            }
            BLOCK => self.read_block(lane, &head, data, bytes).map(Some),
            kind => Err(Error::corrupt("message", "kind", kind, "1 or 2")),
        }
    }

    #[cold]
    fn read_block(&self, lane: Lane, head: &Head, data: &ShmSlice<'_>, bytes: &mut Vec<u8>) -> Result<Run, Error> {
        let (page, generation, len) = head.block(data)?;
        let segment = self.object.segment();
        let run = segment.check_run(page, generation, self.object.id().word()).filter(|run| len <= run.bytes() as u64);
        let Some(run) = run else {
            let found = format!("page {page} generation {generation}, {len} B");
            return Err(Error::corrupt("message", "block", found, "a block of this queue"));
        };
        segment.run_slice(run).read_into(0, len as usize, bytes);
        segment.retire(run, lane);
        Ok(run)
    }

    /// Wakes a sender, if one sleeps and it is worth it: at a quarter of the ring or when nothing is left, so that sender and
    /// receiver on one CPU change places once for many messages.
    #[inline]
    fn offer_room(&self, moved: bool) {
        let ring = self.ring();
        let peers = self.object.segment();
        if !self.space().has_sleepers(peers) {
            return;
        }
        if !moved && ring.reclaim().is_err() {
            return;
        }
        if self.numbers.max_items != 0 || ring.is_empty() || ring.has_room(self.numbers.granules / 4, u32::MAX) {
            self.space().wake_one();
        }
    }

    /// Takes the oldest message into `bytes`, waiting for one until `deadline`. `stop` may end the wait.
    #[inline]
    pub fn recv(
        &self,
        lane: Lane,
        bytes: &mut Vec<u8>,
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<News, Ended> {
        match self.try_recv(lane, bytes) {
            Ok(news) => Ok(news),
            Err(Refused::Failed(e)) => Err(Ended::Failed(e)),
            Err(Refused::NotNow) => {
                let attempt = || match self.try_recv(lane, bytes) {
                    Ok(news) => Some(Ok(news)),
                    Err(Refused::Failed(e)) => Some(Err(Ended::Failed(e))),
                    Err(Refused::NotNow) => None,
                };
                self.wait_for_item(lane, deadline, stop, attempt)
            }
        }
    }

    /// Waits until a message can be taken.
    pub fn ready(&self, lane: Lane, deadline: Deadline, stop: impl Fn() -> bool) -> Result<(), Ended> {
        self.wait_for_item(lane, deadline, stop, || self.has_ready().then_some(Ok(())))
    }

    /// Whether a message can be taken now.
    pub fn has_ready(&self) -> bool {
        self.ring().has_item()
    }

    #[cold]
    fn wait_for_item<R>(
        &self,
        lane: Lane,
        deadline: Deadline,
        stop: impl Fn() -> bool,
        mut attempt: impl FnMut() -> Option<Result<R, Ended>>,
    ) -> Result<R, Ended> {
        let segment = self.object.segment();
        segment.note_cpu(lane);
        let peer = segment.cpu_of(self.writer.load(Lax) as Lane);
        // What stops the wait is looked at first and acted on last: a message that was there before counts.
        let attempt = || {
            let stopped = stop();
            attempt().or_else(|| stopped.then_some(Err(Ended::Stopped)))
        };
        let idle = || {
            match self.ring().pending() {
                Some(writer) => drop(segment.bury(writer)),
                None => drop(self.object.bury_openers()),
            }
            None
        };
        wait_until(self.items(), &self.get_pace, segment, peer, deadline, attempt, idle).unwrap_or_else(|_| {
            let holder = self.ring().pending().and_then(|l| segment.lane_holder(l));
            Err(Ended::Timeout(holder))
        })
    }

    /// Wakes everybody who waits, to look at something new.
    pub fn wake_all(&self) {
        self.items().notify_all();
        self.space().notify_all();
    }
}

// ---- recovery, for the kinds that have mailboxes

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

/// Names the handles in the messages in the mailbox at `base`.
pub(super) fn handles(view: &View<'_>, base: usize, f: NameHandle<'_>) -> Result<(), Error> {
    let numbers = Numbers::read(view, base)?;
    if view.block::<AtomicU32>(base + CARRIES_AT).load(Relaxed) == 0 {
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
