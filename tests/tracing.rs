//! What is told of processes (feature `tracing`).

use kinfolk::process::{self, StartMethod, Stdio, all_start_methods};
use kinfolk::{Process, Semaphore};
use std::io::Read;
use tracing::level_filters::LevelFilter;

mod support;

use support::watchdog;

fn park(begun: Semaphore) {
    begun.release().unwrap();
    loop {
        std::thread::park();
    }
}

/// Logs to standard error what becomes of two children, which log there too.
fn parent(level: u8) -> Vec<u32> {
    let level = [LevelFilter::OFF, LevelFilter::WARN, LevelFilter::DEBUG][usize::from(level)];
    assert!(process::log_to_stderr(level));
    assert!(!process::log_to_stderr(level), "there is one already");
    let mut pids = Vec::new();
    for &method in all_start_methods() {
        let tell = |level: String| {
            tracing::warn!(target: "own", n = 5, text = "a b", "of the program's own");
            tracing::debug!(target: "own", "in detail");
            assert_eq!(process::inherited_log_level().unwrap().to_string(), level);
        };
        let child = Process::builder().name("teller").start_method(method).spawn(tell, level.to_string()).unwrap();
        pids.push(child.pid());
        child.join().unwrap();
        let begun = Semaphore::new(0).unwrap();
        let child = Process::builder().name("victim").start_method(method).spawn(park, begun.clone()).unwrap();
        begun.acquire().unwrap().forget();
        pids.push(child.pid());
        child.kill().unwrap();
        child.join().unwrap_err();
    }
    pids
}

#[test]
fn starts_ends_and_recoveries_are_told_and_children_inherit_the_level() {
    let _guard = watchdog(std::time::Duration::from_secs(60));
    assert_eq!(process::inherited_log_level(), None);
    for level in [0, 1, 2] {
        let mut process = Process::builder().name("head").stderr(Stdio::piped()).spawn(parent, level).unwrap();
        let mut said = String::new();
        process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let head = process.pid();
        let pids = process.join().unwrap();
        let count = |line: String| said.lines().filter(|l| *l == line).count();
        let times = |wanted: u8| usize::from(level >= wanted);
        for (method, pids) in all_start_methods().iter().zip(pids.chunks(2)) {
            let &[teller, victim] = pids else { unreachable!() };
            let all = [
                (
                    2,
                    format!(
                        "[DEBUG/head {head}] kinfolk: process started name=\"teller\" pid={teller} method=\"{method}\""
                    ),
                ),
                (2, format!("[DEBUG/teller {teller}] kinfolk: process set up name=\"teller\" pid={teller}")),
                (1, format!("[WARN/teller {teller}] own: of the program's own n=5 text=\"a b\"")),
                (2, format!("[DEBUG/teller {teller}] own: in detail")),
                (2, format!("[DEBUG/head {head}] kinfolk: process exited name=\"teller\" pid={teller} code=0")),
                (2, format!("[DEBUG/head {head}] kinfolk: process recovered name=\"teller\" pid={teller}")),
                (1, format!("[WARN/head {head}] kinfolk: process died name=\"victim\" pid={victim} signal=9")),
                (1, format!("[WARN/head {head}] kinfolk: process recovered name=\"victim\" pid={victim}")),
            ];
            for (wanted, line) in all {
                assert_eq!(count(line.clone()), times(wanted), "level {level}: {line}\nin\n{said}");
            }
            if *method == StartMethod::ForkServer {
                let server = said.lines().filter(|l| l.contains("process set up name=\"fork server\" pid="));
                assert_eq!(server.count(), times(2), "{said}");
            }
        }
        assert_eq!(said.is_empty(), level == 0, "{said}");
    }
}
