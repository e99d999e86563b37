//! Waiting for many things at once, with real processes.

mod support;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kinfolk::channel::{Waitable, wait};
use kinfolk::{Connection, Event, GetError, Process, Queue, RecvError, pipe};
use support::watchdog;

const NOW: Option<Duration> = Some(Duration::ZERO);

fn guard() -> support::watchdog::Watchdog {
    watchdog(Duration::from_secs(60))
}

/// A child that does not keep a test that has failed from ending.
fn daemon<A, R>(function: impl Fn(A) -> R + Copy + Send + 'static, args: A) -> Process<R>
where
    A: serde::Serialize + serde::de::DeserializeOwned,
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    Process::builder().daemon(true).spawn(function, args).unwrap()
}

/// Ends when it is killed.
fn sleep_for_ever<T>(_: T) {
    loop {
        std::thread::park();
    }
}

#[test]
fn all_that_are_ready_are_told_in_order_and_nothing_is_taken() {
    let _guard = guard();
    let queue = Queue::<u32>::new(0).unwrap();
    let (here, there) = pipe::<u32, u32>().unwrap();
    let event = Event::new().unwrap();
    let (mut near, far) = UnixStream::pair().unwrap();
    let child = daemon(|event: Event| event.wait(), event.clone());
    let all: [&dyn Waitable; 5] = [&queue, &here, &event, &far, &child];

    assert_eq!(wait(&all, NOW).unwrap(), []);
    assert_eq!(wait(&all, Some(Duration::from_millis(30))).unwrap(), []);
    queue.put(1).unwrap();
    assert_eq!(wait(&all, None).unwrap(), [0]);
    there.send(2).unwrap();
    assert_eq!(wait(&all, None).unwrap(), [0, 1]);
    near.write_all(b"x").unwrap();
    assert_eq!(wait(&all, None).unwrap(), [0, 1, 3]);
    event.set();
    while wait(&all, None).unwrap() != [0, 1, 2, 3, 4] {}
    assert_eq!(wait(&[&child, &queue], None).unwrap(), [0, 1]);

    assert_eq!((queue.try_get().unwrap(), here.try_recv().unwrap()), (1, 2));
    event.clear();
    assert_eq!(wait(&all, None).unwrap(), [3, 4]);
    child.join().unwrap();
}

#[test]
fn nothing_to_wait_for_is_never_ready_and_ends_at_once() {
    assert_eq!(wait(&[], None).unwrap(), []);
    assert_eq!(wait(&[], Some(Duration::MAX)).unwrap(), []);
}

#[test]
fn a_timeout_of_zero_does_not_block_and_another_is_kept() {
    let _guard = guard();
    let (queue, event) = (Queue::<u32>::new(0).unwrap(), Event::new().unwrap());
    let (_near, far) = UnixStream::pair().unwrap();
    let lists: [&[&dyn Waitable]; 3] = [&[&queue, &event], &[&far], &[&queue, &far]];
    for objects in lists {
        let begin = Instant::now();
        for _ in 0..1000 {
            assert_eq!(wait(objects, NOW).unwrap(), []);
        }
        assert!(begin.elapsed() < Duration::from_secs(8), "less than the first bounded sleep each");
        let begin = Instant::now();
        assert_eq!(wait(objects, Some(Duration::from_millis(100))).unwrap(), []);
        assert!(begin.elapsed() >= Duration::from_millis(100));
    }
}

/// Puts one item into each of the queues when the event before it is set, from another process.
fn puts_when_asked((queues, event): (Vec<Queue<u32>>, Event)) {
    for (k, queue) in queues.iter().enumerate() {
        event.wait();
        event.clear();
        queue.put(k as u32).unwrap();
    }
    // Whoever leaves makes them all ready.
    event.wait();
}

#[test]
fn another_process_ends_the_wait_whatever_is_waited_for_beside() {
    let _guard = guard();
    let queues: Vec<Queue<u32>> = (0..60).map(|_| Queue::builder().bytes(4096).build().unwrap()).collect();
    let event = Event::new().unwrap();
    let (_near, far) = UnixStream::pair().unwrap();
    let child = daemon(puts_when_asked, (queues.clone(), event.clone()));
    for (k, queue) in queues.iter().enumerate() {
        let mut objects: Vec<&dyn Waitable> = queues.iter().map(|queue| queue as _).collect();
        if k % 2 == 1 {
            // Beside a descriptor, the reactor waits.
            objects.push(&far);
        }
        event.set();
        assert_eq!(wait(&objects, None).unwrap(), [k]);
        assert_eq!(queue.try_get().unwrap(), k as u32);
    }
    event.set();
    child.join().unwrap();
}

