//! The workers of a pool, and the thread that looks after them: a worker that ends is buried, and replaced at once.

use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::audit::{PERIOD, Worker};
use super::board::MAX_SERIAL;
use super::error::TaskError;
use super::owner::{Ending, Owner, State};
use super::worker::Outfit;
use crate::error::{Error, ErrorKind};
use crate::process::{JoinError, Process, StartMethod, is_exiting};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::image::Image;
use crate::sys::poll::readable;
use crate::sys::signals::Mask;

/// How long workers may take to end by SIGTERM.
const GRACE: Duration = Duration::from_millis(500);
/// How long tasks that are to be begun again wait for room in the queue, before workers are looked after once more.
const ROOM: Duration = Duration::from_millis(1);
/// So many workers may end one after the other before any could begin; then the pool gives up.
const MOST_FAILURES: u32 = 8;

/// Starts a worker in a row.
pub(super) type Start = Box<dyn Fn(Outfit, String, StartMethod) -> Result<Process<()>, Error> + Send + Sync>;

/// One worker.
struct Member {
    row: usize,
    serial: u64,
    process: Process<()>,
    ready: bool,
}

/// The workers, and what they are started by.
pub(super) struct Crew {
    owner: Arc<Owner>,
    start: (Start, StartMethod),
    name: String,
    size: usize,
    max_tasks: u64,
    members: Mutex<Roster>,
    over: Condvar,
    /// Of the thread that made the pool.
    mask: Mask,
}

#[derive(Default)]
struct Roster {
    members: Vec<Member>,
    next_serial: u64,
    /// Workers that ended before they could begin, since the last that could.
    failures: u32,
    /// The thread that looks after them has ended.
    dismissed: bool,
}

