//! What a builder gives a child, as the child sees it.

mod support;

use kinfolk::process::{self, Run, Stdio};
use kinfolk::{ErrorKind, Event, JoinError, Process, Queue};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(60))
}

fn park(_: ()) {
    loop {
        std::thread::park();
    }
}

fn variable(name: String) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn variables_are_set_removed_and_cleared() {
    let _guard = guard();
    let see = |builder: process::Builder, name: &str| builder.spawn(variable, name.to_owned()).unwrap().join().unwrap();
    assert!(std::env::var_os("PATH").is_some() && std::env::var_os("KINFOLK_TEST").is_none());
    let path = std::env::var("PATH").ok();
    assert_eq!(see(Process::builder().env("KINFOLK_TEST", "a=b"), "KINFOLK_TEST"), Some("a=b".to_owned()));
    assert_eq!(see(Process::builder().env("KINFOLK_TEST", "x"), "PATH"), path);
    assert_eq!(see(Process::builder().env("PATH", "x").env("PATH", "y"), "PATH"), Some("y".to_owned()));
    assert_eq!(see(Process::builder().env_remove("PATH"), "PATH"), None);
    assert_eq!(see(Process::builder().env("A", "x").env_remove("A"), "A"), None);
    assert_eq!(std::env::var("PATH").ok(), path);
    fn all(_: ()) -> Vec<(String, String)> {
        std::env::vars().collect()
    }
    let cleared = Process::builder().env("A", "x").env_clear().env("B", "y");
    // A builder starts many; nothing of this library stays in what they see.
    for _ in 0..2 {
        let seen = cleared.clone().spawn(all, ()).unwrap().join().unwrap();
        assert_eq!(seen, [("B".to_owned(), "y".to_owned())]);
    }
}

