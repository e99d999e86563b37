//! Pipes whose users are killed (SIGKILL) at random moments: nobody hangs, and every message is accounted for.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kinfolk::{
    Connection, LockError, Mutex, Process, Queue, Receiver, RecvError, Segment, SendError, Sender, pipe, pipe_oneway,
};
use support::random::Random;
use support::victim::goes_on;
use support::watchdog;

const KILLS: u32 = 200;
/// Bytes of the longest message, but for its head.
const LONGEST: usize = 2_200_000;
/// The sender of messages that only mark a place.
const MARKER: u32 = u32::MAX;
/// Bytes of the ring.
const RING: usize = 4 << 20;
/// Survivors go on within this time after a death.
const SOON: Duration = Duration::from_secs(5);

/// One test at a time: they share the family's segment, and with it the ledger that they check.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// A message from `sender` with a number, long enough for the copy to be most of the work.
fn message(sender: u32, number: u64, len: u64) -> Vec<u8> {
    let mut bytes = [u64::from(sender).to_le_bytes(), number.to_le_bytes()].concat();
    bytes.resize(16 + len as usize, filling(sender, number));
    bytes
}

/// What a message is filled with: something else than the one before.
fn filling(sender: u32, number: u64) -> u8 {
    (u64::from(sender) * 2 + number % 2) as u8
}

#[track_caller]
fn read(bytes: &[u8]) -> (u32, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (sender, number) = (word(0) as u32, word(8));
    // Each byte is as the one before; compared as a whole, so that the copy stays most of the work.
    let filled = &bytes[16..];
    let whole = filled.is_empty() || filled[0] == filling(sender, number) && filled[1..] == filled[..filled.len() - 1];
    assert!(whole, "message {number} of {sender} is torn");
    (sender, number)
}

/// Sends message after message, and notes after each how many there were.
fn producer((sender, me, progress): (Sender<Vec<u8>>, u32, Mutex<u64>)) {
    let mut random = Random::new(u64::from(me) + 1);
    let mut messages = [0, 1].map(|number| message(me, number, LONGEST as u64));
    for number in 0u64.. {
        // Some go through blocks of the arena: half the ring is 2 MiB.
        let len = if random.below(20) == 0 { LONGEST as u64 } else { 100_000 + random.below(100_000) };
        let message = &mut messages[number as usize % 2];
        message[8..16].copy_from_slice(&number.to_le_bytes());
        sender.send_bytes(&message[..16 + len as usize]).unwrap();
        *progress.lock().unwrap() = number + 1;
    }
}

/// Sends a message for each word that it gets, so that it has a part in the ring and not all of it.
fn survivor((sender, words): (Sender<Vec<u8>>, Receiver<()>)) {
    for number in 0.. {
        words.recv().unwrap();
        sender.send(message(0, number, 1000)).unwrap();
    }
}

