//! Our lock and raw_sync's behind one face: the same schedules with the same results, and what raw_sync gets wrong.

mod support;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use kinfolk::segment::ObjectId;
use kinfolk::{Connection, Lock, LockError, Process, RawLock, RawSyncLock, Segment, pipe};
use raw_sync::Timeout;
use raw_sync::locks::{LockImpl, LockInit};
use serde::{Deserialize, Serialize};
use support::watchdog;

const LIMIT: Duration = Duration::from_secs(60);
/// Longer than anything here takes.
const NEVER: Duration = Duration::from_secs(30);
const PROCESSES: usize = 2;
const THREADS: usize = 2;

/// A small generator of steps (xorshift): the tests need variety, not quality.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A number without atomics: its bytes are copied out of a memory file and back in. Only a lock makes it count right.
struct Counter(File);

/// Where other processes find it: the process and the descriptor that have the file.
type CounterName = (u32, i32);

impl Counter {
    fn new() -> (Self, CounterName) {
        let fd = rustix::fs::memfd_create("counter", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let name = (std::process::id(), fd.as_raw_fd());
        let counter = Self(File::from(fd));
        counter.0.write_all_at(&0u64.to_ne_bytes(), 0).unwrap();
        (counter, name)
    }

    fn open((pid, fd): CounterName) -> Self {
        Self(OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/fd/{fd}")).unwrap())
    }

    fn get(&self) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// One more; the number before.
    fn add(&self) -> u64 {
        let before = self.get();
        self.0.write_all_at(&(before + 1).to_ne_bytes(), 0).unwrap();
        before
    }
}

/// A lock on its way to another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Passed {
    Ours(Lock),
    RawSync(ObjectId),
}

fn raw_sync_lock() -> RawSyncLock {
    // SAFETY: all processes of the family are this program, and none writes to the segment but through the library.
    unsafe { RawSyncLock::new_in(&Segment::family().unwrap()).unwrap() }
}

fn raw_sync_opened(id: ObjectId) -> RawSyncLock {
    // SAFETY: as for `raw_sync_lock`.
    unsafe { RawSyncLock::open(&Segment::family().unwrap(), id).unwrap() }
}

/// Runs `$body` with `$lock` bound to what was passed.
macro_rules! with_lock {
    ($passed:expr, $lock:ident => $body:expr) => {
        match $passed {
            Passed::Ours(lock) => {
                let $lock = &lock;
                $body
            }
            Passed::RawSync(id) => {
                let $lock = &raw_sync_opened(id);
                $body
            }
        }
    };
}

/// What a thread is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Lock,
    Try,
    Timed(Duration),
    Unlock,
    End,
}

/// What came of it; with the lock comes the counter, of which the taker makes one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Outcome {
    Locked(u64),
    OwnerDied(u64),
    WouldBlock,
    TimedOut,
    Unlocked,
    Failed,
}

/// Keeps what was got, and says it in the words that both locks have in common.
fn outcome<G>(result: Result<G, LockError<G>>, held: &mut Option<G>, counter: &Counter) -> Outcome {
    match result {
        Ok(guard) => {
            *held = Some(guard);
            Outcome::Locked(counter.add())
        }
        Err(LockError::OwnerDied(guard)) => {
            *held = Some(guard);
            Outcome::OwnerDied(counter.add())
        }
        Err(LockError::WouldBlock) => Outcome::WouldBlock,
        Err(LockError::Timeout(_)) => Outcome::TimedOut,
        Err(_) => Outcome::Failed,
    }
}

fn act<L: RawLock>(lock: &L, counter: &Counter, steps: &Connection<Outcome, Step>) {
    let mut held = None;
    loop {
        let did = match steps.recv().unwrap() {
            Step::Lock => outcome(lock.lock(), &mut held, counter),
            Step::Try => outcome(lock.try_lock(), &mut held, counter),
            Step::Timed(limit) => outcome(lock.lock_timeout(limit), &mut held, counter),
            Step::Unlock => {
                held = None;
                Outcome::Unlocked
            }
            Step::End => return,
        };
        steps.send(did).unwrap();
    }
}

type Cast = (Passed, CounterName, Vec<Connection<Outcome, Step>>);

/// A process: a thread for each connection.
fn actors((passed, counter, connections): Cast) {
    let counter = Counter::open(counter);
    with_lock!(passed, lock => std::thread::scope(|scope| {
        for steps in &connections {
            scope.spawn(|| act(lock, &counter, steps));
        }
    }));
}

