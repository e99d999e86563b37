//! The words of a lease table: items that were taken from a ring and are not acknowledged yet.
//!
//! A leased item does not stay in its ring, where it would hold up `head`, and with it everybody, as long as its holder
//! works. It moves into an entry of the table, from which it never goes back: its holder ends it, or it is taken again
//! from the same entry.
//!
//! # Words
//! `state = generation:32 | deliveries:16 | lane:10 | state:6`, one for each entry. *deliveries* says how often the item
//! was handed out, the present time included.
//!
//! | state | the entry holds | by | if the process of `lane` dies |
//! |---|---|---|---|
//! | FREE | nothing | | |
//! | FILLING(lane) | nothing yet | CAS from FREE, before the item is taken | FREE |
//! | HELD(lane) | an item that `lane`'s process works on | its owner; CAS from REDO or DEAD | REDO, or DEAD after too many deliveries |
//! | REDO | an item to be taken again | CAS from HELD, by its owner or by recovery | |
//! | DEAD | a dead letter | as REDO | |
//!
//! The lane is the process's (`segment/process_lane.rs`): a lease may go from thread to thread.
//!
//! # Rules
//! 1. A lease claims its entry, takes from the ring, copies the record, notes the ring's position, says HELD, and only
//!    then DONE in the ring. So at each moment the ring or the table names the item, and whoever looks at the ring first
//!    and at the table second finds it.
//! 2. Recovery goes through the ring first: a record that the dead were reading, and whose position an entry notes that
//!    is HELD by the dead, is done; any other is given back to the ring. The table comes second. So an item that lay in
//!    both is given back once, wherever the recoverer before this one died.
//! 3. Whoever makes an entry REDO adds 1 to `returned` after it; a taker reads `returned` before it looks, and skips
//!    looking while it is what it was at the last look that found nothing. Recovery adds always.
//! 4. Nothing is unfinished if the ring was at rest, the table then had no HELD and no REDO, and the ring is at rest at
//!    the same place after that. An item enters the table only through the ring, so none can have come in between; and
//!    FILLING entries are empty then, since whoever fills one reads a record of the ring.
//!
//! # Memory ordering
//! Each change of a state is Release and each look Acquire: HELD and REDO bring the record and the position, FREE the end
//! of their use. Rule 4's look at the ring acquires what DONE released, which is HELD. Of two that end the last two leases
//! at the same time and then look whether everything is finished, one must see that it is: between the two steps of each
//! is the full fence of [`Ring::at_rest`].
//!
//! Source: the visibility of a message in a message broker, without its clock: only a proven death ends a lease.

use crate::ring::{Corrupt, Ring};
use crate::sync::{IsDead, Lane};
use crate::sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sys::atomic::{AtomicU64, broken, fence};

const FREE: u64 = 0;
const FILLING: u64 = 1;
const HELD: u64 = 2;
const REDO: u64 = 3;
const DEAD: u64 = 4;

const LANE_SHIFT: u32 = 6;
const DELIVERIES_SHIFT: u32 = 16;
const GENERATION_SHIFT: u32 = 32;
/// Deliveries are counted up to this.
pub(super) const MOST_DELIVERIES: u32 = 0xffff;

/// One loaded state. Every `u64` is one; who uses it checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State(u64);

impl State {
    fn state(self) -> u64 {
        self.0 & ((1 << LANE_SHIFT) - 1)
    }

    fn lane(self) -> Lane {
        (self.0 >> LANE_SHIFT & 0x3ff) as Lane
    }

    fn deliveries(self) -> u32 {
        (self.0 >> DELIVERIES_SHIFT) as u32 & MOST_DELIVERIES
    }

    /// The same entry in another state.
    fn to(self, state: u64, lane: Lane, deliveries: u32) -> Self {
        let generation = self.0 >> GENERATION_SHIFT << GENERATION_SHIFT;
        let deliveries = u64::from(deliveries.min(MOST_DELIVERIES)) << DELIVERIES_SHIFT;
        Self(generation | deliveries | u64::from(lane) << LANE_SHIFT | state)
    }

    /// Free for the next user.
    fn freed(self) -> Self {
        Self((self.0 >> GENERATION_SHIFT).wrapping_add(1) << GENERATION_SHIFT)
    }

    /// What becomes of an item whose holder gives it up or dies.
    fn given_back(self, max_deliveries: u32) -> Self {
        let is_over = max_deliveries != 0 && self.deliveries() >= max_deliveries;
        self.to(if is_over { DEAD } else { REDO }, 0, self.deliveries())
    }
}

/// An entry that the caller has claimed, to be held or abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    pub index: usize,
    state: State,
}

/// An entry whose item the caller's process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub index: usize,
    state: State,
}

impl Held {
    /// How often the item was handed out, this time included.
    pub fn deliveries(self) -> u32 {
        self.state.deliveries()
    }
}

/// What an item became that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenBack {
    /// It is to be taken again.
    Redo,
    /// It was handed out as often as it may be.
    DeadLetter,
}

