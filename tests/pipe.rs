//! Pipes: sizes, directions, bytes, ends that many use, and ends whose users are killed.

mod support;

use std::time::Duration;

use kinfolk::{
    Connection, ErrorKind, GetError, Process, Queue, Receiver, RecvError, Segment, SendError, Sender, pipe, pipe_in,
    pipe_oneway,
};
use support::random::Random;
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
    children.0.join().unwrap();
    children.1.join().unwrap();
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

#[test]
fn a_handle_whose_object_is_gone_is_an_error_that_says_so() {
    let (a, b) = pipe::<Queue<u8>, Queue<u8>>().unwrap();
    a.send(Queue::new(0).unwrap()).unwrap();
    // As bytes: the handle in it is given up, and with it the queue.
    let bytes = b.recv_bytes(None).unwrap();
    a.send_bytes(&bytes).unwrap();
    assert!(matches!(b.recv(), Err(RecvError::Decode(e)) if e.kind() == ErrorKind::Gone));
    a.send_bytes(b"").unwrap();
    assert!(matches!(b.recv(), Err(RecvError::Decode(e)) if e.kind() == ErrorKind::Codec));
}

/// A message of `len` bytes that can be checked: who sent it, its number, and bytes that follow from both. A shorter one
/// than its head is empty.
fn sealed(sender: u32, number: u32, len: usize) -> Vec<u8> {
    if len < 16 {
        return Vec::new();
    }
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&sender.to_le_bytes());
    message.extend_from_slice(&number.to_le_bytes());
    message.extend_from_slice(&(len as u64).to_le_bytes());
    let seed = u64::from(sender) << 32 | u64::from(number);
    message.extend((2..len as u64 / 8).flat_map(|k| (seed ^ k).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()));
    message.resize(len, sender as u8);
    message
}

/// Sender and number of a message, which must be whole.
#[track_caller]
fn opened(message: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap());
    let (sender, number) = (word(0), word(4));
    assert!(message == sealed(sender, number, message.len()), "message {number} of {sender} is torn");
    (sender, number)
}

#[test]
fn many_processes_and_threads_use_both_ends_at_once_and_no_message_is_torn_or_merged() {
    const USERS: u32 = 4;
    const MESSAGES: u32 = 100;
    const STOP: &[u8] = &[1];
    type End = Connection<Vec<u8>, Vec<u8>>;
    /// Sends from one thread and receives in two until each is stopped: what came, and how many empty messages.
    fn user((end, done, me): (End, Sender<u32>, u32)) -> (Vec<(u32, u32)>, u32) {
        let receive = || {
            let (mut came, mut empty) = (Vec::new(), 0);
            loop {
                match end.recv().unwrap() {
                    message if message == STOP => return (came, empty),
                    message if message.is_empty() => empty += 1,
                    message => came.push(opened(&message)),
                }
            }
        };
        std::thread::scope(|scope| {
            let others = [scope.spawn(receive), scope.spawn(receive)];
            let mut random = Random::new(u64::from(me) + 1);
            let mut empty = 0;
            for number in 0..MESSAGES {
                let small = random.below(2) == 0;
                let message = sealed(me, number, random.below(if small { 200 } else { 300 << 10 }) as usize);
                empty += u32::from(message.is_empty());
                end.send(message).unwrap();
            }
            done.send(empty).unwrap();
            others.into_iter().fold((Vec::new(), 0), |(mut came, empty), other| {
                let other = other.join().unwrap();
                came.extend(other.0);
                (came, empty + other.1)
            })
        })
    }
    let _guard = guard();
    let (left, right) = pipe::<Vec<u8>, Vec<u8>>().unwrap();
    let mut sides = Vec::new();
    // Users of one end have even numbers, users of the other odd ones.
    for (side, end) in [left.clone(), right.clone()].into_iter().enumerate() {
        let (finished, done) = pipe_oneway::<u32>().unwrap();
        let numbers = (0..USERS).map(|k| 2 * k + side as u32);
        let start = |me| Process::spawn(user, (end.clone(), done.clone(), me)).unwrap();
        sides.push((finished, numbers.map(start).collect::<Vec<_>>()));
    }
    let sent_empty: Vec<u32> = sides.iter().map(|(done, _)| (0..USERS).map(|_| done.recv().unwrap()).sum()).collect();
    // Behind all the messages.
    for _ in 0..2 * USERS {
        left.send(STOP.to_vec()).unwrap();
        right.send(STOP.to_vec()).unwrap();
    }
    for (side, (_, users)) in sides.into_iter().enumerate() {
        let (mut came, mut empty) = (Vec::new(), 0);
        for user in users {
            let (numbers, none) = user.join().unwrap();
            came.extend(numbers);
            empty += none;
        }
        let from = 1 - side as u32;
        assert_eq!(empty, sent_empty[from as usize], "empty messages");
        assert_eq!(came.len() as u32 + empty, USERS * MESSAGES);
        came.sort();
        came.dedup();
        assert_eq!(came.len() as u32 + empty, USERS * MESSAGES, "each came once");
        assert!(came.iter().all(|(sender, _)| sender % 2 == from));
    }
    assert!(!left.is_closed());
}

#[test]
fn one_of_two_readers_takes_each_message_in_the_order_of_the_pipe() {
    let _guard = guard();
    let (receiver, sender) = pipe_oneway::<u64>().unwrap();
    let reader = |receiver: Receiver<u64>| std::iter::from_fn(|| receiver.recv().ok()).collect::<Vec<_>>();
    let readers = [(); 2].map(|()| Process::spawn(reader, receiver.clone()).unwrap());
    drop(receiver);
    (0..20_000).for_each(|k| sender.send(k).unwrap());
    drop(sender);
    let [one, two] = readers.map(|reader| reader.join().unwrap());
    assert!(one.is_sorted() && two.is_sorted());
    let mut all = [one, two].concat();
    all.sort();
    assert!(all.into_iter().eq(0..20_000));
}

#[test]
fn the_end_of_file_is_told_to_all_who_wait_and_names_only_the_dead_of_the_other_end() {
    let _guard = guard();
    let (here, there) = pipe::<u8, u8>().unwrap();
    // A user of this end dies.
    let mate = Process::spawn(|here: Connection<u8, u8>| drop(here.recv()), here.clone()).unwrap();
    mate.kill().unwrap();
    mate.join().unwrap_err();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(here.poll(None).unwrap()));
        for _ in 0..3 {
            scope.spawn(|| assert!(matches!(here.recv(), Err(RecvError::Disconnected(None)))));
        }
        drop(there);
    });
    assert!(matches!(here.recv(), Err(RecvError::Disconnected(None))));
    assert!(matches!(here.send(1), Err(SendError::Disconnected(1, None))));
    assert!(here.is_closed());
    // A user of the other end does.
    let (here, there) = pipe::<u8, u8>().unwrap();
    let peer = Process::spawn(|there: Connection<u8, u8>| drop(there.recv()), there.clone()).unwrap();
    let pid = peer.pid();
    peer.kill().unwrap();
    peer.join().unwrap_err();
    assert!(!here.is_closed());
    drop(there);
    assert!(matches!(here.recv(), Err(RecvError::Disconnected(Some(dead))) if dead == pid));
    assert!(matches!(here.send(1), Err(SendError::Disconnected(1, Some(dead))) if dead == pid));
}
