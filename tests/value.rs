//! Values and arrays: what is read is whole, what is calculated is not lost, and what is wrong is an error.

mod support;

use std::time::Duration;

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};
use kinfolk::{
    Array, ArrayError, Condvar, ErrorKind, Event, LockError, Process, Queue, RawArray, RawValue, Segment, Value,
    WaitError,
};
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(60))
}

/// No word: 24 bytes with an alignment of 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
struct Place {
    x: u32,
    y: f32,
    name: [u8; 16],
}

/// No word, and not every byte is one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, NoUninit, CheckedBitPattern)]
struct Switch {
    on: bool,
    level: [u8; 2],
}

/// Odd sizes and alignments: 3 bytes, and a word whose type needs no alignment.
type Three = [u8; 3];
type Four = [u8; 4];

#[test]
fn every_type_is_read_as_it_was_written() {
    fn goes_round<T: NoUninit + CheckedBitPattern + PartialEq + std::fmt::Debug>(one: T, other: T) {
        let value = Value::new(one).unwrap();
        assert_eq!(value.get().unwrap(), one);
        value.set(other).unwrap();
        assert_eq!(value.get().unwrap(), other);
        assert_eq!(value.replace(one).unwrap(), other);
        value.try_set(other).unwrap();
        value.set_timeout(one, Duration::ZERO).unwrap();
        assert_eq!(value.update(|_| other).unwrap(), (one, other));
        assert_eq!(value.try_update(|_| one).unwrap(), (other, one));
        assert_eq!(value.update_timeout(Duration::ZERO, |now| now).unwrap(), (one, one));
        let array = Array::from_slice(&[one, other, one]).unwrap();
        assert_eq!(array.to_vec().unwrap(), [one, other, one]);
        array.set(0, other).unwrap();
        assert_eq!((array.get(0).unwrap(), array.get(2).unwrap()), (other, one));
        array.fill(other).unwrap();
        assert_eq!(array.to_vec().unwrap(), [other; 3]);
        array.write_slice(1, &[one, one]).unwrap();
        assert_eq!(array.iter().map(Result::unwrap).collect::<Vec<_>>(), [other, one, one]);
    }
    goes_round(true, false);
    goes_round('a', '\u{10ffff}');
    goes_round(0u8, 255);
    goes_round(-1i16, 1);
    goes_round(-1i32, 1);
    goes_round(u64::MAX, 1);
    goes_round(0.5f32, -0.5);
    goes_round(f64::MAX, f64::MIN);
    goes_round::<Three>([1, 2, 3], [4, 5, 6]);
    goes_round::<Four>([1, 2, 3, 4], [5, 6, 7, 8]);
    goes_round([1u64, 2], [3, 4]);
    goes_round([7u8; 1024], [9; 1024]);
    goes_round((), ());
    goes_round(Place { x: 1, y: 2.0, name: [3; 16] }, Place::default());
    goes_round(Switch { on: true, level: [1, 2] }, Switch { on: false, level: [3, 4] });
}

#[test]
fn numbers_calculate_in_place() {
    macro_rules! integers {
        ($($int:ty)*) => {$({
            let value = Value::<$int>::new(5).unwrap();
            assert_eq!((value.add(3), value.sub(1), value.load()), (5, 8, 7));
            assert_eq!((value.and(0b110), value.or(0b1000), value.xor(0b11), value.load()), (7, 6, 14, 13));
            assert_eq!((value.min(20), value.load(), value.min(2), value.load()), (13, 13, 13, 2));
            assert_eq!((value.max(1), value.load(), value.max(9), value.swap(1)), (2, 2, 2, 9));
            assert_eq!((value.compare_exchange(2, 3), value.compare_exchange(1, 4)), (Err(1), Ok(1)));
            value.store(<$int>::MAX);
            assert_eq!((value.add(1), value.sub(1), value.load()), (<$int>::MAX, <$int>::MIN, <$int>::MAX));
        })*};
    }
    integers!(u8 i8 u16 i16 u32 i32 u64 i64 usize isize);
    macro_rules! floats {
        ($($float:ty)*) => {$({
            let value = Value::<$float>::new(1.5).unwrap();
            assert_eq!((value.add(1.0), value.sub(0.25), value.load()), (1.5, 2.5, 2.25));
            assert_eq!((value.min(-1.0), value.max(3.5), value.swap(0.5)), (2.25, -1.0, 3.5));
            assert_eq!((value.compare_exchange(1.0, 2.0), value.compare_exchange(0.5, 2.0)), (Err(0.5), Ok(0.5)));
            assert_eq!(value.max(<$float>::NAN), 2.0);
            assert_eq!(value.load(), 2.0);
        })*};
    }
    floats!(f32 f64);
    assert_eq!(Value::new(-1i8).unwrap().min(1), -1, "signed numbers are compared as such");
}

