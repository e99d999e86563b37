//! What a queue has done, in numbers.

use super::layout::{TRAFFIC_AT, corrupt};
use super::queue::Queue;
use crate::error::Error;
use crate::segment::{Object, Pinned};
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::Relaxed;

/// Totals of a queue since it was made, over all processes: [`Queue::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Items that were put; those being put right now count. Exact, whoever dies.
    pub puts: u64,
    /// Items that were taken, by a get or into a lease, each once however often it was redelivered. Exact, but for items
    /// that were lost in front of which nobody has taken anything yet: each of these makes it one too small.
    pub gets: u64,
    /// Puts and gets that had to wait. A wait that its process did not survive counts.
    pub waits: u64,
    /// Wake-ups of sleepers: system calls that puts and gets cost besides their waits. One that its process was killed in
    /// may be missing.
    pub wakes: u64,
    /// Items that died with whoever was putting them. Exact as far as deaths were found.
    pub lost: u64,
    /// How often an item was offered again whose taker died or gave it back. A process that dies in the middle of that, or
    /// of a recovery, may leave it too small.
    pub redelivered: u64,
    /// The most items that waited at once, as far as it was seen: looks are so frequent that at most an eighth of the
    /// capacity and at most 64 items are missing. Exact if a put has found the queue full of items.
    pub high_water: usize,
    /// Items on lease now.
    pub open_leases: usize,
    /// Dead letters now.
    pub dead_letters: usize,
}

/// Counters beside a ring, touched where it waits, wakes, or looks now and then.
pub(super) struct Traffic(Pinned<AtomicU64>);

impl Traffic {
    /// The counters of the mailbox at `base`.
    pub fn open(object: &Object, base: usize) -> Self {
        Self(Pinned::new(object, base + TRAFFIC_AT, 3))
    }

    pub fn note_wait(&self) {
        self.0[0].fetch_add(1, Relaxed);
    }

    pub fn note_wake(&self) {
        self.0[1].fetch_add(1, Relaxed);
    }

    /// So many items wait.
    pub fn note_items(&self, items: usize) {
        let word = &self.0[2];
        let mut high = word.load(Relaxed);
        while high < items as u64 {
            match word.compare_exchange(high, items as u64, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(seen) => high = seen,
            }
        }
    }

    fn read(&self) -> [u64; 3] {
        std::array::from_fn(|k| self.0[k].load(Relaxed))
    }
}

/// Granules after which a put looks how many items wait: a power of two.
pub(super) fn look_every(max_items: u32) -> u64 {
    match max_items / 8 {
        _ if max_items == 0 => 64,
        0 => 1,
        eighth => 1 << eighth.ilog2().min(6),
    }
}

impl<T> Queue<T> {
    /// What has been done with the queue since it was made, by everybody. Walks over the items that wait; others go on
    /// meanwhile, so the numbers need not fit together.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the ring is damaged.
    pub fn stats(&self) -> Result<QueueStats, Error> {
        let mailbox = &self.inner.mailbox;
        let counts = mailbox.counts().map_err(corrupt)?;
        mailbox.note_items();
        let [waits, wakes, high_water] = mailbox.traffic().read();
        let (tally, again) = match &self.inner.leases {
            Some(leases) => (leases.tally(), leases.redelivered()),
            None => Default::default(),
        };
        Ok(QueueStats {
            puts: counts.committed(),
            gets: counts.taken.saturating_sub(counts.aborted).saturating_sub(counts.lost),
            waits,
            wakes,
            lost: counts.lost,
            redelivered: counts.redelivered.wrapping_add(again),
            high_water: usize::try_from(high_water).unwrap_or(usize::MAX),
            open_leases: tally.held,
            dead_letters: tally.dead_letters,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::look_every;

    #[test]
    fn looks_are_as_frequent_as_the_capacity_needs() {
        let cases = [(0, 64), (1, 1), (8, 1), (16, 2), (63, 4), (64, 8), (511, 32), (512, 64), (1 << 19, 64)];
        for (max_items, every) in cases {
            assert_eq!(look_every(max_items), every, "{max_items} items");
        }
    }
}
