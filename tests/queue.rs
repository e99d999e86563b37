//! `Queue` beyond put and get: what it says of itself, iterators, closing.

mod support;

use std::time::Duration;

use kinfolk::{Connection, GetError, Process, PutError, Queue, Segment};
use support::watchdog;

#[test]
fn a_queue_says_how_full_it_is() {
    let queue = Queue::<u32>::new(2).unwrap();
    assert_eq!((queue.capacity(), queue.is_full(), queue.is_empty(), queue.len()), (Some(2), false, true, 0));
    queue.put(1).unwrap();
    assert!(!queue.is_full());
    queue.put(2).unwrap();
    assert_eq!((queue.is_full(), queue.is_empty(), queue.len()), (true, false, 2));
    queue.get().unwrap();
    assert!(!queue.is_full());

    let bytes = Queue::builder().bytes(4096).build::<Vec<u8>>().unwrap();
    assert_eq!(bytes.capacity(), None);
    let mut put = 0;
    while bytes.try_put(vec![0; 56]).is_ok() {
        assert!(put < 64, "64 granules hold more than 64 items");
        put += 1;
    }
    assert!(bytes.is_full());
    bytes.get().unwrap();
    assert!(!bytes.is_full() && bytes.try_put(vec![0; 56]).is_ok());
}

#[test]
fn an_iterator_waits_and_ends_when_everybody_else_has_gone() {
    let _guard = watchdog(Duration::from_secs(60));
    let queue = Queue::<u64>::new(4).unwrap();
    fn producer((queue, from): (Queue<u64>, u64)) {
        (from..from + 500).for_each(|k| queue.put(k).unwrap());
    }
    let children: Vec<_> =
        [0, 500].iter().map(|from| Process::spawn(producer, (queue.clone(), *from)).unwrap()).collect();
    let mut all = Vec::new();
    // A disconnection is reported when nobody else is left, and one child may end before the other has begun.
    while all.len() < 1000 {
        for item in &queue {
            all.push(item.unwrap());
        }
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..1000));
    children.into_iter().for_each(|child| child.join().unwrap());
}

#[test]
fn an_iterator_that_waits_ends_when_this_process_closes_the_queue() {
    let _guard = watchdog(Duration::from_secs(60));
    let queue = Queue::<u64>::new(0).unwrap();
    queue.put(5).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.iter().collect::<Result<Vec<_>, _>>().unwrap());
        while !queue.is_empty() {
            std::thread::yield_now();
        }
        queue.close();
        assert_eq!(waiting.join().unwrap(), [5]);
    });
    assert!(queue.iter().next().is_none());
}

#[test]
fn try_iter_takes_what_is_there_and_drain_what_was_there() {
    let queue = Queue::<u64>::new(0).unwrap();
    let all = |got: kinfolk::channel::TryIter<'_, u64>| got.collect::<Result<Vec<_>, _>>().unwrap();
    assert!(all(queue.try_iter()).is_empty() && all(queue.drain()).is_empty());
    (0..5).for_each(|k| queue.put(k).unwrap());
    let mut drain = queue.drain();
    (5..7).for_each(|k| queue.put(k).unwrap());
    assert_eq!(drain.next().unwrap().unwrap(), 0);
    assert_eq!(all(drain), [1, 2, 3, 4]);
    queue.put(7).unwrap();
    let mut more = queue.try_iter();
    assert_eq!(more.next().unwrap().unwrap(), 5);
    queue.put(8).unwrap();
    assert_eq!(more.collect::<Result<Vec<_>, _>>().unwrap(), [6, 7, 8]);
}

