//! Two pipes of the system between two processes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use kinfolk::Process;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::play::{self, Game, LARGE, Pair, Peer, Port, Running, Small, answer, large};

struct Pipes {
    out: File,
    inward: File,
    buffer: Vec<u8>,
}

impl Pipes {
    fn new(out: File, inward: File) -> Self {
        Self { out, inward, buffer: vec![0; LARGE] }
    }
}

impl Port for Pipes {
    #[inline]
    fn send(&mut self, message: Small) {
        self.out.write_all(bytemuck::bytes_of(&message)).expect("write to the pipe");
    }

    #[inline]
    fn recv(&mut self) -> Small {
        let mut message = [0; 7];
        self.inward.read_exact(bytemuck::bytes_of_mut(&mut message)).expect("read from the pipe");
        message
    }

    fn send_large(&mut self, number: u64, wanted: u64, whole: bool) {
        play::fill(&mut self.buffer, number, wanted, whole);
        self.out.write_all(&self.buffer).expect("write to the pipe");
    }

    fn recv_large(&mut self, whole: bool) -> (u64, u64) {
        self.inward.read_exact(&mut self.buffer).expect("read from the pipe");
        play::read(&self.buffer, whole)
    }
}

/// Process and descriptors by which the other side opens its ends.
type Ends = (u32, i32, i32, Option<bool>, usize);

fn other((pid, out, inward, large, cpu): Ends) {
    let open = |fd: i32, writes: bool| {
        let path = format!("/proc/{pid}/fd/{fd}");
        OpenOptions::new().read(!writes).write(writes).open(path).expect("open an end of the pipe")
    };
    let mut port = Pipes::new(open(out, true), open(inward, false));
    // Says that it has opened its ends.
    port.send(play::small(0, play::PLAIN));
    answer(port, large, cpu);
}

pub fn start(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    let new = || pipe_with(PipeFlags::CLOEXEC).expect("make a pipe");
    let ((its_in, out), (inward, its_out)) = (new(), new());
    let ends: Ends = (std::process::id(), its_out.as_raw_fd(), its_in.as_raw_fd(), large(game), there);
    let peer = Process::spawn(other, ends).expect("start the other side");
    let mut here = Pipes::new(out.into(), inward.into());
    here.recv();
    drop((its_in, its_out));
    Running::new(here, Peer::Process(peer), game)
}
