//! Who uses a segment: processes in rows, their threads in lanes, and the kernel's proof that a row is dead.
//!
//! `row.state = generation:32 | flags:16 | phase:8 | state:8`. A row is FREE or ACTIVE. The process of an active row holds
//! byte `row` of the segment's file through a [`PinnedLock`], so *active and unlocked* is death, and nothing else is.
//! Leaving would be FREE first and the lock second; a process that just ends says so in a flag (LEAVING) and is
//! recovered like a dead one, but not counted as a loss.
//!
//! A parent reserves the row of a child before the child exists: it locks the byte through a description that the child
//! inherits, so the child's death is provable from its first instruction.
//!
//! A lane belongs to a thread from its first use of the segment to its end. Its number stands in every word that the
//! thread claims; guards do not leave their thread, so at its end the last such word is gone, unless the program leaked a
//! guard: then the lane stays, and the lock stays taken as a leaked guard of std's keeps it, until the process ends.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64 as Private, Ordering as PrivateOrdering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use super::layout::{LANE_BYTES, LANE_GENERATION, LaneBlock, ROW_BITS, ROW_BYTES, RowBlock};
use crate::error::{Error, ErrorKind};
use crate::sync::{Lane, NOBODY, Peers};
use crate::sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sys::atomic::{AtomicU32, AtomicU64};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::liveness::{self, PinnedLock};
use crate::sys::{cpu, memfd};

/// How long the lock of a child that was reaped may outlive it, and how long another recoverer of it may take, on a busy machine.
const REAP_PATIENCE: Duration = Duration::from_millis(100);

const ROW_FREE: u64 = 0;
const ROW_ACTIVE: u64 = 1;
const COUNTED: u64 = 1 << 8;
const LEAVING: u64 = 1 << 16;

/// What a row says, as one moment saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowState(u64);

impl RowState {
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn is_active(self) -> bool {
        self.0 & 0xff == ROW_ACTIVE
    }

    /// Its losses have been counted by a recoverer.
    pub fn is_counted(self) -> bool {
        self.0 & COUNTED != 0
    }

    /// Its process said that it was about to end.
    pub fn is_leaving(self) -> bool {
        self.0 & LEAVING != 0
    }
}

/// Writes a name into shared words, cut at 48 bytes (at a character's end).
pub(crate) fn write_name(words: &[AtomicU64; 6], name: &str) {
    let mut end = name.len().min(48);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = [0u8; 48];
    bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
    for (word, part) in words.iter().zip(bytes.chunks_exact(8)) {
        word.store(u64::from_le_bytes(part.try_into().expect("chunks of 8")), Relaxed);
    }
}

/// Reads a name from shared words; what is not UTF-8 is replaced.
pub(crate) fn read_name(words: &[AtomicU64; 6]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Relaxed).to_le_bytes()).collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A row that waits for the child it was reserved for.
pub(crate) struct ReservedRow {
    /// The row's number.
    pub index: u32,
    /// The description that holds the row's lock: hand it to the child, then drop this.
    pub lock: OwnedFd,
    segment: Arc<Inner>,
    started: bool,
}

impl ReservedRow {
    /// The memory file, for the child to map.
    pub fn segment_fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// The child exists and holds the lock too: from here on the row is the child's.
    pub fn started(mut self, pid: u32) {
        self.segment.row_block(self.index).pid.store(pid, Relaxed);
        self.started = true;
    }
}

impl Drop for ReservedRow {
    fn drop(&mut self) {
        if !self.started {
            // Nobody holds the row but this lock: give up the objects opened on its behalf as for a process that left.
            let state = &self.segment.row_block(self.index).state;
            state.fetch_or(LEAVING, AcqRel);
            let _ = liveness::unlock(self.lock.as_fd(), self.index);
            self.segment.recover_row(self.index);
        }
    }
}

/// No attachment has this epoch; neither has a forked child, whose own reads 0.
const NO_EPOCH: u64 = u64::MAX;

thread_local! {
    /// The lane used last: (epoch of the attachment, lane).
    static LAST: Cell<(u64, Lane)> = const { Cell::new((NO_EPOCH, NOBODY)) };
    /// All lanes of this thread.
    static LANES: RefCell<Lanes> = const { RefCell::new(Lanes(Vec::new())) };
}

