//! The channels for one producer and one consumer: what one process sees, and what is left when the other side is killed.

mod support;

use std::time::{Duration, Instant};

use kinfolk::channel::{PopError, PushError, bytes, spsc};
use kinfolk::{ErrorKind, JoinError, Process, Queue, Segment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use support::random::Random;
use support::watchdog;

const KILLS: u64 = 200;
/// Survivors go on within this time after a death.
const SOON: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(20);

/// One test at a time: they share the family's segment, and with it the ledger that some of them read.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

#[test]
fn a_full_ring_gives_the_value_back_and_an_empty_one_says_so() {
    let _alone = alone();
    let (mut producer, mut consumer) = spsc::channel::<u64>(3).unwrap();
    assert_eq!((producer.capacity(), consumer.len(), consumer.is_empty()), (4, 0, true));
    assert!(matches!(consumer.try_pop(), Err(PopError::Empty)));
    assert!(matches!(consumer.pop_timeout(SHORT), Err(PopError::Timeout(_))));
    for round in 0..10 {
        assert_eq!(producer.try_push_slice(&[round, 1, 2, 3, 4, 5]).unwrap(), 4);
        assert!(matches!(producer.try_push(9), Err(PushError::Full(9))));
        assert!(matches!(producer.push_timeout(8, SHORT), Err(PushError::Timeout(8, Some(_)))));
        assert_eq!(consumer.len(), 4);
        assert_eq!(consumer.pop().unwrap(), round);
        // Exact at once, whatever was published of it.
        producer.try_push(7).unwrap();
        let mut all = [0; 8];
        assert_eq!(consumer.pop_into(&mut all).unwrap(), 4);
        assert_eq!(all[..4], [1, 2, 3, 7]);
    }
}

#[test]
fn records_of_every_length_arrive_whole() {
    let _alone = alone();
    let (mut producer, mut consumer) = bytes::channel(1000).unwrap();
    assert_eq!((producer.capacity(), producer.longest()), (1024, 504));
    assert!(matches!(producer.push(&[0; 505]), Err(PushError::Failed((), e)) if e.kind() == ErrorKind::InvalidInput));
    for len in (0..=504).chain([504, 504, 0, 504]) {
        let record: Vec<u8> = (0..len).map(|k| (k * 31 + len) as u8).collect();
        producer.try_push(&record).unwrap();
        assert_eq!(consumer.pop().unwrap(), record);
    }
    let records: Vec<Vec<u8>> = (0..20u8).map(|k| vec![k; 40]).collect();
    producer.push_all(records.iter().map(Vec::as_slice)).unwrap();
    for record in &records {
        assert_eq!(&consumer.try_pop().unwrap(), record);
    }
    assert!(matches!(consumer.try_pop(), Err(PopError::Empty)));
    while producer.try_push(&[1; 100]).is_ok() {}
    assert!(matches!(producer.push_timeout(&[1; 100], SHORT), Err(PushError::Timeout((), Some(_)))));
    assert!(!consumer.is_empty() && consumer.used() > 900);
}

#[test]
fn what_is_lent_counts_when_it_is_committed_and_what_is_shown_goes_when_it_is_released() {
    let _alone = alone();
    let (mut producer, mut consumer) = spsc::channel::<[u32; 4]>(8).unwrap();
    drop(producer.loan().unwrap());
    let mut loan = producer.loan().unwrap();
    loan.write(&[1, 2, 3, 4]);
    loan.bytes().write(4, &7u32.to_ne_bytes());
    loan.commit();
    assert_eq!(consumer.len(), 1);
    let peek = consumer.peek().unwrap();
    assert_eq!((peek.get().unwrap(), peek.is_redelivered()), ([1, 7, 3, 4], false));
    // SAFETY: nobody writes a slot that is not released.
    assert_eq!(unsafe { peek.bytes().as_slice() }[..4], 1u32.to_ne_bytes());
    drop(peek);
    consumer.try_peek().unwrap().release();
    assert!(matches!(consumer.try_peek(), Err(PopError::Empty)));

    let (mut producer, mut consumer) = bytes::channel(256).unwrap();
    producer.reserve(100).unwrap().abort();
    let place = producer.try_reserve(100).unwrap();
    place.bytes().write(0, b"short");
    place.commit_first(5);
    let peek = consumer.peek().unwrap();
    assert_eq!((peek.bytes().read_to_vec(), peek.is_redelivered()), (b"short".to_vec(), false));
    drop(peek);
    consumer.try_peek().unwrap().release();
    assert!(matches!(consumer.peek_timeout(SHORT), Err(PopError::Timeout(_))));
}

#[test]
fn bytes_that_are_no_value_are_an_error_and_gone() {
    let _alone = alone();
    let (mut producer, mut consumer) = spsc::channel::<bool>(8).unwrap();
    let mut all = [false; 8];
    for bad in [2u8, 255] {
        producer.push(true).unwrap();
        let loan = producer.loan().unwrap();
        loan.bytes().write(0, &[bad]);
        loan.commit();
        producer.push(true).unwrap();
        assert_eq!(consumer.pop_into(&mut all).unwrap(), 1);
        assert!(matches!(consumer.try_pop(), Err(PopError::Invalid(_))));
        assert!(consumer.pop().unwrap());
    }
}

#[test]
fn a_second_producer_or_consumer_is_told_who_is_there() {
    let _alone = alone();
    let (mut producer, mut consumer) = spsc::channel::<u64>(8).unwrap();
    let (mut second, mut other) = (consumer.other_end().unwrap(), producer.other_end().unwrap());
    producer.push(1).unwrap();
    assert_eq!(consumer.pop().unwrap(), 1);
    let me = std::process::id();
    assert!(matches!(second.push(2), Err(PushError::InUse(2, Some(holder))) if holder.pid == me));
    assert!(matches!(other.claim(), Err(PopError::InUse(Some(holder))) if holder.pid == me));
    // The seat is free when its holder is dropped, and the stream goes on.
    drop((producer, consumer));
    second.push(2).unwrap();
    assert_eq!(other.pop().unwrap(), 2);
    let id = other.id();
    assert!(
        matches!(spsc::Producer::<i64>::open(&Segment::family().unwrap(), id), Err(e) if e.kind() == ErrorKind::TypeMismatch)
    );
    assert!(
        matches!(bytes::Consumer::open(&Segment::family().unwrap(), id), Err(e) if e.kind() == ErrorKind::TypeMismatch)
    );
}

#[test]
fn passing_an_end_gives_its_seat_up() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(60));
    let (mut producer, mut consumer) = spsc::channel::<u64>(8).unwrap();
    let mut kept = consumer.other_end().unwrap();
    producer.push(1).unwrap();
    fn child((mut producer, go): (spsc::Producer<u64>, Queue<()>)) {
        producer.push(2).unwrap();
        go.get().unwrap();
    }
    let go = Queue::new(0).unwrap();
    let child = Process::spawn(child, (producer, go.clone())).unwrap();
    assert_eq!((consumer.pop().unwrap(), consumer.pop().unwrap()), (1, 2));
    assert!(matches!(kept.push(3), Err(PushError::InUse(3, Some(holder))) if holder.pid == child.pid()));
    go.put(()).unwrap();
    child.join().unwrap();
    kept.push(3).unwrap();
    assert_eq!(consumer.pop().unwrap(), 3);
    // Through a queue too; the wrong end is refused.
    let queue = Queue::<spsc::Producer<u64>>::new(0).unwrap();
    queue.put(kept).unwrap();
    assert!(matches!(consumer.pop_timeout(SHORT), Err(PopError::Timeout(None))), "the message carries the end");
    queue.get().unwrap().push(4).unwrap();
    assert_eq!(consumer.pop().unwrap(), 4);
    assert!(matches!(consumer.pop(), Err(PopError::Disconnected(_))));
}

