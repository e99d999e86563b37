//! Two processes, or two threads, that want one lock; and the death of one that has it. What two processes that take
//! turns need of each other is in [`turns`].
//!
//! A contest goes in rounds of fixed length, in which the locks take turns, so that whatever else the machine does is
//! done to all of them. In a round both sides repeat: lock, work, count, unlock, work. Each round ends with a look at
//! the count, which only exclusion makes right.

pub mod locks;
#[path = "../measure/placement.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
pub mod placement;
pub mod turns;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kinfolk::{Connection, Lock, Process, pipe};
use serde::{Deserialize, Serialize};

use locks::{Contender, Got, Memory, MemoryName, RawSync, Robust};
use placement::{Placement, pin};

/// Length of a round, and how many there are for each lock.
const ROUND: Duration = Duration::from_millis(100);
const ROUNDS: usize = 10;
/// Length of the round that tells how fair a lock is.
const FAIR_ROUND: Duration = Duration::from_secs(1);
/// Both sides have heard of a round when it starts.
const LEAD: Duration = Duration::from_millis(5);
/// Work inside the lock, and as much outside.
const WORK_NS: f64 = 100.0;
/// Operations between two looks at the clock.
const STRIDE: u64 = 16;
/// Nothing takes this long.
const NEVER: Duration = Duration::from_secs(60);

/// Nanoseconds of the clock that all processes share.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A chain of `steps` dependent multiplications.
#[inline(never)]
fn work(steps: u64) {
    let mut x = steps;
    for _ in 0..steps {
        x = std::hint::black_box(x.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    }
    std::hint::black_box(x);
}

/// How many steps of [`work`] fill [`WORK_NS`].
fn calibrate() -> u64 {
    const STEPS: u64 = 1_000_000;
    let time = || {
        let before = now_ns();
        work(STEPS);
        now_ns() - before
    };
    let best = (0..10).map(|_| time()).min().expect("ten times");
    (WORK_NS * STEPS as f64 / best as f64).round().max(1.0) as u64
}

/// A lock that competes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Kinfolk,
    RawSync,
    Robust,
    Std,
    ParkingLot,
}

impl Who {
    const ALL: [Self; 5] = [Self::Kinfolk, Self::RawSync, Self::Robust, Self::Std, Self::ParkingLot];

    fn name(self) -> &'static str {
        match self {
            Self::Kinfolk => "kinfolk, two processes",
            Self::RawSync => "raw_sync, two processes",
            Self::Robust => "pthread robust, two processes",
            Self::Std => "std, two threads",
            Self::ParkingLot => "parking_lot, two threads",
        }
    }
}

/// A round: from when to when.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Round {
    from_ns: u64,
    to_ns: u64,
}

/// A lock between processes, on its way to one.
#[derive(Clone, Serialize, Deserialize)]
enum Passed {
    Kinfolk(Lock),
    RawSync(MemoryName),
    Robust(MemoryName),
}

/// One side of a contest between processes.
#[derive(Serialize, Deserialize)]
struct Side {
    passed: Passed,
    memory: MemoryName,
    cpu: Option<usize>,
    steps: u64,
    rounds: Connection<u64, Round>,
}

/// One side's part of a round: how often it had the lock.
fn compete(lock: &impl Contender, memory: &Memory, steps: u64, round: Round) -> u64 {
    while now_ns() < round.from_ns {
        std::thread::yield_now();
    }
    let mut count = 0;
    while now_ns() < round.to_ns {
        for _ in 0..STRIDE {
            lock.with(|| {
                work(steps);
                memory.add();
            });
            work(steps);
        }
        count += STRIDE;
    }
    count
}

