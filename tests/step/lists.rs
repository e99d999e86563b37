//! Lists, with a death at every instruction of a change.

use std::cell::{Cell, RefCell};

use kinfolk::ByteList;

use super::*;

type Model = Vec<Vec<u8>>;

/// A list, and what it should have in it.
struct Subject {
    list: RefCell<ByteList>,
    /// What the list has before each operation.
    before: Model,
    warm: ByteList,
}

fn value(k: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + k) as u8).collect()
}

fn warm_up(warm: &ByteList) {
    warm.push_bytes(b"a block").unwrap();
    warm.pop().unwrap();
}

impl Subject {
    fn new(segment: &Segment, before: Model) -> Self {
        let list = ByteList::from_slice_in(segment, &before).unwrap();
        Self { list: RefCell::new(list), before, warm: ByteList::new_in(segment).unwrap() }
    }

    /// Kills everywhere in `operation`, which makes `after` of what there was; in between a new list takes the place.
    fn kill(&self, name: &str, segment: &Segment, operation: &dyn Fn(&ByteList)) {
        let (done, undone) = (Cell::new(0), Cell::new(0));
        let after = {
            let list = ByteList::from_slice_in(segment, &self.before).unwrap();
            operation(&list);
            list.to_vec().unwrap()
        };
        assert!(after != self.before, "{name}: it changes nothing");
        // What earlier victims held is no part of it.
        segment.sweep();
        let used = segment.stats().used_bytes;
        let victim = || operation(&self.list.borrow());
        at_every_instruction(name, &|| warm_up(&self.warm), &victim, &mut |k, victim| {
            let list = self.list.borrow();
            if k % 7 == 0 {
                // The first who changes something finds the death by himself.
                list.push_bytes(b"something else").unwrap();
                list.pop().unwrap();
            }
            let found = list.to_vec().unwrap();
            segment.sweep();
            if victim == Victim::Done || found == after {
                assert!(found == after, "{name}: step {k}: done, and not to be seen");
                done.set(done.get() + 1);
            } else {
                assert!(found == self.before, "{name}: step {k}: neither before nor after");
                undone.set(undone.get() + 1);
            }
            for (at, value) in found.iter().enumerate() {
                assert!(list.get(at).unwrap() == *value, "{name}: step {k}: element {at}");
            }
            list.check().unwrap_or_else(|e| panic!("{name}: step {k}: {e}"));
            // Everybody can go on.
            list.push(value(0, 50)).unwrap();
            list.insert(0, value(1, 5)).unwrap();
            assert_eq!((list.pop().unwrap(), list.pop_at(0).unwrap()), (value(0, 50), value(1, 5)));
            list.check().unwrap_or_else(|e| panic!("{name}: step {k}, later: {e}"));
            drop(list);
            // One that lies as it did.
            drop(self.list.replace(ByteList::new_in(segment).unwrap()));
            self.list.borrow().extend(&self.before).unwrap();
            assert_eq!(segment.stats().used_bytes, used, "{name}: step {k}: a run was lost");
        });
        assert!(done.get() > 0 && undone.get() > 0, "{name}: {} done, {} not", done.get(), undone.get());
    }
}

fn small() -> Segment {
    Segment::builder().size(8 << 20).processes(4).lanes(12).anonymous().unwrap()
}

/// Elements in their slots, in blocks and in runs, at the ends.
pub fn ends() {
    let segment = Segment::family().unwrap();
    let subject = Subject::new(&segment, (0..9).map(|k| value(k, [3, 20][k % 2])).collect());
    subject.kill("push of a short one", &segment, &|list| list.push_bytes(&value(9, 4)).unwrap());
    subject.kill("push", &segment, &|list| list.push_bytes(&value(9, 24)).unwrap());
    let long = value(9, 20_000);
    subject.kill("push with a run", &segment, &|list| list.push_bytes(&long).unwrap());
    subject.kill("pop of a short one", &segment, &|list| drop(list.pop().unwrap()));
    subject.kill("pop in front", &segment, &|list| drop(list.pop_at(0).unwrap()));
    subject.kill("insert in front", &segment, &|list| list.insert(0, value(9, 24)).unwrap());
    let subject = Subject::new(&segment, vec![value(1, 20_000), value(2, 24)]);
    subject.kill("pop", &segment, &|list| drop(list.pop().unwrap()));
    subject.kill("pop with a run", &segment, &|list| drop(list.pop_at(0).unwrap()));
}

