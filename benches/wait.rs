//! Waiting for two things at once: a round trip over two queues with `wait`, and over two pipes of the system with poll(2).
//!
//! A driver and its peer, each pinned. The driver sends over one of two channels in turn; the peer waits for both and
//! answers over a third; the driver waits for that one and for one that stays silent.

#[path = "measure/placement.rs"]
mod placement;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use kinfolk::channel::{Waitable, wait};
use kinfolk::{Event, Process, Queue};
use placement::Placement;

const TRIPS: usize = 20_000;
const ROUNDS: usize = 5;

/// Three directions and a silent one: there by 0 or 1, back by 2.
type Queues = [Queue<u64>; 4];

fn peer((queues, cpu): (Queues, Option<usize>)) {
    placement::pin(cpu).expect("pin the peer");
    loop {
        for at in wait(&[&queues[0], &queues[1]], None).expect("wait") {
            match queues[at].try_get() {
                Ok(u64::MAX) => return,
                Ok(n) => queues[2].put(n).expect("answer"),
                Err(_) => {}
            }
        }
    }
}

fn by_queues([here, there]: [Option<usize>; 2]) -> Vec<u64> {
    placement::pin(here).expect("pin the driver");
    let queues: Queues = std::array::from_fn(|_| Queue::new(0).expect("make a queue"));
    let peer = Process::spawn(peer, (queues.clone(), there)).expect("start the peer");
    let mut times = Vec::with_capacity(TRIPS);
    for n in 0..TRIPS {
        let begin = Instant::now();
        queues[n % 2].put(n as u64).expect("put");
        assert_eq!(wait(&[&queues[3], &queues[2]], None).expect("wait"), [1]);
        assert_eq!(queues[2].try_get().expect("an answer"), n as u64);
        times.push(begin.elapsed().as_nanos() as u64);
    }
    queues[0].put(u64::MAX).expect("put");
    peer.join().expect("the peer ends well");
    times
}

/// The peer of the pipes. A child inherits no descriptors, so it opens the parent's by their paths.
fn pipe_peer((paths, cpu, ready): ([String; 3], Option<usize>, Event)) {
    placement::pin(cpu).expect("pin the peer");
    let open =
        |path: &String, write: bool| std::fs::OpenOptions::new().read(!write).write(write).open(path).expect("open");
    let mut ins = [open(&paths[0], false), open(&paths[1], false)];
    let mut out = open(&paths[2], true);
    ready.set();
    let mut bytes = [0; 8];
    loop {
        let ready = {
            let objects: [&dyn Waitable; 2] = [&ins[0], &ins[1]];
            wait(&objects, None).expect("poll")
        };
        for at in ready {
            ins[at].read_exact(&mut bytes).expect("read");
            if bytes == [0xff; 8] {
                return;
            }
            out.write_all(&bytes).expect("answer");
        }
    }
}

fn by_pipes([here, there]: [Option<usize>; 2]) -> Vec<u64> {
    placement::pin(here).expect("pin the driver");
    let mut pipes: Vec<[File; 2]> = (0..4)
        .map(|_| rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("make a pipe"))
        .map(|(reader, writer)| [reader, writer].map(File::from))
        .collect();
    let path = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let paths = [path(&pipes[0][0]), path(&pipes[1][0]), path(&pipes[2][1])];
    let ready = Event::new().expect("make an event");
    let peer = Process::spawn(pipe_peer, (paths, there, ready.clone())).expect("start the peer");
    ready.wait();
    let mut times = Vec::with_capacity(TRIPS);
    let mut bytes = [0; 8];
    for n in 0..TRIPS {
        let begin = Instant::now();
        pipes[n % 2][1].write_all(&n.to_ne_bytes()).expect("write");
        assert_eq!(wait(&[&pipes[3][0], &pipes[2][0]], None).expect("poll"), [1]);
        pipes[2][0].read_exact(&mut bytes).expect("an answer");
        assert_eq!(usize::from_ne_bytes(bytes), n);
        times.push(begin.elapsed().as_nanos() as u64);
    }
    pipes[0][1].write_all(&[0xff; 8]).expect("write");
    peer.join().expect("the peer ends well");
    times
}

fn median(times: &mut [u64]) -> Duration {
    times.sort_unstable();
    Duration::from_nanos(times[times.len() / 2])
}

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    for placement in Placement::ALL {
        let Some(cpus) = placement.cpus().expect("ask which CPUs there are") else { continue };
        let (mut queues, mut pipes) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // Each in a process of its own: pinning is for good.
            queues.extend(Process::spawn(by_queues, cpus).expect("start").join().expect("measure"));
            pipes.extend(Process::spawn(by_pipes, cpus).expect("start").join().expect("measure"));
        }
        let (queues, pipes) = (median(&mut queues), median(&mut pipes));
        println!("wait/2/{}: two queues {queues:?}, two pipes and poll {pipes:?}", placement.name());
    }
}
