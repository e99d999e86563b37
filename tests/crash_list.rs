//! Lists under real SIGKILL at random moments: every change was made or was not, readers go on, nothing is lost.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kinfolk::{ErrorKind, Event, List, Process, Queue, Segment, Value};
use nix::sys::signal::Signal;
use support::random::Random;
use support::stopped::{signal, stop};
use support::victim::kill_one;
use support::watchdog;
use support::watchdog::Watchdog;

const KILLS: u32 = 300;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(150))
}

/// Elements of each form.
fn all() -> Vec<Vec<u8>> {
    [1, 30, 600, 5000, 2, 20_000, 3].map(|len| vec![len as u8; len]).to_vec()
}

fn is_whole(mut values: Vec<Vec<u8>>) -> bool {
    let mut all = all();
    values.sort();
    all.sort();
    values == all
}

#[test]
fn readers_see_whole_lists_while_writers_are_killed() {
    let _guard = guard();
    let segment = Segment::anonymous(64 << 20).unwrap();
    let list = List::from_slice_in(&segment, &all()).unwrap();
    let begun = Event::new().unwrap();
    fn write((list, begun, seed): (List<Vec<u8>>, Event, u64)) {
        let mut random = Random::new(seed);
        loop {
            let (a, b) = (random.below(7) as usize, random.below(7) as usize);
            match random.below(5) {
                0 => list.reverse().unwrap(),
                1 => list.swap(a, b).unwrap(),
                2 => list.sort_by_key(|v| v.len() * (a + 1) % 11).unwrap(),
                3 => list.update(a, |v| v).unwrap(),
                _ => {
                    let mut turned = all();
                    turned.rotate_left(a);
                    list.set_slice(.., &turned).unwrap();
                }
            }
            begun.set();
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !stop.load(Ordering::Relaxed) {
                assert!(is_whole(list.to_vec().unwrap()), "half a change");
                for value in &list {
                    let value = value.unwrap();
                    assert!(all().contains(&value), "an element that never was: {} B", value.len());
                }
                read += 1;
            }
            read
        });
        let mut random = Random::new(31);
        for k in 0..KILLS {
            kill_one(&mut random, write, (list.clone(), begun.clone(), 2 * u64::from(k) + 1), &begun, || {
                assert!(is_whole(list.to_vec().unwrap()), "half a change");
                list.set_slice(.., all()).unwrap();
                assert_eq!(list.to_vec().unwrap(), all());
            });
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > KILLS, "the reader did not read");
    });
    list.check().unwrap();
    list.clear().unwrap();
    drop(list);
    segment.sweep();
    assert_eq!(segment.stats().used_bytes, 0, "{}", segment.inspect());
}

#[test]
fn what_was_pushed_is_there_and_what_was_popped_is_not() {
    let _guard = guard();
    let (list, begun) = (List::<(u64, String)>::new().unwrap(), Event::new().unwrap());
    let (pushed, popped) = (Value::new(0u64).unwrap(), Value::new(0u64).unwrap());
    type Work = (List<(u64, String)>, Value<u64>, Value<u64>, Event);
    fn work((list, pushed, popped, begun): Work) {
        loop {
            for _ in 0..20 {
                let next = pushed.load();
                list.push((next, "x".repeat(next as usize % 300))).unwrap();
                pushed.store(next + 1);
            }
            for _ in 0..20 {
                let next = popped.load();
                assert_eq!(list.pop_at(0).unwrap().0, next);
                popped.store(next + 1);
            }
            begun.set();
        }
    }
    let mut random = Random::new(37);
    let mut between = 0;
    for _ in 0..KILLS {
        kill_one(&mut random, work, (list.clone(), pushed.clone(), popped.clone(), begun.clone()), &begun, || {
            let found = list.to_vec().unwrap();
            let (from, to) = (popped.load(), pushed.load());
            // One more of each than was noted.
            let first = found.first().map_or(to, |(n, _)| *n);
            let next = found.last().map_or(first, |(n, _)| *n + 1);
            assert!((from..=from + 1).contains(&first), "{first} is the first, {from} were popped");
            assert!((to..=to + 1).contains(&next) || found.is_empty(), "{next} is the next, {to} were pushed");
            assert!(found.iter().zip(first..).all(|((n, text), k)| *n == k && text.len() == *n as usize % 300));
            between += u32::from(first != from || !found.is_empty() && next != to);
            list.clear().unwrap();
            list.check().unwrap();
            popped.store(to);
        });
    }
    println!("{between} of {KILLS} died between a change and its note");
}

