//! `_TestHeap`.
#![allow(unsafe_code, reason = "a signal handler")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use kinfolk::segment::{Arena, Run};
use kinfolk::{Mutex, Queue, Segment};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::guard;
use crate::support::random::Random;

const PAGE: usize = 8 << 10;

/// Every page lies in one block or is free, and no block lies in another.
fn blocks_tile(arena: &Arena, segment: &Segment, held: &[Run]) {
    let mut wanted: Vec<Run> = held.to_vec();
    wanted.sort_by_key(|run| run.page);
    let blocks: Vec<Run> = arena.runs().into_iter().map(|(run, ..)| run).collect();
    assert_eq!(blocks, wanted);
    assert!(blocks.windows(2).all(|pair| pair[0].page + pair[0].pages <= pair[1].page), "two blocks overlap");
    let stats = segment.stats();
    assert_eq!(stats.used_bytes, blocks.iter().map(|run| run.bytes()).sum::<usize>());
    let free = stats.free_bytes + stats.given_back_bytes + stats.fresh_bytes;
    assert_eq!(stats.used_bytes + free, stats.total_bytes);
}

#[test]
fn five_thousand_random_blocks_tile_the_arena_and_all_come_back() {
    let _guard = guard();
    let segment = Segment::anonymous(64 << 20).unwrap();
    let arena = Arena::of(&segment);
    let lane = arena.lane().unwrap();
    let mut random = Random::new(12);
    let mut blocks: Vec<Run> = Vec::new();
    for k in 0..5000 {
        // Sizes as Python's test has them: many small ones, a few large ones.
        let most = 1 << (10 + random.below(10));
        let bytes = 1 + random.below(most) as usize;
        let block = arena.alloc(lane, bytes, 0).unwrap();
        assert!(block.bytes() >= bytes && block.bytes() - bytes < PAGE);
        arena.slice(block).write(0, &block.generation.to_le_bytes());
        blocks.push(block);
        if blocks.len() > 50 {
            let block = blocks.swap_remove(random.below(blocks.len() as u64) as usize);
            let mut first = [0; 4];
            arena.slice(block).read(0, &mut first);
            assert_eq!(first, block.generation.to_le_bytes(), "another block lies in this one");
            arena.free(block);
        }
        if k % 50 == 0 {
            blocks_tile(&arena, &segment, &blocks);
        }
    }
    blocks_tile(&arena, &segment, &blocks);
    blocks.drain(..).for_each(|block| arena.free(block));
    blocks_tile(&arena, &segment, &[]);
    let all = arena.alloc(lane, segment.stats().total_bytes, 0).expect("what was returned lies side by side");
    arena.free(all);
}

/// Objects whose drop drops others: in the middle of `drop` of a queue's messages, and while a panic unwinds.
#[test]
fn handles_may_be_dropped_while_others_are_made_and_dropped() {
    type Handles = (Queue<Vec<u8>>, Mutex<[u64; 512]>);
    struct Bag {
        segment: Segment,
        handles: Vec<Handles>,
    }
    impl Bag {
        fn fill(&mut self) {
            let queue = Queue::<()>::builder().bytes(4096).segment(&self.segment).build().unwrap();
            queue.put(vec![1; 3 * PAGE]).unwrap();
            self.handles.push((queue, Mutex::new_in(&self.segment, [0; 512]).unwrap()));
        }
    }
    impl Drop for Bag {
        fn drop(&mut self) {
            // Makes some more while it goes, also during a panic.
            (0..3).for_each(|_| self.fill());
            self.handles.drain(..2).for_each(drop);
        }
    }
    let _guard = guard();
    let segment = Segment::anonymous(16 << 20).unwrap();
    for k in 0..50 {
        let mut bag = Bag { segment: segment.clone(), handles: Vec::new() };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            bag.fill();
            assert!(k % 2 == 0, "as it should");
        }));
        assert_eq!(caught.is_ok(), k % 2 == 0);
    }
    assert_eq!((segment.stats().used_bytes, segment.stats().objects), (0, 0));
}

/// The run that the handler gives back next: `page:24 | pages:16 | generation:24`.
static NEXT: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);
static ARENA: OnceLock<Arena> = OnceLock::new();

extern "C" fn free_next(_: i32) {
    let word = NEXT.swap(0, SeqCst);
    if let (Some(arena), true) = (ARENA.get(), word != 0) {
        let [page, pages, generation] = [word >> 40, word >> 24 & 0xffff, word & 0xff_ffff].map(|n| n as u32);
        arena.free(Run { page, pages, generation });
        FREED.fetch_add(1, SeqCst);
    }
}

/// Python's collector may run in the middle of an allocation; here a signal handler does.
#[test]
fn a_block_may_be_freed_from_a_signal_handler_in_the_middle_of_an_allocation() {
    let _guard = guard();
    let segment = Segment::anonymous(64 << 20).unwrap();
    let arena = Arena::of(&segment);
    assert!(ARENA.set(Arena::of(&segment)).is_ok());
    let action = SigAction::new(SigHandler::Handler(free_next), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler allocates nothing and waits for nobody.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let end = AtomicBool::new(false);
    // SAFETY: no preconditions.
    let me = unsafe { libc::pthread_self() };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(SeqCst) {
                // SAFETY: the scope ends before the thread `me` does.
                assert_eq!(unsafe { libc::pthread_kill(me, libc::SIGUSR1) }, 0);
                std::thread::yield_now();
            }
        });
        let lane = arena.lane().unwrap();
        let mut random = Random::new(5);
        while FREED.load(SeqCst) < 500 {
            // Large enough at times that memory is given back.
            let most = if random.below(50) == 0 { 12 << 20 } else { 100_000 };
            let given = arena.alloc(lane, 1 + random.below(most) as usize, 0).unwrap();
            let word = u64::from(given.page) << 40 | u64::from(given.pages) << 24 | u64::from(given.generation);
            if NEXT.compare_exchange(0, word, SeqCst, SeqCst).is_err() {
                arena.free(given);
            }
        }
        end.store(true, SeqCst);
    });
    free_next(0);
    assert_eq!(segment.stats().used_bytes, 0);
    arena.free(arena.alloc(arena.lane().unwrap(), segment.stats().total_bytes, 0).unwrap());
}
