//! The lock family under real SIGKILL at random moments: nobody hangs, no two hold what one may hold, no permit is lost
//! or invented, no notification dies with the dead.

mod support;

use std::time::{Duration, Instant};

use kinfolk::{
    Barrier, BarrierError, BoundedSemaphore, Condvar, DeadHolder, Event, LockError, Mutex, Once, Previous, Process,
    RLock, RwLock, Segment, Semaphore,
};
use rustix::event::{PollFd, PollFlags};
use support::children::until;
use support::random::Random;
use support::victim::{self, SOON, goes_on};
use support::watchdog;
use support::watchdog::Watchdog;

const KILLS: u32 = 1000;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(150))
}

/// As [`victim::kill_one`]. How many locks and permits the victim died with, unless its row has seen another death since (that of
/// another test's victim).
fn kill_one<A: serde::Serialize + serde::de::DeserializeOwned>(
    random: &mut Random,
    victim: impl Fn(A) + Copy + Send + 'static,
    args: A,
    begun: &Event,
    then: impl FnOnce(),
) -> Option<u32> {
    let pid = victim::kill_one(random, victim, args, begun, then);
    let deaths = Segment::family().unwrap().deaths();
    deaths.iter().find(|death| death.pid == pid).map(|death| death.losses.locks)
}

/// Waits until `now` says so of what the dead have left. Another test's process may be at the recovery, and die in it.
fn recovered(now: impl Fn() -> bool) {
    let segment = Segment::family().unwrap();
    until(|| {
        segment.sweep();
        now()
    });
}