#[test]
fn more_words_than_one_call_can_sleep_on() {
    let _guard = guard();
    let events: Vec<Event> = (0..150).map(|_| Event::new().unwrap()).collect();
    let (_near, far) = UnixStream::pair().unwrap();
    fn set((events, go): (Vec<Event>, Queue<usize>)) {
        while let Ok(k) = go.get() {
            events[k].set();
        }
    }
    let go = Queue::new(0).unwrap();
    let _child = daemon(set, (events.clone(), go.clone()));
    for k in [0, 127, 128, 149] {
        for beside in [false, true] {
            let mut objects: Vec<&dyn Waitable> = events.iter().map(|event| event as _).collect();
            objects.extend(beside.then_some(&far as &dyn Waitable));
            go.put(k).unwrap();
            assert_eq!(wait(&objects, None).unwrap(), [k]);
            events[k].clear();
        }
    }
}

#[test]
fn an_event_that_was_set_and_cleared_meanwhile_has_come() {
    let _guard = guard();
    let (event, queue) = (Event::new().unwrap(), Queue::<u32>::new(0).unwrap());
    fn pulse((event, stop): (Event, Event)) {
        while !stop.is_set() {
            event.set();
            event.clear();
        }
    }
    let stop = Event::new().unwrap();
    let child = daemon(pulse, (event.clone(), stop.clone()));
    assert_eq!(wait(&[&queue, &event], None).unwrap(), [1]);
    stop.set();
    child.join().unwrap();
}

#[test]
fn the_death_of_the_peer_ends_the_wait_with_the_end_of_file() {
    let _guard = guard();
    for beside in [false, true] {
        let (here, there) = pipe::<u32, u32>().unwrap();
        let queue = Queue::<u32>::new(0).unwrap();
        let (_near, far) = UnixStream::pair().unwrap();
        let victim: Process<()> = daemon(sleep_for_ever::<Connection<u32, u32>>, there);
        let mut objects: Vec<&dyn Waitable> = vec![&queue, &here];
        objects.extend(beside.then_some(&far as &dyn Waitable));
        assert_eq!(wait(&objects, Some(Duration::from_millis(20))).unwrap(), []);
        // Nobody reaps it: the waiters find out by themselves.
        victim.kill().unwrap();
        assert_eq!(wait(&objects, None).unwrap(), [1]);
        assert!(matches!(here.try_recv(), Err(RecvError::Disconnected(Some(pid))) if pid == victim.pid()));
    }
}

#[test]
fn a_queue_that_everybody_else_has_left_is_ready_until_that_was_reported() {
    let _guard = guard();
    let (queue, other) = (Queue::<u32>::new(0).unwrap(), Queue::<u32>::new(0).unwrap());
    let child = Process::spawn(|queue: Queue<u32>| queue.put(1).unwrap(), queue.clone()).unwrap();
    child.join().unwrap();
    assert_eq!(wait(&[&other, &queue], None).unwrap(), [1]);
    assert_eq!(queue.get().unwrap(), 1);
    assert_eq!(wait(&[&other, &queue], None).unwrap(), [1]);
    assert!(matches!(queue.get(), Err(GetError::Disconnected(None))));
    assert_eq!(wait(&[&other, &queue], NOW).unwrap(), []);
    queue.close();
    assert_eq!(wait(&[&other, &queue], None).unwrap(), [1]);
}

fn busy(us: u64) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_micros(us) {
        std::hint::spin_loop();
    }
}

/// Puts the numbers below `n`, each when the one before it has been acknowledged and everybody may have gone to sleep.
fn puts_one_by_one((queue, acks, n): (Queue<u32>, Queue<u32>, u32)) {
    for k in 0..n {
        busy(150);
        queue.put(k).unwrap();
        assert_eq!(acks.get().unwrap(), k);
    }
}

