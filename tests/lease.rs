//! Leases: items that come back unless they are acknowledged, whoever dies.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kinfolk::{ErrorKind, Event, GetError, Lease, Mutex, Process, Queue, Segment, pipe};
use support::random::Random;
use support::watchdog;

const SOON: Duration = Duration::from_secs(5);

fn queue<T: serde::Serialize + serde::de::DeserializeOwned + 'static>(leases: usize) -> Queue<T> {
    Queue::builder().leases(leases).build().unwrap()
}

#[test]
fn a_lease_that_is_acknowledged_is_over_and_one_that_is_dropped_comes_back() {
    let queue = queue::<String>(4);
    for item in ["a", "b", "c"] {
        queue.put(item.to_owned()).unwrap();
    }
    let a = queue.lease().unwrap();
    assert_eq!((a.as_str(), a.is_redelivered(), a.deliveries()), ("a", false, 1));
    assert_eq!(format!("{a:?}"), "Lease(\"a\", delivery 1)");
    let b = queue.try_lease().unwrap();
    assert_eq!(queue.len(), 1);
    drop(a);
    assert_eq!((queue.len(), queue.is_empty()), (2, false));
    // Given back items come before others, to leases and to gets.
    let a = queue.lease_timeout(SOON).unwrap();
    assert_eq!((a.as_str(), a.is_redelivered(), a.deliveries()), ("a", true, 2));
    drop(a);
    let delivery = queue.get_delivery(None).unwrap();
    assert_eq!((delivery.value.as_str(), delivery.redelivered, delivery.deliveries), ("a", true, 3));
    assert_eq!(b.into_inner(), "b");
    assert_eq!(queue.get().unwrap(), "c");
    assert!(queue.is_empty());
    assert!(matches!(queue.try_lease(), Err(GetError::Empty)));
    assert!(matches!(queue.lease_timeout(Duration::from_millis(1)), Err(GetError::Timeout(None))));
}

#[test]
fn a_full_table_makes_leases_wait_and_gets_go_on() {
    let _guard = watchdog(Duration::from_secs(60));
    let queue = queue::<u32>(2);
    (0..5).for_each(|k| queue.put(k).unwrap());
    let (first, second) = (queue.lease().unwrap(), queue.lease().unwrap());
    assert!(matches!(queue.try_lease(), Err(GetError::Empty)));
    let me = std::process::id();
    match queue.lease_timeout(Duration::from_millis(1)) {
        Err(GetError::Timeout(Some(holder))) => assert_eq!(holder.pid, me, "who has the leases is named"),
        other => panic!("{other:?}"),
    }
    assert_eq!(queue.get().unwrap(), 2);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.lease().unwrap().into_inner());
        // A lease may end in another thread.
        scope.spawn(|| first.ack().unwrap());
        assert_eq!(waiting.join().unwrap(), 3);
    });
    drop(second);
    assert_eq!(*queue.lease().unwrap(), 1);
}

#[test]
fn waits_for_items_and_for_entries_turn_into_each_other() {
    let _guard = watchdog(Duration::from_secs(60));
    let queue = queue::<u64>(1);
    let total = std::sync::atomic::AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Ok(lease) = queue.lease() {
                    let value = lease.into_inner();
                    if value == 0 {
                        break;
                    }
                    total.fetch_add(value, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        (1..=2000).for_each(|k| queue.put(k).unwrap());
        (0..4).for_each(|_| queue.put(0).unwrap());
    });
    assert_eq!(total.into_inner(), 2000 * 2001 / 2);
    // Wake-ups that go astray are found after 64 ms each.
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
fn items_of_every_size_are_leased_whole_and_leave_no_memory_behind() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let queue: Queue<Vec<u8>> = Queue::builder().segment(&segment).bytes(64 << 10).leases(8).build().unwrap();
    let used = segment.stats().used_bytes;
    for bytes in [0, 1, 55, 247, 248, 249, 1000, 30_000, 40_000, 3 << 20] {
        let message: Vec<u8> = (0..bytes).map(|k| (k * 31 + bytes) as u8).collect();
        queue.put(message.clone()).unwrap();
        let lease = queue.lease().unwrap();
        assert!(*lease == message, "{bytes} B");
        drop(lease);
        let lease = queue.lease().unwrap();
        assert!(*lease == message && lease.deliveries() == 2, "{bytes} B again");
        lease.ack().unwrap();
        queue.put(message.clone()).unwrap();
        drop(queue.lease().unwrap());
        assert!(queue.get().unwrap() == message, "{bytes} B got");
        assert_eq!(segment.stats().used_bytes, used, "{bytes} B");
    }
    queue.put(vec![1; 2000]).unwrap();
    let lease = queue.lease().unwrap();
    drop(queue);
    assert!(segment.stats().used_bytes > 0, "a lease keeps its queue");
    lease.ack().unwrap();
    assert_eq!((segment.stats().used_bytes, segment.stats().objects), (0, 0));
}

