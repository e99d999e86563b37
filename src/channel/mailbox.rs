//! One direction of messages: a stamped ring, the bytes beside it, and blocks of the arena for what is too large.
//!
//! `layout.rs` says where it lies, `record.rs` what a message looks like in it.
//!
//! The run of a large message is OWNED by its sender until the record is committed, and RETIRED by its taker before the
//! record is acknowledged; so whoever dies, the ring says whether the run still belongs to a message (see `arena.rs`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed as Lax};

use super::layout::{CARRIES_AT, GRANULE_SHIFT, Numbers, RING_AT, corrupt};
use super::record::{BLOCK, BLOCK_PAYLOAD, HANDLE_BYTES, Handle, Head, INLINE, RECORD_HEAD, Record};
use crate::error::{Error, ErrorKind};
use crate::ring::{ClaimError, Corrupt, Ring, RingCache, TakeError};
use crate::segment::{Arrived, Holder, Object, Pinned, PinnedBytes, PinnedRing, Run, ShmSlice};
use crate::sync::{Lane, Pace, Peers, WaitBlock, wait_until};
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;

/// Bytes of blocks that a mailbox lets be under way before senders wait. A block's record takes as large a share of the
/// ring's granules as the block takes of this, so the count survives any death; and memory is used again while it is warm.
const BLOCK_BUDGET: usize = 4 << 20;

/// The largest message.
const MAX_MESSAGE: usize = 64 << 20;

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

    /// Granules of the record of a block of so many bytes.
    fn granules_for_block(&self, bytes: usize) -> u32 {
        let granules = u64::from(self.numbers.granules);
        let share = (bytes as u64 * granules).div_ceil(BLOCK_BUDGET as u64);
        share.min(granules / 2) as u32
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
        let n = self.granules_for_block(bytes.len()).max(least);
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
            self.bury_receivers();
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
        let ended = self.wait_for_item(lane, deadline, stop, || self.has_ready().then_some(Ok(())));
        if ended.is_ok() {
            // The caller takes nothing, and may have been woken in the place of somebody who would.
            self.items().pass_on();
        }
        ended
    }

    /// Whether a message can be taken now.
    pub fn has_ready(&self) -> bool {
        // The first is quick to say no, the second sure to say yes.
        self.ring().has_ready(&self.cache) && self.ring().has_item()
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
            self.bury_senders();
            None
        };
        wait_until(self.items(), &self.get_pace, segment, peer, deadline, attempt, idle).unwrap_or_else(|_| {
            let holder = self.ring().pending().and_then(|l| segment.lane_holder(l));
            Err(Ended::Timeout(holder))
        })
    }

    // ---- being watched

    /// Granules that a message of so many bytes takes.
    pub fn granules_of(&self, bytes: usize, handles: usize) -> u32 {
        let handles = handles * HANDLE_BYTES;
        let block = || self.granules_for_block(bytes).max(self.granules_for(BLOCK_PAYLOAD + handles).unwrap_or(0));
        self.granules_for(bytes + handles).unwrap_or_else(block)
    }

    /// Whether a message of so many granules can be stored now.
    pub fn has_room(&self, granules: u32) -> bool {
        self.ring().has_room(granules, self.max_items())
    }

    /// Recovers the dead whom receivers wait for.
    pub fn bury_senders(&self) {
        match self.ring().pending() {
            Some(writer) => drop(self.object.segment().bury(writer)),
            None => drop(self.object.bury_openers()),
        }
    }

    /// Recovers the dead whom senders wait for.
    pub fn bury_receivers(&self) {
        if let Some(blocker) = self.ring().blocker() {
            self.object.segment().bury(blocker);
        }
        self.object.bury_openers();
    }

    /// Notes where the calling thread runs; where the next message is expected from.
    pub fn expect_item(&self) -> Option<u32> {
        let segment = self.object.segment();
        if let Ok(lane) = segment.lane() {
            segment.note_cpu(lane);
        }
        segment.cpu_of(self.writer.load(Lax) as Lane)
    }

    /// Wakes everybody who waits, to look at something new.
    pub fn wake_all(&self) {
        self.items().notify_all();
        self.space().notify_all();
    }
}
