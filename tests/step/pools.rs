//! A pool's worker, with a death at every instruction of a task: woken, claimed, run, published.
//!
//! The victim is not forked here: it is a worker that the pool started, whose working thread is stopped while it waits.

use kinfolk::pool::{Pool, TaskError};
use nix::sys::wait::WaitPidFlag;

use super::*;

/// Single steps in all. A worker is stepped from its sleep on, which is not short.
const POOL_STEPS: u64 = if cfg!(debug_assertions) { 2_000_000 } else { 1_500_000 };

fn next_stop(thread: Pid) -> WaitStatus {
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap()
}

/// The same unless `over` comes first: a worker that has done its task sleeps in the middle of an instruction.
fn next_stop_unless(thread: Pid, over: &dyn Fn() -> bool) -> Option<WaitStatus> {
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive if over() => return None,
            WaitStatus::StillAlive => std::thread::yield_now(),
            stopped => return Some(stopped),
        }
    }
}

/// The thread of a worker that does the tasks: its only one, or the one that is not the process's first.
fn working_thread(worker: u32) -> Pid {
    let threads = std::fs::read_dir(format!("/proc/{worker}/task")).unwrap();
    let threads = threads.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let other = threads.filter(|tid| *tid != worker as i32).max();
    Pid::from_raw(other.unwrap_or(worker as i32))
}

/// Steps a pool's only worker `k` instructions into a task and kills it. Gives what became of the task, and how many steps
/// were made until its result was there, if it was before the end.
fn kill_worker_after(pool: &Pool, k: u32) -> (Result<u64, TaskError>, Option<u32>) {
    // It has done a task, so it can be begun with.
    assert_eq!(pool.apply(|n: u64| n + 1, 1).unwrap(), 2);
    let worker = loop {
        // It may have done it before the pool has it in its list.
        if let [worker] = pool.pids()[..] {
            break worker;
        }
        std::thread::yield_now();
    };
    let thread = working_thread(worker);
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    assert!(matches!(next_stop(thread), WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)));
    let task = pool.apply_async(|n: u64| n * n, 7).unwrap();
    let mut over = None;
    for step in 0..k {
        if step % 16 == 0 && task.is_ready() {
            over = Some(step);
            break;
        }
        ptrace::step(thread, None).unwrap();
        match next_stop_unless(thread, &|| task.is_ready()) {
            None => {
                over = Some(step);
                break;
            }
            Some(WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceEvent(..)) => {}
            other => panic!("the worker ended by itself: {other:?}"),
        }
    }
    kill(Pid::from_raw(worker as i32), Signal::SIGKILL).unwrap();
    // The process has ended when its tracer, too, has heard of it.
    while !matches!(next_stop(thread), WaitStatus::Signaled(..) | WaitStatus::Exited(..)) {}
    let mut task = task;
    let outcome = task.get_timeout(SOON);
    assert!(matches!(task.try_get(), Err(TaskError::Taken)), "step {k}: after {outcome:?}, another outcome");
    (outcome, over)
}

/// One task of one worker, killed everywhere in it: one outcome, and the next task is done by whoever takes its place.
pub fn workers() {
    let pool = Pool::new(1).unwrap();
    let (mut done, mut died) = (0, 0);
    let mut kill_at = |k: u32| {
        let before = pool.stats();
        let (outcome, over) = kill_worker_after(&pool, k);
        match outcome {
            Ok(49) => done += 1,
            Err(TaskError::WorkerDied { .. }) => died += 1,
            other => panic!("step {k}: {other:?}"),
        }
        let mut next = pool.apply_async(|n: u64| n + 1, u64::from(k)).unwrap();
        assert_eq!(next.get_timeout(SOON).unwrap_or_else(|e| panic!("after step {k}: {e}")), u64::from(k) + 1);
        let stats = pool.stats();
        assert_eq!(stats.submitted, stats.done + stats.failed + stats.cancelled, "step {k}: {stats:?}");
        assert_eq!((stats.submitted - before.submitted, stats.deaths - before.deaths), (3, 1), "step {k}");
        over
    };
    let whole = kill_at(MOST_STEPS).expect("a task has an end");
    let all = u64::from(whole) * u64::from(whole) / 2;
    let every = std::env::var_os("KINFOLK_EVERY_STEP").is_some();
    let stride = if every { 1 } else { all.div_ceil(POOL_STEPS) as u32 };
    let mut kills = 1;
    for k in (std::process::id() % stride..).step_by(stride as usize) {
        kills += 1;
        if kill_at(k).is_some() {
            break;
        }
    }
    println!("task of a worker: {kills} kills, one at each {stride} of {whole} instructions, {died} lost, {done} done");
    assert!(done > 0 && died > 0, "{done} done, {died} lost");
}
