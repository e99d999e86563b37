//! `_TestProcess`, `_TestSubclassingProcess`, `_TestAtExit`, `TestStdinBadfiledescriptor`, `TestForkAwareThreadLock`,
//! `TestCloseFds`.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kinfolk::process::{self, Builder, Run, Stdio};
use kinfolk::{Connection, Event, JoinError, Process, Queue, pipe, pipe_oneway};
use serde::{Deserialize, Serialize};

use super::guard;

fn sleep_for_ever(_: ()) {
    loop {
        std::thread::park();
    }
}

/// Starts a child and reads all that it prints.
fn output<R>(builder: Builder, start: impl FnOnce(Builder) -> Process<R>) -> (String, String, Process<R>) {
    let mut child = start(builder.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (mut out, mut err) = (String::new(), String::new());
    // Nothing here prints more than a pipe holds.
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (out, err, child)
}

#[test]
fn the_current_process_is_the_main_one_and_no_daemon() {
    let current = process::current();
    assert_eq!((current.name(), current.pid()), ("MainProcess", std::process::id()));
    assert!(!current.is_daemon() && process::parent().is_none());
}

#[test]
fn children_run_the_program_that_started_them() {
    let _guard = guard();
    let see = |_: ()| std::env::current_exe().unwrap();
    assert_eq!(Process::spawn(see, ()).unwrap().join().unwrap(), std::env::current_exe().unwrap());
}

#[test]
fn arguments_arrive_unchanged() {
    let _guard = guard();
    fn same<T>(value: T) -> T {
        value
    }
    assert_eq!(Process::spawn(same::<(u8, String)>, (1, "a".into())).unwrap().join().unwrap(), (1, "a".to_owned()));
    assert_eq!(Process::spawn(same::<Vec<i64>>, vec![-1, 2]).unwrap().join().unwrap(), [-1, 2]);
    Process::spawn(same::<()>, ()).unwrap().join().unwrap();
}

#[test]
fn being_a_daemon_is_inherited_unless_it_is_said() {
    let _guard = guard();
    fn daemons(_: ()) -> [bool; 4] {
        let see = |_: ()| process::current().is_daemon();
        let said = |daemon| Process::builder().daemon(daemon).spawn(see, ()).unwrap().join().unwrap();
        [process::current().is_daemon(), Process::spawn(see, ()).unwrap().join().unwrap(), said(true), said(false)]
    }
    assert_eq!(daemons(()), [false, false, true, false]);
    let child = Process::builder().daemon(true).spawn(daemons, ()).unwrap();
    assert!(child.is_daemon());
    assert_eq!(child.join().unwrap(), [true, true, true, false]);
}

#[test]
fn a_child_knows_the_name_and_the_pid_of_its_parent() {
    let _guard = guard();
    let see = |_: ()| process::parent().map(|parent| (parent.name().to_owned(), parent.pid()));
    assert_eq!(see(()), None);
    let seen = Process::spawn(see, ()).unwrap().join().unwrap();
    assert_eq!(seen, Some(("MainProcess".to_owned(), std::process::id())));
}

#[test]
fn a_grandchild_sees_its_parent_alive_and_ends_with_it() {
    let _guard = guard();
    fn child(reports: Connection<(bool, bool), ()>) {
        drop(Process::spawn(grandchild, reports).unwrap());
        sleep_for_ever(());
    }
    fn grandchild(reports: Connection<(bool, bool), ()>) {
        let parent = process::parent().unwrap();
        reports.send((parent.is_alive(), parent.join_timeout(Duration::ZERO))).unwrap();
        // The end of the parent is the end of this process, so this does not return.
        parent.join();
        reports.send((parent.is_alive(), true)).unwrap();
    }
    let (here, there) = pipe().unwrap();
    let process = Process::spawn(child, there).unwrap();
    assert_eq!(here.recv().unwrap(), (true, false));
    process.terminate().unwrap();
    assert!(process.join().is_err());
    // Python's grandchild would say so; ours is gone, and with it the other end.
    assert!(here.recv().is_err());
}

#[test]
fn a_whole_life() {
    let _guard = guard();
    fn work((queue, number, text): (Queue<(u32, String)>, u32, String)) -> (String, u32, bool) {
        queue.put((number, text)).unwrap();
        let current = process::current();
        (current.name().to_owned(), current.pid(), current.is_daemon())
    }
    let queue = Queue::new(1).unwrap();
    let builder = Process::builder().name("a name").daemon(true);
    let process = builder.spawn(work, (queue.clone(), 1, "hello".into())).unwrap();
    assert_eq!((process.name(), process.is_daemon()), ("a name", true));
    assert_eq!(queue.get().unwrap(), (1, "hello".to_owned()));
    let (pid, child) = (process.pid(), process.child().clone());
    assert_eq!(process.join().unwrap(), ("a name".to_owned(), pid, true));
    assert_eq!((child.exit_code(), child.is_alive()), (Some(0), false));
    assert!(process::active_children().iter().all(|active| active.pid() != pid));
}

#[test]
fn the_first_thread_of_a_child_is_another_than_its_parents() {
    let _guard = guard();
    let threads = |_: ()| {
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        (std::process::id(), thread)
    };
    let (pid, thread) = Process::spawn(threads, ()).unwrap().join().unwrap();
    let own = threads(());
    assert!(pid != own.0 && thread != own.0 && thread != own.1);
}

#[test]
fn an_interrupted_child_may_handle_it() {
    let _guard = guard();
    extern "C" fn exit(_: i32) {
        // SAFETY: allowed in a handler.
        unsafe { libc::_exit(1) };
    }
    fn handle(ready: Event) {
        // SAFETY: the handler only calls `_exit`.
        unsafe { libc::signal(libc::SIGINT, exit as extern "C" fn(i32) as libc::sighandler_t) };
        ready.set();
        sleep_for_ever(());
    }
    let ready = Event::new().unwrap();
    let process = Process::spawn(handle, ready.clone()).unwrap();
    ready.wait();
    process.interrupt().unwrap();
    process.child().wait().unwrap();
    assert_eq!(process.exit_code(), Some(1));
}

fn ends_by(signal: impl Fn(&Process<()>), code: i32) {
    let _guard = guard();
    let mut process = Process::spawn(sleep_for_ever, ()).unwrap();
    assert!(process.is_alive() && process.exit_code().is_none());
    assert!(process::active_children().iter().any(|child| child.pid() == process.pid()));
    let before = Instant::now();
    assert!(process.join_timeout(Duration::ZERO).unwrap().is_none());
    assert!(process.try_join().unwrap().is_none());
    assert!(before.elapsed() < Duration::from_secs(10), "that does not wait");
    signal(&process);
    process.child().wait().unwrap();
    assert_eq!((process.exit_code(), process.is_alive()), (Some(code), false));
    // There is nobody to be told any more, which is no error.
    signal(&process);
    assert!(matches!(process.join(), Err(JoinError::Signaled { signal, .. }) if signal == -code));
}

#[test]
fn an_interrupted_child_ends_by_sigint() {
    ends_by(|process| process.interrupt().unwrap(), -2);
}

#[test]
fn a_terminated_child_ends_by_sigterm() {
    ends_by(|process| process.terminate().unwrap(), -15);
}

#[test]
fn a_killed_child_ends_by_sigkill() {
    ends_by(|process| process.kill().unwrap(), -9);
}

#[test]
fn there_is_a_cpu() {
    assert!(process::cpu_count() >= 1);
}

#[test]
fn a_child_is_active_until_it_is_joined() {
    let _guard = guard();
    let go = Event::new().unwrap();
    let process = Process::spawn(|go: Event| go.wait(), go.clone()).unwrap();
    let pid = process.pid();
    let is_active = || process::active_children().iter().any(|child| child.pid() == pid);
    assert!(is_active());
    go.set();
    process.join().unwrap();
    assert!(!is_active());
}

#[test]
fn children_have_children_one_after_the_other() {
    let _guard = guard();
    fn recurse((sender, path): (kinfolk::Sender<Vec<u32>>, Vec<u32>)) {
        sender.send(path.clone()).unwrap();
        if path.len() < 2 {
            for n in 0..2 {
                let longer = path.iter().copied().chain([n]).collect();
                Process::spawn(recurse, (sender.clone(), longer)).unwrap().join().unwrap();
            }
        }
    }
    let (receiver, sender) = pipe_oneway().unwrap();
    recurse((sender, Vec::new()));
    let mut got = Vec::new();
    while let Ok(path) = receiver.try_recv() {
        got.push(path);
    }
    let expected: [&[u32]; 7] = [&[], &[0], &[0, 0], &[0, 1], &[1], &[1, 0], &[1, 1]];
    assert_eq!(got, expected);
}

#[test]
fn a_sentinel_is_ready_when_the_child_has_ended() {
    let _guard = guard();
    let go = Event::new().unwrap();
    let process = Process::spawn(|go: Event| go.wait(), go.clone()).unwrap();
    let is_ready = |timeout| !kinfolk::channel::wait(&[&process], timeout).unwrap().is_empty();
    assert!(!is_ready(Some(Duration::ZERO)));
    go.set();
    assert!(is_ready(None) && is_ready(Some(Duration::ZERO)));
    process.join().unwrap();
}

#[test]
fn a_child_that_lives_is_not_given_up() {
    let _guard = guard();
    let queue = Queue::<()>::new(0).unwrap();
    let process = Process::spawn(|queue: Queue<()>| drop(queue.get()), queue.clone()).unwrap();
    assert!(process.is_alive());
    let process = process.close().expect_err("it lives");
    queue.put(()).unwrap();
    process.child().wait().unwrap();
    // That a closed one can be asked nothing, and cannot be closed again, is the type system's work.
    process.close().unwrap();
}

#[test]
fn many_children_end_as_they_should() {
    let _guard = guard();
    const MANY: usize = 100;
    let quick: Vec<_> = (0..MANY).map(|_| Process::spawn(|_: ()| (), ()).unwrap()).collect();
    for process in quick {
        process.child().wait().unwrap();
        assert_eq!(process.exit_code(), Some(0));
    }
    let slow: Vec<_> = (0..MANY).map(|_| Process::spawn(sleep_for_ever, ()).unwrap()).collect();
    slow.iter().for_each(|process| process.terminate().unwrap());
    for process in slow {
        process.child().wait().unwrap();
        assert_eq!(process.exit_code(), Some(-15));
    }
}

/// An argument that counts how many of it have been dropped in this process.
#[derive(Serialize, Deserialize)]
struct Counted;

static DROPPED: AtomicU32 = AtomicU32::new(0);

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn arguments_are_dropped_when_the_child_has_been_started() {
    let _guard = guard();
    let go = Event::new().unwrap();
    let wait = |(_counted, go): (Counted, Event)| go.wait();
    let process = Process::spawn(wait, (Counted, go.clone())).unwrap();
    assert_eq!(DROPPED.load(Ordering::Relaxed), 1);
    go.set();
    process.join().unwrap();
    assert_eq!(DROPPED.load(Ordering::Relaxed), 1);
}

#[test]
fn a_child_has_no_more_descriptors_for_its_siblings() {
    let _guard = guard();
    let count = |_: ()| std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = Process::spawn(count, ()).unwrap().join().unwrap();
    let siblings: Vec<_> = (0..8).map(|_| Process::spawn(sleep_for_ever, ()).unwrap()).collect();
    assert_eq!(Process::spawn(count, ()).unwrap().join().unwrap(), before);
    siblings.iter().for_each(|sibling| sibling.kill().unwrap());
}

#[test]
fn a_child_does_not_wait_for_threads_that_it_does_not_join() {
    let _guard = guard();
    fn leave_a_thread(_: ()) -> u32 {
        let joined = std::thread::scope(|scope| scope.spawn(|| 7).join().unwrap());
        std::thread::spawn(|| sleep_for_ever(()));
        joined
    }
    assert_eq!(Process::spawn(leave_a_thread, ()).unwrap().join().unwrap(), 7);
}

/// Closes its standard output and error, and goes on as if nothing were.
fn without_streams(then: impl FnOnce() -> u32) -> u32 {
    for fd in [1, 2] {
        // SAFETY: the standard library copes with closed streams.
        unsafe { libc::close(fd) };
    }
    println!("nobody reads this");
    eprintln!("nor this");
    then()
}

#[test]
fn children_of_a_process_without_streams_work() {
    let _guard = guard();
    let parent = |_: ()| without_streams(|| Process::spawn(|n: u32| n + 1, 4).unwrap().join().unwrap());
    let child = Process::builder().stdout(Stdio::null()).stderr(Stdio::null()).spawn(parent, ()).unwrap();
    assert_eq!(child.join().unwrap(), 5);
}

#[test]
fn a_child_that_breaks_its_streams_works() {
    let _guard = guard();
    let child = Process::spawn(|_: ()| without_streams(|| 5), ()).unwrap();
    child.child().wait().unwrap();
    assert_eq!(child.exit_code(), Some(0));
    assert_eq!(child.join().unwrap(), 5);
}

/// A process type of its own: says each word it gets in capitals.
#[derive(Serialize, Deserialize)]
struct UpperCaser {
    words: Connection<String, String>,
}

impl Run for UpperCaser {
    type Output = ();

    fn run(self) {
        while let Ok(word) = self.words.recv() {
            self.words.send(word.to_uppercase()).unwrap();
        }
    }

    fn name(&self) -> Option<String> {
        Some("upper caser".to_owned())
    }
}

/// Its face in the parent.
struct Service {
    process: Process<()>,
    words: Connection<String, String>,
}

impl Service {
    fn start() -> Self {
        let (words, theirs) = pipe().unwrap();
        Self { process: Process::run(UpperCaser { words: theirs }).unwrap(), words }
    }

    fn submit(&self, word: &str) -> String {
        self.words.send(word.to_owned()).unwrap();
        self.words.recv().unwrap()
    }

    fn stop(self) {
        drop(self.words);
        self.process.join().unwrap();
    }
}

#[test]
fn a_process_type_of_ones_own() {
    let _guard = guard();
    let service = Service::start();
    assert_eq!(service.process.name(), "upper caser");
    assert_eq!((service.submit("hello"), service.submit("world")), ("HELLO".to_owned(), "WORLD".to_owned()));
    service.stop();
}

#[test]
fn the_text_of_a_panic_is_complete_on_standard_error() {
    let _guard = guard();
    let fail = |n: u32| -> u32 { 1 / (n - 1) };
    let (_, said, child) = output(Process::builder().name("div"), |builder| builder.spawn(fail, 1).unwrap());
    assert!(said.contains("thread 'div'") && said.contains("attempt to divide by zero"), "{said}");
    assert!(said.contains(file!()) && said.ends_with('\n'), "{said}");
    assert!(matches!(child.join(), Err(JoinError::Panicked { .. })));
}

#[test]
fn exit_codes_are_the_systems() {
    let _guard = guard();
    // Python's exit values that are no numbers have no counterpart: a text is a panic's message, and ends with 1.
    for (code, told) in [(0, 0), (1, 1), (8, 8), (256, 0), (-1, 255)] {
        let process = Process::spawn(|code: i32| -> () { std::process::exit(code) }, code).unwrap();
        process.child().wait().unwrap();
        assert_eq!(process.exit_code(), Some(told));
    }
    let fail = |()| -> () { panic!("ignore this") };
    let (_, said, child) = output(Process::builder(), |builder| builder.spawn(fail, ()).unwrap());
    child.child().wait().unwrap();
    assert!(said.contains("ignore this") && child.exit_code() == Some(1), "{said}");
}

#[test]
fn handlers_that_a_child_registers_run_at_its_end() {
    let _guard = guard();
    extern "C" fn at_exit() {
        println!("at exit");
    }
    fn register(_: ()) {
        // SAFETY: the handler only prints.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        print!("in the function, ");
    }
    let (said, _, child) = output(Process::builder(), |builder| builder.spawn(register, ()).unwrap());
    child.join().unwrap();
    assert_eq!(said, "in the function, at exit\n");
}

#[test]
fn a_queue_is_made_and_used_in_a_child() {
    let _guard = guard();
    fn child(_: ()) -> String {
        let queue = Queue::new(0).unwrap();
        let put = |queue: Queue<String>| queue.put("from a grandchild".to_owned()).unwrap();
        let grandchild = Process::spawn(put, queue.clone()).unwrap();
        let got = queue.get().unwrap();
        grandchild.join().unwrap();
        got
    }
    assert_eq!(Process::spawn(child, ()).unwrap().join().unwrap(), "from a grandchild");
}

#[test]
fn what_is_not_printed_yet_is_not_printed_twice() {
    let _guard = guard();
    fn child(_: ()) {
        // Stays in the buffer, which a grandchild does not inherit.
        print!("once");
        Process::spawn(|()| std::io::stdout().flush().unwrap(), ()).unwrap().join().unwrap();
    }
    let (said, _, child) = output(Process::builder(), |builder| builder.spawn(child, ()).unwrap());
    child.join().unwrap();
    assert_eq!(said, "once");
}

#[test]
fn five_generations_do_not_pile_up() {
    let _guard = guard();
    /// What this process and its descendants have: children, descriptors.
    fn generation(left: u32) -> Vec<(usize, usize)> {
        let known = (process::active_children().len(), std::fs::read_dir("/proc/self/fd").unwrap().count());
        let mut all = vec![known];
        if left > 0 {
            all.extend(Process::spawn(generation, left - 1).unwrap().join().unwrap());
        }
        all
    }
    let all = Process::spawn(generation, 4).unwrap().join().unwrap();
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|known| *known == all[0] && known.0 == 0), "{all:?}");
}

#[test]
fn a_stray_descriptor_is_closed_in_a_child() {
    let _guard = guard();
    let (stray, _other) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::empty()).unwrap();
    let number = stray.as_raw_fd();
    // What it is, as the number alone may be anybody's.
    let look = |number: i32| std::fs::read_link(format!("/proc/self/fd/{number}")).ok();
    let pipe = look(number);
    assert!(pipe.is_some());
    assert_ne!(Process::spawn(look, number).unwrap().join().unwrap(), pipe);
    // The one way that it stays open.
    assert_eq!(Process::builder().keep(stray).spawn(look, number).unwrap().join().unwrap(), pipe);
}
