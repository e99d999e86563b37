//! Dictionaries, with a death at every instruction of a change.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use kinfolk::ByteDict;

use super::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A dictionary, and what it should have in it.
struct Subject {
    dict: RefCell<ByteDict>,
    /// What the dictionary has before each operation.
    before: Model,
    warm: ByteDict,
    shards: usize,
    /// Bytes in use with nothing in the dictionary.
    empty: usize,
}

/// Single steps for one of several operations of a test.
const SHARE: u64 = STEPS / 3;

fn key(k: u32) -> Vec<u8> {
    k.to_le_bytes().to_vec()
}

fn value(k: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u32 * 7 + k) as u8).collect()
}

fn content(dict: &ByteDict, keys: &mut dyn Iterator<Item = u32>) -> Model {
    keys.filter_map(|k| Some((key(k), dict.get(&key(k)).unwrap()?))).collect()
}

impl Subject {
    fn new(segment: &Segment, shards: usize, entries: u32, len: usize) -> Self {
        let before = (0..entries).map(|k| (key(k), value(k, len))).collect();
        let warm = ByteDict::new_in(segment).unwrap();
        let dict = RefCell::new(ByteDict::with_shards(segment, shards).unwrap());
        let subject = Self { dict, before, warm, shards, empty: segment.stats().used_bytes };
        subject.fill();
        subject
    }

    fn fill(&self) {
        self.before.iter().for_each(|(key, value)| self.dict.borrow().set(key, value).unwrap());
    }

    /// Kills everywhere in `operation`, which makes `after` of what there was; in between, `again` puts it back.
    fn kill(
        &self,
        name: &str,
        segment: &Segment,
        after: &Model,
        keys: u32,
        operation: &dyn Fn(&ByteDict),
        again: &dyn Fn(&Self),
    ) {
        let (done, undone) = (Cell::new(0), Cell::new(0));
        let prepare = || {
            self.warm.set(b"warm", b"up").unwrap();
            self.warm.get(b"warm").unwrap();
        };
        // The victim's registration, for which the segment may grow its tables, is not what is counted.
        within_steps(SHARE, name, &prepare, &|| operation(&self.dict.borrow()), &mut |k, victim| {
            let dict = self.dict.borrow();
            if k % 7 == 0 {
                // The first who changes something finds the death by himself.
                dict.set(b"other", b"").unwrap();
                dict.remove(b"other").unwrap();
            }
            let found = content(&dict, &mut (0..keys));
            segment.sweep();
            if victim == Victim::Done || found == *after {
                assert!(found == *after, "{name}: step {k}: done, and not to be seen");
                done.set(done.get() + 1);
            } else {
                assert!(found == self.before, "{name}: step {k}: neither before nor after");
                undone.set(undone.get() + 1);
            }
            let (bytes, runs) = dict.check().unwrap_or_else(|e| panic!("{name}: step {k}: {e}"));
            assert_eq!(dict.len(), found.len());
            // Everybody can go on.
            dict.set(&key(0), &value(0, 50)).unwrap();
            assert_eq!(dict.get(&key(0)).unwrap(), Some(value(0, 50)));
            drop(dict);
            again(self);
            let dict = self.dict.borrow();
            assert!(content(&dict, &mut (0..keys)) == self.before, "{name}: step {k}: put back");
            assert!(dict.check().unwrap() <= (bytes.max(200_000), runs + 2));
        });
        assert!(done.get() > 0 && undone.get() > 0, "{name}: {} done, {} not", done.get(), undone.get());
    }
}

fn with(model: &Model, k: u32, set: Option<Vec<u8>>) -> Model {
    let mut model = model.clone();
    match set {
        Some(value) => drop(model.insert(key(k), value)),
        None => drop(model.remove(&key(k))),
    }
    model
}

/// Puts back what one key had.
fn put_back(k: u32) -> impl Fn(&Subject) {
    move |subject: &Subject| {
        let dict = subject.dict.borrow();
        for k in [0, k] {
            match subject.before.get(&key(k)) {
                Some(value) => dict.set(&key(k), value).unwrap(),
                None => drop(dict.remove(&key(k)).unwrap()),
            }
        }
    }
}

/// The same in a new dictionary, so that its tables are as they were.
fn begin_anew(segment: &Segment) -> impl Fn(&Subject) {
    move |subject: &Subject| {
        drop(subject.dict.replace(ByteDict::with_shards(segment, subject.shards).unwrap()));
        assert_eq!(segment.stats().used_bytes, subject.empty, "a run was lost");
        subject.fill();
    }
}

fn small() -> Segment {
    Segment::builder().size(8 << 20).processes(4).lanes(12).anonymous().unwrap()
}

