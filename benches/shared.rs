//! Values, arrays and lists against the standard library in one process, and against our mutex: alone, and wanted by two.

#[path = "measure/placement.rs"]
mod placement;

/// Two who do the same at the same time, where they are told.
mod both {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::AcqRel;
    use std::time::{Duration, Instant};

    use kinfolk::{Barrier, Connection, Mutex, Process, Value, pipe};
    use serde::{Deserialize, Serialize};

    use super::placement::{Placement, pin};

    /// What is wanted by both.
    #[derive(Clone, Serialize, Deserialize)]
    pub enum Wanted {
        /// A sum in a value.
        Add(Value<u64>),
        /// A sum behind a mutex.
        AddLocked(Mutex<u64>),
        /// 64 bytes that one reads while the other writes.
        Read(Value<[u64; 8]>),
        /// The same behind a mutex.
        ReadLocked(Mutex<[u64; 8]>),
    }

    /// One of the two processes.
    #[derive(Serialize, Deserialize)]
    struct Side {
        wanted: Wanted,
        writes: bool,
        cpu: Option<usize>,
        start: Barrier,
        orders: Connection<u64, u64>,
    }

    fn work(wanted: &Wanted, writes: bool, times: u64) {
        for n in 0..times {
            match wanted {
                Wanted::Add(value) => {
                    value.add(1);
                }
                Wanted::AddLocked(value) => *value.lock().expect("nobody died") += 1,
                Wanted::Read(value) if writes => value.set([n; 8]).expect("write"),
                Wanted::Read(value) => {
                    let found = value.get().expect("read");
                    assert_eq!(found[0], found[7], "torn");
                }
                Wanted::ReadLocked(value) if writes => *value.lock().expect("nobody died") = [n; 8],
                Wanted::ReadLocked(value) => {
                    let found = *value.lock().expect("nobody died");
                    assert_eq!(found[0], found[7], "torn");
                }
            }
        }
    }

    fn side(Side { wanted, writes, cpu, start, orders }: Side) {
        pin(cpu).expect("pin");
        while let Ok(times) = orders.recv() {
            start.wait().expect("start together");
            let begun = Instant::now();
            work(&wanted, writes, times);
            orders.send(begun.elapsed().as_nanos() as u64).expect("tell the time");
        }
    }

    /// Two processes at rest between orders.
    pub struct Processes {
        sides: [Process<()>; 2],
        orders: [Connection<u64, u64>; 2],
    }

    impl Processes {
        /// Starts both.
        pub fn start(wanted: &Wanted, placement: Placement) -> Self {
            let cpus = placement.cpus().expect("ask which CPUs there are").expect("as many as it takes");
            let start = Barrier::new(2).expect("make a barrier");
            let [(one, first), (other, second)] = [(0, true), (1, false)].map(|(k, writes)| {
                let (ours, orders) = pipe().expect("make a pipe");
                let side_of = Side { wanted: wanted.clone(), writes, cpu: cpus[k], start: start.clone(), orders };
                (Process::spawn(side, side_of).expect("start a side"), ours)
            });
            Self { sides: [one, other], orders: [first, second] }
        }

        /// Both do it so many times; how long the second took, who reads if one writes.
        pub fn run(&self, times: u64) -> Duration {
            self.orders.iter().for_each(|orders| orders.send(times).expect("give the order"));
            let [_, second] = [0, 1].map(|k| self.orders[k].recv().expect("hear the time"));
            Duration::from_nanos(second)
        }

        /// Ends both.
        pub fn end(self) {
            drop(self.orders);
            self.sides.into_iter().for_each(|side| side.join().expect("ends well"));
        }
    }

