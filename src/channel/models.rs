//! The lease table under loom, on a real ring: every interleaving (to a preemption bound), a death before every access.
//!
//! Each property has a twin in which a step of the protocol is left out and which must fail, as in `ring/models.rs`.
#![cfg(all(test, loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool as Flag, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::thread;

use super::leases::{self, GivenBack, Held, Leases, Seen};
use crate::ring::{Ring, RingBlock, RingCache, TakeError};
use crate::sync::Lane;
use crate::sys::atomic::{AtomicU64, Killed, broken, kill_point, with_budget};
use crate::sys::models::{at_every_step, model, twin};

/// A ring of a few granules and a table of a few entries, each of which holds a number.
struct Fixture {
    control: RingBlock,
    words: [Vec<AtomicU64>; 3],
    data: Vec<UnsafeCell<u32>>,
    returned: AtomicU64,
    states: Vec<AtomicU64>,
    positions: Vec<AtomicU64>,
    records: Vec<UnsafeCell<u32>>,
}

// SAFETY: `data` and `records` are touched only by whoever the words say has them; loom checks that nobody else does.
unsafe impl Sync for Fixture {}
// SAFETY: as above.
unsafe impl Send for Fixture {}

/// What a process remembers.
struct Process {
    lane: Lane,
    cache: RingCache,
    seen: Seen,
}

impl Fixture {
    fn new(granules: usize, entries: usize) -> Arc<Self> {
        let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let cells = |n: usize| (0..n).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self {
            control: RingBlock::new(),
            words: [words(granules), words(granules), words(granules)],
            data: cells(granules),
            returned: AtomicU64::new(0),
            states: words(entries),
            positions: words(entries),
            records: cells(entries),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring::of_any_size(&self.control, self.words[0].len(), &self.words[0], &self.words[1], &self.words[2]).unwrap()
    }

    fn leases(&self) -> Leases<'_> {
        Leases { returned: &self.returned, states: &self.states, positions: &self.positions }
    }

    fn process(&self, lane: Lane) -> Process {
        Process { lane, cache: self.ring().cache(), seen: Seen::new(&self.leases()) }
    }

    fn put(&self, process: &Process, value: u32) {
        let ring = self.ring();
        let claim = ring.claim(&process.cache, process.lane, 1, u32::MAX).unwrap();
        // SAFETY: the granule is ours between claim and commit.
        self.data[ring.index(claim.position)].with_mut(|cell| unsafe { *cell = value });
        ring.commit(claim, process.lane);
    }

    fn read(&self, held: Held) -> u32 {
        kill_point();
        // SAFETY: the record is ours while we hold the entry.
        self.records[held.index].with(|cell| unsafe { *cell })
    }

    /// As `LeaseTable::try_lease`.
    fn lease(&self, process: &Process) -> Option<(Held, u32)> {
        let (ring, leases) = (self.ring(), self.leases());
        if let Some(held) = leases.take_again(process.lane, &process.seen) {
            return Some((held, self.read(held)));
        }
        let filling = leases.claim(process.lane, 0)?;
        let taken = match ring.take(&process.cache, process.lane) {
            Ok(taken) => taken,
            Err(TakeError::Empty) => {
                leases.abandon(filling);
                return None;
            }
            Err(TakeError::Corrupt(why)) => panic!("{why}"),
        };
        kill_point();
        // SAFETY: the granule is ours between take and done, the record while we fill the entry.
        let value = self.data[ring.index(taken.position)].with(|cell| unsafe { *cell });
        self.records[filling.index].with_mut(|cell| unsafe { *cell = value });
        let early = broken("lease: held before done");
        if early {
            ring.done(taken, true).unwrap();
        }
        let held = leases.hold(filling, process.lane, taken.position, taken.redelivered);
        if !early {
            ring.done(taken, true).unwrap();
        }
        Some((held, value))
    }

    fn recover(&self, victim: Lane) {
        leases::recover(Ok(self.ring()), &self.leases(), &|lane| lane == victim, 0).unwrap();
    }

    /// Everything that is left, each item ended.
    fn drain(&self) -> Vec<u32> {
        let process = self.process(9);
        let end = |(held, value)| {
            assert!(self.leases().end(held));
            value
        };
        std::iter::from_fn(|| self.lease(&process).map(end)).collect()
    }

