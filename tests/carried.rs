//! Handles of other segments than the family's: they take their segment along, in arguments and in messages.

mod support;

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use kinfolk::{
    Connection, ErrorKind, Event, GetError, Manager, Mutex, Process, Queue, Receiver, Segment, Sender, pipe,
    pipe_oneway,
};
use serde::{Deserialize, Serialize};
use support::watchdog;
use support::watchdog::Watchdog;

const SIZE: u64 = 64 << 20;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(120))
}

/// The number of a segment's memory file.
fn inode(segment: &Segment) -> u64 {
    rustix::fs::fstat(segment).unwrap().st_ino
}

/// Whether this process has that file open.
fn has_open(inode: u64) -> bool {
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    numbers.filter_map(|fd| std::fs::metadata(fd.ok()?.path()).ok()).any(|file| file.ino() == inode)
}

/// Waits until it is so. The watchdog ends it otherwise.
fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        std::thread::yield_now();
    }
}

/// Handles of several things, of one or more segments.
#[derive(Serialize, Deserialize)]
struct Bundle {
    numbers: Queue<u32>,
    sum: Mutex<u64>,
    end: Sender<String>,
    done: Event,
}

fn adds_up(bundle: Bundle) {
    while let Ok(number) = bundle.numbers.try_get() {
        *bundle.sum.lock().unwrap() += u64::from(number);
    }
    bundle.end.send("added".to_owned()).unwrap();
    bundle.done.set();
}

/// A bundle of things in up to two segments, with ten numbers in it, and the other end of its pipe.
fn bundle(one: &Manager, two: &Manager) -> (Bundle, Receiver<String>) {
    let (result, end) = two.pipe_oneway().unwrap();
    let bundle = Bundle { numbers: one.queue(0).unwrap(), sum: two.mutex(0).unwrap(), end, done: one.event().unwrap() };
    (1..=10).for_each(|k| bundle.numbers.put(k).unwrap());
    (bundle, result)
}

#[test]
fn handles_among_arguments_bring_their_segments() {
    let _guard = guard();
    for managers in [1, 2] {
        let one = Manager::with_size(SIZE).unwrap();
        let two = if managers == 1 { one.clone() } else { Manager::with_size(SIZE).unwrap() };
        let (bundle, result) = bundle(&one, &two);
        let (sum, done) = (bundle.sum.clone(), bundle.done.clone());
        let child = Process::spawn(adds_up, bundle).unwrap();
        done.wait();
        assert_eq!((result.recv().unwrap(), *sum.lock().unwrap()), ("added".to_owned(), 55));
        child.join().unwrap();
        assert_eq!(two.segment().stats().deaths, 0, "a child that returned left");
    }
}

#[test]
fn handles_in_messages_bring_their_segments() {
    let _guard = guard();
    let two = Manager::with_size(SIZE).unwrap();
    for one in [Manager::with_size(SIZE).unwrap(), two.clone()] {
        let (orders, theirs) = pipe::<Bundle, ()>().unwrap();
        let child = Process::spawn(|orders: Connection<(), Bundle>| adds_up(orders.recv().unwrap()), theirs).unwrap();
        let (bundle, result) = bundle(&one, &two);
        let sum = bundle.sum.clone();
        orders.send(bundle).unwrap();
        assert_eq!((result.recv().unwrap(), *sum.lock().unwrap()), ("added".to_owned(), 55));
        child.join().unwrap();
    }
}

#[test]
fn a_handle_is_there_although_its_sender_has_dropped_it_and_its_manager() {
    let _guard = guard();
    let (queue, answers) = (Queue::<Queue<String>>::new(0).unwrap(), Queue::<String>::new(0).unwrap());
    {
        let manager = Manager::with_size(SIZE).unwrap();
        let inner = manager.queue(0).unwrap();
        inner.put("still here".to_owned()).unwrap();
        queue.put(inner).unwrap();
    }
    fn opens((queue, answers): (Queue<Queue<String>>, Queue<String>)) {
        answers.put(queue.get().unwrap().get().unwrap()).unwrap();
    }
    // Sent to a child that does not exist yet.
    let child = Process::spawn(opens, (queue.clone(), answers.clone())).unwrap();
    assert_eq!(answers.get().unwrap(), "still here");
    child.join().unwrap();
    // And as the only handle, among arguments.
    let manager = Manager::with_size(SIZE).unwrap();
    let inner = manager.queue(0).unwrap();
    inner.put("here too".to_owned()).unwrap();
    drop(manager);
    let child = Process::spawn(|inner: Queue<String>| inner.get().unwrap(), inner).unwrap();
    assert_eq!(child.join().unwrap(), "here too");
}

