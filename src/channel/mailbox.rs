//! One direction of messages: a stamped ring, the bytes beside it, and blocks of the arena for what is too large.
//!
//! `layout.rs` says where it lies, `record.rs` what a message looks like in it.
//!
//! The run of a large message is OWNED by its sender until the record is committed, and RETIRED by its taker before the
//! record is acknowledged; so whoever dies, the ring says whether the run still belongs to a message (see `arena.rs`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed as Lax};

use super::layout::{CARRIES_AT, GRANULE_SHIFT, Numbers, RING_AT, corrupt};
use super::plain::Target;
use super::record::{BLOCK, BLOCK_PAYLOAD, HANDLE_BYTES, Handle, Head, INLINE, RECORD_HEAD, Record, block_payload};
use super::stats::{Traffic, look_every};
use crate::error::{Error, ErrorKind};
use crate::ring::{Claim, ClaimError, Corrupt, Cursor, Ring, RingCache, TakeError, Taken};
use crate::segment::{Arrived, Holder, Object, Pinned, PinnedBytes, PinnedRing, Run, ShmSlice};
use crate::sync::{Lane, Pace, WaitBlock};
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;

mod moving;
mod waiting;

pub(super) use moving::Unkept;

/// Bytes of blocks that a mailbox lets be under way before senders wait. A block's record takes as large a share of the
/// ring's granules as the block takes of this, so the count survives any death; and memory is used again while it is warm.
const BLOCK_BUDGET: usize = 4 << 20;

/// The largest message.
pub(super) const MAX_MESSAGE: usize = 64 << 20;

/// What comes with a message.
#[derive(Default)]
pub(super) struct News {
    /// An earlier taker died with it.
    pub redelivered: bool,
    /// Keeps the handles in it open until they are decoded.
    pub arrived: Arrived,
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

/// How a mailbox stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Everything that was put was taken and is done with. The same place twice means that nothing came in between.
    AtRest(Cursor),
    /// A message can be taken; at which place the next one will be.
    Open(Cursor),
    /// There are messages, none can be taken, and the oldest, at this place, is being written or read by this process. If it is
    /// none, or if the same is said for long, that is no moment of a process but wrong bytes.
    Held(Cursor, Option<u32>),
}

/// One direction of messages, open in this process.
pub(super) struct Mailbox {
    pub object: Object,
    numbers: Numbers,
    /// Granules of the largest record: so many that as many records as may wait have room.
    most: u32,
    ring: PinnedRing,
    bytes: PinnedBytes,
    waits: Pinned<WaitBlock>,
    cache: RingCache,
    get_pace: Pace,
    put_pace: Pace,
    /// Lane that wrote the message taken last: whom to expect the next one from.
    writer: AtomicU64,
    traffic: Traffic,
    /// A put that crosses a multiple of this plus one, in granules, looks how many messages wait.
    look_mask: u64,
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
        let most = match numbers.max_items {
            0 => numbers.granules / 2,
            // One share is left for the padding at the end of a lap.
            n => (numbers.granules / n.saturating_add(1)).clamp(1, numbers.granules / 2),
        };
        Ok(Self {
            most,
            object: object.clone(),
            numbers,
            ring,
            bytes: PinnedBytes::new(object, numbers.words_at(3), (numbers.granules as usize) << GRANULE_SHIFT),
            waits,
            cache,
            get_pace: Pace::default(),
            put_pace: Pace::default(),
            writer: AtomicU64::new(0),
            traffic: Traffic::open(object, base),
            look_mask: look_every(numbers.max_items) - 1,
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

    /// The bytes of the record of `granules` granules at `position`.
    #[inline]
    pub fn record(&self, position: u64, granules: u32) -> ShmSlice<'_> {
        let index = self.ring().index(position);
        self.bytes.slice(index << GRANULE_SHIFT, (granules as usize) << GRANULE_SHIFT)
    }

    /// Messages that are committed and not taken, and those being written.
    pub fn len(&self) -> usize {
        self.ring().len()
    }

    /// Whether a message of so many granules would find room.
    pub fn has_room(&self, granules: u32) -> bool {
        self.ring().has_room(granules, self.max_items())
    }

    /// Most messages that may wait, if that is limited.
    pub fn capacity(&self) -> Option<usize> {
        (self.numbers.max_items != 0).then_some(self.numbers.max_items as usize)
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
            None => self.send_block(lane, [bytes, &[]], handles, deadline, stop),
        }
    }

