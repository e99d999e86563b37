//! The record ring under loom: deaths of either side before every access, and a successor that goes on.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use loom::cell::UnsafeCell;
use loom::thread;

use super::only;
use crate::ring::bytes::{Reader, RecordBlock, Records, Writer};
use crate::ring::spsc::Look;
use crate::sys::atomic::{AtomicU64, Killed, kill_point, spin_loop, with_budget};
use crate::sys::models::{at_every_step, model, twin};

/// 64 bytes; records of 8 and of 24 bytes, headers apart: the third of a stream needs a PAD, and the place of the first.
const WORDS: usize = 8;
const LAST: u64 = 3;

/// A ring and what it carries: one number in each word of a record.
struct Fixture {
    control: RecordBlock,
    words: Vec<AtomicU64>,
    data: Vec<UnsafeCell<u64>>,
}

// SAFETY: `data` is touched only by who has room, or a record; loom checks that nobody else does.
unsafe impl Sync for Fixture {}
// SAFETY: as above.
unsafe impl Send for Fixture {}

fn len_of(number: u64) -> usize {
    if number % 2 == 0 { 8 } else { 24 }
}

impl Fixture {
    fn new() -> Arc<Self> {
        let words = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let data = (0..WORDS).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { control: RecordBlock::new(), words, data })
    }

    fn ring(&self) -> Records<'_> {
        Records::new(&self.control, &self.words).unwrap()
    }

    fn sit_and_write(&self, lane: u16) -> Writer {
        self.ring().producer().take(lane).unwrap();
        self.ring().writer().unwrap()
    }

    fn sit_and_read(&self, lane: u16) -> Reader {
        self.ring().consumer().take(lane).unwrap();
        self.ring().reader().unwrap()
    }

    fn write(&self, writer: &mut Writer, number: u64) -> bool {
        let ring = self.ring();
        let Some(place) = ring.reserve(writer, len_of(number), Look::Exact).unwrap() else { return false };
        kill_point();
        for word in ring.room_at(place) / 8..(ring.room_at(place) + place.len()) / 8 {
            // SAFETY: the place is ours between reserve and commit.
            self.data[word].with_mut(|cell| unsafe { *cell = number });
        }
        ring.write(writer, place);
        true
    }

    fn push(&self, writer: &mut Writer, number: u64) {
        while !self.write(writer, number) {
            spin_loop();
        }
        self.ring().commit(writer);
    }

    /// The next number, told to `seen` before it is acknowledged; and whether it was marked.
    fn pop(&self, reader: &mut Reader, seen: impl FnOnce(u64, bool)) -> bool {
        let ring = self.ring();
        let Some(record) = ring.peek(reader).unwrap() else { return false };
        ring.open(reader);
        let first = ring.record_at(record) / 8;
        // SAFETY: the record is ours between peek and release.
        let get = |word: usize| self.data[word].with(|cell| unsafe { *cell });
        let number = get(first);
        assert_eq!(record.len(), len_of(number), "the record of {number}");
        assert!((first..first + record.len() / 8).all(|word| get(word) == number), "a record in pieces");
        seen(number, reader.is_redelivered());
        kill_point();
        ring.step(reader, record);
        ring.acknowledge(reader);
        true
    }

    fn pop_from_to(&self, reader: &mut Reader, first: u64, last: u64) {
        for due in first..=last {
            while !self.pop(reader, |number, marked| assert_eq!((number, marked), (due, false))) {
                spin_loop();
            }
        }
    }
}

fn a_stream() {
    model(|| {
        let f = Fixture::new();
        let producer = {
            let f = f.clone();
            thread::spawn(move || {
                let mut writer = f.sit_and_write(1);
                (1..=LAST).for_each(|number| f.push(&mut writer, number));
            })
        };
        f.pop_from_to(&mut f.sit_and_read(2), 1, LAST);
        producer.join().unwrap();
        assert!(f.ring().is_empty());
    });
}

#[test]
fn a_stream_of_records_comes_out_as_it_went_in() {
    a_stream();
}

#[test]
fn twin_commit_without_release() {
    twin("bytes-commit-releases", a_stream);
}

#[test]
fn twin_acknowledge_without_release() {
    twin("bytes-release-releases", a_stream);
}