#[test]
fn closing_is_for_this_process_and_hands_values_back() {
    let _guard = watchdog(Duration::from_secs(60));
    let queue = Queue::<String>::new(3).unwrap();
    queue.put("before".to_owned()).unwrap();
    let answers = Queue::<String>::new(0).unwrap();
    // The child has its own handle: what was put here before the close is got there.
    fn child((queue, answers): (Queue<String>, Queue<String>)) {
        answers.put("ready".to_owned()).unwrap();
        answers.put(queue.get().unwrap()).unwrap();
        queue.put("from the child".to_owned()).unwrap();
        answers.put("done".to_owned()).unwrap();
    }
    let clone = queue.clone();
    queue.close();
    queue.close();
    let child = Process::spawn(child, (queue.clone(), answers.clone())).unwrap();
    assert_eq!(answers.iter().take(3).collect::<Result<Vec<_>, _>>().unwrap(), ["ready", "before", "done"]);
    child.join().unwrap();
    for queue in [&queue, &clone] {
        assert!(queue.is_closed());
        assert!(matches!(queue.put("a".to_owned()), Err(PutError::Closed(v)) if v == "a"));
        assert!(matches!(queue.try_put("b".to_owned()), Err(PutError::Closed(v)) if v == "b"));
        assert!(matches!(queue.put_timeout("c".to_owned(), Duration::ZERO), Err(PutError::Closed(v)) if v == "c"));
        assert!(matches!(queue.get(), Err(GetError::Closed)));
        assert!(matches!(queue.try_get(), Err(GetError::Closed)));
        assert!(matches!(queue.get_timeout(Duration::ZERO), Err(GetError::Closed)));
        // Looking goes on.
        assert_eq!((queue.len(), queue.is_empty(), queue.is_full()), (1, false, false));
    }
}

#[test]
fn a_queue_counts_what_it_does() {
    let _guard = watchdog(Duration::from_secs(60));
    let queue = Queue::<u64>::new(100).unwrap();
    assert_eq!(queue.stats().unwrap(), kinfolk::channel::QueueStats::default());
    (0..70).for_each(|k| queue.put(k).unwrap());
    assert!((0..60).all(|k| queue.get().unwrap() == k));
    let stats = queue.stats().unwrap();
    assert_eq!((stats.puts, stats.gets, stats.waits, stats.wakes), (70, 60, 0, 0));
    // At most an eighth of the capacity is missing; the last look was this one.
    assert!((70 - 12..=70).contains(&stats.high_water), "{}", stats.high_water);
    // Full, which is noticed exactly.
    (0..90).for_each(|k| queue.put(k).unwrap());
    assert!(matches!(queue.put_timeout(0, Duration::from_millis(1)), Err(PutError::Timeout(..))));
    queue.drain().for_each(drop);
    assert!(matches!(queue.get_timeout(Duration::from_millis(1)), Err(GetError::Timeout(None))));
    let stats = queue.stats().unwrap();
    assert_eq!((stats.puts, stats.gets, stats.high_water, stats.waits), (160, 160, 100, 2));
    // Somebody sleeps, and is woken.
    let child = Process::spawn(|queue: Queue<u64>| assert_eq!(queue.get().unwrap(), 7), queue.clone()).unwrap();
    let mut woken = queue.stats().unwrap();
    let idle = |stats: &kinfolk::channel::QueueStats| stats.waits == 2;
    while idle(&woken) {
        std::thread::yield_now();
        woken = queue.stats().unwrap();
    }
    queue.put(7).unwrap();
    child.join().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.puts, stats.gets, stats.waits), (161, 161, 3));
    // Each wait makes one who comes later look for a sleeper, even if its time was over.
    assert!((1..=3).contains(&stats.wakes), "{}", stats.wakes);
}

#[test]
fn an_unlimited_queue_misses_at_most_64_items_of_its_high_water() {
    let queue = Queue::<u64>::new(0).unwrap();
    for most in [1000, 5000] {
        (0..most).for_each(|k| queue.put(k).unwrap());
        queue.drain().for_each(drop);
        let seen = queue.stats().unwrap().high_water as u64;
        assert!((most - 64..=most).contains(&seen), "{seen} of {most}");
    }
}

#[test]
fn leases_and_deaths_are_counted() {
    let _guard = watchdog(Duration::from_secs(60));
    let queue: Queue<u32> = Queue::builder().leases(4).max_deliveries(2).build().unwrap();
    (0..3).for_each(|k| queue.put(k).unwrap());
    let lease = queue.lease().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.open_leases, stats.gets, stats.redelivered, stats.dead_letters), (1, 1, 0, 0));
    drop(lease);
    drop(queue.lease().unwrap());
    let stats = queue.stats().unwrap();
    assert_eq!((stats.open_leases, stats.gets, stats.redelivered, stats.dead_letters), (0, 1, 1, 1));
    fn die(queue: Queue<u32>) {
        std::mem::forget(queue.lease().unwrap());
        std::process::abort();
    }
    assert!(Process::spawn(die, queue.clone()).unwrap().join().is_err());
    assert_eq!(queue.lease().unwrap().into_inner(), 1);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.puts, stats.gets, stats.lost, stats.redelivered, stats.dead_letters), (3, 2, 0, 2, 1));
}

