//! SIGKILL after every single instruction of an operation: a traced child is stepped k instructions into it and killed, for
//! every k until the operation is over. Survivors then find everything whole.
//!
//! A program of its own with one thread, so that a plain `fork` is safe: it makes a victim in a fraction of a millisecond.
#![allow(unsafe_code, reason = "fork")]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use kinfolk::{
    Barrier, BarrierError, Condvar, Event, GetError, LockError, Mutex, Once, Queue, RLock, RwLock, Segment, Semaphore,
};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

#[path = "step/arena.rs"]
mod arena;
#[path = "step/dicts.rs"]
mod dicts;
#[path = "step/handles.rs"]
mod handles;
#[path = "step/leases.rs"]
mod leases;
#[path = "step/lists.rs"]
mod lists;
#[path = "step/names.rs"]
mod names;
#[path = "step/pools.rs"]
mod pools;
#[path = "step/values.rs"]
mod values;

/// More instructions than any operation here has.
const MOST_STEPS: u32 = 1 << 18;
const SOON: Duration = Duration::from_secs(5);

/// What became of a victim that was stepped `k` instructions into its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Killed,
    /// The operation was over before.
    Done,
}

/// Forks a child that prepares, then runs `operation` under single step, and kills it after `k` instructions.
fn kill_after(k: u32, prepare: &dyn Fn(), operation: &dyn Fn()) -> Victim {
    // SAFETY: this program has one thread, so the child may go on as if nothing had happened.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            prepare();
            ptrace::traceme().unwrap();
            raise(Signal::SIGSTOP).unwrap();
            operation();
            raise(Signal::SIGSTOP).unwrap();
            // Never reached: the second stop tells that the operation is over.
            std::process::abort();
        }
        ForkResult::Parent { child } => {
            let victim = step(child, k);
            kill(child, Signal::SIGKILL).unwrap();
            assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Signaled(_, Signal::SIGKILL, _)));
            victim
        }
    }
}

fn step(child: Pid, k: u32) -> Victim {
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Stopped(child, Signal::SIGSTOP));
    for _ in 0..k {
        ptrace::step(child, None).unwrap();
        match waitpid(child, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Stopped(_, Signal::SIGSTOP) => return Victim::Done,
            other => panic!("the victim ended by itself: {other:?}"),
        }
    }
    Victim::Killed
}

/// Single steps that one test may take in all: a few seconds. An unoptimised operation of thousands of instructions is
/// sampled, at other places in each run; `KINFOLK_EVERY_STEP=1` takes the hours.
const STEPS: u64 = if cfg!(debug_assertions) { 40_000 } else { 100_000 };

/// Kills at the instructions of `operation`; `check` looks at what the survivors find, given the victim's fate.
fn at_every_instruction(name: &str, prepare: &dyn Fn(), operation: &dyn Fn(), check: &mut dyn FnMut(u32, Victim)) {
    within_steps(STEPS, name, prepare, operation, check);
}

/// The same, again and again, at other places each time, until the kills have hit everything that they should.
fn until_hit(
    name: &str,
    prepare: &dyn Fn(),
    operation: &dyn Fn(),
    is_hit: &dyn Fn() -> bool,
    check: &mut dyn FnMut(u32, Victim),
) {
    at_every_instruction(name, prepare, operation, check);
    for _ in 0..100 {
        if is_hit() {
            return;
        }
        at_every_instruction(name, prepare, operation, check);
    }
    panic!("{name}: no kill came where some should have come");
}

/// The same with so many single steps in all.
fn within_steps(most: u64, name: &str, prepare: &dyn Fn(), operation: &dyn Fn(), check: &mut dyn FnMut(u32, Victim)) {
    let segment = Segment::family().unwrap();
    let mut kill_at = |k: u32| {
        let victim = kill_after(k, prepare, operation);
        if k % 7 != 0 {
            // Else the survivors find the death by themselves.
            assert!(segment.sweep() >= 1, "{name}: the victim of step {k} was not found dead");
        }
        check(k, victim);
        victim
    };
    let whole = (0..).map(|power| 1 << power).find(|k| *k > MOST_STEPS || kill_at(*k) == Victim::Done).unwrap();
    assert!(whole <= MOST_STEPS, "{name}: no end after {MOST_STEPS} instructions");
    let all = u64::from(whole) * u64::from(whole) / 2;
    let every = std::env::var_os("KINFOLK_EVERY_STEP").is_some();
    let stride = if every { 1 } else { all.div_ceil(most) as u32 };
    let mut kills = 0;
    static PASSES: AtomicU32 = AtomicU32::new(0);
    // Other places in each pass, and in each run.
    let first = std::process::id().wrapping_add(PASSES.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9));
    for k in (first % stride..).step_by(stride as usize) {
        kills += 1;
        if kill_at(k) == Victim::Done {
            println!("{name}: {kills} kills, one at each {stride} of {k} instructions");
            return;
        }
    }
}