struct Lanes(Vec<(Weak<Inner>, u64, Lane)>);

impl Drop for Lanes {
    fn drop(&mut self) {
        LAST.set((NO_EPOCH, NOBODY));
        for (segment, epoch, lane) in self.0.drain(..) {
            if let Some(segment) = segment.upgrade() {
                if segment.epoch() == epoch && !segment.has_claims_of(lane) {
                    segment.lane_block(lane).owner.store(0, Release);
                }
            }
        }
    }
}

/// Epochs name one attachment of one process (a forked child gets a new one); never 0, which a fork leaves.
fn next_epoch() -> u64 {
    static NEXT: Private = Private::new(1);
    NEXT.fetch_add(1, PrivateOrdering::Relaxed)
}

impl Inner {
    #[inline]
    pub(crate) fn row_block(&self, row: u32) -> &RowBlock {
        self.block(self.geometry.rows_at as usize + row as usize * ROW_BYTES)
    }

    /// `lane` is 1 to the number of lanes.
    #[inline]
    pub(crate) fn lane_block(&self, lane: Lane) -> &LaneBlock {
        self.block(self.geometry.lanes_at as usize + (lane as usize - 1) * LANE_BYTES)
    }

    pub(crate) fn row_state(&self, row: u32) -> RowState {
        RowState(self.row_block(row).state.load(Acquire))
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.fork_word.word().load(Relaxed)
    }

    /// Takes a free row for this process and pins its lock.
    pub(crate) fn register(&self, name: &str) -> Result<(), Error> {
        let (row, lock) = self.take_row(name, std::process::id(), 0)?;
        let pinned = PinnedLock::pin(lock).map_err(|e| Error::os("pin the liveness lock", e))?;
        self.become_row(row, pinned);
        Ok(())
    }

    fn become_row(&self, row: u32, pinned: PinnedLock) {
        self.row.store(row, Relaxed);
        *self.pinned.lock().unwrap_or_else(|e| e.into_inner()) = Some(pinned);
        self.fork_word.word().store(next_epoch(), Release);
    }

    /// Child side: the row that the parent reserved, with the description that proves our life.
    pub(crate) fn adopt_row(&self, row: u32, lock: OwnedFd) -> Result<(), Error> {
        if row >= self.geometry.rows {
            return Err(Error::corrupt("start of child", "row", row, format!("below {}", self.geometry.rows)));
        }
        let pinned = PinnedLock::pin(lock).map_err(|e| Error::os("pin the liveness lock", e))?;
        self.row_block(row).pid.store(std::process::id(), Relaxed);
        self.become_row(row, pinned);
        Ok(())
    }

    /// Parent side: a row for a child about to start.
    pub(crate) fn reserve_row(self: &Arc<Self>, name: &str) -> Result<ReservedRow, Error> {
        let (index, lock) = self.take_row(name, 0, self.row() + 1)?;
        Ok(ReservedRow { index, lock, segment: self.clone(), started: false })
    }

    /// Locks a row's byte through a description of its own and makes the row ACTIVE in a new generation.
    fn take_row(&self, name: &str, pid: u32, parent: u32) -> Result<(u32, OwnedFd), Error> {
        let os = |e| Error::os("register process in segment", e);
        let lock = memfd::reopen(self.fd()).map_err(os)?;
        // Free rows first; then rows of the dead, which are recovered on the way.
        for dead in [false, true] {
            for row in 0..self.geometry.rows {
                if self.row_state(row).is_active() != dead {
                    continue;
                }
                if dead && !self.recover_row(row) {
                    continue;
                }
                if !liveness::try_lock(lock.as_fd(), row).map_err(os)? {
                    continue;
                }
                let seen = self.row_state(row);
                if seen.is_active() {
                    // Somebody had it in between, and is dead already; leave it to a recoverer.
                    liveness::unlock(lock.as_fd(), row).map_err(os)?;
                    continue;
                }
                let block = self.row_block(row);
                block.pid.store(pid, Relaxed);
                block.parent.store(parent, Relaxed);
                block.since_ns.store(now_ns(), Relaxed);
                write_name(&block.name, name);
                // 24 bits, as lanes store it; 0 would make a lane look free.
                let generation = (u64::from(seen.generation()) % 0xff_ffff) + 1;
                block.state.store(generation << 32 | ROW_ACTIVE, Release);
                return Ok((row, lock));
            }
        }
        let all = self.geometry.rows;
        Err(Error::new(ErrorKind::TooManyProcesses, "register process in segment", format!("all {all} rows are taken")))
    }

