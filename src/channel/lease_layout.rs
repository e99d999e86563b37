//! Where the lease table of a queue lies in its object, and how a queue is recovered that has one.
//!
//! Behind the mailbox at 0, at the next multiple of 256:
//! ```text
//! 0     returned u64, redelivered u64, spare                                   256 bytes
//! 256   state[leases] u64, position[leases] u64
//!       record[leases] of 256 bytes, from the next multiple of 256 on
//! ```
//! The mailbox's head says how many entries there are; none for most queues, which then end with their mailbox.

use super::layout::{self, Numbers, bytes_for, corrupt};
use super::leases::{self, Leases, MOST_DELIVERIES};
use super::record::{BLOCK, ELSEWHERE, Head};
use crate::error::Error;
use crate::segment::{Losses, NameHandle, PAGE, ShmSlice, View};
use crate::sync::IsDead;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::atomic::{AtomicU32, AtomicU64};

/// Where the mailbox's head says how many entries there are, and after how many deliveries an item is a dead letter.
const LEASES_AT: usize = 16;
const MAX_DELIVERIES_AT: usize = 20;

/// Bytes of an entry's record.
pub(super) const RECORD_BYTES: usize = 256;
const CONTROL_BYTES: usize = 256;
/// The largest table.
pub(super) const MAX_LEASES: u32 = 1 << 16;

/// The place of a lease table, checked.
#[derive(Clone, Copy)]
pub(super) struct Table {
    at: usize,
    pub leases: usize,
    pub max_deliveries: u32,
}

/// Bytes of a table.
const fn table_bytes(leases: u32) -> usize {
    CONTROL_BYTES + (leases as usize * 16).next_multiple_of(RECORD_BYTES) + leases as usize * RECORD_BYTES
}

const fn table_at(granules: u32) -> usize {
    bytes_for(granules).next_multiple_of(RECORD_BYTES)
}

/// Bytes of a queue's object with a table, whole pages.
pub(super) fn object_bytes(granules: u32, leases: u32) -> usize {
    (table_at(granules) + table_bytes(leases)).next_multiple_of(PAGE)
}

/// Writes the numbers of the table of a fresh queue; the table itself is zero.
pub(super) fn init(view: &View<'_>, leases: u32, max_deliveries: u32) {
    view.block::<AtomicU32>(LEASES_AT).store(leases, Relaxed);
    view.block::<AtomicU32>(MAX_DELIVERIES_AT).store(max_deliveries, Relaxed);
}

impl Table {
    /// The table of the queue, if it has one.
    pub fn read(view: &View<'_>) -> Result<Option<Self>, Error> {
        let granules = Numbers::read(view, 0)?.granules;
        let leases = view.block::<AtomicU32>(LEASES_AT).load(Relaxed);
        let max_deliveries = view.block::<AtomicU32>(MAX_DELIVERIES_AT).load(Relaxed);
        if leases == 0 {
            return Ok(None);
        }
        let room = view.len().saturating_sub(table_at(granules));
        if leases > MAX_LEASES || table_bytes(leases) > room {
            return Err(Error::corrupt("lease table", "entries", leases, format!("as many as fit {room} B")));
        }
        if max_deliveries > MOST_DELIVERIES {
            let most = format!("at most {MOST_DELIVERIES}");
            return Err(Error::corrupt("lease table", "deliveries", max_deliveries, most));
        }
        Ok(Some(Self { at: table_at(granules), leases: leases as usize, max_deliveries }))
    }

    /// Offset of `returned`, and behind it of `redelivered`.
    pub fn control_at(&self) -> usize {
        self.at
    }

    /// Offset of the states, and behind them the positions.
    pub fn words_at(&self) -> usize {
        self.at + CONTROL_BYTES
    }

    /// Offset of the records.
    pub fn records_at(&self) -> usize {
        self.words_at() + (self.leases * 16).next_multiple_of(RECORD_BYTES)
    }

    fn leases<'a>(&self, view: &View<'a>) -> Leases<'a> {
        let words = |k: usize| view.blocks::<AtomicU64>(self.words_at() + k * self.leases * 8, self.leases);
        Leases { returned: view.block(self.control_at()), states: words(0), positions: words(1) }
    }

    /// Calls `f` with each record of the table. A record that lies in a run is one too, behind the one that says so.
    fn for_each_record(&self, view: &View<'_>, f: &mut dyn FnMut(&Named)) {
        let look = |index| Named::read(view, &view.slice(self.records_at() + index * RECORD_BYTES, RECORD_BYTES));
        self.leases(view).for_each_record(look, |named| named.iter().for_each(&mut *f));
    }
}

/// What a record names: read while it may change, and used when it has not.
#[derive(Default)]
struct Named {
    page: Option<u32>,
    handles: Vec<(crate::segment::ObjectId, usize)>,
}

impl Named {
    /// The record in `data`, and the one in the run that it names.
    fn read(view: &View<'_>, data: &ShmSlice<'_>) -> Vec<Self> {
        let mut found = Vec::new();
        if let Ok(head) = Head::read(data) {
            found.push(Self::of(&head, data));
            if let (ELSEWHERE, Ok((page, generation, bytes))) = (head.kind, head.block(data)) {
                let run = view.run(page, generation).filter(|run| (8..=run.len() as u64).contains(&bytes));
                let record = run.map(|run| run.part(0, bytes as usize));
                found.extend(record.and_then(|record| Some(Self::of(&Head::read(&record).ok()?, &record))));
            }
        }
        found
    }

