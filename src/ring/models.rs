//! The ring under loom: every interleaving (to a preemption bound), a death before every access to a shared word.
//!
//! Each property has a twin in which one step of the protocol is left out ([`broken`](crate::sys::atomic::broken)) and
//! which must fail. `LOOM_MAX_PREEMPTIONS` raises the bound from 2.
#![cfg(all(test, loom))]

mod bytes;
mod spsc;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use loom::cell::UnsafeCell;
use loom::thread;

use super::*;
use crate::sys::atomic::{AtomicU64, Killed, kill_point, with_budget};
use crate::sys::models::{at_every_step, model, twin};

mod sides;
mod turns;

const NO_LIMIT: u32 = u32::MAX;

/// A ring of a few granules, each of which holds a number.
struct Fixture {
    control: RingBlock,
    words: [Vec<AtomicU64>; 3],
    data: Vec<UnsafeCell<u32>>,
}

// SAFETY: `data` is touched only between claim and commit and between take and done; loom checks that nobody else does.
unsafe impl Sync for Fixture {}
// SAFETY: as above.
unsafe impl Send for Fixture {}

impl Fixture {
    fn new(capacity: usize) -> Arc<Self> {
        Self::starting_at(capacity, 0)
    }

    /// A ring that seems to have had so many records.
    fn starting_at(capacity: usize, items: u32) -> Arc<Self> {
        let control = RingBlock::starting_at(Cursor::new(0, items), Cursor::new(0, 0));
        let words = || (0..capacity).map(|_| AtomicU64::new(0)).collect();
        let data = (0..capacity).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { control, words: [words(), words(), words()], data })
    }

    fn ring(&self) -> Ring<'_> {
        Ring::of_any_size(&self.control, self.data.len(), &self.words[0], &self.words[1], &self.words[2]).unwrap()
    }

    fn put(&self, cache: &RingCache, lane: u16, n: u32, value: u32, limit: u32) -> Result<(), ClaimError> {
        let ring = self.ring();
        let claim = ring.claim(cache, lane, n, limit)?;
        for g in 0..n as usize {
            kill_point();
            // SAFETY: the granules are ours between claim and commit.
            self.data[ring.index(claim.position) + g].with_mut(|cell| unsafe { *cell = value });
        }
        ring.commit(claim, lane);
        Ok(())
    }

    fn read(&self, taken: Taken) -> u32 {
        let index = self.ring().index(taken.position);
        // SAFETY: the granules are ours between take and done.
        let get = |g: usize| self.data[index + g].with(|cell| unsafe { *cell });
        let value = get(0);
        for g in 1..taken.n as usize {
            kill_point();
            assert_eq!(get(g), value, "a record in pieces");
        }
        value
    }

    /// The value, and whether it had been taken before.
    fn get(&self, cache: &RingCache, lane: u16) -> Option<(u32, bool)> {
        match self.ring().take(cache, lane) {
            Ok(taken) => {
                kill_point();
                let value = self.read(taken);
                self.ring().done(taken, true).unwrap();
                Some((value, taken.redelivered))
            }
            Err(TakeError::Empty) => None,
            Err(TakeError::Corrupt(why)) => panic!("{why}"),
        }
    }

    fn drain(&self, into: &mut Vec<(u32, bool)>) {
        let cache = self.ring().cache();
        while let Some(got) = self.get(&cache, 9) {
            into.push(got);
        }
    }

    /// Drained and whole: all cursors meet, the counts are 0, and a full lap of records goes through, in order.
    fn check_usable(&self) {
        let (ring, cache) = (self.ring(), self.ring().cache());
        ring.reclaim().unwrap();
        assert_eq!((ring.len(), ring.head().position(), ring.rcur()), (0, ring.tail().position(), ring.tail()));
        assert_eq!((ring.pending(), ring.blocker()), (None, None));
        for round in 0..2 {
            for k in 0..ring.capacity() as u32 {
                self.put(&cache, 9, 1, 100 + k + round, NO_LIMIT).unwrap();
            }
            assert_eq!(self.put(&cache, 9, 1, 0, NO_LIMIT), Err(ClaimError::Full));
            for k in 0..ring.capacity() as u32 {
                assert_eq!(self.get(&cache, 9), Some((100 + k + round, false)));
            }
        }
        assert_eq!(ring.head().position(), ring.tail().position());
    }
}

