//! A supervisor: keeps three workers running, restarts those that end before their time, and says why each did.
//!
//! ```text
//! cargo run --example supervisor             a dozen restarts, within a second or two
//! cargo run --example supervisor -- 1000     as many as that
//! ```
//!
//! Tasks lie in a queue of leases: a task that a worker had when it died is done by another, so at the end every one is
//! done. A worker that ends too often within a short time is given up by any supervisor; this one has a number of restarts
//! instead, after which its workers stop misbehaving.

use std::error::Error;
use std::time::{Duration, Instant};

use kinfolk::process::StartMethod;
use kinfolk::{Array, JoinError, JoinableQueue, Process};

const WORKERS: u32 = 3;

/// What a worker works with.
type Work = (JoinableQueue<u32>, Array<u32>, Restarts);

/// How many restarts are left, shared by all.
type Restarts = kinfolk::Value<u32>;

/// How a worker ends before its time.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    Panic,
    Exit,
    Abort,
    Killed,
    Overflow,
    WildPointer,
}

const MISHAPS: [Mishap; 6] =
    [Mishap::Panic, Mishap::Exit, Mishap::Abort, Mishap::Killed, Mishap::Overflow, Mishap::WildPointer];

fn deeper(n: u64) -> u64 {
    std::hint::black_box(if n == 0 { 0 } else { deeper(n - 1) + 1 })
}

impl Mishap {
    fn happen(self, number: u32) {
        match self {
            Self::Panic => panic!("task {number} is too much for me"),
            Self::Exit => std::process::exit(3),
            Self::Abort => std::process::abort(),
            // As by the kernel when memory is short.
            Self::Killed => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap(),
            Self::Overflow => drop(deeper(u64::MAX)),
            // SAFETY: there is nothing at this address, which is what it is for: the process ends.
            Self::WildPointer => drop(unsafe { std::ptr::without_provenance::<u8>(64).read_volatile() }),
        }
    }
}

/// Works until there are no tasks for a while; how many were done.
fn work((tasks, done, restarts): Work) -> u32 {
    let mut count = 0;
    while let Ok(lease) = tasks.lease_timeout(Duration::from_millis(100)) {
        let number = *lease;
        // Every third task ends whoever takes it, each time in another way, as long as that may be.
        if number % 3 == 0 {
            let (left, _) = restarts.update(|left| left.saturating_sub(1)).unwrap();
            if left > 0 {
                MISHAPS[left as usize % MISHAPS.len()].happen(number);
            }
        }
        done.at(number as usize).unwrap().add(1);
        lease.ack().unwrap();
        count += 1;
    }
    count
}

/// Why a worker ended, in a line.
fn reason(error: &JoinError) -> String {
    match error {
        JoinError::Panicked { message, location, .. } => format!("panicked at {location}: {message}"),
        JoinError::StackOverflow => "used up its stack".to_owned(),
        JoinError::Signaled { signal, .. } => format!("{error} (signal {signal})"),
        other => other.to_string(),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let most: u32 = std::env::args().nth(1).map_or(Ok(12), |number| number.parse())?;
    let began = Instant::now();
    let tasks = JoinableQueue::new(0)?;
    let count = 3 * most + 30;
    let done = Array::new(count as usize)?;
    let restarts = Restarts::new(most)?;
    for number in 0..count {
        tasks.put(number)?;
    }

    // The fork server makes a restart cheap.
    let start = |name: &str| {
        let builder = Process::builder().name(name).daemon(true).start_method(StartMethod::ForkServer);
        builder.stderr(kinfolk::process::Stdio::null()).spawn(work, (tasks.clone(), done.clone(), restarts.clone()))
    };
    let mut workers = (1..=WORKERS).map(|k| start(&format!("worker-{k}"))).collect::<Result<Vec<_>, _>>()?;
    let (mut deaths, mut finished) = (0, 0);
    while !workers.is_empty() {
        let sentinels: Vec<_> = workers.iter().map(|worker| worker as &dyn kinfolk::channel::Waitable).collect();
        let mut ended = kinfolk::channel::wait(&sentinels, None)?;
        ended.sort_unstable();
        for at in ended.into_iter().rev() {
            let worker = workers.swap_remove(at);
            let (name, pid) = (worker.name().to_owned(), worker.pid());
            match worker.join() {
                Ok(count) => finished += count,
                Err(error) => {
                    deaths += 1;
                    println!("{name} ({pid}) {}; restarted", reason(&error));
                    workers.push(start(&name)?);
                }
            }
        }
    }

    tasks.try_join()?;
    let all = done.to_vec()?;
    assert!(all.iter().all(|times| *times == 1), "every task is done, and once: {all:?}");
    assert_eq!(deaths, most);
    println!("{count} tasks done, {deaths} workers died, {finished} tasks were of workers that did not");
    eprintln!("in {:?}", began.elapsed());
    Ok(())
}
