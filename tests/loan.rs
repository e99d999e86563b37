//! Messages written and read in place: what a loan and a message in hand promise, also if whoever has them is killed.

mod support;

use std::time::Duration;

use kinfolk::{GetError, Process, PutError, Queue, RecvError, Segment, SendError, pipe};
use support::random::Random;
use support::watchdog;

/// In the ring, at its edge, and in a block.
const SIZES: [usize; 8] = [0, 1, 56, 57, 4096, 524_280, 524_281, 3 << 20];

fn fill(number: u8, len: usize) -> Vec<u8> {
    (0..len).map(|k| (k as u8).wrapping_mul(31).wrapping_add(number)).collect()
}

fn bytes_queue() -> Queue<Vec<u8>> {
    Queue::new(0).unwrap()
}

#[test]
fn what_is_written_in_a_loan_is_what_is_read_in_place() {
    let queue = bytes_queue();
    for (number, len) in SIZES.into_iter().enumerate() {
        let wanted = fill(number as u8, len);
        let mut loan = queue.loan(len).unwrap();
        assert_eq!((loan.len(), loan.is_empty()), (len, len == 0));
        assert!(queue.is_empty(), "nothing is there before the commit");
        for (k, part) in wanted.chunks(10_000).enumerate() {
            loan.write(k * 10_000, part);
        }
        loan.commit();
        let message = queue.get_ref().unwrap();
        assert_eq!((message.len(), message.is_redelivered()), (len, false));
        assert!(message.to_vec() == wanted, "{len} B");
        if len > 0 {
            let mut last = [0];
            message.read(len - 1, &mut last);
            assert_eq!(last[0], wanted[len - 1]);
        }
        drop(message);
        assert!(queue.is_empty());
    }
}

#[test]
fn loans_and_puts_go_into_the_same_order_and_either_way_out() {
    let queue = bytes_queue();
    queue.put(fill(1, 100)).unwrap();
    let mut loan = queue.loan(200).unwrap();
    loan.write(0, &fill(2, 200));
    loan.truncate(150);
    queue.put(fill(3, 1 << 20)).unwrap();
    assert_eq!(queue.get().unwrap(), fill(1, 100));
    // The loan is next, and is not committed.
    assert!(matches!(queue.try_get_ref(), Err(GetError::Empty)));
    loan.commit();
    assert_eq!(queue.get().unwrap(), fill(2, 200)[..150]);
    assert_eq!(queue.get_ref().unwrap().to_vec(), fill(3, 1 << 20));
    assert!(matches!(queue.try_get_ref(), Err(GetError::Empty)));
    assert!(matches!(queue.get_ref_timeout(Duration::from_millis(5)), Err(GetError::Timeout(None))));
}

#[test]
fn a_loan_that_is_dropped_leaves_nothing_and_wakes_who_waits_behind_it() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let segment = Segment::anonymous(64 << 20).unwrap();
    let queue = Queue::builder().segment(&segment).build::<Vec<u8>>().unwrap();
    for len in SIZES {
        let loan = queue.loan(len).unwrap();
        queue.put(fill(9, 10)).unwrap();
        let waiter = queue.clone();
        std::thread::scope(|scope| {
            let got = scope.spawn(move || waiter.get().unwrap());
            drop(loan);
            assert_eq!(got.join().unwrap(), fill(9, 10));
        });
    }
    // 64 MiB would not hold 100 blocks of 3 MiB if they stayed.
    for _ in 0..100 {
        drop(queue.loan(3 << 20).unwrap());
    }
    assert!(queue.is_empty());
}

#[test]
fn there_is_no_loan_without_room_and_none_above_the_limit() {
    let queue = Queue::<Vec<u8>>::new(2).unwrap();
    let (first, second) = (queue.loan(10).unwrap(), queue.try_loan(10).unwrap());
    assert!(matches!(queue.try_loan(10), Err(PutError::Full(()))));
    let timed_out = queue.loan_timeout(10, Duration::from_millis(5)).unwrap_err();
    assert!(
        matches!(&timed_out, PutError::Timeout((), Some(holder)) if holder.pid == std::process::id()),
        "{timed_out}"
    );
    first.commit();
    second.commit();
    let message = queue.get_ref().unwrap();
    drop(message);
    drop(queue.try_loan(10).unwrap());
    assert!(matches!(queue.loan((64 << 20) + 1), Err(PutError::Failed((), _))));
    let leased = Queue::builder().leases(4).build::<Vec<u8>>().unwrap();
    assert!(matches!(leased.try_get_ref(), Err(GetError::Failed(_))));
    queue.close();
    assert!(matches!(queue.loan(1), Err(PutError::Closed(()))));
    assert!(matches!(queue.get_ref(), Err(GetError::Closed)));
}

