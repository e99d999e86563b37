//! The tour: what the library does, done with real processes.

use std::process::id;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kinfolk::{Connection, JoinError, LockError, Mutex, Process, Queue, Segment, process};
use serde::{Deserialize, Serialize};

use crate::table::Time;

/// Nothing in the tour takes as long; it is told instead of waited for ever.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Messages, then deaths.
pub fn run() -> anyhow::Result<()> {
    println!("kinfolk {}: this is process {}, on {} CPUs", env!("CARGO_PKG_VERSION"), id(), process::cpu_count());
    queue().context("the queue")?;
    pipe().context("the pipe")?;
    lock().context("the lock")?;
    death_in_put().context("the death in put")?;
    death_with_lock().context("the death with the lock")?;
    report().context("the report")
}

// ---- messages

#[derive(Serialize, Deserialize)]
struct Counted {
    by: u32,
    below: u32,
    primes: u32,
}

/// Counts primes for whoever asks, until it gets `None`.
fn worker((jobs, results): (Queue<Option<u32>>, Queue<Counted>)) {
    while let Some(below) = jobs.get().expect("get a job") {
        let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
        let primes = (2..below).filter(is_prime).count() as u32;
        results.put(Counted { by: id(), below, primes }).expect("put a result");
    }
}

fn queue() -> anyhow::Result<()> {
    println!("\nA queue: three processes take jobs from one, and put results into another.");
    let (jobs, results) = (Queue::new(0)?, Queue::new(0)?);
    let start = |n| Process::builder().name(format!("worker-{n}")).spawn(worker, (jobs.clone(), results.clone()));
    let workers = (1..=3).map(start).collect::<Result<Vec<_>, _>>()?;
    let pids: Vec<u32> = workers.iter().map(Process::pid).collect();
    println!("  started workers {pids:?}");
    let sizes = [10_000, 20_000, 30_000, 40_000, 50_000, 60_000];
    for below in sizes {
        jobs.put(Some(below))?;
    }
    for _ in sizes {
        let Counted { by, below, primes } = results.get_timeout(TIMEOUT)?;
        println!("  worker {by}: {primes} primes below {below}");
    }
    for worker in workers {
        jobs.put(None)?;
        drop(worker);
    }
    Ok(())
}

/// Answers numbers with words, until the other end closes.
fn speller(end: Connection<String, u32>) -> u32 {
    const DIGITS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let mut answers = 0;
    while let Ok(number) = end.recv() {
        let digit = |c: char| DIGITS[c.to_digit(10).map_or(0, |d| d as usize)];
        end.send(number.to_string().chars().map(digit).collect::<Vec<_>>().join(" ")).expect("send an answer");
        answers += 1;
    }
    answers
}

fn pipe() -> anyhow::Result<()> {
    println!("\nA pipe: typed messages in both directions, and an end of file.");
    let (here, there) = kinfolk::pipe::<u32, String>()?;
    let child = Process::spawn(speller, there)?;
    for number in [7, 42, 1024] {
        here.send(number)?;
        println!("  process {} spells {number}: {}", child.pid(), here.recv_timeout(TIMEOUT)?);
    }
    here.close();
    println!("  closed this end; the child ended by itself and returned {}", child.join()?);
    Ok(())
}

const ADDITIONS: u64 = 100_000;

fn adder(total: Mutex<u64>) {
    for _ in 0..ADDITIONS {
        *total.lock().expect("nobody dies here") += 1;
    }
}

fn lock() -> anyhow::Result<()> {
    println!("\nA lock, with its data inside: three processes add 1 to the same number, {ADDITIONS} times each.");
    let total = Mutex::new(0)?;
    let start = Instant::now();
    let children = (0..3).map(|_| Process::spawn(adder, total.clone())).collect::<Result<Vec<_>, _>>()?;
    for child in children {
        child.join()?;
    }
    let sum = *total.lock().map_err(|e| e.to_string()).map_err(anyhow::Error::msg)?;
    println!("  the sum is {sum}, after {}", Time(start.elapsed().as_nanos() as f64));
    ensure!(sum == 3 * ADDITIONS, "expected {}", 3 * ADDITIONS);
    Ok(())
}

// ---- deaths

/// Bytes of the victim's messages: most of its time it is in the middle of copying one.
const PARCEL: usize = 256 << 10;
/// Whether a kill hits the middle of a put is chance.
const TRIES: u32 = 60;
/// What the bystander puts, before and again after each kill.
const TICKS: u64 = 1000;

/// Puts large messages as fast as it can, until it is killed.
fn victim(queue: Queue<Vec<u8>>) {
    for number in 0u64.. {
        let mut parcel = vec![number as u8; PARCEL];
        parcel[..8].copy_from_slice(&number.to_le_bytes());
        queue.put(parcel).expect("put a parcel");
    }
}

/// Puts as many numbers into the same queue as it is asked for, one after the other.
fn bystander((queue, orders): (Queue<Vec<u8>>, Connection<(), u64>)) {
    let mut number = 0u64;
    while let Ok(more) = orders.recv() {
        for _ in 0..more {
            queue.put(number.to_le_bytes().to_vec()).expect("put a number");
            number += 1;
        }
    }
}

/// What came out of the queue: each sender's messages are checked and counted.
struct Consumer {
    queue: Queue<Vec<u8>>,
    parcels: u64,
    ticks: u64,
    longest: Duration,
}