#[test]
fn each_side_is_told_when_the_other_goes() {
    let _alone = alone();
    let (mut producer, mut consumer) = spsc::channel::<u64>(8).unwrap();
    producer.push(1).unwrap();
    drop(producer);
    assert_eq!(consumer.try_pop().unwrap(), 1);
    assert!(matches!(consumer.try_pop(), Err(PopError::Disconnected(None))));
    assert!(matches!(consumer.pop_spin(), Err(PopError::Disconnected(None))));
    let mut producer = consumer.other_end().unwrap();
    assert!(matches!(consumer.try_pop(), Err(PopError::Empty)));
    producer.push(2).unwrap();
    assert_eq!(consumer.pop_spin().unwrap(), 2);
    drop(consumer);
    assert!(matches!(producer.push(3), Err(PushError::Disconnected(3, None))));
    let mut consumer = producer.other_end().unwrap();
    producer.push_spin(4).unwrap();
    assert_eq!(consumer.pop().unwrap(), 4);
}

/// Keeps a message in hand, now and then for long, so that some kills hit it there.
fn linger(number: u64) {
    let turns = if number % 30 == 1 { 2000 } else { 100 };
    (0..turns).for_each(|_| std::hint::spin_loop());
}

/// One side of either channel, for tests that are the same for both: it carries numbers.
trait Push: Serialize + DeserializeOwned + Sized + 'static {
    type Other: Pop<Other = Self>;
    fn make() -> (Self, Self::Other);
    /// Pushes numbers from `next` on, in one of the ways; the next one.
    fn push_some(&mut self, next: u64) -> Result<u64, PushError<u64>>;
    fn try_push_one(&mut self, number: u64) -> bool;
    /// Pushes a number, waiting for room; false if nobody is there any more.
    fn push_one(&mut self, number: u64) -> bool;
    fn successor(&self) -> Self::Other;
}

