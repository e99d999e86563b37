//! Real processes, real SIGKILL, at random moments: nobody hangs, and nothing that was committed is lost.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kinfolk::{GetError, JoinError, LockError, Mutex, Process, Queue, RecvError, Segment, pipe};
use support::random::Random;
use support::victim::goes_on;
use support::watchdog;

const KILLS: u32 = 200;
/// Survivors go on within this time after a death.
const SOON: Duration = Duration::from_secs(1);

/// One test at a time: they share the family's segment, and with it the ledger that they check.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

fn kill<R: serde::Serialize + serde::de::DeserializeOwned>(child: Process<R>) {
    child.kill().unwrap();
    match child.join() {
        Err(JoinError::Signaled { signal: 9, .. }) => {}
        Ok(_) => panic!("the child was done before it was killed"),
        Err(e) => panic!("{e}"),
    }
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + len, number as u8);
    bytes
}

fn number_of(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes[8..].iter().all(|b| *b == number as u8), "message {number} is torn");
    number
}

#[test]
fn a_producer_killed_in_put_loses_at_most_the_item_in_hand() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    let mut random = Random::new(7);
    let segment = Segment::family().unwrap();
    let mut vanished = 0;
    let mut kills = 0;
    while goes_on(&mut kills, KILLS, vanished > 0) {
        let queue = Queue::builder().bytes(64 << 10).build().unwrap();
        let progress = Mutex::new(0u64).unwrap();
        fn producer((queue, progress, seed): (Queue<Vec<u8>>, Mutex<u64>, u64)) {
            let mut random = Random::new(seed);
            for number in 0.. {
                // Some go through blocks of the arena: half the ring is 32 KiB.
                let len = if random.below(20) == 0 { 40_000 } else { random.below(3000) };
                queue.put(payload(number, len as usize)).unwrap();
                *progress.lock().unwrap() = number + 1;
            }
        }
        let before = segment.stats().vanished;
        let args = (queue.clone(), progress.clone(), u64::from(kills));
        let child = Process::spawn(producer, args).unwrap();
        let mut next = 0;
        let mut take = |bytes: Vec<u8>| {
            assert_eq!(number_of(&bytes), next);
            next += 1;
        };
        take(queue.get().unwrap());
        let until = Instant::now() + Duration::from_nanos(random.below(500_000));
        while Instant::now() < until {
            if let Ok(bytes) = queue.try_get() {
                take(bytes);
            }
        }
        let killed = Instant::now();
        kill(child);
        loop {
            match queue.get() {
                Ok(bytes) => take(bytes),
                Err(GetError::Disconnected(Some(_))) => break,
                Err(e) => panic!("{e}"),
            }
        }
        assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
        let put = match progress.lock() {
            Ok(guard) => *guard,
            Err(e) => *e.into_guard().expect("the lock is had although its owner died"),
        };
        // Killed between the commit and the note of it: one more than noted.
        assert!(next == put || next == put + 1, "{put} were put, {next} arrived");
        let lost = segment.stats().vanished - before;
        assert!(lost <= 1, "{lost} items vanished with one producer");
        vanished += lost;
        queue.put(payload(7, 10)).unwrap();
        assert_eq!(number_of(&queue.get().unwrap()), 7);
    }
    assert!(vanished > 0, "no kill hit the middle of a put: the test proves less than it should");
    assert_eq!(segment.deaths().last().map(|d| d.losses.redelivered), Some(0));
}

