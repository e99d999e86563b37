//! The one-to-one rings against the limits of the machine: a line each way, 56 bytes and a flag in one line, a futex.
//!
//! Each sample runs limit, candidate, limit in one go (see [`duel`]). Samples whose two limits differ by more than a quarter are
//! left out: the CPUs changed places, or somebody else had one. What is left is sorted into near and far by the limit.

mod duel;

use duel::placement::Placement;
use duel::{Duel, What};

/// Samples of each pair.
const SAMPLES: usize = 200;
/// A round trip of a line above this is between CPUs that are far apart.
const FAR_NS: f64 = 150.0;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One candidate beside its limit, and where they are judged.
fn compare(duel: &mut Duel, limit: What, candidate: What, messages: u64, samples: usize) {
    let mut kept: [Vec<[f64; 3]>; 2] = Default::default();
    for _ in 0..samples {
        let times = duel.run(&[What::Line, limit, candidate, limit, What::Line], messages);
        let [line, before, middle, after, line_after] = times[..] else { unreachable!("five were ordered") };
        let agree = |a: f64, b: f64| a.max(b) < 1.25 * a.min(b);
        if agree(before, after) && agree(line, line_after) {
            let limit = (before + after) / 2.0;
            kept[usize::from(line > FAR_NS)].push([limit, middle, middle / limit]);
        }
    }
    for (kept, name) in kept.iter().zip(["near", "far"]) {
        if kept.len() >= 5 {
            let [limit_ns, ns, ratio] = [0, 1, 2].map(|k| median(kept.iter().map(|s| s[k]).collect()));
            let rate = 1e3 / ns;
            println!(
                "  {name:4} {candidate:?} {ns:8.1} ns ({rate:.1} M/s), {limit:?} {limit_ns:.1} ns: {ratio:.3} of it ({} samples)",
                kept.len()
            );
        }
    }
}

/// Blocking round trips of several, taking turns.
fn blocking(duel: &mut Duel, messages: u64, samples: usize) {
    let whats = [What::Futex, What::Blocking, What::Pipe];
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..samples {
        for (all, ns) in times.iter_mut().zip(duel.run(&whats, messages)) {
            all.push(ns);
        }
    }
    let to_futex: Vec<f64> = times[1].iter().zip(&times[0]).map(|(ours, futex)| ours / futex).collect();
    let to_pipe: Vec<f64> = times[1].iter().zip(&times[2]).map(|(ours, pipe)| ours / pipe).collect();
    let [futex, ours, pipe] = times.map(|ns| median(ns) / 1e3);
    println!(
        "  spsc {ours:.2} us, futex {futex:.2} us, pipe {pipe:.2} us: {:.3} of the futex, {:.3} of the pipe",
        median(to_futex),
        median(to_pipe)
    );
}

/// Whether the command line asks for `name`.
fn is_wanted(name: &str) -> bool {
    let mut filters = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
    let measures = !std::env::args().any(|arg| arg == "--list" || arg == "--test");
    measures && (filters.peek().is_none() || filters.any(|filter| name.contains(&filter)))
}

fn main() {
    if is_wanted("rtt/spin") {
        match Duel::start(Placement::TwoCpus) {
            None => println!("rtt/spin: skipped, there is one CPU only"),
            Some(mut duel) => {
                println!("rtt/spin: 56 B, two processes on two CPUs");
                for candidate in [What::Slot, What::Spin, What::SpinBytes] {
                    compare(&mut duel, What::Line, candidate, 1000, SAMPLES);
                }
                compare(&mut duel, What::Slot, What::Spin, 1000, SAMPLES);
                duel.end();
            }
        }
    }
    if is_wanted("oneway/spin") {
        match Duel::start(Placement::TwoCpus) {
            None => println!("oneway/spin: skipped, there is one CPU only"),
            Some(mut duel) => {
                println!("oneway/spin: 56 B, two processes on two CPUs");
                for candidate in [What::Stream, What::StreamBatch, What::StreamBytes, What::StreamStamped] {
                    compare(&mut duel, What::StreamLimit, candidate, 2_000, SAMPLES);
                }
                duel.end();
            }
        }
    }
    for placement in Placement::ALL {
        if is_wanted(&format!("rtt/blocking/{}", placement.name())) {
            let Some(mut duel) = Duel::start(placement) else {
                println!("rtt/blocking/{}: skipped, there is one CPU only", placement.name());
                continue;
            };
            println!("rtt/blocking/{}: 56 B, two processes", placement.name());
            blocking(&mut duel, 200, 100);
            duel.end();
        }
    }
}
