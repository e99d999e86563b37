//! Open descriptors in messages: who gets them, who keeps them, and what a death does.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kinfolk::channel::Fd;
use kinfolk::{Connection, ErrorKind, GetError, Process, Queue, Receiver, RecvError, Sender, pipe, pipe_oneway};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use support::random::Random;
use support::watchdog;
use support::watchdog::Watchdog;

/// Survivors go on within this time after a death.
const SOON: Duration = Duration::from_secs(5);

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(120))
}

/// How many descriptors and threads this process has.
fn descriptors_and_threads() -> (usize, usize) {
    let count = |folder| std::fs::read_dir(folder).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

/// Reads to the end of the stream, which comes when every copy of the other end is closed.
fn rest(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Descriptors among other things, handles too.
#[derive(Serialize, Deserialize)]
struct Job {
    name: String,
    output: Fd,
    inputs: Vec<Fd>,
    done: Sender<String>,
}

fn work(job: Job) {
    let mut output = File::from(job.output);
    for input in job.inputs {
        std::io::copy(&mut File::from(input), &mut output).unwrap();
    }
    job.done.send(job.name).unwrap();
}

fn file_with(text: &str) -> File {
    let fd = rustix::fs::memfd_create("text", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(text.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

#[test]
fn descriptors_are_a_part_of_arguments_and_of_messages() {
    let _guard = guard();
    let job = || {
        let (here, there) = UnixStream::pair().unwrap();
        let inputs = ["one ", "two ", "three"].map(|text| Fd::from(file_with(text))).into();
        let (result, done) = pipe_oneway().unwrap();
        (here, result, Job { name: "a job".into(), output: there.into(), inputs, done })
    };
    // As an argument, through a queue, through a pipe: to a child.
    let (here, result, args) = job();
    let child = Process::spawn(work, args).unwrap();
    assert_eq!((rest(here), result.recv().unwrap()), ("one two three".into(), "a job".into()));
    child.join().unwrap();
    let (here, result, item) = job();
    let queue = Queue::new(0).unwrap();
    queue.put(item).unwrap();
    let child = Process::spawn(|queue: Queue<Job>| work(queue.get().unwrap()), queue.clone()).unwrap();
    assert_eq!((rest(here), result.recv().unwrap()), ("one two three".into(), "a job".into()));
    child.join().unwrap();
    let (here, result, item) = job();
    let (sender, receiver) = pipe_oneway().map(|(r, s)| (s, r)).unwrap();
    let child = Process::spawn(|jobs: Receiver<Job>| work(jobs.recv().unwrap()), receiver).unwrap();
    sender.send(item).unwrap();
    assert_eq!((rest(here), result.recv().unwrap()), ("one two three".into(), "a job".into()));
    child.join().unwrap();
    // And inside one process.
    let (here, result, item) = job();
    queue.put(item).unwrap();
    work(queue.get().unwrap());
    assert_eq!((rest(here), result.recv().unwrap()), ("one two three".into(), "a job".into()));
}

#[test]
fn a_descriptor_comes_back_and_can_be_sent_on() {
    let _guard = guard();
    fn pass_on((from, to): (Receiver<Fd>, Sender<Fd>)) {
        to.send(from.recv().unwrap()).unwrap();
        // It has to live until it was fetched.
        assert!(matches!(from.recv(), Err(RecvError::Disconnected(_))));
    }
    let (receiver, first) = pipe_oneway().unwrap();
    let (last, sender) = pipe_oneway().unwrap();
    let child = Process::spawn(pass_on, (receiver, sender)).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    // A number that the child does not have; what it gets is the file.
    let high = rustix::io::fcntl_dupfd_cloexec(&there, 500).unwrap();
    assert!(high.as_raw_fd() >= 500);
    drop(there);
    first.send(high.into()).unwrap();
    let mut back = UnixStream::from(last.recv().unwrap());
    back.write_all(b"round").unwrap();
    drop((back, first));
    assert_eq!(rest(here), "round");
    child.join().unwrap();
}

#[test]
fn who_sends_no_descriptor_has_no_thread_and_no_socket_for_it() {
    let _guard = guard();
    fn count(orders: Connection<[(usize, usize); 2], Option<Fd>>) {
        let before = descriptors_and_threads();
        orders.send([before, descriptors_and_threads()]).unwrap();
        let got = orders.recv().unwrap();
        let mut after = descriptors_and_threads();
        after.0 -= usize::from(got.is_some());
        orders.send([before, after]).unwrap();
    }
    let (orders, taken) = pipe().unwrap();
    let child = Process::spawn(count, taken).unwrap();
    let [before, after] = orders.recv().unwrap();
    assert_eq!(before, after, "messages without descriptors");
    orders.send(Some(file_with("x").into())).unwrap();
    let [before, after] = orders.recv().unwrap();
    assert_eq!(before, after, "and a message with one that is received");
    child.join().unwrap();
}

#[test]
fn many_children_fetch_many_descriptors_at_once_and_each_goes_to_one() {
    let _guard = guard();
    const FILES: usize = 400;
    fn taker(queue: Queue<(usize, Fd)>) -> Vec<usize> {
        let numbers = std::iter::from_fn(|| queue.try_get().ok()).map(|(number, fd)| {
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).unwrap();
            assert_eq!(text, number.to_string());
            number
        });
        numbers.collect()
    }
    let queue = Queue::new(0).unwrap();
    for number in 0..FILES {
        queue.put((number, Fd::from(file_with(&number.to_string())))).unwrap();
    }
    let takers = [(); 6].map(|()| Process::spawn(taker, queue.clone()).unwrap());
    let mut all: Vec<usize> = takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect();
    all.sort();
    assert!(all.into_iter().eq(0..FILES));
}

#[test]
fn a_sender_that_died_before_its_descriptor_was_fetched_is_named() {
    let _guard = guard();
    fn sender((queue, connection): (Queue<Fd>, Sender<Fd>)) {
        queue.put(file_with("x").into()).unwrap();
        connection.send(file_with("x").into()).unwrap();
        std::process::abort();
    }
    let queue = Queue::new(0).unwrap();
    let (receiver, connection) = pipe_oneway().unwrap();
    let child = Process::spawn(sender, (queue.clone(), connection)).unwrap();
    let pid = child.pid().to_string();
    child.join().unwrap_err();
    let Err(GetError::Decode(error)) = queue.get() else { panic!("it came") };
    assert!(error.kind() == ErrorKind::Gone && error.to_string().contains(&pid), "{error}");
    let Err(RecvError::Decode(error)) = receiver.recv() else { panic!("it came") };
    assert!(error.kind() == ErrorKind::Gone && error.to_string().contains(&pid), "{error}");
    assert!(matches!(receiver.recv(), Err(RecvError::Disconnected(Some(_)))), "and the pipe goes on");
}

#[test]
fn who_waits_for_a_sender_that_is_stopped_goes_on_when_it_is_killed() {
    let _guard = guard();
    fn sender(connection: Sender<Fd>) {
        connection.send(file_with("x").into()).unwrap();
        loop {
            std::thread::park();
        }
    }
    let mut random = Random::new(41);
    for _ in 0..20 {
        let (receiver, connection) = pipe_oneway().unwrap();
        let child = Process::builder().daemon(true).spawn(sender, connection).unwrap();
        assert!(receiver.poll(None).unwrap());
        let pid = Pid::from_raw(child.pid() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        // Until all its threads have stopped.
        waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).unwrap();
        let waiter = std::thread::spawn(move || (receiver.recv(), Instant::now()));
        random.moment();
        let killed = Instant::now();
        child.kill().unwrap();
        let (received, ended) = waiter.join().unwrap();
        let Err(RecvError::Decode(error)) = received else { panic!("it came") };
        assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
        assert!(ended.saturating_duration_since(killed) < SOON, "it went on after {:?}", ended - killed);
    }
}

#[test]
fn receivers_that_are_killed_hold_nothing_up_and_leave_nothing_behind() {
    let _guard = guard();
    fn receiver((queue, ready, _kept): (Queue<Fd>, Sender<()>, Fd)) {
        ready.send(()).unwrap();
        while let Ok(fd) = queue.get() {
            drop(OwnedFd::from(fd));
        }
    }
    // In a child, whose descriptors are counted without those of the other tests.
    fn parent(_: ()) {
        let mut random = Random::new(43);
        let queue = Queue::new(4).unwrap();
        let round = |random: &mut Random| {
            let (started, ready) = pipe_oneway().unwrap();
            let args = (queue.clone(), ready, Fd::from(file_with("argument")));
            let child = Process::spawn(receiver, args).unwrap();
            // Some are killed before they have fetched their argument.
            if random.below(2) == 0 {
                started.recv().unwrap();
            }
            let until = Instant::now() + Duration::from_nanos(random.below(2_000_000));
            while Instant::now() < until {
                let _ = queue.try_put(Fd::from(file_with("item")));
            }
            child.kill().unwrap();
            child.join().unwrap_err();
            while queue.try_get().is_ok() {}
        };
        round(&mut random);
        let (before, _) = descriptors_and_threads();
        (0..50).for_each(|_| round(&mut random));
        // A receiver that was killed with an item in hand may have left its copy here: one in a round at most.
        let (after, _) = descriptors_and_threads();
        assert!(after <= before + 51, "{before} descriptors before, {after} after");
        drop(queue);
        // They go when the next one is sent, for their queue is gone.
        let other = Queue::new(0).unwrap();
        other.put(Fd::from(file_with("last"))).unwrap();
        other.get().unwrap();
        let (after, _) = descriptors_and_threads();
        assert!(after <= before, "{before} descriptors before, {after} after");
    }
    Process::spawn(parent, ()).unwrap().join().unwrap();
}

#[test]
fn a_descriptor_means_nothing_outside_a_message() {
    let fd = Fd::from(file_with("x"));
    assert!(postcard::to_stdvec(&fd).is_err());
    let again = fd.try_clone().unwrap();
    assert_ne!(fd.as_fd().as_raw_fd(), again.as_fd().as_raw_fd());
}

#[test]
fn bytes_that_are_no_ticket_are_an_error() {
    let _guard = guard();
    let (receiver, sender) = pipe_oneway::<Fd>().unwrap();
    let mut random = Random::new(47);
    // A real one, from which some bytes are changed or left out.
    sender.send(file_with("x").into()).unwrap();
    let ticket = receiver.recv_bytes(None).unwrap();
    for _ in 0..500 {
        let mut bytes = ticket.clone();
        match random.below(3) {
            0 => bytes.truncate(random.below(ticket.len() as u64) as usize),
            1 => bytes.push(0),
            _ => bytes[random.below(ticket.len() as u64) as usize] ^= 1 + random.below(255) as u8,
        }
        sender.send_bytes(&bytes).unwrap();
        assert!(matches!(receiver.recv(), Err(RecvError::Decode(_))), "{bytes:?}");
    }
}
