//! The pipe that goes one way: an end that only sends, an end that only receives.

use std::any::TypeId;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::layout;
use super::pipe::Connection;
use crate::error::Error;
use crate::segment::{KINDS, Kind};

/// One mailbox, into which end 0 sends.
#[linkme::distributed_slice(KINDS)]
pub(super) static ONE_WAY: Kind = Kind {
    code: 4,
    name: "one-way pipe",
    least: layout::RING_AT,
    count: |view, dead| layout::count(view, 0, dead),
    recover: |view, dead| layout::recover(view, 0, dead),
    linked: |view, f| layout::linked(view, 0, f),
    handles: |view, f| layout::handles(view, 0, f),
    describe: |view| layout::describe(view, 0),
};

/// What goes the way that a one-way pipe does not go. There is no value of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

/// The end of a [one-way pipe](pipe_oneway) that sends. It has no method that receives:
///
/// ```compile_fail,E0599
/// let (_receiver, sender) = kinfolk::pipe_oneway::<u32>().unwrap();
/// let _ = sender.recv();
/// ```
///
/// # If a peer dies
/// When the last process that has the receiving end is dead, [`send`](Connection::send) reports it, as it does for a
/// [`Connection`].
pub type Sender<T> = Connection<T, Never>;

/// The end of a [one-way pipe](pipe_oneway) that receives. It has no method that sends:
///
/// ```compile_fail,E0599
/// let (receiver, _sender) = kinfolk::pipe_oneway::<u32>().unwrap();
/// let _ = receiver.send(1);
/// ```
///
/// # If a peer dies
/// When the last process that has the sending end is dead, what was sent is received, and then
/// [`recv`](Connection::recv) reports the end of file, as it does for a [`Connection`].
pub type Receiver<T> = Connection<Never, T>;

/// Makes a pipe in the family's segment that goes one way. It takes half of what a pipe takes that goes both ways.
///
/// The receiving end comes first, as in Python. Each end may be used by many processes and threads at once.
///
/// # Errors
/// [`OutOfSpace`](crate::ErrorKind::OutOfSpace) if the segment is full.
///
/// Python: `Pipe(duplex=False)`.
///
/// ```
/// use kinfolk::{Process, Sender, pipe_oneway};
///
/// let (receiver, sender) = pipe_oneway::<String>()?;
/// let child = Process::spawn(|sender: Sender<String>| sender.send("hello".to_owned()).unwrap(), sender)?;
/// assert_eq!(receiver.recv()?, "hello");
/// assert!(receiver.recv().is_err(), "the child had the only sending end");
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Pipe")]
pub fn pipe_oneway<T: Serialize + DeserializeOwned + 'static>() -> Result<(Receiver<T>, Sender<T>), Error> {
    Connection::builder().build_oneway()
}

/// Whether ends of these types belong to a one-way pipe.
pub(super) fn is_one_way<T: 'static, U: 'static>() -> bool {
    let never = TypeId::of::<Never>();
    TypeId::of::<T>() == never || TypeId::of::<U>() == never
}
