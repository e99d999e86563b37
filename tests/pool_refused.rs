//! Tasks that wait until the pool can take them in: their time limits are kept, and if they are refused in the end, nothing
//! of their arguments is left behind.

mod support {
    pub mod watchdog;
}

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use kinfolk::pool::NotSubmitted;
use kinfolk::{Event, Pool, Queue, Segment, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use support::watchdog::watchdog;

fn guard() -> impl Sized {
    watchdog(Duration::from_secs(100))
}

const SHORT: Duration = Duration::from_millis(5);
/// Much longer than a task with that limit may take.
const LONG: Duration = Duration::from_secs(10);

fn endless(_: ()) {
    loop {
        std::thread::park();
    }
}

fn timed_out(outcome: Result<(), TaskError>, round: u64) {
    assert!(matches!(outcome, Err(TaskError::TimedOut { timeout: SHORT })), "round {round}: {outcome:?}");
}

#[test]
fn a_lone_task_of_an_idle_pool_is_ended_in_time() {
    let _guard = guard();
    let pool = Pool::new(1).unwrap();
    for round in 0..200 {
        // There is a worker again, and nobody who watches over times has anything to do.
        assert_eq!(pool.apply(|n: u64| n + 1, round).unwrap(), round + 1);
        let mut task = pool.job(endless, ()).timeout(SHORT).submit().unwrap();
        timed_out(task.get_timeout(LONG), round);
    }
    assert_eq!(pool.stats().deaths, 200);
}

/// Tells when it is written into a message.
struct Told<T>(T);

static WRITTEN: AtomicUsize = AtomicUsize::new(0);

impl<T: Serialize> Serialize for Told<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let written = self.0.serialize(to);
        WRITTEN.fetch_add(1, SeqCst);
        written
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Told<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(from).map(Self)
    }
}

/// Ends when it is told to, and up to half a millisecond later.
fn wait((go, round): (Event, u64)) {
    go.wait();
    let until = Instant::now() + Duration::from_micros(round * 37 % 500);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// One test at a time counts what is written.
fn alone() -> impl Sized {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    (ALONE.lock().unwrap_or_else(|e| e.into_inner()), guard())
}

/// Calls `f` as soon as arguments have been written that are [`Told`], while `submit` goes on.
fn when_written<R>(submit: impl FnOnce() -> R, f: impl FnOnce() + Send) -> R {
    let before = WRITTEN.load(SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while WRITTEN.load(SeqCst) == before {
                std::thread::yield_now();
            }
            f();
        });
        submit()
    })
}

#[test]
fn a_task_that_had_to_wait_for_its_turn_is_ended_in_time() {
    let _alone = alone();
    // One task is all that it takes in, so the next one's caller waits, while nothing has a limit.
    let pool = Pool::builder().processes(2).depth(1).build().unwrap();
    for round in 0..50 {
        let go = Event::new().unwrap();
        let before = pool.apply_async(wait, (go.clone(), round)).unwrap();
        let job = pool.job(|_: Told<()>| endless(()), Told(())).timeout(SHORT);
        let mut task = when_written(|| job.submit().unwrap(), || go.set());
        timed_out(task.get_timeout(LONG), round);
        before.get().unwrap();
    }
}

/// Nobody has the queue any more.
fn gone(segment: &Segment, queue: kinfolk::segment::ObjectId, what: &str) {
    assert!(Queue::<u32>::open(segment, queue).is_err(), "{what}: something still holds the queue");
}

#[test]
fn handles_in_the_arguments_of_a_task_that_is_refused_are_given_up() {
    let _alone = alone();
    let segment = Segment::family().unwrap();
    for end in [Pool::close, Pool::terminate] {
        let pool = Pool::builder().processes(1).depth(1).build().unwrap();
        let go = Event::new().unwrap();
        let before = pool.apply_async(wait, (go.clone(), 0)).unwrap();
        let queue = Queue::<u32>::new(0).unwrap();
        let id = queue.id();
        // It is refused when its arguments are written, handle and all.
        let arguments = Told(queue);
        let refused = when_written(|| pool.apply_async(|_: Told<Queue<u32>>| (), arguments), || end(&pool));
        assert!(matches!(refused, Err(TaskError::Closed | TaskError::Terminated)), "{refused:?}");
        gone(&segment, id, "refused");
        go.set();
        before.wait();
        pool.join().unwrap();
        // Before they are written.
        let queue = Queue::<u32>::new(0).unwrap();
        let id = queue.id();
        assert!(pool.apply(|_: Queue<u32>| (), queue).is_err());
        gone(&segment, id, "refused at once");
    }
    // A broken one.
    let pool = Pool::builder().processes(1).depth(1).initializer(|()| panic!("no"), ()).build().unwrap();
    let queue = Queue::<u32>::new(0).unwrap();
    let id = queue.id();
    let refused = pool.apply(|_: Queue<u32>| (), queue);
    assert!(matches!(refused, Err(TaskError::Broken { .. })), "{refused:?}");
    // It may have been taken in, so that it lies in a queue that nobody reads, before it was clear that nobody does.
    drop(pool);
    while Queue::<u32>::open(&segment, id).is_ok() {
        std::thread::yield_now();
    }
}

#[derive(Deserialize)]
struct Unsendable;

impl Serialize for Unsendable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it cannot be sent"))
    }
}

