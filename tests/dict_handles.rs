//! Handles as values: an object lives exactly as long as a process has it open or an entry names it.

mod support;

use std::time::Duration;

use kinfolk::{Dict, ErrorKind, Event, Lock, Namespace, Process, Queue, Segment};
use serde::{Deserialize, Serialize};
use support::watchdog;

fn text(text: &str) -> String {
    text.to_owned()
}

/// A segment of its own, so that objects can be counted; a dictionary in it, and how many objects that is.
fn alone<V: Serialize + serde::de::DeserializeOwned + 'static>() -> (Segment, Dict<String, V>) {
    let segment = Segment::anonymous(32 << 20).unwrap();
    let d = Dict::new_in(&segment).unwrap();
    assert_eq!(segment.stats().objects, 1);
    (segment, d)
}

fn queue_in(segment: &Segment, message: u32) -> Queue<u32> {
    let queue = Queue::builder().bytes(4 << 10).segment(segment).build().unwrap();
    queue.put(message).unwrap();
    queue
}

#[test]
fn an_object_lives_as_long_as_an_entry_names_it() {
    let (segment, d) = alone::<Queue<u32>>();
    let objects = || segment.stats().objects;
    // Removed without being looked at, removed and dropped, popped, replaced, cleared, popped as the last.
    d.set("k", &queue_in(&segment, 1)).unwrap();
    assert_eq!(objects(), 2);
    assert!(d.discard("k").unwrap());
    assert_eq!(objects(), 1);
    d.set("k", &queue_in(&segment, 2)).unwrap();
    let queue = d.remove("k").unwrap().unwrap();
    assert_eq!((objects(), queue.get().unwrap()), (2, 2));
    drop(queue);
    assert_eq!(objects(), 1);
    d.set("k", &queue_in(&segment, 3)).unwrap();
    d.set("k", &queue_in(&segment, 4)).unwrap();
    assert_eq!(objects(), 2);
    let old = d.insert("k", &queue_in(&segment, 5)).unwrap().unwrap();
    assert_eq!((objects(), old.get().unwrap()), (3, 4));
    drop(old);
    assert_eq!((objects(), d.get("k").unwrap().unwrap().get().unwrap()), (2, 5));
    d.set("l", &queue_in(&segment, 6)).unwrap();
    assert_eq!(objects(), 3);
    let (_, last) = d.popitem().unwrap().unwrap();
    assert_eq!(last.get().unwrap(), 6);
    drop(last);
    assert_eq!(objects(), 2);
    d.clear().unwrap();
    assert_eq!(objects(), 1);
    for k in 0..50 {
        d.set(&k.to_string(), &queue_in(&segment, k)).unwrap();
    }
    assert_eq!(objects(), 51);
    d.retain(|_, queue| queue.get().unwrap() % 2 == 0).unwrap();
    assert_eq!(objects(), 26);
    // One that is kept, and one in two entries.
    let kept = d.get("0").unwrap().unwrap();
    d.set("again", &d.get("2").unwrap().unwrap()).unwrap();
    d.discard("2").unwrap();
    assert_eq!(objects(), 26);
    drop(d);
    assert_eq!(objects(), 1);
    kept.put(7).unwrap();
    assert_eq!(kept.get().unwrap(), 7);
    drop(kept);
    assert_eq!(objects(), 0);
}

#[test]
fn what_is_not_put_in_is_not_named() {
    let (segment, d) = alone::<Queue<u32>>();
    let queue = queue_in(&segment, 1);
    d.set("k", &queue).unwrap();
    let (one, other) = (queue.clone(), queue_in(&segment, 2));
    assert!(d.compare_exchange("k", Some(&one), Some(&other)).unwrap());
    assert!(!d.compare_exchange("k", Some(&one), Some(&one)).unwrap());
    d.try_insert(text("k"), one).unwrap_err();
    drop((queue, other));
    assert_eq!(segment.stats().objects, 2);
    assert_eq!(d.setdefault("k", queue_in(&segment, 3)).unwrap().get().unwrap(), 2);
    assert_eq!(segment.stats().objects, 2);
}

/// A dictionary that holds dictionaries.
#[derive(Debug, Serialize, Deserialize)]
enum Tree {
    Leaf(Queue<u32>),
    Node(Dict<String, Tree>),
    Number(u32),
}