#[test]
fn a_consumer_killed_in_get_loses_at_most_the_item_it_had_taken() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    let mut random = Random::new(11);
    let segment = Segment::family().unwrap();
    let mut marked = 0;
    let mut kills = 0;
    while goes_on(&mut kills, KILLS, marked > 0) {
        let queue = Queue::builder().bytes(128 << 10).build().unwrap();
        let taken = Queue::<u64>::new(0).unwrap();
        fn consumer((queue, taken): (Queue<Vec<u8>>, Queue<u64>)) {
            loop {
                taken.put(number_of(&queue.get().unwrap())).unwrap();
            }
        }
        let before = segment.stats().redelivered;
        let child = Process::spawn(consumer, (queue.clone(), taken.clone())).unwrap();
        let moment = random.below(500_000);
        let mut put = 0;
        let mut seen = BTreeMap::<u64, u32>::new();
        let mut put_next = || {
            // Long enough that most of a get is the copy.
            let len = random.below(30_000) as usize;
            if queue.try_put(payload(put, len)).is_ok() {
                put += 1;
            }
        };
        while seen.is_empty() {
            put_next();
            if let Ok(number) = taken.try_get() {
                seen.insert(number, 1);
            }
        }
        let until = Instant::now() + Duration::from_nanos(moment);
        while Instant::now() < until {
            put_next();
            while let Ok(number) = taken.try_get() {
                *seen.entry(number).or_default() += 1;
            }
        }
        let killed = Instant::now();
        kill(child);
        while let Ok(number) = taken.try_get() {
            *seen.entry(number).or_default() += 1;
        }
        let mut redelivered = 0;
        while !queue.is_empty() {
            let delivery = queue.get_delivery(Some(SOON)).unwrap();
            redelivered += u64::from(delivery.redelivered);
            *seen.entry(number_of(&delivery.value)).or_default() += 1;
        }
        assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
        let missing: Vec<u64> = (0..put).filter(|n| !seen.contains_key(n)).collect();
        assert!(missing.len() <= 1, "{missing:?} of {put} are missing");
        assert!(seen.values().all(|times| *times == 1), "something came twice: {seen:?}");
        let counted = segment.stats().redelivered - before;
        assert_eq!(redelivered, counted, "the mark and the ledger agree");
        assert!(counted <= 1);
        marked += counted;
    }
    assert!(marked > 0, "no kill hit the middle of a get: the test proves less than it should");
}

#[test]
fn a_producer_killed_in_put_does_not_hold_up_what_others_go_on_putting() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    let mut random = Random::new(23);
    let queue = Queue::builder().bytes(1 << 20).build::<Vec<u8>>().unwrap();
    fn producer((queue, number): (Queue<Vec<u8>>, u64)) {
        let message = payload(number, 200_000);
        loop {
            queue.put(message.clone()).unwrap();
        }
    }
    // Not all of it, which would take longer than to put it.
    let from = |bytes: &[u8]| u64::from(bytes[0]);
    let survivor = Process::builder().daemon(true).spawn(producer, (queue.clone(), 1)).unwrap();
    let segment = Segment::family().unwrap();
    let before = segment.stats().vanished;
    let mut kills = 0;
    while goes_on(&mut kills, 60, segment.stats().vanished > before) {
        let victim = Process::spawn(producer, (queue.clone(), 2)).unwrap();
        while from(&queue.get().unwrap()) != 2 {}
        let until = Instant::now() + Duration::from_nanos(random.below(300_000));
        while Instant::now() < until {
            queue.get().unwrap();
        }
        let killed = Instant::now();
        victim.kill().unwrap();
        // Not joined yet: whoever is held up has to find out.
        let mut more = 0;
        while more < 20 {
            more += u64::from(from(&queue.get().unwrap()) == 1);
        }
        assert!(killed.elapsed() < SOON, "the others went on after {:?}", killed.elapsed());
        let _ = victim.join();
    }
    assert!(segment.stats().vanished > before, "no kill hit the middle of a put: the test proves less than it should");
    survivor.kill().unwrap();
}

