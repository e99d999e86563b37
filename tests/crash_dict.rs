//! Dictionaries under real SIGKILL at random moments: every value is the old one or the new one and whole, nothing that was
//! said to be done is lost, readers never wait, and the account of the memory is right.

mod support;

use std::time::{Duration, Instant};

use kinfolk::{ByteDict, Event, Process, Segment, Value};
use support::random::Random;
use support::watchdog;
use support::watchdog::Watchdog;

/// Fewer where each of them takes longer.
const KILLS: u32 = if cfg!(debug_assertions) { 250 } else { 1000 };
/// Survivors go on within this time after a death, and no read takes longer.
const SOON: Duration = Duration::from_secs(1);
/// Keys that are always there.
const KEPT: u64 = 64;
/// Keys that come and go.
const PASSING: u64 = 40;
/// One key of somebody else's.
const OTHERS: u64 = 1000;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(200))
}

/// Value `n` of a key: the key, then the number again and again, so that a torn one is noticed. Some have runs of their own.
fn value(key: u64, n: u64) -> Vec<u8> {
    let words = match n % 17 {
        0 => 2500,
        1 | 2 => 180,
        rest => 1 + rest as usize,
    };
    std::iter::once(key).chain(std::iter::repeat_n(n, words)).flat_map(u64::to_le_bytes).collect()
}

fn number_in(key: u64, bytes: &[u8]) -> u64 {
    let n = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    assert!(bytes == value(key, n), "a torn value of {key}, or another key's");
    n
}

fn number(dict: &ByteDict, key: u64) -> Option<u64> {
    dict.get(&key.to_le_bytes()).unwrap().map(|bytes| number_in(key, &bytes))
}

fn set(dict: &ByteDict, key: u64, n: u64) {
    dict.set(&key.to_le_bytes(), &value(key, n)).unwrap();
}

/// Reads all the time, until it is killed; ends by itself only if something is wrong.
fn read((dict, reads): (ByteDict, Value<u64>)) {
    let mut random = Random::new(u64::from(std::process::id()));
    let mut last = [0; KEPT as usize];
    loop {
        let begun = Instant::now();
        let key = random.below(KEPT);
        let n = number(&dict, key).expect("an entry that is always there");
        assert!(n >= last[key as usize], "time went back: {n} after {}", last[key as usize]);
        last[key as usize] = n;
        let passing = KEPT + random.below(PASSING);
        number(&dict, passing);
        let key = random.below(KEPT).to_le_bytes();
        let held = dict.get_ref(&key).unwrap().expect("an entry that is always there");
        assert!(held.to_vec() == held.to_vec(), "changed in place");
        assert!(begun.elapsed() < SOON, "a read took {:?}", begun.elapsed());
        reads.add(1);
    }
}

/// Writes `from`, `from` + 1, ... to one key after the other, and says after each that it is done.
fn write((dict, from, done, begun): (ByteDict, u64, Value<u64>, Event)) {
    for n in from.. {
        let passing = (KEPT + n % PASSING).to_le_bytes();
        match n % 3 {
            0 => _ = dict.remove(&passing).unwrap(),
            _ => set(&dict, KEPT + n % PASSING, n),
        }
        set(&dict, n % KEPT, n);
        done.store(n);
        begun.set();
    }
}

/// Somebody else writes all the time, so that locks of the dead are wanted.
fn interfere(dict: ByteDict) {
    for n in 1u64.. {
        set(&dict, OTHERS + n % 40, n);
        dict.remove(&(OTHERS + (n + 20) % 40).to_le_bytes()).unwrap();
    }
}

fn daemon<A>(f: impl Fn(A) + Copy + Send + 'static, args: A) -> Process<()>
where
    A: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    Process::builder().daemon(true).spawn(f, args).unwrap()
}

/// Ends an endless child; it was still at work.
fn end(child: Process<()>) {
    if child.is_alive() {
        child.kill().unwrap();
        let _ = child.join();
    } else {
        panic!("it ended by itself: {:?}", child.join());
    }
}

/// What is in the dictionary besides what came and went.
struct Account {
    dict: ByteDict,
    numbers: Vec<u64>,
}

