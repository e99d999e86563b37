//! Dictionaries that others change: what a snapshot shows, who is woken, who is not waited for.

mod support;

use std::time::{Duration, Instant};

use kinfolk::shared::WaitError;
use kinfolk::{ByteDict, Dict, ErrorKind, Event, Process};
use nix::sys::signal::Signal;
use support::random::Random;
use support::stopped::{signal, stop};
use support::watchdog;

/// Sets `a`, then `b` to the same number, for ever; they are in different shards for one of the keys at least.
fn climb((d, begun): (Dict<String, u64>, Event)) {
    for n in 1.. {
        for k in 0..8 {
            d.set(&format!("{k}"), &n).unwrap();
        }
        begun.set();
    }
}

/// Whether the numbers are those of one moment: none greater than one before it, all within one step.
#[track_caller]
fn is_of_one_moment(items: &[(String, u64)]) {
    let numbers: Vec<u64> = items.iter().map(|(_, n)| *n).collect();
    assert_eq!(numbers.len(), 8);
    assert!(numbers.is_sorted_by(|a, b| a >= b) && numbers[0] - numbers[7] <= 1, "{numbers:?}");
}

#[test]
fn a_snapshot_is_of_one_moment() {
    let _guard = watchdog(Duration::from_secs(60));
    let d: Dict<String, u64> = Dict::from_pairs((0..8).map(|k| (format!("{k}"), 0))).unwrap();
    let begun = Event::new().unwrap();
    let child = Process::builder().daemon(true).spawn(climb, (d.clone(), begun.clone())).unwrap();
    begun.wait();
    let first = d.get("0").unwrap().unwrap();
    for _ in 0..500 {
        is_of_one_moment(&d.snapshot().unwrap());
    }
    while d.get("0").unwrap().unwrap() < first + 100 {}
    is_of_one_moment(&d.copy().unwrap().items().unwrap());
    child.kill().unwrap();
    child.join().unwrap_err();
    is_of_one_moment(&d.snapshot().unwrap());
}

#[test]
fn who_is_killed_with_all_locks_holds_nobody_up() {
    let _guard = watchdog(Duration::from_secs(120));
    // So much that somebody always changes something while it is read: then it is read with all locks.
    let d: Dict<u32, Vec<u32>> = Dict::from_pairs((0..2000).map(|k| (k, vec![k; 50]))).unwrap();
    let write = |(d, begun): (Dict<u32, Vec<u32>>, Event)| {
        for k in (0..2000).cycle() {
            d.set(&k, &vec![k; 50]).unwrap();
            begun.set();
        }
    };
    let writing = Event::new().unwrap();
    let writer = Process::builder().daemon(true).spawn(write, (d.clone(), writing.clone())).unwrap();
    writing.wait();
    let victim = |(d, begun): (Dict<u32, Vec<u32>>, Event)| {
        begun.set();
        while d.snapshot().unwrap().len() == 2000 {}
    };
    let (mut random, mut most) = (Random::new(5), 0);
    for round in 0..400 {
        if round >= 15 && most > 1 {
            break;
        }
        let begun = Event::new().unwrap();
        let child = Process::builder().daemon(true).spawn(victim, (d.clone(), begun.clone())).unwrap();
        begun.wait();
        // Without taking the others' CPU.
        assert!(!Event::new().unwrap().wait_timeout(Duration::from_micros(random.below(100_000))));
        child.kill().unwrap();
        let killed = Instant::now();
        // Each shard, and all of them.
        for k in 0..64 {
            d.set(&k, &vec![k; 50]).unwrap();
        }
        let items = d.snapshot().unwrap();
        assert!(items.len() == 2000 && items.iter().all(|(k, v)| v[..] == [*k; 50]));
        assert!(killed.elapsed() < Duration::from_secs(10));
        let pid = child.pid();
        let _ = child.join();
        let deaths = kinfolk::Segment::family().unwrap().deaths();
        most = most.max(deaths.iter().find(|death| death.pid == pid).map_or(0, |death| death.losses.locks));
    }
    assert!(most > 1, "nobody died with several locks");
    writer.kill().unwrap();
    writer.join().unwrap_err();
}

#[test]
fn a_watch_sees_what_changes() {
    let _guard = watchdog(Duration::from_secs(60));
    let d: Dict<u8, String> = Dict::new().unwrap();
    let mut watch = d.watch(&1).unwrap();
    assert!(matches!(watch.try_changed(), Err(WaitError::WouldBlock)));
    d.set(&2, &"other".to_owned()).unwrap();
    assert!(matches!(watch.changed_timeout(Duration::from_millis(20)), Err(WaitError::Timeout(None))));
    d.set(&1, &"a".to_owned()).unwrap();
    assert_eq!(watch.try_changed().unwrap(), Some("a".to_owned()));
    assert!(matches!(watch.try_changed(), Err(WaitError::WouldBlock)));
    // An equal value is another entry.
    d.set(&1, &"a".to_owned()).unwrap();
    assert_eq!(watch.changed().unwrap(), Some("a".to_owned()));
    d.remove(&1).unwrap();
    assert_eq!(watch.changed_timeout(Duration::ZERO).unwrap(), None);
    d.set(&1, &"b".to_owned()).unwrap();
    d.clear().unwrap();
    assert!(matches!(watch.try_changed(), Err(WaitError::WouldBlock)));
}

