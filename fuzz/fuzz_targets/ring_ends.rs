//! Operations on rings that one lane writes and one reads, with deaths and successors, against a model: the specialisations
//! for one producer or one consumer, and the general ring in the same use.
#![no_main]

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use arbitrary::Arbitrary;
use kinfolk::ring::{
    Claim, ClaimError, Form, Ledger, Many, One, Records, Ring, RingCache, Side, Slots, TakeError, Taken,
};
use kinfolk_fuzz::{Memory, NO_LIMIT};
use libfuzzer_sys::fuzz_target;

const POSITIONS: u64 = 1 << 44;
const CAPACITY: usize = 64;

#[derive(Arbitrary, Debug)]
struct Plan {
    made_for: u8,
    /// Laps before the positions wrap, if any.
    before_wrap: Option<u8>,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Claim {
        n: u8,
    },
    Commit,
    Abort,
    Take,
    Done {
        eager: bool,
    },
    ProducerDies,
    /// Dies between the commit and the move of `tail`.
    CommitAndDie,
    ConsumerDies,
    Recover,
    ProducerLeaves,
    ConsumerLeaves,
}

#[derive(Debug)]
struct Record {
    id: u64,
    position: u64,
    n: u32,
    /// Given up, or its producer died: the general ring keeps its place.
    tomb: bool,
    /// Somebody had it before.
    before: bool,
}

struct Test<'a, P: Side, C: Side, F: Form> {
    memory: &'a Memory,
    ring: Ring<'a, P, C, F>,
    caches: [RingCache; 2],
    data: [u64; CAPACITY],
    records: VecDeque<Record>,
    ids: u64,
    /// The lanes of the two ends, and whether they are dead.
    lanes: [u16; 2],
    dead: [bool; 2],
    claim: Option<(u64, Claim)>,
    /// The oldest records, in their order.
    open: VecDeque<Taken>,
}

fn since(later: u64, earlier: u64) -> u64 {
    later.wrapping_sub(earlier) % POSITIONS
}

