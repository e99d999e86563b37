//! The slot ring under loom: deaths of either side before every access, and a successor that goes on.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use loom::cell::UnsafeCell;
use loom::thread;

use super::only;
use crate::ring::spsc::{Look, Reader, SlotBlock, Slots, Writer};
use crate::sys::atomic::{AtomicU64, Killed, kill_point, spin_loop, with_budget};
use crate::sys::models::{at_every_step, model, twin};

const LAST: u64 = 3;

/// A ring whose slots hold a number each.
struct Fixture {
    control: SlotBlock,
    words: Vec<AtomicU64>,
    data: Vec<UnsafeCell<u64>>,
}

// SAFETY: `data` is touched only by who has room, or a message; loom checks that nobody else does.
unsafe impl Sync for Fixture {}
// SAFETY: as above.
unsafe impl Send for Fixture {}

impl Fixture {
    fn new(capacity: usize) -> Arc<Self> {
        let words = (0..capacity).map(|_| AtomicU64::new(0)).collect();
        let data = (0..capacity).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { control: SlotBlock::new(), words, data })
    }

    fn ring(&self) -> Slots<'_> {
        Slots::new(&self.control, &self.words, self.data.len()).unwrap()
    }

    fn sit_and_write(&self, lane: u16) -> Writer {
        self.ring().producer().take(lane).unwrap();
        self.ring().writer().unwrap()
    }

    fn sit_and_read(&self, lane: u16) -> Reader {
        self.ring().consumer().take(lane).unwrap();
        self.ring().reader()
    }

    /// Pushes its own position, plus 1, if there is room.
    fn push(&self, writer: &mut Writer) -> bool {
        let ring = self.ring();
        if writer.room() == 0 && ring.look_for_room(writer, Look::Exact).unwrap() == 0 {
            return false;
        }
        kill_point();
        let position = writer.position();
        // SAFETY: the slot is ours between room and commit.
        self.data[ring.index(position)].with_mut(|cell| unsafe { *cell = position + 1 });
        ring.commit(writer);
        true
    }

    /// The next number, told to `seen` before it is acknowledged; and whether it was marked.
    fn pop(&self, reader: &mut Reader, seen: impl FnOnce(u64, bool)) -> bool {
        let ring = self.ring();
        if !ring.is_ready(reader).unwrap() {
            return false;
        }
        ring.open(reader);
        // SAFETY: the slot is ours between ready and release.
        let value = self.data[ring.index(reader.position())].with(|cell| unsafe { *cell });
        seen(value, reader.is_redelivered());
        kill_point();
        ring.release(reader, 1);
        true
    }

    /// Pushes up to the number `last`, whatever was pushed before.
    fn push_up_to(&self, writer: &mut Writer, last: u64) {
        while writer.position() < last {
            if !self.push(writer) {
                spin_loop();
            }
        }
    }

    /// Pops up to the number `last`, each time the one that is due.
    fn pop_up_to(&self, reader: &mut Reader, last: u64) {
        while reader.position() < last {
            let due = reader.position() + 1;
            if !self.pop(reader, |value, marked| assert_eq!((value, marked), (due, false))) {
                spin_loop();
            }
        }
    }
}

fn a_stream() {
    model(|| {
        let f = Fixture::new(2);
        let producer = {
            let f = f.clone();
            thread::spawn(move || f.push_up_to(&mut f.sit_and_write(1), LAST))
        };
        f.pop_up_to(&mut f.sit_and_read(2), LAST);
        producer.join().unwrap();
        assert!(f.ring().is_empty());
    });
}

#[test]
fn a_stream_comes_out_as_it_went_in() {
    a_stream();
}

#[test]
fn twin_commit_without_release() {
    twin("slots-commit-releases", a_stream);
}

#[test]
fn twin_acknowledge_without_release() {
    twin("slots-release-releases", a_stream);
}

#[test]
fn twin_open_mark_without_release() {
    twin("slots-open-releases", a_stream);
}

#[test]
fn of_two_who_want_a_seat_one_has_it() {
    model(|| {
        let f = Fixture::new(2);
        let other = {
            let f = f.clone();
            thread::spawn(move || f.ring().producer().take(1))
        };
        let mine = f.ring().producer().take(2);
        match (mine, other.join().unwrap()) {
            (Ok(()), Err(holder)) => assert_eq!(holder, 2),
            (Err(holder), Ok(())) => assert_eq!(holder, 1),
            both => panic!("{both:?}"),
        }
    });
}

