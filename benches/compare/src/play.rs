//! The games, and the two sides of one, over whatever carries messages.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kinfolk::Process;

use crate::place::pin;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Game {
    /// 56 B there and 56 B back.
    RoundTrip,
    /// 56 B one way; the last of a batch is answered.
    Stream,
    /// 1 MiB one way, all of it written and read.
    Large,
    /// 1 MiB one way, of which 8 B are written and read: what handing over alone costs.
    LargeInPlace,
}

impl Game {
    pub const ALL: [Self; 4] = [Self::RoundTrip, Self::Stream, Self::Large, Self::LargeInPlace];

    pub fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "round_trip_56B",
            Self::Stream => "stream_56B",
            Self::Large => "one_way_1MiB",
            Self::LargeInPlace => "hand_over_1MiB",
        }
    }
}

/// Bytes of a large message.
pub const LARGE: usize = 1 << 20;

/// The 56 bytes: a number, what is wanted, and five words that follow from the number.
pub type Small = [u64; 7];

/// What the receiver is to do.
pub const PLAIN: u64 = 0;
pub const ANSWER: u64 = 1;
pub const LAST: u64 = 2;

#[inline]
pub fn small(number: u64, wanted: u64) -> Small {
    [number, wanted, !number, number, !number, number, !number]
}

/// What was wanted, if the message is the one with this number.
#[inline]
fn check(message: Small, number: u64) -> u64 {
    assert_eq!(message, small(number, message[1]), "message {number} is not what was sent");
    message[1]
}

/// One side of a transport.
pub trait Port {
    fn send(&mut self, message: Small);
    fn recv(&mut self) -> Small;
    /// Sends [`LARGE`] bytes: the number and what is wanted in front; all the rest too if `whole`.
    fn send_large(&mut self, _number: u64, _wanted: u64, _whole: bool) {
        unreachable!("carries no large messages")
    }
    /// Receives what [`send_large`](Self::send_large) sent: its number and what is wanted.
    fn recv_large(&mut self, _whole: bool) -> (u64, u64) {
        unreachable!("carries no large messages")
    }
}

/// Fills a large message.
pub fn fill(bytes: &mut [u8], number: u64, wanted: u64, whole: bool) {
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..16].copy_from_slice(&wanted.to_le_bytes());
    if whole {
        bytes[16..].fill(number as u8);
    }
}

/// Reads a large message.
pub fn read(bytes: &[u8], whole: bool) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let number = word(0);
    if whole {
        let different = bytes[16..].iter().fold(0, |all, byte| all | (byte ^ number as u8));
        assert_eq!(different, 0, "message {number} is torn");
    }
    (number, word(8))
}

/// Both sides at work.
pub trait Pair {
    /// Sends so many messages.
    fn run(&mut self, game: Game, messages: u64) -> Duration;
}

/// The other side, and how to wait for its end.
pub enum Peer {
    Thread(JoinHandle<()>),
    Process(Process<()>),
}

/// This side, and the other.
pub struct Running<P: Port> {
    port: P,
    peer: Option<Peer>,
    game: Game,
    sent: u64,
    received: u64,
}

impl<P: Port> Running<P> {
    pub fn new(port: P, peer: Peer, game: Game) -> Box<Self> {
        Box::new(Self { port, peer: Some(peer), game, sent: 0, received: 0 })
    }

    #[inline]
    fn send(&mut self, wanted: u64) {
        match self.game {
            Game::RoundTrip | Game::Stream => self.port.send(small(self.sent, wanted)),
            game => self.port.send_large(self.sent, wanted, game == Game::Large),
        }
        self.sent += 1;
    }

    #[inline]
    fn answer(&mut self) {
        check(self.port.recv(), self.received);
        self.received += 1;
    }
}

impl<P: Port> Pair for Running<P> {
    fn run(&mut self, game: Game, messages: u64) -> Duration {
        let before = Instant::now();
        for left in (0..messages).rev() {
            let answered = game == Game::RoundTrip || left == 0;
            self.send(if answered { ANSWER } else { PLAIN });
            if answered {
                self.answer();
            }
        }
        before.elapsed()
    }
}

impl<P: Port> Drop for Running<P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.send(LAST);
        match self.peer.take().expect("it was there") {
            Peer::Thread(thread) => thread.join().expect("the other side ends well"),
            Peer::Process(process) => process.join().expect("the other side ends well"),
        }
    }
}

/// The other side: receives, and answers what wants an answer.
pub fn answer(mut port: impl Port, large: Option<bool>, cpu: usize) {
    pin(cpu);
    let mut sent = 0;
    for received in 0.. {
        let wanted = match large {
            None => check(port.recv(), received),
            Some(whole) => {
                let (number, wanted) = port.recv_large(whole);
                assert_eq!(number, received, "another message");
                wanted
            }
        };
        match wanted {
            PLAIN => {}
            ANSWER => {
                port.send(small(sent, PLAIN));
                sent += 1;
            }
            _ => return,
        }
    }
}

/// Whether the game's messages are large, and whole.
pub fn large(game: Game) -> Option<bool> {
    match game {
        Game::RoundTrip | Game::Stream => None,
        Game::Large => Some(true),
        Game::LargeInPlace => Some(false),
    }
}
