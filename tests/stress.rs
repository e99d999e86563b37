//! What others ask of their queues, asked of ours: many sides at once, between threads and between processes.
//!
//! The ideas come from the tests of rigtorp/MPMCQueue (sums over many sides), crossbeam-channel (linearizable, one shot,
//! time-outs under way, drops) and Go's channels (the prime sieve, the parallel merge).

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use kinfolk::{Connection, GetError, Mutex, Process, PutError, Queue, RecvError, Segment, pipe};
use support::watchdog;

/// A child that ends by itself.
type Child<R> = Process<R>;

/// rigtorp: every number goes in once, and the sums of what came out say that it came out once.
#[test]
fn sums_agree_over_many_processes() {
    let _watchdog = watchdog(Duration::from_secs(120));
    const SIDES: u64 = 3;
    const EACH: u64 = 20_000;
    fn producer((queue, first): (Queue<u64>, u64)) {
        (0..EACH).for_each(|k| queue.put(first + k * SIDES).unwrap());
    }
    fn consumer((queue, count): (Queue<u64>, u64)) -> (u64, u64) {
        (0..count).map(|_| queue.get().unwrap()).fold((0, 0), |(sum, odd), n| (sum + n, odd ^ n.wrapping_mul(n)))
    }
    for capacity in [0, 1, 7] {
        let queue = Queue::new(capacity).unwrap();
        let consumers: Vec<Child<_>> =
            (0..SIDES).map(|_| Process::spawn(consumer, (queue.clone(), EACH)).unwrap()).collect();
        let producers: Vec<Child<_>> =
            (0..SIDES).map(|first| Process::spawn(producer, (queue.clone(), first)).unwrap()).collect();
        producers.into_iter().for_each(|child| child.join().unwrap());
        let got = consumers.into_iter().map(|child| child.join().unwrap());
        let got = got.fold((0, 0), |(sum, odd), (s, o)| (sum + s, odd ^ o));
        let all = (0..SIDES * EACH).fold((0, 0u64), |(sum, odd), n: u64| (sum + n, odd ^ n.wrapping_mul(n)));
        assert_eq!(got, all, "capacity {capacity}");
        assert!(queue.is_empty());
    }
}

/// rigtorp and Vyukov: between one producer and one consumer there is an order, also through a queue of many.
#[test]
fn what_one_producer_put_comes_in_its_order_to_each_consumer() {
    let _watchdog = watchdog(Duration::from_secs(120));
    const PRODUCERS: usize = 3;
    const EACH: u32 = 20_000;
    let queue = Queue::<(usize, u32)>::new(64).unwrap();
    fn producer((queue, me): (Queue<(usize, u32)>, usize)) {
        (0..EACH).for_each(|k| queue.put((me, k)).unwrap());
    }
    let children: Vec<Child<_>> =
        (0..PRODUCERS).map(|me| Process::spawn(producer, (queue.clone(), me)).unwrap()).collect();
    let total = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = [None; PRODUCERS];
                loop {
                    match queue.get_timeout(Duration::from_secs(2)) {
                        Ok((who, k)) => {
                            assert!(last[who] < Some(k), "{who} put {k} before {:?}", last[who]);
                            last[who] = Some(k);
                            if total.fetch_add(1, Relaxed) + 1 == PRODUCERS as u64 * u64::from(EACH) {
                                return;
                            }
                        }
                        // The other one has had the last.
                        Err(_) if total.load(Relaxed) == PRODUCERS as u64 * u64::from(EACH) => return,
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    children.into_iter().for_each(|child| child.join().unwrap());
}

/// crossbeam-channel, `linearizable`: who has put something finds something, if all others do the same.
#[test]
fn who_puts_first_can_always_get() {
    let _watchdog = watchdog(Duration::from_secs(120));
    const SIDES: usize = 4;
    for capacity in [0, SIDES] {
        let queue = Queue::<u32>::new(capacity).unwrap();
        thread::scope(|scope| {
            for me in 0..SIDES as u32 {
                let queue = &queue;
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        queue.put(me).unwrap();
                        // Another may be between its claim and its commit, in front of ours: then it is not there yet.
                        while matches!(queue.try_get(), Err(GetError::Empty)) {
                            thread::yield_now();
                        }
                    }
                });
            }
        });
        assert!(queue.is_empty());
    }
}

/// crossbeam-channel, `stress_oneshot`: queues are made and end all the time.
#[test]
fn thousands_of_queues_for_one_item_each_leave_nothing() {
    let _watchdog = watchdog(Duration::from_secs(120));
    let segment = Segment::anonymous(16 << 20).unwrap();
    let round = || {
        let queue = Queue::builder().capacity(1).segment(&segment).build::<String>().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| queue.put("once".into()).unwrap());
            assert_eq!(queue.get().unwrap(), "once");
        });
    };
    round();
    let before = segment.stats();
    (0..2_000).for_each(|_| round());
    let after = segment.stats();
    assert_eq!((after.objects, after.used_bytes), (before.objects, before.used_bytes));
    assert_eq!(after.objects, 0);
}

