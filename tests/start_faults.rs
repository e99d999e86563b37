//! Starts that are disturbed: by busy threads, by kills at any moment, by limits.

mod support;

use kinfolk::process::{StartMethod, Stdio, all_start_methods};
use kinfolk::{Error, ErrorKind, JoinError, Mutex, Process};
use rustix::process::{Resource, Rlimit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::children::{alone, processes, start, until};
use support::random::Random;
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(300))
}

/// How many starts of each kind.
const STARTS: u32 = 1000;

/// `None` for a fork.
fn ways() -> impl Iterator<Item = Option<StartMethod>> {
    all_start_methods().iter().copied().map(Some).chain([None])
}

fn start_by(way: Option<StartMethod>, n: u32) -> Result<Process<u32>, Error> {
    match way {
        Some(method) => Process::builder().start_method(method).spawn(|n: u32| n + 1, n),
        // SAFETY: the function adds two numbers; the C library's allocator is one that forks may use.
        None => unsafe { Process::fork(|n: u32| n + 1, n) },
    }
}

/// Allocates, prints and locks until it is told to stop.
fn be_busy(stop: &AtomicBool, shared: &Mutex<u64>, own: &std::sync::Mutex<Vec<String>>) {
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        println!("busy {count}");
        let mut texts = own.lock().unwrap();
        texts.push(format!("{count:>width$}", width = (count % 500) as usize));
        if texts.len() > 1000 {
            texts.clear();
        }
        drop(texts);
        *shared.lock().unwrap() += 1;
    }
}

#[test]
fn a_parent_with_busy_threads_starts_children_of_all_kinds() {
    let _guard = guard();
    fn parent(_: ()) -> u64 {
        let (shared, own) = (Mutex::new(0u64).unwrap(), std::sync::Mutex::new(Vec::new()));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| be_busy(&stop, &shared, &own));
            }
            for way in ways() {
                for n in 0..STARTS {
                    assert_eq!(start_by(way, n).unwrap().join().unwrap(), n + 1, "{way:?}");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        *shared.lock().unwrap()
    }
    let parent = Process::builder().stdout(Stdio::null()).spawn(parent, ()).unwrap();
    assert!(parent.join().unwrap() > 0, "they were busy");
}

#[test]
fn a_child_killed_at_any_moment_of_its_start_is_told_of_and_leaves_nothing() {
    let _guard = guard();
    alone(|()| {
        let mut random = Random::new(11);
        for way in ways() {
            let (mut killed, mut longest) = (0, 1);
            for n in 0..STARTS {
                let began = Instant::now();
                let child = start_by(way, n).unwrap();
                let moment = began + Duration::from_micros(random.below(longest));
                until(|| Instant::now() >= moment);
                child.kill().unwrap();
                // Later kills, until one comes too late, and then anew.
                match child.join() {
                    Ok(result) => {
                        assert_eq!(result, n + 1);
                        longest = 1;
                    }
                    Err(JoinError::Signaled { signal: 9, .. }) => {
                        killed += 1;
                        longest = (longest + longest / 4 + 20).min(8_000);
                    }
                    Err(other) => panic!("{way:?}: {other}"),
                }
            }
            assert!(killed > STARTS / 10, "{way:?}: {killed} of {STARTS}");
        }
        let me = std::process::id() as i32;
        let left: Vec<_> = processes().into_iter().filter(|p| p.parent == me).collect();
        assert!(left.len() <= 1 && left.iter().all(|p| p.name == "kinfolk-server" && p.state != 'Z'), "{left:?}");
        assert_eq!(start(StartMethod::Spawn, |n: u32| n, 5).join().unwrap(), 5);
    });
}

#[test]
fn with_few_descriptors_starts_fail_by_an_error_and_work_again() {
    let _guard = guard();
    fn limited(way: usize) -> (u32, String, bool) {
        let way = ways().nth(way).unwrap();
        let limit = Rlimit { current: Some(64), maximum: Some(64) };
        rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
        let mut children = Vec::new();
        let error = loop {
            match start_by(way, 1) {
                Ok(child) => children.push(child),
                Err(error) => break error,
            }
        };
        let count = children.len() as u32;
        let mut well = children.into_iter().all(|child| child.join().is_ok_and(|n| n == 2));
        well &= (0..10).all(|n| start_by(way, n).is_ok_and(|child| child.join().is_ok()));
        (count, format!("{:?}", error.kind()), well)
    }
    for (k, way) in ways().enumerate() {
        let (count, kind, well) = start(StartMethod::Spawn, limited, k).join().unwrap();
        assert!(count > 10, "{way:?}: {count}");
        assert_eq!((kind, well), (format!("{:?}", ErrorKind::TooManyFiles), true), "{way:?}");
    }
}
