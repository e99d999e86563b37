//! `_TestBarrier`: five parties, four of them children.

use std::time::Duration;

use kinfolk::{Barrier, BarrierError, Event, Process, Queue, Segment, Semaphore};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DELTA, guard, reaches};

const PARTIES: u32 = 5;

/// Runs `f` in four children and here; the answers.
fn in_five<A, R>(f: impl Fn(A) -> R + Copy + Send + 'static, args: A) -> Vec<R>
where
    A: Clone + Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    let children: Vec<_> = (1..PARTIES).map(|_| Process::spawn(f, args.clone()).unwrap()).collect();
    let mine = f(args);
    children.into_iter().map(|child| child.join().unwrap()).chain([mine]).collect()
}

fn barrier() -> Barrier {
    Barrier::new(PARTIES).unwrap()
}

/// Passes `rounds` times; nobody is a round ahead of anybody.
fn lockstep((barrier, before, after, rounds): (Barrier, Semaphore, Semaphore, u32)) {
    for round in 1..=rounds {
        before.release().unwrap();
        barrier.wait().unwrap();
        assert!(before.value() >= round * PARTIES, "somebody passed before all had come");
        after.release().unwrap();
        barrier.wait().unwrap();
        assert!(after.value() >= round * PARTIES, "somebody passed before all had come");
    }
}

fn lockstep_of(rounds: u32) {
    let _guard = guard();
    let barrier = barrier();
    in_five(lockstep, (barrier.clone(), Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap(), rounds));
    assert_eq!((barrier.n_waiting(), barrier.is_broken(), barrier.parties()), (0, false, PARTIES));
}

#[test]
fn five_parties_pass_together() {
    lockstep_of(1);
}

#[test]
fn a_barrier_is_passed_ten_times() {
    lockstep_of(10);
}

#[test]
fn each_party_gets_a_number_of_its_own() {
    let _guard = guard();
    let mut indices = in_five(|barrier: Barrier| barrier.wait().unwrap(), barrier());
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2, 3, 4]);
}

#[test]
fn the_action_runs_once_before_anybody_passes() {
    let _guard = guard();
    let runs = Semaphore::new(0).unwrap();
    let pass = |(barrier, runs): (Barrier, Semaphore)| {
        barrier.wait_with(|| runs.release().unwrap()).unwrap();
        assert_eq!(runs.value(), 1);
    };
    let barrier = barrier();
    in_five(pass, (barrier.clone(), runs.clone()));
    assert_eq!((runs.value(), barrier.is_broken()), (1, false));
}

/// Whoever comes third does `what` instead of waiting; the others' answers: whether it was broken for them.
fn all_but_one(what: fn(&Barrier)) -> (Barrier, Vec<bool>) {
    let barrier = barrier();
    let wait = |barrier: Barrier| matches!(barrier.wait(), Err(BarrierError::Broken { who: None }));
    let children: Vec<_> = (1..PARTIES).map(|_| Process::spawn(wait, barrier.clone()).unwrap()).collect();
    while barrier.n_waiting() < PARTIES - 1 {
        std::thread::yield_now();
    }
    what(&barrier);
    let broken = children.into_iter().map(|child| child.join().unwrap()).collect();
    (barrier, broken)
}

#[test]
fn an_abort_breaks_the_barrier_for_all() {
    let _guard = guard();
    let (barrier, broken) = all_but_one(Barrier::abort);
    assert_eq!(broken, [true; 4]);
    assert!(barrier.is_broken());
    assert!(matches!(barrier.wait(), Err(BarrierError::Broken { who: None })));
}

#[test]
fn a_reset_breaks_it_for_those_inside_and_it_works_again() {
    let _guard = guard();
    let (barrier, broken) = all_but_one(Barrier::reset);
    assert_eq!(broken, [true; 4]);
    assert!(!barrier.is_broken());
    in_five(|barrier: Barrier| barrier.wait().unwrap(), barrier.clone());
    assert_eq!((barrier.n_waiting(), barrier.is_broken()), (0, false));
}

#[test]
fn a_broken_barrier_works_again_after_a_reset() {
    let _guard = guard();
    let (barrier, broken) = all_but_one(Barrier::abort);
    assert_eq!(broken, [true; 4]);
    barrier.reset();
    assert!(!barrier.is_broken());
    in_five(|barrier: Barrier| barrier.wait().unwrap(), barrier.clone());
    assert!(!barrier.is_broken());
}

/// One party comes too late; all others are told that it is broken.
fn one_is_late(barrier: Barrier, wait: impl Fn(Barrier) -> bool + Copy + Send + 'static) {
    let broken: Vec<_> = (1..PARTIES).map(|_| Process::spawn(wait, barrier.clone()).unwrap()).collect();
    let broken: Vec<bool> = broken.into_iter().map(|child| child.join().unwrap()).collect();
    assert_eq!(broken, [true; 4]);
    assert!(barrier.is_broken());
    assert!(matches!(barrier.wait(), Err(BarrierError::Broken { who: None })));
}

#[test]
fn a_late_party_breaks_it_for_all() {
    let _guard = guard();
    one_is_late(barrier(), |barrier| {
        matches!(barrier.wait_timeout(DELTA), Err(BarrierError::Timeout | BarrierError::Broken { .. }))
    });
}

#[test]
fn the_time_out_of_the_barrier_is_that_of_a_plain_wait() {
    let _guard = guard();
    let barrier = Barrier::with_timeout_in(&Segment::family().unwrap(), PARTIES, DELTA).unwrap();
    one_is_late(barrier, |barrier| matches!(barrier.wait(), Err(BarrierError::Timeout | BarrierError::Broken { .. })));
}

#[test]
fn a_barrier_of_one_never_blocks() {
    let barrier = Barrier::new(1).unwrap();
    for _ in 0..3 {
        assert_eq!(barrier.wait().unwrap(), 0);
        assert_eq!(barrier.wait_timeout(Duration::ZERO).unwrap(), 0);
    }
}

#[test]
fn a_thousand_rounds_stay_in_step() {
    let _guard = guard();
    const ROUNDS: u32 = 1000;
    let (queue, ready) = (Queue::<u32>::new(0).unwrap(), Semaphore::new(0).unwrap());
    let go = Event::new().unwrap();
    let rounds = |(barrier, queue, ready, go): (Barrier, Queue<u32>, Semaphore, Event)| {
        ready.release().unwrap();
        go.wait();
        for round in 0..ROUNDS {
            barrier.wait().unwrap();
            queue.put(round).unwrap();
        }
    };
    let args = (barrier(), queue.clone(), ready.clone(), go.clone());
    let children: Vec<_> = (0..PARTIES).map(|_| Process::spawn(rounds, args.clone()).unwrap()).collect();
    reaches(&ready, PARTIES);
    go.set();
    for round in 0..ROUNDS {
        for _ in 0..PARTIES {
            // Everybody has put the last round before anybody passes into this one.
            assert_eq!(queue.get().unwrap(), round);
        }
    }
    children.into_iter().for_each(|child| child.join().unwrap());
}