#[test]
fn an_item_that_finds_no_room_in_the_segment_stays_in_the_queue() {
    let segment = Segment::anonymous(4 << 20).unwrap();
    let queue: Queue<Vec<u8>> = Queue::builder().segment(&segment).bytes(64 << 10).leases(8).build().unwrap();
    queue.put(vec![7; 1000]).unwrap();
    let mut hog = Vec::new();
    while segment.stats().total_bytes > segment.stats().used_bytes {
        hog.push(Event::new_in(&segment).unwrap());
    }
    for _ in 0..3 {
        match queue.try_lease() {
            Err(GetError::Failed(e)) => assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}"),
            other => panic!("{other:?}"),
        }
        assert!(!queue.is_empty());
    }
    drop(hog);
    let lease = queue.try_lease().unwrap();
    assert_eq!((lease.len(), lease.is_redelivered()), (1000, true));
    lease.ack().unwrap();
    assert!(queue.is_empty());
}

#[test]
fn handles_in_a_leased_item_live_until_it_is_acknowledged() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let objects = || segment.stats().objects;
    // So many handles do not fit into an entry.
    for many in [1, 20] {
        let queue: Queue<Vec<Queue<u32>>> = Queue::builder().segment(&segment).leases(4).build().unwrap();
        let inner: Vec<Queue<u32>> =
            (0..many).map(|_| Queue::builder().segment(&segment).bytes(4096).build().unwrap()).collect();
        inner.iter().for_each(|queue| queue.put(7).unwrap());
        queue.put(inner).unwrap();
        assert_eq!(objects(), 1 + many);
        let lease = queue.lease().unwrap();
        assert_eq!(lease.iter().map(|queue| queue.len()).sum::<usize>(), many);
        drop(lease);
        assert_eq!(objects(), 1 + many, "the item is back, with its handles");
        let kept = queue.lease().unwrap().into_inner();
        assert_eq!((kept.len(), objects()), (many, 1 + many));
        queue.put(kept).unwrap();
        let lease = queue.lease().unwrap();
        lease.ack().unwrap();
        assert_eq!(objects(), 1, "acknowledged and dropped");
    }
}

