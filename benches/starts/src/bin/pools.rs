//! Pools: kinfolk's next to procspawn's and, if `python3` is there, next to `multiprocessing.Pool`. In turns, so that what else
//! the machine does falls on all of them alike.
//!
//! - `apply`: one task that does nothing, and its result.
//! - `map 1`: many of them, as a map with chunks of one; procspawn has no map, so they are spawned and joined in windows.
//! - `map`: a map with chunks as each pool chooses them. procspawn's tasks are single ones here, too.
//!
//! One worker, with its owner: nowhere in particular, on one CPU, on two; then two workers. The process that is Python's owner
//! measures itself with `time.perf_counter`.
//!
//! `cargo run --release --manifest-path benches/starts/Cargo.toml --bin pools`

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const TURNS: usize = 9;
const APPLIES: u32 = 2_000;
const TASKS: u32 = 50_000;
/// Where a task takes tens of microseconds.
const FEWER: u32 = 5_000;
/// Tasks of procspawn's under way at once: each has four descriptors.
const WINDOW: usize = 64;

const WORK: [&str; 3] = ["apply", "map 1", "map"];

const PYTHON: &str = "
import multiprocessing, os, sys, time
here, there, workers, applies, tasks, fewer = eval(sys.argv[1])
def nothing(_): pass
def pin(cpu):
    if cpu is not None: os.sched_setaffinity(0, {cpu})
if __name__ == '__main__':
    pin(here)
    with multiprocessing.get_context('fork').Pool(workers, pin, (there,)) as pool:
        def apply():
            for _ in range(applies): pool.apply(nothing, (0,))
            return applies
        def one():
            pool.map(nothing, range(fewer), 1)
            return fewer
        def chunks():
            pool.map(nothing, range(tasks))
            return tasks
        work = {'apply': apply, 'map 1': one, 'map': chunks}
        for line in sys.stdin:
            begin = time.perf_counter()
            count = work[line.strip()]()
            print((time.perf_counter() - begin) * 1e9 / count, flush=True)
";

fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).expect("pin to a CPU");
    }
}

fn nothing((): ()) {}

fn next(n: u32) -> u32 {
    n + 1
}

/// What does the work, and says how many nanoseconds a task took.
trait Contender {
    fn name(&self) -> &'static str;
    fn run(&mut self, work: &str) -> f64;
}

fn timed(tasks: u32, f: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    f();
    begin.elapsed().as_nanos() as f64 / f64::from(tasks)
}

struct Kinfolk(kinfolk::Pool);

impl Kinfolk {
    fn new(workers: usize, there: Option<usize>) -> Self {
        Self(kinfolk::Pool::builder().processes(workers).initializer(pin, there).build().expect("a pool"))
    }
}

impl Contender for Kinfolk {
    fn name(&self) -> &'static str {
        "kinfolk"
    }

    fn run(&mut self, work: &str) -> f64 {
        let all = |results: Vec<u32>| assert!(results.into_iter().eq(1..=TASKS));
        match work {
            "apply" => timed(APPLIES, || (0..APPLIES).for_each(|_| self.0.apply(nothing, ()).expect("an answer"))),
            "map 1" => timed(TASKS, || {
                let one = self.0.mapping().chunk_size(1).expect("a size");
                all(one.map(next, 0..TASKS).expect("results"));
            }),
            _ => timed(TASKS, || all(self.0.map(next, 0..TASKS).expect("results"))),
        }
    }
}

struct Procspawn(procspawn::Pool);

impl Procspawn {
    fn new(workers: usize, there: Option<usize>) -> Self {
        let pool = procspawn::Pool::new(workers).expect("a pool");
        if there.is_some() {
            assert_eq!(workers, 1, "nobody knows who gets a task");
            pool.spawn(there.map(|cpu| cpu as u32), |cpu| pin(cpu.map(|cpu| cpu as usize))).join().expect("pinned");
        }
        Self(pool)
    }
}

impl Contender for Procspawn {
    fn name(&self) -> &'static str {
        "procspawn"
    }

    fn run(&mut self, work: &str) -> f64 {
        if work == "apply" {
            return timed(APPLIES, || (0..APPLIES).for_each(|_| self.0.spawn((), nothing).join().expect("an answer")));
        }
        timed(FEWER, || {
            let numbers: Vec<u32> = (0..FEWER).collect();
            for window in numbers.chunks(WINDOW) {
                let tasks: Vec<_> = window.iter().map(|n| self.0.spawn(*n, next)).collect();
                for (n, task) in window.iter().zip(tasks) {
                    assert_eq!(task.join().expect("a result"), n + 1);
                }
            }
        })
    }
}

struct Python {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// None if there is no Python.
    fn new(workers: usize, here: Option<usize>, there: Option<usize>) -> Option<Self> {
        let cpu = |cpu: Option<usize>| cpu.map_or("None".to_owned(), |cpu| cpu.to_string());
        let arguments = format!("{}, {}, {workers}, {APPLIES}, {TASKS}, {FEWER}", cpu(here), cpu(there));
        let mut command = Command::new("python3");
        command.arg("-c").arg(PYTHON).arg(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Some(Self { child, orders, answers })
    }
}

impl Contender for Python {
    fn name(&self) -> &'static str {
        "Python"
    }

    fn run(&mut self, work: &str) -> f64 {
        writeln!(self.orders.as_mut().expect("a pipe"), "{work}").expect("an order");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim().parse().expect("a number")
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.child.wait().expect("its end");
    }
}

fn main() {
    procspawn::init();
    let places = [
        ("unpinned", 1, None, None),
        ("one CPU", 1, Some(0), Some(0)),
        ("two CPUs", 1, Some(0), Some(1)),
        ("two workers", 2, None, None),
    ];
    println!("{:14}{:8}{:12}{:>12}{:>12}{:>10}", "ns a task", "", "", "median", "fastest", "ratio");
    for (place, workers, here, there) in places {
        let before = sched_getaffinity(None).expect("CPUs");
        pin(here);
        let mut contenders: Vec<Box<dyn Contender>> =
            vec![Box::new(Kinfolk::new(workers, there)), Box::new(Procspawn::new(workers, there))];
        contenders.extend(Python::new(workers, here, there).map(|python| Box::new(python) as Box<dyn Contender>));
        for work in WORK {
            let mut times = vec![Vec::new(); contenders.len()];
            for turn in 0..=TURNS {
                for (contender, times) in contenders.iter_mut().zip(&mut times) {
                    let took = contender.run(work);
                    if turn > 0 {
                        times.push(took);
                    }
                }
            }
            let ours = median(&mut times[0]);
            for (contender, times) in contenders.iter().zip(&mut times) {
                let median = median(times);
                let (name, ratio) = (contender.name(), median / ours);
                println!("{place:14}{work:8}{name:12}{median:>12.0}{:>12.0}{ratio:>10.1}", times[0]);
            }
        }
        drop(contenders);
        sched_setaffinity(None, &before).expect("the same CPUs");
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
