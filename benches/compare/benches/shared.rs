//! A dictionary of kinfolk's next to LMDB (between processes, as ours), to `DashMap` and to a hash map behind a lock (between
//! threads of one process: the bound), and to redis if it is installed.
//!
//! Keys have 16 B and values 64 B; they are asked for in an order that no cache foresees. LMDB runs in memory, without
//! syncing and with a writable map, one transaction for each call.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};
use kinfolk::{ByteDict, Connection, Dict, Process, Segment, pipe};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

type Key = [u8; 16];
type Value = [u8; 64];
/// The typed form of key and value: as many bytes.
type TypedKey = (u64, u64);
type TypedValue = [u64; 8];

const SIZES: [u64; 3] = [1_000, 10_000, 1_000_000];

fn key(k: u64) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&k.to_le_bytes());
    key[8..].copy_from_slice(&(!k).to_le_bytes());
    key
}

/// The next number below `keys`, as if at random.
struct Numbers {
    keys: u64,
    state: u64,
}

impl Numbers {
    fn new(keys: u64) -> Self {
        Self { keys, state: 1 }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 32) * self.keys) >> 32
    }
}

/// Something that keeps values under keys.
trait Store {
    fn get(&mut self, key: &Key) -> bool;
    fn set(&mut self, key: &Key, value: &Value);
}

struct Ours(ByteDict, Vec<u8>);

impl Store for Ours {
    fn get(&mut self, key: &Key) -> bool {
        self.1.clear();
        self.0.read(key, &mut self.1).unwrap()
    }

    fn set(&mut self, key: &Key, value: &Value) {
        self.0.set(key, value).unwrap();
    }
}

struct Sharded(DashMap<Key, Value>);

impl Store for Sharded {
    fn get(&mut self, key: &Key) -> bool {
        self.0.get(key).is_some_and(|value| black_box(*value)[0] == 7)
    }

    fn set(&mut self, key: &Key, value: &Value) {
        self.0.insert(*key, *value);
    }
}

struct Locked(RwLock<HashMap<Key, Value>>);

impl Store for Locked {
    fn get(&mut self, key: &Key) -> bool {
        self.0.read().unwrap().get(key).is_some_and(|value| black_box(*value)[0] == 7)
    }

    fn set(&mut self, key: &Key, value: &Value) {
        self.0.write().unwrap().insert(*key, *value);
    }
}

struct Lmdb {
    env: Env,
    db: Database<Bytes, Bytes>,
    folder: std::path::PathBuf,
}