impl Account {
    fn new(dict: ByteDict) -> Self {
        (0..KEPT).for_each(|key| set(&dict, key, 0));
        Self { dict, numbers: vec![0; KEPT as usize] }
    }

    /// `from..=done` were written, and perhaps the next one.
    fn settle(&mut self, from: u64, done: u64) {
        (from..=done).for_each(|n| self.numbers[(n % KEPT) as usize] = n);
        let next = done + 1;
        for key in 0..KEPT {
            let found = number(&self.dict, key).expect("an entry that is always there");
            let known = &mut self.numbers[key as usize];
            assert!(found == *known || key == next % KEPT && found == next, "{found}, not {known}, after {done}");
            *known = found;
        }
        for key in KEPT..KEPT + PASSING {
            assert!(number(&self.dict, key).is_none_or(|n| n <= next && KEPT + n % PASSING == key));
        }
    }
}

#[test]
fn an_entry_is_the_old_one_or_the_new_one_and_what_is_done_is_not_lost() {
    let _guard = guard();
    let mut random = Random::new(61);
    let dict = ByteDict::new().unwrap();
    let mut account = Account::new(dict.clone());
    let (done, begun, reads) = (Value::new(0u64).unwrap(), Event::new().unwrap(), Value::new(0u64).unwrap());
    let readers = [(); 2].map(|()| daemon(read, (dict.clone(), reads.clone())));
    let other = daemon(interfere, dict.clone());
    let mut next = 1;
    let locks = || Segment::family().unwrap().deaths().iter().map(|death| death.losses.locks).sum::<u32>();
    // Until somebody has died with a lock, too.
    for kill in (0..).take_while(|kill| *kill < KILLS || locks() == 0) {
        begun.clear();
        done.store(next - 1);
        let child = daemon(write, (dict.clone(), next, done.clone(), begun.clone()));
        begun.wait();
        random.moment();
        child.kill().unwrap();
        let killed = Instant::now();
        // Any shard of these may be the one whose lock the dead has.
        (0..20).for_each(|key| set(&dict, 2000 + key, next));
        assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
        // Only now: who reaps a child recovers it at once.
        let _ = child.join();
        account.settle(next, done.load());
        if kill % 20 == 0 {
            assert!(readers.iter().all(Process::is_alive), "a reader found something wrong");
            dict.check().unwrap();
        }
        next = done.load() + 2;
    }
    let before = reads.load();
    while reads.load() == before && readers.iter().any(Process::is_alive) {
        std::thread::yield_now();
    }
    readers.into_iter().for_each(end);
    end(other);
    dict.clear().unwrap();
    assert_eq!(dict.check().unwrap(), (0, 0), "bytes and runs of nothing");
}

/// Recovers, and puts in order what the dead left.
fn recover((dict, begun): (ByteDict, Event)) {
    begun.set();
    loop {
        Segment::family().unwrap().sweep();
        (0..100).for_each(|key| _ = dict.remove(&(5000 + key as u64).to_le_bytes()).unwrap());
    }
}

#[test]
fn who_recovers_may_die_too() {
    let _guard = guard();
    let mut random = Random::new(67);
    let dict = ByteDict::new().unwrap();
    let mut account = Account::new(dict.clone());
    let (done, begun) = (Value::new(0u64).unwrap(), Event::new().unwrap());
    let mut next = 1;
    for kill in 0..KILLS / 4 {
        begun.clear();
        done.store(next - 1);
        let victim = daemon(write, (dict.clone(), next, done.clone(), begun.clone()));
        begun.wait();
        random.moment();
        // The recoverer is there before, so that nobody else comes first.
        begun.clear();
        let recoverer = daemon(recover, (dict.clone(), begun.clone()));
        begun.wait();
        victim.kill().unwrap();
        random.moment();
        recoverer.kill().unwrap();
        let killed = Instant::now();
        (0..20).for_each(|key| set(&dict, 2000 + key, next));
        assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
        drop((victim.join(), recoverer.join()));
        account.settle(next, done.load());
        if kill % 5 == 0 {
            dict.check().unwrap();
        }
        next = done.load() + 2;
    }
    dict.clear().unwrap();
    assert_eq!(dict.check().unwrap(), (0, 0), "bytes and runs of nothing");
}
