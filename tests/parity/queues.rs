//! `_TestQueue`, `TestSimpleQueue`.

use std::time::{Duration, Instant};

use kinfolk::{Event, GetError, JoinableQueue, Process, PutError, Queue};
use serde::{Deserialize, Serialize, Serializer};

use super::{DELTA, guard};

#[test]
fn a_bounded_queue_is_full_after_its_sixth_item() {
    let _guard = guard();
    const MAXSIZE: usize = 6;
    let queue = Queue::<u32>::new(MAXSIZE).unwrap();
    let (child_can_start, parent_can_continue) = (Event::new().unwrap(), Event::new().unwrap());
    type Args = (Queue<u32>, Event, Event);
    fn child((queue, child_can_start, parent_can_continue): Args) {
        child_can_start.wait();
        for _ in 0..MAXSIZE {
            queue.get().unwrap();
        }
        parent_can_continue.set();
    }
    let args = (queue.clone(), child_can_start.clone(), parent_can_continue.clone());
    let process = Process::builder().daemon(true).spawn(child, args).unwrap();
    assert!(queue.is_empty() && !queue.is_full());
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    queue.try_put(3).unwrap();
    queue.try_put(4).unwrap();
    queue.put_timeout(5, DELTA).unwrap();
    queue.try_put(6).unwrap();
    // No feeder thread: what was put is there, at once.
    assert!(!queue.is_empty() && queue.is_full());
    assert!(matches!(queue.try_put(7), Err(PutError::Full(7))));
    let begin = Instant::now();
    assert!(matches!(queue.put_timeout(7, DELTA), Err(PutError::Timeout(7, None))));
    assert!(begin.elapsed() >= DELTA);
    assert!(matches!(queue.put_timeout(7, Duration::ZERO), Err(PutError::Timeout(7, None))));
    child_can_start.set();
    parent_can_continue.wait();
    assert!(queue.is_empty() && !queue.is_full());
    process.join().unwrap();
}

#[test]
fn what_another_process_puts_is_got_in_every_way() {
    let _guard = guard();
    let queue = Queue::<u32>::new(0).unwrap();
    let (child_can_start, parent_can_continue) = (Event::new().unwrap(), Event::new().unwrap());
    fn child((queue, child_can_start, parent_can_continue): (Queue<u32>, Event, Event)) {
        child_can_start.wait();
        (2..=5).for_each(|k| queue.put(k).unwrap());
        parent_can_continue.set();
        // Stays, so that an empty queue is empty and not left.
        child_can_start.clear();
        child_can_start.wait();
    }
    let args = (queue.clone(), child_can_start.clone(), parent_can_continue.clone());
    let process = Process::builder().daemon(true).spawn(child, args).unwrap();
    assert!(queue.is_empty());
    child_can_start.set();
    parent_can_continue.wait();
    assert!(!queue.is_empty());
    assert_eq!(queue.get().unwrap(), 2);
    assert_eq!(queue.get_timeout(DELTA).unwrap(), 3);
    assert_eq!(queue.try_get().unwrap(), 4);
    assert_eq!(queue.get_timeout(Duration::ZERO).unwrap(), 5);
    assert!(queue.is_empty());
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    assert!(matches!(queue.get_timeout(DELTA), Err(GetError::Timeout(None))));
    assert!(matches!(queue.get_timeout(Duration::ZERO), Err(GetError::Timeout(None))));
    process.kill().unwrap();
}

#[test]
fn items_put_before_and_after_a_start_arrive_in_order() {
    let _guard = guard();
    let queue = Queue::<u32>::new(0).unwrap();
    (0..10).for_each(|k| queue.put(k).unwrap());
    let process = Process::spawn(|queue: Queue<u32>| (10..20).for_each(|k| queue.put(k).unwrap()), queue.clone());
    assert!((0..20).all(|k| queue.get().unwrap() == k));
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    process.unwrap().join().unwrap();
}

#[test]
fn the_size_follows_puts_and_gets() {
    let queue = Queue::<u32>::new(0).unwrap();
    assert_eq!(queue.len(), 0);
    queue.put(1).unwrap();
    assert_eq!(queue.len(), 1);
    queue.put(5).unwrap();
    assert_eq!(queue.len(), 2);
    queue.get().unwrap();
    assert_eq!(queue.len(), 1);
    queue.get().unwrap();
    assert_eq!(queue.len(), 0);
}

