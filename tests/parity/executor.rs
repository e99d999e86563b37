//! `test_concurrent_futures`: what `test_process_pool.py` and `test_shutdown.py` have about `ProcessPoolExecutor`, of which our
//! pools are the counterpart, too.

use std::collections::BTreeSet;
use std::time::Duration;

use kinfolk::{ErrorKind, Event, Pool, Semaphore, TaskError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::pool_workers::gone;
use super::pools::{sqr, sqr_after, squares};
use super::shared_memory::program;
use super::{DELTA, guard, reaches};

fn pid(_: ()) -> u32 {
    std::process::id()
}

/// Says that it has begun, and waits to be let go.
fn hold((begun, go): (Semaphore, Semaphore)) {
    begun.release().unwrap();
    go.acquire().unwrap().forget();
}

#[test]
fn a_killed_worker_costs_its_task_and_no_other() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let (begun, go) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    let tasks: Vec<_> = (0..2).map(|_| pool.apply_async(hold, (begun.clone(), go.clone())).unwrap()).collect();
    reaches(&begun, 2);
    let pids = pool.pids();
    kill(Pid::from_raw(pids[0] as i32), Signal::SIGTERM).unwrap();
    gone(&pids[..1]);
    // In Python, all that is under way is lost, and so is the pool.
    go.release().unwrap();
    let outcomes: Vec<_> = tasks.into_iter().map(|task| task.get()).collect();
    let died = |outcome: &Result<(), _>| matches!(outcome, Err(TaskError::WorkerDied { pid, .. }) if *pid == pids[0]);
    assert_eq!(outcomes.iter().filter(|outcome| died(outcome)).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert_eq!(pool.map(sqr, 0..20).unwrap(), squares(20));
}

#[test]
fn chunks_of_all_sizes_give_the_same_results() {
    let _guard = guard();
    let pool = Pool::new(4).unwrap();
    let power = |(base, exponent): (u64, u32)| base.wrapping_pow(exponent);
    let pairs = || (0..40u64).zip(0..40u32);
    let expected: Vec<_> = pairs().map(power).collect();
    for chunk in [6, 40, 50] {
        let mapping = pool.mapping().chunk_size(chunk).unwrap();
        assert_eq!(mapping.map(power, pairs()).unwrap(), expected);
        assert!(mapping.imap(power, pairs()).map(Result::unwrap).eq(expected.iter().copied()));
    }
    assert_eq!(pool.mapping().chunk_size(0).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_crowd_of_tasks_starts_no_more_workers() {
    let _guard = guard();
    let pool = Pool::new(4).unwrap();
    let before = pool.pids();
    let (begun, go) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    let tasks: Vec<_> = (0..60).map(|_| pool.apply_async(hold, (begun.clone(), go.clone())).unwrap()).collect();
    reaches(&begun, 4);
    assert_eq!(pool.pids(), before);
    (0..60).for_each(|_| go.release().unwrap());
    tasks.into_iter().for_each(|task| task.get().unwrap());
    assert_eq!((pool.pids(), begun.value()), (before, 60));
}

#[test]
fn idle_workers_do_what_comes_next() {
    let _guard = guard();
    let pool = Pool::new(4).unwrap();
    let before: BTreeSet<_> = pool.pids().into_iter().collect();
    // One after the other, and several at once: whoever is idle does it, and nobody is started for it.
    assert!((0..20).all(|_| before.contains(&pool.apply(pid, ()).unwrap())));
    let tasks: Vec<_> = (0..12).map(|_| pool.apply_async(pid, ()).unwrap()).collect();
    assert!(tasks.into_iter().all(|task| before.contains(&task.get().unwrap())));
    assert_eq!(pool.pids().into_iter().collect::<BTreeSet<_>>(), before);
}

#[test]
fn a_worker_for_three_tasks_does_three() {
    let _guard = guard();
    let pool = Pool::builder().processes(1).max_tasks_per_child(3).build().unwrap();
    let pids: Vec<_> = (0..7).map(|_| pool.apply(pid, ()).unwrap()).collect();
    assert!(pids[0] == pids[1] && pids[1] == pids[2] && pids[3] == pids[4] && pids[4] == pids[5], "{pids:?}");
    gone(&[pids[0], pids[3]]);
    assert_eq!(pool.stats().deaths, 0, "none of them is one that was not wanted");
}

#[test]
fn a_program_whose_main_function_ends_ends_its_pool() {
    let _guard = guard();
    // Python waits for the task first; here whoever wants its result waits for it.
    let output = program("executor::a_program_with_a_task_under_way", "");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    assert_eq!(complained, "");
    let worker = said.lines().find_map(|line| line.split_once("worker ")).unwrap_or_else(|| panic!("{said}")).1;
    gone(&[worker.parse().unwrap()]);
}

#[test]
#[ignore = "run by another test"]
fn a_program_with_a_task_under_way() {
    let pool: &'static Pool = Box::leak(Box::new(Pool::new(1).unwrap()));
    let (begun, go) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    drop(pool.apply_async(hold, (begun.clone(), go)).unwrap());
    reaches(&begun, 1);
    println!("worker {}", pool.pids()[0]);
}

#[test]
fn all_that_was_submitted_is_done_by_a_pool_that_is_closed() {
    let _guard = guard();
    let pool = Pool::new(5).unwrap();
    let go = Event::new().unwrap();
    let tasks: Vec<_> = (0..50).map(|k| pool.apply_async(sqr_after, (k, go.clone())).unwrap()).collect();
    pool.close();
    go.set();
    pool.join().unwrap();
    assert!(tasks.into_iter().map(|task| task.get().unwrap()).eq(squares(50)));
}

#[test]
fn a_pool_that_is_closed_and_not_waited_for_does_what_was_submitted() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let go = Event::new().unwrap();
    let mut task = pool.apply_async(sqr_after, (3, go.clone())).unwrap();
    pool.close();
    assert!(matches!(pool.apply(sqr, 1), Err(TaskError::Closed)));
    assert!(!pool.join_timeout(DELTA).unwrap());
    assert!(matches!(task.try_get(), Err(TaskError::Timeout)));
    go.set();
    assert_eq!(task.get_timeout(Duration::from_secs(20)).unwrap(), 9);
    assert!(pool.join_timeout(Duration::from_secs(20)).unwrap());
}

#[test]
fn a_task_that_nobody_wants_does_not_keep_the_pool() {
    let _guard = guard();
    for _ in 0..20 {
        let pool = Pool::new(1).unwrap();
        drop(pool.apply_async(sqr, 3).unwrap());
        pool.close();
        pool.join().unwrap();
        assert_eq!(pool.stats().done, 1);
    }
}

#[test]
fn a_pool_of_workers_for_one_task_each_that_is_closed_and_not_waited_for_ends() {
    let _guard = guard();
    // With a task that is begun and some that are not, each for a worker that is not there yet.
    for tasks in [1, 3] {
        let pool = Pool::builder().processes(1).max_tasks_per_child(1).build().unwrap();
        let go = Event::new().unwrap();
        let tasks: Vec<_> = (0..tasks).map(|k| pool.apply_async(sqr_after, (k, go.clone())).unwrap()).collect();
        pool.close();
        go.set();
        for (k, task) in (0..).zip(tasks) {
            assert_eq!(task.get().unwrap(), sqr(k));
        }
        let pids = pool.pids();
        drop(pool);
        gone(&pids);
    }
}

#[test]
fn what_has_not_begun_is_taken_back_at_once() {
    let _guard = guard();
    let pool = Pool::new(2).unwrap();
    let (begun, go) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    let tasks: Vec<_> = (0..50).map(|_| pool.apply_async(hold, (begun.clone(), go.clone())).unwrap()).collect();
    let chunks = pool.map_async(sqr, 0..50).unwrap();
    reaches(&begun, 2);
    pool.close();
    let cancelled = pool.cancel_all();
    assert!(cancelled > 48, "{cancelled}: two are begun, and there are chunks");
    assert!(matches!(chunks.get(), Err(TaskError::Cancelled)));
    go.release().unwrap();
    go.release().unwrap();
    pool.join().unwrap();
    assert_eq!(pool.cancel_all(), 0);
    let outcomes: Vec<_> = tasks.into_iter().map(|task| task.get()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Err(TaskError::Cancelled))).count(), 48);
    assert_eq!((pool.stats().done, pool.stats().cancelled), (2, cancelled as u64));
    assert_eq!(begun.value(), 2);
}

