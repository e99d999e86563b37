//! `_TestPool`: what is applied to what, and which results and errors come back.
//!
//! An exception of Python's is a panic here, or a value of the function's own `Result`. Leaving the `with` block is the drop.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use kinfolk::{Event, Pool, Semaphore, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{DELTA, guard, reaches};

fn pool() -> Pool {
    Pool::new(4).unwrap()
}

pub(super) fn sqr(x: u64) -> u64 {
    x * x
}

fn mul((x, y): (u64, u64)) -> u64 {
    x * y
}

/// The squares of the numbers below `n`.
pub(super) fn squares(n: u64) -> Vec<u64> {
    (0..n).map(sqr).collect()
}

/// A pair of numbers for each number below `n`, and what they make multiplied.
fn pairs(n: u64) -> (Vec<(u64, u64)>, Vec<u64>) {
    let pairs: Vec<_> = (0..n).zip((0..n).rev()).collect();
    let products = pairs.iter().copied().map(mul).collect();
    (pairs, products)
}

/// Numbers below `total`, and a panic with [`SayWhen`] in place of `when`.
pub(super) fn panicking(total: u64, when: Option<u64>) -> impl Iterator<Item = u64> {
    let first = when.is_none();
    (0..total).inspect(move |k| {
        if first || Some(*k) == when {
            panic_any(SayWhen);
        }
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SayWhen;

/// What `f` gives, unless it panics with [`SayWhen`].
pub(super) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, SayWhen> {
    catch_unwind(AssertUnwindSafe(f))
        .map_err(|payload| *payload.downcast::<SayWhen>().expect("the iterator's own panic"))
}

#[test]
fn a_function_is_applied_to_one_argument_or_several() {
    let _guard = guard();
    let pool = pool();
    assert_eq!(pool.apply(sqr, 5).unwrap(), 25);
    // What keyword arguments are for: a function without captures that calls another.
    assert_eq!(pool.apply(|x: u64| mul((x, x)), 3).unwrap(), 9);
    assert_eq!(pool.apply(|()| 7, ()).unwrap(), 7);
}

#[test]
fn a_map_keeps_the_order() {
    let _guard = guard();
    let pool = pool();
    assert_eq!(pool.map(sqr, 0..10).unwrap(), squares(10));
    assert_eq!(pool.mapping().chunk_size(20).unwrap().map(sqr, 0..100).unwrap(), squares(100));
}

#[test]
fn a_map_over_tuples_unpacks_them() {
    let _guard = guard();
    let pool = pool();
    let (tuples, products) = pairs(10);
    assert_eq!(pool.map(mul, tuples).unwrap(), products);
    let (tuples, products) = pairs(100);
    assert_eq!(pool.mapping().chunk_size(20).unwrap().map(mul, tuples).unwrap(), products);
}

#[test]
fn a_map_over_tuples_may_be_waited_for_later() {
    let _guard = guard();
    let (tuples, products) = pairs(100);
    assert_eq!(pool().map_async(mul, tuples).unwrap().get().unwrap(), products);
}

#[test]
fn a_map_may_be_waited_for_later() {
    let _guard = guard();
    assert_eq!(pool().map_async(sqr, 0..10).unwrap().get().unwrap(), squares(10));
}

#[test]
fn a_map_calls_back_once_with_all_results_or_once_with_the_error() {
    let _guard = guard();
    let pool = pool();
    let calls = Arc::new(Mutex::new(Vec::<Result<Vec<i32>, String>>::new()));
    let map = |texts: &[&str]| {
        let (good, bad) = (Arc::clone(&calls), Arc::clone(&calls));
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        let task = pool.mapping().map_async_with(
            |text: String| text.parse::<i32>().unwrap(),
            texts,
            move |all| good.lock().unwrap().push(Ok(all.clone())),
            move |error| bad.lock().unwrap().push(Err(error.to_string())),
        );
        task.unwrap().wait();
    };
    map(&["1", "2"]);
    assert_eq!(*calls.lock().unwrap(), [Ok(vec![1, 2])]);
    map(&["a", "3"]);
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 2);
    assert!(matches!(&calls[1], Err(error) if error.contains("InvalidDigit")), "{calls:?}");
}

/// Cannot be sent.
pub(super) struct Unsendable;

impl Serialize for Unsendable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it cannot be sent"))
    }
}

impl<'de> Deserialize<'de> for Unsendable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer).map(|()| Self)
    }
}

