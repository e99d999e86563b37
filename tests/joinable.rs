//! `JoinableQueue`: what is unfinished, who may finish it, and what deaths do to it.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kinfolk::{ErrorKind, GetError, JoinableQueue, Process, Queue, Segment, TaskDoneError, UnfinishedError, pipe};
use support::random::Random;
use support::watchdog;

const SOON: Duration = Duration::from_secs(5);

fn is_unfinished(tasks: &JoinableQueue<u32>) -> bool {
    matches!(tasks.try_join(), Err(UnfinishedError::Unfinished))
}

#[test]
fn a_queue_is_joined_when_every_task_is_done() {
    let tasks = JoinableQueue::<u32>::new(4).unwrap();
    tasks.join().unwrap();
    tasks.put(1).unwrap();
    tasks.try_put(2).unwrap();
    tasks.put_timeout(3, SOON).unwrap();
    assert_eq!((tasks.len(), tasks.unfinished(), tasks.capacity(), tasks.is_full()), (3, 3, Some(4), false));
    assert!(is_unfinished(&tasks));
    assert_eq!((tasks.get().unwrap(), tasks.try_get().unwrap(), tasks.get_timeout(SOON).unwrap()), (1, 2, 3));
    assert_eq!((tasks.len(), tasks.unfinished(), tasks.is_empty()), (0, 3, true));
    for left in [2, 1, 0] {
        assert!(is_unfinished(&tasks));
        tasks.task_done().unwrap();
        assert_eq!(tasks.unfinished(), left);
    }
    tasks.try_join().unwrap();
    tasks.join_timeout(Duration::ZERO).unwrap();
    assert!(matches!(tasks.task_done(), Err(TaskDoneError::NoOpenTask)));
    assert!(matches!(tasks.try_get(), Err(GetError::Empty)));
    tasks.put(4).unwrap();
    let me = std::process::id();
    assert!(matches!(tasks.join_timeout(Duration::from_millis(1)), Err(UnfinishedError::Timeout(None))));
    tasks.get().unwrap();
    match tasks.join_timeout(Duration::from_millis(1)) {
        Err(UnfinishedError::Timeout(Some(holder))) => assert_eq!(holder.pid, me),
        other => panic!("{other:?}"),
    }
    tasks.close();
    assert!(tasks.is_closed() && matches!(tasks.get(), Err(GetError::Closed)));
    tasks.task_done().unwrap();
    tasks.join().unwrap();
}

#[test]
fn leases_are_tasks_too() {
    let tasks = JoinableQueue::<u32>::new(0).unwrap();
    (0..3).for_each(|task| tasks.put(task).unwrap());
    let leases = (tasks.lease().unwrap(), tasks.try_lease().unwrap(), tasks.lease_timeout(SOON).unwrap());
    assert!(matches!(tasks.task_done(), Err(TaskDoneError::NoOpenTask)), "a lease is ended by itself");
    leases.0.ack().unwrap();
    drop(leases.1);
    leases.2.ack().unwrap();
    assert!(is_unfinished(&tasks));
    let again = tasks.get_delivery(Some(SOON)).unwrap();
    assert_eq!((again.value, again.redelivered), (1, true));
    tasks.task_done().unwrap();
    tasks.join().unwrap();
}

#[test]
fn a_thread_finishes_its_own_tasks_first_whatever_handle_it_has() {
    let tasks = JoinableQueue::<u32>::new(0).unwrap();
    let other = JoinableQueue::<u32>::open(&Segment::family().unwrap(), tasks.id()).unwrap();
    (1..=4).for_each(|task| tasks.put(task).unwrap());
    assert_eq!(tasks.get().unwrap(), 1);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            assert_eq!((other.get().unwrap(), tasks.get().unwrap()), (2, 3));
            // Its oldest, 2, and not the process's, 1.
            tasks.task_done().unwrap();
        });
        thread.join().unwrap();
    });
    assert_eq!(other.get().unwrap(), 4);
    // What this process holds, as the next one to take it sees it.
    other.task_done().unwrap();
    tasks.task_done().unwrap();
    assert_eq!(tasks.unfinished(), 1);
    // 1 and 4 were ours, so what is left is the other thread's.
    let left = tasks.clone();
    drop((tasks, other));
    assert_eq!(left.len(), 0);
    left.task_done().unwrap();
    left.join().unwrap();
}

