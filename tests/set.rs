//! Sets: Python's methods, the same set in many processes, and what a death leaves.

mod support;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use kinfolk::{Dict, Error, ErrorKind, Event, Process, Segment, Set};
use nix::sys::signal::Signal;
use support::random::Random;
use support::stopped::{signal, stop};
use support::watchdog;

fn set(elements: impl IntoIterator<Item = u32>) -> Set<u32> {
    Set::from_iter(elements).unwrap()
}

#[test]
fn elements_are_in_once_and_in_their_order() {
    let s: Set<String> = Set::new().unwrap();
    assert!(s.is_empty());
    assert!(s.add("b").unwrap() && s.add("a").unwrap() && !s.add("b").unwrap());
    assert!(s.contains("a").unwrap() && !s.contains("c").unwrap());
    assert_eq!((s.len(), s.iter().unwrap().collect::<Vec<_>>()), (2, vec!["b".to_owned(), "a".to_owned()]));
    assert!(s.discard("b").unwrap() && !s.discard("b").unwrap());
    let missing = s.remove("b").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("'b'"), "{missing}");
    s.add("c").unwrap();
    s.remove("a").unwrap();
    assert_eq!((s.pop().unwrap().as_deref(), s.pop().unwrap()), (Some("c"), None));
    s.add("d").unwrap();
    let copy = s.copy().unwrap();
    s.clear().unwrap();
    assert!(s.is_empty() && copy.contains("d").unwrap() && copy.id() != s.id());
}

#[test]
fn the_algebra_is_that_of_a_hash_set() {
    let mut random = Random::new(4);
    for _ in 0..60 {
        let mut some = || (0..random.below(9)).map(|_| random.below(10) as u32).collect::<HashSet<_>>();
        let (a, b) = (some(), some());
        let (s, t) = (set(a.clone()), set(b.clone()));
        assert_eq!((&s | &t).unwrap(), &a | &b);
        assert_eq!((&s & &t).unwrap(), &a & &b);
        assert_eq!((&s - &t).unwrap(), &a - &b);
        assert_eq!((&s ^ &t).unwrap(), &a ^ &b);
        // Another side that is no set of ours, and that names elements twice.
        let twice: Vec<u32> = b.iter().chain(&b).copied().collect();
        assert_eq!(s.union(&twice).unwrap(), &a | &b);
        assert_eq!(s.intersection(&b.iter().copied().collect::<BTreeSet<_>>()).unwrap(), &a & &b);
        assert_eq!(s.difference(&twice[..]).unwrap(), &a - &b);
        assert_eq!(s.symmetric_difference(&twice).unwrap(), &a ^ &b);
        assert_eq!(s.is_subset(&twice).unwrap(), a.is_subset(&b));
        assert_eq!(s.is_superset(&twice).unwrap(), a.is_superset(&b));
        assert_eq!(s.is_proper_subset(&twice).unwrap(), a.is_subset(&b) && a != b);
        assert_eq!(s.is_proper_superset(&twice).unwrap(), a.is_superset(&b) && a != b);
        assert_eq!(s.is_disjoint(&t).unwrap(), a.is_disjoint(&b));
        // The methods that change the set.
        type Update = fn(&Set<u32>, &Vec<u32>) -> Result<(), Error>;
        let updates: [(Update, HashSet<u32>); 4] = [
            (|s, other| s.update(other), &a | &b),
            (|s, other| s.intersection_update(other), &a & &b),
            (|s, other| s.difference_update(other), &a - &b),
            (|s, other| s.symmetric_difference_update(other), &a ^ &b),
        ];
        for (update, expected) in updates {
            let changed = s.copy().unwrap();
            update(&changed, &twice).unwrap();
            assert_eq!(changed.snapshot().unwrap(), expected);
        }
        assert_eq!((s.snapshot().unwrap(), t.snapshot().unwrap()), (a, b));
    }
}

#[test]
fn a_set_beside_itself() {
    let s = set(0..5);
    assert!(s.is_subset(&s).unwrap() && s.is_superset(&s).unwrap() && !s.is_proper_subset(&s).unwrap());
    s.update(&s).unwrap();
    assert_eq!(s.len(), 5);
    s.symmetric_difference_update(&s).unwrap();
    assert!(s.is_empty() && s.is_disjoint(&s).unwrap());
}