/// The producer dies; whoever recovers it sits down in its place, while the consumer goes on.
fn a_producer_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new(2);
        // Not part of the question.
        f.push_up_to(&mut f.sit_and_write(2), 1);
        f.ring().producer().leave();
        let producer = {
            let f = f.clone();
            thread::spawn(move || {
                let outcome = with_budget(step, || f.push_up_to(&mut f.sit_and_write(1), LAST));
                if let Err(Killed) = outcome {
                    f.ring().recover(&only(1));
                    assert_eq!(f.ring().producer().holder(), 0);
                    f.push_up_to(&mut f.sit_and_write(3), LAST);
                }
                outcome.is_err()
            })
        };
        f.pop_up_to(&mut f.sit_and_read(2), LAST);
        died.fetch_or(producer.join().unwrap(), Relaxed);
        assert!(f.ring().is_empty());
    });
}

#[test]
fn a_producer_that_dies_at_any_step_is_succeeded_exactly() {
    a_producer_dies();
}

#[test]
fn twin_successor_that_believes_the_hint() {
    twin("slots-successor-walks", a_producer_dies);
}

#[test]
fn twin_hint_before_the_commit() {
    twin("slots-hint-follows", a_producer_dies);
}

/// The consumer dies; whoever recovers it sits down in its place, while the producer goes on.
fn a_consumer_dies() {
    at_every_step(|step, died| {
        let f = Fixture::new(2);
        let mut writer = f.sit_and_write(2);
        f.push_up_to(&mut writer, 2);
        let consumer = {
            let f = f.clone();
            thread::spawn(move || {
                let seen = Mutex::new(vec![]);
                let outcome = with_budget(step, || {
                    let mut reader = f.sit_and_read(1);
                    while reader.position() < LAST {
                        if !f.pop(&mut reader, |value, _| seen.lock().unwrap().push(value)) {
                            spin_loop();
                        }
                    }
                });
                let mut seen = seen.into_inner().unwrap();
                if let Err(Killed) = outcome {
                    let counted = f.ring().count(&only(1));
                    f.ring().recover(&only(1));
                    let mut reader = f.sit_and_read(3);
                    let first = reader.position() + 1;
                    // Seen by the dead and not acknowledged: marked. A mark on what it had not seen yet is possible.
                    let again = seen.last() == Some(&first);
                    assert!(reader.is_redelivered() || !again, "{first} comes again without a mark");
                    assert_eq!(counted, u32::from(reader.is_redelivered()));
                    if again {
                        seen.pop();
                    }
                    let mut is_first = true;
                    while reader.position() < LAST {
                        let popped = f.pop(&mut reader, |value, marked| {
                            assert!(!marked || is_first, "{value} is marked");
                            seen.push(value);
                        });
                        is_first &= !popped;
                        if !popped {
                            spin_loop();
                        }
                    }
                }
                assert_eq!(seen, (1..=LAST).collect::<Vec<_>>());
                outcome.is_err()
            })
        };
        f.push_up_to(&mut writer, LAST);
        died.fetch_or(consumer.join().unwrap(), Relaxed);
        assert!(f.ring().is_empty());
    });
}

#[test]
fn a_consumer_that_dies_at_any_step_is_succeeded_exactly() {
    a_consumer_dies();
}

#[test]
fn twin_published_before_the_head() {
    twin("slots-published-follows", a_consumer_dies);
}

#[test]
fn twin_peek_without_a_mark() {
    twin("slots-open-is-marked", a_consumer_dies);
}

/// The recoverer dies too; a second one finishes.
#[test]
fn a_recoverer_that_dies_at_any_step_is_followed_by_another() {
    at_every_step(|step, died| {
        let f = Fixture::new(2);
        let mut writer = f.sit_and_write(1);
        let mut reader = f.sit_and_read(1);
        assert!(f.push(&mut writer) && f.push(&mut writer));
        assert!(f.pop(&mut reader, |_, _| ()));
        f.ring().open(&reader);
        if with_budget(step, || f.ring().recover(&only(1))).is_err() {
            died.store(true, Relaxed);
        }
        f.ring().recover(&only(1));
        let mut reader = f.sit_and_read(2);
        assert_eq!((reader.position(), reader.is_redelivered()), (1, true));
        let mut writer = f.sit_and_write(2);
        assert!(f.push(&mut writer) && !f.push(&mut writer));
        assert!(f.pop(&mut reader, |value, marked| assert_eq!((value, marked), (2, true))));
        assert!(f.pop(&mut reader, |value, marked| assert_eq!((value, marked), (3, false))));
    });
}
