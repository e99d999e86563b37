//! The rings of one producer or one consumer: the same properties for every pair of sides, with deaths.

use std::marker::PhantomData;
use std::sync::atomic::AtomicU32 as Counter;

use super::*;

/// A ring of slots, each of which holds a number beside its word.
struct Slotted<P, C> {
    control: RingBlock,
    words: [Vec<AtomicU64>; 3],
    data: Vec<UnsafeCell<u32>>,
    /// Claims that were had.
    began: Counter,
    sides: PhantomData<(P, C)>,
}

// SAFETY: `data` is touched only between claim and commit and between take and done; loom checks that nobody else does.
unsafe impl<P: Side, C: Side> Sync for Slotted<P, C> {}
// SAFETY: as above.
unsafe impl<P: Side, C: Side> Send for Slotted<P, C> {}

impl<P: Side, C: Side> Slotted<P, C> {
    fn new() -> Arc<Self> {
        let words = |any: bool| (0..if any { 2 } else { 0 }).map(|_| AtomicU64::new(0)).collect();
        let data = (0..2).map(|_| UnsafeCell::new(0)).collect();
        let words = [words(P::MANY), words(true), words(C::MANY)];
        Arc::new(Self { control: RingBlock::new(), words, data, began: Counter::new(0), sides: PhantomData })
    }

    fn ring(&self) -> Ring<'_, P, C, Slots> {
        Ring::of_any_size(&self.control, 2, &self.words[0], &self.words[1], &self.words[2]).unwrap()
    }

    /// A producer's memory, and its role if there is one.
    fn produce(&self, lane: u16) -> RingCache {
        let cache = self.ring().cache();
        if !P::MANY {
            self.ring().enter_producer(lane).unwrap();
        }
        cache
    }

    /// A consumer's memory, and its role if there is one.
    fn consume(&self, lane: u16) -> RingCache {
        let cache = self.ring().cache();
        if !C::MANY {
            self.ring().enter_consumer(&cache, lane).unwrap();
        }
        cache
    }

    fn put(&self, cache: &RingCache, lane: u16, value: u32) -> Result<(), ClaimError> {
        let ring = self.ring();
        let claim = ring.claim(cache, lane, 1, NO_LIMIT)?;
        self.began.fetch_add(1, Relaxed);
        kill_point();
        // SAFETY: the slot is ours between claim and commit.
        self.data[ring.index(claim.position)].with_mut(|cell| unsafe { *cell = value });
        ring.commit(claim, lane);
        Ok(())
    }

    fn get(&self, cache: &RingCache, lane: u16) -> Option<(u32, bool)> {
        let ring = self.ring();
        match ring.take(cache, lane) {
            Ok(taken) => {
                kill_point();
                // SAFETY: the slot is ours between take and done.
                let value = self.data[ring.index(taken.position)].with(|cell| unsafe { *cell });
                ring.done(taken, true).unwrap();
                Some((value, taken.redelivered))
            }
            Err(TakeError::Empty) => None,
            Err(TakeError::Corrupt(why)) => panic!("{why}"),
        }
    }

    fn drain(&self, cache: &RingCache, lane: u16) -> Vec<(u32, bool)> {
        std::iter::from_fn(|| self.get(cache, lane)).collect()
    }

    /// Nobody is in a role, and nothing is in the ring: two laps go through it, and every record is counted.
    fn check_usable(&self) {
        let ring = self.ring();
        let (to, from) = (self.produce(9), self.consume(8));
        assert_eq!((ring.len(), ring.has_item(), ring.pending(), ring.blocker()), (0, false, None, None));
        let before = ring.counts().unwrap();
        assert_eq!(before.claimed, before.taken + if P::MANY { 0 } else { before.aborted + before.lost });
        for round in 0..2 {
            self.put(&to, 9, round).unwrap();
            self.put(&to, 9, 10 + round).unwrap();
            assert_eq!(self.put(&to, 9, 0), Err(ClaimError::Full));
            assert!(!ring.has_room(1, NO_LIMIT) && ring.has_item());
            assert_eq!(self.drain(&from, 8), [(round, false), (10 + round, false)]);
            assert!(ring.has_room(1, NO_LIMIT));
        }
        assert_eq!(ring.counts().unwrap().committed(), before.committed() + 4);
    }
}

fn leave<P: Side, C: Side>(f: &Slotted<P, C>, producer: u16, consumer: u16) {
    f.ring().leave_producer(producer);
    f.ring().leave_consumer(consumer);
}

