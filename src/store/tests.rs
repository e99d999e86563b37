//! Random operations on a shard, with a death at any word, and everything counted anew after each.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;

use proptest::prelude::*;

use super::entry::{Draft, Entry};
use super::memory::{LOOKING, Memory, READING};
use super::trial::Trial;
use crate::error::{Error, ErrorKind};
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;

const VICTIM: Lane = 1;
const SURVIVOR: Lane = 2;
const READER: Lane = 3;

#[derive(Clone, Debug)]
enum Step {
    Set(u8, usize),
    Remove(u8),
    Clear,
    /// A reader begins to read, and stops.
    Stop(u8),
    GoOn,
}

fn steps() -> impl Strategy<Value = Vec<(Step, u32)>> {
    let len = prop_oneof![20 => 0usize..300, 3 => 300usize..4100, 1 => 4100usize..9000];
    let step = prop_oneof![
        20 => (any::<u8>(), len).prop_map(|(key, len)| Step::Set(key, len)),
        8 => any::<u8>().prop_map(Step::Remove),
        1 => Just(Step::Clear),
        2 => any::<u8>().prop_map(Step::Stop),
        2 => Just(Step::GoOn),
    ];
    // Most go on to the end; the others die at one of the first words, or anywhere.
    let fuse = prop_oneof![4 => Just(u32::MAX), 2 => 0u32..100, 2 => 0u32..3000];
    prop::collection::vec((step, fuse), 1..300)
}

fn hash(key: &[u8]) -> u64 {
    u64::from(key[0]).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn value(key: u8, len: usize, round: usize) -> Vec<u8> {
    (0..len).map(|k| (k * 7 + round + key as usize) as u8).collect()
}

fn get(trial: &Trial, lane: Lane, key: u8) -> Option<Vec<u8>> {
    let read = |entry: Entry<'_, Trial>| {
        let mut found = Vec::new();
        entry.read_value(&mut found).map(|()| found)
    };
    trial.shard().get(lane, hash(&[key]), &[key], read).unwrap()
}

fn change(trial: &Trial, lane: Lane, step: &Step, round: usize) -> Result<(), Error> {
    let shard = trial.shard();
    let mut filled = Vec::new();
    let draft = match step {
        Step::Set(key, len) => {
            filled.extend(value(*key, *len, round));
            Some(Draft::new(trial, lane, std::slice::from_ref(key), &filled, false)?)
        }
        _ => None,
    };
    // Whoever is dead drops nothing.
    let mut changing = ManuallyDrop::new(shard.lock(lane, Deadline::NEVER)?.expect("a free lock"));
    let done = match (step, draft) {
        (Step::Set(key, _), Some(draft)) => {
            let hash = hash(&[*key]);
            match changing.find(hash, &[*key])? {
                Some(spot) => changing.replace(spot, draft),
                None => changing.insert(hash, draft, round as u64, &self::hash),
            }
        }
        (Step::Remove(key), _) => match changing.find(hash(&[*key]), &[*key])? {
            Some(spot) => changing.remove(spot),
            None => Ok(()),
        },
        (Step::Clear, _) => changing.clear(),
        _ => unreachable!("no change"),
    };
    drop(ManuallyDrop::into_inner(changing));
    done
}

fn after(model: &BTreeMap<u8, Vec<u8>>, step: &Step, round: usize) -> BTreeMap<u8, Vec<u8>> {
    let mut model = model.clone();
    match step {
        Step::Set(key, len) => drop(model.insert(*key, value(*key, *len, round))),
        Step::Remove(key) => drop(model.remove(key)),
        Step::Clear => model.clear(),
        Step::Stop(_) | Step::GoOn => {}
    }
    model
}

/// Locks, which repairs, and counts; no run but those that are named.
fn count(trial: &Trial, collect: bool) {
    let shard = trial.shard();
    let changing = shard.lock(SURVIVOR, Deadline::NEVER).unwrap().expect("a free lock");
    let counted = if collect { changing.count_and_collect().unwrap() } else { changing.count().unwrap() };
    let (mut found, mut named) = (trial.runs(), counted.runs);
    found.sort_unstable();
    named.sort_unstable();
    if collect || counted.lost == 0 {
        assert_eq!(found, named, "runs that are there, and runs that are named");
    }
    assert!(!collect || counted.lost == 0);
}

