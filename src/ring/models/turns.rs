//! Exact counts: around a half turn, with deaths between the move of a cursor and the word that says it.

use super::super::turns::{Field, snapshot};
use super::*;
use crate::sys::atomic::Ordering::{AcqRel, Acquire};

/// A cursor that counts to 8 in three bits and, in truth, in the four below.
const COUNT: Field = Field::new(4, 3);

struct Turning {
    cursor: AtomicU64,
    epoch: AtomicU64,
}

impl Turning {
    const fn word(count: u64) -> u64 {
        (count & 7) << 4 | count
    }

    fn at(count: u64) -> Arc<Self> {
        Arc::new(Self { cursor: AtomicU64::new(Self::word(count)), epoch: AtomicU64::new(count / 4) })
    }

    /// Moves the cursor on, as often as it finds it where it looked.
    fn step(&self) {
        let from = self.cursor.load(Acquire);
        let to = Self::word((from & 15) + 1);
        if self.cursor.compare_exchange(from, to, AcqRel, Relaxed).is_ok() {
            COUNT.moved(to, &self.cursor, &self.epoch);
        }
    }

    fn check(&self) {
        let (word, [epoch]) = snapshot(&self.cursor, [&self.epoch]);
        assert_eq!(COUNT.exact(word, epoch), word & 15);
    }
}

fn a_mover_dies_at_the_turn() {
    at_every_step(|step, died| {
        let t = Turning::at(3);
        let victim = {
            let t = t.clone();
            thread::spawn(move || with_budget(step, || (0..2).for_each(|_| t.step())).is_err())
        };
        (0..5).for_each(|_| t.step());
        died.fetch_or(victim.join().unwrap(), Relaxed);
        // Rule 2: the lane of the dead is used again after recovery only, which looks.
        COUNT.heal(&t.cursor, &t.epoch);
        t.check();
        (0..4).for_each(|_| t.step());
        t.check();
    });
}

#[test]
fn a_mover_that_dies_before_it_says_the_turn_is_found_out() {
    a_mover_dies_at_the_turn();
}

#[test]
fn twin_nobody_looks_after_a_move() {
    twin("turns-look-after-a-move", a_mover_dies_at_the_turn);
}

fn two_movers_say_one_turn() {
    model(|| {
        let t = Turning::at(3);
        let other = {
            let t = t.clone();
            thread::spawn(move || t.step())
        };
        (0..6).for_each(|_| t.step());
        other.join().unwrap();
        t.check();
        assert!((t.cursor.peek() & 15) / 4 - t.epoch.peek() <= 1);
    });
}

#[test]
fn a_slow_mover_says_no_turn_twice() {
    two_movers_say_one_turn();
}

#[test]
fn twin_the_cursor_is_loaded_before_the_epoch() {
    twin("turns-epoch-before-cursor", two_movers_say_one_turn);
}

fn a_reader_at_the_turn() {
    model(|| {
        let t = Turning::at(3);
        let reader = {
            let t = t.clone();
            thread::spawn(move || {
                t.check();
                t.check();
            })
        };
        (0..6).for_each(|_| t.step());
        reader.join().unwrap();
        t.check();
    });
}

#[test]
fn a_reader_gets_the_exact_number_around_the_turn() {
    a_reader_at_the_turn();
}

#[test]
fn twin_the_reader_looks_at_the_epoch_once() {
    twin("turns-look-twice", a_reader_at_the_turn);
}

/// The next record is the one at the half turn.
const TURN: u64 = 1 << 19;

/// A producer dies at any step of a put at the turn, while a survivor puts and takes; then it is recovered.
fn a_producer_dies_at_the_turn() {
    at_every_step(|step, died| {
        let f = Fixture::starting_at(2, TURN as u32 - 1);
        let cache = f.ring().cache();
        let victim = {
            let f = f.clone();
            thread::spawn(move || with_budget(step, || f.put(&f.ring().cache(), 1, 1, 10, NO_LIMIT).unwrap()).is_err())
        };
        f.put(&cache, 2, 1, 20, NO_LIMIT).unwrap();
        let mut got = vec![];
        got.extend(f.get(&cache, 2));
        let before = f.ring().counts().unwrap();
        assert!((TURN..=TURN + 1).contains(&before.claimed) && before.taken <= before.claimed, "{before:?}");
        assert_eq!((before.aborted, before.redelivered), (0, 0));
        let dead = victim.join().unwrap();
        let vanished = if dead { f.ring().recover(&only(1)).unwrap().vanished } else { 0 };
        died.fetch_or(dead, Relaxed);
        f.drain(&mut got);
        let counts = f.ring().counts().unwrap();
        assert_eq!(counts.claimed, TURN - 1 + got.len() as u64 + u64::from(vanished));
        assert_eq!((counts.taken, counts.lost), (counts.claimed, u64::from(vanished)));
        assert_eq!((counts.committed(), counts.aborted), (TURN - 1 + got.len() as u64, 0));
        f.check_usable();
        assert_eq!(f.ring().counts().unwrap().claimed, counts.claimed + 4);
    });
}

#[test]
fn every_record_is_counted_although_a_producer_dies_at_the_turn() {
    a_producer_dies_at_the_turn();
}

#[test]
fn twin_recovery_does_not_say_whose_record_is_lost() {
    twin("recovery-names-the-dead", a_producer_dies_at_the_turn);
}

/// A reader counts aborted records while `head` passes them.
fn counting_beside_a_reclaimer() {
    model(|| {
        let f = Fixture::new(4);
        let cache = f.ring().cache();
        let abort = || f.ring().abort(f.ring().claim(&cache, 2, 1, NO_LIMIT).unwrap());
        abort();
        abort();
        let reader = {
            let f = f.clone();
            thread::spawn(move || f.ring().counts().unwrap())
        };
        assert_eq!(f.get(&cache, 3), None);
        let counts = reader.join().unwrap();
        assert_eq!((counts.aborted, counts.lost, counts.claimed), (2, 0, 2));
        assert_eq!(f.ring().counts().unwrap(), Counts { claimed: 2, taken: 2, aborted: 2, ..Counts::default() });
        f.check_usable();
    });
}

#[test]
fn aborted_records_are_counted_once_while_head_passes_them() {
    counting_beside_a_reclaimer();
}

#[test]
fn twin_counting_goes_on_where_head_has_passed() {
    twin("counts-begin-again", counting_beside_a_reclaimer);
}