    /// Says that this process is about to end, so that its end is not counted as a death.
    pub(crate) fn announce_leaving(&self) {
        self.row_block(self.row()).state.fetch_or(LEAVING, AcqRel);
    }

    /// A child of this process has ended.
    pub(crate) fn child_ended(&self, row: u32, pid: u32, by_itself: bool) {
        let block = self.row_block(row);
        let state = self.row_state(row);
        // Somebody else may have recovered it already, and the row may have a new user.
        if !state.is_active() || block.pid.load(Relaxed) != pid {
            return;
        }
        if by_itself {
            let _ = block.state.compare_exchange(state.0, state.0 | LEAVING, AcqRel, Relaxed);
        }
        // The kernel drops the lock before it lets the parent reap, unless somebody looks into the dead process's memory at
        // that moment, as a process monitor does that reads its command line: then the lock goes when the look is over. A
        // recoverer may be at work beside us, too: then the row changes when it is done.
        let patience = Deadline::after(REAP_PATIENCE);
        while !self.recover_row(row) && self.row_state(row).generation() == state.generation() && !patience.passed() {
            if !self.row_state(row).is_active() {
                return;
            }
            cpu::yield_now();
        }
    }

    /// Marks a row's losses as counted.
    pub(crate) fn mark_counted(&self, row: u32) {
        self.row_block(row).state.fetch_or(COUNTED, AcqRel);
    }

    pub(crate) fn free_row(&self, row: u32, generation: u32) {
        self.row_block(row).state.store(u64::from(generation) << 32 | ROW_FREE, Release);
    }

    /// Whether the process of `row` is dead: proven by the kernel.
    pub(crate) fn is_dead(&self, row: u32) -> bool {
        let before = self.row_state(row);
        before.is_active()
            && matches!(liveness::is_locked(self.fd(), row), Ok(false))
            && RowState(before.0 | LEAVING | COUNTED) == RowState(self.row_state(row).0 | LEAVING | COUNTED)
    }

    /// The calling thread's lane, taken at its first use of the segment.
    #[inline]
    pub(crate) fn lane(&self) -> Result<Lane, Error> {
        let (epoch, lane) = LAST.get();
        if epoch == self.epoch() { Ok(lane) } else { self.find_lane() }
    }

    #[cold]
    fn find_lane(&self) -> Result<Lane, Error> {
        if self.epoch() == 0 {
            if self.pinned.lock().unwrap_or_else(|e| e.into_inner()).is_none() {
                return Err(Error::new(ErrorKind::InvalidInput, "use segment", "this process is not registered yet"));
            }
            self.reattach_after_fork()?;
        }
        let epoch = self.epoch();
        let known = LANES.try_with(|lanes| {
            let mut lanes = lanes.borrow_mut();
            if let Some(known) = lanes.0.iter().find(|l| l.1 == epoch) {
                return Ok(known.2);
            }
            lanes.0.retain(|(segment, epoch, _)| segment.upgrade().is_some_and(|s| s.epoch() == *epoch));
            let lane = self.claim_lane()?;
            lanes.0.push((self.this.clone(), epoch, lane));
            Ok(lane)
        });
        // In a destructor that runs after ours the lane stays with the process until its end.
        let lane = known.unwrap_or_else(|_| self.claim_lane())?;
        LAST.set((epoch, lane));
        Ok(lane)
    }

