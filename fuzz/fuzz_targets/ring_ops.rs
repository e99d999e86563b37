//! Operations on a ring, with deaths, against a model of it: nothing is lost, nothing invented, order holds, and a record
//! comes again only after a death.
#![no_main]

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use arbitrary::Arbitrary;
use kinfolk::ring::{Claim, ClaimError, Ledger, Many, Records, Ring, RingCache, TakeError, Taken};
use kinfolk_fuzz::{Memory, NO_LIMIT};
use libfuzzer_sys::fuzz_target;

/// Positions are counted modulo 2^44.
const POSITIONS: u64 = 1 << 44;
const CAPACITIES: [usize; 3] = [64, 128, 256];
const LANES: u16 = 6;

#[derive(Arbitrary, Debug)]
struct Plan {
    capacity: u8,
    start: Start,
    steps: Vec<Step>,
}

/// Where the first record lies: the counters wrap soon or late.
#[derive(Arbitrary, Debug)]
enum Start {
    Zero,
    BeforePositionsWrap(u8),
    BeforeLapsWrap(u8),
    Anywhere(u64),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Claim {
        lane: u8,
        n: u8,
        limit: Option<u8>,
    },
    Commit {
        which: u8,
    },
    Abort {
        which: u8,
    },
    Take {
        lane: u8,
        cache: bool,
    },
    Done {
        which: u8,
        eager: bool,
    },
    /// Dies between the claim and the move of `tail`.
    ClaimAndDie {
        lane: u8,
        n: u8,
    },
    /// Dies between the take and the move of `rcur`.
    TakeAndDie {
        lane: u8,
    },
    Die {
        lane: u8,
    },
    Recover,
    /// Recovers some of what the dead left and dies.
    RecoverInPart {
        most: u8,
    },
    Reclaim,
    Ask {
        n: u8,
        limit: Option<u8>,
    },
    /// Another process opens the ring.
    FreshCache,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Writing(u16),
    Ready,
    Reading(u16),
    /// Its reader was recovered.
    Given,
    Tomb,
    Done,
}

#[derive(Debug)]
struct Record {
    id: u64,
    position: u64,
    n: u32,
    state: State,
}

impl Record {
    fn is_open(&self) -> bool {
        !matches!(self.state, State::Tomb | State::Done)
    }

    fn is_untaken(&self) -> bool {
        matches!(self.state, State::Writing(_) | State::Ready)
    }
}

/// The ring, and what it should be.
struct Test<'a> {
    memory: &'a Memory,
    ring: Ring<'a>,
    caches: [RingCache; 2],
    /// One number for each granule: which record's it is.
    data: Vec<u64>,
    records: VecDeque<Record>,
    ids: u64,
    tail_lags: bool,
    dead: [bool; LANES as usize + 1],
    claims: Vec<(u16, u64, Claim)>,
    takes: Vec<(u16, u64, Taken)>,
}

fn since(later: u64, earlier: u64) -> u64 {
    later.wrapping_sub(earlier) % POSITIONS
}