#[test]
fn arguments_that_cannot_be_sent_are_an_error() {
    let _guard = guard();
    let pool = pool();
    let refused = pool.map(|_: Unsendable| 1, (0..10).map(|_| Unsendable));
    assert!(matches!(refused, Err(TaskError::Arguments(_))), "{refused:?}");
    let refused = pool.apply(|_: Unsendable| 1, Unsendable);
    assert!(matches!(refused, Err(TaskError::Arguments(_))), "{refused:?}");
    let refused: Vec<_> = pool.imap(|_: Unsendable| 1, [Unsendable, Unsendable]).collect();
    assert!(matches!(refused[..], [Err(TaskError::Arguments(_)), Err(TaskError::Arguments(_))]), "{refused:?}");
    // None of them is under way.
    assert_eq!(pool.apply(sqr, 3).unwrap(), 9);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn a_map_of_nothing_in_chunks_does_not_stall() {
    let _guard = guard();
    let pool = pool();
    let mut task = pool.mapping().chunk_size(1).unwrap().map_async(sqr, []).unwrap();
    assert_eq!(task.get_timeout(Duration::from_secs(20)).unwrap(), []);
}

#[test]
fn a_panic_of_the_iterator_of_a_map_is_the_callers() {
    let _guard = guard();
    let pool = pool();
    let map = |items: &mut dyn Iterator<Item = u64>| {
        caught(|| pool.mapping().chunk_size(1).unwrap().map(sqr, items).map_err(drop))
    };
    // At its very first item, and once more; behind some that were sent.
    assert_eq!(map(&mut panicking(1, None)), Err(SayWhen));
    assert_eq!(map(&mut panicking(1, None)), Err(SayWhen));
    assert_eq!(map(&mut panicking(10, Some(3))), Err(SayWhen));
    // One that has a length, and no items.
    struct Special;
    impl Iterator for Special {
        type Item = u64;
        fn next(&mut self) -> Option<u64> {
            panic_any(SayWhen)
        }
        fn size_hint(&self) -> (usize, Option<usize>) {
            (1, Some(1))
        }
    }
    assert_eq!(map(&mut Special), Err(SayWhen));
    assert_eq!(map(&mut Special), Err(SayWhen));
    assert!(caught(|| pool.map_async(sqr, Special).map(drop)).is_err());
    // The pool goes on.
    assert_eq!(pool.map(sqr, 0..100).unwrap(), squares(100));
    pool.close();
    pool.join().unwrap();
}

/// Waits for the event, and squares.
pub(super) fn sqr_after((x, go): (u64, Event)) -> u64 {
    go.wait();
    sqr(x)
}

#[test]
fn a_result_is_waited_for() {
    let _guard = guard();
    let (pool, go) = (pool(), Event::new().unwrap());
    let task = pool.apply_async(sqr_after, (7, go.clone())).unwrap();
    let begin = Instant::now();
    assert!(!task.wait_timeout(DELTA) && !task.is_ready());
    assert_eq!(task.is_successful(), None);
    go.set();
    assert_eq!(task.get().unwrap(), 49);
    assert!(begin.elapsed() >= DELTA);
}

#[test]
fn a_wait_for_a_result_ends_in_time() {
    let _guard = guard();
    let (pool, go) = (Pool::new(3).unwrap(), Event::new().unwrap());
    let mut task = pool.apply_async(sqr_after, (6, go.clone())).unwrap();
    let begin = Instant::now();
    assert!(matches!(task.get_timeout(DELTA), Err(TaskError::Timeout)));
    assert!(begin.elapsed() >= DELTA && begin.elapsed() < Duration::from_secs(20));
    assert!(matches!(task.try_get(), Err(TaskError::Timeout)));
    // It was not given up.
    go.set();
    assert_eq!(task.get_timeout(Duration::from_secs(20)).unwrap(), 36);
    pool.terminate();
    pool.join().unwrap();
}

#[test]
fn results_come_in_order_one_by_one() {
    let _guard = guard();
    let pool = pool();
    assert!(pool.imap(sqr, 0..10).map(Result::unwrap).eq(squares(10)));
    let mut results = pool.imap(sqr, 0..10);
    for i in 0..10 {
        assert_eq!(results.next().unwrap().unwrap(), i * i);
    }
    assert!(results.next().is_none() && results.next().is_none());
    let mut results = pool.mapping().chunk_size(100).unwrap().imap(sqr, 0..1000);
    for i in 0..1000 {
        assert_eq!(results.next().unwrap().unwrap(), i * i);
    }
    assert!(results.next().is_none());
}

#[test]
fn good_items_come_before_the_panic_of_their_iterator() {
    let _guard = guard();
    let pool = pool();
    for _ in 0..2 {
        assert_eq!(caught(|| pool.imap(sqr, panicking(1, None)).next().is_some()), Err(SayWhen));
    }
    // The whole chunk that the panic is in is lost.
    for (total, when, chunk, good) in [(10, 3, 1, 3), (20, 7, 2, 6), (20, 7, 4, 4)] {
        let mut results = pool.mapping().chunk_size(chunk).unwrap().imap(sqr, panicking(total, Some(when)));
        for i in 0..good {
            assert_eq!(caught(|| results.next().map(Result::unwrap)), Ok(Some(i * i)), "chunks of {chunk}");
        }
        assert_eq!(caught(|| results.next().is_some()), Err(SayWhen), "chunks of {chunk}");
    }
    assert_eq!(pool.apply(sqr, 3).unwrap(), 9);
}

#[test]
fn results_come_in_any_order() {
    let _guard = guard();
    let pool = pool();
    let mut results: Vec<_> = pool.imap_unordered(sqr, 0..10).map(Result::unwrap).collect();
    results.sort_unstable();
    assert_eq!(results, squares(10));
    let mapping = pool.mapping().chunk_size(100).unwrap();
    let mut results: Vec<_> = mapping.imap_unordered(sqr, 0..1000).map(Result::unwrap).collect();
    results.sort_unstable();
    assert_eq!(results, squares(1000));
}

#[test]
fn items_in_any_order_are_good_until_the_panic_of_their_iterator() {
    let _guard = guard();
    let pool = pool();
    for _ in 0..2 {
        assert_eq!(caught(|| pool.imap_unordered(sqr, panicking(1, None)).next().is_some()), Err(SayWhen));
    }
    for (total, when, chunk) in [(10, 3, 1), (20, 7, 2)] {
        let mut expected: BTreeSet<_> = squares(total).into_iter().collect();
        let mut results = pool.mapping().chunk_size(chunk).unwrap().imap_unordered(sqr, panicking(total, Some(when)));
        let panicked = (0..total).any(|_| match caught(|| results.next()) {
            Ok(result) => {
                let value = result.expect("the panic comes first").unwrap();
                assert!(expected.remove(&value), "{value} was not to come");
                false
            }
            Err(SayWhen) => true,
        });
        assert!(panicked, "chunks of {chunk}");
    }
    assert_eq!(pool.apply(sqr, 3).unwrap(), 9);
}

#[test]
fn nothing_is_mapped_to_nothing() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    assert_eq!(pool.map(sqr, []).unwrap(), []);
    assert_eq!(pool.imap(sqr, []).count(), 0);
    assert_eq!(pool.imap_unordered(sqr, []).count(), 0);
    assert_eq!(pool.map_async(sqr, []).unwrap().get().unwrap(), []);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn a_map_waits_for_all_tasks_before_it_fails() {
    let _guard = guard();
    let large = |(number, begun, go): (u32, Semaphore, Event)| {
        begun.release().unwrap();
        if number == 1 {
            go.wait();
        }
        // It would be printed.
        rustix::stdio::dup2_stderr(std::fs::File::create("/dev/null").unwrap()).unwrap();
        panic!("{number}{}", "x".repeat(1 << 20))
    };
    let (begun, go) = (Semaphore::new(0).unwrap(), Event::new().unwrap());
    let pool = Pool::new(2).unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let items = [0, 1].map(|number| (number, begun.clone(), go.clone()));
        let mapping = pool.mapping().chunk_size(1).unwrap();
        scope.spawn(move || tell.send(mapping.map::<_, _, ()>(large, items)).unwrap());
        reaches(&begun, 2);
        assert!(told.recv_timeout(DELTA).is_err(), "the second has not ended");
        go.set();
        match told.recv().unwrap() {
            Err(TaskError::Panicked { message, .. }) => assert!(message.starts_with("0x") && message.len() > 1 << 20),
            other => panic!("{other:?}"),
        }
    });
    // Errors of this size do not keep it from ending.
    pool.close();
    pool.join().unwrap();
    assert_eq!((pool.stats().failed, pool.stats().done), (0, 2), "two chunks came back, with an error in each");
}
