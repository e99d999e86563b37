//! How children end, and what is told of it.

mod support;

use kinfolk::process::{Builder, Stdio};
use kinfolk::{Event, JoinError, Process};
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(60))
}

/// What the child said on its standard error, and how it ended.
fn ends<R>(mut child: Process<R>) -> (String, Option<i32>, Result<R, JoinError>)
where
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    let mut said = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut said).unwrap();
    child.child().wait().unwrap();
    (said, child.exit_code(), child.join())
}

fn quiet() -> Builder {
    Process::builder().stderr(Stdio::piped())
}

fn fail(n: u32) -> u32 {
    assert_ne!(n, 7, "not seven");
    n
}

#[test]
fn a_panic_brings_its_backtrace_if_the_environment_asks_for_one() {
    let _guard = guard();
    let backtrace = |builder: Builder| match ends(builder.spawn(fail, 7).unwrap()) {
        (said, Some(1), Err(JoinError::Panicked { message, location, backtrace })) => {
            assert!(message.contains("not seven") && location.starts_with(file!()), "{message} {location}");
            // The text is complete on the child's standard error as well.
            assert!(said.contains("not seven") && said.contains(&location) && said.ends_with('\n'), "{said}");
            backtrace
        }
        other => panic!("{other:?}"),
    };
    let clear = || quiet().env_remove("RUST_LIB_BACKTRACE");
    let told = backtrace(clear().env("RUST_BACKTRACE", "1")).expect("it was asked for");
    assert!(told.contains("process_outcome::fail"), "{told}");
    assert_eq!(backtrace(clear().env("RUST_BACKTRACE", "0")), None);
    assert_eq!(backtrace(clear().env_remove("RUST_BACKTRACE")), None);
}

