//! A sequence under loom: readers beside writers that use freed memory again, and deaths at every access of a change.
//!
//! What counts is in the elements: each is one number twice, so that a torn one is noticed.
#![cfg(all(test, loom))]

use std::sync::Arc;
use std::sync::atomic::AtomicBool as Flag;

use loom::thread;

use super::super::heap::RETIRED;
use super::super::trial::Trial;
use super::{Editing, Element, ElementDraft, Sequence, SequenceBlock};
use crate::error::Error;
use crate::sync::{Lane, MutexBlock, WaitBlock};
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::atomic::{AtomicU64, with_budget};
use crate::sys::clock::Deadline;
use crate::sys::models::{model_with, twin};

const WRITER: Lane = 1;
const OTHER: Lane = 2;
const READER: Lane = 3;
/// How often a victim may die: never, in the end.
const MOST_STEPS: u32 = 3000;

struct List {
    trial: Trial,
    block: SequenceBlock,
}

/// The number `n` twice: longer than a slot.
fn value(n: u64) -> Vec<u8> {
    [n.to_ne_bytes(), n.to_ne_bytes()].concat()
}

impl List {
    /// A list of these, whose heap looks at the next block that is retired.
    fn new(pages: usize, numbers: &[u64]) -> Self {
        let zero = || AtomicU64::new(0);
        let block = SequenceBlock {
            lock: MutexBlock::new(),
            wait: WaitBlock::new(),
            changes: zero(),
            marked: zero(),
            spare: std::array::from_fn(|_| zero()),
            root: zero(),
            reserved: std::array::from_fn(|_| zero()),
        };
        let list = Self { trial: Trial::new(3, 720, 224, pages), block };
        numbers.iter().for_each(|n| list.push(WRITER, *n));
        (1..RETIRED).for_each(|_| list.set(WRITER, 0, numbers[0]));
        list
    }

    fn sequence(&self) -> Sequence<'_, Trial> {
        Sequence::new(&self.trial, &self.block, &self.trial.heap, self.trial.first())
    }

    fn edit<R>(&self, lane: Lane, f: impl FnOnce(&mut Editing<'_, '_, Trial>) -> Result<R, Error>) -> R {
        let sequence = self.sequence();
        // Whoever is dead unlocks nothing: the atomics see to it.
        let mut editing = sequence.lock(lane, Deadline::NEVER).unwrap().expect("a lock that is had");
        f(&mut editing).unwrap()
    }

    fn push(&self, lane: Lane, n: u64) {
        let bytes = value(n);
        let draft = ElementDraft::new(&self.trial, lane, &bytes, false).unwrap();
        self.edit(lane, |editing| editing.push_back(draft));
    }

    fn set(&self, lane: Lane, index: u64, n: u64) {
        let bytes = value(n);
        let draft = ElementDraft::new(&self.trial, lane, &bytes, false).unwrap();
        assert!(self.edit(lane, |editing| editing.set(index, draft)));
    }

    fn insert(&self, lane: Lane, index: u64, n: u64) {
        let bytes = value(n);
        let draft = ElementDraft::new(&self.trial, lane, &bytes, false).unwrap();
        self.edit(lane, |editing| editing.splice(index, index, vec![draft]));
    }

    fn pop_front(&self, lane: Lane) {
        self.edit(lane, |editing| editing.cut(1, true));
    }

    fn pop(&self, lane: Lane) {
        assert!(self.edit(lane, |editing| editing.pop_back()));
    }

    fn get(&self, lane: Lane, index: u64) -> Option<u64> {
        let read = |element: &Element<'_, Trial>| {
            let mut found = Vec::new();
            element.read(&mut found)?;
            let n = u64::from_ne_bytes(found[..8].try_into().expect("eight bytes"));
            assert_eq!(found, value(n), "a torn element");
            Ok(n)
        };
        self.sequence().get(lane, index, read).unwrap().ok()
    }

    fn content(&self) -> Vec<u64> {
        (0..).map_while(|index| self.get(READER, index)).collect()
    }

    /// What the recovery of a process does.
    fn recover(&self, lane: Lane) {
        self.block.lock.recover(&|dead| dead == lane);
        let mut linked = Vec::new();
        self.sequence().for_each_run(&mut |name| linked.push(name));
        self.trial.recover_runs(lane, &linked);
    }

    /// Everything is counted anew: no run but those that are named, no byte that nobody knows.
    fn count(&self, lane: Lane) {
        let counted = self.edit(lane, |editing| editing.count_and_collect());
        let (mut found, mut named) = (self.trial.runs(), counted.runs);
        found.sort_unstable();
        named.sort_unstable();
        assert_eq!(found, named, "runs that are there, and runs that are named");
        assert_eq!((counted.lost, counted.retired), (0, 0));
    }
}

