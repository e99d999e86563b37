//! kinfolk's rings and channels next to those of other crates: round trips and messages one way, all in one run.
//!
//! The contenders take turns in short rounds. The two CPUs of a virtual machine drift between places that are near and far
//! from each other, so each round is between two looks at what a cache line costs, and counts for the class (near or far)
//! that both agree on. What is printed is the median round of each class.

mod contender;
mod place;
mod play;

use std::time::Duration;

use clap::Parser;
use contender::{CONTENDERS, Contender};
use place::{Class, Placement, Probe};
use play::Game;

/// Compares round trips and streams of 56 B messages, and of 1 MiB.
#[derive(Parser)]
struct Options {
    /// Only games whose name (round_trip/two_cpus/rtrb) contains one of these.
    only: Vec<String>,
    /// Rounds of each contender in each game.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Length of a round, in milliseconds.
    #[arg(long, default_value_t = 20)]
    millis: u64,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A contender in one game, and its rounds so far: nanoseconds a message.
struct Entry {
    contender: &'static Contender,
    batch: u64,
    near: Vec<f64>,
    far: Vec<f64>,
}

impl Entry {
    /// Finds out how many messages make a round.
    fn new(contender: &'static Contender, game: Game, cpus: [usize; 2], round: Duration) -> Self {
        let mut pair = (contender.start)(game, cpus);
        let mut batch = 1;
        while pair.run(game, batch) < round / 2 {
            batch *= 2;
        }
        Self { contender, batch, near: Vec::new(), far: Vec::new() }
    }

    /// One round. Both sides are there for its length only: some never sleep, and would be in the way of the others.
    fn round(&mut self, game: Game, cpus: [usize; 2], probe: &mut Probe) {
        let mut pair = (self.contender.start)(game, cpus);
        pair.run(game, self.batch / 4 + 1);
        let before = probe.look();
        let time = pair.run(game, self.batch);
        drop(pair);
        if probe.look() == before {
            let each = time.as_nanos() as f64 / self.batch as f64;
            if before == Class::Near { self.near.push(each) } else { self.far.push(each) }
        }
    }
}

fn main() {
    let options = Options::parse();
    let round = Duration::from_millis(options.millis);
    for game in Game::ALL {
        for placement in [Placement::TwoCpus, Placement::OneCpu] {
            let Some(cpus) = placement.cpus() else {
                println!("{}/{}: skipped, there is one CPU only", game.name(), placement.name());
                continue;
            };
            let wanted = |contender: &Contender| {
                let name = format!("{}/{}/{}", game.name(), placement.name(), contender.name);
                let asked = options.only.is_empty() || options.only.iter().any(|part| name.contains(part));
                asked && contender.plays(game, placement)
            };
            let contenders: Vec<_> = CONTENDERS.iter().filter(|contender| wanted(contender)).collect();
            if contenders.is_empty() {
                continue;
            }
            place::pin(cpus[0]);
            let mut probe = Probe::start(placement);
            let mut entries: Vec<_> =
                contenders.into_iter().map(|contender| Entry::new(contender, game, cpus, round)).collect();
            for _ in 0..options.rounds {
                for entry in &mut entries {
                    entry.round(game, cpus, &mut probe);
                }
            }
            println!("{} / {} (ns a message; rounds)", game.name(), placement.name());
            for Entry { contender, near, far, .. } in entries {
                let show = |values: Vec<f64>| {
                    let rounds = values.len();
                    median(values).map_or("-".into(), |ns| format!("{ns:.1} ({rounds})"))
                };
                println!("  {:<34} near {:>18}   far {:>18}", contender.name, show(near), show(far));
            }
        }
    }
}
