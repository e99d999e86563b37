//! Rings of fixed-size values between real processes: exact accounts, roles, and random deaths.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kinfolk::channel::stamped::{Counts, Mpsc, PopError, PushError, Ring, RoleError, Spmc, Spsc};
use kinfolk::{Process, Queue, Segment};
use support::random::Random;
use support::watchdog;

/// Longer than a survivor may be held up by a death: two looks of 64 ms, and a loaded machine.
const SOON: Duration = Duration::from_secs(5);

/// A message that fills its cache line; every word follows from the first.
type Message = [u64; 7];

fn message(from: u64, number: u64) -> Message {
    let first = from << 40 | number;
    std::array::from_fn(|k| first.wrapping_mul(k as u64 + 1))
}

/// Who pushed the message, and which of its messages it is.
#[track_caller]
fn parts(message: Message) -> (u64, u64) {
    let first = message[0];
    assert_eq!(message, self::message(first >> 40, first & ((1 << 40) - 1)), "a message in pieces");
    (first >> 40, first & ((1 << 40) - 1))
}

#[test]
fn values_come_in_order_and_the_numbers_are_exact() {
    let ring = Ring::<u32>::new(100).unwrap();
    assert_eq!((ring.capacity(), ring.len(), ring.is_empty(), ring.is_full()), (128, 0, true, false));
    for number in 0..128 {
        ring.push(number).unwrap();
    }
    assert!(matches!(ring.try_push(7), Err(PushError::Full(7))));
    assert!(matches!(ring.push_timeout(7, Duration::from_millis(1)), Err(PushError::Timeout(7, None))));
    assert_eq!((ring.len(), ring.is_empty(), ring.is_full()), (128, false, true));
    for number in 0..128 {
        assert_eq!(ring.pop().unwrap(), number);
    }
    assert!(matches!(ring.try_pop(), Err(PopError::Empty)));
    assert!(matches!(ring.pop_timeout(Duration::from_millis(1)), Err(PopError::Timeout(None))));
    assert_eq!(ring.counts().unwrap(), Counts { claimed: 128, taken: 128, ..ring.counts().unwrap() });
}

#[test]
fn a_loan_is_committed_or_given_up() {
    let ring = Ring::<Message>::new(64).unwrap();
    let mut loan = ring.loan().unwrap();
    loan.write(&message(1, 1));
    ring.push(message(1, 2)).unwrap();
    assert!(matches!(ring.try_pop(), Err(PopError::Empty)), "the first is not there yet");
    loan.commit();
    drop(ring.try_loan().unwrap());
    ring.push(message(1, 3)).unwrap();
    for number in 1..=3 {
        assert_eq!(parts(ring.pop().unwrap()), (1, number));
    }
    let counts = ring.counts().unwrap();
    assert_eq!((counts.claimed, counts.aborted, counts.committed()), (4, 1, 3));
}

#[test]
fn a_peek_holds_its_slot_until_it_is_released() {
    let ring = Mpsc::<Message>::with_capacity(64).unwrap();
    for number in 0..64 {
        ring.push(message(1, number)).unwrap();
    }
    let mut consumer = ring.consumer().unwrap();
    let peek = consumer.peek().unwrap();
    assert_eq!((parts(peek.get().unwrap()), peek.is_redelivered(), peek.slice().len()), ((1, 0), false, 56));
    assert!(ring.is_full() && ring.len() == 63);
    peek.release().unwrap();
    assert!(!ring.is_full());
    drop(consumer.peek_timeout(SOON).unwrap());
    assert_eq!(parts(consumer.pop().unwrap()), (1, 2));
    // Leaked: never done, so the next consumer gets it first, marked.
    std::mem::forget(consumer.try_peek().unwrap());
    drop(consumer);
    let mut consumer = ring.consumer().unwrap();
    let peek = consumer.try_peek().unwrap();
    assert_eq!((parts(peek.get().unwrap()), peek.is_redelivered()), ((1, 3), true));
    drop(peek);
    assert_eq!(parts(consumer.pop().unwrap()), (1, 4));
}

