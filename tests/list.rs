//! Lists: what one process sees, and what several do.
#![allow(clippy::reversed_empty_ranges, reason = "they are indices from either end")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use kinfolk::{Error, ErrorKind, List, ListError, Process, Segment};
use support::random::Random;
use support::watchdog::watchdog;

mod support;

const LIMIT: Duration = Duration::from_secs(120);

/// Values of every form in which an element lies: in its slot, in a block, in a run of its own.
fn value(random: &mut Random) -> Vec<u8> {
    let longest = [8, 8, 40, 40, 600, 600, 4500, 20_000][random.below(8) as usize];
    let fill = random.below(256) as u8;
    vec![fill; random.below(longest) as usize]
}

fn range(random: &mut Random, len: usize) -> (std::ops::Range<isize>, std::ops::Range<usize>) {
    let a = random.below(len as u64 + 1) as usize;
    let b = a + random.below((len - a).min(40) as u64 + 1) as usize;
    let signed = |k: usize| if k < len && k % 2 == 1 { k as isize - len as isize } else { k as isize };
    (signed(a)..signed(b), a..b)
}

/// One random change, to a list and to a vector.
fn change(random: &mut Random, list: &List<Vec<u8>>, model: &mut Vec<Vec<u8>>) {
    let len = model.len();
    let at = random.below(len as u64 + 1) as usize;
    match random.below(24) {
        0..=3 => {
            let new = value(random);
            model.push(new.clone());
            list.push(new).unwrap();
        }
        4 | 5 => {
            let new = value(random);
            model.insert(0, new.clone());
            list.insert(0, new).unwrap();
        }
        6 => {
            let new = value(random);
            model.insert(at, new.clone());
            list.insert(at, new).unwrap();
        }
        7..=9 => assert_eq!(list.pop().ok(), model.pop()),
        10 | 11 if len > 0 => assert_eq!(list.pop_at(0).unwrap(), model.remove(0)),
        12 if at < len => assert_eq!(list.pop_at(at).unwrap(), model.remove(at)),
        13 if at < len => assert_eq!(list.swap_remove(at).unwrap(), model.swap_remove(at)),
        14 | 15 if at < len => {
            model[at] = value(random);
            list.set(at as isize - len as isize, model[at].clone()).unwrap();
        }
        16 => {
            let (signed, range) = range(random, len);
            let new: Vec<_> = (0..random.below(30)).map(|_| value(random)).collect();
            list.set_slice(signed, &new).unwrap();
            model.splice(range, new);
        }
        17 => {
            let new: Vec<_> = (0..random.below(30)).map(|_| value(random)).collect();
            list.extend(&new).unwrap();
            model.extend(new);
        }
        18 => {
            let (signed, range) = range(random, len);
            list.remove_range(signed).unwrap();
            model.drain(range);
        }
        19 => {
            list.sort_by_key(|v| v.len() % 5).unwrap();
            model.sort_by_key(|v| v.len() % 5);
        }
        20 => {
            list.reverse().unwrap();
            model.reverse();
        }
        21 if len > 300 => {
            list.truncate(at).unwrap();
            model.truncate(at);
        }
        22 if at < len => {
            let other = random.below(len as u64) as usize;
            list.swap(at, other).unwrap();
            model.swap(at, other);
        }
        23 if random.below(8) == 0 => {
            list.retain(|v| v.len() % 3 != 0).unwrap();
            model.retain(|v| v.len() % 3 != 0);
        }
        _ => {}
    }
}

#[test]
fn it_does_what_a_vector_does() {
    let _guard = watchdog(LIMIT);
    let segment = Segment::anonymous(256 << 20).unwrap();
    let before = segment.stats().used_bytes;
    let list: List<Vec<u8>> = List::new_in(&segment).unwrap();
    let (mut model, mut random) = (Vec::new(), Random::new(7));
    for step in 0..6000 {
        change(&mut random, &list, &mut model);
        assert_eq!(list.len().unwrap(), model.len(), "step {step}");
        let at = random.below(model.len() as u64 + 1) as usize;
        assert_eq!(list.get(at).ok().as_ref(), model.get(at), "step {step}");
        if step % 50 == 0 {
            assert_eq!(list.to_vec().unwrap(), model, "step {step}");
        }
    }
    assert_eq!(list.to_vec().unwrap(), model);
    list.clear().unwrap();
    // The object's own page.
    assert_eq!(segment.stats().used_bytes, before + 8192, "what an empty list keeps");
    drop(list);
    assert_eq!(segment.stats().used_bytes, before);
}

