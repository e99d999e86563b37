//! Dictionaries: what one process sees, and what several do.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kinfolk::shared::dict::InsertError;
use kinfolk::{ByteDict, Dict, ErrorKind, Event, Process, Segment};
use serde::{Deserialize, Serialize};
use support::watchdog;

#[test]
fn it_does_what_a_hash_map_does() {
    let dict: Dict<u32, String> = Dict::new().unwrap();
    let mut model = HashMap::new();
    let mut random = 12345u64;
    for step in 0..60_000u32 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = (random >> 40) as u32 % 3000;
        match random >> 60 {
            0..=8 => {
                let value = format!("{step}").repeat((random >> 50) as usize % 20);
                dict.set(&key, &value).unwrap();
                model.insert(key, value);
            }
            9..=12 => assert_eq!(dict.remove(&key).unwrap(), model.remove(&key)),
            _ => assert_eq!(dict.get(&key).unwrap(), model.get(&key).cloned()),
        }
        assert_eq!(dict.len(), model.len());
    }
    for key in 0..3000 {
        assert_eq!(dict.get(&key).unwrap(), model.get(&key).cloned());
    }
}

#[test]
fn values_of_every_size_come_back() {
    let segment = Segment::anonymous(256 << 20).unwrap();
    let dict = ByteDict::new_in(&segment).unwrap();
    let used = segment.stats().used_bytes;
    for round in 0..3 {
        for len in [0usize, 1, 7, 8, 100, 4000, 4072, 4073, 5000, 100_000, 3 << 20] {
            let value: Vec<u8> = (0..len).map(|k| (k * 7 + round) as u8).collect();
            dict.set(&len.to_le_bytes(), &value).unwrap();
            assert_eq!(dict.get(&len.to_le_bytes()).unwrap(), Some(value));
        }
    }
    for len in [0usize, 1, 7, 8, 100, 4000, 4072, 4073, 5000, 100_000, 3 << 20] {
        assert!(dict.remove(&len.to_le_bytes()).unwrap());
    }
    assert!(dict.is_empty());
    drop(dict);
    assert!(segment.stats().used_bytes < used);
    assert_eq!(segment.stats().objects, 0);
}