#[test]
fn a_queue_says_what_it_was_not_made_for() {
    let plain = Queue::<u8>::new(0).unwrap();
    plain.put(1).unwrap();
    assert!(matches!(plain.lease(), Err(GetError::Failed(e)) if e.kind() == ErrorKind::InvalidInput));
    assert!(plain.dead_letters().next().is_none());
    for wrong in [
        Queue::builder().leases(65_537),
        Queue::builder().max_deliveries(3),
        Queue::builder().leases(1).max_deliveries(65_536),
    ] {
        assert_eq!(wrong.build::<u8>().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let closed = queue::<u8>(1);
    closed.put(1).unwrap();
    let lease = closed.lease().unwrap();
    closed.close();
    assert!(matches!(closed.lease(), Err(GetError::Closed)));
    lease.ack().unwrap();
}

#[test]
fn an_item_that_is_handed_out_too_often_becomes_a_dead_letter() {
    let queue: Queue<u32> = Queue::builder().leases(2).max_deliveries(3).build().unwrap();
    (0..3).for_each(|k| queue.put(k).unwrap());
    for delivery in 1..=3 {
        let lease = queue.lease().unwrap();
        assert_eq!((*lease, lease.deliveries()), (0, delivery));
    }
    assert_eq!(queue.lease().unwrap().into_inner(), 1);
    (0..3).for_each(|_| drop(queue.lease().unwrap()));
    assert!(queue.is_empty());
    // Dead letters have all leases now: that is said, and not waited for.
    queue.put(9).unwrap();
    assert!(matches!(queue.lease(), Err(GetError::Failed(e)) if e.kind() == ErrorKind::OutOfSpace));
    let letters: Vec<_> = queue.dead_letters().map(|letter| letter.unwrap()).collect();
    assert_eq!(letters.iter().map(|letter| (letter.value, letter.deliveries)).collect::<Vec<_>>(), [(0, 3), (2, 3)]);
    assert!(queue.dead_letters().next().is_none());
    assert_eq!(queue.lease().unwrap().into_inner(), 9);
}

type WorkerArgs = (Queue<Vec<u8>>, Queue<u64>, Mutex<u64>, u64);

fn number_of(job: &[u8]) -> u64 {
    let number = u64::from_le_bytes(job[..8].try_into().unwrap());
    assert!(job[8..].iter().all(|b| *b == number as u8), "item {number} is torn");
    number
}

/// Leases items, works a little on some, notes which one it is about to acknowledge, does so, and reports it.
fn worker((jobs, done, note, seed): WorkerArgs) {
    let mut random = Random::new(seed);
    loop {
        let lease = jobs.lease().unwrap();
        let number = number_of(&lease);
        if random.below(4) == 0 {
            random.moment();
        }
        *note.lock().unwrap_or_else(|e| e.into_guard().unwrap()) = number;
        lease.ack().unwrap();
        done.put(number).unwrap();
    }
}

fn job(number: u64, random: &mut Random) -> Vec<u8> {
    // Most fit an entry, some need a run for the entry, few a block of their own.
    let len = match random.below(10) {
        0 => 40_000,
        1 | 2 => 300 + random.below(2000),
        _ => random.below(200),
    };
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + len as usize, number as u8);
    bytes
}

/// Kills workers at random moments while a survivor works on. Every item is finished exactly once, or becomes a dead letter
/// exactly once; what is not reported is the item that a victim was acknowledging. Gives the number of dead letters.
fn kill_workers(kills: u32, max_deliveries: u32, survivor: bool, seed: u64) -> usize {
    let segment = Segment::family().unwrap();
    let mut random = Random::new(seed);
    let builder = Queue::builder().bytes(64 << 10).leases(16).max_deliveries(max_deliveries);
    let (jobs, done) = (builder.build::<Vec<u8>>().unwrap(), Queue::<u64>::new(0).unwrap());
    let start = |seed: u64| {
        let note = Mutex::new(u64::MAX).unwrap();
        let args = (jobs.clone(), done.clone(), note.clone(), seed);
        (Process::builder().daemon(true).spawn(worker, args).unwrap(), note)
    };
    let survivor = survivor.then(|| start(1));
    let mut put = 0;
    let mut seen = BTreeMap::<u64, u32>::new();
    let mut letters = BTreeMap::<u64, u32>::new();
    let mut noted = BTreeSet::new();
    let mut count = |letters: &mut BTreeMap<u64, u32>| {
        while let Ok(number) = done.try_get() {
            *seen.entry(number).or_default() += 1;
        }
        for letter in jobs.dead_letters() {
            let letter = letter.unwrap();
            assert_eq!(letter.deliveries, max_deliveries);
            *letters.entry(number_of(&letter.value)).or_default() += 1;
        }
    };
    for round in 0..kills {
        let (victim, note) = start(u64::from(round) + 2);
        for _ in 0..20 {
            if jobs.try_put(job(put, &mut random)).is_ok() {
                put += 1;
            }
        }
        // It has begun, or everything is done.
        while done.is_empty() && !jobs.is_empty() {
            std::hint::spin_loop();
        }
        random.moment();
        victim.kill().unwrap();
        // Some are found by whoever waits, some by the parent.
        if random.below(2) == 0 || survivor.is_none() {
            let _ = victim.join();
        }
        noted.insert(*note.lock().unwrap_or_else(|e| e.into_guard().unwrap()));
        count(&mut letters);
    }
    if let Some((survivor, note)) = survivor {
        // What it has in hand comes back too.
        survivor.kill().unwrap();
        let _ = survivor.join();
        noted.insert(*note.lock().unwrap_or_else(|e| e.into_guard().unwrap()));
    }
    segment.sweep();
    count(&mut letters);
    while let Ok(lease) = jobs.try_lease() {
        *seen.entry(number_of(&lease)).or_default() += 1;
        lease.ack().unwrap();
    }
    assert_eq!((jobs.is_empty(), jobs.len()), (true, 0));
    assert!(seen.values().all(|times| *times == 1), "something was finished twice: {seen:?}");
    assert!(letters.values().all(|times| *times == 1), "a dead letter came twice: {letters:?}");
    for number in 0..put {
        match (seen.contains_key(&number), letters.contains_key(&number)) {
            (true, true) => panic!("item {number} was finished and is a dead letter"),
            (false, false) => assert!(noted.contains(&number), "item {number} of {put} is gone"),
            _ => {}
        }
    }
    // Everything moves through ring and table as before.
    for k in 0..40 {
        jobs.put(job(k, &mut random)).unwrap();
        if max_deliveries != 1 {
            drop(jobs.lease().unwrap());
        }
        assert_eq!(number_of(&jobs.lease().unwrap().into_inner()), k);
    }
    letters.len()
}

#[test]
fn items_of_three_hundred_killed_holders_are_finished_once_each() {
    let _guard = watchdog(Duration::from_secs(300));
    let before = Segment::family().unwrap().stats().redelivered;
    assert_eq!(kill_workers(150, 0, true, 29), 0);
    assert!(Segment::family().unwrap().stats().redelivered > before, "no kill hit a holder");
    let letters = kill_workers(150, 1, false, 31);
    assert!(letters > 0, "no kill hit a holder");
}

#[test]
fn every_death_of_a_holder_is_a_delivery_and_the_last_makes_a_dead_letter() {
    let _guard = watchdog(Duration::from_secs(120));
    let jobs: Queue<u32> = Queue::builder().leases(8).max_deliveries(3).build().unwrap();
    (0..6).for_each(|k| jobs.put(k).unwrap());
    fn hold((jobs, told): (Queue<u32>, Queue<u32>)) {
        // Two at a time, from two threads, and never an end.
        let held: Vec<Lease<u32>> = std::thread::scope(|scope| {
            let taken: Vec<_> = (0..2).map(|_| scope.spawn(|| jobs.lease().unwrap())).collect();
            taken.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        held.iter().for_each(|lease| told.put(lease.deliveries()).unwrap());
        loop {
            std::thread::park();
        }
    }
    let told = Queue::<u32>::new(0).unwrap();
    let mut deliveries = [0; 4];
    for _ in 0..9 {
        let victim = Process::builder().daemon(true).spawn(hold, (jobs.clone(), told.clone())).unwrap();
        for _ in 0..2 {
            deliveries[told.get_timeout(SOON).unwrap() as usize] += 1;
        }
        victim.kill().unwrap();
        assert!(victim.join().is_err());
    }
    assert_eq!(deliveries, [0, 6, 6, 6], "each item was handed out three times");
    assert!(jobs.is_empty());
    let mut letters: Vec<u32> = jobs.dead_letters().map(|letter| letter.unwrap().value).collect();
    letters.sort_unstable();
    assert_eq!(letters, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn whoever_waits_finds_the_item_of_a_dead_holder_by_itself() {
    let _guard = watchdog(Duration::from_secs(60));
    let jobs = queue::<u32>(1);
    fn hold((jobs, held): (Queue<u32>, kinfolk::Connection<(), ()>)) {
        std::mem::forget(jobs.lease().unwrap());
        held.send(()).unwrap();
        let _ = held.recv();
    }
    for round in 0..2 {
        jobs.put(round).unwrap();
        let (here, there) = pipe::<(), ()>().unwrap();
        let victim = Process::builder().daemon(true).spawn(hold, (jobs.clone(), there)).unwrap();
        here.recv().unwrap();
        // One waits for an item, or for the only entry of the table.
        if round == 1 {
            jobs.put(9).unwrap();
        }
        victim.kill().unwrap();
        // Not joined: nobody else looks.
        let lease = jobs.lease_timeout(SOON).unwrap();
        assert_eq!((*lease, lease.deliveries()), (round, 2));
        lease.ack().unwrap();
        let _ = victim.join();
    }
    assert_eq!(jobs.lease().unwrap().into_inner(), 9);
}

#[test]
fn a_slow_holder_does_not_hold_up_the_others() {
    let _guard = watchdog(Duration::from_secs(60));
    let jobs: Queue<u64> = Queue::builder().bytes(4096).leases(4).build().unwrap();
    fn hold((jobs, held): (Queue<u64>, kinfolk::Connection<(), bool>)) {
        let lease = jobs.lease().unwrap();
        held.send(()).unwrap();
        // For as long as the others need.
        assert!(held.recv().unwrap());
        assert_eq!(lease.into_inner(), 0);
    }
    jobs.put(0).unwrap();
    let (here, there) = pipe::<bool, ()>().unwrap();
    let slow = Process::spawn(hold, (jobs.clone(), there)).unwrap();
    here.recv().unwrap();
    // Ten times what the ring holds.
    for k in 1..=640 {
        jobs.put_timeout(k, SOON).unwrap();
        let lease = jobs.lease_timeout(SOON).unwrap();
        assert_eq!(*lease, k);
        lease.ack().unwrap();
    }
    here.send(true).unwrap();
    slow.join().unwrap();
    assert!(jobs.is_empty());
}