#[test]
fn each_element_is_put_in_and_taken_out_by_one() {
    let _guard = watchdog(Duration::from_secs(60));
    let s: Set<u32> = Set::new().unwrap();
    let add = |s: Set<u32>| (0..500).filter(|k| s.add(k).unwrap()).count();
    let children: Vec<_> = (0..3).map(|_| Process::spawn(add, s.clone()).unwrap()).collect();
    let added = add(s.clone()) + children.into_iter().map(|child| child.join().unwrap()).sum::<usize>();
    assert_eq!((added, s.len()), (500, 500));
    let pop = |s: Set<u32>| std::iter::from_fn(|| s.pop().unwrap()).collect::<Vec<_>>();
    let children: Vec<_> = (0..3).map(|_| Process::spawn(pop, s.clone()).unwrap()).collect();
    let mut all = pop(s.clone());
    all.extend(children.into_iter().flat_map(|child| child.join().unwrap()));
    all.sort_unstable();
    assert!(all.into_iter().eq(0..500));
}

#[test]
fn text_is_as_in_rust_and_as_in_python() {
    let s: Set<String> = Set::new().unwrap();
    assert_eq!((s.to_string(), format!("{s:?}")), ("set()".to_owned(), "{}".to_owned()));
    s.update(&["one".to_owned(), "it's".to_owned()]).unwrap();
    assert_eq!(s.to_string(), "{'one', \"it's\"}");
    assert_eq!(format!("{s:?}"), r#"{"one", "it's"}"#);
}

#[test]
fn a_set_is_a_value_and_another_type_is_refused() {
    let d: Dict<String, Set<u32>> = Dict::new().unwrap();
    d.set("s", &set([1, 2])).unwrap();
    let child = |d: Dict<String, Set<u32>>| d.get("s").unwrap().unwrap().add(&3).unwrap();
    assert!(Process::spawn(child, d.clone()).unwrap().join().unwrap());
    let s = d.remove("s").unwrap().unwrap();
    assert_eq!(s.snapshot().unwrap(), HashSet::from([1, 2, 3]));
    let family = Segment::family().unwrap();
    assert_eq!(Set::<u64>::open(&family, s.id()).err().unwrap().kind(), ErrorKind::TypeMismatch);
    assert_eq!(Dict::<u32, ()>::open(&family, s.id()).err().unwrap().kind(), ErrorKind::TypeMismatch);
    assert_eq!(Set::<u32>::open(&family, s.id()).unwrap().len(), 3);
    let id = s.id();
    drop(s);
    assert_eq!(Set::<u32>::open(&family, id).err().unwrap().kind(), ErrorKind::Gone);
}

/// Adds numbers and takes each out again.
fn come_and_go((s, begun): (Set<u64>, Event)) {
    for n in 1.. {
        assert!(s.add(&n).unwrap());
        begun.set();
        s.discard(&n).unwrap();
    }
}

#[test]
fn who_is_killed_has_put_an_element_in_or_not() {
    let _guard = watchdog(Duration::from_secs(120));
    let mut random = Random::new(8);
    let mut left = 0;
    for _ in 0..60 {
        let s: Set<u64> = Set::from_iter([0]).unwrap();
        let begun = Event::new().unwrap();
        let child = Process::builder().daemon(true).spawn(come_and_go, (s.clone(), begun.clone())).unwrap();
        begun.wait();
        random.moment();
        child.kill().unwrap();
        // At once, without waiting for anybody to find the death out.
        assert!(s.contains(&0).unwrap() && s.add(&u64::MAX).unwrap());
        child.join().unwrap_err();
        let all: Vec<u64> = s.iter().unwrap().collect();
        assert!(all.len() == s.len() && (2..=3).contains(&all.len()) && all[0] == 0, "{all:?}");
        assert!(all.iter().all(|n| s.contains(n).unwrap()));
        left += all.len() - 2;
        s.clear().unwrap();
        assert!(s.add(&1).unwrap() && s.len() == 1);
    }
    assert!(left > 0, "nobody died with an element in");
}

#[test]
fn who_reads_waits_for_nobody_who_is_stopped() {
    let _guard = watchdog(Duration::from_secs(120));
    let s: Set<u64> = Set::from_iter([0]).unwrap();
    let begun = Event::new().unwrap();
    // The other shards are free: what stalls is an element beside one that is being changed.
    let child = Process::builder().name("slow").daemon(true).spawn(come_and_go, (s.clone(), begun.clone())).unwrap();
    begun.wait();
    let hasty = s.with_patience(Duration::ZERO);
    let (mut random, mut stalled) = (Random::new(6), 0);
    for _ in 0..3000 {
        random.moment();
        stop(child.pid());
        // Never blocks.
        assert!(s.contains(&0).unwrap());
        if let Err(error) = hasty.clear() {
            stalled += 1;
            assert_eq!(error.kind(), ErrorKind::Stalled);
            assert!(error.to_string().contains("slow"), "{error}");
        }
        // It may have been taken out, from one of the shards before.
        signal(child.pid(), Signal::SIGCONT);
        s.add(&0).unwrap();
        if stalled == 3 {
            break;
        }
    }
    assert!(stalled > 0, "never stopped with a lock");
    child.kill().unwrap();
    child.join().unwrap_err();
}