impl Test<'_> {
    fn lane(&self, lane: u8) -> Option<u16> {
        let lane = 1 + u16::from(lane) % LANES;
        (!self.dead[lane as usize]).then_some(lane)
    }

    /// Granules from the oldest record that is not finished to the end of the last.
    fn used(&self) -> u64 {
        let tail = self.memory.position("tail");
        self.records.iter().find(|r| r.is_open()).map_or(0, |r| since(tail, r.position))
    }

    /// Records from the first that is not taken on: those given up between them count until they are passed.
    fn untaken(&self) -> usize {
        self.records.iter().skip_while(|r| !r.is_untaken()).count()
    }

    /// Whether a claim should find room.
    fn has_room(&self, n: u32, limit: u32) -> bool {
        let capacity = self.ring.capacity() as u64;
        let rest = capacity - self.ring.index(self.memory.position("tail")) as u64;
        let need = if u64::from(n) > rest { rest + u64::from(n) } else { u64::from(n) };
        self.used() + need <= capacity && (limit as usize >= capacity as usize || self.untaken() < limit as usize)
    }

    fn claim(&mut self, lane: u16, n: u8, limit: Option<u8>) -> Option<Claim> {
        let n = 1 + u32::from(n) % (self.ring.capacity() as u32 / 2);
        let limit = limit.map_or(NO_LIMIT, u32::from);
        self.finish_tail();
        let (expected, before) = (self.has_room(n, limit), self.memory.position("tail"));
        match self.ring.claim(&self.caches[0], lane, n, limit) {
            Ok(claim) => {
                assert!(expected, "claimed {claim:?} beyond what there is");
                assert_eq!(claim.n, n);
                let skipped = since(claim.position, before);
                assert!(
                    skipped == 0 || u64::from(n) > skipped && self.ring.index(claim.position) == 0,
                    "{skipped} skipped"
                );
                self.ids += 1;
                let index = self.ring.index(claim.position);
                self.data[index..index + n as usize].fill(self.ids);
                self.records.push_back(Record {
                    id: self.ids,
                    position: claim.position,
                    n,
                    state: State::Writing(lane),
                });
                self.claims.push((lane, self.ids, claim));
                Some(claim)
            }
            Err(ClaimError::Full) => {
                assert!(!expected, "full, though {n} granules should fit: {:?}", self.records);
                None
            }
            Err(e) => panic!("{e}"),
        }
    }

    /// Moves `tail` over a record whose producer died before it did, as every claim does first.
    fn finish_tail(&mut self) {
        if std::mem::take(&mut self.tail_lags) {
            // A claim that cannot succeed: half the ring, under a limit of no record.
            let n = self.ring.capacity() as u32 / 2;
            assert_eq!(self.ring.claim(&self.caches[0], 1, n, 0), Err(ClaimError::Full));
        }
    }

    fn record(&mut self, id: u64) -> &mut Record {
        self.records.iter_mut().find(|r| r.id == id).expect("a record that somebody holds")
    }

    /// The record that a take should give: its place in the list, and whether somebody had it before.
    fn next(&self) -> Option<(usize, bool)> {
        if let Some(k) = self.records.iter().position(|r| r.state == State::Given) {
            return Some((k, true));
        }
        let k = self.records.iter().position(Record::is_untaken)?;
        (self.records[k].state == State::Ready).then_some((k, false))
    }

    fn take(&mut self, lane: u16, cache: usize) -> Option<Taken> {
        let expected = self.next();
        assert_eq!(self.ring.has_item(), expected.is_some(), "{:?}", self.records);
        let ready = self.ring.has_ready(&self.caches[cache]);
        match self.ring.take(&self.caches[cache], lane) {
            Ok(taken) => {
                let (k, again) = expected.expect("nothing was to be taken");
                assert!(ready, "has_ready said there was nothing");
                let record = &mut self.records[k];
                assert_eq!((taken.position, taken.n, taken.redelivered), (record.position, record.n, again));
                let index = self.ring.index(taken.position);
                let whole = self.data[index..index + taken.n as usize].iter().all(|id| *id == record.id);
                assert!(whole, "somebody else wrote into record {}", record.id);
                record.state = State::Reading(lane);
                self.takes.push((lane, record.id, taken));
                Some(taken)
            }
            Err(TakeError::Empty) => {
                assert_eq!(expected, None, "empty, in spite of {:?}", self.records);
                let writer = self.records.iter().find(|r| r.is_untaken()).map(|r| match r.state {
                    State::Writing(lane) => lane,
                    _ => unreachable!("a ready one is expected"),
                });
                assert_eq!(self.ring.pending(), writer);
                None
            }
            Err(e) => panic!("{e}"),
        }
    }

    fn die(&mut self, lane: u16) {
        self.dead[lane as usize] = true;
        self.claims.retain(|(owner, ..)| *owner != lane);
        self.takes.retain(|(owner, ..)| *owner != lane);
    }

    fn recover(&mut self) {
        let dead = self.dead;
        let is_dead = |lane: u16| dead[lane as usize % dead.len()];
        let mut expected = Ledger::default();
        for record in &mut self.records {
            match record.state {
                State::Writing(lane) if is_dead(lane) => {
                    record.state = State::Tomb;
                    expected.vanished += 1;
                }
                State::Reading(lane) if is_dead(lane) => {
                    record.state = State::Given;
                    expected.redelivered += 1;
                }
                _ => {}
            }
        }
        assert_eq!(self.ring.count(&is_dead), Ok(expected));
        assert_eq!(self.ring.recover(&is_dead), Ok(expected));
        assert_eq!(self.ring.count(&is_dead), Ok(Ledger::default()));
        // Their lanes go to others.
        self.dead = Default::default();
    }

    /// As a recoverer that is killed after it has dealt with so many words of the dead.
    fn recover_in_part(&mut self, most: u8) {
        let (dead, asked) = (self.dead, std::cell::Cell::new(0));
        let some = |lane: u16| {
            let is_dead = dead[lane as usize % dead.len()];
            asked.set(asked.get() + u8::from(is_dead));
            is_dead && asked.get() <= most
        };
        let ledger = self.ring.recover(&some).unwrap();
        let (mut vanished, mut redelivered) = (ledger.vanished, ledger.redelivered);
        // In the order of the records, as recovery walks.
        for record in &mut self.records {
            match record.state {
                State::Writing(lane) if dead[lane as usize] && vanished > 0 => {
                    record.state = State::Tomb;
                    vanished -= 1;
                }
                State::Reading(lane) if dead[lane as usize] && redelivered > 0 => {
                    record.state = State::Given;
                    redelivered -= 1;
                }
                _ => {}
            }
        }
        assert_eq!((vanished, redelivered), (0, 0), "recovered what nobody had");
    }

    fn ask(&mut self, n: u8, limit: Option<u8>) {
        let n = 1 + u32::from(n) % (self.ring.capacity() as u32 / 2);
        let limit = limit.map_or(NO_LIMIT, u32::from);
        self.finish_tail();
        assert_eq!(self.ring.has_room(n, limit), self.has_room(n, limit), "{:?}", self.records);
        // `has_room` has moved the cursors, so these are exact.
        assert_eq!(self.ring.len(), self.untaken());
        let mut live = Vec::new();
        self.ring.for_each_live(&mut |position, n| live.push((position, n))).unwrap();
        let expected = self.records.iter().filter(|r| r.is_open() && !matches!(r.state, State::Writing(_)));
        assert!(expected.map(|r| (r.position, r.n)).eq(live), "for_each_live");
        let oldest = self.records.iter().find(|r| r.is_open()).map(|r| r.state);
        let untaken = self.records.iter().find(|r| r.is_untaken()).map(|r| r.state);
        let blocker = match (oldest, untaken) {
            (Some(State::Writing(lane) | State::Reading(lane)), _) | (_, Some(State::Writing(lane))) => Some(lane),
            _ => None,
        };
        assert_eq!(self.ring.blocker(), blocker);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Claim { lane, n, limit } => {
                if let Some(lane) = self.lane(lane) {
                    self.claim(lane, n, limit);
                }
            }
            Step::Commit { which } | Step::Abort { which } if !self.claims.is_empty() => {
                let (lane, id, claim) = self.claims.swap_remove(which as usize % self.claims.len());
                let commit = matches!(step, Step::Commit { .. });
                self.record(id).state = if commit { State::Ready } else { State::Tomb };
                if commit { self.ring.commit(claim, lane) } else { self.ring.abort(claim) }
            }
            Step::Take { lane, cache } => {
                if let Some(lane) = self.lane(lane) {
                    self.take(lane, cache.into());
                }
            }
            Step::Done { which, eager } if !self.takes.is_empty() => {
                let (_, id, taken) = self.takes.swap_remove(which as usize % self.takes.len());
                self.record(id).state = State::Done;
                self.ring.done(taken, eager).unwrap();
            }
            Step::ClaimAndDie { lane, n } => {
                let Some(lane) = self.lane(lane) else { return };
                self.finish_tail();
                let tail = self.memory.control("tail").load(Relaxed);
                let position = self.memory.position("tail");
                let claim = self.claim(lane, n, None);
                if claim.is_some_and(|claim| claim.position == position) {
                    self.memory.control("tail").store(tail, Relaxed);
                    self.tail_lags = true;
                }
                self.die(lane);
            }
            Step::TakeAndDie { lane } => {
                let Some(lane) = self.lane(lane) else { return };
                let rcur = self.memory.control("rcur").load(Relaxed);
                let position = self.memory.position("rcur");
                let taken = self.take(lane, 1);
                if taken.is_some_and(|taken| taken.position == position && !taken.redelivered) {
                    self.memory.control("rcur").store(rcur, Relaxed);
                }
                self.die(lane);
            }
            Step::Die { lane } => {
                if let Some(lane) = self.lane(lane) {
                    self.die(lane);
                }
            }
            Step::Recover => self.recover(),
            Step::RecoverInPart { most } => self.recover_in_part(most),
            Step::Reclaim => drop(self.ring.reclaim().unwrap()),
            Step::Ask { n, limit } => self.ask(n, limit),
            Step::FreshCache => self.caches.swap(0, 1),
            Step::Commit { .. } | Step::Abort { .. } | Step::Done { .. } => {}
        }
        if let Step::FreshCache = step {
            self.caches[1] = self.ring.cache();
        }
        while self.records.front().is_some_and(|r| !r.is_open()) {
            self.records.pop_front();
        }
    }

    /// Everything that is still there comes out, and then the ring is empty.
    fn drain(&mut self) {
        (1..=LANES).for_each(|lane| self.die(lane));
        self.recover();
        while let Some(taken) = self.take(1, 1) {
            let (_, id, _) = self.takes.pop().expect("just taken");
            self.record(id).state = State::Done;
            self.ring.done(taken, true).unwrap();
        }
        assert!(self.records.iter().all(|r| !r.is_open()), "left: {:?}", self.records);
        assert!(self.ring.has_room(self.ring.capacity() as u32 / 2, 1) && self.ring.is_empty());
        let cursors = ["tail", "rcur", "head"].map(|name| self.memory.position(name));
        assert!(cursors[0] == cursors[1] && cursors[1] == cursors[2], "{cursors:?}");
    }
}

fuzz_target!(|plan: Plan| {
    let capacity = CAPACITIES[plan.capacity as usize % CAPACITIES.len()];
    let position = match plan.start {
        Start::Zero => 0,
        Start::BeforePositionsWrap(laps) => POSITIONS - capacity as u64 * (1 + u64::from(laps % 4)),
        Start::BeforeLapsWrap(laps) => (capacity as u64) * ((1 << 31) - 1 - u64::from(laps % 4)),
        Start::Anywhere(position) => position % POSITIONS,
    };
    let memory = Memory::new::<Many, Many, Records>(capacity, position);
    let ring: Ring<'_> = memory.ring();
    let mut test = Test {
        memory: &memory,
        ring,
        caches: [ring.cache(), ring.cache()],
        data: vec![0; capacity],
        records: VecDeque::new(),
        ids: 0,
        tail_lags: false,
        dead: Default::default(),
        claims: Vec::new(),
        takes: Vec::new(),
    };
    for step in &plan.steps {
        test.step(step);
    }
    test.drain();
});
