//! Histories of several processes on one dictionary are linearizable: for each key there is an order of its operations that
//! agrees with what they answered and with which of them were over before which began.
//!
//! Source: Wing and Gong, "Testing and Verifying Concurrent Objects"; Lowe, "Testing for linearizability", for the memory of
//! configurations that were seen before.

mod support;

use std::collections::HashSet;
use std::time::Duration;

use kinfolk::{Barrier, ByteDict, Process};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use support::random::Random;
use support::watchdog;

const KEYS: u64 = 4;
const PROCESSES: u64 = 4;
/// Of each process in each round.
const OPERATIONS: u64 = 2000;
const ROUNDS: u64 = if cfg!(debug_assertions) { 5 } else { 40 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Operation {
    Get {
        found: Option<u64>,
    },
    Set {
        new: u64,
    },
    /// Set, and what it had.
    Insert {
        new: u64,
        found: Option<u64>,
    },
    Remove {
        was_there: bool,
    },
    Pop {
        found: Option<u64>,
    },
    Exchange {
        old: Option<u64>,
        new: Option<u64>,
        done: bool,
    },
}

/// What somebody did with a key, from when until when.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Event {
    key: u64,
    operation: Operation,
    begun: u64,
    ended: u64,
}

impl Operation {
    /// The value behind it, if it can come there.
    fn apply(self, value: Option<u64>) -> Option<Option<u64>> {
        match self {
            Self::Get { found } => (found == value).then_some(value),
            Self::Set { new } => Some(Some(new)),
            Self::Insert { new, found } => (found == value).then_some(Some(new)),
            Self::Remove { was_there } => (was_there == value.is_some()).then_some(None),
            Self::Pop { found } => (found == value).then_some(None),
            Self::Exchange { old, new, done } => (done == (old == value)).then_some(if done { new } else { value }),
        }
    }
}

/// Whether one key's operations have an order that agrees with their answers and times.
fn is_linearizable(mut history: Vec<Event>) -> bool {
    history.sort_by_key(|event| event.begun);
    // A configuration: which are done (all before `first`, and these), and the value.
    let mut seen = HashSet::new();
    let mut todo = vec![(0usize, Vec::<usize>::new(), None::<u64>)];
    while let Some((first, done, value)) = todo.pop() {
        if first == history.len() {
            return true;
        }
        if !seen.insert((first, done.clone(), value)) {
            continue;
        }
        // Whatever begins before the first of the rest has ended may be next.
        let mut end = u64::MAX;
        for (k, event) in history.iter().enumerate().skip(first) {
            if event.begun > end {
                break;
            }
            if done.contains(&k) {
                continue;
            }
            end = end.min(event.ended);
            if let Some(value) = event.operation.apply(value) {
                let (mut first, mut done) = (first, done.clone());
                done.push(k);
                while let Some(at) = done.iter().position(|d| *d == first) {
                    done.swap_remove(at);
                    first += 1;
                }
                done.sort_unstable();
                todo.push((first, done, value));
            }
        }
    }
    false
}

/// The clock that all processes have.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn number(bytes: Option<Vec<u8>>) -> Option<u64> {
    // Long ones say it again and again.
    bytes.map(|bytes| {
        let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(bytes == value(word), "torn");
        word
    })
}

fn value(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(if n % 31 == 0 { 700 } else { 1 + n as usize % 9 })
}

fn operate(dict: &ByteDict, key: u64, kind: u64, new: u64, last: Option<u64>) -> Operation {
    let name = key.to_le_bytes();
    match kind {
        0..=3 => Operation::Get { found: number(dict.get(&name).unwrap()) },
        4..=5 => {
            dict.set(&name, &value(new)).unwrap();
            Operation::Set { new }
        }
        6 => Operation::Insert { new, found: number(dict.insert(&name, &value(new)).unwrap()) },
        7 => Operation::Remove { was_there: dict.remove(&name).unwrap() },
        8 => Operation::Pop { found: number(dict.pop(&name).unwrap()) },
        kind => {
            let new = (kind < 12).then_some(new);
            let (old, bytes) = (last.map(value), new.map(value));
            let done = dict.compare_exchange(&name, old.as_deref(), bytes.as_deref()).unwrap();
            Operation::Exchange { old: last, new, done }
        }
    }
}

fn work((dict, barrier, me, round): (ByteDict, Barrier, u64, u64)) -> Vec<Event> {
    let mut random = Random::new((round * PROCESSES + me) * 0x9E37_79B9 + 11);
    let mut last = [None; KEYS as usize];
    let mut events = Vec::with_capacity(OPERATIONS as usize);
    barrier.wait().unwrap();
    // Together: at the next whole 4 ms of the clock.
    let start = (now() >> 22) + 1;
    while now() >> 22 < start {
        std::hint::spin_loop();
    }
    for k in 0..OPERATIONS {
        let (key, kind) = (random.below(KEYS), random.below(13));
        // No value comes twice.
        let new = (round * OPERATIONS + k + 1) * PROCESSES + me;
        let begun = now();
        let operation = operate(&dict, key, kind, new, last[key as usize]);
        events.push(Event { key, operation, begun, ended: now() });
        last[key as usize] = match operation {
            Operation::Get { found } => found,
            Operation::Set { new } | Operation::Insert { new, .. } => Some(new),
            Operation::Exchange { new, done: true, .. } => new,
            _ => None,
        };
    }
    events
}

