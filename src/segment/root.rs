//! The root of a segment: what is published in it under names, for processes that were told nothing else.
//!
//! The header names one object, the root, which nobody has to have open. It has a fixed table of slots; each names one
//! *published* object, which never changes: a name, the name and hash of a Rust type, an encoded value, and the handles in
//! that value. So what is published stays, as what lies in a queue does, although no process has it open.
//!
//! # Layout
//! Root: a lock word at 0; from 64 on the slots: `generation:32 | index + 1:32` of the published object (0 for none), then
//! the hash of its name. Published: `name_bytes:32`, `handles:32`, `bytes:32`, `type_bytes:32`, `type_hash:64`, 8 bytes of
//! zeros; the handles, as in a message; then the name, the type's name and the value.
//!
//! # Rules
//! 1. Slots are changed under the lock. The store of a slot's object is the commit: the name exists, or exists no more.
//! 2. Readers take no lock. They open the published object, which keeps it, and compare the name inside; the hash in the slot
//!    only saves the others from being opened. It is stored before the object (Release), so whoever reads the object
//!    (Acquire) reads that hash or a later one: of a later object, and then this one has been withdrawn.
//! 3. Whoever withdraws has the published object open while its slot is cleared. So if it is killed there, the object goes
//!    with its row.
//! 4. The root that the header names is never given back. One that lost the race to be named goes with its maker's handle.
//!
//! # If a peer dies
//! A publisher that is killed leaves the name with all that belongs to it or nothing; the lock is taken over, and there is
//! nothing to repair.

use super::directory::{ObjectId, Standing};
use super::layout::fnv1a;
use super::object::{Object, View};
use super::recover::{KINDS, Kind, Losses, NameHandle};
use super::{Inner, Segment};
use crate::error::{Error, ErrorKind};
use crate::sync::MutexBlock;
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

#[linkme::distributed_slice(KINDS)]
static ROOT: Kind = Kind {
    code: 40,
    name: "root",
    least: ROOT_BYTES,
    count: |view, dead| {
        let held = view.block::<MutexBlock>(0).held_by(dead);
        Ok(Losses { locks: u32::from(held), ..Losses::default() })
    },
    recover: |view, dead| {
        view.block::<MutexBlock>(0).recover(dead);
        Ok(())
    },
    linked: |_, _| Ok(()),
    handles: |view, f| {
        slots(view).filter_map(|slot| id_of(slot.0.load(Acquire))).for_each(|id| f(id, 0));
        Ok(())
    },
    describe: |view| format!("{} names", slots(view).filter(|slot| slot.0.load(Relaxed) != 0).count()),
};

#[linkme::distributed_slice(KINDS)]
static PUBLISHED: Kind = Kind {
    code: 41,
    name: "published",
    least: HANDLES_AT,
    count: |_, _| Ok(Losses { vanished: 0, redelivered: 0, locks: 0 }),
    recover: |_, _| Ok(()),
    linked: |_, _| Ok(()),
    handles,
    describe: |view| {
        Parts::read(view).map_or_else(|e| e.to_string(), |parts| format!("{:?}: {}", parts.name, parts.type_name))
    },
};

/// Hash of the layouts above (there is no type parameter to hash): change it with them.
const LAYOUT: u64 = 0x6b69_6e70_7562_6c01;

/// Names that there may be.
const SLOTS: usize = 256;
const SLOTS_AT: usize = 64;
const ROOT_BYTES: usize = SLOTS_AT + 16 * SLOTS;
/// The longest name, in bytes.
const LONGEST: usize = 200;

const HANDLES_AT: usize = 32;
const HANDLE_BYTES: usize = 16;

fn slots<'a>(view: &View<'a>) -> impl Iterator<Item = (&'a AtomicU64, &'a AtomicU64)> + use<'a> {
    view.blocks::<AtomicU64>(SLOTS_AT, 2 * SLOTS).chunks_exact(2).map(|slot| (&slot[0], &slot[1]))
}

/// The word for an object, never 0.
fn word_of(id: ObjectId) -> u64 {
    u64::from(id.generation) << 32 | (u64::from(id.index) + 1)
}

fn id_of(word: u64) -> Option<ObjectId> {
    let index = (word as u32).checked_sub(1)?;
    Some(ObjectId { index, generation: (word >> 32) as u32 })
}

/// A handle in a published value: the object that it is of, and its role.
type Handle = (ObjectId, usize);

/// The numbers at the start of a published object, and where its parts are: all inside.
struct Numbers {
    handles: usize,
    name_at: usize,
    type_at: usize,
    bytes_at: usize,
    end: usize,
    type_hash: u64,
}