/// crossbeam-channel, `stress_timeout_two_threads`: a side that gives up and comes again loses nothing. In turn, each side
/// holds still until the other has given up once more.
#[test]
fn time_outs_on_both_sides_lose_nothing() {
    let _watchdog = watchdog(Duration::from_secs(120));
    const COUNT: u32 = 200;
    const SHORT: Duration = Duration::from_micros(300);
    /// How often the producer and the consumer gave up.
    type Failures = [Mutex<u32>; 2];
    fn note(failures: &Mutex<u32>) {
        *failures.lock().unwrap() += 1;
    }
    fn until_another(failures: &Mutex<u32>) {
        let before = *failures.lock().unwrap();
        while *failures.lock().unwrap() == before {
            thread::yield_now();
        }
    }
    fn producer((queue, failures): (Queue<u32>, Failures)) {
        for k in 0..COUNT {
            let mut value = k;
            while let Err(e) = queue.put_timeout(value, SHORT) {
                assert!(matches!(e, PutError::Timeout(..)), "{e}");
                value = e.into_value();
                note(&failures[0]);
            }
            if k % 20 == 10 {
                until_another(&failures[1]);
            }
        }
    }
    let queue = Queue::<u32>::new(2).unwrap();
    let failures: Failures = [Mutex::new(0).unwrap(), Mutex::new(0).unwrap()];
    let child = Process::spawn(producer, (queue.clone(), failures.clone())).unwrap();
    for k in 0..COUNT {
        let got = loop {
            match queue.get_timeout(SHORT) {
                Ok(got) => break got,
                Err(GetError::Timeout(_)) => note(&failures[1]),
                Err(e) => panic!("{e}"),
            }
        };
        assert_eq!(got, k);
        // Early enough that the producer, with two items of room, has not all of its own put.
        if k % 20 == 0 && k + 20 < COUNT {
            until_another(&failures[0]);
        }
    }
    child.join().unwrap();
    assert!(queue.is_empty());
}

/// Go's sieve: a chain of filters, each a process, each a prime; the numbers run through pipes.
#[test]
fn a_chain_of_processes_sieves_primes() {
    let _watchdog = watchdog(Duration::from_secs(120));
    type End = Connection<u32, u32>;
    /// Passes on what its first number does not divide; tells that first number.
    fn filter((inward, outward, primes): (End, End, Queue<u32>)) {
        let Ok(prime) = inward.recv() else { return };
        primes.put(prime).unwrap();
        while let Ok(number) = inward.recv() {
            if number % prime != 0 {
                outward.send(number).unwrap();
            }
        }
    }
    let primes = Queue::new(0).unwrap();
    let (first, mut inward) = pipe::<u32, u32>().unwrap();
    let mut children = Vec::new();
    for _ in 0..8 {
        let (outward, next) = pipe::<u32, u32>().unwrap();
        children.push(Process::spawn(filter, (inward, outward, primes.clone())).unwrap());
        inward = next;
    }
    let last = thread::spawn(move || std::iter::from_fn(|| inward.recv().ok()).collect::<Vec<_>>());
    (2..500).for_each(|number| first.send(number).unwrap());
    drop(first);
    children.into_iter().for_each(|child| child.join().unwrap());
    let found: Vec<u32> = primes.try_iter().map(|prime| prime.unwrap()).collect();
    assert_eq!(found.iter().copied().collect::<HashSet<_>>(), HashSet::from([2, 3, 5, 7, 11, 13, 17, 19]));
    // What is left has no factor up to 19, and is below 23 * 23: the primes from 23 on.
    let rest = last.join().unwrap();
    assert!(rest.windows(2).all(|two| two[0] < two[1]));
    assert!(rest.iter().all(|n| (2..*n).all(|d| n % d != 0)), "{rest:?}");
    assert_eq!((rest.first(), rest.len()), (Some(&23), 95 - 8));
}

/// Go's `chan/powser` and crossbeam's `drops`: ends go while others still work with theirs, and each hears of it once.
#[test]
fn every_receiver_hears_of_the_end() {
    let _watchdog = watchdog(Duration::from_secs(120));
    fn receiver(end: Connection<(), u64>) -> u64 {
        let mut sum = 0;
        loop {
            match end.recv() {
                Ok(n) => sum += n,
                Err(RecvError::Disconnected(None)) => return sum,
                Err(e) => panic!("{e}"),
            }
        }
    }
    let (here, there) = pipe::<u64, ()>().unwrap();
    let receivers: Vec<Child<_>> = (0..3).map(|_| Process::spawn(receiver, there.clone()).unwrap()).collect();
    drop(there);
    let senders: Vec<_> = (0..3).map(|_| here.clone()).collect();
    drop(here);
    thread::scope(|scope| {
        for (me, sender) in senders.into_iter().enumerate() {
            scope.spawn(move || (0..5_000).for_each(|k| sender.send(me as u64 * 10_000 + k).unwrap()));
        }
    });
    let sum: u64 = receivers.into_iter().map(|child| child.join().unwrap()).sum();
    assert_eq!(sum, 3 * (0..5_000).sum::<u64>() + 5_000 * 30_000);
}
