//! Asynchronous handles, under tokio's executor and under async-io's.

mod support;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use kinfolk::future::{Connection, Event, Queue};
use kinfolk::{GetError, JoinError, PutError, RecvError, SendError};
use support::watchdog;

fn guard() -> support::watchdog::Watchdog {
    watchdog(Duration::from_secs(60))
}

/// A child that does not keep a test that has failed from ending.
fn daemon<A, R>(function: impl Fn(A) -> R + Copy + Send + 'static, args: A) -> kinfolk::Process<R>
where
    A: serde::Serialize + serde::de::DeserializeOwned,
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    kinfolk::Process::builder().daemon(true).spawn(function, args).unwrap()
}

/// What the tests need of an executor.
trait Executor: Sync {
    /// Runs a future to its end, on this thread.
    fn block_on<F: Future>(&self, future: F) -> F::Output;

    /// Starts a task; the future that comes back is its result.
    fn spawn<F: Future<Output: Send> + Send + 'static>(&self, future: F) -> impl Future<Output = F::Output>;

    /// The future's result, if it comes in time.
    fn timeout<F: Future>(&self, after: Duration, future: F) -> impl Future<Output = Option<F::Output>>;

    /// Waits for the end of a child, and asks for it once more.
    fn join(&self, process: kinfolk::Process<u32>) -> impl Future<Output = Result<u32, JoinError>>;
}

struct Tokio(tokio::runtime::Runtime);

impl Tokio {
    fn new() -> Self {
        Self(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
    }
}

impl Executor for Tokio {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    async fn spawn<F: Future<Output: Send> + Send + 'static>(&self, future: F) -> F::Output {
        self.0.spawn(future).await.unwrap()
    }

    async fn timeout<F: Future>(&self, after: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(after, future).await.ok()
    }

    async fn join(&self, process: kinfolk::Process<u32>) -> Result<u32, JoinError> {
        let mut process = kinfolk::tokio::Process::from(process);
        process.join().await?;
        process.join().await
    }
}

/// One thread besides the caller's.
struct AsyncIo(Arc<async_executor::Executor<'static>>);

impl AsyncIo {
    fn new() -> Self {
        let executor = Arc::new(async_executor::Executor::new());
        let runs = executor.clone();
        std::thread::spawn(move || async_io::block_on(runs.run(std::future::pending::<()>())));
        Self(executor)
    }
}

impl Executor for AsyncIo {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        async_io::block_on(future)
    }

    async fn spawn<F: Future<Output: Send> + Send + 'static>(&self, future: F) -> F::Output {
        self.0.spawn(future).await
    }

    async fn timeout<F: Future>(&self, after: Duration, future: F) -> Option<F::Output> {
        let (mut timer, mut future) = (async_io::Timer::after(after), std::pin::pin!(future));
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => std::pin::Pin::new(&mut timer).poll(cx).map(|_| None),
        })
        .await
    }

    async fn join(&self, process: kinfolk::Process<u32>) -> Result<u32, JoinError> {
        let mut process = kinfolk::async_io::Process::from(process);
        process.join().await?;
        process.join().await
    }
}

/// Each of these is a test, once for each executor.
macro_rules! under_both {
    ($($name:ident)*) => {
        mod under_tokio {
            $(#[test]
            fn $name() {
                let _guard = super::guard();
                super::$name(&super::Tokio::new());
            })*
        }
        mod under_async_io {
            $(#[test]
            fn $name() {
                let _guard = super::guard();
                super::$name(&super::AsyncIo::new());
            })*
        }
    };
}

under_both! {
    items_go_to_another_process_and_back
    a_full_queue_and_a_full_pipe_are_waited_for
    a_hundred_tasks_get_every_item_once
    a_peer_that_dies_ends_what_is_awaited
    a_time_out_loses_no_item
    events_and_ends_are_awaited
    a_closed_queue_ends_what_is_awaited
}

/// Answers each number with its double, until there are no more.
fn doubles((jobs, done): (kinfolk::Queue<u32>, kinfolk::Connection<u32, ()>)) -> u32 {
    let mut count = 0;
    while let Ok(n) = jobs.get() {
        if n == u32::MAX {
            break;
        }
        done.send(2 * n).unwrap();
        count += 1;
    }
    count
}

fn items_go_to_another_process_and_back(executor: &impl Executor) {
    let jobs = Queue::<u32>::new(0).unwrap();
    let (here, there) = kinfolk::pipe::<(), u32>().unwrap();
    let here = Connection::from(here);
    let child = daemon(doubles, (jobs.get_ref().clone(), there));
    executor.block_on(async {
        for n in 0..500 {
            jobs.put(n).await.unwrap();
            assert_eq!(here.recv().await.unwrap(), 2 * n);
        }
        jobs.put(u32::MAX).await.unwrap();
        assert!(matches!(here.recv().await, Err(RecvError::Disconnected(None))));
        here.poll().await.unwrap();
        assert_eq!(executor.join(child).await.unwrap(), 500);
    });
}