#[test]
fn as_many_items_fit_as_the_capacity_says_whatever_their_size() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    for capacity in [1, 2, 10, 64, 100] {
        for bytes in [0, 56, 57, 500, 6_000, 40_000, 300_000] {
            let queue = Queue::builder().capacity(capacity).segment(&segment).build::<Vec<u8>>().unwrap();
            // Laps of odd lengths: padding comes everywhere.
            for round in 0..5 {
                let item = |k: usize| vec![k as u8; bytes + (k + round) % 3];
                for k in 0..capacity {
                    assert!(queue.try_put(item(k)).is_ok(), "item {k} of {capacity}, {bytes} B");
                }
                assert!(matches!(queue.try_put(vec![1]), Err(PutError::Full(_))));
                for k in 0..capacity {
                    assert_eq!(queue.get().unwrap(), item(k));
                }
            }
        }
    }
}

#[test]
fn a_queue_and_a_pipe_of_64_small_items_cost_at_most_16_kib() {
    let segment = Segment::anonymous(4 << 20).unwrap();
    let before = segment.stats().used_bytes;
    let queue = Queue::builder().capacity(64).bytes(4 << 10).segment(&segment).build::<u64>().unwrap();
    (0..64).for_each(|k| queue.try_put(k).unwrap());
    assert!(queue.is_full() && segment.stats().used_bytes - before <= 16 << 10);
    let before = segment.stats().used_bytes;
    let (here, there) = Connection::builder().bytes(4 << 10).segment(&segment).build::<u64, u64>().unwrap();
    for k in 0..64 {
        here.try_send(k).unwrap();
        there.try_send(k).unwrap();
    }
    assert!(segment.stats().used_bytes - before <= 16 << 10, "{} B", segment.stats().used_bytes - before);
}

#[test]
fn a_handle_that_hops_from_queue_to_queue_is_never_lost() {
    let _guard = watchdog(Duration::from_secs(60));
    const HOPS: u64 = if cfg!(debug_assertions) { 4_000 } else { 30_000 };
    type Line = Queue<(Queue<u64>, u64)>;
    // With others in between, so that to look takes as long as to pass on.
    let mut between = Vec::new();
    let segment = Segment::anonymous(512 << 20).unwrap();
    let mut line = || -> Line {
        between.extend((0..200).map(|_| Queue::builder().bytes(4096).segment(&segment).build::<u8>().unwrap()));
        Queue::builder().capacity(16).segment(&segment).build().unwrap()
    };
    let lines = [line(), line(), line()];
    // Whoever passes it on lets go of it, and looks who else has it, while others pass it on.
    let pass_on = |(from, to): (Line, Line)| {
        loop {
            let (handle, hops) = from.get().unwrap();
            to.put((handle, hops + 1)).unwrap();
        }
    };
    let start = |from: usize, to: usize| -> Process<()> {
        Process::builder().daemon(true).spawn(pass_on, (lines[from].clone(), lines[to].clone())).unwrap()
    };
    let others = [start(2, 1), start(1, 0)];
    // So many that nobody sleeps.
    const HANDLES: u64 = 6;
    for n in 0..HANDLES {
        let handle = Queue::builder().segment(&segment).build::<u64>().unwrap();
        handle.put(n).unwrap();
        lines[2].put((handle, 0)).unwrap();
    }
    let mut left = HANDLES;
    while left > 0 {
        let (handle, hops) = lines[0].get_timeout(Duration::from_secs(10)).expect("the others have none lost");
        if hops < HOPS {
            lines[2].put((handle, hops + 1)).unwrap();
        } else {
            assert!(handle.get().unwrap() < HANDLES);
            left -= 1;
        }
    }
    for other in others {
        other.kill().unwrap();
        assert!(other.join().is_err());
    }
}