#[test]
fn what_a_dead_process_had_taken_out_is_given_up_and_the_rest_stays() {
    let _guard = guard();
    let segment = Segment::anonymous(16 << 20).unwrap();
    let used = segment.stats().used_bytes;
    let (list, begun) = (List::<Queue<u64>>::new_in(&segment).unwrap(), Event::new().unwrap());
    fn work((list, begun): (List<Queue<u64>>, Event)) {
        loop {
            let queue = list.pop_at(0).unwrap();
            queue.put(1).unwrap();
            list.push(queue).unwrap();
            begun.set();
        }
    }
    let mut random = Random::new(41);
    let mut lost = 0;
    for _ in 0..KILLS / 2 {
        while list.len().unwrap() < 4 {
            list.push(Queue::builder().bytes(4096).segment(&segment).build().unwrap()).unwrap();
        }
        kill_one(&mut random, work, (list.clone(), begun.clone()), &begun, || {
            for queue in list.to_vec().unwrap() {
                while queue.try_get().is_ok() {}
            }
            lost += 4 - list.len().unwrap();
        });
    }
    println!("{lost} queues went with those who had taken them out");
    segment.sweep();
    list.check().unwrap();
    drop((list, begun));
    assert_eq!(segment.stats().used_bytes, used, "{}", segment.inspect());
}

#[test]
fn a_stopped_writer_holds_up_writers_for_their_patience_and_no_reader() {
    let _guard = guard();
    let (list, begun) = (List::<Vec<u8>>::from_slice(&all()).unwrap(), Event::new().unwrap());
    fn write((list, begun): (List<Vec<u8>>, Event)) {
        loop {
            list.reverse().unwrap();
            begun.set();
        }
    }
    let child = Process::builder().name("slow").daemon(true).spawn(write, (list.clone(), begun.clone())).unwrap();
    begun.wait();
    let hasty = list.with_patience(Duration::from_millis(5));
    let mut random = Random::new(3);
    let mut stalled = 0;
    while stalled < 5 {
        random.moment();
        stop(child.pid());
        let refused = match hasty.push(vec![7]) {
            Ok(()) => {
                hasty.remove(&vec![7]).unwrap();
                signal(child.pid(), Signal::SIGCONT);
                continue;
            }
            Err(e) => e,
        };
        stalled += 1;
        assert_eq!(refused.kind(), ErrorKind::Stalled);
        assert!(refused.to_string().contains(&format!("slow (pid {})", child.pid())), "{refused}");
        assert_eq!(refused.into_value(), [7], "what was given is lost");
        assert_eq!(hasty.pop().unwrap_err().kind(), ErrorKind::Stalled);
        assert_eq!(hasty.extend([vec![1]]).unwrap_err().kind(), ErrorKind::Stalled);
        // Readers wait for nobody.
        assert!(all().contains(&hasty.get(3).unwrap()) && list.len().unwrap() == 7);
        signal(child.pid(), Signal::SIGCONT);
        // Whoever has the patience goes on with it.
        list.push(vec![8]).unwrap();
        assert!(list.remove(&vec![8]).unwrap());
    }
    // And if it is killed where it stands, nobody waits any more.
    stop(child.pid());
    child.kill().unwrap();
    list.push(vec![9]).unwrap();
    assert!(list.remove(&vec![9]).unwrap());
    assert!(is_whole(list.to_vec().unwrap()));
    let _ = child.join();
}