fn only(victim: u16) -> impl Fn(u16) -> bool {
    move |lane| lane == victim
}

fn values(got: &[(u32, bool)]) -> Vec<u32> {
    let mut values: Vec<u32> = got.iter().map(|(value, _)| *value).collect();
    values.sort_unstable();
    values
}

// --- nobody dies

fn two_producers_and_a_consumer() {
    model(|| {
        let f = Fixture::new(2);
        let producers: Vec<_> = (1..=2)
            .map(|lane| {
                let f = f.clone();
                thread::spawn(move || f.put(&f.ring().cache(), lane, 1, lane as u32 * 10, NO_LIMIT).unwrap())
            })
            .collect();
        let mut got = vec![];
        let cache = f.ring().cache();
        got.extend(f.get(&cache, 3));
        got.extend(f.get(&cache, 3));
        producers.into_iter().for_each(|p| p.join().unwrap());
        f.drain(&mut got);
        assert_eq!(values(&got), [10, 20]);
        assert!(got.iter().all(|(_, again)| !again));
        f.check_usable();
    });
}

#[test]
fn every_record_of_two_producers_comes_out_once() {
    two_producers_and_a_consumer();
}

#[test]
fn twin_commit_without_release() {
    twin("commit-releases", two_producers_and_a_consumer);
}

/// A producer meets an old `tail` while others go round the ring.
fn a_late_producer() {
    model(|| {
        let f = Fixture::new(2);
        let late = {
            let f = f.clone();
            thread::spawn(move || {
                let cache = f.ring().cache();
                f.put(&cache, 1, 1, 1, NO_LIMIT).is_ok()
            })
        };
        let cache = f.ring().cache();
        let (mut got, mut put) = (vec![], vec![]);
        for value in [2, 3, 4] {
            if f.put(&cache, 2, 1, value, NO_LIMIT).is_ok() {
                put.push(value);
            }
            if value < 4 {
                got.extend(f.get(&cache, 2));
            }
        }
        if late.join().unwrap() {
            put.insert(0, 1);
        }
        f.drain(&mut got);
        assert_eq!(values(&got), put);
        f.check_usable();
    });
}

#[test]
fn a_late_producer_claims_nothing_of_a_later_lap() {
    a_late_producer();
}

#[test]
fn twin_claim_without_a_second_look_at_tail() {
    twin("claim-looks-at-tail-again", a_late_producer);
}

/// A consumer meets an old `rcur` while others go round the ring.
fn a_late_consumer() {
    model(|| {
        let f = Fixture::new(2);
        let cache = f.ring().cache();
        f.put(&cache, 2, 1, 1, NO_LIMIT).unwrap();
        let late = {
            let f = f.clone();
            thread::spawn(move || f.get(&f.ring().cache(), 1))
        };
        let mut got = vec![];
        got.extend(f.get(&cache, 2));
        let mut put = vec![1];
        for value in [2, 3] {
            if f.put(&cache, 2, 1, value, NO_LIMIT).is_ok() {
                put.push(value);
            }
            got.extend(f.get(&cache, 2));
        }
        got.extend(late.join().unwrap());
        f.drain(&mut got);
        assert_eq!(values(&got), put);
        f.check_usable();
    });
}

#[test]
fn a_late_consumer_takes_nothing_of_a_later_lap() {
    a_late_consumer();
}

#[test]
fn twin_take_word_loaded_after_ready() {
    twin("take-before-ready", a_late_consumer);
}

fn two_reclaimers() {
    model(|| {
        let f = Fixture::new(2);
        let cache = f.ring().cache();
        f.put(&cache, 3, 1, 1, NO_LIMIT).unwrap();
        f.put(&cache, 3, 1, 2, NO_LIMIT).unwrap();
        let first = f.ring().take(&cache, 1).unwrap();
        let second = f.ring().take(&cache, 2).unwrap();
        let other = {
            let f = f.clone();
            thread::spawn(move || f.ring().done(first, true).unwrap())
        };
        let moved = f.ring().done(second, true).unwrap();
        assert!(other.join().unwrap() | moved);
        assert_eq!(f.ring().head().position(), f.ring().tail().position());
    });
}

#[test]
fn of_two_consumers_that_end_together_one_reclaims_both_records() {
    two_reclaimers();
}