/// Run by the test below, in a family of its own, which it fills.
#[test]
#[ignore = "run by another test"]
fn program_whose_family_has_no_room() {
    fn fill(_: ()) {
        // The pages are the process's, and stay to its end.
        for slots in [1 << 14, 1 << 10, 2] {
            while let Ok(ring) = kinfolk::channel::stamped::Ring::<[u64; 7]>::new(slots) {
                std::mem::forget(ring);
            }
        }
        panic!("{}", "full ".repeat(300));
    }
    kinfolk::Segment::builder().size(4 << 20).make_family().unwrap();
    match quiet().env("RUST_BACKTRACE", "1").spawn(fill, ()).unwrap().join() {
        Err(JoinError::Panicked { message, backtrace: None, .. }) => assert!(message.starts_with("full full ")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_backtrace_that_finds_no_room_is_left_out() {
    let _guard = guard();
    let mut program = std::process::Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "program_whose_family_has_no_room", "--ignored", "--nocapture"]);
    let output = program.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[allow(unconditional_recursion, reason = "that is what is tested")]
fn deeper(n: u64) -> u64 {
    let here = std::hint::black_box([n; 64]);
    deeper(n + 1) + here[(n % 64) as usize]
}

#[test]
fn a_stack_overflow_is_told_apart_from_a_wild_pointer() {
    let _guard = guard();
    let (said, code, outcome) = ends(quiet().name("deep").spawn(deeper, 0).unwrap());
    assert!(matches!(outcome, Err(JoinError::StackOverflow)), "{outcome:?}");
    assert_eq!(code, Some(-6));
    assert!(said.contains("thread 'deep' has overflowed its stack"), "{said}");
    fn wild(address: usize) -> u8 {
        // SAFETY: none: the process is meant to die of it.
        unsafe { std::ptr::read_volatile(std::ptr::without_provenance(std::hint::black_box(address))) }
    }
    let (said, code, outcome) = ends(quiet().spawn(wild, 64).unwrap());
    assert!(matches!(outcome, Err(JoinError::Signaled { signal: 11, .. })), "{outcome:?}");
    assert_eq!((said.as_str(), code), ("", Some(-11)));
    // A stack that a thread of the program's own uses up is nobody's result; the process dies all the same.
    let other = |()| std::thread::spawn(|| deeper(0)).join().is_ok();
    let (_, code, outcome) = ends(quiet().spawn(other, ()).unwrap());
    assert!(matches!(outcome, Err(JoinError::Signaled { .. })), "{outcome:?}");
    assert!(matches!(code, Some(-11 | -6)), "{code:?}");
}

#[test]
fn a_child_that_handles_its_faults_itself_goes_on_doing_so() {
    let _guard = guard();
    fn handle(_: ()) {
        extern "C" fn exit(_: i32) {
            // SAFETY: allowed in a handler.
            unsafe { libc::_exit(42) };
        }
        // SAFETY: the handler only calls `_exit`.
        unsafe { libc::signal(libc::SIGSEGV, exit as extern "C" fn(i32) as libc::sighandler_t) };
        // SAFETY: none: the process is meant to fault.
        unsafe { std::ptr::read_volatile(std::ptr::without_provenance::<u8>(64)) };
    }
    let (_, code, outcome) = ends(quiet().spawn(handle, ()).unwrap());
    assert!(matches!(outcome, Err(JoinError::Exited { code: 42 })), "{outcome:?}");
    assert_eq!(code, Some(42));
}

#[test]
fn every_signal_is_told() {
    let _guard = guard();
    /// Ends by the signal, with its default action.
    fn die(signal: i32) {
        // SAFETY: SIG_DFL is no handler; both calls take numbers.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    // Those that by default stop or do nothing, and the two that the C library keeps for itself.
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let harmless = [&harmless[..], &[libc::SIGURG, libc::SIGWINCH, 32, 33, 34]].concat();
    let mut count = 0;
    for signal in (1..=64).filter(|signal| !harmless.contains(signal)) {
        let (_, code, outcome) = ends(quiet().spawn(die, signal).unwrap());
        assert_eq!(code, Some(-signal), "{outcome:?}");
        match outcome {
            Err(error @ JoinError::Signaled { signal: told, .. }) => {
                assert_eq!(told, signal);
                assert!(error.to_string().contains("killed by "), "{error}");
            }
            other => panic!("{signal}: {other:?}"),
        }
        count += 1;
    }
    assert!(count > 45, "{count}");
}

#[test]
fn every_exit_code_is_told_as_the_system_cuts_it() {
    let _guard = guard();
    for (given, told) in [(1, 1), (2, 2), (255, 255), (256, 0), (-1, 255), (0, 0), (101, 101)] {
        let (_, code, outcome) = ends(quiet().spawn(|code: i32| -> () { std::process::exit(code) }, given).unwrap());
        assert_eq!(code, Some(told));
        assert!(matches!(outcome, Err(JoinError::Exited { code }) if code == told), "{outcome:?}");
    }
    // From another thread, while the function waits.
    let other = |()| -> () {
        std::thread::spawn(|| std::process::exit(9)).join().unwrap();
    };
    let (_, code, outcome) = ends(quiet().spawn(other, ()).unwrap());
    assert!(code == Some(9) && matches!(outcome, Err(JoinError::Exited { code: 9 })), "{outcome:?}");
    let (said, code, outcome) = ends(quiet().spawn(|()| -> () { std::process::abort() }, ()).unwrap());
    assert!(matches!(outcome, Err(JoinError::Signaled { signal: 6, .. })), "{outcome:?}");
    assert_eq!((said.as_str(), code), ("", Some(-6)));
}

#[test]
fn what_was_printed_is_there_when_the_child_has_ended() {
    let _guard = guard();
    fn print(how: u32) -> u32 {
        // Not a line: it is flushed at the end or never.
        print!("half a line, ");
        print!("{how}");
        match how {
            0 => how,
            1 => std::process::exit(5),
            _ => panic!("after printing"),
        }
    }
    for how in 0..3 {
        let mut child = quiet().stdout(Stdio::piped()).spawn(print, how).unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, format!("half a line, {how}"));
        let _ = ends(child);
    }
}

#[test]
fn lines_of_many_children_stay_whole() {
    let _guard = guard();
    const CHILDREN: usize = 8;
    const LINES: usize = 200;
    fn print((go, who): (Event, usize)) {
        go.wait();
        for line in 0..LINES {
            // Pieces of text and numbers, which are formatted one by one.
            println!("{who} {line} {} {who} {line}", who.to_string().repeat(10 + line));
        }
    }
    let go = Event::new().unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let builder = Process::builder().stdout(writer);
    let children: Vec<_> = (0..CHILDREN).map(|who| builder.clone().spawn(print, (go.clone(), who)).unwrap()).collect();
    drop(builder);
    go.set();
    let mut said = String::new();
    std::fs::File::from(reader).read_to_string(&mut said).unwrap();
    let mut next = BTreeMap::new();
    for line in said.lines() {
        let who: usize = line.split(' ').next().unwrap().parse().unwrap();
        let number = next.entry(who).or_insert(0);
        let expected = format!("{who} {number} {} {who} {number}", who.to_string().repeat(10 + *number));
        assert_eq!(line, expected);
        *number += 1;
    }
    assert_eq!(next.into_values().collect::<Vec<_>>(), [LINES; CHILDREN]);
    for child in children {
        child.join().unwrap();
    }
}
