//! Random operations on a sequence, with a death at any word, and everything counted anew after each.

use std::mem::ManuallyDrop;

use proptest::prelude::*;

use super::super::memory::{LOOKING, Memory, READING};
use super::super::trial::Trial;
use super::element::is_inline;
use super::{Editing, Element, ElementDraft, Sequence, SequenceBlock};
use crate::error::{Error, ErrorKind};
use crate::sync::{Lane, MutexBlock, WaitBlock};
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;

const VICTIM: Lane = 1;
const SURVIVOR: Lane = 2;
const READER: Lane = 3;

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Pop,
    Set(u16, usize),
    /// From, how many, and the lengths of what comes instead.
    Splice(u16, u8, Vec<usize>),
    /// Keeps each that the number does not divide, turned round or not.
    Rearrange(u8, bool),
    Clear,
    /// A reader begins to read, and stops.
    Stop(u16),
    GoOn,
}

fn lens() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0usize..9, 16 => 9usize..300, 3 => 300usize..4100, 1 => 16_000usize..20_000]
}

fn steps() -> impl Strategy<Value = Vec<(Step, u32)>> {
    let step = prop_oneof![
        12 => lens().prop_map(Step::Push),
        6 => Just(Step::Pop),
        6 => (any::<u16>(), lens()).prop_map(|(at, len)| Step::Set(at, len)),
        6 => (any::<u16>(), 0u8..40, prop::collection::vec(lens(), 0..40)).prop_map(|(at, n, new)| Step::Splice(at, n, new)),
        // The ends, at which nothing is copied.
        2 => prop::collection::vec(lens(), 1..3).prop_map(|new| Step::Splice(0, 0, new)),
        2 => (0u8..3).prop_map(|n| Step::Splice(0, n, vec![])),
        2 => (2u8..20, any::<bool>()).prop_map(|(k, turned)| Step::Rearrange(k, turned)),
        1 => Just(Step::Clear),
        2 => any::<u16>().prop_map(Step::Stop),
        2 => Just(Step::GoOn),
    ];
    // Most go on to the end; the others die at one of the first words, or anywhere.
    let fuse = prop_oneof![4 => Just(u32::MAX), 2 => 0u32..100, 2 => 0u32..3000];
    prop::collection::vec((step, fuse), 1..200)
}

fn value(len: usize, round: usize) -> Vec<u8> {
    (0..len).map(|k| (k * 7 + round) as u8).collect()
}

struct Subject {
    trial: Trial,
    block: SequenceBlock,
}

type Model = Vec<Vec<u8>>;

impl Subject {
    fn new(first: u64, pages: usize) -> Self {
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
        Self { trial: Trial::new(3, first, 8192, pages), block }
    }

    fn sequence(&self) -> Sequence<'_, Trial> {
        Sequence::new(&self.trial, &self.block, &self.trial.heap, self.trial.first())
    }

    /// What the recovery of a process does.
    fn recover(&self, lane: Lane) {
        self.block.lock.recover(&|dead| dead == lane);
        let mut linked = Vec::new();
        self.sequence().for_each_run(&mut |name| linked.push(name));
        self.trial.recover_runs(lane, &linked);
    }

    fn get(&self, index: usize) -> Option<Vec<u8>> {
        let read = |element: &Element<'_, Trial>| {
            let mut found = Vec::new();
            element.read(&mut found).map(|()| found)
        };
        self.sequence().get(SURVIVOR, index as u64, read).unwrap().ok()
    }

    fn content(&self) -> Model {
        (0..).map_while(|k| self.get(k)).collect()
    }

    /// Locks, which repairs, and counts; no run but those that are named.
    fn count(&self, collect: bool) {
        let sequence = self.sequence();
        let editing = sequence.lock(SURVIVOR, Deadline::NEVER).unwrap().expect("a free lock");
        let counted = if collect { editing.count_and_collect().unwrap() } else { editing.count().unwrap() };
        let (mut found, mut named) = (self.trial.runs(), counted.runs);
        found.sort_unstable();
        named.sort_unstable();
        if collect || counted.lost == 0 {
            assert_eq!(found, named, "runs that are there, and runs that are named");
        }
        assert!(!collect || counted.lost == 0);
    }

    fn change(&self, step: &Step, len: usize, round: usize) -> Result<(), Error> {
        let new: Vec<Vec<u8>> = match step {
            Step::Push(len) | Step::Set(_, len) => vec![value(*len, round)],
            Step::Splice(_, _, lens) => lens.iter().enumerate().map(|(k, len)| value(*len, round + k)).collect(),
            _ => Vec::new(),
        };
        let draft = |bytes| ElementDraft::new(&self.trial, VICTIM, bytes, false);
        let mut drafts = new.iter().map(|bytes| draft(bytes)).collect::<Result<Vec<_>, Error>>()?;
        let sequence = self.sequence();
        // Whoever is dead drops nothing.
        let mut editing = ManuallyDrop::new(sequence.lock(VICTIM, Deadline::NEVER)?.expect("a free lock"));
        let done = edit(&mut editing, step, len, &mut drafts);
        drop(ManuallyDrop::into_inner(editing));
        done
    }
}