#[test]
fn twin_done_without_a_fence() {
    twin("done-fences", two_reclaimers);
}

fn two_producers_and_a_limit() {
    model(|| {
        let f = Fixture::new(4);
        let put = |lane: u16| {
            let f = f.clone();
            move || f.put(&f.ring().cache(), lane, 1, lane as u32, 1)
        };
        let other = thread::spawn(put(1));
        let cache = f.ring().cache();
        let mine = f.put(&cache, 2, 1, 2, 1);
        let theirs = other.join().unwrap();
        assert!(mine.is_ok() != theirs.is_ok(), "{mine:?} {theirs:?}");
        assert_eq!((f.ring().len(), f.ring().has_room(1, 1), f.ring().has_room(1, 2)), (1, false, true));
        let mut got = vec![];
        f.drain(&mut got);
        assert_eq!(values(&got), [if mine.is_ok() { 2 } else { 1 }]);
        f.check_usable();
    });
}

#[test]
fn two_producers_never_exceed_the_limit() {
    two_producers_and_a_limit();
}

#[test]
fn twin_limit_in_the_first_round_only() {
    twin("limit-in-every-round", two_producers_and_a_limit);
}

fn len_beside_a_producer_and_a_consumer() {
    model(|| {
        let f = Fixture::new(4);
        let cache = f.ring().cache();
        f.put(&cache, 3, 1, 1, NO_LIMIT).unwrap();
        let producer = {
            let f = f.clone();
            thread::spawn(move || f.put(&f.ring().cache(), 1, 1, 2, NO_LIMIT).unwrap())
        };
        let consumer = {
            let f = f.clone();
            thread::spawn(move || {
                let cache = f.ring().cache();
                (0..2).filter_map(|_| f.get(&cache, 2)).count()
            })
        };
        assert!(f.ring().len() <= 2);
        producer.join().unwrap();
        assert!(f.ring().len() <= 2);
        let taken = consumer.join().unwrap();
        assert_eq!(f.ring().len(), 2 - taken);
    });
}

#[test]
fn len_stays_between_what_is_there_before_and_after() {
    len_beside_a_producer_and_a_consumer();
}

// --- a producer dies

/// A ring of 4 that holds a record of 3, so that a record of 2 needs padding; the victim puts one while a survivor
/// takes and puts. Recovery follows.
fn a_producer_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new(4);
        let cache = f.ring().cache();
        f.put(&cache, 3, 2, 6, NO_LIMIT).unwrap();
        f.put(&cache, 3, 1, 7, NO_LIMIT).unwrap();
        let mut got = vec![f.get(&cache, 3).unwrap()];
        let victim = {
            let f = f.clone();
            thread::spawn(move || with_budget(step, || f.put(&f.ring().cache(), 1, 2, 10, NO_LIMIT).is_ok()))
        };
        got.extend(f.get(&cache, 3));
        let mine = f.put(&cache, 3, 1, 20, NO_LIMIT).is_ok();
        let outcome = victim.join().unwrap();
        let mut vanished = 0;
        if let Err(Killed) = outcome {
            died.store(true, Relaxed);
            let counted = f.ring().count(&only(1)).unwrap();
            let ledger = f.ring().recover(&only(1)).unwrap();
            assert_eq!(counted, ledger);
            assert_eq!((ledger.redelivered, f.ring().recover(&only(1)).unwrap()), (0, Ledger::default()));
            vanished = ledger.vanished;
        }
        f.drain(&mut got);
        let delivered = values(&got).contains(&10);
        match outcome {
            Ok(put) => assert_eq!(delivered, put),
            Err(Killed) => assert!(vanished + delivered as u32 <= 1),
        }
        let mut expected = vec![6, 7];
        expected.extend(delivered.then_some(10));
        expected.extend(mine.then_some(20));
        assert_eq!(values(&got), expected);
        assert!(got.iter().all(|(_, again)| !again));
        f.check_usable();
    });
}

#[test]
fn a_producer_that_dies_at_any_step_costs_at_most_its_record() {
    a_producer_dies();
}

#[test]
fn twin_pad_not_published_by_a_helper() {
    twin("help-publish-pad", a_producer_dies);
}

