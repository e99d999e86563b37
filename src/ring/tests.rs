//! The ring without deaths, on real memory; `models.rs` has the deaths.

mod one_to_one;

use super::cursor::Cursor;
use super::*;
use crate::sys::atomic::AtomicU64;
use proptest::prelude::*;

const NO_LIMIT: u32 = u32::MAX;

struct Memory {
    control: RingBlock,
    words: [Vec<AtomicU64>; 3],
}

impl Memory {
    fn starting_at(capacity: usize, start: Cursor) -> Self {
        let head = Cursor::new(start.position(), start.items());
        let words = || (0..capacity).map(|_| AtomicU64::new(0)).collect();
        Self { control: RingBlock::starting_at(start, head), words: [words(), words(), words()] }
    }

    fn new(capacity: usize) -> Self {
        Self::starting_at(capacity, Cursor::new(0, 0))
    }

    fn ring(&self) -> Ring<'_> {
        Ring::new(&self.control, &self.words[0], &self.words[1], &self.words[2]).unwrap()
    }
}

#[test]
fn the_block_has_each_cursor_alone_on_128_bytes() {
    assert_eq!(size_of::<RingBlock>(), 512);
    assert_eq!(align_of::<RingBlock>(), 128);
}

#[test]
fn a_view_wants_three_arrays_of_one_allowed_size() {
    for (lens, ok) in [
        ([64, 64, 64], true),
        ([64, 64, 128], false),
        ([64, 32, 64], false),
        ([32, 32, 32], false),
        ([0, 0, 0], false),
        ([96, 96, 96], false),
        ([1 << 19, 1 << 19, 1 << 19], true),
        ([1 << 20, 1 << 20, 1 << 20], false),
    ] {
        let control = RingBlock::new();
        let [a, b, c] = lens.map(|len| (0..len).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        assert_eq!(Ring::new(&control, &a, &b, &c).is_ok(), ok, "{lens:?}");
    }
}

#[test]
fn records_come_out_in_the_order_they_went_in_over_many_laps() {
    let memory = Memory::new(64);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    let mut expected = std::collections::VecDeque::new();
    let mut seed = 1u32;
    for round in 0..20_000u32 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let n = (seed >> 16) % 32 + 1;
        match ring.claim(&cache, 5, n, NO_LIMIT) {
            Ok(claim) => {
                assert!(ring.index(claim.position) + n as usize <= 64);
                ring.commit(claim, 5);
                expected.push_back(claim);
            }
            Err(why) => assert_eq!(why, ClaimError::Full),
        }
        assert_eq!(ring.len(), expected.len());
        if round % 3 != 0 {
            match ring.take(&cache, 6) {
                Ok(taken) => {
                    let claim = expected.pop_front().unwrap();
                    assert_eq!((taken.position, taken.n, taken.producer), (claim.position, claim.n, 5));
                    assert!(!taken.redelivered);
                    ring.done(taken, false).unwrap();
                }
                Err(why) => assert!(why == TakeError::Empty && expected.is_empty()),
            }
        }
    }
}

#[test]
fn a_full_ring_says_so_and_has_room_again_after_done() {
    let memory = Memory::new(64);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    for _ in 0..64 {
        assert!(ring.has_room(1, NO_LIMIT));
        ring.commit(ring.claim(&cache, 1, 1, NO_LIMIT).unwrap(), 1);
    }
    assert_eq!(ring.claim(&cache, 1, 1, NO_LIMIT), Err(ClaimError::Full));
    assert!(!ring.has_room(1, NO_LIMIT));
    assert_eq!(ring.blocker(), None);
    let taken = ring.take(&cache, 2).unwrap();
    assert_eq!(ring.blocker(), Some(2));
    assert!(!ring.has_room(1, NO_LIMIT));
    ring.done(taken, false).unwrap();
    assert!(ring.has_room(1, NO_LIMIT));
    ring.commit(ring.claim(&cache, 1, 1, NO_LIMIT).unwrap(), 1);
}

