//! Child processes, as a program sees them: real children of this test program.

mod support;

use kinfolk::process::{self, Run};
use kinfolk::{ErrorKind, JoinError, Process};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(60))
}

/// Where processes meet that have nothing else in common: a connection tells that one has begun, its end that it is gone.
struct Meeting {
    listener: UnixListener,
    path: PathBuf,
}

impl Meeting {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kinfolk-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    fn guest(&self) -> UnixStream {
        self.listener.accept().unwrap().0
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// In a child: shows up, and stays until it is told to go on.
fn attend(path: &Path) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(&std::process::id().to_ne_bytes()).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn attend_and_return(path: PathBuf) -> u32 {
    attend(&path);
    std::process::id()
}

/// The guest with this pid.
fn guest_with(pid: u32, guests: &mut [UnixStream]) -> &mut UnixStream {
    let has_pid = |guest: &mut &mut UnixStream| {
        let mut bytes = [0; 4];
        guest.read_exact(&mut bytes).unwrap();
        u32::from_ne_bytes(bytes) == pid
    };
    guests.iter_mut().find_map(|mut g| has_pid(&mut g).then_some(g)).expect("it has shown up")
}

fn go_on(guest: &mut UnixStream) {
    guest.write_all(&[1]).unwrap();
}

/// Blocks until the guest is gone.
fn gone(mut guest: UnixStream) {
    // Reset, if it was killed before it had read everything.
    let _ = guest.read_to_end(&mut Vec::new());
}

fn park(_: ()) {
    loop {
        std::thread::park();
    }
}

#[test]
fn a_result_comes_back() {
    let _guard = guard();
    fn add((a, b): (u64, u64)) -> u64 {
        a + b
    }
    assert_eq!(Process::spawn(add, (2, 40)).unwrap().join().unwrap(), 42);
    let text = Process::spawn(|s: String| s.to_uppercase(), "abc".to_owned()).unwrap();
    assert_eq!(text.join().unwrap(), "ABC");
    let process = Process::spawn(|()| std::process::id(), ()).unwrap();
    let pid = process.pid();
    assert_eq!(process.join().unwrap(), pid);
    assert_ne!(pid, std::process::id());
}

#[test]
fn a_result_can_be_read_again() {
    let _guard = guard();
    let mut process = Process::spawn(|n: usize| vec![n as u8; n], 5000).unwrap();
    process.child().wait().unwrap();
    assert_eq!(process.try_join().unwrap(), Some(vec![136; 5000]));
    assert_eq!(process.join_timeout(Duration::MAX).unwrap(), Some(vec![136; 5000]));
    assert_eq!(process.exit_code(), Some(0));
    assert_eq!(process.join().unwrap(), vec![136; 5000]);
}

#[test]
fn a_panic_comes_with_message_and_place() {
    let _guard = guard();
    let process = Process::spawn(|n: i32| -> i32 { panic!("no {n} today") }, 7).unwrap();
    let line = line!() - 1;
    process.child().wait().unwrap();
    assert_eq!(process.exit_code(), Some(1));
    match process.join() {
        Err(JoinError::Panicked { message, location, .. }) => {
            assert_eq!(message, "no 7 today");
            assert!(location.starts_with(&format!("{}:{line}:", file!())), "{location}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_panic_message_arrives_whole() {
    let _guard = guard();
    let process = Process::spawn(|n: usize| -> () { std::panic::panic_any("x".repeat(n)) }, 2_000).unwrap();
    match process.join() {
        Err(JoinError::Panicked { message, .. }) => assert_eq!(message.len(), 2_000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_without_a_hook_or_a_text_is_told_as_far_as_known() {
    let _guard = guard();
    let process = Process::spawn(|()| -> () { std::panic::resume_unwind(Box::new(5)) }, ()).unwrap();
    let error = process.join().unwrap_err();
    assert_eq!(error.to_string(), "the process panicked at an unknown place: a value that is not text");
}

#[test]
fn signals_and_exit_codes_are_told() {
    let _guard = guard();
    fn die(number: i32) {
        raise(Signal::try_from(number).unwrap()).unwrap();
        park(());
    }
    for number in [Signal::SIGSEGV as i32, Signal::SIGTERM as i32, Signal::SIGKILL as i32] {
        let process = Process::spawn(die, number).unwrap();
        process.child().wait().unwrap();
        assert_eq!(process.exit_code(), Some(-number));
        assert!(matches!(process.join(), Err(JoinError::Signaled { signal, .. }) if signal == number));
    }
    let process = Process::spawn(|code: i32| -> () { std::process::exit(code) }, 7).unwrap();
    process.child().wait().unwrap();
    assert_eq!(process.exit_code(), Some(7));
    assert!(matches!(process.join(), Err(JoinError::Exited { code: 7 })));
    let process = Process::spawn(|()| -> () { std::process::abort() }, ()).unwrap();
    assert!(matches!(process.join(), Err(JoinError::Signaled { signal: 6, .. })));
    let error = Process::spawn(die, 9).unwrap().join().unwrap_err();
    assert_eq!(error.to_string(), "the process was killed by SIGKILL");
}

#[test]
fn terminate_kill_and_interrupt_end_a_child_and_leave_an_ended_one_alone() {
    let _guard = guard();
    type Send = fn(&Process<()>) -> Result<(), kinfolk::Error>;
    let sends: [(Send, i32); 3] = [(Process::terminate, -15), (Process::kill, -9), (Process::interrupt, -2)];
    for (send, code) in sends {
        let process = Process::spawn(park, ()).unwrap();
        send(&process).unwrap();
        process.child().wait().unwrap();
        assert_eq!(process.exit_code(), Some(code));
        for (again, _) in sends {
            again(&process).unwrap();
        }
        assert_eq!(process.exit_code(), Some(code));
    }
}

#[test]
fn is_alive_until_the_end_and_join_timeout_gives_nothing_before() {
    let _guard = guard();
    let meeting = Meeting::new("alive");
    let mut process = Process::spawn(attend_and_return, meeting.path.clone()).unwrap();
    let mut guest = meeting.guest();
    assert!(process.is_alive());
    assert_eq!(process.exit_code(), None);
    assert!(process.try_join().unwrap().is_none());
    assert!(process.join_timeout(Duration::from_millis(20)).unwrap().is_none());
    assert!(!process.child().wait_timeout(Duration::from_millis(1)).unwrap());
    let mut polled = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut polled, Some(&now)).unwrap(), 0);
    go_on(&mut guest);
    let mut polled = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
    assert!(!process.is_alive());
    assert_eq!(process.exit_code(), Some(0));
    let pid = process.pid();
    assert_eq!(process.join_timeout(Duration::ZERO).unwrap(), Some(pid));
}

#[test]
fn many_threads_may_wait_for_one_child() {
    let _guard = guard();
    let meeting = Meeting::new("threads");
    let process = Process::spawn(attend_and_return, meeting.path.clone()).unwrap();
    let mut guest = meeting.guest();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                process.child().wait().unwrap();
                assert_eq!(process.exit_code(), Some(0));
            });
        }
        go_on(&mut guest);
    });
    process.join().unwrap();
}

#[test]
fn a_hundred_children_at_once() {
    let _guard = guard();
    let children: Vec<_> = (0..100u64).map(|n| Process::spawn(|n: u64| n * n, n).unwrap()).collect();
    for (n, child) in (0..100u64).zip(children) {
        assert_eq!(child.join().unwrap(), n * n);
    }
}

#[test]
fn children_may_have_children() {
    let _guard = guard();
    fn depth(left: u32) -> Vec<String> {
        let mut names = vec![process::current().name().to_owned()];
        if left > 0 {
            assert_eq!(process::parent().is_some(), left < 3);
            names.extend(Process::spawn(depth, left - 1).unwrap().join().unwrap());
        }
        names
    }
    let names = Process::builder().name("first").spawn(depth, 2).unwrap().join().unwrap();
    assert_eq!(names[0], "first");
    assert!(names[1].starts_with("Process-") && names[1].ends_with(":1"), "{names:?}");
    assert_eq!(names[2], format!("{}:1", names[1]));
}

#[test]
fn names_and_parents_are_known_to_the_child() {
    let _guard = guard();
    assert_eq!(process::current().name(), "MainProcess");
    assert!(process::parent().is_none());
    fn who(_: ()) -> (String, String, bool, String, u32, bool) {
        let (me, parent) = (process::current(), process::parent().unwrap());
        let thread = std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_owned();
        (me.name().to_owned(), thread, me.is_daemon(), parent.name().to_owned(), parent.pid(), parent.is_alive())
    }
    let child = Process::spawn(who, ()).unwrap();
    let (name, thread, daemon, parent, pid, alive) = {
        let name = child.name().to_owned();
        assert!(name.starts_with("Process-"));
        let told = child.join().unwrap();
        assert_eq!(told.0, name);
        told
    };
    assert_eq!((name.as_str(), daemon, alive), (thread.as_str(), false, true));
    assert_eq!((parent.as_str(), pid), ("MainProcess", std::process::id()));
    let child = Process::builder().name("daemon").daemon(true).spawn(who, ()).unwrap();
    assert!(child.is_daemon());
    let told = child.join().unwrap();
    assert_eq!((told.0.as_str(), told.2), ("daemon", true));
    let error = Process::builder().name("a\0b").spawn(who, ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(process::cpu_count() >= 1);
}

#[test]
fn a_generic_function_is_started_as_it_was_meant() {
    let _guard = guard();
    fn size<T: Serialize + DeserializeOwned + 'static>(values: Vec<T>) -> (usize, String) {
        (values.len() * size_of::<T>(), std::any::type_name::<T>().to_owned())
    }
    assert_eq!(Process::spawn(size::<u8>, vec![1; 3]).unwrap().join().unwrap(), (3, "u8".to_owned()));
    assert_eq!(Process::spawn(size::<u64>, vec![1; 3]).unwrap().join().unwrap(), (24, "u64".to_owned()));
    // Two closures of one type name.
    let (one, two) = (|()| 1, |()| 2);
    assert_eq!(Process::spawn(two, ()).unwrap().join().unwrap(), 2);
    assert_eq!(Process::spawn(one, ()).unwrap().join().unwrap(), 1);
}

#[test]
fn a_job_runs_with_its_data() {
    let _guard = guard();
    #[derive(Serialize, Deserialize)]
    struct Sum(Vec<u32>);
    impl Run for Sum {
        type Output = u32;
        fn run(self) -> u32 {
            self.0.iter().sum()
        }
    }
    assert_eq!(Process::builder().name("sum").run(Sum(vec![1, 2, 3])).unwrap().join().unwrap(), 6);
}

#[test]
fn a_mebibyte_travels_both_ways() {
    let _guard = guard();
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let process =
        Process::spawn(|bytes: serde_bytes::ByteBuf| bytes, serde_bytes::ByteBuf::from(bytes.clone())).unwrap();
    assert_eq!(process.join().unwrap().into_vec(), bytes);
}

/// A value that can be encoded but not decoded, or the other way round.
struct OneWay {
    encodes: bool,
}

impl Serialize for OneWay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.encodes { serializer.serialize_u8(7) } else { Err(serde::ser::Error::custom("will not")) }
    }
}

