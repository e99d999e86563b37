//! What a segment looks like from outside: for people, watchdogs and tests.

use std::fmt;

use super::directory::Standing;
use super::layout::PAGE;
use super::peers::read_name;
use super::{Death, Segment};
use crate::sys::atomic::Ordering::Relaxed;

/// Totals of a segment, as one moment saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of arena pages in use.
    pub used_bytes: usize,
    /// Bytes of arena pages in all.
    pub total_bytes: usize,
    /// Bytes of arena pages whose memory is committed.
    pub committed_bytes: usize,
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
        Stats {
            used_bytes: inner.used_pages() as usize * PAGE,
            total_bytes: inner.geometry.pages as usize * PAGE,
            committed_bytes: inner.committed_pages() as usize * PAGE,
            objects: (0..inner.object_count()).filter(|k| matches!(inner.standing(*k).1, Standing::Live)).count(),
            processes: (0..inner.geometry.rows).filter(|row| inner.row_state(*row).is_active()).count(),
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
        writeln!(f, "  {:?}", self.stats)?;
        for line in self.processes.iter().chain(&self.objects) {
            writeln!(f, "  {line}")?;
        }
        for death in &self.deaths {
            writeln!(f, "  died: {} (pid {}), {:?}", death.name, death.pid, death.losses)?;
        }
        Ok(())
    }
}
