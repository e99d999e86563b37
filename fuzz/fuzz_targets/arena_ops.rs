//! Runs of pages taken, published, retired, given back and trimmed by several lanes of several processes, with deaths and
//! recoveries in between, against a set of intervals: no two overlap, none is lost, none loses its memory. Then with spoilt
//! words: an error or an answer from every operation, in bounded time.
#![no_main]

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use arbitrary::Arbitrary;
use kinfolk::segment::{Arena, Run};
use kinfolk::{ErrorKind, Segment};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 4 << 20;
const PAGE: usize = 8 << 10;
const PROCESSES: usize = 3;
const LANES: usize = 2;
const ROWS: usize = 8;

/// Where the header has the words that may be anything: the hints of the arena.
const HINTS: [u64; 6] = [116, 152, 160, 164, 168, 172];
const PAGEMAP_AT: u64 = 80;

#[derive(Arbitrary, Debug)]
struct Plan {
    steps: Vec<Step>,
    /// Words that are spoilt at the end, each before an operation.
    damage: Vec<(Damage, Step)>,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Step {
    Take {
        who: u8,
        pages: Pages,
        owner: u8,
    },
    Publish {
        which: u8,
    },
    Retire {
        which: u8,
        who: u8,
    },
    Free {
        which: u8,
        who: u8,
    },
    /// Gives a run back that was given back before.
    FreeAgain {
        which: u8,
        who: u8,
    },
    /// A name that another generation, or another place, has.
    Stale {
        which: u8,
        page: i8,
        generation: i8,
    },
    Trim {
        who: u8,
    },
    Attach {
        who: u8,
    },
    Die {
        who: u8,
    },
    Recover {
        who: u8,
    },
    /// Hints may be anything at any time.
    Hint {
        which: u8,
        value: u32,
    },
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Pages {
    Few(u8),
    Many(u16),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Damage {
    State { page: u8, state: u8 },
    Length { page: u8, pages: u32 },
    Word { page: u8, word: u64 },
    Committed(u32),
    Lock(u16),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Owned(u16),
    Live,
    Retired(u16),
}

struct Process {
    arena: Arena,
    segment: Segment,
    lanes: [u16; LANES],
}

struct Test {
    /// Never dies, so that there is always somebody to recover the others.
    keeper: Process,
    processes: Vec<Option<Process>>,
    /// Runs by their first page.
    runs: BTreeMap<u32, (Run, State, u64)>,
    /// What was given back.
    gone: Vec<Run>,
    dead: Vec<u16>,
    total: usize,
}

impl Process {
    fn new(segment: Segment) -> Self {
        let arena = Arena::of(&segment);
        let lanes = [(); LANES].map(|()| arena.another_lane().expect("lanes enough"));
        Self { arena, segment, lanes }
    }
}

fn attach(segment: &Segment) -> Process {
    let file = segment.as_fd().try_clone_to_owned().expect("descriptors enough");
    Process::new(Segment::from_fd(file).expect("rows enough"))
}

fn write(segment: &Segment, at: u64, bytes: &[u8]) {
    rustix::io::pwrite(segment.as_fd(), bytes, at).expect("within the file");
}

fn read(segment: &Segment, at: u64) -> u64 {
    let mut word = [0; 8];
    rustix::io::pread(segment.as_fd(), &mut word, at).expect("within the file");
    u64::from_le_bytes(word)
}

/// What stands in every page of a run.
fn mark(run: Run) -> [u8; 8] {
    (u64::from(run.generation) << 32 | u64::from(run.page) << 8 | 1).to_le_bytes()
}

impl Test {
    fn new() -> Self {
        let segment = Segment::builder().size(SIZE).processes(ROWS as u32).lanes(32).anonymous().expect("a segment");
        let processes = (0..PROCESSES).map(|_| None).collect();
        let total = segment.stats().total_bytes;
        let keeper = Process::new(segment);
        Self { keeper, processes, runs: BTreeMap::new(), gone: Vec::new(), dead: Vec::new(), total }
    }

    fn who(&self, who: u8) -> &Process {
        let k = usize::from(who) % (PROCESSES + 1);
        self.processes.get(k).and_then(Option::as_ref).unwrap_or(&self.keeper)
    }

    fn lane(&self, who: u8) -> u16 {
        self.who(who).lanes[usize::from(who >> 4) % LANES]
    }

    fn which(&self, which: u8) -> Option<(Run, State, u64)> {
        let k = usize::from(which) % self.runs.len().max(1);
        self.runs.values().nth(k).copied()
    }

    fn forget(&mut self, run: Run) {
        self.runs.remove(&run.page);
        self.gone.push(run);
    }

    fn used(&self) -> usize {
        self.runs.values().map(|(run, ..)| run.bytes()).sum()
    }

    fn take(&mut self, who: u8, pages: Pages, owner: u64) {
        let pages = match pages {
            Pages::Few(n) => 1 + usize::from(n % 12),
            Pages::Many(n) => 1 + usize::from(n % 800),
        };
        let lane = self.lane(who);
        let run = match self.who(who).arena.alloc(lane, pages * PAGE, owner) {
            Ok(run) => run,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}");
                // There is no hole as large as that.
                let (mut at, mut largest) = (0, 0);
                for (run, ..) in self.runs.values() {
                    largest = largest.max(run.page - at);
                    at = run.page + run.pages;
                }
                let largest = largest.max((self.total / PAGE) as u32 - at);
                assert!((largest as usize) < pages, "{e}, and {largest} pages are free");
                return;
            }
        };
        assert_eq!(run.pages as usize, pages);
        let before = self.runs.range(..=run.page).next_back().map_or(0, |(_, (run, ..))| run.page + run.pages);
        let behind = self.runs.range(run.page..).next().map_or((self.total / PAGE) as u32, |(page, _)| *page);
        assert!(before <= run.page && run.page + run.pages <= behind, "{run:?} lies between {before} and {behind}");
        assert!(!self.gone.contains(&run), "a name that was used before");
        let slice = self.keeper.arena.slice(run);
        (0..pages).for_each(|k| slice.write(k * PAGE, &mark(run)));
        self.runs.insert(run.page, (run, State::Owned(lane), owner));
    }

    fn has_its_memory(&self, run: Run) {
        let slice = self.keeper.arena.slice(run);
        let mut found = [0; 8];
        for k in 0..run.pages as usize {
            slice.read(k * PAGE, &mut found);
            assert_eq!(found, mark(run), "page {k} of {run:?}");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Take { who, pages, owner } => self.take(who, pages, u64::from(owner % 2) << 33),
            Step::Publish { which } => {
                if let Some((run, State::Owned(lane), owner)) = self.which(which) {
                    self.keeper.arena.live(run, lane);
                    self.runs.insert(run.page, (run, State::Live, owner));
                }
            }
            Step::Retire { which, who } => {
                if let Some((run, _, owner)) = self.which(which) {
                    let lane = self.lane(who);
                    self.who(who).arena.retire(run, lane);
                    self.runs.insert(run.page, (run, State::Retired(lane), owner));
                }
            }
            Step::Free { which, who } => {
                if let Some((run, ..)) = self.which(which) {
                    self.has_its_memory(run);
                    self.who(who).arena.free(run);
                    self.forget(run);
                }
            }
            Step::FreeAgain { which, who } => {
                if let Some(run) = self.gone.get(usize::from(which) % self.gone.len().max(1)) {
                    self.who(who).arena.free(*run);
                    self.who(who).arena.retire(*run, self.lane(who));
                }
            }
            Step::Stale { which, page, generation } => {
                if let Some((run, _, owner)) = self.which(which) {
                    let page = run.page.wrapping_add_signed(page.into());
                    let generation = run.generation.wrapping_add_signed(generation.into());
                    let name = Run { page, generation, ..run };
                    let there = self.runs.get(&page).filter(|(run, _, o)| run.generation == generation && *o == owner);
                    assert_eq!(self.keeper.arena.check(name, owner), there.map(|(run, ..)| *run));
                    assert_eq!(self.keeper.arena.check(name, owner ^ 1), None, "another object's");
                    if there.is_none() {
                        self.keeper.arena.free(name);
                    }
                }
            }
            Step::Trim { who } => {
                self.who(who).segment.trim().expect("the lock is free");
                assert_eq!(self.keeper.segment.stats().free_bytes, 0);
            }
            Step::Die { who } => {
                let k = usize::from(who) % PROCESSES;
                if let Some(process) = self.processes[k].take() {
                    self.dead.extend(process.lanes);
                    drop(process.segment);
                    process.arena.die();
                }
            }
            Step::Attach { who } => {
                let k = usize::from(who) % PROCESSES;
                if self.dead.len() / LANES + PROCESSES + 1 >= ROWS {
                    // Else the dead are recovered by the one who wants a row.
                    self.step(Step::Recover { who });
                }
                if self.processes[k].is_none() {
                    self.processes[k] = Some(attach(&self.keeper.segment));
                }
            }
            Step::Recover { who } => {
                self.who(who).segment.sweep();
                let dead = std::mem::take(&mut self.dead);
                let lost = |state| matches!(state, State::Owned(lane) | State::Retired(lane) if dead.contains(&lane));
                let lost: Vec<Run> = self.runs.values().filter(|(_, s, _)| lost(*s)).map(|(run, ..)| *run).collect();
                lost.into_iter().for_each(|run| self.forget(run));
            }
            Step::Hint { which, value } => {
                let at = HINTS[usize::from(which) % HINTS.len()];
                write(&self.keeper.segment, at, &(value % (1 << (value >> 27))).to_le_bytes());
            }
        }
    }

    fn recount(&self) {
        let stats = self.keeper.segment.stats();
        assert_eq!((stats.used_bytes, stats.total_bytes), (self.used(), self.total));
        let all = stats.used_bytes + stats.free_bytes + stats.given_back_bytes + stats.fresh_bytes;
        assert_eq!((all, stats.used_bytes + stats.free_bytes), (self.total, stats.committed_bytes));
        let live = self.runs.values().filter(|(_, state, _)| *state == State::Live);
        assert_eq!(stats.ownerless_bytes, live.map(|(run, ..)| run.bytes()).sum::<usize>());
        let mut found = self.keeper.arena.runs().into_iter();
        for (run, state, owner) in self.runs.values() {
            let lane = match state {
                State::Owned(lane) | State::Retired(lane) => Some(*lane),
                State::Live => None,
            };
            assert_eq!(found.next(), Some((*run, lane, *owner)));
        }
        assert_eq!(found.next(), None);
    }

    /// Everything comes back and lies side by side.
    fn empty(&mut self) {
        self.step(Step::Recover { who: 0 });
        while let Some((run, ..)) = self.which(0) {
            self.has_its_memory(run);
            self.keeper.arena.free(run);
            self.forget(run);
        }
        self.recount();
        let all = self.keeper.arena.alloc(self.keeper.lanes[0], self.total, 0).expect("all of it");
        self.keeper.arena.free(all);
        self.keeper.segment.trim().expect("the lock is free");
        assert_eq!(self.keeper.segment.stats().committed_bytes, 0);
    }

    fn damage(&mut self, damage: Damage) {
        let segment = &self.keeper.segment;
        let at = |page: u8| read(segment, PAGEMAP_AT) + 16 * u64::from(page);
        match damage {
            Damage::State { page, state } => {
                let word = read(segment, at(page));
                write(segment, at(page), &(word & !0xf | u64::from(state & 0xf)).to_le_bytes());
            }
            Damage::Length { page, pages } => {
                let word = read(segment, at(page)) & !(0x3ff_ffff << 14);
                write(segment, at(page), &(word | u64::from(pages & 0x3ff_ffff) << 14).to_le_bytes());
            }
            Damage::Word { page, word } => write(segment, at(page), &word.to_le_bytes()),
            Damage::Committed(pages) => write(segment, 104, &pages.to_le_bytes()),
            // A free lock, or one of a lane that there is not: a live holder's would be waited for.
            Damage::Lock(bits) => write(segment, 120, &(u32::from(bits) & 0x3c00).to_le_bytes()),
        }
    }

    /// An operation on spoilt words: the answer may be wrong.
    fn spoilt(&self, step: Step) {
        let Process { arena, segment, lanes } = &self.keeper;
        let run = |which: u8| self.gone.get(usize::from(which) % self.gone.len().max(1));
        match step {
            Step::Take { pages: Pages::Few(n), owner, .. } => {
                if let Ok(run) = arena.alloc(lanes[0], usize::from(n) * PAGE, owner.into()) {
                    arena.slice(run).write(0, &mark(run));
                    arena.live(run, lanes[0]);
                }
            }
            Step::Take { pages: Pages::Many(n), .. } => _ = arena.alloc(lanes[0], usize::from(n) * PAGE, 1),
            Step::Publish { which } => run(which).into_iter().for_each(|run| arena.live(*run, lanes[0])),
            Step::Retire { which, .. } => run(which).into_iter().for_each(|run| arena.retire(*run, lanes[1])),
            Step::Free { which, .. } | Step::FreeAgain { which, .. } => {
                run(which).into_iter().for_each(|run| arena.free(*run));
            }
            Step::Stale { which, .. } => run(which).into_iter().for_each(|run| _ = arena.check(*run, 0)),
            Step::Trim { .. } => _ = segment.trim(),
            Step::Attach { .. } | Step::Die { .. } | Step::Recover { .. } => _ = segment.sweep(),
            Step::Hint { which, value } => {
                write(segment, HINTS[usize::from(which) % HINTS.len()], &value.to_le_bytes());
            }
        }
        let _ = (segment.stats(), segment.inspect().to_string(), arena.runs().len());
    }
}

fuzz_target!(|plan: Plan| {
    let mut test = Test::new();
    for step in &plan.steps {
        test.step(*step);
        test.recount();
    }
    if plan.damage.is_empty() {
        return test.empty();
    }
    let left: Vec<Run> = test.runs.values().map(|(run, ..)| *run).collect();
    test.gone.extend(left);
    for (damage, step) in &plan.damage {
        test.damage(*damage);
        test.spoilt(*step);
    }
});
