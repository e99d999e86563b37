//! Wrong bytes under values and arrays: every operation ends, with a whole value or an error, and none panics.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytemuck::{CheckedBitPattern, NoUninit};
use kinfolk::{Array, ErrorKind, LockError, Segment, Value, WaitError};
use proptest::prelude::*;
use support::watchdog;

/// Bytes of an arena page.
const PAGE: u64 = 8192;
const SOON: Duration = Duration::from_millis(1);
/// Where the elements are, behind the words in front of them.
const ELEMENTS_AT: u64 = 64;

/// No word, and not every 12 bytes are one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, NoUninit, CheckedBitPattern)]
struct Letters {
    first: char,
    second: char,
    third: char,
}

fn letters(letter: char) -> Letters {
    Letters { first: letter, second: letter, third: letter }
}

/// Some of each, alone in a segment.
struct Family {
    segment: Segment,
    word: Value<u32>,
    flag: Value<bool>,
    large: Value<[u64; 4]>,
    letter: Value<Letters>,
    words: Array<u16>,
    poem: Array<Letters>,
}

/// Number of objects in a [`Family`]; they are the first in the directory.
const OBJECTS: u64 = 6;

impl Family {
    fn new() -> (Self, File) {
        let segment = Segment::anonymous(4 << 20).unwrap();
        let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
        let family = Self {
            word: Value::new_in(&segment, 5).unwrap(),
            flag: Value::new_in(&segment, true).unwrap(),
            large: Value::new_in(&segment, [1; 4]).unwrap(),
            letter: Value::new_in(&segment, letters('a')).unwrap(),
            words: Array::from_slice_in(&segment, &[1; 100]).unwrap(),
            poem: Array::from_slice_in(&segment, &[letters('b'); 20]).unwrap(),
            segment,
        };
        (family, file)
    }

    /// Every operation that ends by itself, whatever becomes of the one before.
    fn use_everything(&self) {
        let Self { segment, word, flag, large, letter, words, poem } = self;
        drop((
            word.get(),
            word.set(1),
            word.add(1),
            word.min(7),
            word.update(|n| n ^ 1),
            word.swap(9),
            word.to_string(),
        ));
        drop((flag.get(), flag.set(true), flag.update(|on| !on), flag.replace(false), format!("{flag:?}")));
        drop((large.get(), large.try_set([2; 4]), large.set_timeout([3; 4], SOON), large.try_update(|n| n)));
        drop((large.update_timeout(SOON, |n| n), large.to_string(), large.try_lock().map(|held| held.get())));
        drop((large.lock_timeout(SOON).map(|held| held.try_set([5; 4])), large.holder(), large.depth()));
        drop((letter.get(), letter.try_set(letters('c')), letter.update_timeout(SOON, |n| n), letter.to_string()));
        drop((words.to_vec(), words.get(99), words.fill(3), words.write_slice(90, &[1; 10]), words.to_string()));
        drop((words.lock_timeout(SOON).map(|held| held.swap_elements(0, 99)), words.iter().count()));
        drop((poem.to_vec(), poem.get(19), poem.try_set(3, letters('d')), poem.set_timeout(11, letters('e'), SOON)));
        drop((poem.at(4).unwrap().try_update(|n| n), poem.to_string(), poem.iter().count()));
        drop((segment.sweep(), segment.stats(), segment.deaths(), segment.inspect().to_string()));
        drop((Value::<u32>::open(segment, word.id()), Value::<[u64; 4]>::open(segment, large.id())));
        drop((Array::<u16>::open(segment, words.id()), Array::<Letters>::open(segment, poem.id())));
    }
}

fn read(file: &File, at: u64, bytes: usize) -> u64 {
    let mut word = [0; 8];
    file.read_exact_at(&mut word[..bytes], at).unwrap();
    u64::from_le_bytes(word)
}

fn entry(file: &File, object: u64) -> u64 {
    read(file, 88, 8) + 512 * object
}

/// Writes to the memory of an object, as any process that has the segment mapped could.
fn scribble(file: &File, object: u64, at: u64, bytes: &[u8]) {
    let page = read(file, entry(file, object) + 12, 4);
    file.write_all_at(bytes, read(file, 96, 8) + PAGE * page + at).unwrap();
}

/// The same object, opened by one that has not looked at it yet.
fn kind_of<T>(opened: Result<T, kinfolk::Error>) -> Option<ErrorKind> {
    opened.err().map(|e| e.kind())
}

#[test]
fn a_wrong_length_or_size_is_not_opened() {
    let (family, file) = Family::new();
    let (segment, words, large) = (&family.segment, family.words.id(), family.large.id());
    for len in [0u64, 99, 101, 1 << 40, u64::MAX, u64::MAX / 2 + 51] {
        scribble(&file, 4, 8, &len.to_ne_bytes());
        assert_eq!(kind_of(Array::<u16>::open(segment, words)), Some(ErrorKind::Corrupt), "{len} elements");
    }
    scribble(&file, 4, 8, &100u64.to_ne_bytes());
    assert_eq!(kind_of(Array::<u16>::open(segment, words)), None);
    for size in [0u64, 1, 4, u64::MAX] {
        scribble(&file, 4, 16, &size.to_ne_bytes());
        assert_eq!(kind_of(Array::<u16>::open(segment, words)), Some(ErrorKind::Corrupt), "{size} bytes each");
    }
    scribble(&file, 2, 8, &2u64.to_ne_bytes());
    assert_eq!(kind_of(Value::<[u64; 4]>::open(segment, large)), Some(ErrorKind::Corrupt), "a value of two");
    // A handle that was made before goes on with what it has seen.
    assert_eq!((family.words.len(), family.words.get(99).unwrap()), (100, 1));
}