#[test]
fn variables_that_no_environment_can_hold_are_refused() {
    let _guard = guard();
    for (name, value) in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "x\0y"), ("KINFOLK_CHILD", "x")] {
        let error = Process::builder().env(name, value).spawn(park, ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let error = Process::builder().env_remove("KINFOLK_CHILD").spawn(park, ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_child_works_where_it_is_told_to() {
    let _guard = guard();
    let see = |_: ()| std::env::current_dir().unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(Process::spawn(see, ()).unwrap().join().unwrap(), here);
    for (to, expected) in [("/", PathBuf::from("/")), ("src", here.join("src")), ("src/../tests", here.join("tests"))] {
        assert_eq!(Process::builder().current_dir(to).spawn(see, ()).unwrap().join().unwrap(), expected);
    }
    assert_eq!(std::env::current_dir().unwrap(), here);
    for wrong in ["/nowhere", "Cargo.toml"] {
        let error = Process::builder().current_dir(wrong).spawn(see, ()).unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
    }
}

/// Prints what it reads, in capitals, and says so.
fn shout(_: ()) {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    eprint!("{} bytes", text.len());
    print!("{}", text.to_uppercase());
}

#[test]
fn streams_are_piped() {
    let _guard = guard();
    let builder = Process::builder().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for text in ["hello", ""] {
        let mut child = builder.clone().spawn(shout, ()).unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        child.join().unwrap();
        assert_eq!((out, err), (text.to_uppercase(), format!("{} bytes", text.len())));
    }
    // `join` closes the child's input, and what was not asked for is not there.
    let child = Process::builder().stdin(Stdio::piped()).stdout(Stdio::null()).spawn(shout, ()).unwrap();
    assert!(child.stdin.is_some() && child.stdout.is_none() && child.stderr.is_none());
    child.join().unwrap();
}

#[test]
fn streams_are_files_and_nothing() {
    let _guard = guard();
    let path = std::env::temp_dir().join(format!("kinfolk-test-{}-streams", std::process::id()));
    std::fs::write(&path, "from a file").unwrap();
    let (input, output) = (File::open(&path).unwrap(), File::create(path.with_extension("out")).unwrap());
    // The same file may be two streams, and one file may serve many children.
    let output = Stdio::from(output);
    let builder = Process::builder().stdin(input).stdout(output.clone()).stderr(output);
    builder.clone().spawn(shout, ()).unwrap().join().unwrap();
    builder.spawn(shout, ()).unwrap().join().unwrap();
    let written = std::fs::read_to_string(path.with_extension("out")).unwrap();
    assert_eq!(written, "11 bytesFROM A FILE0 bytes");
    Process::builder().stdin(Stdio::null()).stdout(Stdio::null()).spawn(shout, ()).unwrap().join().unwrap();
    // One stream of this process as another of the child.
    let errors = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    let child = Process::builder().stdin(Stdio::null()).stdout(errors).spawn(shout, ()).unwrap();
    child.join().unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(path.with_extension("out")).unwrap();
}

#[test]
fn what_is_kept_is_open_under_its_number_and_nothing_else_is() {
    let _guard = guard();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // A descriptor that any exec would hand on.
    let stray = OwnedFd::from(File::open("Cargo.toml").unwrap());
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    fn write(kept: RawFd) -> Vec<(RawFd, PathBuf)> {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap());
        // The folder itself is among them, and closed before it is looked at.
        let open = open.map(|entry| (entry.file_name(), std::fs::read_link(entry.path()).unwrap_or_default()));
        let open = open.map(|(number, what)| (number.to_str().unwrap().parse().unwrap(), what)).collect();
        // SAFETY: the parent kept it for us.
        File::from(unsafe { OwnedFd::from_raw_fd(kept) }).write_all(b"kept").unwrap();
        open
    }
    let number = writer.as_raw_fd();
    let open = Process::builder().keep(writer).spawn(write, number).unwrap().join().unwrap();
    assert!(open.iter().any(|(fd, what)| *fd == number && what.to_string_lossy().starts_with("pipe:")), "{open:?}");
    assert!(!open.iter().any(|(_, what)| what.ends_with("Cargo.toml")), "{open:?}");
    // The builder has closed it here, so this ends.
    let mut got = String::new();
    File::from(reader).read_to_string(&mut got).unwrap();
    assert_eq!(got, "kept");
    drop(stray);
}

#[test]
fn a_standard_stream_is_not_kept() {
    let _guard = guard();
    fn closing(_: ()) -> String {
        // SAFETY: nobody reads it any more.
        unsafe { libc::close(0) };
        let zero = OwnedFd::from(File::open("/dev/null").unwrap());
        assert_eq!(zero.as_raw_fd(), 0);
        let error = Process::builder().keep(zero).spawn(park, ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    }
    let told = Process::spawn(closing, ()).unwrap().join().unwrap();
    assert!(told.contains("descriptor 0 is a standard stream"), "{told}");
}

/// The numbers of the CPUs that the calling thread may use.
fn cpus(_: ()) -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

#[test]
fn a_child_and_its_children_run_on_the_cpus_that_it_was_given() {
    let _guard = guard();
    let all = cpus(());
    let last = *all.last().unwrap();
    let see = |_: ()| (cpus(()), Process::spawn(cpus, ()).unwrap().join().unwrap());
    let child = Process::builder().affinity([last]).spawn(see, ()).unwrap();
    assert_eq!(child.join().unwrap(), (vec![last], vec![last]));
    assert_eq!(cpus(()), all);
    for none in [vec![], vec![1023], vec![usize::MAX]] {
        match Process::builder().affinity(none).spawn(cpus, ()).unwrap().join() {
            Err(JoinError::Failed(error)) => assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

fn nice(_: ()) -> i32 {
    rustix::process::getpriority_process(None).unwrap()
}

#[test]
fn a_child_is_nicer() {
    let _guard = guard();
    let here = nice(());
    assert_eq!(Process::builder().nice(3).spawn(nice, ()).unwrap().join().unwrap(), (here + 3).min(19));
    assert_eq!(nice(()), here);
    /// Starts a child that has no right to be less nice.
    fn greedy(_: ()) -> String {
        if rustix::process::geteuid().is_root() {
            // SAFETY: takes a number; this process has nothing else to do afterwards than what follows.
            assert_eq!(unsafe { libc::setuid(65534) }, 0);
        }
        match Process::builder().nice(-5).spawn(nice, ()).unwrap().join() {
            Err(JoinError::Failed(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
    let told = Process::spawn(greedy, ()).unwrap().join().unwrap();
    assert!(told.contains("add -5 to the nice value"), "{told}");
}

/// Work with a name of its own.
#[derive(Serialize, Deserialize)]
struct Clock {
    ticks: u32,
}

impl Run for Clock {
    type Output = String;

    fn run(self) -> String {
        format!("{} ticked {} times", process::current().name(), self.ticks)
    }

    fn name(&self) -> Option<String> {
        Some(format!("clock {}", self.ticks))
    }
}

#[test]
fn work_may_have_a_name_of_its_own() {
    let _guard = guard();
    let child = Process::run(Clock { ticks: 3 }).unwrap();
    assert_eq!(child.name(), "clock 3");
    assert_eq!(child.join().unwrap(), "clock 3 ticked 3 times");
    let child = Process::builder().name("other").run(Clock { ticks: 1 }).unwrap();
    assert_eq!(child.join().unwrap(), "other ticked 1 times");
}

#[test]
fn a_daemon_may_have_children_which_end_with_it() {
    let _guard = guard();
    fn father((queue, begun): (Queue<u32>, Event)) {
        queue.put(std::process::id()).unwrap();
        let child = Process::builder().daemon(false).spawn(son, (queue, begun)).unwrap();
        child.join().unwrap();
    }
    fn son((queue, begun): (Queue<u32>, Event)) {
        assert!(!process::current().is_daemon());
        queue.put(std::process::id()).unwrap();
        begun.set();
        park(());
    }
    let (queue, begun) = (Queue::new(4).unwrap(), Event::new().unwrap());
    let child = Process::builder().daemon(true).spawn(father, (queue.clone(), begun.clone())).unwrap();
    begun.wait();
    let (father, son) = (queue.get().unwrap(), queue.get().unwrap());
    assert_eq!(father, child.pid());
    let son = rustix::process::Pid::from_raw(son as i32).unwrap();
    let son = rustix::process::pidfd_open(son, rustix::process::PidfdFlags::empty()).unwrap();
    child.terminate().unwrap();
    assert!(matches!(child.join(), Err(JoinError::Signaled { signal: 15, .. })));
    let mut polled = [rustix::event::PollFd::new(&son, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
}

#[test]
fn a_handle_is_given_up_when_the_child_has_ended() {
    let _guard = guard();
    let child = Process::spawn(park, ()).unwrap();
    let child = child.close().expect_err("it lives");
    child.kill().unwrap();
    child.child().wait().unwrap();
    child.close().unwrap();
}

#[test]
fn a_parent_is_seen_to_live() {
    let _guard = guard();
    fn look(_: ()) -> (bool, bool, i32) {
        let parent = process::parent().unwrap();
        let fd = parent.sentinel();
        let mut polled = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut polled, Some(&now)).unwrap();
        (parent.is_alive(), parent.join_timeout(Duration::from_millis(20)), ready as i32)
    }
    assert_eq!(Process::spawn(look, ()).unwrap().join().unwrap(), (true, false, 0));
}

#[test]
fn children_work_when_the_streams_of_their_parent_are_closed() {
    let _guard = guard();
    fn closed(which: Vec<i32>) -> (Vec<u32>, bool) {
        for fd in &which {
            // SAFETY: nobody in this process uses them from here on.
            unsafe { libc::close(*fd) };
        }
        // Their numbers are given to what a start needs; a child must not print into that.
        let chatter = |n: u32| {
            println!("to standard output");
            eprintln!("to standard error");
            n
        };
        let children: Vec<_> = (0..3).map(|n| Process::spawn(chatter, n).unwrap()).collect();
        let told = children.into_iter().map(|child| child.join().unwrap()).collect();
        let piped = Process::builder().stdout(Stdio::piped()).spawn(|()| println!("x"), ()).unwrap();
        let mut piped = piped;
        let mut said = String::new();
        piped.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (told, said == "x\n")
    }
    for which in [vec![0], vec![1], vec![2], vec![0, 1, 2]] {
        let builder = Process::builder().stdout(Stdio::null()).stderr(Stdio::null());
        let child = builder.spawn(closed, which.clone()).unwrap();
        assert_eq!(child.join().unwrap(), (vec![0, 1, 2], true), "{which:?}");
    }
}
