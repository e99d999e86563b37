//! The barrier: a number of parties meet, and go on together.
//!
//! # The word
//! `generation:20 | endings:16 | state:2 | lane:10 | arrived:16`. A meeting (one generation) is OPEN while parties arrive;
//! the last one may have something to do first (ACTING, with its lane); or it is BROKEN, until somebody resets it. Each end
//! of a meeting is one CAS to the next generation, which also shifts into `endings` whether the meeting was passed (0)
//! or not (1). So somebody who looks late learns how its own meeting ended, and not how a later one did.
//!
//! | killed | left behind | outcome |
//! |---|---|---|
//! | anywhere in a meeting | one CAS is done or not | the handle sees the death of a user, and breaks the barrier |
//! | as the last party, while acting | ACTING(lane) | recovery breaks the barrier |
//!
//! # Memory ordering
//! Every change is AcqRel and every look Acquire: who passes sees what all parties wrote before they arrived.

use super::owner::{IsDead, Lane, NOBODY, Peers};
use super::wait::WaitBlock;
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering, broken};

const OPEN: u64 = 0;
const ACTING: u64 = 1;
const BROKEN: u64 = 2;

const LANE_SHIFT: u32 = 16;
const STATE_SHIFT: u32 = 26;
const ENDINGS_SHIFT: u32 = 28;
const GENERATION_SHIFT: u32 = 44;
/// Meetings whose end is remembered.
const REMEMBERED: u32 = 16;
const GENERATIONS: u32 = (1 << 20) - 1;

#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    fn new(generation: u32, endings: u64, state: u64, lane: Lane, arrived: u32) -> Self {
        let generation = u64::from(generation & GENERATIONS) << GENERATION_SHIFT;
        let endings = (endings & 0xffff) << ENDINGS_SHIFT;
        Self(generation | endings | state << STATE_SHIFT | u64::from(lane) << LANE_SHIFT | u64::from(arrived & 0xffff))
    }

    fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    fn endings(self) -> u64 {
        self.0 >> ENDINGS_SHIFT & 0xffff
    }

    fn state(self) -> u64 {
        // The fourth value is damage: broken, until a reset.
        (self.0 >> STATE_SHIFT & 3).min(BROKEN)
    }

    fn lane(self) -> Lane {
        (self.0 >> LANE_SHIFT & 0x3ff) as Lane
    }

    fn arrived(self) -> u32 {
        (self.0 & 0xffff) as u32
    }

    fn next(self, passed: bool) -> Self {
        let endings = self.endings() << 1 | u64::from(!passed);
        Self::new(self.generation().wrapping_add(1), endings, OPEN, NOBODY, 0)
    }

    fn broken_by(self, lane: Lane) -> Self {
        Self::new(self.generation(), self.endings(), BROKEN, lane, 0)
    }
}

/// What an arriving party finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// It is inside, as number `index` of this generation.
    Inside {
        /// The meeting.
        generation: u32,
        /// How many were there before.
        index: u32,
    },
    /// It is the last: it acts, and says [`finish`](BarrierBlock::finish).
    Last {
        /// The meeting.
        generation: u32,
    },
    /// The last party of the meeting before acts now.
    NotYet,
    /// It is broken.
    Broken,
}

/// A barrier in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct BarrierBlock {
    word: AtomicU64,
    /// Nanoseconds after which a wait breaks the barrier; the largest number for never.
    timeout_ns: AtomicU64,
    parties: AtomicU32,
    /// Deaths of users that are no news: those before the last reset.
    deaths: AtomicU32,
}

impl BarrierBlock {
    /// A barrier for `parties` parties (at most 65535).
    pub fn new(parties: u32, timeout_ns: u64) -> Self {
        Self {
            word: AtomicU64::new(0),
            timeout_ns: AtomicU64::new(timeout_ns),
            parties: AtomicU32::new(parties),
            deaths: AtomicU32::new(0),
        }
    }

    /// Makes it what [`new`](Self::new) makes, where nobody sees it yet.
    pub fn set(&self, parties: u32, timeout_ns: u64) {
        self.parties.store(parties, Ordering::Relaxed);
        self.timeout_ns.store(timeout_ns, Ordering::Relaxed);
    }

    /// How many have to meet.
    pub fn parties(&self) -> u32 {
        self.parties.load(Ordering::Relaxed)
    }

    /// Nanoseconds after which a wait breaks the barrier, if nobody said otherwise.
    pub fn timeout_ns(&self) -> u64 {
        self.timeout_ns.load(Ordering::Relaxed)
    }

