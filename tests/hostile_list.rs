//! Wrong bytes under lists: every operation ends, with a value or an error, and none panics.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use kinfolk::{ByteList, List, Queue, Segment};
use proptest::prelude::*;
use support::watchdog;

/// Bytes of an arena page.
const PAGE: u64 = 8192;
const SOON: Duration = Duration::from_millis(1);
/// Pages that the lists here have.
const PAGES: u64 = 12;

/// Lists with elements of each form, alone in a segment.
struct Family {
    segment: Segment,
    bytes: ByteList,
    words: List<u64>,
    queues: List<Queue<u8>>,
}

impl Family {
    fn new() -> (Self, File) {
        let segment = Segment::anonymous(2 << 20).unwrap();
        let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
        let bytes: Vec<Vec<u8>> = [1, 30, 600, 5000, 20_000, 2, 40].map(|len| vec![len as u8; len]).to_vec();
        let queue = Queue::builder().bytes(4096).segment(&segment).build().unwrap();
        let family = Self {
            bytes: List::from_slice_in(&segment, &bytes).unwrap().with_patience(SOON),
            words: List::from_slice_in(&segment, &(0..3000).collect::<Vec<_>>()).unwrap().with_patience(SOON),
            queues: List::from_slice_in(&segment, &[queue]).unwrap().with_patience(SOON),
            segment,
        };
        (family, file)
    }

    /// Every operation that ends by itself, whatever becomes of the one before.
    fn use_everything(&self) {
        let Self { segment, bytes, words, queues } = self;
        drop((bytes.to_vec(), bytes.get(3), bytes.get(-1), bytes.len(), bytes.iter().take(20).count()));
        drop((bytes.push(vec![7; 30]), bytes.push(vec![7; 20_000]), bytes.pop(), bytes.set(2, vec![8; 50])));
        drop((bytes.insert(1, vec![9; 9]), bytes.pop_at(0), bytes.set_slice(1..3, [vec![3; 3]]), bytes.repeat(2)));
        drop((bytes.reverse(), bytes.swap(0, 1), bytes.remove(&vec![3; 3]), bytes.sort(), bytes.update(0, |b| b)));
        drop((words.slice_step(.., -7), words.set_slice_step(.., 1000, [1, 2, 3]), words.remove_step(1.., 2)));
        drop((words.push(1), words.pop_at(0), words.pop(), words.get(100), words.retain(|n| n % 3 == 0)));
        drop((words.iter().rev().take(20).count(), words.swap_remove(5), words.truncate(50), words.extend([1; 100])));
        drop((words.copy(), words.to_string(), words.wait_changed_timeout(words.changes(), SOON), words.check()));
        drop((queues.get(0), queues.to_vec(), queues.pop(), queues.clear(), words.clear(), bytes.clear()));
        drop((bytes.push(vec![7; 30]), bytes.check(), words.push(4), words.get(0)));
        drop((segment.sweep(), segment.stats(), segment.deaths(), segment.inspect().to_string()));
        drop((ByteList::open(segment, bytes.id()), List::<u64>::open(segment, words.id())));
    }
}

fn read(file: &File, at: u64) -> u64 {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, at).unwrap();
    u64::from_le_bytes(word)
}

/// Where the arena begins.
fn arena(file: &File) -> u64 {
    read(file, 96)
}

#[test]
fn wrong_roots_and_spans_are_errors() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let (family, file) = Family::new();
    let entry = read(&file, 88) + 512;
    let page = read(&file, entry + 8) >> 32;
    let list = arena(&file) + PAGE * page;
    // The root is behind the line of the lock; the span is the third word of what it names.
    let root = list + 64;
    assert_eq!(family.bytes.len().unwrap(), 7);
    let good = read(&file, root);
    for wrong in [1, 8, good + 4, 1 << 20, u64::MAX, u64::MAX - 7] {
        file.write_all_at(&wrong.to_ne_bytes(), root).unwrap();
        let (len, get, push) = (family.bytes.len(), family.bytes.get(6), family.bytes.push(vec![1]));
        assert!(get.is_err() || len.is_err(), "{wrong:#x}: {len:?} {get:?}");
        drop(push);
    }
    family.use_everything();
    file.write_all_at(&good.to_ne_bytes(), root).unwrap();
    family.use_everything();
}

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        0u64..64,
        // Places in the memory there is, and what a slot may say.
        (0u64..(2 << 20)).prop_map(|at| at / 8 * 8),
        any::<u64>(),
        (0u64..1 << 26, 0u64..1 << 26).prop_map(|(first, len)| first << 26 | len),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_ends_whatever_the_words_are(
        words in prop::collection::vec((0..PAGES, prop_oneof![0u64..128, 0u64..1024], numbers()), 1..12),
        live in any::<bool>(),
    ) {
        let _watchdog = watchdog(Duration::from_secs(120));
        let (family, file) = Family::new();
        if live {
            family.use_everything();
        }
        for (page, word, number) in words {
            file.write_all_at(&number.to_ne_bytes(), arena(&file) + PAGE * page + 8 * word).unwrap();
            family.use_everything();
        }
    }
}