/// The victim's open claim is buried and passed while a survivor, with an old `tail`, looks for room.
fn a_producer_dies_before_it_moves_tail() {
    at_every_step(|step, died| {
        let f = Fixture::new(2);
        let cache = f.ring().cache();
        let mut got = vec![];
        for value in [1, 2] {
            f.put(&cache, 2, 1, value, NO_LIMIT).unwrap();
        }
        // It remembers a full ring, so it must look.
        let full = f.ring().cache();
        assert_eq!(f.put(&full, 2, 1, 0, NO_LIMIT), Err(ClaimError::Full));
        f.drain(&mut got);
        let victim = {
            let f = f.clone();
            thread::spawn(move || {
                let dead = with_budget(step, || f.put(&f.ring().cache(), 1, 1, 10, NO_LIMIT).unwrap()).is_err();
                if dead {
                    f.ring().recover(&only(1)).unwrap();
                }
                dead
            })
        };
        f.put(&full, 2, 1, 20, NO_LIMIT).unwrap();
        died.fetch_or(victim.join().unwrap(), Relaxed);
        f.drain(&mut got);
        assert!(values(&got) == [1, 2, 20] || values(&got) == [1, 2, 10, 20], "{got:?}");
        f.check_usable();
    });
}

#[test]
fn a_buried_claim_never_leaves_tail_behind_rcur() {
    a_producer_dies_before_it_moves_tail();
}

#[test]
fn twin_rcur_moved_without_tail() {
    twin("tail-before-rcur", a_producer_dies_before_it_moves_tail);
}

// --- a consumer dies

/// Two consumers; one dies, and is recovered while the other goes on.
fn a_consumer_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new(2);
        let cache = f.ring().cache();
        f.put(&cache, 3, 1, 7, NO_LIMIT).unwrap();
        f.put(&cache, 3, 1, 8, NO_LIMIT).unwrap();
        let victim = {
            let f = f.clone();
            thread::spawn(move || {
                let outcome = with_budget(step, || f.get(&f.ring().cache(), 1));
                let dead = outcome.is_err();
                let ledger = if dead { f.ring().recover(&only(1)).unwrap() } else { Ledger::default() };
                (outcome, ledger)
            })
        };
        let mut got = vec![];
        got.extend(f.get(&cache, 2));
        let (outcome, ledger) = victim.join().unwrap();
        f.drain(&mut got);
        assert_eq!(ledger.vanished, 0);
        let marked = got.iter().filter(|(_, again)| *again).count();
        assert_eq!(marked as u32, ledger.redelivered);
        match outcome {
            Ok(taken) => {
                got.extend(taken);
                assert_eq!(values(&got), [7, 8]);
                assert_eq!(marked, 0);
            }
            Err(Killed) => {
                died.store(true, Relaxed);
                // What it acknowledged before it died is consumed.
                assert!(values(&got) == [7, 8] || got.len() == 1 && marked == 0, "{got:?}");
            }
        }
        f.check_usable();
    });
}

#[test]
fn a_consumer_that_dies_at_any_step_gives_its_record_back() {
    a_consumer_dies();
}

#[test]
fn twin_recovery_leaves_what_the_dead_had_taken() {
    twin("recovery-gives-records-back", a_consumer_dies);
}

/// A consumer dies holding the only record, `rcur` perhaps behind; another looks for it while it is given back.
fn a_record_is_given_back_at_rcur() {
    at_every_step(|step, died| {
        let f = Fixture::new(2);
        let cache = f.ring().cache();
        // The memory of a process that has looked for records given back, and found none.
        assert_eq!(f.get(&cache, 3), None);
        f.put(&cache, 3, 1, 7, NO_LIMIT).unwrap();
        let outcome = with_budget(step, || f.get(&f.ring().cache(), 1));
        if outcome.is_err() {
            died.store(true, Relaxed);
        }
        let recoverer = {
            let f = f.clone();
            thread::spawn(move || f.ring().recover(&only(1)).unwrap())
        };
        let mut got = vec![];
        got.extend(f.get(&cache, 3));
        let ledger = recoverer.join().unwrap();
        // The same memory again: a record that it has missed for good fails the model.
        got.extend(f.get(&cache, 3));
        assert_eq!(got.iter().filter(|(_, again)| *again).count() as u32, ledger.redelivered);
        assert!(f.ring().is_empty() && got.len() <= 1);
        f.check_usable();
    });
}

#[test]
fn a_record_given_back_at_rcur_is_taken_once() {
    a_record_is_given_back_at_rcur();
}

