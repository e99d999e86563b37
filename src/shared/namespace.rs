//! Named values of different types.
//!
//! A namespace is a dictionary whose keys are names, and whose values say of which type they are and how they look:
//!
//! ```text
//! bytes of the type's name: u32, bytes of the text: u32, the type's name, the text, the value as `codec.rs` has it
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::carried::{decode_value, split_handles, with_encoded};
use super::dict::{Change, Core, DICT, Part, Rule};
use super::handle;
use super::repr::short;
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::segment::{Object, Segment, type_hash};
use crate::sys::clock::Deadline;

/// One shard is enough for what people name.
const SHARDS: usize = 1;
/// Characters of a value's text.
const MOST_TEXT: usize = 256;
/// Bytes in front of the names.
const HEAD: usize = 8;

/// Values of different types under names, for all processes that have a handle.
///
/// Each name has the type of the value that was set last, and is read as that type. One call is atomic, as in a
/// [`Dict`](super::Dict): a reader waits for nobody and sees the old value or the new one; a process that is killed has set a
/// value or it has not; handles can be values, and their objects live as long as a name stands for them.
///
/// As text it is `Namespace(name='Bob', x=1)`. For that, the text of each value (as Python would print it, at most 256
/// characters) is made and stored when it is set, since later nobody may know the type: up to 256 bytes of memory for each
/// name, and the time to print the beginning of the value. The name of the type is stored too.
///
/// Python: `Manager().Namespace()`, where `n.x = 1` is `n.set("x", &1)`, `n.x` is `n.get::<i32>("x")` and `del n.x` is
/// `n.remove("x")`. Names that begin with `_` are shared here like others; they are left out of the text, as there.
///
/// ```
/// use kinfolk::{Namespace, Process};
///
/// let n = Namespace::new()?;
/// n.set("name", &"Bob".to_owned())?;
/// n.set("x", &1u32)?;
/// let child = Process::spawn(|n: Namespace| n.set("x", &(n.get::<u32>("x").unwrap().unwrap() + 1)).unwrap(), n.clone())?;
/// child.join()?;
/// assert_eq!(n.get::<u32>("x")?, Some(2));
/// assert_eq!(n.to_string(), "Namespace(name='Bob', x=2)");
/// assert!(n.get::<String>("x").unwrap_err().to_string().contains("is a u32, expected a alloc::string::String"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "NamespaceProxy")]
#[derive(Clone)]
pub struct Namespace {
    core: Arc<Core>,
    patience: Option<Duration>,
}

handle!(Namespace, DICT, "a namespace");

/// A value as it is stored.
struct Stored<'b> {
    type_name: &'b str,
    text: &'b str,
    value: &'b [u8],
}

impl<'b> Stored<'b> {
    fn parse(bytes: &'b [u8]) -> Result<Self, Error> {
        let bad = || Error::corrupt("namespace", "value", format!("{} B", bytes.len()), "a type, a text and a value");
        let length = |at: usize| {
            let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_ne_bytes(bytes)).ok()
        };
        let text_at = length(0).and_then(|len| len.checked_add(HEAD)).ok_or_else(bad)?;
        let value_at = length(4).and_then(|len| len.checked_add(text_at)).ok_or_else(bad)?;
        let text = |from, to| std::str::from_utf8(bytes.get(from..to)?).ok();
        let type_name = text(HEAD, text_at).ok_or_else(bad)?;
        Ok(Self {
            type_name,
            text: text(text_at, value_at).ok_or_else(bad)?,
            value: bytes.get(value_at..).ok_or_else(bad)?,
        })
    }

    fn decode<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<T, Error> {
        let wanted = std::any::type_name::<T>();
        if self.type_name != wanted {
            let message = format!("it is a {}, expected a {wanted}", self.type_name);
            return Err(Error::new(ErrorKind::TypeMismatch, format!("get `{name}`"), message));
        }
        decode_value(self.value, false)
    }
}

/// Writes what stands in front of a value of this type.
fn write_head<T: Serialize>(value: &T, to: &mut Vec<u8>) {
    let (type_name, text) = (std::any::type_name::<T>(), short(value, MOST_TEXT));
    for part in [type_name, &text] {
        to.extend_from_slice(&(part.len() as u32).to_ne_bytes());
    }
    to.extend_from_slice(type_name.as_bytes());
    to.extend_from_slice(text.as_bytes());
}

impl Namespace {
    /// Makes an empty namespace in the family's segment.
    ///
    /// # Errors
    /// [`OutOfSpace`](ErrorKind::OutOfSpace) if the segment is full.
    pub fn new() -> Result<Self, Error> {
        Self::new_in(&Segment::family()?)
    }

