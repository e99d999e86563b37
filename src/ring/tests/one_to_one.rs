//! The rings for one producer and one consumer, without deaths, on real memory; `models/` has the deaths.

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::ring::bytes::{RecordBlock, Records};
use crate::ring::spsc::{Look, SlotBlock, Slots};
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::Relaxed;

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn the_blocks_have_the_documented_sizes() {
    assert_eq!((size_of::<SlotBlock>(), size_of::<RecordBlock>()), (384, 512));
    assert_eq!((SlotBlock::SEATS, RecordBlock::SEATS), ([0, 128], [0, 128]));
}

#[test]
fn a_view_wants_a_power_of_two() {
    let control = SlotBlock::new();
    for (slots, stride, ok) in [(2, 1, true), (64, 8, true), (1, 8, false), (3, 8, false), (0, 0, false)] {
        assert_eq!(Slots::new(&control, &words(slots * stride), slots).is_ok(), ok, "{slots} slots");
    }
    assert!(Slots::new(&control, &words(65), 64).is_err());
    let control = RecordBlock::new();
    for (count, ok) in [(8, true), (512, true), (4, false), (9, false), (0, false)] {
        assert_eq!(Records::new(&control, &words(count)).is_ok(), ok, "{count} words");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Pop(usize),
    Peek,
    /// Either end is given to a successor.
    Succeed(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..70).prop_map(Step::Push),
        4 => (1usize..9).prop_map(Step::Pop),
        1 => Just(Step::Peek),
        1 => any::<bool>().prop_map(Step::Succeed),
    ];
    proptest::collection::vec(step, 0..300)
}