#[test]
fn a_record_has_at_most_half_the_granules() {
    let memory = Memory::new(64);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    for n in [0, 33, 64, 65, u32::MAX] {
        assert_eq!(ring.claim(&cache, 1, n, NO_LIMIT), Err(ClaimError::TooLarge));
    }
    ring.commit(ring.claim(&cache, 1, 32, NO_LIMIT).unwrap(), 1);
}

#[test]
fn the_limit_counts_records_not_yet_taken_and_no_padding() {
    let memory = Memory::new(64);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    for _ in 0..100 {
        for _ in 0..3 {
            ring.commit(ring.claim(&cache, 1, 15, 3).unwrap(), 1);
        }
        assert_eq!(ring.claim(&cache, 1, 15, 3), Err(ClaimError::Full));
        assert!(!ring.has_room(15, 3) && ring.has_room(1, 4));
        let taken = ring.take(&cache, 2).unwrap();
        assert!(ring.has_room(1, 3));
        ring.done(taken, false).unwrap();
        for _ in 0..2 {
            ring.done(ring.take(&cache, 2).unwrap(), false).unwrap();
        }
    }
}

#[test]
fn aborted_claims_are_stepped_over_by_producers_too() {
    let memory = Memory::new(64);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    for _ in 0..1000 {
        ring.abort(ring.claim(&cache, 1, 7, 1).unwrap());
    }
    assert_eq!(ring.take(&cache, 2), Err(TakeError::Empty));
    assert_eq!((ring.len(), ring.is_empty()), (0, true));
}

#[test]
fn an_open_claim_is_pending_and_blocks_what_is_behind_it() {
    let memory = Memory::new(64);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    assert_eq!(ring.pending(), None);
    let first = ring.claim(&cache, 9, 1, NO_LIMIT).unwrap();
    ring.commit(ring.claim(&cache, 8, 1, NO_LIMIT).unwrap(), 8);
    let _ = ring.take(&cache, 2).unwrap_err();
    assert!(!ring.has_ready(&cache));
    assert_eq!((ring.pending(), ring.blocker()), (Some(9), Some(9)));
    ring.commit(first, 9);
    assert!(ring.has_ready(&cache));
    assert_eq!(ring.pending(), None);
}

#[test]
fn the_dead_are_counted_and_their_records_closed() {
    let memory = Memory::new(64);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    ring.commit(ring.claim(&cache, 1, 2, NO_LIMIT).unwrap(), 1);
    let _ = ring.claim(&cache, 7, 3, NO_LIMIT).unwrap();
    ring.commit(ring.claim(&cache, 1, 4, NO_LIMIT).unwrap(), 1);
    let lost = ring.take(&cache, 7).unwrap();
    let dead = |lane| lane == 7;
    let ledger = Ledger { vanished: 1, redelivered: 1 };
    assert_eq!((ring.count(&dead), ring.count(&dead)), (Ok(ledger), Ok(ledger)));
    assert_eq!(ring.recover(&dead), Ok(ledger));
    assert_eq!(ring.recover(&dead), Ok(Ledger::default()));
    let mut live = vec![];
    ring.for_each_live(&mut |position, n| live.push((position, n))).unwrap();
    assert_eq!(live, [(0, 2), (5, 4)]);
    assert!(ring.has_ready(&cache));
    let again = ring.take(&cache, 2).unwrap();
    assert_eq!(again, Taken { redelivered: true, ..lost });
    let next = ring.take(&cache, 2).unwrap();
    assert_eq!((next.position, next.redelivered), (5, false));
    ring.done(next, true).unwrap();
    assert_eq!(ring.done(again, true), Ok(true));
    assert!(!ring.has_ready(&cache));
    assert_eq!(ring.head().position(), ring.tail().position());
}

#[test]
fn a_record_given_back_before_a_process_came_is_found_by_it() {
    let memory = Memory::new(64);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    ring.commit(ring.claim(&cache, 1, 1, NO_LIMIT).unwrap(), 1);
    let _ = ring.take(&cache, 7).unwrap();
    ring.recover(&|lane| lane == 7).unwrap();
    assert!(ring.take(&ring.cache(), 2).unwrap().redelivered);
}