fn edit<'t>(
    editing: &mut Editing<'_, '_, Trial>,
    step: &Step,
    len: usize,
    drafts: &mut Vec<ElementDraft<'t, Trial>>,
) -> Result<(), Error> {
    match step {
        Step::Push(_) => editing.push_back(drafts.remove(0)),
        Step::Pop => editing.pop_back().map(drop),
        Step::Set(at, _) if len > 0 => editing.set(*at as u64 % len as u64, drafts.remove(0)).map(drop),
        Step::Splice(at, count, _) => {
            let from = *at as u64 % (len as u64 + 1);
            editing.splice(from, from + u64::from(*count), std::mem::take(drafts))
        }
        Step::Rearrange(k, turned) => editing.rearrange(&order(*k, *turned, len)),
        Step::Clear => editing.clear(),
        _ => Ok(()),
    }
}

fn order(k: u8, turned: bool, len: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).filter(|index| (index + 1) % u32::from(k) != 0).collect();
    if turned {
        order.reverse();
    }
    order
}

fn after(model: &Model, step: &Step, round: usize) -> Model {
    let mut model = model.clone();
    let len = model.len();
    match step {
        Step::Push(len) => model.push(value(*len, round)),
        Step::Pop => drop(model.pop()),
        Step::Set(at, new) if len > 0 => model[*at as usize % len] = value(*new, round),
        Step::Splice(at, count, lens) => {
            let from = *at as usize % (len + 1);
            let new = lens.iter().enumerate().map(|(k, len)| value(*len, round + k));
            model.splice(from..(from + *count as usize).min(len), new);
        }
        Step::Rearrange(k, turned) => {
            model = order(*k, *turned, len).into_iter().map(|k| model[k as usize].clone()).collect();
        }
        Step::Clear => model.clear(),
        _ => {}
    }
    model
}

fn run(pages: usize, steps: &[(Step, u32)]) {
    let subject = Subject::new(1216, pages);
    let mut model = Vec::new();
    // What the reader has named that was stopped: where, and what it read.
    let mut named = None;
    for (round, (step, fuse)) in steps.iter().enumerate() {
        let next = after(&model, step, round);
        if let Some((word, read)) = &named {
            let mut again = Vec::new();
            Element::at(&subject.trial, *word).unwrap().read(&mut again).unwrap();
            assert!(again == *read, "an element was reused beside its reader");
        }
        match step {
            Step::Stop(at) => {
                subject.recover(READER);
                let index = *at as u64 % (model.len() as u64 + 1);
                let word = subject.sequence().get(READER, index, |element| Ok(element.identity().0)).unwrap().ok();
                let hazards = subject.trial.hazards(READER);
                hazards[LOOKING].store(subject.block.root.load(Relaxed), Relaxed);
                named = word.map(|word| {
                    // A word that is the element itself names nothing.
                    hazards[READING].store(if is_inline(word) { 0 } else { word }, Relaxed);
                    (word, model[index as usize].clone())
                });
                continue;
            }
            Step::GoOn => {
                named = None;
                subject.recover(READER);
                continue;
            }
            _ => {}
        }
        match subject.trial.kill_after(*fuse, || subject.change(step, model.len(), round)) {
            Ok(Ok(())) => model = next,
            Ok(Err(e)) => assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}"),
            Err(_) => {
                subject.recover(VICTIM);
                let found = subject.content();
                assert!(found == model || found == next, "neither before nor after {step:?}");
                model = found;
            }
        }
        subject.count(round % 5 == 0);
        assert_eq!(subject.sequence().len(Some(SURVIVOR)).unwrap(), model.len() as u64);
    }
    assert!(subject.content() == model);
    // Back to nothing.
    subject.recover(READER);
    subject.change(&Step::Clear, model.len(), 0).unwrap();
    subject.count(true);
    assert_eq!(subject.trial.runs(), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_sequence_is_whole_after_a_death_at_any_word(pages in 0usize..60, steps in steps()) {
        run(pages, &steps);
    }
}