#[test]
fn bytes_that_are_no_value_are_an_error_and_are_consumed() {
    let ring = Ring::<bool>::new(64).unwrap();
    let loan = ring.loan().unwrap();
    loan.slice().write(0, &[2]);
    loan.commit();
    ring.push(true).unwrap();
    assert!(matches!(ring.pop(), Err(PopError::Invalid(e)) if e.to_string().contains("bool")));
    assert!(ring.pop().unwrap());
    let loan = ring.loan().unwrap();
    loan.slice().write(0, &[3]);
    loan.commit();
    ring.push(false).unwrap();
    let mut values = vec![];
    assert!(matches!(ring.try_pop_all(&mut values, 9), Err(PopError::Invalid(_))));
    assert_eq!((ring.try_pop_all(&mut values, 9).unwrap(), &values[..]), (1, &[false][..]));
}

#[test]
fn batches_take_what_fits() {
    fn check(mut push: impl FnMut(&[u64]) -> usize, mut pop: impl FnMut(&mut Vec<u64>, usize) -> usize) {
        let all: Vec<u64> = (0..1000).collect();
        let (mut pushed, mut popped) = (0, vec![]);
        for most in (1..90).cycle() {
            pushed += push(&all[pushed..(pushed + most).min(1000)]);
            assert!(pushed - popped.len() <= 64);
            pop(&mut popped, most / 2 + 1);
            if popped.len() == 1000 {
                break;
            }
        }
        assert_eq!(popped, all);
    }
    let ring = Ring::<u64>::new(64).unwrap();
    check(|v| ring.try_push_all(v).unwrap(), |v, n| ring.try_pop_all(v, n).unwrap());
    let ring = Spsc::<u64>::with_capacity(64).unwrap();
    let (mut producer, mut consumer) = (ring.producer().unwrap(), ring.consumer().unwrap());
    check(|v| producer.try_push_all(v).unwrap(), |v, n| consumer.try_pop_all(v, n).unwrap());
    assert_eq!(producer.try_push_all(&[5; 100]).unwrap(), 64);
}

#[test]
fn a_ring_travels_and_is_told_from_others() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let rings = Queue::new(0).unwrap();
    let child = Process::spawn(
        |rings: Queue<Spmc<u64>>| {
            let ring = rings.get().unwrap();
            let mut producer = ring.producer().unwrap();
            (0..1000).for_each(|number| producer.push(number).unwrap());
        },
        rings.clone(),
    )
    .unwrap();
    let ring = Spmc::<u64>::with_capacity(0).unwrap();
    rings.put(ring.clone()).unwrap();
    for number in 0..1000 {
        assert_eq!(ring.pop().unwrap(), number);
    }
    child.join().unwrap();
    let segment = Segment::family().unwrap();
    let wrong = Spsc::<u64>::open(&segment, ring.id()).unwrap_err();
    assert_eq!(wrong.kind(), kinfolk::ErrorKind::TypeMismatch);
    assert!(Spmc::<i64>::open(&segment, ring.id()).is_err());
    Spmc::<u64>::open(&segment, ring.id()).unwrap();
}

#[test]
fn whoever_waits_for_nobody_is_told() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let ring = Ring::<u64>::new(64).unwrap();
    let fill = |ring: Ring<u64>| while ring.try_push(1).is_ok() {};
    let child = Process::spawn(fill, ring.clone()).unwrap();
    child.join().unwrap();
    assert!(matches!(ring.push(7), Err(PushError::Disconnected(7, None))));
    for _ in 0..64 {
        ring.pop().unwrap();
    }
    assert!(matches!(ring.pop(), Err(PopError::Disconnected(None))));
}

#[test]
fn two_producers_and_two_consumers_account_for_every_message() {
    let _watchdog = watchdog(Duration::from_secs(120));
    const EACH: u64 = 100_000;
    fn produce((ring, me): (Ring<Message>, u64)) {
        (0..EACH).for_each(|number| ring.push(message(me, number)).unwrap());
    }
    /// Count and sum of what came from each producer, whose messages must come in order.
    fn consume((ring, sums): (Ring<Message>, Queue<[(u64, u64); 2]>)) {
        let (mut seen, mut last) = ([(0, 0); 2], [None; 2]);
        loop {
            match parts(ring.pop().unwrap()) {
                (9, _) => break,
                (from, number) => {
                    let from = from as usize;
                    assert!(last[from] < Some(number), "{number} after {:?}", last[from]);
                    last[from] = Some(number);
                    seen[from] = (seen[from].0 + 1, seen[from].1 + number);
                }
            }
        }
        sums.put(seen).unwrap();
    }
    let (ring, sums) = (Ring::new(256).unwrap(), Queue::new(0).unwrap());
    let producers = [0, 1].map(|me| Process::spawn(produce, (ring.clone(), me)).unwrap());
    let consumers = [0, 1].map(|_| Process::spawn(consume, (ring.clone(), sums.clone())).unwrap());
    producers.into_iter().for_each(|child| child.join().unwrap());
    (0..2).for_each(|_| ring.push(message(9, 0)).unwrap());
    let all = [sums.get().unwrap(), sums.get().unwrap()];
    consumers.into_iter().for_each(|child| child.join().unwrap());
    for (one, other) in all[0].iter().zip(&all[1]) {
        assert_eq!((one.0 + other.0, one.1 + other.1), (EACH, EACH * (EACH - 1) / 2));
    }
    let counts = ring.counts().unwrap();
    assert_eq!((counts.claimed, counts.taken, counts.committed()), (2 * EACH + 2, 2 * EACH + 2, 2 * EACH + 2));
    assert!(ring.is_empty());
}