    fn of(head: &Head, data: &ShmSlice<'_>) -> Self {
        let mut named = Self::default();
        if matches!(head.kind, BLOCK | ELSEWHERE) {
            named.page = head.block(data).ok().map(|(page, ..)| page);
        }
        head.for_each_handle(data, &mut |id, role| named.handles.push((id, role)));
        named
    }
}

/// What lanes have in flight in a queue.
pub(super) fn count(view: &View<'_>, dead: IsDead<'_>) -> Result<Losses, Error> {
    let Some(table) = Table::read(view)? else { return layout::count(view, 0, dead) };
    let leases = table.leases(view);
    let ring = Numbers::read(view, 0)?.ring(view).map_err(corrupt)?;
    let ledger = ring.count_kept(dead, &|position| leases.kept(position, dead)).map_err(corrupt)?;
    let redelivered = ledger.redelivered.saturating_add(leases.count(dead, table.max_deliveries));
    Ok(Losses { vanished: ledger.vanished, redelivered, locks: 0 })
}

/// Ends what dead lanes have in flight in a queue.
pub(super) fn recover(view: &View<'_>, dead: IsDead<'_>) -> Result<(), Error> {
    let Some(table) = Table::read(view)? else { return layout::recover(view, 0, dead) };
    let ring = Numbers::read(view, 0)?.ring(view);
    leases::recover(ring, &table.leases(view), dead, table.max_deliveries).map_err(corrupt)
}

/// Names the runs of the messages in a queue: in the ring first, since they move from there into the table.
pub(super) fn linked(view: &View<'_>, f: &mut dyn FnMut(u32)) -> Result<(), Error> {
    layout::linked(view, 0, f)?;
    if let Some(table) = Table::read(view)? {
        table.for_each_record(view, &mut |named| named.page.into_iter().for_each(&mut *f));
    }
    Ok(())
}

/// Names the handles in the messages in a queue, in the same order.
pub(super) fn handles(view: &View<'_>, f: NameHandle<'_>) -> Result<(), Error> {
    layout::handles(view, 0, f)?;
    let Some(table) = Table::read(view)?.filter(|_| layout::carries_handles(view, 0)) else { return Ok(()) };
    table.for_each_record(view, &mut |named| named.handles.iter().for_each(|(id, role)| f(*id, *role)));
    Ok(())
}

/// One line for `inspect`.
pub(super) fn describe(view: &View<'_>) -> String {
    let mailbox = layout::describe(view, 0);
    match Table::read(view) {
        Ok(None) => mailbox,
        Ok(Some(table)) => {
            let tally = table.leases(view).tally();
            let (held, waiting, dead) = (tally.held, tally.waiting, tally.dead_letters);
            format!("{mailbox}, {held} leased, {waiting} given back, {dead} dead letters")
        }
        Err(e) => format!("{mailbox}, {e}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::queue::Queue;
    use super::*;
    use crate::segment::{Object, Segment};
    use crate::sys::atomic::Ordering::Release;

    /// Words of a table that look like some: small numbers, states, heads of records.
    fn word() -> impl Strategy<Value = u64> {
        let state = (0u64..8, 0u64..1024, 0u64..4).prop_map(|(state, lane, d)| d << 16 | lane << 6 | state);
        let head = (0u64..600, 0u64..4, 0u64..40).prop_map(|(len, kind, handles)| len | kind << 32 | handles << 40);
        prop_oneof![any::<u64>(), 0u64..300, state, head, Just(u64::MAX)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_the_bytes_recovery_of_a_queue_with_leases_ends(
            words in prop::collection::vec((0.0f64..1.0, word()), 1..200),
            again in any::<bool>(),
        ) {
            let segment = Segment::anonymous(4 << 20).unwrap();
            let queue: Queue<Vec<u8>> = Queue::builder().segment(&segment).bytes(4096).leases(6).build().unwrap();
            for bytes in [10, 400, 5000, 10] {
                queue.put(vec![1; bytes]).unwrap();
            }
            let held = (queue.lease(), queue.lease(), queue.lease());
            let object: &Object = &queue.inner.object;
            let view = object.view();
            let table = Table::read(&view).unwrap().unwrap();
            // Half of them into the table, half anywhere in the used part of the object.
            let end = table.records_at() + table.leases * RECORD_BYTES;
            for (k, (at, word)) in words.iter().enumerate() {
                let from = if k % 2 == 0 { table.at } else { 0 };
                let at = (from + ((end - from - 8) as f64 * at) as usize) & !7;
                view.block::<AtomicU64>(at).store(*word, Release);
            }
            for dead in [&(|_| true) as IsDead<'_>, &|lane| lane == 1] {
                let _ = count(&view, dead);
                let _ = recover(&view, dead);
                let _ = (linked(&view, &mut |_| {}), handles(&view, &mut |_, _| {}), describe(&view));
            }
            if again {
                // Whatever recovery left, in use.
                drop(held);
                let _ = (queue.try_lease().map(|lease| lease.ack()), queue.try_get(), queue.len(), queue.stats());
                let _ = queue.dead_letters().take(10).count();
            } else {
                std::mem::forget(held);
            }
            std::mem::forget(queue);
        }
    }
}