/// The lock is had, whatever happened; whether an owner died.
fn lock_is_had(lock: &Mutex<[u64; 2]>) -> bool {
    let (mut guard, died) = match lock.lock_timeout(SOON) {
        Ok(guard) => (guard, false),
        Err(LockError::OwnerDied(guard)) => (guard, true),
        Err(e) => panic!("{e}"),
    };
    if !died {
        assert_eq!(guard[0], guard[1], "half a change, and nobody was told");
    }
    *guard = [guard[0]; 2];
    guard.mark_consistent();
    drop(guard);
    assert!(lock.lock_timeout(SOON).is_ok(), "told twice");
    died
}

fn locks() {
    let lock = Mutex::new([0u64; 2]).unwrap();
    let warm = Mutex::new([0u64; 2]).unwrap();
    // The first use of the segment after a fork registers the process; that is not what is killed here.
    let prepare = || drop(warm.lock().unwrap());
    let mut died = 0;
    at_every_instruction(
        "lock, change, unlock",
        &prepare,
        &|| {
            let mut guard = lock.lock().unwrap();
            guard[0] += 1;
            guard[1] += 1;
        },
        &mut |_, _| died += u32::from(lock_is_had(&lock)),
    );
    assert!(died > 0, "only {died} kills hit the holder");
}

/// A ring so full of what was got that the next record wraps around its end.
fn queue_at_the_wrap() -> Queue<[u8; 24]> {
    let queue = Queue::builder().bytes(4096).build().unwrap();
    for k in 0..63 {
        queue.put([k; 24]).unwrap();
        queue.get().unwrap();
    }
    queue
}

fn puts() {
    let mut vanished = 0;
    let warm = Queue::<u8>::new(0).unwrap();
    let segment = Segment::family().unwrap();
    let queue = queue_at_the_wrap();
    let mut delivered = 0;
    at_every_instruction("put", &|| warm.put(1).unwrap(), &|| queue.put([7; 24]).unwrap(), &mut |k, victim| {
        let before = segment.stats().vanished;
        let got = match queue.get_timeout(Duration::from_millis(if k % 7 == 0 { 100 } else { 1 })) {
            Ok(item) => {
                assert_eq!(item, [7; 24]);
                1
            }
            Err(GetError::Timeout(None) | GetError::Disconnected(_)) => 0,
            Err(e) => panic!("{e}"),
        };
        segment.sweep();
        vanished += segment.stats().vanished - before;
        assert!(victim == Victim::Killed || got == 1, "an item whose put had returned is gone");
        delivered += got;
        // Everything works, through the whole ring and around its end.
        assert!(queue.is_empty());
        for j in 0..70 {
            queue.put([j; 24]).unwrap();
            assert_eq!(queue.get().unwrap(), [j; 24]);
        }
        while warm.try_get().is_ok() {}
    });
    assert!(delivered > 0, "no kill came after the commit");
}

fn gets() {
    let warm = Queue::<u8>::new(0).unwrap();
    let queue = queue_at_the_wrap();
    queue.put([7; 24]).unwrap();
    let mut redelivered = 0;
    at_every_instruction(
        "get",
        &|| {
            warm.put(1).unwrap();
            warm.get().unwrap();
        },
        &|| assert_eq!(queue.get().unwrap(), [7; 24]),
        &mut |k, victim| {
            let wait = Duration::from_millis(if k % 7 == 0 { 100 } else { 1 });
            match queue.get_delivery(Some(wait)) {
                Ok(delivery) => {
                    assert_eq!(delivery.value, [7; 24]);
                    assert_eq!(victim, Victim::Killed, "an item that was got came again");
                    redelivered += u32::from(delivery.redelivered);
                }
                Err(GetError::Timeout(None) | GetError::Disconnected(_)) => {}
                Err(e) => panic!("{e}"),
            }
            assert!(queue.is_empty());
            for j in 0..70 {
                queue.put([j; 24]).unwrap();
                assert_eq!(queue.get().unwrap(), [j; 24]);
            }
            queue.put([7; 24]).unwrap();
        },
    );
    assert!(redelivered > 0, "only {redelivered} kills hit the middle of a get");
}

