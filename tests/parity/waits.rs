//! `TestWait` and `TestInvalidHandle`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use kinfolk::channel::{Waitable, wait};
use kinfolk::{Connection, ErrorKind, Process, Queue, RecvError, pipe};

use super::support::random::Random;
use super::{DELTA, guard};

const READERS: u32 = 4;
const MESSAGES: u32 = 10;

fn pause(slow: bool, random: &mut Random) {
    if slow {
        std::thread::sleep(Duration::from_millis(random.below(20)));
    }
}

/// Sends the numbers below ten with its own, and ends.
fn sends((end, me, slow): (Connection<(u32, u32), ()>, u32, bool)) {
    let mut random = Random::new(u64::from(me) + 1);
    for k in 0..MESSAGES {
        pause(slow, &mut random);
        end.send((k, me)).unwrap();
    }
}

fn wait_for_all_to_end(slow: bool) {
    let (mut readers, mut children) = (Vec::new(), Vec::new());
    for me in 0..READERS {
        let (here, there) = pipe::<(), (u32, u32)>().unwrap();
        children.push(Process::spawn(sends, (there, me, slow)).unwrap());
        readers.push(here);
    }
    let mut messages = Vec::new();
    while !readers.is_empty() {
        let objects: Vec<&dyn Waitable> = readers.iter().map(|reader| reader as _).collect();
        let ready = wait(&objects, None).unwrap();
        assert!(!ready.is_empty());
        for at in ready.into_iter().rev() {
            match readers[at].try_recv() {
                Ok(message) => messages.push(message),
                Err(RecvError::Disconnected(None)) => drop(readers.remove(at)),
                Err(e) => panic!("{e}"),
            }
        }
    }
    messages.sort_unstable();
    let expected: Vec<_> = (0..MESSAGES).flat_map(|k| (0..READERS).map(move |me| (k, me))).collect();
    assert_eq!(messages, expected);
    children.into_iter().for_each(|child| child.join().unwrap());
}

#[test]
fn pipes_are_waited_for_until_all_have_ended() {
    let _guard = guard();
    wait_for_all_to_end(false);
}

#[test]
fn pipes_with_pauses_are_waited_for_until_all_have_ended() {
    let _guard = guard();
    wait_for_all_to_end(true);
}

/// Connects, and sends lines of numbers.
fn sends_lines((port, slow): (u16, bool)) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut random = Random::new(u64::from(port));
    for k in 0..MESSAGES {
        pause(slow, &mut random);
        socket.write_all(format!("{k}\n").as_bytes()).unwrap();
    }
}

fn wait_for_sockets(slow: bool) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let children: Vec<_> = (0..READERS).map(|_| Process::spawn(sends_lines, (port, slow)).unwrap()).collect();
    let mut readers: Vec<_> = children.iter().map(|_| Some((listener.accept().unwrap().0, String::new()))).collect();
    let mut texts = Vec::new();
    // Waited for together with a queue, to which nothing comes.
    let queue = Queue::<u32>::new(0).unwrap();
    while texts.len() < readers.len() {
        let open: Vec<usize> = (0..readers.len()).filter(|k| readers[*k].is_some()).collect();
        let mut objects: Vec<&dyn Waitable> = open.iter().map(|k| &readers[*k].as_ref().unwrap().0 as _).collect();
        objects.push(&queue);
        for at in wait(&objects, None).unwrap() {
            let reader = &mut readers[open[at]];
            let (socket, text) = reader.as_mut().unwrap();
            let mut buffer = [0; 32];
            match socket.read(&mut buffer).unwrap() {
                0 => texts.push(reader.take().unwrap().1),
                n => *text += std::str::from_utf8(&buffer[..n]).unwrap(),
            }
        }
    }
    let expected: String = (0..MESSAGES).map(|k| format!("{k}\n")).collect();
    assert!(texts.iter().all(|text| *text == expected), "{texts:?}");
    children.into_iter().for_each(|child| child.join().unwrap());
}

#[test]
fn sockets_are_waited_for_until_all_have_ended() {
    let _guard = guard();
    wait_for_sockets(false);
}

#[test]
fn sockets_with_pauses_are_waited_for_until_all_have_ended() {
    let _guard = guard();
    wait_for_sockets(true);
}

#[test]
fn a_wait_that_times_out_gives_nothing_and_then_what_is_ready() {
    let _guard = guard();
    let (a, b) = pipe::<u32, u32>().unwrap();
    let begin = Instant::now();
    assert!(wait(&[&a, &b], Some(DELTA)).unwrap().is_empty());
    assert!(begin.elapsed() >= DELTA);
    b.send(1).unwrap();
    let begin = Instant::now();
    assert_eq!(wait(&[&a, &b], Some(Duration::from_secs(20))).unwrap(), [0]);
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn pipes_and_the_end_of_a_process_are_waited_for_together() {
    let _guard = guard();
    let ((a, b), (c, d)) = (pipe::<u32, u32>().unwrap(), pipe::<u32, u32>().unwrap());
    let go = Queue::<()>::new(0).unwrap();
    let child = Process::spawn(|go: Queue<()>| go.get().unwrap(), go.clone()).unwrap();
    let sentinel = child.sentinel();
    let all: [&dyn Waitable; 3] = [&a, &sentinel, &d];
    assert!(wait(&all, Some(DELTA)).unwrap().is_empty());
    go.put(()).unwrap();
    assert_eq!(wait(&all, Some(Duration::from_secs(20))).unwrap(), [1]);
    b.send(1).unwrap();
    assert_eq!(wait(&all, Some(Duration::from_secs(20))).unwrap(), [0, 1]);
    c.send(2).unwrap();
    assert_eq!(wait(&all, Some(Duration::from_secs(20))).unwrap(), [0, 1, 2]);
    assert_eq!((a.recv().unwrap(), d.recv().unwrap()), (1, 2));
    assert_eq!(wait(&all, None).unwrap(), [1]);
}

#[test]
fn a_wait_without_time_returns_at_once() {
    let _guard = guard();
    // A negative time-out cannot be written; this is what Python makes of it.
    let (a, _b) = pipe::<u32, u32>().unwrap();
    let begin = Instant::now();
    assert!(wait(&[&a], Some(Duration::ZERO)).unwrap().is_empty());
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_descriptor_that_is_not_open_is_an_error() {
    let _guard = guard();
    // SAFETY: a number that no descriptor of this process has or gets.
    let none = unsafe { BorrowedFd::borrow_raw(44_977_608) };
    let (a, _b) = pipe::<u32, u32>().unwrap();
    let lists: [&[&dyn Waitable]; 2] = [&[&none], &[&a, &none]];
    for objects in lists {
        assert_eq!(wait(objects, None).unwrap_err().kind(), ErrorKind::Os);
    }
}
