//! Locking and unlocking a mutex that nobody else wants, against the standard library's.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

fn lock(criterion: &mut Criterion) {
    let shared = kinfolk::Mutex::new(0u64).expect("make a mutex");
    let private = std::sync::Mutex::new(0u64);
    for _ in 0..3 {
        *shared.lock().expect("nobody died") += 1;
        *private.lock().expect("nobody panicked") += 1;
    }
    assert_eq!((*shared.lock().expect("nobody died"), *private.lock().expect("nobody panicked")), (3, 3));

    let mut group = criterion.benchmark_group("lock");
    group.bench_function("kinfolk", |b| b.iter(|| *black_box(&shared).lock().expect("nobody died")));
    group.bench_function("std", |b| b.iter(|| *black_box(&private).lock().expect("nobody panicked")));
    group.finish();

    let mut group = criterion.benchmark_group("add");
    group.bench_function("kinfolk", |b| b.iter(|| *black_box(&shared).lock().expect("nobody died") += 1));
    group.bench_function("std", |b| b.iter(|| *black_box(&private).lock().expect("nobody panicked") += 1));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = lock
}
criterion_main!(benches);
