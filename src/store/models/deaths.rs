//! Deaths at every access: of who changes the shard, and of who puts it in order after another's death.

use std::sync::atomic::AtomicBool as Flag;

use super::*;
use crate::sys::atomic::with_budget;
use crate::sys::models::twin;

/// How often a victim may die: never, in the end.
const MOST_STEPS: u32 = 3000;

/// Somebody dies before each access of `change` in turn, and somebody else before each `stride`th of the repair; then both
/// are recovered and everything is counted. `check` looks at what is there.
fn dies_in(trial: fn() -> Trial, change: fn(&Trial, Lane), stride: u32, check: fn(&Trial)) {
    let mut died = 0;
    for step in 0..MOST_STEPS {
        let alive = Arc::new(Flag::new(false));
        let seen = alive.clone();
        model_with(1, move || {
            let trial = trial();
            let ended = with_budget(step, || change(&trial, WRITER));
            seen.fetch_or(ended.is_ok(), Relaxed);
            trial.recover(WRITER);
            check(&trial);
            if stride > 0 {
                // The next two who lock repair, and die in it.
                for more in [step % stride, step % stride + stride] {
                    let _ = with_budget(more, || count(&trial, OTHER));
                    trial.recover(OTHER);
                    check(&trial);
                }
            }
            count(&trial, READER);
            check(&trial);
            // Everybody can go on.
            set(&trial, OTHER, 1, 50);
            assert_eq!(get(&trial, READER, 1), Some(50));
            assert!(remove(&trial, OTHER, 1));
            changing(&trial, OTHER, |changing| changing.clear()).unwrap();
            count(&trial, OTHER);
            assert_eq!(trial.runs(), []);
        });
        if alive.load(Relaxed) {
            assert!(died > 10, "the victim was never in danger");
            return;
        }
        died += 1;
    }
    panic!("no end after {MOST_STEPS} accesses");
}

fn entries(pages: usize, keys: u8) -> Trial {
    let trial = Trial::new(3, 720, 224, pages);
    (1..=keys).for_each(|key| set(&trial, WRITER, key, 1));
    trial
}

/// Longer than a block can be.
fn long(key: u8, n: u8) -> Vec<u8> {
    value(key, n).repeat(9)
}

fn others_are_there(trial: &Trial, keys: impl IntoIterator<Item = u8>) {
    keys.into_iter().for_each(|key| assert_eq!(get(trial, READER, key), Some(1), "entry {key}"));
}

/// Replaced, put in and taken out, with blocks that are freed on the way.
fn who_changes_entries() {
    dies_in(
        || entries(0, 3),
        |trial, lane| {
            (2..5).for_each(|n| set(trial, lane, 1, n));
            set(trial, lane, 4, 1);
            assert!(remove(trial, lane, 2));
        },
        40,
        |trial| {
            let (first, removed, put_in) = (get(trial, READER, 1), get(trial, READER, 2), get(trial, READER, 4));
            assert!(first.is_some(), "an entry is gone");
            assert!(put_in.is_none() || first == Some(4), "changes in another order");
            assert!(removed.is_some() || put_in == Some(1), "changes in another order");
            others_are_there(trial, [3]);
        },
    );
}

#[test]
fn models_who_dies_in_a_change_has_made_it_or_not() {
    who_changes_entries();
}

#[test]
fn models_a_repair_that_does_not_collect_is_noticed() {
    twin("table: repair without collecting", who_changes_entries);
}

/// The table grows into a run of its own.
fn who_grows_a_table() {
    dies_in(
        || {
            let trial = Trial::new(3, 1000, 224, 2);
            (1..=FULL).for_each(|key| set(&trial, WRITER, key, 1));
            trial
        },
        |trial, lane| set(trial, lane, FULL + 1, 1),
        50,
        |trial| {
            assert!(get(trial, READER, FULL + 1).is_none_or(|n| n == 1));
            others_are_there(trial, 1..=FULL);
        },
    );
}

#[test]
fn models_who_dies_while_a_table_grows_leaves_all_entries() {
    who_grows_a_table();
}