/// Waits for the queue or the end, over and over, and takes nothing.
fn only_watches((queue, end, beside): (Queue<u32>, Event, bool)) -> u32 {
    let (_near, far) = UnixStream::pair().unwrap();
    let mut seen = 0;
    loop {
        let mut objects: Vec<&dyn Waitable> = vec![&queue, &end];
        objects.extend(beside.then_some(&far as &dyn Waitable));
        let ready = wait(&objects, None).unwrap();
        if ready.contains(&1) {
            return seen;
        }
        seen += 1;
        // Until somebody has taken it.
        while !queue.is_empty() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn two_who_only_watch_leave_nobody_asleep_who_takes() {
    let _guard = guard();
    const ITEMS: u32 = 10_000;
    let (queue, acks) = (Queue::<u32>::new(0).unwrap(), Queue::<u32>::new(0).unwrap());
    let end = Event::new().unwrap();
    let watchers: Vec<Process<u32>> =
        [false, true].into_iter().map(|beside| daemon(only_watches, (queue.clone(), end.clone(), beside))).collect();
    let begin = Instant::now();
    let putter = daemon(puts_one_by_one, (queue.clone(), acks.clone(), ITEMS));
    let mut late = 0;
    for k in 0..ITEMS {
        // So that the watchers are the first to sleep, and to be woken.
        busy(50);
        let before = Instant::now();
        assert_eq!(queue.get().unwrap(), k);
        acks.put(k).unwrap();
        late += u32::from(before.elapsed() > Duration::from_millis(7));
        // An item whose wake-up was lost waits for the end of a bounded sleep, 8 ms and more.
        assert!(late < ITEMS / 20, "{late} of {k} items came late, in {:?}", begin.elapsed());
    }
    putter.join().unwrap();
    end.set();
    let seen: Vec<u32> = watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect();
    assert!(seen.iter().all(|seen| *seen > 0), "{seen:?}");
}

#[test]
fn signals_do_not_end_a_wait() {
    let _guard = guard();
    fn waits((queue, ready, beside): (Queue<u32>, Event, bool)) -> (usize, bool) {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
        extern "C" fn nothing(_: i32) {}
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        let (_near, far) = UnixStream::pair().unwrap();
        let event = Event::new().unwrap();
        let mut objects: Vec<&dyn Waitable> = vec![&event, &queue];
        objects.extend(beside.then_some(&far as &dyn Waitable));
        ready.set();
        let begin = Instant::now();
        let none = wait(&objects, Some(Duration::from_millis(300))).unwrap();
        let in_full = begin.elapsed() >= Duration::from_millis(300);
        (none.len() + wait(&objects, None).unwrap()[0], in_full)
    }
    for beside in [false, true] {
        let (queue, ready) = (Queue::new(0).unwrap(), Event::new().unwrap());
        let child = daemon(waits, (queue.clone(), ready.clone(), beside));
        ready.wait();
        let pid = nix::unistd::Pid::from_raw(child.pid() as i32);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(600) {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
            std::thread::yield_now();
        }
        queue.put(1).unwrap();
        assert_eq!(child.join().unwrap(), (1, true));
    }
}

#[test]
fn a_doorbell_rings_for_what_comes_and_for_what_is_there() {
    let _guard = guard();
    let queue = Queue::<u32>::new(0).unwrap();
    let bell = queue.doorbell().unwrap();
    assert_eq!(wait(&[&bell], Some(Duration::from_millis(20))).unwrap(), []);
    let child = Process::spawn(|queue: Queue<u32>| (0..3).for_each(|k| queue.put(k).unwrap()), queue.clone()).unwrap();
    let mut got = Vec::new();
    while got.len() < 3 {
        assert_eq!(wait(&[&bell.as_fd()], None).unwrap(), [0]);
        while let Ok(item) = queue.try_get() {
            got.push(item);
        }
        bell.reset().unwrap();
    }
    assert_eq!(got, [0, 1, 2]);
    // It rings for the departure, once.
    child.join().unwrap();
    assert_eq!(wait(&[&bell], None).unwrap(), [0]);
    assert!(matches!(queue.get(), Err(GetError::Disconnected(None))));
    bell.reset().unwrap();
    assert_eq!(wait(&[&bell], Some(Duration::from_millis(20))).unwrap(), []);
    // What is there when it is reset rings it again.
    queue.put(3).unwrap();
    assert_eq!(wait(&[&bell], None).unwrap(), [0]);
    bell.reset().unwrap();
    assert_eq!(wait(&[&bell], None).unwrap(), [0]);
}

#[test]
fn a_doorbell_does_not_keep_its_object_open() {
    let _guard = guard();
    let (here, there) = pipe::<u32, u32>().unwrap();
    let bell = there.doorbell().unwrap();
    drop(there);
    assert!(matches!(here.recv(), Err(RecvError::Disconnected(None))));
    assert_eq!(wait(&[&bell], None).unwrap(), [0], "it rings once more");
    assert_eq!(bell.reset().unwrap_err().kind(), kinfolk::ErrorKind::Gone);
}

#[test]
fn doorbells_of_connections_and_events_ring() {
    let _guard = guard();
    let (here, there) = pipe::<u32, u32>().unwrap();
    let event = Event::new().unwrap();
    let bells = [here.doorbell().unwrap(), event.doorbell().unwrap()];
    fn sets_and_receives((there, event): (Connection<u32, u32>, Event)) {
        event.set();
        event.clear();
        assert_eq!(there.recv().unwrap(), 1);
    }
    let child = daemon(sets_and_receives, (there, event.clone()));
    assert_eq!(wait(&[&bells[1]], None).unwrap(), [0]);
    assert_eq!(wait(&[&bells[0]], NOW).unwrap(), []);
    here.send(1).unwrap();
    child.join().unwrap();
    assert_eq!(wait(&[&bells[0]], None).unwrap(), [0], "the end of file");
}
