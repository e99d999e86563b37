//! The memory of a segment: what objects cost, what is committed when, and that no page is handed out twice or lost.

mod support;

use std::collections::VecDeque;
use std::os::fd::AsFd;

use kinfolk::{ErrorKind, Event, Lock, Mutex, PutError, Queue, Segment};
use support::random::Random;

const PAGE: usize = 8 << 10;

fn used(segment: &Segment) -> usize {
    segment.stats().used_bytes
}

/// The smallest queue: what is larger than 2 KiB takes pages of its own.
fn small_queue(segment: &Segment) -> Queue<Vec<u8>> {
    Queue::<()>::builder().bytes(4096).segment(segment).build().unwrap()
}

#[test]
fn a_small_object_costs_one_small_page() {
    let segment = Segment::anonymous(4 << 20).unwrap();
    let queue = small_queue(&segment);
    assert_eq!(used(&segment), PAGE, "64 records and what belongs to them");
    let lock = Mutex::new_in(&segment, 5u64).unwrap();
    assert_eq!(used(&segment), 2 * PAGE);
    let event = Event::new_in(&segment).unwrap();
    assert_eq!(used(&segment), 3 * PAGE);
    queue.put(vec![1; PAGE + 1]).unwrap();
    assert_eq!(used(&segment), 5 * PAGE, "a message of a byte more than a page");
    drop((queue, lock, event));
    assert_eq!(used(&segment), 0);
}

#[test]
fn a_fresh_segment_has_little_memory_however_large_it_is() {
    let memory = |segment: &Segment| rustix::fs::fstat(segment).unwrap().st_blocks as u64 * 512;
    let [small, large] = [1 << 30, 64 << 30].map(|size| Segment::anonymous(size).unwrap());
    assert_eq!(memory(&large), memory(&small));
    assert!(memory(&large) < 256 << 10, "{} B", memory(&large));
    let before = memory(&large);
    let _lock = Mutex::new_in(&large, 0u64).unwrap();
    let committed = large.stats().committed_bytes as u64;
    assert_eq!(committed, 2 << 20);
    // A step of the page map, and one of the directory.
    assert!(memory(&large) - before <= committed + 4096 + (128 << 10), "{} B", memory(&large) - before);
    assert_eq!(Segment::anonymous((64 << 30) + 1).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn every_page_can_be_used_and_no_more() {
    let segment = Segment::anonymous(4 << 20).unwrap();
    let total = segment.stats().total_bytes;
    let mut locks = Vec::new();
    let error = loop {
        match Lock::new_in(&segment, ()) {
            Ok(lock) => locks.push(lock),
            Err(e) => break e,
        }
    };
    assert_eq!((error.kind(), used(&segment)), (ErrorKind::OutOfSpace, total));
    assert_eq!((locks.len() * PAGE, segment.stats().committed_bytes), (total, total));
    // Every second page: half of the memory, and no two pages side by side.
    let mut k = 0;
    locks.retain(|_| {
        k += 1;
        k % 2 == 0
    });
    let error = Mutex::new_in(&segment, [0u64; 2048]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{error}");
    drop(locks.swap_remove(10));
    Mutex::new_in(&segment, [0u64; 2048]).expect("three pages side by side");
    drop(locks);
    assert_eq!(used(&segment), 0);
    let queue = small_queue(&segment);
    let rest = total - PAGE;
    let Err(PutError::Failed(value, error)) = queue.put(vec![7; rest + 1]) else { panic!("a byte too many was put") };
    assert_eq!((value.len(), error.kind()), (rest + 1, ErrorKind::OutOfSpace));
    queue.put(value[1..].to_vec()).unwrap();
    assert_eq!(used(&segment), total);
    assert_eq!(queue.get().unwrap(), value[1..]);
}

#[test]
fn memory_grows_past_the_last_free_pages_and_not_behind_them() {
    let segment = Segment::anonymous(16 << 20).unwrap();
    let queue = small_queue(&segment);
    // Reaches from the first 2 MiB, of which it uses what is left, into the next.
    queue.put(vec![1; (2 << 20) + PAGE]).unwrap();
    assert_eq!(segment.stats().committed_bytes, 4 << 20);
    for _ in 0..20 {
        assert_eq!(queue.get().unwrap().len(), (2 << 20) + PAGE);
        queue.put(vec![1; (2 << 20) + PAGE]).unwrap();
    }
    assert_eq!(segment.stats().committed_bytes, 4 << 20, "the same pages each time");
}

/// The hints where to look for free pages are moved without a lock, so any value must do.
#[test]
fn no_page_is_handed_out_twice_wherever_the_hints_point() {
    const HINTS: [u64; 2] = [116, 152];
    for seed in 1..9 {
        let segment = Segment::anonymous(4 << 20).unwrap();
        let pages = (segment.stats().total_bytes / PAGE) as u64;
        let queues: Vec<_> = (0..6).map(|_| small_queue(&segment)).collect();
        let mut messages: Vec<VecDeque<(usize, u8)>> = vec![VecDeque::new(); queues.len()];
        let mut random = Random::new(seed);
        for round in 0..2000 {
            if seed % 2 == 0 {
                let hint = HINTS[random.below(2) as usize];
                let page = random.below(pages + 2) as u32;
                rustix::io::pwrite(segment.as_fd(), &page.to_ne_bytes(), hint).unwrap();
            }
            let which = random.below(queues.len() as u64) as usize;
            let (queue, sent) = (&queues[which], &mut messages[which]);
            if random.below(2) == 0 {
                let most = if random.below(8) == 0 { 1 << 20 } else { 5 * PAGE as u64 };
                let (len, byte) = (2048 + random.below(most) as usize, round as u8);
                match queue.try_put(vec![byte; len]) {
                    Ok(()) => sent.push_back((len, byte)),
                    Err(PutError::Full(_)) => {}
                    Err(PutError::Failed(_, e)) => assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}"),
                    Err(e) => panic!("{e}"),
                }
            } else if let Some((len, byte)) = sent.pop_front() {
                let got = queue.try_get().unwrap();
                assert_eq!(got.len(), len);
                assert!(got.iter().all(|b| *b == byte), "seed {seed}, round {round}: another message lies in this one");
            }
        }
        let sent = messages.iter().flatten().map(|(len, _)| len.next_multiple_of(PAGE)).sum::<usize>();
        assert_eq!(used(&segment), sent + queues.len() * PAGE);
    }
}
