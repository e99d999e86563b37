//! Wrong bytes in a family's segment, under pipes and under the hand-over between parent and child: every call ends, with
//! an answer or an error.
//!
//! A family has one segment for all its life, so each case is a program of its own: this one, started again.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use kinfolk::{Connection, Event, Process, Segment, pipe};
use proptest::prelude::*;
use support::watchdog;

/// Bytes of an arena page.
const PAGE: u64 = 8192;

const SOON: Duration = Duration::from_millis(1);
/// What is to be written and when, in the environment of the program that is started.
const WRITES: &str = "KINFOLK_TEST_WRITES";

/// A moment, the object (or one more for the tables in front of all objects), an offset, and the word to write there.
type Write = (u32, u64, u64, u64);

/// Writes what is due at `moment`, as any process that has the segment mapped could.
fn scribble(segment: &Segment, writes: &[Write], moment: u32) {
    let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
    let read = |at: u64, bytes: usize| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word[..bytes], at).unwrap();
        u64::from_le_bytes(word)
    };
    let size = file.metadata().unwrap().len();
    for (_, object, at, value) in writes.iter().filter(|write| write.0 == moment) {
        let page = |object: u64| read(96, 8) + PAGE * read(read(88, 8) + 512 * object + 12, 4);
        let start = if *object < OBJECTS { page(*object) } else { 0 };
        file.write_all_at(&value.to_ne_bytes(), (start + at).min(size - 8) & !3).unwrap();
    }
}

/// Objects that are aimed at: the pipe, the event, and what two children are handed.
const OBJECTS: u64 = 5;
/// Moments at which something is written.
const MOMENTS: u32 = 5;

fn writes() -> impl Strategy<Value = Vec<Write>> {
    // The fixed part of a mailbox or a handoff; the words of the first records of either direction.
    let inside = prop_oneof![4 => 0u64..640, 2 => 640u64..1200, 1 => 33_400u64..33_800, 1 => 0u64..800_000];
    let value =
        prop_oneof![any::<u64>(), 0u64..32, Just(u64::MAX), (any::<u64>(), 0u32..64).prop_map(|(v, by)| v >> by)];
    let near = (0..MOMENTS, 0..OBJECTS, inside, value.clone());
    let tables = (0..MOMENTS, Just(OBJECTS), 104u64..150_000, value);
    prop::collection::vec(prop_oneof![4 => near, 1 => tables], 1..24)
}

/// Everything that ends by itself, done with one end of a pipe.
fn use_pipe(here: &Connection<Vec<u8>, Vec<u8>>, there: &Connection<Vec<u8>, Vec<u8>>) {
    for (one, other) in [(here, there), (there, here)] {
        for len in [0, 50, 3000, 300_000] {
            let _ = (one.try_send(vec![3; len]), one.send_timeout(vec![4; len], SOON));
        }
        let _ = (other.poll(Some(SOON)), other.try_recv(), other.recv_timeout(SOON));
        while other.try_recv().is_ok() {}
        let _ = format!("{one:?}");
    }
}

/// One case, in a program of its own.
#[test]
fn case() {
    let Ok(text) = std::env::var(WRITES) else { return };
    let _watchdog = watchdog(Duration::from_secs(60));
    let numbers = |write: &str| -> Write {
        let n: Vec<u64> = write.split(' ').map(|n| n.parse().unwrap()).collect();
        (n[0] as u32, n[1], n[2], n[3])
    };
    let writes: Vec<Write> = text.split(',').map(numbers).collect();
    let segment = Segment::family().unwrap();
    let (here, there) = pipe().unwrap();
    let event = Event::new().unwrap();
    for _ in 0..5 {
        here.send(vec![1; 100]).unwrap();
        there.send(vec![2; 5000]).unwrap();
    }
    scribble(&segment, &writes, 0);
    use_pipe(&here, &there);
    let answer = |(there, event, len): (Connection<Vec<u8>, Vec<u8>>, Event, usize)| {
        event.set();
        let _ = there.send_timeout(vec![5; len], SOON);
        vec![7u8; len]
    };
    for (k, len) in [(0, 100), (1, 5000)] {
        let child = Process::spawn(answer, (there.clone(), event.clone(), len));
        scribble(&segment, &writes, 1 + 2 * k);
        if let Ok(child) = child {
            child.child().wait().unwrap();
            scribble(&segment, &writes, 2 + 2 * k);
            if let Ok(result) = child.join() {
                assert!(result.len() <= 5000 + 512);
            }
        }
        use_pipe(&here, &there);
    }
    let _ = (segment.sweep(), segment.stats(), segment.deaths(), segment.inspect().to_string());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_family_ends_in_answers_and_errors(writes in writes()) {
        let _watchdog = watchdog(Duration::from_secs(100));
        let text: Vec<String> = writes.iter().map(|(when, object, at, value)| format!("{when} {object} {at} {value}")).collect();
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "case", "--nocapture"]).env(WRITES, text.join(",")).env("KINFOLK_SEGMENT_BYTES", "16M");
        let ended = program.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        prop_assert!(ended.status.success() && !said.contains("panicked"), "{}: {said}", ended.status);
    }
}