#[test]
fn bytes_that_are_no_value_are_an_error() {
    let (family, file) = Family::new();
    scribble(&file, 1, ELEMENTS_AT, &[2]);
    assert_eq!(kind_of(family.flag.get()), Some(ErrorKind::Corrupt));
    assert_eq!(kind_of(family.flag.update(|on| !on)), Some(ErrorKind::Corrupt));
    assert!(family.flag.to_string().contains("bool"), "{}", family.flag);
    family.flag.set(true).unwrap();
    assert!(family.flag.get().unwrap());
    // Copy 0 counts, and is written as if it were letters.
    scribble(&file, 3, ELEMENTS_AT + 8, &0xD800u32.to_ne_bytes());
    assert_eq!(kind_of(family.letter.get()), Some(ErrorKind::Corrupt));
    family.letter.set(letters('z')).unwrap();
    assert_eq!(family.letter.get().unwrap(), letters('z'));
    let stride = 8 + 2 * 16;
    scribble(&file, 5, ELEMENTS_AT + 7 * stride + 8, &u32::MAX.to_ne_bytes());
    assert!(family.poem.to_vec().is_err());
    assert_eq!(family.poem.slice(8..).unwrap(), [letters('b'); 12]);
}

#[test]
fn every_selector_selects_and_goes_on() {
    let (family, file) = Family::new();
    family.large.set([2; 4]).unwrap();
    for selector in [0u64, 1, 7, u64::MAX - 1, u64::MAX] {
        scribble(&file, 2, ELEMENTS_AT, &selector.to_ne_bytes());
        let found = family.large.get().unwrap();
        assert_eq!(found, if selector % 2 == 0 { [1; 4] } else { [2; 4] });
        family.large.update(|now| now.map(|n| n + 2)).unwrap();
        assert_eq!(family.large.get().unwrap(), found.map(|n| n + 2));
        // Both copies as they were.
        let copies: Vec<u8> = [[1u64; 4], [2; 4]].concat().into_iter().flat_map(u64::to_ne_bytes).collect();
        scribble(&file, 2, ELEMENTS_AT + 8, &copies);
    }
}

#[test]
fn nobody_waits_for_ever_for_a_lane_that_there_is_not_or_for_itself() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let (family, file) = Family::new();
    let stripe_of_element_0 = 32;
    // 1023 is nobody's, 1 this thread's.
    for lane in [1023u32, 1] {
        scribble(&file, 2, stripe_of_element_0, &lane.to_ne_bytes());
        assert!(matches!(family.large.try_set([4; 4]), Err(WaitError::WouldBlock)));
        assert_eq!(family.large.get().unwrap(), [1; 4]);
        family.large.set([1; 4]).unwrap();
        scribble(&file, 2, stripe_of_element_0, &lane.to_ne_bytes());
        family.large.update(|now| now).unwrap();
    }
    scribble(&file, 2, 0, &1023u32.to_ne_bytes());
    assert!(matches!(family.large.lock(), Err(LockError::OwnerDied(_))));
}

#[test]
fn a_selector_that_never_rests_is_an_error_and_no_endless_loop() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let (family, file) = Family::new();
    let large = Value::new_in(&family.segment, [7u64; 1024]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for selector in 0u64.. {
                scribble(&file, OBJECTS, ELEMENTS_AT, &selector.to_ne_bytes());
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        });
        for _ in 0..20_000 {
            match large.get() {
                Ok(found) => assert!(found == [7; 1024] || found == [0; 1024], "torn"),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    large.get().unwrap();
}

fn places() -> impl Strategy<Value = (u64, u64)> {
    let at = prop_oneof![4 => 0u64..64, 4 => 64u64..128, 1 => 0u64..1000];
    (0..OBJECTS, at)
}

fn words() -> impl Strategy<Value = u32> {
    let lane = prop_oneof![Just(1u32), 2u32..1024];
    prop_oneof![
        any::<u32>(),
        0u32..8,
        Just(u32::MAX),
        lane.clone(),
        (lane, any::<u32>()).prop_map(|(l, b)| l | b << 10)
    ]
}

fn scribbles() -> impl Strategy<Value = Vec<((u64, u64), u32)>> {
    prop::collection::vec((places(), words()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wrong_bytes_under_values_and_arrays_give_answers_and_errors(before in scribbles(), after in scribbles()) {
        let _watchdog = watchdog(Duration::from_secs(60));
        let (family, file) = Family::new();
        let write = |scribbles: &[((u64, u64), u32)]| {
            scribbles.iter().for_each(|((object, at), word)| scribble(&file, *object, at & !3, &word.to_ne_bytes()));
        };
        write(&before);
        family.use_everything();
        let held = (family.large.try_lock(), family.large.try_lock(), family.poem.try_lock());
        write(&after);
        drop(held);
        family.use_everything();
    }
}