#[test]
fn neighbours_in_a_word_are_left_alone() {
    let bytes = Array::<u8>::new(16).unwrap();
    for k in 0..16 {
        bytes.at(k).unwrap().sub(1);
        assert_eq!(bytes.at(k).unwrap().add(k as u8 + 1), 255);
    }
    assert_eq!(bytes.to_vec().unwrap(), (0..16).collect::<Vec<u8>>());
}

#[test]
fn two_processes_lose_nothing() {
    let _guard = guard();
    const ROUNDS: u32 = 20_000;
    type Shared = (Value<u64>, Value<f32>, Array<u8>, Value<[u64; 3]>, Array<[u16; 9]>);
    let shared: Shared = (
        Value::new(0).unwrap(),
        Value::new(0.0).unwrap(),
        Array::new(3).unwrap(),
        Value::new([0; 3]).unwrap(),
        Array::new(2).unwrap(),
    );
    let work = |(word, float, bytes, large, larges): Shared| {
        for _ in 0..ROUNDS {
            word.add(1);
            float.add(1.0);
            bytes.at(1).unwrap().add(1);
            large.update(|n| n.map(|n| n + 1)).unwrap();
            larges.at(1).unwrap().update(|n| n.map(|n| n.wrapping_add(1))).unwrap();
        }
    };
    let children = [Process::spawn(work, shared.clone()).unwrap(), Process::spawn(work, shared.clone()).unwrap()];
    work(shared.clone());
    children.into_iter().for_each(|child| child.join().unwrap());
    let (word, float, bytes, large, larges) = shared;
    let all = u64::from(ROUNDS) * 3;
    assert_eq!((word.load(), float.load()), (all, all as f32));
    assert_eq!(bytes.to_vec().unwrap(), [0, all as u8, 0]);
    assert_eq!(large.get().unwrap(), [all; 3]);
    assert_eq!(larges.to_vec().unwrap(), [[0; 9], [all as u16; 9]]);
}

