//! Whole programs that end while children live: by return, exit, panic, abort and SIGKILL. Each is this very test program
//! in a role, so `main` is ours.

mod support;

use kinfolk::{Connection, Process, pipe};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "KINFOLK_TEST_ROLE";

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return program(&role);
    }
    let wanted = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    for (name, test) in TESTS {
        if wanted.as_ref().is_none_or(|wanted| name.contains(wanted)) {
            // The watchdog names the thread.
            let thread = std::thread::Builder::new().name((*name).to_owned());
            let ran = thread.spawn(|| {
                let _guard = support::watchdog(Duration::from_secs(60));
                test();
            });
            assert!(ran.unwrap().join().is_ok(), "{name} failed");
            println!("test {name} ... ok");
        }
    }
}

const TESTS: &[(&str, fn())] = &[
    ("return_exit_and_panic_end_daemons_and_wait_for_the_others", every_regular_end),
    ("a_program_that_is_killed_takes_its_whole_family_along", killed),
    ("a_program_that_aborts_takes_its_whole_family_along", aborted),
    ("a_child_that_exits_waits_for_its_children_as_a_program_does", child_that_exits),
];

extern "C" fn at_exit() {
    println!("hook");
}

/// Says what is read, to the end of the input, and ends.
fn echo(_: ()) {
    println!("child begins");
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    println!("child read {text}");
}

/// Says that it is there, then that one whom it started is, and waits for ever.
fn generations((name, left, begun): (String, u32, Connection<(), ()>)) {
    println!("{name} begins");
    if left > 0 {
        let (here, there) = pipe().unwrap();
        let daemon = left % 2 == 0;
        let next = (format!("{name}+"), left - 1, there);
        drop(Process::builder().daemon(daemon).spawn(generations, next).unwrap());
        here.recv().unwrap();
    }
    begun.send(()).unwrap();
    loop {
        std::thread::park();
    }
}

/// Starts a daemon that has children, and waits until they are there.
fn start_family() {
    let (here, there) = pipe().unwrap();
    drop(Process::builder().daemon(true).spawn(generations, ("daemon".to_owned(), 3, there)).unwrap());
    here.recv().unwrap();
}

/// A child that starts a child which it does not join.
fn exit_with_a_child(_: ()) {
    drop(Process::spawn(echo, ()).unwrap());
    println!("main ends");
    std::process::exit(7);
}

fn program(role: &str) {
    // SAFETY: the handler only prints.
    assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
    if role == "child exits" {
        let child = Process::spawn(exit_with_a_child, ()).unwrap();
        child.child().wait().unwrap();
        assert_eq!(child.exit_code(), Some(7));
        return;
    }
    start_family();
    drop(Process::spawn(echo, ()).unwrap());
    println!("main ends");
    match role {
        "return" => {}
        "exit" => std::process::exit(7),
        "exit in a thread" => std::thread::spawn(|| std::process::exit(8)).join().unwrap(),
        "panic" => panic!("main panics"),
        "abort" => std::process::abort(),
        "killed" => loop {
            std::thread::park();
        },
        other => unreachable!("{other}"),
    }
}

/// A program in a role, as its caller sees it.
struct Program {
    process: Child,
    lines: BufReader<ChildStdout>,
    said: Vec<String>,
}

impl Program {
    fn start(role: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ROLE, role).env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines, said: Vec::new() }
    }

    /// Reads on until all these lines have been said.
    fn until(&mut self, lines: &[&str]) {
        while !lines.iter().all(|line| self.said.iter().any(|said| said == line)) {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "{:?}, expected {lines:?}", self.said);
            self.said.push(line.trim_end().to_owned());
        }
    }

    /// Waits until nobody of the family is left, who all have the same output.
    fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        self.said.extend(rest.lines().map(str::to_owned));
        (self.process.wait().unwrap(), self.said)
    }
}

const FAMILY: [&str; 4] = ["daemon begins", "daemon+ begins", "daemon++ begins", "daemon+++ begins"];

fn every_regular_end() {
    for (role, code) in [("return", 0), ("exit", 7), ("exit in a thread", 8), ("panic", 101)] {
        let mut program = Program::start(role);
        program.until(&FAMILY);
        program.until(&["main ends", "child begins"]);
        // The child waits for this; a program that had not waited for it would have killed it.
        assert!(program.process.try_wait().unwrap().is_none(), "{role}: it left its child behind");
        let mut input = program.process.stdin.take().unwrap();
        input.write_all(b"input").unwrap();
        drop(input);
        let (status, said) = program.ended();
        assert_eq!(status.code(), Some(code), "{role}: {said:?}");
        // The hook was registered before the library's and so comes last; a child runs no hook of its parent.
        let at = |line: &str| said.iter().position(|said| said == line);
        assert!(at("child read input") < at("hook") && at("child read input").is_some(), "{role}: {said:?}");
        assert_eq!(said.iter().filter(|line| *line == "hook").count(), 1, "{role}: {said:?}");
    }
}

/// How long it takes until nobody is left, after `end`; what was said.
fn sudden(role: &str, end: impl Fn(&mut Child)) -> (Duration, ExitStatus, Vec<String>) {
    let mut program = Program::start(role);
    program.until(&FAMILY);
    program.until(&["main ends"]);
    let input = program.process.stdin.take();
    let before = Instant::now();
    end(&mut program.process);
    // The child that reads would read for ever.
    let (status, said) = program.ended();
    let took = before.elapsed();
    drop(input);
    (took, status, said)
}

fn killed() {
    // The machine may be busy with other things, but not each time.
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let (took, status, said) = sudden("killed", |program| program.kill().unwrap());
        assert_eq!(status.signal(), Some(9));
        assert!(!said.iter().any(|line| line == "hook" || line.starts_with("child read")), "{said:?}");
        fastest = fastest.min(took);
    }
    assert!(fastest < Duration::from_secs(1), "the family was there for {fastest:?}");
}

fn aborted() {
    let (_, status, said) = sudden("abort", |_| {});
    assert_eq!(status.signal(), Some(6));
    assert!(!said.iter().any(|line| line == "hook" || line.starts_with("child read")), "{said:?}");
}

fn child_that_exits() {
    let mut program = Program::start("child exits");
    program.until(&["main ends", "child begins"]);
    drop(program.process.stdin.take());
    let (status, said) = program.ended();
    assert_eq!(status.code(), Some(0), "{said:?}");
    // It was waited for, so it read to the end before the program did. The hook is the program's alone.
    assert_eq!(said[2..], ["child read ", "hook"].map(str::to_owned), "{said:?}");
}