#[test]
fn one_of_several_senders_is_killed_and_every_message_is_accounted_for() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(180));
    let mut random = Random::new(29);
    let segment = Segment::family().unwrap();
    let before = segment.stats().vanished;
    let (receiver, sender) = Connection::builder().bytes(RING).build_oneway::<Vec<u8>>().unwrap();
    let (taken, words) = pipe_oneway().unwrap();
    let survivor = Process::builder().daemon(true).spawn(survivor, (sender.clone(), taken)).unwrap();
    let mut next = BTreeMap::from([(0, 0)]);
    let mut kills = 0;
    while goes_on(&mut kills, KILLS, segment.stats().vanished > before) {
        let victim = kills;
        let progress = Mutex::new(0u64).unwrap();
        let child = Process::spawn(producer, (sender.clone(), victim, progress.clone())).unwrap();
        let mut take = |bytes: &[u8]| {
            let (from, number) = read(bytes);
            let next = next.entry(from).or_insert(0);
            assert_eq!(number, *next, "of {from}");
            *next += 1;
            from
        };
        while take(&receiver.recv().unwrap()) != victim {}
        let until = Instant::now() + Duration::from_nanos(random.below(500_000));
        while Instant::now() < until {
            let _ = words.try_send(());
            take(&receiver.recv().unwrap());
        }
        let killed = Instant::now();
        child.kill().unwrap();
        if victim % 2 == 0 {
            // Else whoever is held up has to find out.
            child.join().unwrap_err();
        }
        // The other sender goes on.
        let mut more = 0;
        while more < 5 {
            let _ = words.try_send(());
            more += u32::from(take(&receiver.recv_timeout(SOON).unwrap()) == 0);
        }
        assert!(killed.elapsed() < SOON, "the others went on after {:?}", killed.elapsed());
        // Behind all that the victim sent.
        let marker = message(MARKER, u64::from(victim) - 1, 0);
        while sender.try_send(marker.clone()).is_err() {
            take(&receiver.recv().unwrap());
        }
        while take(&receiver.recv().unwrap()) != MARKER {}
        let noted = match progress.lock() {
            Ok(noted) => *noted,
            Err(LockError::OwnerDied(noted)) => *noted,
            Err(e) => panic!("{e}"),
        };
        let came = next[&victim];
        // Killed between the commit and the note of it: one more than noted.
        assert!(came == noted || came == noted + 1, "{noted} were sent, {came} came");
    }
    let vanished = segment.stats().vanished - before;
    assert!(vanished > 0, "no kill hit the middle of a send: the test proves less than it should");
    assert!(vanished <= u64::from(kills), "{vanished} messages vanished in {kills} deaths");
    survivor.kill().unwrap();
}

/// Notes the number of every message that it receives.
fn consumer((receiver, noted): (Receiver<Vec<u8>>, Queue<(u32, u64)>)) {
    let pid = std::process::id();
    loop {
        match receiver.recv() {
            Ok(bytes) => noted.put((pid, read(&bytes).1)).unwrap(),
            Err(RecvError::Disconnected(None)) => return,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn one_of_several_receivers_is_killed_and_every_message_is_accounted_for() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(180));
    let mut random = Random::new(31);
    let segment = Segment::family().unwrap();
    let before = segment.stats().redelivered;
    let (receiver, sender) = Connection::builder().bytes(RING).build_oneway::<Vec<u8>>().unwrap();
    let noted = Queue::new(0).unwrap();
    let survivor = || Process::spawn(consumer, (receiver.clone(), noted.clone())).unwrap();
    let survivors = [survivor(), survivor()];
    let (mut sent, mut seen) = (0u64, Vec::new());
    let mut messages = [0, 1].map(|number| message(0, number, LONGEST as u64));
    // Sends what there is room for, and notes what came: whether something came to `pid`.
    let mut exchange = |seen: &mut Vec<u64>, pid: u32| {
        let mut came = false;
        let (message, len) = (&mut messages[sent as usize % 2], 100_000 + random.below(400_000) as usize);
        message[8..16].copy_from_slice(&sent.to_le_bytes());
        sent += u64::from(sender.try_send_bytes(&message[..len]).is_ok());
        while let Ok((to, number)) = noted.try_get() {
            came |= to == pid;
            seen.push(number);
        }
        came
    };
    let mut moments = Random::new(37);
    let mut kills = 0;
    while goes_on(&mut kills, KILLS, segment.stats().redelivered > before) {
        let child = Process::spawn(consumer, (receiver.clone(), noted.clone())).unwrap();
        while !exchange(&mut seen, child.pid()) {}
        let until = Instant::now() + Duration::from_nanos(moments.below(400_000));
        while Instant::now() < until {
            exchange(&mut seen, 0);
        }
        child.kill().unwrap();
        if kills % 2 == 0 {
            child.join().unwrap_err();
        }
        // The others go on.
        let (killed, come) = (Instant::now(), seen.len() + 50);
        while seen.len() < come {
            exchange(&mut seen, 0);
            assert!(killed.elapsed() < SOON, "the others did not go on");
        }
    }
    drop(receiver);
    drop(sender);
    for survivor in survivors {
        while survivor.is_alive() {
            seen.extend(noted.try_get().map(|(_, number)| number));
        }
        survivor.join().unwrap();
    }
    seen.extend(std::iter::from_fn(|| noted.try_get().ok()).map(|(_, number)| number));
    let (came, all) = (seen.len() as u64, sent);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len() as u64, came, "something came twice");
    assert!(seen.last().is_none_or(|last| *last < all));
    // Each of the dead may have received one message that it did not come to note.
    assert!(all - came <= u64::from(kills), "{} of {all} messages are missing after {kills} deaths", all - came);
    let redelivered = segment.stats().redelivered - before;
    assert!(redelivered <= u64::from(kills));
    assert!(redelivered > 0, "no kill hit the middle of a receive: the test proves less than it should");
}