#[test]
fn pipes_lend_too() {
    let (a, b) = pipe::<Vec<u8>, Vec<u8>>().unwrap();
    for len in [0, 64, 1 << 20] {
        let mut loan = a.loan(len).unwrap();
        loan.write(0, &fill(5, len));
        loan.commit();
        assert_eq!(b.recv_ref().unwrap().to_vec(), fill(5, len));
        assert!(matches!(b.try_recv_ref(), Err(RecvError::Empty)));
        assert!(matches!(b.recv_ref_timeout(Duration::from_millis(2)), Err(RecvError::Timeout(None))));
    }
    let mut full = Vec::new();
    while let Ok(loan) = a.try_loan(100_000) {
        full.push(loan);
    }
    assert!(matches!(a.loan_timeout(100_000, Duration::from_millis(2)), Err(SendError::Timeout((), _))));
    full.into_iter().for_each(|loan| loan.commit());
    drop(b);
    assert!(matches!(a.loan(1), Err(SendError::Disconnected((), None))));
}

/// Says that it is in the middle of it, and never ends.
fn hold((queue, told, lends, len): (Queue<Vec<u8>>, Queue<()>, bool, usize)) {
    if lends {
        let mut loan = queue.loan(len).unwrap();
        loan.write(0, &fill(8, len / 2));
        told.put(()).unwrap();
        std::thread::park();
        loan.commit();
    } else {
        let message = queue.get_ref().unwrap();
        told.put(()).unwrap();
        std::thread::park();
        drop(message);
    }
}

#[test]
fn a_loan_of_a_killed_process_vanishes_and_a_message_in_its_hand_comes_again() {
    let _watchdog = watchdog(Duration::from_secs(120));
    for lends in [true, false] {
        for len in SIZES {
            let (queue, told) = (bytes_queue(), Queue::<()>::new(0).unwrap());
            if !lends {
                queue.put(fill(1, len)).unwrap();
            }
            let args = (queue.clone(), told.clone(), lends, len);
            let child = Process::builder().daemon(true).spawn(hold, args).unwrap();
            told.get().unwrap();
            queue.put(fill(2, 10)).unwrap();
            child.kill().unwrap();
            if !lends {
                let again = std::iter::from_fn(|| queue.get_ref_timeout(Duration::from_secs(30)).ok())
                    .find(|message| message.is_redelivered());
                assert!(again.expect("it comes again").to_vec() == fill(1, len), "{len} B");
            } else {
                assert_eq!(queue.get().unwrap(), fill(2, 10));
            }
            let _ = child.join();
        }
    }
}

#[test]
fn kills_at_random_moments_lose_no_message_and_no_memory() {
    let _watchdog = watchdog(Duration::from_secs(120));
    /// Sends numbered messages in place.
    fn lend((queue, seed): (Queue<Vec<u8>>, u64)) {
        let mut random = Random::new(seed);
        for number in 0u64.. {
            let len = 16 + if random.below(4) == 0 { 300_000 } else { random.below(2000) } as usize;
            let mut loan = queue.loan(len).unwrap();
            loan.write(0, &number.to_le_bytes());
            loan.write(len - 8, &number.to_le_bytes());
            loan.commit();
        }
    }
    let mut random = Random::new(5);
    let segment = Segment::family().unwrap();
    let before = segment.stats().vanished;
    // Until a kill has hit a loan, too.
    for round in (0..).take_while(|round| *round < 200 || segment.stats().vanished == before) {
        let queue = Queue::builder().bytes(256 << 10).build::<Vec<u8>>().unwrap();
        let child = Process::builder().daemon(true).spawn(lend, (queue.clone(), round)).unwrap();
        let mut next = 0u64;
        let mut check = |bytes: Vec<u8>| {
            assert_eq!(bytes[..8], next.to_le_bytes());
            assert_eq!(bytes[bytes.len() - 8..], next.to_le_bytes());
            next += 1;
        };
        check(queue.get_ref().unwrap().to_vec());
        let messages = random.below(30);
        for _ in 0..messages {
            check(queue.get_ref().unwrap().to_vec());
        }
        child.kill().unwrap();
        let _ = child.join();
        loop {
            match queue.get_ref() {
                Ok(message) => check(message.to_vec()),
                Err(GetError::Disconnected(Some(_))) => break,
                Err(e) => panic!("{e}"),
            }
        }
    }
}