fn record(shards: usize, round: u64) -> Vec<Event> {
    let dict = ByteDict::with_shards(&kinfolk::Segment::family().unwrap(), shards).unwrap();
    let barrier = Barrier::new(PROCESSES as u32).unwrap();
    let args = |me| (dict.clone(), barrier.clone(), me, round);
    let workers: Vec<_> = (0..PROCESSES).map(|me| Process::spawn(work, args(me)).unwrap()).collect();
    workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
}

fn each_key(events: &[Event]) -> impl Iterator<Item = Vec<Event>> {
    (0..KEYS).map(|key| events.iter().filter(|event| event.key == key).copied().collect())
}

#[test]
fn what_several_processes_do_with_one_dictionary_is_linearizable() {
    let _watchdog = watchdog(Duration::from_secs(120));
    let (mut round, mut beside_each_other) = (0, 0);
    // Until enough of them were beside each other, so that it means something.
    while round < ROUNDS || beside_each_other < 60 {
        let events = record(if round % 2 == 0 { 1 } else { 16 }, round);
        for mut history in each_key(&events) {
            assert!(is_linearizable(history.clone()), "no order explains {history:#?}");
            history.sort_by_key(|event| event.begun);
            beside_each_other += history.windows(2).filter(|two| two[1].begun < two[0].ended).count();
        }
        round += 1;
    }
    println!("{round} rounds, {beside_each_other} operations beside others");
}

/// The checker notices: recorded histories in which one answer is another one.
#[test]
fn a_wrong_answer_in_a_history_is_noticed() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let events = record(1, 1000);
    let mut changed = 0;
    for history in each_key(&events) {
        assert!(is_linearizable(history.clone()));
        for k in (0..history.len()).step_by(301) {
            let mut history = history.clone();
            history[k].operation = match history[k].operation {
                // Of a value that nobody ever set.
                Operation::Get { .. } => Operation::Get { found: Some(u64::MAX) },
                Operation::Pop { .. } => Operation::Pop { found: Some(u64::MAX) },
                Operation::Insert { new, .. } => Operation::Insert { new, found: Some(u64::MAX) },
                _ => continue,
            };
            changed += 1;
            assert!(!is_linearizable(history), "operation {k}");
        }
    }
    assert!(changed > 5);
}

fn event(operation: Operation, begun: u64, ended: u64) -> Event {
    Event { key: 0, operation, begun, ended }
}

#[test]
fn histories_without_an_order_are_rejected() {
    use Operation::{Exchange, Get, Insert, Pop, Remove, Set};
    let rejected = |events: &[Event]| !is_linearizable(events.to_vec());
    // An old value after a newer one was read.
    let (set, both) = (event(Set { new: 1 }, 0, 1), event(Set { new: 2 }, 2, 9));
    let read = |found, begun, ended| event(Get { found: Some(found) }, begun, ended);
    assert!(!rejected(&[set, both, read(1, 3, 4), read(2, 5, 6)]));
    assert!(rejected(&[set, both, read(2, 3, 4), read(1, 5, 6)]), "time goes back");
    assert!(rejected(&[set, event(Get { found: None }, 2, 3)]), "a lost one");
    assert!(rejected(&[set, event(Set { new: 2 }, 2, 3), read(1, 4, 5)]), "an old one");
    assert!(!rejected(&[set, both, read(1, 3, 10), read(2, 4, 5)]), "beside each other");
    // Two take one.
    let take = |begun, ended| event(Pop { found: Some(1) }, begun, ended);
    assert!(rejected(&[set, take(2, 5), take(3, 6)]));
    let remove = |begun, ended| event(Remove { was_there: true }, begun, ended);
    assert!(rejected(&[set, remove(2, 5), take(3, 6)]));
    // Two exchange one, and two replace one.
    let exchange = |new, done| event(Exchange { old: Some(1), new: Some(new), done }, 2, 9);
    assert!(rejected(&[set, exchange(2, true), exchange(3, true)]));
    assert!(!rejected(&[set, exchange(2, true), exchange(3, false)]));
    assert!(rejected(&[set, exchange(2, false), exchange(3, false)]), "neither found it");
    let insert = |new| event(Insert { new, found: Some(1) }, 2, 9);
    assert!(rejected(&[set, insert(2), insert(3)]));
}
