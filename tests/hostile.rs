//! Wrong files, wrong bytes, wrong types, no space: a typed error each time, and never a crash.

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use kinfolk::{Barrier, Condvar, ErrorKind, Event, Mutex, Once, PutError, Queue, RLock, RwLock, Segment, Semaphore};
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags};
use support::watchdog;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
const SMALL: u64 = 4 << 20;

fn file(bytes: &[u8], sealed: bool) -> OwnedFd {
    let fd = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&fd, rest).unwrap()..];
    }
    if sealed {
        rustix::fs::fcntl_add_seals(&fd, SEALS).unwrap();
    }
    fd
}

fn bytes_of(segment: &Segment) -> Vec<u8> {
    let mut bytes = vec![0; rustix::fs::fstat(segment).unwrap().st_size as usize];
    let mut at = 0;
    while at < bytes.len() {
        at += rustix::io::pread(segment, &mut bytes[at..], at as u64).unwrap();
    }
    bytes
}

fn refused(bytes: &[u8], sealed: bool) -> (ErrorKind, String) {
    let error = Segment::from_fd(file(bytes, sealed)).expect_err("a wrong file was taken");
    (error.kind(), error.to_string())
}

#[test]
fn a_wrong_file_is_refused_with_what_was_found_and_wanted() {
    let good = bytes_of(&Segment::anonymous(SMALL).unwrap());
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= byte;
        bytes
    };
    let cases: [(&str, Vec<u8>, bool, ErrorKind, &str); 9] = [
        ("empty", vec![], true, ErrorKind::NotASegment, "file has 0 B"),
        ("shorter than a header", good[..4095].to_vec(), true, ErrorKind::NotASegment, "4095 B"),
        ("zeros", vec![0; 1 << 20], true, ErrorKind::NotASegment, "expected"),
        ("not sealed", good.clone(), false, ErrorKind::NotSealed, "sealed"),
        ("other magic", changed(0, 1), true, ErrorKind::NotASegment, "starts with"),
        ("other version", changed(8, 3), true, ErrorKind::VersionMismatch, "version 6, this library reads 5"),
        ("other layout", changed(16, 1), true, ErrorKind::LayoutMismatch, "layout"),
        ("truncated", good[..good.len() / 2].to_vec(), true, ErrorKind::SizeMismatch, "its header says"),
        ("other geometry", changed(48, 3), true, ErrorKind::Corrupt, "geometry"),
    ];
    for (name, bytes, sealed, kind, text) in cases {
        let (found, message) = refused(&bytes, sealed);
        assert_eq!(found, kind, "{name}: {message}");
        assert!(message.contains(text), "{name}: {message}");
    }
    Segment::from_fd(file(&good, true)).expect("the unchanged bytes are a segment");
}

#[test]
fn random_files_are_refused() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for len in [1usize, 64, 4096, 8192, 100_000] {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .take(len)
        .collect();
        assert_eq!(refused(&bytes, true).0, ErrorKind::NotASegment);
    }
}

#[test]
fn a_file_that_is_no_memory_file_is_refused() {
    let fd: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    assert_eq!(Segment::from_fd(fd).unwrap_err().kind(), ErrorKind::NotASegment);
}