impl<'de> Deserialize<'de> for OneWay {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("cannot"))
    }
}

#[test]
fn what_cannot_be_encoded_or_decoded_is_an_error_where_it_is_noticed() {
    let _guard = guard();
    let error = Process::spawn(|_: OneWay| (), OneWay { encodes: false }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    let is_codec = |e: kinfolk::Error| assert_eq!(e.kind(), ErrorKind::Codec, "{e}");
    match Process::spawn(|_: OneWay| (), OneWay { encodes: true }).unwrap().join() {
        Err(JoinError::Failed(error)) => is_codec(error),
        other => panic!("{other:?}"),
    }
    match Process::spawn(|()| OneWay { encodes: false }, ()).unwrap().join().map(drop) {
        Err(JoinError::Failed(error)) => is_codec(error),
        other => panic!("{other:?}"),
    }
    match Process::spawn(|()| OneWay { encodes: true }, ()).unwrap().join().map(drop) {
        Err(JoinError::Decode(error)) => is_codec(error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_has_no_descriptors_of_its_siblings() {
    let _guard = guard();
    fn count(_: ()) -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }
    let alone = Process::spawn(count, ()).unwrap().join().unwrap();
    let siblings: Vec<_> = (0..10).map(|_| Process::spawn(park, ()).unwrap()).collect();
    let among_many = Process::spawn(count, ()).unwrap().join().unwrap();
    assert_eq!(alone, among_many);
    for sibling in siblings {
        sibling.kill().unwrap();
        assert!(sibling.join().is_err());
    }
}

#[test]
fn a_child_gets_arguments_environment_and_signal_mask_of_its_parent() {
    let _guard = guard();
    fn see(_: ()) -> (Vec<String>, Option<String>, bool, String) {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find(|l| l.starts_with("SigBlk")).unwrap().to_owned();
        (std::env::args().collect(), std::env::var("PATH").ok(), std::env::var_os("KINFOLK_CHILD").is_some(), mask)
    }
    let mask = |process: Process<_>| -> String {
        let (arguments, path, ticket, mask): (Vec<String>, _, bool, String) = process.join().unwrap();
        assert!(arguments == std::env::args().collect::<Vec<_>>() || cfg!(target_env = "musl"));
        assert_eq!(path, std::env::var("PATH").ok());
        assert!(!ticket);
        mask
    };
    assert_eq!(mask(Process::spawn(see, ()).unwrap()), "SigBlk:\t0000000000000000");
    let mut usr1 = SigSet::empty();
    usr1.add(Signal::SIGUSR1);
    usr1.thread_block().unwrap();
    let blocked = mask(Process::spawn(see, ()).unwrap());
    usr1.thread_unblock().unwrap();
    assert_eq!(blocked, "SigBlk:\t0000000000000200");
}

#[test]
fn a_write_to_a_closed_pipe_is_an_error_in_a_child() {
    let _guard = guard();
    fn broken_pipe(_: ()) -> bool {
        let (read, mut write) = UnixStream::pair().unwrap();
        drop(read);
        write.write_all(b"x").is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    }
    assert!(Process::spawn(broken_pipe, ()).unwrap().join().unwrap());
}

#[test]
fn a_child_outlives_the_thread_that_started_it() {
    let _guard = guard();
    let meeting = Meeting::new("thread");
    let path = meeting.path.clone();
    let process = std::thread::spawn(move || Process::spawn(attend_and_return, path).unwrap()).join().unwrap();
    let mut guest = meeting.guest();
    assert!(process.is_alive());
    go_on(&mut guest);
    let pid = process.pid();
    assert_eq!(process.join().unwrap(), pid);
}

/// Starts two children and a grandchild that all attend, and waits.
fn family((path, generations): (PathBuf, u32)) {
    for _ in 0..2 {
        drop(Process::spawn(attend_and_return, path.clone()).unwrap());
    }
    if generations > 1 {
        drop(Process::spawn(family, (path.clone(), generations - 1)).unwrap());
    }
    attend(&path);
    park(());
}

#[test]
fn a_killed_parent_takes_its_descendants_along() {
    let _guard = guard();
    let meeting = Meeting::new("killed");
    let middle = Process::spawn(family, (meeting.path.clone(), 3)).unwrap();
    let guests: Vec<_> = (0..9).map(|_| meeting.guest()).collect();
    let killed = std::time::Instant::now();
    middle.kill().unwrap();
    assert!(matches!(middle.join(), Err(JoinError::Signaled { signal: 9, .. })));
    guests.into_iter().for_each(gone);
    println!("eight descendants gone after {:?}", killed.elapsed());
}

#[test]
fn a_result_that_is_dropped_unread_leaves_nothing_behind() {
    let _guard = guard();
    for _ in 0..3 {
        let process = Process::spawn(|n: usize| vec![1u8; n], 10_000).unwrap();
        let child = process.child().clone();
        drop(process);
        child.wait().unwrap();
        assert!(process::active_children().iter().all(|c| c.pid() != child.pid()));
    }
}

#[test]
fn active_children_are_those_that_live() {
    let _guard = guard();
    let process = Process::spawn(park, ()).unwrap();
    let listed = |pid| process::active_children().iter().any(|c| c.pid() == pid);
    assert!(listed(process.pid()));
    process.kill().unwrap();
    process.child().wait().unwrap();
    assert!(!listed(process.pid()));
}

#[test]
fn a_child_waits_for_its_own_children() {
    let _guard = guard();
    let meeting = Meeting::new("implicit");
    fn parent(path: PathBuf) {
        drop(Process::spawn(attend_and_return, path).unwrap());
    }
    let mut process = Process::spawn(parent, meeting.path.clone()).unwrap();
    let mut guest = meeting.guest();
    assert!(process.join_timeout(Duration::from_millis(50)).unwrap().is_none());
    go_on(&mut guest);
    process.join().unwrap();
}

#[test]
fn a_daemon_ends_with_its_parent() {
    let _guard = guard();
    let meeting = Meeting::new("daemon");
    fn parent((path, stubborn): (PathBuf, bool)) {
        fn attend_stubbornly(path: PathBuf) {
            // SAFETY: no handler runs, SIG_IGN is none.
            unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
            attend(&path);
        }
        let daemon = Process::builder().daemon(true);
        if stubborn {
            drop(daemon.spawn(attend_stubbornly, path.clone()).unwrap());
        } else {
            drop(daemon.spawn(attend_and_return, path.clone()).unwrap());
        }
        attend(&path);
    }
    for stubborn in [false, true] {
        let process = Process::spawn(parent, (meeting.path.clone(), stubborn)).unwrap();
        let mut guests = [meeting.guest(), meeting.guest()];
        go_on(guest_with(process.pid(), &mut guests));
        process.join().unwrap();
        guests.into_iter().for_each(gone);
    }
}

#[test]
fn constructors_run_in_a_child_once() {
    let _guard = guard();
    assert_eq!(EARLIER_AND_LATER.each_ref().map(|n| n.load(Ordering::Relaxed)), [1, 1]);
    let counts = Process::spawn(|()| EARLIER_AND_LATER.each_ref().map(|n| n.load(Ordering::Relaxed)), ()).unwrap();
    assert_eq!(counts.join().unwrap(), [1, 1]);
}

/// How often each of the two constructors below has run. The linker puts numbered ones before the library's, and this
/// program's unnumbered one before or after it.
static EARLIER_AND_LATER: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

extern "C" fn count_earlier() {
    EARLIER_AND_LATER[0].fetch_add(1, Ordering::Relaxed);
}

extern "C" fn count_later() {
    EARLIER_AND_LATER[1].fetch_add(1, Ordering::Relaxed);
}

#[used]
// SAFETY: the section is an array of functions that the C library calls before `main`.
#[unsafe(link_section = ".init_array.00500")]
static EARLIER: extern "C" fn() = count_earlier;

#[used]
// SAFETY: as above.
#[unsafe(link_section = ".init_array")]
static LATER: extern "C" fn() = count_later;

#[test]
fn handlers_registered_in_a_child_run_at_its_exit() {
    let _guard = guard();
    let meeting = Meeting::new("atexit");
    static PATH: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    extern "C" fn at_exit() {
        UnixStream::connect(PATH.get().unwrap()).unwrap().write_all(b"bye").unwrap();
    }
    fn register(path: PathBuf) {
        PATH.set(path).unwrap();
        // SAFETY: the handler is a function of the program that does not unwind.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
    }
    let process = Process::spawn(register, meeting.path.clone()).unwrap();
    let mut said = String::new();
    meeting.guest().read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    process.join().unwrap();
}

#[test]
fn results_arrive_though_the_program_ignores_its_children() {
    let _guard = guard();
    fn ignoring(_: ()) -> Vec<Result<u32, String>> {
        // SAFETY: no handler runs, SIG_IGN is none.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
        let run = |n| {
            let process = Process::spawn(|n: u32| if n == 0 { std::process::exit(3) } else { n }, n).unwrap();
            process.child().wait().unwrap();
            assert_eq!(process.exit_code(), Some(if n == 0 { 255 } else { 0 }));
            process.join().map_err(|e| e.to_string())
        };
        vec![run(1), run(0)]
    }
    let told = Process::spawn(ignoring, ()).unwrap().join().unwrap();
    assert_eq!(told[0], Ok(1));
    assert!(told[1].as_ref().unwrap_err().contains("taken by somebody else"), "{told:?}");
}

#[test]
fn a_forked_copy_leaves_the_children_of_the_original_alone() {
    let _guard = guard();
    let meeting = Meeting::new("forked");
    fn forking(path: PathBuf) -> bool {
        let daemon = Process::builder().daemon(true).spawn(attend_and_return, path.clone()).unwrap();
        attend(&path);
        // SAFETY: the copy has one thread, and only calls `exit`, whose handlers are what is tested.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => std::process::exit(0),
            nix::unistd::ForkResult::Parent { child } => nix::sys::wait::waitpid(child, None).unwrap(),
        };
        daemon.is_alive()
    }
    let process = Process::spawn(forking, meeting.path.clone()).unwrap();
    let mut guests = [meeting.guest(), meeting.guest()];
    go_on(guest_with(process.pid(), &mut guests));
    assert!(process.join().unwrap());
}

/// Run by the test below, as a program whose `main` ends while children live.
#[test]
#[ignore = "run by another test"]
fn program_that_forgets_its_children() {
    let path = PathBuf::from(std::env::var_os("KINFOLK_TEST_MEETING").expect("set by the test that runs this"));
    drop(Process::spawn(attend_and_return, path.clone()).unwrap());
    drop(Process::builder().daemon(true).spawn(park, ()).unwrap());
}

#[test]
fn a_program_waits_for_its_children_at_exit() {
    let _guard = guard();
    let meeting = Meeting::new("exit");
    let mut program = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program_that_forgets_its_children", "--ignored", "--quiet"])
        .env("KINFOLK_TEST_MEETING", &meeting.path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut guest = meeting.guest();
    std::thread::sleep(Duration::from_millis(50));
    assert!(program.try_wait().unwrap().is_none(), "the program left its child behind");
    go_on(&mut guest);
    assert!(program.wait().unwrap().success());
}