    /// Drained and whole: nothing is in flight, and ring and table take as many items as they have room for.
    fn check_usable(&self) {
        assert!(self.leases().all_finished(&self.ring()).unwrap());
        assert_eq!(self.leases().tally().free, self.states.len());
        let process = self.process(9);
        let entries = self.states.len() as u32;
        (0..entries).for_each(|k| self.put(&process, 100 + k));
        let held: Vec<_> = (0..entries).map(|_| self.lease(&process).unwrap()).collect();
        assert!(held.iter().map(|(_, value)| *value).eq((0..entries).map(|k| 100 + k)));
        assert_eq!(self.leases().claim(9, 0), None);
        assert!(held.into_iter().all(|(held, _)| self.leases().end(held)));
    }
}

// --- a holder dies

/// A holder dies anywhere in taking and ending, and is recovered while another takes from the same table.
fn a_holder_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new(2, 1);
        let survivor = f.process(2);
        f.put(&survivor, 7);
        // It has looked for what was given back, and found nothing.
        assert!(f.leases().take_again(2, &survivor.seen).is_none());
        let ending = Arc::new(Flag::new(false));
        let victim = {
            let (f, ending) = (f.clone(), ending.clone());
            thread::spawn(move || {
                let outcome = with_budget(step, || {
                    let (held, value) = f.lease(&f.process(1))?;
                    ending.store(true, Relaxed);
                    assert!(f.leases().end(held));
                    Some(value)
                });
                if outcome.is_err() {
                    f.recover(1);
                }
                outcome
            })
        };
        let mut got: Vec<u32> = vec![];
        let mut work = || {
            if let Some((held, value)) = f.lease(&survivor) {
                assert!(f.leases().end(held));
                got.push(value);
            }
        };
        work();
        let outcome = victim.join().unwrap();
        // The same memory again: an item that it misses for good fails the model.
        work();
        died.fetch_or(outcome.is_err(), Relaxed);
        let by_victim = match outcome {
            Ok(taken) => taken.into_iter().count(),
            // The end was its last step: it happened or not.
            Err(Killed) if ending.load(Relaxed) => 1 - got.len().min(1),
            Err(Killed) => 0,
        };
        assert_eq!(got.len() + by_victim, 1, "an item was finished twice or never: {got:?}");
        f.check_usable();
    });
}

#[test]
fn an_item_whose_holder_dies_at_any_step_is_finished_once() {
    a_holder_dies();
}

#[test]
fn twin_the_ring_lets_go_before_the_table_holds() {
    twin("lease: held before done", a_holder_dies);
}

#[test]
fn twin_recovery_of_the_ring_does_not_ask_the_table() {
    twin("lease: recovery of the ring asks the table", a_holder_dies);
}

#[test]
fn twin_the_table_is_recovered_before_the_ring() {
    twin("lease: the ring is recovered first", a_holder_dies);
}

#[test]
fn twin_recovery_does_not_announce() {
    twin("lease: recovery announces", a_holder_dies);
}

/// A holder died between HELD and DONE; its recoverer dies at every step, another does the rest while a survivor takes.
fn a_recoverer_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new(2, 2);
        let (victim, survivor) = (f.process(1), f.process(2));
        f.put(&victim, 7);
        let filling = f.leases().claim(1, 0).unwrap();
        let taken = f.ring().take(&victim.cache, 1).unwrap();
        // SAFETY: ours while we fill the entry.
        f.records[filling.index].with_mut(|cell| unsafe { *cell = 7 });
        let _ = f.leases().hold(filling, 1, taken.position, false);
        assert!(f.leases().take_again(2, &survivor.seen).is_none());
        let other = {
            let f = f.clone();
            thread::spawn(move || {
                let taken = f.lease(&survivor);
                (taken.map(|(held, value)| (f.leases().end(held), value)), survivor)
            })
        };
        if with_budget(step, || f.recover(1)).is_err() {
            died.store(true, Relaxed);
        }
        f.recover(1);
        let (first, survivor) = other.join().unwrap();
        let second = f.lease(&survivor).map(|(held, value)| (f.leases().end(held), value));
        let got: Vec<_> = first.into_iter().chain(second).collect();
        assert_eq!(got, [(true, 7)]);
        f.check_usable();
    });
}