/// How many entries are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub held: usize,
    pub waiting: usize,
    pub dead_letters: usize,
    /// Free, or about to be filled.
    pub free: usize,
}

/// A view of the words of a lease table.
#[derive(Clone, Copy)]
pub(super) struct Leases<'a> {
    /// Counts what was made REDO, and recoveries.
    pub returned: &'a AtomicU64,
    /// One for each entry.
    pub states: &'a [AtomicU64],
    /// Where in the ring its item came from; as many.
    pub positions: &'a [AtomicU64],
}

impl Leases<'_> {
    fn load(&self, index: usize) -> State {
        State(self.states[index].load(Acquire))
    }

    fn turn(&self, index: usize, from: State, to: State) -> bool {
        self.states[index].compare_exchange(from.0, to.0, AcqRel, Relaxed).is_ok()
    }

    /// Claims a free entry for `lane`, looking from entry `from` on. `None` if none was free when it was looked at.
    pub fn claim(&self, lane: Lane, from: usize) -> Option<Filling> {
        let n = self.states.len();
        (0..n).map(|k| (from % n + k) % n).find_map(|index| {
            let seen = State(self.states[index].load(Relaxed));
            let state = seen.to(FILLING, lane, 0);
            (seen.state() == FREE && self.turn(index, seen, state)).then_some(Filling { index, state })
        })
    }

    /// Gives a claimed entry back.
    pub fn abandon(&self, filling: Filling) {
        // A plain store: nobody else may change this word while its owner lives.
        self.states[filling.index].store(filling.state.freed().0, Release);
    }

    /// Says that the entry holds the item that came from `position` of the ring; `again` if it had been taken before.
    pub fn hold(&self, filling: Filling, lane: Lane, position: u64, again: bool) -> Held {
        self.positions[filling.index].store(position, Relaxed);
        let state = filling.state.to(HELD, lane, 1 + u32::from(again));
        self.states[filling.index].store(state.0, Release);
        Held { index: filling.index, state }
    }

    /// Ends a lease: the item is gone. False if the entry does not hold it any more, which only damage can do.
    pub fn end(&self, held: Held) -> bool {
        self.turn(held.index, held.state, held.state.freed())
    }

    /// Gives an item back. `None` if the entry does not hold it any more, which only damage can do.
    pub fn give_back(&self, held: Held, max_deliveries: u32) -> Option<GivenBack> {
        let to = held.state.given_back(max_deliveries);
        if !self.turn(held.index, held.state, to) {
            return None;
        }
        if to.state() == DEAD {
            return Some(GivenBack::DeadLetter);
        }
        self.announce();
        Some(GivenBack::Redo)
    }

    fn announce(&self) {
        self.returned.fetch_add(1, AcqRel);
    }

    /// Takes an item that was given back. `seen` is what this process remembers of `returned`.
    pub fn take_again(&self, lane: Lane, seen: &Seen) -> Option<Held> {
        if !self.has_news(seen) {
            return None;
        }
        // Rule 3: before the look.
        let returned = self.returned.load(Acquire);
        let taken = self.take(REDO, lane);
        if taken.is_none() {
            seen.0.store(returned, core::sync::atomic::Ordering::Release);
        }
        taken
    }

    /// Takes a dead letter.
    pub fn take_dead(&self, lane: Lane) -> Option<Held> {
        self.take(DEAD, lane)
    }

    fn take(&self, wanted: u64, lane: Lane) -> Option<Held> {
        (0..self.states.len()).find_map(|index| {
            let seen = self.load(index);
            let more = u32::from(wanted == REDO);
            let state = seen.to(HELD, lane, seen.deliveries() + more);
            (seen.state() == wanted && self.turn(index, seen, state)).then_some(Held { index, state })
        })
    }

    /// Whether something may have been given back since the last look that found nothing.
    #[inline]
    pub fn has_news(&self, seen: &Seen) -> bool {
        self.returned.load(Acquire) != seen.0.load(core::sync::atomic::Ordering::Acquire)
    }

    /// Whether something waits to be taken again.
    pub fn has_waiting(&self, seen: &Seen) -> bool {
        self.has_news(seen) && self.tally().waiting > 0
    }

    /// Counts the entries by their states; each is looked at at its own moment.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for index in 0..self.states.len() {
            match self.load(index).state() {
                FREE | FILLING => tally.free += 1,
                HELD => tally.held += 1,
                REDO => tally.waiting += 1,
                DEAD => tally.dead_letters += 1,
                _ => {}
            }
        }
        tally
    }

    /// One of the lanes that hold or fill an entry.
    pub fn holder(&self) -> Option<Lane> {
        (0..self.states.len()).map(|index| self.load(index)).find_map(|s| (s.lane() != 0).then(|| s.lane()))
    }

    /// Whether every item that was put is finished, dead letters included: rule 4.
    ///
    /// # Errors
    /// If the ring or the table is damaged.
    pub fn all_finished(&self, ring: &Ring<'_>) -> Result<bool, Corrupt> {
        let before = if broken("lease: the ring before the table") { None } else { Some(ring.at_rest()?) };
        if before == Some(None) {
            return Ok(false);
        }
        for index in 0..self.states.len() {
            let seen = self.load(index);
            match seen.state() {
                FREE | FILLING | DEAD => {}
                HELD | REDO => return Ok(false),
                _ => return Err(Corrupt { field: "lease", found: seen.0 }),
            }
        }
        if broken("lease: the ring again") {
            return Ok(true);
        }
        let after = ring.at_rest()?;
        Ok(after.is_some() && before.is_none_or(|before| before == after))
    }

    // ---- recovery

    fn dead_state(&self, index: usize, dead: IsDead<'_>) -> Option<State> {
        let seen = self.load(index);
        (matches!(seen.state(), FILLING | HELD) && dead(seen.lane())).then_some(seen)
    }

    /// Whether the dead had the record of `position` in the table when they died.
    pub fn kept(&self, position: u64, dead: IsDead<'_>) -> bool {
        let is_it = |index| {
            let held = self.dead_state(index, dead).is_some_and(|seen| seen.state() == HELD);
            held && self.positions[index].load(Relaxed) == position
        };
        !broken("lease: recovery of the ring asks the table") && (0..self.states.len()).any(is_it)
    }

    /// How many items [`recover`](Self::recover) would give back for redelivery. Changes nothing.
    pub fn count(&self, dead: IsDead<'_>, max_deliveries: u32) -> u32 {
        let back = |seen: State| seen.state() == HELD && seen.given_back(max_deliveries).state() == REDO;
        (0..self.states.len()).filter(|index| self.dead_state(*index, dead).is_some_and(back)).count() as u32
    }

    /// Gives back what the dead held. After the ring, by rule 2; idempotent.
    pub fn recover(&self, dead: IsDead<'_>, max_deliveries: u32) {
        for index in 0..self.states.len() {
            if let Some(seen) = self.dead_state(index, dead) {
                let to = if seen.state() == FILLING { seen.freed() } else { seen.given_back(max_deliveries) };
                // Fails for nobody's change: the dead change nothing, and others leave a word of theirs alone.
                self.turn(index, seen, to);
            }
        }
        if !broken("lease: recovery announces") {
            self.announce();
        }
    }

    /// Calls `f` with the index of each entry that holds an item, whoever has it; `f` gives what it found, and `each` gets
    /// it if the entry was the same before and after. An entry that changes all the time counts as what was seen last.
    pub fn for_each_record<R>(&self, f: impl Fn(usize) -> R, mut each: impl FnMut(R)) {
        const LOOKS: usize = 16;
        for index in 0..self.states.len() {
            for look in 1..=LOOKS {
                let before = self.load(index);
                if !matches!(before.state(), HELD | REDO | DEAD) {
                    break;
                }
                let found = f(index);
                // The record was read before the state is read again.
                fence(Acquire);
                let now = self.load(index);
                if before.0 >> GENERATION_SHIFT == now.0 >> GENERATION_SHIFT || look == LOOKS {
                    each(found);
                    break;
                }
            }
        }
    }
}