#[test]
fn an_index_counts_from_either_end_and_a_wrong_one_gives_the_value_back() {
    let list = List::from_slice(&["a".to_owned(), "b".to_owned(), "c".to_owned()]).unwrap();
    assert_eq!(
        (list.get(0).unwrap(), list.get(-1).unwrap(), list.get(2usize).unwrap()),
        ("a".into(), "c".into(), "c".into())
    );
    assert_eq!((list.first().unwrap(), list.last().unwrap()), ("a".into(), "c".into()));
    assert!(matches!(list.get(3), Err(ListError::Index { index: 3, len: 3, .. })));
    assert!(matches!(list.get(-4), Err(ListError::Index { index: -4, len: 3, .. })));
    assert!(matches!(list.pop_at(i64::MAX), Err(ListError::Index { len: 3, .. })));
    let refused = list.set(3, "d".to_owned()).unwrap_err();
    assert_eq!(refused.to_string(), "list: index 3 of 3 elements");
    assert_eq!(refused.into_value(), "d");
    let refused = list.compare_exchange(-4, &"a".to_owned(), "d".to_owned()).unwrap_err();
    assert_eq!(refused.into_value(), "d");
    assert!(list.swap(0, 3).is_err() && list.update(7, |v| v).is_err());
    // As Python: what is beyond the ends goes to the nearer one.
    list.insert(99, "z".to_owned()).unwrap();
    list.insert(-99, "0".to_owned()).unwrap();
    list.insert(-1, "y".to_owned()).unwrap();
    assert_eq!(list.to_string(), "['0', 'a', 'b', 'c', 'y', 'z']");
    assert_eq!(list.slice(-2..).unwrap(), ["y", "z"]);
    assert_eq!(list.slice(4..2).unwrap(), Vec::<String>::new());
    let empty: List<u8> = List::new().unwrap();
    assert!(matches!(empty.pop(), Err(ListError::Index { index: -1, len: 0, .. })));
    assert!(empty.is_empty().unwrap() && empty.first().is_err() && empty.iter().next().is_none());
}

#[test]
fn values_are_found_counted_and_removed() {
    let list = List::from_slice(&[5, 3, 5, 1, 5]).unwrap();
    assert_eq!((list.count(&5).unwrap(), list.count(&9).unwrap()), (3, 0));
    assert_eq!(
        (list.index(&5).unwrap(), list.index_in(&5, 1..).unwrap(), list.index_in(&5, 3..-1).unwrap()),
        (Some(0), Some(2), None)
    );
    assert!(list.contains(&1).unwrap() && !list.contains(&2).unwrap());
    assert!(list.remove(&5).unwrap() && !list.remove(&9).unwrap());
    assert_eq!(list.to_vec().unwrap(), [3, 5, 1, 5]);
    assert_eq!(list.compare_exchange(0, &4, 7).unwrap(), Err(3));
    assert_eq!(list.compare_exchange(0, &3, 7).unwrap(), Ok(()));
    list.update(0, |n| n * 2).unwrap();
    list.repeat(2).unwrap();
    assert_eq!(list.to_vec().unwrap(), [14, 5, 1, 5, 14, 5, 1, 5]);
    list.repeat(0).unwrap();
    assert_eq!(list.concat(&list).unwrap(), Vec::<i32>::new());
}

