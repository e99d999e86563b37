//! kinfolk's own, between two processes.

use kinfolk::channel::spsc;
use kinfolk::{Process, Queue};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::play::{self, Game, LARGE, Pair, Peer, Port, Running, Small, answer, large};

/// Two queues; small messages and large ones each have their type.
#[derive(Clone, Serialize, Deserialize)]
struct Queues {
    out: Queue<Small>,
    inward: Queue<Small>,
    large: Queue<Vec<u8>>,
}

impl Queues {
    fn new() -> Self {
        fn new<T: Serialize + DeserializeOwned + 'static>() -> Queue<T> {
            Queue::new(0).expect("make a queue")
        }
        Self { out: new(), inward: new(), large: new() }
    }

    fn turned(&self) -> Self {
        Self { out: self.inward.clone(), inward: self.out.clone(), large: self.large.clone() }
    }
}

impl Port for Queues {
    #[inline]
    fn send(&mut self, message: Small) {
        self.out.put(message).expect("put");
    }

    #[inline]
    fn recv(&mut self) -> Small {
        self.inward.get().expect("get")
    }

    fn send_large(&mut self, number: u64, wanted: u64, whole: bool) {
        let mut bytes = vec![0; LARGE];
        play::fill(&mut bytes, number, wanted, whole);
        self.large.put(bytes).expect("put");
    }

    fn recv_large(&mut self, whole: bool) -> (u64, u64) {
        play::read(&self.large.get().expect("get"), whole)
    }
}

/// Large messages in place.
#[derive(Clone, Serialize, Deserialize)]
struct Loans(Queues);

impl Port for Loans {
    #[inline]
    fn send(&mut self, message: Small) {
        self.0.send(message);
    }

    #[inline]
    fn recv(&mut self) -> Small {
        self.0.recv()
    }

    fn send_large(&mut self, number: u64, wanted: u64, whole: bool) {
        let loan = self.0.large.loan(LARGE).expect("lend room");
        // SAFETY: the loan is ours until the commit, and both sides keep to the rules.
        play::fill(unsafe { loan.slice().as_mut_slice() }, number, wanted, whole);
        loan.commit();
    }

    fn recv_large(&mut self, whole: bool) -> (u64, u64) {
        let message = self.0.large.get_ref().expect("get");
        // SAFETY: the message is ours until it is dropped, and both sides keep to the rules.
        play::read(unsafe { message.slice().as_slice() }, whole)
    }
}

type Args<P> = (P, Option<bool>, usize);

pub fn queue(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    fn other((port, large, cpu): Args<Queues>) {
        answer(port, large, cpu);
    }
    let here = Queues::new();
    let peer = Process::spawn(other, (here.turned(), large(game), there)).expect("start the other side");
    Running::new(here, Peer::Process(peer), game)
}

pub fn loan(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    fn other((port, large, cpu): Args<Loans>) {
        answer(port, large, cpu);
    }
    let here = Queues::new();
    let peer = Process::spawn(other, (Loans(here.turned()), large(game), there)).expect("start the other side");
    Running::new(Loans(here), Peer::Process(peer), game)
}

/// A ring for one producer and one consumer each way.
#[derive(Serialize, Deserialize)]
struct Slots<const SPINS: bool> {
    out: spsc::Producer<Small>,
    inward: spsc::Consumer<Small>,
}

impl<const SPINS: bool> Port for Slots<SPINS> {
    #[inline]
    fn send(&mut self, message: Small) {
        if SPINS { self.out.push_spin(message) } else { self.out.push(message) }.expect("push");
    }

    #[inline]
    fn recv(&mut self) -> Small {
        if SPINS { self.inward.pop_spin() } else { self.inward.pop() }.expect("pop")
    }
}

fn start_slots<const SPINS: bool>(game: Game, there: usize) -> Box<dyn Pair> {
    fn other<const SPINS: bool>((port, large, cpu): Args<Slots<SPINS>>) {
        answer(port, large, cpu);
    }
    let (out, its_in) = spsc::channel(1024).expect("make a ring");
    let (its_out, inward) = spsc::channel(1024).expect("make a ring");
    let args = (Slots::<SPINS> { out: its_out, inward: its_in }, large(game), there);
    let peer = Process::spawn(other, args).expect("start the other side");
    Running::new(Slots::<SPINS> { out, inward }, Peer::Process(peer), game)
}

pub fn spsc(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    start_slots::<true>(game, there)
}

pub fn spsc_waiting(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    start_slots::<false>(game, there)
}
