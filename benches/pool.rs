//! Tasks for a pool of processes.
//!
//! - `apply`: one task and its result, next to a bare futex round trip between two processes, a process behind a socket pair,
//!   and rayon (threads of one process: the bound). The worker is pinned: to the same CPU, to another, nowhere.
//! - `map`: 100 000 empty tasks, one by one and in chunks of the pool's choice, next to rayon.
//! - `large`: 1 MiB there and back, next to the socket pair.
//! - `work`: tasks of 0.1 ms on all CPUs, next to rayon.
//! - `start`: 200 workers, from the first start to the first answer of each.
//!
//! procspawn's pool and Python's are peers in `benches/starts` (`--bin pools`), a package of its own for the sake of its
//! dependencies.

use std::hint::black_box;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kinfolk::Pool;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::unistd::{ForkResult, fork};
use rayon::prelude::*;
use rustix::thread::{CpuSet, futex, sched_getaffinity, sched_setaffinity};

const PLACES: [(&str, Option<usize>, Option<usize>); 3] =
    [("unpinned", None, None), ("one_cpu", Some(0), Some(0)), ("two_cpus", Some(0), Some(1))];

fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).expect("a CPU");
    }
}

/// Runs `f` while this thread is pinned.
fn pinned(cpu: Option<usize>, f: impl FnOnce()) {
    let before = sched_getaffinity(None).expect("CPUs");
    pin(cpu);
    f();
    sched_setaffinity(None, &before).expect("the same CPUs");
}

fn nothing((): ()) {}

/// A process behind a socket pair that sends back what it gets.
struct Echo {
    socket: UnixStream,
    child: nix::unistd::Pid,
}

impl Echo {
    fn new(cpu: Option<usize>, bytes: usize) -> Self {
        let (here, mut there) = UnixStream::pair().expect("a pair");
        // SAFETY: the child does system calls and calls `_exit`.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                drop(here);
                pin(cpu);
                let mut buffer = vec![0; bytes];
                while there.read_exact(&mut buffer).is_ok() && there.write_all(&buffer).is_ok() {}
                // SAFETY: it takes a number and does not return.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => Self { socket: here, child },
        }
    }

    fn ask(&mut self, buffer: &mut [u8]) {
        if buffer.len() > 64 << 10 {
            let mut writing = self.socket.try_clone().expect("a copy");
            let copy = buffer.to_vec();
            std::thread::scope(|scope| {
                scope.spawn(move || writing.write_all(&copy).expect("written"));
                self.socket.read_exact(buffer).expect("an answer");
            });
        } else {
            self.socket.write_all(buffer).expect("written");
            self.socket.read_exact(buffer).expect("an answer");
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Both).expect("shut down");
        nix::sys::wait::waitpid(self.child, None).expect("its end");
    }
}

/// A process that answers by a futex in shared memory.
struct Bare {
    /// To ask, and to answer.
    words: [&'static AtomicU32; 2],
    child: nix::unistd::Pid,
}

fn wait_for_change(word: &AtomicU32, known: u32) -> u32 {
    loop {
        let now = word.load(Acquire);
        if now != known {
            return now;
        }
        let _ = futex::wait(word, futex::Flags::empty(), known, None);
    }
}

impl Bare {
    fn new(cpu: Option<usize>) -> Self {
        let (size, both) = (NonZeroUsize::new(4096).expect("a page"), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        // SAFETY: a new page, which both processes keep until they end.
        let page =
            unsafe { mmap_anonymous(None, size, both, MapFlags::MAP_SHARED) }.expect("a page").cast::<AtomicU32>();
        // SAFETY: it is zeroed, aligned, and touched by atomics only; 0 and 16 are in it.
        let words = unsafe { [page.as_ref(), page.add(16).as_ref()] };
        // SAFETY: the child does system calls and atomics, and calls `_exit`.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                pin(cpu);
                let [ask, answer] = words;
                let mut known = 0;
                while known != u32::MAX {
                    known = wait_for_change(ask, known);
                    answer.store(known, Release);
                    let _ = futex::wake(answer, futex::Flags::empty(), 1);
                }
                // SAFETY: it takes a number and does not return.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => Self { words, child },
        }
    }

    fn tell(&self, number: u32) {
        self.words[0].store(number, Release);
        let _ = futex::wake(self.words[0], futex::Flags::empty(), 1);
    }

