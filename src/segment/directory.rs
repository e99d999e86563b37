//! The directory: one entry for each object, and the rule for when its memory goes.
//!
//! `state = generation:32 | spare:14 | lane:10 | state:8`.
//!
//! | state | meaning | a death of `lane` |
//! |---|---|---|
//! | FREE | no object | - |
//! | BUILDING(lane) | being made, known to nobody else | FREE |
//! | LIVE | in use: some process has it open, or a handle lies in a message | - |
//! | CLOSING(lane) | nobody has it open; its memory is being given back | the recoverer finishes it |
//!
//! Whoever opens sets its bit, then looks at the state; whoever closes clears its bit, moves the state to CLOSING if no
//! bit is left, then looks at the bits again (Dekker, both sides with a full fence). So an opener that comes in between
//! is seen, and the state goes back; an opener that finds CLOSING withdraws and closes as if it had been inside.
//!
//! A handle inside a message is counted nowhere: the record itself names the object, and is looked for when nobody has the
//! object open ([`Inner::is_carried`]). So there is no count that a death could falsify. Whoever takes such a message opens
//! what it names before it acknowledges the record; whoever looks reads the openers again after the records. A handle may hop
//! from message to message, behind the back of who looks; but not without being opened, and each opening counts
//! (`arrivals`): so if that has not changed from the first look to the last, what is nowhere is gone.

use super::Inner;
use super::layout::{OBJECT_BYTES, ObjectBlock, PAGE, ROW_WORDS};
use super::recover::Kind;
use crate::error::{Error, ErrorKind};
use crate::sync::{Lane, ORPHAN, WaitBlock};
use crate::sys::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sys::atomic::fence;
use crate::sys::memfd;

const FREE: u64 = 0;
const BUILDING: u64 = 1;
const LIVE: u64 = 2;
const CLOSING: u64 = 3;

/// Directory entries whose memory is committed at a time.
const COMMIT_STEP: u32 = 256;

/// Number of an object in its segment, and which of the successive users of that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ObjectId {
    /// Entry in the directory.
    pub index: u32,
    /// Counts the objects that had this entry.
    pub generation: u32,
}

impl ObjectId {
    /// As the page map names it.
    pub(crate) fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// What a directory entry says, as one moment saw it.
pub(crate) enum Standing {
    Free,
    Building(Lane),
    Live,
    Closing(Lane),
}

fn word(generation: u32, lane: Lane, state: u64) -> u64 {
    u64::from(generation) << 32 | u64::from(lane) << 8 | state
}

fn lane_of(word: u64) -> Lane {
    (word >> 8 & 0x3ff) as Lane
}

impl Inner {
    #[inline]
    pub(crate) fn entry(&self, index: u32) -> &ObjectBlock {
        self.block(self.geometry.objects_at as usize + index as usize * OBJECT_BYTES)
    }

    /// Entries that may have been used.
    pub(crate) fn object_count(&self) -> u32 {
        self.header().objects_high.load(Acquire).min(self.geometry.objects)
    }

    pub(crate) fn standing(&self, index: u32) -> (ObjectId, Standing) {
        let word = self.entry(index).state.load(Acquire);
        let standing = match word & 0xff {
            BUILDING => Standing::Building(lane_of(word)),
            LIVE => Standing::Live,
            CLOSING => Standing::Closing(lane_of(word)),
            _ => Standing::Free,
        };
        (ObjectId { index, generation: (word >> 32) as u32 }, standing)
    }