impl Numbers {
    fn read(view: &View<'_>) -> Result<Self, Error> {
        let data = view.slice(0, HANDLES_AT);
        let [name_handles, bytes_type] = [0, 8].map(|at| data.read_u64(at));
        let (low, high) = (|word: u64| word as u32 as usize, |word: u64| (word >> 32) as usize);
        let handles = high(name_handles);
        let name_at = HANDLES_AT + handles * HANDLE_BYTES;
        let type_at = name_at + low(name_handles);
        let bytes_at = type_at + high(bytes_type);
        let end = bytes_at + low(bytes_type);
        if end > view.len() {
            return Err(Error::corrupt("published", "size", end, format_args!("at most {}", view.len())));
        }
        Ok(Self { handles, name_at, type_at, bytes_at, end, type_hash: data.read_u64(16) })
    }
}

/// Names the handles in a published value.
fn handles(view: &View<'_>, f: NameHandle<'_>) -> Result<(), Error> {
    let numbers = Numbers::read(view)?;
    let data = view.slice(HANDLES_AT, numbers.handles * HANDLE_BYTES);
    for at in (0..data.len()).step_by(HANDLE_BYTES) {
        let (id, role) = (data.read_u64(at), data.read_u64(at + 8));
        f(ObjectId { index: id as u32, generation: (id >> 32) as u32 }, role.min(2) as usize);
    }
    Ok(())
}

/// What is told of a published value before it is read.
struct Parts {
    name: String,
    type_name: String,
    type_hash: u64,
}

impl Parts {
    fn read(view: &View<'_>) -> Result<Self, Error> {
        let numbers = Numbers::read(view)?;
        let text = |from: usize, to: usize| {
            let bytes = view.slice(from, to - from).read_to_vec();
            String::from_utf8(bytes).map_err(|_| Error::corrupt("published", "text", "other bytes", "UTF-8"))
        };
        let name = text(numbers.name_at, numbers.type_at)?;
        Ok(Self { name, type_name: text(numbers.type_at, numbers.bytes_at)?, type_hash: numbers.type_hash })
    }
}

/// A Rust type, as it is told to other programs.
#[derive(Clone, Copy)]
pub(crate) struct TypeTag {
    pub name: &'static str,
    pub hash: u64,
}

/// The root's lock, held.
struct Locked<'a>(&'a MutexBlock);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.unlock(true);
    }
}

impl Inner {
    /// Whether the header names it as the root, which nobody has to have open.
    pub(super) fn is_root(&self, id: ObjectId) -> bool {
        // Relaxed: whoever named it has it open until after that.
        self.header().root.load(Relaxed).checked_sub(1) == Some(id.index)
    }
}

/// The object, if it has the bytes that its kind has at least.
fn whole(object: Object) -> Result<Object, Error> {
    let least = object.kind().least;
    if object.len() < least {
        return Err(Error::corrupt(object.kind().name, "size", object.len(), format_args!("at least {least}")));
    }
    Ok(object)
}

/// Why a name is not used.
fn refuse(doing: &str, name: &str, kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, format!("{doing} {name:?}"), message)
}

fn check(doing: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > LONGEST {
        let message = format!("the name has {} bytes, expected 1 to {LONGEST}", name.len());
        return Err(refuse(doing, name, ErrorKind::InvalidInput, message));
    }
    Ok(())
}

impl Segment {
    /// The root, if there is one.
    fn root(&self) -> Result<Option<Object>, Error> {
        // Acquire matches the Release of `root_or_new`, with which comes the root's entry.
        let Some(index) = self.inner().header().root.load(Acquire).checked_sub(1) else { return Ok(None) };
        if index >= self.inner().object_count() {
            return Err(Error::corrupt("segment", "root", index, "an object"));
        }
        let (id, _) = self.inner().standing(index);
        self.open_object(id, &ROOT, LAYOUT).and_then(whole).map(Some)
    }

    fn root_or_new(&self) -> Result<Object, Error> {
        if let Some(root) = self.root()? {
            return Ok(root);
        }
        let made = self.create_object(&ROOT, LAYOUT, ROOT_BYTES)?;
        let word = &self.inner().header().root;
        match word.compare_exchange(0, made.id().index + 1, AcqRel, Acquire) {
            Ok(_) => Ok(made),
            // Rule 4.
            Err(_) => self.root()?.ok_or_else(|| Error::corrupt("segment", "root", 0, "the one that was there")),
        }
    }