#[test]
fn a_lock_whose_holder_is_killed_goes_to_the_next_who_is_told() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    let mut random = Random::new(13);
    let lock = Mutex::new([0u64; 16]).unwrap();
    // Holds the lock most of the time, changing every word; the sum of a whole value is a multiple of 16.
    fn holder(lock: Mutex<[u64; 16]>) {
        loop {
            let mut value = match lock.lock() {
                Ok(value) => value,
                Err(LockError::OwnerDied(mut value)) => {
                    *value = [value[0]; 16];
                    value.mark_consistent();
                    value
                }
                Err(e) => panic!("{e}"),
            };
            assert!(value.iter().all(|word| *word == value[0]), "half a change was seen");
            value.iter_mut().for_each(|word| *word += 1);
        }
    }
    let survivor = Process::builder().daemon(true).spawn(holder, lock.clone()).unwrap();
    // The other child may be told instead; both counts come from the ledger of the rows.
    let held = || Segment::family().unwrap().deaths().iter().any(|death| death.losses.locks > 0);
    let (mut told, mut kills) = (0, 0);
    while goes_on(&mut kills, KILLS, told > 0 || held()) {
        let victim = Process::spawn(holder, lock.clone()).unwrap();
        random.moment();
        while lock.holder().is_none_or(|h| h.pid != victim.pid()) {
            std::hint::spin_loop();
        }
        random.moment();
        let killed = Instant::now();
        kill(victim);
        let before = loop {
            match lock.lock() {
                Ok(value) => break value[0],
                Err(LockError::OwnerDied(mut value)) => {
                    told += 1;
                    *value = [value[0]; 16];
                    value.mark_consistent();
                }
                Err(e) => panic!("{e}"),
            }
        };
        // The other child goes on too.
        while lock.lock().map_or_else(|e| e.into_guard().unwrap()[0], |value| value[0]) == before {}
        assert!(killed.elapsed() < SOON, "the survivors went on after {:?}", killed.elapsed());
    }
    assert!(told > 0 || held(), "no kill hit a holder: the test proves less than it should");
    survivor.kill().unwrap();
}

#[test]
fn a_reader_gets_what_was_sent_and_then_the_end_of_file_when_the_other_end_is_killed() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    let mut random = Random::new(17);
    for _ in 0..50 {
        let (here, there) = pipe::<(), u64>().unwrap();
        let child = Process::spawn(
            |there: kinfolk::Connection<u64, ()>| {
                for number in 0.. {
                    there.send(number).unwrap();
                }
            },
            there,
        )
        .unwrap();
        let mut next = 0;
        assert_eq!(here.recv().unwrap(), next);
        random.moment();
        let pid = child.pid();
        child.kill().unwrap();
        // Not joined: the reader must find out by itself.
        let end = loop {
            next += 1;
            match here.recv() {
                Ok(number) => assert_eq!(number, next),
                Err(e) => break e,
            }
        };
        assert!(matches!(end, RecvError::Disconnected(Some(dead)) if dead == pid), "{end}");
        assert!(matches!(here.send(()), Err(kinfolk::SendError::Disconnected((), Some(_)))));
    }
}

#[test]
fn a_child_killed_while_it_starts_gives_back_what_it_was_given() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    let mut random = Random::new(19);
    let segment = Segment::family().unwrap();
    for _ in 0..100 {
        let (here, there) = pipe::<(), u64>().unwrap();
        let idle = |there: kinfolk::Connection<u64, ()>| drop(there.recv());
        let child = Process::spawn(idle, there).unwrap();
        random.moment();
        random.moment();
        child.kill().unwrap();
        assert!(matches!(here.recv(), Err(RecvError::Disconnected(_))));
        let _ = child.join();
    }
    let rows = segment.stats().processes;
    assert!(rows < 20, "{rows} rows are taken");
}

#[test]
fn a_family_that_is_killed_leaves_no_name_behind() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    let names = || -> std::collections::BTreeSet<_> {
        let list = |dir| std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| Some(e.ok()?.file_name()));
        list("/dev/shm").chain(list("/tmp")).filter(|name| name.to_string_lossy().contains("kinfolk")).collect()
    };
    let before = names();
    // A parent with a child of its own, both in the middle of things.
    fn parent(pids: Queue<u32>) {
        fn child(queue: Queue<u64>) {
            for number in 0.. {
                queue.put(number).unwrap();
            }
        }
        let queue = Queue::new(0).unwrap();
        let child = Process::spawn(child, queue.clone()).unwrap();
        pids.put(child.pid()).unwrap();
        while queue.get().is_ok() {}
    }
    let pids = Queue::new(0).unwrap();
    let parent = Process::spawn(parent, pids.clone()).unwrap();
    let grandchild = pids.get().unwrap();
    let killed = Instant::now();
    kill(parent);
    // A zombie waits for whoever adopts it: gone is who has no memory any more.
    let lives = || std::fs::read_to_string(format!("/proc/{grandchild}/statm")).is_ok_and(|m| !m.starts_with("0 "));
    while lives() {
        assert!(killed.elapsed() < SOON, "the grandchild lives");
    }
    assert_eq!(names(), before);
}