#[test]
fn nested_objects_live_and_go_together() {
    let (segment, d) = alone::<Tree>();
    let mut inner = d.clone();
    for _ in 0..3 {
        let next = Dict::new_in(&segment).unwrap();
        inner.set("down", &Tree::Node(next.clone())).unwrap();
        inner = next;
    }
    inner.set("leaf", &Tree::Leaf(queue_in(&segment, 9))).unwrap();
    drop(inner);
    assert_eq!(segment.stats().objects, 5);
    let mut inner = d.clone();
    for _ in 0..3 {
        let Some(Tree::Node(next)) = inner.get("down").unwrap() else { panic!("no dictionary") };
        inner = next;
    }
    let Some(Tree::Leaf(queue)) = inner.get("leaf").unwrap() else { panic!("no queue") };
    assert_eq!(queue.get().unwrap(), 9);
    drop(inner);
    assert!(d.discard("down").unwrap());
    assert_eq!(segment.stats().objects, 2);
    drop((queue, d));
    assert_eq!(segment.stats().objects, 0);
}

#[test]
fn a_dictionary_may_contain_itself() {
    let (segment, d) = alone::<Tree>();
    d.set("me", &Tree::Node(d.clone())).unwrap();
    d.set("n", &Tree::Number(1)).unwrap();
    let Some(Tree::Node(me)) = d.get("me").unwrap() else { panic!("no dictionary") };
    me.set("n", &Tree::Number(2)).unwrap();
    assert!(matches!(d.get("n").unwrap(), Some(Tree::Number(2))));
    assert_eq!(format!("{d:?}"), "{\"me\": Node(Dict(2 entries)), \"n\": Number(2)}");
    assert_eq!(d.to_string(), format!("{{'me': <object {}>, 'n': 2}}", d.id().index));
    drop((d, me));
    assert_eq!(segment.stats().objects, 0);
}

/// What `f` does in a child that then stays, and is killed.
fn in_one_that_dies(f: impl Fn((Dict<String, Tree>, Event)) + Copy + Send + 'static, d: &Dict<String, Tree>) {
    let done = Event::new().unwrap();
    let child = Process::builder().daemon(true).spawn(f, (d.clone(), done.clone())).unwrap();
    done.wait();
    child.kill().unwrap();
    child.join().unwrap_err();
}

/// Processes that make objects: the family's, which other tests use as well, so objects are looked for by their number.
fn exists(queue: kinfolk::segment::ObjectId) -> bool {
    match Queue::<u32>::open(&Segment::family().unwrap(), queue) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Gone);
            false
        }
    }
}