/// A message in a block of the arena: taken out of the arena, filled, linked, marked.
fn blocks() {
    let segment = Segment::family().unwrap();
    let warm = Queue::<u8>::new(0).unwrap();
    let queue = Queue::builder().bytes(4096).build::<Vec<u8>>().unwrap();
    let used = segment.stats().used_bytes;
    at_every_instruction(
        "put and get of a block",
        &|| warm.put(1).unwrap(),
        &|| {
            queue.put(vec![9; 5000]).unwrap();
            assert_eq!(queue.get().unwrap().len(), 5000);
        },
        &mut |_, _| {
            segment.sweep();
            while let Ok(bytes) = queue.get_timeout(Duration::from_millis(1)) {
                assert_eq!(bytes, vec![9; 5000]);
            }
            assert_eq!(segment.stats().used_bytes, used, "a block was lost");
            while warm.try_get().is_ok() {}
        },
    );
}

/// The lock family: each operation killed everywhere, and then used again.
fn family() {
    let segment = Segment::family().unwrap();
    let warm = Mutex::new([0u64; 2]).unwrap();
    let prepare = || drop(warm.lock().unwrap());

    let semaphore = Semaphore::new(2).unwrap();
    at_every_instruction("acquire and release", &prepare, &|| drop(semaphore.acquire().unwrap()), &mut |_, _| {
        segment.sweep();
        assert_eq!(semaphore.value(), 2, "a permit was lost or invented");
        drop((semaphore.try_acquire().unwrap(), semaphore.try_acquire().unwrap()));
    });

    let rwlock = RwLock::new([0u64; 2]).unwrap();
    at_every_instruction(
        "write",
        &prepare,
        &|| {
            let mut guard = rwlock.write().unwrap();
            guard[0] += 1;
            guard[1] += 1;
        },
        &mut |_, _| match rwlock.write_timeout(SOON) {
            Ok(guard) => assert_eq!(guard[0], guard[1], "half a change, and nobody was told"),
            Err(LockError::OwnerDied(mut guard)) => {
                *guard = [guard[0]; 2];
                guard.mark_consistent();
            }
            Err(e) => panic!("{e}"),
        },
    );
    at_every_instruction("read", &prepare, &|| drop(rwlock.read().unwrap()), &mut |_, _| {
        drop(rwlock.write_timeout(SOON).expect("a reader's death is nobody's concern"))
    });

    let rlock = RLock::new().unwrap();
    at_every_instruction(
        "lock twice",
        &prepare,
        &|| drop((rlock.lock().unwrap(), rlock.lock().unwrap())),
        &mut |_, _| {
            let mut guard = match rlock.lock_timeout(SOON) {
                Ok(guard) | Err(LockError::OwnerDied(guard)) => guard,
                Err(e) => panic!("{e}"),
            };
            assert_eq!(rlock.depth(), 1);
            guard.mark_consistent();
        },
    );

    let event = Event::new().unwrap();
    at_every_instruction("set", &prepare, &|| event.set(), &mut |_, victim| {
        assert!(event.is_set() || victim == Victim::Killed);
        event.set();
        assert!(event.wait_timeout(SOON));
        event.clear();
    });
}

/// Waiting: an operation that others end, killed everywhere in it.
fn waits() {
    let segment = Segment::family().unwrap();
    let warm = Mutex::new([0u64; 2]).unwrap();
    let prepare = || drop(warm.lock().unwrap());

    let (lock, condvar) = (Mutex::new([0u64; 2]).unwrap(), Condvar::new().unwrap());
    at_every_instruction(
        "wait and time out",
        &prepare,
        &|| drop(condvar.wait_timeout(lock.lock().unwrap(), Duration::from_millis(1)).unwrap()),
        &mut |_, _| {
            lock_is_had(&lock);
            segment.sweep();
            assert_eq!((condvar.waiters(), condvar.notify_all()), (0, 0), "the dead still wait");
        },
    );
    let notify = || {
        condvar.notify_all();
    };
    at_every_instruction("notify", &prepare, &notify, &mut |_, _| {
        let guard = lock.lock().unwrap();
        assert!(!condvar.wait_timeout(guard, Duration::ZERO).unwrap().1);
    });

    let barrier = Barrier::new(1).unwrap();
    at_every_instruction(
        "barrier",
        &prepare,
        &|| {
            // Broken by the one before, unless this is the first.
            let _ = barrier.wait();
        },
        &mut |_, _| {
            segment.sweep();
            assert!(barrier.is_broken(), "a member died");
            assert!(matches!(barrier.wait(), Err(BarrierError::Broken { who: Some(_) })));
            barrier.reset();
            assert_eq!(barrier.wait_timeout(SOON).unwrap(), 0);
        },
    );

    let once = std::cell::RefCell::new(Once::new().unwrap());
    at_every_instruction("once", &prepare, &|| once.borrow().call_once(|_| ()).unwrap(), &mut |_, victim| {
        let mut again = false;
        once.borrow().call_once_timeout(SOON, |_| again = true).unwrap();
        assert!(!again || victim == Victim::Killed);
        assert!(once.borrow().is_completed());
        once.replace(Once::new().unwrap());
    });
}