#[test]
fn handles_beside_an_argument_that_cannot_be_sent_are_given_up() {
    let _guard = guard();
    let segment = Segment::family().unwrap();
    let pool = Pool::new(1).unwrap();
    let queue = Queue::<u32>::new(0).unwrap();
    let id = queue.id();
    let refused = pool.apply(|_: (Queue<u32>, Unsendable)| (), (queue, Unsendable));
    assert!(matches!(refused, Err(TaskError::Arguments(_))), "{refused:?}");
    gone(&segment, id, "unsendable");
    assert_eq!(pool.apply(|n: u32| n, 1).unwrap(), 1);
}

/// A pool whose only worker waits, with one more task than that under way: no slot is free.
fn full() -> (Pool, Event, Vec<kinfolk::Task<u32>>) {
    let go = Event::new().unwrap();
    let wait = |go: Event| -> u32 {
        go.wait();
        1
    };
    let pool = Pool::builder().processes(1).depth(2).build().unwrap();
    let tasks = (0..2).map(|_| pool.apply_async(wait, go.clone()).unwrap()).collect();
    (pool, go, tasks)
}

#[test]
fn a_job_for_which_there_is_no_room_comes_back_whole() {
    let _guard = guard();
    let (pool, go, tasks) = full();
    let (told, count) = std::sync::mpsc::channel();
    let job = |retries| {
        let told = told.clone();
        let job = pool.job(|text: String| text.len(), "some text".to_owned()).retries(retries);
        job.callback(move |len| told.send(*len).unwrap())
    };
    let jobs: Vec<_> = [0, 3].into_iter().map(job).collect();
    // Over and over.
    let mut back = Vec::new();
    for mut job in jobs {
        for _ in 0..3 {
            job = job.try_submit().unwrap_err().into_job().unwrap();
            let began = Instant::now();
            job = job.submit_timeout(SHORT).unwrap_err().into_job().unwrap();
            assert!(began.elapsed() >= SHORT);
        }
        back.push(job);
    }
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.failed, stats.cancelled), (2, 0, 0), "what was not taken does not count");
    go.set();
    for job in back {
        let task = job.submit_timeout(LONG).unwrap();
        assert_eq!(task.get().unwrap(), 9);
    }
    assert!(tasks.into_iter().all(|task| task.get().is_ok_and(|n| n == 1)));
    // Room is seen although nobody has read the results that make it.
    for _ in 0..50 {
        let first: Vec<_> = (0..2).map(|n| pool.apply_async(|n: u32| n, n).unwrap()).collect();
        let mut job = pool.job(|n: u32| n, 7);
        let task = loop {
            match job.try_submit() {
                Ok(task) => break task,
                Err(refused) => job = refused.into_job().unwrap(),
            }
        };
        assert_eq!(task.get().unwrap(), 7);
        drop(first);
    }
    drop(told);
    pool.close();
    let refused = pool.job(|n: u32| n, 7).try_submit();
    assert!(matches!(refused, Err(NotSubmitted::Failed(TaskError::Closed))), "{:?}", refused.err());
    pool.join().unwrap();
    drop(pool);
    assert_eq!(count.try_iter().collect::<Vec<_>>(), [9, 9], "called once each");
}

#[test]
fn a_job_whose_bytes_find_no_room_comes_back_whole() {
    let _guard = guard();
    // Slots there are enough, but messages of this size fill the queue.
    let go = Event::new().unwrap();
    let wait = |(go, bytes): (Event, serde_bytes::ByteBuf)| {
        go.wait();
        bytes.len()
    };
    let pool = Pool::new(1).unwrap();
    let handle = pool.handle().unwrap();
    let bytes = serde_bytes::ByteBuf::from(vec![1; 1 << 20]);
    let mut tasks = Vec::new();
    let mut job = pool.job(wait, (go.clone(), bytes.clone()));
    let job = loop {
        match job.submit_timeout(SHORT) {
            Ok(task) => tasks.push(task),
            Err(NotSubmitted::Full(job)) => break job,
            Err(other) => panic!("{other}"),
        }
        assert!(tasks.len() < 4000, "it is full before that");
        job = pool.job(wait, (go.clone(), bytes.clone()));
    };
    let raw = pool.job(|bytes: Vec<u8>| bytes.len(), vec![2; 1 << 20]).try_submit();
    let raw = raw.unwrap_err().into_job().unwrap();
    // Through a handle, whose pipe the owner stops reading.
    let mut few = Vec::new();
    let one_more = loop {
        match handle.job(|n: u32| n, few.len() as u32).submit_timeout(Duration::from_millis(50)) {
            Ok(task) => few.push(task),
            Err(refused) => break refused.into_job().unwrap(),
        }
        assert!(few.len() <= 4096, "it is full before that");
    };
    let one_more = one_more.try_submit().unwrap_err().into_job().unwrap();
    let stats = pool.stats();
    go.set();
    assert_eq!(job.submit().unwrap().get().unwrap(), 1 << 20);
    assert_eq!(raw.submit().unwrap().get().unwrap(), 1 << 20);
    assert_eq!(one_more.submit().unwrap().get().unwrap(), few.len() as u32);
    let asked = few.len() as u64;
    assert!(few.into_iter().enumerate().all(|(n, task)| task.get().is_ok_and(|got| got == n as u32)));
    let count = tasks.len() as u64;
    assert!(tasks.into_iter().all(|task| task.get().is_ok_and(|len| len == 1 << 20)));
    assert!(stats.failed == 0 && stats.cancelled == 0 && stats.submitted >= count, "{stats:?}");
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.done), (count + 3 + asked, count + 3 + asked));
}