fn side(Side { passed, memory, cpu, steps, rounds }: Side) {
    fn go(lock: &impl Contender, memory: &Memory, steps: u64, rounds: &Connection<u64, Round>) {
        while let Ok(round) = rounds.recv() {
            if rounds.send(compete(lock, memory, steps, round)).is_err() {
                return;
            }
        }
    }
    pin(cpu).expect("pin a side");
    let memory = Memory::open(memory).expect("open the memory");
    let open = |name| Memory::open(name).expect("open the lock's memory");
    match passed {
        Passed::Kinfolk(lock) => go(&lock, &memory, steps, &rounds),
        Passed::RawSync(name) => go(&RawSync::open(open(name)), &memory, steps, &rounds),
        Passed::Robust(name) => go(&Robust::open(open(name)), &memory, steps, &rounds),
    }
}

/// A lock and the two that want it.
enum Contest {
    Processes { sides: [(Process<()>, Connection<Round, u64>); 2], memory: Memory },
    Threads { who: Who, cpus: [Option<usize>; 2], memory: Memory },
}

/// Makes a lock that is passed by name in `memory`.
fn lay(who: Who, memory: &Memory) -> Passed {
    let same = || Memory::open(memory.name()).expect("map the memory once more");
    match who {
        Who::RawSync => {
            RawSync::make(same());
            Passed::RawSync(memory.name())
        }
        Who::Robust => {
            Robust::make(same());
            Passed::Robust(memory.name())
        }
        _ => Passed::Kinfolk(Lock::new(()).expect("make a lock")),
    }
}

impl Contest {
    fn new(who: Who, cpus: [Option<usize>; 2], steps: u64) -> Self {
        let memory = Memory::new().expect("make memory");
        if matches!(who, Who::Std | Who::ParkingLot) {
            return Self::Threads { who, cpus, memory };
        }
        let passed = lay(who, &memory);
        let sides = cpus.map(|cpu| {
            let (orders, rounds) = pipe().expect("make a pipe");
            let side_of = Side { passed: passed.clone(), memory: memory.name(), cpu, steps, rounds };
            (Process::spawn(side, side_of).expect("start a side"), orders)
        });
        Self::Processes { sides, memory }
    }

    /// How often each side had the lock in `length`.
    fn round(&self, steps: u64, length: Duration) -> [u64; 2] {
        let from_ns = now_ns() + LEAD.as_nanos() as u64;
        let round = Round { from_ns, to_ns: from_ns + length.as_nanos() as u64 };
        let (Self::Processes { memory, .. } | Self::Threads { memory, .. }) = self;
        let before = memory.count().load(Relaxed);
        let counts = match self {
            Self::Processes { sides, .. } => {
                sides.iter().for_each(|(_, orders)| orders.send(round).expect("order a round"));
                [0, 1].map(|k| sides[k].1.recv_timeout(NEVER).expect("the round's count"))
            }
            Self::Threads { who: Who::Std, cpus, .. } => {
                threads(&std::sync::Mutex::new(()), memory, *cpus, steps, round)
            }
            Self::Threads { cpus, .. } => threads(&parking_lot::Mutex::new(()), memory, *cpus, steps, round),
        };
        assert_eq!(memory.count().load(Relaxed) - before, counts[0] + counts[1], "two had the lock at once");
        counts
    }

    fn end(self) {
        if let Self::Processes { sides, .. } = self {
            for (process, orders) in sides {
                drop(orders);
                process.join().expect("a side ends well");
            }
        }
    }
}

