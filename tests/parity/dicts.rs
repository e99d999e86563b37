//! `_TestContainers` and `TestSyncManagerTypes`, as far as they are about dictionaries, sets, namespaces, values and arrays.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use kinfolk::{Array, Dict, ErrorKind, Manager, Namespace, Process, Set, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::guard;

fn manager() -> Manager {
    Manager::with_size(64 << 20).unwrap()
}

/// Runs `worker` with the handle in a child, which must return.
#[track_caller]
fn run_worker<H, F>(worker: F, handle: &H)
where
    H: Clone + Serialize + DeserializeOwned + 'static,
    F: Fn(H) + Copy + Send + 'static,
{
    Process::builder().daemon(true).spawn(worker, handle.clone()).unwrap().join().unwrap();
}

/// Python's `{65: 'A', ..., 69: 'E'}`, put in backwards.
fn letters() -> Dict<u32, char> {
    let d = manager().dict().unwrap();
    d.extend((65..70).rev().map(|k| (k, char::from_u32(k).unwrap()))).unwrap();
    d
}

#[test]
fn a_dictionary_is_copied_and_has_keys_values_and_items() {
    let d = letters();
    let expected: BTreeMap<u32, char> = (65..70).zip('A'..='E').collect();
    let copy = d.copy().unwrap();
    assert_ne!(copy.id(), d.id());
    assert_eq!(copy.items().unwrap().into_iter().collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(d.snapshot().unwrap().into_iter().collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(d.keys().unwrap(), [69, 68, 67, 66, 65]);
    assert_eq!(d.values().unwrap(), ['E', 'D', 'C', 'B', 'A']);
    assert!(d.items().unwrap().into_iter().eq(expected.into_iter().rev()));
}

#[test]
fn iteration_goes_in_the_order_of_insertion_and_ends_whatever_changes() {
    let d = letters();
    let mut iter = d.iter().unwrap();
    let keys: Vec<u32> = iter.by_ref().map(|item| item.unwrap().0).collect();
    assert_eq!(keys, [69, 68, 67, 66, 65]);
    assert!(iter.next().is_none(), "it is exhausted");
    // Python raises RuntimeError when the size changes. Here what there was when it began is gone through.
    let mut iter = d.iter().unwrap();
    assert_eq!(iter.next().unwrap().unwrap(), (69, 'E'));
    d.clear().unwrap();
    assert_eq!(iter.map(|item| item.unwrap().0).collect::<Vec<_>>(), [68, 67, 66, 65]);
    assert!(d.iter().unwrap().next().is_none());
}

#[test]
fn nested_dictionaries_live_when_the_local_handle_is_dropped() {
    let manager = manager();
    let of = |pairs: [(&str, u32); 2]| {
        let d: Dict<String, u32> = manager.dict().unwrap();
        d.extend(pairs.map(|(k, v)| (k.to_owned(), v))).unwrap();
        d
    };
    let (pets, supplies) = (of([("ferrets", 2), ("hamsters", 4)]), of([("water", 10), ("feed", 3)]));
    let d: Dict<String, Dict<String, u32>> = manager.dict().unwrap();
    d.set("pets", &pets).unwrap();
    d.set("supplies", &supplies).unwrap();
    let in_d = |outer: &str, inner: &str| d.get(outer).unwrap().unwrap().get(inner).unwrap();
    assert_eq!((supplies.get("water").unwrap(), in_d("supplies", "water")), (Some(10), Some(10)));
    // Through the one it is seen through the other.
    d.get("supplies").unwrap().unwrap().set("blankets", &5).unwrap();
    assert_eq!(supplies.get("blankets").unwrap(), Some(5));
    supplies.set("water", &7).unwrap();
    assert_eq!(in_d("supplies", "water"), Some(7));
    // Only the entries keep them.
    drop((pets, supplies));
    assert_eq!(in_d("pets", "ferrets"), Some(2));
    d.get("supplies").unwrap().unwrap().set("blankets", &11).unwrap();
    assert_eq!(in_d("supplies", "blankets"), Some(11));
    // Only the handles keep them.
    let (pets, supplies) = (d.get("pets").unwrap().unwrap(), d.get("supplies").unwrap().unwrap());
    d.clear().unwrap();
    assert!(d.is_empty());
    assert_eq!((supplies.get("water").unwrap(), pets.get("hamsters").unwrap()), (Some(7), Some(4)));
    // Nothing keeps them.
    drop((pets, supplies));
    assert_eq!(manager.segment().stats().objects, 1);
}

#[test]
fn a_namespace_gives_takes_and_prints_names() {
    let n = manager().namespace().unwrap();
    n.set("name", &"Bob".to_owned()).unwrap();
    n.set("job", &"Builder".to_owned()).unwrap();
    n.set("_hidden", &"hidden".to_owned()).unwrap();
    let text = |name: &str| n.get::<String>(name).unwrap();
    assert_eq!((text("name").as_deref(), text("job").as_deref()), (Some("Bob"), Some("Builder")));
    assert!(n.remove("job").unwrap());
    assert_eq!(n.to_string(), "Namespace(name='Bob')");
    assert!(n.contains("name").unwrap() && !n.contains("job").unwrap());
    // In Python a name that begins with `_` is the proxy's own; here it is shared, and only not printed.
    assert_eq!(text("_hidden").as_deref(), Some("hidden"));
}

#[test]
fn a_dictionary_of_a_manager_is_read_and_emptied_by_a_child() {
    let _guard = guard();
    let d: Dict<String, u32> = manager().dict().unwrap();
    d.set("foo", &5).unwrap();
    let worker = |d: Dict<String, u32>| {
        let foo = || ("foo".to_owned(), 5);
        assert_eq!((d.len(), d.get("foo").unwrap(), d.get("bar").unwrap()), (1, Some(5), None));
        assert_eq!((d.items().unwrap(), d.keys().unwrap(), d.values().unwrap()), (vec![foo()], vec![foo().0], vec![5]));
        assert_eq!(d.copy().unwrap().snapshot().unwrap(), [foo()]);
        assert_eq!(d.popitem().unwrap(), Some(foo()));
    };
    run_worker(worker, &d);
    assert!(d.is_empty());
}

#[test]
fn a_value_of_a_manager_is_set_by_a_child() {
    let _guard = guard();
    let value = manager().value(1i32).unwrap();
    let worker = |value: Value<i32>| {
        assert_eq!((value.load(), value.get().unwrap()), (1, 1));
        value.set(2).unwrap();
    };
    run_worker(worker, &value);
    assert_eq!((value.load(), value.get().unwrap()), (2, 2));
}

#[test]
fn an_array_of_a_manager_is_read_by_a_child() {
    let _guard = guard();
    let array = manager().array_of(&[0i32, 1]).unwrap();
    let worker = |array: Array<i32>| {
        assert_eq!((array.get(0).unwrap(), array.get(1).unwrap(), array.len()), (0, 1, 2));
        assert_eq!(array.iter().collect::<Result<Vec<_>, _>>().unwrap(), [0, 1]);
    };
    run_worker(worker, &array);
}

#[test]
fn a_namespace_of_a_manager_is_read_by_a_child() {
    let _guard = guard();
    let n = manager().namespace().unwrap();
    n.set("x", &0).unwrap();
    n.set("y", &1).unwrap();
    let worker = |n: Namespace| assert_eq!((n.get("x").unwrap(), n.get("y").unwrap()), (Some(0), Some(1)));
    run_worker(worker, &n);
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn a_set_of_a_manager_is_changed_by_a_child() {
    let _guard = guard();
    let s: Set<String> = manager().set().unwrap();
    s.update(&["a", "b", "c"].map(text)).unwrap();
    let worker = |s: Set<String>| {
        assert!(s.len() == 3 && s.contains("b").unwrap());
        assert!(s.add("d").unwrap());
        s.remove("d").unwrap();
        assert_eq!(s.remove("d").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!s.discard("d").unwrap() && s.discard("a").unwrap());
        let other = ["b", "e"].map(text);
        assert_eq!(s.union(&other).unwrap(), HashSet::from(["b", "c", "e"].map(text)));
        assert_eq!(s.intersection(&other).unwrap(), HashSet::from([text("b")]));
        assert_eq!(s.difference(&other).unwrap(), HashSet::from([text("c")]));
        assert_eq!(s.symmetric_difference(&other).unwrap(), HashSet::from(["c", "e"].map(text)));
        assert_eq!(s.pop().unwrap(), Some(text("c")));
        s.update(&other).unwrap();
    };
    run_worker(worker, &s);
    assert_eq!(s.snapshot().unwrap(), HashSet::from(["b", "e"].map(text)));
}

#[test]
fn a_set_is_made_of_a_sequence() {
    let _guard = guard();
    let s = manager().set().unwrap();
    s.update(&[1, 2, 3, 2]).unwrap();
    let worker = |s: Set<u32>| assert_eq!(s.iter().unwrap().collect::<Vec<_>>(), [1, 2, 3]);
    run_worker(worker, &s);
    run_worker(worker, &Set::from_iter([1, 2, 3]).unwrap());
}

#[test]
fn a_set_has_all_of_pythons_methods() {
    let of = |elements: &[u32]| Set::from_iter(elements.iter().copied()).unwrap();
    let is = |s: &Set<u32>, elements: &[u32]| assert_eq!(s.snapshot().unwrap(), elements.iter().copied().collect());
    let (s, t) = (of(&[1, 2]), of(&[2, 3]));
    // __len__, __contains__, __iter__, __eq__ by what is in it, __or__, __and__, __sub__, __xor__
    assert!(s.len() == 2 && s.contains(&1).unwrap() && s.iter().unwrap().eq([1, 2]));
    let or = (&s | &t).unwrap();
    assert_eq!((or, (&s & &t).unwrap()), (HashSet::from([1, 2, 3]), HashSet::from([2])));
    assert_eq!(((&s - &t).unwrap(), (&s ^ &t).unwrap()), (HashSet::from([1]), HashSet::from([1, 3])));
    // __ge__, __gt__, __le__, __lt__ and their names
    assert!(s.is_superset(&[1]).unwrap() && s.is_proper_superset(&[1]).unwrap() && s.is_subset(&s).unwrap());
    assert!(!s.is_proper_subset(&s).unwrap() && s.is_disjoint(&BTreeSet::from([4])).unwrap());
    // __ior__, __iand__, __isub__, __ixor__ and their names
    s.update(&t).unwrap();
    is(&s, &[1, 2, 3]);
    s.intersection_update(&[1, 2]).unwrap();
    is(&s, &[1, 2]);
    s.difference_update(&[1]).unwrap();
    is(&s, &[2]);
    s.symmetric_difference_update(&t).unwrap();
    is(&s, &[3]);
    // add, discard, remove, pop, copy, clear
    assert!(s.add(&4).unwrap() && s.discard(&3).unwrap());
    let copy = s.copy().unwrap();
    s.remove(&4).unwrap();
    assert_eq!((s.pop().unwrap(), copy.pop().unwrap()), (None, Some(4)));
    t.clear().unwrap();
    assert!(t.is_empty());
}