fn a_full_queue_and_a_full_pipe_are_waited_for(executor: &impl Executor) {
    let queue = Queue::<Vec<u8>>::from(kinfolk::Queue::builder().bytes(4096).build().unwrap());
    let (here, there) = kinfolk::pipe::<Vec<u8>, ()>().unwrap();
    type Ends = (kinfolk::Queue<Vec<u8>>, kinfolk::Connection<(), Vec<u8>>);
    fn drains((queue, there): Ends) -> u32 {
        let mut sum = 0;
        for _ in 0..300 {
            sum += queue.get().unwrap().len() as u32;
            sum += there.recv().unwrap().len() as u32;
        }
        sum
    }
    let sizes = || (0..300).map(|k| [0, 100, 1500, 3000, 200_000][k % 5]);
    let child = daemon(drains, (queue.get_ref().clone(), there));
    let here = Connection::from(here);
    let (puts, sends) = (queue.clone(), here.clone());
    executor.block_on(async {
        // Beside each other, for each can be full while the child waits for the other.
        let puts = executor.spawn(async move {
            for bytes in sizes() {
                puts.put(vec![1; bytes]).await.unwrap();
            }
        });
        let sends = async {
            for bytes in sizes() {
                sends.send(vec![2; bytes]).await.unwrap();
            }
        };
        both(puts, sends).await;
        assert_eq!(executor.join(child).await.unwrap(), 2 * sizes().sum::<usize>() as u32);
        assert!(matches!(here.send(vec![3]).await, Err(SendError::Disconnected(v, None)) if v == [3]));
    });
}

/// Runs two futures to their ends.
async fn both(a: impl Future, b: impl Future) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut a_done, mut b_done) = (false, false);
    std::future::poll_fn(|cx| {
        a_done = a_done || a.as_mut().poll(cx).is_ready();
        b_done = b_done || b.as_mut().poll(cx).is_ready();
        if a_done && b_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

fn a_hundred_tasks_get_every_item_once(executor: &impl Executor) {
    const TASKS: usize = 100;
    const EACH: u32 = 50;
    let queue = Queue::<u32>::new(0).unwrap();
    fn puts(queue: kinfolk::Queue<u32>) -> u32 {
        let n = TASKS as u32 * EACH;
        (0..n).for_each(|k| {
            queue.put(k).unwrap();
            if k % 64 == 0 {
                std::thread::yield_now();
            }
        });
        n
    }
    let child = daemon(puts, queue.get_ref().clone());
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let queue = queue.clone();
            Box::pin(executor.spawn(async move {
                let mut got = Vec::new();
                for _ in 0..EACH {
                    got.push(queue.get().await.unwrap());
                }
                got
            }))
        })
        .collect();
    executor.block_on(async {
        let mut got: Vec<Option<Vec<u32>>> = vec![None; TASKS];
        let mut tasks = tasks;
        std::future::poll_fn(|cx| {
            for (task, got) in tasks.iter_mut().zip(&mut got) {
                if got.is_none() {
                    if let Poll::Ready(items) = task.as_mut().poll(cx) {
                        *got = Some(items);
                    }
                }
            }
            if got.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let mut all: Vec<u32> = got.into_iter().flatten().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..TASKS as u32 * EACH).collect::<Vec<_>>());
        executor.join(child).await.unwrap();
    });
}

fn sleeps_for_ever<T>(_: T) -> u32 {
    loop {
        std::thread::park();
    }
}

fn a_peer_that_dies_ends_what_is_awaited(executor: &impl Executor) {
    let (here, there) = kinfolk::pipe::<u32, u32>().unwrap();
    let queue = Queue::<u32>::new(0).unwrap();
    let here = Connection::from(here);
    let victim = daemon(
        sleeps_for_ever::<(kinfolk::Connection<u32, u32>, kinfolk::Queue<u32>)>,
        (there, queue.get_ref().clone()),
    );
    executor.block_on(async {
        assert!(executor.timeout(Duration::from_millis(20), here.recv()).await.is_none());
        victim.kill().unwrap();
        let pid = victim.pid();
        // Nobody has reaped it: the thread that waits for us finds out.
        assert!(matches!(here.recv().await, Err(RecvError::Disconnected(Some(dead))) if dead == pid));
        assert!(matches!(here.send(7).await, Err(SendError::Disconnected(7, Some(dead))) if dead == pid));
        assert!(matches!(queue.get().await, Err(GetError::Disconnected(Some(dead))) if dead == pid));
        assert!(matches!(executor.join(victim).await, Err(JoinError::Signaled { signal: 9, .. })));
    });
}

fn a_time_out_loses_no_item(executor: &impl Executor) {
    let (queue, acks) = (Queue::<u32>::new(0).unwrap(), Queue::<u32>::new(1).unwrap());
    fn puts((queue, acks): (kinfolk::Queue<u32>, kinfolk::Queue<u32>)) -> u32 {
        for k in 0..300 {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_micros(u64::from(k) * 37 % 2500) {
                std::hint::spin_loop();
            }
            queue.put(k).unwrap();
            assert_eq!(acks.get().unwrap(), k);
        }
        300
    }
    let child = daemon(puts, (queue.get_ref().clone(), acks.get_ref().clone()));
    executor.block_on(async {
        let mut cancelled = 0;
        for k in 0..300u32 {
            // Time-outs about as long as an item takes, so that some come before it, some with it.
            let mut us = 0;
            let got = loop {
                match executor.timeout(Duration::from_micros(us), queue.get()).await {
                    Some(item) => break item.unwrap(),
                    None => cancelled += 1,
                }
                us = (us + 97) % 1500;
            };
            assert_eq!(got, k);
            acks.put(k).await.unwrap();
        }
        assert!(cancelled > 0);
        assert_eq!(executor.join(child).await.unwrap(), 300);
    });
}

