//! The recovery driver: what happens, once and exactly once, after a process died.
//!
//! Anybody may drive it: a waiter that is blocked by the dead, a process that wants its row, a parent that reaped its
//! child. The row's byte lock makes the recoverer exclusive, and frees it again if the recoverer dies: another starts
//! over. Every step turns stamps of the dead into neutral words, so a second run finds fewer; the losses are counted
//! before the first change.
//!
//! ```text
//! R0 take the row's byte          else: it lives, or another recovers it
//! R1 the row is ACTIVE(g)         else: done already
//! R2 D = its lanes
//! R3 not counted yet: count what is in flight in every object it has open -> ledger; mark counted
//! R4 the arena lock; every object it has open: stamps of D -> neutral
//! R5 every run of D: LIVE if its object names it, else FREE; objects that it was building or closing
//! R6 give up every object it had open and wake its users; the last one out frees the memory, also of what it had just
//!    given up itself
//! R7 lanes of D -> free           R8 death_seq += 1, wake            R9 the row -> FREE, its byte unlocked
//! ```
//!
//! The bits of the dead row stay until R6, so no object can go away under R3 to R5.

use std::collections::{HashMap, HashSet};

use super::directory::{ObjectId, Standing};
use super::object::View;
use super::peers::read_name;
use super::{Inner, RowState};
use crate::error::Error;
use crate::sync::{IsDead, Lane};
use crate::sys::atomic::Ordering::{AcqRel, Relaxed, Release};
use crate::sys::clock::now_ns;
use crate::sys::futex;
use crate::sys::liveness::PinnedLock;

/// What a death cost in one object, or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Items that were being written and had not been committed: gone.
    pub vanished: u32,
    /// Items that were taken and not acknowledged: offered again.
    pub redelivered: u32,
    /// Locks that were held: the next locker is told.
    pub locks: u32,
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.vanished = self.vanished.saturating_add(other.vanished);
        self.redelivered = self.redelivered.saturating_add(other.redelivered);
        self.locks = self.locks.saturating_add(other.locks);
    }
}

/// Takes the first page of a run that an object's contents refer to.
pub type NamePage<'a> = &'a mut dyn FnMut(u32);

/// Takes a handle that an object's contents carry: the object that it is of, and its role.
pub type NameHandle<'a> = &'a mut dyn FnMut(ObjectId, usize);

/// How one kind of object is recovered. Kinds register in [`KINDS`].
pub struct Kind {
    /// The number that stands in the directory.
    pub code: u32,
    /// What people call it.
    pub name: &'static str,
    /// Bytes that the functions below look at without asking. An entry that says fewer is damaged, and they are not called.
    pub least: usize,
    /// Counts what lanes have in flight, changing nothing.
    pub count: fn(&View<'_>, IsDead<'_>) -> Result<Losses, Error>,
    /// Turns every stamp of dead lanes into a neutral word. Idempotent; runs beside survivors.
    pub recover: fn(&View<'_>, IsDead<'_>) -> Result<(), Error>,
    /// Names the first pages of runs that the object's contents refer to.
    pub linked: fn(&View<'_>, NamePage<'_>) -> Result<(), Error>,
    /// Names the handles that the object's contents carry.
    pub handles: fn(&View<'_>, NameHandle<'_>) -> Result<(), Error>,
    /// One line about the contents, for `inspect`.
    pub describe: fn(&View<'_>) -> String,
}

impl Kind {
    /// A kind without stamps, waiters or further memory.
    pub const fn plain(name: &'static str, code: u32) -> Self {
        Self {
            code,
            name,
            least: 0,
            count: |_, _| Ok(Losses { vanished: 0, redelivered: 0, locks: 0 }),
            recover: |_, _| Ok(()),
            linked: |_, _| Ok(()),
            handles: |_, _| Ok(()),
            describe: |_| String::new(),
        }
    }
}

/// Every kind of object in the program: each layer above adds its own.
#[linkme::distributed_slice]
pub static KINDS: [Kind];

/// The kind with this code, if the program has it.
pub(crate) fn kind(code: u32) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.code == code)
}

/// A process that died with the segment open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Death {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// When its death was found, in nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// What it had in flight.
    pub losses: Losses,
}

impl Inner {
    /// Recovers the row if its process is dead. True if this call did it.
    pub(crate) fn recover_row(&self, row: u32) -> bool {
        // R0. Held until the end of the function, whichever way it ends.
        let Ok(Some(lock)) = PinnedLock::try_new(self.fd(), row) else { return false };
        let state = self.row_state(row);
        // R1
        if !state.is_active() {
            return false;
        }
        #[cfg(feature = "tracing")]
        let (name, pid) = (super::peers::read_name(&self.row_block(row).name), self.row_block(row).pid.load(Relaxed));
        let done = self.recover_locked(row, state);
        drop(lock);
        #[cfg(feature = "tracing")]
        if done && state.is_leaving() {
            tracing::debug!(target: "kinfolk", name, pid, "process recovered");
        } else if done {
            tracing::warn!(target: "kinfolk", name, pid, "process recovered");
        }
        done
    }

