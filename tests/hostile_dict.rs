//! Wrong bytes under dictionaries: every call ends, with an answer or an error, and none panics.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use kinfolk::{ByteDict, Dict, ErrorKind, Event, Segment};
use proptest::prelude::*;
use support::watchdog;

/// Bytes of an arena page.
const PAGE: u64 = 8192;
const SOON: Duration = Duration::from_millis(1);
/// Where the only shard of a dictionary begins, and its words: the lock first, the table's place in the ninth.
const SHARD_AT: u64 = 128;
const TABLE_AT: u64 = SHARD_AT + 64;
/// Where the heap's words begin, and the blocks behind them.
const HEAP_AT: u64 = SHARD_AT + 128;
const FIRST_AT: u64 = HEAP_AT + 704;
/// A lane that there is not.
const NOBODYS: u32 = 1023;

/// Some dictionaries, alone in a segment.
struct Family {
    segment: Segment,
    bytes: ByteDict,
    words: Dict<u32, String>,
    events: Dict<u32, Event>,
}

/// Number of dictionaries in a [`Family`]; they are the first in the directory.
const OBJECTS: u64 = 3;
/// Pages that the objects and their runs are in, and a few behind them.
const PAGES: u64 = 24;

impl Family {
    fn new() -> (Self, File) {
        let segment = Segment::anonymous(4 << 20).unwrap();
        let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
        let family = Self {
            bytes: ByteDict::with_shards(&segment, 1).unwrap().with_patience(SOON),
            words: Dict::builder().segment(&segment).shards(1).build().unwrap().with_patience(SOON),
            events: Dict::builder().segment(&segment).shards(1).build().unwrap().with_patience(SOON),
            segment,
        };
        for k in 0..30u8 {
            family.bytes.set(&[k; 3], &vec![k; 1 << (k % 15)]).unwrap();
            family.words.set(&u32::from(k), &"word ".repeat(usize::from(k))).unwrap();
        }
        for k in 0..3u32 {
            family.events.set(&k, &Event::new_in(&family.segment).unwrap()).unwrap();
        }
        (family, file)
    }

    /// Everything that reads, and ends by itself.
    fn read_everything(&self) {
        let Self { segment, bytes, words, events } = self;
        for k in [0u8, 7, 14, 29, 77] {
            drop((
                bytes.get(&[k; 3]),
                bytes.contains_key(&[k; 3]),
                bytes.get_ref(&[k; 3]).map(|v| v.map(|v| v.to_vec())),
            ));
            drop((words.get(&u32::from(k)), words.contains_key(&u32::from(k)), events.get(&u32::from(k))));
        }
        drop((bytes.items(), bytes.snapshot(), bytes.keys(), bytes.len(), format!("{bytes:?}")));
        drop((words.items(), words.snapshot(), words.keys(), words.values(), words.iter().map(Iterator::count)));
        drop((events.items(), events.keys()));
        drop((segment.sweep(), segment.stats(), segment.inspect().to_string()));
        drop((ByteDict::open(segment, bytes.id()), Dict::<u32, String>::open(segment, words.id())));
    }

    /// Everything, whatever becomes of the one before.
    fn use_everything(&self) {
        self.read_everything();
        let Self { segment, bytes, words, events } = self;
        for k in [3u8, 14, 80, 81] {
            drop((bytes.set(&[k; 3], &[1; 40]), bytes.set(&[k; 3], &[2; 3000]), bytes.set(&[k; 2], &[3; 20_000])));
            drop((
                bytes.insert(&[k; 3], b"x"),
                bytes.try_insert(&[k; 4], b"y"),
                bytes.pop(&[k; 3]),
                bytes.remove(&[k; 2]),
            ));
            drop((
                bytes.compare_exchange(&[k; 3], None, Some(b"z")),
                bytes.compare_exchange(&[k; 3], Some(b"z"), None),
            ));
            drop(bytes.update(&[k + 1; 3], |old| old.map(|old| old[..old.len() / 2].to_vec())));
            let k = u32::from(k);
            drop((words.set(&k, &"new".to_owned()), words.remove(&(k + 2)), words.setdefault(&(k + 3), String::new())));
            drop((events.remove(&(k % 3)), words.pop_or(&(k + 4), String::new())));
        }
        if let Ok(event) = Event::new_in(segment) {
            drop((events.set(&1, &event), events.insert(&2, &event)));
        }
        (0..40u8).for_each(|k| _ = bytes.set(&[k; 5], &[k]));
        drop((bytes.popitem(), words.popitem(), events.popitem(), words.copy().map(|copy| copy.len())));
        drop((
            words.retain(|_, word| word.len() > 20),
            events.clear(),
            bytes.clear(),
            bytes.set(b"a", b"b"),
            bytes.get(b"a"),
        ));
        self.read_everything();
    }
}

