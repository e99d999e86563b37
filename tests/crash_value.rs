//! Values and arrays under real SIGKILL at random moments: no value is torn, no sum that was made is lost, nobody hangs.

mod support;

use std::time::Duration;

use kinfolk::{Array, Event, LockError, Process, Segment, Value};
use support::random::Random;
use support::victim::{SOON, goes_on, kill_one};
use support::watchdog;
use support::watchdog::Watchdog;

const KILLS: u32 = 500;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(150))
}

type Large = [u64; 64];

fn is_whole(large: &Large) -> bool {
    large.iter().all(|word| *word == large[0])
}

#[test]
fn a_value_is_the_old_one_or_the_new_one() {
    let _guard = guard();
    let mut random = Random::new(31);
    let (value, array) = (Value::new([0u64; 64]).unwrap(), Array::from_slice(&[[0u64; 64]; 10]).unwrap());
    let begun = Event::new().unwrap();
    fn write((value, array, begun): (Value<Large>, Array<Large>, Event)) {
        for n in 1u64.. {
            value.set([n; 64]).unwrap();
            array.write_slice(1, &[[n; 64]; 9]).unwrap();
            begun.set();
        }
    }
    // Somebody else writes all the time, so that locks of the dead are wanted.
    let idle = Event::new().unwrap();
    let other = Process::builder().daemon(true).spawn(write, (value.clone(), array.clone(), idle)).unwrap();
    let (mut cut_off, mut kills) = (0, 0);
    while goes_on(&mut kills, KILLS, cut_off > 0) {
        kill_one(&mut random, write, (value.clone(), array.clone(), begun.clone()), &begun, || {
            assert!(is_whole(&value.get().unwrap()), "torn");
            let all = array.to_vec().unwrap();
            assert!(all.iter().all(is_whole), "torn");
            assert_eq!(all[0], [0; 64], "another element was written");
            // The lock of a dead writer is found held, unless somebody came before.
            cut_off += u32::from(value.try_set([7; 64]).is_err());
            value.set_timeout([7; 64], SOON).unwrap();
            array.set_timeout(1 + kills as usize % 9, [7; 64], SOON).unwrap();
        });
    }
    assert!(cut_off > 0, "no writer was in the way: the test proves less than it should");
    other.kill().unwrap();
    let _ = other.join();
}

#[test]
fn no_sum_that_was_made_is_lost() {
    let _guard = guard();
    let mut random = Random::new(37);
    type Sums = (Value<Large>, Value<u64>, Value<f32>, Array<u8>);
    let sums: Sums =
        (Value::new([0; 64]).unwrap(), Value::new(0).unwrap(), Value::new(0.0).unwrap(), Array::new(8).unwrap());
    let (begun, done) = (Event::new().unwrap(), Value::new(0u64).unwrap());
    fn add_one((large, word, float, bytes): &Sums) {
        large.update(|large| large.map(|n| n + 1)).unwrap();
        word.add(1);
        float.add(1.0);
        bytes.at(5).unwrap().add(1);
    }
    fn add((sums, begun, done): (Sums, Event, Value<u64>)) {
        loop {
            add_one(&sums);
            done.add(1);
            begun.set();
        }
    }
    let mut made = 0;
    for deaths in 1..=u64::from(KILLS) {
        kill_one(&mut random, add, (sums.clone(), begun.clone(), done.clone()), &begun, || {
            for _ in 0..10 {
                add_one(&sums);
            }
        });
        made += 10;
        // Each of the dead may have made one more than it said, of each.
        let (all, (large, word, float, bytes)) = (made + done.load(), &sums);
        let large = large.get().unwrap();
        assert!(is_whole(&large), "torn");
        let within = |n: u64| (all..=all + deaths).contains(&n);
        assert!(within(large[0]), "{} of {all} sums", large[0]);
        assert!(within(word.load()), "{word} of {all} sums");
        assert!(all > 1 << 23 || within(float.load() as u64), "{float} of {all} sums");
        assert_eq!(
            bytes.to_vec().unwrap().iter().filter(|n| **n != 0).count(),
            usize::from(bytes.get(5).unwrap() != 0)
        );
    }
}

#[test]
fn the_lock_of_the_dead_goes_to_the_next_who_is_told() {
    let _guard = guard();
    let mut random = Random::new(41);
    let (pair, begun) = (Array::<u64>::new(2).unwrap(), Event::new().unwrap());
    fn work((pair, begun): (Array<u64>, Event)) {
        for n in 1u64.. {
            let guard = pair.lock().unwrap();
            let again = pair.lock().unwrap();
            guard.set(0, n).unwrap();
            again.set(1, n).unwrap();
            begun.set();
        }
    }
    let (mut told, mut halves, mut kills) = (0, 0, 0);
    while goes_on(&mut kills, KILLS, told > 0 && halves > 0) {
        kill_one(&mut random, work, (pair.clone(), begun.clone()), &begun, || {
            let (mut guard, died) = match pair.lock_timeout(SOON) {
                Ok(guard) => (guard, false),
                Err(LockError::OwnerDied(guard)) => (guard, true),
                Err(e) => panic!("{e}"),
            };
            let found = guard.to_vec().unwrap();
            assert!(died || found[0] == found[1], "half a change, and nobody was told");
            told += u32::from(died);
            halves += u32::from(found[0] != found[1]);
            guard.fill(0).unwrap();
            guard.mark_consistent();
        });
        assert_eq!(pair.depth(), 0, "levels of the dead");
    }
    assert!(told > 0 && halves > 0, "{told} died with it, {halves} half way: the test proves less than it should");
    let losses = Segment::family().unwrap().deaths().iter().map(|death| death.losses.locks).sum::<u32>();
    assert!(losses > 0, "no lock was counted as lost");
}
