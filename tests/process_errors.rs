//! Starts that the system refuses, programs whose file is gone, and tickets that no parent wrote.

mod support;

use kinfolk::process::all_start_methods;
use kinfolk::{ErrorKind, Event, Process, Segment};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::watchdog;
use support::watchdog::Watchdog;

/// Tests that count what the family has come one after the other.
static TURN: Mutex<()> = Mutex::new(());

fn guard() -> (Watchdog, MutexGuard<'static, ()>) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (watchdog(Duration::from_secs(60)), turn)
}

fn limit(what: Resource, count: u64) {
    let before = getrlimit(what);
    let most = before.maximum.unwrap_or(u64::MAX);
    setrlimit(what, Rlimit { current: Some(count.min(most)), ..before }).unwrap();
}

/// What objects and processes the family has, as one text that can be compared.
fn inventory() -> (usize, usize, usize) {
    let stats = Segment::family().unwrap().stats();
    (stats.used_bytes, stats.objects, stats.processes)
}

#[test]
fn too_many_processes_is_an_error_and_leaves_nothing_behind() {
    let _guard = guard();
    fn limited(_: ()) -> (bool, bool, u32) {
        if rustix::process::geteuid().is_root() {
            // Root may have any number. Numbers of its own, so that nobody else's processes count.
            // SAFETY: takes a number.
            assert_eq!(unsafe { libc::setuid(3_000_000 + std::process::id()) }, 0);
        }
        limit(Resource::Nproc, 1);
        let before = inventory();
        let error = (0..50).find_map(|n| Process::spawn(|n: u32| n, n).err()).expect("one process is this one");
        let same = inventory() == before;
        limit(Resource::Nproc, 1000);
        (error.kind() == ErrorKind::TooManyProcesses, same, Process::spawn(|n: u32| n, 5).unwrap().join().unwrap())
    }
    assert_eq!(Process::spawn(limited, ()).unwrap().join().unwrap(), (true, true, 5));
}

#[test]
fn too_many_files_is_an_error_and_the_children_that_there_are_go_on() {
    let _guard = guard();
    fn limited(_: ()) -> (usize, bool, bool, u32) {
        let before = inventory();
        limit(Resource::Nofile, 64);
        let go = Event::new().unwrap();
        let mut children = Vec::new();
        let error = loop {
            match Process::spawn(|go: Event| go.wait(), go.clone()) {
                Ok(child) => children.push(child),
                Err(error) => break error,
            }
        };
        let (count, right) = (children.len(), error.kind() == ErrorKind::TooManyFiles);
        go.set();
        for child in children {
            child.join().unwrap();
        }
        drop(go);
        // To recover the row of the child that was given up takes a descriptor, which there was not; now there is.
        Segment::family().unwrap().sweep();
        (count, right, inventory() == before, Process::spawn(|n: u32| n, 5).unwrap().join().unwrap())
    }
    let (count, right, same, after) = Process::spawn(limited, ()).unwrap().join().unwrap();
    // A child costs its parent one descriptor.
    assert!((40..64).contains(&count), "{count} children with 64 descriptors");
    assert_eq!((right, same, after), (true, true, 5));
}

/// A folder of its own, with a copy of this program.
struct Copied {
    folder: PathBuf,
    program: PathBuf,
}