/// A producer and a consumer, over more than a lap; each waits for the other.
fn over_a_lap<P: Side, C: Side>() {
    model(|| {
        let f = Slotted::<P, C>::new();
        let consumer = {
            let f = f.clone();
            thread::spawn(move || {
                let cache = f.consume(2);
                for value in 0..3 {
                    let got = loop {
                        match f.get(&cache, 2) {
                            Some(got) => break got,
                            None => thread::yield_now(),
                        }
                    };
                    assert_eq!(got, (value, false));
                }
            })
        };
        let cache = f.produce(1);
        for value in 0..3 {
            while f.put(&cache, 1, value).is_err() {
                thread::yield_now();
            }
        }
        consumer.join().unwrap();
        leave(&f, 1, 2);
        f.check_usable();
    });
}

/// A producer dies at any step; what it committed comes out, and a successor goes on behind it.
fn producer_dies<P: Side, C: Side>() {
    at_every_step(|step, died| {
        let f = Slotted::<P, C>::new();
        let consumer = {
            let f = f.clone();
            thread::spawn(move || {
                let cache = f.consume(2);
                let got: Vec<_> = f.get(&cache, 2).into_iter().collect();
                (cache, got)
            })
        };
        let dead = with_budget(step, || {
            let cache = f.produce(1);
            f.put(&cache, 1, 10).unwrap();
            f.put(&cache, 1, 11).unwrap();
        })
        .is_err();
        died.fetch_or(dead, Relaxed);
        let (cache, mut got) = consumer.join().unwrap();
        let mut committed = got.len() as u64;
        f.ring().for_each_live(&mut |_, _| committed += 1).unwrap();
        let mut vanished = 0;
        if dead {
            let counted = f.ring().count(&only(1)).unwrap();
            let ledger = f.ring().recover(&only(1)).unwrap();
            assert_eq!((counted, ledger.redelivered), (ledger, 0));
            assert_eq!(f.ring().recover(&only(1)).unwrap(), Ledger::default());
            vanished = ledger.vanished;
        }
        f.ring().leave_producer(1);
        let successor = f.produce(3);
        // Of two slots one is free, unless the victim filled both and nothing was taken.
        let put = f.put(&successor, 3, 20).is_ok();
        got.extend(f.drain(&cache, 2));
        let expected: Vec<_> = [10, 11, 20].into_iter().filter(|v| got.contains(&(*v, false))).collect();
        assert_eq!(got, expected.iter().map(|v| (*v, false)).collect::<Vec<_>>());
        assert_eq!(got.contains(&(20, false)), put);
        let delivered = got.len() as u64 - u64::from(put);
        assert_eq!(delivered, committed);
        assert!(dead || delivered == 2);
        assert!(vanished <= 1 && delivered + u64::from(vanished) <= 2);
        // What it had claimed and did not commit.
        let began = u64::from(f.began.load(Relaxed)) - u64::from(put);
        assert!(began <= delivered + u64::from(vanished), "{began} began, {delivered} came, {vanished} vanished");
        let counts = f.ring().counts().unwrap();
        assert_eq!((counts.committed(), counts.lost, counts.aborted), (got.len() as u64, u64::from(vanished), 0));
        leave(&f, 3, 2);
        f.check_usable();
    });
}

/// A consumer dies at any step, while a producer goes on; the successor gets what was open, marked, and the rest.
fn consumer_dies<P: Side, C: Side>() {
    at_every_step(|step, died| {
        let f = Slotted::<P, C>::new();
        let cache = f.produce(3);
        f.put(&cache, 3, 7).unwrap();
        f.put(&cache, 3, 8).unwrap();
        let victim = {
            let f = f.clone();
            thread::spawn(move || {
                with_budget(step, || {
                    let cache = f.consume(1);
                    f.get(&cache, 1)
                })
            })
        };
        let mut put = vec![7, 8];
        if f.put(&cache, 3, 9).is_ok() {
            put.push(9);
        }
        let outcome = victim.join().unwrap();
        let ledger = match outcome {
            Ok(_) => Ledger::default(),
            Err(Killed) => {
                died.store(true, Relaxed);
                let counted = f.ring().count(&only(1)).unwrap();
                let ledger = f.ring().recover(&only(1)).unwrap();
                assert_eq!((counted, ledger.vanished), (ledger, 0));
                ledger
            }
        };
        f.ring().leave_consumer(1);
        assert_eq!(f.ring().has_item(), true);
        let successor = f.consume(2);
        let got = f.drain(&successor, 2);
        let marked = got.iter().filter(|(_, again)| *again).count() as u32;
        assert_eq!(marked, ledger.redelivered);
        let mut all = values(&got);
        match outcome {
            Ok(taken) => all.extend(taken.map(|(value, _)| value)),
            // What it had acknowledged is consumed.
            Err(Killed) if !all.contains(&7) => all.push(7),
            Err(Killed) => {}
        }
        all.sort_unstable();
        assert_eq!(all, put);
        assert!(marked == 0 || got.contains(&(7, true)));
        leave(&f, 3, 2);
        f.check_usable();
    });
}