fn events_and_ends_are_awaited(executor: &impl Executor) {
    let [go, came] = [Event::new().unwrap(), Event::new().unwrap()];
    fn answers((go, came): (Event, Event)) -> u32 {
        go.get_ref().wait();
        came.set();
        came.clear();
        5
    }
    let child = daemon(answers, (go.clone(), came.clone()));
    executor.block_on(async {
        assert!(executor.timeout(Duration::from_millis(20), came.wait()).await.is_none());
        let waits = async {
            came.wait().await.unwrap();
        };
        // The first poll of the wait comes first, so the event counts however short it is set.
        both(waits, async { go.set() }).await;
        assert_eq!(executor.join(child).await.unwrap(), 5);
        go.wait().await.unwrap();
    });
}

fn a_closed_queue_ends_what_is_awaited(executor: &impl Executor) {
    let queue = Queue::<u32>::new(1).unwrap();
    queue.try_put(1).unwrap();
    executor.block_on(async {
        let puts = async { assert!(matches!(queue.put(2).await, Err(PutError::Closed(2)))) };
        both(puts, async { queue.close() }).await;
        assert!(matches!(queue.get().await, Err(GetError::Closed)));
    });
}

/// Counts how often it was woken.
struct Woken(AtomicU32, std::thread::Thread);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
        self.1.unpark();
    }
}

fn woken() -> (Arc<Woken>, Waker) {
    let woken = Arc::new(Woken(AtomicU32::new(0), std::thread::current()));
    (woken.clone(), woken.into())
}

#[test]
fn a_task_that_was_woken_and_dropped_hands_on_to_the_next() {
    let _guard = guard();
    let queue = Queue::<u32>::new(0).unwrap();
    let (first, first_waker) = woken();
    let (second, second_waker) = woken();
    let mut dropped = Box::pin(queue.get());
    let mut stays = std::pin::pin!(queue.get());
    assert!(dropped.as_mut().poll(&mut Context::from_waker(&first_waker)).is_pending());
    assert!(stays.as_mut().poll(&mut Context::from_waker(&second_waker)).is_pending());
    queue.try_put(1).unwrap();
    while first.0.load(Relaxed) == 0 {
        std::thread::park();
    }
    drop(dropped);
    while second.0.load(Relaxed) == 0 {
        std::thread::park();
    }
    assert!(matches!(stays.as_mut().poll(&mut Context::from_waker(&second_waker)), Poll::Ready(Ok(1))));
    assert_eq!((first.0.load(Relaxed), second.0.load(Relaxed)), (1, 1));
}

#[test]
fn a_task_that_was_woken_and_does_not_move_is_not_waited_for() {
    let _guard = guard();
    let queue = Queue::<u32>::new(0).unwrap();
    let (first, first_waker) = woken();
    let (second, second_waker) = woken();
    let mut stuck = Box::pin(queue.get());
    let mut other = std::pin::pin!(queue.get());
    assert!(stuck.as_mut().poll(&mut Context::from_waker(&first_waker)).is_pending());
    assert!(other.as_mut().poll(&mut Context::from_waker(&second_waker)).is_pending());
    queue.try_put(1).unwrap();
    while second.0.load(Relaxed) == 0 {
        std::thread::park();
    }
    assert_eq!(first.0.load(Relaxed), 1);
    assert!(matches!(other.as_mut().poll(&mut Context::from_waker(&second_waker)), Poll::Ready(Ok(1))));
    assert!(stuck.as_mut().poll(&mut Context::from_waker(&first_waker)).is_pending());
}

#[test]
fn a_dropped_future_leaves_nobody_asleep_in_another_process() {
    let _guard = guard();
    let (queue, acks) = (Queue::<u32>::new(0).unwrap(), kinfolk::Queue::<u32>::new(0).unwrap());
    fn gets((queue, acks): (kinfolk::Queue<u32>, kinfolk::Queue<u32>)) {
        while let Ok(item) = queue.get() {
            acks.put(item).unwrap();
        }
    }
    let args = (queue.get_ref().clone(), acks.clone());
    let _child = daemon(gets, args);
    let mut late = 0;
    for k in 0..500 {
        let (_woken, waker) = woken();
        let mut future = Box::pin(queue.get());
        let mine = future.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(mine.is_pending());
        let before = Instant::now();
        queue.try_put(k).unwrap();
        drop(future);
        assert_eq!(acks.get().unwrap(), k);
        late += u32::from(before.elapsed() > Duration::from_millis(7));
    }
    assert!(late < 50, "{late} of 500 came late: their wake-ups were lost");
}
