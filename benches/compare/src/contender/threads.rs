//! Channels between threads: no process boundary, no death to survive.

use crossbeam_channel::{Receiver, Sender, bounded};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::play::{Game, Pair, Peer, Port, Running, Small, answer, large};

const CAPACITY: usize = 1024;

struct Rtrb(Producer<Small>, Consumer<Small>);

impl Port for Rtrb {
    #[inline]
    fn send(&mut self, message: Small) {
        while self.0.push(message).is_err() {
            std::hint::spin_loop();
        }
    }

    #[inline]
    fn recv(&mut self) -> Small {
        loop {
            if let Ok(message) = self.1.pop() {
                return message;
            }
            std::hint::spin_loop();
        }
    }
}

pub fn rtrb(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    let (out, its_in) = RingBuffer::new(CAPACITY);
    let (its_out, inward) = RingBuffer::new(CAPACITY);
    let thread = std::thread::spawn(move || answer(Rtrb(its_out, its_in), large(game), there));
    Running::new(Rtrb(out, inward), Peer::Thread(thread), game)
}

struct Crossbeam<const POLLS: bool>(Sender<Small>, Receiver<Small>);

impl<const POLLS: bool> Port for Crossbeam<POLLS> {
    #[inline]
    fn send(&mut self, message: Small) {
        if POLLS {
            while self.0.try_send(message).is_err() {
                std::hint::spin_loop();
            }
        } else {
            self.0.send(message).expect("the other side is there");
        }
    }

    #[inline]
    fn recv(&mut self) -> Small {
        if POLLS {
            loop {
                if let Ok(message) = self.1.try_recv() {
                    return message;
                }
                std::hint::spin_loop();
            }
        }
        self.1.recv().expect("the other side is there")
    }
}

fn start<const POLLS: bool>(game: Game, there: usize) -> Box<dyn Pair> {
    let (out, its_in) = bounded(CAPACITY);
    let (its_out, inward) = bounded(CAPACITY);
    let thread = std::thread::spawn(move || answer(Crossbeam::<POLLS>(its_out, its_in), large(game), there));
    Running::new(Crossbeam::<POLLS>(out, inward), Peer::Thread(thread), game)
}

pub fn crossbeam(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    start::<false>(game, there)
}

pub fn crossbeam_polled(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    start::<true>(game, there)
}