#[test]
fn positions_and_items_wrap() {
    for capacity in [64, 1 << 15, 1 << 19] {
        let memory = Memory::starting_at(capacity, Cursor::new((1 << 44) - capacity as u64, u32::MAX - 20));
        let (ring, cache) = (memory.ring(), memory.ring().cache());
        let n = capacity as u32 / 8 - 1;
        for _ in 0..50 {
            for _ in 0..5 {
                ring.commit(ring.claim(&cache, 1, n, 5).unwrap(), 1);
            }
            assert_eq!((ring.len(), ring.claim(&cache, 1, n, 5)), (5, Err(ClaimError::Full)));
            for _ in 0..5 {
                ring.done(ring.take(&cache, 2).unwrap(), false).unwrap();
            }
        }
        assert!(ring.tail().position() < 1 << 43);
        ring.reclaim().unwrap();
        assert_eq!(ring.head().position(), ring.tail().position());
    }
}

#[test]
fn counts_are_exact_over_many_turns() {
    const ROUNDS: u64 = 1 << 19;
    let start = Cursor::new(0, (1 << 19) - 1000);
    let memory = Memory::starting_at(64, start);
    let (ring, cache) = (memory.ring(), memory.ring().cache());
    let first = ring.counts().unwrap();
    assert_eq!((first.claimed, first.taken), ((1 << 19) - 1000, (1 << 19) - 1000));
    let (mut aborted, mut lost) = (first.aborted, first.lost);
    for round in 1..=ROUNDS {
        ring.commit(ring.claim(&cache, 1, 1, NO_LIMIT).unwrap(), 1);
        if round % 3 == 0 {
            ring.abort(ring.claim(&cache, 1, 2, NO_LIMIT).unwrap());
            aborted += 1;
        }
        if round % 5 == 0 {
            let _ = ring.claim(&cache, 7, 1, NO_LIMIT).unwrap();
            assert_eq!(ring.recover(&|lane| lane == 7).unwrap().vanished, 1);
            lost += 1;
        }
        ring.done(ring.take(&cache, 2).unwrap(), false).unwrap();
        if round % 1000 < 3 || round == ROUNDS {
            let counts = ring.counts().unwrap();
            assert_eq!(counts.claimed, counts.taken + ring.len() as u64);
            assert_eq!((counts.aborted, counts.lost, counts.redelivered), (aborted, lost, 0));
            assert_eq!(counts.claimed, first.claimed + round + aborted - first.aborted + lost - first.lost);
            assert_eq!(counts.committed(), counts.claimed - aborted - lost);
        }
    }
    assert!(lost > 5 * 1024 && aborted > 5 * 1024);
    let _ = (ring.claim(&cache, 1, 1, NO_LIMIT).map(|claim| ring.commit(claim, 1)), ring.take(&cache, 9).unwrap());
    ring.recover(&|lane| lane == 9).unwrap();
    assert_eq!(ring.counts().unwrap().redelivered, 1);
}

#[test]
fn threads_lose_nothing_and_get_nothing_twice() {
    use std::sync::atomic::{AtomicU64 as Plain, Ordering::Relaxed};
    const EACH: u64 = 50_000;
    let memory = Memory::new(64);
    let cache = memory.ring().cache();
    let data: Vec<Plain> = (0..64).map(|_| Plain::new(0)).collect();
    let seen: Vec<Plain> = (0..2 * EACH).map(|_| Plain::new(0)).collect();
    let left = Plain::new(2 * EACH);
    std::thread::scope(|scope| {
        for lane in 1..=2u16 {
            let (ring, cache, data) = (memory.ring(), &cache, &data);
            scope.spawn(move || {
                for k in 0..EACH {
                    let (value, n) = ((lane as u64 - 1) * EACH + k, (k % 5) as u32 + 1);
                    let claim = loop {
                        match ring.claim(cache, lane, n, 40) {
                            Ok(claim) => break claim,
                            Err(ClaimError::Full) => std::thread::yield_now(),
                            Err(why) => panic!("{why}"),
                        }
                    };
                    for g in 0..n as usize {
                        data[ring.index(claim.position) + g].store(value, Relaxed);
                    }
                    ring.commit(claim, lane);
                }
            });
        }
        for lane in 3..=4u16 {
            let (ring, cache, data, seen, left) = (memory.ring(), &cache, &data, &seen, &left);
            scope.spawn(move || {
                while left.load(Relaxed) > 0 {
                    match ring.take(cache, lane) {
                        Ok(taken) => {
                            let index = ring.index(taken.position);
                            let value = data[index].load(Relaxed);
                            for g in 0..taken.n as usize {
                                assert_eq!(data[index + g].load(Relaxed), value);
                            }
                            assert_eq!(taken.n as u64, value % EACH % 5 + 1);
                            ring.done(taken, false).unwrap();
                            assert_eq!(seen[value as usize].fetch_add(1, Relaxed), 0, "{value} twice");
                            left.fetch_sub(1, Relaxed);
                        }
                        Err(TakeError::Empty) => std::thread::yield_now(),
                        Err(why) => panic!("{why}"),
                    }
                }
            });
        }
    });
    assert!(memory.ring().is_empty());
    memory.ring().reclaim().unwrap();
    assert_eq!(memory.ring().head().position(), memory.ring().tail().position());
}

