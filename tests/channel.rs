//! Queues and pipes as one process sees them.

use std::time::Duration;

use kinfolk::{GetError, Process, PutError, Queue, Segment, pipe};

#[test]
fn items_come_in_the_order_in_which_they_were_put() {
    let queue = Queue::<u64>::new(0).unwrap();
    for k in 0..10_000 {
        queue.put(k).unwrap();
    }
    assert_eq!(queue.len(), 10_000);
    for k in 0..10_000 {
        assert_eq!(queue.get().unwrap(), k);
    }
    assert!(queue.is_empty());
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
}

#[test]
fn put_on_a_full_queue_gives_the_value_back() {
    let queue = Queue::<String>::new(6).unwrap();
    for k in 0..6 {
        queue.put(k.to_string()).unwrap();
    }
    assert!(matches!(queue.try_put("seven".into()), Err(PutError::Full(v)) if v == "seven"));
    let timeout = Duration::from_millis(20);
    assert!(matches!(queue.put_timeout("eight".into(), timeout), Err(PutError::Timeout(v, None)) if v == "eight"));
    assert_eq!(queue.get().unwrap(), "0");
    queue.put("six".into()).unwrap();
    assert_eq!(queue.len(), 6);
}

#[test]
fn messages_of_every_size_arrive_whole() {
    let queue = Queue::<Vec<u8>>::new(0).unwrap();
    for bytes in [0, 1, 7, 55, 56, 57, 120, 4096, 65_536, 524_279, 524_280, 524_281, 1 << 20, 64 << 20] {
        let message: Vec<u8> = (0..bytes).map(|k| (k * 31 + bytes) as u8).collect();
        queue.put(message.clone()).unwrap();
        assert!(queue.get().unwrap() == message, "{bytes} B");
    }
    let too_large = vec![0; (64 << 20) + 1];
    assert!(matches!(queue.put(too_large), Err(PutError::Failed(v, _)) if v.len() == (64 << 20) + 1));
}

#[test]
fn a_pipe_carries_both_ways_and_ends_when_the_other_end_is_dropped() {
    let (a, b) = pipe::<u32, String>().unwrap();
    a.send(7).unwrap();
    b.send("seven".into()).unwrap();
    assert!(a.poll(None).unwrap());
    assert_eq!((a.recv().unwrap(), b.recv().unwrap()), ("seven".into(), 7));
    assert!(!a.poll(Some(Duration::ZERO)).unwrap());
    b.send("last".into()).unwrap();
    drop(b);
    assert_eq!(a.recv().unwrap(), "last");
    assert!(matches!(a.recv(), Err(kinfolk::RecvError::Disconnected(None))));
    assert!(matches!(a.send(8), Err(kinfolk::SendError::Disconnected(8, None))));
    assert!(a.poll(None).unwrap());
}

/// Objects of a segment of its own, before and after.
fn objects(segment: &Segment) -> usize {
    segment.stats().objects
}

#[test]
fn a_handle_in_a_message_keeps_its_object_until_it_is_got() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let outer: Queue<Queue<u32>> = Queue::builder().segment(&segment).build().unwrap();
    let inner: Queue<u32> = Queue::builder().segment(&segment).build().unwrap();
    inner.put(7).unwrap();
    outer.put(inner).unwrap();
    assert_eq!(objects(&segment), 2, "nobody has it open, but the message carries it");
    let again = outer.get().unwrap();
    assert_eq!(again.get().unwrap(), 7);
    drop(again);
    assert_eq!(objects(&segment), 1);
}

#[test]
fn handles_in_messages_that_nobody_gets_go_with_the_queue() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let new = || Queue::builder().segment(&segment).build::<Queue<Queue<u8>>>().unwrap();
    let (outer, middle) = (Queue::builder().segment(&segment).build::<Queue<Queue<Queue<u8>>>>().unwrap(), new());
    middle.put(Queue::builder().segment(&segment).build().unwrap()).unwrap();
    outer.put(middle).unwrap();
    assert_eq!(objects(&segment), 3);
    drop(outer);
    assert_eq!((objects(&segment), segment.stats().used_bytes), (0, 0));
}

#[test]
fn a_value_that_comes_back_keeps_its_handles_and_leaves_none_behind() {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let full: Queue<Queue<u8>> = Queue::builder().segment(&segment).capacity(1).build().unwrap();
    let keep: Queue<u8> = Queue::builder().segment(&segment).build().unwrap();
    let new = || Queue::<u8>::open(&segment, keep.id()).unwrap();
    full.put(new()).unwrap();
    let back = full.try_put(new()).unwrap_err().into_value();
    back.put(3).unwrap();
    assert_eq!(full.get().unwrap().get().unwrap(), 3);
    drop((back, keep, full));
    assert_eq!(objects(&segment), 0);
}

#[test]
fn a_message_that_cannot_be_decoded_gives_its_handles_up() {
    // Two types whose encodings begin alike: the handle is read, and what follows is not.
    let segment = Segment::anonymous(64 << 20).unwrap();
    let queue: Queue<Odd> = Queue::builder().segment(&segment).build().unwrap();
    let inner: Queue<u8> = Queue::builder().segment(&segment).build().unwrap();
    queue.put(Odd(inner)).unwrap();
    assert!(matches!(queue.get(), Err(GetError::Decode(_))));
    assert_eq!(objects(&segment), 1);
}

/// Encodes as its queue, and refuses to be decoded.
struct Odd(Queue<u8>);

impl serde::Serialize for Odd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Odd {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("not today"))
    }
}

#[test]
fn an_end_of_a_pipe_that_is_lost_in_a_message_is_closed() {
    let (here, there) = pipe::<u8, u8>().unwrap();
    let queue = Queue::new(0).unwrap();
    queue.put(there).unwrap();
    here.send(1).unwrap();
    assert!(matches!(here.recv_timeout(Duration::from_millis(10)), Err(kinfolk::RecvError::Timeout(_))));
    drop(queue);
    assert!(matches!(here.recv(), Err(kinfolk::RecvError::Disconnected(None))));
}

#[test]
fn a_handle_outlives_the_process_that_sent_it() {
    let queue = Queue::<Queue<String>>::new(0).unwrap();
    fn sender(queue: Queue<Queue<String>>) {
        let inner = Queue::new(0).unwrap();
        inner.put("from beyond".to_owned()).unwrap();
        queue.put(inner).unwrap();
        std::process::abort();
    }
    let child = Process::spawn(sender, queue.clone()).unwrap();
    assert!(child.join().is_err());
    assert_eq!(queue.get().unwrap().get().unwrap(), "from beyond");
}

#[test]
fn a_handle_means_nothing_outside_a_message() {
    let queue = Queue::<u8>::new(0).unwrap();
    let error = postcard::to_stdvec(&queue).unwrap_err().to_string();
    assert!(!error.is_empty());
}