/// What one process remembers of `returned`: private, shared by its threads.
pub(super) struct Seen(core::sync::atomic::AtomicU64);

impl Seen {
    /// One less than the counter holds: the first look is for what was given back before this process came.
    pub fn new(leases: &Leases<'_>) -> Self {
        Self(core::sync::atomic::AtomicU64::new(leases.returned.load(Acquire).wrapping_sub(1)))
    }
}

/// Recovers a ring and its lease table, in the order of rule 2.
///
/// # Errors
/// If the ring is damaged; the table is recovered all the same.
pub(super) fn recover(
    ring: Result<Ring<'_>, Corrupt>,
    leases: &Leases<'_>,
    dead: IsDead<'_>,
    max_deliveries: u32,
) -> Result<(), Corrupt> {
    if broken("lease: the ring is recovered first") {
        leases.recover(dead, max_deliveries);
    }
    let ended = ring.and_then(|ring| ring.recover_kept(dead, &|position| leases.kept(position, dead)));
    leases.recover(dead, max_deliveries);
    ended.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_keeps_its_parts_apart() {
        let state = State(u64::MAX).to(HELD, 1022, 70_000);
        assert_eq!((state.state(), state.lane(), state.deliveries()), (HELD, 1022, MOST_DELIVERIES));
        assert_eq!(state.freed(), State(0), "generations wrap");
        assert_eq!(State(0).freed(), State(1 << 32));
    }

    #[test]
    fn an_item_is_a_dead_letter_after_its_last_delivery() {
        let held = |deliveries| State(0).to(HELD, 3, deliveries);
        assert_eq!(held(1).given_back(2), State(0).to(REDO, 0, 1));
        assert_eq!(held(2).given_back(2), State(0).to(DEAD, 0, 2));
        assert_eq!(held(60_000).given_back(0), State(0).to(REDO, 0, 60_000), "no limit");
    }
}
