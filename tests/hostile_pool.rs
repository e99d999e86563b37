//! Wrong bytes under a pool: under its board, and under both of its queues. Every task ends, with a result or an error, the
//! owner's threads go on, no crowd of workers is started, and the pool can be ended.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

use kinfolk::pool::Task;
use kinfolk::{ErrorKind, Event, Pool, Segment, TaskError, Value};
use proptest::prelude::*;
use support::watchdog;
use support::watchdog::Watchdog;

/// Bytes of an arena page.
const PAGE: u64 = 8192;
const WORKERS: usize = 2;
const DEPTH: usize = 16;
/// The words of a board of this size: the pool's own, two for each worker, one for each task.
const BOARD: u64 = (8 + 2 * WORKERS + DEPTH) as u64;
/// How long a task may take that has nothing to wait for but what finds wrong bytes.
const LONG: Duration = Duration::from_secs(8);
/// More workers than this are a crowd.
const CROWD: u32 = 40;

/// Panics in threads of pools' owners in this process.
static FELL: AtomicUsize = AtomicUsize::new(0);

/// One test at a time, since objects are found by what is new.
fn alone() -> (MutexGuard<'static, ()>, Watchdog) {
    static ALONE: Mutex<()> = Mutex::new(());
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("kinfolk-")) {
                FELL.fetch_add(1, SeqCst);
            }
            before(info);
        }));
    });
    (ALONE.lock().unwrap_or_else(|e| e.into_inner()), watchdog(Duration::from_secs(120)))
}

/// An object: its number, its generation, and where its memory is.
type Found = (u64, u64, u64);

fn word_at(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_ne_bytes(bytes)
}

/// Objects of the family that are queues or arrays, and where the memory of each begins, by what `FORMAT.md` says.
fn objects(segment: &Segment, file: &File) -> BTreeMap<Found, (String, u64)> {
    let text = segment.inspect().to_string();
    let object = |line: &str| {
        let (index, rest) = line.trim().strip_prefix("object ")?.split_once(": ")?;
        let (kind, _) = rest.split_once(", ")?;
        let index: u64 = index.parse().ok()?;
        let entry = word_at(file, 88) + 512 * index;
        let (generation, memory) = (word_at(file, entry) >> 32, word_at(file, entry + 8));
        let begin = word_at(file, 96) + PAGE * (memory >> 32);
        matches!(kind, "queue" | "array").then_some(((index, generation, memory), (kind.to_owned(), begin)))
    };
    text.lines().filter_map(object).collect()
}

/// A pool, and where its memory is.
struct Victim {
    pool: Pool,
    file: File,
    board: u64,
    /// Where each queue begins, and its granules.
    queues: Vec<(u64, u64)>,
    started: Value<u32>,
}

impl Victim {
    fn new() -> Self {
        let segment = Segment::family().unwrap();
        let started = Value::new(0u32).unwrap();
        let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
        // Of the pool before, what is spoilt may still be there.
        let before = objects(&segment, &file);
        let count = |started: Value<u32>| {
            started.add(1);
        };
        let builder = Pool::builder().processes(WORKERS).depth(DEPTH);
        let pool = builder.initializer(count, started.clone()).build().unwrap();
        let (mut board, mut queues) = (None, Vec::new());
        for (_, (kind, memory)) in objects(&segment, &file).into_iter().filter(|(found, _)| !before.contains_key(found))
        {
            match &*kind {
                "array" => assert_eq!(board.replace(memory), None, "another array"),
                _ => queues.push((memory, word_at(&file, memory) & 0xffff_ffff)),
            }
        }
        assert_eq!(queues.len(), 2, "a queue of tasks and one of results");
        Self { pool, file, board: board.expect("a board"), queues, started }
    }

    fn write(&self, at: u64, word: u64) {
        self.file.write_all_at(&word.to_ne_bytes(), at & !7).unwrap();
    }

    fn board_word(&self, k: u64) -> u64 {
        self.board + 64 + 8 * k
    }

    fn slot(&self, k: u64) -> u64 {
        self.board_word(8 + 2 * WORKERS as u64 + k)
    }

    fn read(&self, at: u64) -> u64 {
        word_at(&self.file, at)
    }

    /// Ends the pool, in two seconds at most, and looks at what it has been through.
    fn end(self) {
        let begin = Instant::now();
        self.pool.terminate();
        self.pool.join().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        let (stats, started) = (self.pool.stats(), self.started.load());
        assert_eq!(stats.submitted, stats.done + stats.failed + stats.cancelled, "{stats:?}");
        assert!(started <= CROWD, "{started} workers were started: {stats:?}");
        assert_eq!(FELL.load(SeqCst), 0, "an owner's thread panicked");
    }
}

fn after((n, go): (u64, Event)) -> u64 {
    go.wait();
    n * n
}