    /// Deaths of users that were known at the last reset.
    pub fn known_deaths(&self) -> u32 {
        self.deaths.load(Ordering::Acquire)
    }

    fn load(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    fn replace(&self, word: Word, next: Word) -> bool {
        let order = if broken("barrier: pass without release") { Ordering::Relaxed } else { Ordering::AcqRel };
        self.word.compare_exchange(word.0, next.0, order, Ordering::Relaxed).is_ok()
    }

    /// Which meeting this is.
    pub fn generation(&self) -> u32 {
        self.load().generation()
    }

    /// How many parties are inside.
    pub fn arrived(&self) -> u32 {
        self.load().arrived()
    }

    /// Whether it is broken; and the lane of the one that broke it by its death while it acted.
    pub fn is_broken(&self) -> Option<Lane> {
        let word = self.load();
        (word.state() == BROKEN).then_some(word.lane())
    }

    /// One party more. The last one passes at once, unless it wants to act first.
    pub fn arrive(&self, me: Lane, acts: bool, wait: &WaitBlock, peers: &impl Peers) -> Arrival {
        loop {
            let word = self.load();
            match word.state() {
                OPEN => {}
                ACTING => return Arrival::NotYet,
                _ => return Arrival::Broken,
            }
            let (generation, index) = (word.generation(), word.arrived());
            let last = index + 1 >= self.parties();
            let next = match (last, acts) {
                (false, _) => Word::new(generation, word.endings(), OPEN, NOBODY, index + 1),
                (true, true) => Word::new(generation, word.endings(), ACTING, me, index + 1),
                (true, false) => word.next(true),
            };
            if !self.replace(word, next) {
                continue;
            }
            if !last {
                return Arrival::Inside { generation, index };
            }
            if acts {
                return Arrival::Last { generation };
            }
            self.tell(wait, peers);
            return Arrival::Inside { generation, index };
        }
    }

    fn tell(&self, wait: &WaitBlock, peers: &impl Peers) {
        if !broken("barrier: change without waking") {
            wait.notify_sleepers(peers);
        }
    }

    /// How the meeting ended: passed or not; `None` while it goes on.
    pub fn outcome(&self, generation: u32) -> Option<bool> {
        let word = self.load();
        let ago = word.generation().wrapping_sub(generation) & GENERATIONS;
        if ago == 0 {
            return (word.state() == BROKEN).then_some(false);
        }
        if broken("barrier: forget how it ended") {
            return Some(true);
        }
        // Nobody can be that late in a meeting that needs it; who came in addition is told the worse.
        Some(ago <= REMEMBERED && word.endings() >> (ago - 1) & 1 == 0)
    }

    /// The last party has acted: everybody passes. False if the barrier was broken or reset meanwhile.
    pub fn finish(&self, generation: u32, me: Lane, wait: &WaitBlock, peers: &impl Peers) -> bool {
        let word = self.load();
        let mine = word.generation() == generation && word.state() == ACTING && word.lane() == me;
        let passed = mine && self.replace(word, word.next(true));
        if passed {
            self.tell(wait, peers);
        }
        passed
    }

    /// Breaks the barrier if it is in this meeting (`None`: in whichever), and it is not broken already.
    pub fn shatter(&self, generation: Option<u32>, wait: &WaitBlock, peers: &impl Peers) {
        loop {
            let word = self.load();
            if word.state() == BROKEN || generation.is_some_and(|wanted| wanted != word.generation()) {
                return;
            }
            if broken("barrier: break whatever has become of it") {
                self.word.store(word.broken_by(NOBODY).0, Ordering::Release);
                self.tell(wait, peers);
                return;
            }
            if self.replace(word, word.broken_by(NOBODY)) {
                self.tell(wait, peers);
                return;
            }
        }
    }

    /// A new meeting, whatever became of this one: who is inside is told that it did not pass. `deaths` of users are no
    /// news from here on.
    pub fn reset(&self, deaths: u32, wait: &WaitBlock, peers: &impl Peers) {
        self.deaths.store(deaths, Ordering::Release);
        loop {
            let word = self.load();
            if self.replace(word, word.next(false)) {
                self.tell(wait, peers);
                return;
            }
        }
    }

    /// Breaks the barrier if a dead lane was acting, or one that there is not. True if one was.
    pub fn recover(&self, dead: IsDead<'_>) -> bool {
        loop {
            let word = self.load();
            if word.state() != ACTING || !dead(word.lane()) || broken("barrier: let the dead act") {
                return false;
            }
            if self.replace(word, word.broken_by(word.lane())) {
                return true;
            }
        }
    }
}
