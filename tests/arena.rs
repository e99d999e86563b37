//! The page arena: whose the memory is, what goes back to the system and when, and what happens when there is none.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use kinfolk::segment::{Arena, Stats};
use kinfolk::{Event, Mutex, Process, Queue, Segment, pipe_in};
use support::random::Random;
use support::watchdog;

const PAGE: usize = 8 << 10;
const MIB: usize = 1 << 20;

/// A word of the header, or of anything else, as the file has it.
fn word(segment: &Segment, at: u64, bytes: usize) -> u64 {
    let file = std::fs::File::from(segment.as_fd().try_clone_to_owned().unwrap());
    let mut word = [0; 8];
    file.read_exact_at(&mut word[..bytes], at).unwrap();
    u64::from_le_bytes(word)
}

/// Bytes of memory that the kernel has given to the arena of the segment, and to all of it.
fn memory(segment: &Segment) -> usize {
    rustix::fs::fstat(segment).unwrap().st_blocks as usize * 512
}

fn stats_add_up(stats: &Stats) {
    let kinds: usize = stats.by_kind.iter().map(|kind| kind.bytes).sum();
    assert_eq!(stats.used_bytes, kinds + stats.in_flight_bytes + stats.ownerless_bytes, "{stats:?}");
    assert_eq!(stats.committed_bytes, stats.used_bytes + stats.free_bytes, "{stats:?}");
    let all = stats.committed_bytes + stats.given_back_bytes + stats.fresh_bytes;
    assert_eq!(all, stats.total_bytes, "{stats:?}");
}

/// Goes through the page map as FORMAT.md has it, page by page, and compares.
fn recount(segment: &Segment) -> Stats {
    const COMMITTED_PAGES: u64 = 104;
    const PAGEMAP_AT: u64 = 80;
    const OBJECTS_AT: u64 = 88;
    let stats = segment.stats();
    stats_add_up(&stats);
    let committed = word(segment, COMMITTED_PAGES, 4);
    let (pagemap, objects) = (word(segment, PAGEMAP_AT, 8), word(segment, OBJECTS_AT, 8));
    // Pages by state, and used ones by kind of their object.
    let mut states: HashMap<u64, usize> = HashMap::new();
    let mut kinds: BTreeMap<u64, usize> = BTreeMap::new();
    let mut page = 0;
    while page < committed {
        let head = word(segment, pagemap + 16 * page, 8);
        let (state, pages) = (head & 0xf, (head >> 14 & 0x3ff_ffff).max(1));
        *states.entry(state).or_default() += pages as usize * PAGE;
        if state == 2 {
            let owner = word(segment, pagemap + 16 * page + 8, 8);
            let kind = word(segment, objects + 512 * (owner & 0xffff_ffff) + 8, 4);
            *kinds.entry(kind).or_default() += pages as usize * PAGE;
        }
        page += pages;
    }
    assert_eq!(page, committed, "a piece ends beyond the last committed page");
    let bytes = |state| states.get(&state).copied().unwrap_or(0);
    assert_eq!(stats.used_bytes, bytes(1) + bytes(2) + bytes(3));
    assert_eq!(stats.in_flight_bytes, bytes(1) + bytes(3));
    assert_eq!((stats.free_bytes, stats.given_back_bytes), (bytes(0), bytes(5)));
    assert_eq!(bytes(4), 0, "a page that no entry tells of");
    let mut by_kind: Vec<usize> = stats.by_kind.iter().map(|kind| kind.bytes).collect();
    let mut recounted: Vec<usize> = kinds.into_values().collect();
    by_kind.sort_unstable();
    recounted.sort_unstable();
    assert_eq!(by_kind, recounted);
    stats
}

fn bytes_queue(segment: &Segment) -> Queue<Vec<u8>> {
    Queue::<()>::builder().bytes(4096).segment(segment).build().unwrap()
}

