//! `_TestContainers` and `TestSyncManagerTypes` (lists), and the `ShareableList` of `_TestSharedMemory`.

use kinfolk::{Dict, ErrorKind, List, ListError, Manager, Process, Queue, Segment};
use serde::{Deserialize, Serialize};

use super::guard;

/// What a Python list of several types is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Any {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
}

fn upto(n: i64) -> Vec<i64> {
    (0..n).collect()
}

#[test]
fn a_list_is_sliced_extended_repeated_added_and_nested() {
    let _guard = guard();
    let a: List<i64> = List::from_slice(&upto(10)).unwrap();
    assert_eq!(a.slice(..).unwrap(), upto(10));
    let b: List<i64> = List::new().unwrap();
    assert_eq!(b.slice(..).unwrap(), []);
    b.extend(upto(5)).unwrap();
    assert_eq!(b.slice(..).unwrap(), upto(5));
    assert_eq!(b.get(2).unwrap(), 2);
    assert_eq!(b.slice(2..10).unwrap(), [2, 3, 4]);
    b.repeat(2).unwrap();
    assert_eq!(b.slice(..).unwrap(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    let other = List::from_slice(&[5, 6]).unwrap();
    assert_eq!((&b + &other).unwrap(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]);
    assert_eq!((&other * 2).unwrap(), [5, 6, 5, 6]);
    assert_eq!(a.slice(..).unwrap(), upto(10));

    // Lists of lists: of what they have, and of handles.
    let values: Vec<Vec<i64>> =
        List::from_slice(&[a.to_vec().unwrap(), b.to_vec().unwrap()]).unwrap().to_vec().unwrap();
    assert_eq!(values, [upto(10), [upto(5), upto(5)].concat()]);
    let f = List::from_slice(std::slice::from_ref(&a)).unwrap();
    a.append(77).unwrap();
    assert_eq!(f.get(0).unwrap().to_vec().unwrap(), [upto(10), vec![77]].concat());
}

#[test]
fn an_iteration_ends_once_and_sees_changes() {
    let _guard = guard();
    let a = List::from_slice(&upto(10)).unwrap();
    let mut iter = a.iter();
    assert_eq!(iter.by_ref().map(Result::unwrap).collect::<Vec<_>>(), upto(10));
    assert!(iter.next().is_none(), "it has ended");
    let mut iter = a.iter();
    a.set(0, 100).unwrap();
    assert_eq!(iter.next().unwrap().unwrap(), 100);
    assert_eq!(a.iter().rev().map(Result::unwrap).take(2).collect::<Vec<_>>(), [9, 8]);
}

#[derive(Clone, Serialize, Deserialize)]
enum Nested {
    Int(i64),
    List(List<Nested>),
}

#[test]
fn lists_in_a_list_are_shared_and_a_list_may_be_in_itself() {
    let _guard = guard();
    let a = List::new().unwrap();
    for _ in 0..5 {
        a.append(List::from_slice(&upto(3)).unwrap()).unwrap();
    }
    assert!(a.iter().all(|inner| inner.unwrap().to_vec().unwrap() == upto(3)));
    a.get(0).unwrap().set(-1, 55).unwrap();
    assert_eq!(a.get(0).unwrap().to_vec().unwrap(), [0, 1, 55]);
    assert!(a.slice(1..).unwrap().iter().all(|inner| inner.to_vec().unwrap() == upto(3)));
    assert_eq!(a.get(1).unwrap().pop().unwrap(), 2);
    assert_eq!(a.get(1).unwrap().len().unwrap(), 2);
    assert!(a.slice(2..).unwrap().iter().all(|inner| inner.len().unwrap() == 3));
    drop(a);

    let b: List<Nested> = List::new().unwrap();
    b.append(Nested::List(b.clone())).unwrap();
    b.append(Nested::Int(7)).unwrap();
    let Ok(Nested::List(again)) = b.get(0) else { panic!("another element") };
    let Ok(Nested::List(and_again)) = again.get(0) else { panic!("another element") };
    assert_eq!(and_again.id(), b.id());
    assert!(matches!(and_again.get(-1), Ok(Nested::Int(7))));
}

#[test]
fn queues_in_a_list_and_in_a_dict_work() {
    let _guard = guard();
    let a: List<Queue<u32>> = List::new().unwrap();
    a.append(Queue::new(0).unwrap()).unwrap();
    a.get(0).unwrap().put(123).unwrap();
    assert_eq!(a.get(0).unwrap().get().unwrap(), 123);
    let b: Dict<u32, Queue<u32>> = Dict::new().unwrap();
    b.set(&0, &Queue::new(0).unwrap()).unwrap();
    b.get(&0).unwrap().unwrap().put(456).unwrap();
    assert_eq!(b.get(&0).unwrap().unwrap().get().unwrap(), 456);
}

#[test]
fn a_list_of_a_manager_is_used_up_by_a_child() {
    let _guard = guard();
    let manager = Manager::with_size(8 << 20).unwrap();
    let list: List<i32> = List::new_in(manager.segment()).unwrap();
    list.append(5).unwrap();
    let worker = |list: List<i32>| {
        assert_eq!((list.count(&5).unwrap(), list.index(&5).unwrap()), (1, Some(0)));
        list.sort().unwrap();
        list.reverse().unwrap();
        assert_eq!(list.iter().filter(Result::is_ok).count(), 1);
        assert_eq!(list.len().unwrap(), 1);
        assert_eq!(list.pop().unwrap(), 5);
    };
    Process::spawn(worker, list.clone()).unwrap().join().unwrap();
    assert!(list.is_empty().unwrap());
    assert_eq!(list.len().unwrap(), 0);
}

#[test]
fn a_list_of_several_types_is_indexed_counted_changed_and_copied() {
    let _guard = guard();
    let values = [
        Any::Text("howdy".into()),
        Any::Bytes(b"HoWdY".to_vec()),
        Any::Float(-273.154),
        Any::Int(100),
        Any::None,
        Any::Bool(true),
        Any::Int(42),
    ];
    let list = List::from_slice(&values).unwrap();
    assert_eq!(list.len().unwrap(), 7);
    assert_eq!(list.to_vec().unwrap(), values);
    assert_eq!((list.get(4).unwrap(), list.get(-2).unwrap()), (Any::None, Any::Bool(true)));
    assert!(matches!(list.get(7), Err(ListError::Index { index: 7, len: 7, .. })));
    assert!(matches!(list.set(7, Any::None), Err(ListError::Index { value: Any::None, .. })));
    assert_eq!((list.index(&Any::Int(100)).unwrap(), list.index(&Any::Int(1)).unwrap()), (Some(3), None));
    assert_eq!((list.count(&Any::Int(42)).unwrap(), list.count(&Any::Int(7)).unwrap()), (1, 0));
    // Another type in the same place; and, since there are no widths, anything longer.
    list.set(3, Any::Text("x".repeat(10_000))).unwrap();
    list.set(4, Any::Text("some".into())).unwrap();
    assert_eq!(list.slice(4..6).unwrap(), [Any::Text("some".into()), Any::Bool(true)]);
    // A copy is another list; one that is opened is the same.
    let copy = list.copy().unwrap();
    assert_eq!(copy.to_vec().unwrap(), list.to_vec().unwrap());
    let tethered = List::<Any>::open(&Segment::family().unwrap(), list.id()).unwrap();
    tethered.set(-1, Any::Int(13)).unwrap();
    assert_eq!((list.get(-1).unwrap(), copy.get(-1).unwrap()), (Any::Int(13), Any::Int(42)));
    // Trailing NULs are kept, which CPython loses.
    list.set(0, Any::Bytes(b"\x03\x02\x01\0\0".to_vec())).unwrap();
    assert_eq!(list.get(0).unwrap(), Any::Bytes(b"\x03\x02\x01\0\0".to_vec()));
}

#[test]
fn a_handle_of_a_long_list_is_as_small_as_any() {
    let _guard = guard();
    let segment = Segment::anonymous(64 << 20).unwrap();
    let queue: Queue<List<i64>> = Queue::builder().bytes(4096).segment(&segment).build().unwrap();
    let long = List::from_slice_in(&segment, &upto(200_000)).unwrap();
    let used = segment.stats().used_bytes;
    queue.put(long.clone()).unwrap();
    assert_eq!(segment.stats().used_bytes, used, "more than the ring of the queue was needed");
    let same = queue.get().unwrap();
    assert_eq!((same.id(), same.len().unwrap()), (long.id(), 200_000));
    same.set(-1, -5).unwrap();
    assert_eq!(long.last().unwrap(), -5);
}

#[test]
fn a_list_that_everybody_dropped_is_not_found_again() {
    let _guard = guard();
    let segment = Segment::family().unwrap();
    let list = List::from_slice(&upto(7)).unwrap();
    let id = list.id();
    let queue = Queue::new(0).unwrap();
    queue.put(list).unwrap();
    // A handle under way keeps it, unlike CPython's.
    assert_eq!(queue.get().unwrap().to_vec().unwrap(), upto(7));
    assert_eq!(List::<i64>::open(&segment, id).err().unwrap().kind(), ErrorKind::Gone);
}
