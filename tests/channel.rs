//! Queues and pipes as one process sees them.

use std::time::Duration;

use kinfolk::{GetError, PutError, Queue, pipe};

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
