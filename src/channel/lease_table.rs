//! A lease table as one process has it open: records move from the ring into entries, and end there.
//!
//! `leases.rs` has the protocol of the words, `lease_layout.rs` says where they lie.
//!
//! An entry holds a record as it stood in the ring, so the run of a large message goes on belonging to a record, and so do
//! the handles that travel in it. A record of more than 256 bytes moves into a run of its own, OWNED until the entry says
//! HELD, and RETIRED before it says FREE: whoever dies, the entry says whether the run belongs to an item.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed as Lax};

use super::layout::{Numbers, RING_AT, corrupt};
use super::lease_layout::{RECORD_BYTES, Table};
use super::leases::{Filling, GivenBack, Held, Leases, Seen, Tally};
use super::mailbox::{Ended, Mailbox, News, Refused, Unkept};
use super::record::{BLOCK, ELSEWHERE, Head, INLINE, Record, block_payload};
use super::stats::Traffic;
use crate::error::{Error, ErrorKind};
use crate::ring::Taken;
use crate::segment::{Arrived, Object, Pinned, PinnedBytes, PinnedRing, Run, ShmSlice};
use crate::sync::{Lane, Pace, WaitBlock, wait_until};
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;

/// The words of the directory entry that a queue's users sleep on.
const ITEMS: usize = 0;
const FINISHED: usize = 2;
const ENTRIES: usize = 3;

/// Why nothing was leased at once.
pub(super) enum Unleased {
    /// No item waits.
    NoItem,
    /// Items may wait, but every entry of the table is in use.
    NoEntry,
    /// The segment failed.
    Failed(Error),
}

/// An item that this process holds.
struct Item {
    held: Held,
    /// The whole record lies in the entry and names nothing: ending it is one word.
    is_plain: bool,
}

/// What a record names besides its own bytes.
#[derive(Default)]
struct Contents {
    /// The run with the record, the run with the message.
    runs: [Option<Run>; 2],
    has_handles: bool,
}

/// The lease table of a queue, open in this process.
pub(super) struct LeaseTable {
    object: Object,
    table: Table,
    control: Pinned<AtomicU64>,
    states: Pinned<AtomicU64>,
    positions: Pinned<AtomicU64>,
    records: PinnedBytes,
    ring: PinnedRing,
    waits: Pinned<WaitBlock>,
    seen: Seen,
    /// Where to look for a free entry: one that was free a moment ago, and for each process a place of its own at first.
    hint: AtomicUsize,
    entry_pace: Pace,
    join_pace: Pace,
    traffic: Traffic,
}

impl LeaseTable {
    /// Opens the table of the queue, if it has one.
    pub fn open(object: &Object) -> Result<Option<Arc<Self>>, Error> {
        let view = object.view();
        let Some(table) = Table::read(&view)? else { return Ok(None) };
        let numbers = Numbers::read(&view, 0)?;
        let n = table.leases;
        let ring = PinnedRing::new(object, RING_AT, numbers.words_at(0), numbers.granules as usize);
        let (control, states) = (Pinned::new(object, table.control_at(), 2), Pinned::new(object, table.words_at(), n));
        let positions = Pinned::new(object, table.words_at() + n * 8, n);
        let seen = Seen::new(&Leases { returned: &control[0], states: &states, positions: &positions });
        Ok(Some(Arc::new(Self {
            table,
            control,
            states,
            positions,
            records: PinnedBytes::new(object, table.records_at(), n * RECORD_BYTES),
            ring: ring.map_err(corrupt)?,
            waits: Pinned::waits(object, 0, 4),
            seen,
            hint: AtomicUsize::new(object.segment().row() as usize * 8 % n),
            entry_pace: Pace::default(),
            join_pace: Pace::default(),
            traffic: Traffic::open(object, 0),
            object: object.clone(),
        })))
    }