/// Tasks of every kind: two that are begun, and some behind them, which may be begun again, or have a limit.
fn under_way(pool: &Pool, go: &Event) -> Vec<(u64, Task<u64>)> {
    let mut tasks = Vec::new();
    for n in 0..8 {
        let job = pool.job(after, (n, go.clone())).retries((n % 3) as u32);
        let job = if n % 4 == 3 { job.timeout(Duration::from_secs(2)) } else { job };
        match job.submit() {
            Ok(task) => tasks.push((n, task)),
            Err(error) => assert!(!matches!(error, TaskError::Arguments(_)), "{error}"),
        }
    }
    tasks
}

/// How many of the tasks have not ended by themselves, and with them those that have no result.
fn look(tasks: Vec<(u64, Task<u64>)>) -> (Vec<(u64, Task<u64>)>, usize) {
    let (mut left, mut failed) = (Vec::new(), 0);
    let end = Instant::now() + LONG;
    for (n, mut task) in tasks {
        match task.get_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(result) => assert_eq!(result, n * n),
            Err(TaskError::Timeout) => left.push((n, task)),
            Err(_) => failed += 1,
        }
    }
    (left, failed)
}

/// What [`word`] puts together for a slot: the task's number, its worker, its state.
fn slot_word(task: u64, worker: u64, state: u64) -> u64 {
    task << 24 | worker << 3 | state
}

const QUEUED: u64 = 1;
const RUNNING: u64 = 2;

/// A task ends as one whose words are wrong.
fn is_wrong(task: &mut Task<u64>) {
    match task.get_timeout(LONG) {
        Err(TaskError::Failed(error)) if error.kind() == ErrorKind::Corrupt => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_task_whose_word_is_wrong_ends_and_the_others_go_on() {
    let _alone = alone();
    let victim = Victim::new();
    let go = Event::new().unwrap();
    // Of a fresh pool, the first task is number 1 in slot 0. Workers 1 and 2 begin the first two; those behind are not begun.
    let mut tasks: Vec<_> = (0..8).map(|n| victim.pool.apply_async(after, (n, go.clone())).unwrap()).collect();
    support::children::until(|| (0..2).all(|k| victim.read(victim.slot(k)) & 7 == RUNNING));
    assert_eq!(victim.read(victim.slot(4)), slot_word(5, 0, QUEUED));
    // Free; one that nobody knows; begun by nobody; begun by a worker that is another's; of another task.
    for (k, word) in [
        (2, 0),
        (3, u64::MAX),
        (4, slot_word(5, 77, RUNNING)),
        (5, slot_word(6, 1, RUNNING)),
        (6, slot_word(70, 0, QUEUED)),
    ] {
        victim.write(victim.slot(k), word);
    }
    // What the workers have counts, whatever the board says.
    victim.write(victim.slot(0), slot_word(1, 0, QUEUED));
    go.set();
    for k in [0, 1, 7] {
        assert_eq!(tasks[k].get_timeout(LONG).unwrap(), (k * k) as u64);
    }
    tasks[2..7].iter_mut().for_each(is_wrong);
    assert_eq!(victim.pool.map(|n: u64| n + 1, 0..100).unwrap(), (1..101).collect::<Vec<_>>());
    assert_eq!((victim.started.load(), victim.pool.stats().deaths), (2, 0));
    victim.end();
}

#[test]
fn a_task_that_is_in_no_queue_ends() {
    let _alone = alone();
    let victim = Victim::new();
    let go = Event::new().unwrap();
    // Its worker ends when it finds that the task has another state than it may have: it is said to run too long.
    let mut task = victim.pool.job(after, (3, go.clone())).timeout(LONG).submit().unwrap();
    support::children::until(|| victim.read(victim.slot(0)) & 7 == RUNNING);
    victim.write(victim.slot(0), slot_word(1, 0, QUEUED));
    go.set();
    is_wrong(&mut task);
    assert_eq!(victim.pool.apply(|n: u64| n + 1, 1).unwrap(), 2);
    victim.end();
}

#[test]
fn a_task_that_its_worker_knows_nothing_of_ends() {
    let _alone = alone();
    let victim = Victim::new();
    let go = Event::new().unwrap();
    let mut task = victim.pool.apply_async(after, (3, go.clone())).unwrap();
    support::children::until(|| victim.read(victim.slot(0)) & 7 == RUNNING);
    let worker = victim.read(victim.slot(0)) >> 3 & 7;
    // A worker that has nothing to do, in place of the one that has the task.
    victim.write(victim.slot(0), slot_word(1, 3 - worker, RUNNING));
    is_wrong(&mut task);
    go.set();
    assert_eq!(victim.pool.apply(|n: u64| n + 1, 1).unwrap(), 2);
    victim.end();
}

#[test]
fn a_time_limit_is_kept_whatever_the_worker_has_noted() {
    let _alone = alone();
    let victim = Victim::new();
    let endless = |go: Event| go.wait();
    let mut task =
        victim.pool.job(endless, Event::new().unwrap()).timeout(Duration::from_millis(300)).submit().unwrap();
    // No limits; and both workers seem to have nothing to do.
    support::children::until(|| victim.read(victim.slot(0)) & 7 == RUNNING);
    [0, 8, 9, 10, 11].into_iter().for_each(|k| victim.write(victim.board_word(k), 0));
    let outcome = task.get_timeout(LONG);
    assert!(matches!(outcome, Err(TaskError::TimedOut { .. })), "{outcome:?}");
    victim.end();
}

#[test]
fn workers_that_are_told_to_end_by_wrong_bytes_break_the_pool_and_are_told_to_end_by_the_pool() {
    let _alone = alone();
    let victim = Victim::new();
    victim.write(victim.board_word(0), u64::MAX);
    // A worker may do a task or two before it looks whether it is to end.
    let error = (0..1000).find_map(|n| victim.pool.apply(|n: u64| n, n).err()).expect("no workers are left");
    assert!(matches!(&error, TaskError::Failed(error) if error.kind() == ErrorKind::Corrupt), "{error}");
    victim.end();
    // Closed, with what the board says of it wiped off again and again.
    let victim = Victim::new();
    assert_eq!(victim.pool.apply(|n: u64| n, 1).unwrap(), 1);
    victim.pool.close();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..1000 {
                victim.write(victim.board_word(0), 0);
                std::thread::yield_now();
            }
            while !over.load(SeqCst) {
                std::thread::yield_now();
            }
        });
        victim.pool.join().unwrap();
        over.store(true, SeqCst);
    });
    victim.end();
}