#[test]
fn a_sender_keeps_nothing_that_was_received() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    let file = inode(manager.segment());
    assert!(has_open(file));
    let (sender, receiver) = pipe_oneway::<Vec<Queue<u32>>>().map(|(r, s)| (s, r)).unwrap();
    let (reports, counted) = pipe_oneway::<u32>().map(|(r, s)| (s, r)).unwrap();
    fn counts((messages, reports): (Receiver<Vec<Queue<u32>>>, Sender<u32>)) {
        while let Ok(queues) = messages.recv() {
            reports.send(queues.iter().map(|queue| queue.get().unwrap()).sum()).unwrap();
        }
    }
    let child = Process::spawn(counts, (receiver, reports)).unwrap();
    for round in 0..3 {
        let new = |number| {
            let queue = manager.queue(0).unwrap();
            queue.put(number).unwrap();
            queue
        };
        sender.send(vec![new(round), new(10), new(100)]).unwrap();
        assert_eq!(counted.recv().unwrap(), 110 + round);
        // Both have dropped them.
        until(|| manager.segment().stats().objects == 0);
    }
    drop(manager);
    until(|| !has_open(file));
    drop(sender);
    child.join().unwrap();
}

#[test]
fn a_message_that_is_not_sent_or_not_received_keeps_nothing() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    let queue = Queue::<Queue<u8>>::new(1).unwrap();
    queue.put(manager.queue(0).unwrap()).unwrap();
    assert_eq!(manager.segment().stats().objects, 1);
    // Handed back, and dropped.
    drop(queue.try_put(manager.queue(0).unwrap()).unwrap_err());
    assert_eq!(manager.segment().stats().objects, 1);
    drop(queue);
    // The queue is gone with the message in it: found out when the next one is sent.
    let other = Queue::<Event>::new(0).unwrap();
    other.put(manager.event().unwrap()).unwrap();
    assert_eq!(manager.segment().stats().objects, 1);
    drop(other.get().unwrap());
    assert_eq!(manager.segment().stats().objects, 0);
}

#[test]
fn a_handle_within_its_own_segment_is_kept_by_the_message() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    let outer = manager.queue::<Queue<u32>>(0).unwrap();
    fn sends(outer: Queue<Queue<u32>>, manager: &Manager) {
        let inner = manager.queue(0).unwrap();
        inner.put(7).unwrap();
        outer.put(inner).unwrap();
    }
    let child = |(outer, manager): (Queue<Queue<u32>>, Manager)| sends(outer, &manager);
    Process::spawn(child, (outer.clone(), manager.clone())).unwrap().join().unwrap();
    // Its sender is gone.
    assert_eq!(outer.get().unwrap().get().unwrap(), 7);
}

#[test]
fn an_item_of_the_family_goes_through_another_segment() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    let outer = manager.queue::<Queue<u32>>(0).unwrap();
    let inner = Queue::new(0).unwrap();
    let child = Process::spawn(|outer: Queue<Queue<u32>>| outer.get().unwrap().put(8).unwrap(), outer.clone()).unwrap();
    outer.put(inner.clone()).unwrap();
    assert_eq!(inner.get().unwrap(), 8);
    child.join().unwrap();
}

#[test]
fn a_dead_sender_is_an_error_that_names_it_and_the_next_message_arrives() {
    let _guard = guard();
    let queue = Queue::<Event>::new(0).unwrap();
    let sent = Queue::<()>::new(0).unwrap();
    fn sends_and_waits((queue, sent): (Queue<Event>, Queue<()>)) {
        let manager = Manager::with_size(SIZE).unwrap();
        queue.put(manager.event().unwrap()).unwrap();
        sent.put(()).unwrap();
        std::thread::park();
    }
    let args = (queue.clone(), sent.clone());
    let child = Process::builder().daemon(true).spawn(sends_and_waits, args).unwrap();
    sent.get().unwrap();
    let pid = child.pid();
    child.kill().unwrap();
    child.join().unwrap_err();
    let own = Manager::with_size(SIZE).unwrap();
    queue.put(own.event().unwrap()).unwrap();
    match queue.get() {
        Err(GetError::Decode(e)) => {
            assert_eq!(e.kind(), ErrorKind::Gone);
            assert!(e.to_string().contains(&format!("process {pid}, which sent it, has ended")), "{e}");
        }
        other => panic!("{other:?}"),
    }
    queue.get().unwrap().set();
}