#[test]
fn open_tasks_go_back_with_the_last_handle_of_a_process() {
    let tasks = JoinableQueue::<u32>::new(0).unwrap();
    tasks.put(1).unwrap();
    fn get_and_leave(tasks: JoinableQueue<u32>) {
        tasks.get().unwrap();
    }
    Process::spawn(get_and_leave, tasks.clone()).unwrap().join().unwrap();
    let task = tasks.get_delivery(Some(SOON)).unwrap();
    assert_eq!((task.value, task.redelivered, task.deliveries), (1, true, 2));
    tasks.task_done().unwrap();
}

#[test]
fn a_joinable_queue_is_no_queue_and_travels() {
    let tasks = JoinableQueue::<u32>::new(0).unwrap();
    let segment = Segment::family().unwrap();
    assert_eq!(Queue::<u32>::open(&segment, tasks.id()).unwrap_err().kind(), ErrorKind::TypeMismatch);
    let mail = Queue::new(0).unwrap();
    mail.put(tasks.clone()).unwrap();
    let again: JoinableQueue<u32> = mail.get().unwrap();
    again.put(5).unwrap();
    assert_eq!(tasks.get().unwrap(), 5);
    // The list of open tasks is the process's.
    again.task_done().unwrap();
    tasks.join().unwrap();
    let small = Queue::builder().leases(1).build_joinable::<u32>().unwrap();
    (0..2).for_each(|task| small.put(task).unwrap());
    small.get().unwrap();
    assert!(matches!(small.try_get(), Err(GetError::Empty)), "one task may be open");
    small.task_done().unwrap();
    assert_eq!(small.get().unwrap(), 1);
}

#[test]
fn work_that_makes_work_is_joined_as_a_whole() {
    let _guard = watchdog(Duration::from_secs(60));
    let tasks = JoinableQueue::<u32>::new(0).unwrap();
    let done = Queue::<u32>::new(0).unwrap();
    // A task of size n makes two of size n - 1, before it is done.
    fn worker((tasks, done): (JoinableQueue<u32>, Queue<u32>)) {
        while let Ok(size) = tasks.get() {
            if size > 0 {
                tasks.put(size - 1).unwrap();
                tasks.put(size - 1).unwrap();
            }
            done.put(size).unwrap();
            tasks.task_done().unwrap();
        }
    }
    let workers: Vec<_> =
        (0..3).map(|_| Process::builder().daemon(true).spawn(worker, (tasks.clone(), done.clone())).unwrap()).collect();
    for round in 0..20 {
        tasks.put(6).unwrap();
        let begin = Instant::now();
        tasks.join().unwrap();
        assert_eq!(done.drain().count(), 127, "round {round}: joined before all was done");
        assert!(begin.elapsed() < SOON);
    }
    workers.iter().for_each(|worker| worker.kill().unwrap());
}

#[test]
fn several_joiners_are_woken_by_the_last_task() {
    let _guard = watchdog(Duration::from_secs(60));
    let tasks = JoinableQueue::<u32>::new(0).unwrap();
    let joined = Queue::<u32>::new(0).unwrap();
    for round in 0..20 {
        tasks.put(round).unwrap();
        fn joiner((tasks, joined): (JoinableQueue<u32>, Queue<u32>)) {
            tasks.join().unwrap();
            joined.put(std::process::id()).unwrap();
        }
        let joiner = Process::spawn(joiner, (tasks.clone(), joined.clone())).unwrap();
        assert_eq!(tasks.get().unwrap(), round);
        std::thread::scope(|scope| {
            let here = scope.spawn(|| tasks.join().unwrap());
            assert!(joined.is_empty() && !here.is_finished());
            tasks.task_done().unwrap();
        });
        assert_eq!(joined.get().unwrap(), joiner.pid());
        joiner.join().unwrap();
    }
}