    fn recover_locked(&self, row: u32, state: RowState) -> bool {
        // R2
        let lanes: HashSet<Lane> = self.lanes_of(row, state.generation()).into_iter().collect();
        let dead = |lane: Lane| lanes.contains(&lane);
        let mut open = Vec::new();
        let mut unfinished = Vec::new();
        for index in 0..self.object_count() {
            match self.standing(index) {
                (id, Standing::Live) if (0..2).any(|role| self.has_bit(index, role, row)) => open.push(id),
                (id, Standing::Building(lane)) if dead(lane) => unfinished.push((id, Some(lane))),
                (id, Standing::Closing(lane)) if dead(lane) => unfinished.push((id, None)),
                _ => {}
            }
        }
        // R3
        if !state.is_counted() {
            self.count_losses(row, state, &open, &dead);
        }
        // R4
        if self.header().arena_lock.recover(&dead) {
            self.reset_hints();
        }
        for id in &open {
            if let Some((kind, view)) = self.view(*id) {
                // An object with impossible words stays as it is; its users get `Corrupt` from it.
                let _ = (kind.recover)(&view, &dead);
            }
        }
        // R5
        self.resolve_runs(&dead);
        for (id, builder) in unfinished {
            match builder {
                Some(lane) => self.undo_building(id, lane),
                None => self.finish_closing(id),
            }
        }
        // R6
        let died = !state.is_leaving();
        let pid = self.row_block(row).pid.load(Relaxed);
        for id in open {
            self.depart(id, row, died.then_some(pid));
        }
        self.reap_abandoned();
        // R7
        for lane in &lanes {
            self.lane_block(*lane).hazards.iter().for_each(|hazard| hazard.store(0, Relaxed));
            self.lane_block(*lane).owner.store(0, Release);
        }
        // R8
        self.header().death_seq.fetch_add(1, Release);
        futex::wake_all(&self.header().death_seq);
        // R9; the byte is unlocked by the caller.
        self.free_row(row, state.generation());
        true
    }

    fn count_losses(&self, row: u32, state: RowState, open: &[ObjectId], dead: IsDead<'_>) {
        let mut losses = Losses::default();
        for id in open {
            if let Some((kind, view)) = self.view(*id) {
                losses += (kind.count)(&view, dead).unwrap_or_default();
            }
        }
        if !state.is_leaving() || losses != Losses::default() {
            let block = self.row_block(row);
            block.died_pid.store(block.pid.load(Relaxed), Relaxed);
            block.died_ns.store(now_ns(), Relaxed);
            block.vanished.store(losses.vanished, Relaxed);
            block.redelivered.store(losses.redelivered, Relaxed);
            block.locks.store(losses.locks, Relaxed);
            for (to, from) in block.died_name.iter().zip(&block.name) {
                to.store(from.load(Relaxed), Relaxed);
            }
            block.died_generation.store(state.generation(), Release);
            let header = self.header();
            header.deaths.fetch_add(1, AcqRel);
            header.vanished.fetch_add(losses.vanished.into(), AcqRel);
            header.redelivered.fetch_add(losses.redelivered.into(), AcqRel);
        }
        self.mark_counted(row);
    }

    /// R5: the object says whether it names the run, the stamp says who was moving it.
    fn resolve_runs(&self, dead: IsDead<'_>) {
        let mut stamped = Vec::new();
        self.for_each_run(&mut |run, lane, owner| {
            if let Some(lane) = lane.filter(|l| dead(*l)) {
                stamped.push((run, lane, owner));
            }
        });
        let mut linked: HashMap<u64, Option<HashSet<u32>>> = HashMap::new();
        for (run, lane, owner) in stamped {
            let id = ObjectId { index: owner as u32, generation: (owner >> 32) as u32 };
            let pages = linked.entry(owner).or_insert_with(|| self.linked_pages(id));
            match pages {
                Some(pages) => self.resolve_run(run, lane, pages.contains(&run.page)),
                // The object is gone or unreadable: nothing can name the run.
                None => self.resolve_run(run, lane, false),
            }
        }
    }

    fn linked_pages(&self, id: ObjectId) -> Option<HashSet<u32>> {
        if id.index >= self.object_count() {
            return None;
        }
        let (now, Standing::Live) = self.standing(id.index) else { return None };
        if now != id {
            return None;
        }
        let (kind, view) = self.view(id)?;
        let mut pages = HashSet::from([self.entry(id.index).page.load(Relaxed)]);
        (kind.linked)(&view, &mut |page| {
            pages.insert(page);
        })
        .ok()?;
        Some(pages)
    }

    /// R6: objects that nobody has open and no message carries. The dead was the last one out, and got no further.
    fn reap_abandoned(&self) {
        for index in 0..self.object_count() {
            if let (id, Standing::Live) = self.standing(index) {
                if self.has_no_openers(index) {
                    self.reap_entry(id);
                }
            }
        }
    }

    /// R6 for one object.
    fn depart(&self, id: ObjectId, row: u32, died: Option<u32>) {
        let entry = self.entry(id.index);
        if let Some(pid) = died {
            entry.last_dead.store(pid, Relaxed);
            entry.deaths.fetch_add(1, AcqRel);
        }
        for role in 0..2 {
            if let Some(pid) = died.filter(|_| self.has_bit(id.index, role, row)) {
                // Before the bit goes (AcqRel), so that who misses the bit finds this.
                entry.last_dead_as[role].store(pid, Relaxed);
            }
            self.leave_entry(id, role, row);
        }
    }

    /// The deaths that the rows remember, the latest last.
    pub(crate) fn deaths(&self) -> Vec<Death> {
        let mut deaths: Vec<Death> = (0..self.geometry.rows)
            .map(|row| self.row_block(row))
            .filter(|block| block.died_generation.load(Relaxed) != 0)
            .map(|block| Death {
                pid: block.died_pid.load(Relaxed),
                name: read_name(&block.died_name),
                at_ns: block.died_ns.load(Relaxed),
                losses: Losses {
                    vanished: block.vanished.load(Relaxed),
                    redelivered: block.redelivered.load(Relaxed),
                    locks: block.locks.load(Relaxed),
                },
            })
            .collect();
        deaths.sort_by_key(|d| d.at_ns);
        deaths
    }
}