    /// Two threads that add to a standard atomic; how long the second took.
    pub fn threads(sum: &Arc<AtomicU64>, placement: Placement, times: u64) -> Duration {
        let cpus = placement.cpus().expect("ask which CPUs there are").expect("as many as it takes");
        let start = Arc::new(std::sync::Barrier::new(2));
        let sides = cpus.map(|cpu| {
            let (sum, start) = (sum.clone(), start.clone());
            std::thread::spawn(move || {
                pin(cpu).expect("pin");
                start.wait();
                let begun = Instant::now();
                for _ in 0..times {
                    sum.fetch_add(1, AcqRel);
                }
                begun.elapsed()
            })
        });
        let [_, second] = sides.map(|side| side.join().expect("ends well"));
        second
    }
}

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use both::{Processes, Wanted};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kinfolk::{Array, List, Mutex, Queue, Value};
use placement::Placement;

/// Words: one instruction each.
fn words(criterion: &mut Criterion) {
    let (value, atomic) = (Value::new(5u64).expect("make a value"), AtomicU64::new(5));
    let locked = Mutex::new(5u64).expect("make a mutex");
    assert_eq!((value.add(1), atomic.fetch_add(1, AcqRel)), (5, 5));
    *locked.lock().expect("nobody died") += 1;
    assert_eq!((value.load(), atomic.load(Acquire), *locked.lock().expect("nobody died")), (6, 6, 6));

    let mut group = criterion.benchmark_group("value/add");
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&value).add(1)));
    group.bench_function("std_atomic", |b| b.iter(|| black_box(&atomic).fetch_add(1, AcqRel)));
    group.bench_function("kinfolk_mutex", |b| b.iter(|| *black_box(&locked).lock().expect("nobody died") += 1));
    group.bench_function("kinfolk_update", |b| b.iter(|| black_box(&value).update(|n| n.wrapping_add(1))));
    group.bench_function("kinfolk_locked", |b| {
        b.iter(|| {
            let value = black_box(&value).lock().expect("nobody died");
            value.store(value.load().wrapping_add(1));
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("value/get");
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&value).get().expect("read")));
    group.bench_function("std_atomic", |b| b.iter(|| black_box(&atomic).load(Acquire)));
    group.finish();
    let mut group = criterion.benchmark_group("value/set");
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&value).set(7).expect("write")));
    group.bench_function("std_atomic", |b| b.iter(|| black_box(&atomic).store(7, Release)));
    group.finish();
}

/// 64 bytes: two copies and a lock for writers.
fn large(criterion: &mut Criterion) {
    let value = Value::new([1u64; 8]).expect("make a value");
    let locked = Mutex::new([1u64; 8]).expect("make a mutex");
    value.set([2; 8]).expect("write");
    assert_eq!((value.get().expect("read"), *locked.lock().expect("nobody died")), ([2; 8], [1; 8]));
    let mut group = criterion.benchmark_group("value/get_64B");
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&value).get().expect("read")));
    group.bench_function("kinfolk_mutex", |b| b.iter(|| *black_box(&locked).lock().expect("nobody died")));
    group.finish();
    let mut group = criterion.benchmark_group("value/set_64B");
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&value).set([3; 8]).expect("write")));
    group.bench_function("kinfolk_mutex", |b| b.iter(|| *black_box(&locked).lock().expect("nobody died") = [3; 8]));
    group.finish();
}

