//! Readers beside writers who use again what they have freed.

use super::*;
use crate::sys::models::twin;

/// A reader who looks a key up twice beside somebody who changes it. What `writer` does ends in room for one entry more.
fn a_reader_beside(key: u8, trial: fn() -> Trial, writer: fn(&Trial), check: fn(Option<u8>, Option<u8>)) {
    model_with(4, move || {
        let trial = Arc::new(trial());
        let other = {
            let trial = trial.clone();
            thread::spawn(move || writer(&trial))
        };
        // loom tries threads where they touch the same word, and a fence is no such place. The writer touches this one behind
        // the commit, before its next fence: so the reader also runs there.
        trial.heap.retired_len.load(Relaxed);
        let first = get(&trial, READER, key);
        let second = get(&trial, READER, key);
        check(first, second);
        other.join().unwrap();
        count(&trial, OTHER);
    });
}

/// A shard of so many entries, each of which is 1.
fn entries(keys: u8) -> Trial {
    let trial = Trial::new(3, 720, 208, 0);
    (1..=keys).for_each(|key| set(&trial, WRITER, key, 1));
    trial
}

/// The same, and the next block that is retired is looked at.
fn worn(keys: u8) -> Trial {
    let trial = entries(keys);
    (1..RETIRED).for_each(|_| set(&trial, WRITER, 1, 1));
    trial
}

/// The memory of what was replaced is used again at once, for the same key and for another.
fn replaced_and_reused() {
    a_reader_beside(
        1,
        || worn(1),
        |trial| {
            set(trial, WRITER, 1, 2);
            set(trial, WRITER, 2, 9);
            set(trial, WRITER, 1, 3);
        },
        |first, second| assert!(first >= Some(1) && second >= first, "{first:?}, then {second:?}"),
    );
}

#[test]
fn models_a_reader_beside_who_replaces_sees_whole_values() {
    replaced_and_reused();
}

#[test]
fn models_what_is_freed_beside_its_reader_is_noticed() {
    twin("heap: free what readers may name", replaced_and_reused);
}

#[test]
fn models_who_frees_without_a_fence_is_noticed() {
    twin("heap: look at hazards without a fence", replaced_and_reused);
}

#[test]
fn models_who_reads_an_entry_without_a_fence_is_noticed() {
    twin("table: read an entry without a fence", replaced_and_reused);
}

#[test]
fn models_an_entry_that_is_retired_before_it_is_replaced_is_noticed() {
    twin("table: retire before the slot is stored", replaced_and_reused);
}

/// What is removed is gone for good, and another key has its memory.
fn removed_and_reused() {
    a_reader_beside(
        2,
        || worn(2),
        |trial| {
            assert!(remove(trial, WRITER, 2));
            set(trial, WRITER, 3, 9);
        },
        |first, second| assert!(first.is_none_or(|n| n == 1) && (first.is_some() || second.is_none())),
    );
}

#[test]
fn models_a_reader_beside_who_removes_sees_the_entry_or_none() {
    removed_and_reused();
}

#[test]
fn models_what_is_removed_and_freed_beside_its_reader_is_noticed() {
    twin("heap: free what readers may name", removed_and_reused);
}

/// A key that is put in, in the memory of another.
fn inserted() {
    a_reader_beside(
        2,
        || worn(1),
        |trial| {
            set(trial, WRITER, 1, 2);
            set(trial, WRITER, 2, 1);
        },
        |first, second| assert!(first.is_none_or(|n| n == 1) && (first.is_none() || second.is_some())),
    );
}

#[test]
fn models_a_reader_beside_who_inserts_sees_the_entry_or_none() {
    inserted();
}

/// The table grows, and the old one's memory becomes entries.
fn grown_and_reused() {
    a_reader_beside(
        1,
        || {
            let trial = Trial::new(3, 1000, 224, 2);
            (1..=FULL).for_each(|key| set(&trial, WRITER, key, 1));
            trial
        },
        |trial| {
            set(trial, WRITER, FULL + 1, 1);
            set(trial, WRITER, FULL + 2, 1);
            set(trial, WRITER, FULL + 3, 1);
        },
        |first, second| assert_eq!((first, second), (Some(1), Some(1))),
    );
}

#[test]
fn models_a_reader_beside_a_table_that_grows_finds_its_entry() {
    grown_and_reused();
}

#[test]
fn models_who_reads_a_table_without_a_fence_is_noticed() {
    twin("table: look at the table without a fence", grown_and_reused);
}

#[test]
fn models_a_table_that_is_freed_beside_its_reader_is_noticed() {
    twin("heap: free what readers may name", grown_and_reused);
}

/// Somebody collects and uses what he finds to be free.
fn collected_and_reused() {
    a_reader_beside(
        1,
        || entries(1),
        |trial| {
            set_and_collect(trial, WRITER, 1, 2);
            set(trial, WRITER, 2, 9);
        },
        |first, second| assert!(first >= Some(1) && second >= first, "{first:?}, then {second:?}"),
    );
}

#[test]
fn models_who_collects_keeps_what_readers_name() {
    collected_and_reused();
}

#[test]
fn models_who_collects_what_readers_name_is_noticed() {
    twin("heap: collect what readers name", collected_and_reused);
}

#[test]
fn models_who_collects_without_a_fence_is_noticed() {
    twin("heap: look at hazards without a fence", collected_and_reused);
}

/// Everything is taken out at once, and put in again in other places.
fn cleared_and_reused() {
    a_reader_beside(
        1,
        || entries(1),
        |trial| {
            changing(trial, WRITER, |changing| changing.clear()).unwrap();
            set(trial, WRITER, 2, 9);
            set(trial, WRITER, 1, 2);
        },
        |first, second| assert!(first.is_none_or(|n| n <= 2) && (first != Some(2) || second == Some(2))),
    );
}

#[test]
fn models_a_reader_beside_who_clears_sees_the_old_or_the_new() {
    cleared_and_reused();
}

#[test]
fn models_who_clears_what_readers_name_is_noticed() {
    twin("heap: collect what readers name", cleared_and_reused);
}