#[test]
fn what_is_read_beside_writers_is_whole() {
    let _guard = guard();
    type Large = [u64; 64];
    type Shared = (Value<Large>, Array<Large>, Event);
    let shared: Shared = (Value::new([0; 64]).unwrap(), Array::new(9).unwrap(), Event::new().unwrap());
    fn write((value, array, stop): Shared) {
        for n in 0u64.. {
            value.set([n; 64]).unwrap();
            // 0 and 8 share a lock.
            array.set(0, [n; 64]).unwrap();
            array.set(8, [n; 64]).unwrap();
            if stop.is_set() {
                return;
            }
        }
    }
    let start = || Process::builder().daemon(true).spawn(write, shared.clone()).unwrap();
    let writers = [start(), start()];
    let (value, array, stop) = &shared;
    let mut seen = std::collections::HashSet::new();
    for round in 0.. {
        let found = [value.get().unwrap(), array.get(0).unwrap(), array.slice(8..).unwrap()[0]];
        for large in found {
            assert!(large.iter().all(|word| *word == large[0]), "torn: {large:?}");
        }
        seen.insert(found[0][0]);
        if round >= 20_000 && seen.len() > 100 {
            break;
        }
    }
    stop.set();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

#[test]
fn an_update_that_panics_changes_nothing_and_locks_nothing() {
    let value = Value::new([1u64; 4]).unwrap();
    let ended = std::panic::catch_unwind(|| value.update(|_| panic!("on purpose")));
    assert!(ended.is_err());
    assert_eq!(value.get().unwrap(), [1; 4]);
    value.try_set([2; 4]).unwrap();
    // It may use the value itself.
    let mut calls = 0;
    let (old, new) = value
        .update(|now| {
            calls += 1;
            if calls == 1 {
                value.set([5; 4]).unwrap();
            }
            now.map(|n| n + 1)
        })
        .unwrap();
    assert_eq!((calls, old, new), (2, [5; 4], [6; 4]));
}

#[test]
fn beyond_the_end_is_an_error_and_nothing_is_written() {
    fn refuses<T: NoUninit + CheckedBitPattern + PartialEq + std::fmt::Debug>(one: T, other: T) {
        let array = Array::from_slice(&[one; 3]).unwrap();
        let beyond = |error: ArrayError, at: usize| {
            assert!(matches!(error, ArrayError::OutOfBounds { index, len: 3 } if index == at), "{error}");
        };
        beyond(array.get(3).unwrap_err(), 3);
        beyond(array.at(usize::MAX).unwrap_err(), usize::MAX);
        beyond(array.set(3, other).unwrap_err(), 3);
        beyond(array.try_set(4, other).unwrap_err(), 4);
        beyond(array.set_timeout(5, other, Duration::ZERO).unwrap_err(), 5);
        beyond(array.slice(1..4).unwrap_err(), 4);
        beyond(array.slice(..=3).unwrap_err(), 4);
        beyond(array.slice(..=usize::MAX).unwrap_err(), usize::MAX);
        #[allow(clippy::reversed_empty_ranges)]
        beyond(array.slice(2..1).unwrap_err(), 2);
        beyond(array.write_slice(2, &[other, other]).unwrap_err(), 4);
        beyond(array.write_slice(usize::MAX, &[other, other]).unwrap_err(), usize::MAX);
        beyond(array.read_into(1, &mut [other; 3]).unwrap_err(), 4);
        beyond(array.lock().unwrap().swap_elements(0, 3).unwrap_err(), 3);
        let wrong = array.copy_from_slice(&[other; 2]).unwrap_err();
        assert!(matches!(wrong, ArrayError::WrongLength { given: 2, wanted: 3 }), "{wrong}");
        assert_eq!(array.to_vec().unwrap(), [one; 3]);
        assert_eq!(array.slice(3..).unwrap(), []);
        array.copy_from_slice(&[other; 3]).unwrap();
        assert_eq!(array.slice(1..=1).unwrap(), [other]);
        let mut two = [one; 2];
        array.read_into(1, &mut two).unwrap();
        assert_eq!(two, [other; 2]);
    }
    refuses(1u16, 2);
    refuses([1u64; 2], [2; 2]);
}

#[test]
fn many_elements_arrive_from_every_place() {
    let all: Vec<u16> = (0..3000).collect();
    let array = Array::from_slice(&all).unwrap();
    for (start, end) in [(0, 3000), (1, 2999), (3, 4), (7, 1031), (513, 513)] {
        assert_eq!(array.slice(start..end).unwrap(), all[start..end]);
        let mut some = vec![0; end - start];
        array.read_into(start, &mut some).unwrap();
        assert_eq!(some, all[start..end]);
        array.write_slice(start, &vec![9; end - start]).unwrap();
        assert!(
            array
                .to_vec()
                .unwrap()
                .iter()
                .zip(&all)
                .enumerate()
                .all(|(k, (found, was))| { *found == if (start..end).contains(&k) { 9 } else { *was } })
        );
        array.copy_from_slice(&all).unwrap();
    }
    array.fill(7).unwrap();
    assert!(array.to_vec().unwrap().iter().all(|n| *n == 7));
    let empty = Array::<u64>::new(0).unwrap();
    assert_eq!((empty.len(), empty.to_vec().unwrap()), (0, vec![]));
    assert_eq!(empty.to_string(), "[]");
    empty.fill(1).unwrap();
}

#[test]
fn the_memory_of_words_can_be_copied_as_it_is() {
    let array = Array::from_slice(&[1u32, 2, 3]).unwrap();
    array.as_shm().write(4, &7u32.to_ne_bytes());
    assert_eq!(array.to_vec().unwrap(), [1, 7, 3]);
    assert_eq!(array.as_shm().len(), 12);
}

#[test]
fn they_print_what_they_hold() {
    assert_eq!(Value::new(-5i32).unwrap().to_string(), "-5");
    assert_eq!(format!("{:?}", Value::new(1.0f64).unwrap()), "Value(1.0)");
    assert_eq!(format!("{:?}", RawValue::new('x').unwrap()), "RawValue('x')");
    let array = Array::from_slice(&[[1u8; 3], [2; 3]]).unwrap();
    assert_eq!(array.to_string(), "[[1, 1, 1], [2, 2, 2]]");
    assert_eq!(format!("{array:?} {:?}", array.raw()), format!("Array({array}) RawArray({array})"));
    assert_eq!(format!("{:?}", array.at(1).unwrap()), "Element(1: [2, 2, 2])");
}

#[test]
fn they_are_opened_as_what_they_are() {
    let segment = Segment::family().unwrap();
    let (value, array) = (Value::new(5u32).unwrap(), Array::from_slice(&[1u32, 2]).unwrap());
    assert_eq!(Value::<u32>::open(&segment, value.id()).unwrap().load(), 5);
    let raw = RawValue::<u32>::open(&segment, value.id()).unwrap();
    raw.add(1);
    assert_eq!(raw.synchronized().lock().unwrap().load(), 6);
    assert_eq!(RawArray::<u32>::open(&segment, array.id()).unwrap().len(), 2);
    let kind = |error: kinfolk::Error| error.kind();
    assert_eq!(kind(Value::<i32>::open(&segment, value.id()).unwrap_err()), ErrorKind::TypeMismatch);
    assert_eq!(kind(Value::<u32>::open(&segment, array.id()).unwrap_err()), ErrorKind::TypeMismatch);
    let id = value.id();
    drop((value, raw));
    assert_eq!(kind(Value::<u32>::open(&segment, id).unwrap_err()), ErrorKind::Gone);
    assert_eq!(kind(Array::<[u64; 2]>::new(usize::MAX / 8).unwrap_err()), ErrorKind::OutOfSpace);
    assert_eq!(kind(Array::<u8>::new(1 << 40).unwrap_err()), ErrorKind::OutOfSpace);
}

#[test]
fn they_travel_in_messages() {
    let _guard = guard();
    let queue = Queue::new(0).unwrap();
    queue.put((Value::new(1u8).unwrap(), RawArray::from_slice(&[[1u64, 2]]).unwrap())).unwrap();
    let child = |queue: Queue<(Value<u8>, RawArray<[u64; 2]>)>| {
        let (value, array) = queue.get().unwrap();
        value.store(7);
        array.set(0, [3, 4]).unwrap();
        queue.put((value, array)).unwrap();
    };
    Process::spawn(child, queue.clone()).unwrap().join().unwrap();
    let (value, array) = queue.get().unwrap();
    assert_eq!((value.load(), array.get(0).unwrap()), (7, [3, 4]));
}

#[test]
fn the_lock_keeps_out_those_who_take_it() {
    let _guard = guard();
    let value = Value::new(0u64).unwrap();
    let outer = value.lock().unwrap();
    let inner = value.try_lock().unwrap();
    assert_eq!((value.depth(), value.holder().unwrap().pid), (2, std::process::id()));
    let other = |value: Value<u64>| {
        assert!(matches!(value.try_lock(), Err(LockError::WouldBlock)));
        let error = value.lock_timeout(Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, LockError::Timeout(Some(_))), "{error}");
        // Single operations go on.
        value.add(1);
    };
    Process::spawn(other, value.clone()).unwrap().join().unwrap();
    inner.store(outer.load() + 1);
    drop((inner, outer));
    assert_eq!((value.depth(), value.holder().is_none(), value.load()), (0, true, 2));

    let add = |value: Value<u64>| {
        for _ in 0..1000 {
            let value = value.lock().unwrap();
            value.store(value.load() + 1);
        }
    };
    let children = [Process::spawn(add, value.clone()).unwrap(), Process::spawn(add, value.clone()).unwrap()];
    children.into_iter().for_each(|child| child.join().unwrap());
    assert_eq!(value.load(), 2002);
}