/// The recoverer itself, killed everywhere in the recovery of a process that died with a lock, a permit, a lease and an item.
fn recoverers() {
    let segment = Segment::family().unwrap();
    let lock = Mutex::new([0u64; 2]).unwrap();
    let semaphore = Semaphore::new(2).unwrap();
    let queue = queue_at_the_wrap();
    let leased = Queue::builder().bytes(4096).leases(2).build::<u8>().unwrap();
    leased.put(5).unwrap();
    let warm = Mutex::new([0u64; 2]).unwrap();
    let dies_with_all_of_it = || {
        // SAFETY: this program has one thread.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                std::mem::forget((lock.lock().unwrap(), semaphore.acquire().unwrap(), leased.lease().unwrap()));
                queue.put([7; 24]).unwrap();
                kill(Pid::this(), Signal::SIGKILL).unwrap();
            }
            ForkResult::Parent { child } => drop(waitpid(child, None).unwrap()),
        }
    };
    dies_with_all_of_it();
    at_every_instruction(
        "recovery",
        &|| drop(warm.lock().unwrap()),
        &|| {
            segment.sweep();
        },
        &mut |_, _| {
            segment.sweep();
            assert!(lock_is_had(&lock), "the next locker was not told");
            assert_eq!(semaphore.value(), 2, "a permit was lost or invented");
            assert_eq!(queue.get_timeout(SOON).unwrap(), [7; 24]);
            assert!(queue.is_empty());
            assert_eq!(leased.lease_timeout(SOON).unwrap().into_inner(), 5);
            assert!(leased.is_empty());
            leased.put(5).unwrap();
            dies_with_all_of_it();
        },
    );
}

/// What has few instructions even if they are not optimised.
const SHORT: [&str; 10] =
    ["locks", "family", "waits", "puts", "gets", "blocks", "tasks", "values", "arrays", "entries"];

fn main() {
    // One CPU for tracer and victim: a step costs a third.
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0).unwrap();
    let _ = nix::sched::sched_setaffinity(Pid::from_raw(0), &cpus);
    let only = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let tests: &[(&str, fn())] = &[
        ("locks", locks),
        ("family", family),
        ("waits", waits),
        ("puts", puts),
        ("gets", gets),
        ("blocks", blocks),
        ("handles", handles::hops),
        ("runs", arena::runs),
        ("trims", arena::trims),
        ("leases", leases::leases),
        ("tasks", leases::tasks),
        ("values", values::values),
        ("arrays", values::arrays),
        ("named", names::named),
        ("published", names::published),
        ("objects", names::objects),
        ("recoverers of leases", leases::recovery),
        ("recoverers of the arena", arena::recovery),
        ("recoverers of values", values::recovery),
        ("entries", dicts::entries),
        ("tables", dicts::tables),
        ("runs of dicts", dicts::runs),
        ("recoverers of dicts", dicts::recovery),
        ("ends of lists", lists::ends),
        ("middle of lists", lists::middle),
        ("growth of lists", lists::growth),
        ("recoverers of lists", lists::recovery),
        ("recoverers", recoverers),
        // The last one: a pool starts threads, so there are no forks after it.
        ("workers", pools::workers),
    ];
    let mut passed = 0;
    for &(name, test) in tests {
        if cfg!(debug_assertions) && !SHORT.contains(&name) {
            println!("{name}: skipped, too many instructions unless they are optimised");
            continue;
        }
        if only.as_deref().is_none_or(|only| name.contains(only)) {
            test();
            passed += 1;
        }
    }
    println!("{passed} passed, 0 failed");
}