    fn leases(&self) -> Leases<'_> {
        Leases { returned: &self.control[0], states: &self.states, positions: &self.positions }
    }

    fn record(&self, index: usize) -> ShmSlice<'_> {
        self.records.slice(index * RECORD_BYTES, RECORD_BYTES)
    }

    /// How many entries are in which state.
    pub fn tally(&self) -> Tally {
        self.leases().tally()
    }

    /// How often an item was taken that had been given back.
    pub fn redelivered(&self) -> u64 {
        self.control[1].load(Relaxed)
    }

    /// Whether an item waits that was given back.
    pub fn has_waiting(&self) -> bool {
        self.leases().has_waiting(&self.seen)
    }

    // ---- taking

    /// Leases the oldest item, one that was given back before others, and copies its message into `bytes`.
    pub fn try_lease(self: &Arc<Self>, lane: Lane, mailbox: &Mailbox, bytes: &mut Vec<u8>) -> Result<Ticket, Unleased> {
        let process = self.object.segment().process_lane().map_err(Unleased::Failed)?;
        let leases = self.leases();
        if let Some(held) = self.take_again(process) {
            return self.read_again(held, bytes).map(|item| self.ticket(item)).map_err(Unleased::Failed);
        }
        if !mailbox.may_take() {
            return Err(Unleased::NoItem);
        }
        let Some(filling) = leases.claim(process, self.hint.load(Lax)) else { return Err(self.no_entry()) };
        let keep = |taken: &Taken, data: &ShmSlice<'_>| self.keep(lane, process, filling, taken, data, bytes);
        match mailbox.try_move(lane, keep) {
            Ok(item) => {
                self.hint.store(filling.index + 1, Lax);
                Ok(self.ticket(item))
            }
            Err(refused) => {
                leases.abandon(filling);
                // Somebody may have found the table full meanwhile.
                self.waits[ENTRIES].notify(self.object.segment());
                Err(match refused {
                    Refused::NotNow => Unleased::NoItem,
                    Refused::Failed(e) => Unleased::Failed(e),
                })
            }
        }
    }

    fn take_again(&self, process: Lane) -> Option<Held> {
        let held = self.leases().take_again(process, &self.seen)?;
        self.control[1].fetch_add(1, Relaxed);
        Some(held)
    }

    /// Waiting for an entry has a point, unless dead letters have them all.
    #[cold]
    fn no_entry(&self) -> Unleased {
        let n = self.table.leases;
        if self.tally().dead_letters < n {
            return Unleased::NoEntry;
        }
        let message = format!("all {n} entries hold dead letters, expected somebody to drain them");
        Unleased::Failed(Error::new(ErrorKind::OutOfSpace, "lease item", message))
    }

    /// Moves a record that was taken from the ring into an entry.
    fn keep(
        &self,
        lane: Lane,
        process: Lane,
        filling: Filling,
        taken: &Taken,
        data: &ShmSlice<'_>,
        bytes: &mut Vec<u8>,
    ) -> Result<Item, Unkept> {
        let head = Head::read(data).map_err(Unkept::Unreadable)?;
        let entry = self.record(filling.index);
        // By way of the caller's buffer: shared memory is copied in and out.
        data.read_into(0, head.record_bytes(), bytes);
        let mut spilled = None;
        if bytes.len() <= RECORD_BYTES {
            entry.write(0, bytes);
        } else {
            let segment = self.object.segment();
            let run = segment.alloc(lane, bytes.len(), self.object.id().word()).map_err(Unkept::NoRoom)?;
            segment.run_slice(run).write(0, bytes);
            let payload = block_payload(run, bytes.len());
            Record { n: 0, kind: ELSEWHERE, handles: &[], payload: &payload }.write(&entry);
            spilled = Some(run);
        }
        let is_plain = head.kind == INLINE && head.handles == 0;
        match head.kind {
            // What was read first says where the message is in what was read then.
            INLINE => drop(bytes.drain(..head.payload_at())),
            _ => {
                if let Err(e) = self.read_message(&head, data, bytes, &mut Contents::default()) {
                    spilled.into_iter().for_each(|run| self.object.segment().free(run));
                    return Err(Unkept::Unreadable(e));
                }
            }
        }
        let held = self.leases().hold(filling, process, taken.position, taken.redelivered);
        let is_plain = is_plain && spilled.is_none();
        if let Some(run) = spilled {
            self.object.segment().run_live(run, lane);
        }
        Ok(Item { held, is_plain })
    }

    /// Reads the message of an item that was given back. One that cannot be read is consumed.
    fn read_again(&self, held: Held, bytes: &mut Vec<u8>) -> Result<Item, Error> {
        let mut contents = Contents::default();
        match self.read_record(&self.record(held.index), bytes, &mut contents) {
            Ok(()) => {
                let is_plain = contents.runs == [None; 2] && !contents.has_handles;
                Ok(Item { held, is_plain })
            }
            Err(e) => {
                self.leases().end(held);
                self.freed(held.index);
                Err(e)
            }
        }
    }

    fn read_record(&self, data: &ShmSlice<'_>, bytes: &mut Vec<u8>, contents: &mut Contents) -> Result<(), Error> {
        let head = Head::read(data)?;
        if head.kind != ELSEWHERE {
            return self.read_message(&head, data, bytes, contents);
        }
        let (run, len) = self.named_run(&head, data)?;
        contents.runs[0] = Some(run);
        let record = self.object.segment().run_slice(run).part(0, len);
        let head = Head::read(&record)?;
        self.read_message(&head, &record, bytes, contents)
    }

    fn read_message(
        &self,
        head: &Head,
        data: &ShmSlice<'_>,
        bytes: &mut Vec<u8>,
        contents: &mut Contents,
    ) -> Result<(), Error> {
        contents.has_handles |= head.handles > 0;
        match head.kind {
            INLINE => data.read_into(head.payload_at(), head.len, bytes),
            BLOCK => {
                let (run, len) = self.named_run(head, data)?;
                contents.runs[1] = Some(run);
                self.object.segment().run_slice(run).read_into(0, len, bytes);
            }
            kind => return Err(Error::corrupt("message", "kind", kind, "1 or 2")),
        }
        Ok(())
    }

    /// The run that a record names, and how many bytes of it.
    fn named_run(&self, head: &Head, data: &ShmSlice<'_>) -> Result<(Run, usize), Error> {
        let (page, generation, len) = head.block(data)?;
        let run = self.object.segment().check_run(page, generation, self.object.id().word());
        let least = if head.kind == ELSEWHERE { super::record::RECORD_HEAD as u64 } else { 0 };
        run.filter(|run| (least..=run.bytes() as u64).contains(&len)).map(|run| (run, len as usize)).ok_or_else(|| {
            let found = format!("page {page} generation {generation}, {len} B");
            Error::corrupt("message", "block", found, "a block of this queue")
        })
    }

    /// Takes an item that was given back, to get and not to lease it, and says how often it was handed out.
    pub fn try_get_again(&self, bytes: &mut Vec<u8>) -> Option<Result<(News, u32), Refused>> {
        if !self.leases().has_news(&self.seen) {
            return None;
        }
        let process = match self.object.segment().process_lane() {
            Ok(lane) => lane,
            Err(e) => return Some(Err(Refused::Failed(e))),
        };
        let held = self.take_again(process)?;
        Some(self.get_whole(held, process, bytes).map_err(Refused::Failed))
    }

    /// Takes a dead letter.
    pub fn try_get_dead(&self, bytes: &mut Vec<u8>) -> Result<(News, u32), Refused> {
        let process = self.object.segment().process_lane().map_err(Refused::Failed)?;
        let held = self.leases().take_dead(process).ok_or(Refused::NotNow)?;
        self.get_whole(held, process, bytes).map_err(Refused::Failed)
    }

    fn get_whole(&self, held: Held, process: Lane, bytes: &mut Vec<u8>) -> Result<(News, u32), Error> {
        let item = self.read_again(held, bytes)?;
        let (_, arrived) = self.finish(&item, process);
        Ok((News { redelivered: true, arrived }, held.deliveries()))
    }

    // ---- ending

    /// Takes an item out of its entry. False if it was not there any more, which only damage can do.
    fn finish(&self, item: &Item, process: Lane) -> (bool, Arrived) {
        let leases = self.leases();
        let mut arrived = Arrived::default();
        let index = item.held.index;
        let ended = if item.is_plain {
            leases.end(item.held)
        } else {
            let segment = self.object.segment();
            let mut runs = [None; 2];
            self.names(&self.record(index), &mut runs, &mut arrived);
            runs.into_iter().flatten().for_each(|run| segment.retire(run, process));
            let ended = leases.end(item.held);
            if ended {
                runs.into_iter().flatten().for_each(|run| segment.free(run));
            }
            ended
        };
        self.freed(index);
        (ended, arrived)
    }

    /// What a record names: its runs, and the objects, which are opened before the record stops to keep them.
    fn names(&self, data: &ShmSlice<'_>, runs: &mut [Option<Run>; 2], arrived: &mut Arrived) {
        let Ok(head) = Head::read(data) else { return };
        let segment = self.object.segment();
        let named = self.named_run(&head, data).ok();
        head.for_each_handle(data, &mut |id, role| arrived.open(segment, id, role));
        match (head.kind, named) {
            (ELSEWHERE, Some((run, len))) if runs[0].is_none() => {
                runs[0] = Some(run);
                self.names(&segment.run_slice(run).part(0, len), runs, arrived);
            }
            (BLOCK, Some((run, _))) => runs[1] = Some(run),
            _ => {}
        }
    }

    /// An entry is free: whoever waits for one, or for the end of all work, may go on.
    #[inline]
    fn freed(&self, index: usize) {
        self.hint.store(index, Lax);
        self.waits[ENTRIES].notify(self.object.segment());
        self.tell_joiners();
    }

    #[inline]
    fn tell_joiners(&self) {
        if self.waits[FINISHED].has_sleepers(self.object.segment()) {
            self.wake_joiners();
        }
    }

    #[cold]
    fn wake_joiners(&self) {
        // Damage is found by those who wait.
        if !matches!(self.all_finished(), Ok(false)) {
            self.waits[FINISHED].notify_sleepers(self.object.segment());
        }
    }

    fn give_back(&self, held: Held) {
        let segment = self.object.segment();
        match self.leases().give_back(held, self.table.max_deliveries) {
            Some(GivenBack::Redo) => {
                self.waits[ITEMS].notify(segment);
                // Who waits for an entry can have this one.
                self.waits[ENTRIES].notify(segment);
            }
            Some(GivenBack::DeadLetter) => self.tell_joiners(),
            None => {}
        }
    }

    fn ticket(self: &Arc<Self>, item: Item) -> Ticket {
        Ticket { table: self.clone(), item: Some(item), epoch: self.object.segment().epoch() }
    }

    // ---- waiting

    /// Whether every item that was put is finished.
    pub fn all_finished(&self) -> Result<bool, Error> {
        self.leases().all_finished(self.ring.get()).map_err(corrupt)
    }

    /// Waits until every item that was put is finished.
    pub fn join(&self, lane: Lane, deadline: Deadline, stop: impl Fn() -> bool) -> Result<(), Ended> {
        let finished = || {
            // Looked at first and acted on last: the last to go may have finished everything.
            let stopped = stop();
            match self.all_finished() {
                Ok(true) => Some(Ok(())),
                Ok(false) => stopped.then_some(Err(Ended::Stopped)),
                Err(e) => Some(Err(Ended::Failed(e))),
            }
        };
        self.wait(FINISHED, &self.join_pace, lane, deadline, finished)
    }

    /// Waits for an entry, or rather until `attempt` gives something.
    pub fn wait_for_entry<R>(
        &self,
        lane: Lane,
        deadline: Deadline,
        attempt: impl FnMut() -> Option<Result<R, Ended>>,
    ) -> Result<R, Ended> {
        self.wait(ENTRIES, &self.entry_pace, lane, deadline, attempt)
    }

    #[cold]
    fn wait<R>(
        &self,
        word: usize,
        pace: &Pace,
        lane: Lane,
        deadline: Deadline,
        attempt: impl FnMut() -> Option<Result<R, Ended>>,
    ) -> Result<R, Ended> {
        let segment = self.object.segment();
        segment.note_cpu(lane);
        self.traffic.note_wait();
        let idle = || {
            self.object.bury_openers();
            None
        };
        wait_until(&self.waits[word], pace, segment, None, deadline, attempt, idle).unwrap_or_else(|_| {
            let holder = self.leases().holder().or_else(|| self.ring.get().blocker());
            Err(Ended::Timeout(holder.and_then(|lane| segment.lane_holder(lane))))
        })
    }

    /// Somebody who was woken for an entry did not need it: the next may, or has to wait for something else.
    pub fn pass_on_entry(&self) {
        self.waits[ENTRIES].notify(self.object.segment());
    }

    /// Wakes everybody who waits here, to look at something new.
    pub fn wake_all(&self) {
        self.waits[ENTRIES].notify_all();
        self.waits[FINISHED].notify_all();
    }
}

