//! `kinfolk`: the tour of the library, and its comparison with the pipes and sockets of the system.

mod compare;
#[path = "../../benches/measure/mod.rs"]
mod measure;
mod table;
mod tour;

use std::io::Write;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

/// How long the comparison takes: in the tour, and with `--quick`.
const SECONDS: f64 = 12.0;
const QUICK_SECONDS: f64 = 4.0;

/// Processes that share memory, and outlive each other's deaths.
///
/// Without a command: a tour of about 15 seconds, with real processes, real deaths, and figures of this machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Compares a queue with an OS pipe and a Unix socket: round trips, and messages one way.
    ///
    /// Both sides are processes; every payload is written, read and checked. The peers take turns in short samples, so
    /// that a change of the machine's speed hits all alike.
    Bench(Bench),
}

#[derive(Args)]
struct Bench {
    /// Prints one JSON object a line: bench (rtt or oneway), who, payload_bytes, placement, median_ns, p99_ns, messages
    /// (round trips, for rtt). Nanoseconds are of one round trip, or per message of a batch.
    #[arg(long)]
    json: bool,
    /// Takes 4 seconds instead of 12.
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// How long it shall take.
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Measures only what has all these words in its name, as in `rtt/64B/two_cpus/kinfolk`; several mean either.
    #[arg(long, value_name = "WORD/WORD")]
    only: Vec<String>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if (0.1..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("expected 0.1 to 86400".into()) }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        None => {
            let start = Instant::now();
            tour::run()?;
            println!(
                "\nA comparison with an OS pipe and a Unix socket, both sides processes; it takes {SECONDS:.0} s.\n"
            );
            let plan = compare::plan(&[])?;
            let rows = compare::measure(&plan, Duration::from_secs_f64(SECONDS), |_| Ok(()))?;
            print!("{}", table::of(&rows));
            println!("\n{:.1} s in all. `kinfolk bench --help` tells more.", start.elapsed().as_secs_f64());
        }
        Some(Command::Bench(Bench { json, quick, seconds, only })) => {
            let plan = compare::plan(&only)?;
            let budget = Duration::from_secs_f64(seconds.unwrap_or(if quick { QUICK_SECONDS } else { SECONDS }));
            let mut out = std::io::stdout().lock();
            let rows = compare::measure(&plan, budget, |row| {
                if json {
                    serde_json::to_writer(&mut out, row)?;
                    writeln!(out)?;
                }
                Ok(())
            })?;
            if !json {
                write!(out, "{}", table::of(&rows))?;
            }
        }
    }
    Ok(())
}
