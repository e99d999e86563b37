//! Whose the memory is: every page of the arena in one place of the books.

use std::collections::{BTreeMap, HashMap};

use super::Inner;
use super::arena::Place;
use super::directory::Standing;
use super::layout::PAGE;
use super::peers::read_name;
use super::recover::kind;
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;

/// The memory of all objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindUse {
    /// What people call it: "queue". "unknown" for all kinds that this program does not have.
    pub kind: &'static str,
    /// How many there are.
    pub objects: usize,
    /// Bytes of their pages, those of large messages in them too.
    pub bytes: usize,
}

/// The memory that one process uses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessUse {
    /// Its process id, as it numbers itself.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Bytes of the objects that it has open; what several processes have open counts for each of them.
    pub open_bytes: usize,
    /// Bytes that it is moving into objects or out of them.
    pub in_flight_bytes: usize,
}

/// The books, in pages but for what users see.
#[derive(Default)]
pub(super) struct Accounts {
    pub used: u32,
    pub free: u32,
    pub hollow: u32,
    pub fresh: u32,
    pub in_flight: u32,
    pub ownerless: u32,
    pub by_kind: Vec<KindUse>,
    pub by_process: Vec<ProcessUse>,
}

impl Accounts {
    /// Looks once at every page; what others change meanwhile is seen before or after.
    pub fn of(inner: &Inner) -> Self {
        let mut books = Self { fresh: inner.geometry.pages - inner.committed_pages(), ..Self::default() };
        let mut objects: HashMap<u64, u32> = HashMap::new();
        let mut lanes: HashMap<Lane, u32> = HashMap::new();
        inner.for_each_place(&mut |place| match place {
            Place::Free(piece) if piece.hollow => books.hollow += piece.pages,
            Place::Free(piece) => books.free += piece.pages,
            Place::Used(run, lane, owner) => {
                books.used += run.pages;
                match lane {
                    Some(lane) => *lanes.entry(lane).or_default() += run.pages,
                    None => *objects.entry(owner).or_default() += run.pages,
                }
            }
            Place::Damaged(pages) => {
                books.used += pages;
                books.ownerless += pages;
            }
        });
        books.in_flight = lanes.values().sum();
        let mut rows: Vec<(usize, usize)> = vec![(0, 0); inner.geometry.rows as usize];
        for (lane, pages) in lanes {
            if let Some((row, _)) = inner.lane_owner(lane) {
                rows[row as usize].1 += pages as usize * PAGE;
            }
        }
        let mut by_kind: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
        for index in 0..inner.object_count() {
            let (id, Standing::Live) = inner.standing(index) else { continue };
            let bytes = objects.remove(&id.word()).map_or(0, |pages| pages as usize * PAGE);
            let name = kind(inner.entry(index).kind.load(Relaxed)).map_or("unknown", |kind| kind.name);
            let sum = by_kind.entry(name).or_default();
            *sum = (sum.0 + 1, sum.1 + bytes);
            for (row, (open, _)) in rows.iter_mut().enumerate() {
                if (0..2).any(|role| inner.has_bit(index, role, row as u32)) {
                    *open += bytes;
                }
            }
        }
        books.ownerless += objects.values().sum::<u32>();
        books.by_kind = by_kind.into_iter().map(|(kind, (objects, bytes))| KindUse { kind, objects, bytes }).collect();
        books.by_process = rows
            .into_iter()
            .enumerate()
            .filter(|(row, _)| inner.row_state(*row as u32).is_active())
            .map(|(row, (open_bytes, in_flight_bytes))| {
                let block = inner.row_block(row as u32);
                let (pid, name) = (block.pid.load(Relaxed), read_name(&block.name));
                ProcessUse { pid, name, open_bytes, in_flight_bytes }
            })
            .collect();
        books
    }
}