trait Pop: Serialize + DeserializeOwned + Sized + 'static {
    type Other: Push<Other = Self>;
    fn pop_one(&mut self) -> Result<u64, PopError>;
    fn try_pop_one(&mut self) -> Result<u64, PopError>;
    /// Shows the next number and whether it is marked to `f`, then releases it.
    fn peek_one(&mut self, f: &mut dyn FnMut(u64, bool)) -> Result<(), PopError>;
    /// How many numbers wait, if that can be told.
    fn left(&self) -> Option<u64>;
    fn successor(&self) -> Self::Other;
}

type Slot = [u64; 7];

fn slot(number: u64) -> Slot {
    [number; 7]
}

fn number_of(slot: Slot) -> u64 {
    assert!(slot.iter().all(|word| *word == slot[0]), "a torn value: {slot:?}");
    slot[0]
}

impl Push for spsc::Producer<Slot> {
    type Other = spsc::Consumer<Slot>;

    fn make() -> (Self, Self::Other) {
        spsc::channel(16).unwrap()
    }

    fn push_some(&mut self, next: u64) -> Result<u64, PushError<u64>> {
        match next % 3 {
            0 => self.push(slot(next)).map_err(|e| PushError::Full(e.into_value()[0]))?,
            1 => {
                let Ok(mut loan) = self.loan() else { return Err(PushError::Full(next)) };
                loan.write(&slot(next));
                linger(next);
                loan.commit();
            }
            _ => {
                let many: Vec<Slot> = (next..next + 20).map(slot).collect();
                self.push_slice(&many).map_err(|e| PushError::Full(e.into_value() as u64))?;
                return Ok(next + 20);
            }
        }
        Ok(next + 1)
    }

    fn try_push_one(&mut self, number: u64) -> bool {
        self.try_push(slot(number)).is_ok()
    }

    fn push_one(&mut self, number: u64) -> bool {
        match self.push(slot(number)) {
            Ok(()) => true,
            Err(PushError::Disconnected(back, Some(_))) => back != slot(number),
            Err(e) => panic!("{e}"),
        }
    }

    fn successor(&self) -> Self::Other {
        self.other_end().unwrap()
    }
}

impl Pop for spsc::Consumer<Slot> {
    type Other = spsc::Producer<Slot>;

    fn pop_one(&mut self) -> Result<u64, PopError> {
        self.pop().map(number_of)
    }

    fn try_pop_one(&mut self) -> Result<u64, PopError> {
        self.try_pop().map(number_of)
    }

    fn peek_one(&mut self, f: &mut dyn FnMut(u64, bool)) -> Result<(), PopError> {
        let peek = self.peek()?;
        f(number_of(peek.get()?), peek.is_redelivered());
        peek.release();
        Ok(())
    }

    fn left(&self) -> Option<u64> {
        Some(self.len() as u64)
    }

    fn successor(&self) -> Self::Other {
        self.other_end().unwrap()
    }
}

fn record(number: u64) -> Vec<u8> {
    let mut record = number.to_le_bytes().to_vec();
    record.resize(8 + (number * 7 % 100) as usize, number as u8);
    record
}

fn number_in(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, record(number), "a torn record");
    number
}

impl Push for bytes::Producer {
    type Other = bytes::Consumer;

    fn make() -> (Self, Self::Other) {
        bytes::channel(4096).unwrap()
    }