/// A reader who looks an index up beside somebody who changes the list.
fn a_reader_beside(numbers: &'static [u64], index: u64, writer: fn(&List), may_be: &'static [Option<u64>]) {
    model_with(3, move || {
        let list = Arc::new(List::new(2, numbers));
        let other = {
            let list = list.clone();
            thread::spawn(move || writer(&list))
        };
        // loom tries threads where they touch the same word, and a fence is no such place. The writer touches this one
        // behind the commit, before its next fence: so the reader also runs there.
        list.trial.heap.retired_len.load(Relaxed);
        let found = list.get(READER, index);
        assert!(may_be.contains(&found), "{found:?} was at {index}, expected one of {may_be:?}");
        other.join().unwrap();
        list.count(OTHER);
    });
}

/// The memory of what was replaced is used again at once, at the same index and at another.
fn replaced_and_reused() {
    a_reader_beside(
        &[1, 9],
        0,
        |list| {
            list.set(WRITER, 0, 2);
            list.set(WRITER, 1, 8);
            list.set(WRITER, 0, 3);
        },
        &[Some(1), Some(2), Some(3)],
    );
}

#[test]
fn models_a_reader_beside_who_replaces_elements_sees_whole_ones() {
    replaced_and_reused();
}

#[test]
fn models_an_element_that_is_read_without_a_fence_is_noticed() {
    twin("sequence: read an element without a fence", replaced_and_reused);
}

#[test]
fn models_an_element_that_is_freed_before_it_is_out_is_noticed() {
    twin("sequence: retire before the slot is stored", replaced_and_reused);
}

/// Elements move to other indices and back, in the same directory: no number but those was ever at the index.
fn moved_in_front() {
    a_reader_beside(
        &[1, 2],
        1,
        |list| {
            list.pop_front(WRITER);
            list.set(WRITER, 0, 5);
            list.push(WRITER, 3);
        },
        &[Some(2), None, Some(3)],
    );
}

#[test]
fn models_a_reader_beside_who_takes_out_in_front_sees_what_was_at_its_index() {
    moved_in_front();
}

#[test]
fn models_a_slot_that_is_believed_without_a_look_at_the_span_is_noticed() {
    twin("sequence: believe a slot without a look at the span", moved_in_front);
}

/// Directories that come and go, and are used again.
fn rebuilt() {
    a_reader_beside(
        &[1, 2, 3],
        1,
        |list| {
            list.insert(WRITER, 1, 4);
            list.edit(WRITER, |editing| editing.rearrange(&[2, 0, 1, 3]));
        },
        &[Some(2), Some(4), Some(1)],
    );
}

#[test]
fn models_a_reader_beside_who_rebuilds_sees_the_old_or_the_new_order() {
    rebuilt();
}

