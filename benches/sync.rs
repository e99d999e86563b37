//! Locks against the standard library's, parking_lot's, raw_sync's and the C library's: alone, wanted by two, and held by
//! one that is killed. Events against pipes.
//!
//! What criterion can time is timed by criterion. The contests and the kills have clocks of their own (see [`contest`]),
//! and run if no filter is given or it is part of `contended` or `kill_to_owner_died`.

mod contest;

use std::hint::black_box;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use contest::Who;
use contest::locks::{Contender, Memory, Posix, RawSync, Robust};
use contest::placement::Placement;
use contest::turns::{By, Load, Turns};
use criterion::{Criterion, criterion_group};

const KILLS: u32 = 50;

fn memory() -> Memory {
    Memory::new().expect("make memory")
}

/// Locking and unlocking, with nothing to guard.
fn lock(criterion: &mut Criterion) {
    fn time(criterion: &mut Criterion, name: &str, lock: impl Contender) {
        let mut reached = false;
        lock.with(|| reached = true);
        assert!(reached);
        criterion.bench_function(name, |b| b.iter(|| black_box(&lock).with(|| ())));
    }
    time(criterion, "lock/kinfolk", kinfolk::Lock::new(()).expect("make a lock"));
    time(criterion, "lock/std", std::sync::Mutex::new(()));
    time(criterion, "lock/parking_lot", parking_lot::Mutex::new(()));
    time(criterion, "lock/raw_sync", RawSync::make(memory()));
    time(criterion, "lock/pthread_robust", Robust::make(memory()));
}

/// Adding to the number that the mutex guards.
fn add(criterion: &mut Criterion) {
    let shared = kinfolk::Mutex::new(0u64).expect("make a mutex");
    let private = std::sync::Mutex::new(0u64);
    let other = parking_lot::Mutex::new(0u64);
    for _ in 0..3 {
        *shared.lock().expect("nobody died") += 1;
        *private.lock().expect("nobody panicked") += 1;
        *other.lock() += 1;
    }
    let sums = (*shared.lock().expect("nobody died"), *private.lock().expect("nobody panicked"), *other.lock());
    assert_eq!(sums, (3, 3, 3));

    let mut group = criterion.benchmark_group("add");
    group.bench_function("kinfolk", |b| b.iter(|| *black_box(&shared).lock().expect("nobody died") += 1));
    group.bench_function("std", |b| b.iter(|| *black_box(&private).lock().expect("nobody panicked") += 1));
    group.bench_function("parking_lot", |b| b.iter(|| *black_box(&other).lock() += 1));
    group.finish();
}

/// Reading a number behind a readers-writer lock, and adding to it.
fn read_write(criterion: &mut Criterion) {
    let shared = kinfolk::RwLock::new(7u64).expect("make a lock");
    let private = std::sync::RwLock::new(7u64);
    let other = parking_lot::RwLock::new(7u64);
    let seen = || (*shared.read().expect("nobody died"), *private.read().expect("nobody panicked"), *other.read());
    assert_eq!(seen(), (7, 7, 7));

    let mut group = criterion.benchmark_group("read");
    group.bench_function("kinfolk", |b| b.iter(|| *black_box(&shared).read().expect("nobody died")));
    group.bench_function("std", |b| b.iter(|| *black_box(&private).read().expect("nobody panicked")));
    group.bench_function("parking_lot", |b| b.iter(|| *black_box(&other).read()));
    group.finish();

    for _ in 0..3 {
        *shared.write().expect("nobody died") += 1;
        *private.write().expect("nobody panicked") += 1;
        *other.write() += 1;
    }
    assert_eq!(seen(), (10, 10, 10));
    let mut group = criterion.benchmark_group("write");
    group.bench_function("kinfolk", |b| b.iter(|| *black_box(&shared).write().expect("nobody died") += 1));
    group.bench_function("std", |b| b.iter(|| *black_box(&private).write().expect("nobody panicked") += 1));
    group.bench_function("parking_lot", |b| b.iter(|| *black_box(&other).write() += 1));
    group.finish();
}