/// Elements one by one, and 64 KiB at once.
fn array(criterion: &mut Criterion) {
    const LEN: usize = 8192;
    let array = Array::<u64>::new(LEN).expect("make an array");
    let atomics: Vec<AtomicU64> = (0..LEN as u64).map(AtomicU64::new).collect();
    let mut copy: Vec<u64> = (0..LEN as u64).collect();
    array.copy_from_slice(&copy).expect("write");
    assert_eq!(array.to_vec().expect("read"), copy);

    let mut group = criterion.benchmark_group("array/get");
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&array).get(black_box(77)).expect("there is one")));
    group.bench_function("std_atomics", |b| b.iter(|| black_box(&atomics)[black_box(77)].load(Acquire)));
    group.finish();
    let mut group = criterion.benchmark_group("array/add");
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&array).at(black_box(77)).expect("there is one").add(1)));
    group.bench_function("std_atomics", |b| b.iter(|| black_box(&atomics)[black_box(77)].fetch_add(1, AcqRel)));
    group.finish();

    let bytes = Throughput::Bytes(8 * LEN as u64);
    let mut group = criterion.benchmark_group("array/read_64KiB");
    group.throughput(bytes.clone());
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&array).read_into(0, &mut copy).expect("read")));
    group.bench_function("std_atomics", |b| {
        b.iter(|| copy.iter_mut().zip(black_box(&atomics)).for_each(|(to, from)| *to = from.load(Relaxed)));
    });
    group.bench_function("shm_slice", |b| {
        b.iter(|| black_box(&array).as_shm().read(0, bytemuck::cast_slice_mut(&mut copy)));
    });
    group.finish();
    let mut group = criterion.benchmark_group("array/write_64KiB");
    group.throughput(bytes);
    group.bench_function("kinfolk", |b| b.iter(|| black_box(&array).copy_from_slice(&copy).expect("write")));
    group.bench_function("std_atomics", |b| {
        b.iter(|| copy.iter().zip(black_box(&atomics)).for_each(|(from, to)| to.store(*from, Relaxed)));
    });
    group.bench_function("shm_slice", |b| {
        b.iter(|| black_box(&array).as_shm().write(0, bytemuck::cast_slice(&copy)));
    });
    group.finish();
}

/// Two processes that want one value.
fn contended(criterion: &mut Criterion) {
    for placement in Placement::ALL {
        if placement.cpus().expect("ask which CPUs there are").is_none() {
            println!("value/contended/{}: skipped, there is one CPU only", placement.name());
            continue;
        }
        let add = Value::new(0u64).expect("make a value");
        let cases = [
            ("add", "kinfolk", Wanted::Add(add.clone())),
            ("add", "kinfolk_mutex", Wanted::AddLocked(Mutex::new(0).expect("make a mutex"))),
            ("read_64B_beside_a_writer", "kinfolk", Wanted::Read(Value::new([0; 8]).expect("make a value"))),
            (
                "read_64B_beside_a_writer",
                "kinfolk_mutex",
                Wanted::ReadLocked(Mutex::new([0; 8]).expect("make a mutex")),
            ),
        ];
        for (what, who, wanted) in cases {
            // Started when it is reached: a filter starts nothing in vain.
            let (mut started, mut asked) = (None, 0);
            criterion.bench_function(&format!("value/{what}/{}/{who}", placement.name()), |bencher| {
                let processes = started.get_or_insert_with(|| Processes::start(&wanted, placement));
                bencher.iter_custom(|times| {
                    asked += 2 * times;
                    processes.run(times)
                });
            });
            if let Some(processes) = started {
                processes.end();
            }
            match &wanted {
                Wanted::Add(value) => assert_eq!(value.load(), asked, "sums were lost"),
                Wanted::AddLocked(value) => assert_eq!(*value.lock().expect("nobody died"), asked, "sums were lost"),
                Wanted::Read(_) | Wanted::ReadLocked(_) => {}
            }
        }
        let sum = Arc::new(AtomicU64::new(0));
        criterion.bench_function(&format!("value/add/{}/std_atomic_threads", placement.name()), |bencher| {
            bencher.iter_custom(|times| both::threads(&sum, placement, times));
        });
    }
}