/// A word of an array: anything, or something that looks right.
fn word() -> impl Strategy<Value = u64> {
    let plausible = (0u64..4, 0u64..8, 0u64..1024, 0u64..70);
    prop_oneof![any::<u64>(), plausible.prop_map(|(lap, state, lane, n)| lap << 33 | state << 30 | lane << 20 | n)]
}

fn cursor() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), (0u64..80, 0u64..80).prop_map(|(position, items)| items << 44 | position)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_bytes_every_operation_returns(
        cursors in proptest::array::uniform4(cursor()),
        words in proptest::collection::vec(word(), 3 * 64),
        steps in proptest::collection::vec((0u8..15, 1u32..34, 0usize..196, word(), cursor()), 0..40),
    ) {
        use crate::sys::atomic::Ordering::Relaxed;
        let memory = Memory::new(64);
        let RingBlock { tail, rcur, head, redo } = &memory.control;
        let epochs = [&tail.epoch, &rcur.epoch, &head.lost_epoch, &head.aborted_epoch];
        let control = [&tail.cursor, &rcur.cursor, &head.cursor, &redo.count];
        for (word, value) in control.iter().chain(&epochs).zip(cursors.into_iter().cycle()) {
            word.store(value, Relaxed);
        }
        let all: Vec<&AtomicU64> = memory.words.iter().flatten().collect();
        for (word, value) in all.iter().zip(&words) {
            word.store(*value, Relaxed);
        }
        let (ring, cache) = (memory.ring(), memory.ring().cache());
        let (mut claims, mut takes) = (vec![], vec![]);
        for (step, n, place, word, cursor) in steps {
            match step {
                0 | 1 => claims.extend(ring.claim(&cache, 3, n, if step == 0 { NO_LIMIT } else { n })),
                2 => if let Some(claim) = claims.pop() { ring.commit(claim, 3) },
                3 => if let Some(claim) = claims.pop() { ring.abort(claim) },
                4 | 5 => takes.extend(ring.take(&cache, 4)),
                6 => if let Some(taken) = takes.pop() { let _ = ring.done(taken, n % 2 == 0); },
                7 => drop((ring.reclaim(), ring.len(), ring.is_empty(), ring.pending(), ring.blocker())),
                8 => drop((ring.has_ready(&cache), ring.has_room(n, n), ring.has_room(n, NO_LIMIT))),
                9 => drop((ring.count(&|lane| lane % 2 == 0), ring.recover(&|lane| lane % 2 == 0))),
                10 => ring.for_each_live(&mut |position, n| {
                    assert!(n >= 1 && ring.index(position) + n as usize <= 64);
                }).unwrap_or(()),
                11 | 12 => match place.checked_sub(4) {
                    Some(index) => all[index].store(word, Relaxed),
                    None => control[place].store(cursor, Relaxed),
                },
                13 => drop(ring.counts()),
                _ => drop(ring.cache()),
            }
            for (position, n) in claims.iter().map(|c| (c.position, c.n)).chain(takes.iter().map(|t| (t.position, t.n))) {
                prop_assert!(n >= 1 && ring.index(position) + n as usize <= 64);
            }
        }
    }
}