/// A consumer dies, nobody recovers: what it acknowledged does not keep the ring full.
fn consumer_dies_unnoticed<P: Side, C: Side>() {
    at_every_step(|step, died| {
        let f = Slotted::<P, C>::new();
        let cache = f.produce(3);
        f.put(&cache, 3, 7).unwrap();
        f.put(&cache, 3, 8).unwrap();
        let victim = {
            let f = f.clone();
            thread::spawn(move || {
                with_budget(step, || {
                    let cache = f.consume(1);
                    f.get(&cache, 1)
                })
                .is_err()
            })
        };
        died.fetch_or(victim.join().unwrap(), Relaxed);
        // There is room, unless the victim took nothing, or holds the oldest record; then the ring says so.
        let (waiting, put) = (f.ring().len(), f.put(&cache, 3, 9));
        let held = waiting == 2 || f.ring().blocker() == Some(1);
        assert!(put == Ok(()) || put == Err(ClaimError::Full) && held, "{put:?}, {waiting} wait");
    });
}

/// A producer gives records up; the consumer steps over them while the ring is used.
fn records_are_given_up<P: Side, C: Side>() {
    model(|| {
        let f = Slotted::<P, C>::new();
        let consumer = {
            let f = f.clone();
            thread::spawn(move || {
                let cache = f.consume(2);
                let got: Vec<_> = (0..2).filter_map(|_| f.get(&cache, 2)).collect();
                (cache, got)
            })
        };
        let to = f.produce(1);
        let abort = || f.ring().claim(&to, 1, 1, NO_LIMIT).map(|claim| f.ring().abort(claim)).is_ok();
        let before = u64::from(abort());
        f.put(&to, 1, 5).unwrap();
        let aborted = before + u64::from(abort());
        let (cache, mut got) = consumer.join().unwrap();
        got.extend(f.drain(&cache, 2));
        assert_eq!(got, [(5, false)]);
        let counts = f.ring().counts().unwrap();
        assert_eq!((counts.aborted, counts.lost, counts.committed()), (aborted, 0, 1));
        leave(&f, 1, 2);
        f.check_usable();
    });
}

macro_rules! for_sides {
    ($name:ident, $producers:ty, $consumers:ty) => {
        mod $name {
            use super::*;

            #[test]
            fn records_come_in_order_over_a_lap() {
                over_a_lap::<$producers, $consumers>();
            }

            #[test]
            fn a_producer_that_dies_at_any_step_costs_at_most_its_record() {
                producer_dies::<$producers, $consumers>();
            }

            #[test]
            fn a_consumer_that_dies_at_any_step_gives_its_record_to_the_next() {
                consumer_dies::<$producers, $consumers>();
            }

            #[test]
            fn without_recovery_a_ring_is_never_full_of_finished_records() {
                consumer_dies_unnoticed::<$producers, $consumers>();
            }

            #[test]
            fn what_is_given_up_is_counted_and_stepped_over() {
                records_are_given_up::<$producers, $consumers>();
            }

            #[test]
            fn twin_commit_without_release() {
                twin("commit-releases", over_a_lap::<$producers, $consumers>);
            }
        }
    };
}

for_sides!(many_to_many, Many, Many);
for_sides!(many_to_one, Many, One);
for_sides!(one_to_many, One, Many);
for_sides!(one_to_one, One, One);

#[test]
fn twin_full_without_reclaim() {
    twin("reclaim-when-full", consumer_dies_unnoticed::<One, Many>);
}

#[test]
fn twin_a_successor_that_begins_where_tail_is() {
    twin("successor-catches-up", producer_dies::<One, One>);
    twin("successor-catches-up", producer_dies::<One, Many>);
}

#[test]
fn twin_one_consumer_that_is_done_without_release() {
    twin("done-releases", over_a_lap::<One, One>);
    twin("done-releases", over_a_lap::<Many, One>);
}

#[test]
fn twin_one_consumer_that_does_not_say_what_it_looks_into() {
    twin("rcur-before-the-record", consumer_dies::<One, One>);
}

#[test]
fn twin_one_producer_that_reserves_nothing() {
    twin("one-producer-reserves", producer_dies::<One, One>);
}