/// A word that may look right.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..300,
        (0u64..300).prop_map(|p| p * 8),
        (0u64..40, 0u64..4, 0u64..300).prop_map(|(tag, kind, len)| tag << 40 | kind << 32 | len),
        (0u64..300).prop_map(|p| 0u64.wrapping_sub(p)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slots_do_what_a_deque_does(log in 1u32..7, steps in steps()) {
        let capacity = 1usize << log;
        let (control, memory) = (SlotBlock::new(), words(capacity * 2));
        let ring = Slots::new(&control, &memory, capacity).unwrap();
        let payload = |position: u64| &memory[ring.index(position) * 2 + 1];
        let (mut writer, mut reader) = (ring.writer().unwrap(), ring.reader());
        let (mut deque, mut next, mut open) = (VecDeque::new(), 0u64, false);
        for step in steps {
            match step {
                Step::Push(count) => for _ in 0..count {
                    let has_room = writer.room() > 0 || ring.look_for_room(&mut writer, Look::Exact).unwrap() > 0;
                    prop_assert_eq!(has_room, deque.len() < capacity);
                    if has_room {
                        payload(writer.position()).store(next, Relaxed);
                        ring.commit(&mut writer);
                        deque.push_back(next);
                        next += 1;
                    }
                },
                Step::Pop(count) => {
                    let ready = (0..count as u64).take_while(|k| ring.is_ready_behind(&reader, *k).unwrap()).count();
                    prop_assert_eq!(ready, deque.len().min(count));
                    prop_assert_eq!(ring.is_ready(&reader).unwrap(), ready > 0);
                    if ready > 0 {
                        prop_assert_eq!(reader.is_redelivered(), open);
                        open = false;
                    }
                    for k in 0..ready as u64 {
                        prop_assert_eq!(payload(reader.position() + k).load(Relaxed), deque.pop_front().unwrap());
                    }
                    if ready > 0 {
                        ring.release(&mut reader, ready as u64);
                    }
                }
                Step::Peek => if !deque.is_empty() {
                    ring.open(&reader);
                    reader = ring.reader();
                    open = true;
                },
                Step::Succeed(true) => writer = ring.writer().unwrap(),
                Step::Succeed(false) => reader = ring.reader(),
            }
            prop_assert_eq!(ring.len(), deque.len() as u64);
        }
    }

    #[test]
    fn records_do_what_a_deque_does(log in 6u32..11, steps in steps()) {
        let (control, memory) = (RecordBlock::new(), words(1 << (log - 3)));
        let ring = Records::new(&control, &memory).unwrap();
        let (mut writer, mut reader) = (ring.writer().unwrap(), ring.reader().unwrap());
        let (mut deque, mut next, mut open) = (VecDeque::new(), 0u64, false);
        for step in steps {
            match step {
                Step::Push(len) => {
                    let len = len.min(ring.longest());
                    let place = ring.reserve(&mut writer, len, Look::Exact).unwrap();
                    prop_assert!(place.is_some() || !deque.is_empty(), "a record fits into an empty ring");
                    if let Some(place) = place {
                        // Some are shorter than reserved, some are given up.
                        match next % 7 {
                            3 => ring.abort(&writer),
                            k => {
                                let place = if k == 5 { place.shortened(len / 2) } else { place };
                                prop_assert!(ring.room_at(place) + place.len() <= ring.capacity() as usize);
                                if place.len() >= 8 {
                                    memory[ring.room_at(place) / 8].store(next, Relaxed);
                                }
                                ring.write(&mut writer, place);
                                ring.commit(&mut writer);
                                deque.push_back((place.len(), next));
                            }
                        }
                        next += 1;
                    }
                }
                Step::Pop(count) => for _ in 0..count {
                    let record = ring.peek(&mut reader).unwrap();
                    prop_assert_eq!(record.map(|r| r.len()), deque.front().map(|(len, _)| *len));
                    if let Some(record) = record {
                        prop_assert_eq!(reader.is_redelivered(), open);
                        open = false;
                        let (_, number) = deque.pop_front().unwrap();
                        if record.len() >= 8 {
                            prop_assert_eq!(memory[ring.record_at(record) / 8].load(Relaxed), number);
                        }
                        ring.step(&mut reader, record);
                        ring.acknowledge(&mut reader);
                    }
                },
                Step::Peek => if !deque.is_empty() {
                    ring.open(&reader);
                    reader = ring.reader().unwrap();
                    open = true;
                },
                Step::Succeed(true) => writer = ring.writer().unwrap(),
                Step::Succeed(false) => reader = ring.reader().unwrap(),
            }
            prop_assert_eq!(ring.is_empty(), deque.is_empty());
        }
    }

    #[test]
    fn whatever_the_bytes_of_a_slot_ring_every_operation_returns(
        control in proptest::collection::vec(word(), 3),
        slots in proptest::collection::vec(word(), 16),
        steps in proptest::collection::vec((0u8..10, 0usize..19, word()), 0..60),
    ) {
        let (block, memory) = (SlotBlock::new(), words(16));
        let shared: Vec<&AtomicU64> = block.words().into_iter().chain(&memory).collect();
        for (word, value) in shared.iter().zip(control.iter().chain(&slots)) {
            word.store(*value, Relaxed);
        }
        let ring = Slots::new(&block, &memory, 8).unwrap();
        let (mut writer, mut reader) = (None, ring.reader());
        for (step, place, value) in steps {
            match step {
                0 => writer = ring.writer().ok(),
                1 => reader = ring.reader(),
                2 | 3 => if let Some(writer) = &mut writer {
                    let _ = ring.look_for_room(writer, if step == 2 { Look::Exact } else { Look::Published });
                    prop_assert!(writer.room() <= 8);
                    if writer.room() > 0 {
                        ring.commit(writer);
                    }
                },
                4 | 5 => if let Ok(true) = ring.is_ready(&reader) {
                    ring.open(&reader);
                    ring.release(&mut reader, 1);
                },
                6 => drop((ring.len(), ring.is_ready_behind(&reader, place as u64), ring.offer_room(&mut reader))),
                7 => drop((ring.count(&|lane| lane % 2 == 0), ring.recover(&|lane| lane % 2 == 0))),
                _ => shared[place].store(value, Relaxed),
            }
        }
    }

    #[test]
    fn whatever_the_bytes_of_a_record_ring_every_operation_returns(
        control in proptest::collection::vec(word(), 4),
        data in proptest::collection::vec(word(), 32),
        steps in proptest::collection::vec((0u8..10, 0usize..36, word()), 0..60),
    ) {
        let (block, memory) = (RecordBlock::new(), words(32));
        let shared: Vec<&AtomicU64> = block.words().into_iter().chain(&memory).collect();
        for (word, value) in shared.iter().zip(control.iter().chain(&data)) {
            word.store(*value, Relaxed);
        }
        let ring = Records::new(&block, &memory).unwrap();
        let (mut writer, mut reader) = (None, None);
        for (step, place, value) in steps {
            match step {
                0 => writer = ring.writer().ok(),
                1 => reader = ring.reader().ok(),
                2 | 3 => if let Some(writer) = &mut writer {
                    let look = if step == 2 { Look::Exact } else { Look::Published };
                    if let Ok(Some(reserved)) = ring.reserve(writer, place * 3, look) {
                        prop_assert!(ring.room_at(reserved) + reserved.len() <= 256);
                        ring.write(writer, reserved);
                        ring.commit(writer);
                    }
                },
                4 | 5 => if let Some(reader) = &mut reader {
                    if let Ok(Some(record)) = ring.peek(reader) {
                        prop_assert!(ring.record_at(record) + record.len() <= 256);
                        ring.open(reader);
                        ring.step(reader, record);
                        ring.acknowledge(reader);
                    }
                },
                6 => if let Some(reader) = &mut reader { let _ = (ring.len(), ring.offer_room(reader)); },
                7 => drop((ring.count(&|lane| lane % 2 == 0), ring.recover(&|lane| lane % 2 == 0))),
                _ => shared[place].store(value, Relaxed),
            }
        }
    }
}