/// Elements in the middle: replaced in place, and what makes a new directory.
pub fn middle() {
    let segment = Segment::family().unwrap();
    let subject = Subject::new(&segment, (0..9).map(|k| value(k, [3, 20][k % 2])).collect());
    subject.kill("replace", &segment, &|list| list.set_bytes(3, &value(4, 20)).unwrap());
    let long = value(4, 20_000);
    subject.kill("replace by a run", &segment, &|list| list.set_bytes(3, &long).unwrap());
    subject.kill("insert", &segment, &|list| list.insert(4, value(9, 24)).unwrap());
    subject.kill("remove", &segment, &|list| drop(list.pop_at(5).unwrap()));
    subject.kill("reverse", &segment, &|list| list.reverse().unwrap());
    subject.kill("a slice", &segment, &|list| list.set_slice(2..5, [value(7, 40), value(8, 2)]).unwrap());
    subject.kill("extend", &segment, &|list| list.extend([value(7, 40), value(8, 2), value(9, 40)]).unwrap());
    subject.kill("clear", &segment, &|list| list.clear().unwrap());
}

/// Directories that grow, in a block and in a run of their own; and a heap that takes a run.
pub fn growth() {
    let segment = Segment::family().unwrap();
    let more: Model = (0..9).map(|k| value(k, 3)).collect();
    for len in [40, 2100] {
        // A list that is made at once has room for eight more.
        let subject = Subject::new(&segment, (0..len).map(|k| value(k, 3)).collect());
        let size = || (subject.list.borrow().check().unwrap().0, segment.stats().used_bytes);
        let before = size();
        subject.list.borrow().extend(&more).unwrap();
        assert!(size() > before, "it did not grow");
        drop(subject.list.replace(ByteList::from_slice_in(&segment, &subject.before).unwrap()));
        subject.kill("growth", &segment, &|list| list.extend(&more).unwrap());
    }
    let rich = Subject::new(&segment, (0..9).map(|k| value(k, 700)).collect());
    let long = value(9, 4000);
    rich.kill("the heap's run", &segment, &|list| list.push_bytes(&long).unwrap());
}

/// The recoverer of a process that died in a change, killed everywhere in the recovery and in the repair.
pub fn recovery() {
    const ELEMENTS: usize = 10;
    let segment = small();
    let before: Model = (0..ELEMENTS).map(|k| value(k, 300)).collect();
    let subject = Subject::new(&segment, before);
    let warm = Mutex::new([0u64; 2]).unwrap();
    let dies = |steps: u32| {
        let operation = || {
            let list = subject.list.borrow();
            for k in 0..ELEMENTS {
                list.set_bytes(k, &value(k, 5000)).unwrap();
                list.set_bytes(k, &value(k, 300)).unwrap();
                list.insert(5, value(40, 300)).unwrap();
                list.pop_at(5).unwrap();
            }
        };
        assert_eq!(kill_after(steps, &|| warm_up(&subject.warm), &operation), Victim::Killed);
    };
    let steps = Cell::new(1500);
    dies(steps.get());
    let prepare = || {
        drop(warm.lock().unwrap());
        warm_up(&subject.warm);
    };
    let operation = || {
        segment.sweep();
        subject.list.borrow().push_bytes(b"x").unwrap();
    };
    at_every_instruction("recovery of a list", &prepare, &operation, &mut |k, _| {
        segment.sweep();
        let list = subject.list.borrow();
        if list.last().unwrap() == b"x" {
            list.pop().unwrap();
        }
        let found = list.to_vec().unwrap();
        if found.len() == ELEMENTS + 1 {
            assert!(list.pop_at(5).unwrap() == value(40, 300), "step {k}: another one was inserted");
        }
        assert_eq!(list.len().unwrap(), ELEMENTS, "step {k}");
        for j in 0..ELEMENTS {
            let found = list.get(j).unwrap();
            assert!(found == value(j, 300) || found == value(j, 5000), "step {k}: element {j}");
            list.set_bytes(j, &value(j, 300)).unwrap();
        }
        list.check().unwrap_or_else(|e| panic!("step {k}: {e}"));
        drop(list);
        steps.set(300 + (steps.get() + 97) % 2000);
        dies(steps.get());
    });
}