/// One step after another, in threads of several processes, so that each result follows from the steps before it.
fn stage(passed: Passed, seed: u64, steps: usize) -> Vec<(usize, Step, Outcome)> {
    let (counter, name) = Counter::new();
    let mut actors_of = Vec::new();
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| pipe::<Step, Outcome>().unwrap()).unzip();
        actors_of.extend(ours);
        processes.push(Process::spawn(actors, (passed.clone(), name, theirs)).unwrap());
    }
    let answer = |who: usize| actors_of[who].recv_timeout(NEVER).unwrap();
    let (mut random, mut log) = (Random(seed), Vec::new());
    let (mut holder, mut waiter): (Option<usize>, Option<usize>) = (None, None);
    for _ in 0..steps {
        let who = random.below((PROCESSES * THREADS) as u64) as usize;
        if waiter == Some(who) {
            continue;
        }
        let limit = Duration::from_micros(random.below(3000));
        let step = match random.below(5) {
            0 => Step::Try,
            1 => Step::Timed(limit),
            2 | 3 if holder == Some(who) => Step::Unlock,
            // One waiter at a time: the order of several is nobody's promise. A holder would wait for itself.
            2 if holder != Some(who) && waiter.is_none() => Step::Lock,
            _ => continue,
        };
        actors_of[who].send(step).unwrap();
        if step == Step::Lock && holder.is_some() {
            waiter = Some(who);
            continue;
        }
        let mut did = vec![(who, step, answer(who))];
        if step == Step::Unlock {
            holder = None;
            did.extend(waiter.take().map(|next| (next, Step::Lock, answer(next))));
        }
        for (who, _, outcome) in &did {
            if let Outcome::Locked(_) = outcome {
                assert_eq!(holder.replace(*who), None, "two holders after {log:?} and {did:?}");
            }
        }
        log.extend(did);
    }
    if let Some(who) = holder {
        actors_of[who].send(Step::Unlock).unwrap();
        log.push((who, Step::Unlock, answer(who)));
    }
    if let Some(who) = waiter {
        log.push((who, Step::Lock, answer(who)));
    }
    actors_of.iter().for_each(|actor| actor.send(Step::End).unwrap());
    processes.into_iter().for_each(|process| process.join().unwrap());
    let locked = log.iter().filter(|(_, _, outcome)| matches!(outcome, Outcome::Locked(_))).count();
    assert_eq!(counter.get(), locked as u64);
    log
}

#[test]
fn the_same_steps_have_the_same_results_on_both() {
    let _watchdog = watchdog(LIMIT);
    for seed in 1..=5 {
        let raw_sync = raw_sync_lock();
        let ours = stage(Passed::Ours(Lock::new(()).unwrap()), seed, 400);
        let theirs = stage(Passed::RawSync(raw_sync.id()), seed, 400);
        assert_eq!(ours, theirs, "seed {seed}");
        for wanted in [Outcome::WouldBlock, Outcome::TimedOut, Outcome::Unlocked] {
            assert!(ours.iter().any(|(_, _, outcome)| *outcome == wanted), "seed {seed}: no {wanted:?} at all");
        }
    }
}

/// Random steps at full speed; how often the lock was got, and by how many blocking calls.
fn race<L: RawLock>(lock: &L, counter: &Counter, seed: u64) -> (u64, u64) {
    let (mut random, mut got, mut blocking) = (Random(seed), 0, 0);
    for _ in 0..1000 {
        let mut held = None;
        let (step, limit) = (random.below(4), Duration::from_micros(random.below(100)));
        let did = match step {
            0 => outcome(lock.try_lock(), &mut held, counter),
            1 => outcome(lock.lock_timeout(limit), &mut held, counter),
            _ => {
                blocking += 1;
                outcome(lock.lock(), &mut held, counter)
            }
        };
        match did {
            Outcome::Locked(_) => got += 1,
            Outcome::WouldBlock if step == 0 => {}
            Outcome::TimedOut if step == 1 => {}
            wrong => panic!("step {step} of seed {seed} gave {wrong:?}"),
        }
    }
    (got, blocking)
}

fn racers((passed, counter, seed): (Passed, CounterName, u64)) -> (u64, u64) {
    let counter = Counter::open(counter);
    with_lock!(passed, lock => std::thread::scope(|scope| {
        let (lock, counter) = (lock, &counter);
        let threads = [0, 1].map(|k| scope.spawn(move || race(lock, counter, seed * 2 + k)));
        let sums = threads.map(|thread| thread.join().unwrap());
        (sums[0].0 + sums[1].0, sums[0].1 + sums[1].1)
    }))
}

/// The blocking calls of one schedule, which is the same for both locks.
fn race_all(passed: &Passed, seed: u64) -> u64 {
    let (counter, name) = Counter::new();
    let start = |k: u64| Process::spawn(racers, (passed.clone(), name, seed + k)).unwrap();
    let ends = [start(0), start(1)].map(|process| process.join().unwrap());
    assert_eq!(counter.get(), ends[0].0 + ends[1].0, "{passed:?} let two in at once, seed {seed}");
    ends[0].1 + ends[1].1
}