#[test]
fn threads_stream_through_slots_and_records() {
    const COUNT: u64 = 300_000;
    let (slot_block, slot_words) = (SlotBlock::new(), words(16 * 2));
    let (record_block, record_words) = (RecordBlock::new(), words(64));
    let slots = Slots::new(&slot_block, &slot_words, 16).unwrap();
    let records = Records::new(&record_block, &record_words).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut slot, mut record) = (slots.writer().unwrap(), records.writer().unwrap());
            for number in 0..COUNT {
                // What is published is enough for whoever waits long enough, and the exact head for whoever does not.
                let look = if number % 2 == 0 { Look::Published } else { Look::Exact };
                while slot.room() == 0 && slots.look_for_room(&mut slot, look).unwrap() == 0 {
                    std::thread::yield_now();
                }
                slot_words[slots.index(slot.position()) * 2 + 1].store(number, Relaxed);
                slots.commit(&mut slot);
                let len = 8 + (number % 23) as usize * 8;
                let place = loop {
                    match records.reserve(&mut record, len, look).unwrap() {
                        Some(place) => break place,
                        None => std::thread::yield_now(),
                    }
                };
                let first = records.room_at(place) / 8;
                record_words[first..first + len / 8].iter().for_each(|word| word.store(number, Relaxed));
                records.write(&mut record, place);
                records.commit(&mut record);
            }
        });
        let (mut slot, mut record) = (slots.reader(), records.reader().unwrap());
        for number in 0..COUNT {
            while !slots.is_ready(&slot).unwrap() {
                std::thread::yield_now();
            }
            assert_eq!(slot_words[slots.index(slot.position()) * 2 + 1].load(Relaxed), number);
            slots.release(&mut slot, 1);
            let found = loop {
                match records.peek(&mut record).unwrap() {
                    Some(found) => break found,
                    None => std::thread::yield_now(),
                }
            };
            let (first, len) = (records.record_at(found) / 8, 8 + (number % 23) as usize * 8);
            assert_eq!(found.len(), len);
            assert!(record_words[first..first + len / 8].iter().all(|word| word.load(Relaxed) == number));
            records.step(&mut record, found);
            records.acknowledge(&mut record);
        }
    });
}