fn word() -> impl Strategy<Value = u64> {
    let slot = (0u64..20, 0u64..6, 0u64..6).prop_map(|(task, worker, state)| slot_word(task, worker, state));
    let ring = (0u64..8, 0u64..8, 0u64..4).prop_map(|(state, lane, d)| d << 16 | lane << 6 | state);
    let head = (0u64..600, 0u64..4, 0u64..40).prop_map(|(len, kind, handles)| len | kind << 32 | handles << 40);
    prop_oneof![any::<u64>(), 0u64..300, slot, ring, head]
}

/// A place in a queue: its own words, those of its first records, the records.
fn place() -> impl Strategy<Value = (usize, u64, u64)> {
    (0usize..2, prop_oneof![3 => Just(0u64), 3 => 1u64..4, 2 => Just(4)], any::<u16>()).prop_map(|(q, part, at)| {
        let at = u64::from(at)
            % if part == 0 {
                80
            } else if part < 4 {
                60
            } else {
                400
            };
        (q, part, at)
    })
}

impl Victim {
    fn place(&self, (which, part, at): (usize, u64, u64)) -> u64 {
        let (begin, granules) = self.queues[which];
        let words = if part == 0 { 0 } else { 640 + 8 * granules * (part - 1) };
        begin + words + 8 * at
    }
}

const CASES: u32 = if cfg!(debug_assertions) { 12 } else { 30 };

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tasks_end_by_themselves_whatever_is_written_on_the_board(
        words in prop::collection::vec((0..BOARD, word()), 1..30), later in prop::collection::vec((0..BOARD, word()), 0..5),
    ) {
        let _alone = alone();
        let victim = Victim::new();
        let go = Event::new().unwrap();
        let tasks = under_way(&victim.pool, &go);
        words.iter().for_each(|(k, word)| victim.write(victim.board_word(*k), *word));
        go.set();
        later.iter().for_each(|(k, word)| victim.write(victim.board_word(*k), *word));
        let (left, _) = look(tasks);
        assert!(left.is_empty(), "{left:?}, {:?}", victim.pool.stats());
        // What comes later does so too.
        let (left, _) = look(under_way(&victim.pool, &go));
        assert!(left.is_empty(), "{left:?}, {:?}", victim.pool.stats());
        victim.end();
    }

    #[test]
    fn tasks_end_and_so_does_the_pool_whatever_is_written_into_its_queues(
        words in prop::collection::vec((place(), word()), 1..30), later in prop::collection::vec((place(), word()), 0..5),
    ) {
        let _alone = alone();
        let victim = Victim::new();
        let go = Event::new().unwrap();
        let tasks = under_way(&victim.pool, &go);
        words.iter().for_each(|(place, word)| victim.write(victim.place(*place), *word));
        go.set();
        later.iter().for_each(|(place, word)| victim.write(victim.place(*place), *word));
        let (left, failed) = look(tasks);
        println!("{} left, {failed} failed, {:?}", left.len(), victim.pool.stats());
        // Words that say of a worker at work that it is writing are believed; there are few of them.
        static LEFT: AtomicUsize = AtomicUsize::new(0);
        assert!(LEFT.fetch_add(left.len(), SeqCst) + left.len() <= 8, "{left:?}");
        victim.end();
        for (_, mut task) in left {
            let outcome = task.get_timeout(LONG);
            assert!(matches!(outcome, Err(ref error) if !matches!(error, TaskError::Timeout)), "{outcome:?}");
        }
    }
}