    /// As [`send`](Self::send), of a message that lies in two places and is so long that it does not go through the ring.
    pub fn send_parts(
        &self,
        lane: Lane,
        parts: [&[u8]; 2],
        handles: &[Handle],
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), Ended> {
        self.send_block(lane, parts, handles, deadline, stop)
    }

    /// Granules of a record with so many bytes behind its head, if it may be one.
    #[inline]
    pub fn granules_for(&self, bytes: usize) -> Option<u32> {
        let n = (RECORD_HEAD + bytes).div_ceil(1 << GRANULE_SHIFT);
        (n <= self.most as usize).then_some(n as u32)
    }

    /// Granules of the record that stands for a block of so many bytes.
    pub fn granules_for_block(&self, bytes: usize) -> u32 {
        let granules = self.numbers.granules;
        let share = (bytes as u64 * u64::from(granules)).div_ceil(BLOCK_BUDGET as u64);
        share.clamp(1, u64::from(self.most)) as u32
    }

    /// Granules that a message of so many bytes and handles takes.
    pub fn granules_of(&self, bytes: usize, handles: usize) -> u32 {
        let handles = handles * HANDLE_BYTES;
        let least = (RECORD_HEAD + BLOCK_PAYLOAD + handles).div_ceil(1 << GRANULE_SHIFT) as u32;
        self.granules_for(bytes + handles).unwrap_or_else(|| self.granules_for_block(bytes).max(least))
    }