#[test]
fn slices_have_steps() {
    let list = List::from_slice(&(0..10).collect::<Vec<i32>>()).unwrap();
    assert_eq!(list.slice_step(1..8, 3).unwrap(), [1, 4, 7]);
    assert_eq!(list.slice_step(.., -4).unwrap(), [9, 5, 1]);
    list.set_slice_step(..4, 2, [20, 22]).unwrap();
    list.set_slice_step(8.., -9, [28]).unwrap();
    assert_eq!(list.to_vec().unwrap(), [20, 1, 22, 3, 4, 5, 6, 7, 28, 9]);
    let refused = list.set_slice_step(.., 3, [1, 2]).unwrap_err();
    assert!(refused.to_string().contains("2 values for 4 places"), "{refused}");
    assert_eq!(list.slice_step(.., 0).unwrap_err().kind(), ErrorKind::InvalidInput);
    list.set_slice_step(4..6, 1, [44]).unwrap();
    list.remove_step(.., -2).unwrap();
    assert_eq!(list.to_vec().unwrap(), [1, 3, 6, 28]);
    assert!(list.equals(&[1, 3, 6, 28]).unwrap() && !list.equals(&[1]).unwrap());
    assert_eq!(list.compare(&[1, 4]).unwrap(), Some(std::cmp::Ordering::Less));
    assert_eq!(list.iter().rev().map(Result::unwrap).collect::<Vec<_>>(), [28, 6, 3, 1]);
    let mut both = list.iter();
    assert_eq!((both.next_back().unwrap().unwrap(), both.next().unwrap().unwrap()), (28, 1));
    assert_eq!(both.by_ref().map(Result::unwrap).collect::<Vec<_>>(), [3, 6]);
    assert!(both.next_back().is_none());
}

#[test]
fn a_comparison_that_panics_changes_nothing() {
    let list = List::from_slice(&(0..100).rev().collect::<Vec<i32>>()).unwrap();
    let before = list.to_vec().unwrap();
    let calls = Cell::new(0);
    let sort = || {
        list.sort_by(|a, b| {
            calls.set(calls.get() + 1);
            assert!(calls.get() < 50, "on purpose");
            a.cmp(b)
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(sort)).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| list.update(0, |_| panic!("on purpose")))).is_err());
    assert_eq!(list.to_vec().unwrap(), before);
    // And nobody holds the lock.
    list.sort().unwrap();
    assert!(list.to_vec().unwrap().is_sorted());
}

#[test]
fn sorting_keeps_the_order_of_equals() {
    let list = List::from_slice(&[(2, 'a'), (1, 'b'), (2, 'c'), (1, 'd')]).unwrap();
    list.sort_by_key(|(n, _)| *n).unwrap();
    assert_eq!(list.to_vec().unwrap(), [(1, 'b'), (1, 'd'), (2, 'a'), (2, 'c')]);
    list.sort_by_key(|(n, _)| std::cmp::Reverse(*n)).unwrap();
    assert_eq!(list.to_vec().unwrap(), [(2, 'a'), (2, 'c'), (1, 'b'), (1, 'd')]);
}

#[test]
fn a_change_in_between_makes_a_sort_begin_anew() {
    let list = List::from_slice(&[3, 1, 2]).unwrap();
    let calls = Cell::new(0);
    list.sort_by(|a, b| {
        if calls.replace(calls.get() + 1) == 0 {
            list.push(0).unwrap();
        }
        a.cmp(b)
    })
    .unwrap();
    assert_eq!(list.to_vec().unwrap(), [0, 1, 2, 3]);
    let calls = Cell::new(0);
    list.update(0, |n| {
        if calls.replace(calls.get() + 1) == 0 {
            list.set(0, 40).unwrap();
        }
        n + 1
    })
    .unwrap();
    assert_eq!((list.get(0).unwrap(), calls.get()), (41, 2));
}

#[test]
fn an_iteration_sees_changes_and_a_snapshot_does_not() {
    let list = List::from_slice(&[1, 2, 3]).unwrap();
    let snapshot = list.to_vec().unwrap();
    let mut seen = Vec::new();
    for value in &list {
        let value = value.unwrap();
        if value < 3 {
            list.push(value * 10).unwrap();
        }
        seen.push(value);
    }
    assert_eq!((seen, snapshot), (vec![1, 2, 3, 10, 20], vec![1, 2, 3]));
}

#[test]
fn updates_by_many_are_all_counted() {
    let _guard = watchdog(LIMIT);
    const EACH: u64 = 2000;
    let list = List::from_slice(&[0u64, u64::MAX]).unwrap();
    let add = |list: List<u64>| (0..EACH).for_each(|_| list.update(0, |n| n + 1).unwrap());
    let children: Vec<_> = (0..3).map(|_| Process::spawn(add, list.clone()).unwrap()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| add(list.clone()));
        scope.spawn(|| add(list.clone()));
    });
    children.into_iter().for_each(|child| child.join().unwrap());
    assert_eq!(list.get(0).unwrap(), 5 * EACH);
}