/// The producer dies in the middle of single records and of a batch; a successor goes on behind what was committed, and the
/// consumer beside them sees each number once.
fn a_producer_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new();
        let committed = Arc::new(Mutex::new(0));
        let producer = {
            let f = f.clone();
            thread::spawn(move || {
                let outcome = with_budget(step, || {
                    let mut writer = f.sit_and_write(1);
                    f.push(&mut writer, 1);
                    *committed.lock().unwrap() = 1;
                    // Two in one commit.
                    for number in 2..=LAST {
                        while !f.write(&mut writer, number) {
                            spin_loop();
                        }
                    }
                    f.ring().commit(&mut writer);
                    *committed.lock().unwrap() = LAST;
                });
                if let Err(Killed) = outcome {
                    let tail = f.control.words()[2].peek();
                    let (vanished, _) = f.ring().count(&only(1));
                    f.ring().recover(&only(1));
                    let mut writer = f.sit_and_write(3);
                    // Number 1 takes 32 bytes; the others are committed together.
                    let there = if tail == 0 {
                        0
                    } else if tail == 32 {
                        1
                    } else {
                        LAST
                    };
                    assert!(there >= *committed.lock().unwrap());
                    assert!(vanished == 0 || there < LAST, "what is there did not vanish");
                    (there + 1..=LAST).for_each(|number| f.push(&mut writer, number));
                }
                outcome.is_err()
            })
        };
        f.pop_from_to(&mut f.sit_and_read(2), 1, LAST);
        died.fetch_or(producer.join().unwrap(), Relaxed);
        assert!(f.ring().is_empty());
    });
}

#[test]
fn a_producer_that_dies_at_any_step_is_succeeded_exactly() {
    a_producer_dies();
}

/// A reservation in flight is counted; one that was committed or aborted is not.
fn a_reservation_counts() {
    model(|| {
        let f = Fixture::new();
        let mut writer = f.sit_and_write(1);
        let place = f.ring().reserve(&mut writer, 16, Look::Exact).unwrap().unwrap();
        assert_eq!(f.ring().count(&only(1)), (1, 0));
        f.ring().write(&mut writer, place.shortened(8));
        assert_eq!(f.ring().count(&only(1)), (1, 0));
        f.ring().commit(&mut writer);
        assert_eq!(f.ring().count(&only(1)), (0, 0));
        let _ = f.ring().reserve(&mut writer, 8, Look::Exact).unwrap().unwrap();
        f.ring().abort(&writer);
        assert_eq!(f.ring().count(&only(1)), (0, 0));
    });
}

#[test]
fn what_vanishes_is_counted() {
    a_reservation_counts();
}

#[test]
fn twin_reservation_without_a_mark() {
    twin("bytes-reserve-is-marked", a_reservation_counts);
}

/// The consumer dies; whoever recovers it sits down in its place, while the producer goes on.
fn a_consumer_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new();
        let mut writer = f.sit_and_write(2);
        f.push(&mut writer, 1);
        f.push(&mut writer, 2);
        let consumer = {
            let f = f.clone();
            thread::spawn(move || {
                let seen = Mutex::new(vec![]);
                let all = |reader: &mut Reader| {
                    while seen.lock().unwrap().last() != Some(&LAST) {
                        if !f.pop(reader, |number, _| seen.lock().unwrap().push(number)) {
                            spin_loop();
                        }
                    }
                };
                let outcome = with_budget(step, || all(&mut f.sit_and_read(1)));
                if let Err(Killed) = outcome {
                    let (_, counted) = f.ring().count(&only(1));
                    f.ring().recover(&only(1));
                    let mut reader = f.sit_and_read(3);
                    assert_eq!(counted, u32::from(reader.is_redelivered()));
                    let before = seen.lock().unwrap().last().copied();
                    if before == Some(LAST) && f.ring().is_empty() {
                        return true;
                    }
                    let first = Mutex::new((0, false));
                    while !f.pop(&mut reader, |number, marked| *first.lock().unwrap() = (number, marked)) {
                        spin_loop();
                    }
                    let (number, marked) = *first.lock().unwrap();
                    if Some(number) == before {
                        assert!(marked, "{number} comes again without a mark");
                    } else {
                        seen.lock().unwrap().push(number);
                    }
                    all(&mut reader);
                }
                assert_eq!(*seen.lock().unwrap(), (1..=LAST).collect::<Vec<_>>());
                outcome.is_err()
            })
        };
        f.push(&mut writer, LAST);
        died.fetch_or(consumer.join().unwrap(), Relaxed);
    });
}

#[test]
fn a_consumer_that_dies_at_any_step_is_succeeded_exactly() {
    a_consumer_dies();
}

#[test]
fn twin_published_before_the_head() {
    twin("bytes-published-follows", a_consumer_dies);
}

#[test]
fn twin_peek_without_a_mark() {
    twin("bytes-open-is-marked", a_consumer_dies);
}