    /// Makes an object of `bytes` zeroed bytes, opened for the calling process in `role`, and lets `init` fill it before
    /// anybody else can see it.
    pub(crate) fn create_entry(
        &self,
        lane: Lane,
        kind: &Kind,
        type_hash: u64,
        bytes: usize,
        roles: &[usize],
        init: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<ObjectId, Error> {
        let id = self.claim_entry(lane)?;
        let entry = self.entry(id.index);
        for set in &entry.openers {
            set.iter().for_each(|w| w.store(0, Relaxed));
        }
        for count in [&entry.departures, &entry.deaths, &entry.last_dead] {
            count.store(0, Relaxed);
        }
        entry.last_dead_as.iter().for_each(|pid| pid.store(0, Relaxed));
        let made = self.alloc(lane, bytes, id.word()).and_then(|run| {
            let at = self.geometry.page_at(run.page);
            self.slice(at, bytes.next_multiple_of(8)).clear();
            entry.kind.store(kind.code, Relaxed);
            entry.type_hash.store(type_hash, Relaxed);
            entry.page.store(run.page, Relaxed);
            entry.bytes.store(bytes as u64, Relaxed);
            roles.iter().for_each(|role| self.set_bit(id.index, *role, self.row()));
            match init(at) {
                Ok(()) => Ok(run),
                Err(e) => {
                    self.free(run);
                    Err(e)
                }
            }
        });
        match made {
            Ok(run) => {
                // The commit: from here on the object exists, and a run still marked OWNED is found to be linked.
                entry.state.store(word(id.generation, 0, LIVE), crate::sys::atomic::Ordering::Release);
                self.run_live(run, lane);
                Ok(id)
            }
            Err(e) => {
                entry.state.store(word(id.generation, 0, FREE), crate::sys::atomic::Ordering::Release);
                Err(e)
            }
        }
    }

    fn claim_entry(&self, lane: Lane) -> Result<ObjectId, Error> {
        let header = self.header();
        for index in 0..self.geometry.objects {
            if index >= header.committed_objects.load(Acquire) {
                self.commit_objects(lane, index)?;
            }
            let state = &self.entry(index).state;
            let seen = state.load(Relaxed);
            if seen & 0xff != FREE {
                continue;
            }
            let generation = ((seen >> 32) as u32).wrapping_add(1);
            if state.compare_exchange(seen, word(generation, lane, BUILDING), AcqRel, Relaxed).is_ok() {
                // Readers look at no entry from here on, so it moves before the object becomes LIVE.
                let mut high = header.objects_high.load(Relaxed);
                while high <= index {
                    match header.objects_high.compare_exchange(high, index + 1, AcqRel, Relaxed) {
                        Ok(_) => break,
                        Err(now) => high = now,
                    }
                }
                return Ok(ObjectId { index, generation });
            }
        }
        let all = self.geometry.objects;
        Err(Error::new(ErrorKind::TooManyObjects, "create object", format!("all {all} directory entries are taken")))
    }

    fn commit_objects(&self, lane: Lane, index: u32) -> Result<(), Error> {
        let header = self.header();
        self.lock_arena(lane)?;
        let done = header.committed_objects.load(Relaxed).min(self.geometry.objects);
        let upto = ((index / COMMIT_STEP + 1) * COMMIT_STEP).min(self.geometry.objects);
        let result = if upto > done {
            let at = |k: u32| self.geometry.objects_at + u64::from(k) * OBJECT_BYTES as u64;
            memfd::commit(self.fd(), at(done), at(upto) - at(done)).map_err(|e| Error::os("commit directory", e))
        } else {
            Ok(())
        };
        if result.is_ok() {
            header.committed_objects.store(upto.max(done), crate::sys::atomic::Ordering::Release);
        }
        header.arena_lock.unlock(true);
        result
    }

    /// Sets the bit of `row` for `role`: it has the object open.
    pub(crate) fn set_bit(&self, index: u32, role: usize, row: u32) {
        self.entry(index).openers[role][row as usize / 64].fetch_or(1 << (row % 64), AcqRel);
        self.entry(index).arrivals.fetch_add(1, AcqRel);
    }

    /// Clears the bit of `row` for `role`; false if it was not set.
    pub(crate) fn clear_bit(&self, index: u32, role: usize, row: u32) -> bool {
        let bit = 1u64 << (row % 64);
        self.entry(index).openers[role][row as usize / 64].fetch_and(!bit, AcqRel) & bit != 0
    }

    pub(crate) fn has_bit(&self, index: u32, role: usize, row: u32) -> bool {
        self.entry(index).openers[role][row as usize / 64].load(Acquire) >> (row % 64) & 1 == 1
    }

    /// Whether no row has the object open, in any role, as one moment after the other saw it.
    pub(crate) fn has_no_openers(&self, index: u32) -> bool {
        self.entry(index).openers.iter().flatten().all(|word| word.load(Acquire) == 0)
    }

    /// Rows that have the object open in `role`.
    pub(crate) fn opener_rows(&self, index: u32, role: usize) -> impl Iterator<Item = u32> + use<> {
        let words: [u64; ROW_WORDS] = std::array::from_fn(|k| self.entry(index).openers[role][k].load(Acquire));
        let rows = self.geometry.rows;
        (0..rows).filter(move |row| words[*row as usize / 64] >> (row % 64) & 1 == 1)
    }

    /// Opens an object for the calling process: the checked entry's kind and type must be as wanted.
    pub(crate) fn open_entry(&self, id: ObjectId, role: usize, kind: &Kind, type_hash: u64) -> Result<(), Error> {
        let doing = || format!("open {} {}", kind.name, id.index);
        let gone = || Error::new(ErrorKind::Gone, doing(), "everybody who had it has dropped it");
        if id.index >= self.object_count() || role > 1 {
            let all = self.object_count();
            return Err(Error::corrupt(
                "handle",
                "object number",
                format!("{} role {role}", id.index),
                format!("below {all}"),
            ));
        }
        let entry = self.entry(id.index);
        let is_live = || entry.state.load(Acquire) == word(id.generation, 0, LIVE);
        if !is_live() {
            return Err(gone());
        }
        let had = self.has_bit(id.index, role, self.row());
        self.set_bit(id.index, role, self.row());
        fence(crate::sys::atomic::Ordering::SeqCst);
        let withdraw = || {
            // Nobody was told that we came, so nobody is told that we go.
            if !had {
                self.clear_bit(id.index, role, self.row());
                self.reap_entry(id);
            }
        };
        if !is_live() {
            withdraw();
            return Err(gone());
        }
        let found = (entry.kind.load(Relaxed), entry.type_hash.load(Relaxed));
        if found != (kind.code, type_hash) {
            withdraw();
            let message = format!(
                "kind {} of type {:#018x}, expected kind {} of type {type_hash:#018x}",
                found.0, found.1, kind.code
            );
            return Err(Error::new(ErrorKind::TypeMismatch, doing(), message));
        }
        Ok(())
    }

    /// Where the memory of an open object is: offset and bytes. Checked against the page map.
    pub(crate) fn entry_memory(&self, id: ObjectId) -> Result<(usize, usize), Error> {
        let entry = self.entry(id.index);
        let (page, bytes) = (entry.page.load(Relaxed), entry.bytes.load(Relaxed));
        let rest = self.committed_pages().checked_sub(page).map_or(0, |pages| u64::from(pages) * PAGE as u64);
        if rest == 0 || bytes > rest {
            return Err(Error::corrupt("directory", "memory", format!("page {page}, {bytes} B"), "pages in use"));
        }
        Ok((self.geometry.page_at(page), bytes as usize))
    }

    /// Takes the calling process out of the object's openers; the last one out gives the memory back.
    pub(crate) fn close_entry(&self, id: ObjectId, role: usize) {
        self.leave_entry(id, role, self.row());
    }

    /// Takes `row` out of the object's openers and tells the others.
    pub(crate) fn leave_entry(&self, id: ObjectId, role: usize, row: u32) {
        if self.clear_bit(id.index, role, row) {
            self.tell_departure(id);
            self.reap_entry(id);
        }
    }

    /// Whether a process has the object open in `role`, or a message carries such a handle.
    pub(crate) fn is_open(&self, id: ObjectId, role: usize) -> bool {
        /// Somebody who comes and goes so often has it, or writes what he likes.
        const LOOKS: u32 = 100;
        let entry = self.entry(id.index);
        let has_openers = || entry.openers[role].iter().any(|w| w.load(Acquire) != 0);
        for _ in 0..LOOKS {
            let before = entry.arrivals.load(Acquire);
            // The second look sees whoever took the handle out of a message behind our back,
            if has_openers() || self.is_carried(id, role) || has_openers() {
                return true;
            }
            // and this one whoever has put it into another since, where we had looked before, and let go of it. He had opened
            // it for that, and his bit cannot go without its having been counted.
            if entry.arrivals.load(Acquire) == before {
                return false;
            }
        }
        true
    }

    /// Whether a message in another object carries a handle of this one in `role`.
    pub(crate) fn is_carried(&self, id: ObjectId, role: usize) -> bool {
        let mut carried = false;
        for index in (0..self.object_count()).filter(|index| *index != id.index) {
            let (carrier, Standing::Live) = self.standing(index) else { continue };
            if let Some((kind, view)) = self.view(carrier) {
                // If the carrier goes away meanwhile, whoever gives its memory back looks after what it carried.
                let _ = (kind.handles)(&view, &mut |found, as_role| carried |= found == id && as_role == role);
            }
            if carried {
                return true;
            }
        }
        false
    }

    /// Gives the object's memory back if nobody has it open and no message carries a handle. The root stays.
    pub(crate) fn reap_entry(&self, id: ObjectId) {
        if self.is_root(id) {
            return;
        }
        let entry = self.entry(id.index);
        let idle = || {
            fence(crate::sys::atomic::Ordering::SeqCst);
            (0..2).all(|role| !self.is_open(id, role))
        };
        let live = word(id.generation, 0, LIVE);
        // A process that is just registering has no lane yet; if it dies in here, the entry stays CLOSING.
        let lane = self.lane().unwrap_or(ORPHAN);
        let closing = word(id.generation, lane, CLOSING);
        while entry.state.load(Acquire) == live && idle() {
            if entry.state.compare_exchange(live, closing, AcqRel, Relaxed).is_err() {
                return;
            }
            if idle() {
                self.finish_closing(id);
                return;
            }
            // Somebody opened it in between, or withdrew and left the rest to us: back, and look again.
            if entry.state.compare_exchange(closing, live, AcqRel, Relaxed).is_err() {
                return;
            }
        }
    }

    /// Frees everything that belongs to an object in state CLOSING, and gives up the handles in its messages. Also the
    /// recoverer's, for a closer that died.
    pub(crate) fn finish_closing(&self, id: ObjectId) {
        let mut carried = Vec::new();
        if let Some((kind, view)) = self.view(id) {
            let _ = (kind.handles)(&view, &mut |found, _| carried.push(found));
        }
        // This object carries nothing any more: only a LIVE one does.
        self.uncarry(carried);
        let mut runs = Vec::new();
        self.for_each_run(&mut |run, _, owner| {
            if owner == id.word() {
                runs.push(run);
            }
        });
        runs.into_iter().for_each(|run| self.free(run));
        self.entry(id.index).state.store(word(id.generation, 0, FREE), crate::sys::atomic::Ordering::Release);
    }

    /// What carried these handles does so no more: objects that nobody else has are given up.
    pub(crate) fn uncarry(&self, handles: impl IntoIterator<Item = ObjectId>) {
        for found in handles.into_iter().filter(|found| found.index < self.object_count()) {
            self.tell_departure(found);
            self.reap_entry(found);
        }
    }

    /// Makes the object's users look who is left.
    pub(crate) fn tell_departure(&self, id: ObjectId) {
        let entry = self.entry(id.index);
        entry.departures.fetch_add(1, AcqRel);
        // The object may be gone by now and its entry another's: then others look once for nothing.
        entry.waits.iter().for_each(WaitBlock::notify_all);
    }

    /// Undoes an object whose maker died while building it. Its runs are freed as unlinked ones.
    pub(crate) fn undo_building(&self, id: ObjectId, lane: Lane) {
        let building = word(id.generation, lane, BUILDING);
        let _ = self.entry(id.index).state.compare_exchange(building, word(id.generation, 0, FREE), AcqRel, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::super::Segment;
    use super::super::object::Object;
    use super::super::recover::KINDS;
    use super::*;

    thread_local! {
        /// An object that is opened, as its count of arrivals says, whenever somebody looks for handles of it.
        static OPENED: RefCell<Option<Object>> = const { RefCell::new(None) };
        static LOOKS: Cell<u32> = const { Cell::new(0) };
    }

    #[linkme::distributed_slice(KINDS)]
    static RESTLESS: Kind = Kind {
        handles: |_, _| {
            LOOKS.set(LOOKS.get() + 1);
            assert!(LOOKS.get() < 10_000, "there is no end of looking");
            OPENED.with_borrow(|opened| {
                let Some(object) = opened else { return };
                object.segment().entry(object.id().index).arrivals.fetch_add(1, AcqRel);
            });
            Ok(())
        },
        ..Kind::plain("restless", u32::MAX)
    };

    #[test]
    fn who_is_counted_all_the_time_has_the_object_open() {
        let segment = Segment::anonymous(1 << 20).unwrap();
        let restless = segment.create_object(&RESTLESS, 0, 8).unwrap();
        let object = segment.create_object(&RESTLESS, 0, 8).unwrap();
        let (inner, id) = (object.segment(), object.id());
        assert!(!inner.is_open(id, 1), "nobody has it in that role");
        assert_eq!(LOOKS.replace(0), 1);
        OPENED.set(Some(object.clone()));
        assert!(inner.is_open(id, 1), "somebody may have it");
        assert!(LOOKS.replace(0) > 1);
        OPENED.set(None);
        assert!(!inner.is_open(id, 1));
        drop(restless);
    }
}
