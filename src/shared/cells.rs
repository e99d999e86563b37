//! The memory of a value or an array: elements that are read and written whole, and the locks beside them.
//!
//! An element of 1, 2, 4 or 8 bytes is a *word*: one atomic access reads it or writes it. Any other is a
//! [`TwinBlock`](crate::sync::TwinBlock) and two copies, each rounded up to 8 bytes.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::{CheckedBitPattern, NoUninit};
use serde::{Deserializer, Serializer};

use super::element::Element;
use crate::error::{Error, ErrorKind};
use crate::segment::{KINDS, Kind, Losses, Object, ObjectId, Pinned, PinnedBytes, Segment, ShmSlice, View, type_hash};
use crate::sync::{ElementsBlock, IsDead, NOBODY};
use crate::sys::atomic::AtomicU64;
use crate::sys::atomic::Ordering::Relaxed;

/// Where the elements are, behind an [`ElementsBlock`].
const ELEMENTS_AT: usize = 64;

#[linkme::distributed_slice(KINDS)]
pub static VALUE: Kind = Kind { count, recover, describe, least: ELEMENTS_AT, ..Kind::plain("value", 30) };

#[linkme::distributed_slice(KINDS)]
pub static ARRAY: Kind = Kind { count, recover, describe, least: ELEMENTS_AT, ..Kind::plain("array", 31) };

fn count(view: &View<'_>, dead: IsDead<'_>) -> Result<Losses, Error> {
    // A writer's lock is nobody's loss: what it wrote was committed, or nobody has seen it.
    let held = view.block::<ElementsBlock>(0).lock.lock_word().held_by(dead);
    Ok(Losses { locks: u32::from(held), ..Losses::default() })
}

fn recover(view: &View<'_>, dead: IsDead<'_>) -> Result<(), Error> {
    let block = view.block::<ElementsBlock>(0);
    block.lock.recover(dead);
    for stripe in &block.stripes {
        stripe.recover(dead);
    }
    Ok(())
}

fn describe(view: &View<'_>) -> String {
    let block = view.block::<ElementsBlock>(0);
    let held = match block.lock.lock_word().holder() {
        NOBODY => "free".into(),
        lane => format!("held by lane {lane}, depth {}", block.lock.depth()),
    };
    format!("{} x {} B, {held}", block.len.load(Relaxed), block.size.load(Relaxed))
}

/// Whether elements of `size` bytes are read and written by one access.
pub const fn is_word(size: usize) -> bool {
    matches!(size, 1 | 2 | 4 | 8)
}

/// Bytes of one of the two copies of a large element.
pub const fn copy_bytes(size: usize) -> usize {
    size.next_multiple_of(8)
}

/// Bytes from one element to the next.
pub const fn stride(size: usize) -> usize {
    if is_word(size) { size } else { size_of::<AtomicU64>() + 2 * copy_bytes(size) }
}

/// Bytes of an object of `len` elements, if they can be counted.
fn object_bytes(len: usize, size: usize) -> Option<usize> {
    len.checked_mul(stride(size))?.checked_add(ELEMENTS_AT)
}

/// What a handle needs that does not depend on the type.
pub struct Memory {
    pub(super) object: Object,
    block: Pinned<ElementsBlock>,
    elements: PinnedBytes,
    pub(super) len: usize,
}

impl Memory {
    /// The words in front of the elements.
    #[inline]
    pub fn block(&self) -> &ElementsBlock {
        &self.block[0]
    }

    /// All elements.
    #[inline]
    pub fn elements(&self) -> ShmSlice<'_> {
        self.elements.all()
    }

    /// Elements of these bytes, in an object that nobody else knows yet.
    fn write_new<T: NoUninit>(view: &View<'_>, values: &[T]) {
        let (size, stride) = (size_of::<T>(), stride(size_of::<T>()));
        let elements = view.slice(ELEMENTS_AT, values.len() * stride);
        if is_word(size) {
            return elements.write(0, bytemuck::cast_slice(values));
        }
        for (k, value) in values.iter().enumerate() {
            // Selectors begin at 0.
            elements.write(k * stride + size_of::<AtomicU64>(), bytemuck::bytes_of(value));
        }
    }

    fn from_object(object: Object, kind: &Kind, size: usize) -> Result<Self, Error> {
        let name = kind.name;
        if object.len() < ELEMENTS_AT {
            return Err(Error::corrupt(name, "size", object.len(), format!("{ELEMENTS_AT} or more")));
        }
        // Each is loaded once, checked and used.
        let block = Pinned::<ElementsBlock>::new(&object, 0, 1);
        let (len, of) = (block[0].len.load(Relaxed), block[0].size.load(Relaxed));
        if of != size as u64 {
            return Err(Error::corrupt(name, "element size", of, size));
        }
        let counted = usize::try_from(len).ok().filter(|len| object_bytes(*len, size) == Some(object.len()));
        let Some(len) = counted.filter(|len| *len == 1 || kind.code == ARRAY.code) else {
            return Err(Error::corrupt(name, "length", len, format!("what fits {} B", object.len())));
        };
        let elements = PinnedBytes::new(&object, ELEMENTS_AT, len * stride(size));
        Ok(Self { object, block, elements, len })
    }
}

