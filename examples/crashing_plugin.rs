//! A host of plugins, which may do whatever they like: each runs in a worker of a pool, so what they do to their process is
//! an error of their task, and the host goes on.
//!
//! ```text
//! cargo run --example crashing_plugin
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use kinfolk::{JoinError, Pool, TaskError};
use serde::{Deserialize, Serialize};

/// How long a plugin may run.
const LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Plugin {
    Upper,
    Panics,
    WildPointer,
    Aborts,
    Overflows,
    Exits,
    Killed,
    RunsForEver,
}

const PLUGINS: [Plugin; 8] = [
    Plugin::Upper,
    Plugin::Panics,
    Plugin::WildPointer,
    Plugin::Aborts,
    Plugin::Overflows,
    Plugin::Exits,
    Plugin::Killed,
    Plugin::RunsForEver,
];

fn deeper(n: u64) -> u64 {
    std::hint::black_box(if n == 0 { 0 } else { deeper(n - 1) + 1 })
}

/// What a worker does for the host: the plugin makes something of a text.
fn run((plugin, text): (Plugin, String)) -> String {
    match plugin {
        Plugin::Upper => return text.to_uppercase(),
        Plugin::Panics => panic!("{text} is too much for me"),
        // SAFETY: there is nothing at this address, which is what it is for: the process ends.
        Plugin::WildPointer => drop(unsafe { std::ptr::without_provenance::<u8>(64).read_volatile() }),
        Plugin::Aborts => std::process::abort(),
        Plugin::Overflows => drop(deeper(u64::MAX)),
        Plugin::Exits => std::process::exit(3),
        // As by the kernel when memory is short.
        Plugin::Killed => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap(),
        Plugin::RunsForEver => loop {
            std::hint::spin_loop();
        },
    }
    unreachable!("it ended before")
}

/// What the host says of an outcome, and whether it is the one that this plugin must have.
fn judge(plugin: Plugin, outcome: &Result<String, TaskError>) -> (String, bool) {
    let signal = |status: &JoinError| match status {
        JoinError::Signaled { signal, .. } => Some(*signal),
        _ => None,
    };
    match outcome {
        Ok(text) => (format!("gave {text:?}"), plugin == Plugin::Upper),
        Err(TaskError::Panicked { message, location, .. }) => {
            (format!("panicked at {location}: {message}"), plugin == Plugin::Panics)
        }
        Err(TaskError::TimedOut { timeout }) => (format!("ran longer than {timeout:?}"), plugin == Plugin::RunsForEver),
        Err(TaskError::WorkerDied { status, .. }) => {
            let expected = match plugin {
                Plugin::WildPointer => signal(status) == Some(11),
                Plugin::Aborts => signal(status) == Some(6),
                Plugin::Killed => signal(status) == Some(9),
                Plugin::Overflows => matches!(**status, JoinError::StackOverflow),
                Plugin::Exits => matches!(**status, JoinError::Exited { code: 3 }),
                _ => false,
            };
            (format!("took its worker along: {status}"), expected)
        }
        Err(other) => (other.to_string(), false),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let pool = Pool::builder().name("plugins").processes(2).task_timeout(LIMIT).build()?;
    let mut wrong = 0;
    for plugin in PLUGINS {
        // Others are at work at the same time, and notice nothing.
        let bystander = pool.apply_async(run, (Plugin::Upper, "bystander".to_owned()))?;
        let outcome = pool.apply(run, (plugin, "some text".to_owned()));
        let (said, expected) = judge(plugin, &outcome);
        println!("{plugin:?} {said}");
        assert_eq!(bystander.get()?, "BYSTANDER");
        wrong += u32::from(!expected);
    }
    let stats = pool.stats();
    println!("{} tasks done, {} failed, {} workers died and were replaced", stats.done, stats.failed, stats.deaths);
    assert_eq!(stats.submitted, stats.done + stats.failed);
    assert_eq!((stats.failed, stats.deaths, wrong), (7, 6, 0));

    // The pool is as it was.
    let texts = pool.map(run, ["one", "two", "three"].map(|text| (Plugin::Upper, text.to_owned())))?;
    println!("{}", texts.join(" "));
    pool.close();
    pool.join()?;
    eprintln!("in {:?}", begin.elapsed());
    Ok(())
}
