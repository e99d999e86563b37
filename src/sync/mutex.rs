//! The robust lock word: it names its owner, so a dead owner can be proven dead and the lock freed.
//!
//! # The word
//! `spare:19 | readers:1 | waiters:1 | owner_died:1 | lane:10`. Free is lane 0. Only the owner changes a word that names
//! it, except that waiters set their bit; recovery does, after the kernel proved the owner's death.
//!
//! `readers` is for the readers-writer lock. Readers that wait set it in a word that is held; in a word that is free it
//! means that it is their turn: whoever wants to lock sleeps, until one of them has ended the turn or has let it pass.
//!
//! | killed | left behind | outcome |
//! |---|---|---|
//! | before the CAS of lock | nothing | - |
//! | while it holds | its lane in the word | recovery stores owner_died and lane 0; the next locker is told |
//! | after the swap of unlock, before the wake | a free lock and sleepers | their sleeps are bounded: 0.5 ms, or 1/128 of the wait up to 64 ms |
//!
//! A word that names a lane which does not exist is damage; whoever waits for it frees the lock as after a death.
//!
//! # Memory ordering
//! The CAS that takes the lock (Acquire) matches the swap that frees it (Release), and recovery's CAS (AcqRel): with
//! the lock comes everything its last owner wrote, also a dead one.
//!
//! Source: Ulrich Drepper, "Futexes Are Tricky", mutex 2, with the owner in the word as in robust futexes.

use super::owner::{IsDead, LANE_BITS, LANE_MASK, Lane, NOBODY, Peers};
use super::wait::TimedOut;
use crate::sys::atomic::{AtomicU32, Ordering, broken, spin_loop};
use crate::sys::clock::Deadline;
use crate::sys::{cpu, futex};

const OWNER_DIED: u32 = 1 << LANE_BITS;
const WAITERS: u32 = 1 << (LANE_BITS + 1);
const READERS: u32 = 1 << (LANE_BITS + 2);

/// How often a locker tries before it lets others run. The lock of a running owner is free again after a few tries. On
/// the owner's own CPU they are in vain, which costs a few microseconds for each time slice that ends in the lock: less
/// than a guess about where the owner runs, when it is wrong.
const SPINS: u32 = 100;
const YIELDS: u32 = 4;
/// The first sleeps, the last, and after how many in vain they become twice as long. After each the owner's death is
/// looked for, so it is found after 0.5 ms, or after 1/128 of the time that the locker has waited, whichever is longer; the
/// looks cost 2 to 3 % of a CPU at the start, 0.4 % of a wait of 10 s, and soon nothing.
const SHORTEST_SLEEP_NS: u64 = 500_000;
const LONGEST_SLEEP_NS: u64 = 64_000_000;
const SLEEPS_EACH: u32 = 256;
/// How long the readers' turn lasts if none of them comes. Such a turn was left by one that was killed or stopped while
/// it waited, and comes once.
const TURN_NS: u64 = 5_000_000;

/// How a lock was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Locked {
    /// The last owner gave it back.
    Clean,
    /// An owner died with it and nobody has declared the data whole since.
    OwnerDied,
}

/// A lock word in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct MutexBlock {
    word: AtomicU32,
}

fn lane_of(word: u32) -> Lane {
    (word & LANE_MASK) as Lane
}

impl MutexBlock {
    /// A free lock.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// Takes the lock if it is free, also in the readers' turn.
    #[inline]
    pub fn try_lock(&self, me: Lane) -> Option<Locked> {
        self.take(me, true)
    }

    #[inline]
    fn take(&self, me: Lane, anyway: bool) -> Option<Locked> {
        let order = if broken("mutex: lock without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        match self.word.compare_exchange(0, u32::from(me), order, Ordering::Relaxed) {
            Ok(_) => Some(Locked::Clean),
            Err(word) if lane_of(word) == NOBODY => self.try_lock_with(me, 0, anyway),
            Err(_) => None,
        }
    }