#[test]
fn the_books_say_what_each_kind_and_each_process_has() {
    let _guard = watchdog(Duration::from_secs(60));
    let segment = Segment::anonymous(64 << 20).unwrap();
    let other = Segment::from_fd(segment.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let queue = bytes_queue(&segment);
    queue.put(vec![1; 3 * PAGE]).unwrap();
    let locks = [(); 3].map(|()| Mutex::new_in(&segment, 0u64).unwrap());
    let ends = pipe_in::<u32, u32>(&other).unwrap();
    let event = Event::new_in(&other).unwrap();
    let stats = recount(&segment);
    let of = |name: &str| stats.by_kind.iter().find(|kind| kind.kind == name).map(|kind| (kind.objects, kind.bytes));
    assert_eq!(of("queue"), Some((1, 4 * PAGE)), "the mailbox and the message");
    assert_eq!(of("mutex"), Some((3, 3 * PAGE)));
    assert_eq!((of("event"), of("pipe").unwrap().0, of("barrier")), (Some((1, PAGE)), 1, None));
    let pipe_bytes = of("pipe").unwrap().1;
    assert_eq!((stats.objects, stats.used_bytes), (6, 8 * PAGE + pipe_bytes));
    let open: Vec<usize> = stats.by_process.iter().map(|process| process.open_bytes).collect();
    assert_eq!(open, [7 * PAGE, PAGE + pipe_bytes]);
    assert!(stats.by_process.iter().all(|p| p.pid == std::process::id() && p.in_flight_bytes == 0));

    // On its way: a loan that is not committed, and one that is being read.
    let loan = queue.loan(2 * PAGE).unwrap();
    let stats = recount(&segment);
    assert_eq!((stats.in_flight_bytes, stats.by_process[0].in_flight_bytes), (2 * PAGE, 2 * PAGE));
    assert_eq!((stats.used_bytes, stats.by_process[1].in_flight_bytes), (10 * PAGE + pipe_bytes, 0));
    let text = segment.inspect().to_string();
    assert!(text.contains(&format!("queue: 1 objects, {} B", 4 * PAGE)), "{text}");
    assert!(text.contains(&format!("in flight: {} B, of no object: 0 B", 2 * PAGE)), "{text}");
    assert!(text.contains(&format!("has open: {} B, in flight: {} B", 7 * PAGE, 2 * PAGE)), "{text}");
    drop(loan);

    // What belongs to nobody is said, not left out.
    let arena = Arena::of(&segment);
    let lane = arena.lane().unwrap();
    let run = arena.alloc(lane, 5 * PAGE, 77 << 32).unwrap();
    assert_eq!(segment.stats().in_flight_bytes, 5 * PAGE);
    arena.live(run, lane);
    let stats = segment.stats();
    stats_add_up(&stats);
    assert_eq!((stats.in_flight_bytes, stats.ownerless_bytes), (0, 5 * PAGE));
    arena.free(run);
    drop((queue, locks, ends, event));
    let stats = recount(&segment);
    assert_eq!((stats.used_bytes, stats.objects, stats.by_kind.len()), (0, 0, 0));
}

#[test]
fn the_books_add_up_at_every_step_of_a_random_use() {
    for seed in 1..5 {
        let segment = Segment::anonymous(32 << 20).unwrap();
        let queues: Vec<_> = (0..4).map(|_| bytes_queue(&segment)).collect();
        let mut random = Random::new(seed);
        let mut loans = Vec::new();
        for _ in 0..300 {
            let queue = &queues[random.below(4) as usize];
            match random.below(6) {
                0 | 1 => drop(queue.try_put(vec![1; random.below(400_000) as usize]).is_ok()),
                2 | 3 => drop(queue.try_get().is_ok()),
                4 => loans.extend(queue.loan(PAGE * random.below(20) as usize).ok()),
                _ => {
                    loans.truncate(random.below(3) as usize);
                    if random.below(4) == 0 {
                        segment.trim().unwrap();
                        assert_eq!(segment.stats().free_bytes, 0);
                    }
                }
            }
            recount(&segment);
        }
    }
}

#[test]
fn a_trim_gives_the_memory_back_and_the_next_user_commits_it_again() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let tables = memory(&segment);
    let queue = bytes_queue(&segment);
    queue.put(vec![7; 6 * MIB]).unwrap();
    let with_message = memory(&segment);
    assert!(with_message - tables > 6 * MIB);
    assert_eq!(queue.get().unwrap(), vec![7; 6 * MIB]);
    assert_eq!(memory(&segment), with_message, "below 8 MiB nothing goes back by itself");
    let free = segment.stats().free_bytes;
    assert_eq!(segment.trim().unwrap(), free);
    let stats = recount(&segment);
    assert_eq!((stats.free_bytes, stats.given_back_bytes, stats.committed_bytes), (0, free, stats.used_bytes));
    assert_eq!(memory(&segment), with_message - free);
    assert_eq!(segment.trim().unwrap(), 0, "twice");
    // All of it is committed before the message is written, and no more.
    let loan = queue.loan(3 * MIB).unwrap();
    assert_eq!(memory(&segment), with_message - free + 3 * MIB);
    loan.commit();
    recount(&segment);
    // The rest of the piece is still hollow; a message over its end takes hollow pages and new ones.
    let fresh = segment.stats().fresh_bytes;
    queue.try_put(vec![8; 12 * MIB]).unwrap();
    assert!(segment.stats().fresh_bytes < fresh);
    assert_eq!((queue.get().unwrap().len(), queue.get().unwrap()), (3 * MIB, vec![8; 12 * MIB]));
    drop(queue);
    let stats = recount(&segment);
    assert_eq!(stats.used_bytes, 0);
    segment.trim().unwrap();
    assert_eq!((segment.stats().committed_bytes, recount(&segment).free_bytes), (0, 0));
}