/// Whatever a lock said, the lock.
fn anyhow<G>(result: Result<G, LockError<G>>) -> (G, bool) {
    match result {
        Ok(guard) => (guard, false),
        Err(LockError::OwnerDied(guard)) => (guard, true),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn an_rlock_of_the_dead_goes_to_the_next_who_is_told() {
    let _guard = guard();
    let mut random = Random::new(3);
    let (lock, begun) = (RLock::new().unwrap(), Event::new().unwrap());
    let holder = |(lock, begun): (RLock, Event)| {
        for _ in 0u64.. {
            let outer = lock.lock().unwrap();
            let inner = lock.lock().unwrap();
            assert_eq!(lock.depth(), 2);
            begun.set();
            drop((inner, outer));
        }
    };
    let (mut told, mut kills) = (0, 0);
    while goes_on(&mut kills, KILLS, told > 0) {
        kill_one(&mut random, holder, (lock.clone(), begun.clone()), &begun, || {
            let (mut held, died) = anyhow(lock.lock());
            assert_eq!(lock.depth(), 1, "levels of the dead");
            held.mark_consistent();
            told += u32::from(died);
        });
        assert_eq!(lock.depth(), 0);
    }
    assert!(told > 0, "no kill hit a holder: the test proves less than it should");
}

#[test]
fn a_rwlock_outlives_its_readers_and_its_writers() {
    let _guard = guard();
    let mut random = Random::new(5);
    let (lock, begun) = (RwLock::new([0u64; 16]).unwrap(), Event::new().unwrap());
    let victim = |(lock, begun): (RwLock<[u64; 16]>, Event)| {
        for _ in 0u64.. {
            let (mut value, _) = anyhow(lock.write());
            assert!(value.iter().all(|word| *word == value[0]), "half a change was seen");
            value.iter_mut().for_each(|word| *word += 1);
            value.mark_consistent();
            drop(value);
            let outer = anyhow(lock.read()).0;
            drop((anyhow(lock.read()).0, outer));
            begun.set();
        }
    };
    let (mut told, mut kills) = (0, 0);
    while goes_on(&mut kills, KILLS, told > 0) {
        kill_one(&mut random, victim, (lock.clone(), begun.clone()), &begun, || {
            let (seen, readers_told) = anyhow(lock.read());
            assert!(readers_told || seen.iter().all(|word| *word == seen[0]), "half a change, and nobody was told");
            drop(seen);
            let (mut value, died) = anyhow(lock.write());
            told += u32::from(died);
            *value = [value[0]; 16];
            value.mark_consistent();
        });
        assert_eq!((lock.readers(), lock.holder()), (0, None));
    }
    assert!(told > 0, "no kill hit a writer: the test proves less than it should");
}

#[test]
fn no_permit_is_lost_or_invented() {
    let _guard = guard();
    let mut random = Random::new(7);
    let (semaphore, begun) = (Semaphore::new(2).unwrap(), Event::new().unwrap());
    let holder = |(semaphore, begun): (Semaphore, Event)| {
        for _ in 0u64.. {
            let one = semaphore.acquire().unwrap();
            let two = semaphore.acquire_timeout(Duration::from_micros(50));
            begun.set();
            drop((one, two));
        }
    };
    let other = Process::spawn(
        |semaphore: Semaphore| {
            for _ in 0u64.. {
                drop(semaphore.acquire().unwrap());
            }
        },
        semaphore.clone(),
    )
    .unwrap();
    let (mut returned, mut kills) = (0, 0);
    while goes_on(&mut kills, KILLS, returned > 0) {
        returned += kill_one(&mut random, holder, (semaphore.clone(), begun.clone()), &begun, || {
            let _one = semaphore.acquire().unwrap();
        })
        .unwrap_or(0);
        assert!(semaphore.value() <= 2);
    }
    assert!(returned > 0, "no kill hit a holder: the test proves less than it should");
    other.kill().unwrap();
    let _ = other.join();
    recovered(|| semaphore.value() == 2);
}

#[test]
fn a_bounded_semaphore_never_has_room_for_a_permit_more() {
    let _guard = guard();
    let mut random = Random::new(23);
    let (semaphore, begun) = (BoundedSemaphore::new(2).unwrap(), Event::new().unwrap());
    fn hold((semaphore, begun): (BoundedSemaphore, Event)) {
        loop {
            let one = semaphore.acquire().unwrap();
            let two = semaphore.acquire_timeout(Duration::from_micros(50));
            begun.set();
            drop((one, two));
            assert!(semaphore.release().is_err(), "a permit was lost");
        }
    }
    let idle = Event::new().unwrap();
    let other = Process::builder().daemon(true).spawn(hold, (semaphore.clone(), idle)).unwrap();
    let (mut returned, mut kills) = (0, 0);
    while goes_on(&mut kills, KILLS, returned > 0) {
        returned += kill_one(&mut random, hold, (semaphore.clone(), begun.clone()), &begun, || {
            let _one = semaphore.acquire().unwrap();
            assert!(semaphore.release().is_err(), "a permit was lost");
        })
        .unwrap_or(0);
        assert!(semaphore.value() <= 2, "a permit was invented");
    }
    assert!(returned > 0, "no kill hit a holder: the test proves less than it should");
    other.kill().unwrap();
    let _ = other.join();
    recovered(|| semaphore.value() == 2);
    assert!(semaphore.release().is_err());
}

#[test]
fn the_permits_that_leak_are_those_that_the_dead_held() {
    let _guard = guard();
    let mut random = Random::new(29);
    let segment = Segment::family().unwrap();
    let semaphore = Semaphore::new_with(&segment, 1_000_000, DeadHolder::Leak).unwrap();
    let begun = Event::new().unwrap();
    let holder = |(semaphore, begun): (Semaphore, Event)| {
        for _ in 0u64.. {
            let one = semaphore.acquire().unwrap();
            let two = semaphore.acquire().unwrap();
            begun.set();
            drop((one, two));
        }
    };
    let (mut deaths, mut kills) = ([0; 3], 0);
    while goes_on(&mut kills, KILLS, deaths.iter().all(|n| *n > 0)) {
        let before = semaphore.value();
        let told = kill_one(&mut random, holder, (semaphore.clone(), begun.clone()), &begun, || {
            // Else the last thing that the dead did is left to the recovery.
            if kills % 2 == 0 {
                drop((semaphore.acquire().unwrap(), semaphore.acquire().unwrap()));
            }
        });
        let held = before - semaphore.value();
        assert!(told.is_none_or(|told| told == held) && held <= 2, "{held} are gone, and {told:?} were held");
        recovered(|| semaphore.holder().is_none());
        deaths[held as usize] += 1;
    }
    assert!(deaths.iter().all(|n| *n > 0), "{deaths:?} died with 0, 1, 2: the test proves less than it should");
}

#[test]
fn no_notification_dies_with_a_waiter_and_no_waiter_is_forgotten_by_a_dead_notifier() {
    let _guard = guard();
    let mut random = Random::new(11);
    let (turn, changed) = (Mutex::new(0u64).unwrap(), Condvar::new().unwrap());
    let begun = Event::new().unwrap();
    // Two of these wait for odd numbers, and this test for even ones. One notification each: if the dead swallowed it,
    // everybody would wait for ever.
    fn follow((turn, changed, begun): (Mutex<u64>, Condvar, Event)) {
        loop {
            let (mut value, _) = anyhow(changed.wait_for(anyhow(turn.lock()).0, |turn| turn % 2 == 1));
            value.mark_consistent();
            *value += 1;
            drop(value);
            begun.set();
            changed.notify_all();
        }
    }
    let args = (turn.clone(), changed.clone(), begun.clone());
    let survivor = Process::spawn(follow, args.clone()).unwrap();
    let step = || {
        let (mut value, _) = anyhow(turn.lock());
        value.mark_consistent();
        if *value % 2 == 0 {
            *value += 1;
        }
        let before = *value;
        drop(value);
        changed.notify(1);
        let mut held = anyhow(turn.lock()).0;
        while *held == before {
            held.mark_consistent();
            held = anyhow(changed.wait(held)).0;
        }
        held.mark_consistent();
    };
    for _ in 0..KILLS {
        begun.clear();
        let victim = Process::spawn(follow, args.clone()).unwrap();
        while changed.waiters() < 2 {
            std::thread::yield_now();
        }
        let until = Instant::now() + Duration::from_nanos(random.below(400_000));
        while Instant::now() < until {
            step();
        }
        victim.kill().unwrap();
        let killed = Instant::now();
        for _ in 0..3 {
            step();
        }
        assert!(killed.elapsed() < SOON, "the survivors went on after {:?}", killed.elapsed());
        let _ = victim.join();
    }
    assert!(begun.is_set());
    survivor.kill().unwrap();
}

#[test]
fn a_barrier_is_broken_by_the_name_of_the_dead() {
    let _guard = guard();
    let mut random = Random::new(13);
    let (barrier, begun) = (Barrier::new(2).unwrap(), Event::new().unwrap());
    let party = |(barrier, begun): (Barrier, Event)| {
        while barrier.wait_with(|| {}).is_ok() {
            begun.set();
        }
    };
    for _ in 0..KILLS {
        barrier.reset();
        begun.clear();
        let victim = Process::spawn(party, (barrier.clone(), begun.clone())).unwrap();
        let pid = victim.pid();
        while !begun.is_set() {
            barrier.wait().unwrap();
        }
        let until = Instant::now() + Duration::from_nanos(random.below(400_000));
        while Instant::now() < until {
            barrier.wait().unwrap();
        }
        victim.kill().unwrap();
        let killed = Instant::now();
        let error = loop {
            match barrier.wait_with(|| {}) {
                Ok(index) => assert!(index < 2),
                Err(e) => break e,
            }
        };
        assert!(matches!(&error, BarrierError::Broken { who: Some(who) } if who.pid == pid), "{error}");
        assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
        let _ = victim.join();
    }
}

#[test]
fn an_event_is_set_or_not_whoever_dies() {
    let _guard = guard();
    let mut random = Random::new(17);
    let (event, begun) = (Event::new().unwrap(), Event::new().unwrap());
    let toggle = |(event, begun): (Event, Event)| {
        for _ in 0u64.. {
            event.set();
            event.clear();
            let _ = event.wait_timeout(Duration::from_nanos(1));
            begun.set();
        }
    };
    for _ in 0..KILLS {
        kill_one(&mut random, toggle, (event.clone(), begun.clone()), &begun, || {
            event.clear();
            assert!(!event.wait_timeout(Duration::from_millis(1)));
            std::thread::scope(|scope| {
                scope.spawn(|| event.wait());
                event.set();
            });
            assert!(event.is_set());
        });
    }
}

#[test]
fn a_once_is_run_again_by_one_who_is_told_if_its_runner_died() {
    let _guard = guard();
    let mut random = Random::new(19);
    let begun = Event::new().unwrap();
    let (mut died, mut done, mut kills) = (0, 0, 0);
    while goes_on(&mut kills, KILLS, died > 0 && done > 0) {
        let (once, state) = (Once::new().unwrap(), Mutex::new(0u32).unwrap());
        let run = |(once, state, begun, spins): (Once, Mutex<u32>, Event, u64)| {
            begun.set();
            once.call_once(|_| {
                *anyhow(state.lock()).0 = 1;
                (0..spins).for_each(|_| std::hint::spin_loop());
                *anyhow(state.lock()).0 = 2;
            })
            .unwrap();
            loop {
                std::thread::park();
            }
        };
        let args = (once.clone(), state.clone(), begun.clone(), random.below(4000));
        kill_one(&mut random, run, args, &begun, || {
            let mut ran = false;
            once.call_once(|previous| {
                ran = true;
                let (state, _) = anyhow(state.lock());
                assert!(*state == 0 || previous == Previous::Died, "half done, and nobody was told");
                died += u32::from(previous == Previous::Died);
            })
            .unwrap();
            done += u32::from(!ran);
            assert!(ran || *anyhow(state.lock()).0 == 2);
            assert!(once.is_completed());
        });
    }
    assert!(died > 0 && done > 0, "{died} died in it, {done} were done: the test proves less than it should");
}

#[test]
fn nobody_gives_up_because_of_a_holder_that_is_dead() {
    let _guard = guard();
    // In a segment of its own, whose dead no other test finds.
    let segment = Segment::anonymous(1 << 20).unwrap();
    let (lock, begun) = (Mutex::new_in(&segment, 0u64).unwrap(), Event::new_in(&segment).unwrap());
    let holder = |(lock, begun): (Mutex<u64>, Event)| {
        let _held = lock.lock();
        begun.set();
        support::children::park(())
    };
    for timeout in [Duration::ZERO, Duration::from_micros(1), Duration::from_millis(2)] {
        begun.clear();
        let child = Process::spawn(holder, (lock.clone(), begun.clone())).unwrap();
        begun.wait();
        assert!(matches!(lock.lock_timeout(timeout), Err(LockError::Timeout(_))), "it lives");
        child.kill().unwrap();
        // All its threads have ended then. What it had mapped is gone a moment later if another test looks at all processes.
        let sentinel = child.sentinel();
        rustix::event::poll(&mut [PollFd::new(&sentinel, PollFlags::IN)], None).unwrap();
        until(|| match lock.lock_timeout(timeout) {
            Err(LockError::OwnerDied(mut guard)) => {
                guard.mark_consistent();
                true
            }
            other => {
                assert!(matches!(other, Err(LockError::Timeout(_))), "{timeout:?}: {other:?}");
                false
            }
        });
        child.join().unwrap_err();
    }
}