fn threads(
    lock: &(impl Contender + Sync),
    memory: &Memory,
    cpus: [Option<usize>; 2],
    steps: u64,
    round: Round,
) -> [u64; 2] {
    std::thread::scope(|scope| {
        let start = |cpu| {
            scope.spawn(move || {
                pin(cpu).expect("pin a thread");
                compete(lock, memory, steps, round)
            })
        };
        cpus.map(start).map(|thread| thread.join().expect("a side ends well"))
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures all locks in one placement, taking turns, and prints a line for each.
pub fn contended(placement: Placement) {
    let Some(cpus) = placement.cpus().expect("ask which CPUs there are") else {
        return println!("contended/{}: skipped, there is one CPU only", placement.name());
    };
    let steps = calibrate();
    let mut contests = Who::ALL.map(|who| (who, Contest::new(who, cpus, steps), Vec::new()));
    for _ in 0..ROUNDS {
        for (_, contest, rates) in &mut contests {
            let [a, b] = contest.round(steps, ROUND);
            rates.push((a + b) as f64 / ROUND.as_secs_f64());
        }
    }
    println!("contended/{}: {WORK_NS} ns of work inside and outside; {ROUNDS} rounds of {ROUND:?}", placement.name());
    for (who, contest, mut rates) in contests {
        let [a, b] = contest.round(steps, FAIR_ROUND);
        let share = 100.0 * a.min(b) as f64 / (a + b) as f64;
        let (least, most) = rates.iter().fold((f64::MAX, 0f64), |(l, m), r| (l.min(*r), m.max(*r)));
        let [mid, least, most] = [median(&mut rates), least, most].map(|rate| rate / 1e6);
        println!(
            "  {:32} {mid:6.2} M op/s (from {least:.2} to {most:.2}); the lesser side had {share:.0} % of {FAIR_ROUND:?}",
            who.name()
        );
        contest.end();
    }
}

/// Takes the lock, says so, and never gives it back.
fn victim((passed, said): (Passed, Connection<(), ()>)) {
    fn hold(lock: &impl Contender, said: &Connection<(), ()>) {
        lock.with(|| {
            said.send(()).expect("say that it is held");
            let _ = said.recv();
        });
    }
    let open = |name| Memory::open(name).expect("open the lock's memory");
    match passed {
        Passed::Kinfolk(lock) => hold(&lock, &said),
        Passed::RawSync(name) => hold(&RawSync::open(open(name)), &said),
        Passed::Robust(name) => hold(&Robust::open(open(name)), &said),
    }
}

/// Waits for the lock once for each order; says when it goes, and when it has the lock with the news.
fn survivor((passed, orders): (Passed, Connection<u64, ()>)) {
    fn wait(lock: &impl Contender, orders: &Connection<u64, ()>) {
        while orders.recv().is_ok() {
            orders.send(0).expect("say that it waits");
            let mut told = 0;
            assert_eq!(lock.with(|| told = now_ns()), Got::OwnerDied);
            orders.send(told).expect("say when it was told");
        }
    }
    let open = |name| Memory::open(name).expect("open the lock's memory");
    match passed {
        Passed::Kinfolk(lock) => wait(&lock, &orders),
        Passed::RawSync(name) => wait(&RawSync::open(open(name)), &orders),
        Passed::Robust(name) => wait(&Robust::open(open(name)), &orders),
    }
}

/// Kills `kills` holders, each when its survivor has waited for `waited`; prints the times from the kill to the news.
pub fn kill_to_owner_died(who: Who, kills: u32, waited: Duration) {
    let memory = Memory::new().expect("make memory");
    let passed = lay(who, &memory);
    let (orders, taken) = pipe::<(), u64>().expect("make a pipe");
    let surviving = Process::spawn(survivor, (passed.clone(), taken)).expect("start a survivor");
    let mut times: Vec<f64> = Vec::new();
    for kill in 0..kills {
        let (heard, said) = pipe::<(), ()>().expect("make a pipe");
        let holder = Process::spawn(victim, (passed.clone(), said)).expect("start a holder");
        heard.recv_timeout(NEVER).expect("the holder has the lock");
        orders.send(()).expect("order to wait");
        orders.recv_timeout(NEVER).expect("the survivor waits");
        // Not always at the same moment of a sleep.
        std::thread::sleep(waited + Duration::from_micros(u64::from(kill) * 7919 % 2000));
        let killed = now_ns();
        holder.kill().expect("kill the holder");
        let told = orders.recv_timeout(NEVER).expect("the survivor's time");
        times.push((told - killed) as f64 / 1e6);
        holder.join().expect_err("it was killed");
    }
    drop(orders);
    surviving.join().expect("the survivor ends well");
    let mid = median(&mut times);
    println!(
        "kill_to_owner_died/{}, after a wait of {waited:?}: {mid:.3} ms in the middle of {kills} (from {:.3} to {:.3})",
        who.name(),
        times[0],
        times[times.len() - 1]
    );
}