/// A reader that comes too late sees zeros and nothing worse; the memory that this costs goes with the next trim.
#[test]
fn reading_memory_that_was_given_back_costs_memory_until_the_next_trim() {
    let segment = Segment::anonymous(16 << 20).unwrap();
    let arena = Arena::of(&segment);
    let lane = arena.lane().unwrap();
    let run = arena.alloc(lane, 64 * PAGE, 0).unwrap();
    arena.slice(run).write(0, &[9; 100]);
    arena.free(run);
    segment.trim().unwrap();
    let hollow = memory(&segment);
    let mut bytes = vec![1; run.bytes()];
    arena.slice(run).read(0, &mut bytes);
    assert!(bytes.iter().all(|b| *b == 0));
    let read = memory(&segment);
    assert!(read >= hollow + run.bytes(), "{hollow} {read}");
    assert_eq!(segment.trim().unwrap(), 0, "it was free without memory all the time");
    assert_eq!(memory(&segment), hollow);
}

#[test]
fn large_memory_that_is_free_goes_back_by_itself() {
    // One queue for each message: large ones fill a small queue soon.
    let filled = |segment: &Segment, n: usize| -> Vec<Queue<Vec<u8>>> {
        let queues: Vec<_> = (0..n).map(|_| bytes_queue(segment)).collect();
        queues.iter().for_each(|queue| queue.try_put(vec![7; 10 * MIB]).unwrap());
        queues
    };
    let segment = Segment::anonymous(256 << 20).unwrap();
    let queues = filled(&segment, 10);
    let full = memory(&segment);
    queues.iter().for_each(|queue| drop(queue.get().unwrap()));
    let stats = recount(&segment);
    assert!(stats.free_bytes <= 8 * MIB, "{stats:?}");
    assert!(memory(&segment) <= full - 90 * MIB, "{} of {full}", memory(&segment));

    // Beside much that is in use, a third of it may stay.
    let segment = Segment::anonymous(256 << 20).unwrap();
    let queues = filled(&segment, 15);
    queues[..3].iter().for_each(|queue| drop(queue.get().unwrap()));
    let stats = recount(&segment);
    assert!(stats.free_bytes >= 30 * MIB && stats.given_back_bytes == 0, "{stats:?}");
    queues[3..6].iter().for_each(|queue| drop(queue.get().unwrap()));
    let stats = recount(&segment);
    assert!(stats.free_bytes <= stats.used_bytes / 3 && stats.given_back_bytes >= 20 * MIB, "{stats:?}");
}

#[test]
fn a_loop_does_not_give_back_what_it_takes_again() {
    let segment = Segment::anonymous(256 << 20).unwrap();
    let queue = bytes_queue(&segment);
    let mut committed_again = 0;
    for _ in 0..20 {
        let before = recount(&segment).given_back_bytes;
        queue.put(vec![7; 30 * MIB]).unwrap();
        committed_again += usize::from(recount(&segment).given_back_bytes < before);
        drop(queue.get().unwrap());
    }
    // The first round teaches it. Ten seconds later it may happen again.
    assert!((1..5).contains(&committed_again), "in {committed_again} of 20 rounds");
}