impl Copied {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("kinfolk-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let program = folder.join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        Self { folder, program }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run_ignored(program: &Path, test: &str) -> Output {
    Command::new(program).args(["--exact", test, "--ignored", "--nocapture"]).output().unwrap()
}

fn passed(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

/// Run by the tests below, as a program that loses its file.
#[test]
#[ignore = "run by another test"]
fn program_that_loses_its_file() {
    let own = std::env::current_exe().unwrap();
    assert!(own.ends_with("program"), "it is a copy");
    // By each method: what a server starts that there was before, and one that is started after.
    let family = || {
        for &method in all_start_methods() {
            let builder = || Process::builder().start_method(method);
            // A grandchild is started as its parent was, by a server of its own.
            let grandchild = |n: u32| Process::spawn(|n: u32| n + 1, n).unwrap().join().unwrap() + 1;
            assert_eq!(builder().spawn(grandchild, 5).unwrap().join().unwrap(), 7, "{method}");
        }
        // SAFETY: the function adds, and the C library's allocator is one that forks may use.
        let fork = unsafe { Process::fork(|n: u32| n + 1, 1) };
        assert_eq!(fork.unwrap().join().unwrap(), 2);
    };
    family();
    if std::fs::exists(own.with_file_name("successor")).unwrap() {
        std::fs::rename(own.with_file_name("successor"), &own).unwrap();
    } else {
        std::fs::remove_file(&own).unwrap();
    }
    // The kernel still has the file that this program was started from, and children begin with that.
    family();
}

#[test]
fn a_program_whose_file_is_deleted_or_replaced_starts_children_of_its_own_kind() {
    let _guard = guard();
    let deleted = Copied::new("deleted");
    passed(&run_ignored(&deleted.program, "program_that_loses_its_file"));
    let replaced = Copied::new("replaced");
    // Another program, which would not know what to do.
    std::fs::copy("/bin/true", replaced.folder.join("successor")).unwrap();
    passed(&run_ignored(&replaced.program, "program_that_loses_its_file"));
}

/// Run by the test below, as a program that may not be started again.
#[test]
#[ignore = "run by another test"]
fn program_that_nobody_may_start() {
    use std::os::unix::fs::PermissionsExt;
    let own = std::env::current_exe().unwrap();
    assert!(own.ends_with("program"), "it is a copy");
    let before = inventory();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = Process::spawn(|n: u32| n, 1).unwrap_err();
    assert!(error.kind() == ErrorKind::Os && error.to_string().contains("start process \"Process-1\""), "{error}");
    assert_eq!(inventory(), before);
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(Process::spawn(|n: u32| n, 1).unwrap().join().unwrap(), 1);
}

#[test]
fn a_program_that_cannot_be_started_again_says_so() {
    let _guard = guard();
    passed(&run_ignored(&Copied::new("forbidden").program, "program_that_nobody_may_start"));
}

/// Runs a program of this library with a ticket, and some descriptors open for it.
fn with_ticket(ticket: &str, open: &[&OwnedFd]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--list"]).env("KINFOLK_CHILD", ticket);
    let fds: Vec<_> = open.iter().map(|fd| fd.as_raw_fd()).collect();
    // SAFETY: fcntl may be called between fork and exec; the descriptors are open until the child has been waited for.
    unsafe {
        command.pre_exec(move || {
            fds.iter().for_each(|fd| assert_eq!(libc::fcntl(*fd, libc::F_SETFD, 0), 0));
            Ok(())
        });
    }
    command.output().unwrap()
}

#[test]
fn a_ticket_that_no_parent_wrote_is_refused() {
    let _guard = guard();
    let version = concat!(env!("CARGO_PKG_VERSION"), ":");
    let refused = |numbers: &str, open: &[&OwnedFd], why: &str| {
        let output = with_ticket(&format!("{version}{numbers}"), open);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{numbers}: {:?} {said}", output.status);
        assert!(output.stdout.is_empty(), "{numbers}: it ran on");
        assert!(said.starts_with("kinfolk: ") && said.contains(why), "{numbers}: {said}");
    };
    for text in ["", "x", "1,2,3", "-1,4,5,0,0,0", "7,7,7,0,0,0", "99999999999,4,5,0,0,0", "7,8,9,0,0,0,8"] {
        refused(text, &[], "not by a parent of this process");
    }
    refused("700,701,702,0,0,0", &[], "take over descriptor 700");
    refused("0,1,2,0,0,0", &[], "take over descriptor 0");
    let file = || OwnedFd::from(File::open("Cargo.toml").unwrap());
    let numbers = |fds: [&OwnedFd; 3]| fds.map(|fd| fd.as_raw_fd().to_string()).join(",") + ",0,0,0";
    let (one, two, three) = (file(), file(), file());
    refused(&numbers([&one, &two, &three]), &[&one, &two, &three], "it is no pipe");
    let (reader, _writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // A file that is no segment, and a segment's file that is empty or full of anything.
    refused(&numbers([&one, &two, &reader]), &[&one, &two, &reader], "");
    for size in [0, 4096, 1 << 20] {
        let memory = rustix::fs::memfd_create("hostile", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&memory, &vec![0x5a; size]).unwrap();
        refused(&numbers([&memory, &two, &reader]), &[&memory, &two, &reader], "");
    }
    // Those of fork servers.
    for text in ["server:", "server:1,2", "server:7,7,8", "server:7,8,9,10"] {
        refused(text, &[], "not by a parent of this process");
    }
    refused("server:-1,8,9", &[], "take over descriptor -1");
    let server = |[a, b, c]: [&OwnedFd; 3], why: &str| {
        let numbers = [a, b, c].map(|fd| fd.as_raw_fd().to_string()).join(",");
        refused(&format!("server:{numbers}"), &[a, b, c], why);
    };
    server([&one, &two, &three], "it is no pipe");
    // A line that is none: it has something to say first, and ends when nobody listens.
    server([&one, &reader, &two], "the fork server cannot begin");
    // A parent that is gone already.
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(writer);
    let output = with_ticket(&format!("{version}{}", numbers([&one, &two, &reader])), &[&one, &two, &reader]);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{output:?}");
}

#[test]
fn the_real_segment_with_wrong_numbers_is_refused() {
    let _guard = guard();
    use std::os::fd::AsFd;
    let version = concat!(env!("CARGO_PKG_VERSION"), ":");
    let segment = Segment::family().unwrap();
    let memory = segment.as_fd().try_clone_to_owned().unwrap();
    let lock = memory.try_clone().unwrap();
    let (reader, _writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let before = inventory();
    for (row, index, generation) in [(0, 0, 0), (1, 0, 0), (9999, 0, 0), (u32::MAX, u32::MAX, u32::MAX)] {
        let [one, two, three] = [&memory, &lock, &reader].map(|fd| fd.as_raw_fd());
        let ticket = format!("{version}{one},{two},{three},{row},{index},{generation}");
        let output = with_ticket(&ticket, &[&memory, &lock, &reader]);
        assert_eq!(output.status.code(), Some(1), "{ticket}: {output:?}");
        assert!(output.stdout.is_empty(), "{ticket}: it ran on");
    }
    // It has taken nothing from those who live.
    assert_eq!(inventory(), before);
    assert_eq!(Process::spawn(|n: u32| n, 3).unwrap().join().unwrap(), 3);
}

#[test]
fn a_ticket_for_another_version_is_left_to_it() {
    let _guard = guard();
    let output = with_ticket("0.0.0:1,2,3,4,5,6", &[]);
    assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
}