impl Consumer {
    fn get(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let message = self.queue.get_timeout(TIMEOUT)?;
        self.longest = self.longest.max(start.elapsed());
        let (number, rest) = message.split_first_chunk::<8>().context("a message of less than 8 bytes")?;
        let counter = if rest.is_empty() { &mut self.ticks } else { &mut self.parcels };
        ensure!(
            *counter == u64::from_le_bytes(*number),
            "message {} came when {counter} was due",
            u64::from_le_bytes(*number)
        );
        ensure!(rest.is_empty() || rest.len() == PARCEL - 8, "a message of {} bytes", message.len());
        ensure!(rest.iter().all(|byte| *byte == *counter as u8), "message {counter} has other bytes than were put");
        *counter += 1;
        Ok(())
    }
}

fn death_in_put() -> anyhow::Result<()> {
    println!(
        "\nA death: a process that puts {} KiB messages into a queue is killed (SIGKILL) at random moments,",
        PARCEL >> 10
    );
    println!("until one hits the middle of a put. Another process puts numbers into the same queue all the while.");
    let segment = Segment::family()?;
    let queue = Queue::builder().bytes(32 << 20).build::<Vec<u8>>()?;
    let (orders, taken) = kinfolk::pipe::<u64, ()>()?;
    let other = Process::builder().name("bystander").spawn(bystander, (queue.clone(), taken))?;
    let mut consumer = Consumer { queue: queue.clone(), parcels: 0, ticks: 0, longest: Duration::ZERO };
    for attempt in 1..=TRIES {
        let before = segment.stats().vanished;
        consumer.parcels = 0;
        let child = Process::builder().name("victim").spawn(victim, queue.clone())?;
        let pid = child.pid();
        orders.send(TICKS)?;
        while consumer.parcels == 0 {
            consumer.get()?;
        }
        let first = Instant::now();
        let moment = random_moment();
        while first.elapsed() < moment {
            std::hint::spin_loop();
        }
        child.kill()?;
        let JoinError::Signaled { signal: 9, .. } = child.join().err().context("the victim ended by itself")? else {
            bail!("the victim ended in another way than by SIGKILL");
        };
        consumer.longest = Duration::ZERO;
        orders.send(TICKS)?;
        while consumer.ticks < u64::from(attempt) * 2 * TICKS {
            consumer.get()?;
        }
        segment.sweep();
        let vanished = segment.stats().vanished - before;
        if vanished == 0 && attempt < TRIES {
            continue;
        }
        let found = if vanished == 0 { "never in the middle of a put" } else { "in the middle of a put" };
        println!(
            "  try {attempt}: process {pid} killed {} after its first message, {found}",
            Time(moment.as_nanos() as f64)
        );
        println!("  its {} messages that were put came whole; lost in the middle: {vanished}", consumer.parcels);
        println!("  process {} was not disturbed: all its {} numbers came, in order", other.pid(), consumer.ticks);
        println!("  the longest wait of this process for a message was {}", Time(consumer.longest.as_nanos() as f64));
        break;
    }
    drop(orders);
    other.join()?;
    Ok(())
}

/// Up to 2 ms, decided by the last digits of the clock.
fn random_moment() -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Duration::from_nanos(u64::from(now.subsec_nanos()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) / 2048
}

/// Takes the lock and never gives it back.
fn holder((account, told): (Mutex<u64>, Queue<u32>)) {
    let guard = account.lock();
    told.put(id()).expect("tell that it holds the lock");
    loop {
        std::thread::park();
        std::hint::black_box(&guard);
    }
}

/// Waits for the lock, repairs what the holder left, and says how it got it.
fn heir((account, told): (Mutex<u64>, Queue<u32>)) -> String {
    told.put(id()).expect("tell that it waits");
    let lock = account.lock();
    let answer = match lock {
        Ok(_) => "Ok: it was not told".into(),
        Err(LockError::OwnerDied(mut account)) => {
            *account += 1;
            account.mark_consistent();
            "OwnerDied: it has the lock, and knows that the data may be half changed".into()
        }
        Err(e) => e.to_string(),
    };
    told.put(id()).expect("tell that it had the lock");
    answer
}

fn death_with_lock() -> anyhow::Result<()> {
    println!("\nAnother death: a process is killed while it holds a lock that two others wait for.");
    let account = Mutex::new(41u64)?;
    let told = Queue::new(0)?;
    let first = Process::builder().name("holder").spawn(holder, (account.clone(), told.clone()))?;
    told.get_timeout(TIMEOUT)?;
    println!("  the lock is held by {}", account.holder().map_or("nobody".into(), |h| h.to_string()));
    let second = Process::builder().name("heir").spawn(heir, (account.clone(), told.clone()))?;
    println!("  process {} waits for it", told.get_timeout(TIMEOUT)?);
    let killed = Instant::now();
    first.kill()?;
    told.get_timeout(TIMEOUT)?;
    let waited = killed.elapsed();
    let pid = second.pid();
    println!("  process {pid} got {}", second.join()?);
    println!("  that was {} after the kill", Time(waited.as_nanos() as f64));
    match account.lock_timeout(TIMEOUT) {
        Ok(value) => println!("  it put the data right, so this process gets Ok, and the value {}", *value),
        Err(e) => bail!("{e}"),
    }
    drop(first);
    Ok(())
}

fn report() -> anyhow::Result<()> {
    let segment = Segment::family()?;
    let stats = segment.stats();
    println!("\nWhat the segment remembers of them:");
    for death in segment.deaths() {
        let losses = death.losses;
        println!(
            "  {} (pid {}): {} vanished, {} delivered again, {} locks held",
            death.name, death.pid, losses.vanished, losses.redelivered, losses.locks
        );
    }
    println!("  in all {} deaths; {} objects and {} processes left", stats.deaths, stats.objects, stats.processes);
    Ok(())
}