    fn send_block(
        &self,
        lane: Lane,
        [head, rest]: [&[u8]; 2],
        handles: &[Handle],
        deadline: Deadline,
        stop: impl Fn() -> bool,
    ) -> Result<(), Ended> {
        let len = head.len() + rest.len();
        let refuse = |message| Err(Ended::Failed(Error::new(ErrorKind::InvalidInput, "send message", message)));
        if len > MAX_MESSAGE {
            return refuse(format!("{len} B, expected at most {MAX_MESSAGE} B"));
        }
        let least = (RECORD_HEAD + BLOCK_PAYLOAD + handles.len() * HANDLE_BYTES).div_ceil(1 << GRANULE_SHIFT);
        if least > self.numbers.granules as usize / 2 {
            let room = self.numbers.granules << (GRANULE_SHIFT - 1);
            return refuse(format!("{} handles in one message, expected as many as fit {room} B", handles.len()));
        }
        let segment = self.object.segment();
        let run = segment.alloc(lane, len, self.object.id().word()).map_err(Ended::Failed)?;
        let slice = segment.run_slice(run);
        slice.write(0, head);
        slice.write(head.len(), rest);
        let payload = block_payload(run, len);
        let n = self.granules_for_block(len).max(least as u32);
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
            Err(Refused::NotNow) => self.wait_for_room(lane, deadline, stop, || self.try_record(lane, record)),
        }
    }

    /// Claims a record of `n` granules, if there is room.
    #[inline]
    pub fn claim(&self, lane: Lane, n: u32) -> Result<Claim, Refused> {
        match self.ring().claim(&self.cache, lane, n, self.max_items()) {
            Ok(claim) => Ok(claim),
            Err(ClaimError::Full) => Err(Refused::NotNow),
            Err(ClaimError::Corrupt(e)) => Err(e.into()),
            Err(ClaimError::TooLarge) => {
                Err(Refused::Failed(Error::corrupt("ring", "record", n, "at most half the ring")))
            }
        }
    }

    #[inline]
    fn try_record(&self, lane: Lane, record: Record<'_>) -> Result<(), Refused> {
        if !record.handles.is_empty() {
            // Before the commit, so that whoever looks for the handle looks here.
            self.object.word32(self.numbers.base + CARRIES_AT).store(1, Relaxed);
        }
        let claim = self.claim(lane, record.n)?;
        record.write(&self.record(claim.position, record.n));
        self.commit(lane, claim);
        Ok(())
    }

    /// Makes a record that was written available.
    #[inline]
    pub fn commit(&self, lane: Lane, claim: Claim) {
        self.ring().commit(claim, lane);
        self.tell_item();
        if (claim.position & self.look_mask) + u64::from(claim.n) > self.look_mask {
            self.note_items();
        }
    }

    /// Gives a record up. Whoever waited for it, or for room, looks again.
    pub fn abort(&self, claim: Claim) {
        self.ring().abort(claim);
        // Moves the cursors over it, if nothing holds them.
        self.ring().has_room(1, self.max_items());
        let peers = self.object.segment();
        self.items().notify_sleepers(peers);
        self.space().notify_sleepers(peers);
    }

    // ---- receiving

    /// Takes the oldest message into `bytes`, if there is one.
    #[inline]
    pub fn try_recv(&self, lane: Lane, bytes: &mut impl Target) -> Result<News, Refused> {
        let taken = self.take(lane)?;
        let data = self.record(taken.position, taken.n);
        let mut news = News { redelivered: taken.redelivered, arrived: Arrived::default() };
        let read = self.read_record(lane, &data, bytes, &mut news);
        // Acknowledged whatever it was: a message that cannot be read must not block those behind it.
        self.done(taken, read.as_ref().ok().copied().flatten())?;
        read?;
        Ok(news)
    }

    /// Takes the oldest record, if there is one.
    #[inline]
    pub fn take(&self, lane: Lane) -> Result<Taken, Refused> {
        match self.ring().take(&self.cache, lane) {
            Ok(taken) => {
                self.writer.store(u64::from(taken.producer), Lax);
                self.pass_on();
                Ok(taken)
            }
            Err(TakeError::Empty) => Err(Refused::NotNow),
            Err(TakeError::Corrupt(e)) => Err(e.into()),
        }
    }

    /// Acknowledges a record and gives back its run, which was retired before.
    #[inline]
    pub fn done(&self, taken: Taken, run: Option<Run>) -> Result<(), Corrupt> {
        let moved = self.ring().done(taken, self.numbers.max_items != 0)?;
        if let Some(run) = run {
            self.object.segment().free(run);
        }
        self.offer_room(moved);
        Ok(())
    }

    #[inline]
    fn read_record(
        &self,
        lane: Lane,
        data: &ShmSlice<'_>,
        bytes: &mut impl Target,
        news: &mut News,
    ) -> Result<Option<Run>, Error> {
        let head = Head::read(data)?;
        if head.handles > 0 {
            let segment = self.object.segment();
            head.for_each_handle(data, &mut |id, role| news.arrived.open(segment, id, role));
        }
        match head.kind {
            INLINE => {
                bytes.fill(data, head.payload_at(), head.len);
                Ok(None)
            }
            BLOCK => self.read_block(lane, &head, data, bytes).map(Some),
            kind => Err(Error::corrupt("message", "kind", kind, "1 or 2")),
        }
    }

    #[cold]
    fn read_block(&self, lane: Lane, head: &Head, data: &ShmSlice<'_>, bytes: &mut impl Target) -> Result<Run, Error> {
        let (run, len) = self.block_of(head, data)?;
        let segment = self.object.segment();
        bytes.fill(&segment.run_slice(run), 0, len);
        segment.retire(run, lane);
        Ok(run)
    }

    /// The run that a record names, and the bytes of it that are the message.
    pub fn block_of(&self, head: &Head, data: &ShmSlice<'_>) -> Result<(Run, usize), Error> {
        let (page, generation, len) = head.block(data)?;
        let run = self.object.segment().check_run(page, generation, self.object.id().word());
        match run.filter(|run| len <= run.bytes() as u64) {
            Some(run) => Ok((run, len as usize)),
            None => {
                let found = format!("page {page} generation {generation}, {len} B");
                Err(Error::corrupt("message", "block", found, "a block of this queue"))
            }
        }
    }

    /// Takes the oldest message into `bytes`, waiting for one until `deadline`. `stop` may end the wait.
    #[inline]
    pub fn recv(
        &self,
        lane: Lane,
        bytes: &mut impl Target,
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
}