/// A handle of so many elements of a type: what a value and an array have in common.
pub struct Cells<T> {
    pub memory: Arc<Memory>,
    value: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Cells<T> {
    fn clone(&self) -> Self {
        Self { memory: self.memory.clone(), value: PhantomData }
    }
}

impl<T: NoUninit + CheckedBitPattern> Cells<T> {
    /// Makes `len` elements: `values`, as many as there are, and zeros.
    pub fn create(segment: &Segment, kind: &'static Kind, len: usize, values: &[T]) -> Result<Self, Error> {
        let size = size_of::<T>();
        let Some(bytes) = object_bytes(len, size) else {
            let message = format!("{len} elements of {size} B are more than can be addressed");
            return Err(Error::new(ErrorKind::OutOfSpace, format!("make {}", kind.name), message));
        };
        let mut made = Object::create(segment, kind, type_hash::<T>(), bytes, &[0], |view| {
            let block = view.block::<ElementsBlock>(0);
            block.len.store(len as u64, Relaxed);
            block.size.store(size as u64, Relaxed);
            Memory::write_new(view, values);
            Ok(())
        })?;
        Self::from_object(made.pop().expect("one role, one handle"), kind)
    }

    pub fn open(segment: &Segment, kind: &'static Kind, id: ObjectId) -> Result<Self, Error> {
        Self::from_object(Object::open(segment, id, 0, kind, type_hash::<T>())?, kind)
    }

    fn from_object(object: Object, kind: &Kind) -> Result<Self, Error> {
        Ok(Self { memory: Arc::new(Memory::from_object(object, kind, size_of::<T>())?), value: PhantomData })
    }

    pub fn pass<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.memory.object.pass(serializer)
    }

    pub fn receive<'de, D: Deserializer<'de>>(deserializer: D, kind: &'static Kind) -> Result<Self, D::Error> {
        let object = Object::receive(deserializer, kind, |_| type_hash::<T>())?;
        Self::from_object(object, kind).map_err(serde::de::Error::custom)
    }

    /// The element at `index`, if there is one.
    #[inline]
    pub fn at(&self, index: usize) -> Option<Element<'_, T>> {
        (index < self.memory.len).then(|| Element::new(&self.memory, index))
    }
}

/// What handles of elements have: that they are opened, known by a number, passed on and cloned.
macro_rules! cells_handle {
    ($handle:ident, $kind:expr, $one:literal) => {
        impl<T: NoUninit + CheckedBitPattern> $handle<T> {
            #[doc = concat!("Opens ", $one, " by the [`id`](Self::id) that another handle told, with or without its lock.")]
            ///
            /// # Errors
            #[doc = concat!("[`TypeMismatch`](crate::ErrorKind::TypeMismatch) if it is not ", $one, " of this type,")]
            /// [`Gone`](crate::ErrorKind::Gone) if it exists no more, [`Corrupt`](crate::ErrorKind::Corrupt).
            pub fn open(segment: &crate::segment::Segment, id: crate::segment::ObjectId) -> Result<Self, Error> {
                Ok(Self::from_cells(Cells::open(segment, &$kind, id)?))
            }

            /// Its number in its segment.
            pub fn id(&self) -> crate::segment::ObjectId {
                self.cells().memory.object.id()
            }
        }

        impl<T> Clone for $handle<T> {
            /// Another handle of the same memory, not a copy of what it holds.
            fn clone(&self) -> Self {
                Self::from_cells(self.cells().clone())
            }
        }

        impl<T: NoUninit + CheckedBitPattern> serde::Serialize for $handle<T> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.cells().pass(serializer)
            }
        }

        impl<'de, T: NoUninit + CheckedBitPattern> serde::Deserialize<'de> for $handle<T> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Cells::receive(deserializer, &$kind).map(Self::from_cells)
            }
        }
    };
}
pub(super) use cells_handle;