#[test]
fn one_producer_and_one_consumer_account_for_every_message() {
    let _watchdog = watchdog(Duration::from_secs(120));
    const ALL: u64 = 1_000_000;
    let ring = Spsc::<Message>::with_capacity(256).unwrap();
    let child = Process::spawn(
        |ring: Spsc<Message>| {
            let mut producer = ring.producer().unwrap();
            (0..ALL).for_each(|number| producer.push(message(3, number)).unwrap());
        },
        ring.clone(),
    )
    .unwrap();
    let mut consumer = ring.consumer().unwrap();
    for number in 0..ALL {
        assert_eq!(parts(consumer.pop().unwrap()), (3, number));
    }
    child.join().unwrap();
    // More than a half turn of the counts in the cursors.
    assert_eq!(ring.counts().unwrap(), Counts { claimed: ALL, taken: ALL, ..Counts::default() });
}

#[test]
fn a_role_has_one_holder_who_is_named() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let ring = Spsc::<u64>::with_capacity(64).unwrap();
    let mine = ring.producer().unwrap();
    let me = std::process::id();
    assert!(matches!(ring.producer(), Err(RoleError::Occupied(Some(holder))) if holder.pid == me));
    let ask =
        |(ring, answers): (Spsc<u64>, Queue<String>)| answers.put(ring.producer().unwrap_err().to_string()).unwrap();
    let answers = Queue::new(0).unwrap();
    Process::spawn(ask, (ring.clone(), answers.clone())).unwrap().join().unwrap();
    assert_eq!(answers.get().unwrap(), format!("enter ring: MainProcess (pid {me}) has the role"));
    drop(mine);
    drop(ring.producer().unwrap());
}

#[test]
fn a_producer_killed_at_any_moment_costs_at_most_what_it_was_pushing() {
    let _watchdog = watchdog(Duration::from_secs(240));
    let mut random = Random::new(5);
    let ring = Spsc::<Message>::with_capacity(64).unwrap();
    fn produce((ring, from): (Spsc<Message>, u64)) {
        let mut producer = ring.producer().unwrap();
        for number in 0.. {
            let mut loan = producer.loan().unwrap();
            // In the loan: that is where most kills shall hit.
            (0..50).for_each(|_| loan.write(&message(from, number)));
            loan.commit();
        }
    }
    let mut consumer = ring.consumer().unwrap();
    let mut came = 0;
    // Until a kill has hit a push, too.
    for from in (1..).take_while(|from| *from <= 100 || ring.counts().unwrap().lost == 0) {
        let child = Process::spawn(produce, (ring.clone(), from)).unwrap();
        let (mut next, until) = (0, Duration::from_nanos(random.below(300_000)));
        let mut expect = |got: Message| {
            assert_eq!(parts(got), (from, next));
            next += 1;
        };
        expect(consumer.pop().unwrap());
        let start = Instant::now();
        while start.elapsed() < until {
            if let Ok(got) = consumer.try_pop() {
                expect(got);
            }
        }
        let pid = child.pid();
        child.kill().unwrap();
        // Not joined yet: whoever waits has to find out.
        let killed = Instant::now();
        loop {
            match consumer.pop() {
                Ok(got) => expect(got),
                Err(PopError::Disconnected(Some(dead))) => break assert_eq!(dead, pid),
                Err(e) => panic!("{e}"),
            }
        }
        assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
        let _ = child.join();
        came += next;
        let counts = ring.counts().unwrap();
        assert_eq!((counts.committed(), counts.taken), (came, came));
        assert!(counts.lost <= from && counts.redelivered == 0);
    }
}