#[test]
fn the_next_locker_is_told_of_a_death() {
    let _guard = guard();
    let array = Array::from_slice(&[1u8, 2]).unwrap();
    let begun = Event::new().unwrap();
    fn hold((array, begun): (Array<u8>, Event)) {
        let _guard = array.lock().unwrap();
        begun.set();
        loop {
            std::thread::park();
        }
    }
    let child = Process::builder().daemon(true).spawn(hold, (array.clone(), begun.clone())).unwrap();
    begun.wait();
    child.kill().unwrap();
    let Err(LockError::OwnerDied(mut guard)) = array.lock() else { panic!("nobody was told") };
    guard.swap_elements(0, 1).unwrap();
    guard.mark_consistent();
    drop(guard);
    assert_eq!(array.lock().unwrap().to_vec().unwrap(), [2, 1]);
    let _ = child.join();
}

#[test]
fn a_condition_waits_with_its_lock() {
    let _guard = guard();
    let (turn, changed) = (Value::new(0u32).unwrap(), Condvar::new().unwrap());
    let child = |(turn, changed): (Value<u32>, Condvar)| {
        let guard = changed.wait_for(turn.lock().unwrap(), |turn| turn.load() == 1).unwrap();
        guard.store(2);
        drop(guard);
        changed.notify_all();
    };
    let child = Process::spawn(child, (turn.clone(), changed.clone())).unwrap();
    turn.lock().unwrap().store(1);
    changed.notify_all();
    drop(changed.wait_for(turn.lock().unwrap(), |turn| turn.load() == 2).unwrap());
    child.join().unwrap();
}