    /// Takes the lock if it is free, whatever bits it has, and adds `bits`. The readers' turn is respected unless
    /// `anyway`; it ends with this.
    #[cold]
    fn try_lock_with(&self, me: Lane, bits: u32, anyway: bool) -> Option<Locked> {
        let anyway = anyway || broken("rwlock: write in the readers' turn");
        let mut word = self.word.load(Ordering::Relaxed);
        while lane_of(word) == NOBODY && (anyway || word & READERS == 0) {
            let mine = (word & !READERS) | u32::from(me) | bits;
            match self.word.compare_exchange(word, mine, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) if word & OWNER_DIED != 0 => return Some(Locked::OwnerDied),
                Ok(_) => return Some(Locked::Clean),
                Err(seen) => word = seen,
            }
        }
        None
    }

    /// Takes the lock, waiting for it until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`]; the lock may be held by a process that is alive but stopped, and is never taken from it.
    #[inline]
    pub fn lock(&self, me: Lane, peers: &impl Peers, deadline: Deadline) -> Result<Locked, TimedOut> {
        match self.take(me, false) {
            Some(locked) => Ok(locked),
            None => self.lock_contended(me, peers, deadline),
        }
    }

    #[cold]
    fn lock_contended(&self, me: Lane, peers: &impl Peers, deadline: Deadline) -> Result<Locked, TimedOut> {
        if cpu::is_multiple() {
            for _ in 0..SPINS {
                // Not a load first: the word's cache line then has to come twice, once to be read and once to be changed.
                if let Some(locked) = self.take(me, false) {
                    return Ok(locked);
                }
                spin_loop();
            }
        }
        for _ in 0..YIELDS {
            if deadline.passed() {
                return self.give_up(me, 0, peers);
            }
            cpu::yield_now();
            if let Some(locked) = self.try_lock_seen(me) {
                return Ok(locked);
            }
        }
        self.lock_asleep(me, peers, deadline)
    }

    fn try_lock_seen(&self, me: Lane) -> Option<Locked> {
        (lane_of(self.word.load(Ordering::Relaxed)) == NOBODY).then(|| self.try_lock_with(me, 0, false)).flatten()
    }

    /// From here on the lock is taken with the waiters bit: others may sleep behind us, and we cannot tell.
    fn lock_asleep(&self, me: Lane, peers: &impl Peers, deadline: Deadline) -> Result<Locked, TimedOut> {
        let (mut vain, mut turn_passed) = (0, false);
        loop {
            let word = self.word.load(Ordering::Relaxed);
            let is_free = lane_of(word) == NOBODY;
            turn_passed &= is_free;
            if is_free && (turn_passed || word & READERS == 0 || broken("rwlock: write in the readers' turn")) {
                match self.try_lock_with(me, WAITERS, turn_passed) {
                    Some(locked) => return Ok(locked),
                    None => continue,
                }
            }
            let marked = word | WAITERS;
            if word != marked && self.word.compare_exchange(word, marked, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            let longest = match is_free {
                true => TURN_NS,
                false => (SHORTEST_SLEEP_NS << (vain / SLEEPS_EACH).min(7)).min(LONGEST_SLEEP_NS),
            };
            let sleep = match deadline.left_ns() {
                Some(0) => return self.give_up(me, WAITERS, peers),
                Some(left) => left.min(longest),
                None => longest,
            };
            if futex::wait(&self.word, marked, Some(sleep)) == futex::Woken::Timeout {
                vain = vain.saturating_add(1);
                turn_passed = is_free;
                self.question(peers);
            }
            if broken("mutex: give up without a last look") && deadline.passed() {
                return Err(TimedOut);
            }
        }
    }

    /// A last look, when the time is over: nobody gives up because of a holder that is dead.
    fn give_up(&self, me: Lane, bits: u32, peers: &impl Peers) -> Result<Locked, TimedOut> {
        self.question(peers);
        self.try_lock_with(me, bits, true).ok_or(TimedOut)
    }

    /// Frees the lock, which the caller holds. `consistent` false keeps the mark that an owner died.
    #[inline]
    pub fn unlock(&self, consistent: bool) {
        let word = self.word.swap(if consistent { 0 } else { OWNER_DIED }, Ordering::Release);
        if word & WAITERS != 0 && !broken("mutex: unlock without waking") {
            self.wake();
        }
    }

    /// Frees the lock as [`unlock`](Self::unlock) does; if readers wait, it is their turn.
    #[inline]
    pub fn unlock_to_readers(&self, consistent: bool) {
        let died = if consistent { 0 } else { OWNER_DIED };
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            // In the readers' turn lockers go on sleeping: whoever ends it wakes one.
            let kept = if word & READERS != 0 { word & (READERS | WAITERS) } else { 0 };
            match self.word.compare_exchange(word, kept | died, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(seen) => word = seen,
            }
        }
        if word & (READERS | WAITERS) == WAITERS && !broken("mutex: unlock without waking") {
            self.wake();
        }
    }

    /// Asks for the readers' turn, to come when the lock is given back; false if it is free.
    pub fn ask_for_turn(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while lane_of(word) != NOBODY {
            if word & READERS != 0 {
                return true;
            }
            match self.word.compare_exchange(word, word | READERS, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
        false
    }

    /// Ends the readers' turn, if it is; called by one that came in, or that does not wait any longer.
    #[inline]
    pub fn end_turn(&self) {
        let mut word = self.word.load(Ordering::Relaxed);
        while lane_of(word) == NOBODY && word & READERS != 0 {
            match self.word.compare_exchange(word, word & !READERS, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) if word & WAITERS != 0 && !broken("rwlock: end the turn without waking") => return self.wake(),
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }

    /// Ends the readers' turn, and forgets that any have asked for the next: for recovery, after which all look again.
    pub fn cancel_turn(&self) {
        let word = self.word.fetch_and(!READERS, Ordering::Relaxed);
        if lane_of(word) == NOBODY && word & READERS != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        futex::wake(&self.word, 1);
    }

    /// The lane that holds the lock now; [`NOBODY`] if it is free. Old as soon as it is known.
    pub fn holder(&self) -> Lane {
        lane_of(self.word.load(Ordering::Relaxed))
    }

    /// Who holds it, if anybody does, and what the next locker will be told. Acquire: with a free lock comes
    /// everything its last owner wrote, for those who only look.
    #[inline]
    pub fn look(&self) -> (Lane, Locked) {
        let word = self.word.load(Ordering::Acquire);
        (lane_of(word), if word & OWNER_DIED != 0 { Locked::OwnerDied } else { Locked::Clean })
    }

    /// Has the holder buried if it is dead, and frees a lock whose word names a lane that there is not.
    #[cold]
    pub fn question(&self, peers: &impl Peers) {
        let holder = self.holder();
        if holder != NOBODY && !peers.bury(holder) && !peers.is_lane(holder) {
            self.recover(&|lane| lane == holder);
        }
    }

    /// Whether a dead process holds it.
    pub fn held_by(&self, dead: IsDead<'_>) -> bool {
        let holder = self.holder();
        holder != NOBODY && dead(holder)
    }

    /// Frees the lock of an owner that is proven dead, and marks that. True if there was one.
    ///
    /// Only the one exclusive recoverer of that process calls this, so the lane cannot have been given away meanwhile; or
    /// anybody, for a lane that there is not.
    pub fn recover(&self, dead: IsDead<'_>) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        while lane_of(word) != NOBODY && dead(lane_of(word)) {
            let free = if broken("mutex: recover without the mark") { WAITERS } else { OWNER_DIED | WAITERS };
            match self.word.compare_exchange(word, free, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    futex::wake(&self.word, 1);
                    return true;
                }
                Err(seen) => word = seen,
            }
        }
        false
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "only the models go through here")]
pub(super) mod model_doors {
    use super::*;

    impl MutexBlock {
        /// Whether the holder will leave the readers their turn.
        pub(in crate::sync) fn is_asked_for_turn(&self) -> bool {
            let word = self.word.load(Ordering::Relaxed);
            lane_of(word) != NOBODY && word & READERS != 0
        }

        /// What the lockers sleep on.
        pub(in crate::sync) fn word_for_model(&self) -> &AtomicU32 {
            &self.word
        }

        /// A whole lock without spinning or deadline.
        pub(in crate::sync) fn lock_at_once(&self, me: Lane, peers: &impl Peers) -> Locked {
            self.lock_until(me, peers, Deadline::NEVER).unwrap()
        }

        /// A whole lock without spinning.
        pub(in crate::sync) fn lock_until(
            &self,
            me: Lane,
            peers: &impl Peers,
            deadline: Deadline,
        ) -> Result<Locked, TimedOut> {
            match self.take(me, false) {
                Some(locked) => Ok(locked),
                None => self.lock_asleep(me, peers, deadline),
            }
        }
    }
}