#[test]
fn readers_see_every_change_whole() {
    let _guard = watchdog(LIMIT);
    let segment = Segment::anonymous(64 << 20).unwrap();
    // Elements of each form; every state has all of them.
    let all: Vec<Vec<u8>> = [1, 30, 600, 5000, 2, 40, 3].map(|len| vec![len as u8; len]).to_vec();
    let list = List::from_slice_in(&segment, &all).unwrap();
    let whole = |values: &[Vec<u8>]| {
        let mut sorted = values.to_vec();
        sorted.sort();
        let mut wanted = all.clone();
        wanted.sort();
        assert_eq!(sorted.len(), wanted.len());
        assert!(sorted == wanted, "{:?}", values.iter().map(Vec::len).collect::<Vec<_>>());
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|seed| {
                let (list, all) = (&list, &all);
                scope.spawn(move || {
                    let mut random = Random::new(seed * 2 + 3);
                    for _ in 0..3000 {
                        let (a, b) = (random.below(7) as usize, random.below(7) as usize);
                        match random.below(6) {
                            0 => list.reverse().unwrap(),
                            1 => list.swap(a, b).unwrap(),
                            2 => list.sort_by_key(|v| v.len() * (a + 1) % 11).unwrap(),
                            3 => list.set_slice(.., all).unwrap(),
                            4 => {
                                // A set of the same.
                                list.update(a, |v| v).unwrap();
                            }
                            _ => {
                                let mut turned = all.clone();
                                turned.rotate_left(a);
                                list.set_slice(.., &turned).unwrap();
                            }
                        }
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            whole(&list.to_vec().unwrap());
            for value in &list {
                let value = value.unwrap();
                assert!(all.contains(&value), "an element that never was: {} B", value.len());
            }
            assert_eq!(list.len().unwrap(), all.len());
        }
    });
    whole(&list.to_vec().unwrap());
}

#[test]
fn the_ends_are_a_queue_for_many() {
    let _guard = watchdog(LIMIT);
    const EACH: usize = 3000;
    let (todo, done) = (List::new().unwrap(), List::new().unwrap());
    let produce =
        |(todo, number): (List<(usize, usize)>, usize)| (0..EACH).for_each(|k| todo.push((number, k)).unwrap());
    let children: Vec<_> = (0..2).map(|n| Process::spawn(produce, (todo.clone(), n)).unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while done.len().unwrap() < 2 * EACH {
                    let changes = todo.changes();
                    match todo.pop_at(0) {
                        Ok(item) => done.push(item).unwrap(),
                        Err(ListError::Index { .. }) => {
                            let _ = todo.wait_changed_timeout(changes, Duration::from_millis(20)).unwrap();
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    children.into_iter().for_each(|child| child.join().unwrap());
    let mut all = done.to_vec().unwrap();
    all.sort();
    assert_eq!(all, (0..2).flat_map(|n| (0..EACH).map(move |k| (n, k))).collect::<Vec<_>>());
}

#[test]
fn whoever_waits_for_a_change_is_woken() {
    let _guard = watchdog(LIMIT);
    let list: List<u32> = List::new().unwrap();
    let before = list.changes();
    assert_eq!(list.try_wait_changed(before), None);
    assert_eq!(list.wait_changed_timeout(before, Duration::from_millis(1)).unwrap(), None);
    let answer = |list: List<u32>| {
        let mut seen = 0;
        while list.len().unwrap() < 200 {
            if list.len().unwrap() % 2 == 1 {
                list.push(0).unwrap();
            }
            seen = list.wait_changed_timeout(seen, LIMIT).unwrap().unwrap();
        }
    };
    let child = Process::spawn(answer, list.clone()).unwrap();
    for _ in 0..100 {
        let mut changes = list.changes();
        list.push(1).unwrap();
        while list.len().unwrap() % 2 == 1 {
            changes = list.wait_changed(changes).unwrap();
        }
    }
    child.join().unwrap();
    assert!(list.try_wait_changed(before).is_some_and(|now| now - before == 200));
}

#[test]
fn what_is_no_value_or_finds_no_room_comes_back_and_changes_nothing() {
    let segment = Segment::anonymous(8 << 20).unwrap();
    let list: List<Vec<u8>> = List::from_slice_in(&segment, &[vec![1]]).unwrap();
    let refused = list.push(vec![0; 16 << 20]).unwrap_err();
    assert_eq!(refused.error().map(Error::kind), Some(ErrorKind::OutOfSpace));
    assert_eq!(refused.into_value().len(), 16 << 20);
    let used = segment.stats().used_bytes;
    assert_eq!(list.extend(vec![vec![7; 1 << 20]; 30]).unwrap_err().kind(), ErrorKind::OutOfSpace);
    assert_eq!(list.extend(vec![vec![7; 3000]; 3000]).unwrap_err().kind(), ErrorKind::OutOfSpace);
    assert_eq!(list.set_slice(0..1, vec![vec![7; 1 << 20]; 30]).unwrap_err().kind(), ErrorKind::OutOfSpace);
    assert_eq!(list.to_vec().unwrap(), [vec![1]]);
    list.push(vec![2; 100]).unwrap();
    // Room for the places of so many is kept, the elements are not.
    assert!(segment.stats().used_bytes <= used + (64 << 10), "what was not put in is kept");
    // Until it is full, and then again.
    let mut pushed = 2;
    while list.push(vec![3; 3000]).is_ok() {
        pushed += 1;
    }
    assert_eq!(list.len().unwrap(), pushed);
    list.remove_range(..-1).unwrap();
    let again = (1..pushed).take_while(|_| list.push(vec![4; 3000]).is_ok()).count();
    println!("{pushed} elements, and after they were taken out {again}");
    assert!(again + 1 >= pushed * 9 / 10, "what was freed is not there: {again} of {pushed}");
    drop(list);
    assert_eq!(segment.stats().used_bytes, 0);
}

#[test]
fn what_is_popped_is_given_back() {
    const MANY: usize = 5000;
    let segment = Segment::anonymous(16 << 20).unwrap();
    let list = List::from_slice_in(&segment, &vec![vec![7u8; 300]; MANY]).unwrap();
    let all = segment.stats().used_bytes;
    assert!(all > 300 * MANY);
    (0..MANY / 2).for_each(|_| drop(list.pop_at(0).unwrap()));
    (10..MANY / 2).for_each(|_| drop(list.pop().unwrap()));
    // The directory has as many slots as before, until it is empty.
    let few = segment.stats().used_bytes;
    assert!(few < all / 4, "{few} B of {all} B for {} elements", list.len().unwrap());
    (0..10).for_each(|_| drop(list.pop().unwrap()));
    list.check().unwrap();
    assert_eq!(segment.stats().used_bytes, 8192, "an empty list keeps a page");
}

#[test]
fn bytes_need_no_vector() {
    let list: List<Vec<u8>> = List::new().unwrap();
    list.push_bytes(b"short").unwrap();
    list.push_bytes(&[9; 5000]).unwrap();
    let mut bytes = vec![1];
    list.get_into(-1, &mut bytes).unwrap();
    assert_eq!(bytes, [9; 5000]);
    list.set_bytes(-1, b"longer than a slot").unwrap();
    list.get_into(1, &mut bytes).unwrap();
    assert_eq!(bytes, b"longer than a slot");
    assert!(list.get_into(2, &mut bytes).is_err() && list.set_bytes(2, b"").is_err());
    assert_eq!(list.get(0).unwrap(), b"short");
}

#[test]
fn it_is_opened_by_number_and_as_what_it_is() {
    let list = List::from_slice(&[1u8]).unwrap();
    let segment = Segment::family().unwrap();
    assert_eq!(List::<u8>::open(&segment, list.id()).unwrap().to_vec().unwrap(), [1]);
    assert_eq!(List::<i8>::open(&segment, list.id()).err().unwrap().kind(), ErrorKind::TypeMismatch);
    let id = list.id();
    drop(list);
    assert_eq!(List::<u8>::open(&segment, id).err().unwrap().kind(), ErrorKind::Gone);
}