fn read(file: &File, at: u64, bytes: usize) -> u64 {
    let mut word = [0; 8];
    file.read_exact_at(&mut word[..bytes], at).unwrap();
    u64::from_le_bytes(word)
}

/// Where an object begins.
fn place(file: &File, object: u64) -> u64 {
    read(file, 96, 8) + PAGE * read(file, read(file, 88, 8) + 512 * object + 12, 4)
}

/// Writes to the memory of an object, as any process that has the segment mapped could.
fn scribble(file: &File, object: u64, at: u64, bytes: &[u8]) {
    file.write_all_at(bytes, place(file, object) + at).unwrap();
}

fn kind_of<T>(opened: Result<T, kinfolk::Error>) -> Option<ErrorKind> {
    opened.err().map(|e| e.kind())
}

#[test]
fn a_table_that_is_nowhere_is_an_error() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let (family, file) = Family::new();
    let table = read(&file, place(&file, 0) + TABLE_AT, 8);
    for wrong in [8u64, 4 << 20, (4 << 20) - 8, u64::MAX, u64::MAX - 7, 1 << 63, table + 1] {
        scribble(&file, 0, TABLE_AT, &wrong.to_ne_bytes());
        assert_eq!(kind_of(family.bytes.get(&[1; 3])), Some(ErrorKind::Corrupt), "table at {wrong:#x}");
        assert_eq!(kind_of(family.bytes.items()), Some(ErrorKind::Corrupt), "table at {wrong:#x}");
        assert_eq!(kind_of(family.bytes.set(&[1; 3], b"x")), Some(ErrorKind::Corrupt), "table at {wrong:#x}");
    }
    scribble(&file, 0, TABLE_AT, &table.to_ne_bytes());
    assert_eq!(family.bytes.get(&[1; 3]).unwrap(), Some(vec![1; 2]));
    // A number of slots that there cannot be, and one that there is no memory for.
    for slots in [0u64, 1 << 32, u64::MAX, 1 << 30] {
        let was = read(&file, table + 16, 8);
        file.write_all_at(&slots.to_ne_bytes(), table + 16).unwrap();
        assert_eq!(kind_of(family.bytes.items()), Some(ErrorKind::Corrupt), "{slots} slots");
        assert_eq!(kind_of(family.bytes.get(&[99; 3])), Some(ErrorKind::Corrupt), "{slots} slots");
        file.write_all_at(&was.to_ne_bytes(), table + 16).unwrap();
    }
    assert_eq!(family.bytes.items().unwrap().len(), 30);
}

#[test]
fn a_table_full_of_slots_in_use_is_searched_once() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let (family, file) = Family::new();
    let table = read(&file, place(&file, 0) + TABLE_AT, 8);
    let (slots, slots_at) = (read(&file, table + 16, 8), read(&file, table + 24, 8));
    (0..slots).for_each(|k| file.write_all_at(&1u64.to_ne_bytes(), slots_at + 8 * k).unwrap());
    assert_eq!(family.bytes.get(&[1; 3]).unwrap(), None);
    assert_eq!(kind_of(family.bytes.set(&[1; 3], b"x")), Some(ErrorKind::Corrupt));
    assert_eq!(kind_of(family.bytes.check()), Some(ErrorKind::Corrupt));
    family.bytes.clear().unwrap();
    family.bytes.set(&[1; 3], b"x").unwrap();
    assert_eq!(family.bytes.get(&[1; 3]).unwrap().as_deref(), Some(&b"x"[..]));
}