fn moves_and_trims((queue, seed): (Queue<Vec<u8>>, u64)) {
    let segment = Segment::family().unwrap();
    let mut random = Random::new(seed);
    loop {
        let byte = 1 + random.below(255) as u8;
        let _ = queue.try_put(vec![byte; 20_000 + random.below(3 << 20) as usize]);
        if random.below(2) == 0 {
            segment.trim().unwrap();
        }
        if let Ok(bytes) = queue.try_get() {
            assert_whole(&bytes);
        }
    }
}

fn assert_whole(bytes: &[u8]) {
    assert!(bytes.iter().all(|b| *b == bytes[0]) && bytes[0] != 0, "somebody else's bytes, or none");
}

/// A program whose children are killed while they move large messages and trim: no page is lost, and none that is in use
/// loses its memory.
#[test]
fn nobody_loses_memory_that_is_in_use_whoever_is_killed() {
    let _guard = watchdog(Duration::from_secs(120));
    let segment = Segment::family().unwrap();
    let used = recount_family(&segment);
    let queue = Queue::<()>::builder().bytes(4096).build::<Vec<u8>>().unwrap();
    let mut random = Random::new(3);
    for _ in 0..40 {
        let children: Vec<_> = (0..2)
            .map(|k| {
                Process::builder()
                    .daemon(true)
                    .spawn(moves_and_trims, (queue.clone(), random.below(1 << 40) + k))
                    .unwrap()
            })
            .collect();
        for child in &children {
            (0..30).for_each(|_| random.moment());
            child.kill().unwrap();
        }
        for child in children {
            let error = child.join().unwrap_err();
            assert!(!error.to_string().contains("panic"), "{error}");
        }
        while let Ok(bytes) = queue.try_get() {
            assert_whole(&bytes);
        }
        assert_eq!(recount_family(&segment), PAGE + used, "a run was lost");
    }
}

fn recount_family(segment: &Segment) -> usize {
    let stats = segment.stats();
    stats_add_up(&stats);
    assert_eq!((stats.in_flight_bytes, stats.ownerless_bytes), (0, 0));
    stats.used_bytes
}

/// A holder of the arena lock that died while it joined two free pieces, and a freer that says only now where it freed:
/// without the mark that the holder died, the second would be believed.
#[test]
fn an_entry_that_a_death_left_within_free_pages_is_no_place_to_begin() {
    const FREE_HINT: u64 = 116;
    const LONG_HINT: u64 = 152;
    const ARENA_LOCK: u64 = 120;
    const PAGEMAP_AT: u64 = 80;
    const OWNER_DIED: u32 = 1 << 10;
    let overlap = |died: bool| {
        let segment = Segment::anonymous(4 << 20).unwrap();
        let arena = Arena::of(&segment);
        let lane = arena.lane().unwrap();
        let write = |at: u64, bytes: &[u8]| rustix::io::pwrite(segment.as_fd(), bytes, at).unwrap();
        let [first, second, _behind] = [10, 10, 1].map(|pages| arena.alloc(lane, pages * PAGE, 0).unwrap());
        arena.free(first);
        arena.free(second);
        // The first piece tells of both, and the second still tells of itself.
        let entry = word(&segment, PAGEMAP_AT, 8) + 16 * u64::from(first.page);
        write(entry, &(u64::from(first.generation) << 40 | 20 << 14).to_le_bytes());
        write(ARENA_LOCK, &(if died { OWNER_DIED } else { 0 }).to_le_bytes());
        arena.free(arena.alloc(lane, PAGE, 0).unwrap());
        let hint = |page: u32| [FREE_HINT, LONG_HINT].map(|at| write(at, &page.to_le_bytes()));
        hint(second.page);
        let one = arena.alloc(lane, 5 * PAGE, 0).unwrap();
        hint(0);
        let other = arena.alloc(lane, 15 * PAGE, 0).unwrap();
        one.page < other.page + other.pages && other.page < one.page + one.pages
    };
    assert!(overlap(false), "the test shows less than it should");
    assert!(!overlap(true), "pages were handed out twice");
}
