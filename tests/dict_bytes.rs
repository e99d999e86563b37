//! Dictionaries of bytes, and values that are read where they lie.

mod support;

use std::time::Duration;

use kinfolk::{ByteDict, ErrorKind, Event, Process, Segment};
use support::watchdog;

#[test]
fn bytes_have_the_methods_of_values() {
    let d = ByteDict::new().unwrap();
    assert_eq!(d.insert(b"a", b"1").unwrap(), None);
    assert_eq!(d.insert(b"a", b"2").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(!d.try_insert(b"a", b"3").unwrap() && d.try_insert(b"b", b"3").unwrap());
    assert!(d.compare_exchange(b"a", Some(b"2"), Some(b"4")).unwrap());
    assert!(!d.compare_exchange(b"a", Some(b"2"), None).unwrap());
    assert!(d.compare_exchange(b"c", None, None).unwrap());
    assert_eq!(d.update(b"c", |v| v.is_none().then(|| vec![5])).unwrap().as_deref(), Some(&[5][..]));
    assert_eq!(d.update(b"c", |v| v.map(|v| [v, v].concat())).unwrap().as_deref(), Some(&[5, 5][..]));
    assert_eq!(d.keys().unwrap(), [b"a", b"b", b"c"]);
    assert_eq!(d.items().unwrap(), d.snapshot().unwrap());
    assert_eq!(d.popitem().unwrap(), Some((b"c".to_vec(), vec![5, 5])));
    assert_eq!(d.pop(b"b").unwrap().as_deref(), Some(&b"3"[..]));
    assert_eq!((d.pop(b"b").unwrap(), d.contains_key(b"a").unwrap()), (None, true));
    d.clear().unwrap();
    assert!(d.is_empty());
    assert_eq!(d.popitem().unwrap(), None);
}

#[test]
fn a_value_in_place_stays_whatever_happens_to_its_entry() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let d = ByteDict::new_in(&segment).unwrap();
    let other = ByteDict::new_in(&segment).unwrap();
    for len in [40usize, 4000, 100_000] {
        let value: Vec<u8> = (0..len).map(|k| k as u8).collect();
        d.set(b"k", &value).unwrap();
        let held = d.get_ref(b"k").unwrap().unwrap();
        // Everything that could use its memory again: this key's and others' entries, tables that grow, nothing at all.
        for k in 0..2000u32 {
            d.set(b"k", &vec![0xee; len]).unwrap();
            d.set(&k.to_le_bytes(), &vec![0xdd; len.min(5000)]).unwrap();
            // Other look-ups, which use the look-up's own words.
            assert!(other.get(b"k").unwrap().is_none() && d.get(b"k").unwrap().is_some());
        }
        d.clear().unwrap();
        for k in 0..500u32 {
            d.set(&k.to_le_bytes(), &vec![0xcc; len.min(5000)]).unwrap();
        }
        assert_eq!(held.to_vec(), value);
        drop(held);
        d.clear().unwrap();
    }
}

#[test]
fn six_values_are_held_at_once_and_the_seventh_is_refused() {
    let d = ByteDict::new().unwrap();
    for k in 0..8u8 {
        d.set(&[k], &[k; 100]).unwrap();
    }
    let mut held: Vec<_> = (0..6u8).map(|k| d.get_ref(&[k]).unwrap().unwrap()).collect();
    assert_eq!(d.get_ref(&[6]).unwrap_err().kind(), ErrorKind::TooManyRefs);
    assert_eq!(d.get_with(&[6], |_| ()).unwrap_err().kind(), ErrorKind::TooManyRefs);
    assert_eq!(d.get(&[6]).unwrap(), Some(vec![6; 100]));
    // Another thread has its own.
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(d.get_with(&[6], |v| v.len()).unwrap(), Some(100)));
    });
    // In any order.
    drop(held.remove(2));
    let again = d.get_ref(&[7]).unwrap().unwrap();
    for k in 0..8u8 {
        d.set(&[k], &[0xff; 100]).unwrap();
    }
    assert_eq!(again.to_vec(), [7; 100]);
    assert_eq!(held.iter().map(|v| v.slice().read_to_vec()[0]).collect::<Vec<_>>(), [0, 1, 3, 4, 5]);
    drop((held, again));
    assert!(d.get_ref(&[9, 9]).unwrap().is_none());
    let depth = d.get_with(&[0], |_| d.get_with(&[1], |_| d.get_with(&[2], |v| v.len()).unwrap()).unwrap()).unwrap();
    assert_eq!(depth, Some(Some(Some(100))));
    // A panic inside gives the word back.
    for _ in 0..10 {
        let d = d.clone();
        let panicked = std::panic::catch_unwind(move || d.get_with(&[0], |_| panic!("inside")));
        assert!(panicked.is_err());
    }
    assert_eq!((0..6u8).map(|k| d.get_ref(&[k]).unwrap().unwrap()).collect::<Vec<_>>().len(), 6);
}

#[test]
fn the_memory_that_the_dead_read_is_used_again() {
    let _guard = watchdog(Duration::from_secs(60));
    let segment = Segment::family().unwrap();
    let d = ByteDict::new().unwrap();
    d.set(b"k", &[1; 1 << 20]).unwrap();
    let reading = Event::new().unwrap();
    let read = |(d, reading): (ByteDict, Event)| {
        let _held = d.get_ref(b"k").unwrap().unwrap();
        reading.set();
        Event::new().unwrap().wait();
    };
    let before = segment.stats().used_bytes;
    let child = Process::builder().daemon(true).spawn(read, (d.clone(), reading.clone())).unwrap();
    reading.wait();
    d.remove(b"k").unwrap();
    child.kill().unwrap();
    child.join().unwrap_err();
    // Retired blocks are looked at when a shard has some of them.
    for k in 0..100u8 {
        d.set(b"k", &[k; 64]).unwrap();
    }
    assert!(segment.stats().used_bytes < before, "{} of {before}", segment.stats().used_bytes);
}