#[test]
fn nobody_waits_for_ever_for_a_lane_that_there_is_not() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let (family, file) = Family::new();
    // With everything that is found out anew then: none of it is believed.
    let wrong: Vec<u8> = (0..55 + 24).flat_map(|k: u64| (k * 8 + 4096).to_ne_bytes()).collect();
    let patient = ByteDict::open(&family.segment, family.bytes.id()).unwrap();
    for round in 0..3u8 {
        scribble(&file, 0, SHARD_AT + 8, &[0xFF; 32]);
        scribble(&file, 0, HEAP_AT + 48, &wrong);
        scribble(&file, 0, SHARD_AT, &NOBODYS.to_ne_bytes());
        patient.set(&[1; 3], &[round]).unwrap();
        assert_eq!(patient.get(&[1; 3]).unwrap(), Some(vec![round]));
        assert_eq!(patient.items().unwrap().len(), 30);
        patient.check().unwrap();
    }
    // One's own lane, which was never locked.
    scribble(&file, 0, SHARD_AT, &1u32.to_ne_bytes());
    assert_eq!(kind_of(family.bytes.set(&[1; 3], b"x")), Some(ErrorKind::Stalled));
    assert_eq!(family.bytes.get(&[1; 3]).unwrap(), Some(vec![2]));
}

#[test]
fn a_hash_or_a_size_that_does_not_fit_is_not_opened() {
    let (family, file) = Family::new();
    scribble(&file, 0, 16, &7u64.to_ne_bytes());
    assert_eq!(kind_of(ByteDict::open(&family.segment, family.bytes.id())), Some(ErrorKind::LayoutMismatch));
    // Who had it open before goes on.
    assert_eq!(family.bytes.get(&[1; 3]).unwrap(), Some(vec![1; 2]));
}

/// A list that bites its own tail.
#[test]
fn lists_without_an_end_are_an_error() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let (family, file) = Family::new();
    let name = read(&file, place(&file, 0) + HEAP_AT, 8);
    assert_ne!(name, 0, "a heap with a run");
    let run = read(&file, 96, 8) + PAGE * ((name & 0xffff_ffff) - 1);
    file.write_all_at(&name.to_ne_bytes(), run).unwrap();
    assert_eq!(kind_of(family.bytes.check()), Some(ErrorKind::Corrupt));
    family.use_everything();
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// A word of an object.
    Word(u64, u64),
    /// A word of any page that they use.
    Page(u64, u64),
}

#[derive(Clone, Copy, Debug)]
enum Wrong {
    Number(u64),
    /// The word that is there, with a bit changed.
    Bit(u32),
    /// Another word of the same object.
    From(u64),
}

fn scribbles() -> impl Strategy<Value = Vec<(Place, Wrong)>> {
    let word = prop_oneof![3 => 0..HEAP_AT / 8, 3 => HEAP_AT / 8..FIRST_AT / 8, 4 => FIRST_AT / 8..FIRST_AT / 8 + 144];
    let place = prop_oneof![
        3 => (0..OBJECTS, word).prop_map(|(object, word)| Place::Word(object, word)),
        2 => (0..PAGES, 0..PAGE / 8).prop_map(|(page, word)| Place::Page(page, word)),
        1 => (0..PAGES, 0u64..40).prop_map(|(page, word)| Place::Page(page, word)),
    ];
    let number =
        prop_oneof![any::<u64>(), 0u64..300, Just(u64::MAX), 0u64..4 << 20, (0u64..1 << 19).prop_map(|k| k * 8)];
    let wrong = prop_oneof![
        3 => number.prop_map(Wrong::Number),
        3 => (0u32..64).prop_map(Wrong::Bit),
        2 => (0..FIRST_AT / 8 + 144).prop_map(Wrong::From),
    ];
    prop::collection::vec((place, wrong), 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wrong_bytes_under_dictionaries_give_answers_and_errors(before in scribbles(), after in scribbles()) {
        let _watchdog = watchdog(Duration::from_secs(60));
        let (family, file) = Family::new();
        let write = |scribbles: &[(Place, Wrong)]| for (place_of, wrong) in scribbles {
            let at = match place_of {
                Place::Word(object, word) => place(&file, *object) + 8 * word,
                Place::Page(page, word) => read(&file, 96, 8) + PAGE * page + 8 * word,
            };
            let word = match wrong {
                Wrong::Number(number) => *number,
                Wrong::Bit(bit) => read(&file, at, 8) ^ 1 << bit,
                Wrong::From(word) => read(&file, place(&file, 0) + 8 * word, 8),
            };
            file.write_all_at(&word.to_ne_bytes(), at).unwrap();
        };
        write(&before);
        family.read_everything();
        let held = (family.bytes.get_ref(&[14; 3]), family.bytes.get_ref(&[3; 3]));
        write(&after);
        family.use_everything();
        drop(held);
    }
}
