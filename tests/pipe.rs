//! Pipes: sizes, directions, bytes, ends that many use, and ends whose users are killed.

mod support;

use std::time::Duration;

use kinfolk::{Connection, ErrorKind, RecvError, Segment, SendError, pipe_in};
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(120))
}

#[test]
fn a_pipe_holds_as_many_messages_each_way_as_it_was_made_for() {
    let (a, b) = Connection::builder().capacity(3).bytes(0).build::<u32, String>().unwrap();
    for k in 0..3 {
        a.try_send(k).unwrap();
        b.try_send(k.to_string()).unwrap();
    }
    assert!(matches!(a.try_send(3), Err(SendError::Full(3))));
    assert!(matches!(b.try_send("3".into()), Err(SendError::Full(v)) if v == "3"));
    assert_eq!((a.recv().unwrap(), b.recv().unwrap()), ("0".into(), 0));
    a.try_send(3).unwrap();
    assert!(matches!(a.try_send(4), Err(SendError::Full(4))));
    let error = Connection::builder().capacity((1 << 19) + 1).build::<u8, u8>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn the_smallest_pipe_carries_the_largest_message() {
    let _guard = guard();
    let (a, b) = Connection::builder().bytes(0).build::<Vec<u8>, Vec<u8>>().unwrap();
    for bytes in [0, 1, 56, 57, 2040, 2041, 1 << 20, 64 << 20] {
        let message: Vec<u8> = (0..bytes).map(|k| (k * 31 + bytes) as u8).collect();
        b.send(message.clone()).unwrap();
        assert!(a.recv().unwrap() == message, "{bytes} B");
    }
    let too_large = vec![0; (64 << 20) + 1];
    assert!(matches!(a.send(too_large), Err(SendError::Failed(v, _)) if v.len() == (64 << 20) + 1));
}

#[test]
fn a_pipe_of_a_segment_of_its_own_gives_everything_back() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let (a, b) = pipe_in::<u8, u8>(&segment).unwrap();
    assert_eq!(segment.stats().objects, 1);
    a.send(1).unwrap();
    drop(a);
    assert_eq!(b.recv().unwrap(), 1);
    assert!(matches!(b.recv(), Err(RecvError::Disconnected(None))));
    drop(b);
    assert_eq!((segment.stats().objects, segment.stats().used_bytes), (0, 0));
}
