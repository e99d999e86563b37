//! Arbitrary bytes as a ring, changing while it is used: every operation ends, with an error or an answer inside the ring.
#![no_main]

use std::sync::atomic::Ordering::Relaxed;

use arbitrary::Arbitrary;
use kinfolk::ring::{ClaimError, Form, Many, One, Records, Ring, RingCache, Side, Slots, TakeError};
use kinfolk_fuzz::{Memory, NO_LIMIT};
use libfuzzer_sys::fuzz_target;

const CAPACITY: usize = 64;

#[derive(Arbitrary, Debug)]
struct Plan {
    made_for: u8,
    cursors: [Place; 4],
    words: Vec<(u8, Word)>,
    steps: Vec<Step>,
}

/// A cursor: anything, or one near others.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Place {
    Any(u64),
    Near { position: u8, items: u8 },
}

/// A word of an array: anything, or one that looks right.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Word {
    Any(u64),
    Likely { lap: u8, state: u8, lane: u8, n: u8 },
}

#[derive(Arbitrary, Debug)]
enum Step {
    Claim { n: u8, limit: Option<u8> },
    Commit,
    Abort,
    Take { fresh: bool },
    Done { eager: bool },
    Reclaim,
    Ask { n: u8, limit: Option<u8> },
    Recover { dead: u8 },
    Live,
    Enter,
    Leave,
    Word(u8, Word),
    Control(u8, Place),
}

impl Place {
    fn bits(self) -> u64 {
        match self {
            Self::Any(bits) => bits,
            Self::Near { position, items } => u64::from(items) << 44 | u64::from(position),
        }
    }
}

impl Word {
    fn bits(self) -> u64 {
        match self {
            Self::Any(bits) => bits,
            Self::Likely { lap, state, lane, n } => {
                u64::from(lap % 6) << 33 | u64::from(state % 8) << 30 | u64::from(lane % 8) << 20 | u64::from(n % 66)
            }
        }
    }
}

fn inside<P: Side, C: Side, F: Form>(ring: &Ring<'_, P, C, F>, position: u64, n: u32) {
    assert!(n >= 1 && ring.index(position) + n as usize <= CAPACITY, "{n} granules at {position} are not in the ring");
}

fn run<P: Side, C: Side, F: Form>(plan: &Plan) {
    let memory = Memory::new::<P, C, F>(CAPACITY, 0);
    for (k, place) in plan.cursors.iter().enumerate() {
        memory.control(["tail", "rcur", "head", "reserved"][k]).store(place.bits(), Relaxed);
    }
    for (k, word) in &plan.words {
        memory.word(usize::from(*k)).store(word.bits(), Relaxed);
    }
    let ring: Ring<'_, P, C, F> = memory.ring();
    let mut cache = ring.cache();
    let enter = |cache: &RingCache| {
        let _ = (ring.enter_producer(3), ring.enter_consumer(cache, 4));
    };
    enter(&cache);
    let (mut claims, mut takes) = (Vec::new(), Vec::new());
    // An operation on a damaged ring may take some 65536 rounds.
    for step in plan.steps.iter().take(64) {
        let limit_of = |limit: Option<u8>| limit.map_or(NO_LIMIT, u32::from);
        match *step {
            Step::Claim { n, limit } => match ring.claim(&cache, 3, n.into(), limit_of(limit)) {
                Ok(claim) => {
                    assert_eq!(claim.n, if F::SLOTS { 1 } else { n.into() });
                    inside(&ring, claim.position, claim.n);
                    claims.push(claim);
                }
                Err(ClaimError::TooLarge) => assert!(n == 0 || usize::from(n) > CAPACITY / 2),
                Err(ClaimError::Full | ClaimError::Corrupt(_)) => {}
            },
            Step::Commit => claims.pop().into_iter().for_each(|claim| ring.commit(claim, 3)),
            Step::Abort => claims.pop().into_iter().for_each(|claim| ring.abort(claim)),
            Step::Take { fresh } => {
                if fresh {
                    cache = ring.cache();
                }
                match ring.take(&cache, 4) {
                    Ok(taken) => {
                        inside(&ring, taken.position, taken.n);
                        takes.push(taken);
                    }
                    Err(TakeError::Empty | TakeError::Corrupt(_)) => {}
                }
            }
            Step::Done { eager } => takes.pop().into_iter().for_each(|taken| {
                let _ = ring.done(taken, eager);
            }),
            Step::Reclaim => {
                let _ = ring.reclaim();
            }
            Step::Ask { n, limit } => {
                assert!(ring.len() <= CAPACITY);
                assert_eq!(ring.is_empty(), ring.len() == 0);
                let _ = (ring.has_room(n.into(), limit_of(limit)), ring.has_item(), ring.has_ready(&cache));
                let _ = (ring.pending(), ring.blocker(), ring.counts());
            }
            Step::Recover { dead } => {
                let is_dead = |lane: u16| dead >> (lane % 8) & 1 == 1;
                let _ = (ring.count(&is_dead), ring.recover(&is_dead));
            }
            Step::Live => {
                let _ = ring.for_each_live(&mut |position, n| inside(&ring, position, n));
            }
            Step::Enter => enter(&cache),
            Step::Leave => {
                ring.leave_producer(3);
                ring.leave_consumer(4);
            }
            Step::Word(k, word) => memory.word(k.into()).store(word.bits(), Relaxed),
            Step::Control(k, place) => memory.control_word(k.into()).store(place.bits(), Relaxed),
        }
    }
}

fuzz_target!(|plan: Plan| match plan.made_for % 5 {
    0 => run::<Many, Many, Records>(&plan),
    1 => run::<One, Many, Records>(&plan),
    2 => run::<Many, One, Records>(&plan),
    3 => run::<One, One, Records>(&plan),
    _ => run::<One, One, Slots>(&plan),
});