impl<P: Side, C: Side, F: Form> Test<'_, P, C, F> {
    /// The longest record.
    const LONGEST: u32 = if F::SLOTS { 1 } else { CAPACITY as u32 / 2 };

    fn enter_producer(&mut self) {
        if !P::MANY {
            self.ring.enter_producer(self.lanes[0]).expect("the role is free");
        }
    }

    fn enter_consumer(&mut self) {
        self.caches[1] = self.ring.cache();
        if !C::MANY {
            self.ring.enter_consumer(&self.caches[1], self.lanes[1]).expect("the role is free");
        }
    }

    fn claim(&mut self, n: u8) {
        let n = 1 + u32::from(n) % Self::LONGEST;
        match self.ring.claim(&self.caches[0], self.lanes[0], n, NO_LIMIT) {
            Ok(claim) => {
                assert_eq!(claim.n, n);
                let oldest = self.records.iter().find(|r| !r.tomb).map_or(claim.position, |r| r.position);
                assert!(since(claim.position, oldest) + u64::from(n) <= CAPACITY as u64, "over what is not done");
                self.ids += 1;
                let index = self.ring.index(claim.position);
                self.data[index..index + n as usize].fill(self.ids);
                self.claim = Some((self.ids, claim));
            }
            Err(ClaimError::Full) => {
                assert!(!self.records.is_empty() || self.memory.position("tail") != self.memory.position("head"));
            }
            Err(e) => panic!("{e}"),
        }
    }

    fn push(&mut self, id: u64, claim: Claim, tomb: bool) {
        self.records.push_back(Record { id, position: claim.position, n: claim.n, tomb, before: false });
    }

    fn give_up(&mut self) -> bool {
        let Some((id, claim)) = self.claim.take() else { return false };
        // A producer that is alone leaves nothing behind.
        if P::MANY {
            self.push(id, claim, true);
        }
        true
    }

    fn take(&mut self) -> Option<Taken> {
        if C::MANY || self.open.is_empty() {
            // What was given up is stepped over; it is looked at by nobody then.
            while self.records.get(self.open.len()).is_some_and(|r| r.tomb) {
                self.records.remove(self.open.len());
            }
        }
        let next = self.records.get(self.open.len());
        let ready = self.ring.has_ready(&self.caches[1]);
        match self.ring.take(&self.caches[1], self.lanes[1]) {
            Ok(taken) => {
                assert!(ready, "has_ready said there was nothing");
                let record = next.expect("nothing was to be taken");
                assert!(!record.tomb, "taken what was given up");
                assert_eq!((taken.position, taken.n, taken.redelivered), (record.position, record.n, record.before));
                let index = self.ring.index(taken.position);
                let whole = self.data[index..index + taken.n as usize].iter().all(|id| *id == record.id);
                assert!(whole, "somebody else wrote into record {}", record.id);
                self.open.push_back(taken);
                Some(taken)
            }
            Err(TakeError::Empty) => {
                // One consumer steps over nothing while something is open.
                let behind = self.open.back().map(|t| (t.position + u64::from(t.n)) % POSITIONS);
                let gap = |r: &Record| !C::MANY && behind.is_some_and(|end| r.tomb || end != r.position);
                assert!(next.is_none_or(gap), "empty, in spite of {next:?}");
                None
            }
            Err(e) => panic!("{e}"),
        }
    }

    fn done(&mut self, eager: bool) {
        if let Some(taken) = self.open.pop_front() {
            self.records.pop_front();
            self.ring.done(taken, eager).unwrap();
        }
    }

    /// What is open comes again. How many records that is, as the ring counts them: what one consumer left open is open
    /// until it is done, also while its successor has not come to it.
    fn close(&mut self) -> u32 {
        let open = self.open.len();
        self.open.clear();
        self.records.iter_mut().take(open).for_each(|r| r.before = true);
        if C::MANY { open as u32 } else { self.records.iter().filter(|r| r.before).count() as u32 }
    }

    fn recover(&mut self) {
        let (lanes, dead) = (self.lanes, self.dead);
        let is_dead = |lane: u16| (0..2).any(|k| dead[k] && lanes[k] == lane);
        let mut expected = Ledger::default();
        if dead[0] {
            expected.vanished = self.give_up().into();
        }
        if dead[1] {
            expected.redelivered = self.close();
        }
        assert_eq!(self.ring.count(&is_dead), Ok(expected));
        assert_eq!(self.ring.recover(&is_dead), Ok(expected));
        assert_eq!(self.ring.count(&is_dead), Ok(Ledger::default()));
        self.dead = [false; 2];
        // Lanes 1 and 3 produce, 2 and 4 consume.
        for k in (0..2).filter(|k| dead[*k]) {
            self.lanes[k] ^= if k == 0 { 2 } else { 6 };
            if k == 0 { self.enter_producer() } else { self.enter_consumer() }
        }
    }

    fn step(&mut self, step: &Step) {
        let [writes, reads] = self.dead.map(|dead| !dead);
        match *step {
            Step::Claim { n } if writes && self.claim.is_none() => self.claim(n),
            Step::Commit | Step::CommitAndDie if writes && self.claim.is_some() => {
                let (id, claim) = self.claim.take().expect("just seen");
                let tail = self.memory.control("tail").load(Relaxed);
                self.ring.commit(claim, self.lanes[0]);
                self.push(id, claim, false);
                if matches!(step, Step::CommitAndDie) {
                    // With many producers, `tail` was moved by the claim, and there is nothing to go back to.
                    self.memory.control("tail").store(tail, Relaxed);
                    self.dead[0] = true;
                }
            }
            Step::Abort if writes => {
                if let Some((_, claim)) = self.claim {
                    self.give_up();
                    self.ring.abort(claim);
                }
            }
            Step::Take if reads => drop(self.take().is_some()),
            Step::Done { eager } if reads => self.done(eager),
            Step::ProducerDies => self.dead[0] = true,
            Step::ConsumerDies => self.dead[1] = true,
            Step::Recover => self.recover(),
            Step::ProducerLeaves if writes && !P::MANY => {
                self.ring.leave_producer(self.lanes[0]);
                self.give_up();
                self.enter_producer();
            }
            Step::ConsumerLeaves if reads && !C::MANY => {
                self.ring.leave_consumer(self.lanes[1]);
                self.close();
                self.enter_consumer();
            }
            _ => {}
        }
    }

    /// Everything that is still there comes out, and then there is room for the longest record.
    fn drain(&mut self) {
        self.dead = [true; 2];
        self.recover();
        while self.take().is_some() {
            self.done(true);
        }
        assert!(self.records.is_empty(), "left: {:?}", self.records);
        let claim = self.ring.claim(&self.caches[0], self.lanes[0], Self::LONGEST, 1).expect("an empty ring");
        self.ring.commit(claim, self.lanes[0]);
        assert_eq!(self.ring.take(&self.caches[1], self.lanes[1]).map(|taken| taken.position), Ok(claim.position));
    }
}

fn run<P: Side, C: Side, F: Form>(plan: &Plan) {
    let position = plan.before_wrap.map_or(0, |laps| POSITIONS - CAPACITY as u64 * (1 + u64::from(laps % 4)));
    let memory = Memory::new::<P, C, F>(CAPACITY, position);
    let ring: Ring<'_, P, C, F> = memory.ring();
    let mut test = Test {
        memory: &memory,
        ring,
        caches: [ring.cache(), ring.cache()],
        data: [0; CAPACITY],
        records: VecDeque::new(),
        ids: 0,
        lanes: [1, 2],
        dead: [false; 2],
        claim: None,
        open: VecDeque::new(),
    };
    test.enter_producer();
    test.enter_consumer();
    for step in &plan.steps {
        test.step(step);
    }
    test.drain();
}

fuzz_target!(|plan: Plan| match plan.made_for % 8 {
    0 => run::<Many, Many, Records>(&plan),
    1 => run::<One, Many, Records>(&plan),
    2 => run::<Many, One, Records>(&plan),
    3 => run::<One, One, Records>(&plan),
    4 => run::<Many, Many, Slots>(&plan),
    5 => run::<One, Many, Slots>(&plan),
    6 => run::<Many, One, Slots>(&plan),
    _ => run::<One, One, Slots>(&plan),
});
