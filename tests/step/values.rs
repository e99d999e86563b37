//! Values and arrays, with a death at every instruction of a write.

use std::cell::Cell;

use kinfolk::{Array, Value};

use super::*;

/// 24 bytes: two copies, and no word.
type Large = [u64; 3];

/// The value is whole and one of two, and the next write is not held up.
fn is_old_or_new(value: &Value<Large>, old: u64, new: u64, victim: Victim) -> bool {
    let found = value.get().unwrap();
    assert!(found == [old; 3] || found == [new; 3], "torn: {found:?}");
    assert!(victim == Victim::Killed || found == [new; 3], "a write that had returned is gone");
    value.set_timeout([old; 3], SOON).unwrap();
    assert_eq!(value.get().unwrap(), [old; 3]);
    found == [new; 3]
}

/// How many found the old value and how many the new one: both must come.
#[derive(Default)]
struct Found([u32; 2]);

impl Found {
    fn count(&mut self, is_new: bool) {
        self.0[usize::from(is_new)] += 1;
    }

    fn both(self, name: &str) {
        assert!(self.0.iter().all(|n| *n > 0), "{name}: {:?} found the old and the new value", self.0);
    }
}

pub fn values() {
    let warm = Mutex::new([0u64; 2]).unwrap();
    let prepare = || drop(warm.lock().unwrap());

    let value = Value::new([1u64; 3]).unwrap();
    let mut found = Found::default();
    at_every_instruction("set", &prepare, &|| value.set([2; 3]).unwrap(), &mut |_, victim| {
        found.count(is_old_or_new(&value, 1, 2, victim));
    });
    found.both("set");

    let mut found = Found::default();
    let update = || {
        value.update(|now| now.map(|n| n + 1)).unwrap();
    };
    at_every_instruction("update", &prepare, &update, &mut |_, victim| {
        found.count(is_old_or_new(&value, 1, 2, victim));
        // An update of the survivors counts from what is there.
        assert_eq!(value.update_timeout(SOON, |now| now.map(|n| n + 4)).unwrap(), ([1; 3], [5; 3]));
        value.set([1; 3]).unwrap();
    });
    found.both("update");

    let word = Value::new(1u64).unwrap();
    let mut found = Found::default();
    let update = || {
        word.update(|n| n + 1).unwrap();
    };
    at_every_instruction("update of a word", &prepare, &update, &mut |_, victim| {
        let now = word.swap(1);
        assert!(now == 2 || (now == 1 && victim == Victim::Killed), "{now}");
        found.count(now == 2);
    });
    found.both("update of a word");
}

pub fn arrays() {
    let warm = Mutex::new([0u64; 2]).unwrap();
    let prepare = || drop(warm.lock().unwrap());

    // Elements 0 and 8 have the same lock.
    let array = Array::from_slice(&[[1u64; 3]; 9]).unwrap();
    let write = || array.write_slice(7, &[[2; 3], [2; 3]]).unwrap();
    let found = Cell::new([0; 3]);
    until_hit("write of two elements", &prepare, &write, &|| found.get().iter().all(|n| *n > 0), &mut |_, victim| {
        let all = array.to_vec().unwrap();
        assert!(all[..7].iter().all(|element| *element == [1; 3]));
        let new = all[7..].iter().map(|element| {
            assert!([[1; 3], [2; 3]].contains(element), "torn: {element:?}");
            usize::from(*element == [2; 3])
        });
        let new = new.sum::<usize>();
        assert!(new == 2 || victim == Victim::Killed, "a write that had returned is gone");
        assert!(new != 1 || all[7] == [2; 3], "the second was written before the first");
        let mut counts = found.get();
        counts[new] += 1;
        found.set(counts);
        array.set_timeout(0, [1; 3], SOON).unwrap();
        for index in [7, 8] {
            array.set_timeout(index, [1; 3], SOON).unwrap();
        }
    });

    let told = Cell::new(0);
    let swap = || array.lock().unwrap().swap_elements(0, 1).unwrap();
    array.set(1, [2; 3]).unwrap();
    until_hit("swap of two elements", &prepare, &swap, &|| told.get() > 0, &mut |_, _| {
        let (mut guard, died) = match array.lock_timeout(SOON) {
            Ok(guard) => (guard, false),
            Err(LockError::OwnerDied(guard)) => (guard, true),
            Err(e) => panic!("{e}"),
        };
        let pair = guard.slice(..2).unwrap();
        assert!(died || pair[0] != pair[1], "an element was lost, and nobody was told: {pair:?}");
        told.set(told.get() + u32::from(died && pair[0] == pair[1]));
        guard.set_timeout(0, [1; 3], SOON).unwrap();
        guard.set_timeout(1, [2; 3], SOON).unwrap();
        guard.mark_consistent();
    });
}

/// The recoverer of one that died with the lock of a value.
pub fn recovery() {
    let segment = Segment::family().unwrap();
    let warm = Mutex::new([0u64; 2]).unwrap();
    let value = Value::new([1u64; 3]).unwrap();
    let dies_with_the_lock = || {
        // SAFETY: this program has one thread.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                std::mem::forget(value.lock().unwrap());
                value.set([2; 3]).unwrap();
                kill(Pid::this(), Signal::SIGKILL).unwrap();
            }
            ForkResult::Parent { child } => drop(waitpid(child, None).unwrap()),
        }
    };
    dies_with_the_lock();
    let sweep = || {
        segment.sweep();
    };
    at_every_instruction("recovery of a value", &|| drop(warm.lock().unwrap()), &sweep, &mut |_, _| {
        segment.sweep();
        let Err(LockError::OwnerDied(mut guard)) = value.lock_timeout(SOON) else { panic!("nobody was told") };
        guard.mark_consistent();
        assert_eq!(guard.get().unwrap(), [2; 3]);
        guard.set_timeout([1; 3], SOON).unwrap();
        drop(guard);
        dies_with_the_lock();
    });
}
