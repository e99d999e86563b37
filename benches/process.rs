//! Starting a child and waiting for its end.
//!
//! - `spawn` against `command`: the standard library starts this very program, which ends at once.
//! - `forkserver` against `fork`: a fork of this process that calls `_exit`, and nothing else; both while this process is
//!   small, and when it has 1 GiB in memory.

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, criterion_group};
use kinfolk::Process;
use kinfolk::process::StartMethod;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Makes this program end at once.
const NOTHING: &str = "KINFOLK_BENCH_NOTHING";

fn start(method: StartMethod) {
    let child = Process::builder().start_method(method).spawn(|()| (), ()).expect("start a child");
    child.join().expect("join it");
}

fn command() {
    let program = std::env::current_exe().expect("this program");
    assert!(Command::new(program).env(NOTHING, "1").status().expect("run it").success());
}

fn raw_fork() {
    // SAFETY: the child calls `_exit`, and nothing else.
    match unsafe { fork() }.expect("fork") {
        // SAFETY: it takes a number and does not return.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
    }
}

fn start_join(criterion: &mut Criterion) {
    for &method in kinfolk::process::all_start_methods() {
        let add_one = Process::builder().start_method(method).spawn(|n: u32| n + 1, 41).expect("start a child");
        assert_eq!(add_one.join().expect("join it"), 42);
    }
    let mut group = criterion.benchmark_group("start_join");
    group.bench_function("spawn", |b| b.iter(|| start(StartMethod::Spawn)));
    group.bench_function("command", |b| b.iter(command));
    for parent in ["small", "1GiB"] {
        let memory = if parent == "1GiB" { 1 << 30 } else { 0 };
        let memory = black_box(vec![1u8; memory]);
        group.bench_function(format!("forkserver/{parent}_parent"), |b| b.iter(|| start(StartMethod::ForkServer)));
        group.bench_function(format!("fork/{parent}_parent"), |b| b.iter(raw_fork));
        drop(black_box(memory));
    }
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

fn main() {
    if std::env::var_os(NOTHING).is_some() {
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
