//! Many threads of one process on one object, with values that are copied as bytes, which nothing but the protocols puts
//! in order: run under ThreadSanitizer, a missing order shows as a data race.

mod support;

use std::time::Duration;

use kinfolk::{Mutex, Queue, pipe};
use support::watchdog;

const LIMIT: Duration = Duration::from_secs(120);
const EACH: u64 = 300;
/// More than is copied word by word: larger copies are plain ones in the eyes of a sanitizer.
const BYTES: usize = 1000;

fn message(number: u64) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(BYTES, number as u8);
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes.len() == BYTES && bytes[8..].iter().all(|b| *b == number as u8), "message {number} is torn");
    number
}

#[test]
fn producers_and_consumers_of_one_queue() {
    let _watchdog = watchdog(LIMIT);
    // Room for a few messages only, so that granules are used again and both sides wait.
    let queue: Queue<Vec<u8>> = Queue::builder().bytes(16 << 10).build().unwrap();
    let sum: u64 = std::thread::scope(|scope| {
        for producer in 0..2 {
            let queue = queue.clone();
            scope.spawn(move || (0..EACH).for_each(|k| queue.put(message(2 * k + producer)).unwrap()));
        }
        let consume = |_| {
            let queue = queue.clone();
            scope.spawn(move || (0..EACH).map(|_| number(&queue.get().unwrap())).sum::<u64>())
        };
        [0, 1].map(consume).map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert_eq!(sum, (0..2 * EACH).sum());
}

#[test]
fn both_ends_of_a_pipe() {
    let _watchdog = watchdog(LIMIT);
    let (here, there) = pipe::<Vec<u8>, Vec<u8>>().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || (0..EACH).for_each(|_| there.send(there.recv().unwrap()).unwrap()));
        for k in 0..EACH {
            here.send(message(k)).unwrap();
            assert_eq!(number(&here.recv().unwrap()), k);
        }
    });
}

#[test]
fn lockers_of_one_mutex() {
    let _watchdog = watchdog(LIMIT);
    let mutex = Mutex::new([0u64; 64]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..EACH).for_each(|_| mutex.lock().unwrap().iter_mut().for_each(|word| *word += 1)));
        }
    });
    assert_eq!(*mutex.lock().unwrap(), [3 * EACH; 64]);
}