/// Entries with runs of their own: taken, named, given back.
fn who_changes_long_entries() {
    dies_in(
        || {
            let trial = entries(3, 2);
            put(&trial, WRITER, 1, &long(1, 1)).unwrap();
            trial
        },
        |trial, lane| {
            put(trial, lane, 1, &long(1, 2)).unwrap();
            assert!(remove(trial, lane, 1));
        },
        30,
        |trial| {
            let read = |entry: Entry<'_, Trial>| {
                let mut found = Vec::new();
                entry.read_value(&mut found).map(|()| found)
            };
            let found = trial.shard().get(READER, hash(&[1]), &[1], read).unwrap();
            assert!(found.is_none_or(|found| found == long(1, 1) || found == long(1, 2)), "torn");
            others_are_there(trial, [2]);
        },
    );
}

#[test]
fn models_who_dies_with_a_run_loses_none() {
    who_changes_long_entries();
}

/// The heap has runs; one is given back by who collects.
fn who_collects() {
    dies_in(
        || {
            // So small that entries need two runs, one of which is empty later.
            let trial = Trial::new(3, 160, 224, 4);
            (1..=6).for_each(|key| set(&trial, WRITER, key, 1));
            (3..=6).for_each(|key| assert!(remove(&trial, WRITER, key)));
            assert_eq!(trial.runs().len(), 2);
            trial
        },
        |trial, lane| {
            changing(trial, lane, |changing| changing.shard.heap.collect(changing.named()?)).unwrap();
        },
        25,
        |trial| others_are_there(trial, [1, 2]),
    );
}

#[test]
fn models_who_dies_while_he_collects_is_followed_by_one_who_starts_over() {
    who_collects();
}

#[test]
fn models_a_run_that_is_unlinked_without_a_note_is_noticed() {
    twin("heap: unlink a run without a note", who_collects);
}

/// What is free is longer than one free block can be, so it is cut in several, in the middle of what lay there.
fn who_cuts_a_gap() {
    dies_in(
        || {
            let trial = Trial::new(3, 640, 224, 0);
            (1..FULL).for_each(|key| set(&trial, WRITER, key, 1));
            // Longer than the others: so what lies behind it begins where the second word of a piece will be.
            put(&trial, WRITER, FULL, &[0; 24]).unwrap();
            [2, 4, 5, 6, FULL].iter().for_each(|key| assert!(remove(&trial, WRITER, *key)));
            trial
        },
        |trial, lane| {
            changing(trial, lane, |changing| changing.shard.heap.collect(changing.named()?)).unwrap();
        },
        0,
        |trial| others_are_there(trial, [1, 3]),
    );
}

#[test]
fn models_who_dies_while_he_cuts_a_gap_leaves_memory_that_can_be_walked() {
    who_cuts_a_gap();
}

#[test]
fn models_pieces_that_are_linked_before_all_have_sizes_are_noticed() {
    twin("heap: link a piece before all have sizes", who_cuts_a_gap);
}

/// A writer dies beside a reader; who comes next repairs, and uses again what the dead had freed.
fn a_writer_dies_beside_a_reader() {
    for step in (0..).step_by(3) {
        let alive = Arc::new(Flag::new(false));
        let seen = alive.clone();
        model_with(2, move || {
            let trial = Arc::new(entries(0, 1));
            let other = {
                let (trial, seen) = (trial.clone(), seen.clone());
                thread::spawn(move || {
                    let ended = with_budget(step, || set(&trial, WRITER, 1, 2));
                    seen.fetch_or(ended.is_ok(), Relaxed);
                    trial.recover(WRITER);
                    set(&trial, OTHER, 2, 9);
                    set(&trial, OTHER, 1, 3);
                })
            };
            trial.heap.retired_len.load(Relaxed);
            let (first, second) = (get(&trial, READER, 1), get(&trial, READER, 1));
            assert!(first >= Some(1) && second >= first, "{first:?}, then {second:?}");
            other.join().unwrap();
            count(&trial, OTHER);
            assert_eq!(get(&trial, READER, 1), Some(3));
        });
        if alive.load(Relaxed) {
            return;
        }
    }
}

#[test]
fn models_a_reader_beside_a_repair_sees_whole_values() {
    a_writer_dies_beside_a_reader();
}

#[test]
fn models_a_repair_that_collects_what_readers_name_is_noticed() {
    twin("heap: collect what readers name", a_writer_dies_beside_a_reader);
}