    fn lock_root<'a>(&self, root: &'a Object) -> Result<Locked<'a>, Error> {
        let (inner, lock) = (self.inner(), root.view().block::<MutexBlock>(0));
        // Whether or not its last owner died: slots are single words.
        let _ = inner.lock_briefly(lock, inner.lane()?, "names")?;
        Ok(Locked(lock))
    }

    /// The slot and the object that are published under the name.
    fn look_up(&self, root: &Object, name: &str) -> Result<Option<(usize, Object, Parts)>, Error> {
        let wanted = fnv1a(name.as_bytes());
        for (k, (word, hash)) in slots(&root.view()).enumerate() {
            // Rule 2.
            let Some(id) = id_of(word.load(Acquire)).filter(|_| hash.load(Relaxed) == wanted) else { continue };
            let Some((object, parts)) = self.open_published(id)? else { continue };
            if parts.name == name {
                return Ok(Some((k, object, parts)));
            }
        }
        Ok(None)
    }

    /// `None` if it has been withdrawn.
    fn open_published(&self, id: ObjectId) -> Result<Option<(Object, Parts)>, Error> {
        match self.open_object(id, &PUBLISHED, LAYOUT).and_then(whole) {
            Ok(object) => Parts::read(&object.view()).map(|parts| Some((object, parts))),
            Err(e) if e.kind() == ErrorKind::Gone => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Publishes an encoded value, whose handles are of this segment, under a name that nothing has.
    pub(crate) fn publish(&self, name: &str, of: TypeTag, bytes: &[u8], handles: &[Handle]) -> Result<(), Error> {
        const DOING: &str = "publish";
        check(DOING, name)?;
        let root = self.root_or_new()?;
        let size = HANDLES_AT + handles.len() * HANDLE_BYTES + name.len() + of.name.len() + bytes.len();
        let length = |len: usize| {
            u32::try_from(len).map_err(|_| refuse(DOING, name, ErrorKind::InvalidInput, format!("{len} B")))
        };
        let lengths = [length(name.len())?, length(handles.len())?, length(bytes.len())?, length(of.name.len())?];
        let made = Object::create(self, &PUBLISHED, LAYOUT, size, &[0], |view| {
            let data = view.slice(0, size);
            let mut at = 0;
            let mut write = |part: &[u8]| {
                data.write(at, part);
                at += part.len();
            };
            lengths.iter().for_each(|length| write(&length.to_ne_bytes()));
            write(&of.hash.to_ne_bytes());
            write(&[0; 8]);
            for (id, role) in handles {
                write(&id.word().to_ne_bytes());
                write(&(*role as u64).to_ne_bytes());
            }
            [name.as_bytes(), of.name.as_bytes(), bytes].iter().for_each(|part| write(part));
            Ok(())
        })?;
        let made = &made[0];
        let _locked = self.lock_root(&root)?;
        if self.look_up(&root, name)?.is_some() {
            return Err(refuse(DOING, name, ErrorKind::AlreadyExists, "something is published under this name"));
        }
        let is_free = |slot: &(&AtomicU64, &AtomicU64)| match id_of(slot.0.load(Relaxed)) {
            // Only wrong bytes name something that is not there.
            Some(id) => {
                id.index >= self.inner().object_count()
                    || !matches!(self.inner().standing(id.index), (now, Standing::Live) if now == id)
            }
            None => true,
        };
        let (word, hash) = slots(&root.view()).find(is_free).ok_or_else(|| {
            refuse(DOING, name, ErrorKind::TooManyObjects, format!("{SLOTS} names are published, which is all"))
        })?;
        hash.store(fnv1a(name.as_bytes()), Relaxed);
        // Rules 1 and 2.
        word.store(word_of(made.id()), Release);
        Ok(())
    }

    /// The encoded value that is published under the name as this type, and what keeps its handles until it is decoded.
    pub(crate) fn find_published(&self, name: &str, of: TypeTag) -> Result<(Object, Vec<u8>), Error> {
        const DOING: &str = "find";
        check(DOING, name)?;
        let found = match self.root()? {
            Some(root) => self.look_up(&root, name)?,
            None => None,
        };
        let nothing = || refuse(DOING, name, ErrorKind::NotFound, "nothing is published under this name");
        let (_, object, parts) = found.ok_or_else(nothing)?;
        if parts.type_hash != of.hash {
            let message = format!("it is of type {}, expected {}", parts.type_name, of.name);
            return Err(refuse(DOING, name, ErrorKind::TypeMismatch, message));
        }
        let numbers = Numbers::read(&object.view())?;
        let bytes = object.bytes(numbers.bytes_at, numbers.end - numbers.bytes_at).read_to_vec();
        Ok((object, bytes))
    }

    /// Takes a name away, and what is published under it.
    pub(crate) fn withdraw(&self, name: &str) -> Result<(), Error> {
        const DOING: &str = "withdraw";
        check(DOING, name)?;
        let nothing = || refuse(DOING, name, ErrorKind::NotFound, "nothing is published under this name");
        let root = self.root()?.ok_or_else(nothing)?;
        let locked = self.lock_root(&root)?;
        let (k, object, _) = self.look_up(&root, name)?.ok_or_else(nothing)?;
        let (word, _) = slots(&root.view()).nth(k).expect("the slot that was found");
        // Rules 1 and 3.
        word.store(0, Release);
        drop(locked);
        drop(object);
        Ok(())
    }

    /// The names that are published.
    pub(crate) fn published(&self) -> Result<Vec<String>, Error> {
        let Some(root) = self.root()? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for id in slots(&root.view()).filter_map(|(word, _)| id_of(word.load(Acquire))) {
            names.extend(self.open_published(id)?.map(|(_, parts)| parts.name));
        }
        names.sort_unstable();
        Ok(names)
    }
}
