//! What a segment looks like from outside: for people, watchdogs and tests.

use std::fmt;

use super::accounts::{Accounts, KindUse, ProcessUse};
use super::directory::Standing;
use super::layout::PAGE;
use super::peers::read_name;
use super::{Death, Segment};
use crate::sys::atomic::Ordering::Relaxed;

/// Totals of a segment, as one moment saw them. While nobody changes anything they add up: `used_bytes` is the sum of
/// `by_kind`, `in_flight_bytes` and `ownerless_bytes`; `committed_bytes` is `used_bytes` and `free_bytes`; with
/// `given_back_bytes` and `fresh_bytes` that is `total_bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of arena pages in use.
    pub used_bytes: usize,
    /// Bytes of arena pages in all.
    pub total_bytes: usize,
    /// Bytes of arena pages whose memory is committed.
    pub committed_bytes: usize,
    /// Of those, bytes that are free.
    pub free_bytes: usize,
    /// Bytes of free pages whose memory was given back to the system.
    pub given_back_bytes: usize,
    /// Bytes of pages that were never used, and have no memory yet.
    pub fresh_bytes: usize,
    /// Bytes on their way into an object or out of it: large messages being written or read, objects being made.
    pub in_flight_bytes: usize,
    /// Bytes of no object that exists: one that is just being given up had them, or their words are damaged.
    pub ownerless_bytes: usize,
    /// What each kind of object has, in the order of their names.
    pub by_kind: Vec<KindUse>,
    /// What each process has, in the order of their rows.
    pub by_process: Vec<ProcessUse>,
    /// Objects that exist.
    pub objects: usize,
    /// Processes that have it open.
    pub processes: usize,
    /// Threads that use it.
    pub lanes: usize,
    /// Deaths found so far.
    pub deaths: u64,
    /// Uncommitted items that died with their writers.
    pub vanished: u64,
    /// Items that were offered again because their taker died.
    pub redelivered: u64,
}

/// A segment as text: [`Segment::inspect`].
#[derive(Clone, Debug)]
pub struct Inspection {
    title: String,
    stats: Stats,
    processes: Vec<String>,
    objects: Vec<String>,
    deaths: Vec<Death>,
}

impl Segment {
    /// Totals of what is in use. Others go on meanwhile, so the numbers need not fit together.
    pub fn stats(&self) -> Stats {
        let inner = self.inner();
        let header = inner.header();
        let accounts = Accounts::of(inner);
        let bytes = |pages: u32| pages as usize * PAGE;
        Stats {
            used_bytes: bytes(accounts.used),
            total_bytes: bytes(inner.geometry.pages),
            committed_bytes: bytes(accounts.used + accounts.free),
            free_bytes: bytes(accounts.free),
            given_back_bytes: bytes(accounts.hollow),
            fresh_bytes: bytes(accounts.fresh),
            in_flight_bytes: bytes(accounts.in_flight),
            ownerless_bytes: bytes(accounts.ownerless),
            objects: accounts.by_kind.iter().map(|kind| kind.objects).sum(),
            processes: accounts.by_process.len(),
            by_kind: accounts.by_kind,
            by_process: accounts.by_process,
            lanes: (1..=inner.geometry.lanes as u16).filter(|lane| inner.lane_owner(*lane).is_some()).count(),
            deaths: header.deaths.load(Relaxed),
            vanished: header.vanished.load(Relaxed),
            redelivered: header.redelivered.load(Relaxed),
        }
    }

    /// Everything that is known about the segment, to be printed. Never blocks, also while others are stuck.
    pub fn inspect(&self) -> Inspection {
        let inner = self.inner();
        let processes = (0..inner.geometry.rows)
            .filter(|row| inner.row_state(*row).is_active())
            .map(|row| {
                let block = inner.row_block(row);
                let state = inner.row_state(row);
                let lanes = inner.lanes_of(row, state.generation());
                let life = match (row == inner.row(), inner.is_dead(row), state.is_leaving()) {
                    (true, ..) => ", this process",
                    (_, true, _) => ", dead, not recovered yet",
                    (.., true) => ", ending",
                    _ => "",
                };
                format!(
                    "row {row}: {} (pid {}), lanes {lanes:?}{life}",
                    read_name(&block.name),
                    block.pid.load(Relaxed)
                )
            })
            .collect();
        let objects = (0..inner.object_count())
            .filter_map(|index| match inner.standing(index) {
                (id, Standing::Live) => Some(id),
                _ => None,
            })
            .map(|id| {
                let open: Vec<Vec<u32>> = (0..2).map(|role| inner.opener_rows(id.index, role).collect()).collect();
                match inner.view(id) {
                    Some((kind, view)) => {
                        let what = (kind.describe)(&view);
                        format!("object {}: {}, {} B, rows {open:?} {what}", id.index, kind.name, view.len())
                    }
                    None => {
                        format!("object {}: damaged, or of a kind this program does not know, rows {open:?}", id.index)
                    }
                }
            })
            .collect();
        Inspection { title: format!("{self:?}"), stats: self.stats(), processes, objects, deaths: self.deaths() }
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let s = &self.stats;
        writeln!(
            f,
            "  {} B used of {} B, {} B committed ({} B free), {} B given back, {} B never used",
            s.used_bytes, s.total_bytes, s.committed_bytes, s.free_bytes, s.given_back_bytes, s.fresh_bytes
        )?;
        writeln!(
            f,
            "  {} objects, {} processes, {} lanes, {} deaths, {} items vanished, {} redelivered",
            s.objects, s.processes, s.lanes, s.deaths, s.vanished, s.redelivered
        )?;
        for kind in &s.by_kind {
            writeln!(f, "  {}: {} objects, {} B", kind.kind, kind.objects, kind.bytes)?;
        }
        writeln!(f, "  in flight: {} B, of no object: {} B", s.in_flight_bytes, s.ownerless_bytes)?;
        for process in &s.by_process {
            let ProcessUse { pid, name, open_bytes, in_flight_bytes, .. } = process;
            writeln!(f, "  {name} (pid {pid}) has open: {open_bytes} B, in flight: {in_flight_bytes} B")?;
        }
        for line in self.processes.iter().chain(&self.objects) {
            writeln!(f, "  {line}")?;
        }
        for death in &self.deaths {
            writeln!(f, "  died: {} (pid {}), {:?}", death.name, death.pid, death.losses)?;
        }
        Ok(())
    }
}