#[test]
fn no_worker_is_left_of_a_pool_that_was_joined() {
    let _guard = guard();
    let pool = Pool::new(3).unwrap();
    let (begun, go) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    let tasks: Vec<_> = (0..3).map(|_| pool.apply_async(hold, (begun.clone(), go.clone())).unwrap()).collect();
    reaches(&begun, 3);
    let pids = pool.pids();
    assert_eq!(pids.len(), 3);
    (0..3).for_each(|_| go.release().unwrap());
    pool.close();
    pool.join().unwrap();
    gone(&pids);
    tasks.into_iter().for_each(|task| task.get().unwrap());
}

/// `terminate_workers` and `kill_workers`.
#[test]
fn workers_are_terminated_or_killed_whatever_they_do() {
    let _guard = guard();
    for end in [Pool::terminate, Pool::kill] {
        let pool = Pool::new(2).unwrap();
        let (begun, go) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
        let tasks: Vec<_> = (0..4).map(|_| pool.apply_async(hold, (begun.clone(), go.clone())).unwrap()).collect();
        reaches(&begun, 2);
        let pids = pool.pids();
        end(&pool);
        gone(&pids);
        tasks.into_iter().for_each(|task| assert!(matches!(task.get(), Err(TaskError::Terminated))));
        assert!(matches!(pool.apply(sqr, 1), Err(TaskError::Terminated)));
        // Once more does nothing.
        end(&pool);
        pool.join().unwrap();
    }
}