#[test]
fn twin_search_stops_short_of_rcur() {
    twin("redo-scan-includes-rcur", a_record_is_given_back_at_rcur);
}

#[test]
fn twin_recovery_does_not_announce() {
    twin("recovery-announces-redo", a_record_is_given_back_at_rcur);
}

/// A consumer dies, nobody recovers: what it acknowledged must not keep the ring full.
fn nobody_recovers() {
    at_every_step(|step, died| {
        let f = Fixture::new(4);
        let cache = f.ring().cache();
        f.put(&cache, 3, 2, 7, NO_LIMIT).unwrap();
        f.put(&cache, 3, 2, 8, NO_LIMIT).unwrap();
        let victim = {
            let f = f.clone();
            thread::spawn(move || with_budget(step, || f.get(&f.ring().cache(), 1)).is_err())
        };
        f.get(&cache, 2);
        died.fetch_or(victim.join().unwrap(), Relaxed);
        f.get(&cache, 2);
        // Everything is taken. The ring has room, unless the dead holds the oldest record; then it says so.
        let put = f.put(&cache, 3, 2, 9, 1);
        assert!(put == Ok(()) || put == Err(ClaimError::Full) && f.ring().blocker() == Some(1), "{put:?}");
    });
}

#[test]
fn without_recovery_a_ring_is_never_full_of_finished_records() {
    nobody_recovers();
}

#[test]
fn twin_full_without_reclaim() {
    twin("reclaim-when-full", nobody_recovers);
}

// --- the recoverer is slow, or dies

/// The victim committed before it died; its record is taken and its index used again under a slow recoverer.
fn a_slow_recoverer() {
    model(|| {
        let f = Fixture::new(2);
        let cache = f.ring().cache();
        f.put(&cache, 1, 1, 1, NO_LIMIT).unwrap();
        let recoverer = {
            let f = f.clone();
            thread::spawn(move || f.ring().recover(&only(1)).unwrap())
        };
        let mut got = vec![];
        for value in [2, 3, 4] {
            got.extend(f.get(&cache, 2));
            f.put(&cache, 2, 1, value, NO_LIMIT).unwrap();
        }
        assert_eq!(recoverer.join().unwrap(), Ledger::default());
        f.drain(&mut got);
        assert_eq!(got, [(1, false), (2, false), (3, false), (4, false)]);
        f.check_usable();
    });
}

#[test]
fn a_slow_recoverer_touches_nothing_of_a_later_lap() {
    a_slow_recoverer();
}

#[test]
fn twin_recovery_without_a_second_look_at_head() {
    twin("recovery-looks-at-head-again", a_slow_recoverer);
}

/// A consumer and a producer died; the recoverer dies at every step, and a second one finishes, while a survivor takes.
fn a_recoverer_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new(4);
        let cache = f.ring().cache();
        // The memory of a process that has looked for records given back, and found none.
        assert_eq!(f.get(&cache, 3), None);
        f.put(&cache, 1, 1, 7, NO_LIMIT).unwrap();
        let _ = f.ring().take(&f.ring().cache(), 1).unwrap();
        let _ = f.ring().claim(&cache, 1, 1, NO_LIMIT).unwrap();
        f.put(&cache, 3, 1, 8, NO_LIMIT).unwrap();
        let survivor = {
            let f = f.clone();
            thread::spawn(move || f.get(&f.ring().cache(), 2))
        };
        let counted = f.ring().count(&only(1)).unwrap();
        assert_eq!(counted, Ledger { vanished: 1, redelivered: 1 });
        if with_budget(step, || f.ring().recover(&only(1)).unwrap()).is_err() {
            died.store(true, Relaxed);
        }
        f.ring().recover(&only(1)).unwrap();
        let mut got = vec![];
        got.extend(f.get(&cache, 3));
        got.extend(survivor.join().unwrap());
        got.extend(f.get(&cache, 3));
        got.sort_unstable();
        assert_eq!(got, [(7, true), (8, false)]);
        f.check_usable();
    });
}

#[test]
fn a_recoverer_that_dies_at_any_step_is_followed_by_another() {
    a_recoverer_dies();
}

#[test]
fn twin_the_second_recoverer_announces_only_what_it_found() {
    twin("recovery-announces-again", a_recoverer_dies);
}