impl Crew {
    pub fn new(owner: Arc<Owner>, start: (Start, StartMethod), name: String, size: usize, max_tasks: u64) -> Self {
        Self {
            owner,
            start,
            name,
            size,
            max_tasks,
            members: Mutex::default(),
            over: Condvar::new(),
            mask: Mask::of_thread(),
        }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a worker for each row that has none, until one cannot be started.
    pub fn fill(&self) -> Result<(), Error> {
        for row in 0..self.size {
            if self.roster().members.iter().any(|member| member.row == row) {
                continue;
            }
            self.start_one(row)?;
        }
        Ok(())
    }

    fn start_one(&self, row: usize) -> Result<(), Error> {
        let serial = {
            let mut roster = self.roster();
            roster.next_serial = roster.next_serial % MAX_SERIAL + 1;
            roster.next_serial
        };
        let outfit = Outfit {
            tasks: self.owner.tasks.clone(),
            results: self.owner.results.clone(),
            board: self.owner.board.words().clone(),
            rows: self.size,
            row,
            serial,
            mark: Image::of_program().mark(),
            max_tasks: self.max_tasks,
        };
        self.owner.board.clear(row);
        // The thread that looks after workers gets no signals, but workers do.
        let process = self.mask.during(|| (self.start.0)(outfit, format!("{}:{serial}", self.name), self.start.1))?;
        let mut roster = self.roster();
        if self.owner.state() == State::Terminated {
            // Whoever terminated the pool may have looked for workers before this one was there.
            let _ = process.kill();
        }
        roster.members.push(Member { row, serial, process, ready: false });
        Ok(())
    }

    /// Process ids of the workers that live.
    pub fn pids(&self) -> Vec<u32> {
        self.roster().members.iter().map(|member| member.process.pid()).collect()
    }

    /// Looks after the workers until the pool has ended, and they too.
    pub fn watch(&self) {
        let mut all_sent = true;
        while !self.is_over() {
            let sentinels: Vec<_> = self.roster().members.iter().map(|member| member.process.child().clone()).collect();
            let mut fds = vec![self.owner.bell.as_fd()];
            fds.extend(sentinels.iter().map(|child| child.sentinel()));
            if readable(&fds, if all_sent { self.next_look() } else { Deadline::after(ROOM) }).is_err() {
                // A descriptor of a worker that is just being ended by another thread.
                std::thread::yield_now();
            }
            self.owner.bell.clear();
            self.note_ready();
            self.end_what_runs_too_long();
            self.bury_the_dead();
            self.look_after_tasks();
            if self.wants_workers() {
                self.replace();
            }
            all_sent = self.owner.send_again() & self.owner.feed_the_starved();
        }
        let mut roster = self.roster();
        roster.dismissed = true;
        self.over.notify_all();
    }

    fn is_over(&self) -> bool {
        let ended = match self.owner.state() {
            State::Open => false,
            State::Closed => self.owner.is_stopping(),
            State::Terminated => true,
        };
        ended && self.roster().members.is_empty()
    }

    fn wants_workers(&self) -> bool {
        let open = match self.owner.state() {
            State::Open => true,
            State::Closed => self.owner.under_way() > 0,
            State::Terminated => false,
        };
        open && !self.owner.is_broken() && !self.owner.is_stopping() && !is_exiting()
    }

    fn replace(&self) {
        if let Err(error) = self.fill() {
            let lives = !self.roster().members.is_empty();
            if !lives {
                let reason = format!("no worker can be started: {error}");
                self.owner.break_off(TaskError::Broken { reason });
            }
            // The others do the work; the next one that ends is followed by another try.
        }
    }

    fn note_ready(&self) {
        let ready = self.owner.take_ready();
        if ready.is_empty() {
            return;
        }
        let mut roster = self.roster();
        roster.failures = 0;
        for member in &mut roster.members {
            member.ready |= ready.contains(&member.serial);
        }
    }

    fn bury_the_dead(&self) {
        let ended: Vec<Member> = {
            let mut roster = self.roster();
            let (ended, alive) = roster.members.drain(..).partition(|member| !member.process.is_alive());
            roster.members = alive;
            ended
        };
        for Member { serial, process, ready, .. } in ended {
            let pid = process.pid();
            // One that calls `exit(0)` has not returned.
            let (status, wanted) = match process.join() {
                Ok(()) => (JoinError::Exited { code: 0 }, true),
                Err(error) => (error, false),
            };
            let reason = status.to_string();
            self.owner.announce_death(serial, Ending { pid, status: Arc::new(status) }, wanted);
            self.note_ready();
            if !ready && !wanted && self.owner.state() != State::Terminated {
                self.count_failure(serial, &reason);
            }
        }
    }

    fn count_failure(&self, serial: u64, reason: &str) {
        let failures = {
            let mut roster = self.roster();
            roster.failures += 1;
            roster.failures
        };
        if failures >= MOST_FAILURES {
            let reason =
                format!("{failures} workers ended before they could begin, the last one ({serial}) so: {reason}");
            self.owner.break_off(TaskError::Broken { reason });
        }
    }

    /// When somebody may have run too long.
    fn next_look(&self) -> Deadline {
        match self.owner.shortest_limit() {
            None if self.owner.is_stopping() || self.owner.under_way() > 0 => Deadline::after(PERIOD),
            None => Deadline::NEVER,
            Some(limit) => Deadline::after(limit.min(Duration::from_millis(100)).max(Duration::from_millis(1)) / 4),
        }
    }

    /// Finds tasks that wrong bytes keep from ending.
    fn look_after_tasks(&self) {
        self.owner.say_again();
        let worker = |&Member { row, serial, ref process, .. }: &Member| Worker { serial, row, pid: process.pid() };
        let workers = self.roster().members.iter().map(worker).collect();
        for serial in self.owner.look_after_tasks(workers) {
            if let Some(member) = self.roster().members.iter().find(|member| member.serial == serial) {
                let _ = member.process.kill();
            }
        }
    }

    fn end_what_runs_too_long(&self) {
        if !self.owner.is_timed() {
            return;
        }
        for member in &self.roster().members {
            let Some(noted @ (slot, begun)) = self.owner.board.noted(member.row) else { continue };
            let Some((ticket, limit)) = self.owner.limit_of(slot) else { continue };
            // A note that still stands is of the task that was found, and not of one before it in the same slot: what a worker
            // has noted it takes back before it sends the result, which frees the slot.
            if self.owner.board.noted(member.row) != Some(noted) {
                continue;
            }
            let ran = now_ns().saturating_sub(begun);
            if u128::from(ran) > limit.as_nanos() && self.owner.board.expire(ticket, member.serial) {
                // A child of this user's; if it has ended, it is buried as others.
                let _ = member.process.kill();
            }
        }
    }

    /// Ends all workers: by SIGTERM, and by SIGKILL those that do not end in time; or by SIGKILL at once.
    pub fn end_all(&self, gently: bool) {
        let children: Vec<_> = self.roster().members.iter().map(|member| member.process.child().clone()).collect();
        for child in &children {
            let _ = if gently { child.terminate() } else { child.kill() };
        }
        let grace = Deadline::after(GRACE);
        for child in &children {
            let left = Duration::from_nanos(grace.left_ns().unwrap_or(0));
            if !matches!(child.wait_timeout(left), Ok(true)) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        self.owner.bell.ring();
    }

    /// Waits until all workers have ended, and the thread that looks after them with them; whether they have in time.
    pub fn wait_all(&self, deadline: Deadline) -> bool {
        let mut roster = self.roster();
        while !roster.dismissed {
            roster = match deadline.left_ns() {
                None => self.over.wait(roster).unwrap_or_else(PoisonError::into_inner),
                Some(0) => return false,
                Some(nanos) => {
                    let waited = self.over.wait_timeout(roster, Duration::from_nanos(nanos));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// The error of a pool without workers or with too many.
    pub fn check_size(size: usize) -> Result<(), Error> {
        const MOST: usize = 1000;
        if (1..=MOST).contains(&size) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "make pool", format!("{size} processes, expected 1 to {MOST}")))
    }
}