#[test]
fn a_joiner_learns_that_everybody_who_could_work_is_dead() {
    let _guard = watchdog(Duration::from_secs(60));
    let tasks = JoinableQueue::<u32>::new(0).unwrap();
    tasks.put(1).unwrap();
    fn hold((tasks, held): (JoinableQueue<u32>, kinfolk::Connection<(), ()>)) {
        tasks.get().unwrap();
        held.send(()).unwrap();
        let _ = held.recv();
    }
    let (here, there) = pipe::<(), ()>().unwrap();
    let worker = Process::builder().daemon(true).spawn(hold, (tasks.clone(), there)).unwrap();
    here.recv().unwrap();
    worker.kill().unwrap();
    // Not reaped: the joiner must find out.
    match tasks.join() {
        Err(UnfinishedError::Disconnected(Some(pid))) => assert_eq!(pid, worker.pid()),
        other => panic!("{other:?}"),
    }
    // Reported once; and this process can do the work.
    assert!(matches!(tasks.join_timeout(Duration::from_millis(1)), Err(UnfinishedError::Timeout(None))));
    assert_eq!(tasks.get().unwrap(), 1);
    tasks.task_done().unwrap();
    tasks.join().unwrap();
}

#[test]
fn a_dead_letter_is_finished() {
    let _guard = watchdog(Duration::from_secs(60));
    let tasks = JoinableQueue::builder().max_deliveries(2).build_joinable::<u32>().unwrap();
    tasks.put(13).unwrap();
    fn poisoned((tasks, got): (JoinableQueue<u32>, Queue<u32>)) {
        got.put(tasks.get().unwrap()).unwrap();
        std::process::abort();
    }
    let got = Queue::new(0).unwrap();
    for _ in 0..2 {
        assert!(is_unfinished(&tasks));
        assert!(Process::spawn(poisoned, (tasks.clone(), got.clone())).unwrap().join().is_err());
        assert_eq!(got.get().unwrap(), 13);
    }
    tasks.join().unwrap();
    assert_eq!(tasks.dead_letters().next().unwrap().unwrap().value, 13);
}

#[test]
fn every_task_is_done_although_workers_are_killed_all_the_time() {
    let _guard = watchdog(Duration::from_secs(180));
    const KILLS: u32 = 150;
    let mut random = Random::new(41);
    let tasks = JoinableQueue::<u32>::new(0).unwrap();
    let done = Queue::<u32>::new(0).unwrap();
    fn worker((tasks, done, seed): (JoinableQueue<u32>, Queue<u32>, u64)) {
        let mut random = Random::new(seed);
        while let Ok(task) = tasks.get() {
            if random.below(3) == 0 {
                random.moment();
            }
            done.put(task).unwrap();
            tasks.task_done().unwrap();
        }
    }
    let start = |seed: u32| {
        Process::builder().daemon(true).spawn(worker, (tasks.clone(), done.clone(), u64::from(seed))).unwrap()
    };
    let survivor = start(1);
    let mut seen = BTreeMap::<u32, u32>::new();
    let mut put = 0;
    for kill in 0..KILLS {
        let victim = start(kill + 2);
        for _ in 0..random.below(40) {
            tasks.put(put).unwrap();
            put += 1;
        }
        random.moment();
        random.moment();
        victim.kill().unwrap();
        if kill % 2 == 0 {
            let _ = victim.join();
        }
        if kill % 10 == 0 {
            tasks.join().unwrap();
            done.drain().for_each(|task| *seen.entry(task.unwrap()).or_default() += 1);
            assert!((0..put).all(|task| seen.contains_key(&task)), "joined, and not everything was done");
        }
    }
    tasks.join().unwrap();
    assert_eq!((tasks.len(), tasks.unfinished()), (0, 0));
    done.drain().for_each(|task| *seen.entry(task.unwrap()).or_default() += 1);
    assert!((0..put).eq(seen.keys().copied()), "something is missing of {put}");
    // Done again is only what a victim had done and not said so.
    let again: u32 = seen.values().map(|times| times - 1).sum();
    assert!(again <= KILLS, "{again} tasks were done again");
    survivor.kill().unwrap();
}

#[test]
fn a_queue_of_tasks_is_waited_for_as_others_are() {
    let queue = JoinableQueue::<u32>::new(0).unwrap();
    let is_ready = || kinfolk::channel::wait(&[&queue], Some(Duration::ZERO)).unwrap() == [0];
    assert!(!is_ready());
    queue.put(1).unwrap();
    assert!(is_ready());
    assert_eq!(queue.get().unwrap(), 1);
    // Taken and not done: there is nothing to get.
    assert!(!is_ready());
    queue.task_done().unwrap();
}