#[test]
fn a_consumer_killed_at_any_moment_loses_at_most_what_it_had_popped() {
    let _watchdog = watchdog(Duration::from_secs(240));
    let mut random = Random::new(6);
    fn consume((ring, popped): (Ring<Message>, Ring<u64>)) {
        loop {
            let peek = ring.peek().unwrap();
            // While it is held: that is where most kills shall hit.
            let number = (0..50).map(|_| parts(peek.get().unwrap()).1).max().unwrap();
            peek.release().unwrap();
            popped.push(number).unwrap();
        }
    }
    let (mut round, mut hits) = (0, 0);
    // Until a kill has hit one with a value, too.
    while round < 100 || hits == 0 {
        round += 1;
        let (ring, popped) = (Ring::<Message>::new(64).unwrap(), Ring::<u64>::new(1 << 15).unwrap());
        let child = Process::spawn(consume, (ring.clone(), popped.clone())).unwrap();
        let (mut pushed, mut seen) = (0, BTreeMap::<u64, u32>::new());
        let mut push = || pushed += u64::from(ring.try_push(message(1, pushed)).is_ok());
        while popped.is_empty() {
            push();
        }
        let (start, until) = (Instant::now(), Duration::from_nanos(random.below(300_000)));
        while start.elapsed() < until {
            push();
        }
        child.kill().unwrap();
        let _ = child.join();
        while let Ok(number) = popped.try_pop() {
            *seen.entry(number).or_default() += 1;
        }
        let mut marked = 0;
        while let Ok(peek) = ring.try_peek() {
            marked += u64::from(peek.is_redelivered());
            *seen.entry(parts(peek.get().unwrap()).1).or_default() += 1;
        }
        let missing = (0..pushed).filter(|number| !seen.contains_key(number)).count();
        assert!(missing <= 1, "{missing} of {pushed} are missing");
        assert!(seen.values().all(|times| *times == 1), "something came twice");
        assert_eq!(marked, ring.counts().unwrap().redelivered);
        assert!(marked <= 1);
        hits += marked;
        ring.push(message(1, 7)).unwrap();
        assert_eq!(parts(ring.pop().unwrap()), (1, 7));
    }
}

#[test]
fn the_one_consumer_is_followed_by_another_who_gets_what_it_had_not_finished() {
    let _watchdog = watchdog(Duration::from_secs(240));
    let mut random = Random::new(8);
    let ring = Mpsc::<Message>::with_capacity(64).unwrap();
    let popped = Spsc::<u64>::with_capacity(1 << 15).unwrap();
    fn consume((ring, popped): (Mpsc<Message>, Spsc<u64>)) {
        let (mut consumer, mut popped) = (ring.consumer().unwrap(), popped.producer().unwrap());
        loop {
            let peek = consumer.peek().unwrap();
            let number = (0..50).map(|_| parts(peek.get().unwrap()).1).max().unwrap();
            popped.push(number).unwrap();
            peek.release().unwrap();
        }
    }
    let mut reader = popped.consumer().unwrap();
    let (mut pushed, mut next, mut twice) = (0u64, 0u64, 0u64);
    let mut round = 0;
    // Until a kill has hit between the two.
    while round < 100 || twice == 0 {
        round += 1;
        let child = Process::spawn(consume, (ring.clone(), popped.clone())).unwrap();
        let start = pushed;
        let mut read = |number: u64| {
            // The one that was open when the last consumer died may come again, and nothing else.
            assert!(number == next || number + 1 == next, "{number}, expected {next}");
            twice += u64::from(number + 1 == next);
            next = number + 1;
        };
        while pushed < start + 10 {
            pushed += u64::from(ring.try_push(message(1, pushed)).is_ok());
        }
        // It has begun.
        read(reader.pop().unwrap());
        let (begun, until) = (Instant::now(), Duration::from_nanos(random.below(200_000)));
        while begun.elapsed() < until {
            pushed += u64::from(ring.try_push(message(1, pushed)).is_ok());
            if let Ok(number) = reader.try_pop() {
                read(number);
            }
        }
        child.kill().unwrap();
        let _ = child.join();
        while let Ok(number) = reader.try_pop() {
            read(number);
        }
    }
    let mut consumer = ring.consumer().unwrap();
    while let Ok(got) = consumer.try_pop() {
        let number = parts(got).1;
        assert!(number == next || number + 1 == next);
        next = number + 1;
    }
    assert_eq!(next, pushed);
    let counts = ring.counts().unwrap();
    assert_eq!((counts.claimed, counts.taken), (pushed, pushed));
}