#[test]
fn a_joinable_queue_is_joined_when_four_workers_have_done_all() {
    let _guard = guard();
    let queue = JoinableQueue::<Option<u32>>::new(0).unwrap();
    let worked = Queue::<u32>::new(0).unwrap();
    fn worker((queue, worked): (JoinableQueue<Option<u32>>, Queue<u32>)) {
        while let Some(task) = queue.get().unwrap() {
            std::thread::sleep(DELTA / 10);
            worked.put(task).unwrap();
            queue.task_done().unwrap();
        }
        queue.task_done().unwrap();
    }
    let start = || Process::builder().daemon(true).spawn(worker, (queue.clone(), worked.clone())).unwrap();
    let workers: Vec<_> = (0..4).map(|_| start()).collect();
    (0..10).for_each(|task| queue.put(Some(task)).unwrap());
    queue.join().unwrap();
    assert_eq!(worked.len(), 10);
    workers.iter().for_each(|_| queue.put(None).unwrap());
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    queue.join().unwrap();
    assert!(queue.task_done().is_err(), "called too often");
}

#[test]
fn a_get_with_a_time_limit_waits_that_long() {
    let queue = Queue::<u32>::new(0).unwrap();
    let begin = Instant::now();
    assert!(matches!(queue.get_timeout(Duration::from_millis(200)), Err(GetError::Timeout(None))));
    assert!(begin.elapsed() >= Duration::from_millis(200));
}

/// Some of them cannot be turned into bytes.
#[derive(Debug, PartialEq, Deserialize)]
struct Picky(u32);

impl Serialize for Picky {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 13 { Err(serde::ser::Error::custom("not this one")) } else { self.0.serialize(serializer) }
    }
}

#[test]
fn an_item_that_cannot_be_encoded_comes_back_and_takes_no_room() {
    let queue = Queue::<Picky>::new(1).unwrap();
    match queue.put(Picky(13)) {
        Err(PutError::Encode(value, e)) => {
            assert_eq!(value, Picky(13));
            assert!(e.to_string().contains("encode"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((queue.len(), queue.is_empty(), queue.is_full()), (0, true, false));
    queue.try_put(Picky(1)).unwrap();
    assert_eq!(queue.get_timeout(DELTA).unwrap(), Picky(1));
    assert!(queue.is_empty());
}

#[test]
fn looking_at_a_closed_queue_says_that_it_is_closed_and_what_it_holds() {
    // Python's empty() raises after close(); here looking goes on, and taking is the error.
    for used in [false, true] {
        let queue = Queue::<String>::new(0).unwrap();
        if used {
            queue.put("foo".to_owned()).unwrap();
        }
        queue.close();
        assert!(queue.is_closed());
        assert_eq!((queue.is_empty(), queue.len()), (!used, usize::from(used)));
        assert!(matches!(queue.try_get(), Err(GetError::Closed)), "not Empty");
    }
}

#[test]
fn a_closed_queue_is_neither_put_to_nor_got_from() {
    let queue = Queue::<String>::new(0).unwrap();
    queue.close();
    let put = queue.put("foo".to_owned()).unwrap_err();
    assert_eq!(put.to_string(), "put: the queue is closed");
    assert_eq!(put.into_value(), "foo");
    assert_eq!(queue.get().unwrap_err().to_string(), "get: the queue is closed");
    let joinable = JoinableQueue::<String>::new(0).unwrap();
    joinable.close();
    assert!(matches!(joinable.put("foo".to_owned()), Err(PutError::Closed(_))));
    assert!(matches!(joinable.get(), Err(GetError::Closed)));
}

#[test]
fn a_queue_is_empty_until_a_child_puts_and_after_its_items_were_got() {
    let _guard = guard();
    let queue = Queue::<bool>::new(0).unwrap();
    let (child_can_start, parent_can_continue) = (Event::new().unwrap(), Event::new().unwrap());
    fn child((queue, child_can_start, parent_can_continue): (Queue<bool>, Event, Event)) {
        child_can_start.wait();
        queue.put(true).unwrap();
        queue.put(false).unwrap();
        parent_can_continue.set();
    }
    let args = (queue.clone(), child_can_start.clone(), parent_can_continue.clone());
    let process = Process::builder().daemon(true).spawn(child, args).unwrap();
    assert!(queue.is_empty());
    child_can_start.set();
    parent_can_continue.wait();
    assert!(!queue.is_empty());
    assert!(queue.get().unwrap());
    assert!(!queue.get().unwrap());
    assert!(queue.is_empty());
    process.join().unwrap();
}

#[test]
fn closing_twice_is_fine() {
    let queue = Queue::<u32>::new(0).unwrap();
    queue.close();
    queue.close();
    assert!(queue.is_closed());
}