    /// Makes an empty namespace in a segment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(segment: &Segment) -> Result<Self, Error> {
        Ok(Self::of(Core::create(segment, type_hash::<Self>(), SHARDS)?))
    }

    fn of(core: Core) -> Self {
        Self { core: Arc::new(core), patience: None }
    }

    fn from_object(object: Object) -> Result<Self, Error> {
        Core::from_object(object).map(Self::of)
    }

    fn object(&self) -> &Object {
        &self.core.object
    }

    /// As [`Dict::with_patience`](super::Dict::with_patience).
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { core: self.core.clone(), patience: Some(patience) }
    }

    fn deadline(&self) -> Deadline {
        self.patience.map_or(Deadline::NEVER, Deadline::after)
    }

    /// Gives a name this value, of whatever type the last one was. Python: `n.name = value`.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec), [`OutOfSpace`](ErrorKind::OutOfSpace), [`Stalled`](ErrorKind::Stalled): then nothing
    /// has changed.
    #[doc(alias = "__setattr__")]
    pub fn set<T: Serialize + DeserializeOwned + 'static>(&self, name: &str, value: &T) -> Result<(), Error> {
        self.put(name, value, Rule::Always).map(drop)
    }

    /// Gives a name this value, if what it has is as `rule` says; whether it was.
    fn put<T: Serialize + 'static>(&self, name: &str, value: &T, rule: Rule<'_>) -> Result<bool, Error> {
        let put = |bytes: &[u8], marked| {
            let done = self.core.put(name.as_bytes(), bytes, marked, rule, self.deadline(), None)?.done;
            Ok((done, done))
        };
        if let Some(own) = codec::as_bytes(value) {
            let mut bytes = Vec::new();
            write_head(value, &mut bytes);
            bytes.extend_from_slice(own);
            return put(&bytes, false).map(|(done, _)| done);
        }
        with_encoded(self.object(), |to| write_head(value, to), value, put)
    }

    /// Makes the value of a name what `f` makes of it, in one step; `None` stands for no value. The value that it has then.
    /// `f` runs again if somebody has changed the value meanwhile: see [`Dict::update`](super::Dict::update). Python's
    /// `n.x += 1` is two steps, between which another process's `+= 1` is lost.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`set`](Self::set): then nothing has changed.
    ///
    /// ```
    /// let n = kinfolk::Namespace::new()?;
    /// n.update("x", |x| Some(x.unwrap_or(0u32) + 1))?;
    /// assert_eq!(n.update("x", |x| x.map(|x: u32| x + 1))?, Some(2));
    /// # Ok::<(), kinfolk::Error>(())
    /// ```
    pub fn update<T: Serialize + DeserializeOwned + 'static>(
        &self,
        name: &str,
        mut f: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        loop {
            let (old, version) = self.look_up(name)?.unzip();
            let rule = version.map_or(Rule::Absent, Rule::Version);
            let new = f(old);
            let done = match (&new, version) {
                (Some(new), _) => self.put(name, new, rule)?,
                (None, Some(_)) => self.core.take(name.as_bytes(), rule, self.deadline(), None)?.done,
                // There was none, and there is to be none.
                (None, None) => true,
            };
            if done {
                return Ok(new);
            }
        }
    }

    /// The value of a name, as the type that it has; `None` if the name has none. Never blocks. Python: `n.name`.
    ///
    /// # Errors
    /// [`TypeMismatch`](ErrorKind::TypeMismatch), which names both types; [`Codec`](ErrorKind::Codec).
    #[doc(alias = "__getattr__")]
    pub fn get<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<Option<T>, Error> {
        Ok(self.look_up(name)?.map(|(value, _)| value))
    }

    /// The value of a name, and the version of its entry.
    fn look_up<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<Option<(T, u64)>, Error> {
        codec::with_scratch(|buffer| {
            // What the value carries is open until it is decoded.
            let Some((seen, _arrived)) = self.core.read(name.as_bytes(), buffer)? else { return Ok(None) };
            let bytes = if seen.marked { split_handles(buffer)?.1 } else { buffer };
            Ok(Some((Stored::parse(bytes)?.decode(name)?, seen.version)))
        })
    }

    /// The name of the type that a name's value has.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt).
    pub fn type_name(&self, name: &str) -> Result<Option<String>, Error> {
        codec::with_scratch(|buffer| {
            let Some((seen, _arrived)) = self.core.read(name.as_bytes(), buffer)? else { return Ok(None) };
            let bytes = if seen.marked { split_handles(buffer)?.1 } else { buffer };
            Ok(Some(Stored::parse(bytes)?.type_name.to_owned()))
        })
    }

    /// Takes a name away; whether it had a value. Python: `del n.name`.
    ///
    /// # Errors
    /// [`Stalled`](ErrorKind::Stalled): then it has it still.
    #[doc(alias = "__delattr__")]
    pub fn remove(&self, name: &str) -> Result<bool, Error> {
        let Change { done, .. } = self.core.take(name.as_bytes(), Rule::Always, self.deadline(), None)?;
        Ok(done)
    }

    /// The names that have a value, in the order in which they were given one. Python: `dir(n)`.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt), [`Stalled`](ErrorKind::Stalled).
    #[doc(alias = "dir")]
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let items = self.core.items(Part::Keys, self.deadline())?;
        Ok(items.iter().map(|(name, ..)| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Whether a name has a value, at this moment. Never blocks. Python: `hasattr(n, name)`.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt).
    #[doc(alias = "hasattr")]
    pub fn contains(&self, name: &str) -> Result<bool, Error> {
        Ok(self.core.version(name.as_bytes())?.is_some())
    }

    /// Names that have a value.
    pub fn len(&self) -> usize {
        self.core.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn text(&self) -> Result<String, Error> {
        let items = self.core.items(Part::All, self.deadline())?;
        let mut texts = Vec::new();
        for (name, bytes, seen) in items.iter() {
            let bytes = if seen.marked { split_handles(bytes)?.1 } else { bytes };
            let name = String::from_utf8_lossy(name);
            if !name.starts_with('_') {
                texts.push(format!("{name}={}", Stored::parse(bytes)?.text));
            }
        }
        // As Python does.
        texts.sort();
        Ok(format!("Namespace({})", texts.join(", ")))
    }
}

/// As Python prints it: `Namespace(name='Bob', x=1)`, sorted.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Ok(text) => f.write_str(&text),
            Err(error) => write!(f, "<namespace: {error}>"),
        }
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
