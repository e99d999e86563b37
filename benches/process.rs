//! Starting a child and waiting for its end.
//!
//! - `spawn` against `command`: the standard library starts this very program, which ends at once.
//! - `forkserver` against `fork`: a fork of this process that calls `_exit`, and nothing else; both while this process is
//!   small, and when it has 1 GiB in memory.
//! - Python's `multiprocessing` by its methods, where there is a `python3`: it starts and joins an empty function, and times
//!   that itself.
//! - `in_flight`: 1000 children at once, from the first start to the last join.
//!
//! At the end it says what an idle child has of memory of its own, by `/proc/PID/smaps_rollup`.
//!
//! procspawn is a peer in `benches/starts`, a package of its own for the sake of its dependencies.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, criterion_group};
use kinfolk::process::StartMethod;
use kinfolk::{Event, Process, Segment};
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

/// Starts and joins an empty function so often; how long it took.
const SCRIPT: &str = "
import multiprocessing, sys, time
def nothing(): pass
if __name__ == '__main__':
    context = multiprocessing.get_context(sys.argv[1])
    def run():
        process = context.Process(target=nothing)
        process.start()
        process.join()
        assert process.exitcode == 0
    run()
    begin = time.perf_counter()
    for _ in range(int(sys.argv[2])): run()
    print(time.perf_counter() - begin)
";

fn python(script: &Path, method: &str, iterations: u64) -> Option<Duration> {
    let output = Command::new("python3").arg(script).args([method, &iterations.to_string()]).output().ok()?;
    let seconds = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    output.status.success().then(|| Duration::from_secs_f64(seconds))
}

fn python_start_join(criterion: &mut Criterion) {
    // In a file: with a script on its command line `spawn` does not find the function.
    let script = std::env::temp_dir().join(format!("kinfolk-bench-{}.py", std::process::id()));
    std::fs::write(&script, SCRIPT).expect("write the script");
    let mut group = criterion.benchmark_group("start_join");
    group.sample_size(10);
    for method in ["spawn", "forkserver", "fork"] {
        if python(&script, method, 1).is_some() {
            let run = |iterations| python(&script, method, iterations).expect("it ran a moment ago");
            group.bench_function(format!("python/{method}"), |b| b.iter_custom(run));
        }
    }
    group.finish();
    let _ = std::fs::remove_file(script);
}

/// Children at once; the family is made for so many.
const IN_FLIGHT: usize = 1000;

fn in_flight(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("in_flight/{IN_FLIGHT}"));
    group.sample_size(10);
    for &method in kinfolk::process::all_start_methods() {
        group.bench_function(method.name(), |b| {
            b.iter(|| {
                let go = Event::new().expect("an event");
                let wait = |go: Event| go.wait();
                let start = |_| Process::builder().start_method(method).spawn(wait, go.clone()).expect("start a child");
                let children: Vec<_> = (0..IN_FLIGHT).map(start).collect();
                go.set();
                children.into_iter().for_each(|child| child.join().expect("join it"));
            });
        });
    }
    group.finish();
}

/// Prints how much memory an idle child has to itself.
fn idle_memory() {
    for &method in kinfolk::process::all_start_methods() {
        let ready = Event::new().expect("an event");
        let idle = |ready: Event| {
            ready.set();
            loop {
                std::thread::park();
            }
        };
        let builder = Process::builder().daemon(true).start_method(method);
        let child: Process<()> = builder.spawn(idle, ready.clone()).expect("start a child");
        ready.wait();
        let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.pid())).expect("what it has");
        let private = |line: &str| line.strip_prefix("Private_")?.split_whitespace().nth(1)?.parse::<u64>().ok();
        println!("idle child by {method}: {} KiB private", memory.lines().filter_map(private).sum::<u64>());
        child.kill().expect("end it");
        assert!(child.join().is_err());
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
    targets = start_join, python_start_join, in_flight
}

fn main() {
    if std::env::var_os(NOTHING).is_some() {
        return;
    }
    Segment::builder().processes(1 + IN_FLIGHT as u32 + 10).make_family().expect("a family for all of them");
    benches();
    idle_memory();
    Criterion::default().configure_from_args().final_summary();
}
