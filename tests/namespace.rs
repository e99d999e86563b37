//! Namespaces: values of different types under names, in many processes.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use kinfolk::{ErrorKind, Event, Namespace, Process, Queue, Segment};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use support::random::Random;
use support::stopped::{signal, stop};
use support::watchdog;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i32,
    y: Option<f64>,
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn each_name_has_a_type_of_its_own() {
    let n = Namespace::new().unwrap();
    assert!(n.is_empty());
    assert_eq!(n.get::<u8>("nothing").unwrap(), None);
    let point = Point { x: -1, y: Some(0.5) };
    let map = BTreeMap::from([(1, text("one"))]);
    n.set("point", &point).unwrap();
    n.set("bytes", &vec![0u8, 255]).unwrap();
    n.set("map", &map).unwrap();
    n.set("unit", &()).unwrap();
    assert_eq!(n.get("point").unwrap(), Some(point));
    assert_eq!(n.get("bytes").unwrap(), Some(vec![0u8, 255]));
    assert_eq!(n.get("map").unwrap(), Some(map));
    assert_eq!(n.get("unit").unwrap(), Some(()));
    assert_eq!((n.len(), n.names().unwrap().join(" ")), (4, text("point bytes map unit")));
    assert!(n.contains("map").unwrap() && !n.contains("nap").unwrap());
    assert!(n.remove("map").unwrap() && !n.remove("map").unwrap() && !n.contains("map").unwrap());
    // The last value says which type a name has.
    n.set("bytes", &7u8).unwrap();
    assert_eq!(n.get("bytes").unwrap(), Some(7u8));
    assert_eq!(n.names().unwrap().join(" "), "point bytes unit");
}

#[test]
fn another_type_is_refused_and_named() {
    let n = Namespace::new().unwrap();
    n.set("x", &1u32).unwrap();
    for error in [
        n.get::<i32>("x").unwrap_err(),
        n.get::<Point>("x").err().unwrap(),
        n.update("x", |x: Option<u64>| x).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::TypeMismatch);
        assert!(error.to_string().contains("u32") && error.to_string().contains("`x`"), "{error}");
    }
    assert_eq!(n.type_name("x").unwrap().as_deref(), Some("u32"));
    assert_eq!(n.type_name("y").unwrap(), None);
    assert_eq!(n.get("x").unwrap(), Some(1u32));
    let set = kinfolk::Set::<u32>::open(&Segment::family().unwrap(), n.id());
    assert_eq!(set.err().unwrap().kind(), ErrorKind::TypeMismatch);
}

#[test]
fn text_is_pythons() {
    let n = Namespace::new().unwrap();
    assert_eq!(n.to_string(), "Namespace()");
    n.set("name", &text("Bob")).unwrap();
    n.set("job", &Some(text("Build\ner"))).unwrap();
    n.set("_hidden", &1).unwrap();
    n.set("at", &Point { x: 1, y: None }).unwrap();
    n.set("flags", &(true, 0.25, vec![b'a'], [1, 2])).unwrap();
    let expected = "Namespace(at=Point(x=1, y=None), flags=(True, 0.25, [97], (1, 2)), job='Build\\ner', name='Bob')";
    assert_eq!((n.to_string(), format!("{n:?}")), (text(expected), text(expected)));
    // Of a long value the beginning.
    n.set("long", &vec![1u32; 100_000]).unwrap();
    let long = n.to_string();
    assert!(
        long.len() < 500
            && long.contains("long=[1, 1, 1, ")
            && long.contains("...")
            && n.get::<Vec<u32>>("long").unwrap().unwrap().len() == 100_000
    );
    assert_eq!(n.get("_hidden").unwrap(), Some(1));
}

#[test]
fn updates_of_many_processes_are_all_there() {
    let _guard = watchdog(Duration::from_secs(60));
    let n = Namespace::new().unwrap();
    let count = |n: Namespace| {
        for _ in 0..2000 {
            n.update("count", |count| Some(count.unwrap_or(0u64) + 1)).unwrap();
        }
    };
    let children: Vec<_> = (0..3).map(|_| Process::spawn(count, n.clone()).unwrap()).collect();
    count(n.clone());
    children.into_iter().for_each(|child| child.join().unwrap());
    assert_eq!(n.get("count").unwrap(), Some(8000u64));
    assert_eq!(n.update("count", |_| None::<u64>).unwrap(), None);
    assert!(n.is_empty());
}

