//! Pipes: sizes, directions, bytes, ends that many use, and ends whose users are killed.

mod support;

use std::time::Duration;

use kinfolk::{
    Connection, ErrorKind, GetError, Process, Queue, Receiver, RecvError, Segment, SendError, Sender, pipe, pipe_in,
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

#[test]
fn bytes_are_a_message_as_they_are_whatever_the_types_of_the_pipe() {
    let (a, b) = pipe::<(u32, String), u64>().unwrap();
    a.send_bytes(b"raw").unwrap();
    a.send((7, "x".into())).unwrap();
    a.send_bytes(b"").unwrap();
    a.send_bytes(&[7, 1, b'x']).unwrap();
    assert_eq!(b.recv_bytes(None).unwrap(), b"raw");
    assert_eq!(b.recv_bytes(Some(3)).unwrap(), [7, 1, b'x'], "an encoded value is bytes too");
    assert!(b.poll(Some(Duration::ZERO)).unwrap());
    assert_eq!(b.recv_bytes(Some(0)).unwrap(), b"", "no bytes are a message");
    assert_eq!(b.recv().unwrap(), (7, "x".into()), "and bytes that encode a value are received as one");
    a.send_bytes(b"nothing of the sort").unwrap();
    assert!(matches!(b.recv(), Err(RecvError::Decode(_))));
    let (out, inward) = pipe_oneway::<String>().map(|(receiver, sender)| (sender, receiver)).unwrap();
    out.send_bytes(b"one way").unwrap();
    assert_eq!(inward.recv_bytes(None).unwrap(), b"one way");
}

#[test]
fn a_message_that_is_too_long_is_in_the_error_and_the_next_one_follows() {
    let (a, b) = Connection::builder().bytes(0).build::<(), ()>().unwrap();
    // In the ring, and in a block.
    for len in [11, 100_000] {
        let message: Vec<u8> = (0..len).map(|k| k as u8).collect();
        let mut buffer = vec![9u8; len - 1];
        for _ in 0..3 {
            a.send_bytes(&message).unwrap();
        }
        a.send_bytes(b"next").unwrap();
        assert!(matches!(b.recv_bytes(Some(len - 1)), Err(RecvError::BufferTooShort(whole)) if whole == message));
        assert!(matches!(b.recv_bytes_into(&mut buffer), Err(RecvError::BufferTooShort(whole)) if whole == message));
        assert!(buffer.iter().all(|byte| *byte == 9));
        assert_eq!(b.recv_bytes(Some(len)).unwrap(), message);
        assert_eq!(b.recv_bytes_into(&mut buffer[2..]).unwrap(), 4);
        assert_eq!(&buffer[..7], b"\t\tnext\t");
        a.send_bytes(&message).unwrap();
        buffer.push(0);
        assert_eq!(b.recv_bytes_into(&mut buffer).unwrap(), len);
        assert_eq!(buffer, message);
    }
}

#[test]
fn bytes_are_sent_and_received_without_waiting_or_for_a_while() {
    let (a, b) = Connection::builder().capacity(1).bytes(0).build::<u8, u8>().unwrap();
    let (soon, mut buffer) = (Duration::from_millis(10), [0; 4]);
    assert!(matches!(b.try_recv_bytes(None), Err(RecvError::Empty)));
    assert!(matches!(b.try_recv_bytes_into(&mut buffer), Err(RecvError::Empty)));
    assert!(matches!(b.recv_bytes_timeout(None, soon), Err(RecvError::Timeout(None))));
    assert!(matches!(b.recv_bytes_into_timeout(&mut buffer, soon), Err(RecvError::Timeout(None))));
    a.try_send_bytes(b"abc").unwrap();
    assert!(matches!(a.try_send_bytes(b"d"), Err(SendError::Full(()))));
    assert!(matches!(a.send_bytes_timeout(b"d", soon), Err(SendError::Timeout((), None))));
    assert_eq!(b.try_recv_bytes(None).unwrap(), b"abc");
    a.send_bytes_timeout(b"de", soon).unwrap();
    assert_eq!((b.try_recv_bytes_into(&mut buffer).unwrap(), &buffer[..2]), (2, &b"de"[..]));
    a.send_bytes(b"f").unwrap();
    assert_eq!((b.recv_bytes_into_timeout(&mut buffer, soon).unwrap(), buffer[0]), (1, b'f'));
    a.send_bytes(b"g").unwrap();
    drop(a);
    assert_eq!(b.recv_bytes_timeout(None, soon).unwrap(), b"g");
    assert!(matches!(b.recv_bytes(None), Err(RecvError::Disconnected(None))));
    assert!(matches!(b.try_recv_bytes_into(&mut buffer), Err(RecvError::Disconnected(None))));
    assert!(matches!(b.send_bytes(b"h"), Err(SendError::Disconnected((), None))));
}