#[test]
fn schedules_at_full_speed_count_right_on_both() {
    let _watchdog = watchdog(LIMIT);
    for seed in [1, 11, 21] {
        let raw_sync = raw_sync_lock();
        let ours = race_all(&Passed::Ours(Lock::new(()).unwrap()), seed);
        assert_eq!(ours, race_all(&Passed::RawSync(raw_sync.id()), seed), "seed {seed}");
    }
}

/// Takes the lock, says so, and is never done.
fn hold((passed, said): (Passed, Connection<(), ()>)) {
    with_lock!(passed, lock => {
        let _held = lock.lock();
        said.send(()).unwrap();
        let _ = said.recv();
    });
}

fn kill_a_holder(passed: &Passed) {
    let (heard, said) = pipe::<(), ()>().unwrap();
    let holder = Process::spawn(hold, (passed.clone(), said)).unwrap();
    heard.recv_timeout(NEVER).unwrap();
    holder.kill().unwrap();
    holder.join().unwrap_err();
}

#[test]
fn a_killed_holder_does_not_hang_the_next_locker() {
    let _watchdog = watchdog(LIMIT);
    let lock = Lock::new(()).unwrap();
    kill_a_holder(&Passed::Ours(lock.clone()));
    let mut guard = RawLock::lock(&lock).unwrap_err().into_guard().expect("the lock, and the news of the death");
    guard.mark_consistent();
    drop(guard);
    drop(RawLock::lock(&lock).expect("declared consistent"));
}

#[test]
fn a_killed_holder_keeps_the_lock_of_raw_sync_for_ever() {
    let _watchdog = watchdog(LIMIT);
    let lock = raw_sync_lock();
    kill_a_holder(&Passed::RawSync(lock.id()));
    assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
    assert!(matches!(lock.lock_timeout(Duration::from_millis(300)), Err(LockError::Timeout(None))));
}

/// What made raw_sync's own timed lock fail: any number of nanoseconds that makes a second with those of the clock.
const BELOW_A_SECOND: [Duration; 4] =
    [Duration::from_nanos(1), Duration::from_millis(3), Duration::from_millis(501), Duration::from_nanos(999_999_999)];

fn waits_out<L: RawLock + Sync>(lock: &L) {
    let _held = lock.lock();
    std::thread::scope(|scope| {
        for timeout in BELOW_A_SECOND {
            scope.spawn(move || {
                let start = Instant::now();
                assert!(matches!(lock.lock_timeout(timeout), Err(LockError::Timeout(_))), "{timeout:?}");
                assert!(start.elapsed() >= timeout, "{timeout:?} took {:?}", start.elapsed());
            });
        }
    });
}

#[test]
fn timeouts_below_a_second_are_kept() {
    let _watchdog = watchdog(LIMIT);
    waits_out(&Lock::new(()).unwrap());
    waits_out(&raw_sync_lock());
}

/// raw_sync's lock as it is, in memory of this process.
fn bare() -> (Box<dyn LockImpl>, Box<[u64; 16]>) {
    let mut memory = Box::new([0u64; 16]);
    let at = memory.as_mut_ptr().cast();
    // SAFETY: 128 aligned bytes, more than a mutex has, which the caller keeps as long as the lock.
    let (lock, used) = unsafe { raw_sync::locks::Mutex::new(at, std::ptr::null_mut()).unwrap() };
    assert!(used <= 128);
    (lock, memory)
}

/// Carries a lock to another thread: raw_sync does not say that it may, but its C library does.
struct Elsewhere<'a>(&'a dyn LockImpl);
// SAFETY: a pthread mutex is there to be used by several threads.
unsafe impl Send for Elsewhere<'_> {}

impl Elsewhere<'_> {
    fn get(&self) -> &dyn LockImpl {
        self.0
    }
}

#[test]
fn raw_sync_itself_refuses_a_timeout_below_a_second() {
    let _watchdog = watchdog(LIMIT);
    let (lock, _memory) = bare();
    let _held = lock.lock().unwrap();
    let elsewhere = Elsewhere(&*lock);
    let refused = std::thread::scope(|scope| {
        let refused = scope.spawn(move || {
            let timeout = Timeout::Val(Duration::from_nanos(999_999_999));
            elsewhere.get().try_lock(timeout).err().map(|e| e.to_string())
        });
        refused.join().unwrap()
    });
    let invalid = format!(": {}", libc::EINVAL);
    assert!(refused.as_ref().is_some_and(|said| said.ends_with(&invalid)), "{refused:?}");
}

#[test]
fn raw_sync_itself_lets_anybody_release() {
    let _watchdog = watchdog(LIMIT);
    let (lock, _memory) = bare();
    let held = lock.lock().unwrap();
    let elsewhere = Elsewhere(&*lock);
    std::thread::scope(|scope| {
        let stolen = scope.spawn(move || {
            elsewhere.get().release().unwrap();
            // Two holders: this one, and the one that still has its guard.
            elsewhere.get().lock().is_ok()
        });
        assert!(stolen.join().unwrap());
    });
    std::mem::forget(held);
}