/// Something put at the end and taken there, or at the other end.
fn list_ends(criterion: &mut Criterion) {
    let list: List<u64> = List::new().expect("make a list");
    let texts: List<String> = List::new().expect("make a list");
    let bytes: List<Vec<u8>> = List::new().expect("make a list");
    let queue: Queue<u64> = Queue::new(0).expect("make a queue");
    let deque = std::sync::Mutex::new(VecDeque::new());
    let text = "twenty-four bytes of it!".to_owned();
    list.push(7).expect("push");
    assert_eq!((list.pop().expect("pop"), list.len().expect("look")), (7, 0));
    texts.push(text.clone()).expect("push");
    assert_eq!(texts.pop().expect("pop"), text);

    let mut group = criterion.benchmark_group("list/push_pop");
    group.bench_function("kinfolk/u64", |b| {
        b.iter(|| {
            list.push(black_box(7)).expect("push");
            list.pop().expect("pop")
        });
    });
    group.bench_function("kinfolk/24_B", |b| {
        b.iter(|| {
            texts.push(black_box(&text).clone()).expect("push");
            texts.pop().expect("pop")
        });
    });
    group.bench_function("kinfolk/64_bytes", |b| {
        let mut to = Vec::new();
        b.iter(|| {
            bytes.push_bytes(black_box(&[7; 64])).expect("push");
            bytes.get_into(-1, &mut to).expect("get");
            bytes.pop().expect("pop")
        });
    });
    group.bench_function("kinfolk/fifo_u64", |b| {
        b.iter(|| {
            list.push(black_box(7)).expect("push");
            list.pop_at(0).expect("pop")
        });
    });
    group.bench_function("kinfolk_queue/u64", |b| {
        b.iter(|| {
            queue.put(black_box(7)).expect("put");
            queue.get().expect("get")
        });
    });
    group.bench_function("mutex_deque/u64", |b| {
        b.iter(|| {
            deque.lock().expect("nobody panicked").push_back(black_box(7u64));
            deque.lock().expect("nobody panicked").pop_back()
        });
    });
    group.finish();
}

/// One element read, one replaced, one inserted in the middle, in a long list.
fn list_places(criterion: &mut Criterion) {
    const LONG: usize = 100_000;
    let values: Vec<u64> = (0..LONG as u64).collect();
    let list = List::from_slice(&values).expect("make a list");
    let texts: Vec<String> = values.iter().map(|n| format!("{n:024}")).collect();
    let texts = List::from_slice(&texts).expect("make a list");
    let deque = std::sync::Mutex::new(values.iter().copied().collect::<VecDeque<_>>());
    assert_eq!((list.get(-1).expect("get"), texts.get(0).expect("get")), (LONG as u64 - 1, "0".repeat(24)));

    let mut group = criterion.benchmark_group("list/long");
    let mut at = 0;
    let mut next = move || {
        at = (at + 7919) % LONG;
        at
    };
    group.bench_function("get/kinfolk/u64", |b| b.iter(|| list.get(next()).expect("get")));
    group.bench_function("get/kinfolk/24_B", |b| b.iter(|| texts.get(next()).expect("get")));
    group.bench_function("get/mutex_deque/u64", |b| {
        b.iter(|| deque.lock().expect("nobody panicked").get(next()).copied());
    });
    group.bench_function("set/kinfolk/u64", |b| b.iter(|| list.set(next(), 9).expect("set")));
    group.bench_function("set/kinfolk/24_B", |b| b.iter(|| texts.set(next(), "9".repeat(24)).expect("set")));
    group.bench_function("insert_and_remove/kinfolk/u64", |b| {
        b.iter(|| {
            let at = next();
            list.insert(at, 9).expect("insert");
            list.pop_at(at).expect("remove")
        });
    });
    group.bench_function("insert_and_remove/mutex_deque/u64", |b| {
        b.iter(|| {
            let at = next();
            let mut deque = deque.lock().expect("nobody panicked");
            deque.insert(at, 9);
            deque.remove(at)
        });
    });
    group.bench_function("to_vec/kinfolk/u64", |b| b.iter(|| list.to_vec().expect("read").len()));
    group.bench_function("sort/kinfolk/u64", |b| b.iter(|| list.sort().expect("sort")));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = words, large, array, contended, list_ends, list_places
}
criterion_main!(benches);