    fn push_some(&mut self, next: u64) -> Result<u64, PushError<u64>> {
        match next % 3 {
            0 => self.push(&record(next)).map_err(|_| PushError::Full(next))?,
            1 => {
                let Ok(place) = self.reserve(200) else { return Err(PushError::Full(next)) };
                place.bytes().write(0, &record(next));
                linger(next);
                place.commit_first(record(next).len());
            }
            _ => {
                let many: Vec<Vec<u8>> = (next..next + 5).map(record).collect();
                self.push_all(many.iter().map(Vec::as_slice)).map_err(|_| PushError::Full(next))?;
                return Ok(next + 5);
            }
        }
        Ok(next + 1)
    }

    fn try_push_one(&mut self, number: u64) -> bool {
        self.try_push(&record(number)).is_ok()
    }

    fn push_one(&mut self, number: u64) -> bool {
        match self.push(&record(number)) {
            Ok(()) => true,
            Err(PushError::Disconnected((), Some(_))) => false,
            Err(e) => panic!("{e}"),
        }
    }

    fn successor(&self) -> Self::Other {
        self.other_end().unwrap()
    }
}

impl Pop for bytes::Consumer {
    type Other = bytes::Producer;

    fn pop_one(&mut self) -> Result<u64, PopError> {
        self.pop().map(|bytes| number_in(&bytes))
    }

    fn try_pop_one(&mut self) -> Result<u64, PopError> {
        self.try_pop().map(|bytes| number_in(&bytes))
    }

    fn peek_one(&mut self, f: &mut dyn FnMut(u64, bool)) -> Result<(), PopError> {
        let peek = self.peek()?;
        f(number_in(&peek.bytes().read_to_vec()), peek.is_redelivered());
        peek.release();
        Ok(())
    }

    fn left(&self) -> Option<u64> {
        None
    }

    fn successor(&self) -> Self::Other {
        self.other_end().unwrap()
    }
}

fn produce<P: Push>((mut producer, mut next, until): (P, u64, u64)) {
    while next < until {
        next = producer.push_some(next).unwrap();
    }
}

/// Numbers from another process arrive in order, with both sides faster in turn.
fn stream<P: Push>(count: u64) {
    let (producer, mut consumer) = P::make();
    let child = Process::spawn(produce::<P>, (producer, 0, count)).unwrap();
    let mut random = Random::new(3);
    let mut next = 0;
    loop {
        match consumer.pop_one() {
            Ok(number) => assert_eq!(number, next),
            Err(PopError::Disconnected(None)) => break,
            Err(e) => panic!("{e}"),
        }
        next += 1;
        if next % 5000 == 0 {
            random.moment();
        }
    }
    assert!(next >= count);
    child.join().unwrap();
}

#[test]
fn a_stream_from_another_process_is_exact() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    stream::<spsc::Producer<Slot>>(200_000);
    stream::<bytes::Producer>(200_000);
}

/// Each side sleeps, now and then, until the other one comes.
fn ping_pong<P: Push>(rounds: u64) {
    let (mut there, far) = P::make();
    let (back, mut here) = P::make();
    fn answer<P: Push>((mut from, mut to): (P::Other, P)) {
        while let Ok(number) = from.pop_one() {
            while !to.try_push_one(number + 1) {}
        }
    }
    let child = Process::spawn(answer::<P>, (far, back)).unwrap();
    let mut random = Random::new(5);
    for number in 0..rounds {
        assert!(there.try_push_one(number));
        if number % 3 == 0 {
            random.moment();
        }
        assert_eq!(here.pop_one().unwrap(), number + 1);
        if number % 2 == 0 {
            random.moment();
        }
    }
    drop(there);
    child.join().unwrap();
    assert!(matches!(here.pop_one(), Err(PopError::Disconnected(None))));
}

#[test]
fn whoever_sleeps_is_woken() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    ping_pong::<spsc::Producer<Slot>>(1000);
    ping_pong::<bytes::Producer>(1000);
}

fn kill(child: Process<()>) {
    child.kill().unwrap();
    match child.join() {
        Err(JoinError::Signaled { signal: 9, .. }) => {}
        Ok(()) => panic!("the child was done before it was killed"),
        Err(e) => panic!("{e}"),
    }
}