#[test]
fn watchers_and_writers_take_turns() {
    let _guard = watchdog(Duration::from_secs(60));
    let d: Dict<String, u32> = Dict::from_pairs([("ping".to_owned(), 0), ("pong".to_owned(), 0)]).unwrap();
    let answer = |d: Dict<String, u32>| {
        let mut ping = d.watch("ping").unwrap();
        d.set("ready", &1).unwrap();
        let mut last = 0;
        while last < 500 {
            last = ping.changed().unwrap().unwrap();
            d.set("pong", &last).unwrap();
        }
    };
    let mut ready = d.watch("ready").unwrap();
    let child = Process::spawn(answer, d.clone()).unwrap();
    ready.changed().unwrap();
    let mut pong = d.watch("pong").unwrap();
    for n in 1..=500 {
        d.set("ping", &n).unwrap();
        assert_eq!(pong.changed().unwrap(), Some(n));
    }
    child.join().unwrap();
}

#[test]
fn a_watcher_survives_the_writers() {
    let _guard = watchdog(Duration::from_secs(120));
    // One shard, so that every victim may die with its lock.
    let d: Dict<u32, Vec<u8>> = Dict::builder().shards(1).build().unwrap();
    let mut random = Random::new(9);
    let victim = |(d, begun): (Dict<u32, Vec<u8>>, Event)| {
        for n in 1u32.. {
            d.set(&2, &vec![n as u8; 3000]).unwrap();
            begun.set();
        }
    };
    let write = |d: Dict<u32, Vec<u8>>| d.set(&1, &vec![1]).unwrap();
    for _ in 0..40 {
        let begun = Event::new().unwrap();
        let child = Process::builder().daemon(true).spawn(victim, (d.clone(), begun.clone())).unwrap();
        begun.wait();
        let mut watch = d.watch(&1).unwrap();
        random.moment();
        child.kill().unwrap();
        // Nobody else finds the death out before the watcher does, or the one that it waits for.
        let writer = Process::spawn(write, d.clone()).unwrap();
        assert_eq!(watch.changed().unwrap(), Some(vec![1]));
        writer.join().unwrap();
        let _ = child.join();
    }
}

#[test]
fn the_patient_are_told_who_keeps_them_waiting() {
    let _guard = watchdog(Duration::from_secs(120));
    let d: Dict<u32, Vec<u32>> = Dict::builder().shards(1).build().unwrap();
    let begun = Event::new().unwrap();
    let write = |(d, begun): (Dict<u32, Vec<u32>>, Event)| {
        let values = [vec![1; 700], vec![2; 700]];
        for value in values.iter().cycle() {
            d.set(&1, value).unwrap();
            begun.set();
        }
    };
    let child = Process::builder().name("slow").daemon(true).spawn(write, (d.clone(), begun.clone())).unwrap();
    begun.wait();
    let hasty = d.with_patience(Duration::from_millis(20));
    let mut random = Random::new(3);
    let mut stalled = 0;
    for _ in 0..2000 {
        random.moment();
        stop(child.pid());
        match hasty.set(&2, &vec![]) {
            Ok(()) => {}
            Err(error) => {
                stalled += 1;
                assert_eq!(error.kind(), ErrorKind::Stalled);
                assert!(error.to_string().contains(&format!("slow (pid {})", child.pid())), "{error}");
                // Readers wait for nobody.
                assert_eq!(hasty.get(&1).unwrap().unwrap().len(), 700);
                assert!(hasty.contains_key(&1).unwrap());
                // Nothing that was given is lost.
                assert_eq!(hasty.setdefault(&3, vec![7]).unwrap_err().into_value(), [7]);
                assert_eq!(hasty.try_insert(4, vec![8]).unwrap_err().into_pair(), (4, vec![8]));
                assert_eq!(hasty.pop_or(&1, vec![9]).unwrap_err().into_value(), [9]);
                assert_eq!(hasty.entry(3).or_insert(vec![7]).unwrap_err().into_value(), [7]);
                for error in [
                    hasty.remove(&1).unwrap_err(),
                    hasty.popitem().unwrap_err(),
                    hasty.clear().unwrap_err(),
                    hasty.update(&1, |_| None).unwrap_err(),
                ] {
                    assert_eq!(error.kind(), ErrorKind::Stalled);
                }
                assert!(!hasty.contains_key(&3).unwrap() && !hasty.contains_key(&4).unwrap());
            }
        }
        signal(child.pid(), Signal::SIGCONT);
        if stalled == 3 {
            break;
        }
    }
    assert!(stalled > 0, "never stopped with the lock");
    d.set(&2, &vec![5]).unwrap();
    child.kill().unwrap();
    child.join().unwrap_err();
}

#[test]
fn bytes_are_never_half_of_one_value_and_half_of_another() {
    let _guard = watchdog(Duration::from_secs(60));
    let d = ByteDict::new().unwrap();
    let begun = Event::new().unwrap();
    let write = |(d, begun): (ByteDict, Event)| {
        for n in 0u32.. {
            d.set(b"k", &vec![n as u8; 10 + n as usize % 5000]).unwrap();
            begun.set();
        }
    };
    let child = Process::builder().daemon(true).spawn(write, (d.clone(), begun.clone())).unwrap();
    begun.wait();
    for _ in 0..5000 {
        let held = d.get_ref(b"k").unwrap().unwrap();
        let (value, again) = (held.to_vec(), held.to_vec());
        assert!(value.iter().all(|byte| *byte == value[0]) && value == again);
    }
    child.kill().unwrap();
    child.join().unwrap_err();
}
