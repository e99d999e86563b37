//! `TestStartMethod`, `TestNoForkBomb`, `TestFlags` and `_TestSpawnedSysPath`.

use kinfolk::process::{self, StartMethod, all_start_methods};
use kinfolk::{ErrorKind, Mutex, Process, Queue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicU32, Ordering};

use super::guard;

fn start<A, R>(method: StartMethod, function: impl Fn(A) -> R + Copy + Send + 'static, args: A) -> Process<R>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    Process::builder().start_method(method).spawn(function, args).unwrap()
}

/// Runs `function` in a process of its own, so that the default that it sets is nobody else's.
fn alone(function: impl Fn(()) + Copy + Send + 'static) {
    start(StartMethod::Spawn, function, ()).join().unwrap();
}

#[test]
fn a_child_reports_the_method_by_which_it_was_started() {
    let _guard = guard();
    for &method in all_start_methods() {
        assert_eq!(start(method, |()| process::start_method(), ()).join().unwrap(), method);
    }
    // A context that is no method's. (A builder has no default of its own to set, so there is nothing to refuse.)
    assert_eq!("xxx".parse::<StartMethod>().unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_start_by_a_method_of_its_own_sets_no_default() {
    let _guard = guard();
    start(StartMethod::ForkServer, |()| (), ()).join().unwrap();
    assert_eq!(process::start_method(), StartMethod::default());
}

#[test]
fn what_runs_before_a_child_sets_no_default() {
    let _guard = guard();
    // There is nothing to call in `main`; asking, and starting, leave it open.
    assert_eq!(process::start_method(), StartMethod::Spawn);
    start(StartMethod::Spawn, |()| (), ()).join().unwrap();
    let program = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "start_methods::program_that_sets_the_default", "--ignored", "--quiet"])
        .output()
        .unwrap();
    assert!(program.status.success(), "{}", String::from_utf8_lossy(&program.stdout));
}

/// Run by the test above, as a program in which nobody has set anything.
#[test]
#[ignore = "run by another test"]
fn program_that_sets_the_default() {
    let _ = process::start_method();
    start(StartMethod::Spawn, |()| (), ()).join().unwrap();
    process::set_start_method(StartMethod::ForkServer).unwrap();
    assert_eq!(process::start_method(), StartMethod::ForkServer);
    let child = Process::spawn(|()| process::start_method(), ()).unwrap();
    assert_eq!(child.join().unwrap(), StartMethod::ForkServer);
    assert!(process::set_start_method(StartMethod::ForkServer).is_err(), "it was set");
}

#[test]
fn the_default_changes_by_force() {
    let _guard = guard();
    alone(|()| {
        for &method in all_start_methods() {
            process::force_start_method(method);
            assert_eq!(process::start_method(), method);
            assert!(process::set_start_method(method).is_err());
            assert_eq!(Process::spawn(|()| process::start_method(), ()).unwrap().join().unwrap(), method);
        }
    });
}

#[test]
fn the_methods_are_listed_with_the_default_first() {
    assert_eq!(all_start_methods(), [StartMethod::Spawn, StartMethod::ForkServer]);
    assert_eq!(all_start_methods()[0], StartMethod::default());
}

/// What a program prepares before its fork server forks: here by a constructor, which runs in the server.
static PREPARED: AtomicU32 = AtomicU32::new(0);

extern "C" fn prepare() {
    PREPARED.store(std::process::id(), Ordering::Relaxed);
}

#[used]
// SAFETY: the section is an array of functions that the C library calls before `main`.
#[unsafe(link_section = ".init_array")]
static PREPARE: extern "C" fn() = prepare;

#[test]
fn what_the_server_has_prepared_is_there_in_its_children() {
    let _guard = guard();
    let prepared = |()| (PREPARED.load(Ordering::Relaxed), std::process::id());
    let (by, child) = start(StartMethod::Spawn, prepared, ()).join().unwrap();
    assert_eq!(by, child, "each prepares for itself");
    let children = [(); 2].map(|()| start(StartMethod::ForkServer, prepared, ()).join().unwrap());
    assert_eq!(children[0].0, children[1].0, "it was done once");
    assert!(children.iter().all(|(by, child)| by != child && *by != std::process::id() && *by != 0));
}

#[test]
fn a_lock_is_of_use_to_children_of_all_methods() {
    let _guard = guard();
    let (lock, order) = (Mutex::new(0u32).unwrap(), Queue::<u32>::new(4).unwrap());
    for &method in all_start_methods() {
        let child = |(lock, order): (Mutex<u32>, Queue<u32>)| {
            let mut count = lock.lock().unwrap();
            *count += 1;
            order.put(*count).unwrap();
        };
        start(method, child, (lock.clone(), order.clone())).join().unwrap();
    }
    assert_eq!([order.get().unwrap(), order.get().unwrap(), *lock.lock().unwrap()], [1, 2, 2]);
}

#[test]
fn a_child_hands_its_queue_on_to_its_own_child() {
    let _guard = guard();
    fn nested((method, queue): (StartMethod, Queue<u32>)) {
        let child = start(method, |queue: Queue<u32>| queue.put(2).unwrap(), queue.clone());
        queue.put(1).unwrap();
        child.join().unwrap();
    }
    for &method in all_start_methods() {
        let queue = Queue::<u32>::new(4).unwrap();
        let child = start(method, nested, (method, queue.clone()));
        let mut came = [queue.get().unwrap(), queue.get().unwrap()];
        came.sort_unstable();
        assert_eq!(came, [1, 2]);
        child.join().unwrap();
    }
}

/// Run by the test below, as a program whose `main` starts a child and does not ask whether it is one.
#[test]
#[ignore = "run by another test"]
fn program_that_starts_children_in_main() {
    println!("main begins");
    for &method in all_start_methods() {
        assert_eq!(start(method, |n: u32| n + 1, 41).join().unwrap(), 42);
    }
    println!("main ends");
}

#[test]
fn children_do_not_start_children_by_running_main() {
    let _guard = guard();
    let program = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "start_methods::program_that_starts_children_in_main", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&program.stdout);
    assert!(program.status.success(), "{printed}");
    assert_eq!([printed.matches("main begins").count(), printed.matches("main ends").count()], [1, 1], "{printed}");
}

#[test]
fn a_child_has_the_arguments_and_the_environment_of_its_parent() {
    let _guard = guard();
    let look = |()| (std::env::args().collect::<Vec<_>>(), std::env::var("PATH").ok());
    for &method in all_start_methods() {
        let (arguments, path) = start(method, look, ()).join().unwrap();
        assert!(arguments == std::env::args().collect::<Vec<_>>() || cfg!(target_env = "musl"), "{method}");
        assert_eq!(path, std::env::var("PATH").ok());
    }
}

/// Said once, by the constructor of whoever is no child.
#[test]
#[ignore = "run by another test"]
fn program_that_prints_a_part_of_a_line() {
    print!("half a line");
    for &method in all_start_methods() {
        start(method, |()| println!("a child"), ()).join().unwrap();
    }
    // SAFETY: no other thread of this program does anything, and this one holds no lock.
    unsafe { Process::fork(|()| (), ()) }.unwrap().join().unwrap();
    println!();
}

#[test]
fn what_is_buffered_is_printed_once() {
    let _guard = guard();
    let program = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "start_methods::program_that_prints_a_part_of_a_line", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&program.stdout);
    assert!(program.status.success(), "{printed}");
    assert_eq!(printed.matches("half a line").count(), 1, "{printed}");
    assert_eq!(printed.matches("a child\n").count(), 2, "{printed}");
}