/// Entries: put in, replaced, taken out.
pub fn entries() {
    let segment = Segment::family().unwrap();
    let subject = Subject::new(&segment, 16, 8, 20);
    let before = subject.before.clone();
    // What others of the family had is gone before.
    segment.sweep();
    let used = segment.stats().used_bytes;
    let set = |k: u32, len: usize| move |dict: &ByteDict| dict.set(&key(k), &value(k + 1, len)).unwrap();
    subject.kill("insert", &segment, &with(&before, 9, Some(value(10, 20))), 12, &set(9, 20), &put_back(9));
    subject.kill("replace", &segment, &with(&before, 3, Some(value(4, 20))), 12, &set(3, 20), &put_back(3));
    let remove = |dict: &ByteDict| assert!(dict.remove(&key(3)).unwrap());
    subject.kill("remove", &segment, &with(&before, 3, None), 12, &remove, &put_back(3));
    assert_eq!(segment.stats().used_bytes, used, "a run was lost");
}

/// Tables that grow.
pub fn tables() {
    let segment = Segment::family().unwrap();
    for entries in [10, 30] {
        // As many as fill a table: the next one grows it.
        let mut subject = Subject::new(&segment, 1, entries, 1);
        let grows = (entries..).find(|k| {
            let before = subject.dict.borrow().check().unwrap();
            subject.dict.borrow().set(&key(*k), &value(*k, 1)).unwrap();
            let after = subject.dict.borrow().check().unwrap();
            subject.before.insert(key(*k), value(*k, 1));
            after.0 > before.0 + 100
        });
        let grows = grows.expect("tables grow");
        subject.before.remove(&key(grows));
        let again = begin_anew(&segment);
        again(&subject);
        let after = with(&subject.before, grows, Some(value(grows, 1)));
        let operation = |dict: &ByteDict| dict.set(&key(grows), &value(grows, 1)).unwrap();
        subject.kill("growth", &segment, &after, grows + 4, &operation, &again);
    }
}

/// Values with runs of their own, the heap's runs, and everything taken out at once.
pub fn runs() {
    let segment = Segment::family().unwrap();
    let subject = Subject::new(&segment, 16, 8, 20);
    let before = subject.before.clone();
    let used = segment.stats().used_bytes;
    let large = |dict: &ByteDict| dict.set(&key(3), &value(4, 5000)).unwrap();
    subject.kill("large", &segment, &with(&before, 3, Some(value(4, 5000))), 12, &large, &put_back(3));
    assert_eq!(segment.stats().used_bytes, used, "a run was lost");
    // More than the blocks beside a shard.
    let longer = |dict: &ByteDict| dict.set(&key(3), &value(4, 1400)).unwrap();
    subject.kill("heap", &segment, &with(&before, 3, Some(value(4, 1400))), 12, &longer, &begin_anew(&segment));
    assert_eq!(segment.stats().used_bytes, used, "a run was lost");
    let rich = Subject::new(&segment, 1, 12, 700);
    let everything = |dict: &ByteDict| (0..12).for_each(|k| _ = dict.remove(&key(k)).unwrap());
    // Not one change but many: each key is there or not.
    let (warm, some) = (&rich.warm, Cell::new(0));
    within_steps(
        SHARE,
        "remove all",
        &|| warm.set(b"warm", b"up").unwrap(),
        &|| everything(&rich.dict.borrow()),
        &mut |k, _| {
            segment.sweep();
            let found = content(&rich.dict.borrow(), &mut (0..12));
            assert!(found.iter().all(|(key, value)| rich.before[key] == *value), "step {k}");
            some.set(some.get() + u32::from(!found.is_empty() && found.len() < 12));
            rich.dict.borrow().check().unwrap_or_else(|e| panic!("step {k}: {e}"));
            begin_anew(&segment)(&rich);
        },
    );
    assert!(some.get() > 0, "no kill came in the middle");
}

/// The recoverer of a process that died in a change, killed everywhere in the recovery and in the repair.
pub fn recovery() {
    let segment = small();
    let subject = Subject::new(&segment, 2, 40, 300);
    let warm = Mutex::new([0u64; 2]).unwrap();
    let dies = |steps: u32| {
        let operation = || {
            let dict = subject.dict.borrow();
            for k in 0..40 {
                dict.set(&key(k), &value(k, 5000)).unwrap();
                dict.set(&key(k), &value(k, 300)).unwrap();
            }
        };
        assert_eq!(kill_after(steps, &|| drop(subject.warm.set(b"warm", b"up")), &operation), Victim::Killed);
    };
    let steps = Cell::new(1500);
    dies(steps.get());
    let prepare = || {
        drop(warm.lock().unwrap());
        subject.warm.set(b"warm", b"up").unwrap();
    };
    let operation = || {
        segment.sweep();
        // Looks for what there is not, in both shards: locks, and repairs.
        (100..108).for_each(|k| assert!(!subject.dict.borrow().remove(&key(k)).unwrap()));
    };
    at_every_instruction("recovery of a dict", &prepare, &operation, &mut |k, _| {
        segment.sweep();
        let dict = subject.dict.borrow();
        for j in 0..40 {
            let found = dict.get(&key(j)).unwrap().unwrap_or_else(|| panic!("step {k}: an entry is gone"));
            assert!(found == value(j, 300) || found == value(j, 5000), "step {k}: entry {j}");
            dict.set(&key(j), &value(j, 300)).unwrap();
        }
        dict.check().unwrap_or_else(|e| panic!("step {k}: {e}"));
        drop(dict);
        steps.set(300 + (steps.get() + 97) % 2000);
        dies(steps.get());
    });
}