    fn ask(&self) {
        let answer = self.words[1];
        let known = answer.load(Acquire);
        self.tell(known.wrapping_add(1) % (u32::MAX - 1));
        wait_for_change(answer, known);
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.tell(u32::MAX);
        nix::sys::wait::waitpid(self.child, None).expect("its end");
    }
}

fn one_worker(cpu: Option<usize>) -> Pool {
    let pool = Pool::builder().processes(1).initializer(pin, cpu).build().expect("a pool");
    pool.apply(nothing, ()).expect("an answer");
    pool
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    for (place, here, there) in PLACES {
        let pool = one_worker(there);
        pinned(here, || {
            group
                .bench_function(format!("kinfolk/{place}"), |b| b.iter(|| pool.apply(nothing, ()).expect("an answer")));
        });
        drop(pool);
        let bare = Bare::new(there);
        pinned(here, || {
            group.bench_function(format!("futex/{place}"), |b| b.iter(|| bare.ask()));
        });
        let mut echo = Echo::new(there, 32);
        pinned(here, || {
            group.bench_function(format!("socketpair/{place}"), |b| b.iter(|| echo.ask(&mut [0; 32])));
        });
    }
    let threads = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("threads");
    group.bench_function("rayon_threads/unpinned", |b| b.iter(|| threads.install(|| black_box(()))));
    group.finish();
}

fn map(c: &mut Criterion) {
    const TASKS: u32 = 100_000;
    let mut group = c.benchmark_group("map");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(10);
    group.throughput(Throughput::Elements(TASKS.into()));
    let next = |n: u32| n + 1;
    for workers in [1, 2] {
        let pool = Pool::new(workers).expect("a pool");
        let one = pool.mapping().chunk_size(1).expect("a size");
        group.bench_function(format!("one_by_one/kinfolk/{workers}"), |b| {
            b.iter(|| assert_eq!(one.map(next, 0..TASKS).expect("results").len(), TASKS as usize));
        });
        group.bench_function(format!("chunks/kinfolk/{workers}"), |b| {
            b.iter(|| assert_eq!(pool.map(next, 0..TASKS).expect("results").len(), TASKS as usize));
        });
    }
    group.bench_function("rayon_threads", |b| {
        b.iter(|| {
            let results: Vec<u32> = (0..TASKS).into_par_iter().with_max_len(1).map(|n| black_box(n) + 1).collect();
            assert_eq!(results.len(), TASKS as usize);
        });
    });
    group.finish();
}

fn large(c: &mut Criterion) {
    const BYTES: usize = 1 << 20;
    let mut group = c.benchmark_group("large");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(10);
    let pool = one_worker(None);
    let bytes = vec![7u8; BYTES];
    group.bench_function("kinfolk", |b| {
        b.iter(|| assert_eq!(pool.apply(|bytes: Vec<u8>| bytes, bytes.clone()).expect("bytes").len(), BYTES));
    });
    let mut echo = Echo::new(None, BYTES);
    let mut buffer = vec![7u8; BYTES];
    group.bench_function("socketpair", |b| b.iter(|| echo.ask(&mut buffer)));
    group.finish();
}

fn spin(micros: u64) -> u64 {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
    micros
}

fn work(c: &mut Criterion) {
    const TASKS: u64 = 2000;
    let mut group = c.benchmark_group("work");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(3)).sample_size(10);
    group.throughput(Throughput::Elements(TASKS));
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let pool = Pool::new(cpus).expect("a pool");
    group.bench_function("kinfolk", |b| {
        b.iter(|| pool.map(spin, std::iter::repeat_n(100, TASKS as usize)).expect("work"))
    });
    group.bench_function("rayon_threads", |b| {
        b.iter(|| (0..TASKS).into_par_iter().map(|_| spin(100)).sum::<u64>());
    });
    group.finish();
}

fn start(c: &mut Criterion) {
    let mut group = c.benchmark_group("start");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(4)).sample_size(10);
    group.bench_function("200_workers", |b| {
        b.iter_custom(|count| {
            (0..count)
                .map(|_| {
                    let begin = Instant::now();
                    let pool = Pool::new(200).expect("a pool");
                    let squares = pool.mapping().chunk_size(1).expect("a size").map(|n: u64| n * n, 0..1000);
                    let took = begin.elapsed();
                    assert_eq!(squares.expect("squares").iter().sum::<u64>(), 332_833_500);
                    took
                })
                .sum()
        });
    });
    group.finish();
}

criterion_group!(benches, apply, map, large, work, start);
criterion_main!(benches);