#[test]
fn a_writer_that_is_stopped_holds_up_writers_and_no_reader() {
    let _guard = guard();
    let (value, begun) = (Value::new([0u64; 512]).unwrap(), Event::new().unwrap());
    fn write((value, begun): (Value<[u64; 512]>, Event)) {
        for n in 0u64.. {
            value.set([n; 512]).unwrap();
            begun.set();
        }
    }
    let child = Process::builder().daemon(true).spawn(write, (value.clone(), begun.clone())).unwrap();
    begun.wait();
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.pid() as i32), signal).unwrap();
    // Stopped again and again, until it happens to be stopped in the middle of a write.
    loop {
        signal(nix::sys::signal::Signal::SIGSTOP);
        until_stopped(child.pid());
        let found = value.get().unwrap();
        assert!(found.iter().all(|word| *word == found[0]), "torn");
        if let Err(e) = value.try_set([7; 512]) {
            assert!(matches!(e, WaitError::WouldBlock), "{e}");
            let e = value.set_timeout([7; 512], Duration::from_millis(5)).unwrap_err();
            assert!(matches!(&e, WaitError::Timeout(Some(holder)) if holder.pid == child.pid()), "{e}");
            let e = value.update_timeout(Duration::from_millis(5), |now| now).unwrap_err();
            assert!(matches!(e, WaitError::Timeout(Some(_))), "{e}");
            assert_eq!(value.get().unwrap(), found);
            break;
        }
        signal(nix::sys::signal::Signal::SIGCONT);
    }
    child.kill().unwrap();
    value.set([8; 512]).unwrap();
    assert_eq!(value.get().unwrap(), [8; 512]);
    let _ = child.join();
}

/// Waits until a process has stopped.
fn until_stopped(pid: u32) {
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    while !is_stopped() {
        std::thread::yield_now();
    }
}