fn id_in(d: &Dict<String, Tree>, key: &str) -> kinfolk::segment::ObjectId {
    match d.get(key).unwrap() {
        Some(Tree::Leaf(queue)) => queue.id(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn objects_outlive_their_makers_death_as_long_as_they_are_named() {
    let _guard = watchdog(Duration::from_secs(60));
    let d: Dict<String, Tree> = Dict::new().unwrap();
    let make = |(d, done): (Dict<String, Tree>, Event)| {
        let queue = queue_in(&Segment::family().unwrap(), 5);
        let inner = Dict::from_pairs([(text("deep"), Tree::Leaf(queue.clone()))]).unwrap();
        d.set("inner", &Tree::Node(inner.clone())).unwrap();
        for k in ["discarded", "removed", "replaced", "kept"] {
            d.set(k, &Tree::Leaf(queue_in(&Segment::family().unwrap(), 6))).unwrap();
        }
        done.set();
        Event::new().unwrap().wait();
        drop((queue, inner));
    };
    in_one_that_dies(make, &d);
    let Some(Tree::Node(inner)) = d.get("inner").unwrap() else { panic!("no dictionary") };
    let deep = id_in(&inner, "deep");
    let ids = ["discarded", "removed", "replaced", "kept"].map(|k| id_in(&d, k));
    assert!(exists(deep) && ids.iter().all(|id| exists(*id)));
    // The one that takes them out dies as well, with all of them open.
    let take = |(d, done): (Dict<String, Tree>, Event)| {
        d.discard("discarded").unwrap();
        let removed = d.remove("removed").unwrap();
        let replaced = d.insert("replaced", &Tree::Number(1)).unwrap();
        let kept = d.get("kept").unwrap();
        let inner = d.remove("inner").unwrap();
        done.set();
        Event::new().unwrap().wait();
        drop((removed, replaced, kept, inner));
    };
    in_one_that_dies(take, &d);
    assert_eq!(ids.map(exists), [false, false, false, true]);
    assert!(exists(deep), "open here");
    drop(inner);
    assert!(!exists(deep));
    d.clear().unwrap();
    assert!(!exists(ids[3]));
}

#[test]
fn killed_at_any_moment_nobody_loses_or_leaves_an_object() {
    let _guard = watchdog(Duration::from_secs(120));
    let family = Segment::family().unwrap();
    let mut random = support::random::Random::new(11);
    let d: Dict<String, Tree> = Dict::new().unwrap();
    let shuffle = |(d, begun): (Dict<String, Tree>, Event)| {
        let family = Segment::family().unwrap();
        for n in 0u32.. {
            let key = (n % 5).to_string();
            match n % 4 {
                0 | 2 => d.set(&key, &Tree::Leaf(queue_in(&family, n))).unwrap(),
                1 => drop(d.remove(&key).unwrap()),
                _ => drop(d.insert(&key, &Tree::Number(n)).unwrap()),
            }
            begun.set();
        }
    };
    for _ in 0..60 {
        let begun = Event::new().unwrap();
        let child = Process::builder().daemon(true).spawn(shuffle, (d.clone(), begun.clone())).unwrap();
        begun.wait();
        random.moment();
        child.kill().unwrap();
        child.join().unwrap_err();
        for (_, value) in d.items().unwrap() {
            if let Tree::Leaf(queue) = value {
                // What its maker put in, of whom nothing else is left; and in again, for the next look.
                let n = queue.try_get().unwrap();
                queue.put(n).unwrap();
            }
        }
    }
    // What is left is open here, or named by what is: other tests in this program have their own.
    d.clear().unwrap();
    let queues = family.inspect().to_string().matches("queue").count();
    assert!(queues < 30, "{queues} queues:\n{}", family.inspect());
}

#[test]
fn a_value_is_decoded_right_while_others_replace_it() {
    let _guard = watchdog(Duration::from_secs(60));
    let d: Dict<String, Queue<u32>> = Dict::new().unwrap();
    let begun = Event::new().unwrap();
    let replace = |(d, begun): (Dict<String, Queue<u32>>, Event)| {
        let family = Segment::family().unwrap();
        for n in 0.. {
            d.set("k", &queue_in(&family, n)).unwrap();
            begun.set();
        }
    };
    let child = Process::builder().daemon(true).spawn(replace, (d.clone(), begun.clone())).unwrap();
    begun.wait();
    let mut last = 0;
    for k in 0..1000 {
        let queue = match k % 3 {
            0 => d.get("k").unwrap().unwrap(),
            1 => d.values().unwrap().pop().unwrap(),
            _ => d.snapshot().unwrap().pop().unwrap().1,
        };
        let n = queue.try_get().unwrap();
        queue.put(n).unwrap();
        assert!(n >= last);
        last = n;
    }
    child.kill().unwrap();
    child.join().unwrap_err();
}

#[test]
fn locks_and_namespaces_are_values_too() {
    let d: Dict<u8, (Lock, Namespace, Event)> = Dict::new().unwrap();
    d.set(&1, &(Lock::new(()).unwrap(), Namespace::new().unwrap(), Event::new().unwrap())).unwrap();
    let child = |d: Dict<u8, (Lock, Namespace, Event)>| {
        let (lock, names, event) = d.get(&1).unwrap().unwrap();
        let _guard = lock.lock().unwrap();
        names.set("who", &"child".to_owned()).unwrap();
        event.set();
    };
    Process::spawn(child, d.clone()).unwrap().join().unwrap();
    let (lock, names, event) = d.get(&1).unwrap().unwrap();
    assert!(event.is_set() && lock.holder().is_none());
    assert_eq!(names.get::<String>("who").unwrap(), Some("child".to_owned()));
}
