//! Starting a child and waiting for its end, against starting a small program.

use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use kinfolk::Process;

fn start_join(criterion: &mut Criterion) {
    let add_one = Process::spawn(|n: u32| n + 1, 41).expect("start a child");
    assert_eq!(add_one.join().expect("join it"), 42);
    assert!(Command::new("/bin/true").status().expect("run a program").success());

    let mut group = criterion.benchmark_group("start_join");
    group.bench_function("kinfolk", |b| {
        b.iter(|| Process::spawn(|()| (), ()).expect("start a child").join().expect("join it"));
    });
    group.bench_function("command", |b| b.iter(|| Command::new("/bin/true").status().expect("run a program")));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = start_join
}
criterion_main!(benches);