/// Taking the one permit of a semaphore and giving it back; beside it the lock, which does no more.
fn permit(criterion: &mut Criterion) {
    let semaphore = kinfolk::Semaphore::new(1).expect("make a semaphore");
    let posix = Posix::make(memory(), 1);
    let lock = kinfolk::Lock::new(()).expect("make a lock");
    let permit = semaphore.acquire().expect("take the permit");
    assert_eq!((semaphore.value(), posix.with(|| posix.value()), posix.value()), (0, 0, 1));
    drop(permit);

    let mut group = criterion.benchmark_group("permit");
    group.bench_function("kinfolk", |b| b.iter(|| drop(black_box(&semaphore).acquire().expect("take the permit"))));
    group.bench_function("kinfolk_lock", |b| b.iter(|| black_box(&lock).with(|| ())));
    group.bench_function("sem_t", |b| b.iter(|| black_box(&posix).with(|| ())));
    group.finish();
    assert_eq!((semaphore.value(), posix.value()), (1, 1));
}

/// Taking a lock that its owner may take again: when it is free, and when it is the thread's own.
fn again(criterion: &mut Criterion) {
    let shared = kinfolk::RLock::new().expect("make a lock");
    let private = parking_lot::ReentrantMutex::new(());
    for (group, is_held) in [("rlock", false), ("rlock_again", true)] {
        let held = is_held.then(|| (shared.lock().expect("nobody died"), private.lock()));
        let inside = shared.lock().expect("nobody died");
        assert_eq!(shared.depth(), 1 + u32::from(is_held));
        drop(inside);
        let mut group = criterion.benchmark_group(group);
        group.bench_function("kinfolk", |b| b.iter(|| drop(black_box(&shared).lock().expect("nobody died"))));
        group.bench_function("parking_lot", |b| b.iter(|| drop(black_box(&private).lock())));
        group.finish();
        assert_eq!((shared.depth() == 1, private.is_owned_by_current_thread()), (is_held, is_held));
        drop(held);
    }
}

/// Looking at an event that is set.
fn is_set(criterion: &mut Criterion) {
    let event = kinfolk::Event::new().expect("make an event");
    assert!(!event.is_set());
    event.set();
    assert!(event.is_set());
    criterion.bench_function("is_set/kinfolk", |b| b.iter(|| black_box(&event).is_set()));
    let flag = std::sync::atomic::AtomicBool::new(true);
    criterion.bench_function("is_set/atomic_bool", |b| b.iter(|| black_box(&flag).load(Acquire)));
}

/// Round trips between two processes by two events, against two pipes; also while other processes keep the CPUs busy.
fn ping_pong(criterion: &mut Criterion) {
    for group in ["event_ping_pong", "event_ping_pong_loaded"] {
        for placement in Placement::ALL {
            if placement.cpus().expect("ask which CPUs there are").is_none() {
                println!("{group}/{}: skipped, there is one CPU only", placement.name());
                continue;
            }
            for by in By::ALL {
                // Started when it is reached: a filter starts nothing in vain. Starting checks that it works.
                let mut started = None;
                criterion.bench_function(&format!("{group}/{}/{}", placement.name(), by.name()), |bencher| {
                    let (turns, _) = started.get_or_insert_with(|| {
                        (Turns::start(by, placement), group.ends_with("loaded").then(Load::start))
                    });
                    bencher.iter_custom(|trips| turns.run(trips));
                });
                if let Some((turns, load)) = started {
                    drop(load);
                    turns.end();
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = lock, add, read_write, permit, again, is_set, ping_pong
}

/// Whether the command line asks for `name`, as criterion would read it.
fn is_wanted(name: &str) -> bool {
    let mut filters = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
    let measures = !std::env::args().any(|arg| arg == "--list" || arg == "--test");
    measures && (filters.peek().is_none() || filters.any(|filter| name.contains(&filter)))
}

fn main() {
    benches();
    for placement in [Placement::TwoCpus, Placement::OneCpu] {
        if is_wanted(&format!("contended/{}", placement.name())) {
            contest::contended(placement);
        }
    }
    for waited in [Duration::ZERO, Duration::from_millis(100)] {
        if is_wanted("kill_to_owner_died") {
            contest::kill_to_owner_died(Who::Kinfolk, KILLS, waited);
            contest::kill_to_owner_died(Who::Robust, KILLS, waited);
        }
    }
    Criterion::default().configure_from_args().final_summary();
}
