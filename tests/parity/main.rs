//! CPython's own tests of `multiprocessing`, ported: what they verify of Python, these verify of this library.
//!
//! `parity-tests.tsv` lists every test of CPython with a verdict: `P` is ported, `C` has another shape here, `N` is about
//! Python alone. Its last column names our test. Source: CPython, `Lib/test/_test_multiprocessing.py`,
//! and of `Lib/test/test_concurrent_futures` what is about processes.

#[path = "../support/mod.rs"]
mod support;

mod barriers;
mod cleanup;
mod conditions;
mod connections;
mod dicts;
mod events;
mod executor;
mod executor_faults;
mod fork_server;
mod heap;
mod lists;
mod locks;
mod managers;
mod pool_workers;
mod pools;
mod processes;
mod queues;
mod semaphores;
mod shared_memory;
mod signals;
mod start_methods;
mod values;
mod waits;

use std::path::Path;
use std::time::Duration;

use kinfolk::Semaphore;
use support::watchdog;
use support::watchdog::Watchdog;

/// Areas of the table of which every row that is to be ported is.
const FINISHED: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14];

/// Long enough for something that should not happen to happen.
const DELTA: Duration = Duration::from_millis(100);

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(60))
}

/// Waits until a semaphore that counts has this value. The watchdog ends it otherwise.
#[track_caller]
fn reaches(semaphore: &Semaphore, value: u32) {
    loop {
        // Looked at once: it may change between two looks.
        let now = semaphore.value();
        assert!(now <= value, "{now} came, expected {value}");
        if now == value {
            return;
        }
        std::thread::yield_now();
    }
}

/// Complaints about the table: rows without a test, and tests that `sources` do not have.
fn complaints(table: &str, sources: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = table.lines().enumerate();
    let columns = lines.next().map_or(0, |(_, head)| head.split('\t').count());
    for (k, line) in lines {
        let cells: Vec<&str> = line.split('\t').collect();
        let [area, class, method, _, _, verdict, _, test] = cells[..] else {
            found.push(format!("line {}: {} columns, expected {columns}", k + 1, cells.len()));
            continue;
        };
        let area = area.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if test.is_empty() {
            if FINISHED.contains(&area) && matches!(verdict, "P" | "C") {
                found.push(format!("{class}.{method}: no test. Port it, and name the port in the last column"));
            }
            continue;
        }
        let (module, name) = test.split_once("::").unwrap_or(("", test));
        let file = format!("=== {module}.rs\n");
        let there = sources.split_once(&file).is_some_and(|(_, rest)| {
            let body = rest.split("=== ").next().unwrap_or(rest);
            body.contains(&format!("#[test]\nfn {name}()"))
        });
        if !there {
            found.push(format!("{class}.{method}: there is no test `{test}` in tests/parity"));
        }
    }
    found
}

#[test]
fn every_row_of_a_finished_area_names_a_test_that_exists() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity");
    let mut sources = String::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".rs") {
            sources += &format!("=== {name}\n{}", std::fs::read_to_string(path).unwrap());
        }
    }
    let found = complaints(include_str!("parity-tests.tsv"), &sources);
    assert!(found.is_empty(), "tests/parity/parity-tests.tsv:\n{}", found.join("\n"));
}

#[test]
fn a_row_without_a_test_is_noticed() {
    let head = "area\tclass\tmethod\truns_as\tsince\tverdict\tverifies\ttest\n";
    let source = "=== locks.rs\n#[test]\nfn a_lock() {}\n=== other.rs\n#[test]\nfn b() {}\n";
    let count = |row: &str| complaints(&format!("{head}{row}"), source).len();
    assert_eq!(count("4 Locks\tA\tb\t-\t3.11\tP\tc\tlocks::a_lock"), 0);
    assert_eq!(count("4 Locks\tA\tb\t-\t3.11\tP\tc\t"), 1);
    assert_eq!(count("4 Locks\tA\tb\t-\t3.11\tC\tc\tlocks::b"), 1);
    assert_eq!(count("4 Locks\tA\tb\t-\t3.11\tN\tc\t"), 0);
    assert_eq!(count("99 Later\tA\tb\t-\t3.11\tP\tc\t"), 0);
    assert_eq!(count("99 Later\tA\tb\t-\t3.11\tP\tc\tlocks::gone"), 1);
    assert_eq!(count("4 Locks\tA\tb"), 1);
}