/// Has an end and does nothing with it, until it is killed.
fn holder((end, ready): (Connection<Vec<u8>, Vec<u8>>, Sender<()>)) {
    ready.send(()).unwrap();
    drop(ready);
    let (_never_sent, never) = pipe_oneway::<()>().map(|(r, s)| (s, r)).unwrap();
    let _ = never.recv();
    drop(end);
}

fn start_holder(end: Connection<Vec<u8>, Vec<u8>>) -> Process<()> {
    let (ready, when_ready) = pipe_oneway().unwrap();
    let child = Process::builder().daemon(true).spawn(holder, (end, when_ready)).unwrap();
    ready.recv().unwrap();
    child
}

#[test]
fn who_sends_into_a_full_pipe_goes_on_when_the_reader_is_killed() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(60));
    for only_tries in [false, true] {
        let (here, there) = pipe::<Vec<u8>, Vec<u8>>().unwrap();
        let child = start_holder(there);
        while here.try_send(vec![0; 1000]).is_ok() {}
        let pid = child.pid();
        let sender = std::thread::spawn(move || {
            loop {
                let sent = if only_tries { here.try_send(vec![1; 1000]) } else { here.send(vec![1; 1000]) };
                match sent {
                    Ok(()) => panic!("the pipe is full"),
                    Err(SendError::Full(_)) => {}
                    Err(e) => return (e, Instant::now()),
                }
            }
        });
        let killed = Instant::now();
        child.kill().unwrap();
        // Not joined: the sender has to find out.
        let (error, ended) = sender.join().unwrap();
        assert!(matches!(error, SendError::Disconnected(value, Some(dead)) if dead == pid && value == [1; 1000]));
        assert!(ended - killed < SOON, "it ended after {:?}", ended - killed);
    }
}

#[test]
fn who_sends_into_a_full_pipe_goes_on_when_one_of_two_readers_is_killed_and_the_other_reads() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(60));
    let (here, there) = pipe::<Vec<u8>, Vec<u8>>().unwrap();
    let child = start_holder(there.clone());
    let mut count = 0;
    while here.try_send(vec![0; 1000]).is_ok() {
        count += 1;
    }
    let sender = std::thread::spawn(move || here.send(vec![1; 1000]).map(|()| here));
    child.kill().unwrap();
    for _ in 0..count {
        assert_eq!(there.recv().unwrap(), [0; 1000]);
    }
    assert_eq!(there.recv().unwrap(), [1; 1000]);
    let here = sender.join().unwrap().unwrap();
    assert!(!here.is_closed(), "somebody else has the other end");
}

#[test]
fn who_only_tries_is_told_of_a_death_too() {
    let _alone = alone();
    let _watchdog = watchdog(Duration::from_secs(60));
    // Each call once on a pipe of its own.
    type Try = fn(&Connection<Vec<u8>, Vec<u8>>) -> bool;
    let tries: [Try; 4] = [
        |here| matches!(here.try_recv(), Err(RecvError::Disconnected(Some(_)))),
        |here| matches!(here.recv_timeout(Duration::ZERO), Err(RecvError::Disconnected(Some(_)))),
        |here| here.poll(Some(Duration::ZERO)).unwrap(),
        |here| here.is_closed(),
    ];
    for (k, finds_out) in tries.into_iter().enumerate() {
        let (here, there) = pipe().unwrap();
        let child = start_holder(there);
        assert!(!finds_out(&here), "{k}: it lives");
        let killed = Instant::now();
        child.kill().unwrap();
        while !finds_out(&here) {
            assert!(killed.elapsed() < SOON, "{k}: it was not told");
        }
    }
}