#[test]
fn a_recoverer_that_dies_at_any_step_is_followed_by_another() {
    a_recoverer_dies();
}

/// The holder gives its item back while two others look for one.
#[test]
fn an_item_that_is_given_back_is_taken_by_one() {
    model(|| {
        let f = Fixture::new(2, 1);
        let (me, other) = (f.process(1), f.process(2));
        f.put(&me, 7);
        let (held, _) = f.lease(&me).unwrap();
        let taker = {
            let f = f.clone();
            thread::spawn(move || f.lease(&other).map(|(held, value)| (f.leases().end(held), value)))
        };
        assert_eq!(f.leases().give_back(held, 0), Some(GivenBack::Redo));
        let mine = f.lease(&me).map(|(held, value)| (f.leases().end(held), value));
        let got: Vec<_> = taker.join().unwrap().into_iter().chain(mine).collect();
        assert!(got == [(true, 7)] || got.is_empty() && f.drain() == [7], "{got:?}");
        f.check_usable();
    });
}

/// Two look for an entry of which there is one, for two items.
#[test]
fn an_entry_has_one_user_at_a_time() {
    model(|| {
        let f = Fixture::new(2, 1);
        let me = f.process(1);
        f.put(&me, 7);
        f.put(&me, 8);
        let work = |f: &Fixture, process: &Process| {
            f.lease(process).map(|(held, value)| {
                assert_eq!(f.read(held), value, "somebody else's record");
                assert!(f.leases().end(held));
                value
            })
        };
        let other = {
            let f = f.clone();
            thread::spawn(move || work(&f, &f.process(2)))
        };
        let mine = work(&f, &me);
        let mut got: Vec<_> = other.join().unwrap().into_iter().chain(mine).collect();
        assert!(!got.is_empty(), "both found no entry");
        got.extend(f.drain());
        got.sort_unstable();
        assert_eq!(got, [7, 8]);
        f.check_usable();
    });
}

// --- the end of all work

/// A worker puts a second item while it works on the first; somebody asks whether everything is finished.
fn work_that_makes_work() {
    model(|| {
        let f = Fixture::new(2, 2);
        let worker = f.process(1);
        f.put(&worker, 1);
        let (first, _) = f.lease(&worker).unwrap();
        let last = Arc::new(Flag::new(false));
        let working = {
            let (f, last) = (f.clone(), last.clone());
            thread::spawn(move || {
                f.put(&worker, 2);
                assert!(f.leases().end(first));
                let (second, value) = f.lease(&worker).unwrap();
                assert_eq!(value, 2);
                last.store(true, Relaxed);
                assert!(f.leases().end(second));
            })
        };
        if f.leases().all_finished(&f.ring()).unwrap() {
            assert!(last.load(Relaxed), "finished, with an item that nobody has ended");
        }
        working.join().unwrap();
        assert!(f.leases().all_finished(&f.ring()).unwrap());
    });
}

#[test]
fn nothing_is_finished_while_work_makes_work() {
    work_that_makes_work();
}

#[test]
fn twin_the_table_alone_is_looked_at_first() {
    twin("lease: the ring before the table", work_that_makes_work);
}

#[test]
fn twin_the_ring_is_looked_at_once() {
    twin("lease: the ring again", work_that_makes_work);
}

/// Two end the last two leases, and each then looks whether a joiner is to be woken.
fn two_last_leases() {
    model(|| {
        let f = Fixture::new(2, 2);
        let me = f.process(1);
        f.put(&me, 1);
        f.put(&me, 2);
        let (first, second) = (f.lease(&me).unwrap().0, f.lease(&me).unwrap().0);
        let end = |f: &Fixture, held: Held| {
            let look = || f.leases().all_finished(&f.ring()).unwrap();
            let early = broken("lease: look after the end") && look();
            assert!(f.leases().end(held));
            if broken("lease: look after the end") { early } else { look() }
        };
        let other = {
            let f = f.clone();
            thread::spawn(move || end(&f, second))
        };
        let mine = end(&f, first);
        assert!(other.join().unwrap() | mine, "neither saw that everything is finished");
    });
}

#[test]
fn one_of_the_last_two_sees_that_everything_is_finished() {
    two_last_leases();
}

#[test]
fn twin_the_look_before_the_end() {
    twin("lease: look after the end", two_last_leases);
}