#[test]
fn handles_are_values_and_live_as_long_as_they_have_a_name() {
    let _guard = watchdog(Duration::from_secs(60));
    let n = Namespace::new().unwrap();
    let inner = Namespace::new().unwrap();
    let fill = |n: Namespace| {
        let queue = Queue::<u32>::new(4).unwrap();
        queue.put(5).unwrap();
        n.get::<Namespace>("inner").unwrap().unwrap().set("queue", &queue).unwrap();
    };
    n.set("inner", &inner).unwrap();
    drop(inner);
    Process::spawn(fill, n.clone()).unwrap().join().unwrap();
    let inner: Namespace = n.get("inner").unwrap().unwrap();
    assert!(inner.to_string().starts_with("Namespace(queue=<object "), "{inner}");
    let queue: Queue<u32> = inner.get("queue").unwrap().unwrap();
    assert_eq!(queue.get().unwrap(), 5);
    let (id, family) = (queue.id(), Segment::family().unwrap());
    drop(queue);
    assert_eq!(Queue::<u32>::open(&family, id).unwrap().len(), 0);
    drop(inner);
    n.set("inner", &1).unwrap();
    assert_eq!(Queue::<u32>::open(&family, id).err().unwrap().kind(), ErrorKind::Gone);
}

#[test]
fn who_is_killed_has_set_a_value_or_not() {
    let _guard = watchdog(Duration::from_secs(120));
    let n = Namespace::new().unwrap();
    n.set("other", &1u8).unwrap();
    let write = |(n, begun): (Namespace, Event)| {
        for k in 0u32.. {
            match k % 3 {
                0 => n.set("v", &vec![k; k as usize % 700]).unwrap(),
                1 => n.set("v", &format!("{k}").repeat(3)).unwrap(),
                _ => assert!(n.remove("v").unwrap()),
            }
            begun.set();
        }
    };
    let mut random = Random::new(12);
    let mut seen = [0; 3];
    for _ in 0..60 {
        let begun = Event::new().unwrap();
        let child = Process::builder().daemon(true).spawn(write, (n.clone(), begun.clone())).unwrap();
        begun.wait();
        random.moment();
        child.kill().unwrap();
        n.set("mine", &2u8).unwrap();
        child.join().unwrap_err();
        match n.type_name("v").unwrap().as_deref() {
            None => seen[0] += 1,
            Some("alloc::string::String") => {
                let v: String = n.get("v").unwrap().unwrap();
                let (a, rest) = v.split_at(v.len() / 3);
                assert!(a.repeat(2) == rest, "{v}");
                seen[1] += 1;
            }
            Some(_) => {
                let v: Vec<u32> = n.get("v").unwrap().unwrap();
                assert!(v.iter().all(|k| *k as usize % 700 == v.len()), "{v:?}");
                seen[2] += 1;
            }
        }
        assert_eq!((n.get("other").unwrap(), n.get("mine").unwrap()), (Some(1u8), Some(2u8)));
        assert!(n.remove("mine").unwrap());
    }
    assert!(seen.iter().filter(|times| **times > 0).count() > 1, "always the same: {seen:?}");
}

#[test]
fn the_hasty_are_told_who_keeps_them_waiting() {
    let _guard = watchdog(Duration::from_secs(120));
    let n = Namespace::new().unwrap();
    n.set("x", &1u8).unwrap();
    let begun = Event::new().unwrap();
    let write = |(n, begun): (Namespace, Event)| {
        for k in (0..=255u8).cycle() {
            n.set("large", &vec![k; 3000]).unwrap();
            begun.set();
        }
    };
    let child = Process::builder().name("slow").daemon(true).spawn(write, (n.clone(), begun.clone())).unwrap();
    begun.wait();
    let hasty = n.with_patience(Duration::from_millis(5));
    let (mut random, mut stalled) = (Random::new(2), 0);
    for _ in 0..3000 {
        random.moment();
        stop(child.pid());
        if let Err(error) = hasty.set("x", &1u8) {
            stalled += 1;
            assert_eq!(error.kind(), ErrorKind::Stalled);
            assert!(error.to_string().contains(&format!("slow (pid {})", child.pid())), "{error}");
            assert_eq!(hasty.remove("x").unwrap_err().kind(), ErrorKind::Stalled);
            assert_eq!(hasty.update("x", |x: Option<u8>| x).unwrap_err().kind(), ErrorKind::Stalled);
            // Who reads waits for nobody, and nothing has changed.
            assert_eq!(hasty.get("x").unwrap(), Some(1u8));
        }
        signal(child.pid(), Signal::SIGCONT);
        if stalled == 3 {
            break;
        }
    }
    assert!(stalled > 0, "never stopped with the lock");
    child.kill().unwrap();
    child.join().unwrap_err();
}