/// Everything that can be done with a damaged segment. Only that it ends, and how, is of interest.
fn use_everything(segment: &Segment, queue: &Queue<Vec<u8>>, lock: &Mutex<u32>) {
    let soon = Duration::from_millis(1);
    let _ = queue.try_get();
    for len in [0, 100, 5000, 300_000] {
        let _ = queue.put_timeout(vec![7; len], soon);
    }
    let _ = queue.get_timeout(soon);
    let _ = queue.try_get();
    let _ = (queue.len(), queue.is_empty(), format!("{queue:?}"));
    if let Ok(mut guard) = lock.lock_timeout(soon) {
        *guard += 1;
    }
    let _ = format!("{lock:?}");
    let _ = segment.sweep();
    let _ = (segment.stats(), segment.deaths(), segment.inspect().to_string());
    if let Ok(other) = Queue::builder().segment(segment).build() {
        let _ = other.put_timeout(3, soon);
        let _ = other.get_timeout(soon);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_change_under_a_running_segment_give_errors_and_no_crash(
        writes in prop::collection::vec((0.0f64..1.0, any::<u64>(), any::<bool>()), 1..60),
    ) {
        let _watchdog = watchdog(Duration::from_secs(60));
        let segment = Segment::anonymous(SMALL).unwrap();
        let queue = Queue::builder().segment(&segment).bytes(64 << 10).build().unwrap();
        let lock = Mutex::new_in(&segment, 5u32).unwrap();
        for k in 0..20 {
            queue.put(vec![k; 100]).unwrap();
        }
        queue.put(vec![9; 100_000]).unwrap();
        let size = bytes_of(&segment).len() as u64;
        for (at, word, small) in writes {
            // The tables and the first objects are where it hurts.
            let at = ((at * at * size as f64) as u64).min(size - 8) & !7;
            let word = if small { word & 0xffff } else { word };
            rustix::io::pwrite(segment.as_fd(), &word.to_ne_bytes(), at).unwrap();
        }
        use_everything(&segment, &queue, &lock);
        // What was damaged may keep its memory; nothing is asked of it but to be dropped.
        drop((queue, lock));
    }
}

#[test]
fn objects_whose_entries_say_too_few_bytes_are_left_alone() {
    let segment = Segment::anonymous(SMALL).unwrap();
    let objects = (
        Queue::builder().segment(&segment).bytes(4096).build::<u32>().unwrap(),
        (Mutex::new_in(&segment, 1u64).unwrap(), RLock::new_in(&segment).unwrap()),
        (RwLock::new_in(&segment, 1u64).unwrap(), Semaphore::new_in(&segment, 1).unwrap()),
        (Condvar::new_in(&segment).unwrap(), Event::new_in(&segment).unwrap()),
        (Barrier::new_in(&segment, 2).unwrap(), Once::new_in(&segment).unwrap()),
    );
    let mut word = [0; 8];
    rustix::io::pread(segment.as_fd(), &mut word, 88).unwrap();
    let objects_at = u64::from_ne_bytes(word);
    for index in 0..segment.stats().objects as u64 {
        rustix::io::pwrite(segment.as_fd(), &1u64.to_ne_bytes(), objects_at + 512 * index + 24).unwrap();
    }
    // By what a recovery looks at too.
    let text = segment.inspect().to_string();
    assert_eq!(text.matches("size is 1").count() + text.matches("does not know").count(), 9, "{text}");
    drop(objects);
}

#[test]
fn a_count_of_arrivals_that_never_rests_holds_nobody_up() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let segment = Segment::anonymous(SMALL).unwrap();
    // So many that the count changes during each look through all of them.
    let others: Vec<Event> = (0..400).map(|_| Event::new_in(&segment).unwrap()).collect();
    let event = Event::new_in(&segment).unwrap();
    let mut word = [0; 8];
    rustix::io::pread(segment.as_fd(), &mut word, 88).unwrap();
    let arrivals = u64::from_ne_bytes(word) + 512 * u64::from(event.id().index) + 308;
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for count in (0u32..).take_while(|_| !over.load(Relaxed)) {
                rustix::io::pwrite(segment.as_fd(), &count.to_ne_bytes(), arrivals).unwrap();
                begun.store(true, Relaxed);
            }
        });
        while !begun.load(Relaxed) {
            std::thread::yield_now();
        }
        drop(event);
        over.store(true, Relaxed);
    });
    let left = segment.stats().objects;
    assert!([400, 401].contains(&left), "gone, or taken for one that comes and goes all the time: {left}");
    drop(others);
    assert_eq!(segment.stats().objects, left - 400);
}

#[test]
fn an_object_opened_as_another_type_is_a_type_mismatch() {
    let segment = Segment::anonymous(SMALL).unwrap();
    let queue = Queue::builder().segment(&segment).build::<u32>().unwrap();
    let lock = Mutex::new_in(&segment, 1u64).unwrap();
    assert_eq!(Queue::<String>::open(&segment, queue.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);
    assert_eq!(Queue::<u32>::open(&segment, lock.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);
    assert_eq!(Mutex::<u32>::open(&segment, lock.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);
    let again = Queue::<u32>::open(&segment, queue.id()).unwrap();
    again.put(5).unwrap();
    assert_eq!(queue.get().unwrap(), 5);
    let id = queue.id();
    drop((queue, again));
    assert_eq!(Queue::<u32>::open(&segment, id).unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn a_full_segment_says_so_and_works_again_when_space_returns() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let segment = Segment::anonymous(16 << 20).unwrap();
    let new_queue = |_| Queue::builder().segment(&segment).bytes(64 << 10).build().unwrap();
    let queues: Vec<Queue<Vec<u8>>> = (0..8).map(new_queue).collect();
    let used = segment.stats().used_bytes;
    // One large message in each, until there is no room for one more.
    let mut sent = 0;
    let full = loop {
        match queues[sent].put(vec![sent as u8; 3 << 20]) {
            Ok(()) => sent += 1,
            Err(PutError::Failed(value, e)) => break (value, e),
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!((full.0[0], full.1.kind()), (sent as u8, ErrorKind::OutOfSpace), "the value comes back with the reason");
    assert!(sent > 2);
    let error = Queue::builder().segment(&segment).bytes(16 << 20).build::<u8>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfSpace);
    for (k, queue) in queues[..sent].iter().enumerate() {
        assert!(queue.get().unwrap().iter().all(|b| *b == k as u8));
    }
    assert_eq!(segment.stats().used_bytes, used, "every block came back");
    let queue = &queues[0];
    for _ in 0..100 {
        queue.put(vec![1; 4 << 20]).unwrap();
        assert_eq!(queue.get().unwrap().len(), 4 << 20);
    }
}

#[test]
fn blocks_on_their_way_are_limited_and_senders_wait() {
    let queue = Queue::<Vec<u8>>::new(0).unwrap();
    let mut sent = 0;
    while queue.put_timeout(vec![0; 1 << 20], Duration::from_millis(20)).is_ok() {
        sent += 1;
    }
    assert!((2..=8).contains(&sent), "{sent} MiB are on their way");
    assert_eq!(queue.len(), sent);
    queue.get().unwrap();
    queue.put(vec![0; 1 << 20]).unwrap();
}

#[test]
fn dropping_a_queue_with_messages_in_it_gives_all_memory_back() {
    let segment = Segment::anonymous(16 << 20).unwrap();
    let before = segment.stats();
    let queue = Queue::builder().segment(&segment).build().unwrap();
    queue.put(vec![1; 2 << 20]).unwrap();
    drop(queue);
    assert_eq!((segment.stats().used_bytes, segment.stats().objects), (before.used_bytes, before.objects));
}
