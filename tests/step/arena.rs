//! Runs of pages, with a death at every instruction: taken, given back, trimmed, and the growth of what is committed.

use std::cell::{Cell, RefCell};

use kinfolk::segment::{Arena, Run};

use super::*;

const PAGE: usize = 8 << 10;
const MIB: usize = 1 << 20;
/// Header, rows and lanes, and the page map of a first step.
const TABLES: i64 = 3 * 4096;

/// Bytes that the kernel has given to the segment, but for those of its pages that the books call committed: its tables.
/// Fewer than before means pages without memory that nobody would commit.
fn memory_of_tables(segment: &Segment) -> i64 {
    let memory = rustix::fs::fstat(segment).unwrap().st_blocks * 512;
    memory - segment.stats().committed_bytes as i64
}

/// A new segment for every kill, so that only what was done there lies in it.
fn made(mib: u64, setup: &dyn Fn(&Arena) -> Option<Run>) -> (Segment, Option<Run>) {
    let segment = Segment::builder().size(mib << 20).processes(4).lanes(12).anonymous().unwrap();
    let run = setup(&Arena::of(&segment));
    (segment, run)
}

fn taken(arena: &Arena, bytes: usize) -> Run {
    let run = arena.alloc(arena.lane().unwrap(), bytes, 0).unwrap();
    arena.slice(run).write(0, &[7; 8]);
    arena.slice(run).write(run.bytes() - 8, &[7; 8]);
    run
}

/// Every page is in one place of the books, and the runs are those that the books count. What is in use.
fn recount(segment: &Segment) -> usize {
    let stats = segment.stats();
    let all = stats.used_bytes + stats.free_bytes + stats.given_back_bytes + stats.fresh_bytes;
    assert_eq!((all, stats.by_kind.len()), (stats.total_bytes, 0), "{stats:?}");
    let runs: usize = Arena::of(segment).runs().iter().map(|(run, ..)| run.bytes()).sum();
    assert_eq!((stats.used_bytes, stats.in_flight_bytes + stats.ownerless_bytes), (runs, runs), "{stats:?}");
    stats.used_bytes
}

/// Kills everywhere in `operation`, which may give the run of `setup` back. Others allocate at once, the pages in use are as
/// before it or as after it, and then all can be had side by side.
fn at_every_instruction_in(
    name: &str,
    mib: u64,
    setup: &dyn Fn(&Arena) -> Option<Run>,
    operation: &dyn Fn(&Segment, Option<Run>),
) {
    let warm = Mutex::new([0u64; 2]).unwrap();
    let state = RefCell::new(made(mib, setup));
    let prepare = || {
        drop(warm.lock().unwrap());
        Arena::of(&state.borrow().0).lane().unwrap();
    };
    let operate = || {
        let (segment, run) = &*state.borrow();
        operation(segment, *run);
    };
    at_every_instruction(name, &prepare, &operate, &mut |k, _| {
        let (segment, run) = state.replace(made(mib, setup));
        let arena = Arena::of(&segment);
        let before = run.map_or(0, Run::bytes);
        arena.free(taken(&arena, PAGE));
        segment.sweep();
        let tables = memory_of_tables(&segment);
        assert!(tables >= TABLES, "{name}, step {k}: pages without memory: {tables} B are left for the tables");
        let used = recount(&segment);
        assert!(used == before || used == 0, "{name}, step {k}: {used} B in use, {before} B before");
        run.into_iter().for_each(|run| arena.free(run));
        assert_eq!(recount(&segment), 0);
        arena.free(taken(&arena, segment.stats().total_bytes));
        segment.trim().unwrap();
        assert_eq!((recount(&segment), segment.stats().committed_bytes), (0, 0));
    });
}

/// Pages are taken: committed ones, new ones, ones without memory, and all of these in one run.
pub fn runs() {
    let take = |bytes: usize| move |segment: &Segment, _: Option<Run>| _ = taken(&Arena::of(segment), bytes);
    let nothing = |_: &Arena| None;
    at_every_instruction_in("take new pages", 4, &nothing, &take(PAGE));
    let pieces = |arena: &Arena| {
        // Free, in use, free, and free without memory.
        let [a, b, c] = [2, 3, 40].map(|pages| taken(arena, pages * PAGE));
        arena.free(c);
        arena.trim().unwrap();
        arena.free(a);
        Some(b)
    };
    at_every_instruction_in("take what is free", 4, &pieces, &take(PAGE));
    at_every_instruction_in("take hollow pages", 4, &pieces, &take(30 * PAGE));
    at_every_instruction_in("take hollow and new pages", 6, &pieces, &take(3 * MIB));
    at_every_instruction_in("take and give back", 4, &nothing, &|segment, _| {
        let arena = Arena::of(segment);
        let lane = arena.lane().unwrap();
        let run = arena.alloc(lane, 20 * PAGE, 0).unwrap();
        arena.retire(run, lane);
        arena.free(run);
    });
}

/// Pages are given back, by themselves and by a trim.
pub fn trims() {
    let large = |arena: &Arena| {
        let run = taken(arena, 11 * MIB);
        arena.live(run, arena.lane().unwrap());
        Some(run)
    };
    at_every_instruction_in("free, and give back", 14, &large, &|segment, run| {
        Arena::of(segment).free(run.unwrap());
        // The lane that dies had nothing in hand.
    });
    let scattered = |arena: &Arena| {
        let runs = [30, 1, 300, 2, 5, 1].map(|pages| taken(arena, pages * PAGE));
        [0, 2, 4].into_iter().for_each(|k| arena.free(runs[k]));
        [3, 5].into_iter().for_each(|k| arena.free(runs[k]));
        Some(runs[1])
    };
    at_every_instruction_in("trim", 6, &scattered, &|segment, _| _ = segment.trim().unwrap());
}

/// The next who takes the lock of one that died in it, killed everywhere too: it recovers the dead and puts its pages in
/// order.
pub fn recovery() {
    let kills = Cell::new(0);
    let half_trimmed = |arena: &Arena| {
        let runs = [30, 1, 40, 2, 5, 1].map(|pages| taken(arena, pages * PAGE));
        [0, 2, 3, 4, 5].into_iter().for_each(|k| arena.free(runs[k]));
        // Some instructions into a trim, other ones each time.
        kills.set(kills.get() + 1);
        let prepare = || _ = arena.lane().unwrap();
        kill_after(50 + kills.get() * 37 % 1500, &prepare, &|| _ = arena.trim().unwrap());
        Some(runs[1])
    };
    at_every_instruction_in("recovery of the arena", 4, &half_trimmed, &|segment, _| {
        taken(&Arena::of(segment), 60 * PAGE);
    });
    let recovered = |arena: &Arena| {
        let run = half_trimmed(arena);
        assert_eq!(arena.segment().sweep(), 1);
        run
    };
    at_every_instruction_in("order after a death", 4, &recovered, &|segment, _| {
        taken(&Arena::of(segment), 60 * PAGE);
    });
    let dead = |arena: &Arena| {
        let prepare = || {
            let lane = arena.lane().unwrap();
            let runs = [9, 300, 9].map(|pages| taken(arena, pages * PAGE));
            arena.retire(runs[2], lane);
        };
        kill_after(1, &prepare, &|| ());
        None
    };
    at_every_instruction_in("recovery of runs", 6, &dead, &|segment, _| _ = segment.sweep());
}