impl Lmdb {
    fn new() -> Self {
        let folder = std::path::PathBuf::from(format!("/dev/shm/kinfolk-compare-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut options = EnvOpenOptions::new();
        options.map_size(2 << 30).max_dbs(1);
        // SAFETY: nobody else uses the folder; without syncing, only a crash of the system could harm it.
        let env = unsafe { options.flags(EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP).open(&folder).unwrap() };
        let mut writing = env.write_txn().unwrap();
        let db = env.create_database(&mut writing, Some("kv")).unwrap();
        writing.commit().unwrap();
        Self { env, db, folder }
    }
}

impl Drop for Lmdb {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Store for Lmdb {
    fn get(&mut self, key: &Key) -> bool {
        let reading = self.env.read_txn().unwrap();
        let mut copy = [0u8; 64];
        copy.copy_from_slice(self.db.get(&reading, key).unwrap().unwrap());
        black_box(copy)[0] == 7
    }

    fn set(&mut self, key: &Key, value: &Value) {
        let mut writing = self.env.write_txn().unwrap();
        self.db.put(&mut writing, key, value).unwrap();
        writing.commit().unwrap();
    }
}

/// A server of our own, on a socket of its own.
struct Redis {
    server: Child,
    socket: UnixStream,
    answer: Vec<u8>,
}

impl Redis {
    fn start() -> Option<Self> {
        let path = format!("/dev/shm/kinfolk-redis-{}", std::process::id());
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", &path])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let begin = Instant::now();
        let socket = loop {
            match UnixStream::connect(&path) {
                Ok(socket) => break socket,
                Err(_) if begin.elapsed() < Duration::from_secs(5) => std::thread::yield_now(),
                Err(_) => return None,
            }
        };
        let _ = std::fs::remove_file(&path);
        Some(Self { server, socket, answer: vec![0; 256] })
    }

    fn ask(&mut self, parts: &[&[u8]], len: usize) -> &[u8] {
        let mut order = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            order.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            order.extend_from_slice(part);
            order.extend_from_slice(b"\r\n");
        }
        self.socket.write_all(&order).unwrap();
        self.socket.read_exact(&mut self.answer[..len]).unwrap();
        &self.answer[..len]
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Store for Redis {
    fn get(&mut self, key: &Key) -> bool {
        self.ask(&[b"GET", key], "$64\r\n".len() + 64 + 2)[5] == 7
    }

    fn set(&mut self, key: &Key, value: &Value) {
        assert_eq!(self.ask(&[b"SET", key, value], 5), b"+OK\r\n");
    }
}

fn both(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, keys: u64, store: &mut dyn Store) {
    (0..keys).for_each(|k| store.set(&key(k), &[7; 64]));
    let mut numbers = Numbers::new(keys);
    group.bench_function(format!("get/{keys}/{name}"), |b| b.iter(|| assert!(store.get(&key(numbers.next())))));
    group.bench_function(format!("set/{keys}/{name}"), |b| b.iter(|| store.set(&key(numbers.next()), &[7; 64])));
}

fn typed(group: &mut BenchmarkGroup<'_, WallTime>, keys: u64, segment: &Segment) {
    let dict: Dict<TypedKey, TypedValue> = Dict::new_in(segment).unwrap();
    (0..keys).for_each(|k| dict.set(&(k, !k), &[k; 8]).unwrap());
    let mut numbers = Numbers::new(keys);
    group.bench_function(format!("get/{keys}/kinfolk_typed"), |b| {
        b.iter(|| {
            let k = numbers.next();
            assert_eq!(dict.get(&(k, !k)).unwrap().unwrap()[0], k);
        });
    });
    group.bench_function(format!("set/{keys}/kinfolk_typed"), |b| {
        b.iter(|| {
            let k = numbers.next();
            dict.set(&(k, !k), &[k; 8]).unwrap();
        });
    });
}

fn in_one_process(c: &mut Criterion) {
    let mut group = c.benchmark_group("dict");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    for keys in SIZES {
        let segment = Segment::anonymous(4 << 30).unwrap();
        both(&mut group, "kinfolk", keys, &mut Ours(ByteDict::new_in(&segment).unwrap(), Vec::new()));
        both(&mut group, "dashmap_threads", keys, &mut Sharded(DashMap::new()));
        both(&mut group, "rwlock_hashmap_threads", keys, &mut Locked(RwLock::default()));
        both(&mut group, "lmdb", keys, &mut Lmdb::new());
        typed(&mut group, keys, &segment);
        if keys <= 10_000 {
            match Redis::start() {
                Some(mut redis) => both(&mut group, "redis", keys, &mut redis),
                None => println!("redis is not installed"),
            }
        }
    }
    group.finish();
}

/// What the other process does while this one reads.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
enum Order {
    Read(u64),
    Write(u64),
    End,
}

const SHARED_KEYS: u64 = 10_000;

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).unwrap();
}

fn reads(dict: &ByteDict, numbers: &mut Numbers, count: u64) {
    let mut value = Vec::with_capacity(64);
    for _ in 0..count {
        value.clear();
        assert!(dict.read(&key(numbers.next()), &mut value).unwrap());
    }
}

fn other((dict, orders): (ByteDict, Connection<(), Order>)) {
    pin(1);
    let mut numbers = Numbers { keys: SHARED_KEYS, state: 99 };
    loop {
        match orders.recv().unwrap() {
            Order::Read(count) => reads(&dict, &mut numbers, count),
            Order::Write(count) => (0..count).for_each(|_| dict.set(&key(numbers.next()), &[7; 64]).unwrap()),
            Order::End => return,
        }
        orders.send(()).unwrap();
    }
}

/// The time of a read on one CPU while another process does something on the other.
fn in_two_processes(c: &mut Criterion) {
    let mut group = c.benchmark_group("dict_two_processes");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    let dict = ByteDict::new().unwrap();
    (0..SHARED_KEYS).for_each(|k| dict.set(&key(k), &[7; 64]).unwrap());
    let (orders, there) = pipe::<Order, ()>().unwrap();
    let child = Process::builder().daemon(true).spawn(other, (dict.clone(), there)).unwrap();
    // On another CPU than the other process, and afterwards where it was.
    let before = sched_getaffinity(None).unwrap();
    pin(0);
    let mut numbers = Numbers::new(SHARED_KEYS);
    let cases: [(&str, fn(u64) -> Option<Order>); 3] = [
        ("one_reader", |_| None),
        ("two_readers", |count| Some(Order::Read(count))),
        // A set takes about twice as long as a read.
        ("reader_beside_writer", |count| Some(Order::Write(count / 2))),
    ];
    for (name, order) in cases {
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let order = order(count);
                order.into_iter().for_each(|order| orders.send(order).unwrap());
                let begin = Instant::now();
                reads(&dict, &mut numbers, count);
                let took = begin.elapsed();
                order.into_iter().for_each(|_| orders.recv().unwrap());
                took
            });
        });
    }
    orders.send(Order::End).unwrap();
    sched_setaffinity(None, &before).unwrap();
    child.join().unwrap();
    group.finish();
}

criterion_group!(benches, in_one_process, in_two_processes);
criterion_main!(benches);