/// What a dead pusher left in a slot was at no index, although a reader may have found it there.
fn left_by_the_dead() {
    for step in 0..200 {
        let alive = Arc::new(Flag::new(false));
        let seen = alive.clone();
        model_with(3, move || {
            let list = Arc::new(List::new(0, &[1, 2]));
            let other = {
                let (list, seen) = (list.clone(), seen.clone());
                thread::spawn(move || {
                    list.pop(WRITER);
                    let ended = with_budget(step, || list.push(WRITER, 66));
                    seen.fetch_or(ended.is_ok(), Relaxed);
                    list.recover(WRITER);
                    let len = list.sequence().len(None).unwrap();
                    if ended.is_err() && len == 1 {
                        // It did not commit.
                        list.push(OTHER, 3);
                    }
                })
            };
            let found = list.get(READER, 1);
            other.join().unwrap();
            let last = list.get(READER, 1);
            assert!(found != Some(66) || last == Some(66), "what was never pushed was found");
        });
        if alive.load(Relaxed) {
            return;
        }
    }
    panic!("no end");
}

#[test]
fn models_nobody_believes_what_a_death_left_in_a_slot() {
    left_by_the_dead();
}

#[test]
fn models_a_repair_without_a_turn_is_noticed() {
    twin("sequence: repair without a turn", left_by_the_dead);
}

/// Somebody dies before each access of `change` in turn, and somebody else in the repair; then both are recovered and
/// everything is counted. The list is one of `states`, in that order.
fn dies_in(change: fn(&List, Lane), states: &'static [&'static [u64]]) {
    let mut died = 0;
    for step in 0..MOST_STEPS {
        let alive = Arc::new(Flag::new(false));
        let seen = alive.clone();
        model_with(1, move || {
            let list = List::new(4, &[1, 2]);
            let ended = with_budget(step, || change(&list, WRITER));
            seen.fetch_or(ended.is_ok(), Relaxed);
            list.recover(WRITER);
            let found = list.content();
            let state = states.iter().position(|state| *state == found);
            assert!(state.is_some(), "{found:?} is none of {states:?}");
            assert!(ended.is_err() || state == Some(states.len() - 1), "a change is lost that was made");
            // The next two who lock repair, and die in it.
            for more in [step % 40, step % 40 + 40] {
                let _ = with_budget(more, || list.count(OTHER));
                list.recover(OTHER);
                assert_eq!(list.content(), found);
            }
            list.count(READER);
            assert_eq!(list.content(), found);
            // Everybody can go on.
            list.push(OTHER, 50);
            assert_eq!(list.get(READER, found.len() as u64), Some(50));
            list.edit(OTHER, |editing| editing.clear());
            list.count(OTHER);
            assert_eq!(list.trial.runs(), []);
        });
        if alive.load(Relaxed) {
            assert!(died > 10, "the victim was never in danger");
            return;
        }
        died += 1;
    }
    panic!("no end after {MOST_STEPS} accesses");
}

fn who_changes_the_ends() {
    dies_in(
        |list, lane| {
            list.push(lane, 3);
            list.pop_front(lane);
            list.set(lane, 0, 4);
            list.pop(lane);
        },
        &[&[1, 2], &[1, 2, 3], &[2, 3], &[4, 3], &[4]],
    );
}

#[test]
fn models_who_dies_at_the_ends_of_a_list_has_changed_it_or_not() {
    who_changes_the_ends();
}

#[test]
fn models_a_span_that_is_stored_before_its_slot_is_noticed() {
    twin("sequence: store the span before the slot", who_changes_the_ends);
}

#[test]
fn models_what_a_death_left_in_a_slot_is_noticed() {
    twin("sequence: leave what a death left in a slot", who_changes_the_ends);
}

#[test]
fn models_a_death_without_collecting_is_noticed() {
    twin("sequence: repair without collecting", who_changes_the_ends);
}

/// New directories, in blocks and in runs.
#[test]
fn models_who_dies_in_a_rebuild_has_changed_the_list_or_not() {
    dies_in(
        |list, lane| {
            list.insert(lane, 1, 5);
            list.edit(lane, |editing| editing.rearrange(&[2, 1]));
        },
        &[&[1, 2], &[1, 5, 2], &[2, 5]],
    );
}
