//! The one-to-one rings: operations with deaths against a model; and the same with words that somebody else wrote, where
//! only that every call ends, with an error or an answer inside the ring, is of interest.
#![no_main]

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arbitrary::Arbitrary;
use kinfolk::ring::bytes::{RecordBlock, Records};
use kinfolk::ring::spsc::{Look, SlotBlock, Slots};
use libfuzzer_sys::fuzz_target;

const PRODUCER: u16 = 1;
const CONSUMER: u16 = 2;

#[derive(Arbitrary, Debug)]
struct Plan {
    records: bool,
    capacity: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Step {
    /// Writes a message; of records, commits it only if asked to.
    Push {
        len: u8,
        commits: bool,
    },
    /// Reserves or fills a place and gives it up.
    GiveUp {
        len: u8,
    },
    Commit,
    Pop {
        acknowledges: bool,
    },
    Acknowledge,
    Open,
    Close,
    OfferRoom,
    Ask,
    ProducerDies,
    ConsumerDies,
    /// Writes a word of the ring.
    Spoil {
        word: u8,
        value: u64,
    },
}

/// A ring of slots of two words, and what it should be.
fn slots(plan: &Plan) {
    const STRIDE: usize = 2;
    let capacity = 2usize << (plan.capacity % 5);
    let control = Box::new(SlotBlock::new());
    let words: Vec<AtomicU64> = (0..capacity * STRIDE).map(|_| AtomicU64::new(0)).collect();
    let ring = Slots::new(&control, &words, capacity).expect("a ring of slots");
    ring.producer().take(PRODUCER).expect("a free seat");
    ring.consumer().take(CONSUMER).expect("a free seat");
    let (mut writer, mut reader) = (ring.writer().expect("a whole ring"), ring.reader());
    let mut waiting = VecDeque::new();
    let (mut number, mut spoiled, mut is_open) = (0u64, false, false);
    for step in &plan.steps {
        match *step {
            Step::Push { .. } | Step::GiveUp { .. } => {
                let room = match writer.room() {
                    0 => ring.look_for_room(&mut writer, Look::Exact),
                    room => Ok(room),
                };
                match room {
                    Ok(0) if !spoiled => assert_eq!(waiting.len(), capacity, "full before it is"),
                    Ok(0) => {}
                    Ok(_) => {
                        assert!(spoiled || waiting.len() < capacity, "room where there is none");
                        number += 1;
                        words[ring.index(writer.position()) * STRIDE + 1].store(number, Relaxed);
                        if matches!(step, Step::Push { .. }) {
                            ring.commit(&mut writer);
                            waiting.push_back(number);
                        }
                    }
                    Err(e) => assert!(spoiled, "{e}"),
                }
            }
            Step::Pop { .. } => match ring.is_ready(&reader) {
                Ok(true) => {
                    let found = words[ring.index(reader.position()) * STRIDE + 1].load(Relaxed);
                    assert!(spoiled || waiting.front() == Some(&found), "{found} comes before {:?}", waiting.front());
                    assert!(spoiled || reader.is_redelivered() == is_open);
                    ring.release(&mut reader, 1);
                    waiting.pop_front();
                    is_open = false;
                }
                Ok(false) => assert!(spoiled || waiting.is_empty(), "{} are hidden", waiting.len()),
                Err(e) => assert!(spoiled, "{e}"),
            },
            // A mark outlives its maker only with a message that is there.
            Step::Open if waiting.is_empty() || reader.is_redelivered() => {}
            Step::Open => {
                ring.open(&reader);
                // Dies with it in hand.
                ring.recover(&|lane| lane == CONSUMER);
                let _ = ring.consumer().take(CONSUMER);
                reader = ring.reader();
                is_open = true;
            }
            Step::Close => {
                ring.open(&reader);
                ring.close(&reader);
            }
            Step::OfferRoom => drop(ring.offer_room(&mut reader)),
            Step::Ask => {
                let len = ring.len();
                assert!(len <= ring.capacity());
                assert!(spoiled || len == waiting.len() as u64);
                let behind = ring.is_ready_behind(&reader, waiting.len() as u64);
                assert!(spoiled || behind == Ok(false));
                assert!(spoiled || ring.count(&|lane| lane == CONSUMER) == u32::from(is_open));
            }
            Step::ProducerDies => {
                ring.recover(&|lane| lane == PRODUCER);
                assert!(spoiled || ring.producer().holder() == 0);
                let _ = ring.producer().take(PRODUCER);
                match ring.writer() {
                    Ok(successor) => writer = successor,
                    Err(e) => assert!(spoiled, "{e}"),
                }
            }
            Step::ConsumerDies => {
                ring.recover(&|lane| lane == CONSUMER);
                let _ = ring.consumer().take(CONSUMER);
                reader = ring.reader();
            }
            Step::Spoil { word, value } => {
                words[usize::from(word) % words.len()].store(value, Relaxed);
                spoiled = true;
            }
            Step::Commit | Step::Acknowledge => {}
        }
    }
}

/// A ring of records, and what it should be.
fn records(plan: &Plan) {
    let bytes = 64usize << (plan.capacity % 5);
    let control = Box::new(RecordBlock::new());
    let words: Vec<AtomicU64> = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
    let ring = Records::new(&control, &words).expect("a ring of records");
    ring.producer().take(PRODUCER).expect("a free seat");
    ring.consumer().take(CONSUMER).expect("a free seat");
    let (mut writer, mut reader) = (ring.writer().expect("a whole ring"), ring.reader().expect("a whole ring"));
    // Committed and not acknowledged; written and not committed; how many of the first were read.
    let (mut waiting, mut written, mut read) = (VecDeque::new(), Vec::new(), 0);
    let (mut number, mut spoiled) = (0u64, false);
    for step in &plan.steps {
        match *step {
            Step::Push { len, .. } | Step::GiveUp { len } => {
                let len = usize::from(len) % (ring.longest() + 1);
                match ring.reserve(&mut writer, len, Look::Exact) {
                    Ok(Some(reserved)) => {
                        let at = ring.room_at(reserved);
                        assert!(reserved.len() == len && at + len <= bytes, "{len} bytes at {at} of {bytes}");
                        if !matches!(step, Step::Push { .. }) {
                            ring.abort(&writer);
                            continue;
                        }
                        number += 1;
                        if len >= 8 {
                            words[at / 8].store(number, Relaxed);
                        }
                        ring.write(&mut writer, reserved);
                        written.push((number, len));
                        if matches!(step, Step::Push { commits: true, .. }) {
                            ring.commit(&mut writer);
                            waiting.extend(written.drain(..));
                        }
                    }
                    Ok(None) => {
                        assert!(
                            spoiled || !waiting.is_empty() || !written.is_empty(),
                            "an empty ring has no room for {len}"
                        )
                    }
                    Err(e) => assert!(spoiled, "{e}"),
                }
            }
            Step::Commit => {
                ring.commit(&mut writer);
                waiting.extend(written.drain(..));
            }
            Step::Pop { acknowledges } => match ring.peek(&mut reader) {
                Ok(Some(record)) => {
                    let at = ring.record_at(record);
                    assert!(at + record.len() <= bytes, "{} bytes at {at} of {bytes}", record.len());
                    if !spoiled {
                        let (number, len) = waiting[read];
                        assert_eq!(record.len(), len);
                        assert!(len < 8 || words[at / 8].load(Relaxed) == number, "another record than {number}");
                    }
                    ring.step(&mut reader, record);
                    read += 1;
                    if acknowledges {
                        ring.acknowledge(&mut reader);
                        waiting.drain(..read.min(waiting.len()));
                        read = 0;
                    }
                }
                Ok(None) => assert!(spoiled || read == waiting.len(), "{} are hidden", waiting.len() - read),
                Err(e) => assert!(spoiled, "{e}"),
            },
            Step::Acknowledge => {
                ring.acknowledge(&mut reader);
                waiting.drain(..read.min(waiting.len()));
                read = 0;
            }
            Step::Open | Step::Close | Step::OfferRoom if read > 0 => {}
            Step::Open => ring.open(&reader),
            Step::Close => ring.close(&reader),
            Step::OfferRoom => drop(ring.offer_room(&mut reader)),
            Step::Ask => {
                assert!(spoiled || ring.len() <= ring.capacity());
                assert!(spoiled || ring.is_empty() == waiting.is_empty());
                let _ = ring.count(&|lane| lane == CONSUMER);
            }
            Step::ProducerDies => {
                let (vanished, _) = ring.count(&|lane| lane == PRODUCER);
                assert!(spoiled || vanished > 0 || written.is_empty(), "{} died uncounted", written.len());
                ring.recover(&|lane| lane == PRODUCER);
                let _ = ring.producer().take(PRODUCER);
                written.clear();
                match ring.writer() {
                    Ok(successor) => writer = successor,
                    Err(e) => assert!(spoiled, "{e}"),
                }
            }
            Step::ConsumerDies => {
                ring.recover(&|lane| lane == CONSUMER);
                let _ = ring.consumer().take(CONSUMER);
                read = 0;
                match ring.reader() {
                    Ok(successor) => reader = successor,
                    Err(e) => assert!(spoiled, "{e}"),
                }
            }
            Step::Spoil { word, value } => {
                words[usize::from(word) % words.len()].store(value, Relaxed);
                spoiled = true;
            }
        }
    }
}

fuzz_target!(|plan: Plan| if plan.records { records(&plan) } else { slots(&plan) });
