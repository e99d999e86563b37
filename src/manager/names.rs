//! What is published in a manager under names.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Manager;
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::segment::{TypeTag, into_kept, type_hash};

/// How often something that is there when it is to be published, and gone when it is looked for, is tried again.
const TRIES: u32 = 1000;

fn tag<H: 'static>() -> TypeTag {
    TypeTag { name: std::any::type_name::<H>(), hash: type_hash::<H>() }
}

/// Names for those who were told nothing else.
///
/// A name is 1 to 200 bytes of UTF-8, and there may be 256 of them. Under it is a value of any serde type that may contain
/// handles of this manager: one handle, or a struct with all that belongs together. What is published stays, also when no
/// process has it open, until it is withdrawn or the manager is gone.
///
/// The name exists with all that belongs to it or not at all, at whatever instruction its publisher is killed. Who looks for
/// a name waits for nobody; publishing and withdrawing wait for each other, for microseconds, and at most 5 s for one that is
/// stopped.
impl Manager {
    /// Publishes a value under a name that nothing has.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]; [`InvalidInput`](ErrorKind::InvalidInput) for a name of no or more than 200 bytes, and
    /// for a handle that is not of this manager; [`TooManyObjects`](ErrorKind::TooManyObjects) if there are 256 names;
    /// [`OutOfSpace`](ErrorKind::OutOfSpace); [`Stalled`](ErrorKind::Stalled) if a publisher that is stopped is in the way;
    /// [`Codec`](ErrorKind::Codec) if the value cannot be encoded.
    ///
    /// Python: `BaseManager.register(name, callable=...)`.
    ///
    /// ```
    /// use kinfolk::{ErrorKind, Event, Manager, Queue};
    ///
    /// let manager = Manager::new()?;
    /// manager.publish("jobs", &manager.queue::<u32>(8)?)?;
    /// // Elsewhere:
    /// manager.find::<Queue<u32>>("jobs")?.put(5)?;
    /// assert_eq!(manager.find::<Queue<u32>>("jobs")?.get()?, 5);
    /// assert_eq!(manager.find::<Event>("jobs").unwrap_err().kind(), ErrorKind::TypeMismatch);
    /// assert_eq!(manager.published()?, ["jobs"]);
    /// manager.withdraw("jobs")?;
    /// assert_eq!(manager.find::<Queue<u32>>("jobs").unwrap_err().kind(), ErrorKind::NotFound);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "register")]
    pub fn publish<H: Serialize + 'static>(&self, name: &str, value: &H) -> Result<(), Error> {
        let segment = self.segment.inner();
        codec::with_scratch(|buffer| {
            let (encoded, passed) = into_kept(segment, || codec::encode(value, buffer));
            encoded.and_then(|()| self.segment.publish(name, tag::<H>(), buffer, &passed.named(segment)))
        })
    }

    /// Opens what is published under a name. Never blocks.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`TypeMismatch`](ErrorKind::TypeMismatch) if it is of another type than `H`. A type of two
    /// programs is the same if it has the same path, as one from a crate that both use.
    ///
    /// Python: the method of a manager that `register` makes.
    pub fn find<H: DeserializeOwned + 'static>(&self, name: &str) -> Result<H, Error> {
        // It keeps what is named inside until that is opened.
        let (_published, bytes) = self.segment.find_published(name, tag::<H>())?;
        codec::decode(&bytes)
    }

    /// Opens what is published under a name, or publishes what `make` makes. Of several that do so at once all have the
    /// same; what the others made is dropped.
    ///
    /// # Errors
    /// As [`find`](Self::find) and [`publish`](Self::publish), but for `NotFound` and `AlreadyExists`; and what `make` gives.
    pub fn find_or_publish<H>(&self, name: &str, make: impl FnOnce() -> Result<H, Error>) -> Result<H, Error>
    where
        H: Serialize + DeserializeOwned + 'static,
    {
        let mut make = Some(make);
        let mut made = None;
        for _ in 0..TRIES {
            match self.find(name) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                found => return found,
            }
            if let Some(make) = make.take() {
                made = Some(make()?);
            }
            let Some(value) = &made else { break };
            match self.publish(name, value) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                Ok(()) => return Ok(made.take().expect("just published")),
            }
        }
        Err(Error::new(ErrorKind::Stalled, format!("find or publish {name:?}"), "it comes and goes all the time"))
    }

    /// Takes a name away, and what is published under it. Who has it open keeps it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`Stalled`](ErrorKind::Stalled) if a publisher that is stopped is in the way.
    pub fn withdraw(&self, name: &str) -> Result<(), Error> {
        self.segment.withdraw(name)
    }

    /// The names at this moment, in order. Never blocks.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the segment is damaged.
    pub fn published(&self) -> Result<Vec<String>, Error> {
        self.segment.published()
    }
}