/// Producers are killed one after the other; each begins behind what the one before had committed.
fn kill_producers<P: Push>(kills: u64) {
    let (first, mut consumer) = P::make();
    let mut random = Random::new(29);
    let mut first = Some(first);
    let mut next = 0;
    for round in 0..kills {
        let producer = first.take().unwrap_or_else(|| consumer.successor());
        let begin = next + consumer.left().unwrap_or(0);
        let child = Process::spawn(produce::<P>, (producer, begin, u64::MAX)).unwrap();
        let pid = child.pid();
        let mut take = |number: u64| {
            assert_eq!(number, next, "round {round}");
            next += 1;
        };
        // One of its own, so that it is at work.
        loop {
            let number = consumer.pop_one().unwrap();
            take(number);
            if number >= begin {
                break;
            }
        }
        let until = Instant::now() + Duration::from_nanos(random.below(200_000));
        while Instant::now() < until {
            if let Ok(number) = consumer.try_pop_one() {
                take(number);
            }
        }
        if round % 2 == 0 {
            // What is left is left to be popped in the next round, where it can be counted.
            kill(child);
            if consumer.left().is_some() {
                continue;
            }
        } else {
            child.kill().unwrap();
        }
        let killed = Instant::now();
        loop {
            match consumer.pop_one() {
                Ok(number) => take(number),
                Err(PopError::Disconnected(Some(dead))) => {
                    assert_eq!(dead, pid);
                    break;
                }
                Err(e) => panic!("{e}"),
            }
        }
        assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
    }
}

#[test]
fn a_killed_producer_of_values_is_succeeded_exactly() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    kill_producers::<spsc::Producer<Slot>>(KILLS);
}

#[test]
fn a_killed_producer_of_records_is_succeeded_exactly() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    let before = Segment::family().unwrap().stats().vanished;
    kill_producers::<bytes::Producer>(KILLS);
    let vanished = Segment::family().unwrap().stats().vanished - before;
    assert!(vanished > 0 && vanished <= KILLS, "{vanished} of {KILLS} kills hit a record in the making");
}

fn consume<C: Pop>((mut consumer, seen): (C, Queue<(u64, bool)>)) {
    loop {
        let in_hand = &mut |number: u64, marked| {
            seen.put((number, marked)).unwrap();
            linger(number);
        };
        consumer.peek_one(in_hand).unwrap();
    }
}

/// Consumers are killed one after the other; each says what it has seen before it releases it.
fn kill_consumers<P: Push>(kills: u64) {
    let (mut producer, first) = P::make();
    let mut random = Random::new(31);
    let mut first = Some(first);
    let (mut pushed, mut next, mut again) = (0u64, 0u64, 0u64);
    let segment = Segment::family().unwrap();
    let before = segment.stats().redelivered;
    // Until a kill has hit one with something in hand, too.
    let mut round = 0;
    while round < kills || again == 0 {
        round += 1;
        let seen = Queue::<(u64, bool)>::new(0).unwrap();
        let consumer = first.take().unwrap_or_else(|| producer.successor());
        let child = Process::spawn(consume::<P::Other>, (consumer, seen.clone())).unwrap();
        let mut is_first = true;
        let mut note = |(number, marked): (u64, bool)| {
            assert!(!marked || is_first, "round {round}: {number} is marked");
            if is_first && number + 1 == next {
                assert!(marked, "round {round}: {number} comes again without a mark");
                again += 1;
            } else {
                assert_eq!(number, next, "round {round}");
                next += 1;
            }
            is_first = false;
        };
        let mut begun = None;
        let moment = Duration::from_nanos(random.below(200_000));
        while begun.is_none_or(|begun: Instant| begun.elapsed() < moment) {
            pushed += u64::from(producer.try_push_one(pushed));
            if let Ok(number) = seen.try_get() {
                note(number);
                begun.get_or_insert_with(Instant::now);
            }
        }
        if round % 2 == 0 {
            kill(child);
        } else {
            // The producer finds out by itself, while it waits for room.
            let killed = Instant::now();
            child.kill().unwrap();
            while producer.push_one(pushed) {
                pushed += 1;
            }
            assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
            let _ = child.join();
        }
        while let Ok(number) = seen.try_get() {
            note(number);
        }
    }
    let mut last = producer.successor();
    while next < pushed {
        last.peek_one(&mut |number, marked| {
            if number + 1 == next {
                assert!(marked);
            } else {
                assert_eq!(number, next);
                next += 1;
            }
        })
        .unwrap();
    }
    let counted = segment.stats().redelivered - before;
    assert!(again <= counted && counted <= round, "{again} came again, {counted} were counted");
}

#[test]
fn a_killed_consumer_of_values_is_succeeded_exactly() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    kill_consumers::<spsc::Producer<Slot>>(KILLS);
}

#[test]
fn a_killed_consumer_of_records_is_succeeded_exactly() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(120));
    kill_consumers::<bytes::Producer>(KILLS);
}