    pub(super) fn claim_lane(&self) -> Result<Lane, Error> {
        let row = self.row();
        let owner = row | (self.row_state(row).generation() & LANE_GENERATION) << ROW_BITS;
        for lane in 1..=self.geometry.lanes as Lane {
            let word = &self.lane_block(lane).owner;
            if word.load(Relaxed) == 0 && word.compare_exchange(0, owner, AcqRel, Relaxed).is_ok() {
                self.lane_block(lane).cpu.store(cpu::current().wrapping_add(1), Relaxed);
                raise(&self.header().lanes_high, lane.into());
                return Ok(lane);
            }
        }
        let all = self.geometry.lanes;
        Err(Error::new(ErrorKind::TooManyThreads, "use segment in a thread", format!("all {all} lanes are taken")))
    }

    /// Row and generation that a lane belongs to.
    pub(crate) fn lane_owner(&self, lane: Lane) -> Option<(u32, u32)> {
        if !self.is_lane(lane) {
            return None;
        }
        let owner = self.lane_block(lane).owner.load(Acquire);
        let row = owner & ((1 << ROW_BITS) - 1);
        (owner != 0 && row < self.geometry.rows).then_some((row, owner >> ROW_BITS))
    }

    /// The lanes of one generation of a row.
    pub(crate) fn lanes_of(&self, row: u32, generation: u32) -> Vec<Lane> {
        (1..=self.geometry.lanes as Lane)
            .filter(|lane| self.lane_owner(*lane) == Some((row, generation & LANE_GENERATION)))
            .collect()
    }

    /// Notes on which CPU the calling thread is, for those who will wait for it.
    #[inline]
    pub(crate) fn note_cpu(&self, lane: Lane) {
        let now = cpu::current().wrapping_add(1);
        let word = &self.lane_block(lane).cpu;
        if word.load(Relaxed) != now {
            word.store(now, Relaxed);
        }
    }

    /// "pid 12 (worker-3)" of the process that a lane belongs to.
    pub(crate) fn lane_holder(&self, lane: Lane) -> Option<Holder> {
        let (row, _) = self.lane_owner(lane)?;
        let block = self.row_block(row);
        Some(Holder { pid: block.pid.load(Relaxed), name: read_name(&block.name) })
    }

    /// A raw fork copied our attachment but not our lock: the child becomes a process of its own.
    #[cold]
    fn reattach_after_fork(&self) -> Result<(), Error> {
        // The parent's lock was not mapped here; dropping it would unmap whatever took its place.
        std::mem::forget(self.pinned.lock().unwrap_or_else(|e| e.into_inner()).take());
        self.register("forked")?;
        self.reopen_objects(self.row());
        Ok(())
    }

    /// In a fork of this process, for which `row` was reserved and its lock handed down.
    pub(crate) fn adopt_row_after_fork(&self, row: u32, lock: OwnedFd) -> Result<(), Error> {
        // As above.
        std::mem::forget(self.pinned.lock().unwrap_or_else(|e| e.into_inner()).take());
        self.adopt_row(row, lock)?;
        // What another thread opened between the parent's call of the same and the fork.
        self.reopen_objects(row);
        Ok(())
    }
}

/// Makes the word at least `value`. Whoever names a hazard in a lane has been here before, and runs a fence after that.
fn raise(word: &AtomicU32, value: u32) {
    let mut seen = word.load(Relaxed);
    while seen < value {
        match word.compare_exchange(seen, value, AcqRel, Relaxed) {
            Ok(_) => break,
            Err(now) => seen = now,
        }
    }
}

impl Peers for Inner {
    fn bury(&self, lane: Lane) -> bool {
        self.lane_owner(lane).is_some_and(|(row, generation)| {
            self.row_state(row).generation() & LANE_GENERATION == generation
                && self.is_dead(row)
                && self.recover_row(row)
        })
    }

    fn is_lane(&self, lane: Lane) -> bool {
        lane != NOBODY && u32::from(lane) <= self.geometry.lanes
    }

    fn cpu_of(&self, lane: Lane) -> Option<u32> {
        if !self.is_lane(lane) {
            return None;
        }
        self.lane_block(lane).cpu.load(Relaxed).checked_sub(1)
    }

    #[inline]
    fn asymmetric(&self) -> bool {
        self.asymmetric
    }
}

/// The process that holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}
