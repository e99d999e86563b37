//! Who competes.

mod family;
mod iceoryx;
mod ipc;
mod limit;
mod pipes;
mod threads;

use crate::place::Placement;
use crate::play::{Game, Pair};

/// A transport that competes.
pub struct Contender {
    /// Its name, and between what it runs.
    pub name: &'static str,
    /// Only ever looks again, so with both sides on one CPU it waits for its time slice to end.
    pub spins: bool,
    /// The games that it can play.
    pub games: &'static [Game],
    /// Starts both sides, the calling one on the first CPU.
    pub start: fn(Game, [usize; 2]) -> Box<dyn Pair>,
}

impl Contender {
    pub fn plays(&self, game: Game, placement: Placement) -> bool {
        self.games.contains(&game) && !(self.spins && placement == Placement::OneCpu)
    }
}

const SMALL: &[Game] = &[Game::RoundTrip, Game::Stream];
const ALL: &[Game] = &Game::ALL;
const COPIED: &[Game] = &[Game::RoundTrip, Game::Stream, Game::Large];

/// All of them, the limit first.
pub const CONTENDERS: &[Contender] = &[
    Contender { name: "flag in the line (threads)", spins: true, games: SMALL, start: limit::start },
    Contender { name: "kinfolk Queue (processes)", spins: false, games: COPIED, start: family::queue },
    Contender { name: "kinfolk spsc, polled (processes)", spins: true, games: SMALL, start: family::spsc },
    Contender { name: "kinfolk spsc (processes)", spins: false, games: SMALL, start: family::spsc_waiting },
    Contender {
        name: "kinfolk loan (processes)",
        spins: false,
        games: &[Game::Large, Game::LargeInPlace],
        start: family::loan,
    },
    Contender { name: "rtrb (threads)", spins: true, games: SMALL, start: threads::rtrb },
    Contender { name: "crossbeam, blocking (threads)", spins: false, games: SMALL, start: threads::crossbeam },
    Contender { name: "crossbeam, polled (threads)", spins: true, games: SMALL, start: threads::crossbeam_polled },
    Contender { name: "iceoryx2, polled (processes)", spins: true, games: ALL, start: iceoryx::start },
    Contender { name: "ipc-channel (processes)", spins: false, games: COPIED, start: ipc::start },
    Contender { name: "pipe (processes)", spins: false, games: COPIED, start: pipes::start },
];