fn run(pages: usize, steps: &[(Step, u32)]) {
    let trial = Trial::new(3, 1216, 8192, pages);
    let mut model = BTreeMap::new();
    // What the reader has named that was stopped: where, and what it read.
    let mut named = None;
    for (round, (step, fuse)) in steps.iter().enumerate() {
        let next = after(&model, step, round);
        if let Some((entry, read)) = &named {
            let mut again = Vec::new();
            Entry::at(&trial, *entry).unwrap().read_value(&mut again).unwrap();
            assert!(again == *read, "an entry was reused beside its reader");
        }
        match step {
            Step::Stop(key) => {
                trial.recover(READER);
                named = trial.shard().get(READER, hash(&[*key]), &[*key], |entry| Ok(entry.at)).unwrap().map(|at| {
                    let hazards = trial.hazards(READER);
                    hazards[READING].store(at, Relaxed);
                    hazards[LOOKING].store(trial.shard.table.load(Relaxed), Relaxed);
                    (at, model[key].clone())
                });
                continue;
            }
            Step::GoOn => {
                named = None;
                trial.recover(READER);
                continue;
            }
            _ => {}
        }
        match trial.kill_after(*fuse, || change(&trial, VICTIM, step, round)) {
            Ok(Ok(())) => model = next,
            Ok(Err(e)) => assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}"),
            Err(_) => {
                trial.recover(VICTIM);
                let found: BTreeMap<u8, Vec<u8>> =
                    (0..=255).filter_map(|key| Some((key, get(&trial, SURVIVOR, key)?))).collect();
                assert!(found == model || found == next, "neither before nor after {step:?}");
                model = found;
            }
        }
        count(&trial, round % 5 == 0);
        assert_eq!(trial.shard().len(), model.len() as u64);
    }
    for key in 0..=255 {
        assert_eq!(get(&trial, SURVIVOR, key), model.get(&key).cloned());
    }
    // Back to nothing.
    trial.recover(READER);
    change(&trial, VICTIM, &Step::Clear, 0).unwrap();
    count(&trial, true);
    assert_eq!(trial.runs(), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_shard_is_whole_after_a_death_at_any_word(pages in 0usize..60, steps in steps()) {
        run(pages, &steps);
    }
}

/// What becomes free here is longer than a free block can be, so it is cut in several, in the middle of the blocks that were
/// there: their first one begins behind a block of another size that stays.
#[test]
fn a_large_heap_is_whole_after_a_death_while_it_is_cut_anew() {
    const ENTRIES: u64 = 3100;
    const KEPT: u64 = 1850;
    let fill = |len: usize| {
        let trial = Trial::new(2, 160_000, 8192, 60);
        let shard = trial.shard();
        for k in 0..ENTRIES {
            let (key, value) = (k.to_le_bytes(), vec![0; if k == KEPT { len } else { 8 }]);
            let draft = Draft::new(&trial, VICTIM, &key, &value, false).unwrap();
            let mut changing = shard.lock(VICTIM, Deadline::NEVER).unwrap().expect("a free lock");
            changing.insert(hash_of(&key), draft, k, &hash_of).unwrap();
        }
        for k in (0..ENTRIES).filter(|k| *k != KEPT) {
            let key = k.to_le_bytes();
            let mut changing = shard.lock(VICTIM, Deadline::NEVER).unwrap().expect("a free lock");
            let spot = changing.find(hash_of(&key), &key).unwrap().expect("just inserted");
            changing.remove(spot).unwrap();
        }
        trial
    };
    let collect = |len, words| {
        let trial = fill(len);
        let died = trial.kill_after(words, || {
            let shard = trial.shard();
            let changing = ManuallyDrop::new(shard.lock(VICTIM, Deadline::NEVER).unwrap().expect("a free lock"));
            shard.heap.collect(changing.named().unwrap()).unwrap();
            drop(ManuallyDrop::into_inner(changing));
        });
        trial.recover(VICTIM);
        count(&trial, true);
        died.map_or(words, |()| trial.asked())
    };
    for len in (16..80).step_by(8) {
        // The last words that are asked for are those of the new pieces.
        let all = collect(len, u32::MAX);
        (all - 9..all).for_each(|words| assert_eq!(collect(len, words), words));
    }
}

/// A table whose slots have a run of their own is made of one that has its own too.
#[test]
fn a_table_in_a_run_is_whole_after_a_death_while_it_grows() {
    let insert = |trial: &Trial, k: u64| {
        let (key, shard) = (k.to_le_bytes(), trial.shard());
        let draft = Draft::new(trial, VICTIM, &key, &[7; 8], false).unwrap();
        // Whoever is dead drops nothing.
        let mut changing = ManuallyDrop::new(shard.lock(VICTIM, Deadline::NEVER).unwrap().expect("a free lock"));
        changing.insert(hash_of(&key), draft, k, &hash_of).unwrap();
        drop(ManuallyDrop::into_inner(changing));
    };
    let has = |trial: &Trial, k: u64| {
        let key = k.to_le_bytes();
        trial.shard().get(SURVIVOR, hash_of(&key), &key, |entry| entry.has_value(&[7; 8])).unwrap()
    };
    let filled = |entries: u64| {
        let trial = Trial::new(2, 1216, 8192, 60);
        (0..entries).for_each(|k| insert(&trial, k));
        trial
    };
    // The first growth of a table that is a run already.
    let (mut runs, mut entries) = (0, 1000);
    let trial = filled(entries);
    let words = loop {
        trial.kill_after(u32::MAX, || insert(&trial, entries)).map_err(|_| ()).unwrap();
        runs += u32::from(trial.asked() > 5000);
        if runs == 2 {
            break trial.asked();
        }
        entries += 1;
    };
    // Anywhere, and everywhere in the end, when the new table takes the place of the old one.
    for words in (0..words).step_by(1103).chain(words - 40..words) {
        let trial = filled(entries);
        assert!(trial.kill_after(words, || insert(&trial, entries)).is_err());
        trial.recover(VICTIM);
        (0..entries).for_each(|k| assert_eq!(has(&trial, k), Some(true)));
        assert!(has(&trial, entries).is_none_or(|is_whole| is_whole));
        count(&trial, true);
    }
}

fn hash_of(key: &[u8]) -> u64 {
    u64::from_le_bytes(key.try_into().unwrap()).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
