//! Pipes: sizes, directions, bytes, ends that many use, and ends whose users are killed.

mod support;

use std::time::Duration;

use kinfolk::{
    Connection, ErrorKind, GetError, Process, Queue, Receiver, RecvError, Segment, SendError, Sender, pipe_in,
    pipe_oneway,
};
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

#[test]
fn a_one_way_pipe_carries_one_way_and_ends_when_its_sender_is_dropped() {
    let (receiver, sender) = pipe_oneway::<String>().unwrap();
    assert_eq!(format!("{receiver:?} {sender:?}").matches("(0 messages)").count(), 2);
    let other = sender.clone();
    sender.send("one".into()).unwrap();
    other.send("two".into()).unwrap();
    assert!(format!("{receiver:?}").starts_with("Receiver<") && format!("{sender:?}").starts_with("Sender<"));
    assert!(format!("{receiver:?}").ends_with("(2 messages)"));
    drop(sender);
    assert_eq!((receiver.recv().unwrap().as_str(), receiver.clone().recv().unwrap().as_str()), ("one", "two"));
    assert!(matches!(receiver.try_recv(), Err(RecvError::Empty)));
    drop(other);
    assert!(matches!(receiver.recv(), Err(RecvError::Disconnected(None))));
    let (receiver, sender) = pipe_oneway::<u8>().unwrap();
    drop(receiver);
    assert!(matches!(sender.send(7), Err(SendError::Disconnected(7, None))));
}

#[test]
fn the_ends_of_a_one_way_pipe_go_to_children_and_keep_their_direction() {
    let _guard = guard();
    let (receiver, sender) = pipe_oneway::<u32>().unwrap();
    let (results, result) = Connection::builder().capacity(1).bytes(0).build_oneway::<u32>().unwrap();
    let producer = |sender: Sender<u32>| (0..1000).for_each(|k| sender.send(k).unwrap());
    fn consumer((receiver, result): (Receiver<u32>, Sender<u32>)) {
        let mut sum = 0;
        while let Ok(number) = receiver.recv() {
            sum += number;
        }
        result.send(sum).unwrap();
    }
    let children = (Process::spawn(producer, sender).unwrap(), Process::spawn(consumer, (receiver, result)).unwrap());
    assert_eq!(results.recv().unwrap(), 499_500);
    assert!(matches!(results.recv(), Err(RecvError::Disconnected(None))));
    (children.0.join().unwrap(), children.1.join().unwrap());
}

#[test]
fn an_end_does_not_become_the_other_end_on_its_way() {
    /// A sender that says it is a receiver.
    #[derive(serde::Serialize)]
    #[serde(transparent)]
    struct Wrong(Sender<u8>);
    impl<'de> serde::Deserialize<'de> for Wrong {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Receiver::<u8>::deserialize(deserializer).map(|_| panic!("it is a receiver now"))
        }
    }
    let queue = Queue::new(0).unwrap();
    let (_receiver, sender) = pipe_oneway::<u8>().unwrap();
    queue.put(Wrong(sender)).unwrap();
    assert!(matches!(queue.get(), Err(GetError::Decode(_))));
}
