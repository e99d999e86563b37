//! A process that is killed at a random moment, and a survivor that has to go on soon.

use std::time::{Duration, Instant};

use kinfolk::{Event, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::random::Random;

/// Survivors go on within this time after a death.
pub const SOON: Duration = Duration::from_secs(1);

/// Counts one kill more and is true: `least` of them, and then more until one has hit what it was to hit, up to twenty times as
/// many.
pub fn goes_on(kills: &mut u32, least: u32, has_hit: bool) -> bool {
    let more = *kills < least || !has_hit && *kills < 20 * least;
    *kills += u32::from(more);
    more
}

/// Starts a victim, lets it do its first round, kills it at a random moment, and does not reap it: the survivor has to
/// find out by itself. What the survivor does is timed. The victim's pid.
pub fn kill_one<A: Serialize + DeserializeOwned>(
    random: &mut Random,
    victim: impl Fn(A) + Copy + Send + 'static,
    args: A,
    begun: &Event,
    then: impl FnOnce(),
) -> u32 {
    begun.clear();
    let child = Process::builder().daemon(true).spawn(victim, args).unwrap();
    begun.wait();
    random.moment();
    child.kill().unwrap();
    let killed = Instant::now();
    then();
    assert!(killed.elapsed() < SOON, "the survivor went on after {:?}", killed.elapsed());
    let pid = child.pid();
    let _ = child.join();
    pid
}