#[test]
fn processes_change_it_together() {
    let dict: Dict<u64, u64> = Dict::new().unwrap();
    let fill = |(dict, from): (Dict<u64, u64>, u64)| {
        for k in from..from + 5000 {
            dict.set(&k, &(k * 3)).unwrap();
        }
        for k in (from..from + 5000).step_by(2) {
            assert_eq!(dict.remove(&k).unwrap(), Some(k * 3));
        }
    };
    let children: Vec<_> = (0..3).map(|k| Process::spawn(fill, (dict.clone(), k * 5000)).unwrap()).collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(dict.len(), 7500);
    for k in 0..15_000 {
        assert_eq!(dict.get(&k).unwrap(), (k % 2 == 1).then_some(k * 3));
    }
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn pythons_names_do_what_they_do_there() {
    let d = Dict::from_pairs([(text("a"), 1), (text("b"), 2)]).unwrap();
    assert_eq!(d.get("a").unwrap(), Some(1));
    assert_eq!((d.get_or("a", 9).unwrap(), d.get_or("x", 9).unwrap()), (1, 9));
    assert!(d.contains_key("b").unwrap() && !d.contains_key("x").unwrap());
    assert_eq!((d.insert("a", &10).unwrap(), d.insert("c", &3).unwrap()), (Some(1), None));
    assert_eq!((d.setdefault("a", 7).unwrap(), d.setdefault("d", 4).unwrap()), (10, 4));
    assert_eq!(d.keys().unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(d.values().unwrap(), [10, 2, 3, 4]);
    assert_eq!((d.pop_or("b", 0).unwrap(), d.pop_or("b", 0).unwrap()), (2, 0));
    assert_eq!((d.remove("c").unwrap(), d.remove("c").unwrap()), (Some(3), None));
    assert_eq!((d.discard("a").unwrap(), d.discard("a").unwrap()), (true, false));
    assert_eq!(d.popitem().unwrap(), Some((text("d"), 4)));
    assert_eq!(d.popitem().unwrap(), None);
    d.extend((0..5).map(|k| (k.to_string(), k))).unwrap();
    d.retain(|_, v| v % 2 == 0).unwrap();
    assert_eq!(d.items().unwrap(), [(text("0"), 0), (text("2"), 2), (text("4"), 4)]);
    let reversed: Vec<i32> = d.iter().unwrap().rev().map(|item| item.unwrap().1).collect();
    assert_eq!(reversed, [4, 2, 0]);
    let other = Dict::from_pairs([(text("2"), 20), (text("5"), 50)]).unwrap();
    let copy = d.copy().unwrap();
    d.update_from(&other).unwrap();
    assert_eq!(d.items().unwrap(), [(text("0"), 0), (text("2"), 20), (text("4"), 4), (text("5"), 50)]);
    assert_eq!(copy.merged(&other).unwrap().items().unwrap(), d.items().unwrap());
    assert_eq!((&copy | &other).unwrap().items().unwrap(), d.items().unwrap());
    assert_eq!(copy.len(), 3);
    d.clear().unwrap();
    assert!(d.is_empty() && d.items().unwrap().is_empty());
    let flags = Dict::from_keys([1, 2], &false).unwrap();
    assert_eq!(flags.snapshot().unwrap(), [(1, false), (2, false)]);
}

#[test]
fn what_is_not_put_in_comes_back() {
    let d: Dict<String, Vec<u8>> = Dict::from_pairs([(text("a"), vec![1])]).unwrap();
    match d.try_insert(text("a"), vec![2]) {
        Err(InsertError::Occupied(key, value)) => assert_eq!((key, value), (text("a"), vec![2])),
        other => panic!("{other:?}"),
    }
    d.try_insert(text("b"), vec![3]).unwrap();
    let segment = Segment::anonymous(4 << 20).unwrap();
    let small: Dict<u8, Vec<u8>> = Dict::new_in(&segment).unwrap();
    match small.try_insert(1, vec![7; 8 << 20]) {
        Err(InsertError::Failed(error)) => {
            assert_eq!(error.kind(), ErrorKind::OutOfSpace);
            assert_eq!(error.into_value(), (1, vec![7; 8 << 20]));
        }
        other => panic!("{other:?}"),
    }
    let error = small.setdefault(&1, vec![7; 8 << 20]).unwrap_err();
    assert_eq!((error.kind(), error.into_value().len()), (ErrorKind::OutOfSpace, 8 << 20));
    assert!(small.is_empty());
}

#[test]
fn the_order_is_that_of_insertion() {
    let d: Dict<u32, u32> = Dict::new().unwrap();
    let mut model: Vec<(u32, u32)> = Vec::new();
    let mut random = support::random::Random::new(77);
    for step in 0..20_000 {
        let key = random.below(300) as u32;
        let place = model.iter().position(|(k, _)| *k == key);
        match (random.below(10), place) {
            (0..=5, Some(place)) => model[place].1 = step,
            (0..=5, None) => model.push((key, step)),
            (6, _) => {
                assert_eq!(d.popitem().unwrap(), model.pop());
                continue;
            }
            (_, Some(place)) => {
                assert_eq!(d.remove(&key).unwrap(), Some(model.remove(place).1));
                continue;
            }
            (_, None) => continue,
        }
        d.set(&key, &step).unwrap();
        if step % 500 == 0 {
            assert_eq!(d.items().unwrap(), model);
        }
    }
    assert_eq!(d.snapshot().unwrap(), model);
    assert_eq!(d.items().unwrap().into_iter().collect::<HashMap<_, _>>(), model.into_iter().collect());
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Key {
    Int(i64),
    Text(String),
    Float(f64),
}

#[test]
fn keys_of_several_types_and_floats_are_told_apart_by_their_encoding() {
    let d: Dict<Key, u32> = Dict::new().unwrap();
    let nan = f64::from_bits(0x7ff8_0000_0000_0001);
    let keys = [
        Key::Int(0),
        Key::Text(text("0")),
        Key::Float(0.0),
        Key::Float(-0.0),
        Key::Float(f64::NAN),
        Key::Float(nan),
        Key::Float(0.25),
        Key::Int(-1),
    ];
    for (k, key) in keys.iter().enumerate() {
        assert_eq!(d.insert(key, &(k as u32)).unwrap(), None);
    }
    for (k, key) in keys.iter().enumerate() {
        assert_eq!(d.get(key).unwrap(), Some(k as u32));
        assert_eq!(d.insert(key, &0).unwrap(), Some(k as u32));
    }
    assert_eq!(d.len(), keys.len());
}

#[test]
fn a_key_is_found_as_what_it_is_borrowed_as() {
    let d: Dict<Vec<u8>, u8> = Dict::new().unwrap();
    for len in [0usize, 1, 127, 128, 300, 20_000] {
        let key = vec![0xff; len];
        d.set(&key, &1).unwrap();
        assert_eq!(d.get(&key[..]).unwrap(), Some(1));
        assert_eq!(d.remove(&key[..]).unwrap(), Some(1));
    }
    let pairs: Dict<(u8, String), BTreeMap<u8, u8>> = Dict::new().unwrap();
    pairs.set(&(1, text("x")), &BTreeMap::from([(1, 2)])).unwrap();
    assert_eq!(pairs.get(&(1, text("x"))).unwrap(), Some(BTreeMap::from([(1, 2)])));
    let boxed: Dict<Box<str>, ()> = Dict::new().unwrap();
    boxed.set("x", &()).unwrap();
    assert!(boxed.contains_key("x").unwrap());
}

#[test]
fn text_is_as_in_rust_and_as_in_python() {
    let d: Dict<Key, Option<String>> = Dict::new().unwrap();
    assert_eq!((format!("{d:?}"), format!("{d}")), (text("{}"), text("{}")));
    d.set(&Key::Int(1), &Some(text("1"))).unwrap();
    d.set(&Key::Text(text("2")), &None).unwrap();
    d.set(&Key::Float(0.25), &Some(text("it's"))).unwrap();
    assert_eq!(format!("{d:?}"), "{Int(1): Some(\"1\"), Text(\"2\"): None, Float(0.25): Some(\"it's\")}");
    assert_eq!(d.to_string(), "{1: '1', '2': None, 0.25: \"it's\"}");
}

#[test]
fn updates_of_many_processes_are_all_there() {
    let _guard = watchdog(Duration::from_secs(60));
    let d: Dict<String, u64> = Dict::new().unwrap();
    let count = |d: Dict<String, u64>| {
        for _ in 0..2000 {
            d.update("update", |n| Some(n.unwrap_or(0) + 1)).unwrap();
            d.entry(text("entry")).and_modify(|n| *n += 1).or_insert(1).unwrap();
            while d
                .get("exchange")
                .map(|n| !d.compare_exchange("exchange", n.as_ref(), Some(&(n.unwrap_or(0) + 1))).unwrap())
                .unwrap()
            {}
        }
    };
    let children: Vec<_> = (0..3).map(|_| Process::spawn(count, d.clone()).unwrap()).collect();
    count(d.clone());
    children.into_iter().for_each(|child| child.join().unwrap());
    assert_eq!(d.snapshot().unwrap().into_iter().map(|(_, n)| n).collect::<Vec<_>>(), [8000; 3]);
}

#[test]
fn an_update_can_take_out_and_put_in_and_do_nothing() {
    let d: Dict<u8, u8> = Dict::new().unwrap();
    assert_eq!(d.update(&1, |v| v).unwrap(), None);
    assert!(d.is_empty());
    assert_eq!(d.update(&1, |v| v.or(Some(5))).unwrap(), Some(5));
    assert_eq!(d.update(&1, |v| v.map(|v| v + 1)).unwrap(), Some(6));
    assert_eq!(d.update(&1, |_| None).unwrap(), None);
    assert!(d.is_empty());
    // Somebody comes in between, once.
    d.set(&1, &1).unwrap();
    let mut shown = Vec::new();
    let done = d.update(&1, |v| {
        shown.push(v);
        if shown.len() == 1 {
            d.set(&1, &100).unwrap();
        }
        v.map(|v| v + 1)
    });
    assert_eq!((done.unwrap(), shown), (Some(101), vec![Some(1), Some(100)]));
}

#[test]
fn a_comparison_is_of_what_is_there() {
    let d: Dict<u8, String> = Dict::new().unwrap();
    let (a, b) = (text("a"), text("b"));
    assert!(d.compare_exchange(&1, None, None).unwrap());
    assert!(!d.compare_exchange(&1, Some(&a), Some(&b)).unwrap() && d.is_empty());
    assert!(d.compare_exchange(&1, None, Some(&a)).unwrap());
    assert!(!d.compare_exchange(&1, None, Some(&b)).unwrap() && !d.compare_exchange(&1, None, None).unwrap());
    assert!(!d.compare_exchange(&1, Some(&b), Some(&b)).unwrap());
    assert!(d.compare_exchange(&1, Some(&a), Some(&b)).unwrap());
    assert_eq!(d.get(&1).unwrap(), Some(b.clone()));
    assert!(!d.compare_exchange(&1, Some(&a), None).unwrap());
    assert!(d.compare_exchange(&1, Some(&b), None).unwrap() && d.is_empty());
}

#[test]
fn an_entry_is_changed_or_made() {
    let d: Dict<u8, Vec<u8>> = Dict::new().unwrap();
    assert_eq!(d.entry(1).key(), &1);
    assert_eq!(d.entry(1).and_modify(|v| v.push(9)).apply().unwrap(), None);
    assert!(d.is_empty());
    assert_eq!(d.entry(1).or_default().unwrap(), []);
    assert_eq!(d.entry(1).and_modify(|v| v.push(1)).and_modify(|v| v.push(2)).or_insert(vec![7]).unwrap(), [1, 2]);
    assert_eq!(d.entry(1).or_insert_with(|| panic!("there is one")).unwrap(), [1, 2]);
    assert_eq!(d.entry(2).or_insert_with(|| vec![3]).unwrap(), [3]);
    assert_eq!(d.entry(2).and_modify(|v| v.push(4)).apply().unwrap(), Some(vec![3, 4]));
    assert_eq!(d.items().unwrap(), [(1, vec![1, 2]), (2, vec![3, 4])]);
}

#[test]
fn who_panics_or_dies_in_an_update_has_changed_nothing() {
    let _guard = watchdog(Duration::from_secs(60));
    let d: Dict<u8, u8> = Dict::from_pairs([(1, 1)]).unwrap();
    let there = d.clone();
    let panicked = std::panic::catch_unwind(move || there.update(&1, |_| panic!("in f")));
    assert!(panicked.is_err());
    assert_eq!(d.update(&1, |v| v.map(|v| v + 1)).unwrap(), Some(2));
    let inside = Event::new().unwrap();
    let stay = |(d, inside): (Dict<u8, u8>, Event)| {
        let _ = d.update(&1, |_| {
            inside.set();
            Event::new().unwrap().wait();
            Some(9)
        });
    };
    let child = Process::builder().daemon(true).spawn(stay, (d.clone(), inside.clone())).unwrap();
    inside.wait();
    // Nobody is held up by who is in there.
    assert_eq!(d.update(&1, |v| v.map(|v| v + 1)).unwrap(), Some(3));
    child.kill().unwrap();
    child.join().unwrap_err();
    assert_eq!(d.items().unwrap(), [(1, 3)]);
}

#[test]
fn the_builder_refuses_what_cannot_be() {
    for shards in [0, 257, usize::MAX] {
        assert_eq!(Dict::<u8, u8>::builder().shards(shards).build().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    for shards in [1, 3, 256] {
        let d: Dict<u32, u32> = Dict::builder().shards(shards).build().unwrap();
        d.extend((0..1000).map(|k| (k, k))).unwrap();
        assert_eq!(d.keys().unwrap(), (0..1000).collect::<Vec<_>>());
    }
}

#[test]
fn another_type_is_refused() {
    let d: Dict<u8, u8> = Dict::new().unwrap();
    let family = Segment::family().unwrap();
    assert_eq!(Dict::<u8, u16>::open(&family, d.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);
    assert_eq!(ByteDict::open(&family, d.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);
    Dict::<u8, u8>::open(&family, d.id()).unwrap().set(&1, &2).unwrap();
    assert_eq!(d.get(&1).unwrap(), Some(2));
}

#[test]
fn what_is_removed_is_given_back() {
    let segment = Segment::anonymous(256 << 20).unwrap();
    let dict = ByteDict::new_in(&segment).unwrap();
    let empty = segment.stats().used_bytes;
    for _ in 0..3 {
        (0..50_000u32).for_each(|k| dict.set(&k.to_le_bytes(), &[1; 100]).unwrap());
        let full = segment.stats().used_bytes - empty;
        assert!(full > 50_000 * 100, "{full} B");
        (0..50_000u32).for_each(|k| assert!(dict.remove(&k.to_le_bytes()).unwrap()));
        // The tables stay as they are until the next insertion.
        let left = segment.stats().used_bytes - empty;
        assert!(left < full / 2, "{left} of {full} B are left");
    }
}