#[test]
fn a_receiver_that_dies_with_foreign_handles_keeps_nobody_from_anything() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    let lock = manager.mutex(0u64).unwrap();
    let ready = manager.event().unwrap();
    fn holds((lock, ready): (Mutex<u64>, Event)) {
        let mut held = lock.lock().unwrap();
        *held = 1;
        ready.set();
        std::thread::park();
    }
    let child = Process::builder().daemon(true).spawn(holds, (lock.clone(), ready.clone())).unwrap();
    ready.wait();
    child.kill().unwrap();
    child.join().unwrap_err();
    // Joined, so recovered in every segment that both had.
    assert_eq!(manager.segment().stats().deaths, 1);
    assert!(matches!(lock.try_lock(), Err(kinfolk::LockError::OwnerDied(_))));
}

#[test]
fn many_handles_of_one_manager_are_received_by_many_threads_at_once() {
    let _guard = guard();
    let queue = Queue::<Queue<u32>>::new(0).unwrap();
    fn receives((queue, processes): (Queue<Queue<u32>>, Queue<(u32, usize)>)) {
        let all: Vec<Queue<u32>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| queue.get().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        processes.put((all.iter().map(|queue| queue.get().unwrap()).sum(), all.len())).unwrap();
        queue.get().unwrap();
    }
    let answers = Queue::new(0).unwrap();
    let child = Process::spawn(receives, (queue.clone(), answers.clone())).unwrap();
    let manager = Manager::with_size(SIZE).unwrap();
    for k in 0..8 {
        let inner = manager.queue(0).unwrap();
        inner.put(k).unwrap();
        queue.put(inner).unwrap();
    }
    assert_eq!(answers.get().unwrap(), (28, 8));
    assert_eq!(manager.segment().stats().processes, 2, "it attached the segment once");
    queue.put(manager.queue(0).unwrap()).unwrap();
    child.join().unwrap();
}

#[test]
fn segments_travel_and_a_name_is_enough_when_the_sender_has_ended() {
    let _guard = guard();
    let name = format!("test-{}-travels", std::process::id());
    let queue = Queue::<Segment>::new(0).unwrap();
    fn sends((queue, name): (Queue<Segment>, String)) {
        queue.put(Segment::create(&name, SIZE).unwrap()).unwrap();
    }
    let start = || Process::spawn(sends, (queue.clone(), name.clone())).unwrap().join().unwrap();
    start();
    let segment = queue.get().unwrap();
    assert_eq!(segment.name(), Some(&*name));
    drop(segment);
    Segment::unlink(&name).unwrap();
    // The name is gone, and so is everybody who had it.
    start();
    Segment::unlink(&name).unwrap();
    match queue.get() {
        Err(GetError::Decode(e)) => {
            assert_eq!(e.kind(), ErrorKind::NotFound);
            assert!(e.to_string().contains(&name), "{e}");
        }
        other => panic!("{other:?}"),
    }
    // Another one has the name now: that is not the one that was sent.
    start();
    Segment::unlink(&name).unwrap();
    let _other = Segment::create(&name, SIZE).unwrap();
    Segment::unlink(&name).unwrap();
    assert!(matches!(queue.get(), Err(GetError::Decode(e)) if e.kind() == ErrorKind::NotFound));
    start();
    Segment::unlink(&name).unwrap();
    let _other = Segment::create(&name, SIZE).unwrap();
    assert!(matches!(queue.get(), Err(GetError::Decode(e)) if e.kind() == ErrorKind::Gone));
    Segment::unlink(&name).unwrap();
    // Without a name in the file system, from the sender.
    let (back, orders) = (Queue::<u64>::new(0).unwrap(), Queue::<Segment>::new(0).unwrap());
    fn counts((orders, back): (Queue<Segment>, Queue<u64>)) {
        let segment = orders.get().unwrap();
        back.put(segment.stats().processes as u64).unwrap();
        // Not before everybody has seen it.
        orders.get().unwrap_err();
    }
    let child = Process::builder().daemon(true).spawn(counts, (orders.clone(), back.clone())).unwrap();
    let anonymous = Segment::anonymous(SIZE).unwrap();
    orders.put(anonymous.clone()).unwrap();
    assert_eq!(back.get().unwrap(), 2);
    assert_eq!(anonymous.stats().processes, 2);
    child.kill().unwrap();
    child.join().unwrap_err();
    assert_eq!(anonymous.stats().processes, 1);
}
