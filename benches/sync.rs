//! Locks against the standard library's, parking_lot's, raw_sync's and the C library's: alone, wanted by two, and held by
//! one that is killed.
//!
//! What criterion can time is timed by criterion. The contests and the kills have clocks of their own (see [`contest`]),
//! and run if no filter is given or it is part of `contended` or `kill_to_owner_died`.

mod contest;

use std::hint::black_box;
use std::time::Duration;

use contest::Who;
use contest::locks::{Contender, Memory, RawSync, Robust};
use contest::placement::Placement;
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

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = lock, add
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