/// An item in hand. Dropped without [`end`](Self::end) it goes back to the queue.
pub(super) struct Ticket {
    table: Arc<LeaseTable>,
    item: Option<Item>,
    epoch: u64,
}

impl Ticket {
    /// How often the item was handed out, this time included.
    pub fn deliveries(&self) -> u32 {
        self.item.as_ref().map_or(0, |item| item.held.deliveries())
    }

    /// Whether this process took the item, and not the one that it was forked from.
    pub fn is_ours(&self) -> bool {
        self.epoch == self.table.object.segment().epoch()
    }

    /// Ends the item: nobody gets it again.
    ///
    /// # Errors
    /// If the entry does not hold it any more: the table is damaged, or this is a forked child and its parent has it.
    pub fn end(mut self) -> Result<(), Error> {
        let item = self.item.take();
        let found = match item.filter(|_| self.is_ours()) {
            None => "of the process that this one was forked from",
            Some(item) => {
                let process = self.table.object.segment().process_lane()?;
                if self.table.finish(&item, process).0 {
                    return Ok(());
                }
                "not there"
            }
        };
        Err(Error::corrupt("lease table", "lease", found, "held by this process"))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(item) = self.item.take().filter(|_| self.is_ours()) {
            self.table.give_back(item.held);
        }
    }
}
